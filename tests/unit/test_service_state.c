/* daemon/service.h, states: a state goes on exactly as if it had never been put down; the wrong one
 * is never used. */
#include "daemon/state_record.h"
#include "tests/lib/host.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>

static const char *const one_model[] = {"a=" RAND_A};
static const char *const two_models[] = {"a=" RAND_A, "b=" RAND_B};

/* A completion from state `from`, kept as `save` (either may be NULL). */
static struct completion *ask_from(struct host *h, const char *model, const char *from,
                                   const char *save, const uint32_t *prompt, size_t n, uint32_t max)
{
    struct completion *c = ask(h, model, prompt, n, max, 42);
    c->state = from ? strdup(from) : NULL;
    c->save_state = save ? strdup(save) : NULL;
    return c;
}

static void check_sha(const struct oracle *o, const struct state_info *got)
{
    char sha256[65];
    oracle_sha256(o, "f32", sha256);
    assert_string_equal(got->sha256, sha256);
    assert_int_equal(got->n_tokens, o->n_read);
    assert_true(got->has_logits);
}

static void expect_ids(const struct answer *a, const uint32_t *ids, size_t n)
{
    assert_int_equal(a->n, n);
    assert_memory_equal(a->ids, ids, n * sizeof *ids);
}

/* Bake 100 tokens, add 70, go on with 30 more: all as one reading of 200, whatever the cuts, also
 * over restarts of the process. */
static void test_bake_and_go_on(void **state)
{
    (void)state;
    uint32_t ids[200], want[20];
    struct host *h = host_new(one_model, 1, NULL);
    struct oracle *o = oracle_new(RAND_A);
    some_ids(1, ids, 200);
    struct state_call *b = bake(h, "a", "story", NULL, ids, 100, 0);
    oracle_feed(o, ids, 100);
    assert_int_equal(b->n_states, 1);
    assert_string_equal(b->states[0].name, "story");
    assert_int_equal(b->states[0].version, 1);
    assert_string_equal(b->states[0].parents, "[]");
    assert_int_equal(b->timings.prompt_n, 100);
    check_sha(o, &b->states[0]);
    call_unref(&b->call);
    host_restart(h, one_model, 1, NULL);
    b = bake(h, "a", "more", "story@1", ids + 100, 70, 0);
    oracle_feed(o, ids + 100, 70);
    assert_string_equal(b->states[0].parents, "[\"story@1\"]");
    assert_int_equal(b->timings.cache_n, 100);
    assert_int_equal(b->timings.prompt_n, 70);
    check_sha(o, &b->states[0]);
    call_unref(&b->call);
    host_restart(h, one_model, 1, NULL);
    struct completion *c = ask_from(h, "a", "more", NULL, ids + 170, 30, 20);
    oracle_feed(o, ids + 170, 30);
    oracle_sample(o, &c->sampling, 20, want, false);
    struct answer *a = complete(h, c, 0);
    expect_ids(a, want, 20);
    assert_int_equal(c->timings.cache_n, 170);
    assert_int_equal(c->timings.prompt_n, 30);
    assert_string_equal(c->state_used, "more@1");
    assert_false(c->other_weights_type);
    answer_free(a);
    call_unref(&c->call);
    oracle_free(o);
    host_free(h);
}

/* What a completion keeps has read its prompt and all it said; an empty prompt goes on from there.
 */
static void test_save_and_go_on_with_nothing(void **state)
{
    (void)state;
    uint32_t prompt[10], first[8], second[8];
    struct host *h = host_new(one_model, 1, NULL);
    struct oracle *o = oracle_new(RAND_A);
    some_ids(5, prompt, 10);
    struct completion *c = ask_from(h, "a", NULL, "s", prompt, 10, 8);
    oracle_feed(o, prompt, 10);
    oracle_sample(o, &c->sampling, 8, first, true);
    struct answer *a = complete(h, c, 0);
    expect_ids(a, first, 8);
    check_sha(o, c->saved);
    json_t *origin = json_loads(c->saved->origin, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(origin, "kind")), "completion");
    assert_int_equal(json_integer_value(json_object_get(origin, "seed")), 42);
    json_decref(origin);
    answer_free(a);
    call_unref(&c->call);
    c = ask_from(h, "a", "s", "s2", NULL, 0, 8);
    c->n_logprobs = 0;
    oracle_sample(o, &c->sampling, 8, second, true);
    a = complete(h, c, 0);
    expect_ids(a, second, 8);
    assert_int_equal(c->timings.cache_n, 18);
    assert_int_equal(c->timings.prompt_n, 0);
    assert_string_equal(c->saved->parents, "[\"s@1\"]");
    check_sha(o, c->saved);
    answer_free(a);
    call_unref(&c->call);
    /* Nothing read, nothing said: a copy, of the same bytes. */
    struct state_call *b = bake(h, "a", "copy", "s2", NULL, 0, 0);
    check_sha(o, &b->states[0]);
    call_unref(&b->call);
    oracle_free(o);
    host_free(h);
}

