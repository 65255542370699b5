/* `bench recall`: lists and intervals whose values are known; on a small model and a diffuser trained for
 * a few steps, the rows that must agree with each other do, and figures are the same twice; on the
 * recall model, where there is one, the answers are read right: it knows what it has read. */
#include "tests/lib/bench.h"
#include "tests/lib/check.h"
#include "tests/lib/folder.h"
#include "tests/lib/training.h"

#include "daemon/bench.h"
#include "daemon/bench_recall.h"
#include "daemon/bundled.h"
#include "engine/train/dit.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <zlib.h>

#define LISTS 14

static int set_up(void **state)
{
    (void)state;
    folder_open();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    check_files("out", "checkpoint.safetensors codec.safetensors diffuser.safetensors log.jsonl");
    folder_close("1.json 2.json bad.gz dit.json lists lists.gz model out states");
    return 0;
}

/* ---- Lists and numbers ----------------------------------------------------------------------- */

static int parse(struct rc_list *l, const char *text)
{
    struct err e = {0};
    return rc_parse(l, text, strlen(text), &e);
}

static void test_lists(void **state)
{
    (void)state;
    static const char text[] = "ka=37\nmo=85\nzu=--\nb=1\n";
    struct rc_list l[2];
    struct rc_entry changed[RC_ENTRIES];
    char out[BENCH_TEXT];
    assert_int_equal(parse(&l[0], text), 0);
    assert_int_equal(l[0].n, 4);
    assert_string_equal(l[0].entry[2].name, "zu");
    assert_string_equal(l[0].entry[2].value, "--");
    assert_int_equal(rc_write(l[0].entry, 4, out), sizeof text - 2); /* without the last line end */
    assert_memory_equal(out, text, sizeof text - 2);
    l[0].edited = 3;
    l[0].removed = 1;
    memcpy(l[0].value, "22", 3);
    assert_int_equal(rc_changed(&l[0], changed), 3);
    size_t n = rc_write(changed, 3, out);
    assert_int_equal(n, strlen("ka=37\nzu=--\nb=22"));
    assert_memory_equal(out, "ka=37\nzu=--\nb=22", n);
    l[1] = l[0];
    for (uint64_t seed = 0; seed < 50; seed++) {
        memcpy(l[1].entry[seed % 4].value, "99", 3);
        rc_choose(l, 2, seed);
        for (size_t i = 0; i < 2; i++) {
            assert_true(l[i].edited < 4 && l[i].removed < 4 && l[i].edited != l[i].removed);
            assert_true(l[i].value[0]);
        }
    }
    static const char *const refused[] = {
        "ka=37\nmo=85\n",      "ka=37\nmo=85\nka=1\n",         "ka=37\nmo=85\nzu\n",
        "ka=37\nmo=85\nzu=1",  "ka=37\nmo\nzu=85\nb=1\n",      "ka=37\nmo=85\n=1\n",
        "ka=37\nmo=85\nzu=\n", "ka=37\nmo=85\nlongerthan=1\n", "ka=37\nmo=85\nzu=longerthan\n"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        assert_int_equal(parse(&l[0], refused[i]), ERR_FORMAT);
    char many[RC_ENTRIES * 5 + 6] = "";
    for (size_t i = 0; i <= RC_ENTRIES; i++)
        snprintf(many + 5 * i, 6, "n%c=1\n", (char)('a' + i));
    assert_int_equal(parse(&l[0], many), ERR_FORMAT);
    many[RC_ENTRIES * 5] = 0;
    assert_int_equal(parse(&l[0], many), 0);
}

/* Wilson 1927; the values of R's prop.test(correct = FALSE). */
static void test_wilson(void **state)
{
    (void)state;
    const struct rc_share none = rc_wilson(0, 10), half = rc_wilson(.5, 10),
                          all = rc_wilson(1, 200);
    assert_true(none.low == 0 && fabs(none.high - .2775) < 1e-4);
    assert_true(fabs(half.low - .2366) < 1e-4 && fabs(half.high - .7634) < 1e-4);
    assert_true(fabs(all.low - .9812) < 1e-4 && all.high == 1);
}

/* ---- The command ----------------------------------------------------------------------------- */

static void write_lists(void)
{
    char text[LISTS * 31];
    size_t n = 0;
    for (int i = 0; i < LISTS; i++) {
        for (int k = 0; k < 5; k++)
            n += (size_t)snprintf(text + n, sizeof text - n, "%c%c=%02d\n", 'a' + i, 'a' + k,
                                  (i * 7 + k * 13) % 100);
        n++; /* the NUL byte that snprintf left */
    }
    n--;
    write_file("lists", text, n);
    gzFile f = gzopen(in_folder("lists.gz"), "wb");
    assert_non_null(f);
    assert_int_equal(gzwrite(f, text, (unsigned)n), n);
    assert_int_equal(gzclose(f), Z_OK);
}

static void train(void)
{
    static struct dit_recipe r;
    struct train_control c = {0};
    struct err e = {0};
    struct pool *pool = pool_new(2, "test", 0, &e);
    char text[1000];
    bool done;
    int n = snprintf(text, sizeof text,
                     "{\"model\": \"%s\", \"dataset\": \"%s\", \"out\": \"%s\", \"steps\": 6,"
                     " \"batch\": 4, \"segment_bytes\": 40, \"components\": 4, \"n_embd\": 16,"
                     " \"n_head\": 2, \"n_block\": 1, \"n_mlp\": 16, \"warmup\": 2,"
                     " \"label_share\": 0, \"data\": [{\"name\": \"lists\", \"path\": \"%s\"}]}",
                     in_folder("model"), in_folder("states"), in_folder("out"), in_folder("lists"));
    assert_true(n > 0 && (size_t)n < sizeof text);
    write_file("dit.json", text, (size_t)n);
    if (dit_recipe_read(&r, in_folder("dit.json"), &e) < 0 ||
        train_dit(&r, &c, pool, &done, &e) < 0)
        fail_msg("%s", e.msg);
    pool_free(pool);
}

static int command(const char *out, const char *const *list)
{
    return bench_command(bench_recall, out, list);
}

static json_t *measure(const char *out, bool diffuser)
{
    char model[160], lists[160], d[160];
    snprintf(model, sizeof model, "%s", in_folder("model"));
    snprintf(lists, sizeof lists, "%s", in_folder("lists.gz"));
    snprintf(d, sizeof d, "%s", in_folder("out/diffuser.safetensors"));
    const char *const argv[] = {
        "recall",  "--model", model,       "--lists", lists,
        "--quick", "--json",  "--threads", "2",       diffuser ? "--diffuser" : NULL,
        d,         NULL};
    assert_int_equal(command(out, argv), 0);
    json_t *root = json_load_file(in_folder("%s", out), 0, NULL);
    assert_non_null(root);
    return root;
}

static const json_t *row(const json_t *root, const char *name)
{
    json_t *item;
    size_t i;
    json_array_foreach(json_object_get(root, "rows"), i, item)
    {
        if (!strcmp(json_string_value(json_object_get(item, "row")), name))
            return item;
    }
    fail_msg("no row %s", name);
    return NULL;
}

static double distance(const json_t *root, const char *name)
{
    return json_number_value(json_object_get(row(root, name), "distance"));
}

/* All figures of two rows but their names. */
static void check_same_rows(const json_t *root, const char *a, const char *b)
{
    json_t *x = json_copy((json_t *)(uintptr_t)row(root, a)),
           *y = json_copy((json_t *)(uintptr_t)row(root, b));
    json_object_del(x, "row");
    json_object_del(y, "row");
    assert_true(json_equal(x, y));
    json_decref(x);
    json_decref(y);
}

static void test_command(void **state)
{
    (void)state;
    enum {
        PLAIN = 6,
        MASKS = 1 + TRAINING_L + TRAINING_C / TRAINING_N * TRAINING_L,
        STRENGTHS = 5
    };
    training_model("model", true);
    write_lists();
    train();
    json_t *one = measure("1.json", true), *two = measure("2.json", true);
    json_object_del(one, "seconds");
    json_object_del(two, "seconds");
    assert_true(json_equal(one, two));
    json_decref(two);
    assert_int_equal(json_array_size(json_object_get(one, "rows")), PLAIN + 3 * MASKS + STRENGTHS);
    assert_int_equal(json_array_size(json_object_get(one, "skipped")), 0);
    assert_int_equal(json_integer_value(json_object_get(one, "lists")), 12);
    check_same_rows(one, "changed list, baked afresh", "copy from the changed");
    assert_true(distance(one, "changed list, baked afresh") == 0);
    assert_true(distance(one, "zero state") == 1);
    /* Each layer of the changed state brings it nearer, a layer as much as its heads together. */
    const double unedited = distance(one, "unedited");
    assert_true(unedited > 0);
    for (int layer = 0; layer < TRAINING_L; layer++) {
        char name[64];
        snprintf(name, sizeof name, "copy from the changed, layer %d", layer);
        assert_true(distance(one, name) < unedited);
        for (int head = 0; head < TRAINING_C / TRAINING_N; head++) {
            char of[64];
            snprintf(of, sizeof of, "copy from the changed, layer %d, head %d", layer, head);
            assert_true(distance(one, of) < unedited && distance(one, of) > distance(one, name));
            snprintf(of, sizeof of, "inpaint, layer %d, head %d", layer, head);
            assert_true(distance(one, of) != unedited);
        }
    }
    json_decref(one);
    one = measure("1.json", false);
    assert_int_equal(json_array_size(json_object_get(one, "rows")), PLAIN + 2 * MASKS);
    assert_int_equal(json_array_size(json_object_get(one, "skipped")), 1);
    json_decref(one);
}

static void test_refused(void **state)
{
    (void)state;
    char model[160], lists[160], bad[160];
    gzFile f = gzopen(in_folder("bad.gz"), "wb");
    assert_int_equal(gzwrite(f, "ka=1\n", 5), 5);
    assert_int_equal(gzclose(f), Z_OK);
    snprintf(model, sizeof model, "%s", in_folder("model"));
    snprintf(lists, sizeof lists, "%s", in_folder("lists.gz"));
    snprintf(bad, sizeof bad, "%s", in_folder("bad.gz"));
    const char *const nonsense[] = {"recall", "--nonsense", NULL};
    const char *const none[] = {"recall", "--limit", "0", NULL};
    const char *const short_lists[] = {"recall", "--model", model, "--lists", bad, NULL};
    const char *const few[] = {"recall", "--model", model, "--lists", lists, "--limit", "5", NULL};
    const char *const damaged[] = {"recall", "--model",    model, "--lists",
                                   lists,    "--diffuser", bad,   NULL};
    assert_int_equal(command("1.json", nonsense), 2);
    assert_int_equal(command("1.json", none), 2);
    assert_int_equal(command("1.json", short_lists), 1);
    assert_int_equal(command("1.json", few), 1);
    assert_int_equal(command("1.json", damaged), 1);
}

static double told(const json_t *root, const char *name, const char *what)
{
    return json_number_value(json_object_get(json_object_get(row(root, name), what), "mean"));
}

static void test_recall_model(void **state)
{
    (void)state;
    struct buf path;
    struct err e = {0};
    buf_init(&path, 8192);
    int rc = bundled_path("recall/model.safetensors", &path, &e);
    buf_fini(&path);
    if (rc < 0) {
        printf("skip: no recall model\n");
        skip();
    }
    const char *const argv[] = {"recall", "--limit", "40", "--threads", "2", "--json", NULL};
    assert_int_equal(command("1.json", argv), 0);
    json_t *root = json_load_file(in_folder("1.json"), 0, NULL);
    assert_non_null(root);
    assert_true(told(root, "unedited", "edited_old") > .8);
    assert_true(told(root, "unedited", "untouched") > .8);
    assert_true(told(root, "unedited", "removed_old") > .8);
    assert_true(told(root, "unedited", "edited_new") < .1);
    assert_true(told(root, "changed list, baked afresh", "edited_new") > .8);
    assert_true(told(root, "changed list, baked afresh", "untouched") > .8);
    assert_true(told(root, "changed list, baked afresh", "removed_none") > .8);
    assert_true(told(root, "zero state", "untouched") < .1);
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lists),        cmocka_unit_test(test_wilson),
        cmocka_unit_test(test_command),      cmocka_unit_test(test_refused),
        cmocka_unit_test(test_recall_model),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
