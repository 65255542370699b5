/* The service: who is let in, and the way of a request through the threads.
 *
 *   completion, bake,
 *   embedding,
 *   context            HTTP thread: checks, admits, makes a struct sequence
 *                      -> store: is there such a state, of this model?   (lookup.c)
 *                      -> worker: its queue, until there is a place      (worker.c)
 *                      -> store, porter: the state it starts from        (porter.c)
 *                      -> worker: its batch; tokens go to the stream     (sequence.c)
 *                      -> porter, store: the state it leaves             (porter.c)
 *                      -> service_end_call, on whatever thread it got to
 *   edits, comparisons HTTP thread -> lane: loads, computes, saves
 *                      -> service_end_call                              (errand.c)
 *   other requests     HTTP thread -> store -> service_end_call          (service_records.c)
 *     about states
 *
 * A sequence is handed on by letters that lie inside it, so nothing on its way can fail for want of
 * memory or room: whoever is admitted can be queued anywhere. What a request allocates is freed
 * when its sequence ends; the call itself, with the results, when its last reference goes. */
#include "daemon/base/mem.h"
#include "daemon/base/thread.h"
#include "daemon/diffusers.h"
#include "daemon/lookup.h"
#include "daemon/service_impl.h"
#include "daemon/state_import.h"
#include "daemon/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LANE_NICE  10
#define LANE_QUEUE 64 /* tasks that may wait */

static int start_lane(struct service *s, struct err *e)
{
    int threads = s->options.lane_threads ? s->options.lane_threads : thread_processors();
    struct lane_options o = {
        .threads = threads < 64 ? threads : 64, .nice = LANE_NICE, .limit = LANE_QUEUE};
    return lane_start(&s->lane, &o, e);
}

int service_new(const struct service_options *o, struct service **out, struct err *e)
{
    size_t n = o->registry->n;
    struct service *s = calloc(1, sizeof *s);
    struct worker **workers = calloc(n, sizeof *workers);
    struct metrics *metrics = metrics_new(n);
    struct state_cache *cache = o->state_cache ? state_cache_new(o->state_cache) : NULL;
    struct sessions *sessions = sessions_new(o->max_sessions, o->session_bytes);
    struct diffusers *diffusers = diffusers_new();
    bool whole = s && workers && metrics && sessions && diffusers && (cache || !o->state_cache);
    if (!whole || pthread_mutex_init(&s->lock, NULL) != 0) {
        free(s);
        free(workers);
        metrics_free(metrics);
        state_cache_free(cache);
        sessions_free(sessions);
        diffusers_free(diffusers);
        return err_set(e, ERR_NOMEM, "no memory for the service");
    }
    pthread_cond_init(&s->idle, NULL);
    s->options = *o;
    s->options.max_sequences = o->max_sequences ? o->max_sequences : 32;
    s->options.park_ns = o->park_ns ? o->park_ns : (uint64_t)30 * 1000000000u;
    s->metrics = metrics;
    s->cache = cache;
    for (size_t i = 0; i < n; i++)
        metrics_name_model(metrics, i, o->registry->infos[i].name);
    s->workers = workers;
    s->sessions = sessions;
    s->diffusers = diffusers;
    list_init(&s->drained.link);
    list_init(&s->claims);
    size_t calls = n * (s->options.max_sequences + s->options.max_queue);
    bool porter = porter_start(&s->porter, calls, e) == 0;
    bool guider = porter && guider_start(&s->guider, calls, e) == 0;
    bool jobs = guider && jobs_init(&s->jobs, e) == 0;
    if (!jobs || start_lane(s, e) < 0) {
        if (jobs)
            jobs_fini(&s->jobs);
        if (guider)
            guider_stop(&s->guider);
        if (porter)
            porter_stop(&s->porter);
        pthread_cond_destroy(&s->idle);
        pthread_mutex_destroy(&s->lock);
        metrics_free(metrics);
        state_cache_free(cache);
        sessions_free(sessions);
        diffusers_free(diffusers);
        free(workers);
        free(s);
        return e->code;
    }
    for (size_t i = 0; i < n; i++)
        if (worker_new(s, &o->registry->models[i], &s->workers[i], e) < 0) {
            service_free(s);
            return e->code;
        }
    *out = s;
    return 0;
}

