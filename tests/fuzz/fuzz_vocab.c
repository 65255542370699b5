/* Any bytes as a vocabulary; one that opens must encode and decode those bytes without loss. */
#include "daemon/base/assert.h"
#include "engine/tokenizer/tokenizer.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Few inputs spell out the 256 bytes that a vocabulary needs, so they are put before each. */
static void put_bytes(struct buf *b)
{
    for (int i = 0; i < 256; i++)
        buf_printf(b, i < 0x80 ? "%d '\\x%02x' 1\n" : "%d b'\\x%02x' 1\n", i + 1, i);
}

static void round_trip(const struct tokenizer *t, const uint8_t *text, size_t n)
{
    struct buf out;
    struct err e;
    uint32_t *ids = malloc((n + 1) * sizeof *ids);
    ASSERT(ids);
    size_t count = tokenizer_encode(t, text, n, ids);
    ASSERT(count <= n);
    buf_init(&out, n);
    ASSERT(tokenizer_decode(t, ids, count, &out, &e) == 0);
    ASSERT(out.len == n && (n == 0 || memcmp(out.data, text, n) == 0));
    buf_fini(&out);
    buf_init(&out, 3 * n);
    ASSERT(utf8_append_valid(&out, (const char *)text, n) == 0);
    ASSERT(n == 0 || utf8_is_valid(out.data, out.len));
    buf_fini(&out);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tokenizer *t = NULL;
    struct err e;
    struct buf b;
    buf_init(&b, size + 65536);
    put_bytes(&b);
    buf_append(&b, data, size);
    ASSERT(!b.failed);
    if (tokenizer_open_world_memory((const char *)data, size, &t, &e) == 0) {
        round_trip(t, data, size);
        tokenizer_free(t);
    }
    if (tokenizer_open_world_memory(b.data, b.len, &t, &e) == 0) {
        round_trip(t, data, size);
        tokenizer_free(t);
    }
    buf_fini(&b);
    return 0;
}
