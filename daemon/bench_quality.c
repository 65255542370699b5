/* bench quality: bits per byte of the held-out text, by corpus, beside general-purpose compressors.
 *
 * A document is read from the zero state: first the vocabulary's separator (newline for bytes, id 0 for
 * World), then its text, so that every byte is predicted; the state is carried to the document's end.
 * A corpus counts by its bytes, the average counts the corpora alike. With --limit only the beginning
 * of each document is read, so many bytes that a corpus has about that many; other weights types are
 * always measured on such beginnings, and beside them the file's own type on the same bytes. */
#include "daemon/bench.h"
#include "daemon/bench_corpora.h"

#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "daemon/base/thread.h"
#include "daemon/bundled.h"
#include "daemon/compress_size.h"
#include "engine/rwkv/score.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/train/heldout.h"

#include <getopt.h>
#include <jansson.h>
#include <stdio.h>

#define MAX_CORPORA 16
#define MAX_TYPES   8
#define TYPE_LIMIT  32768 /* bytes a corpus for the other weights types */
#define TARGET      1.60

struct options {
    const char *model, *heldout, *vocab;
    const char *types; /* "q8_0,q4_0": further weights types */
    size_t limit;      /* bytes a corpus; 0: all */
    int threads;
    bool json;
};

/* One document's tokens and what they cost. */
struct doc {
    uint32_t *tokens; /* [n_tokens]: the separator, then the text */
    size_t n_tokens;
    float *bits;      /* [n_tokens - 1] */
    size_t n_bytes;
};

struct corpus {
    char name[32];
    struct heldout text;
    struct doc *docs; /* [text.n_docs] */
    size_t recorded[2], measured[2]; /* bytes under xz -9 and zstd -19; 0: unknown */
};

/* Where in its document a byte lies: before byte 512, 2048, 8192, or further on. */
#define N_PLACES 4
static const size_t places[N_PLACES] = {512, 2048, 8192, SIZE_MAX};

struct figures {
    size_t bytes;
    double place[N_PLACES];   /* bits/byte there, the mean over the corpora; 0: no text there */
    double average;           /* bits/byte, the mean over the corpora */
    double corpus[MAX_CORPORA];
    size_t corpus_bytes[MAX_CORPORA];
};

struct bench {
    struct options o;
    struct pool *pool;
    struct tokenizer *tokenizer;
    struct corpus corpora[MAX_CORPORA];
    size_t n_corpora;
    char weights_type[16]; /* of the file */
    uint64_t n_params;
    double seconds;        /* of the run with the file's type */
    struct figures own, own_limited;
    struct {
        char name[16];
        struct figures f;
    } types[MAX_TYPES];
    size_t n_types;
};

static const char *const compressors[2][4] = {{"xz", "-9", "-c", NULL}, {"zstd", "-q", "-19", NULL}};

/* ---- Reading --------------------------------------------------------------------------------- */

/* The corpora named in heldout/baselines.json, with the sizes recorded there. */
static int read_index(struct bench *b, struct err *e)
{
    struct buf path;
    json_error_t je;
    json_t *root = NULL, *item;
    size_t i;
    buf_init(&path, 4096);
    int rc = buf_printf(&path, "%s/baselines.json", b->o.heldout);
    if (rc < 0 || !(root = json_load_file(path.data, JSON_REJECT_DUPLICATES, &je))) {
        rc = err_set(e, ERR_IO, "%s/baselines.json: %s", b->o.heldout, rc < 0 ? "path" : je.text);
        goto out;
    }
    json_array_foreach(json_object_get(root, "corpora"), i, item) {
        const char *name = json_string_value(json_object_get(item, "name"));
        json_int_t xz = json_integer_value(json_object_get(item, "xz_9"));
        json_int_t zstd = json_integer_value(json_object_get(item, "zstd_19"));
        if (i >= MAX_CORPORA || !name || !*name || strlen(name) >= sizeof b->corpora[0].name ||
            strchr(name, '/') || xz < 0 || zstd < 0) {
            rc = err_set(e, ERR_FORMAT, "baselines.json: entry %zu is no corpus", i);
            goto out;
        }
        struct corpus *c = &b->corpora[b->n_corpora++];
        memcpy(c->name, name, strlen(name) + 1);
        c->recorded[0] = (size_t)xz;
        c->recorded[1] = (size_t)zstd;
    }
    if (!b->n_corpora)
        rc = err_set(e, ERR_FORMAT, "baselines.json: no corpora");
out:
    json_decref(root);
    buf_fini(&path);
    return rc;
}

