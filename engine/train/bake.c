#include "engine/train/bake.h"

#include "daemon/base/mem.h"
#include "engine/rwkv/edit.h"

#include <string.h>

#define SLOTS 16  /* texts read together */
#define ROWS  256 /* tokens of one call, all slots */

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* Whether a line or sentence ends before byte i (i > 0). */
static bool ends_at(const char *text, size_t n, size_t i)
{
    char before = text[i - 1];
    if (before == '\n')
        return true;
    if (i > 1 && (before == '"' || before == '\'' || before == ')'))
        before = text[i - 2];
    return (before == '.' || before == '?' || before == '!') && (i == n || is_space(text[i]));
}

static size_t next_end(const char *text, size_t n, size_t i)
{
    while (i < n && !ends_at(text, n, i))
        i++;
    return i;
}

size_t bake_piece(const char *text, size_t n, size_t most, size_t *at, size_t *begin)
{
    while (*at < n) {
        size_t a = *at, end = 0;
        while (a < n && is_space(text[a]))
            a++;
        for (size_t i = a + 1; i <= n && i - a <= most; i++)
            if (ends_at(text, n, i) || i == n)
                end = i;
        size_t stop = end;
        while (stop > a && is_space(text[stop - 1]))
            stop--;
        if (stop - a >= most / 2 && end > a) {
            *begin = a;
            *at = end;
            return stop - a;
        }
        *at = end > a ? end : a < n ? next_end(text, n, a + 1) : n;
    }
    return 0;
}

size_t bake_tokens(const struct tokenizer *t, const char *text, size_t n, uint32_t *ids)
{
    ids[0] = tokenizer_separator(t);
    return 1 + tokenizer_encode(t, text, n, ids + 1);
}

int bake_forget_last(const struct rwkv_info *info, float *state, struct err *e)
{
    const struct rwkv_edit shifts_to_zero = {
        .kind = RWKV_EDIT_ZERO,
        .select = {.parts = {[RWKV_ATT_SHIFT] = true, [RWKV_FFN_SHIFT] = true}}};
    return rwkv_edit_apply(info, &shifts_to_zero, state, e);
}

struct slot {
    size_t row; /* n: free */
    uint32_t *tokens;
    size_t n_tokens, fed, chunk;
    double *sum; /* [C] of the hidden states */
    float *state;
};

struct baker {
    const struct bake *b;
    const struct rwkv_info *info;
    struct rwkv_session *session;
    struct dataset_plan plan;
    struct dataset_writer out;
    struct slot slot[SLOTS];
    float *hidden, *cond; /* [ROWS, C], [C] */
    size_t next, done;
};

/* Passes over the rows that an earlier call has read, and those without text. */
static void skip_done(struct baker *k)
{
    for (; k->next < k->b->n; k->next++) {
        if (!k->b->rows[k->next].n_text)
            continue;
        if (!dataset_writer_has(&k->out, k->next))
            return;
        k->done++;
    }
}

static int start(struct baker *k, struct slot *s, struct err *e)
{
    const struct bake *b = k->b;
    const struct dataset_row *r = &b->rows[k->next];
    free(s->tokens);
    s->tokens = malloc((r->n_text + 1) * sizeof *s->tokens);
    if (!s->tokens)
        return err_set(e, ERR_NOMEM, "baking: out of memory");
    s->row = k->next++;
    s->n_tokens = bake_tokens(b->tokenizer, r->text, r->n_text, s->tokens);
    s->fed = 0;
    memset(s->sum, 0, k->info->n_embd * sizeof *s->sum);
    memset(s->state, 0, rwkv_state_floats(k->info) * sizeof *s->state);
    return 0;
}

static int finish(struct baker *k, struct slot *s, struct err *e)
{
    for (size_t c = 0; c < k->info->n_embd; c++)
        k->cond[c] = (float)(s->sum[c] / (double)s->n_tokens);
    int rc = bake_forget_last(k->info, s->state, e);
    rc = rc < 0 ? rc : dataset_writer_put(&k->out, s->row, s->state, k->cond, e);
    s->row = k->b->n;
    k->done++;
    return rc;
}

/* One call of the model: a chunk of every slot in use. Returns their number, or an error. */
static int advance(struct baker *k, struct err *e)
{
    struct rwkv_seq seq[SLOTS];
    struct slot *of[SLOTS];
    const size_t C = k->info->n_embd;
    size_t used = 0;
    int rc = 0;
    for (size_t i = 0; i < SLOTS && rc == 0; i++) {
        struct slot *s = &k->slot[i];
        if (s->row == k->b->n)
            skip_done(k);
        if (s->row == k->b->n && k->next < k->b->n)
            rc = start(k, s, e);
        if (rc < 0 || s->row == k->b->n)
            continue;
        size_t left = s->n_tokens - s->fed;
        s->chunk = left < ROWS / SLOTS ? left : ROWS / SLOTS;
        seq[used] = (struct rwkv_seq){.tokens = s->tokens + s->fed,
                                      .n_tokens = s->chunk,
                                      .state = s->state,
                                      .hidden = k->hidden + used * (ROWS / SLOTS) * C};
        of[used++] = s;
    }
    if (rc == 0 && used)
        rc = rwkv_eval(k->session, seq, used, e);
    for (size_t i = 0; i < used && rc == 0; i++) {
        struct slot *s = of[i];
        for (size_t t = 0; t < s->chunk; t++)
            for (size_t c = 0; c < C; c++)
                s->sum[c] += (double)seq[i].hidden[t * C + c];
        s->fed += s->chunk;
        if (s->fed == s->n_tokens)
            rc = finish(k, s, e);
    }
    return rc < 0 ? rc : (int)used;
}

