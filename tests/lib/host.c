#include "tests/lib/host.h"

#include "daemon/state_record.h"
#include "engine/kernels/rng.h"

#include <stdlib.h>
#include <unistd.h>

static void must(int rc, const struct err *e, const char *what)
{
    if (rc < 0)
        fail_msg("%s: %s", what, e->msg);
}

static void run_loop(void *arg)
{
    loop_run(arg);
}

static void host_open(struct host *h, const char *const *models, size_t n,
                      const struct service_options *o)
{
    struct err e = {0};
    char specs[4][512], *list[4];
    assert_true(n <= 4);
    for (size_t i = 0; i < n; i++) {
        const char *eq = strchr(models[i], '='),
                   *path = eq[1] == '/' ? eq + 1 : golden_path(eq + 1);
        assert_non_null(path);
        snprintf(specs[i], sizeof specs[i], "%.*s=%s", (int)(eq - models[i]), models[i], path);
        list[i] = specs[i];
    }
    struct registry_options ro = {.models = list, .n_models = n, .threads = 1};
    struct service_options so = o ? *o : (struct service_options){.max_queue = 64};
    must(store_open(&(struct store_options){.dir = h->dir}, &h->store, &e), &e, "store");
    must(registry_open(&ro, NULL, &h->registry, &e), &e, "models");
    must(loop_new(&h->loop, &e), &e, "loop");
    so.store = h->store;
    so.registry = h->registry;
    so.loop = h->loop;
    must(service_new(&so, &h->svc, &e), &e, "service");
    must(thread_start(&h->loop_thread, THREAD_OTHER, "loop", run_loop, h->loop, &e), &e, "thread");
}

static void stop_loop(void *arg)
{
    loop_stop(arg);
}

struct stopper {
    struct mail mail;
    struct service *svc;
    struct loop *loop;
};

static void drain_then_stop(struct mail *m)
{
    struct stopper *s = (struct stopper *)m;
    service_drain(s->svc, 0, stop_loop, s->loop);
}

static void host_close(struct host *h)
{
    struct stopper s = {.mail.run = drain_then_stop, .svc = h->svc, .loop = h->loop};
    list_init(&s.mail.link);
    assert_int_equal(loop_post(h->loop, &s.mail), 0);
    pthread_join(h->loop_thread, NULL);
    service_free(h->svc);
    store_close(h->store);
    registry_close(h->registry);
    loop_free(h->loop);
}

struct host *host_new(const char *const *models, size_t n, const struct service_options *o)
{
    struct host *h = calloc(1, sizeof *h);
    assert_non_null(h);
    snprintf(h->dir, sizeof h->dir, "/tmp/dreamstate-test-XXXXXX");
    assert_non_null(mkdtemp(h->dir));
    host_open(h, models, n, o);
    return h;
}

void host_restart(struct host *h, const char *const *models, size_t n,
                  const struct service_options *o)
{
    host_close(h);
    host_open(h, models, n, o);
}

void host_free(struct host *h)
{
    static const char *const files[] = {"dreamstate.db", "dreamstate.db-wal", "dreamstate.db-shm"};
    char path[128];
    host_close(h);
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", h->dir, files[i]);
        unlink(path);
    }
    rmdir(h->dir);
    free(h);
}

/* ---- reading streams ---- */

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool ready; /* guard: lock */
};

static void on_resume(void *arg)
{
    struct waiter *w = arg;
    pthread_mutex_lock(&w->lock);
    w->ready = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

static void keep_record(struct answer *a, const char *p, size_t bytes)
{
    struct token_event t;
    assert_true(bytes >= sizeof t);
    memcpy(&t, p, sizeof t);
    size_t top_bytes = t.n_top * sizeof(struct token_logprob);
    assert_int_equal(bytes, sizeof t + top_bytes + t.piece_bytes + t.text_bytes);
    buf_append(&a->text, p + sizeof t + top_bytes + t.piece_bytes, t.text_bytes);
    if (t.id == TOKEN_NONE)
        return;
    a->ids = realloc(a->ids, (a->n + 1) * sizeof *a->ids);
    a->logprobs = realloc(a->logprobs, (a->n + 1) * sizeof *a->logprobs);
    a->top = realloc(a->top, (a->n + 1) * 20 * sizeof *a->top);
    assert_true(a->ids && a->logprobs && a->top);
    memcpy(a->top + a->n * t.n_top, p + sizeof t, top_bytes);
    a->ids[a->n] = t.id;
    a->logprobs[a->n] = t.logprob;
    a->n++;
    a->n_prompt += t.prompt;
}

/* Reads a stream to its end; its records into a, or, NULL, nowhere. */
static void read_stream(struct call *c, struct answer *a)
{
    struct waiter w = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};
    struct buf batch;
    buf_init(&batch, 1u << 24);
    stream_set_wake(&c->stream, &(struct stream_wake){NULL, on_resume, &w});
    for (enum stream_take what; (what = stream_take(&c->stream, &batch)) != STREAM_END;) {
        size_t at = 0, n;
        for (const void *p; a && what == STREAM_DATA && (p = stream_next_record(&batch, &at, &n));)
            keep_record(a, p, n);
        buf_reset(&batch);
        pthread_mutex_lock(&w.lock);
        while (what == STREAM_WAIT && !w.ready)
            pthread_cond_wait(&w.cond, &w.lock);
        w.ready = false;
        pthread_mutex_unlock(&w.lock);
    }
    buf_fini(&batch);
}

