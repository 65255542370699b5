/* Every kernel at every CPU level: against a double loop within a stated bound, with guards around the
 * output, unaligned data and sizes 1 to 67; and each is the same function of its elements however a
 * range is cut or columns are put together. */
#include "tests/lib/check.h"

#include "daemon/base/mem.h"
#include "engine/kernels/kern.h"
#include "engine/kernels/rng.h"

#include <math.h>
#include <stdlib.h>

enum { MAX = 67, GUARD = 16 };
static const float guard_value = 12345.5f;

/* Runs body(k) for each level of this machine. */
static void each_level(void (*body)(const struct kern *k))
{
    for (enum cpu_level l = CPU_C; l; l = cpu_level_next(l)) {
        struct kern k;
        kern_init(&k, l);
        if (k.level != l) {
            printf("skip: this CPU has no %s\n", cpu_level_name(l));
            return;
        }
        body(&k);
    }
}

/* n floats with guards on both sides, at an odd place; check and free with guarded_end. */
static float *guarded_new(size_t n)
{
    float *p = malloc((n + 2 * GUARD + 1) * sizeof *p);
    assert_non_null(p);
    for (size_t i = 0; i < n + 2 * GUARD + 1; i++)
        p[i] = guard_value;
    return p + GUARD + 1;
}
static void guarded_end(float *p, size_t n)
{
    for (size_t i = 1; i <= GUARD + 1; i++)
        assert_true(p[-(ptrdiff_t)i] == guard_value);
    for (size_t i = 0; i < GUARD; i++)
        assert_true(p[n + i] == guard_value);
    free(p - GUARD - 1);
}

static void fill(struct rng *r, float *x, size_t n, double scale)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(rng_normal(r) * scale);
}

/* ---- functions of one variable: distance in units of the last place ---- */

static double ulps(float got, double want)
{
    if (isnan(want))
        return isnan(got) ? 0 : INFINITY;
    float w = (float)want;
    if (got == w)
        return 0;
    if (!isfinite(got) || !isfinite(w))
        return INFINITY;
    int exponent;
    frexp(want, &exponent);
    double ulp = ldexp(1, exponent - 24 < -149 ? -149 : exponent - 24);
    return fabs((double)got - want) / ulp;
}

static double exp_d(double x) { return exp(x); }
static double sigmoid_d(double x) { return 1 / (1 + exp(-x)); }
static double tanh_d(double x) { return tanh(x); }
static double softplus_d(double x) { return fmax(x, 0) + log1p(exp(-fabs(x))) + (isnan(x) ? x : 0); }
static double relu2_d(double x) { return x > 0 ? x * x : x < 0 ? 0 : x; }

static void check_function(const char *name, void (*f)(float *, const float *, size_t),
                           double (*want)(double), double bound)
{
    static const float special[] = {0, -0.0f, 1e-40f, -1e-40f, 1e-30f, 87.5f, 88.72f, 88.73f, -87.3f,
                                    -88, -103.9f, -104.5f, 1e4f, -1e4f, 3e38f, -3e38f, INFINITY,
                                    -INFINITY, NAN, 0.625f, -0.625f, 0.6249999f, 9.1f, -9.1f};
    enum { S = sizeof special / sizeof *special, N = 40000 };
    struct rng r;
    rng_init(&r, 5, 0);
    float *x = malloc(N * sizeof *x), *y = guarded_new(N);
    assert_non_null(x);
    for (size_t i = 0; i < N; i++)
        x[i] = i < S ? special[i] : (float)(rng_normal(&r) * pow(10, 3 * rng_uniform(&r) - 2));
    f(y, x, N);
    double worst = 0;
    for (size_t i = 0; i < N; i++) {
        double u = ulps(y[i], want((double)x[i]));
        if (u > bound)
            fail_msg("%s(%.9g) = %.9g, want %.9g: %.2f ulp", name, (double)x[i], (double)y[i],
                     want((double)x[i]), u);
        worst = u > worst ? u : worst;
    }
    printf("  %-9s worst %.2f ulp\n", name, worst);
    guarded_end(y, N);
    free(x);
}

