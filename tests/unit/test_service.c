/* daemon/service.h, completions: what comes out is what the model gives by hand, bit for bit, alone
 * and among others; limits, cancels, slow readers, shutdown. */
#include "daemon/sequence.h"
#include "tests/lib/alloc_fail.h"
#include "tests/lib/host.h"

#include <math.h>
#include <sched.h>
#include <stdlib.h>

static const char *const one_model[] = {"a=" RAND_A};

static void same_ids(const struct answer *a, const uint32_t *ids, size_t n)
{
    assert_int_equal(a->n - a->n_prompt, n);
    assert_memory_equal(a->ids + a->n_prompt, ids, n * sizeof *ids);
}

static void test_equals_by_hand(void **state)
{
    (void)state;
    uint32_t prompt[150], want[40];
    struct host *h = host_new(one_model, 1, NULL);
    struct oracle *o = oracle_new(RAND_A);
    some_ids(1, prompt, 150);
    static const size_t lengths[] = {1, 63, 64, 65, 128, 150};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct completion *c = ask(h, "a", prompt, lengths[i], 40, i);
        c->sampling.temperature = i % 2 ? 0.8f : 0;
        c->sampling.frequency_penalty = 0.3f;
        oracle_reset(o);
        oracle_feed(o, prompt, lengths[i]);
        oracle_sample(o, &c->sampling, 40, want, false);
        struct answer *a = complete(h, c, 0);
        same_ids(a, want, 40);
        assert_int_equal(c->finish, FINISH_LENGTH);
        assert_int_equal(c->timings.prompt_n, lengths[i]);
        assert_int_equal(c->timings.predicted_n, 40);
        assert_int_equal(c->timings.cache_n, 0);
        char text[32];
        snprintf(text, sizeof text, "<%u><%u>", want[0], want[1]);
        assert_memory_equal(a->text.data, text, strlen(text));
        answer_free(a);
        call_unref(&c->call);
    }
    oracle_free(o);
    host_free(h);
}

static void test_echo_and_logprobs(void **state)
{
    (void)state;
    enum { N = 100, NEW = 5, TOP = 3 };
    uint32_t ids[N + NEW];
    struct host *h = host_new(one_model, 1, NULL);
    struct oracle *o = oracle_new(RAND_A);
    struct token_logprob top[TOP];
    some_ids(2, ids, N);
    struct completion *c = ask(h, "a", ids, N, NEW, 3);
    c->echo = true;
    c->n_logprobs = TOP;
    struct answer *a = complete(h, c, 0);
    assert_int_equal(a->n, N + NEW);
    assert_int_equal(a->n_prompt, N);
    assert_memory_equal(a->ids, ids, N * sizeof *ids);
    assert_true(isnan(a->logprobs[0]));
    for (size_t i = 1; i < a->n; i++) {
        oracle_feed(o, &a->ids[i - 1], 1);
        float lp = logprobs_of(o->logits, 1000, a->ids[i], top, TOP);
        assert_memory_equal(&lp, &a->logprobs[i], sizeof lp);
        assert_memory_equal(top, a->top + i * TOP, sizeof top);
    }
    answer_free(a);
    call_unref(&c->call);
    /* Only reading: the same records of the prompt, nothing sampled. */
    c = ask(h, "a", ids, N, 0, 3);
    c->echo = true;
    a = complete(h, c, 0);
    assert_int_equal(a->n, N);
    assert_int_equal(c->finish, FINISH_LENGTH);
    assert_int_equal(c->timings.predicted_n, 0);
    answer_free(a);
    call_unref(&c->call);
    oracle_free(o);
    host_free(h);
}

static void test_empty_prompt(void **state)
{
    (void)state;
    uint32_t zero = 0, want[8];
    struct host *h = host_new(one_model, 1, NULL);
    struct oracle *o = oracle_new(RAND_A);
    struct completion *c = ask(h, "", NULL, 0, 8, 5); /* "" is the default model */
    c->echo = true;
    oracle_feed(o, &zero, 1);
    oracle_sample(o, &c->sampling, 8, want, false);
    struct answer *a = complete(h, c, 0);
    assert_int_equal(a->n_prompt, 0);
    same_ids(a, want, 8);
    assert_int_equal(c->timings.prompt_n, 1);
    answer_free(a);
    call_unref(&c->call);
    oracle_free(o);
    host_free(h);
}

