#include "daemon/guide.h"

#include "daemon/base/clock.h"
#include "daemon/base/thread.h"
#include "daemon/schema.h"
#include "daemon/worker.h"

#include <stdlib.h>

/* ---- the thread ---- */

static void guider_main(void *arg)
{
    struct guider *g = arg;
    struct list mails;
    list_init(&mails);
    while (mailbox_wait(&g->box, &mails, MAILBOX_FOREVER))
        mailbox_run(&mails);
}

int guider_start(struct guider *g, size_t limit, struct err *e)
{
    if (mailbox_init(&g->box, limit, NULL, NULL) < 0)
        return err_set(e, ERR_NOMEM, "no memory for the guider");
    if (thread_start(&g->thread, THREAD_OTHER, "guider", guider_main, g, e) < 0) {
        mailbox_fini(&g->box);
        return e->code;
    }
    return 0;
}

void guider_stop(struct guider *g)
{
    mailbox_close(&g->box);
    pthread_join(g->thread, NULL);
    mailbox_fini(&g->box);
}

/* [thread: guider] */
static void on_ask(struct mail *m)
{
    struct sequence *q = LIST_OWNER(m, struct sequence, guide.mail);
    struct guide *g = &q->guide;
    uint64_t begun = clock_ns();
    g->n_allowed =
        constraint_mask(g->constraint, g->model->token_index, g->model->mask_scratch, g->mask);
    metrics_observe_ns(q->svc->metrics, METRIC_MASK, clock_ns() - begun);
    worker_guided_post(q->worker, q);
}

/* ---- one answer ---- */

int guide_init(struct guide *g, const struct model *m, const struct schema *schema, struct err *e)
{
    size_t words = (m->rwkv_info->n_vocab + 63) / 64;
    *g = (struct guide){.model = m};
    list_init(&g->mail.link);
    if (!schema)
        return 0;
    if (!(g->constraint = constraint_new(schema->compiled, e)))
        return e->code;
    g->mask = calloc(words, sizeof *g->mask);
    return g->mask ? 0 : err_set(e, ERR_NOMEM, "no memory for a mask");
}

void guide_fini(struct guide *g)
{
    constraint_free(g->constraint);
    free(g->mask);
}

void guide_ask(struct guide *g, struct guider *by)
{
    if (!g->constraint)
        return;
    g->asked = true;
    g->mail.run = on_ask;
    ASSERT(mailbox_post(&by->box, &g->mail) == 0); /* as large as the number of places */
}

bool guide_take(struct guide *g, uint32_t id)
{
    size_t n;
    if (!g->constraint)
        return false;
    const char *bytes = tokenizer_token(g->model->tokenizer, id, &n);
    return !constraint_accept(g->constraint, bytes, n) || constraint_is_final(g->constraint);
}
