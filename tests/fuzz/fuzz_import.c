/* The input as a file that somebody imports as a state (a model of 2 layers, 2 heads of 32): it is
 * refused with a reason, or gives a whole, finite state. */
#include "daemon/base/assert.h"
#include "daemon/state_import.h"

#include <math.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { L = 2, C = 64, N = 32, V = 64, STATE = L * (2 * C + C * N) };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rwkv_info info = {
        .n_layer = L, .n_embd = C, .head_size = N, .n_head = C / N, .n_vocab = V};
    static float state[STATE], logits[V];
    struct err e = {0};
    memset(info.fingerprint, 'f', 64);
    for (size_t i = 0; i < STATE; i++)
        state[i] = NAN;
    for (size_t i = 0; i < V; i++)
        logits[i] = NAN;
    struct state_import i = {.info = &info, .state = state, .logits = logits};
    if (size)
        i.declared = (enum state_orientation)(data[size - 1] % 3);
    int rc = state_import_bytes(data, size, &i, &e);
    ASSERT(rc == e.code);
    if (rc < 0) {
        ASSERT(e.msg[0] && !strchr(e.msg, '\n') && err_http(rc) >= 400);
        return 0;
    }
    ASSERT(i.orientation != ORIENTATION_UNKNOWN && i.container && i.format && i.dtype);
    for (size_t k = 0; k < STATE; k++)
        ASSERT(isfinite(state[k]));
    for (size_t k = 0; k < V && i.has_logits; k++)
        ASSERT(isfinite(logits[k]));
    return 0;
}
