#include "engine/tensor/zip.h"

#include <zlib.h>

#define END_BYTES     22u /* end-of-directory record without its comment */
#define END64_BYTES   56u /* its zip64 form */
#define LOCATOR_BYTES 20u /* points at the zip64 form, right before the plain record */
#define ENTRY_BYTES   46u /* directory entry without name, extra field and comment */
#define LOCAL_BYTES   30u /* local header without name and extra field */
#define MAX_INFLATED  ((size_t)1 << 30)
#define MAX_RATIO     1032u /* deflate cannot expand more */

enum { STORED = 0, DEFLATED = 8, ENCRYPTED = 1 };

struct end_record {
    uint64_t count, size, offset; /* entries; bytes and place of the directory */
    size_t at;                    /* where the record itself begins: the directory ends before it */
};

static bool signature(const uint8_t *p, uint32_t tail)
{
    return load_u32(p) == (0x4b50u | tail << 16); /* "PK" and two bytes */
}

/* The record ends the file, but for a comment of up to 65,535 bytes whose length it states. */
static bool find_end(const struct zip *z, size_t *at)
{
    if (z->n < END_BYTES)
        return false;
    for (size_t comment = 0; comment <= 0xffff && comment <= z->n - END_BYTES; comment++) {
        const uint8_t *p = z->bytes + (z->n - END_BYTES - comment);
        if (signature(p, 0x0605) && load_u16(p + 20) == comment) {
            *at = (size_t)(p - z->bytes);
            return true;
        }
    }
    return false;
}

static int read_end(const struct zip *z, struct end_record *r, struct err *e)
{
    if (!find_end(z, &r->at))
        return err_set(e, ERR_FORMAT, "the zip container has no end record: the file is cut short");
    const uint8_t *p = z->bytes + r->at;
    *r = (struct end_record){load_u16(p + 10), load_u32(p + 12), load_u32(p + 16), r->at};
    if (load_u16(p + 4) || load_u16(p + 6) || load_u16(p + 8) != load_u16(p + 10))
        return err_set(e, ERR_FORMAT, "the zip container is split over several files");
    if (r->at < LOCATOR_BYTES || !signature(p - LOCATOR_BYTES, 0x0706))
        return 0;
    uint64_t at = load_u64(p - LOCATOR_BYTES + 8);
    if (r->at < LOCATOR_BYTES + END64_BYTES || at > r->at - LOCATOR_BYTES - END64_BYTES ||
        !signature(z->bytes + at, 0x0606))
        return err_set(e, ERR_FORMAT, "the zip64 end record is not where its locator points");
    p = z->bytes + at;
    *r = (struct end_record){load_u64(p + 32), load_u64(p + 40), load_u64(p + 48), (size_t)at};
    return 0;
}

/* Sizes and offset that do not fit 32 bits stand in extra field 1, in this order. */
static bool read_zip64(const uint8_t *extra, size_t n, struct zip_member *m)
{
    size_t *const wide[] = {&m->size, &m->packed, &m->header};
    size_t want = 0;
    for (size_t i = 0; i < 3; i++)
        want += *wide[i] == 0xffffffffu;
    if (!want)
        return true;
    for (size_t at = 0; n - at >= 4;) {
        size_t len = load_u16(extra + at + 2);
        const uint8_t *p = extra + at + 4;
        if (len > n - at - 4)
            return false;
        at += 4 + len;
        if (load_u16(p - 4) != 1)
            continue;
        if (len < 8 * want)
            return false;
        for (size_t i = 0; i < 3; i++)
            if (*wide[i] == 0xffffffffu) {
                *wide[i] = (size_t)load_u64(p);
                p += 8;
            }
        return true;
    }
    return false;
}

/* One directory entry at *at, which moves behind it; end is where the directory ends. */
static int read_entry(const struct zip *z, size_t *at, size_t end, struct zip_member *m,
                      struct err *e)
{
    const uint8_t *p = z->bytes + *at;
    if (end - *at < ENTRY_BYTES || !signature(p, 0x0201))
        return err_set(e, ERR_FORMAT, "the zip directory is damaged at byte %zu", *at);
    *m = (struct zip_member){
        .name = (const char *)p + ENTRY_BYTES,
        .name_len = load_u16(p + 28),
        .flags = load_u16(p + 8),
        .method = load_u16(p + 10),
        .crc = load_u32(p + 16),
        .packed = load_u32(p + 20),
        .size = load_u32(p + 24),
        .header = load_u32(p + 42),
    };
    size_t extra = load_u16(p + 30), comment = load_u16(p + 32);
    if (end - *at - ENTRY_BYTES < m->name_len + extra + comment)
        return err_set(e, ERR_FORMAT, "the zip directory is damaged at byte %zu", *at);
    char shown[TENSOR_SHOWN];
    if (!read_zip64(p + ENTRY_BYTES + m->name_len, extra, m))
        return err_set(e, ERR_FORMAT, "zip member %s: its zip64 sizes are damaged",
                       tensor__show(shown, m->name, m->name_len));
    *at += ENTRY_BYTES + m->name_len + extra + comment;
    return 0;
}

static int name_order(const char *a, size_t n, const char *b, size_t m)
{
    int c = memcmp(a, b, n < m ? n : m);
    return c ? c : n < m ? -1 : n > m;
}

static int member_order(const void *a, const void *b)
{
    const struct zip_member *x = a, *y = b;
    return name_order(x->name, x->name_len, y->name, y->name_len);
}

