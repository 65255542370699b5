/* The answer of a completion, whole or as a stream; its form says how a choice reads. */
#include "api/adjustment.h"
#include "api/completions.h"
#include "api/sse.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- gathering ---- */

void part_comma(struct buf *b)
{
    if (b->len)
        buf_append(b, ",", 1);
}

void quote_token(struct buf *b, const char *p, size_t n)
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

void append_logprob(struct buf *b, float v)
{
    if (isnan(v))
        buf_puts(b, "null");
    else
        buf_printf(b, "%.9g", isinf(v) ? -9999.0 : (double)v);
}

static void gather_text(struct choice *ch, const char *p, size_t n)
{
    while (ch->trims && n && (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r'))
        p++, n--;
    if (!n)
        return;
    ch->trims = false;
    buf_append(&ch->part[PART_TEXT], p, n);
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
        part_comma(&ch->part[PART_IDS]);
        buf_printf(&ch->part[PART_IDS], "%u", (unsigned)t.id);
    }
    if (all->n_logprobs >= 0 && t.id != TOKEN_NONE)
        all->form->gather_logprobs(r, ch, &t, tops);
    if (t.text_bytes)
        gather_text(ch, tops + tail + t.piece_bytes, t.text_bytes);
    return true;
}

static bool choice_failed(const struct choice *ch)
{
    for (size_t k = 0; k < PART_END; k++)
        if (ch->part[k].failed)
            return true;
    return false;
}

/* ---- writing ---- */

static const char *finish_word(enum finish f)
{
    return f == FINISH_STOP ? "stop" : f == FINISH_LENGTH ? "length" : NULL;
}

void write_part(struct jw *w, const char *key, const struct buf *items)
{
    jw_array(w, key);
    buf_append(w->b, items->data ? items->data : "", items->len);
    jw_end_array(w);
}

/* What the choice has gathered, which is emptied. */
static void write_choice(struct jw *w, struct completions *t, size_t i, const char *finish,
                         bool delta)
{
    struct choice *ch = &t->choices[i];
    jw_object(w, NULL);
    jw_uint(w, "index", i);
    t->form->write(w, t, ch, delta);
    jw_string(w, "finish_reason", finish);
    jw_end_object(w);
    for (size_t k = 0; k < PART_END; k++)
        buf_reset(&ch->part[k]);
}

static void write_head(struct jw *w, const struct completions *t, const char *object)
{
    jw_string(w, "id", t->id);
    jw_string(w, "object", object);
    jw_int(w, "created", t->created);
    jw_string(w, "model", t->model->name);
    jw_string(w, "system_fingerprint", t->fingerprint);
}

/* A prompt counts once, however many choices it has; what a named state had read counts as cached. What
 * one choice has read for the others does not: the least of them counts. */
static void write_usage(struct jw *w, const struct completions *t)
{
    uint64_t prompt = 0, cached = 0, sampled = 0, least = 0;
    for (size_t i = 0; i < t->n_choices; i++) {
        const struct timings *m = &t->choices[i].c->timings;
        if (i % t->n == 0) {
            prompt += m->cache_n + m->prompt_n;
            cached += least = m->cache_n;
        } else if (m->cache_n < least) {
            cached -= least - m->cache_n;
            least = m->cache_n;
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

/* A state for the client to keep, in the form in which a request may start from it. */
static void write_returned(struct jw *w, const struct returned_state *s)
{
    if (!s->data)
        return;
    jw_object(w, "returned_state");
    jw_base64(w, "data", s->data, s->bytes);
    jw_uint(w, "bytes", s->bytes);
    jw_string(w, "sha256", s->sha256);
    jw_uint(w, "n_tokens", s->n_tokens);
    jw_bool(w, "has_logits", s->has_logits);
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
    adjustment_write(w, used->adjustment);
    if (saved)
        write_state(w, "state", saved);
    write_returned(w, &used->returned);
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
    write_head(&w, t, t->form->object);
    jw_array(&w, "choices");
    for (size_t i = 0; i < t->n_choices; i++)
        write_choice(&w, t, i, finish_word(t->choices[i].c->finish), false);
    jw_end_array(&w);
    write_usage(&w, t);
    write_result(&w, t, 0, t->n_choices);
    jw_end_object(&w);
    return r->reply.body.failed ? err_set(e, ERR_NOMEM, "no memory for the answer") : 0;
}

/* ---- a stream ---- */

static void open_chunk(struct req *r, struct jw *w)
{
    const struct completions *t = r->data;
    sse_begin(&r->out);
    jw_object(w, NULL);
    write_head(w, t, t->form->chunk_object);
    jw_array(w, "choices");
}

static void close_chunk(struct req *r, struct jw *w)
{
    jw_end_object(w);
    sse_end(&r->out);
}

/* One chunk of choice i; the last one of it (finish) has its result. */
static void send_choice(struct req *r, size_t i, const char *finish)
{
    struct completions *t = r->data;
    struct jw w = {&r->out, false};
    open_chunk(r, &w);
    write_choice(&w, t, i, finish, true);
    jw_end_array(&w);
    if (t->include_usage)
        jw_null(&w, "usage");
    if (finish)
        write_result(&w, t, i, 1);
    close_chunk(r, &w);
}

/* The first chunk of a choice, where its form has one: before anything is gathered. */
static void begin_choice(struct req *r, size_t i)
{
    struct completions *t = r->data;
    if (t->choices[i].begun)
        return;
    if (t->form->opens)
        send_choice(r, i, NULL);
    t->choices[i].begun = true;
}

static void stream_record(struct req *r, size_t i, const void *record, size_t bytes)
{
    struct completions *t = r->data;
    begin_choice(r, i);
    whole_record(r, i, record, bytes);
    /* Held-back text makes no chunk; what was asked for beside the text does. */
    if (!r->err.code &&
        (t->choices[i].part[PART_TEXT].len || t->n_logprobs >= 0 || t->return_tokens))
        send_choice(r, i, NULL);
}

static int stream_ended(struct req *r, size_t i, struct err *e)
{
    struct completions *t = r->data;
    (void)e;
    begin_choice(r, i);
    send_choice(r, i, finish_word(t->choices[i].c->finish));
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
    for (size_t i = 0; i < REQ_SOURCES; i++)
        for (size_t k = 0; k < PART_END; k++)
            buf_fini(&t->choices[i].part[k]);
    free(t);
}

const struct task completions_whole = {whole_record, whole_ended, whole_finish, completions_free,
                                       false};
const struct task completions_stream = {stream_record, stream_ended, stream_finish,
                                        completions_free, true};

struct completions *completions_new(struct req *r, const struct form *f, struct err *e)
{
    struct completions *t = calloc(1, sizeof *t);
    if (!t) {
        err_set(e, ERR_NOMEM, "no memory for a completion");
        return NULL;
    }
    t->form = f;
    for (size_t i = 0; i < REQ_SOURCES; i++) {
        t->choices[i].trims = f->trims;
        for (size_t k = 0; k < PART_END; k++)
            buf_init(&t->choices[i].part[k], (size_t)64 << 20);
    }
    req_await(r, &completions_whole, t);
    return t;
}
