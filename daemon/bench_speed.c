/* bench speed: how fast a model decodes (also with vectors of their own for each sequence, as hybrids
 * make them), reads prompts and trains here, against what the memory allows and, where its programs are
 * given, beside llama.cpp on the same file in the same run.
 *
 * Everything is measured several times in turn, so that a busy neighbour hurts all alike; figures are
 * medians, the bandwidth is the best seen. The limit of decoding is
 *     read bandwidth / (bytes of the weights that one token reads, as the file holds them + 2 x state). */
#include "daemon/bench.h"

#include "daemon/base/clock.h"
#include "daemon/base/thread.h"
#include "daemon/bench_dit.h"
#include "daemon/bench_measure.h"
#include "daemon/bench_model.h"
#include "daemon/bench_peer.h"

#include <getopt.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 5, N_DECODE = 4, N_RANKS = 3, MAX_RESULTS = 64, PROMPT = 512, ROWS = 128 };
static const size_t decode_seqs[N_DECODE] = {1, 4, 8, 16};
/* Of vectors that a hybrid makes, a set for each of 1 and 16 sequences. */
static const size_t ranks[N_RANKS] = {0, 4, 8};
/* The bundled diffuser's shape, and the states of larger models. */
static const struct bench_dit dit_shapes[] = {
    {{4, 192, 32}, 512, 12, 160, 5, 64},
    {{12, 768, 64}, 128, 6, 256, 4, 16},
    {{24, 1024, 64}, 96, 4, 256, 4, 8},
};
#define N_DIT           (sizeof dit_shapes / sizeof *dit_shapes)
#define BANDWIDTH_BYTES ((size_t)512 << 20)

struct options {
    const char *model, *llama;
    const struct bench_shape *shape; /* and type: of random weights */
    enum dtype type;
    int weights_type, threads, rounds;
    bool json, dit;
};

/* One figure through the rounds. */
struct figure {
    double round[ROUNDS];
    int n;
};

struct bench {
    struct options o;
    char path[1024];
    struct pool *one, *pool;
    struct rwkv_model *m;
    struct rwkv_session *s;
    struct figure bandwidth_one, bandwidth, decode[N_DECODE], prefill, training[2];
    struct figure adjusted[N_RANKS][2]; /* over plain decoding */
    struct figure cores; /* CPU seconds a second while decoding: below --threads, others were at work */
    struct figure peer_decode[N_DECODE], peer_prefill;
    double load_ms;
    struct bench_dit_speed dit[N_DIT];
    char peer_note[256]; /* why there are no figures of the peer; "" if there are */
    struct {
        char name[64];
        double value;
        const char *unit;
    } results[MAX_RESULTS];
    size_t n_results;
};

static const struct option long_options[] = {
    {"model", required_argument, 0, 'm'},   {"type", required_argument, 0, 't'},
    {"weights-type", required_argument, 0, 'w'}, {"llama", required_argument, 0, 'l'},
    {"threads", required_argument, 0, 'n'}, {"rounds", required_argument, 0, 'r'},
    {"json", no_argument, 0, 'j'},          {"dit", no_argument, 0, 'd'},
    {"size", required_argument, 0, 's'},
    {0},
};

static int usage(void)
{
    fputs("usage: dreamstated bench speed [--model FILE | --size 12x768|24x1024 --type F32|F16|BF16|Q8_0|Q4_0]\n"
          "           [--weights-type TYPE] [--threads N] [--rounds 1..5] [--llama DIR] [--dit] [--json]\n"
          "Without --model: random weights, 12 layers of width 768 (or as --size), vocabulary 65,536, as --type (F16).\n"
          "--llama DIR (or DREAMSTATE_LLAMA): the folder of llama-bench, run in turn on the same file.\n"
          "--dit: the diffusion transformer too, for states of 4x192, 12x768 and 24x1024 (1 GB in TMPDIR).\n",
          stderr);
    return 2;
}

static bool parse_count(const char *s, int most, int *out)
{
    char *end;
    long v = strtol(s, &end, 10);
    if (*end || end == s || v < 1 || v > most)
        return false;
    *out = (int)v;
    return true;
}

