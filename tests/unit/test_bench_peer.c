/* Running llama.cpp's programs: their answers read, failures told. Scripts stand in for the
 * programs. */
#include "tests/lib/check.h"

#include "daemon/bench_peer.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "build/test-peer-XXXXXX";

static void script(const char *name, const char *body)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    unlink(path);
    if (!body)
        return;
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fprintf(f, "#!/bin/sh\n%s\n", body) > 0);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(path, 0700), 0);
}

static int run_peer(struct bench_peer *p, struct err *e)
{
    *e = (struct err){0};
    return bench_peer_run(dir, "some model.gguf", 3, p, e);
}

#define ANSWER                                                                                     \
    "echo '[{\"n_prompt\": 512, \"n_gen\": 0, \"avg_ts\": 1291.5},"                                \
    " {\"n_prompt\": 0, \"n_gen\": 128, \"avg_ts\": 108.25}]'"

static void test_answers(void **state)
{
    (void)state;
    struct bench_peer p;
    struct err e;
    script("llama-bench", ANSWER);
    assert_int_equal(run_peer(&p, &e), 0);
    assert_true(p.decode == 108.25 && p.prefill == 1291.5 && p.batched[0] == 0);
    script("llama-batched-bench", "echo 'some words'\n"
                                  "echo '{\"pl\": 4, \"speed_tg\": 231.5}'\n"
                                  "echo '{\"pl\": 16, \"speed_tg\": 413.5}'");
    assert_int_equal(run_peer(&p, &e), 0);
    assert_true(p.batched[0] == 231.5 && p.batched[1] == 0 && p.batched[2] == 413.5);
    script("llama-batched-bench", "exit 3"); /* its figures are left out, no more */
    assert_int_equal(run_peer(&p, &e), 0);
    assert_true(p.decode == 108.25 && p.batched[2] == 0);
    script("llama-batched-bench", NULL);
}

static void test_failures(void **state)
{
    (void)state;
    struct bench_peer p;
    struct err e;
    script("llama-bench", NULL);
    assert_int_equal(run_peer(&p, &e), ERR_UNAVAILABLE);
    script("llama-bench", ANSWER "\nexit 1");
    assert_int_equal(run_peer(&p, &e), ERR_UNAVAILABLE);
    script("llama-bench", "echo '{}'");
    assert_int_equal(run_peer(&p, &e), ERR_FORMAT);
    script("llama-bench", "echo '[{\"n_gen\": 128, \"avg_ts\": 5}]'");
    assert_int_equal(run_peer(&p, &e), ERR_FORMAT);
    script("llama-bench", "true");
    assert_int_equal(run_peer(&p, &e), ERR_FORMAT);
}

/* The arguments it needs. */
static void test_call(void **state)
{
    (void)state;
    struct bench_peer p;
    struct err e;
    script("llama-bench", "[ \"$1 $2 $3 $4\" = \"-m some model.gguf -t 3\" ] || exit 1\n" ANSWER);
    if (run_peer(&p, &e) < 0)
        fail_msg("%s", e.msg);
    script("llama-bench", NULL);
}

/* A server that is not there, and one that ends, which must have got the arguments it needs (else it
 * stays, and is waited for). */
static void test_no_server(void **state)
{
    (void)state;
    struct bench_daemon d;
    struct err e = {0};
    script("llama-server", NULL);
    assert_int_equal(bench_peer_serve(dir, "some model.gguf", 3, 2, &d, &e), ERR_UNAVAILABLE);
    bench_daemon_stop(&d); /* nothing */
    e = (struct err){0};
    script("llama-server", "[ \"$1 $2 $3 $5 $6 $7 $8\" = \"-m some model.gguf --port -t 3 -np 2\" ] || exec sleep 200");
    assert_int_equal(bench_peer_serve(dir, "some model.gguf", 3, 2, &d, &e), ERR_UNAVAILABLE);
    assert_non_null(strstr(e.msg, "ended"));
    bench_daemon_stop(&d);
    script("llama-server", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_call),
        cmocka_unit_test(test_no_server),
    };
    if (!mkdtemp(dir))
        return 1;
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(dir);
    return rc;
}
