/* Runs a fuzz target without a fuzzer: every corpus file as it is, then a fixed number of deterministic
 * mutations of each (bytes flipped, runs copied, cut, integers set to extremes). Built with the
 * sanitizers, it is the part of fuzzing that every check can afford; `make fuzz-run` does the rest.
 *
 *     fuzz_x_smoke MUTATIONS FILE_OR_FOLDER ... */
#include <dirent.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define INPUT_MAX_BYTES (1u << 20)

static uint64_t next(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static void set_extreme(uint8_t *p, size_t room, uint64_t r)
{
    static const uint64_t extremes[] = {0,          1,          0x7f,       0xff,        0x7fffffff,
                                        0xffffffff, UINT64_MAX, 0x80000000, INT64_MAX,   1ull << 40};
    uint64_t v = extremes[r % (sizeof extremes / sizeof extremes[0])];
    size_t width = (size_t)1 << (r >> 8 & 3);
    memcpy(p, &v, width < room ? width : room);
}

static size_t mutate(uint8_t *p, size_t n, uint64_t *seed)
{
    for (unsigned edits = 1 + next(seed) % 4; edits && n; edits--) {
        uint64_t r = next(seed), at = next(seed) % n;
        switch (r % 5) {
        case 0: p[at] ^= (uint8_t)(1u << (r >> 8 & 7)); break;
        case 1: p[at] = (uint8_t)(r >> 8); break;
        case 2: set_extreme(p + at, n - at, r >> 8); break;
        case 3: {
            size_t from = next(seed) % n, len = 1 + (r >> 8) % 64;
            len = len > n - from ? n - from : len;
            len = len > n - at ? n - at : len;
            memmove(p + at, p + from, len);
            break;
        }
        default: n = (r >> 8) % 8 ? n : at; break;
        }
    }
    return n;
}

/* The target gets an exact-size block, so that a read past the end is seen. */
static void run(const uint8_t *p, size_t n)
{
    uint8_t *exact = malloc(n ? n : 1);
    if (!exact)
        abort();
    memcpy(exact, p, n);
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
}

static size_t run_file(const char *path, unsigned mutations)
{
    FILE *f = fopen(path, "rb");
    uint8_t *whole = malloc(INPUT_MAX_BYTES), *work = malloc(INPUT_MAX_BYTES);
    if (!f || !whole || !work) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(1);
    }
    size_t n = fread(whole, 1, INPUT_MAX_BYTES, f);
    fclose(f);
    uint64_t seed = 0x9e3779b97f4a7c15u ^ n;
    run(whole, n);
    for (unsigned i = 0; i < mutations; i++) {
        memcpy(work, whole, n);
        run(work, mutate(work, n, &seed));
    }
    free(whole);
    free(work);
    return 1 + mutations;
}

static size_t run_path(const char *path, unsigned mutations)
{
    struct stat st;
    if (stat(path, &st) < 0) {
        fprintf(stderr, "no %s\n", path);
        exit(1);
    }
    if (!S_ISDIR(st.st_mode))
        return run_file(path, mutations);
    struct dirent **names;
    size_t runs = 0;
    int n = scandir(path, &names, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        char sub[1024];
        snprintf(sub, sizeof sub, "%s/%s", path, names[i]->d_name);
        if (names[i]->d_name[0] != '.')
            runs += run_path(sub, mutations);
        free(names[i]);
    }
    if (n >= 0)
        free(names);
    return runs;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    size_t runs = 0;
    for (int i = 2; i < argc; i++)
        runs += run_path(argv[i], (unsigned)strtoul(argv[1], NULL, 10));
    printf("%zu inputs\n", runs);
    return 0;
}
