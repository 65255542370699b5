/* Records of items. Inside store/ only. */
#ifndef STORE_Q_ITEMS_H
#define STORE_Q_ITEMS_H

#include "store/q_states.h"

/* A copy with its own meta. */
int q_item_copy(struct store_item *dst, const struct store_item *src, struct err *e);
void q_item_fini(struct store_item *i);

struct q_items {
    struct store_item *rows;
    size_t n;
    bool has_more;
};
void q_items_fini(struct q_items *page);

/* The item of this kind and name. Not found (by kind); ERR_STATE_CORRUPT. */
int q_item_find(struct db *db, const struct store_item *key, struct store_item *out, struct err *e);
/* The id of its blob. ERR_STATE_CORRUPT unless it is there in its full length. */
int q_item_blob(struct db *db, const struct store_item *item, int64_t *id, struct err *e);
/* Those of like's kind, and of its type, status and fingerprint unless those are "": whose names come
 * after like's, in their order; or the newest first, those with a smaller seq than like's (0: all). */
int q_item_list(struct db *db, const struct store_item *like, bool newest, size_t limit,
                struct q_items *out, struct err *e);

/* ---- writing: as in q_states.h ---- */

int q_item_delete(struct db *db, const struct store_item *key, uint64_t if_revision,
                  struct store_item *out, struct q_counts *change, struct err *e);

/* A put goes in steps, each within a transaction: CREATE -> WRITE ... -> FINISH; without new bytes
 * FINISH alone. Nothing of it can be found before the last, which must be durable. The bytes are always
 * written anew: of two blobs of one hash the new one takes the name, so damage is repaired. */
struct q_item_put {
    /* Set before the first step: */
    const struct store_item *item;
    const void *data; /* NULL: as they are */
    struct store_item_write how;
    enum { Q_ITEM_CREATE, Q_ITEM_WRITE, Q_ITEM_FINISH } next;
    int64_t id; /* of the blob */
    size_t off;
};
/* Makes the next step the first. */
void q_item_put_begin(struct q_item_put *put);
/* 1: more steps to go; 0: done; negative: failed. */
int q_item_put_step(struct db *db, const struct q_env *env, struct q_item_put *put,
                    struct store_item *out, struct q_counts *change, struct err *e);

#endif
