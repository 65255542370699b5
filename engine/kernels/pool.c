/* Threads wait on words, all "a number that changes": a helper on its own `epoch`, bumped by pool_run to start
 * it, and all on `phase`, bumped by the last thread to reach a barrier. A waiter spins, then parks in
 * futex(2) on the word; the one who changes it calls the kernel only if somebody said, before parking,
 * that he would. All of these are sequentially consistent, which makes "said so, then looked again"
 * against "changed it, then asked who sleeps" safe in every order. */
#include "engine/kernels/pool.h"

#include "daemon/base/clock.h"
#include "daemon/base/err.h"
#include "daemon/base/mem.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_THREADS 256
#define SPIN_NS     50000   /* then the core is given away */
#define LATE_NS     1000000 /* no thread that has its core is late by so much */
#define SPINS       32 /* pauses between two looks at the clock; some take 20 ns, some 140 cycles */

struct gate {
    _Alignas(64) atomic_uint value; /* the futex */
    atomic_uint sleepers;           /* who parked or is about to */
};

struct worker {
    struct gate epoch;
    struct pool *pool;
    int part;
    pthread_t thread;
};

struct pool {
    struct gate phase;
    _Alignas(64) atomic_uint arrived;           /* threads that reached the present barrier */
    atomic_uint_least64_t lost;                 /* ns, since pool_lost */
    void (*fn)(void *ctx, int part, int parts); /* guard: written before an epoch moves */
    void *ctx;                                  /* the same */
    int parts;                                  /* the same: threads at work */
    bool stop;                                  /* the same */
    int threads, started;                       /* set once in pool_new */
    int nice;
    char name[16];
    struct worker *workers; /* [threads - 1] */
};

static void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Whether g moved on from old within SPIN_NS. */
static bool gate_spin(struct gate *g, unsigned old)
{
    const uint64_t end = clock_ns() + SPIN_NS;
    do {
        for (int i = 0; i < SPINS; i++) {
            if (atomic_load(&g->value) != old)
                return true;
            cpu_relax();
        }
    } while (clock_ns() < end);
    return false;
}

static void gate_park(struct gate *g, unsigned old)
{
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(&g->value) == old)
        syscall(SYS_futex, &g->value, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    atomic_fetch_sub(&g->sleepers, 1);
}

static void gate_open(struct gate *g)
{
    atomic_fetch_add(&g->value, 1);
    if (atomic_load(&g->sleepers))
        syscall(SYS_futex, &g->value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void wait_for_others(struct pool *p, unsigned phase)
{
    if (gate_spin(&p->phase, phase))
        return;
    const uint64_t begun = clock_ns();
    gate_park(&p->phase, phase);
    const uint64_t ns = clock_ns() - begun;
    if (ns > LATE_NS)
        atomic_fetch_add_explicit(&p->lost, ns, memory_order_relaxed);
}

void pool_barrier(struct pool *p)
{
    const unsigned parts = (unsigned)p->parts; /* behind the last barrier of a run it may change */
    if (parts == 1)
        return;
    unsigned phase = atomic_load(&p->phase.value);
    if (atomic_fetch_add(&p->arrived, 1) + 1 < parts) {
        wait_for_others(p, phase);
        return;
    }
    atomic_store(&p->arrived, 0); /* all others wait for phase: nobody counts now */
    gate_open(&p->phase);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct pool *p = w->pool;
    if (p->nice)
        setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), p->nice);
    for (unsigned epoch = 0;; epoch++) {
        if (!gate_spin(&w->epoch, epoch))
            gate_park(&w->epoch, epoch);
        if (p->stop)
            return NULL;
        p->fn(p->ctx, w->part, p->parts);
        pool_barrier(p);
    }
}

void pool_run_some(struct pool *p, int parts, void (*fn)(void *ctx, int part, int parts), void *ctx)
{
    p->parts = parts < p->started ? parts : p->started;
    p->fn = fn;
    p->ctx = ctx;
    for (int i = 0; i + 1 < p->parts; i++)
        gate_open(&p->workers[i].epoch);
    fn(ctx, 0, p->parts);
    pool_barrier(p);
}

void pool_run(struct pool *p, void (*fn)(void *ctx, int part, int parts), void *ctx)
{
    pool_run_some(p, p->started, fn, ctx);
}

uint64_t pool_lost(struct pool *p)
{
    return atomic_exchange_explicit(&p->lost, 0, memory_order_relaxed);
}

static int start_workers(struct pool *p, struct err *e)
{
    for (int i = 0; i + 1 < p->threads; i++) {
        struct worker *w = &p->workers[i];
        w->pool = p;
        w->part = i + 1;
        int rc = pthread_create(&w->thread, NULL, worker_main, w);
        if (rc)
            return err_set(e, ERR_NOMEM, "start thread %d of pool %s: %s", i + 1, p->name,
                           strerror(rc));
        p->started++;
        pthread_setname_np(w->thread, p->name);
    }
    return 0;
}

struct pool *pool_new(int threads, const char *name, int nice, struct err *e)
{
    if (threads < 1 || threads > MAX_THREADS) {
        err_set(e, ERR_INVALID, "a pool of %d threads: want 1 to %d", threads, MAX_THREADS);
        return NULL;
    }
    struct pool *p = mem_calloc_aligned(1, sizeof *p);
    struct worker *workers = mem_calloc_aligned((size_t)threads, sizeof *workers);
    if (!p || !workers) {
        free(p);
        free(workers);
        err_set(e, ERR_NOMEM, "no memory for a pool of %d threads", threads);
        return NULL;
    }
    p->threads = threads;
    p->nice = nice;
    p->workers = workers;
    snprintf(p->name, sizeof p->name, "%s", name);
    p->started = 1;
    if (start_workers(p, e) < 0) {
        pool_free(p);
        return NULL;
    }
    return p;
}

void pool_free(struct pool *p)
{
    if (!p)
        return;
    p->stop = true;
    for (int i = 0; i + 1 < p->started; i++)
        gate_open(&p->workers[i].epoch);
    for (int i = 0; i + 1 < p->started; i++)
        pthread_join(p->workers[i].thread, NULL);
    free(p->workers);
    free(p);
}

int pool_threads(const struct pool *p)
{
    return p->threads;
}
