/* Constrained decoding against an independent judge: jansson parses a document, and a plain recursive
 * check of the schema (also as jansson has it) says whether it is valid. Schemas are random, of the
 * supported keywords; documents are sampled from them, and mutated. */
#include "engine/kernels/rng.h"
#include "engine/sampling/constraint.h"
#include "engine/sampling/sampling.h"
#include "engine/tokenizer/tokenizer.h"
#include "tests/lib/check.h"

#include <jansson.h>
#include <math.h>
#include <regex.h>
#include <stdlib.h>

/* --- random schemas --- */

static const char *const NAMES[] = {"a", "ab", "b", "name", "\xC3\xA9t\xC3\xA9", "q\"q"};
static const char *const PATTERNS[] = {"^[a-c]{2,4}$", "^(x|yz)+$", "b", "^\\d{2}-\\d{1,2}$",
                                       "^a?b*[^ab]*$"};
/* The same for regcomp. */
static const char *const POSIX_PATTERNS[] = {"^[a-c]{2,4}$", "^(x|yz)+$", "b",
                                             "^[0-9]{2}-[0-9]{1,2}$", "^a?b*[^ab]*$"};
enum { N_NAMES = sizeof NAMES / sizeof *NAMES, N_PATTERNS = sizeof PATTERNS / sizeof *PATTERNS };

static json_t *random_schema(struct rng *r, int depth);

static json_t *random_string(struct rng *r)
{
    uint64_t min = rng_below(r, 4);
    switch (rng_below(r, 4)) {
    case 0:
        return json_pack("{s:s, s:I, s:I}", "type", "string", "minLength", (json_int_t)min,
                         "maxLength", (json_int_t)(min + rng_below(r, 5)));
    case 1:
        return json_pack("{s:s}", "pattern", PATTERNS[rng_below(r, N_PATTERNS)]);
    case 2:
        return json_pack("{s:[s,s,s]}", "enum", NAMES[rng_below(r, N_NAMES)], "abc",
                         "\xE6\x97\xA5");
    default:
        return json_pack("{s:s, s:I}", "type", "string", "maxLength", (json_int_t)rng_below(r, 9));
    }
}

static json_t *random_integer(struct rng *r)
{
    json_int_t lo = (json_int_t)rng_below(r, 3000) - 1500;
    json_int_t hi = lo + (json_int_t)rng_below(r, rng_below(r, 2) ? 5 : 2000);
    if (rng_below(r, 3) == 0)
        return json_pack("{s:s}", "type", "integer");
    return json_pack("{s:s, s:I, s:I}", "type", "integer", "minimum", lo, "maximum", hi);
}

static json_t *random_array(struct rng *r, int depth)
{
    json_t *o =
        json_pack("{s:s, s:I}", "type", "array", "maxItems", (json_int_t)(2 + rng_below(r, 3)));
    if (rng_below(r, 2))
        json_object_set_new(o, "minItems", json_integer((json_int_t)rng_below(r, 3)));
    if (rng_below(r, 3) == 0)
        json_object_set_new(
            o, "prefixItems",
            json_pack("[o,o]", random_schema(r, depth - 1), random_schema(r, depth - 1)));
    json_object_set_new(o, "items", random_schema(r, depth - 1));
    return o;
}

static json_t *random_object(struct rng *r, int depth)
{
    json_t *properties = json_object(), *required = json_array();
    for (uint64_t i = 0; i < N_NAMES; i++) {
        if (rng_below(r, 2))
            continue;
        json_object_set_new(properties, NAMES[i], random_schema(r, depth - 1));
        if (rng_below(r, 2))
            json_array_append_new(required, json_string(NAMES[i]));
    }
    json_t *o = json_pack("{s:s, s:o, s:o}", "type", "object", "properties", properties, "required",
                          required);
    uint64_t other = rng_below(r, 3);
    json_object_set_new(o, "additionalProperties",
                        other == 2 ? random_schema(r, depth - 1) : json_false());
    return o;
}

