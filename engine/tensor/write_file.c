/* Temporary file, fsync, rename, fsync of the folder. */
#include "engine/tensor/write_file.h"

#include "engine/tensor/file.h"
#include "engine/tensor/write.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/random.h>
#include <unistd.h>

static int fail_errno(struct err *e, const char *what)
{
    bool full = errno == ENOSPC || errno == EDQUOT || errno == EFBIG;
    return err_set(e, full ? ERR_STORAGE_FULL : ERR_IO, "%s: %s", what, strerror(errno));
}

int new_file_open(struct new_file *w, const char *path, struct err *e)
{
    size_t size = strlen(path) + 16;
    *w = (struct new_file){.fd = -1, .path = strdup(path), .tmp = malloc(size)};
    if (!w->path || !w->tmp)
        return err_set(e, ERR_NOMEM, "no memory to write a file");
    for (int attempt = 0; w->fd < 0 && attempt < 8; attempt++) {
        uint32_t r;
        if (getrandom(&r, sizeof r, 0) != (ssize_t)sizeof r)
            return fail_errno(e, "cannot name a temporary file");
        snprintf(w->tmp, size, "%s.%08x.tmp", path, r);
        w->fd = open(w->tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (w->fd < 0 && errno != EEXIST)
            break;
    }
    return w->fd < 0 ? fail_errno(e, "cannot create a file beside the goal") : 0;
}

int new_file_put(struct new_file *w, const void *p, size_t n, struct err *e)
{
    const char *at = p;
    while (n) {
        size_t step = n < (1u << 30) ? n : 1u << 30;
        ssize_t k = write(w->fd, at, step);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return fail_errno(e, "cannot write");
        at += k;
        n -= (size_t)k;
    }
    return 0;
}

int tensor__sync_folder(char *path, struct err *e)
{
    char *slash = strrchr(path, '/');
    if (slash)
        slash[slash == path] = 0;
    int fd = open(slash ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = 0;
    /* Some file systems cannot sync a folder (EINVAL): nothing more can be done there. */
    if (fd < 0 || (fsync(fd) < 0 && errno != EINVAL))
        rc = fail_errno(e, "cannot sync the folder");
    if (fd >= 0)
        close(fd);
    return rc;
}

int new_file_close(struct new_file *w, int rc, struct err *e)
{
    bool created = w->fd >= 0;
    if (rc == 0 && fsync(w->fd) < 0)
        rc = fail_errno(e, "cannot sync");
    if (created && close(w->fd) < 0 && rc == 0)
        rc = fail_errno(e, "cannot close");
    if (rc == 0 && rename(w->tmp, w->path) < 0)
        rc = fail_errno(e, "cannot rename");
    if (rc < 0 && created)
        unlink(w->tmp);
    if (rc == 0)
        rc = tensor__sync_folder(w->path, e);
    free(w->path);
    free(w->tmp);
    return rc;
}

int file_write_atomic(const char *path, const void *bytes, size_t n, struct err *e)
{
    struct new_file w;
    int rc = new_file_open(&w, path, e);
    if (rc == 0)
        rc = new_file_put(&w, bytes, n, e);
    return new_file_close(&w, rc, e);
}

/* NAME.xxxxxxxx.tmp, as new_file_open names it. */
static bool is_unfinished(const char *name)
{
    size_t n = strlen(name);
    const char *end = name + n - 13;
    return n > 13 && *end == '.' && strspn(end + 1, "0123456789abcdef") == 8 &&
           !strcmp(end + 9, ".tmp");
}

void file_remove_unfinished(const char *folder)
{
    DIR *d = opendir(folder);
    for (struct dirent *at; d && (at = readdir(d));)
        if (is_unfinished(at->d_name))
            (void)unlinkat(dirfd(d), at->d_name, 0);
    if (d)
        closedir(d);
}

int tensor__check_output(const struct tensor *t, struct err *e)
{
    struct err why = {0};
    struct tensor want = *t;
    if ((unsigned)t->dtype >= DTYPE_COUNT || t->n_dims < 0 || t->n_dims > TENSOR_MAX_DIMS)
        return err_set(e, ERR_INVALID,
                       "a tensor to be written has no valid type or too many dimensions");
    if (tensor__check_name(t->name, strlen(t->name), &why) < 0 || tensor__measure(&want, &why) < 0)
        return err_set(e, ERR_INVALID, "%s", why.msg);
    char shown[TENSOR_SHOWN];
    if (want.bytes != t->bytes)
        return err_set(e, ERR_INVALID, "tensor %s: %zu bytes given, want %zu for its shape and %s",
                       tensor__show(shown, t->name, strlen(t->name)), t->bytes, want.bytes,
                       dtype_name(t->dtype));
    return 0;
}
