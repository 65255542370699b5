/* The input as a diffuser's file; what opens makes one state, so that every shape that was let through
 * is used. */
#include "daemon/base/assert.h"
#include "engine/dit/dit.h"
#include "engine/kernels/gemm.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void make_state(const struct diffuser *d)
{
    const struct diffuser_info *i = diffuser_get_info(d);
    const struct diffuser_options o = {
        .steps = 2, .guidance = 2, .negative = {.label = DIFFUSER_NONE}};
    const struct diffuser_condition c = {.label = i->n_label ? 0 : DIFFUSER_NONE};
    struct err e = {0};
    if (state_shape_floats(&i->shape) > 1 << 16 || i->n_token * i->token_dim > 1 << 16)
        return;
    struct pool *pool = pool_new(1, "fuzz", 0, &e);
    float *state = calloc(state_shape_floats(&i->shape), sizeof *state);
    const struct diffuser_job job = {.n = 1, .condition = &c, .states = state};
    if (pool && state) {
        int rc = diffuser_run(d, pool, &o, &job, &e);
        ASSERT(rc == 0 || rc == ERR_NUMERIC || rc == ERR_NOMEM);
    }
    free(state);
    pool_free(pool);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct diffuser *d = NULL;
    struct err e = {0};
    gemm_setup();
    if (diffuser_open_memory(data, size, &d, &e) < 0) {
        ASSERT(e.code < 0 && e.msg[0]);
        return 0;
    }
    make_state(d);
    diffuser_close(d);
    return 0;
}
