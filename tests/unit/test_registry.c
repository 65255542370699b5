/* daemon/registry.h: names, vocabularies, threads, refusals. */
#include "daemon/registry.h"

#include "tests/lib/check.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define RAND "rwkv7-rand/rwkv7-rand-fp32.safetensors"

static int open_models(const struct registry_options *o, struct registry **r, struct err *e)
{
    *e = (struct err){0};
    return registry_open(o, NULL, r, e);
}

/* Opens one model by `spec` and expects its name. */
static void expect_name(const char *spec, const char *given, const char *want)
{
    struct registry *r;
    struct err e;
    char *list[] = {(char *)spec};
    if (open_models(
            &(struct registry_options){.models = list, .n_models = 1, .name = given, .threads = 1},
            &r, &e) < 0)
        fail_msg("%s: %s", spec, e.msg);
    assert_string_equal(r->infos[0].name, want);
    registry_close(r);
}

static void test_names(void **state)
{
    (void)state;
    char dir[64] = "/tmp/dreamstate-test-XXXXXX", spec[8192], path[600], inner[100];
    char *real = realpath(golden_path(RAND), NULL);
    if (!real || !mkdtemp(dir)) {
        fail_msg("no model file, or no temporary folder");
        return;
    }
    expect_name(real, NULL, "rwkv7-rand-fp32");
    expect_name(real, "given", "given");
    snprintf(spec, sizeof spec, "mine=%s", real);
    expect_name(spec, NULL, "mine");
    expect_name(spec, "given", "mine");
    /* model.* is called by its folder; characters that no name has become '-' */
    snprintf(inner, sizeof inner, "%s/my tiny", dir);
    snprintf(path, sizeof path, "%s/model.safetensors", inner);
    assert_int_equal(mkdir(inner, 0700), 0);
    assert_int_equal(symlink(real, path), 0);
    expect_name(path, NULL, "my-tiny");
    unlink(path);
    rmdir(inner);
    rmdir(dir);
    free(real);
}

static void test_one_model(void **state)
{
    (void)state;
    struct registry *r;
    struct err e;
    char *list[] = {(char *)golden_path(RAND)};
    struct buf b;
    assert_int_equal(open_models(
                         &(struct registry_options){
                             .models = list, .n_models = 1, .threads = 3, .weights_type = "bf16"},
                         &r, &e),
                     0);
    const struct model_info *m = &r->infos[0];
    assert_ptr_equal(registry_model(r, m), &r->models[0]);
    assert_string_equal(m->weights_type, "bf16");
    assert_string_equal(m->tokenizer, "none");
    assert_int_equal(m->n_layer, 3);
    assert_int_equal(m->state_bytes, 4 * 3 * (2 * 128 + 128 * 64));
    assert_true(m->created > 0);
    assert_int_equal(pool_threads(r->models[0].pool), 3);
    assert_int_equal(model_separator(&r->models[0]), 0);
    buf_init(&b, 100);
    assert_int_equal(model_token_text(&r->models[0], 17, false, &b), 0);
    assert_string_equal(b.data, "<17>");
    buf_fini(&b);
    registry_close(r);
}

static void test_two_models(void **state)
{
    (void)state;
    struct registry *r;
    struct err e;
    char a[600], b[600], *list[] = {a, b};
    snprintf(a, sizeof a, "one=%s", golden_path(RAND));
    snprintf(b, sizeof b, "two=%s", golden_path("rwkv7-rand/rwkv7-rand-q8_0.gguf"));
    assert_int_equal(
        open_models(&(struct registry_options){.models = list, .n_models = 2, .threads = 2}, &r,
                    &e),
        0);
    assert_string_equal(r->infos[1].name, "two");
    assert_string_equal(r->infos[1].weights_type, "q8_0");
    assert_string_equal(r->infos[1].tokenizer, "none"); /* a GGUF without a vocabulary */
    assert_int_equal(pool_threads(r->models[1].pool), 1);
    assert_string_not_equal(r->infos[0].fingerprint, r->infos[1].fingerprint);
    registry_close(r);
}

static void test_refusals(void **state)
{
    (void)state;
    struct registry *r;
    struct err e;
    char a[600], *twice[] = {a, a}, *none[] = {(char *)"x=/nowhere/at.all"},
                 *bad[] = {(char *)"a/b=x"};
    char *one[] = {a};
    snprintf(a, sizeof a, "one=%s", golden_path(RAND));
    assert_int_equal(
        open_models(&(struct registry_options){.models = twice, .n_models = 2, .threads = 1}, &r,
                    &e),
        ERR_INVALID);
    assert_non_null(strstr(e.msg, "two models"));
    assert_int_equal(
        open_models(&(struct registry_options){.models = none, .n_models = 1, .threads = 1}, &r,
                    &e),
        ERR_IO);
    assert_int_equal(
        open_models(&(struct registry_options){.models = bad, .n_models = 1, .threads = 1}, &r, &e),
        ERR_INVALID);
    /* a vocabulary that is none */
    assert_true(open_models(
                    &(struct registry_options){
                        .models = one, .n_models = 1, .threads = 1, .vocab = "/nowhere/vocab.txt"},
                    &r, &e) < 0);
}

/* The World vocabulary has more ids than this model: refused, not wrapped. */
static void test_vocabulary_too_large(void **state)
{
    (void)state;
    struct registry *r;
    struct err e;
    char model[600], vocab[600], *list[] = {model};
    snprintf(model, sizeof model, "%s", golden_path(RAND));
    const char *path = golden_path("tokenizer/rwkv_vocab_v20230424.txt");
    if (!path)
        skip();
    snprintf(vocab, sizeof vocab, "%s", path);
    assert_int_equal(
        open_models(
            &(struct registry_options){.models = list, .n_models = 1, .threads = 1, .vocab = vocab},
            &r, &e),
        ERR_INVALID);
    assert_non_null(strstr(e.msg, "1000"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_one_model),
        cmocka_unit_test(test_two_models),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_vocabulary_too_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
