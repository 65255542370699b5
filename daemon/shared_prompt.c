#include "daemon/shared_prompt.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct shared_prompt {
    atomic_int refs;
    pthread_mutex_t lock;
    size_t claims; /* guard: lock; of sequences that have not taken it */
    bool led;      /* guard: lock; one of them is reading it */
    char start[SHARED_START]; /* guard: lock; what it is, or was, read from */
    float *values; /* guard: lock; state, logits; NULL: not read yet, or nobody wants it any more */
    uint64_t n_read;
};

struct shared_prompt *shared_prompt_new(size_t n)
{
    struct shared_prompt *p = calloc(1, sizeof *p);
    if (!p || pthread_mutex_init(&p->lock, NULL) != 0) {
        free(p);
        return NULL;
    }
    atomic_init(&p->refs, 1);
    p->claims = n;
    return p;
}

void shared_prompt_ref(struct shared_prompt *p)
{
    atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
}

void shared_prompt_unref(struct shared_prompt *p)
{
    if (!p || atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) != 1)
        return;
    free(p->values);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

/* guard: lock */
static void use_up(struct shared_prompt *p)
{
    if (--p->claims)
        return;
    free(p->values);
    p->values = NULL;
}

enum shared_prompt_way shared_prompt_take(struct shared_prompt *p, struct shared_state *s)
{
    size_t floats = rwkv_state_floats(s->info);
    enum shared_prompt_way way = SHARED_TAKEN;
    pthread_mutex_lock(&p->lock);
    if ((p->led || p->values) && strcmp(p->start, s->start) != 0) {
        way = SHARED_OTHER;
        use_up(p);
    } else if (p->values) {
        memcpy(s->state, p->values, floats * sizeof *s->state);
        memcpy(s->logits, p->values + floats, s->info->n_vocab * sizeof *s->logits);
        s->n_read = p->n_read;
        use_up(p);
    } else {
        way = p->led ? SHARED_WAIT : SHARED_LEAD;
        p->led = true;
        snprintf(p->start, sizeof p->start, "%s", s->start);
    }
    pthread_mutex_unlock(&p->lock);
    return way;
}

void shared_prompt_give(struct shared_prompt *p, const struct shared_state *s)
{
    size_t floats = rwkv_state_floats(s->info);
    pthread_mutex_lock(&p->lock);
    p->led = false;
    p->n_read = s->n_read;
    if (p->claims > 1 && (p->values = malloc((floats + s->info->n_vocab) * sizeof *p->values))) {
        memcpy(p->values, s->state, floats * sizeof *s->state);
        memcpy(p->values + floats, s->logits, s->info->n_vocab * sizeof *s->logits);
    }
    use_up(p);
    pthread_mutex_unlock(&p->lock);
}

void shared_prompt_drop(struct shared_prompt *p, bool leads)
{
    pthread_mutex_lock(&p->lock);
    if (leads)
        p->led = false;
    use_up(p);
    pthread_mutex_unlock(&p->lock);
}
