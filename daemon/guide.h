/* Holds an answer to its JSON schema: for each token, which may come (engine/sampling/constraint.h).
 *
 * A mask over the vocabulary takes 50 us where anything plain may come and 2 to 8 ms inside a string
 * with a bounded length (World vocabulary, measured); hostile schemas reach a second. So masks are
 * computed on a thread of their own, the guider, while the batch steps on:
 *
 *     worker: guide_take(token), guide_ask -> guider: the mask for the next -> worker: on_guided
 *
 * A sequence whose logits are there before its mask is stalled: left out of the batch until then.
 *
 * Threads: between guide_ask and its letter's return a guide is the guider's, else the worker's. */
#ifndef DAEMON_GUIDE_H
#define DAEMON_GUIDE_H

#include "daemon/mailbox.h"
#include "daemon/registry.h"

struct guider {
    struct mailbox box;
    pthread_t thread;
};

/* limit: guides that may be asked at once. */
int guider_start(struct guider *g, size_t limit, struct err *e);
/* Joins the thread; it must have nothing left to do. */
void guider_stop(struct guider *g);

struct guide {
    struct mail mail;
    struct constraint *constraint; /* NULL: any answer will do, all below is unused */
    const struct model *model;
    uint64_t *mask;   /* [(V + 63) / 64] words, once not asked */
    size_t n_allowed; /* 0: the document is complete and nothing may follow */
    bool asked;       /* the guider has it */
};

/* schema NULL: no guidance. ERR_NOMEM. guide_fini in every case. */
int guide_init(struct guide *g, const struct model *m, const struct schema *schema, struct err *e);
void guide_fini(struct guide *g);

/* Begins the mask of the next token. The guide is inside a struct sequence. */
void guide_ask(struct guide *g, struct guider *by);
/* The token was taken; true if nothing may follow. */
bool guide_take(struct guide *g, uint32_t id);

#endif