/* The bits of an element do not depend on its place; the output may be the input. */
static void check_places(void (*f)(float *, const float *, size_t))
{
    struct rng r;
    rng_init(&r, 6, 0);
    float x[MAX + 1], one;
    fill(&r, x, MAX + 1, 2);
    for (size_t n = 1; n <= MAX; n++) {
        float *y = guarded_new(n);
        memcpy(y, x + 1, n * sizeof *y);
        f(y, y, n);
        for (size_t i = 0; i < n; i++) {
            f(&one, x + 1 + i, 1);
            assert_memory_equal(&one, y + i, sizeof one);
        }
        guarded_end(y, n);
    }
}

static void functions(const struct kern *k)
{
    printf("%s:\n", cpu_level_name(k->level));
    check_function("exp", k->vec_exp, exp_d, 2);
    check_function("sigmoid", k->vec_sigmoid, sigmoid_d, 4);
    check_function("tanh", k->vec_tanh, tanh_d, 4);
    check_function("softplus", k->vec_softplus, softplus_d, 4);
    check_function("relu2", k->vec_relu2, relu2_d, 0.5);
    check_places(k->vec_exp);
    check_places(k->vec_sigmoid);
    check_places(k->vec_tanh);
    check_places(k->vec_softplus);
    check_places(k->vec_relu2);
}
static void test_functions(void **state)
{
    (void)state;
    each_level(functions);
}

static void mix_norm_finite(const struct kern *k)
{
    struct rng r;
    rng_init(&r, 7, 0);
    float z[MAX], p[MAX], mu[MAX], b[MAX];
    for (size_t n = 1; n <= MAX; n++) {
        fill(&r, z, n, 3), fill(&r, p, n, 3), fill(&r, mu, n, 1), fill(&r, b, n, 1);
        float *y = guarded_new(n);
        k->vec_mix(y, z, p, mu, n);
        for (size_t i = 0; i < n; i++) {
            double s = (double)p[i] - (double)z[i];
            assert_true(fabs((double)y[i] - ((double)z[i] + s * (double)mu[i])) <
                        3e-7 * (fabs((double)z[i]) + fabs((double)p[i])) *
                            (1 + fabs((double)mu[i])));
        }
        double mean = 0, var = 0;
        for (size_t i = 0; i < n; i++)
            mean += (double)z[i] / (double)n;
        for (size_t i = 0; i < n; i++)
            var += ((double)z[i] - mean) * ((double)z[i] - mean) / (double)n;
        float m, rstd;
        k->norm_stats(z, n, 1e-5f, &m, &rstd);
        assert_true(fabs((double)m - mean) < 2e-6);
        assert_true(fabs((double)rstd * sqrt(var + (double)1e-5f) - 1) < 2e-6);
        k->norm_apply(y, z, m, rstd, mu, b, n);
        for (size_t i = 0; i < n; i++) {
            double want = ((double)z[i] - (double)m) * (double)rstd * (double)mu[i] + (double)b[i];
            assert_true(fabs((double)y[i] - want) < 5e-6);
        }
        guarded_end(y, n);
        assert_true(k->vec_finite(z, n));
        static const float bad[] = {NAN, INFINITY, -INFINITY};
        float keep = z[n / 2];
        for (int i = 0; i < 3; i++) {
            z[n / 2] = bad[i];
            assert_false(k->vec_finite(z, n));
        }
        z[n / 2] = keep;
    }
}
static void test_mix_norm_finite(void **state)
{
    (void)state;
    each_level(mix_norm_finite);
}

