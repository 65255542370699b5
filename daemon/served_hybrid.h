/* Which hybrid a model's requests run with: it may be replaced while they do, and goes when the last that
 * began with it has ended.
 *
 *     struct served_hybrid *h = hybrid_place_use(&model->hybrids);        NULL: it has none
 *     ... h->hybrid, h->sha256 ...
 *     served_hybrid_unref(h);
 *
 * Threads: any. */
#ifndef DAEMON_SERVED_HYBRID_H
#define DAEMON_SERVED_HYBRID_H

#include "engine/hybrid/hybrid.h"

#include <pthread.h>
#include <stdatomic.h>

struct served_hybrid {
    atomic_int refs;
    struct hybrid *hybrid;
    char sha256[65]; /* of its file */
};
/* One reference. h is taken, also without memory (NULL). */
struct served_hybrid *served_hybrid_new_take(struct hybrid *h, const char sha256[65]);
void served_hybrid_ref(struct served_hybrid *h);
void served_hybrid_unref(struct served_hybrid *h); /* NULL is fine */

struct hybrid_place {
    pthread_mutex_t lock;
    struct served_hybrid *now; /* guard: lock; NULL: none */
};
int hybrid_place_init(struct hybrid_place *p, struct err *e);
void hybrid_place_fini(struct hybrid_place *p);
struct served_hybrid *hybrid_place_use(struct hybrid_place *p);
/* In place of what is there; h: one more reference, or NULL. */
void hybrid_place_set(struct hybrid_place *p, struct served_hybrid *h);

#endif
