#include "daemon/sequence.h"

#include "daemon/base/clock.h"
#include "daemon/base/thread.h"
#include "daemon/worker.h"

#include <stdlib.h>
#include <string.h>

#define PROGRESS_NS 50000000u /* between two records of a bake's progress */

#define MAY(phase) (1u << (phase))

/* Row: from; bits: to. */
static const unsigned moves[] = {
    [SEQ_NEW] = MAY(SEQ_FIND) | MAY(SEQ_QUEUED) | MAY(SEQ_DONE),
    [SEQ_FIND] = MAY(SEQ_QUEUED) | MAY(SEQ_DONE),
    [SEQ_QUEUED] = MAY(SEQ_READ) | MAY(SEQ_LOAD) | MAY(SEQ_PREFILL) | MAY(SEQ_DONE),
    [SEQ_READ] = MAY(SEQ_QUEUED) | MAY(SEQ_DONE),
    [SEQ_LOAD] = MAY(SEQ_PREFILL) | MAY(SEQ_DONE),
    [SEQ_PREFILL] = MAY(SEQ_DECODE) | MAY(SEQ_DONE),
    [SEQ_DECODE] = MAY(SEQ_SAVE) | MAY(SEQ_DONE),
    [SEQ_SAVE] = MAY(SEQ_DONE),
    [SEQ_DONE] = 0,
};

void sequence_set_phase(struct sequence *q, enum seq_phase to)
{
    ASSERT(moves[q->phase] & MAY(to));
    q->phase = to;
}

static void fill_from_completion(struct sequence *q, struct completion *c)
{
    q->call = &c->call;
    q->prompt = c->prompt;
    q->n_prompt = c->n_prompt;
    q->from = c->state;
    q->save = c->save_state;
    q->file = c->state_file;
    q->adjustment = c->adjustment;
    q->keep = c->save_state || c->return_state;
    q->new_version = c->save_new_version;
    q->max_tokens = c->max_tokens;
    q->shared = c->shared;
    q->reuse = c->reuse && !c->echo && c->n_prompt && !c->state_file;
    buf_init(&q->said, (size_t)64 << 20);
    q->echo = c->echo;
}

static void fill_from_bake(struct sequence *q, struct state_call *b)
{
    q->call = &b->call;
    q->prompt = b->prompt;
    q->n_prompt = b->n_prompt;
    q->from = b->base_state;
    q->adjustment = b->adjustment;
    q->save = b->ref;
    q->keep = true;
    q->new_version = b->write.new_version;
    q->if_revision = b->write.if_revision;
    q->key = b->write.key;
    q->request_sha256 = b->write.request_sha256;
    if (b->op == STATE_APPEND) {
        q->from = b->ref;
        q->new_version = true;
    }
}

static void fill_from_embedding(struct sequence *q, struct embedding *b)
{
    q->call = &b->call;
    q->prompt = b->texts[0].ids;
    q->n_prompt = b->texts[0].n;
    q->from = b->state;
}

static void fill_from_context(struct sequence *q, struct item_call *c)
{
    q->call = &c->errand.call;
    q->adjustment = c->adjustment;
}

static void drop_shared(struct sequence *q)
{
    if (q->shared)
        shared_prompt_drop(q->shared, q->leads);
    q->shared = NULL;
}

static void sequence_free(struct sequence *q)
{
    drop_shared(q);
    if (q->completion)
        output_fini(&q->output);
    sampler_free(q->sampler);
    rewind_fini(&q->rewind);
    guide_fini(&q->guide);
    buf_fini(&q->said);
    embedder_fini(&q->embedder);
    hybrid_context_free(q->rows);
    state_pool_give(worker_states(q->worker), (struct state_pair){q->state, q->logits});
    free(q->blob);
    free(q);
}

int sequence_new(struct service *s, struct worker *w, const struct work *work,
                 struct sequence **out, struct err *e)
{
    struct completion *c = work->completion;
    struct sequence *q = calloc(1, sizeof *q);
    if (!q)
        return err_set(e, ERR_NOMEM, "no memory for a sequence");
    q->svc = s;
    q->worker = w;
    q->model = worker_model(w);
    q->completion = work->completion;
    q->bake = work->bake;
    q->embedding = work->embedding;
    q->context = work->context;
    list_init(&q->mail.link);
    list_init(&q->link);
    if (work->bake)
        fill_from_bake(q, work->bake);
    else if (work->embedding)
        fill_from_embedding(q, work->embedding);
    else if (work->context)
        fill_from_context(q, work->context);
    else
        fill_from_completion(q, c);
    if (c && output_init(&q->output, q->model, &c->call.stream, c, e) < 0) {
        sequence_free(q);
        return e->code;
    }
    call_ref(q->call);
    *out = q;
    return 0;
}

