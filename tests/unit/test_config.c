/* daemon/config.h, daemon/log.h and daemon/metrics.h: options, log lines, Prometheus text. */
#include "daemon/config.h"

#include "daemon/log.h"
#include "daemon/metrics.h"
#include "tests/lib/check.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

static char *no_env(const char *name)
{
    (void)name;
    return NULL;
}

static char *some_env(const char *name)
{
    static char queue[] = "7", listen[] = "[::1]:9", empty[] = "", model[] = "e.gguf";
    return !strcmp(name, "DREAMSTATE_MAX_QUEUE") ? queue
           : !strcmp(name, "DREAMSTATE_LISTEN")  ? listen
           : !strcmp(name, "DREAMSTATE_VOCAB")   ? empty
           : !strcmp(name, "DREAMSTATE_MODEL")   ? model
                                                 : NULL;
}

#define PARSE(c, env, e, ...)                                                                      \
    config_parse(c, sizeof((const char *[]){"serve", __VA_ARGS__}) / sizeof(char *),               \
                 (char **)(const char *[]){"serve", __VA_ARGS__}, env, e)

static void test_options(void **state)
{
    (void)state;
    struct config c;
    struct err e = {0};
    assert_int_equal(PARSE(&c, no_env, &e, "--model", "a.pth", "--model=b=b.gguf", "--max-body=2K",
                           "--listen", "0.0.0.0:0", "--weights-type", "q8_0"),
                     0);
    assert_int_equal(c.n_models, 2);
    assert_string_equal(c.models[0], "a.pth");
    assert_string_equal(c.models[1], "b=b.gguf");
    assert_int_equal(c.max_body, 2048);
    assert_string_equal(c.host, "0.0.0.0");
    assert_int_equal(c.port, 0);
    assert_string_equal(c.weights_type, "q8_0");
    assert_int_equal(c.max_sequences, 32);
    assert_string_equal(c.log_level, "info");
    assert_null(c.vocab);
    config_fini(&c);
}

static void test_environment(void **state)
{
    (void)state;
    struct config c;
    struct err e = {0};
    assert_int_equal(PARSE(&c, some_env, &e, "--listen", "h:80"), 0);
    assert_int_equal(c.max_queue, 7);
    assert_string_equal(c.host, "h"); /* the command line wins */
    assert_null(c.vocab);             /* empty counts as not set */
    assert_string_equal(c.models[0], "e.gguf");
    config_fini(&c);
    assert_int_equal(PARSE(&c, some_env, &e, "--model", "x"), 0);
    assert_int_equal(c.n_models, 1);
    assert_string_equal(c.host, "::1");
    assert_int_equal(c.port, 9);
    config_fini(&c);
}

static void test_wrong_options(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"--modle", "x"},         {"model", "x"},          {"--threads", "-1"},
        {"--threads", "257"},     {"--threads", "1x"},     {"--threads", ""},
        {"--threads", "0x10"},    {"--max-body", "9999G"}, {"--max-body", "99999999999999999999"},
        {"--weights-type", "q4"}, {"--weights-type", ""},  {"--weights-type", "f32|f16"},
        {"--listen", "8080"},     {"--listen", ":8080"},   {"--listen", "h:"},
        {"--listen", "h:65536"},  {"--log-level", "loud"}, {"--name", ""},
        {"--max-queue", "1K"},
    };
    struct config c;
    struct err e;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        e = (struct err){0};
        int rc = PARSE(&c, no_env, &e, bad[i][0], bad[i][1]);
        if (rc != ERR_INVALID)
            fail_msg("%s %s gave %d", bad[i][0], bad[i][1], rc);
        assert_non_null(strstr(e.msg, bad[i][0]));
        config_fini(&c);
    }
    assert_int_equal(PARSE(&c, no_env, &e, "--threads"), ERR_INVALID); /* no value */
    config_fini(&c);
    assert_int_equal(PARSE(&c, no_env, &e, "--name", "n", "--model", "a", "--model", "b"),
                     ERR_INVALID);
    config_fini(&c);
    assert_int_equal(PARSE(&c, no_env, &e, "--threads", "2", "--help"), 1);
    config_fini(&c);
}

/* Every option of the table is in --help, and every line of it is one. */
static void test_help(void **state)
{
    (void)state;
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    assert_non_null(f);
    config_help(f);
    fclose(f);
    for (const char *p = text; (p = strstr(p, "\n  --")); p++) {
        char flag[64];
        struct config c;
        struct err e = {0};
        assert_int_equal(sscanf(p, " %63s", flag), 1);
        assert_int_equal(PARSE(&c, no_env, &e, flag), ERR_INVALID); /* known, but wants a value */
        assert_non_null(strstr(e.msg, "found nothing"));
        config_fini(&c);
    }
    assert_non_null(strstr(text, "--drain-seconds N"));
    free(text);
}

