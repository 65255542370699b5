/* Generation of named states. */
#include "daemon/diffusion.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STATES_BYTES ((size_t)1 << 30)
#define ORIGIN_BYTES ((size_t)1 << 20)

static int generate_check(const struct errand *errand, struct err *e)
{
    const struct state_generation *c = (const struct state_generation *)(const void *)errand;
    size_t most = STATES_BYTES / errand->model->state_bytes;
    char name[129];
    uint64_t version;
    most = most < GENERATE_MAX_STATES ? most : GENERATE_MAX_STATES;
    int rc = state_ref_parse(c->name, name, &version, e);
    if (rc == 0 && (version || strlen(c->name) > (c->n_states > 1 ? 125 : 128)))
        rc = err_set_param(e, ERR_INVALID, "name",
                           "name is not a state's name without version, with room for a number");
    if (rc == 0 && (c->n_states < 1 || c->n_states > most))
        rc = err_set_param(e, ERR_INVALID, "num_states", "num_states is not from 1 to %zu", most);
    if (rc == 0 && c->write.key && c->n_states > 1)
        rc = err_set_param(e, ERR_INVALID, "Idempotency-Key",
                           "an idempotency key names one state, not several");
    return rc < 0 ? rc : diffusion_check(&c->diffusion, "", e);
}

/* ---- names ---- */

struct target {
    char name[160];
    struct claim claim;
};

static int claim_all(const struct errand_run *r, const struct state_generation *c, struct target *t,
                     struct err *e)
{
    for (size_t i = 0; i < c->n_states; i++) {
        if (i)
            snprintf(t[i].name, sizeof t[i].name, "%s-%zu", c->name, i + 1);
        else
            snprintf(t[i].name, sizeof t[i].name, "%s", c->name);
        if (service_claim(r->svc, &t[i].claim, t[i].name, e) < 0)
            return e->code;
        if (c->write.new_version)
            continue;
        struct fetched at;
        struct err found = {0};
        int rc = fetch_state(r->svc, r->model, t[i].name, NULL, &at, &found);
        fetched_fini(&at);
        if (rc != ERR_STATE_NOT_FOUND) /* whatever is there */
            return err_set(e, ERR_STATE_EXISTS, "state %s exists", t[i].name);
    }
    return 0;
}

/* ---- saving ---- */

static int save(const struct errand_run *r, struct state_generation *c, const struct target *t,
                size_t i, const float *state, struct err *e)
{
    const struct diffusion *d = &c->diffusion;
    struct buf origin;
    buf_init(&origin, ORIGIN_BYTES);
    buf_printf(&origin,
               "{\"kind\": \"generate\", \"diffuser\": \"%s\", \"diffuser_sha256\": \"%s\", "
               "\"condition_sha256\": \"%s\", \"first\": %lu, \"params\": %s}",
               d->used, d->diffuser_sha256, d->condition_sha256,
               (unsigned long)c->first + (unsigned long)i, c->params_json);
    const struct state_put put = {.model = r->model,
                                  .name = t->name,
                                  .weights_type = r->model->weights_type,
                                  .parents = "[]",
                                  .origin = origin.data,
                                  .state = state,
                                  .change = &c->change};
    const struct store_write how = {.if_exists = c->write.new_version ? STORE_EXISTS_NEW_VERSION
                                                                      : STORE_EXISTS_ERROR,
                                    .key = c->write.key,
                                    .request_sha256 = c->write.request_sha256};
    int rc = origin.failed ? err_set(e, ERR_NOMEM, "no memory for a state's record")
                           : fetch_put(r->svc, &put, &how, &c->saved[i], e);
    buf_fini(&origin);
    return rc;
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
            rc = save(r, c, &t[i], i, states + i * floats, e);
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
