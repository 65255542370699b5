/* POST /v1/completions: the answer, whole or as a stream. */
#include "api/completions.h"
#include "api/sse.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- gathering ---- */

static void comma(struct buf *b)
{
    if (b->len)
        buf_append(b, ",", 1);
}

/* A token as OpenAI shows it: its text, or "bytes:\xe4\xbd" where it is not UTF-8 by itself. */
static void quote_token(struct buf *b, const char *p, size_t n)
{
    if (utf8_valid(p, n)) {
        json_quote(b, p, n);
        return;
    }
    buf_puts(b, "\"bytes:");
    for (size_t i = 0; i < n; i++)
        buf_printf(b, "\\\\x%02x", (unsigned char)p[i]);
    buf_append(b, "\"", 1);
}

static void append_logprob(struct buf *b, float v)
{
    if (isnan(v))
        buf_puts(b, "null");
    else
        buf_printf(b, "%.9g", isinf(v) ? -9999.0 : (double)v);
}

/* {"text": logprob, ...}: the alternatives and the token itself, no text twice. */
static void append_tops(struct req *r, struct choice *ch, const struct token_event *t,
                        const char *top)
{
    struct completions *all = r->data;
    struct buf text;
    buf_init(&text, 1 << 20);
    bool own = false;
    size_t n = 0;
    comma(&ch->tops);
    if (isnan(t->logprob)) {
        buf_puts(&ch->tops, "null");
        return;
    }
    buf_append(&ch->tops, "{", 1);
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
            buf_append(&ch->tops, ",", 1);
        quote_token(&ch->tops, text.data ? text.data : "", text.len);
        buf_append(&ch->tops, ":", 1);
        append_logprob(&ch->tops, one.logprob);
    }
    buf_append(&ch->tops, "}", 1);
    buf_fini(&text);
}

static void gather_logprobs(struct req *r, struct choice *ch, const struct token_event *t,
                            const char *top)
{
    struct completions *all = r->data;
    struct buf text;
    buf_init(&text, 1 << 20);
    service_token_text(r->svc, all->model, t->id, &text);
    comma(&ch->tokens);
    quote_token(&ch->tokens, text.data ? text.data : "", text.len);
    comma(&ch->logprobs);
    append_logprob(&ch->logprobs, t->logprob);
    comma(&ch->offsets);
    buf_printf(&ch->offsets, "%llu", (unsigned long long)ch->chars);
    if (all->n_logprobs > 0)
        append_tops(r, ch, t, top);
    /* Code points begin at bytes that are not continuations. */
    for (size_t i = 0; i < text.len; i++)
        ch->chars += ((unsigned char)text.data[i] & 0xc0) != 0x80;
    buf_fini(&text);
}

/* Reads one record of the stream; false if it is not one. */
static bool gather(struct req *r, struct choice *ch, const void *record, size_t bytes)
{
    struct completions *all = r->data;
    struct token_event t;
    if (bytes < sizeof t)
        return false;
    memcpy(&t, record, sizeof t);
    const char *tops = (const char *)record + sizeof t;
    size_t tail = t.n_top * sizeof(struct token_logprob);
    if (bytes - sizeof t != tail + t.piece_bytes + t.text_bytes)
        return false;
    if (all->return_tokens && t.id != TOKEN_NONE) {
        comma(&ch->ids);
        buf_printf(&ch->ids, "%u", (unsigned)t.id);
    }
    if (all->n_logprobs >= 0 && t.id != TOKEN_NONE)
        gather_logprobs(r, ch, &t, tops);
    if (t.text_bytes)
        buf_append(&ch->text, tops + tail + t.piece_bytes, t.text_bytes);
    return true;
}

static bool choice_failed(const struct choice *ch)
{
    return ch->text.failed || ch->ids.failed || ch->tokens.failed || ch->logprobs.failed ||
           ch->tops.failed || ch->offsets.failed;
}

/* ---- writing ---- */

static const char *finish_word(enum finish f)
{
    return f == FINISH_STOP ? "stop" : f == FINISH_LENGTH ? "length" : NULL;
}

static void write_list(struct jw *w, const char *key, const struct buf *items)
{
    jw_array(w, key);
    buf_append(w->b, items->data ? items->data : "", items->len);
    jw_end_array(w);
}

/* What the choice has gathered, which is emptied. */
static void write_choice(struct jw *w, const struct completions *t, size_t i, const char *finish)
{
    struct choice *ch = (struct choice *)(uintptr_t)&t->choices[i];
    struct buf *all[] = {&ch->text, &ch->ids, &ch->tokens, &ch->logprobs, &ch->tops, &ch->offsets};
    jw_object(w, NULL);
    jw_uint(w, "index", i);
    jw_text(w, "text", ch->text.data ? ch->text.data : "", ch->text.len);
    if (t->return_tokens)
        write_list(w, "tokens", &ch->ids);
    if (t->n_logprobs >= 0) {
        jw_object(w, "logprobs");
        write_list(w, "tokens", &ch->tokens);
        write_list(w, "token_logprobs", &ch->logprobs);
        if (t->n_logprobs > 0)
            write_list(w, "top_logprobs", &ch->tops);
        else
            jw_null(w, "top_logprobs");
        write_list(w, "text_offset", &ch->offsets);
        jw_end_object(w);
    } else {
        jw_null(w, "logprobs");
    }
    jw_string(w, "finish_reason", finish);
    jw_end_object(w);
    for (size_t k = 0; k < sizeof all / sizeof all[0]; k++)
        buf_reset(all[k]);
}