void service_free(struct service *s)
{
    if (!s)
        return;
    atomic_store(&s->draining, true);
    atomic_store(&s->cancel_all, true);
    jobs_drain(s);
    pthread_mutex_lock(&s->lock);
    s->on_drained = NULL;
    while (s->live)
        pthread_cond_wait(&s->idle, &s->lock);
    pthread_mutex_unlock(&s->lock);
    for (size_t i = 0; i < s->options.registry->n; i++)
        worker_free(s->workers[i]);
    lane_stop(&s->lane);
    jobs_fini(&s->jobs);
    guider_stop(&s->guider);
    porter_stop(&s->porter);
    pthread_cond_destroy(&s->idle);
    pthread_mutex_destroy(&s->lock);
    metrics_free(s->metrics);
    state_cache_free(s->cache);
    sessions_free(s->sessions);
    diffusers_free(s->diffusers);
    free(s->workers);
    free(s);
}

/* ---- admission and the end ---- */

int service_admit(struct service *s, struct worker *w, struct err *e)
{
    size_t most = s->options.max_sequences + s->options.max_queue;
    int rc = 0;
    pthread_mutex_lock(&s->lock);
    if (atomic_load(&s->draining))
        rc = err_set(e, ERR_UNAVAILABLE, "the server is shutting down");
    else if (w && *worker_admitted(w) >= most)
        rc = err_set(e, ERR_BUSY,
                     "%zu requests are running or waiting for this model: try again later", most);
    if (rc == 0) {
        s->live++;
        if (w)
            ++*worker_admitted(w);
    }
    pthread_mutex_unlock(&s->lock);
    if (rc == ERR_BUSY)
        metrics_add(s->metrics, METRIC_REFUSED, 1);
    return rc;
}

void service_release(struct service *s, struct worker *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&s->lock);
    --*worker_admitted(w);
    pthread_mutex_unlock(&s->lock);
}

