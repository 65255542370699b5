/* daemon/sessions.h: the longest state that a prompt begins with, of the same key, within bounds. */
#include "daemon/sessions.h"

#include "tests/lib/check.h"

#include <stdlib.h>
#include <string.h>

static const struct rwkv_info INFO = {
    .n_layer = 1, .n_embd = 4, .head_size = 2, .n_head = 2, .n_vocab = 8};
static const struct model MODEL = {.rwkv_info = &INFO}, OTHER = {.rwkv_info = &INFO};

enum { STATE = 16, VOCAB = 8 }; /* floats */

/* Parks a state full of `value` that has read the letters of `said`. */
static void park(struct sessions *s, struct session_key key, const char *said, float value)
{
    uint32_t ids[64];
    float state[STATE], logits[VOCAB];
    size_t n = strlen(said);
    assert_int_equal(rwkv_state_floats(&INFO), STATE);
    for (size_t i = 0; i < n; i++)
        ids[i] = (uint32_t)said[i];
    for (size_t i = 0; i < STATE; i++)
        state[i] = value;
    for (size_t i = 0; i < VOCAB; i++)
        logits[i] = -value;
    sessions_park(s, &key, ids, n / 2, ids + n / 2, n - n / 2, state, logits);
}

/* The value of the state that is found for the prompt, and how much it has read; 0 and 0: none. */
static float find(struct sessions *s, struct session_key key, const char *prompt, size_t *read)
{
    uint32_t ids[64];
    float state[STATE] = {0}, logits[VOCAB] = {0};
    size_t n = strlen(prompt);
    for (size_t i = 0; i < n; i++)
        ids[i] = (uint32_t)prompt[i];
    *read = sessions_find(s, &key, ids, n, state, logits);
    for (size_t i = 0; i < STATE; i++)
        assert_true(state[i] == state[0]);
    for (size_t i = 0; i < VOCAB; i++)
        assert_true(logits[i] == -state[0]);
    return state[0];
}

static const struct session_key KEY = {&MODEL, "anna", "", ""};

static void test_longest(void **st)
{
    (void)st;
    size_t read;
    struct sessions *s = sessions_new(10, 1 << 20);
    assert_non_null(s);
    park(s, KEY, "hello", 1);
    park(s, KEY, "hello there", 2);
    park(s, KEY, "help", 3);
    park(s, KEY, "", 4);
    const struct {
        const char *prompt;
        float value;
        size_t read;
    } cases[] = {{"hello there!", 2, 11},
                 {"hello there", 2, 11},
                 {"hello then", 1, 5},
                 {"hello", 1, 5},
                 {"hell", 0, 0},
                 {"helped", 3, 4},
                 {"", 0, 0},
                 {"jello there", 0, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_true(find(s, KEY, cases[i].prompt, &read) == cases[i].value);
        assert_int_equal(read, cases[i].read);
    }
    const struct session_key others[] = {{&OTHER, "anna", "", ""},
                                         {&MODEL, "bert", "", ""},
                                         {&MODEL, "", "", ""},
                                         {&MODEL, "anna", "p@1", ""},
                                         {&MODEL, "anna", "", "c0ffee"}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_true(find(s, others[i], "hello there", &read) == 0 && read == 0);
    sessions_free(s);
}

static void test_bounds(void **st)
{
    (void)st;
    size_t read;
    struct sessions_counts c;
    struct sessions *s = sessions_new(2, 1 << 20);
    assert_non_null(s);
    park(s, KEY, "a", 1);
    park(s, KEY, "b", 2);
    park(s, KEY, "a", 9); /* there is one */
    sessions_get_counts(s, &c);
    assert_true(c.n == 2 && c.parked == 2 && c.evicted == 0 && c.bytes > 2 * 24 * 4);
    park(s, KEY, "c", 3); /* b was unused for longest */
    assert_true(find(s, KEY, "b", &read) == 0);
    assert_true(find(s, KEY, "a", &read) == 1);
    sessions_get_counts(s, &c);
    assert_true(c.n == 2 && c.evicted == 1);
    uint64_t two = c.bytes;
    sessions_free(s);

    assert_non_null(s = sessions_new(100, two));
    for (char name[2] = "a"; *name < 'k'; ++*name)
        park(s, KEY, name, 1);
    park(s, KEY, "the room of two, nearly so now", 2);
    sessions_get_counts(s, &c);
    assert_true(c.bytes <= two && c.n == 1);
    sessions_free(s);

    assert_non_null(s = sessions_new(0, two));
    park(s, KEY, "a", 1);
    assert_true(find(s, KEY, "a", &read) == 0 && read == 0);
    sessions_free(s);
    assert_non_null(s = sessions_new(5, 10));
    park(s, KEY, "a", 1);
    assert_true(find(s, KEY, "a", &read) == 0 && read == 0);
    sessions_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_longest),
                                       cmocka_unit_test(test_bounds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