static void write_head(struct jw *w, const struct completions *t)
{
    jw_string(w, "id", t->id);
    jw_string(w, "object", "text_completion");
    jw_int(w, "created", t->created);
    jw_string(w, "model", t->model->name);
    jw_string(w, "system_fingerprint", t->fingerprint);
}

/* A prompt counts once, however many choices it has; what a named state had read counts as cached.
 */
static void write_usage(struct jw *w, const struct completions *t)
{
    uint64_t prompt = 0, cached = 0, sampled = 0;
    for (size_t i = 0; i < t->n_choices; i++) {
        const struct timings *m = &t->choices[i].c->timings;
        if (i % t->n == 0) {
            prompt += m->cache_n + m->prompt_n;
            cached += m->cache_n;
        }
        sampled += m->predicted_n;
    }
    jw_object(w, "usage");
    jw_uint(w, "prompt_tokens", prompt);
    jw_uint(w, "completion_tokens", sampled);
    jw_uint(w, "total_tokens", prompt + sampled);
    jw_object(w, "prompt_tokens_details");
    jw_uint(w, "cached_tokens", cached);
    jw_end_object(w);
    jw_end_object(w);
}

/* What only the end tells: the seed, the times (summed over several choices), the kept state. */
static void write_result(struct jw *w, const struct completions *t, size_t first, size_t n)
{
    struct timings sum = {0};
    const struct state_info *saved = NULL;
    for (size_t i = first; i < first + n; i++) {
        const struct completion *c = t->choices[i].c;
        sum.cache_n += c->timings.cache_n;
        sum.prompt_n += c->timings.prompt_n;
        sum.prompt_ms += c->timings.prompt_ms;
        sum.predicted_n += c->timings.predicted_n;
        sum.predicted_ms += c->timings.predicted_ms;
        saved = c->saved ? c->saved : saved;
    }
    const struct completion *used = t->choices[first].c;
    jw_uint(w, "seed", used->sampling.seed);
    write_timings(w, "timings", &sum);
    write_started_from(w, used->state_used, used->other_weights_type);
    if (saved)
        write_state(w, "state", saved);
}

/* ---- a whole answer ---- */

static void whole_record(struct req *r, size_t i, const void *record, size_t bytes)
{
    struct completions *t = r->data;
    if (!gather(r, &t->choices[i], record, bytes))
        err_set(&r->err, ERR_INTERNAL, "a token's record is not whole");
    else if (choice_failed(&t->choices[i]))
        err_set(&r->err, ERR_NOMEM, "the answer is too large to be held whole: ask for a stream");
}

static int whole_ended(struct req *r, size_t i, struct err *e)
{
    (void)r;
    (void)i;
    (void)e;
    return 0;
}

static int whole_finish(struct req *r, struct err *e)
{
    struct completions *t = r->data;
    struct jw w = {&r->reply.body, false};
    req_reply_json(r, 200);
    jw_object(&w, NULL);
    write_head(&w, t);
    jw_array(&w, "choices");
    for (size_t i = 0; i < t->n_choices; i++)
        write_choice(&w, t, i, finish_word(t->choices[i].c->finish));
    jw_end_array(&w);
    write_usage(&w, t);
    write_result(&w, t, 0, t->n_choices);
    jw_end_object(&w);
    return r->reply.body.failed ? err_set(e, ERR_NOMEM, "no memory for the answer") : 0;
}

/* ---- a stream ---- */

static void open_chunk(struct req *r, struct jw *w)
{
    sse_begin(&r->out);
    jw_object(w, NULL);
    write_head(w, r->data);
    jw_array(w, "choices");
}

static void close_chunk(struct req *r, struct jw *w)
{
    jw_end_object(w);
    sse_end(&r->out);
}

static void stream_record(struct req *r, size_t i, const void *record, size_t bytes)
{
    struct completions *t = r->data;
    struct jw w = {&r->out, false};
    whole_record(r, i, record, bytes);
    /* Held-back text makes no chunk; what was asked for beside the text does. */
    if (r->err.code || (!t->choices[i].text.len && t->n_logprobs < 0 && !t->return_tokens))
        return;
    open_chunk(r, &w);
    write_choice(&w, t, i, NULL);
    jw_end_array(&w);
    if (t->include_usage)
        jw_null(&w, "usage");
    close_chunk(r, &w);
}

static int stream_ended(struct req *r, size_t i, struct err *e)
{
    struct completions *t = r->data;
    struct jw w = {&r->out, false};
    (void)e;
    open_chunk(r, &w);
    write_choice(&w, t, i, finish_word(t->choices[i].c->finish));
    jw_end_array(&w);
    if (t->include_usage)
        jw_null(&w, "usage");
    write_result(&w, t, i, 1);
    close_chunk(r, &w);
    return 0;
}

static int stream_finish(struct req *r, struct err *e)
{
    struct completions *t = r->data;
    struct jw w = {&r->out, false};
    (void)e;
    if (t->include_usage) {
        open_chunk(r, &w);
        jw_end_array(&w);
        write_usage(&w, t);
        close_chunk(r, &w);
    }
    sse_done(&r->out);
    return 0;
}

static void completions_free(void *data)
{
    struct completions *t = data;
    for (size_t i = 0; i < REQ_SOURCES; i++) {
        struct choice *ch = &t->choices[i];
        struct buf *all[] = {&ch->text,     &ch->ids,  &ch->tokens,
                             &ch->logprobs, &ch->tops, &ch->offsets};
        for (size_t k = 0; k < sizeof all / sizeof all[0]; k++)
            buf_fini(all[k]);
    }
    free(t);
}

const struct task completions_whole = {whole_record, whole_ended, whole_finish, completions_free,
                                       false};
const struct task completions_stream = {stream_record, stream_ended, stream_finish,
                                        completions_free, true};
