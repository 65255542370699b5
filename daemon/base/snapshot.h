/* A struct that one thread shows to others, whole, without a lock for anyone (a seqlock).
 *
 *     snapshot_init(&s, sizeof info);  ...  snapshot_write(&s, &info);  ...  snapshot_read(&s, &copy);
 *
 * The writer never waits; a reader takes its copy again if the writer came between. The bytes must be a
 * multiple of 8 and hold no pointers that end before the readers do. Before the first write all are 0.
 *
 * Every word is stored with release and loaded with acquire: a reader that sees a new word also sees
 * the odd version before it, so fences are not needed. */
#ifndef BASE_SNAPSHOT_H
#define BASE_SNAPSHOT_H

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct snapshot {
    _Atomic uint64_t version; /* odd while it is written */
    _Atomic uint64_t *words;  /* [n_words], owned */
    size_t n_words;
};

/* False: no memory. */
static inline bool snapshot_init(struct snapshot *s, size_t bytes)
{
    atomic_init(&s->version, 0);
    s->n_words = bytes / 8;
    s->words = calloc(s->n_words ? s->n_words : 1, sizeof *s->words);
    return s->words != NULL;
}

static inline void snapshot_fini(struct snapshot *s)
{
    free((void *)(uintptr_t)s->words);
}

/* [one thread] */
static inline void snapshot_write(struct snapshot *s, const void *from)
{
    uint64_t version = atomic_load_explicit(&s->version, memory_order_relaxed), word;
    atomic_store_explicit(&s->version, version + 1, memory_order_relaxed);
    for (size_t i = 0; i < s->n_words; i++) {
        memcpy(&word, (const char *)from + 8 * i, 8);
        atomic_store_explicit(&s->words[i], word, memory_order_release);
    }
    atomic_store_explicit(&s->version, version + 2, memory_order_release);
}

/* [any thread] */
static inline void snapshot_read(const struct snapshot *s, void *to)
{
    for (;; sched_yield()) {
        uint64_t version = atomic_load_explicit(&s->version, memory_order_acquire), word;
        for (size_t i = 0; i < s->n_words; i++) {
            word = atomic_load_explicit(&s->words[i], memory_order_acquire);
            memcpy((char *)to + 8 * i, &word, 8);
        }
        if (version % 2 == 0 && atomic_load_explicit(&s->version, memory_order_relaxed) == version)
            return;
    }
}

#endif