const char *sequence_from_param(const struct sequence *q)
{
    return !q->bake ? "state" : q->bake->op == STATE_APPEND ? "name" : "base_state";
}

int sequence_set_saved(struct sequence *q, const struct store_state *state, struct err *e)
{
    struct state_info *info = calloc(1, sizeof *info);
    if (q->completion)
        q->completion->saved = info;
    else
        q->bake->states = info, q->bake->n_states = info ? 1 : 0;
    return info && state_info_fill(info, state) == 0
               ? 0
               : err_set(e, ERR_NOMEM, "no memory for the saved state's record");
}

void sequence_count(const struct sequence *q, enum metric_counter c, uint64_t n)
{
    size_t model = (size_t)(q->model - q->svc->options.registry->models);
    metrics_add_model(q->svc->metrics, c, model, n);
}

static void count_end(const struct sequence *q, int code)
{
    struct metrics *m = q->svc->metrics;
    enum metric_counter how = code == ERR_CANCELLED        ? METRIC_ENDED_CANCELLED
                              : code                       ? METRIC_ENDED_ERROR
                              : q->finish == FINISH_LENGTH ? METRIC_ENDED_LENGTH
                                                           : METRIC_ENDED_STOP;
    sequence_count(q, how, 1);
    metrics_observe_ns(m, METRIC_COMPLETION, clock_ns() - q->call->received_ns);
    if (code)
        return;
    metrics_observe(m, METRIC_PROMPT_LENGTH, q->fed);
    metrics_observe(m, METRIC_PREDICTED_LENGTH, q->predicted);
}

static void fill_timings(const struct sequence *q, struct timings *t)
{
    uint64_t now = clock_ns(), done = q->prompt_done_ns ? q->prompt_done_ns : now;
    t->cache_n = q->n_start;
    t->prompt_n = q->embedding ? q->embedder.n_tokens : q->fed;
    t->predicted_n = q->predicted;
    if (q->begun_ns)
        t->prompt_ms = (double)(done - q->begun_ns) * 1e-6;
    if (q->token_ns)
        t->predicted_ms = (double)(q->token_ns - done) * 1e-6;
}

void sequence_end(struct sequence *q, const struct err *e)
{
    struct service *s = q->svc;
    struct worker *w = q->worker;
    struct call *call = q->call;
    bool failed = e && e->code;
    sequence_set_phase(q, SEQ_DONE);
    adjustment_leave(q, e);
    if (q->completion) {
        fill_timings(q, &q->completion->timings);
        q->completion->finish = failed ? FINISH_NONE : q->finish;
        count_end(q, failed ? e->code : 0);
    } else if (!q->context) {
        fill_timings(q, q->bake ? &q->bake->timings : &q->embedding->timings);
    }
    service_unclaim(s, &q->claim);
    service_finish_call(s, w, call, e);
    /* What follows is behind the answer's end. Who shares the prompt is the worker's matter. */
    drop_shared(q);
    if (!q->state || thread_kind() != THREAD_WORKER || !porter_clear_post(&s->porter, q))
        sequence_leave(q);
}

void sequence_leave(struct sequence *q)
{
    struct service *s = q->svc;
    struct call *call = q->call;
    sequence_free(q);
    call_unref(call);
    service_leave(s);
}

int sequence_make_room(struct sequence *q, struct err *e)
{
    struct state_pair pair;
    if (q->state)
        return 0;
    if (!state_pool_take(worker_states(q->worker), &pair))
        return err_set(e, ERR_NOMEM, "no memory for a state");
    q->state = pair.state;
    q->logits = pair.logits;
    return 0;
}

bool sequence_must_end(struct sequence *q, uint64_t now, struct err *e)
{
    if (atomic_load_explicit(&q->call->cancel, memory_order_acquire))
        err_set(e, ERR_CANCELLED, "the client has gone");
    else if (atomic_load_explicit(&q->svc->cancel_all, memory_order_acquire))
        err_set(e, ERR_UNAVAILABLE, "the server is shutting down");
    else if (q->call->deadline_ns && now > q->call->deadline_ns)
        err_set(e, ERR_TIMEOUT, "the request's time is over");
    else if (q->parked_ns && now - q->parked_ns > q->svc->options.park_ns)
        err_set(e, ERR_TIMEOUT, "the client has not read its answer for too long");
    else
        return false;
    return true;
}

