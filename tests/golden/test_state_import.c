/* daemon/state_import.h: every form of a tuned state gives the logits that were computed with it; what
 * does not fit is refused, with what was found and wanted. */
#include "daemon/state_import.h"

#include "daemon/state_record.h"
#include "engine/tensor/write.h"
#include "tests/lib/alloc_fail.h"
#include "tests/lib/model.h"

#include <math.h>
#include <stdlib.h>

struct bytes {
    char *p;
    size_t n;
};

static struct bytes slurp(const char *name)
{
    const char *path = golden_path(name);
    struct bytes b = {malloc(1 << 20), 0};
    if (!path)
        skip();
    FILE *f = fopen(path, "rb");
    assert_true(f && b.p);
    b.n = fread(b.p, 1, 1 << 20, f);
    fclose(f);
    assert_true(b.n > 0 && b.n < 1 << 20);
    return b;
}

struct fixture {
    struct test_model t;
    float *state, *logits;
    struct bytes file;
};

static void open_fixture(struct fixture *x, const char *model)
{
    test_model_open(&x->t, model, 1, -1, CPU_AUTO);
    x->state = rwkv_state_new(x->t.info);
    x->logits = calloc(x->t.info->n_vocab, sizeof *x->logits);
    assert_true(x->state && x->logits);
}

static void close_fixture(struct fixture *x)
{
    free(x->state);
    free(x->logits);
    test_model_close(&x->t);
}

static int import(struct fixture *x, const void *p, size_t n, enum state_orientation declared,
                  struct state_import *i, struct err *e)
{
    *i = (struct state_import){
        .info = x->t.info, .declared = declared, .state = x->state, .logits = x->logits};
    *e = (struct err){0};
    /* what the file does not hold must become zero */
    memset(x->state, 0x40, rwkv_state_floats(x->t.info) * sizeof *x->state);
    int rc = state_import_bytes(p, n, i, e);
    assert_int_equal(rc, e->code);
    return rc;
}

static void test_golden(void **unused)
{
    (void)unused;
    static const struct {
        const char *file;
        enum state_orientation declared, found;
        const char *logits, *container, *dtype;
    } forms[] = {
        {"state-fp32.pth", 0, ORIENTATION_VALUE_KEY, "logits.fp32", "pth", "F32"},
        {"state-bf16.pth", 0, ORIENTATION_VALUE_KEY, "logits.bf16", "pth", "BF16"},
        {"state-fp32.safetensors", ORIENTATION_VALUE_KEY, ORIENTATION_VALUE_KEY, "logits.fp32",
         "safetensors", "F32"},
        {"state-webrwkv-f16.st", ORIENTATION_KEY_VALUE, ORIENTATION_KEY_VALUE, "logits.webrwkv_f16",
         "safetensors", "F16"},
        {"state-fp32.pth", ORIENTATION_KEY_VALUE, ORIENTATION_KEY_VALUE, "logits.WRONG_transposed",
         "pth", "F32"},
    };
    struct fixture x;
    struct tensor_file *g = golden_open("state-files/golden.safetensors");
    open_fixture(&x, "state-files/model-fp32.safetensors");
    size_t n, V = x.t.info->n_vocab;
    uint32_t *tokens = golden_tokens(g, "tokens", &n);
    float *got = malloc(n * V * sizeof *got);
    assert_non_null(got);
    for (size_t k = 0; k < sizeof forms / sizeof forms[0]; k++) {
        char name[128];
        struct state_import i;
        struct err e;
        snprintf(name, sizeof name, "state-files/%s", forms[k].file);
        struct bytes b = slurp(name);
        if (import(&x, b.p, b.n, forms[k].declared, &i, &e) < 0)
            fail_msg("%s: %s", name, e.msg);
        assert_int_equal(i.orientation, forms[k].found);
        assert_string_equal(i.container, forms[k].container);
        assert_string_equal(i.dtype, forms[k].dtype);
        assert_string_equal(i.format, "time_state");
        assert_false(i.has_logits);
        assert_int_equal(i.n_tokens, 0);
        float *want = golden_f32(g, forms[k].logits, n * V);
        test_feed(&x.t, tokens, n, 5, 16, x.state, got);
        check_close(name, got, want, n * V, 5e-5);
        free(want);
        free(b.p);
    }
    free(got);
    free(tokens);
    close_fixture(&x);
    tensor_file_close(g);
}

