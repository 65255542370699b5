#include "engine/manifold/plot.h"

#include "engine/tokenizer/tokenizer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define WIDTH      880
#define HEIGHT     600
#define LEFT       78
#define TOP        64
#define AREA_W     560
#define AREA_H     464
#define NAME_CHARS 24 /* of a legend's name that are shown */
#define TICKS      6
#define TEXT_BYTES 1024 /* of a text that are looked at */

static const char *const colors[] = {"#0072B2", "#E69F00", "#009E73", "#CC79A7",
                                     "#56B4E9", "#D55E00", "#000000", "#B8A800"};
#define N_COLORS (sizeof colors / sizeof colors[0])

/* Around (0, 0), about 4 wide. Seven against eight colours: 56 pairs before one comes again. */
static const char *const shapes[] = {
    "M-3.4,0a3.4,3.4 0 1,0 6.8,0a3.4,3.4 0 1,0 -6.8,0z",           /* circle */
    "M-3,-3h6v6h-6z",                                              /* square */
    "M0,-4.2L3.9,2.8H-3.9z",                                       /* triangle */
    "M0,-4.4L4.4,0L0,4.4L-4.4,0z",                                 /* diamond */
    "M0,4.2L3.9,-2.8H-3.9z",                                       /* triangle, down */
    "M-1.3,-4h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7z",  /* plus */
    "M-4,-2L-2,-4L0,-2L2,-4L4,-2L2,0L4,2L2,4L0,2L-2,4L-4,2L-2,0z", /* cross */
};
#define N_SHAPES (sizeof shapes / sizeof shapes[0])

static const char *const dashes[] = {"", "7,3", "2,2", "9,3,2,3"};
#define N_DASHES (sizeof dashes / sizeof dashes[0])

struct range {
    double low, high;
};

struct chart {
    const struct plot *p;
    struct buf *out;
    struct range x, y;
};

/* ---- text ---- */

/* At most `most` characters of s: UTF-8 made valid, markup escaped, what XML does not take replaced. */
static void put_text(struct buf *out, const char *s, size_t most)
{
    struct buf valid;
    size_t chars = 0, n;
    buf_init(&valid, 3 * TEXT_BYTES); /* a byte may become the 3 of U+FFFD */
    utf8_append_valid(&valid, s, strnlen(s, TEXT_BYTES));
    out->failed |= valid.failed;
    for (const char *p = valid.data; p && *p && chars < most; p += n, chars++) {
        n = 1;
        while (((unsigned char)p[n] & 0xc0) == 0x80)
            n++;
        if ((unsigned char)*p < 0x20 || *p == 0x7f || !strncmp(p, "\xef\xbf\xbe", 3) ||
            !strncmp(p, "\xef\xbf\xbf", 3))
            buf_puts(out, "\xef\xbf\xbd");
        else if (strchr("&<>\"", *p))
            buf_printf(out, "&#%d;", *p);
        else
            buf_append(out, p, n);
        if (chars + 1 == most && p[n])
            buf_puts(out, "\xe2\x80\xa6"); /* an ellipsis */
    }
    buf_fini(&valid);
}

static void put_line(struct buf *out, const char *attributes, const char *s, size_t most)
{
    if (!s || !*s)
        return;
    buf_printf(out, "<text %s>", attributes);
    put_text(out, s, most);
    buf_puts(out, "</text>\n");
}

/* ---- axes ---- */

static bool usable(const float *xy)
{
    return isfinite(xy[0]) && isfinite(xy[1]);
}

/* Of all points on axis 0 or 1, with a margin; never empty. */
static struct range range_of(const struct plot *p, int axis)
{
    struct range r = {INFINITY, -INFINITY};
    for (size_t s = 0; s < p->n_series; s++)
        for (size_t i = 0; i < p->series[s].n; i++) {
            const float *xy = p->series[s].xy + 2 * i;
            if (!usable(xy))
                continue;
            r.low = fmin(r.low, (double)xy[axis]);
            r.high = fmax(r.high, (double)xy[axis]);
        }
    if (r.low > r.high)
        r = (struct range){0, 1};
    double margin = r.high > r.low ? (r.high - r.low) * .04 : fmax(fabs(r.low) * .1, .5);
    return (struct range){r.low - margin, r.high + margin};
}

