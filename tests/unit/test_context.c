/* Hybrid inference against the engine driven by hand: what a context makes of a completion, alone, shared,
 * beside others; and stored contexts that are damaged, of another model, of another hybrid. */
#include "daemon/adjustment.h"
#include "daemon/base/sha256.h"
#include "engine/hybrid/net.h"
#include "engine/kernels/gemm.h"
#include "engine/kernels/rng.h"
#include "tests/lib/alloc_fail.h"
#include "tests/lib/host.h"

#include <math.h>
#include <semaphore.h>
#include <stdlib.h>

static const char *const models[] = {"a=" RAND_A, "b=" RAND_B};
enum { TEXT = 200, PROMPT = 70, MADE = 12, LATE = 5 };

/* A network as training begins with, but that nothing is 0 in. */
static struct hybrid *hybrid_new(const struct rwkv_info *info, uint64_t seed, size_t rank)
{
    struct hybrid *h = calloc(1, sizeof *h);
    const struct dit_shape s = {.n_embd = 16, .n_head = 2, .n_block = 1, .n_mlp = 16};
    struct err e = {0};
    struct rng rng;
    assert_non_null(h);
    h->info.shape = (struct state_shape){info->n_layer, info->n_embd, info->head_size};
    h->info.rank = rank;
    h->info.max_context = 8;
    h->info.sampling_steps = 2;
    memcpy(h->info.fingerprint, info->fingerprint, sizeof h->info.fingerprint);
    assert_int_equal(hybrid_init(h, &s, &e), 0);
    const size_t n = hybrid_count(&h->layout, &h->info.shape), X = h->layout.shape.context_dim;
    h->params = calloc(n, sizeof *h->params);
    h->scale = calloc(info->n_layer * hybrid_get_groups(h), sizeof *h->scale);
    h->context_mean = calloc(X, sizeof *h->context_mean);
    h->context_scale = calloc(X, sizeof *h->context_scale);
    assert_true(h->params && h->scale && h->context_mean && h->context_scale);
    rng_init(&rng, seed, 0);
    for (size_t i = 0; i < n; i++)
        h->params[i] = 0.2f * (float)rng_normal(&rng);
    for (size_t i = 0; i < info->n_layer * hybrid_get_groups(h); i++)
        h->scale[i] = 0.1f;
    for (size_t i = 0; i < X; i++)
        h->context_scale[i] = 1;
    return h;
}

/* Gives model i of the host a hybrid, before anything runs with it. */
static void give(struct host *h, size_t i, uint64_t seed, size_t rank)
{
    struct model *m = &h->registry->models[i];
    char sha256[65] = "";
    memset(sha256, 'a' + (int)(seed + rank), 64);
    struct served_hybrid *now =
        served_hybrid_new_take(hybrid_new(m->rwkv_info, seed, rank), sha256);
    assert_non_null(now);
    hybrid_place_set(&m->hybrids, now);
    served_hybrid_unref(now);
}

static struct host *host_with_hybrid(const struct service_options *o)
{
    struct host *h = host_new(models, 2, o);
    give(h, 0, 1, 0);
    return h;
}

/* The vectors of a text by hand: [rwkv_theta_floats] of the oracle's rank; seed 7. */
static float *by_hand(const struct oracle *o, const uint32_t *text, size_t n, double strength)
{
    struct hybrid *h = hybrid_new(o->info, 1, o->rank);
    struct err e = {0};
    struct hybrid_norms norms;
    const uint32_t separator = 0;
    float *theta = calloc(rwkv_theta_floats(o->info, o->rank), sizeof *theta);
    struct hybrid_context *c = hybrid_context_new(h, o->model, &e);
    assert_true(c && theta);
    assert_int_equal(hybrid_context_feed(c, o->session, &separator, 1, &e), 0);
    assert_int_equal(hybrid_context_feed(c, o->session, text, n, &e), 0);
    const struct hybrid_options how = {.strength = 1, .seed = 7};
    assert_int_equal(hybrid_adjust(h, c, &how, theta, &norms, &e), 0);
    assert_int_equal(hybrid_weaken(o->model, o->rank, theta, strength, &e), 0);
    hybrid_context_free(c);
    hybrid_close(h);
    return theta;
}

