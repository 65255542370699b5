#include "daemon/base/buf.h"

#include "daemon/base/err.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buf_init(struct buf *b, size_t limit)
{
    *b = (struct buf){.limit = limit};
}

void buf_fini(struct buf *b)
{
    free(b->data);
    *b = (struct buf){0};
}

void buf_reset(struct buf *b)
{
    b->len = 0;
    b->failed = false;
    if (b->data)
        b->data[0] = 0;
}

char *buf_take(struct buf *b, size_t *len)
{
    if (b->failed || (!b->data && buf_reserve(b, 0) < 0))
        return NULL;
    char *p = b->data;
    if (len)
        *len = b->len;
    *b = (struct buf){.limit = b->limit};
    return p;
}

static int buf_fail(struct buf *b, int code)
{
    b->failed = true;
    return code;
}

int buf_reserve(struct buf *b, size_t n)
{
    if (b->failed)
        return ERR_NOMEM;
    if (n > b->limit || b->len > b->limit - n)
        return buf_fail(b, ERR_TOO_LARGE);
    size_t want = b->len + n + 1;
    if (b->data && want <= b->cap)
        return 0;
    size_t cap = b->cap ? b->cap : 64;
    while (cap < want)
        cap = cap > SIZE_MAX / 2 ? want : 2 * cap;
    char *p = realloc(b->data, cap);
    if (!p)
        return buf_fail(b, ERR_NOMEM);
    b->data = p;
    b->cap = cap;
    b->data[b->len] = 0;
    return 0;
}

int buf_append(struct buf *b, const void *p, size_t n)
{
    int rc = buf_reserve(b, n);
    if (rc < 0)
        return rc;
    if (n)
        memcpy(b->data + b->len, p, n);
    b->len += n;
    b->data[b->len] = 0;
    return 0;
}

int buf_puts(struct buf *b, const char *s)
{
    return buf_append(b, s, strlen(s));
}

int buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        return buf_fail(b, ERR_INTERNAL);
    int rc = buf_reserve(b, (size_t)n);
    if (rc < 0)
        return rc;
    va_start(ap, fmt);
    vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
    return 0;
}