static void set_stop(struct completion *c, const char *stop)
{
    c->n_stops = 1;
    c->stops = calloc(1, sizeof *c->stops);
    c->stop_lens = calloc(1, sizeof *c->stop_lens);
    assert_true(c->stops && c->stop_lens);
    c->stops[0] = strdup(stop);
    c->stop_lens[0] = strlen(stop);
}

/* A stop string over three tokens, and a decoy that begins as it does: the kept state has read only
 * the tokens that were shown whole. */
static void test_stop_goes_back(void **state)
{
    (void)state;
    enum { N = 12 };
    uint32_t prompt[4], ids[N];
    char stop[128];
    struct host *h = host_new(one_model, 1, NULL);
    struct oracle *o = oracle_new(RAND_A);
    some_ids(9, prompt, 4);
    /* Every token's text ends with ">", so each one's last byte is held back for a while. */
    static const struct {
        int first, last; /* tokens that the stop string takes a part of */
    } cases[] = {{3, 5}, {0, 1}, {7, 7}, {2, 10}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char name[8];
        snprintf(name, sizeof name, "s%zu", i);
        struct completion *c = ask_from(h, "a", NULL, name, prompt, 4, N);
        oracle_reset(o);
        oracle_feed(o, prompt, 4);
        oracle_sample(o, &c->sampling, N, ids, false);
        size_t at = 0;
        for (int k = cases[i].first; k <= cases[i].last; k++)
            at +=
                (size_t)snprintf(stop + at, sizeof stop - at,
                                 k == cases[i].first && k != cases[i].last ? ">" : "<%u>", ids[k]);
        set_stop(c, stop);
        oracle_reset(o);
        oracle_feed(o, prompt, 4);
        oracle_feed(o, ids, (size_t)cases[i].first);
        struct answer *a = complete(h, c, 0);
        assert_int_equal(c->finish, FINISH_STOP);
        assert_int_equal(c->timings.predicted_n, cases[i].last + 1);
        check_sha(o, c->saved);
        answer_free(a);
        call_unref(&c->call);
    }
    oracle_free(o);
    host_free(h);
}

static void test_wrong_states(void **state)
{
    (void)state;
    uint32_t ids[5];
    struct host *h = host_new(two_models, 2, NULL);
    some_ids(3, ids, 5);
    call_unref(&bake(h, "a", "mine", NULL, ids, 5, 0)->call);
    /* unknown, also a version that never was */
    struct completion *c = ask_from(h, "a", "nobody", NULL, ids, 5, 4);
    answer_free(complete(h, c, ERR_STATE_NOT_FOUND));
    assert_string_equal(c->call.err.param, "state");
    call_unref(&c->call);
    c = ask_from(h, "a", "mine@2", NULL, ids, 5, 4);
    answer_free(complete(h, c, ERR_STATE_NOT_FOUND));
    call_unref(&c->call);
    /* of a model of the same shape with other weights */
    c = ask_from(h, "b", "mine", NULL, ids, 5, 4);
    answer_free(complete(h, c, ERR_STATE_INCOMPATIBLE));
    assert_null(c->saved);
    call_unref(&c->call);
    struct state_call *b = bake(h, "b", "other", "mine", ids, 5, ERR_STATE_INCOMPATIBLE);
    assert_string_equal(b->call.err.param, "base_state");
    call_unref(&b->call);
    /* a name that is taken */
    call_unref(&bake(h, "a", "mine", NULL, ids, 4, ERR_STATE_EXISTS)->call);
    c = ask_from(h, "a", NULL, "mine", ids, 5, 4);
    answer_free(complete(h, c, ERR_STATE_EXISTS));
    call_unref(&c->call);
    c = ask_from(h, "a", "mine", "mine", ids, 5, 4);
    c->save_new_version = true;
    answer_free(complete(h, c, 0));
    assert_int_equal(c->saved->version, 2);
    call_unref(&c->call);
    host_free(h);
}

