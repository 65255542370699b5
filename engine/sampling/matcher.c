#include "engine/sampling/matcher.h"

#include "daemon/base/assert.h"

#include <string.h>

enum mode {
    VALUE,      /* a value of node */
    FIRST_ITEM, /* the same, or "]" */
    FIRST_KEY,  /* a key or "}" */
    KEY,        /* a key */
    COLON,      /* ":", then a value of node */
    AFTER,      /* behind a value: "," or the bracket that closes; at depth 0 nothing */
    STRING,
    KEY_STRING,
    NUMBER,
    WORD,   /* word, text.len bytes of it read */
    LITERAL /* one of node's literals, as text.first, .last and .len have it */
};

enum { BEGIN, ZERO, INTEGER, POINT, FRACTION, EXPONENT, EXPONENT_SIGN, EXPONENT_DIGITS };

static const char *const WORDS[] = {"null", "false", "true"}; /* in the order of TYPE_* */

#define MAX_DIGITS          18
#define MAX_EXPONENT_DIGITS 2

static const struct schema_node *node_of(const struct json_schema *s, uint32_t i)
{
    return &s->node[i];
}

static struct frame *top(struct reading *t)
{
    return &t->frame[t->depth - 1];
}

/* --- sets of readings --- */

static size_t reading_size(const struct reading *t)
{
    return offsetof(struct reading, frame) + t->depth * sizeof t->frame[0];
}

static void readings_add(struct readings *set, const struct reading *t)
{
    size_t n = reading_size(t);
    for (uint32_t i = 0; i < set->n; i++)
        if (set->at[i].depth == t->depth && memcmp(&set->at[i], t, n) == 0)
            return;
    if (set->n < CONSTRAINT_MAX_READINGS)
        memcpy(&set->at[set->n++], t, n);
}

void readings_copy(struct readings *out, const struct readings *in)
{
    out->n = in->n;
    for (uint32_t i = 0; i < in->n; i++)
        memcpy(&out->at[i], &in->at[i], reading_size(&in->at[i]));
}

void readings_begin(const struct json_schema *s, struct readings *out)
{
    struct reading t;
    memset(&t, 0, sizeof t);
    t.mode = VALUE;
    t.node = s->root;
    out->n = 0;
    readings_add(out, &t);
}

/* --- numbers --- */

/* Whether value (n_digits of it, n_digits >= 1) may become an integer of lo..hi with more digits.
 */
static bool integer_may(const struct number_state *x, int64_t lo, int64_t hi)
{
    int64_t least = x->value, most = x->value;
    for (int n = x->digits; n <= MAX_DIGITS; n++) {
        int64_t a = x->negative ? -most : least, b = x->negative ? -least : most;
        if (a <= hi && b >= lo)
            return true;
        if (x->value == 0 || n == MAX_DIGITS)
            break;
        least *= 10;
        most = most * 10 + 9;
    }
    return false;
}

static bool is_integer_only(const struct schema_node *n)
{
    return !(n->types & TYPE_NUMBER);
}

static bool integer_digit(const struct schema_node *n, struct number_state *x, unsigned char c)
{
    if (x->negative && x->digits == 0 && c == '0' && is_integer_only(n))
        return false; /* -0 */
    if (x->step == ZERO || x->digits == MAX_DIGITS)
        return false;
    x->step = x->digits == 0 && c == '0' ? ZERO : INTEGER;
    x->digits++;
    if (!is_integer_only(n))
        return true;
    x->value = x->value * 10 + (c - '0');
    return integer_may(x, n->lo, n->hi);
}

static bool number_digit(const struct schema_node *n, struct number_state *x, unsigned char c)
{
    if (x->step <= INTEGER)
        return integer_digit(n, x, c);
    if (x->step == POINT)
        x->step = FRACTION;
    else if (x->step == EXPONENT || x->step == EXPONENT_SIGN)
        x->step = EXPONENT_DIGITS;
    return ++x->digits <= (x->step == FRACTION ? MAX_DIGITS : MAX_EXPONENT_DIGITS);
}

static bool number_step(const struct schema_node *n, struct number_state *x, unsigned char c)
{
    if (c >= '0' && c <= '9')
        return number_digit(n, x, c);
    bool whole = x->step == ZERO || x->step == INTEGER;
    if (is_integer_only(n))
        return false;
    if (c == '.' && whole)
        x->step = POINT;
    else if ((c == 'e' || c == 'E') && (whole || x->step == FRACTION))
        x->step = EXPONENT;
    else if ((c == '+' || c == '-') && x->step == EXPONENT)
        x->step = EXPONENT_SIGN;
    else
        return false;
    x->digits = 0;
    return true;
}