static struct adjustment *under(struct host *h, const char *name, const uint32_t *text, size_t n,
                                double strength)
{
    struct adjustment_ask ask = {.strength = strength, .seed = 7};
    struct err e = {0};
    struct token_list list = {0};
    const struct model_info *m = service_find_model(h->svc, "a");
    if (name)
        ask.context = strdup(name);
    else
        assert_int_equal(condition_tokens(h->svc, m, text, n, &list, &e), 0);
    ask.text = list.ids;
    ask.n_text = list.n;
    struct adjustment *a = adjustment_new_take(&ask);
    assert_non_null(a);
    return a;
}

/* Stores a context of the text; the call ends with `want`. */
static void make(struct host *h, const char *name, const uint32_t *text, size_t n, bool replace,
                 int want)
{
    struct item_call *c = item_call_new(ITEM_CONTEXT, ITEM_PUT);
    struct err e = {0};
    assert_non_null(c);
    c->errand.model = service_find_model(h->svc, "a");
    c->name = strdup(name);
    c->replace = replace;
    c->adjustment = under(h, NULL, text, n, 1);
    if (service_make_context(h->svc, c, &e) < 0)
        fail_msg("%s", e.msg);
    answer_free(answer_read(&c->errand.call));
    assert_int_equal(c->errand.call.err.code, want);
    assert_int_equal(c->n_items, want == 0);
    if (want == 0) {
        const struct model *m = &h->registry->models[0];
        assert_string_equal(c->items[0].name, name);
        assert_int_equal(
            c->items[0].bytes,
            rwkv_theta_floats(m->rwkv_info, hybrid_get_info(m->hybrids.now->hybrid)->rank) *
                sizeof(float));
    }
    call_unref(&c->errand.call);
}

/* A completion under a; takes the reference. */
static struct completion *ask_under(struct host *h, struct adjustment *a, const uint32_t *prompt,
                                    size_t n)
{
    struct completion *c = ask(h, "a", prompt, n, MADE, 3);
    c->adjustment = a;
    c->return_state = true;
    return c;
}

/* What is completed under a is what the oracle says with theta. Takes a. */
static void check(struct host *h, struct oracle *o, struct adjustment *a, const float *theta,
                  const uint32_t *prompt)
{
    uint32_t ids[MADE];
    char sha256[65];
    struct completion *c = ask_under(h, a, prompt, PROMPT);
    oracle_reset(o);
    o->theta = theta;
    oracle_feed(o, prompt, PROMPT);
    oracle_sample(o, &c->sampling, MADE, ids, true);
    oracle_sha256(o, "f32", sha256);
    o->theta = NULL;
    struct answer *got = complete(h, c, 0);
    assert_int_equal(got->n, MADE);
    assert_memory_equal(got->ids, ids, sizeof ids);
    assert_string_equal(c->returned.sha256, sha256);
    answer_free(got);
    call_unref(&c->call);
}

static void check_by_hand(size_t rank)
{
    uint32_t text[TEXT], prompt[PROMPT];
    struct host *h = host_with_hybrid(NULL);
    struct oracle *o = oracle_new(RAND_A);
    give(h, 0, 1, rank);
    o->rank = rank;
    some_ids(1, text, TEXT);
    some_ids(2, prompt, PROMPT);
    make(h, "c", text, TEXT, false, 0);
    static const double strengths[] = {1, 0.4, 1e-6};
    for (size_t i = 0; i < sizeof strengths / sizeof *strengths; i++) {
        float *theta = by_hand(o, text, TEXT, strengths[i]);
        check(h, o, under(h, "c", NULL, 0, strengths[i]), theta, prompt);
        check(h, o, under(h, NULL, text, TEXT, strengths[i]), theta, prompt);
        free(theta);
    }
    check(h, o, under(h, "c", NULL, 0, 0), NULL, prompt);
    check(h, o, under(h, NULL, text, TEXT, 0), NULL, prompt);
    /* a single token is a context too */
    float *theta = by_hand(o, text, 1, 1);
    check(h, o, under(h, NULL, text, 1, 1), theta, prompt);
    make(h, "c", text, 1, false, ERR_NAME_EXISTS);
    make(h, "c", text, 1, true, 0);
    check(h, o, under(h, "c", NULL, 0, 1), theta, prompt);
    free(theta);
    oracle_free(o);
    host_free(h);
}

static void test_by_hand(void **state)
{
    (void)state;
    check_by_hand(0);
    check_by_hand(3);
}

