#include "daemon/registry.h"

#include "daemon/base/clock.h"
#include "daemon/base/sha256.h"
#include "daemon/base/thread.h"
#include "daemon/chat_template.h"
#include "daemon/log.h"
#include "daemon/model_vocab.h"
#include "engine/tensor/tensor.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HYBRID_FILE "hybrid.safetensors"

/* path's folder (with its last '/') is path[0..n). */
static size_t folder_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

/* The part of path that names the model: [*begin, returned length). */
static size_t stem(const char *path, const char **begin)
{
    size_t folder = folder_length(path);
    const char *base = path + folder, *dot = strrchr(base, '.');
    size_t n = dot && dot != base ? (size_t)(dot - base) : strlen(base);
    if (n == 5 && !strncmp(base, "model", 5) && folder > 1) { /* .../tiny/model.gguf */
        const char *end = path + folder - 1, *from = end;
        while (from > path && from[-1] != '/')
            from--;
        base = from, n = (size_t)(end - from);
    }
    *begin = base;
    return n;
}

/* Splits "NAME=FILE" or "FILE"; makes a name of allowed characters. */
static int name_model(struct model *m, const char *spec, const char *given, const char **path,
                      struct err *e)
{
    const char *eq = strchr(spec, '='), *from = spec;
    size_t n = eq ? (size_t)(eq - spec) : 0;
    *path = eq ? eq + 1 : spec;
    if (!eq && given)
        from = given, n = strlen(given);
    else if (!eq)
        n = stem(*path, &from);
    if (n == 0 || n >= sizeof m->name)
        return err_set(e, ERR_INVALID, "--model %s: a name has 1 to 128 characters", spec);
    for (size_t i = 0; i < n; i++) {
        bool ok = isalnum((unsigned char)from[i]) || strchr("._-", from[i]);
        if (!ok && (eq || given))
            return err_set(e, ERR_INVALID,
                           "--model %s: a name has the characters A-Z a-z 0-9 . _ -", spec);
        m->name[i] = ok ? from[i] : '-';
    }
    m->name[n] = 0;
    return 0;
}

/* The path of a file in the folder of path's: free it. NULL: no memory. */
static char *beside(const char *path, const char *name)
{
    size_t n = folder_length(path), len = strlen(name) + 1;
    char *other = malloc(n + len);
    if (other) {
        memcpy(other, path, n);
        memcpy(other + n, name, len);
    }
    return other;
}

/* For answers that are held to a schema. */
static int index_vocab(struct model *m, struct err *e)
{
    if (!m->tokenizer)
        return 0;
    m->token_index = token_index_new(m->tokenizer, m->rwkv_info->n_vocab, e);
    if (m->token_index)
        m->mask_scratch = mask_scratch_new(m->token_index, e);
    return m->mask_scratch ? 0 : e->code;
}

/* ---- hybrids ---- */

static int hash_file(const char *path, char sha256[65], struct err *e)
{
    struct sha256 hash;
    uint8_t digest[32];
    char part[16384];
    size_t n;
    FILE *f = fopen(path, "rb");
    sha256_start(&hash);
    while (f && (n = fread(part, 1, sizeof part, f)) > 0)
        sha256_add(&hash, part, n);
    bool read = f && !ferror(f);
    if (f)
        fclose(f);
    sha256_end(&hash, digest);
    sha256_hex(digest, sha256);
    return read ? 0 : err_set(e, ERR_IO, "the file cannot be read");
}

bool registry_hybrid_fits(const struct model *m, const struct hybrid *h)
{
    const struct hybrid_info *i = hybrid_get_info(h);
    const struct rwkv_info *r = m->rwkv_info;
    return !strcmp(i->fingerprint, r->fingerprint) && i->shape.n_layer == r->n_layer &&
           i->shape.n_embd == r->n_embd && i->shape.head_size == r->head_size;
}

