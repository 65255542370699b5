/* A file that appears whole or not at all, written in pieces. Internal to engine/tensor; others use
 * file_write_atomic (write.h).
 *
 *     struct new_file w;
 *     int rc = new_file_open(&w, path, e);
 *     if (rc == 0)
 *         rc = new_file_put(&w, p, n, e);
 *     return new_file_close(&w, rc, e);
 */
#ifndef ENGINE_TENSOR_WRITE_FILE_H
#define ENGINE_TENSOR_WRITE_FILE_H

#include "daemon/base/err.h"
#include "engine/tensor/tensor.h"

struct new_file {
    int fd;
    char *path, *tmp; /* owned */
};

/* ERR_IO, ERR_STORAGE_FULL, ERR_NOMEM. Close it also when this failed. */
int new_file_open(struct new_file *w, const char *path, struct err *e);
int new_file_put(struct new_file *w, const void *p, size_t n, struct err *e);
/* rc == 0: syncs and renames; else removes the temporary file. Returns the first error. */
int new_file_close(struct new_file *w, int rc, struct err *e);

/* What every writer refuses (ERR_INVALID): a bad name, more than TENSOR_MAX_DIMS dimensions, bytes
 * that do not match shape and type. */
int tensor__check_output(const struct tensor *t, struct err *e);

/* Makes a rename durable: syncs the folder of path, which is cut to that folder's name. */
int tensor__sync_folder(char *path, struct err *e);

#endif
