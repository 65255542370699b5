/* The data, by who touches it:
 *
 *     box      letters from the porter and the guider: sequences that come back; and that some wait
 *     waiting  a list of sequences (QUEUED), oldest first; whoever looks may end those that were
 *              cancelled, so that none waits for the end of a step to leave
 *     active   a list of sequences (PREFILL, DECODE), the batch. Prompts that have just had their
 *              chunk go to its end: each gets its turn. Sequences that are away because their state
 *              is loaded (LOAD) are in no list, but have their place: all in all max_sequences
 *     batch    this step's rows, one struct rwkv_seq a sequence; members[i] is whose batch[i] is.
 *              Prompts stand last: the engine gives a cancelled one up within a layer
 *     block    what a sequence wants after every token of a prompt: logits where it is echoed with
 *              logprobs, final hidden states where it is embedded
 *
 * A turn: fill free places from `waiting`; step (every sequence that decodes feeds its token, and
 * some prompts a chunk, so many that those who decode do not wait long); sweep out what has ended,
 * was cancelled or is late. What a sequence computes depends on its own tokens alone, whatever else
 * is in the batch (rwkv.h), and its chunks begin at fixed places of its prompt: load changes when,
 * never what. */
#include "daemon/worker.h"

#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "daemon/base/snapshot.h"
#include "daemon/base/thread.h"

#include <stdlib.h>
#include <string.h>

/* Prompt tokens in a step: beside sequences that decode, and alone. */
#define PREFILL_ROWS_SHARED SEQUENCE_CHUNK
#define PREFILL_ROWS        (2 * SEQUENCE_CHUNK)
/* How often a worker with nothing else to do looks whether a parked sequence may go on. */
#define PARKED_POLL_NS 10000000u

struct worker {
    struct service *svc;
    struct model *model;
    struct mailbox box;
    struct state_pool states;
    pthread_t thread;
    size_t admitted; /* guard: service.lock */

    pthread_mutex_t lock;
    struct list waiting; /* guard: lock */
    size_t n_waiting;    /* guard: lock */
    struct mail some;    /* tells the worker that some wait; ... */
    bool told;           /* guard: lock; ... is in the box */

    /* the worker thread's own */
    struct rwkv_session *session;
    struct list active;
    size_t n_active;            /* places taken, by the active and by ... */
    size_t n_loading;           /* ... those whose state is being loaded */
    size_t n_parked;            /* of the active: their stream is full, ... */
    size_t n_stalled;           /* ... or, not parked, their mask is not there or they follow */
    struct rwkv_seq *batch;     /* [max_sequences] */
    struct sequence **members;  /* [max_sequences] */
    float *block;               /* [PREFILL_ROWS, max(V, C)], made when first needed */

    struct slot_info *slots; /* [max_sequences] who has which place */
    uint64_t n_tasks;

    /* copies for others, written once a turn */
    _Atomic size_t shown_active, shown_parked;
    struct snapshot shown_slots;
};

/* It reads what is given to it, a chunk a step; else it decodes. */
static bool is_prompt(const struct sequence *q)
{
    return q->phase == SEQ_PREFILL || q->phase == SEQ_READ;
}

/* ---- places ---- */

static void fill_slot(const struct sequence *q, struct slot_info *slot)
{
    const struct completion *c = q->completion;
    *slot = (struct slot_info){
        .task = q->task,
        .phase = q->phase == SEQ_DECODE ? SLOT_GENERATING
                 : is_prompt(q)         ? SLOT_PROMPT
                                        : SLOT_LOADING,
        .kind = c            ? SLOT_COMPLETION
                : q->bake    ? SLOT_BAKE
                : q->context ? SLOT_CONTEXT
                             : SLOT_EMBEDDING,
        .cache_n = q->n_start,
        .prompt_n = q->fed,
        .predicted_n = q->predicted,
        .n_prompt = q->n_prompt,
        .max_tokens = q->max_tokens,
    };
    if (c)
        slot->sampling = c->sampling;
}

