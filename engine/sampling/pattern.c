#include "engine/sampling/pattern.h"

#include "daemon/base/mem.h"

#define MAX_RANGES 2048
#define MAX_CLASS  256  /* ranges of a negated class */
#define MAX_WORK   4096 /* atoms read, copies for repetitions included */
#define MAX_GROUPS 32   /* inside each other */
#define MAX_CHAR   0x10FFFFu
#define NO_LIMIT   UINT32_MAX

struct range {
    uint32_t lo, hi;
};

struct pattern {
    struct {
        uint32_t start, n; /* its characters: range[start .. start + n) */
        struct pattern_set follow;
    } state[PATTERN_MAX];
    uint32_t n;
    struct pattern_set first, last;
    bool nullable;
    uint32_t n_ranges;
    struct range *range; /* [n_ranges]; [MAX_RANGES] while it is built */
};

/* A piece of the expression: the states it may begin and end with, and whether it matches the empty
 * text. What follows what inside it is already in state[].follow. */
struct piece {
    struct pattern_set first, last;
    bool nullable;
};

struct parser {
    struct pattern *p;
    const char *at;
    const char *why;
    uint32_t work, groups;
};

static const struct piece EMPTY = {.nullable = true};

static bool set_has(const struct pattern_set *s, uint32_t i)
{
    return s->bits[i / 64] >> i % 64 & 1;
}

static void set_add(struct pattern_set *s, uint32_t i)
{
    s->bits[i / 64] |= UINT64_C(1) << i % 64;
}

static void set_join(struct pattern_set *s, const struct pattern_set *with)
{
    for (size_t i = 0; i < PATTERN_MAX / 64; i++)
        s->bits[i] |= with->bits[i];
}

static void set_meet(struct pattern_set *s, const struct pattern_set *with)
{
    for (size_t i = 0; i < PATTERN_MAX / 64; i++)
        s->bits[i] &= with->bits[i];
}

static bool set_meets(const struct pattern_set *a, const struct pattern_set *b)
{
    return (a->bits[0] & b->bits[0]) | (a->bits[1] & b->bits[1]);
}

static bool fail(struct parser *r, const char *why)
{
    if (!r->why)
        r->why = why;
    return false;
}

/* --- sets of characters --- */

static bool add_range(struct parser *r, uint32_t lo, uint32_t hi)
{
    if (r->p->n_ranges == MAX_RANGES)
        return fail(r, "it is too large");
    r->p->range[r->p->n_ranges++] = (struct range){lo, hi};
    return true;
}

static bool add_ranges(struct parser *r, const struct range *range, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!add_range(r, range[i].lo, range[i].hi))
            return false;
    return true;
}

/* Replaces the ranges from start on by all other characters. */
static bool complement(struct parser *r, uint32_t start)
{
    struct range *range = r->p->range;
    if (r->p->n_ranges - start > MAX_CLASS)
        return fail(r, "a [...] that is too large");
    for (uint32_t i = start + 1; i < r->p->n_ranges; i++) /* insertion sort by lo */
        for (uint32_t k = i; k > start && range[k - 1].lo > range[k].lo; k--) {
            struct range swap = range[k];
            range[k] = range[k - 1];
            range[k - 1] = swap;
        }
    uint32_t next = 0, n = start; /* fewer written than read: one gap before each range */
    for (uint32_t i = start; i < r->p->n_ranges; i++) {
        struct range taken = range[i];
        if (taken.lo > next)
            range[n++] = (struct range){next, taken.lo - 1};
        next = taken.hi + 1 > next ? taken.hi + 1 : next;
    }
    r->p->n_ranges = n;
    return next > MAX_CHAR || add_range(r, next, MAX_CHAR);
}

