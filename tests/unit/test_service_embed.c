/* daemon/service.h, embeddings: the mean of the final hidden states as the model gives them by hand,
 * whatever else is in the batch; from a named state; cancelled, refused, without memory. */
#include "daemon/sequence.h"
#include "tests/lib/alloc_fail.h"
#include "tests/lib/host.h"

#include <math.h>
#include <sched.h>
#include <stdlib.h>

static const char *const one_model[] = {"a=" RAND_A};

/* n texts of these lengths; text i is some_ids(i). */
static struct embedding *embedding_of(struct host *h, const size_t *lengths, size_t n)
{
    struct embedding *b = embedding_new();
    assert_non_null(b);
    b->model = service_find_model(h->svc, "a");
    b->texts = calloc(n, sizeof *b->texts);
    b->n_texts = n;
    for (size_t i = 0; i < n; i++) {
        b->texts[i].n = lengths[i];
        b->texts[i].ids = calloc(lengths[i] + 1, sizeof(uint32_t));
        some_ids(i, b->texts[i].ids, lengths[i]);
    }
    return b;
}

static void embed(struct host *h, struct embedding *b, int want)
{
    struct err e = {0};
    if (service_embed(h->svc, b, &e) < 0)
        fail_msg("%s", e.msg);
    answer_free(answer_read(&b->call));
    if (b->call.err.code != want)
        fail_msg("ended with %d (%s), want %d", b->call.err.code, b->call.err.msg, want);
}

/* The mean over a text by hand, one token at a time, in the order of the tokens. */
static void by_hand(struct oracle *o, const struct token_list *text, bool unit, float *v)
{
    size_t C = o->info->n_embd;
    double *sum = calloc(C, sizeof *sum), squares = 0;
    float *hidden = calloc(C, sizeof *hidden);
    struct err e;
    assert_true(sum && hidden);
    for (size_t t = 0; t < text->n; t++) {
        struct rwkv_seq q = {
            .tokens = text->ids + t, .n_tokens = 1, .state = o->state, .hidden = hidden};
        assert_int_equal(rwkv_eval(o->session, &q, 1, &e), 0);
        for (size_t c = 0; c < C; c++)
            sum[c] += (double)hidden[c];
    }
    for (size_t c = 0; c < C; c++)
        squares += sum[c] * sum[c];
    for (size_t c = 0; c < C; c++)
        v[c] = (float)(sum[c] / (unit ? sqrt(squares) : (double)text->n));
    free(hidden);
    free(sum);
}

static void check_vector(struct oracle *o, const struct embedding *b, size_t i)
{
    size_t C = o->info->n_embd;
    float *want = calloc(C, sizeof *want);
    by_hand(o, &b->texts[i], b->unit, want);
    if (memcmp(want, b->vectors + i * C, C * sizeof *want) != 0)
        fail_msg("text %zu of %zu tokens: the vector differs", i, b->texts[i].n);
    free(want);
}

static void test_equals_by_hand(void **state)
{
    (void)state;
    static const size_t lengths[] = {1, 63, 64, 65, 130, 7, 7, 200};
    enum { N = sizeof lengths / sizeof lengths[0] };
    struct host *h = host_new(one_model, 1, NULL);
    struct oracle *o = oracle_new(RAND_A);
    uint32_t id = 5;
    struct err e;
    /* beside a completion that talks all the time */
    struct completion *talker = ask(h, "a", &id, 1, 1000000, 1);
    stream_fini(&talker->call.stream);
    assert_int_equal(stream_init(&talker->call.stream, 1u << 28), 0);
    assert_int_equal(service_complete(h->svc, talker, &e), 0);
    for (int unit = 0; unit < 2; unit++) {
        struct embedding *b = embedding_of(h, lengths, N);
        size_t total = 0;
        b->unit = unit;
        embed(h, b, 0);
        for (size_t i = 0; i < N; i++) {
            oracle_reset(o);
            check_vector(o, b, i);
            total += lengths[i];
        }
        assert_int_equal(b->timings.prompt_n, total);
        assert_string_equal(b->state_used, "");
        call_unref(&b->call);
    }
    call_cancel(&talker->call);
    answer_free(answer_read(&talker->call));
    call_unref(&talker->call);
    oracle_free(o);
    host_free(h);
}