/* An element's bits do not depend on where a range begins or ends. */
static void add_rows(const struct kern *k)
{
    enum { ROWS = 8, LD = MAX + 3 };
    struct rng r;
    rng_init(&r, 11, 0);
    float x[ROWS * LD], start[MAX], a[ROWS], part[MAX];
    for (size_t n = 1; n <= MAX; n++) {
        const size_t m = n % (ROWS + 1);
        fill(&r, x, ROWS * LD, 2), fill(&r, start, n, 3), fill(&r, a, ROWS, 2);
        float *y = guarded_new(n);
        memcpy(y, start, n * sizeof *y);
        k->vec_add_rows(y, x, LD, a, m, n);
        for (size_t i = 0; i < n; i++) {
            double want = (double)start[i], size = fabs(want);
            for (size_t j = 0; j < m; j++) {
                want += (double)a[j] * (double)x[j * LD + i];
                size += fabs((double)a[j] * (double)x[j * LD + i]);
            }
            assert_true(fabs((double)y[i] - want) <= 6e-7 * size);
        }
        memcpy(part, start, n * sizeof *part);
        k->vec_add_rows(part, x, LD, a, m, n / 3);
        k->vec_add_rows(part + n / 3, x + n / 3, LD, a, m, n - n / 3);
        assert_memory_equal(y, part, n * sizeof *part);
        guarded_end(y, n);
    }
}
static void test_add_rows(void **state)
{
    (void)state;
    each_level(add_rows);
}

/* ---- products ---- */

static const enum dtype types[] = {DTYPE_F32,  DTYPE_F16,  DTYPE_BF16, DTYPE_Q8_0,
                                   DTYPE_Q4_0, DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K};

struct product {
    struct mat w;
    uint8_t *bytes; /* of w, one byte off any alignment */
    float *values;  /* [rows, cols]: what the bytes mean */
    float *x;       /* [n, mat_pad(cols)] */
    float *seen;    /* the same as the product sees it: rounded to int8 for weights in panels */
    size_t n;
};

/* Weights of type t for values [cols], which become what those weights mean. Nothing here makes the K
 * types: theirs are random bytes with finite scales. */
static void make_row(struct rng *r, enum dtype t, uint8_t *row, float *values, size_t cols)
{
    size_t bytes = dtype_block_bytes(t), at = t == DTYPE_Q6_K ? 208 : 0;
    if (!dtype_from_f32(t, values, row, cols))
        for (size_t i = 0; i < cols / 256; i++) {
            for (size_t k = 0; k < bytes; k++)
                row[i * bytes + k] = (uint8_t)rng_u32(r);
            for (size_t k = at; k < (at ? bytes : 4); k += 2) /* d, and m */
                row[i * bytes + k + 1] = 0x1f & rng_u32(r);
        }
    dtype_to_f32(t, row, values, cols);
}

/* Of 32 numbers, by the words of panel.h. */
static void round_block(const float *x, float *to)
{
    float most = 0;
    for (size_t i = 0; i < 32; i++)
        most = fmaxf(most, fabsf(x[i]));
    for (size_t i = 0; i < 32; i++)
        to[i] = most > 0x1p-100f ? rintf(x[i] * (127 / most)) * (most / 127) : 0;
}

static void product_new(struct product *p, struct rng *r, enum dtype t, size_t rows,
                        size_t cols, size_t n)
{
    size_t row_bytes, ld = mat_pad(cols);
    assert_true(dtype_bytes(t, cols, &row_bytes));
    p->w = (struct mat){.type = t, .rows = rows, .cols = cols, .row_bytes = row_bytes,
                         .panels = t != DTYPE_F32 || rows % 2}; /* F32: both are used */
    p->bytes = calloc(mat_data_bytes(&p->w) + 1, 1);
    uint8_t *row = malloc(row_bytes);
    p->values = malloc(rows * cols * sizeof(float));
    p->x = mem_calloc_aligned(n * ld, sizeof(float));
    p->seen = mem_calloc_aligned(n * ld, sizeof(float));
    assert_true(p->bytes && row && p->values && p->x && p->seen);
    p->w.data = p->bytes + 1;
    fill(r, p->values, rows * cols, 1);
    for (size_t o = 0; o < rows; o++) {
        make_row(r, t, row, p->values + o * cols, cols);
        if (p->w.panels) /* in two parts */
            for (size_t b = 0, count = cols / dtype_block_len(t), half = count / 2, i = 0; i < 2; i++, b = half)
                mat_put_blocks(&p->w, o, b, row + b * (row_bytes / count), i ? count - half : half);
        else
            memcpy(p->bytes + 1 + o * row_bytes, row, row_bytes);
    }
    free(row);
    for (size_t b = 0; b < n; b++)
        fill(r, p->x + b * ld, cols, pow(10, rng_normal(r)));
    memset(p->x, 0, (cols < 5 ? cols : 5) * sizeof(float));
    memcpy(p->seen, p->x, n * ld * sizeof(float));
    for (size_t i = 0; dtype_block_len(t) > 1 && i < n * ld; i += 32)
        round_block(p->x + i, p->seen + i);
    p->n = n;
}
static void product_free(struct product *p)
{
    free(p->bytes);
    free(p->values);
    free(p->x);
    free(p->seen);
}