static void take_place(struct worker *w, struct sequence *q)
{
    size_t i = 0;
    while (w->slots[i].phase != SLOT_IDLE)
        i++;
    q->slot = i;
    q->task = ++w->n_tasks;
    w->n_active++;
    fill_slot(q, &w->slots[i]);
}

static void give_place(struct worker *w, const struct sequence *q)
{
    w->slots[q->slot].phase = SLOT_IDLE;
    w->n_active--;
}

static void leave(struct worker *w, struct sequence *q)
{
    list_remove(&q->link);
    give_place(w, q);
}

/* Ends q, which is in no list, with e; if the guider has it, once it is back. */
static void end(struct sequence *q, const struct err *e)
{
    q->dropped = q->guide.asked;
    q->why = *e;
    if (!q->dropped)
        sequence_end(q, e);
}

/* ---- letters ---- */

static void on_some(struct mail *m)
{
    struct worker *w = LIST_OWNER(m, struct worker, some);
    pthread_mutex_lock(&w->lock);
    w->told = false;
    pthread_mutex_unlock(&w->lock);
}

void worker_take_post(struct worker *w, struct sequence *q)
{
    sequence_set_phase(q, SEQ_QUEUED);
    pthread_mutex_lock(&w->lock);
    list_push(&w->waiting, &q->link);
    w->n_waiting++;
    if (!w->told)
        ASSERT(mailbox_post(&w->box, &w->some) == 0); /* as large as the number of admitted calls */
    w->told = true;
    pthread_mutex_unlock(&w->lock);
}

void worker_end_waiting(struct worker *w)
{
    struct list ending;
    struct err e = {0};
    uint64_t now = clock_ns();
    list_init(&ending);
    pthread_mutex_lock(&w->lock);
    LIST_FOR_EACH(n, &w->waiting)
    {
        struct sequence *q = LIST_OWNER(n, struct sequence, link);
        if (!sequence_must_end(q, now, &e))
            continue;
        list_remove(&q->link);
        list_push(&ending, &q->link);
        w->n_waiting--;
    }
    pthread_mutex_unlock(&w->lock);
    for (struct list *n; (n = list_pop(&ending));) {
        struct sequence *q = LIST_OWNER(n, struct sequence, link);
        sequence_must_end(q, now, &e);
        sequence_end(q, &e);
    }
}

/* Starts q in a place that is counted already. */
static void begin(struct worker *w, struct sequence *q)
{
    struct err e = {0};
    if (sequence_start(q, &e) == 0) {
        list_push(&w->active, &q->link);
        return;
    }
    give_place(w, q);
    end(q, &e);
}

static void on_loaded(struct mail *m)
{
    struct sequence *q = LIST_OWNER(m, struct sequence, mail);
    struct worker *w = q->worker;
    w->n_loading--;
    if (!q->load_error.code) {
        begin(w, q);
        return;
    }
    struct err e = q->load_error;
    give_place(w, q);
    sequence_end(q, &e);
}

void worker_loaded_post(struct worker *w, struct sequence *q)
{
    q->mail.run = on_loaded;
    ASSERT(mailbox_post(&w->box, &q->mail) == 0);
}

static void on_guided(struct mail *m)
{
    struct sequence *q = LIST_OWNER(m, struct sequence, guide.mail);
    struct worker *w = q->worker;
    struct err e = {0};
    q->guide.asked = false;
    if (q->dropped) {
        e = q->why; /* q is freed before it is told */
        sequence_end(q, &e);
    } else if (q->stalled && sequence_resume(q, &e) < 0) {
        leave(w, q);
        end(q, &e);
    }
}

void worker_guided_post(struct worker *w, struct sequence *q)
{
    q->guide.mail.run = on_guided;
    ASSERT(mailbox_post(&w->box, &q->guide.mail) == 0);
}

