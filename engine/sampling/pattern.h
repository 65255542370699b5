/* Regular expressions of the "pattern" keyword as Glushkov automata over code points: one state for
 * each character of the expression, the set of live states in 128 bits (Glushkov 1961; bit-parallel
 * as in Navarro and Raffinot, "Flexible pattern matching in strings", 2002, 5.2).
 *
 * The subset of ECMA-262: characters, ".", classes "[...]", \d \D \w \W \s \S, \n \r \t \f \v \xHH
 * \uHHHH and escaped punctuation, groups (...) and (?:...), "|", and * + ? {m} {m,} {m,n} (a "?"
 * behind them changes no match and is dropped). "^" only begins and "$" only ends the pattern or
 * one of its outermost alternatives; where they are missing anything may come before or behind.
 * Refused: look-around, back references, \b, \B, \p, named groups, and what needs more than
 * PATTERN_MAX states. Inside engine/sampling. */
#ifndef ENGINE_PATTERN_H
#define ENGINE_PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PATTERN_MAX 128

struct pattern_set {
    uint64_t bits[PATTERN_MAX / 64];
};

/* Where a text stands: the states that may take its next character, and whether it matches so far.
 */
struct pattern_state {
    struct pattern_set next;
    uint64_t matches; /* 0 or 1 */
};

struct pattern;
/* text: NUL-terminated valid UTF-8. NULL: *why is what is wrong with it, or NULL without memory. */
struct pattern *pattern_new(const char *text, const char **why);
void pattern_free(struct pattern *p); /* NULL is fine */

/* Every state that may still take a character leads to a match. Nothing matches at all when
 * pattern_is_dead(begin). */
struct pattern_state pattern_begin(const struct pattern *p);
static inline bool pattern_is_dead(const struct pattern_state *s)
{
    return !s->matches && !(s->next.bits[0] | s->next.bits[1]);
}
/* Whether one of the code points lo..hi may come next. */
bool pattern_may(const struct pattern *p, const struct pattern_state *s, uint32_t lo, uint32_t hi);
struct pattern_state pattern_step(const struct pattern *p, const struct pattern_state *s,
                                  uint32_t c);

#endif
