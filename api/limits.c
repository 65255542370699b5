#include "api/limits.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NEIGHBOURS 8 /* places that a caller may have */
#define MAX_WAIT   3600

struct caller {
    char name[72]; /* "": a free place */
    uint64_t at_ns;
    double requests, tokens; /* left at at_ns */
};

struct limits {
    pthread_mutex_t lock;
    struct caller callers[LIMITS_CALLERS]; /* guard: lock */
};

struct limits *limits_new(void)
{
    struct limits *l = calloc(1, sizeof *l);
    if (l && pthread_mutex_init(&l->lock, NULL) != 0) {
        free(l);
        return NULL;
    }
    return l;
}

void limits_free(struct limits *l)
{
    if (l)
        pthread_mutex_destroy(&l->lock);
    free(l);
}

static uint32_t hash(const char *s) /* FNV-1a */
{
    uint32_t h = 2166136261u;
    for (; *s; s++)
        h = (h ^ (unsigned char)*s) * 16777619u;
    return h;
}

/* guard: lock. The caller's place, filled up to now. */
static struct caller *find(struct limits *l, const char *name, const struct quota *q, uint64_t now)
{
    uint32_t h = hash(name);
    struct caller *c, *oldest = NULL;
    for (uint32_t i = 0; i < NEIGHBOURS; i++) {
        c = &l->callers[(h + i) % LIMITS_CALLERS];
        if (!strcmp(c->name, name))
            break;
        if (!oldest || !c->name[0] || (oldest->name[0] && c->at_ns < oldest->at_ns))
            oldest = c;
        c = NULL;
    }
    if (!c) {
        c = oldest;
        snprintf(c->name, sizeof c->name, "%s", name);
        c->at_ns = now;
        c->requests = (double)q->requests;
        c->tokens = (double)q->tokens;
    }
    double minutes = now > c->at_ns ? (double)(now - c->at_ns) / 60e9 : 0;
    c->requests = fmin((double)q->requests, c->requests + minutes * (double)q->requests);
    c->tokens = fmin((double)q->tokens, c->tokens + minutes * (double)q->tokens);
    c->at_ns = now;
    return c;
}

/* Seconds until `missing` more have come. */
static unsigned wait_for(double missing, uint64_t a_minute)
{
    double s = ceil(missing * 60 / (double)a_minute);
    return s < 1 ? 1 : s > MAX_WAIT ? MAX_WAIT : (unsigned)s;
}

unsigned limits_take(struct limits *l, const char *caller, const struct quota *q, uint64_t now_ns,
                     const char **what)
{
    unsigned seconds = 0;
    if (!q->requests && !q->tokens)
        return 0;
    pthread_mutex_lock(&l->lock);
    struct caller *c = find(l, caller, q, now_ns);
    if (q->requests && c->requests < 1) {
        *what = "requests";
        seconds = wait_for(1 - c->requests, q->requests);
    } else if (q->tokens && c->tokens <= 0) {
        *what = "tokens";
        seconds = wait_for(-c->tokens, q->tokens);
    } else {
        c->requests -= 1;
    }
    pthread_mutex_unlock(&l->lock);
    return seconds;
}

void limits_charge(struct limits *l, const char *caller, const struct quota *q, uint64_t tokens,
                   uint64_t now_ns)
{
    if (!q->tokens || !tokens)
        return;
    pthread_mutex_lock(&l->lock);
    find(l, caller, q, now_ns)->tokens -= (double)tokens;
    pthread_mutex_unlock(&l->lock);
}
