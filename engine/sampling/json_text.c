#include "engine/sampling/json_text.h"

#include <string.h>

#define MAX_CHAR 0x10FFFFu

enum { PLAIN, UTF8, ESCAPE, HEX, LOW_BACKSLASH, LOW_U, LOW_HEX };

/* --- sets of literals --- */

/* The first of [first, last) whose byte `at` is not below c (a literal that ends there: below). */
static uint32_t lower_bound(const struct literal_set *set, uint32_t first, uint32_t last,
                            uint32_t at, unsigned int c)
{
    while (first < last) {
        uint32_t mid = first + (last - first) / 2;
        const struct literal *l = &set->at[mid];
        if (l->len <= at || (unsigned char)l->p[at] < c)
            first = mid + 1;
        else
            last = mid;
    }
    return first;
}

void literal_narrow(const struct literal_set *set, uint32_t *first, uint32_t *last, uint32_t at,
                    unsigned char c)
{
    *first = lower_bound(set, *first, *last, at, c);
    *last = lower_bound(set, *first, *last, at, c + 1u);
}

/* The code point at byte `at` of a literal, which is valid UTF-8. */
static uint32_t literal_char(const struct literal *l, uint32_t at)
{
    uint32_t c = (unsigned char)l->p[at], more = c < 0x80 ? 0 : c < 0xE0 ? 1 : c < 0xF0 ? 2 : 3;
    c &= more ? 0x3Fu >> more : 0x7Fu;
    for (uint32_t i = 1; i <= more; i++)
        c = c << 6 | ((unsigned char)l->p[at + i] & 0x3Fu);
    return c;
}

static uint32_t utf8_bytes(uint32_t c, unsigned char out[4])
{
    uint32_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (uint32_t i = n; i-- > 1; c >>= 6)
        out[i] = (unsigned char)(0x80 | (c & 0x3F));
    static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    out[0] = (unsigned char)(lead[n] | c);
    return n;
}

/* --- the rule, code point by code point --- */

static bool is_usable(const struct text_rule *r, uint32_t i)
{
    return r->all_usable || property_bit(r->usable, i);
}

int64_t text_member(const struct text_rule *r, const struct text_state *st)
{
    bool ends = st->first < st->last && r->set->at[st->first].len == st->len;
    return ends ? (int64_t)st->first : -1;
}

/* Whether the rule takes one of lo..hi next. */
static bool rule_may_take(const struct text_rule *r, const struct text_state *st, uint32_t lo,
                          uint32_t hi)
{
    if (r->pattern)
        return pattern_may(r->pattern, &st->pattern, lo, hi);
    if (!r->set)
        return st->len < r->max;
    if (r->open)
        return true;
    for (uint32_t i = st->first; i < st->last; i++) {
        const struct literal *l = &r->set->at[i];
        uint32_t c = l->len > st->len ? literal_char(l, st->len) : 0;
        if (c && c >= lo && c <= hi && is_usable(r, i))
            return true;
    }
    return false;
}

/* The same, where NUL, surrogates and what is beyond Unicode are no code points. */
static bool may_take(const struct text_rule *r, const struct text_state *st, uint32_t lo,
                     uint32_t hi)
{
    lo = lo > 0 ? lo : 1;
    hi = hi < MAX_CHAR ? hi : MAX_CHAR;
    uint32_t below = hi < 0xD7FF ? hi : 0xD7FF, above = lo > 0xE000 ? lo : 0xE000;
    return (lo <= below && rule_may_take(r, st, lo, below)) ||
           (above <= hi && rule_may_take(r, st, above, hi));
}

static bool take_in_set(const struct text_rule *r, struct text_state *st, uint32_t c)
{
    unsigned char bytes[4];
    uint32_t n = utf8_bytes(c, bytes);
    for (uint32_t i = 0; i < n; i++)
        literal_narrow(r->set, &st->first, &st->last, st->len + i, bytes[i]);
    st->len += n;
    bool some = r->open;
    for (uint32_t i = st->first; i < st->last && !some; i++)
        some = is_usable(r, i);
    if (st->first == st->last)
        st->first = st->last = st->len = 0;
    return some;
}

static bool rule_take(const struct text_rule *r, struct text_state *st, uint32_t c)
{
    if (r->pattern) {
        st->pattern = pattern_step(r->pattern, &st->pattern, c);
        return !pattern_is_dead(&st->pattern);
    }
    if (r->set)
        return take_in_set(r, st, c);
    if (r->max == NO_MAXIMUM) /* counted as far as it matters */
        st->len += st->len < r->min;
    else
        st->len++;
    return st->len <= r->max;
}

static bool rule_may_end(const struct text_rule *r, const struct text_state *st)
{
    if (r->pattern)
        return st->pattern.matches;
    if (!r->set)
        return st->len >= r->min;
    int64_t member = text_member(r, st);
    return member >= 0 ? is_usable(r, (uint32_t)member) : r->open;
}

/* --- bytes --- */

static enum text_result more_if(bool alive)
{
    return alive ? TEXT_MORE : TEXT_DEAD;
}

static enum text_result whole(const struct text_rule *r, struct text_state *st, uint32_t c)
{
    st->step = PLAIN;
    st->left = 0;
    st->part = st->least = st->high = 0;
    return more_if(rule_take(r, st, c));
}

