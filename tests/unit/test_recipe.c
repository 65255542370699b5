/* Recipes: what is read, what is refused and how it is said. */
#include "tests/lib/check.h"

#include "engine/train/recipe.h"

#include <stdlib.h>
#include <unistd.h>

static int read_text(const char *text, struct recipe *r, struct err *e)
{
    char path[] = "/tmp/dreamstate-test-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    int rc = recipe_read(r, path, e);
    unlink(path);
    return rc;
}

#define MODEL "\"model\":{\"n_layer\":2,\"n_embd\":192,\"head_size\":32}"
#define DATA  "\"data\":[{\"name\":\"a\",\"path\":\"b\"}]"
#define REST  "\"out\":\"o\",\"sequence\":64,\"batch\":2,\"steps\":100,\"lr\":0.01"

static void test_defaults(void **state)
{
    (void)state;
    static struct recipe r;
    struct err e = {0};
    if (read_text("{" MODEL "," DATA "," REST "}", &r, &e) < 0)
        fail_msg("%s", e.msg);
    assert_int_equal(r.shape.n_ffn, 768);
    assert_int_equal(r.shape.n_vocab, 256);
    assert_int_equal(r.shape.rank_w, 32); /* the reference's rule at width 192 */
    assert_int_equal(r.shape.rank_v, 32);
    assert_int_equal(r.shape.rank_g, 64);
    assert_int_equal(r.n_data, 1);
    assert_true(r.data[0].weight == 1);
    assert_true(r.schedule.lr_final == 0.01 / 25 && r.schedule.warmup == 10);
    assert_true(r.adamw.beta1 == 0.9 && r.adamw.beta2 == 0.99 && r.adamw.clip == 1);
    assert_false(r.bf16);
    if (read_text("{\"model\":\"m.pth\",\"products\":\"bf16\",\"lr_final\":0," DATA "," REST "}",
                  &r, &e) < 0)
        fail_msg("%s", e.msg);
    assert_string_equal(r.model, "m.pth");
    assert_int_equal(r.shape.n_layer, 0);
    assert_true(r.bf16 && r.schedule.lr_final == 0);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *said;
    } cases[] = {
        {"{", "line 1"},
        {"[]", "must be an object"},
        {"{" MODEL "," DATA "," REST ",\"learning_rate\":1}", "unknown key learning_rate"},
        {"{" MODEL "," DATA "," REST ",\"lr\":2}", "duplicate"},
        {"{" MODEL ",\"data\":[{\"name\":\"a\",\"path\":\"b\",\"wight\":1}]," REST "}",
         "data[0].wight"},
        {"{" MODEL ",\"data\":[{\"name\":\"a\"}]," REST "}", "data[0].path is missing"},
        {"{" MODEL ",\"data\":[]," REST "}", "at least one corpus"},
        {"{" MODEL ",\"data\":[{\"name\":\"a\",\"path\":\"b\",\"weight\":0}]," REST "}",
         "positive weight"},
        {"{" MODEL ",\"data\":7," REST "}", "data must be a list"},
        {"{" DATA "," REST "}", "model is missing"},
        {"{\"model\":{\"n_layer\":2,\"n_embd\":192}," DATA "," REST "}",
         "model.head_size is missing"},
        {"{\"model\":{\"n_layer\":2.5,\"n_embd\":192,\"head_size\":32}," DATA "," REST "}",
         "model.n_layer must be a whole number"},
        {"{\"model\":{\"n_layer\":2,\"n_embd\":1e99,\"head_size\":32}," DATA "," REST "}",
         "model.n_embd"},
        {"{" MODEL "," DATA ",\"sequence\":64,\"batch\":2,\"steps\":100,\"lr\":0.01}",
         "out is missing"},
        {"{" MODEL "," DATA "," REST ",\"carry\":1.5}", "carry must be a number from 0 to 1"},
        {"{" MODEL "," DATA "," REST ",\"seed\":-1}", "seed"},
        {"{" MODEL "," DATA "," REST ",\"seed\":\"x\"}", "seed"},
        {"{" MODEL "," DATA "," REST ",\"warmup\":101}", "warmup is longer"},
        {"{" MODEL "," DATA "," REST ",\"products\":\"f16\"}", "products"},
        {"{" MODEL "," DATA "," REST ",\"init_from\":\"a\\u0000b\"}", ""},
    };
    static struct recipe r;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err e = {0};
        assert_int_equal(read_text(cases[i].text, &r, &e), ERR_INVALID);
        if (!strstr(e.msg, cases[i].said))
            fail_msg("case %zu: \"%s\" does not say \"%s\"", i, e.msg, cases[i].said);
    }
    struct err e = {0};
    assert_int_equal(recipe_read(&r, "/nonexistent.json", &e), ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_defaults),
                                       cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