/* The separator and the first `limit` bytes of a text, as tokens. */
static int tokenize_doc(const struct tokenizer *t, const struct heldout_doc *text, size_t limit,
                        struct doc *d)
{
    d->n_bytes = text->n < limit ? text->n : limit;
    d->tokens = calloc(d->n_bytes + 1, sizeof *d->tokens);
    d->bits = calloc(d->n_bytes, sizeof *d->bits);
    if (!d->tokens || !d->bits)
        return ERR_NOMEM;
    d->tokens[0] = tokenizer_separator(t);
    d->n_tokens = 1 + tokenizer_encode(t, text->text, d->n_bytes, d->tokens + 1);
    return 0;
}

static size_t doc_limit(const struct corpus *c, size_t limit)
{
    return limit ? (limit + c->text.n_docs - 1) / c->text.n_docs : SIZE_MAX;
}

static void free_docs(struct corpus *c)
{
    for (size_t i = 0; c->docs && i < c->text.n_docs; i++) {
        free(c->docs[i].tokens);
        free(c->docs[i].bits);
    }
    free(c->docs);
    c->docs = NULL;
}

static int tokenize_corpus(struct bench *b, struct corpus *c, size_t limit, struct err *e)
{
    free_docs(c);
    int rc = (c->docs = calloc(c->text.n_docs, sizeof *c->docs)) ? 0 : ERR_NOMEM;
    for (size_t i = 0; rc == 0 && i < c->text.n_docs; i++)
        rc = tokenize_doc(b->tokenizer, &c->text.docs[i], doc_limit(c, limit), &c->docs[i]);
    return rc < 0 ? err_set(e, rc, "no memory for the tokens of %s", c->name) : 0;
}

static int open_corpora(struct bench *b, struct err *e)
{
    int rc = read_index(b, e);
    for (size_t i = 0; rc == 0 && i < b->n_corpora; i++) {
        struct corpus *c = &b->corpora[i];
        struct buf path;
        buf_init(&path, 4096);
        if ((rc = buf_printf(&path, "%s/%s.gz", b->o.heldout, c->name)) < 0)
            err_set(e, rc, "%s: path too long", b->o.heldout);
        else
            rc = heldout_open(path.data, &c->text, e);
        buf_fini(&path);
    }
    return rc;
}

/* ---- Measuring ------------------------------------------------------------------------------- */

/* Adds the bits and bytes of a document's first `most` bytes, by place. A token counts where it begins. */
static void add_doc(const struct bench *b, const struct doc *d, size_t most, double bits[N_PLACES],
                    size_t bytes[N_PLACES])
{
    size_t at = 0, p = 0;
    for (size_t t = 0; t + 1 < d->n_tokens && at < most; t++) {
        size_t n;
        tokenizer_token(b->tokenizer, d->tokens[t + 1], &n);
        while (at >= places[p])
            p++;
        bits[p] += (double)d->bits[t];
        bytes[p] += n;
        at += n;
    }
}

/* The figures of the first `limit` bytes a corpus, of what was scored; `limit` 0: of all. */
static struct figures sum_figures(const struct bench *b, size_t limit)
{
    struct figures f = {0};
    size_t have[N_PLACES] = {0};
    for (size_t k = 0; k < b->n_corpora; k++) {
        const struct corpus *c = &b->corpora[k];
        double bits[N_PLACES] = {0}, sum = 0;
        size_t bytes[N_PLACES] = {0};
        for (size_t i = 0; i < c->text.n_docs; i++)
            add_doc(b, &c->docs[i], doc_limit(c, limit), bits, bytes);
        for (size_t p = 0; p < N_PLACES; p++) {
            sum += bits[p];
            f.corpus_bytes[k] += bytes[p];
            have[p] += bytes[p] > 0;
            f.place[p] += bytes[p] ? bits[p] / (double)bytes[p] : 0;
        }
        f.corpus[k] = sum / (double)f.corpus_bytes[k];
        f.bytes += f.corpus_bytes[k];
        f.average += f.corpus[k] / (double)b->n_corpora;
    }
    for (size_t p = 0; p < N_PLACES; p++)
        f.place[p] = have[p] ? f.place[p] / (double)have[p] : 0;
    return f;
}