/* Many at once under one adjustment, which is made once; the odd ones plain. */
static void test_together(void **state)
{
    (void)state;
    enum { N = 8 };
    uint32_t text[TEXT], prompt[N][PROMPT];
    struct host *h =
        host_with_hybrid(&(struct service_options){.max_queue = 64, .max_sequences = 3});
    struct completion *c[N];
    char alone[N][65];
    struct err e = {0};
    some_ids(1, text, TEXT);
    for (int round = 0; round < 2; round++) {
        struct adjustment *a = under(h, NULL, text, TEXT, 1);
        for (size_t i = 0; i < N; i++) {
            some_ids(10 + i, prompt[i], PROMPT);
            adjustment_ref(a);
            c[i] = ask_under(h, i % 2 ? NULL : a, prompt[i], PROMPT);
            if (i % 2)
                adjustment_unref(a);
            if (service_complete(h->svc, c[i], &e) < 0)
                fail_msg("%s", e.msg);
            if (round == 0)
                answer_free(answer_read(&c[i]->call));
        }
        for (size_t i = 0; i < N; i++) {
            if (round == 1)
                answer_free(answer_read(&c[i]->call));
            assert_int_equal(c[i]->call.err.code, 0);
            if (round == 0)
                memcpy(alone[i], c[i]->returned.sha256, 65);
            assert_string_equal(c[i]->returned.sha256, alone[i]);
            call_unref(&c[i]->call);
        }
        assert_string_not_equal(adjustment_get_used(a)->sha256, "");
        adjustment_unref(a);
    }
    host_free(h);
}

/* The one that reads for all is cancelled: those that wait end too, and the next request reads anew. */
static void test_cancelled(void **state)
{
    (void)state;
    enum { LONG = 20000, N = 4 };
    static uint32_t text[LONG];
    struct host *h = host_with_hybrid(NULL);
    struct completion *c[N];
    struct err e = {0};
    some_ids(1, text, LONG);
    struct adjustment *a = under(h, NULL, text, LONG, 1);
    for (size_t i = 0; i < N; i++) {
        adjustment_ref(a);
        c[i] = ask_under(h, a, text, PROMPT);
        if (service_complete(h->svc, c[i], &e) < 0)
            fail_msg("%s", e.msg);
    }
    while (!atomic_load(&c[0]->call.tokens_read))
        ;
    call_cancel(&c[0]->call);
    for (size_t i = 0; i < N; i++) {
        answer_free(answer_read(&c[i]->call));
        assert_int_equal(c[i]->call.err.code, ERR_CANCELLED);
        call_unref(&c[i]->call);
    }
    /* one that comes late to it ends as they did */
    struct completion *late = ask_under(h, a, text, PROMPT);
    answer_free(complete(h, late, ERR_CANCELLED));
    call_unref(&late->call);
    struct completion *next = ask_under(h, under(h, NULL, text, LATE, 1), text, PROMPT);
    answer_free(complete(h, next, 0));
    call_unref(&next->call);
    host_free(h);
}

/* ---- stored bytes ---- */

struct put {
    pthread_mutex_t lock;
    pthread_cond_t done;
    int code; /* 1: not yet */
};

static void on_put(void *arg, const struct err *e, const struct store_item *items, size_t n,
                   bool has_more, void *data, size_t bytes)
{
    struct put *p = arg;
    (void)items, (void)n, (void)has_more, (void)bytes;
    free(data);
    pthread_mutex_lock(&p->lock);
    p->code = e->code;
    pthread_cond_signal(&p->done);
    pthread_mutex_unlock(&p->lock);
}

/* Puts a record as it is, beside the service. */
static void put(struct host *h, const struct store_item *item, const void *data)
{
    struct put p = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 1};
    struct err e = {0};
    void *copy = malloc(item->bytes);
    assert_non_null(copy);
    memcpy(copy, data, item->bytes);
    if (store_put_item_take(h->store, item, copy, &(struct store_item_write){0}, on_put, &p, &e) <
        0)
        fail_msg("%s", e.msg);
    pthread_mutex_lock(&p.lock);
    while (p.code == 1)
        pthread_cond_wait(&p.done, &p.lock);
    pthread_mutex_unlock(&p.lock);
    assert_int_equal(p.code, 0);
}

