#include "daemon/base/sha256.h"

void sha256_start(struct sha256 *s)
{
    sha256_init(&s->ctx);
}

void sha256_add(struct sha256 *s, const void *p, size_t n)
{
    sha256_update(&s->ctx, n, p);
}

void sha256_end(struct sha256 *s, uint8_t digest[32])
{
    sha256_digest(&s->ctx, 32, digest);
}

void sha256_of(const void *p, size_t n, uint8_t digest[32])
{
    struct sha256 s;
    sha256_start(&s);
    sha256_add(&s, p, n);
    sha256_end(&s, digest);
}

void sha256_hex(const uint8_t digest[32], char hex[65])
{
    static const char digit[] = "0123456789abcdef";
    for (int i = 0; i < 32; i++) {
        hex[2 * i] = digit[digest[i] >> 4];
        hex[2 * i + 1] = digit[digest[i] & 15];
    }
    hex[64] = 0;
}
