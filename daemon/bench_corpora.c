#include "daemon/bench_corpora.h"

#include "daemon/base/thread.h"
#include "engine/tensor/write.h"

#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREADS 256

void bench_note(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

static int read_names(struct bench_corpus *c, size_t *n, const char *folder, struct err *e)
{
    struct buf path;
    json_error_t je;
    json_t *root = NULL, *item;
    size_t i;
    buf_init(&path, 4096);
    int rc = buf_printf(&path, "%s/baselines.json", folder);
    if (rc < 0 || !(root = json_load_file(path.data, JSON_REJECT_DUPLICATES, &je)))
        rc = err_set(e, ERR_IO, "%s/baselines.json: %s", folder, rc < 0 ? "path" : je.text);
    json_array_foreach(json_object_get(root, "corpora"), i, item)
    {
        const char *name = json_string_value(json_object_get(item, "name"));
        if (i >= BENCH_CORPORA || !name || !*name || strlen(name) >= sizeof c->name ||
            strchr(name, '/')) {
            rc = err_set(e, ERR_FORMAT, "baselines.json: entry %zu is no corpus", i);
            break;
        }
        memcpy(c[(*n)++].name, name, strlen(name) + 1);
    }
    if (rc == 0 && *n < 2)
        rc = err_set(e, ERR_FORMAT, "baselines.json: fewer than two corpora");
    json_decref(root);
    buf_fini(&path);
    return rc;
}

int bench_corpora_open(struct bench_corpus *c, size_t *n, const char *folder, struct err *e)
{
    *n = 0;
    memset(c, 0, BENCH_CORPORA * sizeof *c);
    int rc = read_names(c, n, folder, e);
    for (size_t k = 0; rc == 0 && k < *n; k++) {
        struct buf path;
        buf_init(&path, 4096);
        if ((rc = buf_printf(&path, "%s/%s.gz", folder, c[k].name)) < 0)
            err_set(e, rc, "%s: path too long", folder);
        else
            rc = heldout_open(path.data, &c[k].text, e);
        buf_fini(&path);
    }
    return rc;
}

void bench_corpora_close(struct bench_corpus *c, size_t n)
{
    for (size_t k = 0; k < n; k++)
        heldout_fini(&c[k].text);
}

size_t bench_count(const char *s, size_t most)
{
    char *end;
    unsigned long long n = strtoull(s, &end, 10);
    return *s >= '0' && *s <= '9' && !*end && n <= most ? (size_t)n : 0;
}

bool bench_set_number(struct bench_numbers *n, int option, const char *value)
{
    size_t x;
    switch (option) {
    case 'n':
        return (n->limit = bench_count(value, 65536)) > 0;
    case 's':
        return (n->seed = bench_count(value, UINT32_MAX)) > 0;
    case 't':
        x = bench_count(value, THREADS);
        n->threads = (int)x;
        return x > 0;
    default:
        return false;
    }
}

struct bench_numbers bench_numbers(size_t limit)
{
    const int cores = thread_processors();
    return (struct bench_numbers){limit, 1, cores > THREADS ? THREADS : cores};
}

int bench_folder(char *dir, size_t n, struct err *e)
{
    const char *tmp = getenv("TMPDIR");
    int len = snprintf(dir, n, "%s/dreamstate-bench-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (len < 0 || (size_t)len >= n)
        return err_set(e, ERR_IO, "bench: the path of TMPDIR is too long");
    return mkdtemp(dir) ? 0 : err_set(e, ERR_IO, "bench: %s: %s", dir, strerror(errno));
}

void bench_folder_remove(const char *dir)
{
    static const char *const names[] = {"dreamstate.db", "dreamstate.db-wal", "dreamstate.db-shm"};
    char path[1024];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
}

int bench_write_chart(const struct plot *p, const char *path, struct err *e)
{
    struct buf svg;
    buf_init(&svg, 16 << 20);
    int rc = plot_write(p, &svg, e);
    rc = rc < 0 ? rc : file_write_atomic(path, svg.data, svg.len, e);
    buf_fini(&svg);
    return rc;
}
