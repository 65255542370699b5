/* generate_states: a generation that is longer than a request should be. States are saved as they come, one
 * after the other; each write's key is made of the job's id and the state's number, so that an attempt that
 * goes on finds what is there and makes the rest, to the bytes that one request would have made. */
#include "daemon/generation.h"
#include "daemon/job_decode.h"
#include "daemon/jobs_impl.h"

#include "daemon/base/clock.h"
#include "daemon/base/sha256.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct model *model_of(const struct service *s, const struct state_generation *c)
{
    return registry_model(s->options.registry, c->errand.model);
}

static int generate_check(const struct service *s, const char *request, struct err *e)
{
    struct state_generation *c;
    int rc = generation_read(s, request, &c, e);
    if (rc == 0)
        rc = generation_check(c, e);
    call_unref(c ? &c->errand.call : NULL);
    return rc;
}

/* What a request that waits would be refused for, but for texts that cannot be read; *plan has the diffuser
 * that it will be. */
static int look(struct service *s, struct state_generation *c, char **plan, struct err *e)
{
    const struct errand_run r = {.svc = s, .model = model_of(s, c)};
    const struct diffusion *d = &c->diffusion;
    char name[160];
    int rc = diffusion_look(&r, &c->diffusion, e);
    for (size_t i = 0; rc == 0 && i < c->n_states; i++) {
        generation_name(c, i, name);
        rc = generation_check_free(&r, c, name, e);
    }
    if (rc < 0)
        return rc;
    json_t *o = json_pack("{s:I, s:I, s:s, s:s}", "num_states", (json_int_t)c->n_states, "bytes",
                          (json_int_t)(c->n_states * c->errand.model->state_bytes), "diffuser",
                          d->used, "diffuser_sha256", d->diffuser_sha256);
    *plan = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    return *plan ? 0 : err_set(e, ERR_NOMEM, "no memory for a job");
}

static int generate_plan(struct service *s, const char *request, char **plan, struct err *e)
{
    struct state_generation *c;
    int rc = generation_read(s, request, &c, e);
    if (rc == 0)
        rc = look(s, c, plan, e);
    call_unref(c ? &c->errand.call : NULL);
    return rc;
}

/* ---- the run ---- */

struct generating {
    struct job_run *run;
    struct errand_run r;
    struct state_generation *c;
    size_t had, saved; /* states when this attempt began; and now */
    uint64_t began_ns;
};

/* The key of state i's write. */
static void make_key(const struct job_run *r, size_t i, char text[64], struct state_write *key)
{
    uint8_t digest[32];
    snprintf(text, 64, "%s-%zu", r->id, i + 1);
    key->key = text;
    sha256_of(r->request, strlen(r->request), digest);
    sha256_hex(digest, key->request_sha256);
}

/* A copy of the text of o's key into out; "" where it has none. */
static void copy_word(const json_t *o, const char *key, char *out, size_t size)
{
    const char *s = json_string_value(json_object_get(o, key));
    snprintf(out, size, "%s", s ? s : "");
}

/* What the plan found, and the states that there are, stay what they were. */
static int hold(struct generating *g, struct err *e)
{
    struct diffusion *d = &g->c->diffusion;
    json_t *plan = g->run->plan ? json_loads(g->run->plan, 0, NULL) : NULL;
    json_t *origin =
        g->had ? json_loads(g->c->saved[g->had - 1].origin, JSON_REJECT_DUPLICATES, NULL) : NULL;
    char name[129];
    copy_word(plan, "diffuser", name, sizeof name);
    copy_word(plan, "diffuser_sha256", d->want_diffuser, sizeof d->want_diffuser);
    free(d->diffuser);
    d->diffuser = strdup(name);
    memcpy(d->used, name, sizeof d->used);
    memcpy(d->diffuser_sha256, d->want_diffuser, sizeof d->diffuser_sha256);
    if (origin) {
        copy_word(origin, "condition_sha256", d->condition_sha256, sizeof d->condition_sha256);
        memcpy(d->want_condition, d->condition_sha256, sizeof d->want_condition);
    }
    json_decref(plan);
    json_decref(origin);
    return d->diffuser ? 0 : err_set(e, ERR_NOMEM, "no memory for a job");
}

/* The states that an earlier attempt saved: the first `had`. */
static int find_saved(struct generating *g, struct err *e)
{
    struct state_write key = {0};
    char text[64];
    bool found = true;
    int rc = 0;
    while (rc == 0 && found && g->had < g->c->n_states) {
        make_key(g->run, g->had, text, &key);
        rc = fetch_key(g->r.svc, &key, &g->c->saved[g->had], &found, e);
        if (rc == ERR_STATE_NOT_FOUND) { /* its record was deleted since: not made again */
            *e = (struct err){0};
            rc = 0;
        }
        g->had += rc == 0 && found;
    }
    g->saved = g->had;
    return rc;
}

