#include "daemon/bench_peer.h"

#include "daemon/base/buf.h"
#include "daemon/base/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { MAX_OUTPUT = 1 << 20, READY_MS = 120000, CONTEXT = 1024 };

static int spawn_into(const char *const argv[], int out, pid_t *pid)
{
    posix_spawn_file_actions_t act;
    if (posix_spawn_file_actions_init(&act) != 0)
        return -1;
    int rc = posix_spawn_file_actions_adddup2(&act, out, STDOUT_FILENO) != 0 ||
             posix_spawn_file_actions_addopen(&act, STDERR_FILENO, "/dev/null", O_WRONLY, 0) != 0 ||
             posix_spawn(pid, argv[0], &act, NULL, (char *const *)argv, environ) != 0;
    posix_spawn_file_actions_destroy(&act);
    return rc ? -1 : 0;
}

static void read_all(int fd, struct buf *out)
{
    char piece[4096];
    ssize_t n;
    while ((n = read(fd, piece, sizeof piece)) > 0 || (n < 0 && errno == EINTR))
        if (n > 0)
            buf_append(out, piece, (size_t)n); /* a failure stays in out->failed */
}

/* What the program prints, if it ends well. */
static int run(const char *const argv[], struct buf *out, struct err *e)
{
    int fds[2], status = 0;
    pid_t pid;
    if (pipe2(fds, O_CLOEXEC) < 0)
        return err_set(e, ERR_IO, "pipe: %s", strerror(errno));
    int rc = spawn_into(argv, fds[1], &pid);
    close(fds[1]);
    if (rc == 0) {
        read_all(fds[0], out);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            continue;
        rc = WIFEXITED(status) && WEXITSTATUS(status) == 0 && !out->failed ? 0 : -1;
    }
    close(fds[0]);
    return rc == 0 ? 0 : err_set(e, ERR_UNAVAILABLE, "%s: not there, or failed", argv[0]);
}

/* llama-bench -o json: a list of tests with n_prompt, n_gen and avg_ts. */
static int read_bench(const struct buf *text, struct bench_peer *out, struct err *e)
{
    json_t *list = json_loadb(text->data ? text->data : "", text->len, 0, NULL), *test;
    size_t i;
    out->decode = out->prefill = 0;
    json_array_foreach(list, i, test)
    {
        double speed = json_number_value(json_object_get(test, "avg_ts"));
        if (json_integer_value(json_object_get(test, "n_gen")) > 0)
            out->decode = speed;
        else
            out->prefill = speed;
    }
    json_decref(list);
    if (out->decode > 0 && out->prefill > 0)
        return 0;
    return err_set(e, ERR_FORMAT, "llama-bench: no figures in its answer");
}

/* llama-batched-bench: one JSON object a line with pl (sequences) and speed_tg. */
static void read_batched(struct buf *text, struct bench_peer *out)
{
    char *save = NULL;
    for (char *line = text->data ? strtok_r(text->data, "\n", &save) : NULL; line;
         line = strtok_r(NULL, "\n", &save)) {
        json_t *o = json_loads(line, 0, NULL);
        json_int_t pl = json_integer_value(json_object_get(o, "pl"));
        for (int k = 0; k < 3; k++)
            if (pl == 4 << k)
                out->batched[k] = json_number_value(json_object_get(o, "speed_tg"));
        json_decref(o);
    }
}

int bench_peer_run(const char *dir, const char *model, int threads, struct bench_peer *out,
                   struct err *e)
{
    char program[1024], n[16];
    struct buf text;
    *out = (struct bench_peer){0};
    buf_init(&text, MAX_OUTPUT);
    snprintf(n, sizeof n, "%d", threads);
    snprintf(program, sizeof program, "%s/llama-bench", dir);
    const char *const bench[] = {program, "-m", model, "-t", n, "-p", "512", "-n", "128",
                                 "-r", "1", "-o", "json", NULL};
    int rc = run(bench, &text, e);
    if (rc == 0)
        rc = read_bench(&text, out, e);
    snprintf(program, sizeof program, "%s/llama-batched-bench", dir);
    if (rc == 0 && access(program, X_OK) == 0) {
        const char *const batched[] = {program, "-m", model, "-t", n, "-c", "8192", "-npp", "4", "-ntg",
                                       "32", "-npl", "4,8,16", "--output-format", "jsonl", NULL};
        buf_reset(&text);
        if (run(batched, &text, NULL) == 0)
            read_batched(&text, out);
    }
    buf_fini(&text);
    return rc;
}

/* ---- llama-server ---- */

/* A port that nobody listens on now; 0: none. */
static int free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    int rc = bind(fd, (struct sockaddr *)&at, len);
    rc = rc ? rc : getsockname(fd, (struct sockaddr *)&at, &len);
    close(fd);
    return rc ? 0 : ntohs(at.sin_port);
}

static bool is_ready(const struct bench_daemon *d)
{
    struct err e = {0};
    struct bench_conn c;
    struct bench_reply r = {0};
    if (bench_connect(&c, d->port, &e) < 0)
        return false;
    buf_init(&r.body, MAX_OUTPUT);
    int rc = bench_ask(&c, "GET", "/health", NULL, &r, &e);
    buf_fini(&r.body);
    bench_disconnect(&c);
    return rc == 0;
}

static int until_ready(struct bench_daemon *d, struct err *e)
{
    const struct timespec nap = {0, 20000000};
    for (uint64_t begun = clock_ns(); !is_ready(d); nanosleep(&nap, NULL)) {
        if (waitpid(d->pid, NULL, WNOHANG) != 0) {
            d->pid = 0;
            return err_set(e, ERR_UNAVAILABLE, "llama-server ended before it was ready");
        }
        if (clock_ns() - begun > READY_MS * UINT64_C(1000000)) {
            kill(d->pid, SIGKILL);
            bench_daemon_stop(d);
            return err_set(e, ERR_TIMEOUT, "llama-server was not ready within two minutes");
        }
    }
    return 0;
}

int bench_peer_serve(const char *dir, const char *model, int threads, int sequences,
                     struct bench_daemon *out, struct err *e)
{
    char program[1024], port[16], n[16], np[16], context[16];
    *out = (struct bench_daemon){.port = free_port()};
    snprintf(program, sizeof program, "%s/llama-server", dir);
    snprintf(port, sizeof port, "%d", out->port);
    snprintf(n, sizeof n, "%d", threads);
    snprintf(np, sizeof np, "%d", sequences);
    snprintf(context, sizeof context, "%d", sequences * CONTEXT);
    const char *const argv[] = {program, "-m", model, "--port", port, "-t", n, "-np", np, "-c", context,
                                "--no-webui", "--offline", NULL};
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (!out->port || null < 0) {
        if (null >= 0)
            close(null);
        return err_set(e, ERR_IO, "no port for llama-server");
    }
    int rc = spawn_into(argv, null, &out->pid);
    close(null);
    if (rc < 0) {
        out->pid = 0;
        return err_set(e, ERR_UNAVAILABLE, "%s: not there", program);
    }
    return until_ready(out, e);
}
