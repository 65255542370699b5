/* Forward pass over a block of rows (tokens of any sequences), one pool_run a block.
 *
 * A layer is seven parts with a barrier after each. Element-wise parts are cut by columns: the token
 * shift then needs nothing of another thread, and the row statistics that every thread computes for
 * itself cost less than a barrier. Products are cut by output rows, time mixing by heads. The numbers
 * in comments are the steps of reference/rwkv7.md section 1. */
#include "engine/rwkv/session.h"

#include "daemon/base/clock.h"

#include <math.h>
#include <string.h>

#define LN_EPS 1e-5f
#define GN_EPS 64e-5f /* of the heads' group norm, whatever the head size */

struct part {
    struct rwkv_session *s;
    const struct kern *kern;
    int part, parts;
    size_t lo, hi;  /* columns of [C] */
    size_t n;       /* rows: those of the block that are not given up */
    size_t n_ready; /* rows that the last inputs were made ready for */
    float *scratch; /* this thread's */
};

/* Up to so many multiply-adds a block is done by the calling thread alone: waking the others and
 * meeting them seven times a layer would cost more than they save. */
#define ALONE ((size_t)4 << 20)

/* ---- pieces ----------------------------------------------------------------------------------- */

static void meet(const struct part *p)
{
    if (p->parts > 1)
        pool_barrier(p->s->pool);
}

/* Channels lo..hi of x, which all its readers wait for, as products with w take them. */
static void make_ready(struct part *p, const struct mat *w, const struct rows_buf *x, size_t n,
                       size_t lo, size_t hi)
{
    const struct mat_in in = {.x = x->data, .ldx = x->ld, .n = n};
    p->n_ready = n;
    if (lo < hi && kern_ready_bytes(p->kern, w->type, w->cols, n))
        p->kern->make_ready(w->type, &in, w->cols, lo, hi, x->ready);
}

/* Rows lo..hi of y = W x for the block's first n rows; x was made ready for a matrix like `as`, or NULL. */
static void product(const struct part *p, const struct mat *w, const struct rows_buf *x,
                    const struct mat *as, size_t n, float *const *y, bool add, size_t lo, size_t hi)
{
    struct mat_in in = {.x = x->data, .ldx = x->ld, .n = n};
    struct mat_out out = {.y = y, .add = add};
    if (as && n == p->n_ready && kern_ready_bytes(p->kern, as->type, as->cols, n)) {
        in.ready = x->ready;
        in.ready_for = as->type;
    }
    kern_mat_mul(p->kern, w, lo, hi, &in, &out, p->scratch);
}

static void product_share(const struct part *p, const struct mat *w, const struct rows_buf *x,
                          float *const *y, bool add)
{
    size_t lo, hi;
    pool_slice(w->rows, 16, p->part, p->parts, &lo, &hi);
    product(p, w, x, w, p->n, y, add, lo, hi);
}

/* Columns lo..hi of LayerNorm(x) into y. A row that is not finite any more is noted once. */
static void norm_row(const struct part *p, size_t row, const float *w, const float *b, float *y,
                     enum row_fault fault, size_t layer)
{
    struct rwkv_session *s = p->s;
    struct row *r = &s->rows[row];
    const float *x = s->x.row[row];
    float mean, rstd;
    p->kern->norm_stats(x, s->m->info.n_embd, LN_EPS, &mean, &rstd);
    if (p->part == 0 && r->fault == FAULT_NONE && !(isfinite(mean) && rstd > 0)) {
        r->fault = fault;
        r->fault_layer = layer;
    }
    p->kern->norm_apply(y + p->lo, x + p->lo, mean, rstd, w + p->lo, b + p->lo, p->hi - p->lo);
}

/* z of the row before: in this block, or as the sequence's state remembers it. */
static const float *previous(const struct rwkv_session *s, size_t row, const float *shift)
{
    return s->rows[row].first ? shift : s->z.row[row - 1];
}