static bool number_begin(const struct schema_node *n, struct reading *t, unsigned char c)
{
    t->mode = NUMBER;
    t->number.negative = c == '-';
    if (c == '-')
        return !is_integer_only(n) || n->lo < 0;
    return number_digit(n, &t->number, c);
}

static bool number_is_whole(const struct schema_node *n, const struct number_state *x)
{
    int64_t value = x->negative ? -x->value : x->value;
    if (x->step != ZERO && x->step != INTEGER)
        return x->step == FRACTION || x->step == EXPONENT_DIGITS;
    return !is_integer_only(n) || (value >= n->lo && value <= n->hi);
}

/* --- values --- */

/* Whether node has a value that fits inside the arrays and objects that are open. */
static bool fits(const struct json_schema *s, const struct reading *t, uint32_t node)
{
    return t->depth + node_of(s, node)->height <= JSON_MAX_DEPTH;
}

static void clear_value(struct reading *t)
{
    t->space = 0;
    t->word = 0;
    t->node = NODE_FALSE;
    memset(&t->text, 0, sizeof t->text);
    memset(&t->number, 0, sizeof t->number);
}

static void end_value(struct reading *t)
{
    clear_value(t);
    t->mode = AFTER;
}

/* The node of the item that may come next, NODE_FALSE if none may. */
static uint32_t next_item(const struct json_schema *s, const struct reading *t)
{
    const struct frame *f = &t->frame[t->depth - 1];
    const struct schema_node *n = node_of(s, f->node);
    if (f->count >= n->array.max)
        return NODE_FALSE;
    uint32_t item = array_item(n, f->count);
    return fits(s, t, item) ? item : NODE_FALSE;
}

static void count_item(const struct json_schema *s, struct reading *t)
{
    struct frame *f = top(t);
    const struct schema_node *n = node_of(s, f->node);
    uint32_t matters = n->array.min > n->array.n_prefix ? n->array.min : n->array.n_prefix;
    if (n->array.max != NO_MAXIMUM || f->count < matters)
        f->count++;
}

static bool property_usable(const struct json_schema *s, const struct reading *t, uint32_t i)
{
    const struct frame *f = &t->frame[t->depth - 1];
    return !property_bit(f->seen, i) && fits(s, t, node_of(s, f->node)->object.value[i]);
}

/* The rule for the string that t is in: a key of the innermost object, or a value of t->node. */
static struct text_rule text_rule(const struct json_schema *s, const struct reading *t)
{
    if (t->mode == STRING) {
        const struct schema_node *n = node_of(s, t->node);
        return (struct text_rule){
            .set = n->string.set.n ? &n->string.set : NULL,
            .all_usable = true,
            .pattern = n->string.pattern,
            .min = n->string.min,
            .max = n->string.max,
        };
    }
    const struct schema_node *n = node_of(s, t->frame[t->depth - 1].node);
    struct text_rule r = {.set = &n->object.names, .open = fits(s, t, n->object.other)};
    for (uint32_t i = t->text.first; i < t->text.last; i++)
        if (property_usable(s, t, i))
            r.usable[i / 64] |= UINT64_C(1) << i % 64;
    return r;
}

static bool key_possible(const struct json_schema *s, const struct reading *t)
{
    const struct schema_node *n = node_of(s, t->frame[t->depth - 1].node);
    bool possible = fits(s, t, n->object.other);
    for (uint32_t i = 0; i < n->object.names.n && !possible; i++)
        possible = property_usable(s, t, i);
    return possible;
}

static void begin_text(const struct json_schema *s, struct reading *t, enum mode mode)
{
    t->mode = (uint8_t)mode;
    struct text_rule r = text_rule(s, t);
    text_begin(&r, &t->text);
}

static void push(struct reading *t, bool is_object)
{
    ASSERT(t->depth < JSON_MAX_DEPTH);
    t->frame[t->depth++] = (struct frame){.node = t->node, .is_object = is_object};
    t->node = NODE_FALSE;
}

static bool begin_array(const struct json_schema *s, struct reading *t)
{
    if (t->depth + node_of(s, t->node)->array.height > JSON_MAX_DEPTH)
        return false;
    push(t, false);
    t->mode = FIRST_ITEM;
    t->node = next_item(s, t);
    return true;
}

