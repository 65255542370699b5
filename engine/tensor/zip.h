/* Reads a zip archive that lies in memory (PKWARE's APPNOTE: stored and deflated members, zip64; no
 * encryption, no spanning). Internal to engine/tensor.
 *
 * The central directory rules: it must lie within the file, its names must be distinct, and a
 * member's local header must carry the same name. A member's CRC is checked when it is read. */
#ifndef ENGINE_TENSOR_ZIP_H
#define ENGINE_TENSOR_ZIP_H

#include "engine/tensor/file.h"

struct zip_member {
    const char *name; /* name_len bytes in the file, no NUL */
    size_t name_len;
    uint16_t flags, method;
    uint32_t crc;
    size_t packed, size; /* bytes in the file, bytes of the contents: claimed until read */
    size_t header;       /* offset of the local header */
    const uint8_t *data; /* [size], once read */
};

struct zip {
    const uint8_t *bytes; /* [n] */
    size_t n;
    size_t directory;           /* offset of the central directory: members end before it */
    size_t inflated;            /* bytes of all inflated members so far */
    size_t max_inflated;        /* 1 GiB; may be set lower after zip_init */
    struct zip_member *members; /* sorted by name; owned */
    size_t n_members;
};

/* ERR_FORMAT, ERR_NOMEM. zip_fini also after a failure. */
int zip_init(struct zip *z, const uint8_t *bytes, size_t n, struct err *e);
void zip_fini(struct zip *z);
struct zip_member *zip_find(const struct zip *z, const char *name, size_t len); /* NULL if absent */
/* Fills m->data: in the file for stored members, in mem for deflated ones (at most
 * max_inflated in all). */
int zip_read(struct zip *z, struct zip_member *m, struct tensor_mem *mem, struct err *e);

#endif
