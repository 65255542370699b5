/* The identity of a model's weights, whatever file holds them. Tensors are hashed side by side on the
 * pool, each from its values as little-endian F32 in canonical order; then the digests are hashed. */
#include "engine/rwkv/model.h"

#include "daemon/base/mem.h"
#include "daemon/base/sha256.h"

#include <stdatomic.h>

enum { RELEASE = 2 << 20 }; /* elements that stay in memory while a tensor is hashed */
enum { CHUNK = 4096, BAND = 32 }; /* elements; canonical rows gathered together: a quantised block */

struct hash_turn {
    size_t source, count;
};

struct hash_job {
    const struct tensor_file *f;
    const struct rwkv_source *sources;
    struct hash_turn *turns; /* [n]: the largest first, so that the threads end together */
    size_t n, band_floats;
    uint8_t (*digests)[32];
    float *bands; /* [threads, band_floats] */
    atomic_size_t next;
};

void rwkv__read_f32(const struct tensor *t, size_t first, float *dst, size_t n)
{
    const uint8_t *p = t->data;
    size_t block = dtype_block_len(t->dtype);
    dtype_to_f32(t->dtype, p + first / block * dtype_block_bytes(t->dtype), dst, n);
}

/* Whole blocks [from, to) of t were used for the last time. */
static void release(const struct tensor_file *f, const struct tensor *t, size_t from, size_t to)
{
    const size_t block = dtype_block_len(t->dtype), bytes = dtype_block_bytes(t->dtype);
    tensor_file_release(f, (const uint8_t *)t->data + from / block * bytes, (to - from) / block * bytes);
}

/* F32 is little-endian in memory on every machine this runs on. */
static void hash_plain(const struct tensor_file *f, const struct rwkv_source *s, struct sha256 *sha)
{
    float buf[CHUNK];
    size_t count = rwkv__source_count(s), kept = 0;
    for (size_t i = 0, n; i < count; i += n) {
        n = count - i < CHUNK ? count - i : CHUNK;
        rwkv__read_f32(s->t, s->first + i, buf, n);
        sha256_add(sha, buf, n * sizeof *buf);
        if (i + n == count || i + n - kept >= RELEASE) {
            release(f, s->t, s->first + kept, s->first + i + n);
            kept = i + n;
        }
    }
}

/* The file has [cols, rows]: bands of canonical rows are gathered from all its rows. */
static void hash_transposed(const struct tensor_file *f, const struct rwkv_source *s, struct sha256 *sha,
                            float *band)
{
    float part[BAND];
    for (size_t r = 0; r < s->rows; r += BAND) {
        size_t n = s->rows - r < BAND ? s->rows - r : BAND;
        for (size_t c = 0; c < s->cols; c++) {
            rwkv__read_f32(s->t, s->first + c * s->rows + r, part, n);
            for (size_t i = 0; i < n; i++)
                band[i * s->cols + c] = part[i];
        }
        sha256_add(sha, band, n * s->cols * sizeof *band);
    }
    release(f, s->t, s->first, s->first + rwkv__source_count(s));
}

static void hash_part(void *ctx, int part, int parts)
{
    struct hash_job *j = ctx;
    float *band = j->bands + (size_t)part * j->band_floats;
    (void)parts;
    for (size_t at; (at = atomic_fetch_add(&j->next, 1)) < j->n;) {
        const size_t i = j->turns[at].source;
        struct sha256 sha;
        sha256_start(&sha);
        if (j->sources[i].transposed)
            hash_transposed(j->f, &j->sources[i], &sha, band);
        else
            hash_plain(j->f, &j->sources[i], &sha);
        sha256_end(&sha, j->digests[i]);
    }
}

static int larger_first(const void *a, const void *b)
{
    const struct hash_turn *x = a, *y = b;
    return (x->count < y->count) - (x->count > y->count);
}

int rwkv__fingerprint(const struct tensor_file *f, const struct rwkv_source *sources, size_t n,
                      struct pool *pool, char fingerprint[65], struct err *e)
{
    struct hash_job j = {.f = f, .sources = sources, .n = n};
    for (size_t i = 0; i < n; i++)
        if (sources[i].transposed && sources[i].cols * BAND > j.band_floats)
            j.band_floats = sources[i].cols * BAND;
    j.digests = calloc(n, sizeof *j.digests);
    j.turns = calloc(n, sizeof *j.turns);
    j.bands = mem_calloc_aligned((size_t)pool_threads(pool) * j.band_floats, sizeof *j.bands);
    int rc = -1;
    if (!j.digests || !j.turns || !j.bands) {
        rc = err_set(e, ERR_NOMEM, "no memory to hash the model");
        goto out;
    }
    for (size_t i = 0; i < n; i++)
        j.turns[i] = (struct hash_turn){i, rwkv__source_count(&sources[i])};
    qsort(j.turns, n, sizeof *j.turns, larger_first);
    pool_run(pool, hash_part, &j);

    struct sha256 sha;
    uint8_t digest[32];
    sha256_start(&sha);
    for (size_t i = 0; i < n; i++) {
        uint64_t shape[2] = {sources[i].rows, sources[i].cols};
        sha256_add(&sha, sources[i].name, strlen(sources[i].name) + 1);
        sha256_add(&sha, shape, sizeof shape);
        sha256_add(&sha, j.digests[i], sizeof j.digests[i]);
    }
    sha256_end(&sha, digest);
    sha256_hex(digest, fingerprint);
    rc = 0;
out:
    free(j.digests);
    free(j.turns);
    free(j.bands);
    return rc;
}
