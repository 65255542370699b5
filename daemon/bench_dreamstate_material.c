/* The texts, and the real states they leave. */
#include "daemon/bench_dreamstate.h"

#include "daemon/base/mem.h"
#include "daemon/bench_bake.h"
#include "engine/train/bake.h"

/* Texts that the judge is tried on are cut so; the first length that it is sure of is used. */
static const size_t judge_lengths[] = {48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 512};
#define JUDGE_SURE .98

/* ---- Texts -------------------------------------------------------------------------------- */

/* A text begins behind a line's end with that line's indentation, which baking leaves out. */
static size_t with_indent(const char *text, size_t begin)
{
    size_t i = begin;
    while (i && (text[i - 1] == ' ' || text[i - 1] == '\t'))
        i--;
    return i == 0 || text[i - 1] == '\n' ? i : begin;
}

/* All pieces of a corpus, in order; *out is the caller's. */
static int cut(const struct bench_corpus *c, uint32_t first_document, struct ds_piece **out,
               size_t *n, struct err *e)
{
    size_t cap = c->text.n_text / (DS_PIECE / 2) + 1, len, begin;
    *n = 0;
    if (!(*out = malloc(cap * sizeof **out)))
        return err_set(e, ERR_NOMEM, "no memory for pieces");
    for (size_t d = 0; d < c->text.n_docs; d++) {
        const struct heldout_doc *doc = &c->text.docs[d];
        size_t at = 0;
        while (*n < cap && (len = bake_piece(doc->text, doc->n, DS_PIECE, &at, &begin)) > 0)
            (*out)[(*n)++] =
                (struct ds_piece){doc->text + begin, len, begin - with_indent(doc->text, begin),
                                  first_document + (uint32_t)d};
    }
    return 0;
}

/* 2 N places evenly spread: the even ones are the targets', in order; the source of each is half a corpus
 * and one place on. */
static int choose_pieces(struct ds_bench *b, struct err *e)
{
    uint32_t documents = 0;
    for (size_t k = 0; k < b->n_corpora; k++) {
        struct ds_piece *all;
        size_t n;
        int rc = cut(&b->corpus[k], documents, &all, &n, e);
        const size_t places = 2 * b->per;
        if (rc == 0 && n < places)
            rc = err_set(e, ERR_INVALID, "%s has %zu pieces of text, %zu are wanted",
                         b->corpus[k].name, n, places);
        for (size_t j = 0; rc == 0 && j < b->per; j++) {
            size_t opposite = (2 * (j + b->per / 2) + 1) % places;
            b->target[k * b->per + j] = all[2 * j * n / places];
            b->source[k * b->per + j] = all[opposite * n / places];
            b->own[k * b->per + j] = (uint32_t)k;
        }
        free(all);
        if (rc < 0)
            return rc;
        documents += (uint32_t)b->corpus[k].text.n_docs;
    }
    return 0;
}

/* ---- Baking ---------------------------------------------------------------------------------- */

static int bake_pieces(struct ds_bench *b, const struct ds_piece *p, const struct bench_baked *to,
                       struct err *e)
{
    const struct bench_baker baker = {b->model, b->pool, b->tokenizer};
    struct bench_text *t = calloc(b->n, sizeof *t);
    if (!t)
        return err_set(e, ERR_NOMEM, "no memory to bake texts");
    for (size_t i = 0; i < b->n; i++)
        t[i] = (struct bench_text){p[i].text, p[i].n};
    int rc = bench_bake(&baker, t, b->n, to, e);
    free(t);
    return rc;
}

/* ---- The judge ------------------------------------------------------------------------------- */

/* Real texts of `length` bytes from sentence or line starts of the other half of the documents: the
 * share judged right, the mean of the corpora. */
static double judge_real(const struct ds_bench *b, size_t length)
{
    double sum = 0;
    for (size_t k = 0; k < b->n_corpora; k++) {
        size_t right = 0, n = 0;
        for (size_t d = 1; d < b->corpus[k].text.n_docs; d += 2) {
            const struct heldout_doc *doc = &b->corpus[k].text.docs[d];
            size_t at = 0, begin;
            while (bake_piece(doc->text, doc->n, DS_PIECE, &at, &begin) > 0)
                if (doc->n - begin >= length) {
                    right += ds_judge_classify(b->judge, doc->text + begin, length) == k;
                    n++;
                }
        }
        sum += n ? (double)right / (double)n : 0;
    }
    return sum / (double)b->n_corpora;
}