/* ERR_INVALID: it is for another model. */
static int open_hybrid(struct model *m, const char *path, struct err *e)
{
    struct hybrid *h = NULL;
    char sha256[65];
    int rc = hybrid_open(path, &h, e);
    if (rc == 0)
        rc = hash_file(path, sha256, e);
    if (rc == 0 && !registry_hybrid_fits(m, h))
        rc = err_set(e, ERR_INVALID, "it was trained for the model %.12s..., %s is %.12s...",
                     hybrid_get_info(h)->fingerprint, m->name, m->rwkv_info->fingerprint);
    if (rc < 0) {
        hybrid_close(h);
        return rc;
    }
    served_hybrid_unref(m->hybrid_of_file);
    m->hybrid_of_file = served_hybrid_new_take(h, sha256);
    hybrid_place_set(&m->hybrids, m->hybrid_of_file);
    return m->hybrid_of_file ? 0 : err_set(e, ERR_NOMEM, "no memory for a hybrid");
}

/* What stands beside a model is taken if it fits. */
static int open_hybrid_beside(struct model *m, const struct log *log, struct err *e)
{
    struct err own = {0};
    char *path = beside(m->path, HYBRID_FILE);
    if (!path)
        return err_set(e, ERR_NOMEM, "no memory for a path");
    if (access(path, F_OK) == 0 && open_hybrid(m, path, &own) < 0)
        LOG(log, LOG_WARN, "hybrid_left_out", LOG_STR("model", m->name), LOG_STR("why", own.msg));
    free(path);
    return 0;
}

static int open_named_hybrid(struct registry *r, const char *spec, struct err *e)
{
    const char *eq = strchr(spec, '=');
    struct model *m = eq ? NULL : &r->models[0];
    for (size_t i = 0; i < r->n && eq; i++)
        if (strlen(r->models[i].name) == (size_t)(eq - spec) &&
            !memcmp(r->models[i].name, spec, (size_t)(eq - spec)))
            m = &r->models[i];
    int rc = m ? open_hybrid(m, eq ? eq + 1 : spec, e)
               : err_set(e, ERR_INVALID, "there is no model of this name");
    if (rc == 0)
        m->hybrid_named = true;
    return rc < 0 ? err_prefix(e, "--hybrid %s", spec) : 0;
}

/* Once all models are there. */
static int open_hybrids(struct registry *r, const struct registry_options *o, const struct log *log,
                        struct err *e)
{
    for (size_t i = 0; i < r->n; i++)
        if (open_hybrid_beside(&r->models[i], log, e) < 0)
            return e->code;
    for (size_t i = 0; i < o->n_hybrids; i++)
        if (open_named_hybrid(r, o->hybrids[i], e) < 0)
            return e->code;
    for (size_t i = 0; i < r->n; i++)
        if (r->models[i].hybrid_of_file)
            LOG(log, LOG_INFO, "hybrid_loaded", LOG_STR("model", r->models[i].name),
                LOG_STR("sha256", r->models[i].hybrid_of_file->sha256));
    return 0;
}

/* ---- models ---- */

static void fill_info(const struct model *m, const char *path, struct model_info *info)
{
    const struct rwkv_info *r = m->rwkv_info;
    struct stat st;
    *info = (struct model_info){
        .name = m->name,
        .created = stat(path, &st) == 0 ? (int64_t)st.st_mtime : 0,
        .fingerprint = r->fingerprint,
        .weights_type = m->weights_type,
        .tokenizer = !m->tokenizer                          ? "none"
                     : tokenizer_vocab(m->tokenizer) <= 256 ? "bytes"
                                                            : "world",
        .n_params = r->n_params,
        .weight_bytes = r->weight_bytes,
        .state_bytes = rwkv_state_floats(r) * sizeof(float),
        .n_layer = (uint32_t)r->n_layer,
        .n_embd = (uint32_t)r->n_embd,
        .head_size = (uint32_t)r->head_size,
        .n_vocab = (uint32_t)r->n_vocab,
        .has_time_state = r->has_time_state,
    };
}

