#include "daemon/state_import.h"

#include "daemon/state_record.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_HEADER ((size_t)8 << 20)
#define TAIL       ".att.time_state"

static const char *const words[] = {[ORIENTATION_UNKNOWN] = NULL,
                                    [ORIENTATION_VALUE_KEY] = "value_key",
                                    [ORIENTATION_KEY_VALUE] = "key_value"};

const char *state_orientation_word(enum state_orientation o)
{
    return words[o];
}

bool state_orientation_parse(const char *word, enum state_orientation *out)
{
    for (enum state_orientation o = ORIENTATION_VALUE_KEY; o <= ORIENTATION_KEY_VALUE; o++)
        if (!strcmp(word, words[o])) {
            *out = o;
            return true;
        }
    return false;
}

/* A metadata string that is short enough; "" if there is none. */
static void short_meta(const struct tensor_file *f, const char *key, char *out, size_t size)
{
    size_t n;
    const char *s = tensor_file_meta_str(f, key, &n);
    bool fits = s && n < size && strlen(s) == n;
    memcpy(out, fits ? s : "", fits ? n + 1 : 1);
}

/* ---- our own record ---- */

static int read_record(const struct tensor_file *f, struct state_import *out, struct err *e)
{
    const struct rwkv_info *info = out->info;
    char fingerprint[65];
    enum dtype type;
    short_meta(f, "fingerprint", fingerprint, sizeof fingerprint);
    short_meta(f, "weights_type", out->weights_type, sizeof out->weights_type);
    if (!dtype_parse(out->weights_type, &type))
        out->weights_type[0] = 0;
    if (strspn(fingerprint, "0123456789abcdef") != 64)
        return err_set(e, ERR_STATE_CORRUPT, "damaged: it names no model");
    if (strcmp(fingerprint, info->fingerprint) != 0)
        return err_set(e, ERR_STATE_INCOMPATIBLE,
                       "the file is a state of another model (fingerprint %.12s, not %.12s)",
                       fingerprint, info->fingerprint);
    out->format = "dreamstate-state";
    out->dtype = "F32";
    out->orientation = ORIENTATION_VALUE_KEY;
    return state_record_read(f, info, out->state, out->logits, &out->has_logits, &out->n_tokens, e);
}

/* ---- tuned states ---- */

struct tuned {
    const struct tensor_file *f;
    const struct rwkv_info *info;
    const struct tensor **layers; /* [n_layer] */
    size_t n;                     /* of these, found */
    const char *first;            /* the first one's name, whose prefix ... */
    size_t prefix;                /* ... has so many bytes */
};

/* The number of "<prefix>blocks.<number>.att.time_state"; false if name has another form. */
static bool layer_of(const char *name, size_t *prefix, uint64_t *layer)
{
    size_t n = strlen(name), tail = strlen(TAIL), at, digits = 0;
    if (n <= tail || strcmp(name + n - tail, TAIL) != 0)
        return false;
    at = n - tail;
    while (at > 0 && name[at - 1] >= '0' && name[at - 1] <= '9')
        at--, digits++;
    if (digits == 0 || digits > 9 || (digits > 1 && name[at] == '0') || at < 7 ||
        memcmp(name + at - 7, "blocks.", 7) != 0 || (at > 7 && name[at - 8] != '.'))
        return false;
    *prefix = at - 7;
    *layer = strtoull(name + at, NULL, 10);
    return true;
}

static int check_tensor(const struct tensor *t, const struct rwkv_info *i, struct err *e)
{
    size_t H = i->n_head, N = i->head_size;
    bool plain = t->dtype == DTYPE_F32 || t->dtype == DTYPE_F16 || t->dtype == DTYPE_BF16 ||
                 t->dtype == DTYPE_F64;
    if (!plain)
        return err_set(e, ERR_FORMAT, "tensor %.80s: type %s, want F32, F16 or BF16", t->name,
                       dtype_name(t->dtype));
    if (t->n_dims == 3 && t->shape[0] == H && t->shape[1] == N && t->shape[2] == N)
        return 0;
    char shape[100] = "";
    for (int d = 0, at = 0; d < t->n_dims && at < 80; d++)
        at += snprintf(shape + at, sizeof shape - (size_t)at, "%s%zu", d ? ", " : "", t->shape[d]);
    return err_set(e, ERR_FORMAT, "tensor %.80s: shape [%s], want [%zu, %zu, %zu]", t->name, shape,
                   H, N, N);
}

static int find_layers(struct tuned *s, struct err *e)
{
    size_t L = s->info->n_layer, prefix;
    uint64_t layer;
    for (size_t i = 0; i < tensor_file_count(s->f); i++) {
        const struct tensor *t = tensor_file_get(s->f, i);
        if (strstr(t->name, ".att.time_offset"))
            return err_set(e, ERR_FORMAT,
                           "tensor %.80s: a state with offsets of another program, which have no "
                           "place here",
                           t->name);
        if (!layer_of(t->name, &prefix, &layer))
            continue;
        if (layer >= L)
            return err_set(e, ERR_FORMAT, "tensor %.80s: layer %llu, the model has %zu layers",
                           t->name, (unsigned long long)layer, L);
        s->prefix = s->first ? s->prefix : prefix;
        s->first = s->first ? s->first : t->name;
        if (prefix != s->prefix || memcmp(t->name, s->first, prefix) != 0)
            return err_set(e, ERR_FORMAT, "tensors %.80s and %.80s: more than one state", s->first,
                           t->name);
        s->layers[layer] = t;
        s->n++;
    }
    if (s->n == 0)
        return err_set(e, ERR_FORMAT,
                       "no state: neither a file of this server's nor one with tensors "
                       "blocks.<i>.att.time_state");
    for (size_t l = 0; l < L; l++)
        if (!s->layers[l])
            return err_set(e, ERR_FORMAT,
                           "tensor blocks.%zu" TAIL ": not in the file, which has %zu of the "
                           "model's %zu layers",
                           l, s->n, L);
    return 0;
}