int zip_init(struct zip *z, const uint8_t *bytes, size_t n, struct err *e)
{
    char shown[TENSOR_SHOWN];
    struct end_record r = {0};
    *z = (struct zip){.bytes = bytes, .n = n, .max_inflated = MAX_INFLATED};
    int rc = read_end(z, &r, e);
    if (rc < 0)
        return rc;
    if (r.offset > r.at || r.size > r.at - r.offset || r.count > r.size / ENTRY_BYTES)
        return err_set(e, ERR_FORMAT, "the zip directory does not fit into the file");
    z->directory = (size_t)r.offset;
    z->members = calloc(r.count ? (size_t)r.count : 1, sizeof *z->members);
    if (!z->members)
        return err_set(e, ERR_NOMEM, "no memory for a zip directory");
    size_t at = z->directory, end = z->directory + (size_t)r.size;
    for (; z->n_members < r.count; z->n_members++) {
        rc = read_entry(z, &at, end, &z->members[z->n_members], e);
        if (rc < 0)
            return rc;
    }
    qsort(z->members, z->n_members, sizeof *z->members, member_order);
    for (size_t i = 1; i < z->n_members; i++)
        if (!member_order(&z->members[i - 1], &z->members[i]))
            return err_set(e, ERR_FORMAT, "two zip members are named %s",
                           tensor__show(shown, z->members[i].name, z->members[i].name_len));
    return 0;
}

void zip_fini(struct zip *z)
{
    free(z->members);
    *z = (struct zip){0};
}

struct zip_member *zip_find(const struct zip *z, const char *name, size_t len)
{
    size_t low = 0, high = z->n_members;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        struct zip_member *m = &z->members[mid];
        int c = name_order(name, len, m->name, m->name_len);
        if (!c)
            return m;
        if (c < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}

/* The packed bytes, or NULL: the local header is damaged or they do not end before the directory.
 */
static const uint8_t *packed_bytes(const struct zip *z, const struct zip_member *m)
{
    if (m->header > z->directory || z->directory - m->header < LOCAL_BYTES)
        return NULL;
    const uint8_t *p = z->bytes + m->header;
    size_t left = z->directory - m->header - LOCAL_BYTES;
    size_t name_len = load_u16(p + 26), extra = load_u16(p + 28);
    if (!signature(p, 0x0403) || name_len + extra > left || m->packed > left - name_len - extra)
        return NULL;
    if (name_order((const char *)p + LOCAL_BYTES, name_len, m->name, m->name_len))
        return NULL;
    return p + LOCAL_BYTES + name_len + extra;
}

/* Raw deflate; must fill out [size] exactly. packed and size are below 4 GiB. */
static bool inflate_all(const uint8_t *in, size_t packed, uint8_t *out, size_t size)
{
    uint8_t spare[1];
    z_stream s = {.next_in = (Bytef *)(uintptr_t)in,
                  .avail_in = (uInt)packed,
                  .next_out = size ? out : spare,
                  .avail_out = (uInt)(size ? size : sizeof spare)};
    if (inflateInit2(&s, -MAX_WBITS) != Z_OK)
        return false;
    int rc = inflate(&s, Z_FINISH);
    bool whole = rc == Z_STREAM_END && s.total_out == size && s.avail_in == 0;
    inflateEnd(&s);
    return whole;
}

static int unpack(struct zip *z, struct zip_member *m, const uint8_t *in, struct tensor_mem *mem,
                  const char *shown, struct err *e)
{
    if (m->size / MAX_RATIO > m->packed || m->size > z->max_inflated - z->inflated ||
        m->packed > MAX_INFLATED)
        return err_set(
            e, ERR_FORMAT,
            "zip member %s: %zu bytes packed as %zu are more than can be, or more than %zu bytes "
            "of compressed members: save the file uncompressed",
            shown, m->size, m->packed, z->max_inflated);
    uint8_t *out = tensor_mem_take(mem, m->size, 64);
    if (!out)
        return err_set(e, ERR_NOMEM, "zip member %s: no memory for %zu bytes", shown, m->size);
    z->inflated += m->size;
    if (!inflate_all(in, m->packed, out, m->size))
        return err_set(e, ERR_FORMAT, "zip member %s: its compressed data is damaged", shown);
    m->data = out;
    return 0;
}

int zip_read(struct zip *z, struct zip_member *m, struct tensor_mem *mem, struct err *e)
{
    char shown[TENSOR_SHOWN];
    if (m->data)
        return 0;
    tensor__show(shown, m->name, m->name_len);
    const uint8_t *in = packed_bytes(z, m);
    if (!in)
        return err_set(e, ERR_FORMAT,
                       "zip member %s: its header is damaged or its %zu bytes do not fit", shown,
                       m->packed);
    if (m->flags & ENCRYPTED || (m->method != STORED && m->method != DEFLATED))
        return err_set(e, ERR_FORMAT,
                       "zip member %s: encrypted or packed by method %u, want 0 or 8", shown,
                       m->method);
    if (m->method == STORED && m->packed != m->size)
        return err_set(e, ERR_FORMAT, "zip member %s: stored, but %zu bytes become %zu", shown,
                       m->packed, m->size);
    if (m->method == STORED)
        m->data = in;
    else {
        int rc = unpack(z, m, in, mem, shown, e);
        if (rc < 0)
            return rc;
    }
    if (crc32_z(0, m->data, m->size) != m->crc) {
        m->data = NULL;
        return err_set(e, ERR_FORMAT, "zip member %s: its CRC does not match, the file is damaged",
                       shown);
    }
    return 0;
}
