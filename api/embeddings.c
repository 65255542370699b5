/* POST /v1/embeddings: OpenAI's form; the vector of a text is the mean of the model's final hidden
 * states over its tokens, of length 1.
 *
 * The texts are dealt out to a few calls ("lanes"), text i to lane i % n_lanes, so that a long list
 * fills the batch without filling the queue; where they begin at a named state there is one lane, so
 * that all begin at the same version. */
#include "api/prompt.h"
#include "api/route.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TEXTS 2048
#define MAX_LANES 16

struct embeddings {
    const struct model_info *model;
    struct embedding *lanes[MAX_LANES]; /* owned by the request's sources */
    size_t n_lanes, n_texts;
    bool base64;
};

/* ---- the answer ---- */

static void no_record(struct req *r, size_t source, const void *record, size_t bytes)
{
    (void)r;
    (void)source;
    (void)record;
    (void)bytes;
}

static int no_end(struct req *r, size_t source, struct err *e)
{
    (void)r;
    (void)source;
    (void)e;
    return 0;
}

/* OpenAI's base64 is that of the numbers as little-endian F32. Changes v. */
static void write_base64(struct jw *w, float *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &v[i], sizeof bits);
        bits = htole32(bits);
        memcpy(&v[i], &bits, sizeof bits);
    }
    jw_base64(w, "embedding", v, n * sizeof *v);
}

static void write_vector(struct jw *w, const struct embeddings *t, size_t index)
{
    size_t n = t->model->n_embd;
    float *v = t->lanes[index % t->n_lanes]->vectors + index / t->n_lanes * n;
    jw_object(w, NULL);
    jw_string(w, "object", "embedding");
    jw_uint(w, "index", index);
    if (t->base64) {
        write_base64(w, v, n);
    } else {
        jw_array(w, "embedding");
        for (size_t i = 0; i < n; i++)
            jw_number(w, NULL, (double)v[i]);
        jw_end_array(w);
    }
    jw_end_object(w);
}

static int finish(struct req *r, struct err *e)
{
    const struct embeddings *t = r->data;
    const struct embedding *first = t->lanes[0];
    struct jw w = {&r->reply.body, false};
    uint64_t tokens = 0;
    for (size_t i = 0; i < t->n_lanes; i++)
        tokens += t->lanes[i]->timings.prompt_n;
    req_reply_json(r, 200);
    jw_object(&w, NULL);
    jw_string(&w, "object", "list");
    jw_string(&w, "model", t->model->name);
    jw_array(&w, "data");
    for (size_t i = 0; i < t->n_texts; i++)
        write_vector(&w, t, i);
    jw_end_array(&w);
    jw_object(&w, "usage");
    jw_uint(&w, "prompt_tokens", tokens);
    jw_uint(&w, "total_tokens", tokens);
    jw_end_object(&w);
    write_started_from(&w, first->state_used, first->other_weights_type);
    jw_end_object(&w);
    return r->reply.body.failed ? err_set(e, ERR_NOMEM, "the answer is too large to be held") : 0;
}

static const struct task embeddings_task = {no_record, no_end, finish, free, false};

/* ---- the request ---- */

static int decode_format(const json_t *o, struct embeddings *t, struct err *e)
{
    const char *format = NULL, *user = NULL;
    int64_t dimensions = t->model->n_embd;
    if (decode_word(o, "encoding_format", &format, e) < 0 ||
        decode_word(o, "user", &user, e) < 0 || /* OpenAI's, of no meaning here */
        decode_int(o, "dimensions", 1, INT32_MAX, &dimensions, e) < 0)
        return e->code;
    t->base64 = format && strcmp(format, "base64") == 0;
    if (format && !t->base64 && strcmp(format, "float") != 0)
        return err_set_param(e, ERR_INVALID, "encoding_format",
                             "encoding_format is neither \"float\" nor \"base64\"");
    if (dimensions != t->model->n_embd)
        return err_set_param(e, ERR_INVALID, "dimensions",
                             "the embeddings of %s have %u dimensions, not %lld", t->model->name,
                             t->model->n_embd, (long long)dimensions);
    return 0;
}

