#include "engine/train/hybrid_target.h"

#include "daemon/base/mem.h"
#include "engine/train/corpus.h"

#include <math.h>
#include <string.h>

#define BETA1 0.9
#define BETA2 0.99
#define EPS   1e-8

static double rms(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum / (double)n);
}

/* Of group g, whose own numbers are theta [C]. */
static double unit_of(const struct hybrid_target *t, size_t g, const float *theta)
{
    static const int of[RWKV_LOW] = {RWKV_P_REC, RWKV_P_KEY, RWKV_P_VAL};
    const size_t C = t->l->shape.n_embd, groups = rwkv_theta_groups(t->rank), q = g % groups;
    for (int k = 0; k < RWKV_LOW; k++) {
        const size_t b = rwkv_theta_low(t->rank, (enum rwkv_low)k) + t->rank;
        if (q >= b && q < b + t->rank)
            return sqrt((double)C) * rms(t->weights + t->l->layer[g / groups][of[k]], C * C);
    }
    return rms(theta, C);
}

int hybrid_target_init(struct hybrid_target *t, const struct rwkv_layout *l, const float *weights,
                       size_t rank, size_t T, struct err *e)
{
    const size_t n = rwkv_layout_theta(l, rank), C = l->shape.n_embd;
    *t = (struct hybrid_target){.l = l, .weights = weights, .n_theta = n, .rank = rank};
    t->work = rwkv_work_new_f32(l, nn_f32_for(CPU_AUTO), T);
    t->theta = calloc(5 * n, sizeof *t->theta);
    t->unread = mem_calloc_aligned(l->count, sizeof *t->unread);
    t->weight = calloc(T, sizeof *t->weight);
    t->tokens = calloc(T + 1, sizeof *t->tokens);
    if (!t->work || !t->theta || !t->unread || !t->weight || !t->tokens)
        return err_set(e, ERR_NOMEM, "targets: out of memory");
    t->unit = t->theta + n;
    t->m = t->unit + n;
    t->v = t->m + n;
    t->g = t->v + n;
    rwkv_params_theta(l, weights, rank, t->theta);
    for (size_t i = 0; i < n; i += C) {
        const float unit = (float)unit_of(t, i / C, t->theta + i);
        for (size_t c = 0; c < C; c++)
            t->unit[i + c] = unit;
    }
    return 0;
}

void hybrid_target_fini(struct hybrid_target *t)
{
    rwkv_work_free_f32(t->work);
    void *all[] = {t->theta, t->unread, t->weight, t->tokens};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    memset(t, 0, sizeof *t);
}

void hybrid_target_begin(struct hybrid_target *t, const float *theta)
{
    memcpy(t->theta, theta, t->n_theta * sizeof *theta);
    memset(t->m, 0, 2 * t->n_theta * sizeof *t->m);
    t->steps = 0;
}

/* Forward over a window, each byte's cross entropy times `weight` in the gradient. */
static double forward(struct hybrid_target *t, const float *theta, struct hybrid_window w,
                      double weight)
{
    t->tokens[0] = CORPUS_SEPARATOR;
    for (size_t i = 0; i < w.n; i++) {
        t->tokens[i + 1] = w.text[i];
        t->weight[i] = (float)weight;
    }
    rwkv_work_set_theta_f32(t->work, t->rank, theta, t->g);
    return rwkv_forward_f32(t->work, t->weights, t->tokens, t->tokens + 1, t->weight, w.n, NULL,
                            NULL, NULL);
}

void hybrid_target_step(struct hybrid_target *t, const struct hybrid_window *w, size_t n,
                        double rate)
{
    const double c1 = 1 - pow(BETA1, (double)(t->steps + 1)),
                 c2 = 1 - pow(BETA2, (double)(t->steps + 1));
    memset(t->g, 0, t->n_theta * sizeof *t->g);
    for (size_t i = 0; i < n; i++) {
        forward(t, t->theta, w[i], 1 / (double)(n * w[i].n));
        rwkv_backward_f32(t->work, t->weights, t->unread, false, NULL, NULL);
    }
    for (size_t i = 0; i < t->n_theta; i++) {
        const double g = (double)t->g[i] * (double)t->unit[i];
        const double m = BETA1 * (double)t->m[i] + (1 - BETA1) * g;
        const double v = BETA2 * (double)t->v[i] + (1 - BETA2) * g * g;
        t->m[i] = (float)m;
        t->v[i] = (float)v;
        t->theta[i] -= (float)(rate * (double)t->unit[i] * (m / c1) / (sqrt(v / c2) + EPS));
    }
    t->steps++;
}

double hybrid_target_loss(struct hybrid_target *t, const float *theta, struct hybrid_window w)
{
    return forward(t, theta, w, 1 / (double)w.n);
}