/* Refused with a code and words of a message. */
static void refuse(struct fixture *x, const void *p, size_t n, int code, const char *words)
{
    struct state_import i;
    struct err e;
    int rc = import(x, p, n, 0, &i, &e);
    if (rc != code || !strstr(e.msg, words))
        fail_msg("gave %d, '%s'; want %d, '%s'", rc, e.msg, code, words);
}

static void test_ambiguous(void **unused)
{
    (void)unused;
    struct fixture x;
    struct state_import i;
    struct err e;
    open_fixture(&x, "state-files/model-fp32.safetensors");
    static const char *const files[] = {"state-files/state-fp32.safetensors",
                                        "state-files/state-webrwkv-f16.st"};
    for (int k = 0; k < 2; k++) {
        struct bytes b = slurp(files[k]);
        assert_int_equal(import(&x, b.p, b.n, 0, &i, &e), ERR_INVALID);
        assert_string_equal(e.param, "orientation");
        assert_non_null(strstr(e.msg, "value_key"));
        free(b.p);
    }
    close_fixture(&x);
}

/* ---- files made here ---- */

enum { L = 2, H = 2, N = 32, C = 64, MOST = 8 };

struct made {
    struct tensor t[MOST];
    char name[MOST][96];
    float data[MOST][H * N * N];
    size_t n;
    struct tensor_meta meta;
    size_t n_meta;
};

static struct tensor *add(struct made *m, const char *name, size_t a, size_t b, size_t c)
{
    struct tensor *t = &m->t[m->n];
    snprintf(m->name[m->n], sizeof m->name[0], "%s", name);
    *t = (struct tensor){.name = m->name[m->n],
                         .dtype = DTYPE_F32,
                         .n_dims = c ? 3 : 2,
                         .shape = {a, b, c},
                         .data = m->data[m->n]};
    t->bytes = a * b * (c ? c : 1) * sizeof(float);
    assert_true(t->bytes <= sizeof m->data[0]);
    for (size_t i = 0; i < H * N * N; i++)
        m->data[m->n][i] = (float)(i % 97) * 0.01f + (float)m->n;
    m->n++;
    return t;
}

static struct made *two_layers(const char *prefix)
{
    struct made *m = calloc(1, sizeof *m);
    char name[96];
    assert_non_null(m);
    for (int l = 0; l < L; l++) {
        snprintf(name, sizeof name, "%sblocks.%d.att.time_state", prefix, l);
        add(m, name, H, N, N);
    }
    return m;
}

static struct bytes pack(struct made *m)
{
    struct buf out;
    struct err e;
    buf_init(&out, 1 << 22);
    assert_int_equal(safetensors_pack(&out, m->t, m->n, &m->meta, m->n_meta, &e), 0);
    struct bytes b = {.n = out.len};
    b.p = buf_take(&out, NULL);
    assert_non_null(b.p);
    return b;
}

static void refuse_made(struct fixture *x, struct made *m, int code, const char *words)
{
    struct bytes b = pack(m);
    refuse(x, b.p, b.n, code, words);
    free(b.p);
    free(m);
}

static float wkv(struct fixture *x, size_t l, size_t h, size_t i, size_t j)
{
    return rwkv_state_wkv(x->t.info, x->state, l)[(h * N + i) * N + j];
}