int service_claim(struct service *s, struct claim *c, const char *name, struct err *e)
{
    int rc = 0;
    pthread_mutex_lock(&s->lock);
    LIST_FOR_EACH(n, &s->claims)
    {
        if (!strcmp(LIST_OWNER(n, struct claim, link)->name, name))
            rc = err_set(e, ERR_STATE_BUSY,
                         "another request is writing the state %s: try again when it has ended",
                         name);
    }
    if (rc == 0) {
        c->name = name;
        list_push(&s->claims, &c->link);
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

void service_unclaim(struct service *s, struct claim *c)
{
    if (!c->name)
        return;
    pthread_mutex_lock(&s->lock);
    list_remove(&c->link);
    c->name = NULL;
    pthread_mutex_unlock(&s->lock);
}

static void on_drained(struct mail *m)
{
    struct service *s = LIST_OWNER(m, struct service, drained);
    if (s->drain_timer)
        loop_cancel_timer(s->drain_timer);
    s->drain_timer = NULL;
    pthread_mutex_lock(&s->lock);
    loop_fn *fn = s->on_drained;
    void *arg = s->on_drained_arg;
    s->on_drained = NULL;
    pthread_mutex_unlock(&s->lock);
    if (fn)
        fn(arg);
}

/* guard: lock */
static void tell_when_idle(struct service *s)
{
    if (s->live)
        return;
    pthread_cond_broadcast(&s->idle);
    if (!s->on_drained || s->drained.run)
        return;
    s->drained.run = on_drained;
    loop_post(s->options.loop, &s->drained);
}

void service_leave(struct service *s)
{
    pthread_mutex_lock(&s->lock);
    s->live--;
    tell_when_idle(s);
    pthread_mutex_unlock(&s->lock);
}

void service_finish_call(struct service *s, struct worker *w, struct call *c, const struct err *e)
{
    if (e && e->code) {
        c->err = *e;
        metrics_count_error(s->metrics, e->code);
        if (e->code == ERR_CANCELLED)
            metrics_add(s->metrics, METRIC_CANCELLED, 1);
        if (err_http(e->code) >= 500)
            LOG(s->options.log, LOG_ERROR, "request_failed",
                LOG_STR("code", err_code_name(e->code)), LOG_STR("message", e->msg));
    }
    service_release(s, w);
    stream_end(&c->stream);
}

void service_end_call(struct service *s, struct worker *w, struct call *c, const struct err *e)
{
    service_finish_call(s, w, c, e);
    call_unref(c);
    service_leave(s);
}

void service_end_waiting(struct service *s)
{
    for (size_t i = 0; i < s->options.registry->n; i++)
        worker_end_waiting(s->workers[i]);
    jobs_sweep(s);
}

static void on_drain_deadline(void *arg)
{
    struct service *s = arg;
    s->drain_timer = NULL;
    LOG(s->options.log, LOG_WARN, "drain_deadline",
        LOG_STR("action", "cancelling what still runs"));
    atomic_store(&s->cancel_all, true);
}

void service_drain(struct service *s, uint64_t timeout_ms, loop_fn *done, void *arg)
{
    struct err e;
    ASSERT_THREAD(THREAD_LOOP);
    pthread_mutex_lock(&s->lock);
    atomic_store(&s->draining, true);
    pthread_mutex_unlock(&s->lock);
    jobs_drain(s);
    if (loop_start_timer(s->options.loop, timeout_ms, 0, on_drain_deadline, s, &s->drain_timer,
                         &e) < 0)
        atomic_store(&s->cancel_all, true);
    pthread_mutex_lock(&s->lock);
    s->on_drained = done;
    s->on_drained_arg = arg;
    tell_when_idle(s);
    pthread_mutex_unlock(&s->lock);
}

/* ---- completions and bakes ---- */

static int check_prompt(const struct model_info *m, const uint32_t *prompt, size_t n, struct err *e)
{
    if (n > MAX_PROMPT)
        return err_set_param(e, ERR_INVALID, "prompt",
                             "the prompt has %zu tokens, at most %u are taken", n, MAX_PROMPT);
    for (size_t i = 0; i < n; i++)
        if (prompt[i] >= m->n_vocab)
            return err_set_param(e, ERR_INVALID, "prompt",
                                 "token %u: the vocabulary of %s has %u ids", prompt[i], m->name,
                                 m->n_vocab);
    return 0;
}

static int check_name(const char *ref, bool may_have_version, const char *param, struct err *e)
{
    char name[129];
    uint64_t version = 0;
    int rc = ref ? state_ref_parse(ref, name, &version, e) : 0;
    if (rc == 0 && version && !may_have_version)
        rc = err_set(e, ERR_INVALID, "a state is saved under a name without a version");
    if (rc < 0)
        snprintf(e->param, sizeof e->param, "%s", param);
    return rc;
}

static int check_completion(const struct service *s, const struct completion *c, struct err *e)
{
    if (!c->model)
        return err_set_param(e, ERR_MODEL_NOT_FOUND, "model", "no model");
    if (check_prompt(c->model, c->prompt, c->n_prompt, e) < 0 ||
        sampling_check(&c->sampling, e) < 0 || check_name(c->state, true, "state", e) < 0 ||
        check_name(c->save_state, false, "save_state", e) < 0)
        return e->code;
    if (c->adjustment && adjustment_check(s, c->model, &c->adjustment->ask, e) < 0)
        return e->code;
    enum state_orientation o;
    if (c->state_file && c->state_file->orientation &&
        !state_orientation_parse(c->state_file->orientation, &o))
        return err_set_param(e, ERR_INVALID, "state",
                             "state.orientation is neither \"value_key\" nor \"key_value\"");
    if (c->schema && !strcmp(c->model->tokenizer, "none"))
        return err_set_param(e, ERR_INVALID, "response_format",
                             "the model %s has no vocabulary: JSON needs one (--vocab)",
                             c->model->name);
    for (size_t i = 0; i < c->n_stops; i++)
        if (!c->stop_lens[i])
            return err_set_param(e, ERR_INVALID, "stop", "a stop string is empty");
    for (size_t i = 0; i < c->n_bias; i++)
        if (c->bias[i].id >= c->model->n_vocab)
            return err_set_param(e, ERR_INVALID, "logit_bias",
                                 "token %u: the vocabulary of %s has %u ids", c->bias[i].id,
                                 c->model->name, c->model->n_vocab);
    return 0;
}

/* Admits the call and sends its sequence on its way. */
static int submit(struct service *s, const struct model_info *m, const struct work *work,
                  struct err *e)
{
    struct worker *w = s->workers[m - s->options.registry->infos];
    struct sequence *q = NULL;
    int rc = service_admit(s, w, e);
    if (rc < 0)
        return rc;
    rc = sequence_new(s, w, work, &q, e);
    if (rc < 0) {
        service_release(s, w);
        service_leave(s);
        return rc;
    }
    if (s->options.request_ns && !q->call->deadline_ns)
        q->call->deadline_ns = q->call->received_ns + s->options.request_ns;
    metrics_add(s->metrics,
                work->completion ? METRIC_COMPLETIONS
                : work->bake     ? METRIC_BAKES
                : work->context  ? METRIC_CONTEXTS
                                 : METRIC_EMBEDDINGS,
                1);
    lookup_post(q);
    return 0;
}

int service_complete(struct service *s, struct completion *c, struct err *e)
{
    int rc = check_completion(s, c, e);
    return rc < 0 ? rc : submit(s, c->model, &(struct work){.completion = c}, e);
}

int service_bake(struct service *s, struct state_call *c, struct err *e)
{
    if (!c->model)
        return err_set_param(e, ERR_MODEL_NOT_FOUND, "model", "no model");
    if (check_prompt(c->model, c->prompt, c->n_prompt, e) < 0 ||
        check_name(c->ref ? c->ref : "", false, "name", e) < 0 ||
        check_name(c->base_state, true, "base_state", e) < 0 ||
        (c->adjustment && adjustment_check(s, c->model, &c->adjustment->ask, e) < 0))
        return e->code;
    return submit(s, c->model, &(struct work){.bake = c}, e);
}

int service_make_context(struct service *s, struct item_call *c, struct err *e)
{
    if (!c->errand.model)
        return err_set_param(e, ERR_MODEL_NOT_FOUND, "model", "no model");
    if (errand_item.check(&c->errand, e) < 0)
        return e->code;
    if (adjustment_check(s, c->errand.model, &c->adjustment->ask, e) < 0) {
        const char *dot = strchr(e->param, '.');
        if (dot)
            memmove(e->param, dot + 1, strlen(dot));
        else
            snprintf(e->param, sizeof e->param, "model");
        return e->code;
    }
    return submit(s, c->errand.model, &(struct work){.context = c}, e);
}

int service_embed(struct service *s, struct embedding *c, struct err *e)
{
    size_t floats;
    if (!c->model)
        return err_set_param(e, ERR_MODEL_NOT_FOUND, "model", "no model");
    if (!c->n_texts)
        return err_set_param(e, ERR_INVALID, "input", "there is no text");
    if (check_name(c->state, true, "state", e) < 0)
        return e->code;
    for (size_t i = 0; i < c->n_texts; i++) {
        if (!c->texts[i].n)
            return err_set_param(e, ERR_INVALID, "input", "a text has no tokens");
        if (check_prompt(c->model, c->texts[i].ids, c->texts[i].n, e) < 0) {
            snprintf(e->param, sizeof e->param, "input");
            return e->code;
        }
    }
    if (!mem_mul(c->n_texts, c->model->n_embd, &floats) ||
        !(c->vectors = calloc(floats, sizeof *c->vectors)))
        return err_set(e, ERR_NOMEM, "no memory for %zu vectors", c->n_texts);
    return submit(s, c->model, &(struct work){.embedding = c}, e);
}

/* ---- models ---- */

size_t service_models(const struct service *s, const struct model_info **out)
{
    *out = s->options.registry->infos;
    return s->options.registry->n;
}

bool service_model_hybrid(const struct service *s, const struct model_info *m, char sha256[65])
{
    struct model *model = registry_model(s->options.registry, m);
    struct served_hybrid *h = hybrid_place_use(&model->hybrids);
    snprintf(sha256, 65, "%s", h ? h->sha256 : "");
    served_hybrid_unref(h);
    return *sha256;
}

const struct model_info *service_find_model(const struct service *s, const char *name)
{
    const struct registry *r = s->options.registry;
    for (size_t i = 0; i < r->n; i++)
        if (!name || !*name || !strcmp(name, r->infos[i].name))
            return &r->infos[i];
    return NULL;
}

static int need_vocabulary(const struct model *m, struct err *e)
{
    return m->tokenizer
               ? 0
               : err_set(e, ERR_INVALID,
                         "the model %s has no vocabulary: send token ids, or start the server "
                         "with --vocab",
                         m->name);
}

int service_tokenize(const struct service *s, const struct model_info *info, const char *text,
                     size_t bytes, uint32_t **ids, size_t *n, struct err *e)
{
    const struct model *m = registry_model(s->options.registry, info);
    if (need_vocabulary(m, e) < 0)
        return e->code;
    uint32_t *out = calloc(bytes ? bytes : 1, sizeof *out);
    if (!out)
        return err_set(e, ERR_NOMEM, "no memory for %zu tokens", bytes);
    *n = tokenizer_encode(m->tokenizer, text, bytes, out);
    for (size_t i = 0; i < *n; i++)
        if (out[i] >= info->n_vocab) {
            err_set(e, ERR_INVALID, "the byte %u is not in the vocabulary of %s", out[i],
                    info->name);
            free(out);
            return e->code;
        }
    *ids = out;
    return 0;
}

int service_detokenize(const struct service *s, const struct model_info *info, const uint32_t *ids,
                       size_t n, struct buf *out, struct err *e)
{
    const struct model *m = registry_model(s->options.registry, info);
    int rc = need_vocabulary(m, e);
    return rc < 0 ? rc : tokenizer_decode(m->tokenizer, ids, n, out, e);
}

int service_token_text(const struct service *s, const struct model_info *info, uint32_t id,
                       struct buf *out)
{
    return model_token_text(registry_model(s->options.registry, info), id, true, out);
}
