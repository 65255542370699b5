#include "engine/rwkv/session.h"

#include "daemon/base/mem.h"

/* Run twice over the same list: first with memory NULL to add up, then to hand out. */
struct carver {
    char *memory;
    size_t used;
    bool overflow;
};

static void *carve(struct carver *c, size_t count, size_t size)
{
    size_t bytes, end;
    if (!mem_mul(count, size, &bytes) || bytes > SIZE_MAX - 64 ||
        !mem_add(c->used, (bytes + 63) / 64 * 64, &end)) {
        c->overflow = true;
        return NULL;
    }
    void *p = c->memory ? c->memory + c->used : NULL;
    c->used = end;
    return p;
}

static void carve_rows(struct carver *c, struct rows_buf *b, size_t rows, size_t len)
{
    size_t floats;
    b->ld = mat_pad(len);
    if (!mem_mul(rows, b->ld, &floats)) {
        c->overflow = true;
        return;
    }
    b->data = carve(c, floats, sizeof *b->data);
    b->row = carve(c, rows, sizeof *b->row);
    for (size_t i = 0; c->memory && i < rows; i++)
        b->row[i] = b->data + i * b->ld;
}

/* Room for x to be made ready for a matrix; called again for others, for the largest. */
static size_t ready_bytes(const struct rwkv_session *s, const struct mat *w, size_t so_far)
{
    const size_t bytes = kern_ready_bytes(&s->m->kern, w->type, w->cols, s->max_rows);
    return bytes > so_far ? bytes : so_far;
}

static void carve_ready(struct carver *c, struct rwkv_session *s)
{
    size_t in[N_MIX] = {0}, y = 0, ffn = 0;
    in[0] = ready_bytes(s, &s->m->head, 0);
    for (size_t l = 0; l < s->m->info.n_layer; l++) {
        const struct rwkv_layer *at = &s->m->layers[l];
        const struct mat *reader[N_MIX];
        rwkv__att_readers(at, reader);
        for (int q = 0; q < N_MIX; q++)
            in[q] = ready_bytes(s, reader[q], in[q]);
        in[0] = ready_bytes(s, &at->ffn_key, in[0]);
        y = ready_bytes(s, &at->output, y);
        ffn = ready_bytes(s, &at->ffn_value, ffn);
    }
    for (int q = 0; q < N_MIX; q++)
        s->in[q].ready = carve(c, in[q], 1);
    s->y.ready = carve(c, y, 1);
    s->ffn.ready = carve(c, ffn, 1);
}

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

static void carve_all(struct carver *c, struct rwkv_session *s)
{
    const struct rwkv_info *i = &s->m->info;
    size_t rows = s->max_rows, C = i->n_embd, threads = (size_t)pool_threads(s->pool);
    size_t ranks[N_LORA] = {i->rank_w, i->rank_a, i->rank_v, i->rank_g}, widest = max_size(C, i->n_ffn);
    struct rows_buf *of_c[] = {&s->x, &s->z, &s->r, &s->k, &s->v, &s->kk, &s->v_first, &s->y};
    for (size_t b = 0; b < sizeof of_c / sizeof *of_c; b++)
        carve_rows(c, of_c[b], rows, C);
    for (int q = 0; q < N_MIX; q++)
        carve_rows(c, &s->in[q], rows, C);
    for (int q = 0; q < N_LORA; q++) {
        carve_rows(c, &s->lora[q], rows, C);
        carve_rows(c, &s->down[q], rows, ranks[q]);
        widest = max_size(widest, ranks[q]);
    }
    carve_rows(c, &s->ffn, rows, i->n_ffn);
    carve_ready(c, s);
    s->low = carve(c, rows, RWKV_LOW * RWKV_MAX_RANK * sizeof *s->low);
    s->scratch_floats = mat_scratch_floats(widest);
    s->scratch = carve(c, threads, s->scratch_floats * sizeof *s->scratch);
    s->rows = carve(c, rows, sizeof *s->rows);
    s->logits = carve(c, rows, sizeof *s->logits);
    s->logits_bad = carve(c, threads, rows * sizeof *s->logits_bad);
}

struct rwkv_session *rwkv_session_new(const struct rwkv_model *m, struct pool *pool, size_t max_rows,
                                      struct err *e)
{
    struct rwkv_session *s = calloc(1, sizeof *s);
    struct carver c = {0};
    if (!s) {
        err_set(e, ERR_NOMEM, "no memory for a session");
        return NULL;
    }
    s->m = m;
    s->pool = pool;
    s->max_rows = max_rows ? max_rows : 1;
    effort_init(&s->effort, pool_threads(pool));
    s->parts = 1;
    carve_all(&c, s);
    s->memory = c.overflow ? NULL : mem_calloc_aligned(c.used, 1);
    if (!s->memory) {
        err_set(e, ERR_NOMEM, "no memory for a session of %zu rows", max_rows);
        free(s);
        return NULL;
    }
    s->bytes = c.used;
    c = (struct carver){.memory = s->memory};
    carve_all(&c, s);
    return s;
}

void rwkv_session_free(struct rwkv_session *s)
{
    if (!s)
        return;
    free(s->memory);
    free(s);
}

size_t rwkv_session_bytes(const struct rwkv_session *s)
{
    return s->bytes;
}

int rwkv_session_parts(const struct rwkv_session *s)
{
    return s->parts;
}