/* The one that has waited the longest, if there is a place for it; else NULL. */
static struct sequence *next_waiting(struct worker *w)
{
    struct list *n = NULL;
    pthread_mutex_lock(&w->lock);
    if (w->n_active < w->svc->options.max_sequences && (n = list_pop(&w->waiting)))
        w->n_waiting--;
    pthread_mutex_unlock(&w->lock);
    return n ? LIST_OWNER(n, struct sequence, link) : NULL;
}

static void fill(struct worker *w)
{
    struct err e = {0};
    for (struct sequence *q; (q = next_waiting(w));) {
        if (sequence_must_end(q, clock_ns(), &e)) {
            sequence_end(q, &e);
            continue;
        }
        take_place(w, q);
        if (!q->leads_context && (q->used[0] || q->file)) {
            w->n_loading++;
            porter_load_post(q);
        } else {
            begin(w, q);
        }
    }
}

/* Where the logits or hidden states of a row go; its rows in the block begin at `at`. */
static int place_output(struct worker *w, struct rwkv_seq *row, const struct sequence *q, size_t at)
{
    const struct rwkv_info *info = w->model->rwkv_info;
    size_t width = info->n_vocab > info->n_embd ? info->n_vocab : info->n_embd;
    enum sequence_wish want = sequence_wants(q);
    if (want == LOGITS_LAST)
        row->logits = q->logits;
    if (want == LOGITS_NONE || want == LOGITS_LAST)
        return 0;
    if (!w->block && !(w->block = mem_calloc_aligned(PREFILL_ROWS * width, sizeof *w->block)))
        return ERR_NOMEM;
    row->all_logits = want == LOGITS_ALL;
    *(want == LOGITS_ALL ? &row->logits : &row->hidden) = w->block + at * width;
    return 0;
}

/* Adds those that read a prompt, or those that decode, to the n of the batch, up to `budget` tokens;
 * *rows: the tokens added. */
static size_t gather(struct worker *w, bool prompts, size_t budget, size_t n, size_t *rows)
{
    *rows = 0;
    LIST_FOR_EACH(node, &w->active)
    {
        struct sequence *q = LIST_OWNER(node, struct sequence, link);
        struct rwkv_seq row = {
            .state = q->state, .theta = q->theta, .rank = q->rank, .cancel = &q->call->cancel};
        if (prompts != is_prompt(q))
            continue;
        row.n_tokens = sequence_next(q, &row.tokens);
        if (row.n_tokens == 0 || *rows + row.n_tokens > budget)
            continue;
        if (place_output(w, &row, q, *rows) < 0) {
            struct err e;
            err_set(&e, ERR_NOMEM, "no memory for the logits of a prompt");
            leave(w, q);
            end(q, &e);
            continue;
        }
        *rows += row.n_tokens;
        w->members[n] = q;
        w->batch[n++] = row;
    }
    return n;
}

/* One member after the step; rc, e: of rwkv_eval. */
static void advance(struct worker *w, size_t i, int rc, const struct err *e)
{
    struct sequence *q = w->members[i];
    const struct rwkv_seq *row = &w->batch[i];
    struct err own = *e;
    bool prompt = is_prompt(q);
    if (row->given_up)
        return; /* it is cancelled: the sweep takes it out */
    if (rc == 0 || (rc == ERR_NUMERIC && !row->not_finite))
        rc = sequence_advance(q, row->n_tokens, row->all_logits ? row->logits : row->hidden, &own);
    if (rc < 0) {
        leave(w, q);
        end(q, &own);
    } else if (prompt) {
        list_remove(&q->link);
        list_push(&w->active, &q->link);
    }
}

struct choice {
    struct worker *w;
    size_t n;
};

static void choose_part(void *ctx, int part, int parts)
{
    const struct choice *c = ctx;
    for (size_t i = (size_t)part; i < c->n; i += (size_t)parts)
        if (!c->w->batch[i].given_up)
            sequence_choose(c->w->members[i]);
}

