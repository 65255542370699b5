#include "tests/lib/zip_write.h"

#include "daemon/base/assert.h"

#include <stdint.h>
#include <string.h>
#include <zlib.h>

static void u16(struct buf *b, unsigned v)
{
    buf_append(b, &(uint16_t){(uint16_t)v}, 2);
}

static void u32(struct buf *b, size_t v)
{
    buf_append(b, &(uint32_t){(uint32_t)v}, 4);
}

void zip_out_init(struct zip_out *z)
{
    buf_init(&z->file, (size_t)1 << 30);
    buf_init(&z->directory, (size_t)1 << 26);
    z->count = 0;
}

void zip_out_fini(struct zip_out *z)
{
    buf_fini(&z->file);
    buf_fini(&z->directory);
}

/* The fields that local header and directory entry share. */
static void put_common(struct buf *b, const char *name, bool deflated, uLong crc, size_t packed,
                       size_t n)
{
    u16(b, 20);
    u16(b, 0);
    u16(b, deflated ? 8 : 0);
    u32(b, 0); /* time and date */
    u32(b, crc);
    u32(b, packed);
    u32(b, n);
    u16(b, (unsigned)strlen(name));
    u16(b, 0);
}

static size_t put_deflated(struct buf *b, const void *p, size_t n)
{
    z_stream s = {.next_in = (Bytef *)(uintptr_t)p, .avail_in = (uInt)n};
    ASSERT(deflateInit2(&s, 9, Z_DEFLATED, -MAX_WBITS, 9, Z_DEFAULT_STRATEGY) == Z_OK);
    ASSERT(buf_reserve(b, deflateBound(&s, n)) == 0);
    s.next_out = (Bytef *)b->data + b->len;
    s.avail_out = (uInt)(b->cap - b->len);
    ASSERT(deflate(&s, Z_FINISH) == Z_STREAM_END);
    size_t packed = s.total_out;
    deflateEnd(&s);
    return packed;
}

void zip_out_add(struct zip_out *z, const char *name, const void *p, size_t n, bool deflated)
{
    struct buf packed;
    buf_init(&packed, (size_t)1 << 30);
    if (deflated)
        packed.len = put_deflated(&packed, p, n);
    else
        buf_append(&packed, p, n);
    uLong crc = crc32(0, p, (uInt)n);
    buf_append(&z->directory, "PK\1\2\24\0", 6);
    put_common(&z->directory, name, deflated, crc, packed.len, n);
    buf_append(&z->directory, "\0\0\0\0\0\0\0\0\0\0", 10);
    u32(&z->directory, z->file.len);
    buf_puts(&z->directory, name);
    buf_puts(&z->file, "PK\3\4");
    put_common(&z->file, name, deflated, crc, packed.len, n);
    buf_puts(&z->file, name);
    buf_append(&z->file, packed.data, packed.len);
    buf_fini(&packed);
    z->count++;
}

void zip_out_end(struct zip_out *z)
{
    size_t at = z->file.len;
    buf_append(&z->file, z->directory.data, z->directory.len);
    buf_append(&z->file, "PK\5\6\0\0\0\0", 8);
    u16(&z->file, z->count);
    u16(&z->file, z->count);
    u32(&z->file, z->directory.len);
    u32(&z->file, at);
    u16(&z->file, 0);
    ASSERT(!z->file.failed && !z->directory.failed);
}
