/* Jobs without HTTP: each kind from its request to its result, beside requests that use what the one before
 * made; their plans; and what is refused at once. Run under ThreadSanitizer too. */
#include "daemon/items.h"
#include "daemon/jobs.h"
#include "tests/lib/folder.h"
#include "tests/lib/host.h"
#include "tests/lib/training.h"

#include <jansson.h>
#include <stdlib.h>
#include <sys/stat.h>

static char model[256], dir[256];
static const char *const models[] = {model};
static const uint32_t prompt[] = {84, 104, 101, 32};

static struct host *host(uint64_t train_bytes)
{
    return host_new(models, 1,
                    &(struct service_options){.max_queue = 64,
                                              .work_dir = dir,
                                              .train_bytes = train_bytes,
                                              .generation_seconds = 1,
                                              .lane_threads = 2});
}

static int set_up(void **state)
{
    (void)state;
    folder_open();
    training_model("model.safetensors", true);
    snprintf(model, sizeof model, "a=%s", in_folder("model.safetensors"));
    snprintf(dir, sizeof dir, "%s", in_folder("work"));
    return mkdir(dir, 0700);
}

static int tear_down(void **state)
{
    (void)state;
    folder_close("model.safetensors work");
    return 0;
}

/* Documents under the labels sea and law, as a request appends them. */
static void add_texts(struct host *h, size_t documents)
{
    enum { LONG = 1500 };
    struct item_call *c = item_call_new(ITEM_DATASET, ITEM_PUT);
    struct err e = {0};
    assert_non_null(c);
    c->data = calloc(documents, LONG);
    assert_non_null(c->data);
    for (size_t i = 0; i < documents; i++) { /* label, document, text, each with its NUL */
        char *at = (char *)c->data + c->data_bytes, *end = at + LONG;
        at += snprintf(at, LONG, "%s", i % 2 ? "law" : "sea") + 1;
        at += snprintf(at, (size_t)(end - at), "d%zu", i) + 1;
        for (size_t k = 0; end - at > 64; k += 37)
            at += snprintf(at, (size_t)(end - at), "%s%c%c rose from the sea %zu. ",
                           i % 2 ? "Thou" : "They", (char)('a' + k % 23), (char)('a' + i),
                           10 + k % 89);
        c->data_bytes = (size_t)(at + 1 - (char *)c->data);
    }
    c->errand.model = service_find_model(h->svc, NULL);
    c->name = strdup("texts");
    assert_int_equal(service_errand(h->svc, &c->errand, &e), 0);
    call_wait(&c->errand.call);
    assert_int_equal(c->errand.call.err.code, 0);
    call_unref(&c->errand.call);
}

/* The request's end; *json: the job (json_decref it), or NULL. */
static int ask_job(struct host *h, struct job_call *c, json_t **json, struct err *e)
{
    int rc = service_job(h->svc, c, e);
    if (rc == 0) {
        call_wait(&c->call);
        *e = c->call.err;
        rc = e->code;
    }
    *json = rc == 0 ? json_loads(c->jobs[0].json, 0, NULL) : NULL;
    call_unref(&c->call);
    return rc;
}

static struct job_call *create(const char *request, bool own)
{
    struct job_call *c = job_call_new(JOB_CREATE);
    assert_non_null(c);
    c->request = strdup(request);
    c->own = own;
    return c;
}

static struct job_call *about(enum job_op op, const char *id)
{
    struct job_call *c = job_call_new(op);
    assert_non_null(c);
    c->id = strdup(id);
    return c;
}

/* Follows a job to its end, which must be a success; its record. */
static json_t *follow(struct host *h, json_t *job)
{
    struct err e = {0};
    json_t *end;
    if (ask_job(h, about(JOB_WATCH, json_string_value(json_object_get(job, "id"))), &end, &e) < 0)
        fail_msg("%s", e.msg);
    if (strcmp(json_string_value(json_object_get(end, "status")), "succeeded") != 0)
        fail_msg("%s", json_dumps(end, 0));
    json_decref(job);
    return end;
}

static json_t *made(struct host *h, const char *request, bool own)
{
    struct err e = {0};
    json_t *job;
    if (ask_job(h, create(request, own), &job, &e) < 0)
        fail_msg("%s: %s (%s)", request, e.msg, e.param);
    return job;
}

static json_int_t number(const json_t *job, const char *part, const char *key)
{
    return json_integer_value(json_object_get(json_object_get(job, part), key));
}

#define DIT                                                                                        \
    "{\"kind\": \"train_dit\", \"dataset\": \"texts\", \"name\": \"d\", \"steps\": 3, "            \
    "\"batch\": 4, \"components\": 4, \"n_embd\": 16, \"n_head\": 2, \"n_block\": 1"
