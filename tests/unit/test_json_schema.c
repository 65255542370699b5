/* JSON schemas for constrained decoding: what is refused and how it is told, documents one by one,
 * hostile schemas, lack of memory; patterns against regcomp. */
#include "engine/kernels/rng.h"
#include "engine/sampling/constraint.h"
#include "engine/sampling/pattern.h"
#include "engine/tokenizer/tokenizer.h"
#include "tests/lib/alloc_fail.h"
#include "tests/lib/check.h"

#include <regex.h>
#include <stdlib.h>

static struct json_schema *compile(const char *text)
{
    struct json_schema *s = NULL;
    struct err e = {0};
    if (json_schema_compile(text, strlen(text), &s, &e) < 0)
        fail_msg("%s: %s", text, e.msg);
    return s;
}

static bool takes(const struct json_schema *s, const char *text)
{
    struct constraint *c = constraint_new(s, NULL);
    assert_non_null(c);
    bool taken = constraint_accept(c, text, strlen(text)) && constraint_is_complete(c);
    constraint_free(c);
    return taken;
}

static void check(const char *schema, const char *const *yes, const char *const *no)
{
    struct json_schema *s = compile(schema);
    for (; *yes; yes++)
        if (!takes(s, *yes))
            fail_msg("%s does not take %s", schema, *yes);
    for (; *no; no++)
        if (takes(s, *no))
            fail_msg("%s takes %s", schema, *no);
    json_schema_free(s);
}
#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})

static void test_documents(void **state)
{
    (void)state;
    check("true",
          LIST("1", "-0", "-0.5e-10", "\"\\ud83d\\ude00\"", "[]", "{\"a\":[{}]}", " \n null"),
          LIST("", "01", "1.", ".5", "1e", "+1", "1e100", "nul", "[1,]", "{\"a\"}", "1 ",
               "\"\\ud83d\"", "\"\\ude00\"", "\"\\u0000\"", "\"\xC0\x80\"", "\"\xED\xA0\x80\"",
               "\"\xF4\x90\x80\x80\"", "\"\xE6\x97\"", "\"\n\"", "\"\\x\"", "1234567890123456789"));
    check("{\"type\":\"integer\",\"exclusiveMinimum\":-12,\"maximum\":120.5}",
          LIST("-11", "0", "7", "120"), LIST("-12", "121", "-0", "1.0", "00", "1e1", "-"));
    check("{\"type\":\"integer\",\"minimum\":100,\"maximum\":199}", LIST("100", "155"),
          LIST("1", "15", "2", "99", "200", "-100"));
    check("{\"enum\":[1,1.5,0.1,\"x\",null,[1,{\"a\":2}]]}",
          LIST("1", "1.5", "0.1", "\"x\"", "\"\\u0078\"", "null", "[1,{\"a\":2}]"),
          LIST("1.50", "2", "\"y\"", "true", "[1, {\"a\":2}]", "\"\"", "1."));
    check("{\"type\":\"string\",\"enum\":[1,\"x\"]}", LIST("\"x\""), LIST("1"));
    check("{\"const\":true}", LIST("true"), LIST("false", "1"));
    check(
        "{\"prefixItems\":[{\"type\":\"null\"},{\"const\":1}],\"items\":false,\"type\":\"array\"}",
        LIST("[]", "[null]", "[ null , 1 ]"), LIST("[1]", "[null,1,1]", "[null,]"));
    check(
        "{\"type\":\"object\",\"properties\":{\"a\":{},\"ab\":{\"const\":1}},\"required\":[\"ab\","
        "\"z\"],\"additionalProperties\":{\"type\":\"null\"}}",
        LIST("{\"z\":null,\"ab\":1}", "{\"\\u0061b\":1,\"a\":{},\"z\":null,\"y\":null}"),
        LIST("{\"ab\":1}", "{\"ab\":1,\"ab\":1,\"z\":null}", "{\"ab\":1,\"z\":1}", "{\"z\":null}"));
    check("{\"type\":\"object\",\"properties\":{\"a\":true},\"required\":[\"a\"],"
          "\"additionalProperties\":false}",
          LIST("{\"a\":[]}"), LIST("{}", "{\"b\":1}", "{\"a\":1,}"));
    check("{\"minLength\":2,\"maxLength\":2}", LIST("\"\xC3\xA9\\n\"", "12", "[]"),
          LIST("\"a\"", "\"abc\""));
}