static void test_get_list_delete(void **state)
{
    (void)state;
    uint32_t id = 1;
    struct host *h = host_new(one_model, 1, NULL);
    call_unref(&bake(h, "a", "x.1", NULL, &id, 1, 0)->call);
    call_unref(&bake(h, "a", "x.2", NULL, &id, 1, 0)->call);
    struct state_call *c = state_op(h, STATE_LIST, "", 0);
    assert_int_equal(c->n_states, 2);
    assert_string_equal(c->states[1].name, "x.2");
    assert_string_equal(c->states[0].sha256, c->states[1].sha256);
    assert_false(c->has_more);
    call_unref(&c->call);
    c = state_op(h, STATE_GET, "x.1@1", 0);
    assert_string_equal(c->states[0].model, "a");
    assert_int_equal(c->states[0].n_tokens, 1);
    call_unref(&c->call);
    call_unref(&state_op(h, STATE_DELETE, "x.1", 0)->call);
    call_unref(&state_op(h, STATE_GET, "x.1", ERR_STATE_NOT_FOUND)->call);
    call_unref(&state_op(h, STATE_DELETE, "x.1", ERR_STATE_NOT_FOUND)->call);
    host_free(h);
}

/* From memory as from the store, bit for bit; what was saved is there already; small limits work. */
static void test_cache(void **state)
{
    (void)state;
    enum { STATES = 6, N = 9 };
    uint32_t ids[40], want[N];
    struct state_cache_stats st;
    char name[8];
    some_ids(31, ids, 40);
    for (int limited = 0; limited < 2; limited++) {
        struct oracle *o = oracle_new(RAND_A);
        size_t one = (rwkv_state_floats(o->info) + o->info->n_vocab) * sizeof(float) + 400;
        const struct service_options with = {.max_queue = 64,
                                             .state_cache = limited ? 3 * one : STATES * one};
        struct host *h = host_new(one_model, 1, &with);
        for (size_t i = 0; i < STATES; i++) {
            snprintf(name, sizeof name, "s%zu", i);
            call_unref(&bake(h, "a", name, NULL, ids + i, 20, 0)->call);
        }
        for (size_t round = 0; round < 2; round++)
            for (size_t i = 0; i < STATES; i++) {
                snprintf(name, sizeof name, "s%zu", i);
                struct completion *c = ask_from(h, "a", name, NULL, ids + 30, i % 2, N);
                oracle_reset(o);
                oracle_feed(o, ids + i, 20);
                oracle_feed(o, ids + 30, i % 2);
                oracle_sample(o, &c->sampling, N, want, false);
                struct answer *a = complete(h, c, 0);
                expect_ids(a, want, N);
                assert_int_equal(c->timings.cache_n, 20);
                assert_int_equal(c->timings.prompt_n, i % 2);
                answer_free(a);
                call_unref(&c->call);
            }
        state_cache_get_stats(h->svc->cache, &st);
        assert_int_equal(st.hits + st.misses, 2 * STATES);
        assert_int_equal(st.hits, limited ? 0 : 2 * STATES); /* in turn, least recently used */
        assert_int_equal(st.entries, limited ? 3 : STATES);
        host_restart(h, one_model, 1, &with);
        for (int k = 0; k < 2; k++) {
            struct completion *c = ask_from(h, "a", "s5", NULL, NULL, 0, 1);
            answer_free(complete(h, c, 0));
            call_unref(&c->call);
        }
        state_cache_get_stats(h->svc->cache, &st);
        assert_int_equal(st.misses, 1); /* read once, then in memory */
        assert_int_equal(st.hits, 1);
        call_unref(&state_op(h, STATE_DELETE, "s5", 0)->call);
        struct completion *c = ask_from(h, "a", "s5", NULL, NULL, 0, 1);
        answer_free(complete(h, c, ERR_STATE_NOT_FOUND));
        call_unref(&c->call);
        oracle_free(o);
        host_free(h);
    }
}

/* The porter at rest until it is let go. */
struct barrier {
    struct mail mail;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool open; /* guard: lock */
};

