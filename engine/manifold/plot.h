/* Charts as SVG: points in a plane by series (a map of states), lines (losses over steps).
 *
 *     struct plot p = {.title = "States by author", .x_label = "PC 1", .y_label = "PC 2",
 *                      .series = series, .n_series = 3};
 *     plot_write(&p, &buf, &e);
 *
 * Series are told apart by colour (Okabe & Ito's palette, made for every kind of colour vision) and by
 * shape or dashes as well; each has its line in the legend, up to PLOT_LEGEND of them. Text may be any
 * bytes: markup is escaped, what is not UTF-8 or cannot stand in XML shows as U+FFFD, long names are cut.
 * The same chart gives the same bytes. Points that are not finite are left out. Pure, any thread. */
#ifndef ENGINE_MANIFOLD_PLOT_H
#define ENGINE_MANIFOLD_PLOT_H

#include "daemon/base/buf.h"
#include "daemon/base/err.h"

#include <stdbool.h>

#define PLOT_LEGEND 24

struct plot_series {
    const char *name;
    const float *xy; /* [n, 2] */
    size_t n;
    unsigned
        group; /* series of the same share a colour, dashes or shapes tell them apart; 0: its own */
};

struct plot {
    const char *title, *subtitle; /* NULL or "": none */
    const char *x_label, *y_label;
    bool lines;    /* the points of a series joined in their order; else markers */
    bool no_ticks; /* the axes have no meaning of their own (t-SNE) */
    const struct plot_series *series;
    size_t n_series;
};

/* Appends <svg ...>...</svg>. ERR_NOMEM or ERR_TOO_LARGE, those of the buffer. */
int plot_write(const struct plot *p, struct buf *out, struct err *e)
    __attribute__((warn_unused_result));

#endif
