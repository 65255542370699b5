/* The interface of items: checks and copies a request, and queues it for the thread (serve.c). */
#include "store/internal.h"

#include <stdio.h>
#include <string.h>

/* ---- on the store's thread ---- */

int store__item_begin(struct store *s, struct req *r)
{
    int rc = q_item_find(&s->db, &r->item, &r->item_out, &r->err);
    r->with_blob = r->with_blob && r->item_out.bytes > 0;
    return rc == 0 && r->with_blob ? q_item_blob(&s->db, &r->item_out, &r->blob_id, &r->err) : rc;
}

int64_t store__blob_written(const struct req *r)
{
    return r->kind == REQ_ITEM_PUT ? r->item_put.id : r->put.id;
}

void store__item_answer(struct req *r)
{
    bool ok = r->err.code == 0, one = r->kind != REQ_ITEM_LIST;
    void *data = ok && r->kind == REQ_ITEM_GET ? r->blob : NULL;
    if (data)
        r->blob = NULL;
    const struct store_item *items = one ? &r->item_out : r->items.rows;
    size_t n = one ? 1 : r->items.n;
    r->done_items(r->arg, &r->err, ok ? items : NULL, ok ? n : 0, ok && r->items.has_more, data,
                  data ? r->item_out.bytes : 0);
    store__req_free(r);
}

/* ---- the interface ---- */

static int bad_name(enum store_kind kind, struct err *e)
{
    return err_set_param(e, ERR_INVALID, "name",
                         "the name of a %s is 1 to %d of the characters A-Z a-z 0-9 . _ -",
                         store_kind_name(kind), STORE_NAME_MAX);
}

static struct req *item_req(enum req_kind what, enum store_kind kind, const char *name,
                            store_items_fn *done, void *arg, struct err *e)
{
    if (!store__is_name(name, what == REQ_ITEM_LIST)) {
        bad_name(kind, e);
        return NULL;
    }
    struct req *r = store__req_new(what, arg, e);
    if (r) {
        r->item.kind = kind;
        r->done_items = done;
        memcpy(r->item.name, name, strlen(name) + 1);
    }
    return r;
}

static int check_put(const struct store_item *i, const void *data, bool replace, struct err *e)
{
    if (!memchr(i->name, 0, sizeof i->name) || !store__is_name(i->name, false))
        return bad_name(i->kind, e);
    if (!i->meta || strlen(i->meta) > STORE__TEXTS_MAX)
        return err_set(e, ERR_INVALID, "the texts of a record exceed 1 MiB");
    bool bytes = data ? i->bytes >= 1 && i->bytes <= INT64_MAX && store__is_sha256(i->sha256)
                      : replace || (!i->bytes && !i->sha256[0]);
    if (!bytes || !memchr(i->model, 0, sizeof i->model) || !memchr(i->type, 0, sizeof i->type) ||
        !memchr(i->fingerprint, 0, sizeof i->fingerprint) ||
        !memchr(i->status, 0, sizeof i->status))
        return err_set(e, ERR_INVALID, "the record of a %s makes no sense",
                       store_kind_name(i->kind));
    return 0;
}

int store_put_item_take(struct store *s, const struct store_item *item, void *data,
                        const struct store_item_write *how, store_items_fn *done, void *arg,
                        struct err *e)
{
    int rc = check_put(item, data, how->replace, e);
    if (rc < 0)
        return rc;
    struct req *r = item_req(REQ_ITEM_PUT, item->kind, item->name, done, arg, e);
    if (!r)
        return e->code;
    if ((rc = q_item_copy(&r->item, item, e)) < 0) {
        store__req_free(r);
        return rc;
    }
    r->blob = data;
    r->item_put = (struct q_item_put){.item = &r->item, .data = data, .how = *how};
    q_item_put_begin(&r->item_put);
    rc =
        store__queue(s, r, data && item->bytes > STORE__SMALL_BYTES ? QUEUE_LARGE : QUEUE_SMALL, e);
    if (rc < 0) {
        r->blob = NULL; /* stays the caller's */
        store__req_free(r);
    }
    return rc;
}

int store_get_item(struct store *s, enum store_kind kind, const char *name, bool with_data,
                   store_items_fn *done, void *arg, struct err *e)
{
    struct req *r = item_req(REQ_ITEM_GET, kind, name, done, arg, e);
    if (!r)
        return e->code;
    r->with_blob = with_data;
    return store__submit(s, r, QUEUE_SMALL, e);
}

int store_delete_item(struct store *s, enum store_kind kind, const char *name, uint64_t if_revision,
                      store_items_fn *done, void *arg, struct err *e)
{
    struct req *r = item_req(REQ_ITEM_DELETE, kind, name, done, arg, e);
    if (!r)
        return e->code;
    r->if_revision = if_revision;
    return store__submit(s, r, QUEUE_SMALL, e);
}

/* NULL is "". False: it does not fit. */
static bool set_word(char *to, size_t size, const char *word)
{
    size_t n = word ? strlen(word) : 0;
    if (n >= size)
        return false;
    memcpy(to, word ? word : "", n + 1);
    return true;
}

int store_list_items(struct store *s, const struct store_item_query *q, store_items_fn *done,
                     void *arg, struct err *e)
{
    if (store__check_limit(q->limit, e) < 0)
        return e->code;
    struct req *r = item_req(REQ_ITEM_LIST, q->kind, q->after ? q->after : "", done, arg, e);
    if (!r)
        return e->code;
    struct store_item *like = &r->item;
    if (!set_word(like->fingerprint, sizeof like->fingerprint, q->fingerprint) ||
        !set_word(like->type, sizeof like->type, q->type) ||
        !set_word(like->status, sizeof like->status, q->status)) {
        store__req_free(r);
        return err_set(e, ERR_INVALID, "a word to list by is longer than any of its kind");
    }
    r->newest = q->newest;
    like->seq = q->before;
    r->limit = q->limit;
    return store__submit(s, r, QUEUE_SMALL, e);
}