/* Rounding of cols products and sums of numbers this size: gamma_n sum |w x|. Sums of panels have one term
 * a block, but the seen x are rounded once more here. */
static void check_product(const struct product *p, float *const *y, bool add)
{
    size_t cols = p->w.cols, ld = mat_pad(cols);
    for (size_t b = 0; b < p->n; b++)
        for (size_t o = 0; o < p->w.rows; o++) {
            double want = add ? 1 : 0, size = want;
            for (size_t i = 0; i < cols; i++) {
                double t = (double)p->values[o * cols + i] * (double)p->seen[b * ld + i];
                want += t, size += fabs(t);
            }
            double bound = 0x1p-24 * (double)(cols / 4 + 6) * size;
            if (!(fabs((double)y[b][o] - want) <= bound))
                fail_msg("%s %zux%zu n %zu: y[%zu][%zu] = %.9g, want %.9g", dtype_name(p->w.type),
                         p->w.rows, cols, p->n, b, o, (double)y[b][o], want);
        }
}

/* Columns that threads made ready in three parts: the same bits as y. */
static void run_ready(const struct kern *k, const struct product *p, float *const *y, bool add,
                      float *scratch)
{
    const size_t cols = p->w.cols, rows = p->w.rows, a = cols / 96 * 32, b = (cols + 31) / 64 * 32;
    const size_t bytes = kern_ready_bytes(k, p->w.type, cols, p->n);
    if (!bytes || !p->w.panels)
        return;
    struct mat_in in = {.x = p->x, .ldx = mat_pad(cols), .n = p->n, .ready_for = p->w.type};
    uint8_t *memory = mem_calloc_aligned(bytes + 64, 1);
    float *z[MAX];
    memset(memory, 0xff, bytes + 64);
    k->make_ready(p->w.type, &in, cols, b, cols, memory);
    k->make_ready(p->w.type, &in, cols, 0, a, memory);
    k->make_ready(p->w.type, &in, cols, a, b, memory);
    for (size_t i = 0; i < 64; i++)
        assert_int_equal(memory[bytes + i], 0xff);
    in.ready = memory;
    in.x = NULL;
    for (size_t i = 0; i < p->n; i++) {
        z[i] = guarded_new(rows);
        for (size_t o = 0; o < rows; o++)
            z[i][o] = 1;
    }
    kern_mat_mul(k, &p->w, 0, rows, &in, &(struct mat_out){z, add}, scratch);
    for (size_t i = 0; i < p->n; i++) {
        assert_memory_equal(z[i], y[i], rows * sizeof(float));
        guarded_end(z[i], rows);
    }
    free(memory);
}

static void run_product(const struct kern *k, struct product *p, bool add)
{
    size_t rows = p->w.rows, ld = mat_pad(p->w.cols);
    float *y[MAX], *scratch = guarded_new(mat_scratch_floats(p->w.cols));
    float alone[71], *alone_y[1] = {alone};
    for (size_t b = 0; b < p->n; b++) {
        y[b] = guarded_new(rows);
        for (size_t o = 0; o < rows; o++)
            y[b][o] = 1;
    }
    size_t cut = rows / 3;
    struct mat_in in = {.x = p->x, .ldx = ld, .n = p->n};
    struct mat_out out = {y, add};
    kern_mat_mul(k, &p->w, 0, cut, &in, &out, scratch);
    kern_mat_mul(k, &p->w, cut, rows, &in, &out, scratch);
    check_product(p, y, add);
    for (size_t b = 0; b < p->n; b += 1 + p->n / 3) /* alone: the same bits */
        for (size_t o = 0; o < rows; o++) {
            alone[o] = 1;
            kern_mat_mul(k, &p->w, o, o + 1, &(struct mat_in){.x = p->x + b * ld, .ldx = ld, .n = 1},
                       &(struct mat_out){alone_y, add}, scratch);
            assert_memory_equal(alone + o, y[b] + o, sizeof *alone);
        }
    run_ready(k, p, y, add, scratch);
    guarded_end(scratch, mat_scratch_floats(p->w.cols));
    for (size_t b = 0; b < p->n; b++)
        guarded_end(y[b], rows);
}

