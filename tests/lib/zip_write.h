/* Builds zip archives for tests of the .pth reader.
 *
 *     struct zip_out z;
 *     zip_out_init(&z);
 *     zip_out_add(&z, "a/data.pkl", p, n, false);
 *     zip_out_end(&z);                      z.file.data, z.file.len
 *     zip_out_fini(&z);
 *
 * Without memory it aborts. */
#ifndef TESTS_ZIP_WRITE_H
#define TESTS_ZIP_WRITE_H

#include "daemon/base/buf.h"

struct zip_out {
    struct buf file, directory;
    unsigned count;
};

void zip_out_init(struct zip_out *z);
void zip_out_fini(struct zip_out *z);
void zip_out_add(struct zip_out *z, const char *name, const void *p, size_t n, bool deflated);
void zip_out_end(struct zip_out *z);

#endif
