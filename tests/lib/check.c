#include "tests/lib/check.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

const char *golden_path(const char *name)
{
    static char path[512];
    const char *env = getenv("DREAMSTATE_GOLDEN");
    const char *dirs[] = {"tests/data", env ? env : "../shared/golden"};
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", dirs[i], name);
        if (access(path, R_OK) == 0)
            return path;
    }
    printf("skip: no %s (third-party data; set DREAMSTATE_GOLDEN)\n", name);
    return NULL;
}

struct tensor_file *golden_open(const char *name)
{
    const char *path = golden_path(name);
    if (!path)
        skip();
    struct tensor_file *f = NULL;
    struct err e = {0};
    if (tensor_file_open(path, &f, &e) < 0)
        fail_msg("%s: %s", name, e.msg);
    return f;
}

float *golden_f32(const struct tensor_file *f, const char *name, size_t count)
{
    const struct tensor *t = tensor_file_find(f, name);
    if (!t)
        fail_msg("no tensor %s", name);
    if (count && t->count != count)
        fail_msg("%s has %zu elements, want %zu", name, t->count, count);
    float *x = malloc((t->count ? t->count : 1) * sizeof *x);
    assert_non_null(x);
    tensor_to_f32(t, x);
    return x;
}

const struct kern *test_kern(void)
{
    static struct kern k;
    if (k.level == CPU_AUTO)
        kern_init(&k, CPU_AUTO);
    return &k;
}

double max_abs_diff(const float *a, const float *b, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst))
            worst = isnan(d) ? INFINITY : d;
    }
    return worst;
}

double relative_rms(const float *got, const float *want, size_t n)
{
    double sum = 0, squares = 0, diff = 0;
    for (size_t i = 0; i < n; i++) {
        const double w = (double)want[i], d = (double)got[i] - w;
        sum += w, squares += w * w, diff += d * d;
    }
    const double mean = sum / (double)n;
    return sqrt(diff / (double)n) / sqrt(squares / (double)n - mean * mean);
}

void check_close(const char *what, const float *got, const float *want, size_t n, double tol)
{
    size_t at = 0;
    double worst = -1;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        if (isnan(d))
            d = INFINITY;
        if (d > worst)
            worst = d, at = i;
    }
    if (worst > tol)
        fail_msg("%s: element %zu of %zu is %.9g, want %.9g (off by %.3g, tolerance %.3g)", what,
                 at, n, (double)got[at], (double)want[at], worst, tol);
}
