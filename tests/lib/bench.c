#include "tests/lib/bench.h"

#include "tests/lib/check.h"
#include "tests/lib/folder.h"
#include "tests/lib/training.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

void bench_write_text(const char *name, char first)
{
    static char text[36000];
    training_text(text, sizeof text, 6000, first, 0);
    write_file(name, text, sizeof text);
    training_text(text, sizeof text, 6000, first, 1);
    gzFile f = gzopen(in_folder("%s.gz", name), "wb");
    assert_non_null(f);
    assert_int_equal(gzwrite(f, text, sizeof text - 1), sizeof text - 1);
    assert_int_equal(gzclose(f), Z_OK);
}

int bench_command(int (*bench)(int argc, char **argv), const char *out, const char *const *list)
{
    char *argv[32] = {NULL};
    int argc = 0, was[2] = {dup(1), dup(2)};
    for (; list[argc]; argc++)
        argv[argc] = strdup(list[argc]);
    fflush(stdout);
    int fd = open(in_folder("%s", out), O_CREAT | O_TRUNC | O_WRONLY, 0600),
        null = open("/dev/null", O_WRONLY);
    assert_true(fd >= 0 && null >= 0 && dup2(fd, 1) == 1 && dup2(null, 2) == 2);
    int rc = bench(argc, argv);
    for (int i = 0; i < argc; i++)
        free(argv[i]);
    fflush(stdout);
    assert_true(dup2(was[0], 1) == 1 && dup2(was[1], 2) == 2);
    close(was[0]);
    close(was[1]);
    close(fd);
    close(null);
    return rc;
}
