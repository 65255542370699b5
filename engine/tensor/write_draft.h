/* A safetensors file that is filled in place, over a long time and by several processes one after
 * another: until it is whole it is called PATH.part.
 *
 *     struct tensor_draft d;
 *     int rc = tensor_draft_open(&d, path, tensors, n, meta, n_meta, e);
 *     ... d.data[i] ...                            the bytes of tensor i, mapped to be written
 *     return tensor_draft_close(&d, rc, keep, e);
 *
 * A part left behind by a process that was stopped or killed is gone on with if its header and the
 * tensors with `data` are the same to the byte; else it begins anew. What was stored into d.data is
 * there after `kill -9`; after a loss of power it may not be: whoever goes on has to be able to tell.
 *
 * Threads: one, but d.data is plain memory. One process a path (a lock on the part). */
#ifndef ENGINE_TENSOR_WRITE_DRAFT_H
#define ENGINE_TENSOR_WRITE_DRAFT_H

#include "engine/tensor/write.h"

#define TENSOR_DRAFT_MAX 16 /* tensors */

struct tensor_draft {
    void *data[TENSOR_DRAFT_MAX];
    char *path, *part; /* owned */
    int fd;
    void *map;
    size_t bytes;
};

/* One that closes as if it had never been opened. */
#define TENSOR_DRAFT_NONE ((struct tensor_draft){.fd = -1, .map = (void *)-1}) /* MAP_FAILED */

/* Makes or opens the part. Tensors with `data` are written; those without are zero, or what an earlier
 * process left. All of the file's place on the disk is taken at once. ERR_IO (also: another process has
 * it), ERR_STORAGE_FULL, ERR_NOMEM, ERR_INVALID. Close it also when this failed. */
int tensor_draft_open(struct tensor_draft *d, const char *path, const struct tensor *tensors,
                      size_t n, const struct tensor_meta *meta, size_t n_meta, struct err *e)
    __attribute__((warn_unused_result));
/* rc == 0: syncs, and gives the part its name; else removes it unless it is to be kept. Returns the
 * first error. */
int tensor_draft_close(struct tensor_draft *d, int rc, bool keep, struct err *e)
    __attribute__((warn_unused_result));

#endif
