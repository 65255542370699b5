#include "daemon/bench_peer.h"

#include "daemon/base/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { MAX_OUTPUT = 1 << 20, MAX_ENV = 512 };

/* environ without OPENBLAS_CORETYPE: an inherited one halves what BLAS can do. */
static void copy_environment(char *copy[MAX_ENV])
{
    size_t n = 0;
    for (char **v = environ; *v && n + 1 < MAX_ENV; v++)
        if (strncmp(*v, "OPENBLAS_CORETYPE=", 18) != 0)
            copy[n++] = *v;
    copy[n] = NULL;
}

static int spawn_into(const char *const argv[], int out, pid_t *pid)
{
    posix_spawn_file_actions_t act;
    char *env[MAX_ENV];
    copy_environment(env);
    if (posix_spawn_file_actions_init(&act) != 0)
        return -1;
    int rc = posix_spawn_file_actions_adddup2(&act, out, STDOUT_FILENO) != 0 ||
             posix_spawn_file_actions_addopen(&act, STDERR_FILENO, "/dev/null", O_WRONLY, 0) != 0 ||
             posix_spawn(pid, argv[0], &act, NULL, (char *const *)argv, env) != 0;
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
                                       "64", "-npl", "4,8,16", "--output-format", "jsonl", NULL};
        buf_reset(&text);
        if (run(batched, &text, NULL) == 0)
            read_batched(&text, out);
    }
    buf_fini(&text);
    return rc;
}
