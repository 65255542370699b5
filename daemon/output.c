#include "daemon/output.h"

#include <math.h>
#include <string.h>

#define MAX_TOP       20
#define PIECE_LIMIT   (64 * 1024)       /* bytes of a token */
#define HELD_LIMIT    (4 * 1024 * 1024) /* more than the longest stop string and a token */
#define PENDING_LIMIT (16 * 1024 * 1024)

int output_init(struct output *o, const struct model *m, struct stream *s,
                const struct completion *c, struct err *e)
{
    *o = (struct output){.model = m, .stream = s, .n_logprobs = c->n_logprobs};
    buf_init(&o->held, HELD_LIMIT);
    buf_init(&o->shown, HELD_LIMIT);
    buf_init(&o->text, 3 * HELD_LIMIT); /* a byte may become the 3 bytes of U+FFFD */
    buf_init(&o->record, 4 * HELD_LIMIT);
    buf_init(&o->pending, PENDING_LIMIT);
    if (c->n_stops) {
        o->stops = stop_new((const char *const *)c->stops, c->stop_lens, c->n_stops);
        if (!o->stops)
            return err_set(e, ERR_NOMEM, "no memory for stop strings");
    }
    return 0;
}

void output_fini(struct output *o)
{
    stop_free(o->stops);
    buf_fini(&o->held);
    buf_fini(&o->shown);
    buf_fini(&o->text);
    buf_fini(&o->record);
    buf_fini(&o->pending);
}

static void drop_front(struct buf *b, size_t n)
{
    if (n)
        memmove(b->data, b->data + n, b->len - n);
    b->len -= n;
}

/* Moves what is whole of `shown` (all of it when last) into `text`, as valid UTF-8. */
static void show_whole(struct output *o, bool last)
{
    size_t n = last ? o->shown.len : utf8_whole_prefix(o->shown.data, o->shown.len);
    buf_reset(&o->text);
    if (n)
        utf8_append_valid(&o->text, o->shown.data, n);
    drop_front(&o->shown, n);
}

/* Gives the record to the stream, or behind those that wait. */
static int give(struct output *o, struct err *e)
{
    uint32_t length = (uint32_t)o->record.len;
    int rc = ERR_BUSY;
    if (o->record.failed || o->text.failed || o->held.failed || o->shown.failed)
        return err_set(e, ERR_NOMEM, "no memory for a token's record");
    if (o->pending.len == 0)
        rc = stream_push(o->stream, o->record.data, o->record.len);
    if (rc == ERR_BUSY) {
        buf_append(&o->pending, &length, sizeof length);
        rc = buf_append(&o->pending, o->record.data, o->record.len);
    }
    return rc < 0 ? err_set(e, rc, "a token's record cannot be passed on") : 0;
}

/* Builds the record of id around its piece, the last `piece` bytes of *from, and o->text. */
static int give_token(struct output *o, struct token_event *t, const char *piece,
                      const float *logits, struct err *e)
{
    struct token_logprob top[MAX_TOP];
    int want = o->n_logprobs > MAX_TOP ? MAX_TOP : o->n_logprobs;
    t->logprob = NAN;
    if (logits && want >= 0) {
        size_t n_vocab = o->model->rwkv_info->n_vocab;
        t->n_top = (uint16_t)((size_t)want < n_vocab ? (size_t)want : n_vocab);
        t->logprob = logprobs_of(logits, n_vocab, t->id, top, t->n_top);
    }
    t->text_bytes = (uint32_t)o->text.len;
    buf_reset(&o->record);
    buf_append(&o->record, t, sizeof *t);
    buf_append(&o->record, top, t->n_top * sizeof top[0]);
    buf_append(&o->record, piece, t->piece_bytes);
    buf_append(&o->record, o->text.data, o->text.len);
    return give(o, e);
}

int output_prompt_token(struct output *o, uint32_t id, const float *logits, struct err *e)
{
    struct token_event t = {.id = id, .prompt = true};
    size_t before = o->shown.len;
    model_token_text(o->model, id, false, &o->shown);
    t.piece_bytes = (uint32_t)(o->shown.len - before);
    struct buf piece;
    buf_init(&piece, PIECE_LIMIT);
    buf_append(&piece, o->shown.data + before, t.piece_bytes);
    show_whole(o, false);
    int rc = piece.failed ? err_set(e, ERR_NOMEM, "no memory for a token")
                          : give_token(o, &t, piece.data, logits, e);
    buf_fini(&piece);
    return rc;
}

int output_token(struct output *o, uint32_t id, const float *logits, bool is_end,
                 struct output_step *step, struct err *e)
{
    struct token_event t = {.id = id};
    struct buf piece;
    *step = (struct output_step){0};
    buf_init(&piece, PIECE_LIMIT);
    if (!is_end)
        model_token_text(o->model, id, false, &piece);
    step->piece = step->released = piece.len;
    t.piece_bytes = (uint32_t)piece.len;
    buf_append(&o->held, piece.data, piece.len);
    if (o->stops && piece.len)
        step->stopped = stop_feed(o->stops, piece.data, piece.len, &step->released) >= 0;
    buf_append(&o->shown, o->held.data, step->released);
    drop_front(&o->held, step->released);
    show_whole(o, false);
    int rc = piece.failed ? err_set(e, ERR_NOMEM, "no memory for a token")
                          : give_token(o, &t, piece.data, logits, e);
    buf_fini(&piece);
    return rc;
}

size_t output_held(const struct output *o)
{
    return o->held.len;
}

int output_end(struct output *o, bool stopped, struct err *e)
{
    struct token_event t = {.id = TOKEN_NONE};
    if (!stopped)
        buf_append(&o->shown, o->held.data, o->held.len);
    buf_reset(&o->held);
    show_whole(o, true);
    return o->text.len ? give_token(o, &t, NULL, NULL, e) : 0;
}

bool output_flush(struct output *o)
{
    const void *record;
    size_t at = o->pending_at, bytes;
    while ((record = stream_next_record(&o->pending, &at, &bytes))) {
        if (stream_push(o->stream, record, bytes) == ERR_BUSY)
            return false;
        o->pending_at = at;
    }
    o->pending_at = 0;
    buf_reset(&o->pending);
    return true;
}