/* The next tokens of those who decode, together: one after another they would keep the other threads waiting. */
static void choose(struct worker *w, size_t n)
{
    struct choice c = {w, n};
    const int parts = rwkv_session_parts(w->session);
    pool_run_some(w->model->pool, n < (size_t)parts ? (int)n : parts, choose_part, &c);
}

static void step(struct worker *w)
{
    struct metrics *m = w->svc->metrics;
    struct err e = {0};
    size_t rows, prompt_rows, n = gather(w, false, SIZE_MAX, 0, &rows);
    n = gather(w, true, n ? PREFILL_ROWS_SHARED : PREFILL_ROWS, n, &prompt_rows);
    if (n == 0)
        return;
    uint64_t begun = clock_ns();
    int rc = rwkv_eval(w->session, w->batch, n, &e);
    metrics_observe_ns(m, METRIC_STEP, clock_ns() - begun);
    metrics_observe(m, METRIC_BATCH_SEQUENCES, n);
    metrics_observe(m, METRIC_BATCH_ROWS, rows + prompt_rows);
    metrics_add(m, METRIC_STEPS, 1);
    if (rc == 0)
        choose(w, n);
    for (size_t i = 0; i < n; i++)
        advance(w, i, rc, &e);
}

/* Parked while its stream takes no more. */
static void park(struct worker *w, struct sequence *q, uint64_t now)
{
    if (!q->completion || output_flush(&q->output)) {
        q->parked_ns = 0;
        return;
    }
    if (!q->parked_ns) {
        q->parked_ns = now;
        metrics_add(w->svc->metrics, METRIC_PARKED, 1);
    }
    w->n_parked++;
}

/* Those that wait for another to read their prompt: it has, or has ended and one of them is to. After
 * all else that ends sequences in a turn, so that none waits for one that is gone. */
static void look_at_followers(struct worker *w)
{
    struct err e = {0};
    bool again = true;
    while (again) {
        again = false;
        LIST_FOR_EACH(n, &w->active)
        {
            struct sequence *q = LIST_OWNER(n, struct sequence, link);
            if (!q->follows || sequence_begin_prompt(q, &e) == 0)
                continue;
            leave(w, q);
            end(q, &e);
            again = true;
        }
    }
    LIST_FOR_EACH(n, &w->active)
    {
        w->n_stalled += LIST_OWNER(n, struct sequence, link)->follows;
    }
}

static void sweep(struct worker *w)
{
    struct err e = {0};
    uint64_t now = clock_ns();
    w->n_parked = w->n_stalled = 0;
    worker_end_waiting(w);
    LIST_FOR_EACH(n, &w->active)
    {
        struct sequence *q = LIST_OWNER(n, struct sequence, link);
        if (sequence_must_end(q, now, &e)) {
            leave(w, q);
            end(q, &e);
            continue;
        }
        park(w, q, now);
        w->n_stalled += q->stalled && !q->parked_ns;
        if (q->parked_ns || !sequence_is_over(q))
            continue;
        leave(w, q);
        if (q->phase == SEQ_READ) {
            q->over = false;
            adjustment_make_post(q);
        } else if (q->keep) {
            porter_save_post(&w->svc->porter, q);
        } else {
            sequence_park(q);
            sequence_end(q, NULL);
        }
    }
    look_at_followers(w);
}

static bool may_fill(struct worker *w)
{
    pthread_mutex_lock(&w->lock);
    bool may = w->n_waiting && w->n_active < w->svc->options.max_sequences;
    pthread_mutex_unlock(&w->lock);
    return may;
}

static void show(struct worker *w)
{
    LIST_FOR_EACH(n, &w->active)
    {
        const struct sequence *q = LIST_OWNER(n, struct sequence, link);
        fill_slot(q, &w->slots[q->slot]);
    }
    snapshot_write(&w->shown_slots, w->slots);
    atomic_store_explicit(&w->shown_active, w->n_active, memory_order_relaxed);
    atomic_store_explicit(&w->shown_parked, w->n_parked, memory_order_relaxed);
}