static json_t *random_schema(struct rng *r, int depth)
{
    static const char *const simple[] = {"null", "boolean", "number"};
    switch (rng_below(r, depth > 0 ? 9 : 4)) {
    case 0:
        return json_pack("{s:s, s:s}", "type", simple[rng_below(r, 3)], "title", "t");
    case 1:
        return random_integer(r);
    case 2:
        return random_string(r);
    case 3:
        return rng_below(r, 2) ? json_pack("{s:[i,i,n,s]}", "enum", 1, 12, "one")
                               : json_pack("{s:[s,s]}", "type", "null", "integer");
    case 4:
    case 5:
        return random_array(r, depth);
    case 6:
        return json_pack("{s:[o,o]}", rng_below(r, 2) ? "anyOf" : "oneOf",
                         random_schema(r, depth - 1), random_schema(r, depth - 1));
    default:
        return random_object(r, depth);
    }
}

/* A random schema of depth 3, at times with a recursive definition in it, as text. */
static char *random_text(struct rng *r, json_t **schema)
{
    json_t *s = random_schema(r, 3);
    if (rng_below(r, 4) == 0)
        s = json_pack("{s:{s:o}, s:s, s:{s:{s:s}, s:o}, s:[s], s:b}", "$defs", "n",
                      json_pack("{s:s, s:{s:s}, s:i}", "type", "array", "items", "$ref",
                                "#/$defs/n", "maxItems", 2),
                      "type", "object", "properties", "t", "$ref", "#/$defs/n", "v", s, "required",
                      "t", "additionalProperties", 0);
    *schema = s;
    return json_dumps(s, 0);
}

/* --- the judge --- */

static size_t code_points(const char *s)
{
    size_t n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

static json_int_t count_of(const json_t *o, const char *key, json_int_t absent)
{
    const json_t *v = json_object_get(o, key);
    return v ? json_integer_value(v) : absent;
}

static bool is_of_type(const json_t *v, const char *type)
{
    return (!strcmp(type, "null") && json_is_null(v)) ||
           (!strcmp(type, "boolean") && json_is_boolean(v)) ||
           (!strcmp(type, "integer") && json_is_integer(v)) ||
           (!strcmp(type, "number") && json_is_number(v)) ||
           (!strcmp(type, "string") && json_is_string(v)) ||
           (!strcmp(type, "array") && json_is_array(v)) ||
           (!strcmp(type, "object") && json_is_object(v));
}

static bool type_matches(const json_t *type, const json_t *v)
{
    if (json_is_string(type))
        return is_of_type(v, json_string_value(type));
    bool any = !type;
    for (size_t i = 0; i < json_array_size(type); i++)
        any |= is_of_type(v, json_string_value(json_array_get(type, i)));
    return any;
}

static bool pattern_matches(const char *pattern, const char *s)
{
    for (size_t i = 0; i < N_PATTERNS; i++) {
        if (strcmp(pattern, PATTERNS[i]) != 0)
            continue;
        regex_t re;
        assert_int_equal(regcomp(&re, POSIX_PATTERNS[i], REG_EXTENDED | REG_NOSUB), 0);
        bool matches = regexec(&re, s, 0, NULL, 0) == 0;
        regfree(&re);
        return matches;
    }
    fail_msg("no such pattern");
    return false;
}

static bool judge(const json_t *root, const json_t *s, const json_t *v);

static bool judge_object(const json_t *root, const json_t *s, json_t *v)
{
    const json_t *properties = json_object_get(s, "properties");
    const json_t *required = json_object_get(s, "required");
    const char *key;
    json_t *value;
    for (size_t i = 0; i < json_array_size(required); i++)
        if (!json_object_get(v, json_string_value(json_array_get(required, i))))
            return false;
    json_object_foreach(v, key, value)
    {
        const json_t *inner = json_object_get(properties, key);
        inner = inner ? inner : json_object_get(s, "additionalProperties");
        if (inner && !judge(root, inner, value))
            return false;
    }
    return true;
}

static bool judge_array(const json_t *root, const json_t *s, const json_t *v)
{
    const json_t *prefix = json_object_get(s, "prefixItems"), *items = json_object_get(s, "items");
    json_int_t n = (json_int_t)json_array_size(v);
    if (n < count_of(s, "minItems", 0) || n > count_of(s, "maxItems", n))
        return false;
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *inner = i < json_array_size(prefix) ? json_array_get(prefix, i) : items;
        if (inner && !judge(root, inner, json_array_get(v, i)))
            return false;
    }
    return true;
}

