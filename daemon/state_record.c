#include "daemon/state_record.h"

#include "daemon/base/mem.h"
#include "daemon/base/sha256.h"
#include "engine/tensor/write.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT         "dreamstate-state-1"
#define NAME_MAX_BYTES 48
#define PARTS          3 /* of a layer: att.x_prev, att.wkv, ffn.x_prev */

/* Part p of layer l: its name and shape, and where it lies in a state. */
struct part {
    char name[NAME_MAX_BYTES];
    int n_dims;
    size_t shape[3], count, at;
};

static struct part part_of(const struct rwkv_info *i, size_t layer, size_t p)
{
    static const char *const names[PARTS] = {"att.x_prev", "att.wkv", "ffn.x_prev"};
    size_t c = i->n_embd, n = i->head_size, per_layer = 2 * c + c * n;
    struct part r = {.n_dims = 1, .shape = {c}, .count = c, .at = layer * per_layer};
    snprintf(r.name, sizeof r.name, "blocks.%zu.%s", layer, names[p]);
    if (p == 1) {
        r.n_dims = 3;
        r.shape[0] = i->n_head, r.shape[1] = r.shape[2] = n;
        r.count = c * n;
    }
    r.at += p == 0 ? 0 : p == 1 ? c : c + c * n;
    return r;
}

/* x * 0 is 0, or NaN where x is infinite or none; sums side by side, which the compiler makes vectors of. */
static bool all_finite(const float *x, size_t n)
{
    enum { LANES = 16 };
    float lane[LANES] = {0}, sum = 0;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t l = 0; l < LANES; l++)
            lane[l] += x[i + l] * 0;
    for (; i < n; i++)
        sum += x[i] * 0;
    for (size_t l = 0; l < LANES; l++)
        sum += lane[l];
    return sum == 0;
}

/* ---- pack ---- */

static int add_tensor(struct tensor *t, const struct part *p, const float *data, struct err *e)
{
    if (!all_finite(data, p->count))
        return err_set(e, ERR_NUMERIC, "%s of the state holds a value that is not finite", p->name);
    *t = (struct tensor){.name = p->name,
                         .dtype = DTYPE_F32,
                         .n_dims = p->n_dims,
                         .count = p->count,
                         .bytes = p->count * sizeof(float),
                         .data = data};
    memcpy(t->shape, p->shape, sizeof p->shape);
    return 0;
}

static int pack_tensors(const struct rwkv_info *info, const float *state, const float *logits,
                        struct tensor *tensors, struct part *parts, size_t *n, struct err *e)
{
    *n = 0;
    for (size_t i = 0; i < info->n_layer * PARTS; i++, ++*n) {
        parts[i] = part_of(info, i / PARTS, i % PARTS);
        if (add_tensor(&tensors[i], &parts[i], state + parts[i].at, e) < 0)
            return e->code;
    }
    if (!logits)
        return 0;
    parts[*n] = (struct part){.name = "logits", .n_dims = 1, .shape = {info->n_vocab}};
    parts[*n].count = info->n_vocab;
    int rc = add_tensor(&tensors[*n], &parts[*n], logits, e);
    ++*n;
    return rc;
}

int state_record_pack(const struct rwkv_info *info, const char *weights_type, uint64_t n_tokens,
                      const float *state, const float *logits, void **blob, size_t *bytes,
                      char sha256[65], struct err *e)
{
    size_t n = 0, most = info->n_layer * PARTS + 1;
    struct tensor *tensors = calloc(most, sizeof *tensors);
    struct part *parts = calloc(most, sizeof *parts);
    char count[24];
    const struct tensor_meta meta[] = {
        {.key = "format", .type = TENSOR_META_STR, .str = FORMAT},
        {.key = "fingerprint", .type = TENSOR_META_STR, .str = info->fingerprint},
        {.key = "weights_type", .type = TENSOR_META_STR, .str = weights_type},
        {.key = "n_tokens", .type = TENSOR_META_STR, .str = count},
    };
    uint8_t digest[32];
    struct buf out;
    buf_init(&out, SIZE_MAX / 2);
    snprintf(count, sizeof count, "%llu", (unsigned long long)n_tokens);
    int rc = tensors && parts ? pack_tensors(info, state, logits, tensors, parts, &n, e)
                              : err_set(e, ERR_NOMEM, "no memory to pack a state");
    if (rc == 0)
        rc = safetensors_pack(&out, tensors, n, meta, sizeof meta / sizeof meta[0], e);
    if (rc == 0 && !(*blob = buf_take(&out, bytes)))
        rc = err_set(e, ERR_NOMEM, "no memory to pack a state");
    if (rc == 0) {
        sha256_of(*blob, *bytes, digest);
        sha256_hex(digest, sha256);
    }
    buf_fini(&out);
    free(tensors);
    free(parts);
    return rc;
}

/* ---- unpack ---- */

int state_record_verify(const void *blob, size_t bytes, const char *sha256, struct err *e)
{
    uint8_t digest[32];
    char hex[65];
    sha256_of(blob, bytes, digest);
    sha256_hex(digest, hex);
    return !strcmp(hex, sha256)
               ? 0
               : err_set(e, ERR_STATE_CORRUPT,
                         "damaged: its SHA-256 is %.12s..., recorded is %.12s...", hex, sha256);
}

