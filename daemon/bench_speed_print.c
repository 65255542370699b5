/* Medians, ratios and targets, as text and as JSON. */
#include "daemon/bench_results.h"
#include "daemon/bench_speed.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* What is aimed at, by the weights' type: % of the memory limit, and how many times as fast as llama.cpp.
 * 0: nothing is. */
struct goals {
    enum dtype type;
    double limit, prefill, together[SPEED_TOGETHERS], first;
};
static const struct goals goals[] = {
    {DTYPE_F16, 90, 1.25, {0, 1.6, 2}, 1.2},
    {DTYPE_BF16, 90, 2, {0, 1.6, 2}, 1.8},
    {DTYPE_Q8_0, 85, 3, {0, 2, 3}, 3},
    {DTYPE_Q4_0, 85, 2, {0}, 0},
};
/* Of all types: decoding one sequence, times llama.cpp; the share of one thread's speed that all keep beside
 * another program, %; training, tokens/s. */
enum { DECODE_GOAL = 1, BESIDE_GOAL = 70, TRAINING_GOAL = 16000 };

static const struct goals *goals_of(enum dtype type)
{
    static const struct goals none = {0};
    for (size_t k = 0; k < sizeof goals / sizeof *goals; k++)
        if (goals[k].type == type)
            return &goals[k];
    return &none;
}

static double median(const struct speed_figure *f)
{
    double v[SPEED_ROUNDS];
    memcpy(v, f->round, sizeof v);
    for (int i = 1; i < f->n; i++)
        for (int j = i; j > 0 && v[j] < v[j - 1]; j--) {
            double t = v[j];
            v[j] = v[j - 1], v[j - 1] = t;
        }
    return f->n == 0 ? 0 : f->n % 2 ? v[f->n / 2] : (v[f->n / 2] + v[f->n / 2 - 1]) / 2;
}

static double best(const struct speed_figure *f)
{
    double b = 0;
    for (int i = 0; i < f->n; i++)
        b = f->round[i] > b ? f->round[i] : b;
    return b;
}

static void aim(struct bench_result *r, double target, bool at_least)
{
    r->target = target;
    r->at_least = at_least;
}

/* Ours and, where there is one, llama.cpp's, and how many times as fast ours is, which is aimed at (0: not).
 * In ms less is faster. */
__attribute__((format(printf, 6, 7))) static void
compare(struct bench_results *r, const char *unit, const struct speed_figure *ours,
        const struct speed_figure *peer, double target, const char *fmt, ...)
{
    char name[64];
    va_list ap;
    const double a = median(ours), b = median(peer);
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    bench_results_add(r, unit, a, "%s", name);
    if (!(b > 0))
        return;
    bench_results_add(r, unit, b, "llama.cpp %s", name);
    aim(bench_results_add(r, "x", strcmp(unit, "ms") ? a / b : b / a, "ratio, %s", name), target, true);
}

static void collect_decoding(const struct speed *b, struct bench_results *r)
{
    const struct rwkv_info *i = rwkv_get_info(b->m);
    const double bytes = (double)i->weight_bytes + 2.0 * (double)rwkv_state_floats(i) * sizeof(float);
    const double limit = best(&b->bandwidth) / bytes, one = median(&b->decode_one);
    bench_results_add(r, "GB/s", best(&b->bandwidth_one) / 1e9, "read bandwidth, 1 thread");
    bench_results_add(r, "GB/s", best(&b->bandwidth) / 1e9, "read bandwidth, %d threads", b->o.threads);
    bench_results_add(r, "ms", b->load_ms, "loading, %d threads", b->o.threads);
    bench_results_add(r, "MB", (double)i->weight_bytes / 1e6, "weights read for a token");
    bench_results_add(r, "tokens/s", limit, "memory limit of decoding");
    for (int k = 0; k < SPEED_DECODES; k++) {
        compare(r, "tokens/s", &b->decode[k], &b->peer_decode[k], k ? 0 : DECODE_GOAL,
                "decode, %zu at once", speed_decodes[k]);
        if (k == 0)
            aim(bench_results_add(r, "%", 100 * median(&b->decode[0]) / limit, "share of the memory limit"),
                goals_of(i->weights_type)->limit, true);
    }
    bench_results_add(r, "tokens/s", one, "decode, 1 thread");
    bench_results_add(r, "tokens/s", median(&b->decode_beside), "decode, %d threads, a core kept busy",
                      b->o.threads);
    aim(bench_results_add(r, "%", 100 * median(&b->decode_beside) / one,
                          "share of 1 thread's, a core kept busy"), BESIDE_GOAL, true);
    for (int k = 0; k < SPEED_RANKS; k++)
        for (int many = 0; many < 2; many++)
            bench_results_add(r, "x", b->own[k][many], "own vectors, rank %zu, %d at once", speed_ranks[k],
                              many ? SPEED_SEQUENCES : 1);
    bench_results_add(r, "cores", median(&b->cores), "cores had, of %d", b->o.threads);
}

