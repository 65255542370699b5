#include "daemon/metrics.h"

#include "daemon/base/assert.h"
#include "daemon/base/clock.h"
#include "daemon/base/err.h"
#include "daemon/process.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX      "dreamstate_"
#define MAX_BUCKETS 16
#define MAX_HTTP    256 /* routes x statuses; more are counted under route "other" */
#define N_ERRORS    64  /* of the ERR_* codes */

/* Upper bounds in nanoseconds or in units; UINT64_MAX ends them (+Inf). */
static const uint64_t seconds_bounds[] = {100000u,     250000u,     500000u,      1000000u,
                                          2500000u,    5000000u,    10000000u,    25000000u,
                                          50000000u,   100000000u,  250000000u,   500000000u,
                                          1000000000u, 2500000000u, 10000000000u, UINT64_MAX};
static const uint64_t sizes_bounds[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, UINT64_MAX};

static const struct {
    const char *metric, *help;
} counter_table[] = {
#define XX(name, metric, help) {metric, help},
    METRIC_COUNTERS(XX)
#undef XX
};
#define N_PLAIN (sizeof counter_table / sizeof counter_table[0])

static const struct {
    const char *metric, *labels, *help;
} model_table[] = {
#define XX(name, metric, labels, help) {metric, labels, help},
    METRIC_MODEL_COUNTERS(XX)
#undef XX
};
#define N_BY_MODEL (sizeof model_table / sizeof model_table[0])

static const struct {
    const char *metric, *help;
    const uint64_t *bounds;
    double unit; /* of one count, as shown */
} histogram_table[] = {
#define seconds                         seconds_bounds, 1e-9
#define sizes                           sizes_bounds, 1
#define XX(name, metric, help, buckets) {metric, help, buckets},
    METRIC_HISTOGRAMS(XX)
#undef XX
#undef seconds
#undef sizes
};

struct histogram {
    _Atomic uint64_t bucket[MAX_BUCKETS];
    _Atomic uint64_t sum; /* nanoseconds or units */
};

struct http_count {
    const char *route;
    int status;
    uint64_t n;
    double seconds;
};

struct model_counts {
    const char *name;
    _Atomic uint64_t counter[N_BY_MODEL];
};

struct metrics {
    int64_t started_ms;
    _Atomic uint64_t counter[N_PLAIN];
    struct model_counts *models; /* [n_models] */
    size_t n_models;
    struct histogram histogram[METRIC_HISTOGRAM_END];
    _Atomic uint64_t errors[N_ERRORS];
    pthread_mutex_t lock;
    struct http_count http[MAX_HTTP]; /* guard: lock */
    size_t n_http;                    /* guard: lock */
};

struct metrics *metrics_new(size_t n_models)
{
    _Static_assert(ERR_INDEX_END <= N_ERRORS, "the table of errors has grown");
    struct metrics *m = calloc(1, sizeof *m);
    struct model_counts *models = calloc(n_models, sizeof *models);
    if (!m || (n_models && !models) || pthread_mutex_init(&m->lock, NULL) != 0) {
        free(models);
        free(m);
        return NULL;
    }
    m->started_ms = clock_wall_ms();
    m->models = models;
    m->n_models = n_models;
    return m;
}

void metrics_name_model(struct metrics *m, size_t i, const char *name)
{
    m->models[i].name = name;
}

void metrics_free(struct metrics *m)
{
    if (!m)
        return;
    pthread_mutex_destroy(&m->lock);
    free(m->models);
    free(m);
}

void metrics_add(struct metrics *m, enum metric_counter c, uint64_t n)
{
    ASSERT(c < N_PLAIN);
    atomic_fetch_add_explicit(&m->counter[c], n, memory_order_relaxed);
}

uint64_t metrics_get(const struct metrics *m, enum metric_counter c)
{
    if (c < N_PLAIN)
        return atomic_load_explicit(&m->counter[c], memory_order_relaxed);
    uint64_t sum = 0;
    for (size_t i = 0; i < m->n_models; i++)
        sum += atomic_load_explicit(&m->models[i].counter[c - N_PLAIN], memory_order_relaxed);
    return sum;
}

void metrics_add_model(struct metrics *m, enum metric_counter c, size_t model, uint64_t n)
{
    ASSERT(c >= N_PLAIN && model < m->n_models);
    atomic_fetch_add_explicit(&m->models[model].counter[c - N_PLAIN], n, memory_order_relaxed);
}

