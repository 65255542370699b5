/* A daemon without HTTP inside a test: loop thread, store in a temporary folder, models, service.
 * And the oracle beside it: the same model driven by hand, one sequence, one thread. */
#ifndef TESTS_HOST_H
#define TESTS_HOST_H

#include "daemon/base/thread.h"
#include "daemon/service_impl.h"
#include "tests/lib/check.h"

#define RAND_A "rwkv7-rand/rwkv7-rand-fp32.safetensors"
#define RAND_B "rwkv7-rand/rwkv7-rand-bf16.pth" /* the same shape, other weights */

struct host {
    char dir[64];
    struct loop *loop;
    pthread_t loop_thread;
    struct store *store;
    struct registry *registry;
    struct service *svc;
};

/* Opens all in a new folder; fails the test on errors. models: "NAME=FILE" below tests/data or
 * from / on, n of them. */
struct host *host_new(const char *const *models, size_t n, const struct service_options *o);
/* Closes and opens again over the same folder: a restart. */
void host_restart(struct host *h, const char *const *models, size_t n,
                  const struct service_options *o);
void host_free(struct host *h);

/* What came out of a call's stream. */
struct answer {
    uint32_t *ids; /* all records but the last text's; prompt first */
    float *logprobs;
    size_t n, n_prompt;
    struct token_logprob *top; /* [n, n_top] of the records that have any */
    struct buf text;
};
/* Reads the stream to its end on the calling thread. */
struct answer *answer_read(struct call *c);
void answer_free(struct answer *a);
/* The same for a stream of no tokens, whose records are passed over. */
void call_wait(struct call *c);

/* A completion of model `name` with a prompt of n ids (copied). */
struct completion *ask(struct host *h, const char *name, const uint32_t *prompt, size_t n,
                       uint32_t max_tokens, uint64_t seed);
/* Submits (must be taken), reads, checks call.err.code == want. */
struct answer *complete(struct host *h, struct completion *c, int want);
/* A bake that must end with `want`; unref it. */
struct state_call *bake(struct host *h, const char *model, const char *ref, const char *base,
                        const uint32_t *prompt, size_t n, int want);
/* Submits a call (must be taken), reads it to its end, checks call.err.code == want. */
void run_state_call(struct host *h, struct state_call *c, int want);
/* A call that needs no more than its ref: GET, DELETE, LIST, VERSIONS. */
struct state_call *state_op(struct host *h, enum state_op op, const char *ref, int want);

struct oracle {
    struct pool *pool;
    struct rwkv_model *model;
    const struct rwkv_info *info;
    struct rwkv_session *session;
    float *state, *logits;
    const float *theta; /* borrowed; NULL: the model's own vectors */
    size_t rank;        /* of theta */
    uint64_t n_read;
};
struct oracle *oracle_new(const char *file);
void oracle_free(struct oracle *o);
void oracle_reset(struct oracle *o);
void oracle_feed(struct oracle *o, const uint32_t *ids, size_t n);
/* Samples n tokens as a completion does; the last one is read only with read_last. */
void oracle_sample(struct oracle *o, const struct sampling_params *p, size_t n, uint32_t *ids,
                   bool read_last);
/* The SHA-256 that the state has when it is saved. */
void oracle_sha256(const struct oracle *o, const char *weights_type, char sha256[65]);

/* n ids below 1000, a fixed function of seed. */
void some_ids(uint64_t seed, uint32_t *ids, size_t n);

#endif