/* What the file itself says; UNKNOWN if nothing. */
static enum state_orientation told(const struct tuned *s)
{
    char name[320], word[16];
    enum state_orientation o = ORIENTATION_UNKNOWN;
    size_t C = s->info->n_embd;
    short_meta(s->f, "orientation", word, sizeof word);
    if (state_orientation_parse(word, &o))
        return o;
    snprintf(name, sizeof name, "%.*sblocks.0.att.w1", (int)s->prefix, s->first);
    const struct tensor *w1 = tensor_file_find(s->f, name);
    if (!w1 || w1->n_dims != 2 || w1->shape[0] == w1->shape[1])
        return ORIENTATION_UNKNOWN;
    return w1->shape[0] == C   ? ORIENTATION_VALUE_KEY
           : w1->shape[1] == C ? ORIENTATION_KEY_VALUE
                               : ORIENTATION_UNKNOWN;
}

static int orient(const struct tuned *s, enum state_orientation declared,
                  enum state_orientation *out, struct err *e)
{
    enum state_orientation own = told(s);
    if (own && declared && own != declared)
        return err_set_param(e, ERR_INVALID, "orientation",
                             "%s is declared, but by its content the file is %s", words[declared],
                             words[own]);
    *out = own ? own : declared;
    if (!*out && tensor_file_kind(s->f) == TENSOR_FILE_PTH)
        *out = ORIENTATION_VALUE_KEY;
    if (*out)
        return 0;
    return err_set_param(e, ERR_INVALID, "orientation",
                         "a file with time_state alone does not say which of its last two axes is "
                         "which: give orientation=value_key (RWKV-LM, RWKV-PEFT) or key_value "
                         "(Ai00, web-rwkv)");
}

/* Exchanges the last two axes of S [H, N, N] in place. */
static void transpose(float *S, size_t H, size_t N)
{
    for (size_t h = 0; h < H; h++, S += N * N)
        for (size_t i = 0; i < N; i++)
            for (size_t j = 0; j < i; j++) {
                float x = S[i * N + j];
                S[i * N + j] = S[j * N + i];
                S[j * N + i] = x;
            }
}

static int read_layer(const struct tuned *s, size_t layer, bool exchanged, float *wkv,
                      struct err *e)
{
    const struct tensor *t = s->layers[layer];
    if (check_tensor(t, s->info, e) < 0)
        return e->code;
    tensor_to_f32(t, wkv);
    for (size_t i = 0; i < t->count; i++)
        if (!isfinite(wkv[i]))
            return err_set(e, ERR_FORMAT, "tensor %.80s: value %zu is not a finite F32 number",
                           t->name, i);
    if (exchanged)
        transpose(wkv, s->info->n_head, s->info->head_size);
    return 0;
}

static int read_tuned(struct tuned *s, struct state_import *out, struct err *e)
{
    if (find_layers(s, e) < 0 || orient(s, out->declared, &out->orientation, e) < 0)
        return e->code;
    bool exchanged = out->orientation == ORIENTATION_KEY_VALUE;
    memset(out->state, 0, rwkv_state_floats(s->info) * sizeof *out->state);
    for (size_t l = 0; l < s->info->n_layer; l++)
        if (read_layer(s, l, exchanged, rwkv_state_wkv(s->info, out->state, l), e) < 0)
            return e->code;
    out->format = "time_state";
    out->dtype = dtype_name(s->layers[0]->dtype);
    return 0;
}

int state_import_file(const struct tensor_file *f, struct state_import *i, struct err *e)
{
    struct tuned s = {.f = f, .info = i->info};
    i->format = i->dtype = "";
    i->container = tensor_file_kind(f) == TENSOR_FILE_PTH ? "pth" : "safetensors";
    i->orientation = ORIENTATION_UNKNOWN;
    i->weights_type[0] = 0;
    i->has_logits = false;
    i->n_tokens = 0;
    if (state_record_is(f))
        return read_record(f, i, e);
    if (!(s.layers = calloc(i->info->n_layer, sizeof *s.layers)))
        return err_set(e, ERR_NOMEM, "no memory to read a state");
    int rc = read_tuned(&s, i, e);
    free(s.layers);
    return rc;
}

int state_import_bytes(const void *bytes, size_t n, struct state_import *i, struct err *e)
{
    struct tensor_file *f = NULL;
    const struct tensor_limits limits = {
        .header = MAX_HEADER,
        .inflated = 2 * rwkv_state_floats(i->info) * sizeof(float) + (1u << 20)};
    int rc = tensor_file_open_limited(bytes, n, &limits, &f, e);
    if (rc == 0)
        rc = state_import_file(f, i, e);
    tensor_file_close(f);
    return rc;
}