static int read_part(const struct tensor_file *f, const struct part *p, float *to, struct err *e)
{
    const struct tensor *t = tensor_file_find(f, p->name);
    if (!t)
        return err_set(e, ERR_STATE_CORRUPT, "damaged: no tensor %s", p->name);
    if (t->dtype != DTYPE_F32 || t->n_dims != p->n_dims ||
        memcmp(t->shape, p->shape, (size_t)p->n_dims * sizeof t->shape[0]) != 0)
        return err_set(e, ERR_STATE_CORRUPT,
                       "damaged: %s is %s of %zu values in %d dimensions, want F32 of %zu in %d",
                       p->name, dtype_name(t->dtype), t->count, t->n_dims, p->count, p->n_dims);
    tensor_to_f32(t, to);
    return all_finite(to, p->count)
               ? 0
               : err_set(e, ERR_STATE_CORRUPT, "damaged: %s holds a value that is not finite",
                         p->name);
}

/* A decimal number and nothing else. */
static bool read_count(const char *s, size_t n, uint64_t *out)
{
    *out = 0;
    for (size_t i = 0; i < n; i++)
        if (s[i] < '0' || s[i] > '9' || __builtin_mul_overflow(*out, 10, out) ||
            __builtin_add_overflow(*out, (uint64_t)(s[i] - '0'), out))
            return false;
    return n > 0;
}

bool state_record_is(const struct tensor_file *f)
{
    size_t n;
    const char *s = tensor_file_meta_str(f, "format", &n);
    return s && n == strlen(FORMAT) && memcmp(s, FORMAT, n) == 0;
}

static int check_meta(const struct tensor_file *f, const struct rwkv_info *info, uint64_t *n_tokens,
                      struct err *e)
{
    size_t n;
    if (!state_record_is(f))
        return err_set(e, ERR_STATE_CORRUPT, "damaged: its format is not " FORMAT);
    const char *s = tensor_file_meta_str(f, "fingerprint", &n);
    if (!s || n != strlen(info->fingerprint) || memcmp(s, info->fingerprint, n) != 0)
        return err_set(e, ERR_STATE_CORRUPT, "damaged: it names another model than its record");
    s = tensor_file_meta_str(f, "n_tokens", &n);
    if (!s || !read_count(s, n, n_tokens))
        return err_set(e, ERR_STATE_CORRUPT, "damaged: it has no count of tokens");
    return 0;
}

int state_record_read(const struct tensor_file *f, const struct rwkv_info *info, float *state,
                      float *logits, bool *has_logits, uint64_t *n_tokens, struct err *e)
{
    size_t n_parts = info->n_layer * PARTS;
    int rc;
    *has_logits = tensor_file_find(f, "logits") != NULL;
    rc = check_meta(f, info, n_tokens, e);
    if (rc == 0 && tensor_file_count(f) != n_parts + *has_logits)
        rc = err_set(e, ERR_STATE_CORRUPT, "damaged: it has %zu tensors, want %zu",
                     tensor_file_count(f), n_parts + *has_logits);
    for (size_t i = 0; i < n_parts && rc == 0; i++) {
        struct part p = part_of(info, i / PARTS, i % PARTS);
        rc = read_part(f, &p, state + p.at, e);
    }
    if (rc == 0 && *has_logits) {
        struct part p = {.name = "logits", .n_dims = 1, .shape = {info->n_vocab}};
        p.count = info->n_vocab;
        rc = read_part(f, &p, logits, e);
    }
    return rc;
}

int state_record_unpack(const void *blob, size_t bytes, const char *sha256,
                        const struct rwkv_info *info, float *state, float *logits, bool *has_logits,
                        uint64_t *n_tokens, struct err *e)
{
    struct tensor_file *f = NULL;
    int rc = state_record_verify(blob, bytes, sha256, e);
    if (rc < 0)
        return rc;
    if (tensor_file_open_memory(blob, bytes, &f, e) < 0)
        return e->code == ERR_NOMEM
                   ? e->code
                   : err_set(e, ERR_STATE_CORRUPT, "damaged: not a safetensors file");
    rc = state_record_read(f, info, state, logits, has_logits, n_tokens, e);
    tensor_file_close(f);
    return rc;
}

/* ---- norms ---- */

static double norm(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

int state_record_norms(const struct rwkv_info *info, const float *state, struct buf *out)
{
    static const char *const keys[PARTS] = {"att_shift", "wkv", "ffn_shift"};
    for (size_t k = 0; k < PARTS; k++) {
        buf_printf(out, "%s\"%s\": [", k ? ", " : "{", keys[k]);
        for (size_t l = 0; l < info->n_layer; l++) {
            struct part p = part_of(info, l, k);
            buf_printf(out, "%s%.6g", l ? ", " : "", norm(state + p.at, p.count));
        }
        buf_puts(out, "]");
    }
    return buf_puts(out, "}");
}