static void test_recursion(void **state)
{
    (void)state;
    const char *list =
        "{\"$defs\":{\"a/b\":{\"type\":\"object\",\"properties\":{\"n\":{\"anyOf\":[{"
        "\"$ref\":\"#/$defs/a~1b\"},{\"type\":\"null\"}]}},\"required\":[\"n\"],"
        "\"additionalProperties\":false}},\"$ref\":\"#/$defs/a~1b\"}";
    check(list, LIST("{\"n\":null}", "{\"n\":{\"n\":{\"n\":null}}}"), LIST("{}", "{\"n\":{}}"));
    struct json_schema *s = compile(list);
    struct constraint *c = constraint_new(s, NULL);
    for (int i = 0; i < JSON_MAX_DEPTH; i++)
        assert_true(constraint_accept(c, "{\"n\":", 5));
    struct constraint *deeper = constraint_clone(c);
    assert_false(constraint_accept(deeper, "{", 1)); /* at the limit only the flat value is left */
    assert_false(constraint_accept(deeper, "n", 1)); /* refused once, refused for good */
    assert_true(constraint_accept(c, "null", 4));
    for (int i = 0; i < JSON_MAX_DEPTH; i++) {
        assert_false(constraint_is_complete(c));
        assert_true(constraint_accept(c, "}", 1));
    }
    assert_true(constraint_is_complete(c) && constraint_is_final(c));
    constraint_free(deeper);
    constraint_free(c);
    json_schema_free(s);
}

static void test_json_object(void **state)
{
    (void)state;
    struct json_schema *s = json_schema_new_object(NULL);
    assert_true(takes(s, "{\"a\":[1,{\"b\":\"c\"}]}"));
    assert_false(takes(s, "[1]"));
    struct constraint *c = constraint_new(s, NULL);
    char space[JSON_MAX_SPACE + 1];
    memset(space, ' ', sizeof space);
    assert_true(constraint_accept(c, space, JSON_MAX_SPACE));
    assert_false(constraint_accept(c, space, 1));
    constraint_free(c);
    json_schema_free(s);
    s = compile("{\"type\":\"number\"}"); /* complete, but it may grow */
    c = constraint_new(s, NULL);
    assert_true(constraint_accept(c, "1", 1) && constraint_is_complete(c));
    assert_false(constraint_is_final(c));
    assert_true(constraint_accept(c, "e1", 2) && constraint_accept(c, "0", 1));
    assert_true(constraint_is_complete(c) && constraint_is_final(c));
    constraint_free(c);
    json_schema_free(s);
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *schema, *says;
    } cases[] = {
        {"", "not the JSON"},
        {"{\"type\":\"object\",\"type\":\"object\"}", "not the JSON"},
        {"[]", "a schema is wanted"},
        {"{\"type\":\"text\"}", "\"type\" at #: want"},
        {"{\"type\":[]}", "\"type\" at #"},
        {"{\"type\":[\"null\",7]}", "\"type\" at #"},
        {"{\"properties\":{\"a\":{\"format\":\"date\"}}}",
         "\"format\" at #/properties/a: this keyword is not supported"},
        {"{\"prefixItems\":[true,{\"not\":{}}]}", "\"not\" at #/prefixItems/1: this"},
        {"{\"minLength\":-1}", "\"minLength\" at #"},
        {"{\"minLength\":1.5}", "\"minLength\" at #"},
        {"{\"minimum\":1}", "\"integer\" only"},
        {"{\"type\":\"number\",\"maximum\":1}", "\"integer\" only"},
        {"{\"type\":\"integer\",\"minimum\":2,\"maximum\":1}", "no document"},
        {"{\"enum\":[]}", "\"enum\" at #"},
        {"{\"enum\":[1],\"const\":1}", "\"const\" at #"},
        {"{\"enum\":[1],\"minLength\":1}", "annotations only"},
        {"{\"type\":\"string\",\"enum\":[1]}", "no document"},
        {"{\"anyOf\":[{}],\"type\":\"null\"}", "annotations only"},
        {"{\"anyOf\":[]}", "\"anyOf\" at #"},
        {"{\"$ref\":\"#/$defs/none\"}", "\"$ref\" at #"},
        {"{\"$ref\":\"other.json\"}", "\"$ref\" at #"},
        {"{\"$ref\":\"#\"}", "refers to itself"},
        {"{\"$defs\":{\"a\":{\"$ref\":\"#/$defs/b\"},\"b\":{\"$ref\":\"#/$defs/a\"}},"
         "\"items\":{\"$ref\":\"#/$defs/a\"}}",
         "refers to itself"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}",
         "no document"},
        {"{\"anyOf\":[{\"$ref\":\"#\"}]}", "no document"},
        {"false", "no document"},
        {"{\"required\":[1]}", "\"required\" at #"},
        {"{\"properties\":[]}", "\"properties\" at #"},
        {"{\"items\":[{}]}", "\"items\" at #"},
        {"{\"pattern\":\"(\"}", "\"pattern\" at #"},
        {"{\"pattern\":\"a\",\"minLength\":1}", "\"pattern\" at #"},
        {"{\"type\":\"string\",\"pattern\":\"[^\\\\s\\\\S]\"}", "no document"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct json_schema *s = NULL;
        struct err e = {0};
        int rc = json_schema_compile(cases[i].schema, strlen(cases[i].schema), &s, &e);
        if (rc != ERR_INVALID || s || !strstr(e.msg, cases[i].says))
            fail_msg("%s: \"%s\", want \"%s\"", cases[i].schema, e.msg, cases[i].says);
        assert_string_equal(e.param, "response_format");
    }
}