static struct store_item record(struct host *h, const char *name, const float *theta, size_t n)
{
    static char meta[200];
    const struct model *m = &h->registry->models[0];
    struct store_item i = {.kind = STORE_CONTEXT, .meta = meta, .bytes = n * sizeof *theta};
    uint8_t digest[32];
    snprintf(meta, sizeof meta,
             "{\"hybrid\": \"%s\", \"n_tokens\": 5, \"seed\": 1, \"num_inference_steps\": 2}",
             m->hybrids.now->sha256);
    snprintf(i.name, sizeof i.name, "%s", name);
    snprintf(i.model, sizeof i.model, "%s", m->name);
    memcpy(i.fingerprint, m->rwkv_info->fingerprint, sizeof i.fingerprint);
    sha256_of(theta, i.bytes, digest);
    sha256_hex(digest, i.sha256);
    return i;
}

static void ends(struct host *h, const char *name, double strength, int want)
{
    const uint32_t prompt[] = {1, 2, 3};
    struct completion *c = ask_under(h, under(h, name, NULL, 0, strength), prompt, 3);
    answer_free(complete(h, c, want));
    if (want)
        assert_string_equal(c->call.err.param, "hybrid.context");
    call_unref(&c->call);
}

static void test_hostile(void **state)
{
    (void)state;
    struct host *h = host_with_hybrid(NULL);
    struct model *m = &h->registry->models[0];
    const size_t n = rwkv_theta_floats(m->rwkv_info, 0);
    float *theta = calloc(n + 1, sizeof *theta);
    assert_non_null(theta);
    rwkv_get_theta(m->rwkv, 0, theta);
    struct store_item i = record(h, "good", theta, n);
    put(h, &i, theta);
    ends(h, "good", 1, 0);
    i = record(h, "short", theta, n - 1);
    put(h, &i, theta);
    i = record(h, "long", theta, n + 1);
    put(h, &i, theta);
    i = record(h, "hash", theta, n);
    i.sha256[5] = i.sha256[5] == '0' ? '1' : '0';
    put(h, &i, theta);
    static const char *const metas[] = {"{}", "[]", "5", "{\"hybrid\": 5}", "{\"hybrid\": null}"};
    for (size_t k = 0; k < sizeof metas / sizeof *metas; k++) {
        i = record(h, (char[]){'m', (char)('0' + k), 0}, theta, n);
        i.meta = metas[k];
        put(h, &i, theta);
        ends(h, i.name, 1, ERR_STATE_CORRUPT);
        ends(h, i.name, 0, ERR_STATE_CORRUPT);
    }
    theta[n / 2] = NAN;
    i = record(h, "nan", theta, n);
    put(h, &i, theta);
    theta[n / 2] = -INFINITY;
    i = record(h, "infinite", theta, n);
    put(h, &i, theta);
    static const char *const bad[] = {"short", "long", "hash", "nan", "infinite"};
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++)
        ends(h, bad[k], 0.5, ERR_STATE_CORRUPT);
    ends(h, "nobody", 1, ERR_CONTEXT_NOT_FOUND);
    ends(h, "a name that is none", 1, ERR_INVALID);
    i = record(h, "theirs", theta, n);
    memcpy(i.fingerprint, h->registry->models[1].rwkv_info->fingerprint, sizeof i.fingerprint);
    put(h, &i, theta);
    ends(h, "theirs", 1, ERR_MODEL_MISMATCH);
    ends(h, "theirs", 0, ERR_MODEL_MISMATCH);
    give(h, 0, 2, 0);
    ends(h, "good", 1, ERR_MODEL_MISMATCH);
    ends(h, "good", 0, ERR_MODEL_MISMATCH);
    give(h, 0, 2, 1); /* of a rank: these are not as many as its vectors are */
    theta[n / 2] = 0;
    i = record(h, "flat", theta, n);
    put(h, &i, theta);
    ends(h, "flat", 1, ERR_STATE_CORRUPT);
    free(theta);
    host_free(h);
}

/* ---- refused at once ---- */

static void refuse(struct host *h, struct adjustment *a, const char *model, int want,
                   const char *param)
{
    const uint32_t prompt[] = {1, 2, 3};
    struct err e = {0};
    struct completion *c = ask(h, model, prompt, 3, MADE, 3);
    c->adjustment = a;
    assert_int_equal(service_complete(h->svc, c, &e), want);
    assert_string_equal(e.param, param);
    call_unref(&c->call);
}