/* ---- parts of a layer ------------------------------------------------------------------------- */

static void embed(const struct part *p)
{
    const struct rwkv_session *s = p->s;
    const struct rwkv_model *m = s->m;
    size_t C = m->info.n_embd, from, to;
    pool_slice(p->n, 1, p->part, p->parts, &from, &to);
    for (size_t i = from; i < to; i++) {
        const uint8_t *table = m->emb.data;
        float *x = s->x.row[i], mean, rstd;
        dtype_to_f32(m->emb.type, table + s->rows[i].token * m->emb.row_bytes, x, C);
        p->kern->norm_stats(x, C, LN_EPS, &mean, &rstd);
        p->kern->norm_apply(x, x, mean, rstd, m->ln0_w, m->ln0_b, C);
    }
}

/* 1. z = LN1(x) and the six mixes with the token before. */
static void att_in(struct part *p, size_t layer)
{
    struct rwkv_session *s = p->s;
    const struct rwkv_layer *y = &s->m->layers[layer];
    size_t lo = p->lo, n = p->hi - p->lo;
    for (size_t i = 0; i < p->n; i++) {
        const struct row *row = &s->rows[i];
        float *z = s->z.row[i];
        float *shift = rwkv_state_att_shift(&s->m->info, row->seq->state, layer);
        norm_row(p, i, y->ln1_w, y->ln1_b, z, FAULT_BEFORE_ATT, layer);
        const float *prev = previous(s, i, shift);
        for (int q = 0; q < N_MIX; q++)
            p->kern->vec_mix(s->in[q].row[i] + lo, z + lo, prev + lo, y->mix[q] + lo, n);
        if (row->last)
            memcpy(shift + lo, z + lo, n * sizeof *z);
    }
    const struct mat *reader[N_MIX];
    rwkv__att_readers(y, reader);
    for (int q = 0; q < N_MIX; q++)
        make_ready(p, reader[q], &s->in[q], p->n, p->lo, p->hi);
}

static void lora_down(const struct part *p, const struct mat *w, int mix, int lora,
                      const struct mat *as, void (*f)(float *, const float *, size_t))
{
    const struct rwkv_session *s = p->s;
    size_t lo, hi;
    pool_slice(w->rows, 16, p->part, p->parts, &lo, &hi);
    product(p, w, &s->in[mix], as, p->n, s->down[lora].row, false, lo, hi);
    for (size_t i = 0; f && i < p->n; i++)
        f(s->down[lora].row[i] + lo, s->down[lora].row[i] + lo, hi - lo);
}

/* A of a row's low-rank addition to q, the columns of B behind it; NULL: its sequence has none. */
static const float *low_vectors(const struct part *p, size_t row, size_t layer, int q)
{
    const struct rwkv_seq *seq = p->s->rows[row].seq;
    const size_t C = p->s->m->info.n_embd, rank = seq->rank;
    if (!seq->theta || !rank)
        return NULL;
    return seq->theta +
           (layer * rwkv_theta_groups(rank) + rwkv_theta_low(rank, (enum rwkv_low)q)) * C;
}

static float *low_of(const struct rwkv_session *s, size_t row, int q)
{
    return s->low + (row * RWKV_LOW + (size_t)q) * RWKV_MAX_RANK;
}

/* The first halves of theta's low-rank additions, A x: this thread's share of rows and q. */
static void low_down(const struct part *p, size_t layer)
{
    static const int mix[RWKV_LOW] = {MIX_R, MIX_K, MIX_V};
    const struct rwkv_session *s = p->s;
    const size_t C = s->m->info.n_embd;
    size_t from, to;
    pool_slice(p->n * RWKV_LOW, 1, p->part, p->parts, &from, &to);
    for (size_t at = from; at < to; at++) {
        const size_t i = at / RWKV_LOW;
        const int q = (int)(at % RWKV_LOW);
        const float *a = low_vectors(p, i, layer, q);
        if (!a)
            continue;
        const struct rows_buf *x = &s->in[mix[q]];
        const struct mat w = {DTYPE_F32, s->rows[i].seq->rank, C, C * sizeof *a, a, false};
        const struct mat_in in = {.x = x->row[i], .ldx = x->ld, .n = 1};
        float *h = low_of(s, i, q);
        p->kern->mul_rows(&w, 0, w.rows, &in, &(struct mat_out){&h, false});
    }
}