static bool judge_any(const json_t *root, const json_t *any, const json_t *v)
{
    bool some = false;
    for (size_t i = 0; i < json_array_size(any); i++)
        some |= judge(root, json_array_get(any, i), v);
    return some;
}

static bool judge_scalar(const json_t *s, const json_t *v)
{
    const json_t *pattern = json_object_get(s, "pattern");
    if (json_is_string(v)) {
        json_int_t n = (json_int_t)code_points(json_string_value(v));
        return n >= count_of(s, "minLength", 0) && n <= count_of(s, "maxLength", n) &&
               (!pattern || pattern_matches(json_string_value(pattern), json_string_value(v)));
    }
    json_int_t x = json_integer_value(v);
    return !json_is_integer(v) ||
           (x >= count_of(s, "minimum", x) && x <= count_of(s, "maximum", x));
}

static bool judge(const json_t *root, const json_t *s, const json_t *v)
{
    const json_t *any = json_object_get(s, "anyOf"), *list = json_object_get(s, "enum");
    if (json_is_boolean(s))
        return json_is_true(s);
    if (json_object_get(s, "$ref")) /* the only one there is */
        return judge(root, json_object_get(json_object_get(root, "$defs"), "n"), v);
    any = any ? any : json_object_get(s, "oneOf");
    if (any)
        return judge_any(root, any, v);
    if (list) {
        bool some = false;
        for (size_t i = 0; i < json_array_size(list); i++)
            some |= json_equal(json_array_get(list, i), v);
        return some;
    }
    if (!type_matches(json_object_get(s, "type"), v))
        return false;
    if (json_is_object(v))
        return judge_object(root, s, (json_t *)v);
    return json_is_array(v) ? judge_array(root, s, v) : judge_scalar(s, v);
}

/* What json_schema.h says of white space and numbers, read off the text; strings are skipped. */
static bool spelling_ok(const char *p, size_t n)
{
    size_t space = 0, digits = 0;
    bool exponent = false;
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '"') {
            for (i++; i < n && p[i] != '"'; i++)
                i += p[i] == '\\';
            space = digits = 0;
            exponent = false;
            continue;
        }
        bool is_space = strchr(" \t\n\r", p[i]) != NULL, is_digit = p[i] >= '0' && p[i] <= '9';
        space = is_space ? space + 1 : 0;
        exponent = is_digit || p[i] == '+' || p[i] == '-' ? exponent : p[i] == 'e' || p[i] == 'E';
        digits = is_digit ? digits + 1 : 0;
        if (space > JSON_MAX_SPACE || digits > (exponent ? 2 : 18))
            return false;
    }
    return space == 0;
}

