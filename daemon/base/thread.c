#include "daemon/base/thread.h"

#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

static _Thread_local enum thread_kind this_kind;

struct thread_begin {
    enum thread_kind kind;
    char name[16];
    void (*fn)(void *arg);
    void *arg;
};

enum thread_kind thread_kind(void)
{
    return this_kind;
}

void thread_enter(enum thread_kind kind, const char *name)
{
    char cut[16];
    this_kind = kind;
    if (name) {
        snprintf(cut, sizeof cut, "%.15s", name);
        pthread_setname_np(pthread_self(), cut);
    }
}

static void *thread_main(void *arg)
{
    struct thread_begin b = *(struct thread_begin *)arg;
    free(arg);
    thread_enter(b.kind, b.name);
    b.fn(b.arg);
    return NULL;
}

int thread_start(pthread_t *out, enum thread_kind kind, const char *name, void (*fn)(void *arg),
                 void *arg, struct err *e)
{
    struct thread_begin *b = malloc(sizeof *b);
    if (!b)
        return err_set(e, ERR_NOMEM, "no memory to start thread %s", name);
    *b = (struct thread_begin){.kind = kind, .fn = fn, .arg = arg};
    snprintf(b->name, sizeof b->name, "%.15s", name);
    if (pthread_create(out, NULL, thread_main, b) != 0) {
        free(b);
        return err_set(e, ERR_UNAVAILABLE, "the system starts no thread for %s", name);
    }
    return 0;
}

int thread_processors(void)
{
    cpu_set_t set;
    long n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                         : sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : (int)n; /* the mask is too small on machines of more than 1024 CPUs */
}
