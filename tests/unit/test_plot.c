/* Charts: their text is escaped, what is odd is left out, the same chart gives the same bytes. With a
 * folder as argument they are written there, to be looked at. */
#include "tests/lib/points.h"

#include "engine/manifold/plot.h"

#include <math.h>
#include <stdlib.h>

static const char *folder;

static void keep(const char *name, const struct buf *b)
{
    char path[512];
    if (!folder)
        return;
    snprintf(path, sizeof path, "%s/%s.svg", folder, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fwrite(b->data, 1, b->len, f);
    fclose(f);
}

static size_t count(const char *s, const char *what)
{
    size_t n = 0;
    for (; (s = strstr(s, what)); s += strlen(what))
        n++;
    return n;
}

static void write(const struct plot *p, const char *name, struct buf *b)
{
    struct err e = {0};
    struct buf again;
    buf_init(b, (size_t)4 << 20);
    buf_init(&again, (size_t)4 << 20);
    assert_int_equal(plot_write(p, b, &e), 0);
    assert_int_equal(plot_write(p, &again, &e), 0);
    assert_int_equal(b->len, again.len);
    assert_memory_equal(b->data, again.data, b->len);
    buf_fini(&again);
    keep(name, b);
}

static void test_scatter(void **state)
{
    (void)state;
    enum { S = 9, N = 60 };
    struct plot_series series[S];
    float *xy[S];
    char names[S][64];
    for (size_t s = 0; s < S; s++) {
        xy[s] = draw_normal(2 * N, s);
        for (size_t i = 0; i < 2 * N; i++)
            xy[s][i] += (float)(8 * (i % 2 ? cos((double)s) : sin((double)s)));
        snprintf(names[s], sizeof names[s], "author %zu", s);
        series[s] = (struct plot_series){names[s], xy[s], N, 0};
    }
    series[3].name = "a <b> & \"c\"\n\x01 \xff\xc0\x80 \xed\xa0\x80";
    series[4].name = "a name that is far too long for the legend, \xc3\xa9\xc3\xa9\xc3\xa9";
    series[5].name = "gr\xc3\xbc\xc3\x9f dich \xf0\x9f\xa7\xad";
    xy[0][3] = NAN, xy[1][0] = INFINITY;
    struct plot p = {.title = "States by author & <book>",
                     .subtitle = "540 states, silhouette 0.31, 5-NN accuracy 0.97",
                     .x_label = "principal component 1 (31 %)",
                     .y_label = "principal component 2 (12 %)",
                     .series = series,
                     .n_series = S};
    struct buf b;
    write(&p, "scatter", &b);
    assert_int_equal(count(b.data, "<use href"), S * N - 2);
    assert_int_equal(count(b.data, "nan") + count(b.data, "inf"), 0);
    assert_non_null(strstr(b.data, "States by author &#38; &#60;book&#62;"));
    assert_non_null(strstr(b.data, ">a &#60;b&#62; &#38; &#34;c&#34;\xef\xbf\xbd\xef\xbf\xbd "));
    assert_null(strstr(b.data, "\x01"));
    assert_null(strstr(b.data, "\xff"));
    assert_non_null(strstr(b.data, ">a name that is far too l\xe2\x80\xa6<"));
    assert_non_null(strstr(b.data, "gr\xc3\xbc\xc3\x9f dich \xf0\x9f\xa7\xad"));
    buf_fini(&b);
    for (size_t s = 0; s < S; s++)
        free(xy[s]);
}

static void test_lines(void **state)
{
    (void)state;
    enum { N = 200 };
    float loss[2 * N], held[2 * N];
    for (size_t i = 0; i < N; i++) {
        loss[2 * i] = held[2 * i] = (float)(i * 50);
        loss[2 * i + 1] = (float)(1.2 + 3 * exp(-(double)i / 30) + .03 * sin((double)(i * i)));
        held[2 * i + 1] = i % 10 ? NAN : loss[2 * i + 1] + .1f;
    }
    held[1] = NAN;
    struct plot_series series[] = {
        {"training", loss, N, 0}, {"held out", held, N, 0}, {"empty", NULL, 0, 0}};
    struct plot p = {.title = "Loss",
                     .x_label = "step",
                     .y_label = "bits a byte",
                     .lines = true,
                     .series = series,
                     .n_series = 3};
    struct buf b;
    write(&p, "lines", &b);
    assert_int_equal(count(b.data, "nan"), 0);
    assert_non_null(strstr(b.data, ">10000<"));
    buf_fini(&b);
}

/* Two of a group share the first colour and differ in dashes; the third has the second colour. */
static void test_groups(void **state)
{
    (void)state;
    float xy[] = {0, 1, 1, 0};
    struct plot_series series[] = {{"a, 1", xy, 2, 1}, {"b, 1", xy, 2, 2}, {"a, 2", xy, 2, 1}};
    const struct plot p = {.lines = true, .series = series, .n_series = 3};
    struct buf b;
    write(&p, "groups", &b);
    assert_int_equal(count(b.data, "#0072B2"), 4); /* the line and the legend's */
    assert_int_equal(count(b.data, "#E69F00"), 2);
    assert_int_equal(count(b.data, "stroke-dasharray=\"\""), 4);
    assert_int_equal(count(b.data, "stroke-dasharray=\"7,3\""), 2);
    buf_fini(&b);
}

static void test_odd(void **state)
{
    (void)state;
    float one[] = {5, 5}, huge[] = {-3e38f, 3e38f, 3e38f, -3e38f};
    struct plot_series series[40];
    struct plot p = {.title = NULL, .series = series};
    struct buf b;
    write(&p, "empty", &b);
    assert_non_null(strstr(b.data, "</svg>"));
    buf_fini(&b);
    for (size_t i = 0; i < 40; i++)
        series[i] = (struct plot_series){"s", i % 2 ? one : huge, i % 2 ? 1 : 2, 0};
    p.n_series = 40;
    p.no_ticks = true;
    write(&p, "many", &b);
    assert_non_null(strstr(b.data, "and 16 more"));
    assert_int_equal(count(b.data, "nan") + count(b.data, "inf"), 0);
    buf_fini(&b);
    struct err e = {0};
    buf_init(&b, 100);
    assert_int_equal(plot_write(&p, &b, &e), ERR_NOMEM);
    buf_fini(&b);
}

int main(int argc, char **argv)
{
    folder = argc > 1 ? argv[1] : NULL;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scatter),
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_odd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
