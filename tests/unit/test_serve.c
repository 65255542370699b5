/* `serve` and `healthcheck` as programs: one line when ready, the signals, the drain, restart. */
#include "tests/lib/check.h"

#include "daemon/notify.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static char program[600]; /* set by main */

struct daemon {
    pid_t pid;
    int out; /* its standard output */
    int port;
};

static pid_t spawn(const char *const *argv, int out)
{
    posix_spawn_file_actions_t a;
    pid_t pid;
    posix_spawn_file_actions_init(&a);
    if (out >= 0)
        posix_spawn_file_actions_adddup2(&a, out, STDOUT_FILENO);
    posix_spawn_file_actions_addopen(&a, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    assert_int_equal(posix_spawn(&pid, program, &a, NULL, (char *const *)argv, environ), 0);
    posix_spawn_file_actions_destroy(&a);
    return pid;
}

static int wait_code(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static struct daemon start(const char *dir)
{
    const char *const argv[] = {program,     "serve",
                                "--model",   golden_path("rwkv7-rand/rwkv7-rand-fp32.safetensors"),
                                "--listen",  "127.0.0.1:0",
                                "--data",    dir,
                                "--threads", "1",
                                NULL};
    struct daemon d = {0};
    int fd[2];
    char line[256] = "";
    size_t n = 0;
    assert_int_equal(pipe(fd), 0);
    d.pid = spawn(argv, fd[1]);
    close(fd[1]);
    d.out = fd[0];
    while (n + 1 < sizeof line && !strchr(line, '\n') && read(d.out, line + n, 1) == 1)
        n++;
    assert_int_equal(sscanf(line, "listening on http://127.0.0.1:%d\n", &d.port), 1);
    return d;
}

/* Nothing but the one line was on its standard output. */
static int stop(struct daemon *d, int signum)
{
    char c;
    kill(d->pid, signum);
    int code = wait_code(d->pid);
    assert_int_equal(read(d->out, &c, 1), 0);
    close(d->out);
    return code;
}

static int connect_to(const struct daemon *d)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)d->port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

static int post(const struct daemon *d, const char *body)
{
    char text[1000];
    int fd = connect_to(d);
    int n =
        snprintf(text, sizeof text,
                 "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                 "Connection: close\r\nContent-Length: %zu\r\n\r\n%s",
                 strlen(body), body);
    assert_int_equal(write(fd, text, (size_t)n), n);
    return fd;
}

/* Reads until `word` was seen or the end; what came, to be freed. */
static char *read_until(int fd, const char *word)
{
    size_t n = 0, cap = 1u << 20;
    char *text = calloc(1, cap);
    assert_non_null(text);
    for (ssize_t got; n + 1 < cap && !(word && strstr(text, word)); n += (size_t)got)
        if ((got = read(fd, text + n, cap - 1 - n)) <= 0)
            break;
    return text;
}

static int healthcheck(int port)
{
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%d", port);
    const char *const argv[] = {program, "healthcheck", url, NULL};
    return wait_code(spawn(argv, -1));
}

static char *new_dir(void)
{
    static char dir[64];
    snprintf(dir, sizeof dir, "/tmp/dreamstate-test-XXXXXX");
    return dir;
}

static void remove_dir(const char *dir)
{
    const char *const argv[] = {"rm", "-rf", dir, NULL};
    pid_t pid;
    assert_int_equal(posix_spawnp(&pid, "rm", NULL, NULL, (char *const *)argv, environ), 0);
    wait_code(pid);
}

/* SIGTERM in the middle of an answer: the answer is finished, then the exit code is 0. What it
 * saved is there after the restart. */
static void test_drain_and_restart(void **state)
{
    (void)state;
    const char *dir = new_dir();
    struct daemon d = start(dir);
    assert_int_equal(healthcheck(d.port), 0);
    int fd =
        post(&d, "{\"prompt\":[1,2],\"max_tokens\":300,\"stream\":true,\"save_state\":\"kept\"}");
    free(read_until(fd, "data: "));
    kill(d.pid, SIGTERM);
    char *rest = read_until(fd, NULL);
    assert_non_null(strstr(rest, "\"finish_reason\":\"length\""));
    assert_non_null(strstr(rest, "data: [DONE]\n\n"));
    free(rest);
    close(fd);
    assert_int_equal(stop(&d, 0), 0);
    assert_int_equal(healthcheck(d.port), 1);
    d = start(dir);
    fd = post(&d, "{\"prompt\":[],\"max_tokens\":1,\"state\":\"kept\"}");
    rest = read_until(fd, NULL);
    assert_non_null(strstr(rest, "\"cache_n\":302"));
    assert_non_null(strstr(rest, "\"prompt_n\":0"));
    free(rest);
    close(fd);
    assert_int_equal(stop(&d, SIGINT), 0);
    remove_dir(dir);
}

static void test_second_signal(void **state)
{
    (void)state;
    const char *dir = new_dir();
    struct daemon d = start(dir);
    int fd = post(&d, "{\"prompt\":[1],\"max_tokens\":100000,\"stream\":true}");
    free(read_until(fd, "data: "));
    kill(d.pid, SIGTERM);
    for (int c; (c = healthcheck(d.port)) == 0;) /* until it has begun to drain */
        ;
    assert_int_equal(stop(&d, SIGTERM), 1);
    close(fd);
    remove_dir(dir);
}

static void expect_exit(int want, const char *const *argv)
{
    assert_int_equal(wait_code(spawn(argv, -1)), want);
}

static void test_wrong_usage(void **state)
{
    (void)state;
    const char *dir = new_dir();
    expect_exit(2, (const char *const[]){program, "serve", "--modle", "x", NULL});
    expect_exit(2, (const char *const[]){program, "serve", "--listen", "nothing", NULL});
    expect_exit(
        1, (const char *const[]){program, "serve", "--model", "/nowhere", "--data", dir, NULL});
    expect_exit(2, (const char *const[]){program, "healthcheck", "http://", NULL});
    expect_exit(2, (const char *const[]){program, "healthcheck", "a", "b", NULL});
    struct daemon d = start(dir);
    const char *model = golden_path("rwkv7-rand/rwkv7-rand-fp32.safetensors");
    /* the data is in use by another process */
    expect_exit(1, (const char *const[]){program, "serve", "--model", model, "--data", dir,
                                         "--listen", "127.0.0.1:0", NULL});
    /* so is the port: all that was opened before is closed again */
    char *other = strdup(dir), listen[32];
    snprintf(listen, sizeof listen, "127.0.0.1:%d", d.port);
    const char *empty = new_dir();
    expect_exit(1, (const char *const[]){program, "serve", "--model", model, "--data", empty,
                                         "--listen", listen, NULL});
    remove_dir(empty);
    assert_int_equal(stop(&d, SIGTERM), 0);
    remove_dir(other);
    free(other);
}

/* What systemd hears: ready after the line, the watchdog while it runs, stopping at the signal. */
static void hear(int fd, const char *want)
{
    char text[64];
    for (;;) {
        ssize_t n = recv(fd, text, sizeof text - 1, 0);
        assert_true(n > 0);
        text[n] = 0;
        if (!strcmp(text, want))
            return;
        assert_string_equal(text, "WATCHDOG=1");
    }
}

static void test_notify(void **state)
{
    (void)state;
    char *dir = mkdtemp(new_dir());
    char path[100];
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    assert_non_null(dir);
    snprintf(path, sizeof path, "%s/n", dir);
    for (int abstract = 0; abstract < 2; abstract++) {
        int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
        size_t n = strlen(path);
        assert_true(fd >= 0);
        memcpy(at.sun_path, path, n);
        if (abstract)
            at.sun_path[0] = 0, path[0] = '@';
        socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
        assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
        setenv("NOTIFY_SOCKET", path, 1);
        setenv("WATCHDOG_USEC", "20000", 1);
        struct daemon d = start(dir);
        hear(fd, "READY=1");
        hear(fd, "WATCHDOG=1");
        kill(d.pid, SIGTERM);
        hear(fd, "STOPPING=1");
        assert_int_equal(stop(&d, SIGCONT), 0);
        close(fd);
    }
    remove_dir(dir);
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    assert_int_equal(notify_tell("READY=1"), 0);
    assert_int_equal(notify_watchdog_ms(), 0);
    setenv("WATCHDOG_USEC", "30000000", 1);
    assert_int_equal(notify_watchdog_ms(), 15000);
    setenv("WATCHDOG_PID", "1", 1); /* another process is meant */
    assert_int_equal(notify_watchdog_ms(), 0);
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_notify),
        cmocka_unit_test(test_drain_and_restart),
        cmocka_unit_test(test_second_signal),
        cmocka_unit_test(test_wrong_usage),
    };
    const char *slash = argc ? strrchr(argv[0], '/') : NULL;
    snprintf(program, sizeof program, "%.*s/../../dreamstated", slash ? (int)(slash - argv[0]) : 1,
             slash ? argv[0] : ".");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
