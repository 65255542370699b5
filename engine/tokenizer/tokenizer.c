#include "engine/tokenizer/tokenizer_impl.h"

#include "daemon/base/mem.h"

int vocab_init(struct vocab *v, size_t max_ids, size_t max_bytes, struct err *e)
{
    size_t starts;
    *v = (struct vocab){.n = 1};
    if (mem_mul(max_ids + 1, sizeof *v->start, &starts)) {
        v->bytes = malloc(max_bytes + 1);
        v->start = malloc(starts);
    }
    if (!v->bytes || !v->start) {
        vocab_fini(v);
        return err_set(e, ERR_NOMEM, "no memory for a vocabulary of %zu bytes", max_bytes);
    }
    v->start[0] = v->start[1] = 0;
    return 0;
}

void vocab_fini(struct vocab *v)
{
    free(v->bytes);
    free(v->start);
    *v = (struct vocab){0};
}

static size_t vocab_len(const struct vocab *v, size_t id)
{
    return v->start[id + 1] - v->start[id];
}

/* The trie over every token that has bytes. */
static int tokenizer_index(struct tokenizer *t, const char *unit, struct err *e)
{
    uint32_t dup[2];
    int missing = 0;
    size_t n = 0;
    struct trie_token *tokens = malloc(t->vocab.n * sizeof *tokens);
    if (!tokens)
        return err_set(e, ERR_NOMEM, "no memory for %zu tokens", t->vocab.n);
    for (size_t id = 1; id < t->vocab.n; id++) {
        size_t len = vocab_len(&t->vocab, id);
        if (!len)
            continue;
        tokens[n++] = (struct trie_token){
            .bytes = t->vocab.bytes + t->vocab.start[id], .len = (uint32_t)len, .id = (uint32_t)id};
        t->longest = len > t->longest ? len : t->longest;
        t->used = id + 1;
    }
    int rc = trie_build(&t->trie, tokens, n, dup, &missing);
    free(tokens);
    if (rc == ERR_NOMEM)
        return err_set(e, rc, "no memory for the trie of %zu tokens", n);
    if (rc < 0 && dup[1])
        return err_set(e, rc, "%s %u: the same bytes as %s %u, want every token once", unit, dup[1],
                       unit, dup[0]);
    if (rc < 0)
        return err_set(e, rc, "no token for the single byte 0x%02x, want all 256", missing);
    return 0;
}

int tokenizer_new_take(struct vocab *v, size_t n_vocab, const char *unit, struct tokenizer **out,
                       struct err *e)
{
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t) {
        vocab_fini(v);
        return err_set(e, ERR_NOMEM, "no memory for a tokenizer");
    }
    t->vocab = *v;
    *v = (struct vocab){0};
    t->n_vocab = n_vocab;
    int rc = tokenizer_index(t, unit, e);
    if (rc < 0) {
        tokenizer_free(t);
        return rc;
    }
    *out = t;
    return 0;
}

struct tokenizer *tokenizer_new_bytes(void)
{
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t || vocab_init(&t->vocab, 256, 256, NULL) < 0) {
        free(t);
        return NULL;
    }
    for (uint32_t i = 0; i < 256; i++) {
        t->vocab.bytes[i] = (unsigned char)i;
        t->vocab.start[i] = i;
    }
    t->vocab.start[256] = 256;
    t->vocab.n = t->n_vocab = t->used = 256;
    t->longest = 1;
    return t;
}

void tokenizer_free(struct tokenizer *t)
{
    if (!t)
        return;
    vocab_fini(&t->vocab);
    trie_fini(&t->trie);
    free(t);
}

size_t tokenizer_vocab(const struct tokenizer *t)
{
    return t->n_vocab;
}

size_t tokenizer_used(const struct tokenizer *t)
{
    return t->used;
}

size_t tokenizer_longest(const struct tokenizer *t)
{
    return t->longest;
}

uint32_t tokenizer_separator(const struct tokenizer *t)
{
    return t->trie.node ? 0 : '\n';
}

bool tokenizer_is_end(const struct tokenizer *t, uint32_t id)
{
    return t->trie.node && id == 0;
}

size_t tokenizer_encode(const struct tokenizer *t, const void *text, size_t n, uint32_t *ids)
{
    const unsigned char *p = text;
    size_t count = 0, len;
    if (!t->trie.node) {
        for (size_t i = 0; i < n; i++)
            ids[i] = p[i];
        return n;
    }
    for (size_t i = 0; i < n; i += len)
        ids[count++] = trie_longest(&t->trie, p + i, n - i, &len);
    return count;
}

const char *tokenizer_token(const struct tokenizer *t, uint32_t id, size_t *n)
{
    if (id >= t->vocab.n) {
        *n = 0;
        return "";
    }
    *n = vocab_len(&t->vocab, id);
    return (const char *)t->vocab.bytes + t->vocab.start[id];
}

int tokenizer_decode(const struct tokenizer *t, const uint32_t *ids, size_t n, struct buf *out,
                     struct err *e)
{
    for (size_t i = 0; i < n; i++) {
        if (ids[i] >= t->n_vocab)
            return err_set(e, ERR_INVALID, "token %zu is id %u, want less than %zu", i, ids[i],
                           t->n_vocab);
        size_t len;
        const char *bytes = tokenizer_token(t, ids[i], &len);
        int rc = buf_append(out, bytes, len);
        if (rc < 0)
            return err_set(e, rc, "no room for the text of %zu tokens", n);
    }
    return 0;
}