static double place_x(const struct chart *c, double x)
{
    return LEFT + AREA_W * (x - c->x.low) / (c->x.high - c->x.low);
}

static double place_y(const struct chart *c, double y)
{
    return TOP + AREA_H * (c->y.high - y) / (c->y.high - c->y.low);
}

/* 1, 2 or 5 times a power of ten, so that about TICKS of them fit. */
static double tick_step(struct range r)
{
    double rough = (r.high - r.low) / TICKS, power = pow(10, floor(log10(rough))),
           lead = rough / power;
    return power * (lead < 1.5 ? 1 : lead < 3.5 ? 2 : lead < 7.5 ? 5 : 10);
}

static void put_ticks(const struct chart *c)
{
    double step = tick_step(c->x);
    for (double k = ceil(c->x.low / step); k * step <= c->x.high; k++) {
        double x = place_x(c, k * step);
        buf_printf(c->out, "<path class=\"grid\" d=\"M%.1f,%dv%d\"/>", x, TOP, AREA_H);
        buf_printf(c->out,
                   "<text class=\"tick\" text-anchor=\"middle\" x=\"%.1f\" y=\"%d\">%.6g</text>\n",
                   x, TOP + AREA_H + 17, k * step + 0.); /* no -0 */
    }
    step = tick_step(c->y);
    for (double k = ceil(c->y.low / step); k * step <= c->y.high; k++) {
        double y = place_y(c, k * step);
        buf_printf(c->out, "<path class=\"grid\" d=\"M%d,%.1fh%d\"/>", LEFT, y, AREA_W);
        buf_printf(c->out,
                   "<text class=\"tick\" text-anchor=\"end\" x=\"%d\" y=\"%.1f\">%.6g</text>\n",
                   LEFT - 7, y + 4, k * step + 0.);
    }
}

static void put_frame(const struct chart *c)
{
    char at[128];
    buf_printf(
        c->out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
        "viewBox=\"0 0 %d %d\" font-family=\"Helvetica, Arial, sans-serif\" role=\"img\">\n<title>",
        WIDTH, HEIGHT, WIDTH, HEIGHT);
    put_text(c->out, c->p->title ? c->p->title : "", 200);
    buf_puts(c->out,
             "</title>\n<style>.grid{stroke:#e4e4e4;fill:none}.axis{stroke:#555;fill:none}"
             ".tick{font-size:12px;fill:#444}.label{font-size:14px;fill:#222}"
             ".name{font-size:13px;fill:#222}</style>\n<rect width=\"100%\" height=\"100%\" "
             "fill=\"#fff\"/>\n");
    snprintf(at, sizeof at, "x=\"%d\" y=\"28\" font-size=\"18\" font-weight=\"bold\" fill=\"#111\"",
             LEFT);
    put_line(c->out, at, c->p->title, 80);
    snprintf(at, sizeof at, "class=\"tick\" x=\"%d\" y=\"49\"", LEFT);
    put_line(c->out, at, c->p->subtitle, 120);
    if (!c->p->no_ticks)
        put_ticks(c);
    buf_printf(c->out, "<rect class=\"axis\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/>\n",
               LEFT, TOP, AREA_W, AREA_H);
    snprintf(at, sizeof at, "class=\"label\" text-anchor=\"middle\" x=\"%d\" y=\"%d\"",
             LEFT + AREA_W / 2, HEIGHT - 24);
    put_line(c->out, at, c->p->x_label, 60);
    snprintf(at, sizeof at,
             "class=\"label\" text-anchor=\"middle\" transform=\"translate(20,%d) rotate(-90)\"",
             TOP + AREA_H / 2);
    put_line(c->out, at, c->p->y_label, 60);
}

/* ---- series ---- */

static const char *color_of(const struct chart *c, size_t s)
{
    const unsigned group = c->p->series[s].group;
    return colors[(group ? group - 1 : s) % N_COLORS];
}