static bool parse_options(struct options *o, int argc, char **argv)
{
    int c;
    int cores = thread_processors();
    *o = (struct options){.type = DTYPE_F16, .weights_type = -1, .rounds = 3,
                          .shape = bench_shape("12x768"),
                          .llama = getenv("DREAMSTATE_LLAMA"),
                          .threads = cores > 64 ? 64 : cores};
    while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        enum dtype t = DTYPE_F32;
        bool ok = c != '?';
        if (c == 'm')
            o->model = optarg;
        else if (c == 't' || c == 'w')
            ok = dtype_parse(optarg, &t);
        else if (c == 's')
            ok = (o->shape = bench_shape(optarg)) != NULL;
        else if (c == 'l')
            o->llama = optarg;
        else if (c == 'n')
            ok = parse_count(optarg, 64, &o->threads);
        else if (c == 'r')
            ok = parse_count(optarg, ROUNDS, &o->rounds);
        else if (c == 'j')
            o->json = true;
        else if (c == 'd')
            o->dit = true;
        if (!ok)
            return false;
        if (c == 't')
            o->type = t;
        else if (c == 'w')
            o->weights_type = (int)t;
    }
    return optind == argc;
}

/* ---- measuring -------------------------------------------------------------------------------- */

static void add_figure(struct figure *f, double value)
{
    f->round[f->n++] = value;
}

static double median(const struct figure *f)
{
    double v[ROUNDS];
    memcpy(v, f->round, sizeof v);
    for (int i = 1; i < f->n; i++)
        for (int j = i; j > 0 && v[j] < v[j - 1]; j--) {
            double t = v[j];
            v[j] = v[j - 1], v[j - 1] = t;
        }
    return f->n == 0 ? 0 : f->n % 2 ? v[f->n / 2] : (v[f->n / 2] + v[f->n / 2 - 1]) / 2;
}