static int baker_init(struct baker *k, const struct bake *b, struct err *e)
{
    k->b = b;
    k->info = rwkv_get_info(b->model);
    if (!b->n || tokenizer_used(b->tokenizer) > k->info->n_vocab)
        return err_set(e, ERR_INVALID,
                       b->n ? "baking: the vocabulary is not the model's"
                            : "baking: there is no text to read");
    k->session = rwkv_session_new(b->model, b->pool, ROWS, e);
    if (!k->session)
        return e->code;
    k->hidden = calloc(ROWS * k->info->n_embd, sizeof *k->hidden);
    k->cond = calloc(k->info->n_embd, sizeof *k->cond);
    bool ok = k->hidden && k->cond;
    for (size_t i = 0; i < SLOTS; i++) {
        k->slot[i].row = b->n;
        k->slot[i].sum = calloc(k->info->n_embd, sizeof(double));
        k->slot[i].state = rwkv_state_new(k->info);
        ok = ok && k->slot[i].sum && k->slot[i].state;
    }
    return ok ? 0 : err_set(e, ERR_NOMEM, "baking: out of memory");
}

static void baker_fini(struct baker *k)
{
    for (size_t i = 0; i < SLOTS; i++) {
        free(k->slot[i].tokens);
        free(k->slot[i].sum);
        free(k->slot[i].state);
    }
    free(k->hidden);
    free(k->cond);
    rwkv_session_free(k->session);
}

static int read_rows(struct baker *k, struct err *e)
{
    const struct bake *b = k->b;
    int rc;
    while ((rc = advance(k, e)) > 0) {
        if (b->proceed && !b->proceed(b->ctx, k->done, b->n))
            return err_set(e, ERR_CANCELLED, "baking: stopped at row %zu of %zu", k->done, b->n);
    }
    return rc;
}

/* The mean of a corpus' rows to train on that have a text, all of which are in the file: out [S]. */
static int mean_of_corpus(const struct baker *k, int32_t corpus, float *out, struct err *e)
{
    const size_t S = rwkv_state_floats(k->info);
    double *sum = calloc(S, sizeof *sum);
    float *state = malloc(S * sizeof *state);
    size_t n = 0;
    for (size_t i = 0; sum && state && i < k->b->n; i++) {
        const struct dataset_row *r = &k->b->rows[i];
        if (r->heldout || !r->n_text || r->corpus != corpus)
            continue;
        dtype_to_f32(DTYPE_F16, k->out.states + i * S, state, S);
        for (size_t c = 0; c < S; c++)
            sum[c] += (double)state[c];
        n++;
    }
    for (size_t c = 0; sum && c < S; c++)
        out[c] = n ? (float)(sum[c] / (double)n) : 0;
    int rc = sum && state ? 0 : err_set(e, ERR_NOMEM, "baking: out of memory");
    free(sum);
    free(state);
    return rc;
}

/* The rows without text; those of one document, which stand together, are copies of one state. */
static int tune_rows(struct baker *k, struct err *e)
{
    const struct bake *b = k->b;
    float *state = k->slot[0].state;
    size_t made = b->n; /* the row whose state this is */
    int rc = 0;
    memset(k->cond, 0, k->info->n_embd * sizeof *k->cond);
    for (size_t i = 0; rc == 0 && b->tune && i < b->n; i++) {
        if (b->rows[i].n_text || (k->done++, dataset_writer_has(&k->out, i)))
            continue;
        if (made == b->n || b->rows[made].document != b->rows[i].document) {
            rc = mean_of_corpus(k, b->rows[i].corpus, state, e);
            rc = rc < 0 ? rc : b->tune(b->tune_ctx, i, state, e);
            made = i;
        }
        rc = rc < 0 ? rc : dataset_writer_put(&k->out, i, state, k->cond, e);
        if (rc == 0 && b->proceed && !b->proceed(b->ctx, k->done, b->n))
            rc = err_set(e, ERR_CANCELLED, "baking: stopped at row %zu of %zu", i, b->n);
    }
    return rc;
}

int bake_run(const struct bake *b, struct err *e)
{
    struct baker k = {0};
    int rc = baker_init(&k, b, e);
    if (rc == 0) {
        k.plan =
            (struct dataset_plan){.shape = {k.info->n_layer, k.info->n_embd, k.info->head_size},
                                  .cond_dim = k.info->n_embd,
                                  .n = b->n,
                                  .rows = b->rows,
                                  .label = b->label,
                                  .n_label = b->n_label,
                                  .fingerprint = k.info->fingerprint,
                                  .weights = dtype_name(k.info->weights_type)};
        rc = dataset_writer_open(&k.out, b->path, &k.plan, e);
        if (rc == 0)
            rc = read_rows(&k, e);
        if (rc == 0)
            rc = tune_rows(&k, e);
        rc = dataset_writer_close(&k.out, rc, e);
    }
    baker_fini(&k);
    return rc;
}