static int make_sampler(struct sequence *q, struct err *e)
{
    const struct completion *c = q->completion;
    if (!c || !c->max_tokens)
        return 0;
    q->sampler =
        sampler_new(&c->sampling, q->model->rwkv_info->n_vocab, rwkv_get_kern(q->model->rwkv), e);
    if (!q->sampler || guide_init(&q->guide, q->model, c->schema, e) < 0)
        return e->code;
    return c->n_bias ? sampler_set_bias(q->sampler, c->bias, c->n_bias, e) : 0;
}

static int make_memory(struct sequence *q, struct err *e)
{
    const struct rwkv_info *info = q->model->rwkv_info;
    struct embedding *embedding = q->embedding;
    if (embedding && embedder_init(&q->embedder, info, embedding, q->state, e) < 0)
        return e->code;
    if (sequence_make_room(q, e) < 0)
        return e->code;
    if (q->keep && q->completion && q->completion->n_stops)
        return rewind_init(&q->rewind, rwkv_state_floats(info), info->n_vocab, e);
    return 0;
}

/* What a kept state has to read still when the answer is complete: nothing (the last token is an end
 * token, or none was sampled); the last token, which was shown; or the tokens before a stop string. */
enum rest { REST_NONE, REST_LAST, REST_STOPPED };

static int finish(struct sequence *q, enum finish why, enum rest rest, struct err *e)
{
    bool stopped = rest == REST_STOPPED;
    q->over = true;
    q->finish = why;
    q->n_due = 0;
    if (q->completion && output_end(&q->output, stopped, e) < 0)
        return e->code;
    if (!q->keep)
        return 0;
    if (stopped) {
        q->n_due = rewind_back(&q->rewind, &q->state, &q->logits, &q->n_read, &q->due);
    } else if (rest == REST_LAST) {
        q->due = &q->last;
        q->n_due = 1;
    }
    return 0;
}

static void count_token(struct sequence *q)
{
    uint64_t now = clock_ns();
    if (q->predicted++ == 0)
        metrics_observe_ns(q->svc->metrics, METRIC_FIRST_TOKEN, now - q->call->received_ns);
    else
        metrics_observe_ns(q->svc->metrics, METRIC_INTER_TOKEN, now - q->token_ns);
    sequence_count(q, METRIC_PREDICTED_TOKENS, 1);
    atomic_fetch_add_explicit(&q->call->tokens_made, 1, memory_order_relaxed);
    q->token_ns = now;
}

static bool nothing_allowed(const struct sequence *q)
{
    return q->guide.constraint && !q->guide.n_allowed;
}

void sequence_choose(struct sequence *q)
{
    q->has_chosen = q->phase == SEQ_DECODE && q->sampler && !q->over && q->n_due == 1 &&
                    q->predicted < q->max_tokens && !q->guide.asked && !nothing_allowed(q);
    if (q->has_chosen)
        q->chosen = sampler_pick_allowed(q->sampler, q->logits, q->guide.mask);
}

/* Takes the next token from the logits. */
static int sample(struct sequence *q, struct err *e)
{
    struct output_step step;
    if (q->predicted == q->max_tokens)
        return finish(q, FINISH_LENGTH, REST_NONE, e);
    if ((q->stalled = q->guide.asked))
        return 0;
    if (nothing_allowed(q))
        return finish(q, FINISH_STOP, REST_NONE, e);
    if (!q->has_chosen)
        q->chosen = sampler_pick_allowed(q->sampler, q->logits, q->guide.mask);
    uint32_t id = q->last = q->chosen;
    q->has_chosen = false;
    bool is_end = q->model->tokenizer && tokenizer_is_end(q->model->tokenizer, id);
    sampler_accept(q->sampler, id);
    count_token(q);
    if (output_token(&q->output, id, q->logits, is_end, &step, e) < 0)
        return e->code;
    if (is_end)
        return finish(q, FINISH_STOP, REST_NONE, e);
    if (rewind_note(&q->rewind, id, step.piece, step.released, output_held(&q->output), q->state,
                    q->logits, q->n_read, e) < 0)
        return e->code;
    if (step.stopped)
        return finish(q, FINISH_STOP, REST_STOPPED, e);
    if (guide_take(&q->guide, id))
        return finish(q, FINISH_STOP, REST_LAST, e);
    if (q->predicted == q->max_tokens)
        return finish(q, FINISH_LENGTH, REST_LAST, e);
    guide_ask(&q->guide, &q->svc->guider);
    q->due = &q->last;
    q->n_due = 1;
    return 0;
}