/* The i-th text of input: a string, an array of ids, or an array of those. */
static const json_t *text_of(const json_t *input, size_t i)
{
    const json_t *first = json_array_get(input, 0);
    return json_is_string(first) || json_is_array(first) ? json_array_get(input, i) : input;
}

static int decode_input(const json_t *o, const json_t **input, struct embeddings *t, struct err *e)
{
    const json_t *v = *input = decode_field(o, "input");
    if (!v)
        return err_set_param(e, ERR_INVALID, "input", "input is missing");
    if (!json_is_string(v) && !json_is_array(v))
        return err_set_param(e, ERR_INVALID, "input",
                             "input is not a string, an array of token ids, or an array of those");
    t->n_texts = text_of(v, 0) == v ? 1 : json_array_size(v);
    if (t->n_texts > MAX_TEXTS)
        return err_set_param(e, ERR_INVALID, "input", "input has %zu texts, at most %d are taken",
                             t->n_texts, MAX_TEXTS);
    return 0;
}

static int fill_lane(struct req *r, struct embeddings *t, size_t lane, const json_t *input,
                     struct err *e)
{
    struct embedding *b = t->lanes[lane];
    size_t n = (t->n_texts - lane + t->n_lanes - 1) / t->n_lanes;
    if (!(b->texts = calloc(n, sizeof *b->texts)))
        return err_set(e, ERR_NOMEM, "no memory for %zu texts", n);
    b->n_texts = n;
    for (size_t k = 0; k < n; k++) {
        size_t i = lane + k * t->n_lanes;
        struct token_list *text = &b->texts[k];
        if (json_is_string(text_of(input, i)) != json_is_string(text_of(input, 0)))
            return err_set_param(e, ERR_INVALID, "input", "input mixes strings and token ids");
        if (prompt_ids(r, t->model, text_of(input, i), "input", &text->ids, &text->n, e) < 0)
            return e->code;
        if (!text->n)
            return err_set_param(e, ERR_INVALID, "input", "text %zu of input is empty", i);
    }
    return 0;
}

/* Makes every lane, then submits them: what is wrong with any text is told before any runs. */
static int make_lanes(struct req *r, struct embeddings *t, const json_t *input, const char *state,
                      struct err *e)
{
    struct service_limits limits;
    service_get_limits(r->svc, &limits);
    size_t n = limits.max_sequences < MAX_LANES ? limits.max_sequences : MAX_LANES;
    t->n_lanes = state ? 1 : n < t->n_texts ? n : t->n_texts;
    for (size_t i = 0; i < t->n_lanes; i++) {
        struct embedding *b = t->lanes[i] = embedding_new();
        if (!b)
            return err_set(e, ERR_NOMEM, "no memory for an embedding");
        req_add_source(r, &b->call);
        b->model = t->model;
        b->unit = true;
        if (state && !(b->state = strdup(state)))
            return err_set(e, ERR_NOMEM, "no memory for a name");
        if (fill_lane(r, t, i, input, e) < 0)
            return e->code;
    }
    for (size_t i = 0; i < t->n_lanes; i++)
        if (service_embed(r->svc, t->lanes[i], e) < 0)
            return e->code;
    return 0;
}

int handle_embeddings(struct req *r, struct err *e)
{
    char *state = NULL;
    const json_t *input = NULL;
    json_t *o = decode_object(r->body.data, r->body.len, e);
    if (!o)
        return e->code;
    struct embeddings *t = calloc(1, sizeof *t);
    int rc = t ? 0 : err_set(e, ERR_NOMEM, "no memory for an embedding");
    if (rc == 0) {
        req_await(r, &embeddings_task, t); /* t is the request's from here on */
        t->model = prompt_model(r, o, e);
        if (!t->model || decode_format(o, t, e) < 0 || decode_input(o, &input, t, e) < 0 ||
            prompt_state_ref(o, "state", true, &state, e) < 0 ||
            prompt_model_state(r, o, "state", &state, e) < 0)
            rc = e->code;
    }
    if (rc == 0)
        rc = make_lanes(r, t, input, state, e);
    free(state);
    json_decref(o);
    return rc;
}
