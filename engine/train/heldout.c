#include "engine/train/heldout.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define HELDOUT_LIMIT ((size_t)64 << 20)

static int inflate_file(const char *path, struct buf *out, struct err *e)
{
    gzFile f = gzopen(path, "rb");
    if (!f)
        return err_set(e, ERR_IO, "held-out text %s: %s", path, strerror(errno));
    int rc = 0, got = 0;
    if (gzdirect(f))
        rc = err_set(e, ERR_FORMAT, "held-out text %s: not a gzip file", path);
    while (rc == 0) {
        if ((rc = buf_reserve(out, 65536)) < 0) {
            err_set(e, rc, "held-out text %s: more than %zu bytes, or no memory", path,
                    HELDOUT_LIMIT);
            break;
        }
        if ((got = gzread(f, out->data + out->len, 65536)) <= 0)
            break;
        out->len += (size_t)got;
    }
    int z;
    const char *why = gzerror(f, &z);
    if (rc == 0 && (got < 0 || z != Z_OK))
        rc = err_set(e, ERR_FORMAT, "held-out text %s: %s", path, why);
    gzclose_r(f);
    return rc;
}

/* Counts the documents, then, with docs, fills them in. Returns ERR_FORMAT for an empty one. */
static int split(struct heldout *h, struct heldout_doc *docs)
{
    const char *p = h->bytes.data, *end = p + h->bytes.len;
    size_t n = 0;
    for (h->n_text = 0; p <= end; n++) {
        const char *nul = memchr(p, 0, (size_t)(end - p));
        size_t len = (size_t)((nul ? nul : end) - p);
        if (len == 0)
            return ERR_FORMAT;
        if (docs)
            docs[n] = (struct heldout_doc){p, len};
        h->n_text += len;
        p += len + 1;
    }
    h->n_docs = n;
    return 0;
}

int heldout_open(const char *path, struct heldout *h, struct err *e)
{
    *h = (struct heldout){0};
    buf_init(&h->bytes, HELDOUT_LIMIT);
    int rc = inflate_file(path, &h->bytes, e);
    if (rc == 0 && (!h->bytes.len || split(h, NULL) < 0))
        rc = err_set(e, ERR_FORMAT, "held-out text %s: an empty document", path);
    if (rc == 0 && !(h->docs = calloc(h->n_docs, sizeof *h->docs)))
        rc =
            err_set(e, ERR_NOMEM, "held-out text %s: no memory for %zu documents", path, h->n_docs);
    if (rc < 0) {
        heldout_fini(h);
        return rc;
    }
    split(h, h->docs);
    return 0;
}

void heldout_fini(struct heldout *h)
{
    buf_fini(&h->bytes);
    free(h->docs);
    *h = (struct heldout){0};
}