struct answer *answer_read(struct call *c)
{
    struct answer *a = calloc(1, sizeof *a);
    assert_non_null(a);
    buf_init(&a->text, 1u << 24);
    read_stream(c, a);
    return a;
}

void call_wait(struct call *c)
{
    read_stream(c, NULL);
}

void answer_free(struct answer *a)
{
    free(a->ids);
    free(a->logprobs);
    free(a->top);
    buf_fini(&a->text);
    free(a);
}

/* ---- calls ---- */

static uint32_t *copy_ids(const uint32_t *ids, size_t n)
{
    uint32_t *p = calloc(n + 1, sizeof *p);
    assert_non_null(p);
    if (n)
        memcpy(p, ids, n * sizeof *p);
    return p;
}

struct completion *ask(struct host *h, const char *name, const uint32_t *prompt, size_t n,
                       uint32_t max_tokens, uint64_t seed)
{
    struct completion *c = completion_new();
    assert_non_null(c);
    c->model = service_find_model(h->svc, name);
    assert_non_null(c->model);
    c->prompt = copy_ids(prompt, n);
    c->n_prompt = n;
    c->max_tokens = max_tokens;
    c->sampling.seed = seed;
    return c;
}

struct answer *complete(struct host *h, struct completion *c, int want)
{
    struct err e = {0};
    must(service_complete(h->svc, c, &e), &e, "service_complete");
    struct answer *a = answer_read(&c->call);
    if (c->call.err.code != want)
        fail_msg("completion ended with %d (%s), want %d", c->call.err.code, c->call.err.msg, want);
    return a;
}

void run_state_call(struct host *h, struct state_call *c, int want)
{
    struct err e = {0};
    must(service_state(h->svc, c, &e), &e, "service_state");
    answer_free(answer_read(&c->call));
    if (c->call.err.code != want)
        fail_msg("call ended with %d (%s), want %d", c->call.err.code, c->call.err.msg, want);
}

struct state_call *bake(struct host *h, const char *model, const char *ref, const char *base,
                        const uint32_t *prompt, size_t n, int want)
{
    struct state_call *c = state_call_new(STATE_BAKE);
    assert_non_null(c);
    c->model = service_find_model(h->svc, model);
    c->ref = strdup(ref);
    c->base_state = base ? strdup(base) : NULL;
    c->prompt = copy_ids(prompt, n);
    c->n_prompt = n;
    run_state_call(h, c, want);
    return c;
}

struct state_call *state_op(struct host *h, enum state_op op, const char *ref, int want)
{
    struct state_call *c = state_call_new(op);
    assert_non_null(c);
    c->ref = strdup(ref);
    c->limit = 1000;
    run_state_call(h, c, want);
    return c;
}

/* ---- the oracle ---- */

struct oracle *oracle_new(const char *file)
{
    struct err e = {0};
    struct oracle *o = calloc(1, sizeof *o);
    const char *path = golden_path(file);
    assert_true(o && path);
    o->pool = pool_new(1, "oracle", 0, &e);
    assert_non_null(o->pool);
    must(rwkv_open(path, &(struct rwkv_options){.weights_type = -1}, o->pool, &o->model, &e), &e,
         path);
    o->info = rwkv_get_info(o->model);
    o->session = rwkv_session_new(o->model, o->pool, 7, &e);
    o->state = rwkv_state_new(o->info);
    o->logits = calloc(o->info->n_vocab, sizeof *o->logits);
    assert_true(o->session && o->state && o->logits);
    return o;
}

void oracle_free(struct oracle *o)
{
    rwkv_session_free(o->session);
    rwkv_close(o->model);
    pool_free(o->pool);
    free(o->state);
    free(o->logits);
    free(o);
}

void oracle_reset(struct oracle *o)
{
    memset(o->state, 0, rwkv_state_floats(o->info) * sizeof *o->state);
    o->n_read = 0;
}

void oracle_feed(struct oracle *o, const uint32_t *ids, size_t n)
{
    struct err e = {0};
    struct rwkv_seq q = {.tokens = ids,
                         .n_tokens = n,
                         .state = o->state,
                         .theta = o->theta,
                         .rank = o->rank,
                         .logits = o->logits};
    must(n ? rwkv_eval(o->session, &q, 1, &e) : 0, &e, "oracle");
    o->n_read += n;
}

void oracle_sample(struct oracle *o, const struct sampling_params *p, size_t n, uint32_t *ids,
                   bool read_last)
{
    struct err e = {0};
    struct sampler *s = sampler_new(p, o->info->n_vocab, rwkv_get_kern(o->model), &e);
    assert_non_null(s);
    for (size_t i = 0; i < n; i++) {
        ids[i] = sampler_pick(s, o->logits);
        sampler_accept(s, ids[i]);
        if (i + 1 < n || read_last)
            oracle_feed(o, &ids[i], 1);
    }
    sampler_free(s);
}

void oracle_sha256(const struct oracle *o, const char *weights_type, char sha256[65])
{
    struct err e = {0};
    void *blob = NULL;
    size_t bytes;
    must(state_record_pack(o->info, weights_type, o->n_read, o->state, o->logits, &blob, &bytes,
                           sha256, &e),
         &e, "pack");
    free(blob);
}

void some_ids(uint64_t seed, uint32_t *ids, size_t n)
{
    struct rng r;
    rng_init(&r, seed, 0);
    for (size_t i = 0; i < n; i++)
        ids[i] = (uint32_t)rng_below(&r, 1000);
}
