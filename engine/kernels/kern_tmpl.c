/* The loops of kern.h, compiled once a CPU level by kern_c.c, kern_neon.c, kern_avx2.c and
 * kern_avx512.c. Each defines first
 *     V, VW          a vector of VW floats
 *     v_*            its arithmetic; v_sum and v_sum4 add the lanes in one and the same order
 *     TILE_COLUMNS   columns multiplied together: 4 * TILE_COLUMNS sums in registers
 * A loop's last, partial vector runs through the same instructions as the others (get, put), so that
 * no element's bits depend on where it stands. */

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")
#define NV     (MAT_STEP / VW)

enum { COLUMN_BLOCK = 64 }; /* of a product: 196 KB of F32 at width 768 */

INLINE V get(const float *p, size_t left)
{
    return left >= VW ? v_load(p) : v_load_part(p, left);
}
INLINE void put(float *p, V v, size_t left)
{
    if (left >= VW)
        v_store(p, v);
    else
        v_store_part(p, v, left);
}
#define FOR_VECTORS(i, n) for (size_t i = 0, left = (n); i < (n); i += VW, left -= VW)

/* ---- functions of one variable ---------------------------------------------------------------- */

/* e^x = 2^n e^r, |r| <= ln(2)/2, ln(2) in two parts; the polynomial is Cephes' expf. */
INLINE V exp_v(V x)
{
    x = v_min(v_set1(89.0f), v_max(v_set1(-104.0f), x));
    V n = v_round(v_mul(x, v_set1(1.44269504088896341f)));
    V r = v_fma(n, v_set1(-0.693359375f), x);
    r = v_fma(n, v_set1(2.12194440e-4f), r);
    V p = v_set1(1.9875691500e-4f);
    p = v_fma(p, r, v_set1(1.3981999507e-3f));
    p = v_fma(p, r, v_set1(8.3334519073e-3f));
    p = v_fma(p, r, v_set1(4.1665795894e-2f));
    p = v_fma(p, r, v_set1(1.6666665459e-1f));
    p = v_fma(p, r, v_set1(5.0000001201e-1f));
    p = v_fma(p, v_mul(r, r), r);
    return v_scale(v_add(p, v_set1(1)), n);
}

INLINE V sigmoid_v(V x)
{
    V one = v_set1(1);
    return v_div(one, v_add(one, exp_v(v_sub(v_set1(0), x))));
}

/* Odd polynomial (Cephes' tanhf) up to 0.625, else 1 - 2 / (e^2|x| + 1) with the sign of x. */
INLINE V tanh_v(V x)
{
    V a = v_abs(x), z = v_mul(x, x), one = v_set1(1);
    V p = v_set1(-5.70498872745e-3f);
    p = v_fma(p, z, v_set1(2.06390887954e-2f));
    p = v_fma(p, z, v_set1(-5.37397155531e-2f));
    p = v_fma(p, z, v_set1(1.33314422036e-1f));
    p = v_fma(p, z, v_set1(-3.33332819422e-1f));
    V small = v_fma(v_mul(p, z), x, x);
    V large = v_sub(one, v_div(v_set1(2), v_add(exp_v(v_add(a, a)), one)));
    return v_select_lt(a, v_set1(0.625f), small, v_copysign(large, x));
}

/* max(x, 0) + log(1 + t), t = e^-|x|; log(1 + t) = 2 atanh(s), s = t / (2 + t) <= 1/3, by its series. */
INLINE V softplus_v(V x)
{
    V t = exp_v(v_sub(v_set1(0), v_abs(x)));
    V s = v_div(t, v_add(t, v_set1(2))), z = v_mul(s, s);
    V p = v_set1(2.0f / 17);
    for (int k = 15; k >= 3; k -= 2)
        p = v_fma(p, z, v_set1(2.0f / (float)k));
    V log1p = v_fma(v_mul(p, z), s, v_add(s, s));
    return v_add(v_max(v_set1(0), x), log1p);
}

INLINE V relu2_v(V x)
{
    V r = v_max(v_set1(0), x);
    return v_mul(r, r);
}

