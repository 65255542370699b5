/* Readers of the World vocabulary. Text: one token a line, `<id> <Python literal> <bytes>`; a
 * literal may hold spaces, so the id ends at the first and the length begins after the last. In a
 * '' literal an escape \xNN or \uNNNN is a code point (UTF-8 encoded), in a b'' literal \xNN is a
 * byte. GGUF: the inside of the Python representation of the bytes, so \xNN is a byte. */
#include "daemon/base/mem.h"
#include "engine/tensor/tensor.h"
#include "engine/tokenizer/tokenizer_impl.h"

#include <errno.h>
#include <stdio.h>

#define VOCAB_FILE_MAX ((size_t)16 << 20) /* the World vocabulary has 1,093,733 bytes */
#define TOKEN_MAX      1024               /* bytes of a token; World's longest has 128 */

/* Literal text being decoded. */
struct literal {
    const unsigned char *p, *end;
    unsigned char quote; /* 0: none (GGUF) */
    bool is_bytes;
};

static int hex_value(unsigned char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static unsigned char *put_code_point(unsigned char *out, uint32_t c)
{
    if (c < 0x80) {
        *out++ = (unsigned char)c;
    } else if (c < 0x800) {
        *out++ = (unsigned char)(0xC0 | c >> 6);
        *out++ = (unsigned char)(0x80 | (c & 0x3F));
    } else {
        *out++ = (unsigned char)(0xE0 | c >> 12);
        *out++ = (unsigned char)(0x80 | (c >> 6 & 0x3F));
        *out++ = (unsigned char)(0x80 | (c & 0x3F));
    }
    return out;
}

/* \xNN or \uNNNN, l->p behind the letter. */
static int literal_hex(struct literal *l, int digits, unsigned char **out, struct err *e)
{
    uint32_t c = 0;
    if (l->end - l->p < digits)
        return err_set(e, ERR_FORMAT, "an escape cut short, want %d hex digits", digits);
    for (int i = 0; i < digits; i++) {
        int v = hex_value(*l->p++);
        if (v < 0)
            return err_set(e, ERR_FORMAT, "an escape with the byte 0x%02x, want %d hex digits",
                           l->p[-1], digits);
        c = c << 4 | (uint32_t)v;
    }
    if (c >= 0xD800 && c <= 0xDFFF)
        return err_set(e, ERR_FORMAT, "\\u%04x is a surrogate, want a character", c);
    if (l->is_bytes)
        *(*out)++ = (unsigned char)c;
    else
        *out = put_code_point(*out, c);
    return 0;
}

/* What follows a backslash. */
static int literal_escape(struct literal *l, unsigned char **out, struct err *e)
{
    static const char from[] = "ntr\\'", to[] = "\n\t\r\\'";
    if (l->p == l->end)
        return err_set(e, ERR_FORMAT, "a literal that ends in a backslash");
    unsigned char c = *l->p++;
    const char *at = c ? strchr(from, c) : NULL;
    if (at) {
        *(*out)++ = (unsigned char)to[at - from];
        return 0;
    }
    if (c == 'x')
        return literal_hex(l, 2, out, e);
    if (c == 'u' && !l->is_bytes)
        return literal_hex(l, 4, out, e);
    return err_set(e, ERR_FORMAT, "an escape of the byte 0x%02x, want \\n \\t \\r \\\\ \\' \\xNN%s",
                   c, l->is_bytes ? "" : " \\uNNNN");
}

/* Decodes l into out, which has room for as many bytes (no escape is shorter than what it stands
 * for); *out is advanced. */
static int literal_decode(struct literal *l, unsigned char **out, struct err *e)
{
    while (l->p < l->end) {
        unsigned char c = *l->p++;
        if (c == '\\') {
            int rc = literal_escape(l, out, e);
            if (rc < 0)
                return rc;
            continue;
        }
        if (l->quote && c == l->quote)
            return err_set(e, ERR_FORMAT, "a quote inside the literal, want it escaped");
        if (c < 0x20 || c == 0x7F || (l->is_bytes && l->quote && c > 0x7F))
            return err_set(e, ERR_FORMAT, "the byte 0x%02x inside the literal, want it escaped", c);
        *(*out)++ = c;
    }
    return 0;
}

/* A decimal number [p, end) of at most 7 digits without leading zeros; -1 if it is not one. */
static long parse_number(const unsigned char *p, const unsigned char *end)
{
    long v = 0;
    if (p == end || end - p > 7 || (*p == '0' && end - p > 1))
        return -1;
    for (; p < end; p++) {
        if (*p < '0' || *p > '9')
            return -1;
        v = 10 * v + (*p - '0');
    }
    return v;
}

/* Cuts [p, end) into quotes and inside. */
static int literal_open(struct literal *l, const unsigned char *p, const unsigned char *end,
                        struct err *e)
{
    l->is_bytes = p < end && *p == 'b';
    p += l->is_bytes;
    if (end - p < 2 || (*p != '\'' && *p != '"') || end[-1] != *p)
        return err_set(e, ERR_FORMAT, "no quoted literal between the id and the length");
    l->quote = *p;
    l->p = p + 1;
    l->end = end - 1;
    return 0;
}

/* At most 12 bytes of [p, end) for a message, '?' for what is not printable. */
static const char *shown(char out[13], const unsigned char *p, const unsigned char *end)
{
    size_t n = 0;
    for (; n < 12 && p + n < end; n++)
        out[n] = p[n] >= 0x20 && p[n] < 0x7F ? (char)p[n] : '?';
    out[n] = 0;
    return out;
}

/* One line [p, end) without its newline: the token of id v->n. */
static int world_line(struct vocab *v, const unsigned char *p, const unsigned char *end,
                      struct err *e)
{
    char text[13];
    size_t id = v->n;
    const unsigned char *first = memchr(p, ' ', (size_t)(end - p));
    const unsigned char *last = first ? memrchr(p, ' ', (size_t)(end - p)) : NULL;
    if (!first || first == last)
        return err_set(e, ERR_FORMAT, "want `<id> <literal> <length>`");
    long got = parse_number(p, first);
    if (got != (long)id)
        return err_set(e, ERR_FORMAT, "found id %s, want %zu", shown(text, p, first), id);
    long len = parse_number(last + 1, end);
    if (len < 1 || len > TOKEN_MAX)
        return err_set(e, ERR_FORMAT, "found length %s, want 1 to %d", shown(text, last + 1, end),
                       TOKEN_MAX);
    struct literal l;
    unsigned char *from = v->bytes + v->start[id], *to = from;
    int rc = literal_open(&l, first + 1, last, e);
    if (rc == 0)
        rc = literal_decode(&l, &to, e);
    if (rc < 0)
        return rc;
    if (to - from != len)
        return err_set(e, ERR_FORMAT, "found a literal of %td bytes, want %ld", to - from, len);
    if (!l.is_bytes && !utf8_is_valid((const char *)from, (size_t)len))
        return err_set(e, ERR_FORMAT, "found a text literal that is not UTF-8");
    v->n++;
    v->start[v->n] = (uint32_t)(to - v->bytes);
    return 0;
}

int tokenizer_open_world_memory(const char *text, size_t n, struct tokenizer **out, struct err *e)
{
    const unsigned char *p = (const unsigned char *)text, *end = p + n;
    struct vocab v;
    size_t lines = 0;
    if (n > VOCAB_FILE_MAX)
        return err_set(e, ERR_FORMAT, "a vocabulary of %zu bytes, want at most %zu", n,
                       VOCAB_FILE_MAX);
    for (size_t i = 0; i < n; i++)
        lines += text[i] == '\n';
    if (lines >= WORLD_VOCAB)
        return err_set(e, ERR_FORMAT, "a vocabulary of %zu lines, want at most %d", lines,
                       WORLD_VOCAB - 1);
    int rc = vocab_init(&v, lines + 1, n, e);
    while (rc == 0 && p < end) {
        const unsigned char *nl = memchr(p, '\n', (size_t)(end - p));
        size_t line = v.n;
        rc = nl ? world_line(&v, p, nl, e)
                : err_set(e, ERR_FORMAT, "no newline at its end: the file is cut short");
        if (rc < 0)
            err_prefix(e, "line %zu", line);
        p = nl ? nl + 1 : end;
    }
    if (rc == 0)
        return tokenizer_new_take(&v, WORLD_VOCAB, "line", out, e);
    vocab_fini(&v);
    return rc;
}

/* Reads a whole file of at most VOCAB_FILE_MAX bytes. */
static int read_file(const char *path, struct buf *b, struct err *e)
{
    char chunk[16384];
    size_t n;
    int rc = 0;
    FILE *f = fopen(path, "rb");
    if (!f)
        return err_set(e, ERR_IO, "%s", strerror(errno));
    while (rc == 0 && (n = fread(chunk, 1, sizeof chunk, f)) > 0)
        rc = buf_append(b, chunk, n);
    if (rc < 0)
        err_set(e, rc == ERR_TOO_LARGE ? ERR_FORMAT : rc,
                "no room for the file (want at most %zu bytes)", VOCAB_FILE_MAX);
    else if (ferror(f))
        rc = err_set(e, ERR_IO, "%s", strerror(errno));
    fclose(f);
    return rc == ERR_TOO_LARGE ? ERR_FORMAT : rc;
}

int tokenizer_open_world(const char *path, struct tokenizer **out, struct err *e)
{
    struct buf b;
    buf_init(&b, VOCAB_FILE_MAX);
    int rc = read_file(path, &b, e);
    if (rc == 0)
        rc = tokenizer_open_world_memory(b.data ? b.data : "", b.len, out, e);
    if (rc < 0)
        err_prefix(e, "vocabulary %s", path);
    buf_fini(&b);
    return rc;
}

/* Ids that the converter padded the vocabulary with read "[PAD<id>]". */
static bool gguf_is_padding(const char *s, size_t n, size_t id)
{
    char want[32];
    int len = snprintf(want, sizeof want, "[PAD%zu]", id);
    return n == (size_t)len && memcmp(s, want, n) == 0;
}

static int gguf_token(struct vocab *v, const char *s, size_t n, struct err *e)
{
    size_t id = v->n;
    unsigned char *from = v->bytes + v->start[id], *to = from;
    struct literal l = {
        .p = (const unsigned char *)s, .end = (const unsigned char *)s + n, .is_bytes = true};
    int rc = gguf_is_padding(s, n, id) ? 0 : literal_decode(&l, &to, e);
    if (rc == 0 && to - from > TOKEN_MAX)
        rc = err_set(e, ERR_FORMAT, "found %td bytes, want at most %d", to - from, TOKEN_MAX);
    if (rc < 0)
        return err_prefix(e, "token %zu", id);
    v->n++;
    v->start[v->n] = (uint32_t)(to - v->bytes);
    return 0;
}

/* Token 0 is the byte 0, 1 the byte 1, ...: what gguf_vocab.c writes for id = byte. */
static bool gguf_is_bytes(const struct tensor_file *f, const struct vocab *v)
{
    size_t n = 0;
    const char *zero = tensor_file_meta_str_at(f, "tokenizer.ggml.tokens", 0, &n);
    bool bytes = v->n == 256 && v->start[256] == 255 && n == 4 && !memcmp(zero, "\\x00", 4);
    for (size_t id = 1; bytes && id < 256; id++)
        bytes = v->start[id] == id - 1 && v->bytes[id - 1] == id;
    return bytes;
}

int tokenizer_open_gguf(const struct tensor_file *f, struct tokenizer **out, struct err *e)
{
    static const char tokens[] = "tokenizer.ggml.tokens";
    size_t n = 0, len, bytes = 0, count;
    struct vocab v;
    const char *model = tensor_file_meta_str(f, "tokenizer.ggml.model", &len);
    if (!model || len != 4 || memcmp(model, "rwkv", 4) != 0 ||
        !tensor_file_meta_str_array(f, tokens, &count))
        return err_set(e, ERR_UNSUPPORTED, "the file has no RWKV vocabulary");
    if (count < 1 || count > WORLD_VOCAB)
        return err_set(e, ERR_FORMAT, "a vocabulary of %zu tokens, want 1 to %d", count,
                       WORLD_VOCAB);
    for (size_t i = 1; i < count; i++) {
        tensor_file_meta_str_at(f, tokens, i, &n);
        if (!mem_add(bytes, n, &bytes) || bytes > VOCAB_FILE_MAX)
            return err_set(e, ERR_FORMAT, "a vocabulary of more than %zu bytes", VOCAB_FILE_MAX);
    }
    int rc = vocab_init(&v, count, bytes, e);
    for (size_t i = 1; rc == 0 && i < count; i++) {
        const char *s = tensor_file_meta_str_at(f, tokens, i, &n);
        rc = gguf_token(&v, s, n, e);
    }
    bool plain = rc == 0 && gguf_is_bytes(f, &v);
    if (rc == 0 && !plain)
        return tokenizer_new_take(&v, count, "token", out, e);
    vocab_fini(&v);
    if (plain && !(*out = tokenizer_new_bytes()))
        rc = err_set(e, ERR_NOMEM, "no memory for a tokenizer");
    return rc;
}

int tokenizer_open(const char *path, struct tokenizer **out, struct err *e)
{
    char magic[4] = {0};
    struct tensor_file *tf = NULL;
    FILE *f = fopen(path, "rb");
    if (!f)
        return err_set(e, ERR_IO, "vocabulary %s: %s", path, strerror(errno));
    size_t n = fread(magic, 1, sizeof magic, f);
    fclose(f);
    if (n < sizeof magic || memcmp(magic, "GGUF", 4) != 0)
        return tokenizer_open_world(path, out, e);
    int rc = tensor_file_open(path, &tf, e);
    if (rc < 0)
        return rc;
    rc = tokenizer_open_gguf(tf, out, e);
    if (rc < 0)
        err_prefix(e, "vocabulary %s", path);
    tensor_file_close(tf);
    return rc;
}