/* Trained on every other document; the shortest texts of which it is sure are those to judge. */
static int train_judge(struct ds_bench *b, struct err *e)
{
    if (!(b->judge = ds_judge_new(b->n_corpora)))
        return err_set(e, ERR_NOMEM, "no memory for a judge");
    for (size_t k = 0; k < b->n_corpora; k++)
        for (size_t d = 0; d < b->corpus[k].text.n_docs; d += 2)
            ds_judge_train(b->judge, k, b->corpus[k].text.docs[d].text,
                           b->corpus[k].text.docs[d].n);
    for (size_t i = 0; i < sizeof judge_lengths / sizeof *judge_lengths; i++) {
        b->judged = judge_lengths[i];
        b->judge_accuracy = judge_real(b, b->judged);
        if (b->judge_accuracy >= JUDGE_SURE)
            break;
    }
    bench_note("judge: right on %.3f of real texts of %zu bytes", b->judge_accuracy, b->judged);
    return 0;
}

/* ---- All of it ------------------------------------------------------------------------------- */

int ds_open_diffuser(struct ds_bench *b, const char *path, struct err *e)
{
    struct diffuser *d;
    int rc = diffuser_open(path, &d, e);
    if (rc < 0)
        return rc;
    const struct diffuser_info *i = diffuser_get_info(d);
    if (strcmp(i->fingerprint, b->info->fingerprint) != 0 || i->cond_dim != b->info->n_embd) {
        diffuser_close(d);
        return err_set(e, ERR_INVALID, "%s: made for another model, or without texts", path);
    }
    diffuser_close(b->diffuser);
    b->diffuser = d;
    ds_reference_fini(&b->ref);
    if ((rc = ds_reference_open(&b->ref, b->o.reference, d, e)) < 0)
        return rc;
    b->d = b->ref.d;
    if (b->ref.n_corpora < b->n_corpora)
        return err_set(e, ERR_INVALID, "the reference knows %zu corpora", b->ref.n_corpora);
    for (size_t k = 0; k < b->n_corpora; k++)
        if (strcmp(b->ref.label[k], b->corpus[k].name) != 0)
            return err_set(e, ERR_INVALID, "the reference's corpora are in another order");
    return 0;
}

int ds_encode(const struct ds_bench *b, const float *states, size_t n, float *z, struct err *e)
{
    const struct diffuser_info *i = diffuser_get_info(b->diffuser);
    float *whole = malloc(i->n_token * i->token_dim * sizeof *whole);
    int rc = whole ? 0 : err_set(e, ERR_NOMEM, "no memory for coordinates");
    for (size_t k = 0; rc == 0 && k < n; k++) {
        rc = diffuser_encode(b->diffuser, states + k * b->S, 1, whole, e);
        memcpy(z + k * b->d, whole, b->d * sizeof *z);
    }
    free(whole);
    return rc;
}

static int allocate(struct ds_bench *b, struct err *e)
{
    const size_t n = b->n;
    b->own = calloc(n, sizeof *b->own);
    b->target = calloc(n, sizeof *b->target);
    b->source = calloc(n, sizeof *b->source);
    b->vector = calloc(n * b->info->n_embd, sizeof *b->vector);
    b->target_state = malloc(n * b->S * sizeof(float));
    b->source_state = malloc(n * b->S * sizeof(float));
    b->source_own = malloc(n * b->S * sizeof(float));
    b->target_z = malloc(n * b->d * sizeof(float));
    b->source_z = malloc(n * b->d * sizeof(float));
    return b->own && b->target && b->source && b->vector && b->target_state && b->source_state &&
                   b->source_own && b->target_z && b->source_z
               ? 0
               : err_set(e, ERR_NOMEM, "no memory for %zu states", 3 * n);
}

