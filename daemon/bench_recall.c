/* bench recall: do edits of a state change what it knows? From the recall model and its held-out lists;
 * with a diffuser of its states, also by diffusion. */
#include "daemon/bench_recall.h"
#include "daemon/bench.h"
#include "daemon/bench_corpora.h"

#include "daemon/bundled.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#define STEPS       20
#define QUICK_LISTS 12
#define QUICK_STEPS 4

static int usage(void)
{
    fputs("usage: dreamstated bench recall [--model FILE] [--lists FILE] [--diffuser FILE]\n"
          "           [--limit N] [--quick] [--seed N] [--threads N] [--json]\n"
          "  --lists FILE     gzip, lists of lines name=value with a NUL byte between\n"
          "  --diffuser FILE  of the model; without one, and with another model, no state is "
          "diffused\n"
          "  --limit N        lists at most, all by default; --quick: 12 and few sampling steps\n",
          stderr);
    return 2;
}

static const struct option longs[] = {{"model", required_argument, NULL, 'm'},
                                      {"lists", required_argument, NULL, 'l'},
                                      {"diffuser", required_argument, NULL, 'd'},
                                      {"limit", required_argument, NULL, 'n'},
                                      {"quick", no_argument, NULL, 'q'},
                                      {"seed", required_argument, NULL, 's'},
                                      {"threads", required_argument, NULL, 't'},
                                      {"json", no_argument, NULL, 'j'},
                                      {0}};

static int parse(int argc, char **argv, struct rc_options *o)
{
    struct bench_numbers n = bench_numbers(65536);
    *o = (struct rc_options){.steps = STEPS};
    optind = 0;
    for (int k; (k = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        const char **path = k == 'm'   ? &o->model
                            : k == 'l' ? &o->lists
                            : k == 'd' ? &o->diffuser
                                       : NULL;
        if (path) {
            *path = optarg;
        } else if (k == 'j') {
            o->json = true;
        } else if (k == 'q') {
            n.limit = QUICK_LISTS;
            o->steps = QUICK_STEPS;
        } else if (!bench_set_number(&n, k, optarg)) {
            return -1;
        }
    }
    o->limit = n.limit;
    o->seed = n.seed;
    o->threads = n.threads;
    return optind == argc ? 0 : -1;
}

enum { PATHS = 2 };

/* What is not named is in models/recall. */
static int fill_paths(struct rc_options *o, struct buf path[PATHS], struct err *e)
{
    static const char *const names[PATHS] = {"recall/model.safetensors", "recall/lists.gz"};
    const char **to[PATHS] = {&o->model, &o->lists};
    for (size_t i = 0; i < PATHS; i++) {
        buf_init(&path[i], 8192);
        if (*to[i])
            continue;
        int rc = bundled_path(names[i], &path[i], e);
        if (rc < 0)
            return rc;
        *to[i] = path[i].data;
    }
    return 0;
}

static int run(const struct rc_options *o, struct err *e)
{
    struct buf path[PATHS] = {{0}};
    struct rc_bench *b = calloc(1, sizeof *b);
    if (!b)
        return err_set(e, ERR_NOMEM, "out of memory");
    b->o = *o;
    int rc = fill_paths(&b->o, path, e);
    rc = rc < 0 ? rc : rc_material_open(b, e);
    rc = rc < 0 ? rc : rc_measure(b, e);
    if (rc == 0 && o->json)
        rc = rc_print_json(b);
    else if (rc == 0)
        rc_print_text(b);
    rc_material_close(b);
    free(b);
    for (size_t i = 0; i < PATHS; i++)
        buf_fini(&path[i]);
    return rc;
}

int bench_recall(int argc, char **argv)
{
    struct err e = {0};
    struct rc_options o;
    if (parse(argc, argv, &o) < 0)
        return usage();
    int rc = run(&o, &e);
    if (rc < 0)
        fprintf(stderr, "dreamstated bench recall: %s\n", e.msg);
    return rc < 0;
}
