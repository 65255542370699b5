/* daemon/output.h: whole characters, held-back stop strings, records that wait for their stream. */
#include "daemon/output.h"

#include "tests/lib/check.h"

#include <math.h>
#include <stdlib.h>

struct fixture {
    struct model model;
    struct rwkv_info info;
    struct stream stream;
    struct completion *c;
    struct output out;
};

static void open_output(struct fixture *f, const char *stop, size_t limit)
{
    struct err e;
    *f = (struct fixture){.info = {.n_vocab = 256}};
    f->model.tokenizer = tokenizer_new_bytes();
    f->model.rwkv_info = &f->info;
    f->c = completion_new();
    assert_true(f->model.tokenizer && f->c);
    assert_int_equal(stream_init(&f->stream, limit), 0);
    if (stop) {
        f->c->n_stops = 1;
        f->c->stops = calloc(1, sizeof *f->c->stops);
        f->c->stop_lens = calloc(1, sizeof *f->c->stop_lens);
        assert_true(f->c->stops && f->c->stop_lens);
        f->c->stops[0] = strdup(stop);
        f->c->stop_lens[0] = strlen(stop);
    }
    assert_int_equal(output_init(&f->out, &f->model, &f->stream, f->c, &e), 0);
}

static void close_output(struct fixture *f)
{
    output_fini(&f->out);
    stream_fini(&f->stream);
    tokenizer_free(f->model.tokenizer);
    call_unref(&f->c->call);
}

/* Feeds the bytes as tokens; true when a stop string ended it. */
static bool say(struct fixture *f, const char *text)
{
    struct output_step step = {0};
    struct err e;
    for (; *text && !step.stopped; text++)
        assert_int_equal(output_token(&f->out, (uint8_t)*text, NULL, false, &step, &e), 0);
    return step.stopped;
}

/* The texts of the records now in the stream, with '|' behind each. */
static const char *texts(struct fixture *f, struct buf *all)
{
    struct buf batch;
    const void *p;
    size_t at = 0, n;
    buf_reset(all);
    buf_puts(all, "");
    buf_init(&batch, 1u << 20);
    if (stream_take(&f->stream, &batch) == STREAM_DATA)
        while ((p = stream_next_record(&batch, &at, &n))) {
            struct token_event t;
            memcpy(&t, p, sizeof t);
            assert_int_equal(n, sizeof t + t.piece_bytes + t.text_bytes);
            assert_true(isnan(t.logprob));
            buf_append(all, (const char *)p + sizeof t + t.piece_bytes, t.text_bytes);
            buf_puts(all, "|");
        }
    buf_fini(&batch);
    return all->data;
}

static void test_whole_characters(void **state)
{
    (void)state;
    struct fixture f;
    struct buf all;
    struct err e;
    buf_init(&all, 10000);
    open_output(&f, NULL, 10000);
    say(&f, "a\xc3\xa4\xe2\x82\xac!");
    assert_string_equal(texts(&f, &all), "a||\xc3\xa4|||\xe2\x82\xac|!|");
    say(&f, "\xff"
            "b\xf0\x9f\x98");
    assert_string_equal(texts(&f, &all), "\xef\xbf\xbd|b||||");
    assert_int_equal(output_end(&f.out, false, &e), 0);
    assert_string_equal(texts(&f, &all), "\xef\xbf\xbd|"); /* a character that never came */
    assert_int_equal(output_end(&f.out, false, &e), 0);
    assert_string_equal(texts(&f, &all), "");
    buf_fini(&all);
    close_output(&f);
}

static void test_stop_is_never_shown(void **state)
{
    (void)state;
    struct fixture f;
    struct buf all;
    struct err e;
    buf_init(&all, 10000);
    open_output(&f, "\n\nQ", 10000);
    assert_false(say(&f, "x\n\n\nR"));
    assert_string_equal(texts(&f, &all), "x|||\n|\n\nR|");
    assert_true(say(&f, "\n\nQmore"));
    assert_int_equal(output_end(&f.out, true, &e), 0);
    assert_string_equal(texts(&f, &all), "|||");
    close_output(&f);
    open_output(&f, "\n\nQ", 10000);
    assert_false(say(&f, "y\n\n"));
    assert_int_equal(output_held(&f.out), 2);
    assert_int_equal(output_end(&f.out, false, &e), 0); /* it did not come after all */
    assert_string_equal(texts(&f, &all), "y|||\n\n|");
    close_output(&f);
    buf_fini(&all);
}

static void test_waiting_records(void **state)
{
    (void)state;
    struct fixture f;
    struct buf all, got;
    buf_init(&all, 10000);
    buf_init(&got, 10000);
    open_output(&f, NULL, 100);
    say(&f, "abcdefghij");
    size_t rounds = 0;
    for (bool done = false; !done; rounds++) {
        done = output_flush(&f.out);
        buf_puts(&got, texts(&f, &all));
    }
    assert_true(rounds > 2);
    buf_puts(&got, texts(&f, &all));
    assert_string_equal(got.data, "a|b|c|d|e|f|g|h|i|j|");
    buf_fini(&all);
    buf_fini(&got);
    close_output(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_characters),
        cmocka_unit_test(test_stop_is_never_shown),
        cmocka_unit_test(test_waiting_records),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