static void test_refused(void **state)
{
    (void)state;
    uint32_t text[TEXT];
    struct host *h =
        host_with_hybrid(&(struct service_options){.max_queue = 64, .max_context = TEXT - 1});
    some_ids(1, text, TEXT);
    static const double strengths[] = {-0.001, 1.001, NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < sizeof strengths / sizeof *strengths; i++)
        refuse(h, under(h, "c", NULL, 0, strengths[i]), "a", ERR_INVALID, "hybrid.strength");
    refuse(h, under(h, NULL, text, 0, 1), "a", ERR_INVALID, "hybrid.text");
    refuse(h, under(h, NULL, text, 0, 0), "a", ERR_INVALID, "hybrid.text");
    refuse(h, under(h, NULL, text, TEXT, 1), "a", ERR_TOO_LARGE, "hybrid.text");
    refuse(h, under(h, NULL, text, TEXT, 0), "a", ERR_TOO_LARGE, "hybrid.text");
    refuse(h, under(h, "c", NULL, 0, 1), "b", ERR_NO_HYBRID, "hybrid");
    text[3] = 1u << 30;
    refuse(h, under(h, NULL, text, 5, 1), "a", ERR_INVALID, "hybrid.text");
    host_free(h);
}

/* ---- without memory ---- */

/* A request of its own for the lane's thread: what it does is done when this returns. */
struct errand_for_lane {
    struct lane_task lane;
    size_t n; /* the allocation that is to fail; 0: back to normal */
    bool refused;
    sem_t done;
};

static void on_lane(struct lane *l, struct lane_task *t)
{
    struct errand_for_lane *o = LIST_OWNER(t, struct errand_for_lane, lane);
    (void)l;
    if (o->n)
        alloc_fail_start(o->n, false);
    else
        o->refused = alloc_fail_stop();
    sem_post(&o->done);
}

/* Whether an allocation was refused since the last time. */
static bool arm_lane(struct host *h, size_t n)
{
    struct errand_for_lane o = {.lane = {.urgency = LANE_NOW, .run = on_lane}, .n = n};
    struct err e = {0};
    list_init(&o.lane.link);
    sem_init(&o.done, 0, 0);
    assert_int_equal(lane_post(&h->svc->lane, &o.lane, &e), 0);
    while (sem_wait(&o.done) < 0)
        continue;
    sem_destroy(&o.done);
    return o.refused;
}

/* A request for a context: its end, or how it was refused. */
static int make_one(struct host *h, struct item_call *c, char sha256[65])
{
    struct err e = {0};
    int rc = service_make_context(h->svc, c, &e);
    alloc_fail_stop(); /* from here on it is not this thread's */
    if (rc == 0) {
        answer_free(answer_read(&c->errand.call));
        rc = c->errand.call.err.code;
    }
    if (rc == 0)
        snprintf(sha256, 65, "%s", c->items[0].sha256);
    call_unref(&c->errand.call);
    return rc;
}

static struct item_call *context_call(struct host *h, const uint32_t *text)
{
    struct item_call *c = item_call_new(ITEM_CONTEXT, ITEM_PUT);
    assert_non_null(c);
    c->errand.model = service_find_model(h->svc, "a");
    c->name = strdup("c");
    c->replace = true;
    c->adjustment = under(h, NULL, text, PROMPT, 1);
    return c;
}

/* Every allocation fails in turn, on the thread that asks (0) and on the lane's (1): ERR_NOMEM each time, the
 * context that was there stays, and the next one is the same. */
static void test_no_memory(void **state)
{
    (void)state;
    struct host *h = host_with_hybrid(NULL);
    const uint32_t text[PROMPT] = {5, 6, 7, 8};
    char first[65] = "", sha256[65] = "";
    assert_int_equal(make_one(h, context_call(h, text), first), 0);
    for (int lane = 0; lane < 2; lane++) {
        size_t n = 0;
        for (bool refused = true; refused; n++) {
            struct item_call *c = context_call(h, text);
            if (lane)
                arm_lane(h, n + 1);
            else
                alloc_fail_start(n + 1, false);
            int rc = make_one(h, c, sha256);
            refused = lane ? arm_lane(h, 0) : alloc_fail_stop();
            if (rc != (refused ? ERR_NOMEM : 0))
                fail_msg("thread %d, allocation %zu: %d", lane, n + 1, rc);
            assert_true(refused || !strcmp(sha256, first));
        }
        printf("  thread %d: %zu allocations\n", lane, n - 1);
        assert_true(n > 1);
        ends(h, "c", 1, 0);
    }
    host_free(h);
}

int main(void)
{
    gemm_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand),   cmocka_unit_test(test_together),
        cmocka_unit_test(test_cancelled), cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_refused),   cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