static double best(const struct figure *f)
{
    double b = 0;
    for (int i = 0; i < f->n; i++)
        b = f->round[i] > b ? f->round[i] : b;
    return b;
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int measure_ours(struct bench *b, struct err *e)
{
    const struct rwkv_info *info = rwkv_get_info(b->m);
    double v = 0, cpu;
    uint64_t start;
    add_figure(&b->bandwidth_one, measure_bandwidth(b->one, BANDWIDTH_BYTES));
    add_figure(&b->bandwidth, measure_bandwidth(b->pool, BANDWIDTH_BYTES));
    start = clock_ns();
    cpu = cpu_seconds();
    for (int k = 0; k < N_DECODE; k++) {
        const struct measure_decode how = {decode_seqs[k], 96 / decode_seqs[k] + 16, NULL, 0};
        if (measure_decode(b->s, info, &how, &v, e) < 0)
            return e->code;
        add_figure(&b->decode[k], v);
    }
    add_figure(&b->cores, (cpu_seconds() - cpu) * 1e9 / (double)(clock_ns() - start));
    if (measure_prefill(b->s, info, PROMPT, &v, e) < 0)
        return e->code;
    add_figure(&b->prefill, v);
    return 0;
}

/* Decoding with own vectors of a rank over plain decoding: the best of turns that alternate, at least three
 * and half a second, as a turn of a small model is short. */
static int measure_own(struct bench *b, size_t n, size_t rank, double *ratio, struct err *e)
{
    const uint64_t begun = clock_ns();
    struct measure_decode how = {n, 32 / n + 8, NULL, rank};
    double most[2] = {0, 0}, v = 0;
    for (int turn = 0; turn < 3 || clock_ns() - begun < 500000000; turn++)
        for (int own = 0; own < 2; own++) {
            how.adjusted = own ? b->m : NULL;
            if (measure_decode(b->s, rwkv_get_info(b->m), &how, &v, e) < 0)
                return e->code;
            most[own] = v > most[own] ? v : most[own];
        }
    *ratio = most[1] / most[0];
    return 0;
}

static int measure_adjusted(struct bench *b, struct err *e)
{
    for (int r = 0; r < N_RANKS; r++)
        for (int many = 0; many < 2; many++) {
            double ratio = 0;
            if (measure_own(b, decode_seqs[many ? N_DECODE - 1 : 0], ranks[r], &ratio, e) < 0)
                return e->code;
            add_figure(&b->adjusted[r][many], ratio);
        }
    return 0;
}

static void measure_peer(struct bench *b)
{
    struct bench_peer p;
    struct err e = {0};
    if (b->peer_note[0])
        return;
    if (bench_peer_run(b->o.llama, b->path, b->o.threads, &p, &e) < 0) {
        snprintf(b->peer_note, sizeof b->peer_note, "%s", e.msg);
        return;
    }
    add_figure(&b->peer_decode[0], p.decode);
    add_figure(&b->peer_prefill, p.prefill);
    for (int k = 0; k < 3; k++)
        if (p.batched[k] > 0)
            add_figure(&b->peer_decode[k + 1], p.batched[k]);
}

static int measure_all(struct bench *b, struct err *e)
{
    double v = 0;
    if (!b->o.llama)
        snprintf(b->peer_note, sizeof b->peer_note, "no --llama and no DREAMSTATE_LLAMA");
    for (int r = 0; r < b->o.rounds; r++) {
        if (measure_ours(b, e) < 0 || measure_adjusted(b, e) < 0)
            return e->code;
        measure_peer(b);
        for (int bf16 = 0; bf16 < 2; bf16++) {
            if (measure_training(b->pool, 2, bf16, &v, e) < 0)
                return e->code;
            add_figure(&b->training[bf16], v);
        }
    }
    for (size_t k = 0; b->o.dit && k < N_DIT; k++)
        if (measure_dit(&dit_shapes[k], b->one, b->pool, &b->dit[k], e) < 0)
            return e->code;
    return 0;
}

/* ---- results ---------------------------------------------------------------------------------- */

__attribute__((format(printf, 4, 5))) static void add_result(struct bench *b, const char *unit,
                                                             double value, const char *name, ...)
{
    va_list ap;
    if (b->n_results == MAX_RESULTS)
        return;
    va_start(ap, name);
    vsnprintf(b->results[b->n_results].name, sizeof b->results[0].name, name, ap);
    va_end(ap);
    b->results[b->n_results].value = value;
    b->results[b->n_results++].unit = unit;
}

static void collect(struct bench *b)
{
    const struct rwkv_info *i = rwkv_get_info(b->m);
    double state = 2.0 * (double)rwkv_state_floats(i) * sizeof(float);
    double bytes = (double)i->weight_bytes + state, limit = best(&b->bandwidth) / bytes;
    add_result(b, "GB/s", best(&b->bandwidth_one) / 1e9, "read bandwidth, 1 thread");
    add_result(b, "GB/s", best(&b->bandwidth) / 1e9, "read bandwidth, %d threads",
               b->o.threads);
    add_result(b, "ms", b->load_ms, "loading, %d threads", b->o.threads);
    add_result(b, "MB", (double)i->weight_bytes / 1e6, "weights read for a token");
    add_result(b, "tokens/s", limit, "memory limit of decoding");
    for (int k = 0; k < N_DECODE; k++)
        add_result(b, "tokens/s", median(&b->decode[k]), "decode, %zu at once", decode_seqs[k]);
    add_result(b, "%", 100 * median(&b->decode[0]) / limit, "share of the memory limit");
    for (int r = 0; r < N_RANKS; r++)
        for (int many = 0; many < 2; many++)
            add_result(b, "x", median(&b->adjusted[r][many]), "own vectors, rank %zu, %zu at once",
                       ranks[r], decode_seqs[many ? N_DECODE - 1 : 0]);
    add_result(b, "tokens/s", median(&b->prefill), "prefill, %d tokens", PROMPT);
    add_result(b, "cores", median(&b->cores), "cores had, of %d", b->o.threads);
    add_result(b, "tokens/s", median(&b->training[0]), "training, 4 x 192, F32 products");
    if (median(&b->training[1]) > 0)
        add_result(b, "tokens/s", median(&b->training[1]), "training, 4 x 192, BF16 products");
    for (size_t k = 0; b->o.dit && k < N_DIT; k++) {
        const struct bench_dit *d = &dit_shapes[k];
        const struct state_shape *s = &d->shape;
        add_result(b, "states/s", b->dit[k].samples_per_s, "DiT %zu x %zu, width %zu, training", s->n_layer,
                   s->n_embd, d->n_embd);
        add_result(b, "M", (double)b->dit[k].n_params / 1e6, "  parameters");
        add_result(b, "GFLOP/s", b->dit[k].sgemm, "  sgemm 2048^3, %d threads", b->o.threads);
        add_result(b, "GFLOP/s", b->dit[k].gflops, "  products of its blocks");
        add_result(b, "%", 100 * b->dit[k].gflops / b->dit[k].sgemm, "  of sgemm");
        add_result(b, "ms", b->dit[k].one_ms, "  a state in 20 steps, 1 thread");
        add_result(b, "ms", b->dit[k].each_ms, "  each of 16 together");
    }
    if (b->peer_note[0])
        return;
    for (int k = 0; k < N_DECODE; k++)
        if (b->peer_decode[k].n) {
            double peer = median(&b->peer_decode[k]);
            add_result(b, "tokens/s", peer, "llama.cpp decode, %zu at once", decode_seqs[k]);
            add_result(b, "x", median(&b->decode[k]) / peer, "ratio, decode, %zu at once",
                       decode_seqs[k]);
        }
    add_result(b, "tokens/s", median(&b->peer_prefill), "llama.cpp prefill, %d tokens", PROMPT);
    add_result(b, "x", median(&b->prefill) / median(&b->peer_prefill), "ratio, prefill, %d tokens",
               PROMPT);
}

static int print_json(const struct bench *b)
{
    const struct rwkv_info *i = rwkv_get_info(b->m);
    json_t *results = json_array(), *skipped = json_array();
    for (size_t k = 0; k < b->n_results; k++)
        json_array_append_new(results, json_pack("{s:s, s:f, s:s}", "name", b->results[k].name, "value",
                                                 b->results[k].value, "unit", b->results[k].unit));
    if (b->peer_note[0])
        json_array_append_new(skipped, json_pack("{s:s, s:s}", "name", "ratios to llama.cpp", "reason",
                                                 b->peer_note));
    json_t *all = json_pack("{s:s, s:s, s:s, s:i, s:i, s:[], s:o, s:o}", "bench", "speed", "model",
                            b->path, "weights_type", dtype_name(i->weights_type), "threads",
                            b->o.threads, "rounds", b->o.rounds, "targets", "results", results,
                            "skipped", skipped);
    int rc = all ? json_dumpf(all, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) : -1;
    json_decref(all);
    puts("");
    return rc;
}

static void print_text(const struct bench *b)
{
    const struct rwkv_info *i = rwkv_get_info(b->m);
    printf("%s: %zu x %zu, %s weights, %d threads, medians of %d rounds\n", b->path, i->n_layer,
           i->n_embd, dtype_name(i->weights_type), b->o.threads, b->o.rounds);
    for (size_t k = 0; k < b->n_results; k++)
        printf("  %-32s %10.4g %s\n", b->results[k].name, b->results[k].value, b->results[k].unit);
    if (b->peer_note[0])
        printf("  skipped: ratios to llama.cpp (%s)\n", b->peer_note);
}

static int run(struct bench *b, struct err *e)
{
    struct rwkv_options o = {.weights_type = b->o.weights_type};
    if (b->o.model)
        snprintf(b->path, sizeof b->path, "%s", b->o.model);
    else if (bench_model_path(b->o.shape, b->o.type, b->path, sizeof b->path, e) < 0)
        return e->code;
    if (!(b->one = pool_new(1, "bench", 0, e)) || !(b->pool = pool_new(b->o.threads, "bench", 0, e)))
        return e->code;
    uint64_t begun = clock_ns();
    if (rwkv_open(b->path, &o, b->pool, &b->m, e) < 0)
        return e->code;
    b->load_ms = (double)(clock_ns() - begun) * 1e-6;
    if (!(b->s = rwkv_session_new(b->m, b->pool, ROWS, e)) || measure_all(b, e) < 0)
        return e->code;
    collect(b);
    return 0;
}

int bench_speed(int argc, char **argv)
{
    struct err e = {0};
    struct bench *b = calloc(1, sizeof *b);
    if (!b || !parse_options(&b->o, argc, argv)) {
        free(b);
        return usage();
    }
    int rc = run(b, &e);
    if (rc < 0)
        fprintf(stderr, "dreamstated bench speed: %s\n", e.msg);
    else if (b->o.json)
        rc = print_json(b);
    else
        print_text(b);
    rwkv_session_free(b->s);
    rwkv_close(b->m);
    pool_free(b->pool);
    pool_free(b->one);
    free(b);
    return rc < 0 ? 1 : 0;
}