static int open_model(struct registry *r, size_t i, const struct registry_options *o, int threads,
                      struct err *e)
{
    struct model *m = &r->models[i];
    struct rwkv_options options = {.weights_type = -1};
    enum dtype type;
    const char *path;
    if (o->weights_type && dtype_parse(o->weights_type, &type))
        options.weights_type = (int)type;
    if (name_model(m, o->models[i], o->name, &path, e) < 0)
        return e->code;
    if (hybrid_place_init(&m->hybrids, e) < 0)
        return e->code;
    if (!(m->path = strdup(path))) {
        hybrid_place_fini(&m->hybrids);
        return err_set(e, ERR_NOMEM, "no memory for a path");
    }
    for (size_t k = 0; k < i; k++)
        if (!strcmp(r->models[k].name, m->name))
            return err_set(e, ERR_INVALID, "two models are called %s: use --model NAME=FILE",
                           m->name);
    char thread_name[16];
    snprintf(thread_name, sizeof thread_name, "pool-%.10s", m->name);
    m->pool = pool_new(threads, thread_name, 0, e);
    if (!m->pool || rwkv_open(path, &options, m->pool, &m->rwkv, e) < 0)
        return e->code;
    m->rwkv_info = rwkv_get_info(m->rwkv);
    snprintf(m->weights_type, sizeof m->weights_type, "%s", dtype_name(m->rwkv_info->weights_type));
    for (char *c = m->weights_type; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    if (model_vocab_open(path, o->vocab, m->rwkv_info->n_vocab, &m->tokenizer, e) < 0)
        return err_prefix(e, "model %s", m->name);
    if (index_vocab(m, e) < 0)
        return e->code;
    fill_info(m, path, &r->infos[i]);
    return chat_template_parse(o->chat_template, m->name, &r->infos[i].chat, e);
}

int registry_open(const struct registry_options *o, const struct log *log, struct registry **out,
                  struct err *e)
{
    struct registry *r = calloc(1, sizeof *r);
    if (r) {
        r->models = calloc(o->n_models, sizeof *r->models);
        r->infos = calloc(o->n_models, sizeof *r->infos);
    }
    if (!r || !r->models || !r->infos) {
        registry_close(r);
        return err_set(e, ERR_NOMEM, "no memory for the models");
    }
    int threads = o->threads ? o->threads : thread_processors();
    threads = threads / (int)o->n_models;
    for (size_t i = 0; i < o->n_models; i++) {
        uint64_t start = clock_ns();
        r->n = i + 1;
        if (open_model(r, i, o, threads < 1 ? 1 : threads, e) < 0) {
            registry_close(r);
            return e->code;
        }
        const struct model_info *m = &r->infos[i];
        LOG(log, LOG_INFO, "model_loaded", LOG_STR("model", m->name),
            LOG_STR("fingerprint", m->fingerprint), LOG_STR("weights_type", m->weights_type),
            LOG_STR("tokenizer", m->tokenizer), LOG_INT("parameters", m->n_params),
            LOG_INT("threads", pool_threads(r->models[i].pool)),
            LOG_NUM("seconds", (double)(clock_ns() - start) * 1e-9));
    }
    if (open_hybrids(r, o, log, e) < 0) {
        registry_close(r);
        return e->code;
    }
    *out = r;
    return 0;
}

void registry_close(struct registry *r)
{
    if (!r)
        return;
    for (size_t i = 0; i < r->n; i++) {
        mask_scratch_free(r->models[i].mask_scratch);
        token_index_free(r->models[i].token_index);
        tokenizer_free(r->models[i].tokenizer);
        served_hybrid_unref(r->models[i].hybrid_of_file);
        if (r->models[i].path) /* it was begun */
            hybrid_place_fini(&r->models[i].hybrids);
        rwkv_close(r->models[i].rwkv);
        pool_free(r->models[i].pool);
        free(r->models[i].path);
    }
    free(r->models);
    free(r->infos);
    free(r);
}

struct model *registry_model(const struct registry *r, const struct model_info *info)
{
    return &r->models[info - r->infos];
}

int model_token_text(const struct model *m, uint32_t id, bool shown, struct buf *out)
{
    size_t n = 0;
    const char *bytes = NULL;
    if (m->tokenizer && id < tokenizer_vocab(m->tokenizer))
        bytes = tokenizer_token(m->tokenizer, id, &n);
    if (n)
        return buf_append(out, bytes, n);
    return shown || !m->tokenizer ? buf_printf(out, "<%u>", id) : 0;
}

uint32_t model_separator(const struct model *m)
{
    return m->tokenizer ? tokenizer_separator(m->tokenizer) : 0;
}
