/* bench hybrid: does a context help what follows it, through the vectors that a hybrid makes of it? On
 * held-out text, from the files of the bundled model alone: model, hybrid, the constant control, the
 * model trained on without contexts, held-out texts. And, of training logs, their curves. */
#include "daemon/bench_hybrid.h"

#include "daemon/base/clock.h"
#include "daemon/bench.h"
#include "daemon/bundled.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PER 60 /* cases a corpus and length: 360 of six corpora */

static int usage(void)
{
    fputs(
        "usage: dreamstated bench hybrid [--model FILE] [--hybrid FILE] [--control FILE]\n"
        "           [--tuned FILE] [--heldout DIR] [--limit N] [--seed N] [--threads N] [--json]\n"
        "       dreamstated bench hybrid --curves PREFIX --log NAME=FILE ...\n"
        "  --control FILE  a hybrid trained with context_dropout 1\n"
        "  --tuned FILE    the model trained on as long without contexts\n"
        "  --limit N       continuations a corpus and length, 60 by default\n"
        "  --curves PREFIX charts of the logs of `train hybrid`: PREFIX-language.svg and others,\n"
        "                  and a table of how those runs ended\n",
        stderr);
    return 2;
}

static const struct option longs[] = {
    {"model", required_argument, NULL, 'm'},   {"hybrid", required_argument, NULL, 'y'},
    {"control", required_argument, NULL, 'c'}, {"tuned", required_argument, NULL, 'u'},
    {"heldout", required_argument, NULL, 'h'}, {"limit", required_argument, NULL, 'n'},
    {"seed", required_argument, NULL, 's'},    {"threads", required_argument, NULL, 't'},
    {"json", no_argument, NULL, 'j'},          {"curves", required_argument, NULL, 'v'},
    {"log", required_argument, NULL, 'l'},     {0}};

/* NAME=FILE */
static bool add_log(struct hb_options *o)
{
    char *file = strchr(optarg, '=');
    if (!file || file == optarg || !file[1] || o->n_logs == sizeof o->log / sizeof *o->log)
        return false;
    *file = 0;
    o->log_name[o->n_logs] = optarg;
    o->log[o->n_logs++] = file + 1;
    return true;
}

static int parse(int argc, char **argv, struct hb_options *o)
{
    struct bench_numbers n = bench_numbers(PER);
    *o = (struct hb_options){0};
    optind = 0;
    for (int k; (k = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        const char **path = k == 'm'   ? &o->model
                            : k == 'y' ? &o->hybrid
                            : k == 'c' ? &o->control
                            : k == 'u' ? &o->tuned
                            : k == 'h' ? &o->heldout
                            : k == 'v' ? &o->curves
                                       : NULL;
        if (path)
            *path = optarg;
        else if (k == 'j')
            o->json = true;
        else if (k == 'l' ? !add_log(o) : !bench_set_number(&n, k, optarg))
            return -1;
    }
    o->per = n.limit;
    o->seed = n.seed;
    o->threads = n.threads;
    return optind == argc && !o->curves == !o->n_logs ? 0 : -1;
}

enum { PATHS = 5, NEEDED = 3 };

/* What is not named is the bundled model's; control and tuned may be absent, and are with a hybrid that
 * is named. */
static int fill_paths(struct hb_options *o, struct buf path[PATHS], struct err *e)
{
    static const char *const names[PATHS] = {
        "tiny/model.safetensors", "tiny/heldout", "tiny/hybrid.safetensors",
        "tiny/hybrid-control.safetensors", "tiny/hybrid-tuned.safetensors"};
    const char **to[PATHS] = {&o->model, &o->heldout, &o->hybrid, &o->control, &o->tuned};
    const bool others = o->hybrid;
    for (size_t i = 0; i < PATHS; i++) {
        buf_init(&path[i], 8192);
        if (*to[i] || (others && i >= NEEDED))
            continue;
        int rc = bundled_path(names[i], &path[i], e);
        if (rc < 0 && i < NEEDED)
            return rc;
        *to[i] = rc < 0 ? NULL : path[i].data;
    }
    return 0;
}

static int open_all(struct hb_bench *b, struct err *e)
{
    const struct hb_options *o = &b->o;
    const struct rwkv_options as_stored = {.weights_type = -1};
    int rc = bench_corpora_open(b->corpus, &b->n_corpora, o->heldout, e);
    if (rc == 0 && !(b->pool = pool_new(o->threads, "bench", 0, e)))
        rc = e->code;
    rc = rc < 0 ? rc : rwkv_open(o->model, &as_stored, b->pool, &b->model, e);
    if (rc == 0 && rwkv_get_info(b->model)->n_vocab != 256)
        rc = err_set(e, ERR_INVALID, "this bench needs a model of bytes");
    rc = rc < 0 ? rc : hybrid_open(o->hybrid, &b->hybrid, e);
    if (rc == 0 && o->control)
        rc = hybrid_open(o->control, &b->control, e);
    if (rc == 0 && o->tuned)
        rc = rwkv_open(o->tuned, &as_stored, b->pool, &b->tuned, e);
    if (rc == 0 && b->tuned && rwkv_get_info(b->tuned)->n_vocab != 256)
        rc = err_set(e, ERR_INVALID, "%s is no model of bytes", o->tuned);
    return rc;
}

static void close_all(struct hb_bench *b)
{
    bench_corpora_close(b->corpus, b->n_corpora);
    hybrid_close(b->hybrid);
    hybrid_close(b->control);
    rwkv_close(b->model);
    rwkv_close(b->tuned);
    pool_free(b->pool);
}

static int measure(struct hb_bench *b, struct err *e)
{
    const uint64_t began = clock_ns();
    size_t n = 0;
    int rc = 0;
    for (size_t l = 0; l < HB_LENGTHS && rc == 0; l++) {
        struct hb_length_cases k;
        rc = hb_find_cases(b, hb_length[l], &k, e);
        if (rc == 0 && k.n) {
            bench_note("%zu continuations of contexts of %zu bytes", k.n, hb_length[l]);
            rc = hb_measure_cases(b, hb_length[l], &k, e);
            rc = rc < 0 ? rc : hb_sum_cases(b, &k, &b->length[l], e);
            n += k.n;
        }
        free(k.c);
    }
    b->seconds = (double)(clock_ns() - began) * 1e-9;
    return rc < 0 || n ? rc : err_set(e, ERR_INVALID, "no held-out document is long enough");
}

static int run(const struct hb_options *o, struct err *e)
{
    struct buf path[PATHS] = {{0}};
    struct hb_bench *b = calloc(1, sizeof *b);
    if (!b)
        return err_set(e, ERR_NOMEM, "out of memory");
    b->o = *o;
    int rc = fill_paths(&b->o, path, e);
    rc = rc < 0 ? rc : open_all(b, e);
    rc = rc < 0 ? rc : measure(b, e);
    if (rc == 0 && o->json)
        rc = hb_print_json(b);
    else if (rc == 0)
        hb_print_text(b);
    close_all(b);
    free(b);
    for (size_t i = 0; i < PATHS; i++)
        buf_fini(&path[i]);
    return rc;
}

int bench_hybrid(int argc, char **argv)
{
    struct err e = {0};
    struct hb_options o;
    if (parse(argc, argv, &o) < 0)
        return usage();
    int rc = o.curves ? hb_write_curves(&o, &e) : run(&o, &e);
    if (rc == 0 && o.curves)
        rc = hb_print_runs(&o, &e);
    if (rc < 0)
        fprintf(stderr, "dreamstated bench hybrid: %s\n", e.msg);
    return rc < 0;
}