static void products(const struct kern *k)
{
    struct rng r;
    rng_init(&r, 8, 0);
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (size_t i = 1; i <= (dtype_block_len(types[t]) < 256 ? MAX : 16); i++) {
            size_t block = dtype_block_len(types[t]);
            struct product p;
            product_new(&p, &r, types[t], 1 + (i * 17) % 71, i * block, i % 16 ? 1 + i % 20 : MAX);
            run_product(k, &p, i % 2);
            product_free(&p);
        }
}
static void test_products(void **state)
{
    (void)state;
    each_level(products);
}

/* The K types' weights as llama.cpp's gguf-py expands them: 127 times each is its product with a column of one
 * 127 among zeros, which rounds to itself, but for what both sides round; another bit of it would be far more.
 * Columns alone and 67 together. */
static void golden_blocks(const struct kern *k)
{
    static const char *const names[] = {"Q4_K", "Q5_K", "Q6_K"};
    enum { R = 6, C = 1024 };
    struct tensor_file *f = golden_open("gguf-blocks/blocks.safetensors");
    float *x = calloc((size_t)MAX * C, sizeof *x), *scratch = guarded_new(mat_scratch_floats(C));
    float sums[MAX][R], *y[MAX];
    assert_non_null(x);
    for (size_t i = 0; i < MAX; i++)
        y[i] = sums[i];
    for (size_t t = 0; t < 3; t++) {
        char name[16];
        struct mat m = {.rows = R, .cols = C, .panels = true};
        assert_true(dtype_parse(names[t], &m.type) && dtype_bytes(m.type, C, &m.row_bytes));
        snprintf(name, sizeof name, "%s.blocks", names[t]);
        const uint8_t *rows = tensor_file_find(f, name)->data;
        uint8_t *data = calloc(mat_data_bytes(&m), 1);
        m.data = data;
        for (size_t o = 0; o < R; o++)
            mat_put_blocks(&m, o, 0, rows + o * m.row_bytes, C / 256);
        snprintf(name, sizeof name, "%s.values", names[t]);
        float *want = golden_f32(f, name, R * C);
        for (size_t at = 0, n; at < C; at += n) {
            n = at % 3 || C - at < MAX ? 1 : MAX;
            for (size_t i = 0; i < n; i++)
                x[i * C + at + i] = 127;
            kern_mat_mul(k, &m, 0, R, &(struct mat_in){.x = x, .ldx = C, .n = n}, &(struct mat_out){y, false}, scratch);
            for (size_t i = 0; i < n; i++) {
                x[i * C + at + i] = 0;
                for (size_t o = 0; o < R; o++) {
                    double largest = 0; /* of the group: the parts of a difference are about as large */
                    for (size_t g = (at + i) / 32 * 32, e = g + 32; g < e; g++)
                        largest = fmax(largest, fabs((double)want[o * C + g]));
                    const double v = (double)want[o * C + at + i];
                    if (!(fabs((double)sums[i][o] / 127 - v) <= 0x1p-20 * largest))
                        fail_msg("%s row %zu column %zu is %.9g, want %.9g", names[t], o, at + i,
                                 (double)sums[i][o] / 127, v);
                }
            }
        }
        free(want);
        free(data);
    }
    guarded_end(scratch, mat_scratch_floats(C));
    free(x);
    tensor_file_close(f);
}
static void test_golden_blocks(void **state)
{
    (void)state;
    each_level(golden_blocks);
}

/* Weights in panels: the same bytes from every form but level C's; -128 against 127 does not saturate;
 * numbers that are not finite come through. */
