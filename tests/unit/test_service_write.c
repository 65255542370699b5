/* daemon/service.h, writes of named states: on from the latest version, one writer a name, once a key,
 * only if nothing has changed; what cannot be kept is told before the work. */
#include "tests/lib/host.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const char *const one_model[] = {"a=" RAND_A};

static uint64_t tokens_read(struct host *h)
{
    return metrics_get(h->svc->metrics, METRIC_PROMPT_TOKENS);
}

/* A call about `ref`, which reads n ids where it is a bake or an append. */
static struct state_call *call_of(struct host *h, enum state_op op, const char *ref,
                                  const uint32_t *ids, size_t n)
{
    struct state_call *c = state_call_new(op);
    assert_non_null(c);
    c->ref = strdup(ref);
    c->limit = 1000;
    if (n) {
        c->model = service_find_model(h->svc, "a");
        c->prompt = calloc(n, sizeof *c->prompt);
        assert_non_null(c->prompt);
        memcpy(c->prompt, ids, n * sizeof *ids);
        c->n_prompt = n;
    }
    return c;
}

static void set_key(struct state_call *c, const char *key, char digit)
{
    c->write.key = strdup(key);
    memset(c->write.request_sha256, digit, 64);
}

static void test_append(void **state)
{
    (void)state;
    uint32_t ids[170];
    char sha256[65];
    struct host *h = host_new(one_model, 1, NULL);
    struct oracle *o = oracle_new(RAND_A);
    some_ids(1, ids, 170);
    struct state_call *c = call_of(h, STATE_BAKE, "s", ids, 100);
    c->change.description = strdup("first");
    c->change.tags = strdup("[\"t\"]");
    run_state_call(h, c, 0);
    uint64_t revision = c->states[0].revision;
    call_unref(&c->call);
    c = call_of(h, STATE_APPEND, "s", ids + 100, 70);
    c->write.if_revision = revision;
    run_state_call(h, c, 0);
    oracle_feed(o, ids, 100);
    oracle_feed(o, ids + 100, 70);
    oracle_sha256(o, "f32", sha256);
    const struct state_info *s = &c->states[0];
    assert_string_equal(s->sha256, sha256);
    assert_int_equal(s->version, 2);
    assert_int_equal(s->n_tokens, 170);
    assert_true(s->has_logits);
    assert_string_equal(s->parents, "[\"s@1\"]");
    assert_string_equal(s->description, "first");
    assert_string_equal(s->tags, "[\"t\"]");
    assert_non_null(strstr(s->origin, "\"append\""));
    assert_int_equal(c->timings.cache_n, 100);
    assert_int_equal(c->timings.prompt_n, 70);
    assert_true(s->revision > revision);
    call_unref(&c->call);
    /* not on from what has changed since; nothing is read for it */
    uint64_t read = tokens_read(h);
    c = call_of(h, STATE_APPEND, "s", ids, 5);
    c->write.if_revision = revision;
    run_state_call(h, c, ERR_VERSION_CONFLICT);
    call_unref(&c->call);
    c = call_of(h, STATE_APPEND, "nobody", ids, 5);
    run_state_call(h, c, ERR_STATE_NOT_FOUND);
    assert_string_equal(c->call.err.param, "name");
    call_unref(&c->call);
    assert_int_equal(tokens_read(h), read);
    oracle_free(o);
    host_free(h);
}

/* A name that is taken is told before anything is read. */
static void test_target_first(void **state)
{
    (void)state;
    uint32_t ids[200];
    struct host *h = host_new(one_model, 1, NULL);
    some_ids(2, ids, 200);
    call_unref(&bake(h, "a", "s", NULL, ids, 3, 0)->call);
    uint64_t read = tokens_read(h);
    struct state_call *b = bake(h, "a", "s", NULL, ids, 200, ERR_STATE_EXISTS);
    assert_string_equal(b->call.err.param, "name");
    call_unref(&b->call);
    struct completion *c = ask(h, "a", ids, 200, 10, 1);
    c->save_state = strdup("s");
    answer_free(complete(h, c, ERR_STATE_EXISTS));
    assert_string_equal(c->call.err.param, "save_state");
    call_unref(&c->call);
    assert_int_equal(tokens_read(h), read);
    host_free(h);
}

/* A completion that keeps `name` when it ends: its stream takes nothing, so it does not. */
static struct completion *busy_writer(struct host *h, const char *name)
{
    uint32_t id = 1;
    struct err e;
    struct completion *c = ask(h, "a", &id, 1, 10000000, 1);
    c->save_state = strdup(name);
    c->save_new_version = true;
    stream_fini(&c->call.stream);
    assert_int_equal(stream_init(&c->call.stream, 1000), 0);
    assert_int_equal(service_complete(h->svc, c, &e), 0);
    return c;
}