/* Every text begins at the state, not where the text before it ended. */
static void test_from_state(void **state)
{
    (void)state;
    static const size_t lengths[] = {3, 70, 3};
    uint32_t prompt[90];
    struct host *h = host_new(one_model, 1, NULL);
    struct oracle *o = oracle_new(RAND_A);
    some_ids(44, prompt, 90);
    call_unref(&bake(h, "a", "base", NULL, prompt, 90, 0)->call);
    struct embedding *b = embedding_of(h, lengths, 3);
    b->state = strdup("base");
    embed(h, b, 0);
    assert_string_equal(b->state_used, "base@1");
    assert_false(b->other_weights_type);
    for (size_t i = 0; i < 3; i++) {
        oracle_reset(o);
        oracle_feed(o, prompt, 90);
        check_vector(o, b, i);
    }
    call_unref(&b->call);
    b = embedding_of(h, lengths, 1);
    b->state = strdup("nobody");
    embed(h, b, ERR_STATE_NOT_FOUND);
    assert_string_equal(b->call.err.param, "state");
    call_unref(&b->call);
    oracle_free(o);
    host_free(h);
}

static void test_cancel(void **state)
{
    (void)state;
    static const size_t lengths[] = {200000};
    struct host *h = host_new(one_model, 1, NULL);
    struct embedding *b = embedding_of(h, lengths, 1);
    struct err e;
    assert_int_equal(service_embed(h->svc, b, &e), 0);
    while (metrics_get(h->svc->metrics, METRIC_PROMPT_TOKENS) == 0)
        sched_yield();
    call_cancel(&b->call);
    answer_free(answer_read(&b->call));
    assert_int_equal(b->call.err.code, ERR_CANCELLED);
    assert_true(b->timings.prompt_n < lengths[0]);
    call_unref(&b->call);
    host_free(h);
}

static void refuse(struct host *h, struct embedding *b, int want, const char *param)
{
    struct err e = {0};
    assert_int_equal(service_embed(h->svc, b, &e), want);
    assert_string_equal(e.param, param);
    call_unref(&b->call);
}

static void test_bad_requests(void **state)
{
    (void)state;
    static const size_t lengths[] = {4, 0};
    struct host *h = host_new(one_model, 1, NULL);
    refuse(h, embedding_of(h, lengths, 2), ERR_INVALID, "input");
    refuse(h, embedding_of(h, lengths, 0), ERR_INVALID, "input");
    struct embedding *b = embedding_of(h, lengths, 1);
    b->texts[0].ids[3] = 1000;
    refuse(h, b, ERR_INVALID, "input");
    b = embedding_of(h, lengths, 1);
    b->state = strdup("a b");
    refuse(h, b, ERR_INVALID, "state");
    b = embedding_of(h, lengths, 1);
    b->model = NULL;
    refuse(h, b, ERR_MODEL_NOT_FOUND, "model");
    host_free(h);
}

static int embed_and_wait(void *arg)
{
    struct host *h = arg;
    struct err e = {0};
    struct embedding *b = embedding_new();
    if (!b)
        return ERR_NOMEM;
    b->model = service_find_model(h->svc, NULL);
    b->state = strdup("base");
    b->texts = calloc(2, sizeof *b->texts);
    b->n_texts = b->texts ? 2 : 0;
    int rc = b->texts && b->state ? 0 : ERR_NOMEM;
    for (size_t i = 0; i < b->n_texts; i++) {
        b->texts[i].n = 1;
        if (!(b->texts[i].ids = calloc(1, sizeof(uint32_t))))
            rc = ERR_NOMEM;
    }
    if (rc == 0)
        rc = service_embed(h->svc, b, &e);
    pthread_mutex_lock(&h->svc->lock);
    while (h->svc->live)
        pthread_cond_wait(&h->svc->idle, &h->svc->lock);
    pthread_mutex_unlock(&h->svc->lock);
    if (rc == 0)
        rc = b->call.err.code;
    call_unref(&b->call);
    return rc;
}

struct setup {
    const struct rwkv_info *info;
    struct embedding *to;
    const float *state;
};

static int init_and_fini(void *arg)
{
    const struct setup *s = arg;
    struct embedder b;
    struct err e;
    int rc = embedder_init(&b, s->info, s->to, s->state, &e);
    embedder_fini(&b);
    return rc;
}

static void test_no_memory(void **state)
{
    (void)state;
    uint32_t id = 1;
    struct host *h = host_new(one_model, 1, NULL);
    call_unref(&bake(h, "a", "base", NULL, &id, 1, 0)->call);
    struct embedding *b = embedding_of(h, (size_t[]){1, 1}, 2);
    struct setup s = {.info = h->registry->models[0].rwkv_info, .to = b};
    s.state = calloc(rwkv_state_floats(s.info), sizeof *s.state);
    assert_int_equal(alloc_sweep(init_and_fini, &s), 2);
    free((void *)(uintptr_t)s.state);
    call_unref(&b->call);
    assert_true(alloc_sweep(embed_and_wait, h) >= 7);
    host_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_by_hand), cmocka_unit_test(test_from_state),
        cmocka_unit_test(test_cancel),         cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
