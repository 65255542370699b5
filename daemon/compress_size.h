/* How small a general-purpose compressor's program makes some bytes. */
#ifndef DAEMON_COMPRESS_SIZE_H
#define DAEMON_COMPRESS_SIZE_H

#include "daemon/base/err.h"

#include <stddef.h>

/* Runs argv (searched in PATH; NULL-terminated) with `bytes` as its standard input and sets *size to the
 * bytes it wrote. ERR_UNAVAILABLE if there is no such program or it fails, ERR_IO. */
int compress_size(const char *const argv[], const void *bytes, size_t n, size_t *size, struct err *e)
    __attribute__((warn_unused_result));

#endif