static void test_stop_strings(void **state)
{
    (void)state;
    uint32_t prompt[4], ids[12];
    char stop[64], shown[256] = "";
    struct host *h = host_new(one_model, 1, NULL);
    struct oracle *o = oracle_new(RAND_A);
    some_ids(9, prompt, 4);
    struct completion *c = ask(h, "a", prompt, 4, 12, 77);
    oracle_feed(o, prompt, 4);
    oracle_sample(o, &c->sampling, 12, ids, false);
    snprintf(stop, sizeof stop, ">%s%u><%u", "<", ids[4], ids[5]); /* ends inside the sixth token */
    c->n_stops = 1;
    c->stops = calloc(1, sizeof *c->stops);
    c->stop_lens = calloc(1, sizeof *c->stop_lens);
    c->stops[0] = strdup(stop);
    c->stop_lens[0] = strlen(stop);
    struct answer *a = complete(h, c, 0);
    for (size_t i = 0, at = 0; i < 4; i++)
        at += (size_t)snprintf(shown + at, sizeof shown - at, i < 3 ? "<%u>" : "<%u", ids[i]);
    assert_string_equal(a->text.data, shown);
    assert_int_equal(c->finish, FINISH_STOP);
    assert_int_equal(c->timings.predicted_n, 6);
    same_ids(a, ids, 6);
    answer_free(a);
    call_unref(&c->call);
    oracle_free(o);
    host_free(h);
}

/* 32 at once, every third cancelled after some tokens: whoever is not says what it says alone. */
enum { CROWD = 32, CROWD_TOKENS = 24 };

static void test_crowd(void **state)
{
    (void)state;
    struct host *h =
        host_new(one_model, 1, &(struct service_options){.max_sequences = 12, .max_queue = 64});
    struct oracle *o = oracle_new(RAND_A);
    struct completion *c[CROWD];
    struct err e;
    uint32_t prompt[200], want[CROWD_TOKENS];
    for (size_t i = 0; i < CROWD; i++) {
        some_ids(i, prompt, 200);
        c[i] = ask(h, "a", prompt, 1 + (i * 37) % 200, i % 3 == 2 ? 100000 : CROWD_TOKENS, i / 2);
        assert_int_equal(service_complete(h->svc, c[i], &e), 0);
    }
    for (size_t i = 2; i < CROWD; i += 3)
        call_cancel(&c[i]->call);
    for (size_t i = 0; i < CROWD; i++) {
        struct answer *a = answer_read(&c[i]->call);
        if (i % 3 == 2) {
            assert_int_equal(c[i]->call.err.code, ERR_CANCELLED);
            assert_int_equal(c[i]->finish, FINISH_NONE);
        } else {
            assert_int_equal(c[i]->call.err.code, 0);
            oracle_reset(o);
            oracle_feed(o, c[i]->prompt, c[i]->n_prompt);
            oracle_sample(o, &c[i]->sampling, CROWD_TOKENS, want, false);
            same_ids(a, want, CROWD_TOKENS);
        }
        answer_free(a);
        call_unref(&c[i]->call);
    }
    oracle_free(o);
    host_free(h);
}

/* Five that share a prompt, on three places; `leaves`: who is cancelled once reading has begun. What the
 * others say is what each says alone, and where nobody leaves the prompt is read once. */