/* Text made of n repetitions between a head and a tail. */
static char *repeated(const char *head, const char *body, size_t n, const char *tail)
{
    size_t cap = strlen(head) + n * (strlen(body) + 12) + strlen(tail) + 1, len = 0;
    char *text = malloc(cap);
    len += (size_t)snprintf(text, cap, "%s", head);
    for (size_t i = 0; i < n; i++) {
        const char *hash = strchr(body, '#'); /* the number of the repetition */
        if (hash)
            len += (size_t)snprintf(text + len, cap - len, "%.*s%zu%s", (int)(hash - body), body, i,
                                    hash + 1);
        else
            len += (size_t)snprintf(text + len, cap - len, "%s", body);
    }
    snprintf(text + len, cap - len, "%s", tail);
    return text;
}

static void test_hostile(void **state)
{
    (void)state;
    static const struct {
        const char *head, *body;
        size_t n;
        const char *tail;
        bool refused;
    } cases[] = {
        {"", "{\"items\":", 1500, "1", true}, /* unclosed */
        {"{\"prefixItems\":[", "{\"title\":\"#\"},", 3000, "{}]}", true},
        {"{\"properties\":{", "\"p#\":{},", 200, "\"q\":{}}}", true},
        {"{\"required\":[", "\"p#\",", 5000, "\"q\"]}", true},
        {"{\"enum\":[", "#,", 5000, "1]}", true},
        {"{\"enum\":[", "#,", 1000, "1]}", false},
        {"{\"anyOf\":[", "{\"title\":\"#\"},", 40, "{}]}", true},
        {"{\"pattern\":\"", "(", 1000, "\"}", true},
        {"{\"pattern\":\"", "((){100}){100}", 50, "\"}", true},
        {"{\"pattern\":\"", "a{1000}", 1, "\"}", true},
        {"{\"properties\":{", "\"p#\":{\"type\":\"null\"},", 120, "\"q\":{}}}", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *text = repeated(cases[i].head, cases[i].body, cases[i].n, cases[i].tail);
        struct json_schema *s = NULL;
        struct err e = {0};
        int rc = json_schema_compile(text, strlen(text), &s, &e);
        if (rc != (cases[i].refused ? ERR_INVALID : 0))
            fail_msg("case %zu: %d %s", i, rc, e.msg);
        json_schema_free(s);
        free(text);
    }
    char *huge = calloc(1, JSON_SCHEMA_MAX_TEXT + 2);
    memset(huge, ' ', JSON_SCHEMA_MAX_TEXT + 1);
    struct json_schema *s;
    assert_int_equal(json_schema_compile(huge, JSON_SCHEMA_MAX_TEXT + 1, &s, NULL), ERR_INVALID);
    free(huge);
    /* Every bracket opens three readings more: they stay bounded, the document possible. */
    check("{\"anyOf\":[{\"type\":\"array\",\"maxItems\":3,\"items\":{\"$ref\":\"#\"}},{\"type\":"
          "\"array\",\"items\":{\"$ref\":\"#\"}},{\"type\":\"array\",\"maxItems\":2,\"items\":{"
          "\"$ref\":\"#\"}}]}",
          LIST("[[[[[[[]]],[[]],[[[[]]]]]]],[[[[]]]]]"), LIST("[[[[[1]]]]]", "[[[[]]]"));
}

/* Whether the whole of s matches, stepped through the automaton. */
static bool pattern_takes(const struct pattern *p, const char *s)
{
    struct pattern_state st = pattern_begin(p);
    for (; *s; s++) {
        bool may = pattern_may(p, &st, (unsigned char)*s, (unsigned char)*s);
        st = pattern_step(p, &st, (unsigned char)*s);
        assert_int_equal(may, !pattern_is_dead(&st));
    }
    return st.matches;
}

/* Texts over a small alphabet, for patterns that mean the same to POSIX. */
static void test_patterns(void **state)
{
    (void)state;
    static const char *const patterns[] = {
        "^(a|b)*abb$", "a{2,3}",  "^a{0}b?$",   "^(ab?){2,}c*$", "^[^a]b|c$", "^(a(b|c){2})+",
        "b$",          "^$",      "^(a|)(b|)$", "[a-c]{3}.c",    "^(a*)*b$",  "^((a|b){2}){2}$",
        "^a.c$|^b+$",  "c{0,2}a",
    };
    struct rng r;
    rng_init(&r, 3, 0);
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++) {
        const char *why;
        struct pattern *p = pattern_new(patterns[i], &why);
        regex_t re;
        if (!p)
            fail_msg("%s: %s", patterns[i], why);
        assert_int_equal(regcomp(&re, patterns[i], REG_EXTENDED | REG_NOSUB), 0);
        for (int k = 0; k < 2000; k++) {
            char text[10] = {0};
            for (size_t n = rng_below(&r, 9); n > 0; n--)
                text[n - 1] = (char)('a' + rng_below(&r, 3));
            bool want = regexec(&re, text, 0, NULL, 0) == 0;
            if (pattern_takes(p, text) != want)
                fail_msg("%s: %s is %d", patterns[i], text, !want);
        }
        regfree(&re);
        pattern_free(p);
    }
    static const char *const bad[] = {"(",   ")",     "a)",    "[a",     "a{",     "a{2,1}", "*a",
                                      "a**", "(?=a)", "\\1",   "\\b",    "\\p{L}", "a^b",    "(^a)",
                                      "$a",  "[z-a]", "\\u12", "a{200}", "\\"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const char *why = NULL;
        if (pattern_new(bad[i], &why) || !why)
            fail_msg("%s is taken", bad[i]);
    }
}

