#include "engine/tokenizer/gguf_vocab.h"

#include "daemon/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TYPE_NORMAL = 1, TYPE_CONTROL = 3, TYPE_UNUSED = 5 }; /* llama.cpp's numbers */
enum { OTHER_MAX = 32 };                                     /* bytes of "[PADn]" */

/* As repr() of Python bytes has them, without b'': an apostrophe is escaped beside a double quote. */
static char *put_escaped(char *to, const char *p, size_t n)
{
    static const char from[] = "\n\t\r\\'", letters[] = "ntr\\'", hex[] = "0123456789abcdef";
    const bool both = memchr(p, '\'', n) && memchr(p, '"', n);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        const char *at = c ? strchr(from, c) : NULL;
        if (at && (c != '\'' || both)) {
            *to++ = '\\';
            *to++ = letters[at - from];
        } else if (c < 0x20 || c > 0x7e) {
            *to++ = '\\';
            *to++ = 'x';
            *to++ = hex[c >> 4];
            *to++ = hex[c & 15];
        } else {
            *to++ = (char)c;
        }
    }
    *to++ = 0;
    return to;
}

static int name_tokens(struct gguf_vocab *v, const struct tokenizer *t, size_t n_vocab,
                       struct err *e)
{
    size_t n, bytes;
    if (!mem_mul(n_vocab, OTHER_MAX, &bytes))
        return err_set(e, ERR_NOMEM, "no memory for %zu tokens", n_vocab);
    for (size_t id = 0; id < tokenizer_used(t); id++) {
        tokenizer_token(t, (uint32_t)id, &n);
        bytes += 4 * n + 1; /* of tokens that stand in memory */
    }
    v->text = malloc(bytes);
    v->tokens = calloc(n_vocab, sizeof *v->tokens);
    v->types = calloc(n_vocab, sizeof *v->types);
    if (!v->text || !v->tokens || !v->types)
        return err_set(e, ERR_NOMEM, "no memory for %zu tokens", n_vocab);
    char *to = v->text;
    for (size_t id = 0; id < n_vocab; id++) {
        const char *p = tokenizer_token(t, (uint32_t)id, &n);
        v->tokens[id] = to;
        v->types[id] = n ? TYPE_NORMAL : id ? TYPE_UNUSED : TYPE_CONTROL;
        if (n)
            to = put_escaped(to, p, n);
        else
            to += snprintf(to, OTHER_MAX, id ? "[PAD%zu]" : "<s>", id) + 1;
    }
    return 0;
}

static void add(struct gguf_vocab *v, struct tensor_meta m)
{
    v->meta[v->n_meta++] = m;
}

static bool is_blank_line(const struct tokenizer *t, uint32_t id)
{
    size_t n;
    const char *p = tokenizer_token(t, id, &n);
    return n == 2 && !memcmp(p, "\n\n", 2);
}

/* What llama.cpp's converter says of the World vocabulary: 0 begins and ends a text, a blank line ends a
 * turn of a chat, whose template llama.cpp knows by name. */
static void add_world(struct gguf_vocab *v, const struct tokenizer *t)
{
    enum { BLANK_LINE = 261 };
    add(v, (struct tensor_meta){.key = "tokenizer.ggml.bos_token_id", .type = TENSOR_META_U32});
    add(v, (struct tensor_meta){.key = "tokenizer.ggml.eos_token_id", .type = TENSOR_META_U32});
    if (!is_blank_line(t, BLANK_LINE))
        return;
    add(v, (struct tensor_meta){
               .key = "tokenizer.ggml.eot_token_id", .type = TENSOR_META_U32, .u32 = BLANK_LINE});
    add(v, (struct tensor_meta){
               .key = "tokenizer.chat_template", .type = TENSOR_META_STR, .str = "rwkv-world"});
}

int gguf_vocab_init(struct gguf_vocab *v, const struct tokenizer *t, size_t n_vocab, struct err *e)
{
    *v = (struct gguf_vocab){0};
    if (tokenizer_used(t) > n_vocab)
        return err_set(e, ERR_INVALID, "the vocabulary gives ids up to %zu, the model takes %zu",
                       tokenizer_used(t) - 1, n_vocab);
    if (name_tokens(v, t, n_vocab, e) < 0) {
        gguf_vocab_fini(v);
        return e ? e->code : ERR_NOMEM;
    }
    add(v, (struct tensor_meta){
               .key = "tokenizer.ggml.model", .type = TENSOR_META_STR, .str = "rwkv"});
    add(v, (struct tensor_meta){.key = "tokenizer.ggml.tokens",
                                .type = TENSOR_META_STR_ARRAY,
                                .strs = v->tokens,
                                .n = n_vocab});
    add(v, (struct tensor_meta){.key = "tokenizer.ggml.token_type",
                                .type = TENSOR_META_I32_ARRAY,
                                .i32s = v->types,
                                .n = n_vocab});
    if (tokenizer_is_end(t, 0))
        add_world(v, t);
    return 0;
}

void gguf_vocab_fini(struct gguf_vocab *v)
{
    free(v->text);
    free(v->tokens);
    free(v->types);
    *v = (struct gguf_vocab){0};
}
