/* POST /v1/chat/completions: OpenAI's chat; POST /apply-template: what it reads. */
#include "api/completions.h"
#include "api/messages.h"
#include "api/route.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_TOKENS     ((int64_t)1 << 20)
#define DEFAULT_TOKENS 2048

/* ---- the request ---- */

/* max_completion_tokens is the newer word for max_tokens. */
static int decode_max_tokens(const json_t *o, int64_t *n, struct err *e)
{
    *n = DEFAULT_TOKENS;
    return decode_int(o, "max_tokens", 0, MAX_TOKENS, n, e) < 0 ||
                   decode_int(o, "max_completion_tokens", 0, MAX_TOKENS, n, e) < 0
               ? e->code
               : 0;
}

/* logprobs: true, and top_logprobs beside it; as the number of alternatives, -1 for none. */
static int decode_logprobs(const json_t *o, int64_t *n, struct err *e)
{
    bool wanted = false;
    int64_t top = -1;
    if (decode_bool(o, "logprobs", &wanted, e) < 0 ||
        decode_int(o, "top_logprobs", 0, 20, &top, e) < 0)
        return e->code;
    if (top > 0 && !wanted)
        return err_set_param(e, ERR_INVALID, "top_logprobs", "top_logprobs needs logprobs: true");
    *n = !wanted ? -1 : top < 0 ? 0 : top;
    return 0;
}

/* The text of the messages, then its ids. */
static int decode_messages(struct req *r, const json_t *o, struct completions *t, struct asked *a,
                           struct err *e)
{
    struct buf text;
    bool continued;
    const struct messages_how how = {.follows = a->state || a->state_file, .answer = true};
    buf_init(&text, MESSAGES_LIMIT);
    int rc =
        messages_render(decode_field(o, "messages"), &a->model->chat, how, &text, &continued, e);
    if (rc == 0)
        rc = service_tokenize(r->svc, a->model, text.data, text.len, &a->prompt[0].ids,
                              &a->prompt[0].n, e);
    if (rc == 0)
        a->n_prompts = 1;
    for (size_t i = 0; i < REQ_SOURCES && rc == 0 && continued; i++)
        t->choices[i].trims = false;
    buf_fini(&text);
    return rc;
}

/* An answer ends where the model would write the next turn. */
struct turns {
    char text[4][128];
};

static void stop_at_turns(struct asked *a, struct turns *turns)
{
    const struct chat_template *t = &a->model->chat;
    const char *roles[] = {t->user, t->system, t->assistant, t->tool};
    for (size_t i = 0; i < 4; i++) {
        snprintf(turns->text[i], sizeof turns->text[i], "%s%s%s", t->separator, roles[i], t->colon);
        a->stops[a->n_stops++] = turns->text[i];
    }
}

/* ---- the answer ---- */

/* "token", "logprob", "bytes" */
static void write_token(struct req *r, struct buf *b, uint32_t id, float logprob)
{
    struct completions *all = r->data;
    struct buf text;
    buf_init(&text, 1 << 20);
    service_token_text(r->svc, all->model, id, &text);
    buf_puts(b, "\"token\":");
    quote_token(b, text.data ? text.data : "", text.len);
    buf_puts(b, ",\"logprob\":");
    append_logprob(b, logprob);
    buf_puts(b, ",\"bytes\":[");
    for (size_t i = 0; i < text.len; i++)
        buf_printf(b, i ? ",%u" : "%u", (unsigned)(unsigned char)text.data[i]);
    buf_puts(b, "]");
    buf_fini(&text);
}

static void gather_logprobs(struct req *r, struct choice *ch, const struct token_event *t,
                            const char *tops)
{
    struct buf *b = &ch->part[PART_TOKENS];
    part_comma(b);
    buf_puts(b, "{");
    write_token(r, b, t->id, t->logprob);
    buf_puts(b, ",\"top_logprobs\":[");
    for (size_t i = 0; i < t->n_top; i++) {
        struct token_logprob one;
        memcpy(&one, tops + i * sizeof one, sizeof one);
        buf_puts(b, i ? ",{" : "{");
        write_token(r, b, one.id, one.logprob);
        buf_puts(b, "}");
    }
    buf_puts(b, "]}");
}

/* A delta has the role in the first chunk, then what there is of text; nothing in the last. */
static void write_message(struct jw *w, const struct choice *ch, bool delta)
{
    const struct buf *text = &ch->part[PART_TEXT];
    bool first = !delta || !ch->begun;
    jw_object(w, delta ? "delta" : "message");
    if (first)
        jw_string(w, "role", "assistant");
    if (first || text->len)
        jw_text(w, "content", text->data ? text->data : "", text->len);
    if (!delta)
        jw_null(w, "refusal");
    jw_end_object(w);
}

static void write_chat_choice(struct jw *w, const struct completions *t, struct choice *ch,
                              bool delta)
{
    write_message(w, ch, delta);
    if (t->return_tokens)
        write_part(w, "tokens", &ch->part[PART_IDS]);
    if (t->n_logprobs < 0 || (delta && !ch->part[PART_TOKENS].len)) {
        jw_null(w, "logprobs");
        return;
    }
    jw_object(w, "logprobs");
    write_part(w, "content", &ch->part[PART_TOKENS]);
    jw_null(w, "refusal");
    jw_end_object(w);
}

static const struct form chat_form = {
    .id_prefix = "chatcmpl",
    .object = "chat.completion",
    .chunk_object = "chat.completion.chunk",
    .opens = true,
    .trims = true,
    .gather_logprobs = gather_logprobs,
    .write = write_chat_choice,
};

int handle_chat(struct req *r, struct err *e)
{
    struct asked a = {.reuse = true};
    struct turns turns;
    json_t *o = decode_object(r->body.data, r->body.len, e);
    struct completions *t = o ? completions_new(r, &chat_form, e) : NULL;
    int rc = t ? asked_decode(r, o, t, &a, e) : e->code;
    if (rc == 0 && (decode_max_tokens(o, &a.max_tokens, e) < 0 ||
                    decode_logprobs(o, &a.logprobs, e) < 0 || decode_messages(r, o, t, &a, e) < 0))
        rc = e->code;
    if (rc == 0) {
        if (!a.schema) /* JSON ends by itself */
            stop_at_turns(&a, &turns);
        rc = completions_submit(r, t, &a, e);
    }
    asked_fini(&a);
    json_decref(o);
    return rc;
}

/* ---- POST /apply-template ---- */

int handle_apply_template(struct req *r, struct err *e)
{
    struct buf text;
    bool continued;
    struct messages_how how = {.answer = true};
    json_t *o = decode_object(r->body.data, r->body.len, e);
    if (!o)
        return e->code;
    buf_init(&text, MESSAGES_LIMIT);
    const struct model_info *m = prompt_model(r, o, e);
    int rc = m && decode_bool(o, "add_generation_prompt", &how.answer, e) == 0 &&
                     messages_render(decode_field(o, "messages"), &m->chat, how, &text, &continued,
                                     e) == 0
                 ? 0
                 : e->code;
    if (rc == 0) {
        struct jw w = {&r->reply.body, false};
        req_reply_json(r, 200);
        jw_object(&w, NULL);
        jw_text(&w, "prompt", text.data, text.len);
        jw_end_object(&w);
    }
    buf_fini(&text);
    json_decref(o);
    return rc;
}