static bool begin_object(const struct json_schema *s, struct reading *t)
{
    if (t->depth + node_of(s, t->node)->object.height > JSON_MAX_DEPTH)
        return false;
    push(t, true);
    t->mode = FIRST_KEY;
    return true;
}

static bool begin_word(const struct schema_node *n, struct reading *t, unsigned char c)
{
    for (uint8_t i = 0; i < 3; i++)
        if (n->types & 1u << i && WORDS[i][0] == (char)c) {
            t->mode = WORD;
            t->word = i;
            t->text.len = 1;
            return true;
        }
    return false;
}

static bool literal_step(const struct schema_node *n, struct reading *t, unsigned char c)
{
    literal_narrow(&n->literals, &t->text.first, &t->text.last, t->text.len, c);
    t->text.len++;
    return t->text.first < t->text.last;
}

static bool literal_is_whole(const struct schema_node *n, const struct reading *t)
{
    return n->literals.at[t->text.first].len == t->text.len;
}

/* The first byte of a value of t->node, which is no anyOf. */
static bool begin_value(const struct json_schema *s, struct reading *t, unsigned char c)
{
    const struct schema_node *n = node_of(s, t->node);
    t->space = 0;
    if (c == '"' && n->types & TYPE_STRING) {
        begin_text(s, t, STRING);
        return true;
    }
    if (begin_word(n, t, c))
        return true;
    if (n->types & TYPE_LITERAL) { /* then no arrays, objects and numbers beside it */
        t->mode = LITERAL;
        t->text.last = n->literals.n;
        return literal_step(n, t, c);
    }
    if (c == '[' && n->types & TYPE_ARRAY)
        return begin_array(s, t);
    if (c == '{' && n->types & TYPE_OBJECT)
        return begin_object(s, t);
    bool is_number = c == '-' || (c >= '0' && c <= '9');
    return is_number && n->types & (TYPE_INTEGER | TYPE_NUMBER) && number_begin(n, t, c);
}

/* All readings of the first byte of a value. */
static void begin_values(const struct json_schema *s, const struct reading *t, unsigned char c,
                         struct readings *out)
{
    const struct schema_node *n = node_of(s, t->node);
    uint32_t k = 0;
    do {
        struct reading next;
        memcpy(&next, t, reading_size(t));
        next.node = n->is_any_of ? n->alternative[k] : t->node;
        if (fits(s, &next, next.node) && begin_value(s, &next, c))
            readings_add(out, &next);
    } while (n->is_any_of && ++k < n->n_alternatives);
}

/* --- between the values --- */