static void share(struct host *h, struct oracle *o, uint64_t seed, size_t n_prompt, int leaves)
{
    enum { N = 5, TOKENS = 12 };
    static uint32_t prompt[8 * SEQUENCE_CHUNK];
    struct completion *c[N];
    struct err e;
    uint32_t want[TOKENS];
    uint64_t read = metrics_get(h->svc->metrics, METRIC_PROMPT_TOKENS), n_read = 0;
    struct shared_prompt *shared = shared_prompt_new(N);
    some_ids(seed, prompt, n_prompt);
    for (size_t i = 0; i < N; i++) {
        c[i] = ask(h, "a", prompt, n_prompt, TOKENS, 50 + i);
        c[i]->shared = shared;
        shared_prompt_ref(shared);
        assert_int_equal(service_complete(h->svc, c[i], &e), 0);
    }
    shared_prompt_unref(shared);
    while (leaves >= 0 && metrics_get(h->svc->metrics, METRIC_PROMPT_TOKENS) == read)
        sched_yield();
    if (leaves >= 0)
        call_cancel(&c[leaves]->call);
    for (int i = 0; i < N; i++) {
        struct answer *a = answer_read(&c[i]->call);
        if (i != leaves || !c[i]->call.err.code) {
            assert_int_equal(c[i]->call.err.code, 0);
            oracle_reset(o);
            oracle_feed(o, prompt, n_prompt);
            oracle_sample(o, &c[i]->sampling, TOKENS, want, false);
            same_ids(a, want, TOKENS);
            assert_int_equal(c[i]->timings.cache_n + c[i]->timings.prompt_n, n_prompt);
        }
        n_read += c[i]->timings.prompt_n;
        answer_free(a);
        call_unref(&c[i]->call);
    }
    if (leaves < 0)
        assert_int_equal(n_read, n_prompt);
    assert_int_equal(metrics_get(h->svc->metrics, METRIC_PROMPT_TOKENS) - read, n_read);
}

static void test_shared_prompt(void **state)
{
    (void)state;
    struct host *h =
        host_new(one_model, 1, &(struct service_options){.max_sequences = 3, .max_queue = 64});
    struct oracle *o = oracle_new(RAND_A);
    share(h, o, 1, 1, -1);
    share(h, o, 2, 200, -1);
    for (int leaves = 0; leaves < 5; leaves++)
        share(h, o, 3, 8 * SEQUENCE_CHUNK, leaves);
    oracle_free(o);
    host_free(h);
}

static void test_full_queue(void **state)
{
    (void)state;
    uint32_t id = 7;
    struct err e;
    struct host *h =
        host_new(one_model, 1, &(struct service_options){.max_sequences = 1, .max_queue = 1});
    struct completion *running = ask(h, "a", &id, 1, 1000000, 1),
                      *waiting = ask(h, "a", &id, 1, 5, 1);
    struct completion *refused = ask(h, "a", &id, 1, 5, 1);
    assert_int_equal(service_complete(h->svc, running, &e), 0);
    assert_int_equal(service_complete(h->svc, waiting, &e), 0);
    assert_int_equal(service_complete(h->svc, refused, &e), ERR_BUSY);
    call_cancel(&running->call);
    answer_free(answer_read(&running->call));
    assert_int_equal(running->call.err.code, ERR_CANCELLED);
    answer_free(complete(h, refused, 0)); /* who sees the end may come again */
    answer_free(answer_read(&waiting->call));
    assert_int_equal(waiting->call.err.code, 0);
    call_unref(&running->call);
    call_unref(&waiting->call);
    call_unref(&refused->call);
    host_free(h);
}

/* One client reads nothing: its sequence is parked, another is served, then it gets all of its own.
 */
static void test_slow_reader(void **state)
{
    (void)state;
    enum { N = 120 };
    uint32_t id = 3, want[N];
    struct err e;
    const struct service_options patient = {.max_queue = 8, .park_ns = UINT64_MAX};
    struct host *h = host_new(one_model, 1, &patient);
    struct oracle *o = oracle_new(RAND_A);
    struct completion *slow = ask(h, "a", &id, 1, N, 11), *quick = ask(h, "a", &id, 1, N, 12);
    stream_fini(&slow->call.stream);
    assert_int_equal(stream_init(&slow->call.stream, 1000), 0);
    assert_int_equal(service_complete(h->svc, slow, &e), 0);
    answer_free(complete(h, quick, 0));
    oracle_feed(o, &id, 1);
    oracle_sample(o, &slow->sampling, N, want, false);
    struct answer *a = answer_read(&slow->call);
    assert_int_equal(slow->call.err.code, 0);
    same_ids(a, want, N);
    assert_true(metrics_get(h->svc->metrics, METRIC_PARKED) >= 1);
    answer_free(a);
    call_unref(&slow->call);
    call_unref(&quick->call);
    oracle_free(o);
    host_free(h);
}

