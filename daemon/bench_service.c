/* bench service: what the way from the socket to the model and back costs. Starts the real daemon on the
 * loopback with random weights of real shape and a new folder, and measures from outside.
 *
 * The overhead is the time from the request to the end of its answer without the time that the model's
 * steps took (step_seconds of /metrics), a request or a token: sampling, text, HTTP, the socket, and
 * making a state. Figures are medians; p99 stands beside them where there are 100 runs or more. On a busy
 * machine they are upper bounds. */
#include "daemon/bench.h"
#include "daemon/bench_client.h"
#include "daemon/bench_corpora.h"
#include "daemon/bench_model.h"
#include "daemon/bench_results.h"

#include "daemon/base/clock.h"

#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    MAX_RUNS = 512,
    SLOTS = 16,
    BAKED = 512,
    STATES = 9,
    SLOW = 50,
    BUSY = 64
};

struct runs {
    double ms[MAX_RUNS];
    size_t n;
};

struct bench {
    const char *model; /* NULL: random weights */
    bool json;
    char path[1024], dir[512];
    struct bench_daemon daemon;
    struct bench_conn conn;
    struct bench_reply reply;
    struct bench_results results;
    char skipped[256];
};

/* ---- figures ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void add_run(struct runs *r, double ms)
{
    if (r->n < MAX_RUNS)
        r->ms[r->n++] = ms;
}

static double since_ms(uint64_t begun)
{
    return (double)(clock_ns() - begun) * 1e-6;
}

/* scale: from milliseconds to the unit. target 0: none. */
static void add_result(struct bench *b, struct runs *r, const char *unit, double scale,
                       double target, const char *fmt, ...) __attribute__((format(printf, 6, 7)));
static void add_result(struct bench *b, struct runs *r, const char *unit, double scale,
                       double target, const char *fmt, ...)
{
    char name[80];
    va_list ap;
    if (!r->n)
        return;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    qsort(r->ms, r->n, sizeof *r->ms, by_value);
    struct bench_result *one = bench_results_add(&b->results, unit, r->ms[r->n / 2] * scale, "%s", name);
    one->p99 = r->n < 100 ? 0 : r->ms[r->n * 99 / 100] * scale;
    one->runs = r->n;
    one->target = target;
}

/* ---- talking ---- */

static int start(struct bench *b, struct err *e)
{
    const char *args[] = {"--model", b->path,       "--data", b->dir, "--max-sequences",
                          "16",      "--max-queue", "128",    NULL};
    if (bench_daemon_start(&b->daemon, args, e) < 0)
        return e->code;
    return bench_connect(&b->conn, b->daemon.port, e);
}

static void stop(struct bench *b)
{
    bench_disconnect(&b->conn);
    bench_daemon_stop(&b->daemon);
}

static int ask(struct bench *b, const char *method, const char *path, const char *body,
               struct err *e)
{
    return bench_ask(&b->conn, method, path, body, &b->reply, e);
}

/* The sum of a metric over its labels. */
static int metric(struct bench *b, const char *name, double *sum, struct err *e)
{
    size_t n = strlen(name);
    if (ask(b, "GET", "/metrics", NULL, e) < 0)
        return e->code;
    *sum = 0;
    if (buf_append(&b->reply.body, "", 1) < 0)
        return err_set(e, ERR_NOMEM, "no memory for the metrics");
    for (const char *p = b->reply.body.data; *p; p += strcspn(p, "\n"), p += *p == '\n') {
        if (strncmp(p, name, n) != 0)
            continue;
        size_t labels = p[n] == '{' ? strcspn(p, "}") + 1 : n;
        if (p[labels] == ' ')
            *sum += strtod(p + labels, NULL);
    }
    return 0;
}

static int until(struct bench *b, const char *name, double value, struct err *e)
{
    double now = -1;
    for (uint64_t begun = clock_ns(); now != value;) {
        if (metric(b, name, &now, e) < 0)
            return e->code;
        if (since_ms(begun) > 60000)
            return err_set(e, ERR_TIMEOUT, "%s stayed %g, waited for %g", name, now, value);
    }
    return 0;
}