int sequence_resume(struct sequence *q, struct err *e)
{
    q->stalled = false;
    return sample(q, e);
}

/* At the start, at the end, and now and then in between. */
static void tell_progress(struct sequence *q)
{
    uint64_t now = clock_ns();
    bool within = q->fed > 0 && q->fed < q->n_prompt;
    if (!q->bake || !q->bake->progress || (within && now - q->told_ns < PROGRESS_NS))
        return;
    const struct prompt_progress p = {.total = q->n_start + q->n_prompt,
                                      .cache = q->n_start,
                                      .processed = q->n_start + q->fed,
                                      .time_ms = (double)(now - q->begun_ns) * 1e-6};
    q->told_ns = now;
    stream_push(&q->call->stream, &p, sizeof p); /* one that does not fit is left out */
}

static struct session_key session_key(const struct sequence *q)
{
    const char *scope = q->completion->scope;
    return (struct session_key){q->model, scope ? scope : "", q->used,
                                q->theta ? q->adjustment->key : ""};
}

/* Goes on from the parked state that has read the most of the prompt. */
static void find_session(struct sequence *q)
{
    struct session_key key = session_key(q);
    size_t n = sessions_find(q->svc->sessions, &key, q->prompt, q->n_prompt, q->state, q->logits);
    metrics_add(q->svc->metrics, n ? METRIC_SESSION_HITS : METRIC_SESSION_MISSES, 1);
    metrics_add(q->svc->metrics, METRIC_SESSION_TOKENS, n);
    q->prompt += n;
    q->n_prompt -= n;
    q->n_start += n;
    q->n_read += n;
    q->has_logits = q->has_logits || n;
}

void sequence_park(struct sequence *q)
{
    /* A state that is wanted at the end may have been taken back to before a stop string. */
    if (!q->reuse || q->keep || q->said.failed)
        return;
    struct session_key key = session_key(q);
    sessions_park(q->svc->sessions, &key, q->completion->prompt, q->completion->n_prompt,
                  (const uint32_t *)(const void *)q->said.data, q->said.len / sizeof(uint32_t),
                  q->state, q->logits);
}

/* The whole prompt has been read. */
static int prompt_done(struct sequence *q, struct err *e)
{
    q->prompt_done_ns = clock_ns();
    sequence_set_phase(q, SEQ_DECODE);
    if (q->leads)
        shared_prompt_give(q->shared, &(struct shared_state){q->model->rwkv_info, q->used, q->state,
                                                             q->logits, q->n_read});
    if (!q->joined)
        sequence_park(q);
    q->leads = false;
    q->shared = NULL;
    return sample(q, e);
}

/* Another has read the prompt, or does, or q is to read it for all. */
static enum shared_prompt_way join(struct sequence *q)
{
    struct shared_state s = {q->model->rwkv_info, q->used, q->state, q->logits, 0};
    enum shared_prompt_way way = shared_prompt_take(q->shared, &s);
    q->leads = way == SHARED_LEAD;
    q->follows = way == SHARED_WAIT;
    if (way == SHARED_OTHER)
        q->shared = NULL;
    if (way != SHARED_TAKEN)
        return way;
    sequence_count(q, METRIC_CACHED_TOKENS, q->n_prompt);
    q->shared = NULL;
    q->begun_ns = clock_ns(); /* it waited, it did not read */
    q->joined = q->has_logits = true;
    q->n_read = s.n_read;
    q->n_start += q->n_prompt;
    q->prompt += q->n_prompt;
    q->n_prompt = 0;
    return way;
}

int sequence_begin_prompt(struct sequence *q, struct err *e)
{
    enum shared_prompt_way way = q->shared ? join(q) : SHARED_LEAD;
    if (way == SHARED_WAIT)
        return 0;
    if (way != SHARED_TAKEN && q->reuse)
        find_session(q);
    if (q->n_prompt == 0 && q->has_logits)
        return prompt_done(q, e);
    if (q->n_prompt == 0) {
        q->separator = model_separator(q->model);
        q->prompt = &q->separator;
        q->n_prompt = 1;
        q->echo = false;
    }
    tell_progress(q);
    return 0;
}