static int proceed(void *ctx, size_t i, size_t done, size_t total, struct err *e)
{
    struct generating *g = ctx;
    const struct state_generation *c = g->c;
    const size_t left = c->n_states - g->had - i,
                 threads = (size_t)pool_threads(lane_pool(g->r.lane));
    const size_t batch = left < threads ? left : threads;
    const double made =
        ((double)i + (double)(batch * done) / (double)total) * (double)c->diffusion.steps;
    const double all = (double)(c->n_states * c->diffusion.steps);
    const double before = (double)(g->had * c->diffusion.steps);
    const double rate = made / ((double)(clock_ns() - g->began_ns) * 1e-9);
    char metrics[96];
    snprintf(metrics, sizeof metrics, "{\"states\": %zu, \"steps_per_second\": %.6g}", g->saved,
             rate);
    const struct job_progress p = {(uint64_t)(before + made), (uint64_t)all,
                                   (all - before - made) / rate, metrics};
    return job_proceed(g->run, &p, e);
}

static int take(void *ctx, size_t i, size_t n, const float *states, struct err *e)
{
    struct generating *g = ctx;
    const size_t floats = rwkv_state_floats(g->r.model->rwkv_info);
    struct state_write key = {0};
    char text[64], name[160];
    int rc = 0;
    for (size_t k = 0; rc == 0 && k < n; k++) {
        struct claim claim = {0};
        const size_t at = g->had + i + k;
        generation_name(g->c, at, name);
        make_key(g->run, at, text, &key);
        rc = service_claim(g->r.svc, &claim, name, e);
        if (rc == 0)
            rc = generation_save(&g->r, g->c, at, states + k * floats, &key, g->run->id, e);
        service_unclaim(g->r.svc, &claim);
        g->saved += rc == 0;
    }
    return rc;
}

/* What there is, also where the job ends before all are made. NULL: no memory, or nothing is there. */
static char *make_result(const struct generating *g)
{
    const struct state_generation *c = g->c;
    char *info = g->saved ? generation_info(c) : NULL;
    json_t *refs = json_array();
    for (size_t i = 0; info && i < g->saved; i++)
        if (c->saved[i].name)
            json_array_append_new(refs, json_sprintf("%s@%llu", c->saved[i].name,
                                                     (unsigned long long)c->saved[i].version));
    json_t *o =
        json_pack("{s:o, s:o*}", "states", refs, "info", info ? json_loads(info, 0, NULL) : NULL);
    char *text = info && o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    free(info);
    return text;
}

static int make_rest(struct generating *g, struct err *e)
{
    struct state_generation *c = g->c;
    const size_t batch = (size_t)pool_threads(lane_pool(g->r.lane));
    float *states = calloc(batch, rwkv_state_floats(g->r.model->rwkv_info) * sizeof *states);
    if (!states)
        return err_set(e, ERR_NOMEM, "no memory for %zu states", batch);
    const struct diffusion_job job = {.n = c->n_states - g->had,
                                      .first = c->first + (uint32_t)g->had,
                                      .states = states,
                                      .batch = batch,
                                      .take = take,
                                      .proceed = proceed,
                                      .ctx = g};
    g->began_ns = clock_ns();
    int rc = diffusion_run(&g->r, &c->diffusion, &job, e);
    free(states);
    return rc;
}

static int generate_run(struct job_run *run, struct err *e)
{
    struct generating g = {.run = run};
    int rc = generation_read(run->svc, run->request, &g.c, e);
    if (rc == 0) {
        g.r = (struct errand_run){
            .svc = run->svc, .lane = run->lane, .model = model_of(run->svc, g.c), .job = run};
        rc = find_saved(&g, e);
    }
    if (rc == 0)
        rc = hold(&g, e);
    if (rc == 0 && g.had < g.c->n_states)
        rc = make_rest(&g, e);
    if (rc != ERR_UNAVAILABLE) /* else it is gone on with */
        run->result = make_result(&g);
    if (rc == 0 && !run->result)
        rc = err_set(e, ERR_NOMEM, "no memory for a result");
    call_unref(g.c ? &g.c->errand.call : NULL);
    return rc;
}

const struct job_kind job_generate_states = {
    .name = GENERATION_JOB,
    .urgency = LANE_GENERATE_LONG,
    .resumable = true,
    .own = "POST /v1/states/generations",
    .check = generate_check,
    .plan = generate_plan,
    .run = generate_run,
};