static void hold_porter(struct mail *m)
{
    struct barrier *b = LIST_OWNER(m, struct barrier, mail);
    pthread_mutex_lock(&b->lock);
    while (!b->open)
        pthread_cond_wait(&b->cond, &b->lock);
    pthread_mutex_unlock(&b->lock);
}

/* Files on their way are limited in number; who has one more is told so at once, and later has it. */
static void test_files(void **state)
{
    (void)state;
    uint32_t ids[5];
    struct err e = {0};
    struct state_call *c[PORTER_FILES + 1];
    struct barrier b = {.mail.run = hold_porter,
                        .lock = PTHREAD_MUTEX_INITIALIZER,
                        .cond = PTHREAD_COND_INITIALIZER};
    struct host *h = host_new(one_model, 1, NULL);
    some_ids(3, ids, 5);
    struct state_call *baked = bake(h, "a", "s", NULL, ids, 5, 0);
    list_init(&b.mail.link);
    porter_post(&h->svc->porter, &b.mail);
    for (size_t i = 0; i <= PORTER_FILES; i++) {
        c[i] = state_call_new(STATE_DATA);
        assert_non_null(c[i]);
        c[i]->ref = strdup("s");
        assert_int_equal(service_state(h->svc, c[i], &e), i < PORTER_FILES ? 0 : ERR_BUSY);
    }
    pthread_mutex_lock(&b.lock);
    b.open = true;
    pthread_cond_signal(&b.cond);
    pthread_mutex_unlock(&b.lock);
    for (size_t i = 0; i < PORTER_FILES; i++) {
        answer_free(answer_read(&c[i]->call));
        assert_int_equal(c[i]->call.err.code, 0);
        assert_int_equal(c[i]->data_bytes, baked->states[0].bytes);
    }
    assert_int_equal(service_state(h->svc, c[PORTER_FILES], &e), 0);
    answer_free(answer_read(&c[PORTER_FILES]->call));
    assert_memory_equal(c[PORTER_FILES]->data, c[0]->data, c[0]->data_bytes);
    for (size_t i = 0; i <= PORTER_FILES; i++)
        call_unref(&c[i]->call);
    call_unref(&baked->call);
    host_free(h);
}

/* ---- states put into the store by other hands ---- */

struct put {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done; /* guard: lock */
    int code;
};

static void on_put(void *arg, const struct err *e, const struct store_state *s, void *blob,
                   size_t n)
{
    struct put *p = arg;
    (void)s, (void)n;
    free(blob);
    pthread_mutex_lock(&p->lock);
    p->done = true;
    p->code = e->code;
    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->lock);
}

/* Stores o's state under name; then bytes[flip] is another one (SIZE_MAX: none), the record keeps
 * the SHA-256 of before. */
static void put_state(struct host *h, const struct oracle *o, const char *name, size_t flip)
{
    struct put p = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, 0};
    struct store_state s = {.parents = "[]", .origin = "{}", .tags = "[]", .norms = "{}"};
    struct err e;
    void *blob;
    size_t bytes;
    assert_int_equal(state_record_pack(o->info, "f32", o->n_read, o->state,
                                       o->n_read ? o->logits : NULL, &blob, &bytes, s.sha256, &e),
                     0);
    if (flip < bytes)
        ((char *)blob)[bytes - 1 - flip] ^= 1;
    snprintf(s.name, sizeof s.name, "%s", name);
    snprintf(s.model, sizeof s.model, "a");
    snprintf(s.fingerprint, sizeof s.fingerprint, "%s", o->info->fingerprint);
    snprintf(s.weights_type, sizeof s.weights_type, "bf16");
    s.n_layer = (uint32_t)o->info->n_layer, s.n_embd = (uint32_t)o->info->n_embd;
    s.head_size = (uint32_t)o->info->head_size;
    s.n_tokens = o->n_read;
    s.has_logits = o->n_read > 0;
    s.bytes = bytes;
    assert_int_equal(
        store_put_state_take(h->store, &s, blob, bytes, &(struct store_write){0}, on_put, &p, &e), 0);
    pthread_mutex_lock(&p.lock);
    while (!p.done)
        pthread_cond_wait(&p.cond, &p.lock);
    pthread_mutex_unlock(&p.lock);
    assert_int_equal(p.code, 0);
}

