/* bench tracking: parity and addition modulo 3 and 5 by small models, with and without the hybrid's
 * path; and the texts that they learn from. */
#include "daemon/bench_tracking.h"

#include "daemon/bench.h"
#include "daemon/bench_corpora.h"

#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define PER 400 /* lines a task and length */

const char *const track_row_name[TRACK_ROWS] = {
    [TRACK_PLAIN] = "plain",
    [TRACK_TUNED] = "model trained on",
    [TRACK_CONTROL] = "constant control",
    [TRACK_NONE] = "hybrid, no context",
    [TRACK_WRONG] = "hybrid, another modulus",
    [TRACK_HYBRID] = "hybrid",
    [TRACK_STATE] = "state of the context",
};

static int usage(void)
{
    fputs("usage: dreamstated bench tracking [--limit N] [--seed N] [--threads N] [--json] FOLDER "
          "...\n"
          "       dreamstated bench tracking --write FOLDER [--seed N]\n"
          "  FOLDER          model.safetensors, hybrid.safetensors, and of what the hybrid is "
          "measured\n"
          "                  against control.safetensors and tuned.safetensors; one a seed of "
          "training\n"
          "  --limit N       lines a task and length, 400 by default\n"
          "  --write FOLDER  the texts to learn from\n",
          stderr);
    return 2;
}

static const struct option longs[] = {
    {"write", required_argument, NULL, 'w'}, {"limit", required_argument, NULL, 'n'},
    {"seed", required_argument, NULL, 's'},  {"threads", required_argument, NULL, 't'},
    {"json", no_argument, NULL, 'j'},        {0}};

static int parse(int argc, char **argv, struct track_options *o)
{
    struct bench_numbers n = bench_numbers(PER);
    *o = (struct track_options){0};
    optind = 0;
    for (int k; (k = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        if (k == 'w')
            o->write = optarg;
        else if (k == 'j')
            o->json = true;
        else if (!bench_set_number(&n, k, optarg))
            return -1;
    }
    o->per = n.limit;
    o->seed = n.seed;
    o->threads = n.threads;
    o->folder = argv + optind;
    o->n_folders = (size_t)(argc - optind);
    return o->n_folders <= TRACK_FOLDERS && !o->n_folders == (o->write != NULL) ? 0 : -1;
}

/* ---- Figures --------------------------------------------------------------------------------- */

struct spread {
    double mean, low, high;
};

static struct spread over_folders(const struct track_figures *f, size_t n, size_t row, size_t task,
                                  size_t length)
{
    struct spread s = {0, INFINITY, -INFINITY};
    for (size_t i = 0; i < n; i++) {
        const double x = f[i].right[row][task][length];
        s.mean += x / (double)n;
        s.low = fmin(s.low, x);
        s.high = fmax(s.high, x);
    }
    return s;
}

static void print_text(const struct track_options *o, const struct track_figures *f)
{
    printf("%zu trainings, %zu lines a figure: %% of right answers (lowest, highest training)\n",
           o->n_folders, o->per);
    for (size_t task = 0; task < TRACK_TASKS; task++) {
        printf("\n%-24s %12s 1-%-4d", track_task[task], "bits", TRACK_LONGEST);
        for (size_t length = 1; length < TRACK_LENGTHS; length++)
            printf(" %18zu", track_length[length]);
        printf("\n");
        for (size_t row = 0; row < TRACK_ROWS; row++) {
            printf("%-24s", track_row_name[row]);
            for (size_t length = 0; length < TRACK_LENGTHS; length++) {
                const struct spread s = over_folders(f, o->n_folders, row, task, length);
                printf(" %5.1f (%4.1f, %5.1f)", 100 * s.mean, 100 * s.low, 100 * s.high);
            }
            printf("\n");
        }
    }
}

static json_t *row_json(const struct track_options *o, const struct track_figures *f, size_t row,
                        size_t task)
{
    json_t *lengths = json_array();
    for (size_t length = 0; length < TRACK_LENGTHS; length++) {
        json_t *all = json_array();
        for (size_t i = 0; i < o->n_folders; i++)
            json_array_append_new(all, json_real(f[i].right[row][task][length]));
        const struct spread s = over_folders(f, o->n_folders, row, task, length);
        json_array_append_new(lengths,
                              json_pack("{s:I, s:f, s:o}", "bits", (json_int_t)track_length[length],
                                        "right", s.mean, "trainings", all));
    }
    return json_pack("{s:s, s:s, s:o}", "task", track_task[task], "row", track_row_name[row],
                     "lengths", lengths);
}

static int print_json(const struct track_options *o, const struct track_figures *f)
{
    json_t *rows = json_array();
    for (size_t task = 0; task < TRACK_TASKS; task++)
        for (size_t row = 0; row < TRACK_ROWS; row++)
            json_array_append_new(rows, row_json(o, f, row, task));
    json_t *root = json_pack("{s:s, s:I, s:I, s:I, s:o, s:[], s:[]}", "bench", "tracking", "seed",
                             (json_int_t)o->seed, "trainings", (json_int_t)o->n_folders, "lines",
                             (json_int_t)o->per, "rows", rows, "targets", "skipped");
    int rc = root ? json_dumpf(root, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) : -1;
    putchar('\n');
    json_decref(root);
    return rc;
}

static int run(const struct track_options *o, struct err *e)
{
    struct track_figures *f = calloc(o->n_folders, sizeof *f);
    int rc = f ? 0 : err_set(e, ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < o->n_folders && rc == 0; i++)
        rc = track_measure(o, o->folder[i], &f[i], e);
    if (rc == 0 && o->json)
        rc = print_json(o, f);
    else if (rc == 0)
        print_text(o, f);
    free(f);
    return rc;
}

int bench_tracking(int argc, char **argv)
{
    struct err e = {0};
    struct track_options o;
    if (parse(argc, argv, &o) < 0)
        return usage();
    int rc = o.write ? track_write(o.write, o.seed, &e) : run(&o, &e);
    if (rc < 0)
        fprintf(stderr, "dreamstated bench tracking: %s\n", e.msg);
    return rc < 0;
}