static void test_reader_given_up(void **state)
{
    (void)state;
    uint32_t id = 3;
    struct err e;
    struct host *h = host_new(one_model, 1, &(struct service_options){.park_ns = 1});
    struct completion *c = ask(h, "a", &id, 1, 100000, 11);
    stream_fini(&c->call.stream);
    assert_int_equal(stream_init(&c->call.stream, 1000), 0);
    assert_int_equal(service_complete(h->svc, c, &e), 0);
    pthread_mutex_lock(&h->svc->lock);
    while (h->svc->live) /* it ends though nobody reads */
        pthread_cond_wait(&h->svc->idle, &h->svc->lock);
    pthread_mutex_unlock(&h->svc->lock);
    assert_int_equal(c->call.err.code, ERR_TIMEOUT);
    call_unref(&c->call);
    host_free(h);
}

static void test_deadline(void **state)
{
    (void)state;
    uint32_t id = 3;
    struct host *h = host_new(one_model, 1, NULL);
    struct completion *c = ask(h, "a", &id, 1, 1000000, 11);
    c->call.deadline_ns = 1; /* long ago */
    answer_free(complete(h, c, ERR_TIMEOUT));
    call_unref(&c->call);
    host_free(h);
}

/* While a prompt of many chunks is read, whoever decodes gets a token with every chunk. */
static void test_long_prompt_stalls_nobody(void **state)
{
    (void)state;
    enum { CHUNKS = 40, N = CHUNKS * SEQUENCE_CHUNK };
    static uint32_t prompt[N];
    uint32_t id = 5;
    struct err e;
    struct host *h = host_new(one_model, 1, NULL);
    struct completion *talker = ask(h, "a", &id, 1, 1000000, 1), *reader;
    some_ids(6, prompt, N);
    stream_fini(&talker->call.stream); /* one that never fills */
    assert_int_equal(stream_init(&talker->call.stream, 1u << 28), 0);
    assert_int_equal(service_complete(h->svc, talker, &e), 0);
    while (metrics_get(h->svc->metrics, METRIC_PREDICTED_TOKENS) == 0)
        sched_yield();
    uint64_t before = metrics_get(h->svc->metrics, METRIC_PREDICTED_TOKENS);
    reader = ask(h, "a", prompt, N, 0, 1);
    answer_free(complete(h, reader, 0));
    assert_int_equal(reader->timings.prompt_n, N);
    assert_true(metrics_get(h->svc->metrics, METRIC_PREDICTED_TOKENS) - before >= CHUNKS - 1);
    call_cancel(&talker->call);
    answer_free(answer_read(&talker->call));
    call_unref(&talker->call);
    call_unref(&reader->call);
    host_free(h);
}

static void refuse(struct host *h, struct completion *c, int want, const char *param)
{
    struct err e = {0};
    assert_int_equal(service_complete(h->svc, c, &e), want);
    assert_string_equal(e.param, param);
    call_unref(&c->call);
}

static void test_bad_requests(void **state)
{
    (void)state;
    uint32_t id = 999, outside = 1000;
    struct err e;
    uint32_t *ids;
    size_t n;
    struct host *h = host_new(one_model, 1, NULL);
    refuse(h, ask(h, "a", &outside, 1, 5, 1), ERR_INVALID, "prompt");
    struct completion *c = ask(h, "a", &id, 1, 5, 1);
    c->sampling.temperature = -1;
    refuse(h, c, ERR_INVALID, "temperature");
    c = ask(h, "a", &id, 1, 5, 1);
    c->state = strdup("a/b");
    refuse(h, c, ERR_INVALID, "state");
    c = ask(h, "a", &id, 1, 5, 1);
    c->save_state = strdup("name@3");
    refuse(h, c, ERR_INVALID, "save_state");
    c = ask(h, "a", &id, 1, 5, 1);
    c->model = NULL;
    refuse(h, c, ERR_MODEL_NOT_FOUND, "model");
    assert_null(service_find_model(h->svc, "nope"));
    const struct model_info *m = service_find_model(h->svc, NULL);
    assert_string_equal(m->tokenizer, "none");
    assert_int_equal(m->n_vocab, 1000);
    assert_int_equal(service_tokenize(h->svc, m, "hi", 2, &ids, &n, &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "--vocab"));
    host_free(h);
}