static void test_damaged(void **state)
{
    (void)state;
    uint32_t ids[5];
    struct host *h = host_new(one_model, 1, NULL);
    struct oracle *o = oracle_new(RAND_A);
    some_ids(3, ids, 5);
    oracle_feed(o, ids, 5);
    put_state(h, o, "damaged", 12345);
    struct completion *c = ask_from(h, "a", "damaged", "child", ids, 5, 4);
    answer_free(complete(h, c, ERR_STATE_CORRUPT));
    assert_null(c->saved);
    call_unref(&c->call);
    call_unref(&state_op(h, STATE_GET, "child", ERR_STATE_NOT_FOUND)->call);
    call_unref(&bake(h, "a", "fine", NULL, ids, 5, 0)->call); /* the rest works */
    oracle_free(o);
    host_free(h);
}

/* A state without logits and an empty prompt: the separator is fed first. */
static void test_without_logits(void **state)
{
    (void)state;
    uint32_t zero = 0, want[6];
    struct host *h = host_new(one_model, 1, NULL);
    struct oracle *o = oracle_new(RAND_A);
    put_state(h, o, "blank", SIZE_MAX);
    struct completion *c = ask_from(h, "a", "blank", NULL, NULL, 0, 6);
    oracle_feed(o, &zero, 1);
    oracle_sample(o, &c->sampling, 6, want, false);
    struct answer *a = complete(h, c, 0);
    expect_ids(a, want, 6);
    assert_int_equal(c->timings.prompt_n, 1);
    assert_int_equal(c->timings.cache_n, 0);
    assert_true(c->other_weights_type); /* the record says bf16 */
    answer_free(a);
    call_unref(&c->call);
    oracle_free(o);
    host_free(h);
}

/* A state whose numbers overflow at the first token ends its own request only. */
static void test_not_finite(void **state)
{
    (void)state;
    enum { N = 40 };
    uint32_t ids[N], want[N];
    struct err e;
    struct host *h = host_new(one_model, 1, NULL);
    struct oracle *o = oracle_new(RAND_A);
    some_ids(8, ids, N);
    for (size_t i = 0; i < rwkv_state_floats(o->info); i++)
        o->state[i] = 3e38f;
    put_state(h, o, "huge", SIZE_MAX);
    struct completion *good = ask_from(h, "a", NULL, NULL, ids, N, N);
    struct completion *bad = ask_from(h, "a", "huge", "never", ids, N, N);
    assert_int_equal(service_complete(h->svc, bad, &e), 0);
    assert_int_equal(service_complete(h->svc, good, &e), 0);
    answer_free(answer_read(&bad->call));
    assert_int_equal(bad->call.err.code, ERR_NUMERIC);
    assert_null(bad->saved);
    oracle_reset(o);
    oracle_feed(o, ids, N);
    oracle_sample(o, &good->sampling, N, want, false);
    struct answer *a = answer_read(&good->call);
    expect_ids(a, want, N);
    answer_free(a);
    call_unref(&bad->call);
    call_unref(&good->call);
    oracle_free(o);
    host_free(h);
}

/* Many go on from one state at the same time; the state does not change. */
static void test_forks(void **state)
{
    (void)state;
    enum { FORKS = 16, N = 12 };
    uint32_t ids[30], want[N];
    struct err e;
    struct completion *c[FORKS];
    struct host *h =
        host_new(one_model, 1, &(struct service_options){.max_sequences = 6, .max_queue = 99});
    struct oracle *o = oracle_new(RAND_A);
    some_ids(21, ids, 30);
    call_unref(&bake(h, "a", "root", NULL, ids, 20, 0)->call);
    for (size_t i = 0; i < FORKS; i++) {
        c[i] = ask_from(h, "a", "root", NULL, ids + 20, i % 10, N);
        c[i]->sampling.seed = i;
        assert_int_equal(service_complete(h->svc, c[i], &e), 0);
        if (i % 4 == 3)
            call_cancel(&c[i]->call);
    }
    for (size_t i = 0; i < FORKS; i++) {
        struct answer *a = answer_read(&c[i]->call);
        oracle_reset(o);
        oracle_feed(o, ids, 20 + i % 10);
        oracle_sample(o, &c[i]->sampling, N, want, false);
        if (c[i]->call.err.code !=
            ERR_CANCELLED) { /* one that was cancelled may have been quicker */
            assert_int_equal(c[i]->call.err.code, 0);
            expect_ids(a, want, N);
        }
        answer_free(a);
        call_unref(&c[i]->call);
    }
    struct state_call *b = bake(h, "a", "again", "root", NULL, 0, 0);
    oracle_reset(o);
    oracle_feed(o, ids, 20);
    check_sha(o, &b->states[0]);
    call_unref(&b->call);
    oracle_free(o);
    host_free(h);
}

