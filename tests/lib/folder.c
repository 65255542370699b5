#include "tests/lib/folder.h"

#include "tests/lib/check.h"

#include <dirent.h>
#include <ftw.h>
#include <stdlib.h>
#include <unistd.h>

static char *folder;

char *made_dir(void)
{
    const char *tmp = getenv("TMPDIR");
    char path[256];
    snprintf(path, sizeof path, "%s/dreamstate-test-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(path));
    return strdup(path);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    return remove(path);
}

void removed_dir(char *dir)
{
    assert_int_equal(nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
    free(dir);
}

void folder_open(void)
{
    folder = made_dir();
}

void folder_close(const char *names)
{
    check_files("", names);
    removed_dir(folder);
    folder = NULL;
}

const char *in_folder(const char *format, ...)
{
    static char path[16][512];
    static size_t turn;
    char *p = path[turn++ % 16];
    va_list ap;
    int n = snprintf(p, sizeof *path, "%s/", folder);
    va_start(ap, format);
    int m = vsnprintf(p + n, sizeof *path - (size_t)n, format, ap);
    va_end(ap);
    assert_true(m >= 0 && (size_t)(n + m) < sizeof *path);
    return p;
}

void write_file(const char *name, const void *bytes, size_t n)
{
    FILE *f = fopen(in_folder("%s", name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

char *read_file(const char *name, size_t *n)
{
    FILE *f = fopen(in_folder("%s", name), "rb");
    if (!f)
        fail_msg("no file %s", name);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *n = (size_t)ftell(f);
    rewind(f);
    char *p = malloc(*n + 1);
    assert_non_null(p);
    assert_int_equal(fread(p, 1, *n, f), *n);
    p[*n] = '\0';
    fclose(f);
    return p;
}

void check_same_file(const char *a, const char *b)
{
    size_t n, m;
    char *x = read_file(a, &n), *y = read_file(b, &m);
    if (n != m || n <= 1000 || memcmp(x, y, n))
        fail_msg("%s (%zu bytes) is not %s (%zu bytes)", a, n, b, m);
    free(x);
    free(y);
}

void check_files(const char *name, const char *names)
{
    struct dirent **list;
    char found[1024] = "";
    size_t at = 0;
    int n = scandir(in_folder("%s", name), &list, NULL, alphasort);
    assert_true(n >= 0);
    for (int i = 0; i < n; i++) {
        if (strcmp(list[i]->d_name, ".") && strcmp(list[i]->d_name, "..") && at < sizeof found)
            at += (size_t)snprintf(found + at, sizeof found - at, "%s%s", at ? " " : "",
                                   list[i]->d_name);
        free(list[i]);
    }
    free(list);
    assert_string_equal(found, names);
}