/* Which shape or dashes a series has: in a group, those of its place there. */
static size_t mark_of(const struct chart *c, size_t s)
{
    const struct plot_series *series = c->p->series;
    size_t place = 0;
    for (size_t i = 0; i < s; i++)
        place += series[i].group == series[s].group;
    return series[s].group ? place : s;
}

static void put_points(const struct chart *c, size_t s)
{
    const struct plot_series *series = &c->p->series[s];
    buf_printf(c->out, "<g fill=\"%s\" fill-opacity=\".8\">\n", color_of(c, s));
    for (size_t i = 0; i < series->n; i++) {
        const float *xy = series->xy + 2 * i;
        if (usable(xy))
            buf_printf(c->out, "<use href=\"#s%zu\" x=\"%.1f\" y=\"%.1f\"/>\n",
                       mark_of(c, s) % N_SHAPES, place_x(c, (double)xy[0]),
                       place_y(c, (double)xy[1]));
    }
    buf_puts(c->out, "</g>\n");
}

static void put_polyline(const struct chart *c, size_t s)
{
    const struct plot_series *series = &c->p->series[s];
    bool joined = false;
    buf_printf(
        c->out,
        "<path fill=\"none\" stroke=\"%s\" stroke-width=\"1.8\" stroke-dasharray=\"%s\" d=\"",
        color_of(c, s), dashes[mark_of(c, s) % N_DASHES]);
    for (size_t i = 0; i < series->n; i++) {
        const float *xy = series->xy + 2 * i;
        if (usable(xy))
            buf_printf(c->out, "%s%.1f,%.1f", joined ? "L" : "M", place_x(c, (double)xy[0]),
                       place_y(c, (double)xy[1]));
        joined = joined || usable(xy);
    }
    buf_puts(c->out, "\"/>\n");
}

static void put_legend(const struct chart *c)
{
    int x = LEFT + AREA_W + 24;
    size_t shown = c->p->n_series < PLOT_LEGEND ? c->p->n_series : PLOT_LEGEND;
    for (size_t s = 0; s < shown; s++) {
        int y = TOP + 10 + 19 * (int)s;
        char at[64];
        if (c->p->lines)
            buf_printf(c->out,
                       "<path stroke=\"%s\" stroke-width=\"2.2\" stroke-dasharray=\"%s\" "
                       "d=\"M%d,%dh26\"/>",
                       color_of(c, s), dashes[mark_of(c, s) % N_DASHES], x - 8, y);
        else
            buf_printf(c->out, "<use fill=\"%s\" href=\"#s%zu\" x=\"%d\" y=\"%d\"/>",
                       color_of(c, s), mark_of(c, s) % N_SHAPES, x, y);
        snprintf(at, sizeof at, "class=\"name\" x=\"%d\" y=\"%d\"", x + (c->p->lines ? 26 : 13),
                 y + 4);
        put_line(c->out, at, c->p->series[s].name, NAME_CHARS);
    }
    if (shown < c->p->n_series)
        buf_printf(c->out, "<text class=\"name\" x=\"%d\" y=\"%d\">and %zu more</text>\n", x + 13,
                   TOP + 14 + 19 * (int)shown, c->p->n_series - shown);
}

int plot_write(const struct plot *p, struct buf *out, struct err *e)
{
    const struct chart c = {p, out, range_of(p, 0), range_of(p, 1)};
    put_frame(&c);
    buf_puts(out, "<defs>");
    for (size_t i = 0; !p->lines && i < N_SHAPES; i++)
        buf_printf(out, "<path id=\"s%zu\" d=\"%s\"/>", i, shapes[i]);
    buf_puts(out, "</defs>\n");
    for (size_t s = 0; s < p->n_series; s++) {
        if (p->lines)
            put_polyline(&c, s);
        else
            put_points(&c, s);
    }
    put_legend(&c);
    buf_puts(out, "</svg>\n");
    return out->failed ? err_set(e, ERR_NOMEM, "the chart is too large to be held") : 0;
}