static int score_all(struct bench *b, const struct rwkv_model *m, struct err *e)
{
    size_t n = 0, k = 0;
    for (size_t i = 0; i < b->n_corpora; i++)
        n += b->corpora[i].text.n_docs;
    struct score_seq *seqs = calloc(n, sizeof *seqs);
    if (!seqs)
        return err_set(e, ERR_NOMEM, "no memory for %zu documents", n);
    for (size_t i = 0; i < b->n_corpora; i++)
        for (size_t j = 0; j < b->corpora[i].text.n_docs; j++) {
            const struct doc *d = &b->corpora[i].docs[j];
            seqs[k++] = (struct score_seq){.tokens = d->tokens, .n_tokens = d->n_tokens, .bits = d->bits};
        }
    int rc = rwkv_score(m, b->pool, seqs, n, e);
    free(seqs);
    return rc;
}

static int make_tokenizer(struct bench *b, const struct rwkv_info *info, struct err *e)
{
    if (info->n_vocab > 256 && !b->o.vocab)
        return err_set(e, ERR_INVALID, "a model of %zu tokens needs its --vocab", info->n_vocab);
    if (b->o.vocab)
        return tokenizer_open_world(b->o.vocab, &b->tokenizer, e);
    b->tokenizer = tokenizer_new_bytes();
    return b->tokenizer ? 0 : err_set(e, ERR_NOMEM, "no memory for a tokenizer");
}

/* Opens the model with a weights type (-1: the file's) and scores the beginnings of `limit` bytes. */
static int measure(struct bench *b, int type, size_t limit, struct figures *out, struct err *e)
{
    struct rwkv_model *m = NULL;
    struct rwkv_options o = {.weights_type = type};
    int rc = rwkv_open(b->o.model, &o, b->pool, &m, e);
    if (rc < 0)
        return rc;
    const struct rwkv_info *info = rwkv_get_info(m);
    if (type < 0) {
        snprintf(b->weights_type, sizeof b->weights_type, "%s", dtype_name(info->weights_type));
        b->n_params = info->n_params;
        rc = make_tokenizer(b, info, e);
    }
    for (size_t i = 0; rc == 0 && i < b->n_corpora; i++)
        rc = tokenize_corpus(b, &b->corpora[i], limit, e);
    if (rc == 0)
        rc = score_all(b, m, e);
    if (rc == 0)
        *out = sum_figures(b, 0);
    rwkv_close(m);
    return rc;
}

static int measure_types(struct bench *b, struct err *e)
{
    char list[128];
    char *save = NULL;
    int rc = 0;
    snprintf(list, sizeof list, "%s", b->o.types);
    for (char *s = strtok_r(list, ",", &save); s && rc == 0; s = strtok_r(NULL, ",", &save)) {
        enum dtype t;
        if (!dtype_parse(s, &t) || b->n_types == MAX_TYPES)
            return err_set(e, ERR_INVALID, "--weights-type: '%s' is no type, or one too many", s);
        if (!strcmp(dtype_name(t), b->weights_type))
            continue;
        size_t limit = b->o.limit && b->o.limit < TYPE_LIMIT ? b->o.limit : TYPE_LIMIT;
        snprintf(b->types[b->n_types].name, sizeof b->types[0].name, "%s", dtype_name(t));
        rc = measure(b, (int)t, limit, &b->types[b->n_types].f, e);
        b->n_types += rc == 0;
    }
    return rc;
}

/* The compressors again, where they are installed. */
static void measure_compressors(struct bench *b)
{
    for (size_t i = 0; i < b->n_corpora; i++)
        for (size_t k = 0; k < 2; k++) {
            struct corpus *c = &b->corpora[i];
            struct err e;
            if (compress_size(compressors[k], c->text.bytes.data, c->text.bytes.len,
                              &c->measured[k], &e) < 0)
                c->measured[k] = 0;
        }
}

