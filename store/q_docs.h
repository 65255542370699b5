/* Documents: see store.h. Inside store/ only. */
#ifndef STORE_Q_DOCS_H
#define STORE_Q_DOCS_H

#include "store/db.h"
#include "store/store.h"

/* Rows of an answer; each with its own body. */
struct q_docs {
    struct store_doc *rows; /* [n] */
    size_t n;
    bool has_more;
};
void q_docs_fini(struct q_docs *d);

/* All as the functions of store.h, with q_docs as their answer. Writes want a transaction. */
int q_doc_put(struct db *db, int64_t now_ms, const struct store_doc *doc, enum store_doc_if how,
              struct q_docs *out, struct err *e);
int q_doc_get(struct db *db, enum store_area area, const char *name, struct q_docs *out,
              struct err *e);
int q_doc_delete(struct db *db, enum store_area area, const char *name, struct q_docs *out,
                 struct err *e);
int q_doc_list(struct db *db, const struct store_doc_query *q, struct q_docs *out, struct err *e);

#endif
