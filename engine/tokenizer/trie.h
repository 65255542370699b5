/* The trie behind the World tokenizer: longest match over at most 65,535 tokens.
 *
 * Nodes lie in breadth-first order, so that the children of a node are neighbours, sorted by label.
 * Three arrays hold everything (about 9 bytes a node; the World vocabulary has some 130,000 nodes).
 * Read-only once built; any thread. */
#ifndef ENGINE_TRIE_H
#define ENGINE_TRIE_H

#include <stddef.h>
#include <stdint.h>

struct trie_token {
    const unsigned char *bytes;
    uint32_t len; /* at least 1 */
    uint32_t id;  /* 1..65535 */
    uint64_t
        key; /* the first 8 bytes, big-endian, zeros behind: set and used by trie_build's sort */
};

struct trie {
    struct trie_node {
        uint32_t first; /* its first child */
        uint16_t n;     /* its children, 0..256 */
        uint16_t id;    /* of the token that ends here; 0: none */
    } * node;
    unsigned char *label; /* [node]: the byte on the edge to it */
};

/* Sorts tokens [n], which hold each single byte, and builds. 0, ERR_NOMEM, or ERR_FORMAT when a
 * token occurs twice or a byte is missing: dup[0] <= dup[1] are then the ids of the equal tokens,
 * or both 0 and *missing the byte. */
int trie_build(struct trie *t, struct trie_token *tokens, size_t n, uint32_t dup[2], int *missing);
void trie_fini(struct trie *t);

/* The child of node by byte c, or 0. */
static inline uint32_t trie_child(const struct trie *t, uint32_t node, unsigned char c)
{
    uint32_t lo = t->node[node].first, n = t->node[node].n;
    while (n > 8) {
        uint32_t half = n / 2;
        lo += t->label[lo + half] <= c ? half : 0;
        n -= half;
    }
    for (uint32_t i = 0; i < n; i++)
        if (t->label[lo + i] == c)
            return lo + i;
    return 0;
}

/* The longest token that p [n >= 1] begins with: its id, and its length in *len. */
static inline uint32_t trie_longest(const struct trie *t, const unsigned char *p, size_t n,
                                    size_t *len)
{
    uint32_t node = 1 + p[0]; /* every byte is a child of the root, in order */
    uint32_t id = t->node[node].id;
    *len = 1;
    for (size_t i = 1; i < n && (node = trie_child(t, node, p[i])) != 0; i++)
        if (t->node[node].id)
            id = t->node[node].id, *len = i + 1;
    return id;
}

#endif
