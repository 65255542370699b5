/* Held-out text: a gzip file of documents separated by one NUL byte, as deploy/models/tiny/corpora.py
 * writes it. Documents are never empty and hold no NUL.
 *
 * Threads: read-only after opening. Ownership: the caller frees; documents point into the text. */
#ifndef ENGINE_HELDOUT_H
#define ENGINE_HELDOUT_H

#include "daemon/base/buf.h"
#include "daemon/base/err.h"

#include <stddef.h>

struct heldout_doc {
    const char *text; /* not NUL-terminated */
    size_t n;         /* bytes, at least 1 */
};

struct heldout {
    struct buf bytes; /* all of them with the separators */
    struct heldout_doc *docs;
    size_t n_docs;
    size_t n_text; /* bytes of all documents, separators not counted */
};

/* Reads and splits a file of at most 64 MiB of text. On failure *h is empty. ERR_IO, ERR_FORMAT (no gzip
 * data, cut short, an empty document), ERR_TOO_LARGE, ERR_NOMEM. */
int heldout_open(const char *path, struct heldout *h, struct err *e)
    __attribute__((warn_unused_result));
void heldout_fini(struct heldout *h);

#endif