static void test_one_writer(void **state)
{
    (void)state;
    uint32_t ids[8];
    struct err e;
    struct host *h = host_new(one_model, 1, NULL);
    some_ids(3, ids, 8);
    call_unref(&bake(h, "a", "s", NULL, ids, 5, 0)->call);
    struct completion *writer = busy_writer(h, "s");
    static const enum state_op writes[] = {STATE_BAKE, STATE_APPEND};
    for (size_t i = 0; i < 2; i++) {
        struct state_call *c = call_of(h, writes[i], "s", ids, 5);
        c->write.new_version = true;
        run_state_call(h, c, ERR_STATE_BUSY);
        call_unref(&c->call);
    }
    struct state_call *c = call_of(h, STATE_ROLLBACK, "s@1", NULL, 0);
    assert_int_equal(service_state(h->svc, c, &e), ERR_STATE_BUSY);
    call_unref(&c->call);
    c = call_of(h, STATE_DELETE, "s", NULL, 0);
    assert_int_equal(service_state(h->svc, c, &e), ERR_STATE_BUSY);
    call_unref(&c->call);
    c = call_of(h, STATE_FORK, "s", NULL, 0);
    c->to = strdup("s");
    assert_int_equal(service_state(h->svc, c, &e), ERR_STATE_BUSY);
    call_unref(&c->call);
    /* others read it, copy it to other names, and say things about it */
    c = state_op(h, STATE_GET, "s", 0);
    assert_int_equal(c->states[0].version, 1);
    call_unref(&c->call);
    call_unref(&bake(h, "a", "child", "s", ids, 3, 0)->call);
    c = call_of(h, STATE_PATCH, "s", NULL, 0);
    c->change.set_pinned = c->change.pinned = true;
    run_state_call(h, c, 0);
    call_unref(&c->call);
    call_cancel(&writer->call);
    answer_free(answer_read(&writer->call));
    assert_int_equal(writer->call.err.code, ERR_CANCELLED);
    call_unref(&writer->call);
    c = call_of(h, STATE_APPEND, "s", ids, 3);
    run_state_call(h, c, 0);
    assert_int_equal(c->states[0].version, 2);
    call_unref(&c->call);
    call_unref(&state_op(h, STATE_DELETE, "s", 0)->call);
    host_free(h);
}

static void test_keys(void **state)
{
    (void)state;
    uint32_t ids[60];
    struct host *h = host_new(one_model, 1, NULL);
    some_ids(4, ids, 60);
    for (int i = 0; i < 3; i++) {
        uint64_t read = tokens_read(h);
        struct state_call *c = call_of(h, STATE_BAKE, "s", ids, 60);
        set_key(c, "bake", 'a');
        run_state_call(h, c, 0);
        assert_int_equal(c->replayed, i > 0);
        assert_int_equal(c->states[0].version, 1);
        assert_int_equal(tokens_read(h) - read, i ? 0 : 60);
        call_unref(&c->call);
        c = call_of(h, STATE_FORK, "s", NULL, 0);
        c->to = strdup("copy");
        set_key(c, "fork", 'b');
        run_state_call(h, c, 0);
        assert_int_equal(c->replayed, i > 0);
        assert_string_equal(c->states[0].name, "copy");
        call_unref(&c->call);
        host_restart(h, one_model, 1, NULL);
    }
    struct state_call *c = call_of(h, STATE_APPEND, "s", ids, 3);
    set_key(c, "bake", 'c');
    run_state_call(h, c, ERR_KEY_REUSED);
    call_unref(&c->call);
    /* A replay is not kept from its answer by who writes the name now. */
    struct completion *writer = busy_writer(h, "s");
    c = call_of(h, STATE_BAKE, "s", ids, 60);
    set_key(c, "bake", 'a');
    run_state_call(h, c, 0);
    assert_true(c->replayed);
    call_unref(&c->call);
    call_cancel(&writer->call);
    answer_free(answer_read(&writer->call));
    call_unref(&writer->call);
    host_free(h);
}

static void test_records(void **state)
{
    (void)state;
    uint32_t ids[5];
    struct host *h = host_new(one_model, 1, NULL);
    some_ids(5, ids, 5);
    call_unref(&bake(h, "a", "s", NULL, ids, 5, 0)->call);
    struct state_call *c = call_of(h, STATE_APPEND, "s", ids, 5);
    run_state_call(h, c, 0);
    call_unref(&c->call);
    c = call_of(h, STATE_ROLLBACK, "s@1", NULL, 0);
    c->change.description = strdup("back");
    run_state_call(h, c, 0);
    assert_int_equal(c->states[0].version, 3);
    assert_string_equal(c->states[0].description, "back");
    uint64_t revision = c->states[0].revision;
    call_unref(&c->call);
    c = state_op(h, STATE_VERSIONS, "s", 0);
    assert_int_equal(c->n_states, 3);
    assert_int_equal(c->states[0].version, 3);
    assert_string_equal(c->states[0].sha256, c->states[2].sha256);
    call_unref(&c->call);
    c = call_of(h, STATE_FORK, "s@2", NULL, 0);
    c->to = strdup("f");
    c->write.if_revision = revision; /* the revision of another version */
    run_state_call(h, c, ERR_VERSION_CONFLICT);
    call_unref(&c->call);
    c = call_of(h, STATE_PATCH, "s", NULL, 0);
    c->change.description = strdup("patched");
    c->write.if_revision = revision;
    run_state_call(h, c, 0);
    assert_true(c->states[0].revision > revision);
    call_unref(&c->call);
    c = call_of(h, STATE_DELETE, "s", NULL, 0);
    c->write.if_revision = revision;
    run_state_call(h, c, ERR_VERSION_CONFLICT);
    call_unref(&c->call);
    host_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_append),     cmocka_unit_test(test_target_first),
        cmocka_unit_test(test_one_writer), cmocka_unit_test(test_keys),
        cmocka_unit_test(test_records),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