int sequence_start(struct sequence *q, struct err *e)
{
    ASSERT_THREAD(THREAD_WORKER);
    if (q->leads_context)
        return adjustment_begin(q, e);
    sequence_set_phase(q, SEQ_PREFILL);
    q->begun_ns = clock_ns();
    metrics_observe_ns(q->svc->metrics, METRIC_QUEUE, q->begun_ns - q->call->received_ns);
    if (make_memory(q, e) < 0 || make_sampler(q, e) < 0)
        return e->code;
    guide_ask(&q->guide, &q->svc->guider);
    return sequence_begin_prompt(q, e);
}

size_t sequence_next(const struct sequence *q, const uint32_t **tokens)
{
    if (q->phase == SEQ_READ)
        return adjustment_next(q, tokens);
    size_t n = q->phase == SEQ_PREFILL ? q->n_prompt - q->fed : q->n_due;
    *tokens = q->phase == SEQ_PREFILL ? q->prompt + q->fed : q->due;
    if (q->parked_ns || q->follows)
        return 0;
    return n < SEQUENCE_CHUNK ? n : SEQUENCE_CHUNK;
}

enum sequence_wish sequence_wants(const struct sequence *q)
{
    if (q->embedding || q->phase == SEQ_READ)
        return HIDDEN_ALL;
    if (q->phase != SEQ_PREFILL)
        return LOGITS_LAST;
    if (q->echo && q->completion->n_logprobs >= 0)
        return LOGITS_ALL;
    return q->n_prompt - q->fed <= SEQUENCE_CHUNK ? LOGITS_LAST : LOGITS_NONE;
}

/* The n tokens of the prompt that were fed, with the logits before each. */
static int echo(struct sequence *q, size_t n, const float *all, struct err *e)
{
    size_t n_vocab = q->model->rwkv_info->n_vocab;
    float *keep = q->completion->echo_logits;
    for (size_t i = 0; i < n; i++) {
        const float *before = NULL;
        if (all)
            before = i ? all + (i - 1) * n_vocab : q->has_logits ? q->logits : NULL;
        if (keep && before && q->fed + i > 0)
            memcpy(keep + (q->fed + i) * n_vocab, before, n_vocab * sizeof *keep);
        if (output_prompt_token(&q->output, q->prompt[q->fed + i], before, e) < 0)
            return e->code;
    }
    return 0;
}

/* n tokens of a text to be embedded were fed. */
static void embed(struct sequence *q, size_t n, const float *hidden)
{
    embedder_add(&q->embedder, hidden, n);
    q->fed += n;
    sequence_count(q, METRIC_PROMPT_TOKENS, n);
    atomic_fetch_add_explicit(&q->call->tokens_read, n, memory_order_relaxed);
    if (q->fed < q->n_prompt)
        return;
    if (embedder_next(&q->embedder, q->state, rwkv_state_floats(q->model->rwkv_info))) {
        q->prompt = embedder_text(&q->embedder)->ids;
        q->n_prompt = embedder_text(&q->embedder)->n;
        q->fed = 0;
        return;
    }
    q->prompt_done_ns = clock_ns();
    q->over = true;
}

int sequence_advance(struct sequence *q, size_t n, const float *all, struct err *e)
{
    size_t n_vocab = q->model->rwkv_info->n_vocab;
    if (q->phase == SEQ_READ) {
        q->over = adjustment_advance(q, n, all);
        return 0;
    }
    q->n_read += n;
    if (q->embedding) {
        embed(q, n, all);
        return 0;
    }
    if (q->phase == SEQ_DECODE) {
        if (q->reuse)
            buf_append(&q->said, q->due, n * sizeof *q->due);
        q->due += n;
        q->n_due -= n;
        return q->over ? 0 : sample(q, e);
    }
    if (q->echo && echo(q, n, all, e) < 0)
        return e->code;
    if (all)
        memcpy(q->logits, all + (n - 1) * n_vocab, n_vocab * sizeof *all);
    q->has_logits = true;
    q->fed += n;
    sequence_count(q, METRIC_PROMPT_TOKENS, n);
    tell_progress(q);
    atomic_fetch_add_explicit(&q->call->tokens_read, n, memory_order_relaxed);
    return q->fed == q->n_prompt ? prompt_done(q, e) : 0;
}