/* Of our daemon, whose weights may be held as another type than the file's: then it has no target. */
static void collect_memory(const struct speed *b, struct bench_results *r)
{
    const struct rwkv_info *i = rwkv_get_info(b->m);
    const double states = (double)SPEED_SEQUENCES * (double)rwkv_state_floats(i) * sizeof(float);
    struct bench_result *peak = bench_results_add(
        r, "MB", (double)b->http.peak / 1e6, "peak memory of the daemon: weights, 64 MiB, %d states",
        SPEED_SEQUENCES);
    if (b->o.weights_type < 0)
        aim(peak, ((double)i->file_weight_bytes + (64 << 20) + states) / 1e6, false);
}

static void collect_http(const struct speed *b, struct bench_results *r)
{
    const struct goals *g = goals_of(rwkv_get_info(b->m)->weights_type);
    const struct speed_http *h = &b->http;
    for (int k = 0; k < SPEED_TOGETHERS; k++)
        compare(r, "tokens/s", &h->together[SPEED_OURS][k], &h->together[SPEED_PEER][k], g->together[k],
                "HTTP, %zu at once", speed_togethers[k]);
    compare(r, "ms", &h->first[SPEED_OURS], &h->first[SPEED_PEER], g->first,
            "HTTP, first token behind %d", SPEED_PROMPT);
    collect_memory(b, r);
}

static void collect_dit(const struct bench_dit *d, const struct bench_dit_speed *v, int threads,
                        struct bench_results *r)
{
    static const char *const products[] = {"F32", "BF16"};
    bench_results_add(r, "M", (double)v->n_params / 1e6, "DiT %zu x %zu, width %zu, parameters",
                      d->shape.n_layer, d->shape.n_embd, d->n_embd);
    bench_results_add(r, "GFLOP/s", v->sgemm, "  sgemm 2048^3, %d threads", threads);
    for (int k = 0; k < 2 && v->with[k].samples_per_s > 0; k++) {
        const struct bench_dit_products *p = &v->with[k];
        bench_results_add(r, "states/s", p->samples_per_s, "  training, %s products", products[k]);
        bench_results_add(r, "%", 100 * p->gflops / v->sgemm, "    its blocks' products, of sgemm");
        bench_results_add(r, "ms", p->one_ms, "    a state in 20 steps, 1 thread");
        bench_results_add(r, "ms", p->each_ms, "    each of 16 together");
    }
}

static void collect_training(const struct speed *b, struct bench_results *r)
{
    const double f32 = median(&b->training[0]), bf16 = median(&b->training[1]);
    struct bench_result *f = bench_results_add(r, "tokens/s", f32, "training, 4 x 192, F32 products");
    if (bf16 > 0) {
        struct bench_result *h = bench_results_add(r, "tokens/s", bf16, "training, 4 x 192, BF16 products");
        f = bf16 > f32 ? h : f;
    }
    aim(f, TRAINING_GOAL, true);
    for (size_t k = 0; b->o.dit && k < SPEED_DITS; k++)
        collect_dit(&speed_dits[k], &b->dit[k], b->o.threads, r);
}

static void skip(json_t *skipped, const char *name, const char *reason)
{
    if (*reason)
        json_array_append_new(skipped, json_pack("{s:s, s:s}", "name", name, "reason", reason));
}

#define BENCH_RATIOS  "ratios to llama-bench"
#define SERVER_RATIOS "ratios to llama-server"

int speed_print(const struct speed *b)
{
    const struct rwkv_info *i = rwkv_get_info(b->m);
    const struct goals *g = goals_of(i->weights_type);
    struct bench_results r = {.n = 0};
    collect_decoding(b, &r);
    compare(&r, "tokens/s", &b->prefill, &b->peer_prefill, g->prefill, "prefill, %d tokens", SPEED_PROMPT);
    collect_http(b, &r);
    collect_training(b, &r);
    if (b->o.json) {
        json_t *skipped = json_array();
        skip(skipped, BENCH_RATIOS, b->peer_note);
        skip(skipped, SERVER_RATIOS, b->http.note);
        return bench_results_json(
            &r, json_pack("{s:s, s:s, s:I, s:I, s:s, s:i, s:i}", "bench", "speed", "model", b->path,
                          "layers", (json_int_t)i->n_layer, "width", (json_int_t)i->n_embd, "weights_type",
                          dtype_name(i->weights_type), "threads", b->o.threads, "rounds", b->o.rounds),
            skipped);
    }
    printf("%s: %zu x %zu, %s weights, %d threads, medians of %d rounds\n", b->path, i->n_layer,
           i->n_embd, dtype_name(i->weights_type), b->o.threads, b->o.rounds);
    bench_results_text(&r);
    if (b->peer_note[0])
        printf("  skipped: " BENCH_RATIOS " (%s)\n", b->peer_note);
    if (b->http.note[0])
        printf("  skipped: " SERVER_RATIOS " (%s)\n", b->http.note);
    return 0;
}