/* A completion submitted while the memory runs out: refused or served, never half. */
static int submit_and_wait(void *arg)
{
    struct host *h = arg;
    struct err e = {0};
    struct completion *c = completion_new();
    if (!c)
        return ERR_NOMEM;
    c->model = service_find_model(h->svc, NULL);
    c->max_tokens = 3;
    c->stop_lens = calloc(1, sizeof *c->stop_lens);
    c->stops = calloc(1, sizeof *c->stops);
    char *stop = strdup("x");
    int rc = c->stop_lens && c->stops && stop ? 0 : ERR_NOMEM;
    if (rc == 0) {
        c->stops[0] = stop, c->stop_lens[0] = 1, c->n_stops = 1;
        stop = NULL;
        rc = service_complete(h->svc, c, &e);
    }
    pthread_mutex_lock(&h->svc->lock);
    while (h->svc->live)
        pthread_cond_wait(&h->svc->idle, &h->svc->lock);
    pthread_mutex_unlock(&h->svc->lock);
    if (rc == 0)
        rc = c->call.err.code;
    free(stop);
    call_unref(&c->call);
    return rc;
}

static void test_no_memory(void **state)
{
    (void)state;
    struct host *h = host_new(one_model, 1, NULL);
    assert_true(alloc_sweep(submit_and_wait, h) >= 5);
    host_free(h);
}

struct drainer {
    struct mail mail;
    struct host *h;
};

static void begin_drain(struct mail *m)
{
    struct drainer *d = (struct drainer *)m;
    service_drain(d->h->svc, 0, NULL, NULL);
}

static void test_drain_cancels(void **state)
{
    (void)state;
    uint32_t id = 3;
    struct err e;
    struct host *h = host_new(one_model, 1, NULL);
    struct drainer d = {.mail.run = begin_drain, .h = h};
    struct completion *c = ask(h, "a", &id, 1, 1000000, 11), *late = ask(h, "a", &id, 1, 5, 1);
    assert_int_equal(service_complete(h->svc, c, &e), 0);
    assert_true(service_ready(h->svc));
    list_init(&d.mail.link);
    assert_int_equal(loop_post(h->loop, &d.mail), 0);
    answer_free(answer_read(&c->call)); /* ends only because the drain's time is over */
    assert_int_equal(c->call.err.code, ERR_UNAVAILABLE);
    assert_false(service_ready(h->svc));
    assert_int_equal(service_complete(h->svc, late, &e), ERR_UNAVAILABLE);
    call_unref(&c->call);
    call_unref(&late->call);
    host_free(h);
}

static void test_metrics(void **state)
{
    (void)state;
    uint32_t ids[10];
    struct buf b;
    struct host *h = host_new(one_model, 1, NULL);
    some_ids(4, ids, 10);
    struct completion *c = ask(h, "a", ids, 10, 6, 1);
    answer_free(complete(h, c, 0));
    call_unref(&c->call);
    buf_init(&b, 1u << 20);
    assert_int_equal(service_metrics(h->svc, &b), 0);
    static const char *const lines[] = {
        "dreamstate_completions_total 1\n",
        "dreamstate_prompt_tokens_total{model=\"a\"} 10\n",
        "dreamstate_predicted_tokens_total{model=\"a\"} 6\n",
        "dreamstate_completions_ended_total{model=\"a\",reason=\"length\"} 1\n",
        "dreamstate_first_token_seconds_count 1\n",
        "dreamstate_inter_token_seconds_count 5\n",
        "# TYPE dreamstate_states gauge\ndreamstate_states 0\n",
        "dreamstate_sequences_waiting{model=\"a\"} 0\n",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        if (!strstr(b.data, lines[i]))
            fail_msg("no '%s' in\n%s", lines[i], b.data);
    buf_fini(&b);
    host_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_by_hand),
        cmocka_unit_test(test_echo_and_logprobs),
        cmocka_unit_test(test_empty_prompt),
        cmocka_unit_test(test_stop_strings),
        cmocka_unit_test(test_crowd),
        cmocka_unit_test(test_shared_prompt),
        cmocka_unit_test(test_full_queue),
        cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_reader_given_up),
        cmocka_unit_test(test_long_prompt_stalls_nobody),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_drain_cancels),
        cmocka_unit_test(test_metrics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
