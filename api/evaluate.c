/* POST /v1/states/evaluate: how well texts are predicted from states, in bits a byte. Each pair of a
 * state and a text is a completion of no tokens that echoes its prompt with log probabilities. */
#include "api/errands.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PAIRS REQ_SOURCES

struct pair {
    struct completion *call; /* owned by the request's sources */
    size_t text;
    uint64_t seen;          /* tokens of the text */
    uint64_t tokens, bytes; /* of these, the predicted ones */
    double bits;
};

struct evaluation {
    const struct model_info *model;
    struct token_list *texts; /* [n_texts] */
    size_t n_texts;
    char **states; /* [n_states]; NULL: the zero state */
    size_t n_states;
    struct pair pairs[MAX_PAIRS];
    size_t n_pairs;
};

static void evaluation_free(void *data)
{
    struct evaluation *t = data;
    for (size_t i = 0; t->texts && i < t->n_texts; i++)
        free(t->texts[i].ids);
    for (size_t i = 0; t->states && i < t->n_states; i++)
        free(t->states[i]);
    free(t->texts);
    free(t->states);
    free(t);
}

/* ---- the answer ---- */

/* The first token is given, not predicted: a state without logits has no prediction of it, and all pairs
 * count the same tokens. */
static void on_record(struct req *r, size_t source, const void *record, size_t bytes)
{
    struct evaluation *t = r->data;
    struct token_event event;
    (void)bytes;
    memcpy(&event, record, sizeof event);
    struct pair *p = &t->pairs[source];
    if (!event.prompt || !p->seen++)
        return;
    p->tokens++;
    p->bytes += event.piece_bytes;
    p->bits -= (double)event.logprob * M_LOG2E;
}

static void write_pair(struct jw *w, const struct pair *p)
{
    jw_object(w, NULL);
    jw_string(w, "state", p->call->state_used[0] ? p->call->state_used : NULL);
    jw_uint(w, "text", p->text);
    jw_uint(w, "tokens", p->tokens);
    jw_uint(w, "bytes", p->bytes);
    jw_number(w, "bits", p->bits);
    jw_number(w, "bits_per_byte", p->bytes ? p->bits / (double)p->bytes : NAN);
    jw_number(w, "perplexity", p->tokens ? exp2(p->bits / (double)p->tokens) : NAN);
    jw_end_object(w);
}

static int finish(struct req *r, struct err *e)
{
    const struct evaluation *t = r->data;
    struct jw w = {&r->reply.body, false};
    (void)e;
    req_reply_json(r, 200);
    jw_object(&w, NULL);
    jw_string(&w, "object", "list");
    jw_string(&w, "model", t->model->name);
    jw_array(&w, "data");
    for (size_t i = 0; i < t->n_pairs; i++)
        write_pair(&w, &t->pairs[i]);
    jw_end_array(&w);
    jw_end_object(&w);
    return 0;
}

/* ---- the request ---- */

static int decode_texts(struct req *r, const json_t *o, struct evaluation *t, struct err *e)
{
    const json_t *v = decode_field(o, "text");
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (!v)
        return err_set_param(e, ERR_INVALID, "text", "text is missing");
    if (n < 1 || n > MAX_PAIRS)
        return err_set_param(e, ERR_INVALID, "text", "text has %zu texts, 1 to %d are taken", n,
                             MAX_PAIRS);
    if (!(t->texts = calloc(n, sizeof *t->texts)))
        return err_set(e, ERR_NOMEM, "no memory for the texts");
    t->n_texts = n;
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_string(s))
            return err_set_param(e, ERR_INVALID, "text",
                                 "text is neither a string nor an array of strings");
        if (prompt_ids(r, t->model, s, "text", &t->texts[i].ids, &t->texts[i].n, e) < 0)
            return e->code;
        if (t->texts[i].n < 2)
            return err_set_param(e, ERR_INVALID, "text", "text %zu has fewer than two tokens", i);
    }
    return 0;
}

static int decode_states(const json_t *o, struct evaluation *t, struct err *e)
{
    const json_t *v = decode_field(o, "states");
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (n < 1 || n > MAX_PAIRS)
        return err_set_param(e, ERR_INVALID, "states", "states has %zu states, 1 to %d are taken",
                             n, MAX_PAIRS);
    if (!(t->states = calloc(n, sizeof *t->states)))
        return err_set(e, ERR_NOMEM, "no memory for the states");
    t->n_states = n;
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_is_array(v) ? json_array_get(v, i) : v;
        char **one = NULL;
        size_t count = 0;
        if (!s || json_is_null(s))
            continue;
        if (json_is_array(s))
            return err_set_param(e, ERR_INVALID, "states", "states[%zu] is an array", i);
        int rc = errands_decode_refs(s, "states", 1, &one, &count, e);
        t->states[i] = count ? one[0] : NULL;
        free(one);
        if (rc < 0)
            return rc;
    }
    if (t->n_states * t->n_texts > MAX_PAIRS)
        return err_set_param(e, ERR_INVALID, "states", "%zu states and %zu texts: at most %d pairs",
                             t->n_states, t->n_texts, MAX_PAIRS);
    return 0;
}

static int make_pair(struct req *r, struct evaluation *t, const char *state, size_t text,
                     struct err *e)
{
    struct completion *c = completion_new();
    if (!c)
        return err_set(e, ERR_NOMEM, "no memory for a completion");
    req_add_source(r, &c->call);
    t->pairs[t->n_pairs++] = (struct pair){.call = c, .text = text};
    size_t n = t->texts[text].n;
    c->model = t->model;
    c->prompt = calloc(n, sizeof *c->prompt);
    if (!c->prompt || (state && !(c->state = strdup(state))))
        return err_set(e, ERR_NOMEM, "no memory for a completion");
    memcpy(c->prompt, t->texts[text].ids, n * sizeof *c->prompt);
    c->n_prompt = n;
    c->echo = true;
    c->n_logprobs = 0;
    return 0;
}

static int submit(struct req *r, struct evaluation *t, struct err *e)
{
    for (size_t i = 0; i < t->n_states; i++)
        for (size_t k = 0; k < t->n_texts; k++)
            if (make_pair(r, t, t->states[i], k, e) < 0)
                return e->code;
    for (size_t i = 0; i < t->n_pairs; i++)
        if (service_complete(r->svc, t->pairs[i].call, e) < 0)
            return e->code;
    return 0;
}

int handle_state_evaluate(struct req *r, struct err *e)
{
    static const struct task task = {on_record, states_no_end, finish, evaluation_free, false};
    json_t *o = decode_object(r->body.data, r->body.len, e);
    if (!o)
        return e->code;
    struct evaluation *t = calloc(1, sizeof *t);
    int rc = t ? 0 : err_set(e, ERR_NOMEM, "no memory for an evaluation");
    if (rc == 0) {
        req_await(r, &task, t); /* t is the request's from here on */
        t->model = prompt_model(r, o, e);
        if (!t->model || decode_texts(r, o, t, e) < 0 || decode_states(o, t, e) < 0 ||
            submit(r, t, e) < 0)
            rc = e->code;
    }
    json_decref(o);
    return rc;
}