/* 2. r, k, v, and the first halves of the low-rank pairs. */
static void att_project(const struct part *p, size_t layer)
{
    const struct rwkv_session *s = p->s;
    const struct rwkv_layer *y = &s->m->layers[layer];
    product_share(p, &y->receptance, &s->in[MIX_R], s->r.row, false);
    product_share(p, &y->key, &s->in[MIX_K], s->k.row, false);
    product_share(p, &y->value, &s->in[MIX_V], s->v.row, false);
    lora_down(p, &y->down[LORA_W], MIX_W, LORA_W, &y->down[LORA_W], p->kern->vec_tanh);
    lora_down(p, &y->down[LORA_A], MIX_A, LORA_A, &y->down[LORA_A], NULL);
    lora_down(p, &y->down[LORA_G], MIX_G, LORA_G, &y->down[LORA_G], p->kern->vec_sigmoid);
    if (layer)
        lora_down(p, &y->down[LORA_V], MIX_V, LORA_V, &y->value, NULL);
    low_down(p, layer);
}

/* The second halves of theta's low-rank additions: channels lo..lo + n of one row's r, k and v. */
static void low_up(const struct part *p, size_t layer, size_t i, size_t lo, size_t n)
{
    const struct rwkv_session *s = p->s;
    float *const y[RWKV_LOW] = {s->r.row[i], s->k.row[i], s->v.row[i]};
    const size_t C = s->m->info.n_embd, rank = s->rows[i].seq->rank;
    for (int q = 0; q < RWKV_LOW; q++) {
        const float *a = low_vectors(p, i, layer, q);
        if (a)
            p->kern->vec_add_rows(y[q] + lo, a + rank * C + lo, C, low_of(s, i, q), rank, n);
    }
}

/* Vector q of the recurrence for a row's sequence: its own or the model's. */
static const float *theta_of(const struct part *p, size_t row, size_t layer, enum rwkv_theta q)
{
    const struct rwkv_layer *y = &p->s->m->layers[layer];
    const float *own[RWKV_THETA] = {y->w0, y->a0, y->v0, y->k_k, y->k_a, y->r_k};
    const struct rwkv_seq *seq = p->s->rows[row].seq;
    const size_t groups = rwkv_theta_groups(seq->rank);
    return seq->theta ? seq->theta + (layer * groups + q) * p->s->m->info.n_embd : own[q];
}

/* 3 to 6 but for the normalisation of kk: channels lo..lo + n of one row. */
static void gates(const struct part *p, size_t layer, size_t i, size_t lo, size_t n)
{
    const struct rwkv_session *s = p->s;
    float *v = s->v.row[i] + lo, *v_first = s->v_first.row[i] + lo;
    if (layer == 0)
        memcpy(v_first, v, n * sizeof *v);
    struct att_gates g = {
        .w = s->lora[LORA_W].row[i] + lo,
        .a = s->lora[LORA_A].row[i] + lo,
        .v = v,
        .k = s->k.row[i] + lo,
        .kk = s->kk.row[i] + lo,
        .w0 = theta_of(p, i, layer, RWKV_W0) + lo,
        .a0 = theta_of(p, i, layer, RWKV_A0) + lo,
        .v0 = layer ? theta_of(p, i, layer, RWKV_V0) + lo : NULL,
        .k_k = theta_of(p, i, layer, RWKV_K_K) + lo,
        .k_a = theta_of(p, i, layer, RWKV_K_A) + lo,
        .v_lora = s->lora[LORA_V].row[i] + lo,
        .v_first = v_first,
    };
    p->kern->att_gates(&g, n);
}

