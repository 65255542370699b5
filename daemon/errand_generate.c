/* Generation of named states, as a request that waits for it. */
#include "daemon/generation.h"

#include <stdlib.h>

static int generate_check(const struct errand *errand, struct err *e)
{
    return generation_check((const struct state_generation *)(const void *)errand, e);
}

struct target {
    char name[160];
    struct claim claim;
};

static int claim_all(const struct errand_run *r, const struct state_generation *c, struct target *t,
                     struct err *e)
{
    for (size_t i = 0; i < c->n_states; i++) {
        generation_name(c, i, t[i].name);
        if (service_claim(r->svc, &t[i].claim, t[i].name, e) < 0 ||
            generation_check_free(r, c, t[i].name, e) < 0)
            return e->code;
    }
    return 0;
}

static int generate(const struct errand_run *r, struct state_generation *c, struct target *t,
                    struct err *e)
{
    size_t floats = rwkv_state_floats(r->model->rwkv_info);
    float *states = calloc(c->n_states, floats * sizeof *states);
    if (!states)
        return err_set(e, ERR_NOMEM, "no memory for %zu states", c->n_states);
    const struct diffusion_job job = {.n = c->n_states, .first = c->first, .states = states};
    int rc = claim_all(r, c, t, e);
    if (rc == 0)
        rc = diffusion_run(r, &c->diffusion, &job, e);
    for (size_t i = 0; rc == 0 && i < c->n_states; i++)
        if ((rc = errand_proceed(r, e)) == 0)
            rc = generation_save(r, c, i, states + i * floats, &c->write, NULL, e);
    free(states);
    return rc;
}

static int generate_run(const struct errand_run *r, struct errand *errand, struct err *e)
{
    struct state_generation *c = (struct state_generation *)(void *)errand;
    struct target *t = calloc(c->n_states, sizeof *t);
    c->saved = calloc(c->n_states, sizeof *c->saved);
    int rc = t && c->saved ? fetch_key(r->svc, &c->write, c->saved, &c->replayed, e)
                           : err_set(e, ERR_NOMEM, "no memory for %zu states", c->n_states);
    if (rc == 0 && !c->replayed)
        rc = generate(r, c, t, e);
    for (size_t i = 0; t && i < c->n_states; i++)
        service_unclaim(r->svc, &t[i].claim);
    free(t);
    return rc;
}

const struct errand_impl errand_generate = {LANE_GENERATE, generate_check, generate_run};
