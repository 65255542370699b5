/* bench speed: how fast a model decodes (also with vectors of their own for each sequence, as hybrids
 * make them), reads prompts, answers through HTTP and trains here, against what the memory allows and,
 * where its programs are given, beside llama.cpp on the same file in the same run.
 *
 * Everything is measured several times in turn, so that a busy neighbour hurts all alike; figures are
 * medians, the bandwidth is the best seen. The limit of decoding is
 *     read bandwidth / (bytes of the weights that one token reads, as the file holds them + 2 x state). */
#include "daemon/bench_speed.h"

#include "daemon/base/clock.h"
#include "daemon/base/thread.h"
#include "daemon/bench.h"
#include "daemon/bench_measure.h"
#include "daemon/bench_peer.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROWS = 128 };
#define BANDWIDTH_BYTES ((size_t)512 << 20)

const size_t speed_decodes[] = {1, 4, 8, SPEED_SEQUENCES};
const size_t speed_ranks[] = {0, 4, 8};
const struct bench_dit speed_dits[] = {
    {{4, 192, 32}, 512, 12, 160, 5, 64},
    {{12, 768, 64}, 128, 6, 256, 4, 16},
    {{24, 1024, 64}, 96, 4, 256, 4, 8},
};

static int usage(void)
{
    fputs("usage: dreamstated bench speed [--model FILE | --size 12x768|24x1024 --type F32|F16|BF16|Q8_0|Q4_0]\n"
          "           [--weights-type TYPE] [--threads N] [--rounds 1..5] [--llama DIR] [--dit] [--json]\n"
          "Without --model: random weights, 12 layers of width 768 or as --size says, vocabulary 65,536, as\n"
          "--type (F16).\n"
          "--llama DIR (or DREAMSTATE_LLAMA): the folder of llama-bench and, as far as they are there,\n"
          "llama-batched-bench and llama-server, run in turn with ours on the same file.\n"
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

static bool parse_option(struct speed_options *o, int c)
{
    enum dtype t = DTYPE_F32;
    switch (c) {
    case 'm':
        o->model = optarg;
        return true;
    case 's':
        return (o->shape = bench_shape(optarg)) != NULL;
    case 't':
        return dtype_parse(optarg, &o->type);
    case 'w':
        if (!dtype_parse(optarg, &t))
            return false;
        o->weights_type = (int)t;
        return true;
    case 'l':
        o->llama = optarg;
        return true;
    case 'n':
        return parse_count(optarg, 64, &o->threads);
    case 'r':
        return parse_count(optarg, SPEED_ROUNDS, &o->rounds);
    case 'j':
        return o->json = true;
    case 'd':
        return o->dit = true;
    default:
        return false;
    }
}

static bool parse_options(struct speed_options *o, int argc, char **argv)
{
    static const struct option long_options[] = {
        {"model", required_argument, 0, 'm'},        {"size", required_argument, 0, 's'},
        {"type", required_argument, 0, 't'},         {"weights-type", required_argument, 0, 'w'},
        {"llama", required_argument, 0, 'l'},        {"threads", required_argument, 0, 'n'},
        {"rounds", required_argument, 0, 'r'},       {"json", no_argument, 0, 'j'},
        {"dit", no_argument, 0, 'd'},                {0},
    };
    const char *llama = getenv("DREAMSTATE_LLAMA");
    int cores = thread_processors();
    *o = (struct speed_options){.shape = bench_shape("12x768"), .type = DTYPE_F16, .weights_type = -1,
                                .llama = llama && *llama ? llama : NULL, .rounds = 3,
                                .threads = cores > 64 ? 64 : cores};
    for (int c; (c = getopt_long(argc, argv, "", long_options, NULL)) != -1;)
        if (!parse_option(o, c))
            return false;
    return optind == argc;
}

/* ---- measuring -------------------------------------------------------------------------------- */

void speed_add(struct speed_figure *f, double value)
{
    f->round[f->n++] = value;
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int measure_ours(struct speed *b, struct err *e)
{
    const struct rwkv_info *info = rwkv_get_info(b->m);
    double v = 0, cpu;
    uint64_t start;
    speed_add(&b->bandwidth_one, measure_bandwidth(b->one, BANDWIDTH_BYTES));
    speed_add(&b->bandwidth, measure_bandwidth(b->pool, BANDWIDTH_BYTES));
    start = clock_ns();
    cpu = cpu_seconds();
    for (int k = 0; k < SPEED_DECODES; k++) {
        const struct measure_decode how = {speed_decodes[k], 96 / speed_decodes[k] + 16, NULL, 0};
        if (measure_decode(b->s, info, &how, &v, e) < 0)
            return e->code;
        speed_add(&b->decode[k], v);
    }
    speed_add(&b->cores, (cpu_seconds() - cpu) * 1e9 / (double)(clock_ns() - start));
    if (measure_prefill(b->s, info, SPEED_PROMPT, &v, e) < 0)
        return e->code;
    speed_add(&b->prefill, v);
    return 0;
}

/* One sequence: by one thread, and by all of them while another program keeps a core busy, in a session of its own,
 * since it leaves threads out for a while. */
static int measure_beside(struct speed *b, struct err *e)
{
    const struct measure_decode how = {1, 192, NULL, 0};
    double v = 0;
    if (measure_decode(b->alone, rwkv_get_info(b->m), &how, &v, e) < 0)
        return e->code;
    speed_add(&b->decode_one, v);
    struct rwkv_session *s = rwkv_session_new(b->m, b->pool, 1, e);
    if (!s)
        return e->code;
    measure_neighbour_run(b->neighbour, true);
    int rc = measure_decode(s, rwkv_get_info(b->m), &how, &v, e);
    measure_neighbour_run(b->neighbour, false);
    rwkv_session_free(s);
    if (rc == 0)
        speed_add(&b->decode_beside, v);
    return rc;
}

/* Decoding with own vectors of a rank over plain decoding: the best of turns that alternate, at least three
 * and half a second, as a turn of a small model is short. */
static int measure_own(struct speed *b, size_t n, size_t rank, double *ratio, struct err *e)
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

static void measure_peer(struct speed *b)
{
    struct bench_peer p;
    struct err e = {0};
    if (b->peer_note[0])
        return;
    if (bench_peer_run(b->o.llama, b->path, b->o.threads, &p, &e) < 0) {
        snprintf(b->peer_note, sizeof b->peer_note, "%s", e.msg);
        return;
    }
    speed_add(&b->peer_decode[0], p.decode);
    speed_add(&b->peer_prefill, p.prefill);
    for (int k = 0; k < 3; k++)
        if (p.batched[k] > 0)
            speed_add(&b->peer_decode[k + 1], p.batched[k]);
}

static int measure_round(struct speed *b, int round, struct err *e)
{
    double v = 0;
    if (measure_ours(b, e) < 0 || measure_beside(b, e) < 0)
        return e->code;
    measure_peer(b);
    if (speed_http_round(b, round, e) < 0)
        return e->code;
    for (int bf16 = 0; bf16 < 2; bf16++) {
        if (measure_training(b->pool, 2, bf16, &v, e) < 0)
            return e->code;
        speed_add(&b->training[bf16], v);
    }
    return 0;
}

static int measure_all(struct speed *b, struct err *e)
{
    if (!b->o.llama)
        snprintf(b->peer_note, sizeof b->peer_note, "no --llama and no DREAMSTATE_LLAMA");
    for (int r = 0; r < b->o.rounds; r++)
        if (measure_round(b, r, e) < 0)
            return e->code;
    for (int r = 0; r < SPEED_RANKS; r++)
        for (int many = 0; many < 2; many++)
            if (measure_own(b, many ? SPEED_SEQUENCES : 1, speed_ranks[r], &b->own[r][many], e) < 0)
                return e->code;
    for (size_t k = 0; b->o.dit && k < SPEED_DITS; k++)
        if (measure_dit(&speed_dits[k], b->one, b->pool, &b->dit[k], e) < 0)
            return e->code;
    return 0;
}

/* ---- the whole -------------------------------------------------------------------------------- */

static int run(struct speed *b, struct err *e)
{
    struct rwkv_options o = {.weights_type = b->o.weights_type};
    if (b->o.model)
        snprintf(b->path, sizeof b->path, "%s", b->o.model);
    else if (bench_model_path(b->o.shape, b->o.type, b->path, sizeof b->path, e) < 0)
        return e->code;
    if (measure_neighbour_new(&b->neighbour, e) < 0) /* before there are threads and weights */
        return e->code;
    if (!(b->one = pool_new(1, "bench", 0, e)) || !(b->pool = pool_new(b->o.threads, "bench", 0, e)))
        return e->code;
    uint64_t begun = clock_ns();
    if (rwkv_open(b->path, &o, b->pool, &b->m, e) < 0)
        return e->code;
    b->load_ms = (double)(clock_ns() - begun) * 1e-6;
    if (!(b->alone = rwkv_session_new(b->m, b->one, ROWS, e)) ||
        !(b->s = rwkv_session_new(b->m, b->pool, ROWS, e)) || speed_http_start(b, e) < 0)
        return e->code;
    return measure_all(b, e);
}

/* OpenBLAS chose its kernels when it was loaded. An inherited choice of a lesser CPU's halves what it can do:
 * the program starts again without one, for itself and for the programs that it starts. */
static void choose_again(int argc, char **argv)
{
    char **all = calloc((size_t)argc + 3, sizeof *all);
    if (!all || !getenv("OPENBLAS_CORETYPE")) {
        free(all);
        return;
    }
    all[0] = (char *)(uintptr_t) "dreamstated";
    all[1] = (char *)(uintptr_t) "bench";
    memcpy(all + 2, argv, (size_t)argc * sizeof *argv);
    unsetenv("OPENBLAS_CORETYPE");
    execv("/proc/self/exe", all);
    free(all);
}

int bench_speed(int argc, char **argv)
{
    struct err e = {0};
    struct speed *b = calloc(1, sizeof *b);
    choose_again(argc, argv);
    if (!b || !parse_options(&b->o, argc, argv)) {
        free(b);
        return usage();
    }
    int rc = run(b, &e);
    speed_http_stop(b);
    measure_neighbour_free(b->neighbour);
    if (rc < 0)
        fprintf(stderr, "dreamstated bench speed: %s\n", e.msg);
    else
        rc = speed_print(b);
    rwkv_session_free(b->s);
    rwkv_session_free(b->alone);
    rwkv_close(b->m);
    pool_free(b->pool);
    pool_free(b->one);
    free(b);
    return rc < 0 ? 1 : 0;
}
