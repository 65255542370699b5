/* Input and output are memory files, so that neither side waits for the other. */
#include "daemon/compress_size.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static int write_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return -1;
        p += k;
        n -= (size_t)k;
    }
    return lseek(fd, 0, SEEK_SET) < 0 ? -1 : 0;
}

/* posix_spawnp takes its arguments without const, but leaves them alone.
 * 0 when the program ran and exited with 0. */
static int run(const char *const argv[], int in, int out)
{
    posix_spawn_file_actions_t act;
    pid_t pid;
    int status;
    if (posix_spawn_file_actions_init(&act) != 0)
        return -1;
    int rc = posix_spawn_file_actions_adddup2(&act, in, STDIN_FILENO) != 0 ||
             posix_spawn_file_actions_adddup2(&act, out, STDOUT_FILENO) != 0 ||
             posix_spawn_file_actions_addopen(&act, STDERR_FILENO, "/dev/null", O_WRONLY, 0) != 0 ||
             posix_spawnp(&pid, argv[0], &act, NULL, (char *const *)argv, environ) != 0;
    posix_spawn_file_actions_destroy(&act);
    if (rc)
        return -1;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -1;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

int compress_size(const char *const argv[], const void *bytes, size_t n, size_t *size, struct err *e)
{
    int rc = 0;
    struct stat st;
    int in = memfd_create("in", MFD_CLOEXEC), out = memfd_create("out", MFD_CLOEXEC);
    if (in < 0 || out < 0 || write_all(in, bytes, n) < 0)
        rc = err_set(e, ERR_IO, "%s: memory file: %s", argv[0], strerror(errno));
    else if (run(argv, in, out) < 0)
        rc = err_set(e, ERR_UNAVAILABLE, "%s: not installed, or failed", argv[0]);
    else if (fstat(out, &st) < 0)
        rc = err_set(e, ERR_IO, "%s: memory file: %s", argv[0], strerror(errno));
    else
        *size = (size_t)st.st_size;
    if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
    return rc;
}
