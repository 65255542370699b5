/* POST /v1/completions: OpenAI's text completions. */
#include "api/completions.h"
#include "api/route.h"

#include <math.h>
#include <string.h>

#define MAX_TOKENS ((int64_t)1 << 20)

/* ---- the request ---- */

/* Fields of OpenAI's that would change the answer and are not done here. */
static int refuse_others(const json_t *o, int64_t n, struct err *e)
{
    int64_t best_of = n;
    const char *suffix = NULL;
    size_t bytes = 0;
    if (decode_int(o, "best_of", 1, REQ_SOURCES, &best_of, e) < 0 ||
        decode_text(o, "suffix", &suffix, &bytes, e) < 0)
        return e->code;
    if (best_of != n)
        return err_set_param(e, ERR_INVALID, "best_of", "best_of other than n is not supported");
    if (bytes)
        return err_set_param(e, ERR_INVALID, "suffix", "suffix is not supported");
    return 0;
}

/* logprobs: a number of alternatives; true and false as chat has them mean 0 and none. */
static int decode_logprobs(const json_t *o, int64_t *n, struct err *e)
{
    const json_t *v = decode_field(o, "logprobs");
    *n = -1;
    if (json_is_boolean(v)) {
        *n = json_is_true(v) ? 0 : -1;
        return 0;
    }
    return decode_int(o, "logprobs", 0, 20, n, e);
}

static int decode_text_asked(struct req *r, const json_t *o, struct completions *t, struct asked *a,
                             struct err *e)
{
    a->max_tokens = 16;
    if (asked_decode(r, o, t, a, e) < 0 ||
        decode_int(o, "max_tokens", 0, MAX_TOKENS, &a->max_tokens, e) < 0 ||
        decode_logprobs(o, &a->logprobs, e) < 0 || decode_bool(o, "echo", &a->echo, e) < 0 ||
        refuse_others(o, a->n, e) < 0)
        return e->code;
    return 0;
}

/* A prompt is a string or an array of ids; prompts are an array of prompts. */
static bool is_many(const json_t *v)
{
    const json_t *first = json_array_get(v, 0);
    return json_is_string(first) || json_is_array(first);
}

/* No prompt is an empty one, which only a state allows. */
static int decode_prompts(struct req *r, const json_t *o, struct asked *a, struct err *e)
{
    const json_t *v = decode_field(o, "prompt");
    size_t n = v && is_many(v) ? json_array_size(v) : 1;
    if (!v && !a->state && !a->state_file)
        return err_set_param(e, ERR_INVALID, "prompt",
                             "prompt is missing (it may be left out where a state is named)");
    if (v && !json_is_string(v) && !json_is_array(v))
        return err_set_param(e, ERR_INVALID, "prompt",
                             "prompt is not a string, an array of token ids, or an array of those");
    if (n > REQ_SOURCES)
        return err_set_param(e, ERR_INVALID, "prompt",
                             "%zu prompts: at most %d completions in one request", n, REQ_SOURCES);
    for (; a->n_prompts < n; a->n_prompts++) {
        const json_t *one = v && is_many(v) ? json_array_get(v, a->n_prompts) : v;
        if (one && prompt_ids(r, a->model, one, "prompt", &a->prompt[a->n_prompts].ids,
                              &a->prompt[a->n_prompts].n, e) < 0)
            return e->code;
    }
    return 0;
}

/* ---- the answer ---- */

/* {"text": logprob, ...}: the alternatives and the token itself, no text twice. */
static void append_tops(struct req *r, struct choice *ch, const struct token_event *t,
                        const char *top)
{
    struct completions *all = r->data;
    struct buf text;
    buf_init(&text, 1 << 20);
    bool own = false;
    size_t n = 0;
    part_comma(&ch->part[PART_TOPS]);
    if (isnan(t->logprob)) {
        buf_puts(&ch->part[PART_TOPS], "null");
        return;
    }
    buf_append(&ch->part[PART_TOPS], "{", 1);
    for (size_t i = 0; i <= t->n_top; i++) {
        struct token_logprob one = {t->id, t->logprob};
        if (i < t->n_top)
            memcpy(&one, top + i * sizeof one, sizeof one);
        else if (own)
            break;
        own = own || one.id == t->id;
        buf_reset(&text);
        service_token_text(r->svc, all->model, one.id, &text);
        if (n++)
            buf_append(&ch->part[PART_TOPS], ",", 1);
        quote_token(&ch->part[PART_TOPS], text.data ? text.data : "", text.len);
        buf_append(&ch->part[PART_TOPS], ":", 1);
        append_logprob(&ch->part[PART_TOPS], one.logprob);
    }
    buf_append(&ch->part[PART_TOPS], "}", 1);
    buf_fini(&text);
}

static void gather_logprobs(struct req *r, struct choice *ch, const struct token_event *t,
                            const char *top)
{
    struct completions *all = r->data;
    struct buf text;
    buf_init(&text, 1 << 20);
    service_token_text(r->svc, all->model, t->id, &text);
    part_comma(&ch->part[PART_TOKENS]);
    quote_token(&ch->part[PART_TOKENS], text.data ? text.data : "", text.len);
    part_comma(&ch->part[PART_LOGPROBS]);
    append_logprob(&ch->part[PART_LOGPROBS], t->logprob);
    part_comma(&ch->part[PART_OFFSETS]);
    buf_printf(&ch->part[PART_OFFSETS], "%llu", (unsigned long long)ch->chars);
    if (all->n_logprobs > 0)
        append_tops(r, ch, t, top);
    /* Code points begin at bytes that are not continuations. */
    for (size_t i = 0; i < text.len; i++)
        ch->chars += ((unsigned char)text.data[i] & 0xc0) != 0x80;
    buf_fini(&text);
}

static void write_text_choice(struct jw *w, const struct completions *t, struct choice *ch,
                              bool delta)
{
    const struct buf *text = &ch->part[PART_TEXT];
    (void)delta;
    jw_text(w, "text", text->data ? text->data : "", text->len);
    if (t->return_tokens)
        write_part(w, "tokens", &ch->part[PART_IDS]);
    if (t->n_logprobs < 0) {
        jw_null(w, "logprobs");
        return;
    }
    jw_object(w, "logprobs");
    write_part(w, "tokens", &ch->part[PART_TOKENS]);
    write_part(w, "token_logprobs", &ch->part[PART_LOGPROBS]);
    if (t->n_logprobs > 0)
        write_part(w, "top_logprobs", &ch->part[PART_TOPS]);
    else
        jw_null(w, "top_logprobs");
    write_part(w, "text_offset", &ch->part[PART_OFFSETS]);
    jw_end_object(w);
}

static const struct form text_form = {
    .id_prefix = "cmpl",
    .object = "text_completion",
    .chunk_object = "text_completion",
    .gather_logprobs = gather_logprobs,
    .write = write_text_choice,
};

int handle_completions(struct req *r, struct err *e)
{
    struct asked a = {0};
    json_t *o = decode_object(r->body.data, r->body.len, e);
    struct completions *t = o ? completions_new(r, &text_form, e) : NULL;
    int rc = t ? decode_text_asked(r, o, t, &a, e) : e->code;
    if (rc == 0)
        rc = decode_prompts(r, o, &a, e);
    if (rc == 0)
        rc = completions_submit(r, t, &a, e);
    asked_fini(&a);
    json_decref(o);
    return rc;
}
