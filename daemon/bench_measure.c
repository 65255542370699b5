#include "daemon/bench_measure.h"

#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "engine/kernels/gemm.h"
#include "engine/rwkv/params.h"
#include "engine/train/trainer.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- memory ----------------------------------------------------------------------------------- */

typedef uint64_t vec __attribute__((vector_size(64)));
enum { MAX_STREAMS = 8, AHEAD = 2048 };

struct reading {
    const char *memory;
    size_t bytes;   /* a multiple of threads * MAX_STREAMS * 64 */
    size_t streams; /* places a thread reads from in turn */
    bool prefetch;
    _Alignas(64) uint64_t sums[256]; /* so that the reads cannot be left out */
};

static void read_part(void *ctx, int part, int parts)
{
    struct reading *r = ctx;
    size_t mine = r->bytes / (size_t)parts, stride = mine / r->streams;
    const char *base = r->memory + (size_t)part * mine;
    vec sum[MAX_STREAMS] = {{0}};
    for (size_t at = 0; at < stride; at += sizeof(vec))
        for (size_t s = 0; s < r->streams; s++) {
            const char *p = base + s * stride + at;
            if (r->prefetch)
                __builtin_prefetch(p + AHEAD, 0, 2);
            sum[s] ^= *(const vec *)(const void *)p;
        }
    uint64_t all = 0;
    for (size_t s = 0; s < MAX_STREAMS; s++)
        for (size_t k = 0; k < sizeof(vec) / 8; k++)
            all ^= sum[s][k];
    r->sums[part] = all;
}

double measure_bandwidth(struct pool *pool, size_t bytes)
{
    static const size_t streams[] = {1, 1, 2, 4, 4, 8};
    double best = 0;
    size_t unit = (size_t)pool_threads(pool) * MAX_STREAMS * sizeof(vec);
    struct reading r = {.bytes = bytes / unit * unit};
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return 0;
    madvise(p, bytes, MADV_HUGEPAGE);
    memset(p, 1, bytes);
    r.memory = p;
    for (size_t k = 0; k < sizeof streams / sizeof *streams; k++) {
        r.streams = streams[k];
        r.prefetch = k % 2;
        uint64_t start = clock_ns();
        pool_run(pool, read_part, &r);
        double speed = (double)r.bytes * 1e9 / (double)(clock_ns() - start);
        best = speed > best ? speed : best;
    }
    munmap(p, bytes);
    return best;
}

/* ---- inference -------------------------------------------------------------------------------- */

/* Any tokens do: a prime stride through the vocabulary. */
static uint32_t some_token(const struct rwkv_info *i, size_t k)
{
    return (uint32_t)((k * 7919 + 13) % i->n_vocab);
}

static int run_decode(struct rwkv_session *s, const struct rwkv_info *i, struct rwkv_seq *q,
                      uint32_t *tokens, size_t n, size_t steps, struct err *e)
{
    for (size_t t = 0; t < steps; t++) {
        for (size_t k = 0; k < n; k++) {
            tokens[k] = some_token(i, t * n + k);
            q[k].tokens = &tokens[k];
            q[k].n_tokens = 1;
        }
        if (rwkv_eval(s, q, n, e) < 0)
            return e->code;
    }
    return 0;
}

int measure_decode(struct rwkv_session *s, const struct rwkv_info *i,
                   const struct measure_decode *how, double *tokens_per_s, struct err *e)
{
    size_t floats = rwkv_state_floats(i), n_seqs = how->n_seqs;
    size_t n_theta = how->adjusted ? rwkv_theta_floats(i, how->rank) : 0;
    float *theta = calloc(n_seqs * n_theta + 1, sizeof *theta);
    float *states = mem_calloc_aligned(n_seqs * floats, sizeof *states);
    float *logits = mem_calloc_aligned(n_seqs * i->n_vocab, sizeof *logits);
    struct rwkv_seq *q = calloc(n_seqs, sizeof *q);
    uint32_t *tokens = calloc(n_seqs, sizeof *tokens);
    int rc = -1;
    if (!states || !logits || !q || !tokens || !theta) {
        rc = err_set(e, ERR_NOMEM, "no memory for %zu sequences", n_seqs);
        goto out;
    }
    for (size_t k = 0; k < n_seqs; k++) {
        q[k] = (struct rwkv_seq){.state = states + k * floats, .logits = logits + k * i->n_vocab};
        if (!how->adjusted)
            continue;
        rwkv_get_theta(how->adjusted, how->rank, theta + k * n_theta);
        q[k].theta = theta + k * n_theta;
        q[k].rank = how->rank;
    }
    if ((rc = run_decode(s, i, q, tokens, n_seqs, 2, e)) < 0)
        goto out;
    uint64_t start = clock_ns();
    if ((rc = run_decode(s, i, q, tokens, n_seqs, how->steps, e)) < 0)
        goto out;
    *tokens_per_s = (double)(n_seqs * how->steps) * 1e9 / (double)(clock_ns() - start);
out:
    free(tokens);
    free(q);
    free(logits);
    free(states);
    free(theta);
    return rc;
}