/* While the only place is taken, a state that is not there is told at once, and one that is there
 * is not loaded yet; if it is deleted meanwhile, no other takes its place. */
static void test_waiting_for_a_place(void **state)
{
    (void)state;
    uint32_t ids[6];
    struct err e;
    const struct service_options small = {.max_sequences = 1, .max_queue = 9};
    struct host *h = host_new(one_model, 1, &small);
    some_ids(3, ids, 6);
    call_unref(&bake(h, "a", "s", NULL, ids, 5, 0)->call);
    struct completion *talker = ask(h, "a", ids, 1, 10000000, 1);
    stream_fini(&talker->call.stream);
    assert_int_equal(stream_init(&talker->call.stream, 1000), 0); /* parks, and keeps its place */
    assert_int_equal(service_complete(h->svc, talker, &e), 0);
    struct completion *waiting = ask_from(h, "a", "s", NULL, ids, 1, 3);
    assert_int_equal(service_complete(h->svc, waiting, &e), 0);
    struct completion *c = ask_from(h, "a", "nobody", NULL, ids, 1, 3);
    answer_free(complete(h, c, ERR_STATE_NOT_FOUND));
    call_unref(&c->call);
    assert_int_equal(metrics_get(h->svc->metrics, METRIC_STATES_LOADED), 0);
    call_unref(&state_op(h, STATE_DELETE, "s@1", 0)->call);
    call_cancel(&talker->call);
    answer_free(answer_read(&talker->call));
    struct answer *a = answer_read(&waiting->call);
    assert_int_equal(waiting->call.err.code, ERR_STATE_NOT_FOUND);
    answer_free(a);
    call_unref(&waiting->call);
    call_unref(&talker->call);
    host_free(h);
}

static void test_references(void **state)
{
    (void)state;
    static const struct {
        const char *ref;
        int rc;
        uint64_t version;
    } cases[] = {
        {"a", 0, 0},
        {"A.b_c-9", 0, 0},
        {"a@1", 0, 1},
        {"a@9223372036854775807", 0, INT64_MAX},
        {"", ERR_INVALID, 0},
        {"@1", ERR_INVALID, 0},
        {"a@", ERR_INVALID, 0},
        {"a@0", ERR_INVALID, 0},
        {"a@01", ERR_INVALID, 0},
        {"a@-1", ERR_INVALID, 0},
        {"a@1x", ERR_INVALID, 0},
        {"a@1@2", ERR_INVALID, 0},
        {"a/b", ERR_INVALID, 0},
        {"a b", ERR_INVALID, 0},
        {"\xc3\xa4", ERR_INVALID, 0},
        {"a@9223372036854775808", ERR_INVALID, 0},
        {"a@99999999999999999999", ERR_INVALID, 0},
        {"import", ERR_INVALID, 0},
        {"generations@2", ERR_INVALID, 0},
        {"imports", 0, 0},
    };
    char name[129], longest[130];
    uint64_t version;
    struct err e;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int rc = state_ref_parse(cases[i].ref, name, &version, &e);
        if (rc != cases[i].rc || (rc == 0 && version != cases[i].version))
            fail_msg("'%s' gave %d, version %llu", cases[i].ref, rc, (unsigned long long)version);
    }
    memset(longest, 'n', 129);
    longest[129] = 0;
    assert_int_equal(state_ref_parse(longest, name, &version, &e), ERR_INVALID);
    assert_int_equal(state_ref_parse(longest + 1, name, &version, &e), 0);
    assert_string_equal(name, longest + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bake_and_go_on),  cmocka_unit_test(test_save_and_go_on_with_nothing),
        cmocka_unit_test(test_stop_goes_back),  cmocka_unit_test(test_wrong_states),
        cmocka_unit_test(test_cache),           cmocka_unit_test(test_files),
        cmocka_unit_test(test_get_list_delete), cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_without_logits),  cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_forks),           cmocka_unit_test(test_waiting_for_a_place),
        cmocka_unit_test(test_references),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