#define DEFINE_VEC(f)                                                                              \
    static void NAME(vec_##f)(float *y, const float *x, size_t n)                                  \
    {                                                                                              \
        FOR_VECTORS(i, n)                                                                          \
        put(y + i, f##_v(get(x + i, left)), left);                                                 \
    }
DEFINE_VEC(exp)
DEFINE_VEC(sigmoid)
DEFINE_VEC(tanh)
DEFINE_VEC(softplus)
DEFINE_VEC(relu2)

static void NAME(vec_mix)(float *y, const float *z, const float *prev, const float *mu, size_t n)
{
    FOR_VECTORS(i, n)
    {
        V zi = get(z + i, left);
        put(y + i, v_fma(v_sub(get(prev + i, left), zi), get(mu + i, left), zi), left);
    }
}

static void NAME(vec_add_rows)(float *y, const float *x, size_t ld, const float *a, size_t m,
                               size_t n)
{
    FOR_VECTORS(i, n)
    {
        V sum = get(y + i, left);
        for (size_t j = 0; j < m; j++)
            sum = v_fma(v_set1(a[j]), get(x + j * ld + i, left), sum);
        put(y + i, sum, left);
    }
}

/* x - x is 0 for a finite x, else NaN; sums of zeros stay 0. */
static bool NAME(vec_finite)(const float *x, size_t n)
{
    V sum = v_set1(0);
    FOR_VECTORS(i, n)
    {
        V xi = get(x + i, left);
        sum = v_add(sum, v_sub(xi, xi));
    }
    return v_sum(sum) == 0;
}

/* ---- norms ------------------------------------------------------------------------------------ */

INLINE void stats(const float *x, size_t n, float eps, float *mean, float *rstd)
{
    V sum = v_set1(0), sq = v_set1(0);
    FOR_VECTORS(i, n)
    sum = v_add(sum, get(x + i, left));
    float m = v_sum(sum) / (float)n;
    size_t whole = n / VW * VW;
    for (size_t i = 0; i < whole; i += VW) {
        V d = v_sub(v_load(x + i), v_set1(m));
        sq = v_fma(d, d, sq);
    }
    float rest = 0; /* the padding of a partial vector would count as 0 - mean */
    for (size_t i = whole; i < n; i++)
        rest += (x[i] - m) * (x[i] - m);
    *mean = m;
    *rstd = 1 / __builtin_sqrtf((v_sum(sq) + rest) / (float)n + eps);
}

static void NAME(norm_stats)(const float *x, size_t n, float eps, float *mean, float *rstd)
{
    stats(x, n, eps, mean, rstd);
}

static void NAME(norm_apply)(float *y, const float *x, float mean, float rstd, const float *w,
                             const float *b, size_t n)
{
    V m = v_set1(mean), s = v_set1(rstd);
    FOR_VECTORS(i, n)
    {
        V d = v_mul(v_sub(get(x + i, left), m), s);
        put(y + i, v_fma(d, get(w + i, left), get(b + i, left)), left);
    }
}

/* ---- products --------------------------------------------------------------------------------- */

/* acc [R][C] summed over lanes into y[c][o + r]. R is 1 or 4. */
INLINE void tile_end(const V *acc, int R, int C, const struct mat_out *out, size_t col, size_t o)
{
    UNROLL for (int c = 0; c < C; c++)
    {
        float sum[4];
        float *y = out->y[col + (size_t)c] + o;
        if (R == 4)
            v_sum4(sum, acc + c, (size_t)C);
        else
            sum[0] = v_sum(acc[c]);
        for (int r = 0; r < R; r++)
            y[r] = out->add ? y[r] + sum[r] : sum[r];
    }
}

/* 32 more weights of R rows, `stride` bytes apart, against C columns. */
INLINE void tile_step(V *acc, const uint8_t *w, size_t stride, const float *x, size_t ldx,
                      const int R, const int C)
{
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int s = 0; s < NV; s++)
    {
        V v = v_load(w + (size_t)r * stride + (size_t)s * sizeof v);
        UNROLL for (int c = 0; c < C; c++) acc[r * C + c] =
            v_fma(v, v_load(x + (size_t)c * ldx + s * VW), acc[r * C + c]);
    }
}

/* Rows o .. o + R against C columns from col. While they are read, the next four are asked for. The last cols % 32
 * weights go through a zero-padded copy. */
INLINE void tile(const struct mat *m, size_t o, const struct mat_in *in, size_t col,
                 const struct mat_out *out, const int R, const int C)
{
    V acc[4 * TILE_COLUMNS];
    for (int i = 0; i < R * C; i++)
        acc[i] = v_set1(0);
    const float *x = in->x + col * in->ldx;
    const uint8_t *w = (const uint8_t *)m->data + o * m->row_bytes;
    const size_t step = MAT_STEP * sizeof *x, rest = m->cols % MAT_STEP * sizeof *x;
    for (size_t k = 0; k < m->cols / MAT_STEP; k++, w += step, x += MAT_STEP) {
        UNROLL for (int r = 0; r < R; r++)
            __builtin_prefetch(w + (size_t)(r + 4) * m->row_bytes, 0, 2);
        tile_step(acc, w, m->row_bytes, x, in->ldx, R, C);
    }
    if (rest) {
        uint8_t last[4 * MAT_STEP * sizeof *x] = {0};
        for (int r = 0; r < R; r++)
            memcpy(last + (size_t)r * step, w + (size_t)r * m->row_bytes, rest);
        tile_step(acc, last, step, x, in->ldx, R, C);
    }
    tile_end(acc, R, C, out, col, o);
}

/* R rows against all columns, in groups of equal size, as near as can be. */
INLINE void tiles(const struct mat *m, size_t o, const struct mat_in *in, const struct mat_out *out,
                  const int R)
{
    for (size_t col = 0, c; col < in->n; col += c) {
        size_t left = in->n - col, groups = (left + TILE_COLUMNS - 1) / TILE_COLUMNS;
        c = (left + groups - 1) / groups;
        if (TILE_COLUMNS > 2 && c == 4)
            tile(m, o, in, col, out, R, TILE_COLUMNS);
        else if (TILE_COLUMNS > 2 && c == 3)
            tile(m, o, in, col, out, R, TILE_COLUMNS - 1);
        else if (c == 2)
            tile(m, o, in, col, out, R, 2);
        else
            tile(m, o, in, col, out, R, 1);
    }
}

/* Columns in blocks that stay in the second cache while all rows pass by. */
static void NAME(mul_rows)(const struct mat *m, size_t lo, size_t hi, const struct mat_in *in,
                           const struct mat_out *out)
{
    for (size_t col = 0, n; col < in->n; col += n) {
        n = in->n - col < COLUMN_BLOCK ? in->n - col : COLUMN_BLOCK;
        const struct mat_in part = {.x = in->x + col * in->ldx, .ldx = in->ldx, .n = n};
        const struct mat_out to = {out->y + col, out->add};
        size_t o = lo;
        for (; o + 4 <= hi; o += 4)
            tiles(m, o, &part, &to, 4);
        for (; o < hi; o++)
            tiles(m, o, &part, &to, 1);
    }
}

/* ---- RWKV-7 time mixing ----------------------------------------------------------------------- */

static void NAME(att_gates)(const struct att_gates *g, size_t n)
{
    V one = v_set1(1), c = v_set1(-0.606530659712633f);
    FOR_VECTORS(i, n)
    {
        V w = sigmoid_v(v_add(get(g->w0 + i, left), get(g->w + i, left)));
        put(g->w + i, exp_v(v_mul(c, w)), left);
        V a = sigmoid_v(v_add(get(g->a0 + i, left), get(g->a + i, left)));
        put(g->a + i, a, left);
        V k = get(g->k + i, left);
        put(g->kk + i, v_mul(k, get(g->k_k + i, left)), left);
        put(g->k + i, v_mul(k, v_fma(v_sub(a, one), get(g->k_a + i, left), one)), left);
    }
    if (!g->v0)
        return;
    FOR_VECTORS(i, n)
    {
        V v = get(g->v + i, left);
        V mix = sigmoid_v(v_add(get(g->v0 + i, left), get(g->v_lora + i, left)));
        put(g->v + i, v_fma(v_sub(get(g->v_first + i, left), v), mix, v), left);
    }
}

INLINE float dot(const float *a, const float *b, size_t n)
{
    V sum = v_set1(0);
    for (size_t i = 0; i < n; i += VW)
        sum = v_fma(v_load(a + i), v_load(b + i), sum);
    return v_sum(sum);
}

/* Four rows of S at a time: they stay in the first cache between the old sum and the update. */
INLINE void wkv_four(float *S, size_t N, const struct wkv_args *a, const float *kk, const float *b,
                     const float *v, float *y)
{
    V acc[4], sa[4], vv[4];
    float sum[4];
    UNROLL for (int q = 0; q < 4; q++) acc[q] = v_set1(0);
    for (size_t j = 0; j < N; j += VW)
        UNROLL for (size_t q = 0; q < 4; q++) acc[q] =
            v_fma(v_load(S + q * N + j), v_load(kk + j), acc[q]);
    v_sum4(sum, acc, 1);
    UNROLL for (int q = 0; q < 4; q++)
    {
        sa[q] = v_set1(-sum[q]);
        vv[q] = v_set1(v[q]);
        acc[q] = v_set1(0);
    }
    for (size_t j = 0; j < N; j += VW) {
        V wj = v_load(a->w + j), bj = v_load(b + j), kj = v_load(a->k + j), rj = v_load(a->r + j);
        UNROLL for (size_t q = 0; q < 4; q++)
        {
            V s = v_mul(v_load(S + q * N + j), wj);
            s = v_fma(vv[q], kj, v_fma(sa[q], bj, s));
            v_store(S + q * N + j, s);
            acc[q] = v_fma(s, rj, acc[q]);
        }
    }
    v_sum4(y, acc, 1);
}

INLINE void wkv_head(const struct wkv_args *a, const size_t N)
{
    _Alignas(64) float kk[128], b[128];
    float norm = __builtin_sqrtf(dot(a->kk, a->kk, N));
    V scale = v_set1(norm > 1e-12f ? norm : 1e-12f);
    for (size_t j = 0; j < N; j += VW) {
        V x = v_div(v_load(a->kk + j), scale);
        v_store(kk + j, x);
        v_store(b + j, v_mul(x, v_load(a->a + j)));
    }
    for (size_t i = 0; i < N; i += 4)
        wkv_four(a->S + i * N, N, a, kk, b, a->v + i, a->y + i);
}

static void NAME(wkv_step)(const struct wkv_args *a, size_t head_size)
{
    if (head_size == 64)
        wkv_head(a, 64);
    else
        wkv_head(a, head_size);
}

static void NAME(att_out)(const struct att_out *o, size_t head_size, float eps)
{
    float mean, rstd;
    stats(o->y, head_size, eps, &mean, &rstd);
    V sum = v_set1(0), m = v_set1(mean), s = v_set1(rstd);
    for (size_t i = 0; i < head_size; i += VW) {
        V rk = v_mul(v_load(o->r + i), v_load(o->k + i));
        sum = v_fma(rk, v_load(o->r_k + i), sum);
    }
    V bonus = v_set1(v_sum(sum));
    for (size_t i = 0; i < head_size; i += VW) {
        V y = v_mul(v_sub(v_load(o->y + i), m), s);
        y = v_fma(y, v_load(o->ln_w + i), v_load(o->ln_b + i));
        y = v_fma(bonus, v_load(o->v + i), y);
        v_store(o->y + i, v_mul(y, v_load(o->g + i)));
    }
}

void NAME(kern__init)(struct kern *k)
{
    *k = (struct kern){
        .vec_exp = NAME(vec_exp),
        .vec_sigmoid = NAME(vec_sigmoid),
        .vec_tanh = NAME(vec_tanh),
        .vec_softplus = NAME(vec_softplus),
        .vec_relu2 = NAME(vec_relu2),
        .vec_mix = NAME(vec_mix),
        .vec_add_rows = NAME(vec_add_rows),
        .vec_finite = NAME(vec_finite),
        .norm_stats = NAME(norm_stats),
        .norm_apply = NAME(norm_apply),
        .mul_rows = NAME(mul_rows),
        .att_gates = NAME(att_gates),
        .wkv_step = NAME(wkv_step),
        .att_out = NAME(att_out),
    };
}
