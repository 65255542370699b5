/* The service's smaller half: health and numbers. */
#include "daemon/service_impl.h"
#include "daemon/worker.h"

#include "build/version.h"

const char *service_version(void)
{
    return DREAMSTATE_VERSION;
}

const struct log *service_log(const struct service *s)
{
    return s->options.log;
}

void service_get_limits(const struct service *s, struct service_limits *out)
{
    struct store_stats st;
    store_get_stats(s->options.store, &st);
    *out = (struct service_limits){
        .max_sequences = s->options.max_sequences,
        .max_queue = s->options.max_queue,
        .max_prompt = MAX_PROMPT,
        .max_states = st.max_states,
        .max_bytes = st.max_bytes,
        .cache_bytes = s->options.state_cache,
    };
}

void service_get_store(const struct service *s, struct store_info *out)
{
    struct store_stats st;
    store_get_stats(s->options.store, &st);
    *out = (struct store_info){.states = st.states, .blobs = st.blobs, .blob_bytes = st.blob_bytes};
    store_backend(out->backend, sizeof out->backend);
}

size_t service_slots(const struct service *s, const struct model_info *m, struct slot_info *out)
{
    worker_get_slots(s->workers[m - s->options.registry->infos], out);
    return s->options.max_sequences;
}

bool service_ready(const struct service *s)
{
    return !atomic_load(&s->draining);
}

int service_every(struct service *s, unsigned ms, void (*fn)(void *arg), void *arg)
{
    struct err e;
    return loop_start_timer(s->options.loop, ms, ms, fn, arg, NULL, &e);
}

void service_count_http(struct service *s, const char *route, int status, double seconds)
{
    metrics_count_http(s->metrics, route, status, seconds);
}

static void write_worker(const struct service *s, struct buf *out, const char *metric,
                         const char *help, size_t (*pick)(const struct worker_counts *c))
{
    for (size_t i = 0; i < s->options.registry->n; i++) {
        struct worker_counts c;
        struct buf label;
        buf_init(&label, 1000);
        worker_get_counts(s->workers[i], &c);
        metrics_write_label(&label, "model", worker_model(s->workers[i])->name);
        if (!label.failed)
            metrics_write_one(out, "gauge", metric, i ? NULL : help, label.data, (double)pick(&c));
        buf_fini(&label);
    }
}

static size_t pick_waiting(const struct worker_counts *c)
{
    return c->waiting;
}

static size_t pick_active(const struct worker_counts *c)
{
    return c->active;
}

static size_t pick_parked(const struct worker_counts *c)
{
    return c->parked;
}

static void write_store(const struct service *s, struct buf *out)
{
    struct store_stats st;
    store_get_stats(s->options.store, &st);
    const struct {
        const char *type, *metric, *help;
        double value;
    } rows[] = {
        {"gauge", "states", "Named states, all versions", (double)st.states},
        {"gauge", "blobs", "Distinct contents of states", (double)st.blobs},
        {"gauge", "blob_bytes", "Bytes of these", (double)st.blob_bytes},
        {"gauge", "store_queued", "Requests waiting for the store", (double)st.queued},
        {"counter", "store_requests_total", "Requests to the store", (double)st.requests},
        {"counter", "store_errors_total", "Requests that the store could not serve",
         (double)st.errors},
        {"counter", "store_full_total", "Requests for which there was no room, by disk or quota",
         (double)st.refused_full},
        {"counter", "store_expired_total", "States removed when their time was over",
         (double)st.expired},
        {"counter", "store_damaged_total", "Damaged records met in lists", (double)st.damaged},
        {"counter", "store_backups_total", "Backups finished", (double)st.backups},
        {"counter", "store_busy_seconds_total", "Time the store has worked",
         (double)st.busy_ns * 1e-9},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        metrics_write_one(out, rows[i].type, rows[i].metric, rows[i].help, NULL, rows[i].value);
}

static void write_cache(const struct service *s, struct buf *out)
{
    struct state_cache_stats st = {0};
    if (s->cache)
        state_cache_get_stats(s->cache, &st);
    const struct {
        const char *type, *metric, *help;
        double value;
    } rows[] = {
        {"gauge", "state_cache_states", "States held in memory", (double)st.entries},
        {"gauge", "state_cache_bytes", "Bytes of these", (double)st.bytes},
        {"gauge", "state_cache_limit_bytes", "What these may come to; 0: off", (double)st.limit},
        {"counter", "state_cache_hits_total", "States that were found in memory", (double)st.hits},
        {"counter", "state_cache_misses_total", "States that had to be read", (double)st.misses},
        {"counter", "state_cache_evicted_total", "States that had to make room",
         (double)st.evicted},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        metrics_write_one(out, rows[i].type, rows[i].metric, rows[i].help, NULL, rows[i].value);
}

static void write_build(const struct service *s, struct buf *out)
{
    struct buf labels;
    char backend[32];
    buf_init(&labels, 1000);
    metrics_write_label(&labels, "version", service_version());
    buf_puts(&labels, ",");
    metrics_write_label(&labels, "store", store_backend(backend, sizeof backend));
    if (!labels.failed)
        metrics_write_one(out, "gauge", "build_info", "Always 1; what runs is in the labels",
                          labels.data, 1);
    buf_fini(&labels);
    metrics_write_one(out, "gauge", "ready", "1 while requests are taken, 0 while it shuts down",
                      NULL, service_ready(s));
}

static void write_sessions(const struct service *s, struct buf *out)
{
    struct sessions_counts c;
    sessions_get_counts(s->sessions, &c);
    metrics_write_one(out, "gauge", "sessions", "States parked for chats that go on", NULL,
                      (double)c.n);
    metrics_write_one(out, "gauge", "session_bytes", "Bytes of these", NULL, (double)c.bytes);
    metrics_write_one(out, "counter", "sessions_parked_total", "States parked", NULL,
                      (double)c.parked);
    metrics_write_one(out, "counter", "sessions_evicted_total", "Of these taken out for room", NULL,
                      (double)c.evicted);
}

int service_metrics(struct service *s, struct buf *out)
{
    write_build(s, out);
    metrics_write(s->metrics, out);
    write_worker(s, out, "sequences_waiting", "Sequences waiting for a place in the batch",
                 pick_waiting);
    write_worker(s, out, "sequences_active", "Sequences in the batch", pick_active);
    write_worker(s, out, "sequences_parked", "Of these waiting for their clients", pick_parked);
    write_store(s, out);
    metrics_write_one(out, "gauge", "background_waiting", "Tasks waiting for the background lane",
                      NULL, (double)lane_waiting(&s->lane));
    write_cache(s, out);
    write_sessions(s, out);
    return out->failed ? ERR_NOMEM : 0;
}
