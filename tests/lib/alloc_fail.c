#include "tests/lib/alloc_fail.h"

#include "daemon/base/err.h"
#include "tests/lib/check.h"

#include <jansson.h>
#include <stdlib.h>

static _Thread_local struct {
    bool armed, onwards, refused;
    size_t left; /* allocations before the one that fails */
} gate;

void alloc_fail_start(size_t n, bool onwards)
{
    gate.armed = true;
    gate.onwards = onwards;
    gate.refused = false;
    gate.left = n - 1;
}

bool alloc_fail_stop(void)
{
    gate.armed = false;
    return gate.refused;
}

static bool refuse(void)
{
    if (!gate.armed)
        return false;
    if (gate.left > 0) {
        gate.left--;
        return false;
    }
    bool again = gate.refused;
    gate.refused = true;
    return gate.onwards || !again;
}

/* The linker's --wrap: calls of f arrive at __wrap_f, the true one is __real_f. Weak, so that
 * programs linked without --wrap (fuzz targets) may hold this file as well. */
#define WRAP(type, name, params, args)                                                             \
    type __real_##name params __attribute__((weak));                                               \
    type __wrap_##name params;                                                                     \
    type __wrap_##name params                                                                      \
    {                                                                                              \
        return refuse() ? NULL : __real_##name args;                                               \
    }
WRAP(void *, malloc, (size_t n), (n))
WRAP(void *, calloc, (size_t k, size_t n), (k, n))
WRAP(void *, realloc, (void *p, size_t n), (p, n))
WRAP(void *, aligned_alloc, (size_t a, size_t n), (a, n))
WRAP(char *, strdup, (const char *s), (s))
WRAP(char *, strndup, (const char *s, size_t n), (s, n))

static size_t sweep(int (*run)(void *arg), void *arg, bool onwards, bool any_error)
{
    for (size_t n = 1;; n++) {
        alloc_fail_start(n, onwards);
        int rc = run(arg);
        bool refused = alloc_fail_stop();
        if (!refused) {
            if (rc != 0)
                fail_msg("no allocation failed, but the result is %s", err_code_name(rc));
            return n - 1;
        }
        if (rc != ERR_NOMEM && !(any_error && rc < 0))
            fail_msg("allocation %zu failed%s: the result is %s, want %s", n,
                     onwards ? " and all after it" : "", rc ? err_code_name(rc) : "success",
                     err_code_name(ERR_NOMEM));
    }
}

static size_t sweep_both(int (*run)(void *arg), void *arg, bool any_error)
{
    size_t n = sweep(run, arg, false, any_error);
    assert_int_equal(sweep(run, arg, true, any_error), n);
    if (n == 0)
        fail_msg("nothing was allocated: the sweep tests nothing");
    return n;
}

size_t alloc_sweep(int (*run)(void *arg), void *arg)
{
    return sweep_both(run, arg, false);
}

size_t alloc_sweep_json(int (*run)(void *arg), void *arg)
{
    json_set_alloc_funcs(malloc, free); /* malloc: the wrapped one */
    size_t n = sweep_both(run, arg, true);
    json_set_alloc_funcs(__real_malloc, free);
    return n;
}