static int run(struct bench *b, struct err *e)
{
    int rc = open_corpora(b, e);
    if (rc < 0)
        return rc;
    if (!(b->pool = pool_new(b->o.threads, "bench", 0, e)))
        return e->code;
    uint64_t start = clock_ns();
    if ((rc = measure(b, -1, b->o.limit, &b->own, e)) < 0)
        return rc;
    b->seconds = (double)(clock_ns() - start) / 1e9;
    b->own_limited =
        sum_figures(b, b->o.limit && b->o.limit < TYPE_LIMIT ? b->o.limit : TYPE_LIMIT);
    if ((rc = measure_types(b, e)) < 0)
        return rc;
    measure_compressors(b);
    return 0;
}

/* ---- Printing -------------------------------------------------------------------------------- */

/* Bits/byte of a corpus under compressor k: measured here, or as recorded. */
static double compressed_bits(const struct corpus *c, size_t k)
{
    size_t size = c->measured[k] ? c->measured[k] : c->recorded[k];
    return 8.0 * (double)size / (double)c->text.bytes.len;
}

static double compressed_average(const struct bench *b, size_t k)
{
    double sum = 0;
    for (size_t i = 0; i < b->n_corpora; i++)
        sum += compressed_bits(&b->corpora[i], k);
    return sum / (double)b->n_corpora;
}

static void print_text(const struct bench *b)
{
    printf("held-out bits/byte: %s, %llu parameters, %s, %zu bytes of text in %.0f s%s\n\n",
           b->o.model, (unsigned long long)b->n_params, b->weights_type, b->own.bytes, b->seconds,
           b->o.limit ? " (beginnings only)" : "");
    printf("%-10s %9s %9s %8s %8s %9s\n", "corpus", "documents", "bytes", "model", "xz -9",
           "zstd -19");
    for (size_t i = 0; i < b->n_corpora; i++) {
        const struct corpus *c = &b->corpora[i];
        printf("%-10s %9zu %9zu %8.4f %8.3f %9.3f\n", c->name, c->text.n_docs,
               b->own.corpus_bytes[i], b->own.corpus[i], compressed_bits(c, 0),
               compressed_bits(c, 1));
    }
    printf("%-10s %9s %9s %8.4f %8.3f %9.3f\n", "average", "", "", b->own.average,
           compressed_average(b, 0), compressed_average(b, 1));
    static const char *const names[N_PLACES] = {"first 512 bytes", "to 2048", "to 8192", "beyond"};
    printf("by place in the document, average:");
    for (size_t p = 0; p < N_PLACES && b->own.place[p] > 0; p++)
        printf(" %s %.3f", names[p], b->own.place[p]);
    printf("\n");
    printf("target: at most %.2f on average: %s\n", TARGET,
           b->own.average <= TARGET ? "met" : "not met");
    printf("compressors: the whole held-out text, %s\n",
           b->corpora[0].measured[0] && b->corpora[0].measured[1] ? "measured now" : "as recorded");
    if (!b->n_types)
        return;
    printf("\nby weights type, on the beginnings of the documents (%zu bytes):\n",
           b->own_limited.bytes);
    printf("%-10s %8.4f\n", b->weights_type, b->own_limited.average);
    for (size_t i = 0; i < b->n_types; i++)
        printf("%-10s %8.4f  %+.4f\n", b->types[i].name, b->types[i].f.average,
               b->types[i].f.average - b->own_limited.average);
}

static json_t *corpora_json(const struct bench *b)
{
    json_t *list = json_array();
    for (size_t i = 0; i < b->n_corpora; i++) {
        const struct corpus *c = &b->corpora[i];
        json_array_append_new(
            list, json_pack("{s:s, s:I, s:I, s:f, s:f, s:f, s:b}", "name", c->name, "documents",
                            (json_int_t)c->text.n_docs, "bytes",
                            (json_int_t)b->own.corpus_bytes[i], "bits_per_byte", b->own.corpus[i],
                            "xz_9", compressed_bits(c, 0), "zstd_19", compressed_bits(c, 1),
                            "compressors_measured", c->measured[0] && c->measured[1]));
    }
    return list;
}

static json_t *types_json(const struct bench *b)
{
    json_t *list = json_array();
    json_array_append_new(list, json_pack("{s:s, s:I, s:f}", "type", b->weights_type, "bytes",
                                          (json_int_t)b->own_limited.bytes, "bits_per_byte",
                                          b->own_limited.average));
    for (size_t i = 0; i < b->n_types; i++)
        json_array_append_new(
            list, json_pack("{s:s, s:I, s:f}", "type", b->types[i].name, "bytes",
                            (json_int_t)b->types[i].f.bytes, "bits_per_byte",
                            b->types[i].f.average));
    return list;
}