/* 7 to 9 for one head: the recurrence over the rows in order. */
static void recur(const struct part *p, const struct rwkv_layer *y, size_t layer, size_t head)
{
    const struct rwkv_session *s = p->s;
    size_t N = s->m->info.head_size, at = head * N;
    for (size_t i = 0; i < p->n; i++) {
        float *S = rwkv_state_wkv(&s->m->info, s->rows[i].seq->state, layer) + at * N;
        struct wkv_args a = {
            .S = S,
            .y = s->y.row[i] + at,
            .r = s->r.row[i] + at,
            .w = s->lora[LORA_W].row[i] + at,
            .k = s->k.row[i] + at,
            .v = s->v.row[i] + at,
            .kk = s->kk.row[i] + at,
            .a = s->lora[LORA_A].row[i] + at,
        };
        struct att_out o = {
            .y = a.y,
            .ln_w = y->ln_x_w + at,
            .ln_b = y->ln_x_b + at,
            .r = a.r,
            .k = a.k,
            .r_k = theta_of(p, i, layer, RWKV_R_K) + at,
            .v = a.v,
            .g = s->lora[LORA_G].row[i] + at,
        };
        p->kern->wkv_step(&a, N);
        p->kern->att_out(&o, N, GN_EPS);
    }
}

/* Everything of time mixing that stays within heads: 3 to 9. */
static void att_mix(struct part *p, size_t layer)
{
    const struct rwkv_session *s = p->s;
    const struct rwkv_layer *y = &s->m->layers[layer];
    size_t N = s->m->info.head_size, from, to;
    pool_slice(s->m->info.n_head, 1, p->part, p->parts, &from, &to);
    p->n_ready = p->n;
    if (from == to)
        return;
    for (int q = 0; q < N_LORA; q++)
        if (q != LORA_V || layer)
            product(p, &y->up[q], &s->down[q], NULL, p->n, s->lora[q].row, false, from * N, to * N);
    for (size_t i = 0; i < p->n; i++) {
        low_up(p, layer, i, from * N, (to - from) * N);
        gates(p, layer, i, from * N, (to - from) * N);
    }
    for (size_t h = from; h < to; h++)
        recur(p, y, layer, h);
    make_ready(p, &y->output, &s->y, p->n, from * N, to * N);
}

/* 11. z = LN2(x) and its mix with the token before. */
static void ffn_in(struct part *p, size_t layer)
{
    struct rwkv_session *s = p->s;
    const struct rwkv_layer *y = &s->m->layers[layer];
    size_t lo = p->lo, n = p->hi - p->lo;
    for (size_t i = 0; i < p->n; i++) {
        const struct row *row = &s->rows[i];
        float *z = s->z.row[i];
        float *shift = rwkv_state_ffn_shift(&s->m->info, row->seq->state, layer);
        norm_row(p, i, y->ln2_w, y->ln2_b, z, FAULT_BEFORE_FFN, layer);
        p->kern->vec_mix(s->in[0].row[i] + lo, z + lo, previous(s, i, shift) + lo, y->ffn_mix + lo,
                         n);
        if (row->last)
            memcpy(shift + lo, z + lo, n * sizeof *z);
    }
    make_ready(p, &y->ffn_key, &s->in[0], p->n, p->lo, p->hi);
}

static void ffn_key(struct part *p, size_t layer)
{
    const struct rwkv_session *s = p->s;
    const struct rwkv_layer *y = &s->m->layers[layer];
    size_t lo, hi;
    pool_slice(y->ffn_key.rows, MAT_STEP, p->part, p->parts, &lo, &hi);
    product(p, &y->ffn_key, &s->in[0], &y->ffn_key, p->n, s->ffn.row, false, lo, hi);
    for (size_t i = 0; i < p->n; i++)
        p->kern->vec_relu2(s->ffn.row[i] + lo, s->ffn.row[i] + lo, hi - lo);
    make_ready(p, &y->ffn_value, &s->ffn, p->n, lo, hi);
}

