/* bench dreamstate: are generated and edited states worth anything? On held-out text, from the files of
 * the bundled model alone: model, diffuser, held-out texts, and the reference that --prepare made
 * from the training states. Settings are fixed: 20 steps of DDIM; likelihood, class, domain and
 * edits at guidance 2, joint statistics, distance and diversity at 1. */
#include "daemon/bench_dreamstate.h"
#include "daemon/bench.h"

#include "daemon/base/thread.h"
#include "daemon/bundled.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#define PREPARE_ROWS 4200 /* 7 MB with 1,536 coordinates a state */
#define PREPARE_TUNE 200

static int usage(void)
{
    fputs(
        "usage: dreamstated bench dreamstate [--model FILE] [--diffuser FILE ...] [--heldout DIR]\n"
        "           [--reference FILE] [--states N] [--quick] [--seed N] [--threads N]\n"
        "           [--svg FILE] [--curve FILE] [--json]\n"
        "       dreamstated bench dreamstate --prepare FILE --dataset FILE [--diffuser FILE]\n"
        "           [--model FILE] [--rows N] [--tune-steps N] [--threads N]\n"
        "  --diffuser FILE  may repeat: the last is measured, those before give the curve\n"
        "  --states N       a corpus, 100 by default, 3 N where states are looked at as a set;\n"
        "                   --quick: 6 and few sampling steps\n"
        "  --prepare FILE   writes the reference from a dataset of states\n",
        stderr);
    return 2;
}

struct command {
    struct ds_options o;
    const char *prepare, *dataset;
    size_t rows, tune_steps;
};

static const struct option longs[] = {{"model", required_argument, NULL, 'm'},
                                      {"diffuser", required_argument, NULL, 'd'},
                                      {"heldout", required_argument, NULL, 'h'},
                                      {"reference", required_argument, NULL, 'r'},
                                      {"states", required_argument, NULL, 'n'},
                                      {"quick", no_argument, NULL, 'q'},
                                      {"seed", required_argument, NULL, 's'},
                                      {"threads", required_argument, NULL, 't'},
                                      {"svg", required_argument, NULL, 'v'},
                                      {"curve", required_argument, NULL, 'c'},
                                      {"json", no_argument, NULL, 'j'},
                                      {"prepare", required_argument, NULL, 'p'},
                                      {"dataset", required_argument, NULL, 'D'},
                                      {"rows", required_argument, NULL, 'R'},
                                      {"tune-steps", required_argument, NULL, 'T'},
                                      {0}};

static bool set_number(struct command *c, int option)
{
    if (option == '?')
        return false;
    size_t n = bench_count(optarg, option == 't' ? 256 : option == 's' ? UINT32_MAX : 65536);
    switch (option) {
    case 'n':
        c->o.states = n;
        return n >= 2;
    case 's':
        c->o.seed = n;
        return n > 0;
    case 't':
        c->o.threads = (int)n;
        return n > 0;
    case 'R':
        c->rows = n;
        return n > 0;
    case 'T':
        c->tune_steps = n;
        return n > 0;
    default:
        return false;
    }
}

static int parse(int argc, char **argv, struct command *c)
{
    int cores = thread_processors();
    struct ds_options *o = &c->o;
    *c = (struct command){.rows = PREPARE_ROWS, .tune_steps = PREPARE_TUNE};
    *o = (struct ds_options){.steps = 20, .seed = 1, .threads = cores > 256 ? 256 : cores};
    optind = 0;
    for (int k; (k = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        switch (k) {
        case 'm':
            o->model = optarg;
            break;
        case 'h':
            o->heldout = optarg;
            break;
        case 'r':
            o->reference = optarg;
            break;
        case 'v':
            o->svg = optarg;
            break;
        case 'c':
            o->curve_svg = optarg;
            break;
        case 'p':
            c->prepare = optarg;
            break;
        case 'D':
            c->dataset = optarg;
            break;
        case 'j':
            o->json = true;
            break;
        case 'q':
            o->quick = true;
            break;
        case 'd':
            if (o->n_diffusers == sizeof o->diffuser / sizeof *o->diffuser)
                return -1;
            o->diffuser[o->n_diffusers++] = optarg;
            break;
        default:
            if (!set_number(c, k))
                return -1;
        }
    }
    if (!o->states)
        o->states = o->quick ? 6 : 100;
    o->steps = o->quick ? 4 : o->steps;
    return optind == argc && !c->prepare == !c->dataset ? 0 : -1;
}

/* What is not named is the bundled model's. */
static int fill_paths(struct command *c, struct buf path[4], struct err *e)
{
    static const char *const names[4] = {"tiny/model.safetensors", "tiny/heldout",
                                         "tiny/reference.safetensors",
                                         "tiny/diffuser.safetensors"};
    const char **to[4] = {&c->o.model, &c->o.heldout, &c->o.reference, &c->o.diffuser[0]};
    for (size_t i = 0; i < 4; i++) {
        buf_init(&path[i], 8192);
        if (*to[i] || (c->prepare && (i == 1 || i == 2)))
            continue;
        int rc = bundled_path(names[i], &path[i], e);
        if (rc < 0)
            return rc;
        *to[i] = path[i].data;
    }
    c->o.n_diffusers += !c->o.n_diffusers;
    return 0;
}

static int prepare(const struct command *c, struct err *e)
{
    struct pool *pool = pool_new(c->o.threads, "bench", 0, e);
    if (!pool)
        return e->code;
    const struct ds_prepare p = {.model = c->o.model,
                                 .dataset = c->dataset,
                                 .diffuser = c->o.diffuser[c->o.n_diffusers - 1],
                                 .out = c->prepare,
                                 .rows = c->rows,
                                 .tune_steps = c->tune_steps,
                                 .pool = pool};
    int rc = ds_prepare(&p, e);
    pool_free(pool);
    return rc;
}

static int measure(const struct command *c, struct err *e)
{
    struct ds_bench *b = calloc(1, sizeof *b);
    struct ds_figures *f = calloc(1, sizeof *f);
    int rc = b && f ? 0 : err_set(e, ERR_NOMEM, "out of memory");
    if (rc == 0) {
        b->o = c->o;
        rc = ds_material_open(b, e);
        rc = rc < 0 ? rc : ds_measure(b, f, e);
        if (rc == 0 && c->o.json)
            rc = ds_print_json(b, f);
        else if (rc == 0)
            ds_print_text(b, f);
        ds_material_close(b);
    }
    free(b);
    free(f);
    return rc;
}

int bench_dreamstate(int argc, char **argv)
{
    struct err e = {0};
    struct buf path[4] = {{0}};
    struct command c;
    if (parse(argc, argv, &c) < 0)
        return usage();
    int rc = fill_paths(&c, path, &e);
    if (rc == 0)
        rc = c.prepare ? prepare(&c, &e) : measure(&c, &e);
    if (rc < 0)
        fprintf(stderr, "dreamstated bench dreamstate: %s\n", e.msg);
    for (size_t i = 0; i < 4; i++)
        buf_fini(&path[i]);
    return rc < 0;
}