static void fill_q8(struct product *p, int8_t q)
{
    uint8_t block[34] = {0x00, 0x3c}; /* scale 1 */
    memset(block + 2, q, 32);
    for (size_t o = 0; o < p->w.rows; o++)
        for (size_t b = 0; b < p->w.cols / 32; b++)
            mat_put_blocks(&p->w, o, b, block, 1);
}

static void panels_of(enum dtype t, size_t rows, size_t cols, size_t n)
{
    struct rng r;
    struct product p;
    rng_init(&r, 12, n);
    struct kern c;
    kern_init(&c, CPU_C);
    product_new(&p, &r, t, rows, cols, n);
    float *first = calloc(n * rows, sizeof *first), *now = calloc(n * rows, sizeof *now), *y[MAX];
    float *scratch = malloc(mat_scratch_floats(cols) * sizeof *scratch);
    assert_true(first && now && scratch);
    bool any = false;
    for (enum cpu_level l = cpu_level_next(CPU_C); l; l = cpu_level_next(l), any = true) {
        struct kern k;
        kern_init(&k, l);
        if (k.level != l)
            break;
        for (size_t b = 0; b < n; b++)
            y[b] = (any ? now : first) + b * rows;
        kern_mat_mul(&k, &p.w, 0, rows, &(struct mat_in){.x = p.x, .ldx = mat_pad(cols), .n = n},
                     &(struct mat_out){y, false}, scratch);
        if (any)
            assert_memory_equal(now, first, n * rows * sizeof *now);
    }
    free(first), free(now), free(scratch);
    product_free(&p);
}

static void panel_extremes(const struct kern *k)
{
    struct rng r;
    struct product p;
    float y0[20][17], *y[20], scratch[100 * 64 + 16];
    rng_init(&r, 13, 0);
    product_new(&p, &r, DTYPE_Q8_0, 17, 64, 20);
    fill_q8(&p, -128);
    for (size_t i = 0; i < 20 * 64; i++)
        p.x[i] = i < 640 ? 127 : -127;
    p.x[19 * 64 + 5] = NAN, p.x[18 * 64 + 40] = INFINITY, p.x[3 * 64] = -INFINITY;
    for (size_t b = 0; b < 20; b++)
        y[b] = y0[b];
    for (size_t n = 20; n > 0; n = n == 20 ? 4 : 0) { /* a tile and a few columns; those alone */
        kern_mat_mul(k, &p.w, 0, 17, &(struct mat_in){.x = p.x, .ldx = 64, .n = n}, &(struct mat_out){y, false}, scratch);
        for (size_t b = 0; b < n; b++)
            for (size_t o = 0; o < 17; o++) {
                if (b == 3 || b >= 18)
                    assert_false(isfinite(y[b][o]));
                else
                    assert_true(y[b][o] == (b < 10 ? -64 * 128 * 127 : 64 * 128 * 127));
            }
    }
    product_free(&p);
}

static void test_panels(void **state)
{
    (void)state;
    for (size_t n = 1; n < MAX; n += 1 + n / 3)
        for (size_t cols = 32; cols <= 352; cols += 64) {
            panels_of(DTYPE_Q8_0, 3 + cols % 37, cols, n);
            panels_of(DTYPE_Q4_0, 3 + cols % 37, cols, n);
        }
    for (size_t n = 1; n < MAX; n += 1 + n / 3)
        for (enum dtype t = 0; t < DTYPE_COUNT; t++)
            if (t == DTYPE_Q4_K || t == DTYPE_Q5_K || t == DTYPE_Q6_K)
                panels_of(t, 3 + 5 * n, n % 2 ? 768 : 256, n);
    panels_of(DTYPE_Q8_0, 32, 64, MAX);
    each_level(panel_extremes);
}

