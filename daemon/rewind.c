#include "daemon/rewind.h"

#include "daemon/base/mem.h"

#include <stdlib.h>
#include <string.h>

#define MAX_BYTES (64u * 1024 * 1024)

int rewind_init(struct rewind *r, size_t n_state, size_t n_logits, struct err *e)
{
    *r = (struct rewind){.n_state = n_state, .n_logits = n_logits};
    buf_init(&r->ids, MAX_BYTES);
    buf_init(&r->ends, MAX_BYTES);
    r->state = mem_calloc_aligned(n_state, sizeof *r->state);
    r->logits = mem_calloc_aligned(n_logits, sizeof *r->logits);
    if (!r->state || !r->logits)
        return err_set(e, ERR_NOMEM, "no memory to keep a second copy of the state");
    return 0;
}

void rewind_fini(struct rewind *r)
{
    free(r->state);
    free(r->logits);
    buf_fini(&r->ids);
    buf_fini(&r->ends);
}

/* The state has read shown tokens only: the copy begins here. shown: bytes of the next token that
 * are shown already. */
static void start(struct rewind *r, const float *state, const float *logits, uint64_t n_read,
                  size_t shown)
{
    memcpy(r->state, state, r->n_state * sizeof *state);
    memcpy(r->logits, logits, r->n_logits * sizeof *logits);
    buf_reset(&r->ids);
    buf_reset(&r->ends);
    r->bytes = 0;
    r->released = shown;
    r->n_read = n_read;
    r->holding = true;
}

int rewind_note(struct rewind *r, uint32_t id, size_t piece, size_t released, size_t held,
                const float *state, const float *logits, uint64_t n_read, struct err *e)
{
    if (!r->state)
        return 0;
    if (held == 0) {
        r->holding = false;
        return 0;
    }
    size_t before = r->holding ? r->bytes : 0, shown = (r->holding ? r->released : 0) + released;
    if (!r->holding || shown >= before)
        start(r, state, logits, n_read, shown - before);
    else
        r->released = shown;
    r->bytes += piece;
    buf_append(&r->ids, &id, sizeof id);
    buf_append(&r->ends, &r->bytes, sizeof r->bytes);
    if (r->ids.failed || r->ends.failed)
        return err_set(e, ERR_NOMEM, "no memory for the tokens of a stop string");
    return 0;
}

size_t rewind_back(struct rewind *r, float **state, float **logits, uint64_t *n_read,
                   const uint32_t **ids)
{
    size_t n = 0, end;
    *ids = (const uint32_t *)(const void *)r->ids.data;
    if (!r->holding)
        return 0;
    while ((n + 1) * sizeof end <= r->ends.len) {
        memcpy(&end, r->ends.data + n * sizeof end, sizeof end);
        if (end > r->released)
            break;
        n++;
    }
    float *s = *state, *l = *logits;
    *state = r->state, *logits = r->logits, *n_read = r->n_read;
    r->state = s, r->logits = l;
    r->holding = false;
    return n;
}
