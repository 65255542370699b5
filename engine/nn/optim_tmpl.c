/* Decoupled AdamW (Loshchilov and Hutter 2019), as PyTorch orders it:
 *
 *     p *= keep;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
 *     p -= step_size * m / (sqrt(v) * v_scale + eps) */

static void sumsq_add(double *sum, const real *x, size_t n)
{
    for (size_t i = 0; i < n; i += 1024) {
        size_t end = n - i < 1024 ? n : i + 1024;
        real s = 0;
        SIMD_SUM(s)
        for (size_t j = i; j < end; j++)
            s += x[j] * x[j];
        *sum += (double)s;
    }
}

static void adamw_update(real *p, real *m, real *v, const real *g, size_t n,
                         const struct nn_adamw *o)
{
    const real scale = (real)o->scale, b1 = (real)o->beta1, b2 = (real)o->beta2;
    const real c1 = (real)(1 - o->beta1), c2 = (real)(1 - o->beta2);
    const real step = (real)o->step_size, v_scale = (real)o->v_scale, eps = (real)o->eps;
    const real keep = (real)o->keep;
    SIMD
    for (size_t i = 0; i < n; i++) {
        real gi = g[i] * scale, mi = b1 * m[i] + c1 * gi, vi = b2 * v[i] + c2 * gi * gi;
        m[i] = mi;
        v[i] = vi;
        p[i] = p[i] * keep - step * mi / (NN_SQRT(vi) * v_scale + eps);
    }
}