/* 1 valid, 0 not, -1: two readers may differ on it (a key that comes twice, -0). */
static int judge_text(const json_t *schema, const char *p, size_t n)
{
    if (!spelling_ok(p, n))
        return 0;
    json_t *v = json_loadb(p, n, JSON_DECODE_ANY, NULL);
    json_t *strict = json_loadb(p, n, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
    int valid = v && judge(schema, schema, v);
    for (size_t i = 0; i + 1 < n; i++)
        if (p[i] == '-' && p[i + 1] == '0')
            valid = -1;
    if (v && !strict)
        valid = -1;
    json_decref(v);
    json_decref(strict);
    return valid;
}

/* --- */

struct bench {
    struct tokenizer *t;
    struct token_index *index;
    struct mask_scratch *scratch;
    size_t n_vocab;
    uint64_t *allowed;
};

static void bench_open(struct bench *b, const char *vocabulary)
{
    struct err e;
    b->t = NULL;
    if (!vocabulary)
        b->t = tokenizer_new_bytes();
    else
        assert_int_equal(tokenizer_open(vocabulary, &b->t, &e), 0);
    b->n_vocab = vocabulary ? tokenizer_used(b->t) + 7 : 256;
    b->index = token_index_new(b->t, b->n_vocab, &e);
    b->scratch = mask_scratch_new(b->index, &e);
    b->allowed = calloc(b->n_vocab / 64 + 1, sizeof *b->allowed);
    assert_true(b->t && b->index && b->scratch && b->allowed);
}

static void bench_close(struct bench *b)
{
    free(b->allowed);
    mask_scratch_free(b->scratch);
    token_index_free(b->index);
    tokenizer_free(b->t);
}

/* The mask by trying every token on a copy. */
static void check_mask(const struct bench *b, const struct constraint *c)
{
    size_t n = constraint_mask(c, b->index, b->scratch, b->allowed), want_n = 0;
    for (uint32_t id = 0; id < b->n_vocab; id++) {
        size_t len = 0;
        const char *p = id < tokenizer_vocab(b->t) ? tokenizer_token(b->t, id, &len) : NULL;
        bool want = false;
        if (p && tokenizer_is_end(b->t, id)) {
            want = constraint_is_complete(c);
        } else if (len > 0) {
            struct constraint *copy = constraint_clone(c);
            want = constraint_accept(copy, p, len);
            constraint_free(copy);
        }
        want_n += want;
        if ((b->allowed[id / 64] >> id % 64 & 1) != want)
            fail_msg("token %u is %s", id, want ? "not allowed" : "allowed");
    }
    assert_int_equal(n, want_n);
}

/* Samples a document with random logits; its text in out [cap], or -1 if it grew too long. Brackets
 * that close are likelier late, so that most documents end. */
static int64_t sample(const struct bench *b, const struct json_schema *schema, struct rng *r,
                      char *out, size_t cap, bool check)
{
    struct err e;
    struct sampling_params p = SAMPLING_DEFAULT;
    p.seed = rng_u32(r);
    struct sampler *s = sampler_new(&p, b->n_vocab, test_kern(), &e);
    struct constraint *c = constraint_new(schema, &e);
    float *logits = calloc(b->n_vocab, sizeof *logits);
    size_t n = 0, len;
    int64_t result = -1;
    while (n + 300 < cap) {
        if (check && rng_below(r, 8) == 0)
            check_mask(b, c);
        if (constraint_mask(c, b->index, b->scratch, b->allowed) == 0) {
            assert_true(constraint_is_final(c));
            result = (int64_t)n;
            break;
        }
        for (uint32_t i = 0; i < b->n_vocab; i++) {
            const char *bytes = i < tokenizer_vocab(b->t) ? tokenizer_token(b->t, i, &len) : NULL;
            bool closes = bytes && len > 0 && strchr("\"]}", bytes[len - 1]) != NULL;
            logits[i] = 2 * (float)rng_normal(r) + (closes ? 4 + (float)n / 50 : 0);
        }
        uint32_t id = sampler_pick_allowed(s, logits, b->allowed);
        const char *bytes = tokenizer_token(b->t, id, &len);
        if (tokenizer_is_end(b->t, id)) {
            assert_true(constraint_is_complete(c));
            result = (int64_t)n;
            break;
        }
        assert_true(constraint_accept(c, bytes, len));
        sampler_accept(s, id);
        memcpy(out + n, bytes, len);
        n += len;
    }
    free(logits);
    constraint_free(c);
    sampler_free(s);
    return result;
}

/* Whether the constraint takes the whole text as a document. */
static bool takes(const struct json_schema *schema, const char *p, size_t n)
{
    struct constraint *c = constraint_new(schema, NULL);
    bool taken = constraint_accept(c, p, n) && constraint_is_complete(c);
    constraint_free(c);
    return taken;
}

static void check_text(const struct json_schema *schema, const json_t *json, const char *text,
                       const char *p, size_t n)
{
    int want = judge_text(json, p, n);
    bool got = takes(schema, p, n);
    if (want >= 0 && got != want)
        fail_msg("%s: %.*s is %s by the judge", text, (int)n, p, want ? "valid" : "not valid");
}

/* Changes, drops, adds or repeats a byte or a few. */
static size_t mutate(struct rng *r, char *p, size_t n, size_t cap)
{
    static const char bytes[] = "\"\\{}[],: \n01-.eEtfnabu\xC3\xA9\x01";
    size_t at = n ? rng_below(r, n) : 0, k = 1 + rng_below(r, 3);
    char c = bytes[rng_below(r, sizeof bytes - 1)];
    switch (rng_below(r, 4)) {
    case 0:
        if (n)
            p[at] = c;
        return n;
    case 1:
        k = k < n - at ? k : n - at;
        memmove(p + at, p + at + k, n - at - k);
        return n - k;
    case 2:
        k = k < n - at ? k : n - at;
        if (n + k > cap)
            return n;
        memmove(p + at + k, p + at, n - at);
        return n + k;
    default:
        if (n == cap)
            return n;
        memmove(p + at + 1, p + at, n - at);
        p[at] = c;
        return n + 1;
    }
}

static void check_schema(const struct bench *b, struct rng *r, int64_t *documents)
{
    enum { CAP = 1500 };
    char out[CAP], changed[CAP];
    struct json_schema *schema = NULL;
    struct err e = {0};
    json_t *json;
    char *text = random_text(r, &json);
    if (json_schema_compile(text, strlen(text), &schema, &e) < 0)
        fail_msg("%s: %s", text, e.msg);
    for (int i = 0; i < 3; i++) {
        int64_t n = sample(b, schema, r, out, CAP, i == 0);
        if (n < 0)
            continue;
        ++*documents;
        if (judge_text(json, out, (size_t)n) == 0)
            fail_msg("%s: sampled %.*s", text, (int)n, out);
        check_text(schema, json, text, out, (size_t)n);
        json_t *v = json_loadb(out, (size_t)n, JSON_DECODE_ANY, NULL);
        char *spelt = json_dumps(v, JSON_INDENT(2) | JSON_ENCODE_ANY | JSON_ENSURE_ASCII |
                                        JSON_REAL_PRECISION(15)); /* another spelling */
        check_text(schema, json, text, spelt, strlen(spelt));
        for (int k = 0; k < 40; k++) {
            size_t len = (size_t)n;
            memcpy(changed, out, len);
            for (uint64_t times = 1 + rng_below(r, 2); times > 0; times--)
                len = mutate(r, changed, len, CAP);
            check_text(schema, json, text, changed, len);
        }
        free(spelt);
        json_decref(v);
    }
    json_schema_free(schema);
    json_decref(json);
    free(text);
}

static void check_vocabulary(const char *vocabulary, int rounds)
{
    struct bench b;
    struct rng r;
    int64_t documents = 0;
    bench_open(&b, vocabulary);
    rng_init(&r, 11, vocabulary ? 1 : 0);
    for (int i = 0; i < rounds; i++)
        check_schema(&b, &r, &documents);
    print_message("%d documents\n", (int)documents);
    assert_true(documents > 2 * rounds);
    bench_close(&b);
}

static void test_bytes(void **state)
{
    (void)state;
    check_vocabulary(NULL, 300);
}

static void test_tokens(void **state)
{
    (void)state;
    check_vocabulary("tests/data/vocab-small.txt", 150);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
