/* The input as a .safetensors file; and as the JSON header of one with 64 bytes of data, so that
 * mutations reach past the check of the header's length. */
#include "daemon/base/buf.h"
#include "tests/fuzz/read_all.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char zeros[64];
    struct buf b;
    read_all(data, size);
    buf_init(&b, size + 8 + sizeof zeros);
    buf_append(&b, &(uint64_t){size}, 8);
    buf_append(&b, data, size);
    buf_append(&b, zeros, sizeof zeros);
    ASSERT(!b.failed);
    read_all(b.data, b.len);
    buf_fini(&b);
    return 0;
}