int measure_prefill(struct rwkv_session *s, const struct rwkv_info *i, size_t n, double *tokens_per_s,
                    struct err *e)
{
    float *state = rwkv_state_new(i), *logits = mem_calloc_aligned(i->n_vocab, sizeof *logits);
    uint32_t *tokens = calloc(n, sizeof *tokens);
    int rc = -1;
    if (!state || !logits || !tokens) {
        rc = err_set(e, ERR_NOMEM, "no memory for a prompt of %zu tokens", n);
        goto out;
    }
    for (size_t k = 0; k < n; k++)
        tokens[k] = some_token(i, k);
    struct rwkv_seq q = {.tokens = tokens, .n_tokens = n, .state = state, .logits = logits};
    uint64_t start = clock_ns();
    if ((rc = rwkv_eval(s, &q, 1, e)) == 0)
        *tokens_per_s = (double)n * 1e9 / (double)(clock_ns() - start);
out:
    free(tokens);
    free(logits);
    free(state);
    return rc;
}

/* ---- training --------------------------------------------------------------------------------- */

enum { BATCH = 8, T = 512 };

static double train_steps(struct trainer *t, size_t steps)
{
    static const struct adamw_options adamw = {0.9, 0.99, 1e-18, 0.05, 1};
    uint32_t tokens[BATCH][T + 1];
    struct train_seq seqs[BATCH] = {{0}};
    uint64_t start = 0;
    for (size_t step = 0; step <= steps; step++) {
        for (size_t b = 0; b < BATCH; b++) {
            for (size_t k = 0; k <= T; k++)
                tokens[b][k] = (uint32_t)((k * k + 31 * b + step) % 251);
            seqs[b] = (struct train_seq){.tokens = tokens[b], .T = T};
        }
        trainer_gradients(t, seqs, BATCH, true);
        trainer_update(t, &adamw, 1e-3, step + 1, trainer_norm(t));
        if (step == 0) /* the first warms up */
            start = clock_ns();
    }
    return (double)(steps * BATCH * T) * 1e9 / (double)(clock_ns() - start);
}

int measure_training(struct pool *pool, size_t steps, bool bf16, double *tokens_per_s, struct err *e)
{
    static const struct rwkv_shape shape = {4, 192, 32, 768, 256, 32, 32, 32, 64};
    struct rwkv_layout layout = {0};
    struct trainer t = {0};
    gemm_setup();
    struct nn_f32 op = *nn_f32_for(CPU_AUTO);
    *tokens_per_s = 0;
    if (bf16 && !nn_bf16_products(&op))
        return 0;
    int rc = rwkv_layout_init(&layout, &shape, e);
    if (rc == 0)
        rc = trainer_init(&t, &layout, pool, &op, T, e);
    if (rc == 0)
        rc = rwkv_params_init(&layout, t.params, 1, e);
    if (rc == 0)
        *tokens_per_s = train_steps(&t, steps);
    trainer_fini(&t);
    rwkv_layout_fini(&layout);
    return rc;
}

/* ---- another program -------------------------------------------------------------------------- */

static _Noreturn void count(pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        raise(SIGKILL);
    raise(SIGSTOP);
    for (volatile uint64_t n = 0;; n++)
        continue;
}

static void until_stopped(pid_t pid)
{
    while (waitpid(pid, NULL, WUNTRACED) < 0 && errno == EINTR)
        continue;
}

int measure_neighbour_new(pid_t *out, struct err *e)
{
    const pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        count(parent);
    if (pid < 0)
        return err_set(e, ERR_UNAVAILABLE, "no process to measure beside: %s", strerror(errno));
    *out = pid;
    until_stopped(pid);
    return 0;
}

void measure_neighbour_run(pid_t neighbour, bool run)
{
    kill(neighbour, run ? SIGCONT : SIGSTOP);
    if (!run)
        until_stopped(neighbour);
}

void measure_neighbour_free(pid_t neighbour)
{
    if (neighbour <= 0)
        return;
    kill(neighbour, SIGKILL);
    waitpid(neighbour, NULL, 0);
}