static bool is_space(unsigned char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool take_space(struct reading *t)
{
    return t->space++ < JSON_MAX_SPACE;
}

static bool close_frame(const struct json_schema *s, struct reading *t)
{
    const struct frame *f = top(t);
    const struct schema_node *n = node_of(s, f->node);
    bool whole = f->count >= n->array.min;
    if (f->is_object)
        whole = !(n->object.required[0] & ~f->seen[0]) && !(n->object.required[1] & ~f->seen[1]);
    if (!whole)
        return false;
    t->depth--;
    end_value(t);
    return true;
}

static bool step_after(const struct json_schema *s, struct reading *t, unsigned char c)
{
    if (t->depth == 0)
        return false;
    if (is_space(c))
        return take_space(t);
    bool is_object = top(t)->is_object;
    t->space = 0;
    if (c == (is_object ? '}' : ']'))
        return close_frame(s, t);
    if (c != ',')
        return false;
    if (is_object) {
        t->mode = KEY;
        return key_possible(s, t);
    }
    t->mode = VALUE;
    t->node = next_item(s, t);
    count_item(s, t);
    return t->node != NODE_FALSE;
}

static bool step_key(const struct json_schema *s, struct reading *t, unsigned char c)
{
    if (is_space(c))
        return take_space(t);
    t->space = 0;
    if (c == '}' && t->mode == FIRST_KEY)
        return close_frame(s, t);
    if (c != '"' || !key_possible(s, t))
        return false;
    begin_text(s, t, KEY_STRING);
    return true;
}

static void end_key(const struct json_schema *s, struct reading *t, int64_t member)
{
    struct frame *f = top(t);
    const struct schema_node *n = node_of(s, f->node);
    clear_value(t);
    t->mode = COLON;
    t->node = member < 0 ? n->object.other : n->object.value[member];
    if (member >= 0)
        f->seen[member / 64] |= UINT64_C(1) << member % 64;
}

static bool step_text(const struct json_schema *s, struct reading *t, unsigned char c)
{
    struct text_rule r = text_rule(s, t);
    enum text_result result = text_step(&r, &t->text, c);
    if (result != TEXT_END)
        return result == TEXT_MORE;
    if (t->mode == KEY_STRING)
        end_key(s, t, text_member(&r, &t->text));
    else
        end_value(t);
    return true;
}

static bool step_word(struct reading *t, unsigned char c)
{
    const char *word = WORDS[t->word];
    if (word[t->text.len++] != (char)c)
        return false;
    if (!word[t->text.len])
        end_value(t);
    return true;
}

/* A value without a mark at its end: what it cannot take comes behind it. */
static bool step_endless(const struct json_schema *s, struct reading *t, unsigned char c)
{
    const struct schema_node *n = node_of(s, t->node);
    struct text_state text = t->text;
    struct number_state number = t->number;
    if (t->mode == NUMBER ? number_step(n, &t->number, c) : literal_step(n, t, c))
        return true;
    t->text = text;
    t->number = number;
    if (t->mode == NUMBER ? !number_is_whole(n, &number) : !literal_is_whole(n, t))
        return false;
    end_value(t);
    return step_after(s, t, c);
}

/* Every mode in which one byte has one reading. */
static bool step_one(const struct json_schema *s, struct reading *t, unsigned char c)
{
    switch (t->mode) {
    case FIRST_KEY:
    case KEY:
        return step_key(s, t, c);
    case COLON:
        if (is_space(c))
            return take_space(t);
        t->space = 0;
        t->mode = VALUE;
        return c == ':';
    case AFTER:
        return step_after(s, t, c);
    case STRING:
    case KEY_STRING:
        return step_text(s, t, c);
    case WORD:
        return step_word(t, c);
    default:
        return step_endless(s, t, c);
    }
}

static void step_reading(const struct json_schema *s, const struct reading *in, unsigned char c,
                         struct readings *out)
{
    struct reading t;
    memcpy(&t, in, reading_size(in));
    bool is_first = t.mode == FIRST_ITEM;
    if (t.mode != VALUE && !is_first) {
        if (step_one(s, &t, c))
            readings_add(out, &t);
    } else if (is_space(c)) {
        if (take_space(&t))
            readings_add(out, &t);
    } else if (is_first && c == ']') {
        if (close_frame(s, &t))
            readings_add(out, &t);
    } else {
        if (is_first)
            count_item(s, &t);
        begin_values(s, &t, c, out);
    }
}

bool readings_step(const struct json_schema *s, const struct readings *in, unsigned char c,
                   struct readings *out)
{
    out->n = 0;
    for (uint32_t i = 0; i < in->n; i++)
        step_reading(s, &in->at[i], c, out);
    return out->n > 0;
}

bool readings_complete(const struct json_schema *s, const struct readings *in)
{
    for (uint32_t i = 0; i < in->n; i++) {
        const struct reading *t = &in->at[i];
        const struct schema_node *n = node_of(s, t->node);
        if (t->depth > 0)
            continue;
        if (t->mode == AFTER || (t->mode == NUMBER && number_is_whole(n, &t->number)) ||
            (t->mode == LITERAL && literal_is_whole(n, t)))
            return true;
    }
    return false;
}

static bool number_may_grow(const struct schema_node *n, const struct number_state *x)
{
    for (const char *c = "0123456789.e"; *c; c++) {
        struct number_state next = *x;
        if (number_step(n, &next, (unsigned char)*c))
            return true;
    }
    return false;
}

bool readings_may_grow(const struct json_schema *s, const struct readings *in)
{
    for (uint32_t i = 0; i < in->n; i++) {
        const struct reading *t = &in->at[i];
        bool grows = t->depth > 0 || t->mode != AFTER;
        if (t->depth == 0 && t->mode == NUMBER)
            grows = number_may_grow(node_of(s, t->node), &t->number);
        else if (t->depth == 0 && t->mode == LITERAL) /* the first is the shortest */
            grows = t->text.last - t->text.first > 1 || !literal_is_whole(node_of(s, t->node), t);
        if (grows)
            return true;
    }
    return false;
}

bool readings_free(const struct json_schema *s, const struct readings *in, size_t n)
{
    for (uint32_t i = 0; i < in->n; i++) {
        const struct reading *t = &in->at[i];
        if (t->mode != STRING && t->mode != KEY_STRING)
            continue;
        struct text_rule r = text_rule(s, t);
        if (text_is_free(&r, &t->text, n))
            return true;
    }
    return false;
}