/* Rows that go on: those at the end whose sequence was cancelled are left out from here on. Part 0 looks
 * before a barrier, so that all threads leave out the same. */
static size_t look_at_cancel(const struct part *p)
{
    size_t n = p->n;
    for (const struct row *r; n > 0; n--) {
        r = &p->s->rows[n - 1];
        if (!r->seq->cancel || !atomic_load_explicit(r->seq->cancel, memory_order_relaxed))
            break;
        r->seq->given_up = true;
    }
    return n;
}

static void run_layer(struct part *p, size_t layer)
{
    struct rwkv_session *s = p->s;
    const struct rwkv_layer *y = &s->m->layers[layer];
    att_in(p, layer);
    if (p->part == 0)
        s->going_on = look_at_cancel(p);
    meet(p);
    p->n = s->going_on; /* written again only after more barriers */
    if (!p->n)
        return;
    att_project(p, layer);
    meet(p);
    att_mix(p, layer);
    meet(p);
    product_share(p, &y->output, &s->y, s->x.row, true); /* 10 */
    meet(p);
    ffn_in(p, layer);
    meet(p);
    ffn_key(p, layer);
    meet(p);
    product_share(p, &y->ffn_value, &s->ffn, s->x.row, true);
    meet(p);
}

/* LN_out, and logits of the rows that want them, whose LN_out is gathered at the front of in[0]. */
static void run_head(struct part *p)
{
    struct rwkv_session *s = p->s;
    const struct rwkv_model *m = s->m;
    size_t at = 0, lo, hi;
    for (size_t i = 0; i < p->n; i++) {
        bool wanted = s->rows[i].logits != NULL;
        float *z = wanted ? s->in[0].row[at++] : s->in[1].row[0];
        norm_row(p, i, m->ln_out_w, m->ln_out_b, z, FAULT_AFTER_LAYERS, m->info.n_layer - 1);
        if (s->rows[i].hidden)
            memcpy(s->rows[i].hidden + p->lo, z + p->lo, (p->hi - p->lo) * sizeof *z);
    }
    make_ready(p, &m->head, &s->in[0], at, p->lo, p->hi);
    meet(p);
    pool_slice(m->head.rows, 16, p->part, p->parts, &lo, &hi);
    if (at)
        product(p, &m->head, &s->in[0], &m->head, at, s->logits, false, lo, hi);
    for (size_t i = 0; i < at; i++)
        s->logits_bad[(size_t)p->part * s->max_rows + i] =
            !p->kern->vec_finite(s->logits[i] + lo, hi - lo);
}

static void run_block(void *ctx, int part, int parts)
{
    struct rwkv_session *s = ctx;
    struct part p = {.s = s, .kern = &s->m->kern, .part = part, .parts = parts, .n = s->n,
                     .scratch = s->scratch + (size_t)part * s->scratch_floats};
    pool_slice(s->m->info.n_embd, MAT_STEP, part, parts, &p.lo, &p.hi);
    embed(&p);
    meet(&p);
    for (size_t layer = 0; layer < s->m->info.n_layer && p.n; layer++)
        run_layer(&p, layer);
    if (p.n)
        run_head(&p);
}

/* ---- blocks ----------------------------------------------------------------------------------- */