/* Weights at the ends of their types: denormal, largest, infinite, both zeros. */
static void extreme_weights(const struct kern *k)
{
    static const uint16_t halves[] = {0x0000, 0x8000, 0x0001, 0x83ff, 0x0400, 0x7bff, 0xfbff, 0x3c00};
    static const enum dtype half_types[] = {DTYPE_F16, DTYPE_BF16};
    float x[32] = {0}, y, *yp[1] = {&y}, *scratch = guarded_new(mat_scratch_floats(32));
    const struct mat_in in = {.x = x, .ldx = 32, .n = 1};
    const struct mat_out out = {yp, false};
    uint16_t panel[MAT_PANEL_ROWS * 32];
    for (size_t t = 0; t < 2; t++) {
        const struct mat m = {half_types[t], 1, 32, 64, panel, true};
        const bool tiles = k->level >= CPU_AMX && m.type == DTYPE_BF16;
        assert_int_equal(mat_data_bytes(&m), sizeof panel);
        for (size_t i = 0; i < 8; i++)
            for (size_t at = 0; at < 32; at += 5) {
                float want;
                memset(panel, 0, sizeof panel), memset(x, 0, sizeof x);
                mat_put_blocks(&m, 0, at, &halves[i], 1);
                x[at] = 1;
                dtype_to_f32(m.type, &halves[i], &want, 1);
                if (tiles && fabsf(want) < 0x1p-126f) /* panel_bf16_amx.c */
                    want = 0;
                kern_mat_mul(k, &m, 0, 1, &in, &out, scratch);
                assert_true(y == want);
            }
        mat_put_blocks(&m, 0, 3, &(uint16_t){m.type == DTYPE_F16 ? 0x7c00 : 0x7f80}, 1);
        x[3] = 1;
        kern_mat_mul(k, &m, 0, 1, &in, &out, scratch);
        assert_true(tiles ? !isfinite(y) : isinf(y) && y > 0);
    }
    guarded_end(scratch, mat_scratch_floats(32));
}
static void test_extreme_weights(void **state)
{
    (void)state;
    each_level(extreme_weights);
}

/* ---- time mixing ---- */

static void gates(const struct kern *k)
{
    struct rng r;
    rng_init(&r, 9, 0);
    for (size_t n = 1; n <= MAX; n++) {
        float in[12][MAX], *out[5];
        for (int i = 0; i < 12; i++)
            fill(&r, in[i], n, 1.5);
        for (int i = 0; i < 5; i++) {
            out[i] = guarded_new(n);
            memcpy(out[i], in[i], n * sizeof(float));
        }
        k->att_gates(&(struct att_gates){out[0], out[1], out[2], out[3], out[4], in[5], in[6], in[7],
                                         in[8], in[9], in[10], in[11]},
                     n);
        for (size_t i = 0; i < n; i++) {
            double w = exp(-exp(-0.5) * sigmoid_d((double)in[5][i] + (double)in[0][i]));
            double a = sigmoid_d((double)in[6][i] + (double)in[1][i]);
            double v = (double)in[2][i], kk = (double)in[3][i];
            v += ((double)in[11][i] - v) * sigmoid_d((double)in[7][i] + (double)in[10][i]);
            assert_true(fabs((double)out[0][i] - w) < 3e-7);
            assert_true(fabs((double)out[1][i] - a) < 3e-7);
            assert_true(fabs((double)out[2][i] - v) < 3e-6);
            assert_true(fabs((double)out[3][i] - kk * (1 + (a - 1) * (double)in[9][i])) < 1e-5);
            assert_true(fabs((double)out[4][i] - kk * (double)in[8][i]) < 1e-5);
        }
        for (int i = 0; i < 5; i++)
            guarded_end(out[i], n);
    }
}

/* One token of one head in double, as rwkv7.md writes it. */
static void wkv_double(double *S, size_t N, float in[6][128], double *y)
{
    double norm = 0;
    for (size_t j = 0; j < N; j++)
        norm += (double)in[4][j] * (double)in[4][j];
    norm = fmax(sqrt(norm), 1e-12);
    for (size_t i = 0; i < N; i++) {
        double sa = 0;
        for (size_t j = 0; j < N; j++)
            sa += S[i * N + j] * (double)in[4][j] / norm;
        y[i] = 0;
        for (size_t j = 0; j < N; j++) {
            double b = (double)in[4][j] / norm * (double)in[5][j];
            double *s = &S[i * N + j];
            *s = *s * (double)in[1][j] - sa * b + (double)in[3][i] * (double)in[2][j];
            y[i] += *s * (double)in[0][j];
        }
    }
}

