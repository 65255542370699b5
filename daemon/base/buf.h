/* A growing byte buffer with a limit, for text and records built in pieces.
 *
 * buf_init sets the limit; an append past it, or without memory, leaves the buffer as it was, marks
 * it failed and returns the error; later appends fail too, so a chain of appends may be checked once
 * at its end (buf.failed). data is always NUL-terminated (NULL while empty). One thread at a time. */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

struct buf {
    char *data;   /* len bytes and a NUL; owned */
    size_t len;   /* bytes */
    size_t cap;   /* bytes allocated */
    size_t limit; /* largest len */
    bool failed;
};

void buf_init(struct buf *b, size_t limit);
void buf_fini(struct buf *b);
/* Empty it and forget a failure; the memory is kept. */
void buf_reset(struct buf *b);
/* Give the bytes away (caller frees with free), leaving the buffer empty. NULL if it failed. */
char *buf_take(struct buf *b, size_t *len);

/* All return 0, ERR_NOMEM or ERR_TOO_LARGE. */
int buf_append(struct buf *b, const void *p, size_t n);
int buf_puts(struct buf *b, const char *s);
int buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Room for n more bytes; buf->data + buf->len may then be written and len advanced. */
int buf_reserve(struct buf *b, size_t n);

#endif