static enum text_result step_plain(const struct text_rule *r, struct text_state *st,
                                   unsigned char c)
{
    if (c == '"')
        return rule_may_end(r, st) ? TEXT_END : TEXT_DEAD;
    if (c < 0x20)
        return TEXT_DEAD;
    if (c == '\\') {
        st->step = ESCAPE;
        return more_if(may_take(r, st, 1, MAX_CHAR));
    }
    if (c < 0x80)
        return whole(r, st, c);
    if (c < 0xC0 || c >= 0xF8)
        return TEXT_DEAD;
    st->step = UTF8;
    st->left = c < 0xE0 ? 1 : c < 0xF0 ? 2 : 3;
    st->least = c < 0xE0 ? 0x80 : c < 0xF0 ? 0x800 : 0x10000;
    st->part = c & (0x3Fu >> st->left);
    uint32_t lo = st->part << 6 * st->left, hi = lo | ((1u << 6 * st->left) - 1);
    return more_if(may_take(r, st, lo > st->least ? lo : st->least, hi));
}

static enum text_result step_utf8(const struct text_rule *r, struct text_state *st, unsigned char c)
{
    if ((c & 0xC0) != 0x80)
        return TEXT_DEAD;
    st->part = st->part << 6 | (c & 0x3F);
    st->left--;
    uint32_t lo = st->part << 6 * st->left, hi = lo | ((1u << 6 * st->left) - 1);
    if (!may_take(r, st, lo > st->least ? lo : st->least, hi))
        return TEXT_DEAD;
    return st->left ? TEXT_MORE : whole(r, st, st->part);
}

/* Adds digit c to part; lo..hi become the 16-bit units it may still be. */
static bool add_digit(struct text_state *st, unsigned char c, uint32_t *lo, uint32_t *hi)
{
    bool letter = (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
    if (!letter && !(c >= '0' && c <= '9'))
        return false;
    st->part = st->part << 4 | (letter ? (c & 0xFu) + 9 : c - (unsigned)'0');
    st->left--;
    *lo = st->part << 4 * st->left;
    *hi = *lo | ((1u << 4 * st->left) - 1);
    return true;
}

/* Cuts lo..hi to from..to; false if nothing is left. */
static bool cut(uint32_t *lo, uint32_t *hi, uint32_t from, uint32_t to)
{
    *lo = *lo > from ? *lo : from;
    *hi = *hi < to ? *hi : to;
    return *lo <= *hi;
}

static uint32_t pair_char(uint32_t high, uint32_t low)
{
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
}

static enum text_result step_hex(const struct text_rule *r, struct text_state *st, unsigned char c)
{
    uint32_t lo, hi;
    if (!add_digit(st, c, &lo, &hi))
        return TEXT_DEAD;
    bool alone = may_take(r, st, lo, hi);
    if (st->left == 0 && alone)
        return whole(r, st, st->part);
    bool paired = cut(&lo, &hi, 0xD800, 0xDBFF) &&
                  may_take(r, st, pair_char(lo, 0xDC00), pair_char(hi, 0xDFFF));
    if (st->left == 0) {
        st->high = st->part;
        st->part = 0;
        st->step = LOW_BACKSLASH;
    }
    return more_if(paired || (alone && st->left > 0));
}

static enum text_result step_low_hex(const struct text_rule *r, struct text_state *st,
                                     unsigned char c)
{
    uint32_t lo, hi;
    if (!add_digit(st, c, &lo, &hi) || !cut(&lo, &hi, 0xDC00, 0xDFFF) ||
        !may_take(r, st, pair_char(st->high, lo), pair_char(st->high, hi)))
        return TEXT_DEAD;
    return st->left ? TEXT_MORE : whole(r, st, pair_char(st->high, lo));
}

static enum text_result step_escape(const struct text_rule *r, struct text_state *st,
                                    unsigned char c)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    const char *known = c ? strchr(names, c) : NULL;
    if (known)
        return whole(r, st, (unsigned char)values[known - names]);
    st->step = HEX;
    st->left = 4;
    return more_if(c == 'u' && may_take(r, st, 1, MAX_CHAR));
}

void text_begin(const struct text_rule *r, struct text_state *st)
{
    if (r->set)
        st->last = r->set->n;
    if (r->pattern)
        st->pattern = pattern_begin(r->pattern);
}

enum text_result text_step(const struct text_rule *r, struct text_state *st, unsigned char c)
{
    switch (st->step) {
    case PLAIN:
        return step_plain(r, st, c);
    case UTF8:
        return step_utf8(r, st, c);
    case ESCAPE:
        return step_escape(r, st, c);
    case HEX:
        return step_hex(r, st, c);
    case LOW_BACKSLASH:
        st->step = LOW_U;
        return more_if(c == '\\');
    case LOW_U:
        st->step = LOW_HEX;
        st->left = 4;
        return more_if(c == 'u');
    default:
        return step_low_hex(r, st, c);
    }
}

bool text_is_free(const struct text_rule *r, const struct text_state *st, size_t n)
{
    if (st->step != PLAIN || r->pattern)
        return false;
    if (r->set)
        return r->open && st->first == st->last;
    return r->max == NO_MAXIMUM || r->max - st->len >= n;
}
