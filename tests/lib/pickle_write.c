#include "tests/lib/pickle_write.h"

#include <string.h>

void pk_ops(struct buf *b, const char *ops)
{
    buf_puts(b, ops);
}

void pk_str(struct buf *b, const char *s)
{
    uint32_t n = (uint32_t)strlen(s);
    buf_puts(b, "X");
    buf_append(b, &n, 4);
    buf_puts(b, s);
}

void pk_int(struct buf *b, int64_t v)
{
    buf_puts(b, "\x8a\x08");
    buf_append(b, &v, 8);
}

void pk_global(struct buf *b, const char *module, const char *name)
{
    buf_printf(b, "c%s\n%s\n", module, name);
}

void pk_ints(struct buf *b, const int64_t *v, int n)
{
    buf_puts(b, "(");
    for (int i = 0; i < n; i++)
        pk_int(b, v[i]);
    buf_puts(b, "t");
}

void pk_tensor(struct buf *b, const char *storage_type, const char *key, int64_t numel,
               int64_t offset, int n_dims, const int64_t *shape, const int64_t *stride)
{
    pk_global(b, "torch._utils", "_rebuild_tensor_v2");
    pk_ops(b, "((");
    pk_str(b, "storage");
    pk_global(b, "torch", storage_type);
    pk_str(b, key);
    pk_str(b, "cpu");
    pk_int(b, numel);
    pk_ops(b, "tQ");
    pk_int(b, offset);
    pk_ints(b, shape, n_dims);
    pk_ints(b, stride, n_dims);
    pk_ops(b, "\x89");
    pk_global(b, "collections", "OrderedDict");
    pk_ops(b, ")RtR");
}