/* {"prompt": [n ids], ...} and the rest as given. Each `which` has other ids. */
static void body_of(struct buf *out, const char *field, size_t which, size_t n, const char *rest)
{
    buf_reset(out);
    buf_printf(out, "{\"%s\": [", field);
    for (size_t i = 0; i < n; i++)
        buf_printf(out, "%s%zu", i ? "," : "", 1 + (i * 37 + which) % 250);
    buf_printf(out, "]%s}", rest);
    buf_append(out, "", 1); /* a string */
}

/* ---- the start ---- */

/* From the start of the process: the model's file is in the page cache. */
static int measure_start(struct bench *b, struct err *e)
{
    struct runs listening = {0}, token = {0};
    for (int i = 0; i < 5; i++) {
        stop(b);
        uint64_t begun = clock_ns();
        if (start(b, e) < 0)
            return e->code;
        add_run(&listening, since_ms(begun));
        if (ask(b, "POST", "/v1/completions", "{\"prompt\": [1], \"max_tokens\": 1}", e) < 0)
            return e->code;
        add_run(&token, since_ms(begun));
    }
    add_result(b, &listening, "ms", 1, 0, "from the start of the process to listening");
    add_result(b, &token, "ms", 1, 0, "from the start of the process to the first token");
    struct stat file;
    struct runs peak = {0};
    add_run(&peak, (double)bench_daemon_peak(&b->daemon) * 1e-6);
    if (stat(b->path, &file) < 0)
        return err_set(e, ERR_IO, "the model's file is not there any more");
    add_result(b, &peak, "MB", 1, (double)(file.st_size + (64 << 20)) * 1e-6,
               "peak memory until then: the file's size and 64 MiB");
    return 0;
}

/* ---- states ---- */

/* What the disk below the store takes by itself: a page at the end of a file, and fdatasync. */
static int measure_disk(struct bench *b, struct err *e)
{
    struct runs sync = {0};
    char path[600];
    static const char page[4096];
    snprintf(path, sizeof path, "%s/sync", b->dir);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    for (int i = 0; i < 100 && fd >= 0; i++) {
        uint64_t begun = clock_ns();
        if (write(fd, page, sizeof page) < 0 || fdatasync(fd) < 0)
            break;
        add_run(&sync, since_ms(begun));
    }
    if (fd < 0)
        return err_set(e, ERR_IO, "no file in %s", b->dir);
    close(fd);
    unlink(path);
    add_result(b, &sync, "ms", 1, 0, "the disk alone: a page and fdatasync");
    return 0;
}

static int bake_states(struct bench *b, struct err *e)
{
    struct runs speed = {0}, append = {0};
    struct buf body;
    char rest[80];
    int rc = 0;
    buf_init(&body, 1 << 20);
    for (int i = 0; i < STATES && rc == 0; i++) {
        snprintf(rest, sizeof rest, ", \"name\": \"s%d\"", i);
        body_of(&body, "tokens", (size_t)i, BAKED, rest);
        uint64_t begun = clock_ns();
        rc = ask(b, "POST", "/v1/states", body.data, e);
        add_run(&speed, BAKED / since_ms(begun));
    }
    body_of(&body, "tokens", 0, 16, "");
    for (int i = 0; i < STATES && rc == 0; i++) {
        uint64_t begun = clock_ns();
        rc = ask(b, "POST", "/v1/states/s0/append", body.data, e);
        add_run(&append, since_ms(begun));
    }
    add_result(b, &speed, "tokens/s", 1000, 0, "bake of %d tokens", BAKED);
    add_result(b, &append, "ms", 1, 0, "append of 16 tokens");
    buf_fini(&body);
    return rc;
}

/* The first token of a state's stored logits: nothing is evaluated. */
static int first_token(struct bench *b, int state, struct runs *r, struct err *e)
{
    char body[128];
    snprintf(body, sizeof body,
             "{\"state\": \"s%d\", \"max_tokens\": 1, \"temperature\": 0, \"stream\": true}",
             state);
    uint64_t begun = clock_ns();
    if (ask(b, "POST", "/v1/completions", body, e) < 0)
        return e->code;
    add_run(r, (double)(b->reply.first_ns - begun) * 1e-6);
    return 0;
}