/* The metadata, a prefix, the weights beside it. */
static void test_told_by_content(void **unused)
{
    (void)unused;
    struct fixture x;
    struct state_import i;
    struct err e;
    open_fixture(&x, "state-files/model-fp32.safetensors");
    for (int way = 0; way < 4; way++) {
        struct made *m = two_layers(way % 2 ? "language_model." : "");
        bool exchanged = way >= 2;
        if (way % 2 == 0) {
            m->meta = (struct tensor_meta){.key = "orientation",
                                           .type = TENSOR_META_STR,
                                           .str = exchanged ? "key_value" : "value_key"};
            m->n_meta = 1;
        } else {
            add(m, "language_model.blocks.0.att.w1", exchanged ? 32 : C, exchanged ? C : 32, 0);
            add(m, "language_model.blocks.0.ffn.x_k", 1, C, 0);
        }
        struct bytes b = pack(m);
        if (import(&x, b.p, b.n, 0, &i, &e) < 0)
            fail_msg("%d: %s", way, e.msg);
        assert_int_equal(i.orientation, exchanged ? ORIENTATION_KEY_VALUE : ORIENTATION_VALUE_KEY);
        float want = m->data[1][(1 * N + 3) * N + 7];
        assert_true((exchanged ? wkv(&x, 1, 1, 7, 3) : wkv(&x, 1, 1, 3, 7)) == want);
        for (size_t k = 0; k < C; k++)
            assert_true(rwkv_state_att_shift(x.t.info, x.state, 1)[k] == 0 &&
                        rwkv_state_ffn_shift(x.t.info, x.state, 0)[k] == 0);
        /* a declaration against it is a mistake */
        assert_int_equal(
            import(&x, b.p, b.n, exchanged ? ORIENTATION_VALUE_KEY : ORIENTATION_KEY_VALUE, &i, &e),
            ERR_INVALID);
        assert_string_equal(e.param, "orientation");
        free(b.p);
        free(m);
    }
    close_fixture(&x);
}

static void test_refused(void **unused)
{
    (void)unused;
    struct fixture x;
    open_fixture(&x, "state-files/model-fp32.safetensors");
    struct made *m = two_layers("");
    m->n = 1;
    refuse_made(&x, m, ERR_FORMAT, "blocks.1.att.time_state: not in the file, which has 1 of");
    m = two_layers("");
    add(m, "blocks.2.att.time_state", H, N, N);
    refuse_made(&x, m, ERR_FORMAT, "layer 2, the model has 2 layers");
    m = two_layers("");
    add(m, "x.blocks.1.att.time_state", H, N, N);
    refuse_made(&x, m, ERR_FORMAT, "more than one state");
    m = two_layers("");
    add(m, "blocks.0.att.time_offset", C, 1, 0);
    refuse_made(&x, m, ERR_FORMAT, "time_offset");
    m = calloc(1, sizeof *m);
    add(m, "blocks.0.att.x_r", 1, C, 0);
    refuse_made(&x, m, ERR_FORMAT, "no state");
    m = two_layers("");
    m->meta =
        (struct tensor_meta){.key = "orientation", .type = TENSOR_META_STR, .str = "value_key"};
    m->n_meta = 1;
    m->t[1].shape[0] = 1, m->t[1].bytes /= H;
    struct bytes b = pack(m);
    refuse(&x, b.p, b.n, ERR_FORMAT,
           "blocks.1.att.time_state: shape [1, 32, 32], want [2, 32, 32]");
    free(b.p);
    m->t[1].shape[0] = H, m->t[1].bytes *= H;
    m->t[0].dtype = DTYPE_I32;
    b = pack(m);
    refuse(&x, b.p, b.n, ERR_FORMAT, "blocks.0.att.time_state: type I32");
    free(b.p);
    m->t[0].dtype = DTYPE_F32;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int k = 0; k < 3; k++) {
        m->data[1][77] = bad[k];
        b = pack(m);
        refuse(&x, b.p, b.n, ERR_FORMAT, "blocks.1.att.time_state: value 77 is not a finite");
        free(b.p);
    }
    free(m);
    close_fixture(&x);
}

