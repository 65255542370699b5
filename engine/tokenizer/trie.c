#include "engine/tokenizer/trie.h"

#include "daemon/base/err.h"
#include "daemon/base/mem.h"

#include <stdlib.h>
#include <string.h>

/* Tokens below a node: [lo, hi) of the sorted list. */
struct range {
    uint32_t lo, hi;
};

static uint64_t token_key(const struct trie_token *t)
{
    uint64_t key = 0;
    for (uint32_t i = 0; i < 8; i++)
        key = key << 8 | (i < t->len ? t->bytes[i] : 0);
    return key;
}

/* Lexicographic, a prefix first; equal tokens by id. */
static int token_order(const void *pa, const void *pb)
{
    const struct trie_token *a = pa, *b = pb;
    if (a->key != b->key)
        return a->key < b->key ? -1 : 1;
    int d = memcmp(a->bytes, b->bytes, a->len < b->len ? a->len : b->len);
    if (d)
        return d;
    if (a->len != b->len)
        return a->len < b->len ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

static uint32_t common_prefix(const struct trie_token *a, const struct trie_token *b)
{
    uint32_t i = 0;
    while (i < a->len && i < b->len && a->bytes[i] == b->bytes[i])
        i++;
    return i;
}

/* Counts the nodes of the sorted tokens (the root included) and finds what trie_build refuses. */
static int count_nodes(const struct trie_token *tokens, size_t n, size_t *count, uint32_t dup[2],
                       int *missing)
{
    int next_byte = 0;
    *count = 1;
    for (size_t i = 0; i < n; i++) {
        uint32_t shared = i ? common_prefix(&tokens[i - 1], &tokens[i]) : 0;
        *count += tokens[i].len - shared;
        if (shared == tokens[i].len) {
            dup[0] = tokens[i - 1].id;
            dup[1] = tokens[i].id;
            return ERR_FORMAT;
        }
        if (tokens[i].len == 1 && tokens[i].bytes[0] == next_byte)
            next_byte++;
    }
    *missing = next_byte;
    return next_byte == 256 ? 0 : ERR_FORMAT;
}

/* Fills node k, at `depth` bytes, whose tokens are *r, and appends its children at *end. */
static void fill_node(struct trie *t, const struct trie_token *tokens, struct range *range,
                      uint32_t k, uint32_t depth, uint32_t *end)
{
    uint32_t lo = range[k].lo, hi = range[k].hi;
    struct trie_node *node = &t->node[k];
    node->first = *end;
    if (lo < hi && tokens[lo].len == depth)
        node->id = (uint16_t)tokens[lo++].id;
    while (lo < hi) {
        unsigned char c = tokens[lo].bytes[depth];
        uint32_t from = lo++;
        while (lo < hi && tokens[lo].bytes[depth] == c)
            lo++;
        t->label[*end] = c;
        range[(*end)++] = (struct range){from, lo};
        node->n++;
    }
}

int trie_build(struct trie *t, struct trie_token *tokens, size_t n, uint32_t dup[2], int *missing)
{
    size_t count;
    *t = (struct trie){0};
    dup[0] = dup[1] = 0;
    for (size_t i = 0; i < n; i++)
        tokens[i].key = token_key(&tokens[i]);
    qsort(tokens, n, sizeof *tokens, token_order);
    int rc = count_nodes(tokens, n, &count, dup, missing);
    if (rc < 0)
        return rc;
    struct range *range = count < UINT32_MAX ? malloc(count * sizeof *range) : NULL;
    t->node = calloc(count, sizeof *t->node);
    t->label = malloc(count);
    if (!range || !t->node || !t->label) {
        free(range);
        trie_fini(t);
        return ERR_NOMEM;
    }
    range[0] = (struct range){0, (uint32_t)n};
    t->label[0] = 0;
    uint32_t end = 1, level_end = 1, depth = 0;
    for (uint32_t k = 0; k < end; k++) {
        if (k == level_end) {
            level_end = end;
            depth++;
        }
        fill_node(t, tokens, range, k, depth, &end);
    }
    free(range);
    return 0;
}

void trie_fini(struct trie *t)
{
    free(t->node);
    free(t->label);
    *t = (struct trie){0};
}