static int measure_restore(struct bench *b, struct err *e)
{
    struct runs cold = {0}, cached = {0};
    stop(b);
    if (start(b, e) < 0 || ask(b, "GET", "/health", NULL, e) < 0)
        return e->code;
    for (int i = 1; i < STATES; i++)
        if (first_token(b, i, &cold, e) < 0)
            return e->code;
    for (int i = 0; i < 200; i++)
        if (first_token(b, 1 + i % (STATES - 1), &cached, e) < 0)
            return e->code;
    add_result(b, &cold, "ms", 1, 5, "first token from stored logits, after a restart");
    add_result(b, &cached, "ms", 1, 1, "first token from stored logits, RAM cache");
    return 0;
}

static int measure_copies(struct bench *b, struct err *e)
{
    struct runs fork = {0}, out = {0}, in = {0};
    struct buf data;
    char text[80];
    int rc = 0;
    for (int i = 0; i < 20 && rc == 0; i++) {
        snprintf(text, sizeof text, "{\"name\": \"fork%d\"}", i);
        uint64_t begun = clock_ns();
        rc = ask(b, "POST", "/v1/states/s1/fork", text, e);
        add_run(&fork, since_ms(begun));
    }
    for (int i = 0; i < 20 && rc == 0; i++) {
        uint64_t begun = clock_ns();
        rc = ask(b, "GET", "/v1/states/s1/data", NULL, e);
        add_run(&out, since_ms(begun));
    }
    if (rc < 0)
        return rc;
    data = b->reply.body;
    buf_init(&b->reply.body, (size_t)256 << 20);
    for (int i = 0; i < 20 && rc == 0; i++) {
        snprintf(text, sizeof text, "/v1/states/import?name=in%d", i);
        uint64_t begun = clock_ns();
        rc = bench_send(&b->conn, "POST", text, data.data, data.len, e);
        if (rc == 0 && (rc = bench_read(&b->conn, &b->reply, e)) == 0 && b->reply.status != 201) {
            snprintf(b->skipped, sizeof b->skipped, "import: answered %d", b->reply.status);
            break;
        }
        add_run(&in, since_ms(begun));
    }
    add_result(b, &fork, "ms", 1, 0, "fork");
    add_result(b, &out, "ms", 1, 0, "export, %.1f MB", (double)data.len * 1e-6);
    add_result(b, &in, "ms", 1, 0, "import, %.1f MB", (double)data.len * 1e-6);
    buf_fini(&data);
    return rc;
}

/* ---- choices ---- */

/* Eight choices of one prompt, over one: 1 if reading it were all. */
static int measure_choices(struct bench *b, struct err *e)
{
    struct runs ratio = {0};
    struct buf one, many;
    int rc = 0;
    buf_init(&one, 1 << 20);
    buf_init(&many, 1 << 20);
    for (size_t i = 0; i < 5 && rc == 0; i++) {
        body_of(&one, "prompt", 20 + 2 * i, BAKED, ", \"max_tokens\": 1, \"n\": 1");
        body_of(&many, "prompt", 21 + 2 * i, BAKED, ", \"max_tokens\": 1, \"n\": 8");
        uint64_t begun = clock_ns();
        rc = ask(b, "POST", "/v1/completions", one.data, e);
        double single = since_ms(begun);
        begun = clock_ns();
        rc = rc ? rc : ask(b, "POST", "/v1/completions", many.data, e);
        add_run(&ratio, since_ms(begun) / single);
    }
    add_result(b, &ratio, "times", 1, 0, "8 choices of a prompt of %d tokens, over one", BAKED);
    buf_fini(&one);
    buf_fini(&many);
    return rc;
}

/* ---- cancel ---- */

/* Sends a completion on a connection of its own, closes that once `gauge` is 1 more, and takes the time
 * until it is what it was. */
static int cancel_one(struct bench *b, const char *body, const char *gauge, double before,
                      struct runs *r, struct err *e)
{
    struct bench_conn c;
    if (bench_connect(&c, b->daemon.port, e) < 0)
        return e->code;
    int rc = bench_send(&c, "POST", "/v1/completions", body, strlen(body), e);
    if (rc == 0)
        rc = until(b, gauge, before + 1, e);
    uint64_t begun = clock_ns();
    bench_disconnect(&c);
    if (rc == 0 && (rc = until(b, gauge, before, e)) == 0)
        add_run(r, since_ms(begun));
    return rc;
}

#define ACTIVE  "dreamstate_sequences_active"
#define WAITING "dreamstate_sequences_waiting"
#define TALK    "{\"prompt\": [1], \"max_tokens\": 1000000, \"temperature\": 0%s}"

