/* bench: what the program is measured by. */
#include "daemon/bench.h"
#include "daemon/cmd.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} parts[] = {
    {"dreamstate", bench_dreamstate},
    {"hybrid", bench_hybrid},
    {"quality", bench_quality},
    {"recall", bench_recall},
    {"service", bench_service},
    {"speed", bench_speed},
    {"tracking", bench_tracking},
};

int cmd_bench(int argc, char **argv)
{
    for (size_t i = 0; argc > 1 && i < sizeof parts / sizeof parts[0]; i++)
        if (!strcmp(argv[1], parts[i].name))
            return parts[i].run(argc - 1, argv + 1);
    fputs("usage: dreamstated bench PART [OPTION ...], where PART is one of", stderr);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        fprintf(stderr, " %s", parts[i].name);
    fputs("\n", stderr);
    return 2;
}