static void test_log(void **state)
{
    (void)state;
    int fd[2];
    char line[5000];
    assert_int_equal(pipe(fd), 0);
    struct log l = {fd[1], LOG_INFO};
    LOG(&l, LOG_DEBUG, "dropped", LOG_INT("n", 1));
    LOG(&l, LOG_WARN, "said", LOG_STR("text", "a\"b\\c\n\x01\xff"), LOG_INT("n", -5),
        LOG_NUM("x", 0.5), LOG_NUM("nan", (double)NAN), LOG_STR("none", NULL));
    LOG(NULL, LOG_ERROR, "nowhere", LOG_INT("n", 1));
    ssize_t got = read(fd[0], line, sizeof line - 1);
    assert_true(got > 0 && line[got - 1] == '\n');
    json_t *j = json_loadb(line, (size_t)got, 0, NULL);
    assert_non_null(j);
    assert_string_equal(json_string_value(json_object_get(j, "event")), "said");
    assert_string_equal(json_string_value(json_object_get(j, "level")), "warn");
    assert_string_equal(json_string_value(json_object_get(j, "text")), "a\"b\\c\n\x01?");
    assert_int_equal(json_integer_value(json_object_get(j, "n")), -5);
    assert_true(json_is_null(json_object_get(j, "nan")));
    assert_true(json_is_null(json_object_get(j, "none")));
    json_decref(j);
    char *big = calloc(1, 8000);
    assert_non_null(big);
    memset(big, 'x', 7999);
    LOG(&l, LOG_ERROR, "big", LOG_STR("text", big));
    got = read(fd[0], line, sizeof line - 1);
    j = json_loadb(line, (size_t)got, 0, NULL);
    assert_true(json_is_true(json_object_get(j, "cut")));
    json_decref(j);
    free(big);
    close(fd[0]);
    close(fd[1]);
}

static void expect(const struct buf *text, const char *line)
{
    if (!strstr(text->data, line))
        fail_msg("no line '%s' in\n%s", line, text->data);
}

static void test_metrics(void **state)
{
    (void)state;
    struct metrics *m = metrics_new();
    struct buf b;
    buf_init(&b, 1u << 20);
    assert_non_null(m);
    metrics_add(m, METRIC_PREDICTED_TOKENS, 41);
    metrics_add(m, METRIC_PREDICTED_TOKENS, 1);
    metrics_observe(m, METRIC_BATCH_ROWS, 1);
    metrics_observe(m, METRIC_BATCH_ROWS, 3);
    metrics_observe(m, METRIC_BATCH_ROWS, 5000);
    metrics_observe_ns(m, METRIC_STEP, 2000000);
    metrics_count_error(m, ERR_BUSY);
    metrics_count_http(m, "/v1/models", 200, 0.25);
    metrics_count_http(m, "/v1/models", 200, 0.25);
    for (int i = 0; i < 1000; i++)
        metrics_count_http(m, "/x", i, 1);
    assert_int_equal(metrics_write(m, &b), 0);
    metrics_write_label(&b, "model", "a\"b");
    assert_true(b.len > 0 && !b.failed);
    expect(&b, "# HELP dreamstate_predicted_tokens_total ");
    expect(
        &b,
        "# TYPE dreamstate_predicted_tokens_total counter\ndreamstate_predicted_tokens_total 42\n");
    expect(&b,
           "dreamstate_batch_rows_bucket{le=\"1\"} 1\ndreamstate_batch_rows_bucket{le=\"2\"} 1\n"
           "dreamstate_batch_rows_bucket{le=\"4\"} 2\n");
    expect(&b, "dreamstate_batch_rows_bucket{le=\"+Inf\"} 3\ndreamstate_batch_rows_sum 5004\n"
               "dreamstate_batch_rows_count 3\n");
    expect(&b, "dreamstate_step_seconds_bucket{le=\"0.001\"} 0\n"
               "dreamstate_step_seconds_bucket{le=\"0.0025\"} 1\n");
    expect(&b, "dreamstate_step_seconds_sum 0.002\n");
    expect(&b, "dreamstate_errors_total{code=\"too_many_requests\"} 1\n");
    expect(&b, "dreamstate_http_requests_total{route=\"/v1/models\",status=\"200\"} 2\n");
    expect(&b, "dreamstate_http_requests_total{route=\"other\",status=\"0\"} 746\n");
    expect(&b, "model=\"a\\\"b\"");
    buf_fini(&b);
    metrics_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options),       cmocka_unit_test(test_environment),
        cmocka_unit_test(test_wrong_options), cmocka_unit_test(test_help),
        cmocka_unit_test(test_log),           cmocka_unit_test(test_metrics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