static int use_everything(void *arg)
{
    const char *text = arg;
    struct tokenizer *t = NULL;
    struct json_schema *s = NULL, *object = NULL;
    struct constraint *c = NULL, *copy = NULL;
    struct token_index *x = NULL;
    struct mask_scratch *m = NULL;
    struct err e = {0};
    uint64_t allowed[4];
    int rc = json_schema_compile(text, strlen(text), &s, &e);
    assert_int_equal(rc, e.code);
    if (rc == 0 && !(t = tokenizer_new_bytes()))
        rc = ERR_NOMEM;
    if (rc == 0 && !(object = json_schema_new_object(&e)))
        rc = e.code;
    if (rc == 0 && !(c = constraint_new(s, &e)))
        rc = e.code;
    if (rc == 0 && !(copy = constraint_clone(c)))
        rc = ERR_NOMEM;
    if (rc == 0 && (!(x = token_index_new(t, 256, &e)) || !(m = mask_scratch_new(x, &e))))
        rc = e.code;
    if (rc == 0)
        assert_true(constraint_mask(copy, x, m, allowed) > 0);
    mask_scratch_free(m);
    token_index_free(x);
    constraint_free(copy);
    constraint_free(c);
    json_schema_free(object);
    json_schema_free(s);
    tokenizer_free(t);
    return rc;
}

static void test_memory(void **state)
{
    (void)state;
    char text[] =
        "{\"type\":\"object\",\"properties\":{\"a\":{\"anyOf\":[{\"enum\":[1.5,\"x\",[2]]},{"
        "\"pattern\":\"a+\"}]},\"b\":{\"prefixItems\":[{\"$ref\":\"#\"}]}},\"required\":[\"a\"]}";
    assert_true(alloc_sweep(use_everything, text) > 15);
    alloc_sweep_json(use_everything, text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_documents),   cmocka_unit_test(test_recursion),
        cmocka_unit_test(test_json_object), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_hostile),     cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