void metrics_observe(struct metrics *m, enum metric_histogram h, uint64_t n)
{
    const uint64_t *bound = histogram_table[h].bounds;
    size_t i = 0;
    while (n > bound[i])
        i++;
    atomic_fetch_add_explicit(&m->histogram[h].bucket[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&m->histogram[h].sum, n, memory_order_relaxed);
}

void metrics_observe_ns(struct metrics *m, enum metric_histogram h, uint64_t ns)
{
    metrics_observe(m, h, ns);
}

void metrics_count_error(struct metrics *m, int code)
{
    int i = code < 0 && code > -ERR_INDEX_END ? -code : ERR_INDEX_INTERNAL;
    atomic_fetch_add_explicit(&m->errors[i], 1, memory_order_relaxed);
}

/* guard: lock. The row of route and status; the last row takes what does not fit. */
static struct http_count *http_row(struct metrics *m, const char *route, int status)
{
    for (size_t i = 0; i < m->n_http; i++)
        if (m->http[i].status == status && !strcmp(m->http[i].route, route))
            return &m->http[i];
    if (m->n_http == MAX_HTTP - 1)
        route = "other", status = 0;
    if (m->n_http == MAX_HTTP)
        return &m->http[MAX_HTTP - 1];
    struct http_count *row = &m->http[m->n_http++];
    *row = (struct http_count){.route = route, .status = status};
    return row;
}

void metrics_count_http(struct metrics *m, const char *route, int status, double seconds)
{
    pthread_mutex_lock(&m->lock);
    struct http_count *row = http_row(m, route, status);
    row->n++;
    row->seconds += seconds;
    pthread_mutex_unlock(&m->lock);
}

static void write_head(struct buf *out, const char *metric, const char *help, const char *type)
{
    buf_printf(out, "# HELP " PREFIX "%s %s.\n# TYPE " PREFIX "%s %s\n", metric, help, metric,
               type);
}

static void write_histogram(const struct metrics *m, enum metric_histogram h, struct buf *out)
{
    const char *metric = histogram_table[h].metric;
    const uint64_t *bound = histogram_table[h].bounds;
    double unit = histogram_table[h].unit;
    uint64_t total = 0;
    write_head(out, metric, histogram_table[h].help, "histogram");
    for (size_t i = 0;; i++) {
        total += atomic_load_explicit(&m->histogram[h].bucket[i], memory_order_relaxed);
        if (bound[i] == UINT64_MAX)
            break;
        buf_printf(out, PREFIX "%s_bucket{le=\"%g\"} %llu\n", metric, (double)bound[i] * unit,
                   (unsigned long long)total);
    }
    uint64_t sum = atomic_load_explicit(&m->histogram[h].sum, memory_order_relaxed);
    buf_printf(
        out, PREFIX "%s_bucket{le=\"+Inf\"} %llu\n" PREFIX "%s_sum %.9g\n" PREFIX "%s_count %llu\n",
        metric, (unsigned long long)total, metric, (double)sum * unit, metric,
        (unsigned long long)total);
}

static void write_errors(const struct metrics *m, struct buf *out)
{
    write_head(out, "errors_total", "Requests that failed, by error code", "counter");
    for (int i = 1; i < ERR_INDEX_END; i++) {
        uint64_t n = atomic_load_explicit(&m->errors[i], memory_order_relaxed);
        buf_printf(out, PREFIX "errors_total{code=\"%s\"} %llu\n", err_code_name(-i),
                   (unsigned long long)n);
    }
}

static void write_http(struct metrics *m, struct buf *out)
{
    pthread_mutex_lock(&m->lock);
    write_head(out, "http_requests_total", "HTTP requests answered", "counter");
    for (size_t i = 0; i < m->n_http; i++)
        buf_printf(out, PREFIX "http_requests_total{route=\"%s\",status=\"%d\"} %llu\n",
                   m->http[i].route, m->http[i].status, (unsigned long long)m->http[i].n);
    write_head(out, "http_request_seconds_total", "Time spent on answered HTTP requests",
               "counter");
    for (size_t i = 0; i < m->n_http; i++)
        buf_printf(out, PREFIX "http_request_seconds_total{route=\"%s\",status=\"%d\"} %.9g\n",
                   m->http[i].route, m->http[i].status, m->http[i].seconds);
    pthread_mutex_unlock(&m->lock);
}

static void write_by_model(const struct metrics *m, struct buf *out)
{
    for (size_t c = 0; c < N_BY_MODEL; c++) {
        const char *metric = model_table[c].metric;
        if (!c || strcmp(metric, model_table[c - 1].metric) != 0)
            write_head(out, metric, model_table[c].help, "counter");
        for (size_t i = 0; i < m->n_models; i++) {
            uint64_t n = atomic_load_explicit(&m->models[i].counter[c], memory_order_relaxed);
            buf_printf(out, PREFIX "%s{", metric);
            metrics_write_label(out, "model", m->models[i].name);
            buf_printf(out, "%s} %llu\n", model_table[c].labels, (unsigned long long)n);
        }
    }
}

int metrics_write(struct metrics *m, struct buf *out)
{
    for (size_t i = 0; i < N_PLAIN; i++) {
        write_head(out, counter_table[i].metric, counter_table[i].help, "counter");
        buf_printf(out, PREFIX "%s %llu\n", counter_table[i].metric,
                   (unsigned long long)metrics_get(m, (enum metric_counter)i));
    }
    write_by_model(m, out);
    for (size_t i = 0; i < METRIC_HISTOGRAM_END; i++)
        write_histogram(m, (enum metric_histogram)i, out);
    write_errors(m, out);
    write_http(m, out);
    process_metrics(out, m->started_ms);
    return out->failed ? ERR_NOMEM : 0;
}

void metrics_write_one(struct buf *out, const char *type, const char *metric, const char *help,
                       const char *labels, double value)
{
    if (help)
        write_head(out, metric, help, type);
    if (labels)
        buf_printf(out, PREFIX "%s{%s} %.17g\n", metric, labels, value);
    else
        buf_printf(out, PREFIX "%s %.17g\n", metric, value);
}

void metrics_write_label(struct buf *out, const char *name, const char *value)
{
    buf_printf(out, "%s=\"", name);
    for (; *value; value++)
        if (*value == '\n')
            buf_puts(out, "\\n");
        else if (*value == '"' || *value == '\\')
            buf_printf(out, "\\%c", *value);
        else
            buf_append(out, value, 1);
    buf_puts(out, "\"");
}