static void test_cut_or_oversize(void **unused)
{
    (void)unused;
    struct fixture x;
    open_fixture(&x, "state-files/model-fp32.safetensors");
    struct made *m = two_layers("");
    struct bytes b = pack(m);
    for (size_t n = 0; n < b.n; n += n < 600 ? 1 : 997) { /* every way to be cut short */
        char *cut = malloc(n ? n : 1);
        struct state_import i;
        struct err e;
        assert_non_null(cut);
        memcpy(cut, b.p, n);
        assert_int_equal(import(&x, cut, n, 0, &i, &e), ERR_FORMAT);
        free(cut);
    }
    memcpy(b.p, &(uint64_t){9u << 20}, 8); /* a header larger than any state's */
    b.p = realloc(b.p, 10u << 20);
    assert_non_null(b.p);
    memset(b.p + b.n, ' ', (10u << 20) - b.n);
    refuse(&x, b.p, 10u << 20, ERR_FORMAT, "8388608 are allowed");
    free(b.p);
    free(m);
    close_fixture(&x);
}

/* ---- our own ---- */

static void test_own_record(void **unused)
{
    (void)unused;
    struct fixture x;
    struct state_import i;
    struct err e;
    open_fixture(&x, "state-files/model-fp32.safetensors");
    struct rwkv_info other = *x.t.info;
    other.fingerprint[0] = other.fingerprint[0] == 'a' ? 'b' : 'a';
    size_t floats = rwkv_state_floats(x.t.info);
    float *state = rwkv_state_new(x.t.info);
    assert_non_null(state);
    for (size_t k = 0; k < floats; k++)
        state[k] = (float)k;
    for (size_t k = 0; k < x.t.info->n_vocab; k++)
        x.logits[k] = -(float)k;
    void *blob, *again;
    size_t n, n2;
    char sha256[65], sha2[65];
    assert_int_equal(
        state_record_pack(x.t.info, "q8_0", 77, state, x.logits, &blob, &n, sha256, &e), 0);
    memset(x.logits, 0, x.t.info->n_vocab * sizeof *x.logits);
    assert_int_equal(import(&x, blob, n, 0, &i, &e), 0);
    assert_string_equal(i.format, "dreamstate-state");
    assert_string_equal(i.weights_type, "q8_0");
    assert_true(i.has_logits && i.n_tokens == 77 && x.logits[5] == -5);
    assert_memory_equal(x.state, state, floats * sizeof *state);
    /* packed again it is the same file */
    assert_int_equal(
        state_record_pack(x.t.info, "q8_0", 77, x.state, x.logits, &again, &n2, sha2, &e), 0);
    assert_string_equal(sha256, sha2);
    free(again);
    memcpy((char *)blob + n - 4, &(float){NAN}, 4);
    refuse(&x, blob, n, ERR_STATE_CORRUPT, "logits holds a value that is not finite");
    free(blob);
    assert_int_equal(state_record_pack(&other, "f32", 1, state, NULL, &blob, &n, sha256, &e), 0);
    refuse(&x, blob, n, ERR_STATE_INCOMPATIBLE, "another model");
    free(blob);
    free(state);
    close_fixture(&x);
}

/* Lack of memory must never be taken for a bad file. */
static int import_tuned(void *arg)
{
    struct fixture *x = arg;
    struct state_import i;
    struct err e;
    return import(x, x->file.p, x->file.n, 0, &i, &e);
}

static void test_no_memory(void **unused)
{
    (void)unused;
    struct fixture x;
    open_fixture(&x, "state-files/model-fp32.safetensors");
    x.file = slurp("state-files/state-bf16.pth");
    alloc_sweep(import_tuned, &x);
    free(x.file.p);
    close_fixture(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),          cmocka_unit_test(test_ambiguous),
        cmocka_unit_test(test_told_by_content), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_cut_or_oversize), cmocka_unit_test(test_own_record),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