/* The class \c in lower case: its ranges, or NULL. */
static const struct range *class_ranges(char c, size_t *n)
{
    static const struct range digit[] = {{'0', '9'}};
    static const struct range word[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
    static const struct range space[] = {
        {0x09, 0x0D},     {0x20, 0x20},     {0xA0, 0xA0},     {0x1680, 0x1680}, {0x2000, 0x200A},
        {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
    *n = c == 'd' ? 1 : c == 'w' ? 4 : sizeof space / sizeof space[0];
    return c == 'd' ? digit : c == 'w' ? word : c == 's' ? space : NULL;
}

/* --- characters --- */

static uint32_t next_char(struct parser *r)
{
    const unsigned char *s = (const unsigned char *)r->at;
    uint32_t c = s[0], more = c < 0x80 ? 0 : c < 0xE0 ? 1 : c < 0xF0 ? 2 : 3;
    c &= more ? 0x3Fu >> more : 0x7Fu;
    for (uint32_t i = 1; i <= more; i++)
        c = c << 6 | (s[i] & 0x3Fu);
    r->at += 1 + more;
    return c;
}

static bool hex_char(struct parser *r, int digits, uint32_t *c)
{
    for (*c = 0; digits > 0; digits--, r->at++) {
        char h = *r->at;
        bool letter = (h >= 'a' && h <= 'f') || (h >= 'A' && h <= 'F');
        if (!letter && !(h >= '0' && h <= '9'))
            return fail(r, "a \\x or \\u without its hexadecimal digits");
        *c = *c << 4 | (uint32_t)(letter ? (h & 0xF) + 9 : h - '0');
    }
    return true;
}

/* Behind a backslash: one character in *c, or a class (*is_class), whose ranges are added. */
static bool parse_escape(struct parser *r, uint32_t *c, bool *is_class)
{
    static const char names[] = "nrtfv", values[] = "\n\r\t\f\v";
    char name = *r->at;
    size_t n;
    const struct range *ranges = class_ranges((char)(name | 0x20), &n);
    *is_class = name && ranges;
    if (*is_class) {
        uint32_t start = r->p->n_ranges;
        r->at++;
        return add_ranges(r, ranges, n) && (name & 0x20 || complement(r, start));
    }
    const char *known = name ? strchr(names, name) : NULL;
    if (known) {
        r->at++;
        *c = (unsigned char)values[known - names];
        return true;
    }
    if (name == 'x' || name == 'u') {
        r->at++;
        return hex_char(r, name == 'x' ? 2 : 4, c);
    }
    if (!name || strchr("0123456789", name) || (name >= 'A' && name <= 'Z') ||
        (name >= 'a' && name <= 'z'))
        return fail(r, "an escape that is not supported");
    *c = next_char(r);
    return true;
}

/* One member of a class "[...]": its ranges are added. */
static bool parse_member(struct parser *r)
{
    uint32_t lo = 0, hi = 0;
    bool is_class = false;
    if (*r->at != '\\')
        lo = next_char(r);
    else if (r->at++, !parse_escape(r, &lo, &is_class))
        return false;
    if (is_class)
        return true;
    if (r->at[0] != '-' || r->at[1] == ']' || !r->at[1])
        return add_range(r, lo, lo);
    r->at++;
    if (*r->at != '\\')
        hi = next_char(r);
    else if (r->at++, !parse_escape(r, &hi, &is_class))
        return false;
    if (is_class || lo > hi)
        return fail(r, "a range in [...] that is none");
    return add_range(r, lo, hi);
}

static bool parse_class(struct parser *r)
{
    uint32_t start = r->p->n_ranges;
    bool negated = *r->at == '^';
    r->at += negated;
    while (*r->at && *r->at != ']')
        if (!parse_member(r))
            return false;
    if (*r->at != ']')
        return fail(r, "a [ without its ]");
    r->at++;
    return !negated || complement(r, start);
}

/* --- expressions --- */

static bool new_state(struct parser *r, uint32_t start, struct piece *out)
{
    struct pattern *p = r->p;
    if (p->n == PATTERN_MAX)
        return fail(r, "it is too large (more than 128 characters to match)");
    p->state[p->n].start = start;
    p->state[p->n].n = p->n_ranges - start;
    *out = (struct piece){.nullable = false};
    set_add(&out->first, p->n);
    set_add(&out->last, p->n);
    p->n++;
    return true;
}

static void follow(struct pattern *p, const struct pattern_set *last,
                   const struct pattern_set *first)
{
    for (uint32_t i = 0; i < p->n; i++)
        if (set_has(last, i))
            set_join(&p->state[i].follow, first);
}

/* a becomes a, then b. */
static void concatenate(struct pattern *p, struct piece *a, const struct piece *b)
{
    follow(p, &a->last, &b->first);
    if (a->nullable)
        set_join(&a->first, &b->first);
    struct pattern_set last = b->last;
    if (b->nullable)
        set_join(&last, &a->last);
    a->last = last;
    a->nullable = a->nullable && b->nullable;
}

static bool parse_any(struct parser *r, bool line_ends, struct piece *out)
{
    static const struct range ends[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};
    uint32_t start = r->p->n_ranges;
    return (line_ends || add_ranges(r, ends, 3)) && complement(r, start) &&
           new_state(r, start, out);
}

static bool parse_alternatives(struct parser *r, struct piece *out);

static bool parse_group(struct parser *r, struct piece *out)
{
    if (*r->at == '?' && r->at[1] != ':')
        return fail(r, "a group (?...) that is not supported");
    r->at += *r->at == '?' ? 2 : 0;
    if (++r->groups > MAX_GROUPS)
        return fail(r, "groups nested too deeply");
    if (!parse_alternatives(r, out))
        return false;
    r->groups--;
    if (*r->at != ')')
        return fail(r, "a ( without its )");
    r->at++;
    return true;
}

static bool parse_atom(struct parser *r, struct piece *out)
{
    uint32_t start = r->p->n_ranges, c = 0;
    bool is_class = false;
    if (++r->work > MAX_WORK)
        return fail(r, "it is too large");
    switch (*r->at) {
    case '(':
        r->at++;
        return parse_group(r, out);
    case '[':
        r->at++;
        return parse_class(r) && new_state(r, start, out);
    case '.':
        r->at++;
        return parse_any(r, false, out);
    case '^':
    case '$':
        return fail(r, "^ and $ are supported at its beginning and end only");
    case '*':
    case '+':
    case '?':
    case '{':
    case '}':
    case ']':
        return fail(r, "one of * + ? { } ] where a character is wanted");
    case '\\':
        r->at++;
        if (!parse_escape(r, &c, &is_class))
            return false;
        break;
    default:
        c = next_char(r);
    }
    return (is_class || add_range(r, c, c)) && new_state(r, start, out);
}

static bool parse_number(struct parser *r, uint32_t *n)
{
    const char *begin = r->at;
    for (*n = 0; *r->at >= '0' && *r->at <= '9' && *n < 100000; r->at++)
        *n = *n * 10 + (uint32_t)(*r->at - '0');
    return r->at > begin || fail(r, "a { without its number");
}

/* Behind an atom: how often it may come, *min to *max times. */
static bool parse_repetition(struct parser *r, uint32_t *min, uint32_t *max)
{
    char c = *r->at;
    *min = c == '*' || c == '?' ? 0 : 1;
    *max = c == '*' || c == '+' ? NO_LIMIT : 1;
    if (!c || !strchr("*+?{", c))
        return true;
    r->at++;
    if (c == '{') {
        if (!parse_number(r, min))
            return false;
        *max = *min;
        if (*r->at == ',') {
            r->at++;
            *max = NO_LIMIT;
            if (*r->at != '}' && !parse_number(r, max))
                return false;
        }
        if (*r->at != '}' || *max < *min)
            return fail(r, "a {m,n} that is none");
        r->at++;
    }
    r->at += *r->at == '?'; /* lazy: matches the same texts */
    return true;
}

/* An atom with its repetition: copies are made by reading the atom again. */
static bool parse_repeated(struct parser *r, struct piece *out)
{
    const char *begin = r->at;
    struct pattern *p = r->p;
    uint32_t n_states = p->n, n_ranges = p->n_ranges, min, max;
    struct piece piece;
    if (!parse_atom(r, &piece) || !parse_repetition(r, &min, &max))
        return false;
    const char *end = r->at;
    uint32_t copies = max != NO_LIMIT ? max : min ? min : 1;
    *out = EMPTY;
    if (copies == 0) { /* {0}: what was read goes again */
        memset(p->state + n_states, 0, (p->n - n_states) * sizeof *p->state);
        p->n = n_states;
        p->n_ranges = n_ranges;
    }
    for (uint32_t i = 0; i < copies; i++) {
        r->at = begin;
        if (i > 0 && !parse_atom(r, &piece))
            return false;
        if (max == NO_LIMIT && i == copies - 1)
            follow(p, &piece.last, &piece.first);
        piece.nullable = piece.nullable || i >= min;
        concatenate(p, out, &piece);
    }
    r->at = end;
    return true;
}

/* Up to "|", ")", the end, or "$" before one of them. */
static bool parse_sequence(struct parser *r, struct piece *out)
{
    *out = EMPTY;
    while (*r->at && *r->at != '|' && *r->at != ')') {
        struct piece piece;
        if (*r->at == '$' && r->groups == 0 && (!r->at[1] || r->at[1] == '|'))
            break;
        if (!parse_repeated(r, &piece))
            return false;
        concatenate(r->p, out, &piece);
    }
    return true;
}

static bool any_text(struct parser *r, struct piece *out)
{
    if (!parse_any(r, true, out))
        return false;
    follow(r->p, &out->last, &out->first);
    out->nullable = true;
    return true;
}

/* One of the outermost alternatives, with its anchors. */
static bool parse_anchored(struct parser *r, struct piece *out)
{
    struct piece piece;
    *out = EMPTY;
    if (*r->at == '^')
        r->at++;
    else if (!any_text(r, out))
        return false;
    if (!parse_sequence(r, &piece))
        return false;
    concatenate(r->p, out, &piece);
    if (*r->at == '$') {
        r->at++;
        return true;
    }
    if (!any_text(r, &piece))
        return false;
    concatenate(r->p, out, &piece);
    return true;
}

static bool parse_alternatives(struct parser *r, struct piece *out)
{
    bool outermost = r->groups == 0;
    *out = (struct piece){.nullable = false};
    for (;; r->at++) {
        struct piece piece;
        if (!(outermost ? parse_anchored(r, &piece) : parse_sequence(r, &piece)))
            return false;
        set_join(&out->first, &piece.first);
        set_join(&out->last, &piece.last);
        out->nullable = out->nullable || piece.nullable;
        if (*r->at != '|')
            return true;
    }
}

/* Characters that a JSON string holds here: no NUL, no surrogates. */
static bool range_may(struct range range, uint32_t lo, uint32_t hi)
{
    lo = lo > range.lo ? lo : range.lo;
    hi = hi < range.hi ? hi : range.hi;
    lo = lo > 0 ? lo : 1;
    return lo <= hi && !(lo >= 0xD800 && hi <= 0xDFFF);
}

static bool state_may(const struct pattern *p, uint32_t i, uint32_t lo, uint32_t hi)
{
    for (uint32_t k = 0; k < p->state[i].n; k++)
        if (range_may(p->range[p->state[i].start + k], lo, hi))
            return true;
    return false;
}

/* Removes the states that no text leads from to a match. */
static void prune(struct pattern *p)
{
    struct pattern_set alive = {{0}};
    for (bool more = true; more;) {
        more = false;
        for (uint32_t i = 0; i < p->n; i++) {
            if (set_has(&alive, i) || !state_may(p, i, 1, MAX_CHAR))
                continue;
            if (set_has(&p->last, i) || set_meets(&p->state[i].follow, &alive)) {
                set_add(&alive, i);
                more = true;
            }
        }
    }
    for (uint32_t i = 0; i < p->n; i++)
        set_meet(&p->state[i].follow, &alive);
    set_meet(&p->first, &alive);
    set_meet(&p->last, &alive);
}

struct pattern *pattern_new(const char *text, const char **why)
{
    struct parser r = {.at = text};
    struct piece all;
    struct range *range;
    *why = NULL;
    r.p = calloc(1, sizeof *r.p);
    if (!r.p || !(r.p->range = calloc(MAX_RANGES, sizeof *range)))
        goto failed;
    if (parse_alternatives(&r, &all) && *r.at)
        fail(&r, "a ) without its (");
    if (r.why)
        goto failed;
    range = realloc(r.p->range, (r.p->n_ranges + 1) * sizeof *range);
    if (!range)
        goto failed;
    r.p->range = range;
    r.p->first = all.first;
    r.p->last = all.last;
    r.p->nullable = all.nullable;
    prune(r.p);
    return r.p;
failed:
    *why = r.why;
    pattern_free(r.p);
    return NULL;
}

void pattern_free(struct pattern *p)
{
    if (p)
        free(p->range);
    free(p);
}

struct pattern_state pattern_begin(const struct pattern *p)
{
    return (struct pattern_state){p->first, p->nullable};
}

bool pattern_may(const struct pattern *p, const struct pattern_state *s, uint32_t lo, uint32_t hi)
{
    for (uint32_t i = 0; i < p->n; i++)
        if (set_has(&s->next, i) && state_may(p, i, lo, hi))
            return true;
    return false;
}

struct pattern_state pattern_step(const struct pattern *p, const struct pattern_state *s,
                                  uint32_t c)
{
    struct pattern_state out = {.matches = 0};
    for (uint32_t i = 0; i < p->n; i++) {
        if (!set_has(&s->next, i) || !state_may(p, i, c, c))
            continue;
        set_join(&out.next, &p->state[i].follow);
        out.matches |= set_has(&p->last, i);
    }
    return out;
}
