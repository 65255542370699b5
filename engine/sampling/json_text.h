/* The inside of a JSON string, byte by byte: UTF-8 and escapes give code points, which a rule takes
 * or not. At every byte the state is kept only if some way to go on ends the string. Inside
 * engine/sampling. */
#ifndef ENGINE_JSON_TEXT_H
#define ENGINE_JSON_TEXT_H

#include "engine/sampling/schema_program.h"

/* Which strings. With a set: its usable members, and if open all strings that are no member. */
struct text_rule {
    const struct literal_set *set;
    bool open;
    bool all_usable;
    uint64_t usable[2]; /* bit i: set->at[i] */
    const struct pattern *pattern;
    uint32_t min, max; /* code points, where there is neither set nor pattern */
};

struct text_state {
    uint8_t step; /* where in an escape or a UTF-8 sequence */
    uint8_t left; /* bytes or digits that belong to it still */
    uint8_t pad[2];
    uint32_t part;        /* its bits so far */
    uint32_t least;       /* UTF-8: the smallest code point of this length */
    uint32_t high;        /* the first of two surrogates */
    uint32_t len;         /* code points, as far as the rule counts; bytes matched in the set */
    uint32_t first, last; /* the members that begin with what was read: set->at[first .. last) */
    uint32_t pad2;
    struct pattern_state pattern;
};

enum text_result { TEXT_DEAD, TEXT_MORE, TEXT_END };

/* st is all zero before. */
void text_begin(const struct text_rule *r, struct text_state *st);
/* TEXT_END: c was the closing quote. */
enum text_result text_step(const struct text_rule *r, struct text_state *st, unsigned char c);
/* The member of the set that was read, or -1. */
int64_t text_member(const struct text_rule *r, const struct text_state *st);
/* Whether any n whole characters without quotes, backslashes and controls may follow. */
bool text_is_free(const struct text_rule *r, const struct text_state *st, size_t n);

/* Narrows [*first, *last), all of which agree in `at` bytes, to those that go on with c. */
void literal_narrow(const struct literal_set *set, uint32_t *first, uint32_t *last, uint32_t at,
                    unsigned char c);

#endif