static void recurrence(const struct kern *k, size_t N)
{
    struct rng r;
    rng_init(&r, 10, N);
    double *Sd = calloc(N * N, sizeof *Sd), yd[128];
    float *S = guarded_new(N * N), *y = guarded_new(N), in[6][128]; /* r w k v kk a */
    assert_non_null(Sd);
    memset(S, 0, N * N * sizeof *S);
    for (int token = 0; token < 20; token++) {
        for (int i = 0; i < 6; i++)
            fill(&r, in[i], N, 1);
        k->vec_sigmoid(in[5], in[5], N);
        k->vec_sigmoid(in[1], in[1], N);
        for (size_t j = 0; j < N; j++)
            in[1][j] = 0.55f + 0.44f * in[1][j];
        if (token == 10) /* a zero key direction is divided by 1e-12, not by zero */
            memset(in[4], 0, sizeof in[4]);
        wkv_double(Sd, N, in, yd);
        k->wkv_step(&(struct wkv_args){S, y, in[0], in[1], in[2], in[3], in[4], in[5]}, N);
        for (size_t i = 0; i < N; i++)
            assert_true(fabs((double)y[i] - yd[i]) < 1e-4);
        for (size_t i = 0; i < N * N; i++)
            assert_true(fabs((double)S[i] - Sd[i]) < 2e-5);
    }
    guarded_end(S, N * N);
    guarded_end(y, N);
    free(Sd);
}

static void head_out(const struct kern *k, size_t N)
{
    struct rng r;
    rng_init(&r, 11, N);
    float in[8][128], *y = guarded_new(N);
    for (int i = 0; i < 8; i++)
        fill(&r, in[i], N, 1);
    memcpy(y, in[0], N * sizeof *y);
    k->att_out(&(struct att_out){y, in[1], in[2], in[3], in[4], in[5], in[6], in[7]}, N, 64e-5f);
    double mean = 0, var = 0, bonus = 0;
    for (size_t i = 0; i < N; i++) {
        mean += (double)in[0][i] / (double)N;
        bonus += (double)in[3][i] * (double)in[4][i] * (double)in[5][i];
    }
    for (size_t i = 0; i < N; i++)
        var += ((double)in[0][i] - mean) * ((double)in[0][i] - mean) / (double)N;
    for (size_t i = 0; i < N; i++) {
        double norm = ((double)in[0][i] - mean) / sqrt(var + 64e-5);
        double want = norm * (double)in[1][i] + (double)in[2][i] + bonus * (double)in[6][i];
        assert_true(fabs((double)y[i] - want * (double)in[7][i]) < 1e-4);
    }
    guarded_end(y, N);
}

static void time_mixing(const struct kern *k)
{
    gates(k);
    for (size_t N = 32; N <= 128; N *= 2) {
        recurrence(k, N);
        head_out(k, N);
    }
}
static void test_time_mixing(void **state)
{
    (void)state;
    each_level(time_mixing);
}

static void test_levels(void **state)
{
    (void)state;
    enum cpu_level l;
    assert_true(cpu_level_parse("avx2", &l) && l == CPU_AVX2);
    assert_false(cpu_level_parse("sse", &l));
    assert_int_equal(cpu_detect(CPU_C), CPU_C);
    assert_int_equal(setenv("DREAMSTATE_CPU", "c", 1), 0);
    assert_int_equal(cpu_detect(CPU_AUTO), CPU_C);
    assert_int_equal(unsetenv("DREAMSTATE_CPU"), 0);
    assert_true(cpu_detect(CPU_AUTO) != CPU_AUTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_functions),       cmocka_unit_test(test_mix_norm_finite),
        cmocka_unit_test(test_add_rows),        cmocka_unit_test(test_products),
        cmocka_unit_test(test_extreme_weights), cmocka_unit_test(test_golden_blocks),
        cmocka_unit_test(test_panels),          cmocka_unit_test(test_time_mixing),
        cmocka_unit_test(test_levels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