int ds_encode_real(struct ds_bench *b, struct err *e)
{
    int rc = ds_encode(b, b->target_state, b->n, b->target_z, e);
    return rc < 0 ? rc : ds_encode(b, b->source_state, b->n, b->source_z, e);
}

/* The texts of b->per, their states and coordinates. */
static int open_texts(struct ds_bench *b, struct err *e)
{
    b->n = b->per * b->n_corpora;
    int rc = allocate(b, e);
    rc = rc < 0 ? rc : choose_pieces(b, e);
    bench_note("baking %zu held-out texts", 2 * b->n);
    rc =
        rc < 0 ? rc : bake_pieces(b, b->target, &(struct bench_baked){.state = b->target_state}, e);
    rc = rc < 0 ? rc
                : bake_pieces(b, b->source,
                              &(struct bench_baked){b->source_state, b->source_own, b->vector}, e);
    return rc < 0 ? rc : ds_encode_real(b, e);
}

static void close_texts(struct ds_bench *b)
{
    void *const all[] = {b->own,          b->target,     b->source,   b->vector,  b->target_state,
                         b->source_state, b->source_own, b->target_z, b->source_z};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* Half the pieces of the shortest corpus, at most `most`. */
static int room_for_sets(const struct ds_bench *b, size_t most, size_t *per, struct err *e)
{
    int rc = 0;
    *per = most;
    for (size_t k = 0; k < b->n_corpora && rc == 0; k++) {
        struct ds_piece *all;
        size_t n;
        rc = cut(&b->corpus[k], 0, &all, &n, e);
        free(all);
        *per = n / 2 < *per ? n / 2 : *per;
    }
    return rc;
}

static int open_sets(struct ds_bench *b, struct err *e)
{
    size_t per;
    int rc = room_for_sets(b, 3 * b->per, &per, e);
    if (rc < 0 || !(b->sets = malloc(sizeof *b->sets)))
        return rc < 0 ? rc : err_set(e, ERR_NOMEM, "no memory for more states");
    *b->sets = (struct ds_bench){.o = b->o,
                                 .pool = b->pool,
                                 .run = b->run,
                                 .model = b->model,
                                 .info = b->info,
                                 .tokenizer = b->tokenizer,
                                 .diffuser = b->diffuser,
                                 .ref = b->ref,
                                 .n_corpora = b->n_corpora,
                                 .per = per,
                                 .S = b->S,
                                 .d = b->d};
    memcpy(b->sets->corpus, b->corpus, sizeof b->corpus);
    return open_texts(b->sets, e);
}

int ds_material_open(struct ds_bench *b, struct err *e)
{
    int rc = bench_corpora_open(b->corpus, &b->n_corpora, b->o.heldout, e);
    if (rc == 0 && !(b->pool = pool_new(b->o.threads, "bench", 0, e)))
        rc = e->code;
    b->run.pool = b->pool;
    rc = rc < 0 ? rc
                : rwkv_open(b->o.model, &(struct rwkv_options){.weights_type = -1}, b->pool,
                            &b->model, e);
    if (rc < 0)
        return rc;
    b->info = rwkv_get_info(b->model);
    b->per = b->o.states;
    b->S = rwkv_state_floats(b->info);
    if (b->info->n_vocab != 256)
        return err_set(e, ERR_INVALID, "this bench needs a model of bytes");
    if (!(b->tokenizer = tokenizer_new_bytes()))
        return err_set(e, ERR_NOMEM, "no memory for a tokenizer");
    rc = ds_open_diffuser(b, b->o.diffuser[b->o.n_diffusers - 1], e);
    rc = rc < 0 ? rc : open_texts(b, e);
    rc = rc < 0 ? rc : open_sets(b, e);
    return rc < 0 ? rc : train_judge(b, e);
}

void ds_material_close(struct ds_bench *b)
{
    bench_corpora_close(b->corpus, b->n_corpora);
    close_texts(b);
    if (b->sets)
        close_texts(b->sets);
    free(b->sets);
    ds_judge_free(b->judge);
    ds_reference_fini(&b->ref);
    diffuser_close(b->diffuser);
    tokenizer_free(b->tokenizer);
    rwkv_close(b->model);
    pool_free(b->pool);
}