static int print_json(const struct bench *b)
{
    json_t *root = json_pack(
        "{s:s, s:s, s:I, s:s, s:b, s:I, s:f, s:o, s:{s:f, s:f, s:f}, s:[f, f, f, f], s:o,"
        " s:[{s:s, s:f, s:f, s:b}], s:[]}",
        "bench", "quality", "model", b->o.model, "parameters", (json_int_t)b->n_params,
        "weights_type", b->weights_type, "whole", b->o.limit == 0, "bytes",
        (json_int_t)b->own.bytes, "seconds", b->seconds, "corpora", corpora_json(b), "average",
        "bits_per_byte", b->own.average, "xz_9", compressed_average(b, 0), "zstd_19",
        compressed_average(b, 1), "by_place", b->own.place[0], b->own.place[1], b->own.place[2],
        b->own.place[3], "weights_types", types_json(b), "targets", "name",
        "held-out bits/byte, average of the corpora", "value", b->own.average, "target", TARGET,
        "met", b->own.average <= TARGET, "skipped");
    int rc = root ? json_dumpf(root, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) : -1;
    putchar('\n');
    json_decref(root);
    return rc;
}

/* ---- The command ----------------------------------------------------------------------------- */

static int usage(void)
{
    fputs("usage: dreamstated bench quality [--model FILE] [--heldout DIR] [--vocab FILE]\n"
          "           [--weights-type TYPE,...] [--limit BYTES] [--threads N] [--json]\n",
          stderr);
    return 2;
}

static int parse(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {
        {"model", required_argument, NULL, 'm'},        {"heldout", required_argument, NULL, 'h'},
        {"vocab", required_argument, NULL, 'v'},        {"limit", required_argument, NULL, 'l'},
        {"weights-type", required_argument, NULL, 'w'}, {"threads", required_argument, NULL, 't'},
        {"json", no_argument, NULL, 'j'},               {0}};
    int cores = thread_processors();
    *o = (struct options){.threads = cores > 256 ? 256 : cores,
                          .types = "f32,bf16,q8_0,q4_0"};
    optind = 0;
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        if (c == 'm')
            o->model = optarg;
        else if (c == 'h')
            o->heldout = optarg;
        else if (c == 'v')
            o->vocab = optarg;
        else if (c == 'w')
            o->types = optarg;
        else if (c == 'j')
            o->json = true;
        else if (c == 'l' && (o->limit = bench_count(optarg, SIZE_MAX)) > 0)
            continue;
        else if (c == 't' && (o->threads = (int)bench_count(optarg, 256)) > 0)
            continue;
        else
            return -1;
    }
    return optind == argc ? 0 : -1;
}

static int fill_paths(struct options *o, struct buf *model, struct buf *heldout, struct err *e)
{
    int rc = 0;
    buf_init(model, 8192);
    buf_init(heldout, 8192);
    if (!o->model && (rc = bundled_path("tiny/model.safetensors", model, e)) == 0)
        o->model = model->data;
    if (rc == 0 && !o->heldout && (rc = bundled_path("tiny/heldout", heldout, e)) == 0)
        o->heldout = heldout->data;
    return rc;
}

int bench_quality(int argc, char **argv)
{
    struct err e = {0};
    struct buf model, heldout;
    struct bench *b = calloc(1, sizeof *b);
    if (!b || parse(argc, argv, &b->o) < 0) {
        free(b);
        return usage();
    }
    int rc = fill_paths(&b->o, &model, &heldout, &e);
    if (rc == 0)
        rc = run(b, &e);
    if (rc < 0)
        fprintf(stderr, "dreamstated bench quality: %s\n", e.msg);
    else if (b->o.json)
        rc = print_json(b);
    else
        print_text(b);
    for (size_t i = 0; i < b->n_corpora; i++) {
        free_docs(&b->corpora[i]);
        heldout_fini(&b->corpora[i].text);
    }
    tokenizer_free(b->tokenizer);
    pool_free(b->pool);
    free(b);
    buf_fini(&model);
    buf_fini(&heldout);
    return rc < 0;
}