static int measure_queued(struct bench *b, const char *body, struct runs *r, struct err *e)
{
    struct bench_conn busy[SLOTS];
    int n = 0, rc = 0;
    for (; n < SLOTS && rc == 0; n++) {
        rc = bench_connect(&busy[n], b->daemon.port, e);
        if (rc == 0)
            rc = bench_send(&busy[n], "POST", "/v1/completions", body, strlen(body), e);
    }
    if (rc == 0)
        rc = until(b, ACTIVE, SLOTS, e);
    for (int i = 0; i < 10 && rc == 0; i++)
        rc = cancel_one(b, body, WAITING, 0, r, e);
    while (n--)
        bench_disconnect(&busy[n]);
    return rc == 0 ? until(b, ACTIVE, 0, e) : rc;
}

static int measure_cancel(struct bench *b, struct err *e)
{
    struct runs streaming = {0}, whole = {0}, queued = {0}, prefill = {0};
    char stream[128], plain[128];
    struct buf prompt;
    int rc = 0;
    snprintf(stream, sizeof stream, TALK, ", \"stream\": true");
    snprintf(plain, sizeof plain, TALK, "");
    buf_init(&prompt, 1 << 22);
    body_of(&prompt, "prompt", 0, 200000, ", \"max_tokens\": 1");
    for (int i = 0; i < 10 && rc == 0; i++) {
        rc = cancel_one(b, stream, ACTIVE, 0, &streaming, e);
        rc = rc ? rc : cancel_one(b, plain, ACTIVE, 0, &whole, e);
        rc = rc ? rc : cancel_one(b, prompt.data, ACTIVE, 0, &prefill, e);
    }
    buf_fini(&prompt);
    if (rc == 0)
        rc = measure_queued(b, plain, &queued, e);
    add_result(b, &streaming, "ms", 1, 100, "from leaving to a free place, streaming");
    add_result(b, &whole, "ms", 1, 100, "from leaving to a free place, not streaming");
    add_result(b, &prefill, "ms", 1, 100, "from leaving to a free place, reading its prompt");
    add_result(b, &queued, "ms", 1, 100, "from leaving to a free place, queued");
    return rc;
}

/* ---- overhead ---- */

/* n completions of `tokens` tokens side by side, whole streams: the time outside the model's steps,
 * for one request or one token of it. */
static int overhead_once(struct bench *b, struct bench_conn *c, size_t n, size_t tokens,
                         struct runs *r, struct err *e)
{
    char body[128];
    double before, after;
    int rc = metric(b, "dreamstate_step_seconds_sum", &before, e);
    snprintf(body, sizeof body,
             "{\"prompt\": [1], \"max_tokens\": %zu, \"temperature\": 0, \"stream\": true}",
             tokens);
    uint64_t begun = clock_ns();
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = bench_send(&c[i], "POST", "/v1/completions", body, strlen(body), e);
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = bench_read(&c[i], &b->reply, e);
    double wall = since_ms(begun);
    if (rc == 0 && (rc = metric(b, "dreamstate_step_seconds_sum", &after, e)) == 0)
        add_run(r, (wall - (after - before) * 1e3) / (double)(n * tokens));
    return rc;
}

static int measure_overhead(struct bench *b, size_t n, struct err *e)
{
    struct runs request = {0}, token = {0};
    struct bench_conn c[SLOTS];
    size_t open = 0;
    int rc = 0;
    for (; open < n && rc == 0; open++)
        rc = bench_connect(&c[open], b->daemon.port, e);
    for (int i = 0; i < 40 && rc == 0; i++)
        rc = overhead_once(b, c, n, 1, &request, e);
    for (int i = 0; i < 5 && rc == 0; i++)
        rc = overhead_once(b, c, n, n == 1 ? 64 : 24, &token, e);
    while (open--)
        bench_disconnect(&c[open]);
    add_result(b, &request, "us", 1000, 100, "outside the model, a request, %zu at once", n);
    add_result(b, &token, "us", 1000, 100, "outside the model, a streamed token, %zu at once", n);
    return rc;
}

/* ---- health under load ---- */

