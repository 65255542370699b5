/* Writes pickles for tests of the .pth reader, opcode by opcode. */
#ifndef TESTS_PICKLE_WRITE_H
#define TESTS_PICKLE_WRITE_H

#include "daemon/base/buf.h"

#include <stdint.h>

void pk_ops(struct buf *b, const char *ops); /* opcodes without arguments, up to the NUL */
void pk_str(struct buf *b, const char *s);
void pk_int(struct buf *b, int64_t v);
void pk_global(struct buf *b, const char *module, const char *name);
void pk_ints(struct buf *b, const int64_t *v, int n); /* a tuple */
/* What torch writes for a tensor over the storage `key` of numel elements. */
void pk_tensor(struct buf *b, const char *storage_type, const char *key, int64_t numel,
               int64_t offset, int n_dims, const int64_t *shape, const int64_t *stride);

#endif