#define HYBRID                                                                                     \
    "{\"kind\": \"train_hybrid\", \"dataset\": \"texts\", \"name\": \"h\", \"steps\": 3, "         \
    "\"pairs\": 6, \"eval_pairs\": 3, \"corpus_steps\": 2, \"context_max\": 128, "                 \
    "\"continuations\": 2, \"batch\": 4, \"n_embd\": 16, \"n_head\": 2, \"n_block\": 1, "          \
    "\"heldout\": 0.25"
#define BAKE "{\"kind\": \"bake_dataset\", \"dataset\": \"texts\", \"segment_bytes\": 64"
#define TUNE                                                                                       \
    "{\"kind\": \"train_state\", \"name\": \"tuned\", \"dataset\": \"texts\", \"label\": "         \
    "\"sea\", \"steps\": 3, \"batch\": 2, \"sequence\": 16"

/* Such a request with more fields, ", ..." or nothing, and its end. */
static const char *with(const char *fields, const char *more)
{
    static char text[1024];
    snprintf(text, sizeof text, "%s%s}", fields, more);
    return text;
}

/* A generation by the diffuser's label. */
static struct state_generation *generation(struct host *h, size_t n, size_t steps)
{
    struct state_generation *c = state_generation_new();
    assert_non_null(c);
    c->errand.model = service_find_model(h->svc, NULL);
    c->name = strdup("made");
    c->n_states = n;
    c->params_json = strdup("{\"condition\": {\"label\": \"sea\"}, \"num_inference_steps\": 4, "
                            "\"scheduler\": \"ddim\", \"guidance_scale\": 2.0, \"eta\": 0.0, "
                            "\"seed\": 5}");
    c->diffusion = (struct diffusion){.steps = steps, .guidance = 2, .seed = 5, .strength = 1};
    return c;
}

/* Completions beside a job that runs: under the hybrid if there is one, else without. */
static void complete_some(struct host *h, bool hybrid)
{
    uint32_t *text = malloc(sizeof prompt);
    assert_non_null(text);
    memcpy(text, prompt, sizeof prompt);
    struct completion *c = ask(h, "a", prompt, 4, 8, 1);
    const struct adjustment_ask under = {.text = text, .n_text = 4, .strength = 1};
    if (hybrid)
        c->adjustment = adjustment_new_take(&under);
    else
        free(text);
    answer_free(complete(h, c, 0));
    call_unref(&c->call);
}

static void test_lives(void **state)
{
    (void)state;
    struct host *h = host(0);
    add_texts(h, 12);
    json_t *bake = made(h, with(BAKE, ""), false);
    complete_some(h, false);
    bake = follow(h, bake);
    const json_t *baked = json_object_get(json_object_get(bake, "result"), "baked");
    assert_true(json_integer_value(json_object_get(baked, "bytes")) <=
                number(bake, "plan", "bytes"));
    assert_true(json_integer_value(json_object_get(baked, "rows")) <= number(bake, "plan", "rows"));
    json_t *waits[] = {made(h, with(HYBRID, ""), false), made(h, with(DIT, ""), false),
                       made(h, with(TUNE, ""), false)};
    for (size_t i = 0; i < 3; i++) {
        complete_some(h, false);
        waits[i] = follow(h, waits[i]);
        assert_true(number(waits[i], "plan", "memory_bytes") > 1000000);
    }
    assert_int_equal(number(waits[1], "plan", "rows"),
                     json_integer_value(json_object_get(baked, "rows")));
    /* Replaced while requests run under the one before. */
    json_t *again = made(h, with(HYBRID, ", \"if_exists\": \"replace\", \"seed\": 2"), false);
    for (size_t i = 0; i < 6; i++)
        complete_some(h, true);
    again = follow(h, again);
    complete_some(h, true);
    struct state_generation *c = generation(h, 5, 4);
    char *request = generation_request(c);
    json_t *states = made(h, request, true);
    complete_some(h, true);
    states = follow(h, states);
    assert_int_equal(json_array_size(json_object_get(json_object_get(states, "result"), "states")),
                     5);
    free(request);
    call_unref(&c->errand.call);
    for (size_t i = 0; i < 3; i++)
        json_decref(waits[i]);
    json_decref(again);
    json_decref(states);
    json_decref(bake);
    host_free(h);
    check_files("work/jobs", "");
}

