#include "daemon/bench_results.h"

#include "daemon/base/assert.h"

#include <stdarg.h>

struct bench_result *bench_results_add(struct bench_results *r, const char *unit, double value,
                                       const char *fmt, ...)
{
    va_list ap;
    ASSERT(r->n < sizeof r->list / sizeof *r->list);
    struct bench_result *one = &r->list[r->n++];
    *one = (struct bench_result){.unit = unit, .value = value};
    va_start(ap, fmt);
    vsnprintf(one->name, sizeof one->name, fmt, ap);
    va_end(ap);
    return one;
}

static bool met(const struct bench_result *r)
{
    return r->at_least ? r->value >= r->target : r->value <= r->target;
}

/* Four digits, and all of those before the point. */
static const char *number(double x, char out[32])
{
    snprintf(out, 32, x >= 1000 ? "%.0f" : "%.4g", x);
    return out;
}

void bench_results_text(const struct bench_results *r)
{
    char text[32];
    for (const struct bench_result *one = r->list; one < r->list + r->n; one++) {
        printf("  %-56s %9s %s", one->name, number(one->value, text), one->unit);
        if (one->p99 > 0)
            printf(", p99 %.4g", one->p99);
        if (one->runs)
            printf(", %zu runs", one->runs);
        if (one->target > 0)
            printf(" (target: at %s %s, %s)", one->at_least ? "least" : "most",
                   number(one->target, text), met(one) ? "met" : "MISSED");
        puts("");
    }
}

static json_t *result_json(const struct bench_result *r)
{
    json_t *o = json_pack("{s:s, s:f, s:s}", "name", r->name, "value", r->value, "unit", r->unit);
    if (r->runs)
        json_object_set_new(o, "runs", json_integer((json_int_t)r->runs));
    if (r->p99 > 0)
        json_object_set_new(o, "p99", json_real(r->p99));
    return o;
}

int bench_results_json(const struct bench_results *r, json_t *head, json_t *skipped)
{
    json_t *targets = json_array(), *results = json_array();
    for (const struct bench_result *one = r->list; one < r->list + r->n; one++) {
        json_array_append_new(results, result_json(one));
        if (one->target > 0)
            json_array_append_new(targets, json_pack("{s:s, s:f, s:f, s:b}", "name", one->name, "value",
                                                     one->value, "target", one->target, "met", met(one)));
    }
    json_object_set_new(head, "targets", targets);
    json_object_set_new(head, "results", results);
    json_object_set_new(head, "skipped", skipped);
    int rc = head ? json_dumpf(head, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) : -1;
    json_decref(head);
    puts("");
    return rc;
}