static void worker_main(void *arg)
{
    struct worker *w = arg;
    struct list mails;
    uint64_t patience = MAILBOX_FOREVER;
    list_init(&mails);
    while (mailbox_wait(&w->box, &mails, patience)) {
        mailbox_run(&mails);
        fill(w);
        step(w);
        sweep(w);
        show(w);
        bool more = w->n_active > w->n_loading + w->n_parked + w->n_stalled || may_fill(w);
        patience = more ? 0 : w->n_parked ? PARKED_POLL_NS : MAILBOX_FOREVER;
    }
    ASSERT(list_empty(&w->waiting) && list_empty(&w->active));
}

static void free_memory(struct worker *w)
{
    rwkv_session_free(w->session);
    state_pool_fini(&w->states);
    snapshot_fini(&w->shown_slots);
    pthread_mutex_destroy(&w->lock);
    free(w->slots);
    free(w->batch);
    free(w->members);
    free(w->block);
    free(w);
}

int worker_new(struct service *s, struct model *m, struct worker **out, struct err *e)
{
    size_t max = s->options.max_sequences;
    struct worker *w = calloc(1, sizeof *w);
    if (!w)
        return err_set(e, ERR_NOMEM, "no memory for a worker");
    w->svc = s;
    w->model = m;
    pthread_mutex_init(&w->lock, NULL);
    list_init(&w->waiting);
    list_init(&w->some.link);
    w->some.run = on_some;
    list_init(&w->active);
    _Static_assert(sizeof(struct slot_info) % 8 == 0, "a snapshot is made of whole words");
    w->slots = calloc(max, sizeof *w->slots);
    bool shown = snapshot_init(&w->shown_slots, max * sizeof *w->slots);
    w->batch = calloc(max, sizeof *w->batch);
    w->members = calloc(max, sizeof *w->members);
    bool box = mailbox_init(&w->box, 2 * (max + s->options.max_queue), NULL, NULL) == 0;
    int rc = state_pool_init(&w->states, m->rwkv_info, max);
    if (rc < 0 || !box || !shown || !w->slots || !w->batch || !w->members)
        rc = err_set(e, ERR_NOMEM, "no memory for a worker");
    if (rc == 0 && !(w->session = rwkv_session_new(m->rwkv, m->pool, max + PREFILL_ROWS, e)))
        rc = e->code;
    char name[16];
    snprintf(name, sizeof name, "rwkv-%.10s", m->name);
    if (rc == 0)
        rc = thread_start(&w->thread, THREAD_WORKER, name, worker_main, w, e);
    if (rc == 0) {
        *out = w;
        return 0;
    }
    if (box)
        mailbox_fini(&w->box);
    free_memory(w);
    return rc;
}

void worker_free(struct worker *w)
{
    if (!w)
        return;
    mailbox_close(&w->box);
    pthread_join(w->thread, NULL);
    mailbox_fini(&w->box);
    free_memory(w);
}

void worker_get_slots(const struct worker *w, struct slot_info *out)
{
    snapshot_read(&w->shown_slots, out);
}

size_t *worker_admitted(struct worker *w)
{
    return &w->admitted;
}

void worker_get_counts(struct worker *w, struct worker_counts *out)
{
    pthread_mutex_lock(&w->lock);
    out->waiting = w->n_waiting;
    pthread_mutex_unlock(&w->lock);
    out->active = atomic_load_explicit(&w->shown_active, memory_order_relaxed);
    out->parked = atomic_load_explicit(&w->shown_parked, memory_order_relaxed);
}

struct state_pool *worker_states(struct worker *w)
{
    return &w->states;
}

struct model *worker_model(const struct worker *w)
{
    return w->model;
}
