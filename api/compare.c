/* POST /v1/states/compare: how far two states are apart, as numbers and, on a probe text, in what they
 * predict. The distances are an errand; the predictions come from two completions of no tokens that
 * echo the probe. */
#include "api/errands.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PROBE_LOGITS ((size_t)1 << 20) /* tokens of the probe times the vocabulary */

struct comparison {
    struct state_comparison *states; /* the first source's */
    struct completion *probe[2];     /* NULL: no probe; the other sources' */
};

/* ---- the answer ---- */

static void write_difference(struct jw *w, const struct rwkv_difference *d)
{
    jw_number(w, "cosine", d->cosine);
    jw_number(w, "relative_l2", d->relative_l2);
    jw_number(w, "norm", d->norm_a);
    jw_number(w, "norm_with", d->norm_b);
}

static void write_block(struct jw *w, const struct block_difference *b)
{
    static const char *const names[RWKV_N_PARTS] = {"att_shift", "wkv", "ffn_shift"};
    jw_object(w, NULL);
    jw_uint(w, "layer", b->block.layer);
    jw_string(w, "part", names[b->block.part]);
    if (b->block.part == RWKV_WKV)
        jw_uint(w, "head", b->block.head);
    write_difference(w, &b->is);
    jw_end_object(w);
}

/* log2 of the sum of e^x. */
static double log2_sum(const float *x, size_t n)
{
    double max = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++)
        max = fmax(max, (double)x[i]);
    for (size_t i = 0; i < n; i++)
        sum += exp((double)x[i] - max);
    return max * M_LOG2E + log2(sum);
}

/* KL(p || q) in bits of the softmaxes of two rows of logits. */
static double divergence(const float *p, const float *q, size_t n)
{
    double zp = log2_sum(p, n), zq = log2_sum(q, n), sum = 0;
    for (size_t i = 0; i < n; i++) {
        double lp = (double)p[i] * M_LOG2E - zp, lq = (double)q[i] * M_LOG2E - zq;
        sum += exp2(lp) * (lp - lq);
    }
    return fmax(sum, 0);
}

static void write_probe(struct jw *w, const struct comparison *t)
{
    const struct completion *a = t->probe[0], *b = t->probe[1];
    size_t V = a->model->n_vocab, n = a->n_prompt - 1;
    double there = 0, back = 0;
    for (size_t i = 1; i <= n; i++) {
        const float *p = a->echo_logits + i * V, *q = b->echo_logits + i * V;
        there += divergence(p, q, V) / (double)n;
        back += divergence(q, p, V) / (double)n;
    }
    jw_object(w, "probe");
    jw_uint(w, "tokens", n);
    jw_number(w, "kl", there);
    jw_number(w, "kl_reverse", back);
    jw_end_object(w);
}

static int finish(struct req *r, struct err *e)
{
    const struct comparison *t = r->data;
    const struct state_comparison *c = t->states;
    struct jw w = {&r->reply.body, false};
    req_reply_json(r, 200);
    jw_object(&w, NULL);
    jw_string(&w, "object", "state.comparison");
    jw_string(&w, "state", c->used_a);
    jw_string(&w, "with", c->used_b);
    write_difference(&w, &c->whole);
    if (t->probe[0])
        write_probe(&w, t);
    jw_array(&w, "layers");
    for (size_t i = 0; i < c->n_layers; i++) {
        jw_object(&w, NULL);
        jw_uint(&w, "layer", i);
        write_difference(&w, &c->layers[i]);
        jw_end_object(&w);
    }
    jw_end_array(&w);
    jw_array(&w, "blocks");
    for (size_t i = 0; i < c->n_blocks; i++)
        write_block(&w, &c->blocks[i]);
    jw_end_array(&w);
    jw_end_object(&w);
    return r->reply.body.failed ? err_set(e, ERR_NOMEM, "the answer is too large to be held") : 0;
}

/* ---- the request ---- */

static int make_probe(struct req *r, struct comparison *t, size_t which, const json_t *text,
                      struct err *e)
{
    const struct state_comparison *s = t->states;
    struct completion *c = t->probe[which] = completion_new();
    if (!c)
        return err_set(e, ERR_NOMEM, "no memory for a completion");
    req_add_source(r, &c->call);
    c->model = s->errand.model;
    c->echo = true;
    c->n_logprobs = 0;
    if (prompt_ids(r, c->model, text, "probe", &c->prompt, &c->n_prompt, e) < 0)
        return e->code;
    size_t most = MAX_PROBE_LOGITS / c->model->n_vocab, V = c->model->n_vocab;
    if (c->n_prompt < 2 || c->n_prompt > most)
        return err_set_param(e, ERR_INVALID, "probe", "probe has %zu tokens, 2 to %zu are taken",
                             c->n_prompt, most);
    c->state = strdup(which ? s->b : s->a);
    c->echo_logits = calloc(c->n_prompt * V, sizeof *c->echo_logits);
    return c->state && c->echo_logits ? 0 : err_set(e, ERR_NOMEM, "no memory for a probe");
}

static int decode(struct req *r, const json_t *o, struct comparison *t, struct err *e)
{
    struct state_comparison *c = t->states;
    const json_t *probe = decode_field(o, "probe");
    if (!(c->errand.model = prompt_model(r, o, e)) ||
        prompt_state_ref(o, "state", true, &c->a, e) < 0 ||
        prompt_state_ref(o, "with", true, &c->b, e) < 0)
        return e->code;
    if (!c->a || !c->b)
        return err_set_param(e, ERR_INVALID, c->a ? "with" : "state", "%s is missing",
                             c->a ? "with" : "state");
    if (probe && !json_is_string(probe))
        return err_set_param(e, ERR_INVALID, "probe", "probe is not a string");
    for (size_t i = 0; probe && i < 2; i++)
        if (make_probe(r, t, i, probe, e) < 0)
            return e->code;
    return 0;
}

static int submit(struct req *r, struct comparison *t, struct err *e)
{
    int rc = service_errand(r->svc, &t->states->errand, e);
    for (size_t i = 0; rc == 0 && i < 2 && t->probe[i]; i++)
        rc = service_complete(r->svc, t->probe[i], e);
    return rc;
}

int handle_state_compare(struct req *r, struct err *e)
{
    static const struct task task = {states_no_record, states_no_end, finish, free, false};
    struct comparison *t = calloc(1, sizeof *t);
    if (!t || !(t->states = state_comparison_new())) {
        free(t);
        return err_set(e, ERR_NOMEM, "no memory for a request");
    }
    req_add_source(r, &t->states->errand.call);
    req_await(r, &task, t); /* t is the request's from here on */
    json_t *o = decode_object(r->body.data, r->body.len, e);
    int rc = o ? decode(r, o, t, e) : e->code;
    json_decref(o);
    return rc < 0 ? rc : submit(r, t, e);
}
