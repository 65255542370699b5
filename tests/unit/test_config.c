/* daemon/config.h, daemon/log.h and daemon/metrics.h: options, log lines, Prometheus text. */
#include "daemon/config.h"

#include "daemon/log.h"
#include "daemon/metrics.h"
#include "daemon/text_file.h"
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
                           "--listen", "0.0.0.0:0", "--weights-type", "q8_0", "--hybrid", "h",
                           "--hybrid=b=i"),
                     0);
    assert_int_equal(c.hybrids.n, 2);
    assert_string_equal(c.hybrids.item[1], "b=i");
    assert_int_equal(c.models.n, 2);
    assert_string_equal(c.models.item[0], "a.pth");
    assert_string_equal(c.models.item[1], "b=b.gguf");
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
    assert_string_equal(c.models.item[0], "e.gguf");
    config_fini(&c);
    assert_int_equal(PARSE(&c, some_env, &e, "--model", "x"), 0);
    assert_int_equal(c.models.n, 1);
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
        {"--max-queue", "1K"},    {"--api-key", "x"},
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
    config_print(f, CONFIG_HELP);
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

static char config_path[] = "/tmp/dreamstate-config-XXXXXX";

/* Parses a file of this text, and words. */
static int parse_file(struct config *c, const char *text, size_t n, struct err *e)
{
    FILE *f = fopen(config_path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    *e = (struct err){0};
    return PARSE(c, some_env, e, "--config", config_path, "--threads", "3");
}

/* Command line over environment over file over default; models of one source only. */
static void test_file(void **state)
{
    (void)state;
    static const char text[] = "# a comment\n\n\t max-queue =  9 \r\nthreads=2\nmax-body = 2K\n"
                               "model = a.pth\nmodel = b = c.pth\n  name = # no comment";
    struct config c;
    struct err e;
    if (parse_file(&c, text, sizeof text - 1, &e) != 0)
        fail_msg("%s", e.msg);
    assert_int_equal(c.threads, 3);
    assert_int_equal(c.max_queue, 7);
    assert_int_equal(c.max_body, 2048);
    assert_int_equal(c.max_connections, 1000);
    assert_int_equal(c.models.n, 1);
    assert_string_equal(c.models.item[0], "e.gguf");
    assert_string_equal(c.name, "# no comment");
    config_fini(&c);
    e = (struct err){0};
    assert_int_equal(PARSE(&c, no_env, &e, "--config", config_path, "--name=x"), ERR_INVALID);
    config_fini(&c); /* two models, one name */
}

static void test_wrong_file(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"\n\nmax-que = 1\n", " line 3: no option 'max-que'"},
        {"threads\n", " line 1: want KEY = VALUE"},
        {"= 1", " line 1: no option ''"},
        {"--threads = 1", " line 1: no option '--threads'"},
        {"threads = 1\n# x\nthreads = 1\n", " line 3: 'threads' stands in line 1 already"},
        {"max-queue = 1K", " line 1: max-queue 1K: want a number from 0 to 100000"},
        {"max-queue = 1 # one", " line 1: max-queue 1 # one: want a number"},
        {"vocab =", " line 1: vocab: want FILE, found nothing"},
        {"model =", " line 1: model: want [NAME=]FILE, found nothing"},
        {"log-level = LOUD", " line 1: log-level LOUD: want one of debug|info|warn|error"},
        {"config = other", " line 1: no option 'config'"},
        {"api-key = x", " line 1: 'api-key' may stand only in the environment"},
    };
    struct config c;
    struct err e;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int rc = parse_file(&c, bad[i].text, strlen(bad[i].text), &e);
        if (rc != ERR_INVALID || !strstr(e.msg, bad[i].says) || !strstr(e.msg, config_path))
            fail_msg("'%s' gave %d '%s'", bad[i].text, rc, e.msg);
        config_fini(&c);
    }
    assert_int_equal(parse_file(&c, "threads = 1\0\n", 13, &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "NUL"));
    config_fini(&c);
    char *large = calloc(1, 2u << 20);
    assert_non_null(large);
    memset(large, '\n', 2u << 20);
    assert_int_equal(parse_file(&c, large, 2u << 20, &e), ERR_INVALID);
    free(large);
    config_fini(&c);
    assert_int_equal(PARSE(&c, no_env, &e, "--config", "/no/such"), ERR_IO);
    assert_non_null(strstr(e.msg, "/no/such"));
    config_fini(&c);
}