/* What is longer than a request should be: states, steps, guidance, the size of a state. */
static void test_long(void **state)
{
    (void)state;
    struct host *h = host(0);
    const struct {
        size_t n, steps;
        double guidance;
        bool is;
    } cases[] = {{1, 2, 2, false}, {64, 1000, 2, true}, {64, 1000, 1, true}, {1, 1000, 2, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct state_generation *c = generation(h, cases[i].n, cases[i].steps);
        c->diffusion.guidance = cases[i].guidance;
        assert_int_equal(service_generation_is_long(h->svc, c), cases[i].is);
        call_unref(&c->errand.call);
    }
    struct state_generation *c = generation(h, 40, 100), *twice = generation(h, 40, 100);
    twice->diffusion.guidance = 1; /* one pass of the network in place of two */
    struct model_info large = *c->errand.model;
    size_t bytes = 1;
    for (c->errand.model = &large;
         large.state_bytes = bytes, !service_generation_is_long(h->svc, c);)
        bytes *= 2;
    twice->errand.model = &large;
    assert_false(service_generation_is_long(h->svc, twice));
    large.state_bytes = 2 * bytes;
    assert_true(service_generation_is_long(h->svc, twice));
    call_unref(&c->errand.call);
    call_unref(&twice->errand.call);
    host_free(h);
}

static void test_refused(void **state)
{
    (void)state;
    struct host *h = host(32 << 20);
    add_texts(h, 12);
    json_decref(follow(h, made(h, with(BAKE, ""), false)));
    const struct {
        const char *format, *more;
        int code;
        const char *param;
    } cases[] = {
        {"%s", "[]", ERR_INVALID, "kind"},
        {"%s", "{\"kind\": \"none\"}", ERR_INVALID, "kind"},
        {"%s", "{\"kind\": \"generate_states\", \"name\": \"x\"}", ERR_INVALID, "kind"},
        {BAKE, ", \"segments\": 0", ERR_INVALID, "segments"},
        {BAKE, ", \"heldout\": 1", ERR_INVALID, "heldout"},
        {BAKE, ", \"model\": \"b\"", ERR_MODEL_NOT_FOUND, "model"},
        {DIT, ", \"model\": \"b\"", ERR_MODEL_NOT_FOUND, "model"},
        {DIT, ", \"if_exists\": \"new_version\"", ERR_INVALID, "if_exists"},
        {DIT, ", \"out\": \"/tmp\"", ERR_INVALID, "out"},
        {DIT, ", \"n_mlp\": 65536", ERR_MEMORY_LIMIT, ""},
        {HYBRID, ", \"model\": \"b\"", ERR_MODEL_NOT_FOUND, "model"},
        {HYBRID, ", \"if_exists\": 5", ERR_INVALID, "if_exists"},
        {HYBRID, ", \"eval\": []", ERR_INVALID, "eval"},
        {HYBRID, ", \"max_context\": 9", ERR_INVALID, "max_context"},
        {HYBRID, ", \"n_mlp\": 65536", ERR_MEMORY_LIMIT, ""},
        {HYBRID, ", \"continuation\": 4096", ERR_MEMORY_LIMIT, ""},
        {TUNE, ", \"text\": \"x\"", ERR_INVALID, "dataset"},
        {TUNE, ", \"lr\": 0", ERR_INVALID, "lr"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err e = {0};
        json_t *job = NULL;
        int rc = ask_job(h, create(with(cases[i].format, cases[i].more), false), &job, &e);
        if (rc != cases[i].code || strcmp(e.param, cases[i].param) != 0)
            fail_msg("%s: %d, %s (%s)", cases[i].more, rc, e.msg, e.param);
    }
    host_free(h);
    check_files("work/jobs", "");
}

/* A request of our own that the store gives back damaged is refused, not believed. */
static void test_hostile_generation(void **state)
{
    (void)state;
    struct host *h = host(0);
    static const char *const requests[] = {
        "{\"kind\": \"generate_states\"}",
        "{\"kind\": \"generate_states\", \"name\": \"x\"}",
        "{\"kind\": \"generate_states\", \"name\": \"x\", \"params\": 5}",
        "{\"kind\": \"generate_states\", \"name\": \"x\", \"params\": {\"scheduler\": \"no\"}}",
        "{\"kind\": \"generate_states\", \"name\": \"x\", \"params\": {\"scheduler\": \"ddim\", "
        "\"condition\": [], \"num_inference_steps\": 2}}",
        "{\"kind\": \"generate_states\", \"name\": \"x\", \"params\": {\"scheduler\": \"ddim\", "
        "\"condition\": {\"text\": 5}, \"num_inference_steps\": 2}}",
        "{\"kind\": \"generate_states\", \"name\": \"x\", \"params\": {\"scheduler\": \"ddim\", "
        "\"condition\": {\"name\": \"c\", \"weight\": -1}, \"num_inference_steps\": 2}}",
        "{\"kind\": \"generate_states\", \"name\": \"x\", \"params\": {\"scheduler\": \"ddim\", "
        "\"condition\": {}, \"num_inference_steps\": 2}}",
        "{\"kind\": \"generate_states\", \"name\": \"x\", \"num_states\": 65, \"params\": {}}",
        "{\"kind\": \"generate_states\", \"name\": \"x@1\", \"params\": {\"scheduler\": \"ddim\", "
        "\"num_inference_steps\": 2}}",
    };
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        struct err e = {0};
        json_t *job = NULL;
        if (ask_job(h, create(requests[i], true), &job, &e) != ERR_INVALID)
            fail_msg("%s: %s", requests[i], e.msg);
    }
    host_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lives),
        cmocka_unit_test(test_long),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_hostile_generation),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