static int check_seqs(const struct rwkv_session *s, struct rwkv_seq *seqs, size_t n, struct err *e)
{
    size_t vocab = s->m->info.n_vocab;
    for (size_t i = 0; i < n; i++) {
        seqs[i].not_finite = seqs[i].given_up = false;
        if (seqs[i].n_tokens == 0)
            return err_set(e, ERR_INVALID, "sequence %zu has no tokens", i);
        if (seqs[i].rank > RWKV_MAX_RANK)
            return err_set(e, ERR_INVALID, "sequence %zu: rank %zu, at most %d", i, seqs[i].rank,
                           RWKV_MAX_RANK);
        for (size_t t = 0; t < seqs[i].n_tokens; t++)
            if (seqs[i].tokens[t] >= vocab)
                return err_set(e, ERR_INVALID,
                               "token %u (sequence %zu, position %zu) is outside the vocabulary of %zu",
                               (unsigned)seqs[i].tokens[t], i, t, vocab);
    }
    return 0;
}

static void add_row(struct rwkv_session *s, struct rwkv_seq *q, size_t index, size_t token)
{
    size_t vocab = s->m->info.n_vocab, i = s->n++;
    bool first = i == 0 || s->rows[i - 1].seq != q, end = token + 1 == q->n_tokens;
    struct row *r = &s->rows[i];
    *r = (struct row){.seq = q, .seq_index = index, .token = q->tokens[token], .first = first,
                      .last = true};
    if (q->hidden)
        r->hidden = q->hidden + token * s->m->info.n_embd;
    if (!first)
        s->rows[i - 1].last = false;
    if (q->logits && q->all_logits)
        r->logits = q->logits + token * vocab;
    else if (q->logits && end)
        r->logits = q->logits;
    if (r->logits)
        s->logits[s->n_logits++] = r->logits;
}

static bool logits_bad(const struct rwkv_session *s, size_t at)
{
    bool bad = false;
    for (int t = 0; t < s->parts; t++)
        bad |= s->logits_bad[(size_t)t * s->max_rows + at];
    return bad;
}

/* Marks the sequences that are no longer finite; the first of a call is told in e. */
static int check_rows(const struct rwkv_session *s, int rc, struct err *e)
{
    static const char *const where[] = {"", "before time mixing of layer",
                                        "before channel mixing of layer", "after layer"};
    size_t at = 0;
    for (size_t i = 0; i < s->n; i++) {
        const struct row *r = &s->rows[i];
        if (r->seq->given_up)
            break; /* and so are those behind it */
        bool bad = r->logits && logits_bad(s, at++);
        if ((!r->fault && !bad) || r->seq->not_finite)
            continue;
        r->seq->not_finite = true;
        if (rc == 0 && r->fault)
            rc = err_set(e, ERR_NUMERIC, "sequence %zu: activations are not finite %s %zu",
                         r->seq_index, where[r->fault], r->fault_layer);
        else if (rc == 0)
            rc = err_set(e, ERR_NUMERIC, "sequence %zu: logits are not finite", r->seq_index);
    }
    return rc;
}

static int flush_block(struct rwkv_session *s, int rc, struct err *e)
{
    if (s->n == 0)
        return rc;
    if (s->n <= ALONE / s->m->weights || pool_threads(s->pool) == 1) {
        s->parts = 1;
        run_block(s, 0, 1);
    } else {
        const uint64_t begun = clock_ns();
        s->parts = effort_parts(&s->effort);
        pool_run_some(s->pool, s->parts, run_block, s);
        effort_note(&s->effort, s->n, clock_ns() - begun, pool_lost(s->pool));
    }
    rc = check_rows(s, rc, e);
    s->n = s->n_logits = 0;
    return rc;
}

int rwkv_eval(struct rwkv_session *s, struct rwkv_seq *seqs, size_t n_seqs, struct err *e)
{
    int rc = check_seqs(s, seqs, n_seqs, e);
    if (rc < 0)
        return rc;
    s->n = s->n_logits = 0;
    for (size_t i = 0; i < n_seqs; i++)
        for (size_t t = 0; t < seqs[i].n_tokens && !seqs[i].given_up; t++) {
            add_row(s, &seqs[i], i, t);
            if (s->n == s->max_rows)
                rc = flush_block(s, rc, e);
        }
    return flush_block(s, rc, e);
}
