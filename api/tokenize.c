/* POST /tokenize, POST /detokenize: llama-server's shapes. */
#include "api/prompt.h"
#include "api/route.h"

#include <stdlib.h>
#include <string.h>

/* A piece is a string, or an array of bytes where it is not UTF-8 by itself. */
static void write_piece(struct jw *w, uint32_t id, const struct buf *piece)
{
    const char *p = piece->data ? piece->data : "";
    jw_object(w, NULL);
    jw_uint(w, "id", id);
    if (utf8_valid(p, piece->len)) {
        jw_text(w, "piece", p, piece->len);
    } else {
        jw_array(w, "piece");
        for (size_t i = 0; i < piece->len; i++)
            jw_uint(w, NULL, (unsigned char)p[i]);
        jw_end_array(w);
    }
    jw_end_object(w);
}

static int write_tokens(struct req *r, const struct model_info *m, const uint32_t *ids, size_t n,
                        bool pieces, struct err *e)
{
    struct buf piece;
    buf_init(&piece, 1 << 20);
    struct jw w = {&r->reply.body, false};
    req_reply_json(r, 200);
    jw_object(&w, NULL);
    jw_array(&w, "tokens");
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        if (!pieces) {
            jw_uint(&w, NULL, ids[i]);
            continue;
        }
        buf_reset(&piece);
        rc = service_token_text(r->svc, m, ids[i], &piece);
        write_piece(&w, ids[i], &piece);
    }
    jw_end_array(&w);
    jw_end_object(&w);
    buf_fini(&piece);
    return rc < 0 ? err_set(e, rc, "the text of a token could not be had") : 0;
}

int handle_tokenize(struct req *r, struct err *e)
{
    int rc = ERR_INVALID;
    uint32_t *ids = NULL;
    size_t n = 0, bytes = 0;
    const char *content = NULL;
    bool pieces = false, special = false, parse = true;
    const struct model_info *m;
    json_t *o = decode_object(r->body.data, r->body.len, e);
    if (!o)
        return e->code;
    if (!(m = prompt_model(r, o, e)) || decode_text(o, "content", &content, &bytes, e) < 0 ||
        decode_bool(o, "with_pieces", &pieces, e) < 0 ||
        decode_bool(o, "add_special", &special, e) < 0 ||
        decode_bool(o, "parse_special", &parse, e) < 0) {
        rc = e->code;
        goto out;
    }
    if (!content) {
        rc = err_set_param(e, ERR_INVALID, "content", "content is missing");
        goto out;
    }
    /* Neither does anything: RWKV's vocabularies have no token to add and none that text stands for. */
    rc = service_tokenize(r->svc, m, content, bytes, &ids, &n, e);
    if (rc == 0)
        rc = write_tokens(r, m, ids, n, pieces, e);
out:
    free(ids);
    json_decref(o);
    return rc;
}

int handle_detokenize(struct req *r, struct err *e)
{
    int rc;
    uint32_t *ids = NULL;
    size_t n = 0;
    struct buf text;
    buf_init(&text, (size_t)128 << 20);
    json_t *o = decode_object(r->body.data, r->body.len, e);
    if (!o)
        return e->code;
    const struct model_info *m = prompt_model(r, o, e);
    const json_t *tokens = decode_field(o, "tokens");
    if (!m) {
        rc = e->code;
        goto out;
    }
    if (!tokens) {
        rc = err_set_param(e, ERR_INVALID, "tokens", "tokens is missing");
        goto out;
    }
    rc = decode_token_ids(tokens, "tokens", m->n_vocab, &ids, &n, e);
    if (rc < 0 || (rc = service_detokenize(r->svc, m, ids, n, &text, e)) < 0)
        goto out;
    req_reply_json(r, 200);
    struct jw w = {&r->reply.body, false};
    jw_object(&w, NULL);
    jw_text(&w, "content", text.data ? text.data : "", text.len);
    jw_end_object(&w);
out:
    free(ids);
    buf_fini(&text);
    json_decref(o);
    return rc;
}