/* The files in deploy/ are what the program prints, and the example, uncommented, is accepted. */
static void test_written(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        enum config_help how;
    } files[] = {{"deploy/dreamstated.conf", CONFIG_CONF}, {"deploy/OPTIONS.md", CONFIG_MARKDOWN}};
    for (size_t i = 0; i < 2; i++) {
        char *text = NULL;
        size_t n = 0;
        struct buf file;
        struct err e = {0};
        FILE *f = open_memstream(&text, &n);
        assert_non_null(f);
        config_print(f, files[i].how);
        fclose(f);
        assert_int_equal(text_file_read(files[i].path, &file, &e), 0);
        if (n != file.len || memcmp(text, file.data, n) != 0)
            fail_msg("%s is not what `dreamstated serve --help=%s` prints", files[i].path,
                     i ? "markdown" : "conf");
        buf_fini(&file);
        free(text);
    }
}

static void test_example_parses(void **state)
{
    (void)state;
    struct buf file, text;
    struct err e = {0};
    struct config c, d;
    assert_int_equal(text_file_read("deploy/dreamstated.conf", &file, &e), 0);
    buf_init(&text, TEXT_FILE_MAX);
    for (char *at = file.data, *line; (line = text_file_line(&at));) {
        bool option = line[0] == '#' && line[1] && !strchr(" #", line[1]);
        /* What has no default shows what is wanted, "data = DIR". */
        if (option && !strstr(line, " = [") &&
            !(strstr(line, " = ") && strstr(line, " = ")[3] >= 'A' &&
              strstr(line, " = ")[3] <= 'Z'))
            buf_printf(&text, "%s\n", line + 1);
    }
    assert_true(text.len > 200);
    if (parse_file(&c, text.data, text.len, &e) != 0)
        fail_msg("%s", e.msg);
    assert_int_equal(PARSE(&d, some_env, &e, "--threads", "3"), 0);
    assert_int_equal(c.max_body, d.max_body);
    assert_int_equal(c.idle_seconds, d.idle_seconds);
    assert_string_equal(c.half_open, d.half_open);
    config_fini(&c);
    config_fini(&d);
    buf_fini(&file);
    buf_fini(&text);
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
    struct metrics *m = metrics_new(2);
    struct buf b;
    buf_init(&b, 1u << 20);
    assert_non_null(m);
    metrics_name_model(m, 0, "a\"b");
    metrics_name_model(m, 1, "c");
    metrics_add(m, METRIC_STEPS, 41);
    metrics_add(m, METRIC_STEPS, 1);
    metrics_add_model(m, METRIC_ENDED_STOP, 0, 2);
    metrics_add_model(m, METRIC_ENDED_STOP, 1, 3);
    metrics_add_model(m, METRIC_ENDED_LENGTH, 1, 4);
    assert_int_equal(metrics_get(m, METRIC_STEPS), 42);
    assert_int_equal(metrics_get(m, METRIC_ENDED_STOP), 5);
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
    expect(&b, "# HELP dreamstate_steps_total ");
    expect(&b, "# TYPE dreamstate_steps_total counter\ndreamstate_steps_total 42\n");
    expect(&b, "# TYPE dreamstate_completions_ended_total counter\n"
               "dreamstate_completions_ended_total{model=\"a\\\"b\",reason=\"stop\"} 2\n"
               "dreamstate_completions_ended_total{model=\"c\",reason=\"stop\"} 3\n"
               "dreamstate_completions_ended_total{model=\"a\\\"b\",reason=\"length\"} 0\n");
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
        cmocka_unit_test(test_file),          cmocka_unit_test(test_wrong_file),
        cmocka_unit_test(test_written),       cmocka_unit_test(test_example_parses),
        cmocka_unit_test(test_log),           cmocka_unit_test(test_metrics),
    };
    int fd = mkstemp(config_path);
    if (fd < 0)
        return 1;
    close(fd);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(config_path);
    return failed;
}
