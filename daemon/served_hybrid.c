#include "daemon/served_hybrid.h"

#include <stdlib.h>
#include <string.h>

struct served_hybrid *served_hybrid_new_take(struct hybrid *h, const char sha256[65])
{
    struct served_hybrid *s = calloc(1, sizeof *s);
    if (!s) {
        hybrid_close(h);
        return NULL;
    }
    atomic_init(&s->refs, 1);
    s->hybrid = h;
    memcpy(s->sha256, sha256, sizeof s->sha256);
    return s;
}

void served_hybrid_ref(struct served_hybrid *h)
{
    atomic_fetch_add_explicit(&h->refs, 1, memory_order_relaxed);
}

void served_hybrid_unref(struct served_hybrid *h)
{
    if (!h || atomic_fetch_sub_explicit(&h->refs, 1, memory_order_acq_rel) != 1)
        return;
    hybrid_close(h->hybrid);
    free(h);
}

int hybrid_place_init(struct hybrid_place *p, struct err *e)
{
    p->now = NULL;
    return pthread_mutex_init(&p->lock, NULL) == 0
               ? 0
               : err_set(e, ERR_NOMEM, "no memory for a model's hybrid");
}

void hybrid_place_fini(struct hybrid_place *p)
{
    served_hybrid_unref(p->now);
    pthread_mutex_destroy(&p->lock);
}

struct served_hybrid *hybrid_place_use(struct hybrid_place *p)
{
    pthread_mutex_lock(&p->lock);
    struct served_hybrid *h = p->now;
    if (h)
        served_hybrid_ref(h);
    pthread_mutex_unlock(&p->lock);
    return h;
}

void hybrid_place_set(struct hybrid_place *p, struct served_hybrid *h)
{
    if (h)
        served_hybrid_ref(h);
    pthread_mutex_lock(&p->lock);
    struct served_hybrid *before = p->now;
    p->now = h;
    pthread_mutex_unlock(&p->lock);
    served_hybrid_unref(before);
}
