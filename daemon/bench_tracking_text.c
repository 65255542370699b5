/* The lines of `bench tracking`. */
#include "daemon/bench_tracking.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define DOCUMENT 1024 /* bytes of a document, about */
enum { TRAIN_DOCUMENTS = 1500, HELDOUT_DOCUMENTS = 24 };

const char *const track_task[TRACK_TASKS] = {"parity", "mod3", "mod5"};
static const unsigned modulus[TRACK_TASKS] = {2, 3, 5};

/* From 1 to TRACK_LONGEST, n as often as 1/n says. */
static size_t draw_length(struct rng *rng)
{
    double all = 0;
    for (size_t n = 1; n <= TRACK_LONGEST; n++)
        all += 1 / (double)n;
    double left = all * rng_uniform(rng);
    size_t n = 1;
    for (; n < TRACK_LONGEST && left >= 1 / (double)n; n++)
        left -= 1 / (double)n;
    return n;
}

size_t track_line(struct rng *rng, size_t task, size_t length, char to[TRACK_LINE])
{
    const size_t n = length ? length : draw_length(rng);
    unsigned sum = 0;
    for (size_t i = 0; i < n; i++) {
        const unsigned bit = (unsigned)rng_below(rng, 2);
        to[i] = (char)('0' + bit);
        sum += bit;
    }
    to[n] = '=';
    to[n + 1] = (char)('0' + sum % modulus[task]);
    to[n + 2] = '\n';
    return n + 3;
}

size_t track_text(struct rng *rng, size_t task, char *to, size_t n)
{
    char line[TRACK_LINE];
    size_t at = 0, len;
    while ((len = track_line(rng, task, 0, line)) <= n - at) {
        memcpy(to + at, line, len);
        at += len;
    }
    return at;
}

static int write_corpus(const char *path, struct rng *rng, size_t task, size_t documents,
                        struct err *e)
{
    char text[DOCUMENT];
    FILE *f = fopen(path, "we");
    if (!f)
        return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    bool ok = true;
    for (size_t d = 0; d < documents; d++) {
        const size_t n = track_text(rng, task, text, sizeof text);
        ok = ok && (d == 0 || putc(0, f) == 0) && fwrite(text, 1, n, f) == n;
    }
    ok = fclose(f) == 0 && ok;
    return ok ? 0
              : err_set(e, errno == ENOSPC ? ERR_STORAGE_FULL : ERR_IO, "%s: not written", path);
}

int track_write(const char *folder, uint64_t seed, struct err *e)
{
    static const char *const part[] = {"train", "heldout"};
    char path[4096];
    int rc = 0;
    for (size_t i = 0; i < 2 * TRACK_TASKS && rc == 0; i++) {
        struct rng rng;
        rng_init(&rng, seed, i);
        const int n =
            snprintf(path, sizeof path, "%s/%s.%s", folder, track_task[i / 2], part[i % 2]);
        rc = n < 0 || (size_t)n >= sizeof path
                 ? err_set(e, ERR_INVALID, "the folder's name is too long")
                 : write_corpus(path, &rng, i / 2, i % 2 ? HELDOUT_DOCUMENTS : TRAIN_DOCUMENTS, e);
    }
    return rc;
}