static int measure_health(struct bench *b, struct err *e)
{
    struct bench_conn c[BUSY + SLOW];
    struct runs idle = {0}, loaded = {0};
    char body[128];
    int n = 0, rc = 0;
    snprintf(body, sizeof body, TALK, "");
    for (int i = 0; i < 300 && rc == 0; i++) {
        uint64_t begun = clock_ns();
        rc = ask(b, "GET", "/health", NULL, e);
        add_run(&idle, since_ms(begun));
    }
    for (; n < BUSY + SLOW && rc == 0; n++) {
        rc = bench_connect(&c[n], b->daemon.port, e);
        if (rc == 0 && n < BUSY)
            rc = bench_send(&c[n], "POST", "/v1/completions", body, strlen(body), e);
    }
    if (rc == 0)
        rc = until(b, WAITING, BUSY - SLOTS, e);
    for (int i = 0; i < 300 && rc == 0; i++) { /* each slow client a byte of its headers in turn */
        int slow = c[BUSY + i % SLOW].fd;
        if (send(slow, &"GET / HTTP/1.1\r\nX: "[i / SLOW], 1, MSG_NOSIGNAL) < 0)
            rc = err_set(e, ERR_IO, "a slow client was cut off");
        uint64_t begun = clock_ns();
        rc = rc ? rc : ask(b, "GET", "/health", NULL, e);
        add_run(&loaded, since_ms(begun));
    }
    while (n--)
        bench_disconnect(&c[n]);
    add_result(b, &idle, "ms", 1, 0, "/health, idle");
    add_result(b, &loaded, "ms", 1, 0, "/health, %d completions and %d slow clients", BUSY, SLOW);
    return rc == 0 ? until(b, ACTIVE, 0, e) : rc;
}

/* ---- the whole ---- */

static int run(struct bench *b, struct err *e)
{
    if (b->model)
        snprintf(b->path, sizeof b->path, "%s", b->model);
    else if (bench_model_path(bench_shape("12x768"), DTYPE_F16, b->path, sizeof b->path, e) < 0)
        return e->code;
    if (bench_folder(b->dir, sizeof b->dir, e) < 0 || measure_disk(b, e) < 0 || start(b, e) < 0 ||
        measure_start(b, e) < 0 || bake_states(b, e) < 0 || measure_restore(b, e) < 0 ||
        measure_copies(b, e) < 0 || measure_choices(b, e) < 0 || measure_cancel(b, e) < 0 ||
        measure_overhead(b, 1, e) < 0 || measure_overhead(b, SLOTS, e) < 0 ||
        measure_health(b, e) < 0)
        return e->code;
    return 0;
}

static int print_json(const struct bench *b)
{
    json_t *skipped = json_array();
    if (b->skipped[0])
        json_array_append_new(skipped, json_string(b->skipped));
    return bench_results_json(&b->results,
                              json_pack("{s:s, s:s}", "bench", "service", "model", b->path), skipped);
}

static void print_text(const struct bench *b)
{
    printf("%s: medians\n", b->path);
    bench_results_text(&b->results);
    if (b->skipped[0])
        printf("  skipped: %s\n", b->skipped);
}

static bool parse_options(struct bench *b, int argc, char **argv)
{
    static const struct option options[] = {
        {"model", required_argument, 0, 'm'}, {"json", no_argument, 0, 'j'}, {0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;)
        if (c == 'm')
            b->model = optarg;
        else if (c == 'j')
            b->json = true;
        else
            return false;
    return optind == argc;
}

int bench_service(int argc, char **argv)
{
    struct err e = {0};
    struct bench *b = calloc(1, sizeof *b);
    if (!b || !parse_options(b, argc, argv)) {
        free(b);
        fputs("usage: dreamstated bench service [--model FILE] [--json]\n"
              "Without --model: random weights, 12 layers of width 768, as F16.\n",
              stderr);
        return 2;
    }
    b->conn.fd = -1;
    buf_init(&b->reply.body, (size_t)256 << 20);
    int rc = run(b, &e);
    if (rc < 0)
        fprintf(stderr, "dreamstated bench service: %s\n", e.msg);
    else if (b->json)
        rc = print_json(b);
    else
        print_text(b);
    stop(b);
    if (b->dir[0])
        bench_folder_remove(b->dir);
    buf_fini(&b->reply.body);
    free(b);
    return rc < 0 ? 1 : 0;
}
