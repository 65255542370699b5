/* State tuning: only the initial recurrent state is trained, shared by all sequences of all batches
 * (`dreamstated train state`). The result has the form other tools use: blocks.i.att.time_state
 * [H, N (value), N (key)], F32, shift vectors zero as RWKV-LM --train_type states
 * and RWKV-PEFT write it. */
#ifndef ENGINE_TRAIN_STATE_H
#define ENGINE_TRAIN_STATE_H

#include "engine/train/recipe.h"
#include "engine/train/run.h"

struct state_tuner {
    struct trainer *t;       /* holds the model's weights; borrowed */
    size_t n;                /* L H N N */
    float *theta, *m, *v;    /* [n]: the state, AdamW's moments; zero at first */
    float *grad;             /* [n] */
    float *states, *dstates; /* [batch][numbers of a state] */
    size_t batch, S;
};

/* For batches of up to `batch` sequences. ERR_NOMEM. */
int state_tuner_init(struct state_tuner *s, struct trainer *t, size_t batch, struct err *e)
    __attribute__((warn_unused_result));
void state_tuner_fini(struct state_tuner *s); /* a zeroed one is fine */
/* One AdamW step (number `step` from 1) on sequences seqs [n], whose states are set here; weight
 * decay acts on all of theta. Returns the mean cross entropy before the step; *norm: of the
 * gradient before clipping. Not finite: theta is unchanged. */
double state_tuner_step(struct state_tuner *s, struct train_seq *seqs, size_t n,
                        const struct adamw_options *o, double lr, uint64_t step, double *norm);
/* theta from a whole state [S], whose shift vectors are passed over. */
void state_tuner_begin(struct state_tuner *s, const float *state);
/* theta as a whole state (params.h), shift vectors zero: out [S]. */
void state_tuner_expand(const struct state_tuner *s, float *out);
/* Writes the time_state tensors as safetensors, with the metadata "orientation": "value_key", as an
 * import wants to know. */
int state_tuner_write(const struct state_tuner *s, const char *path, struct err *e)
    __attribute__((warn_unused_result));

/* From a recipe whose `model` is a file, as train_base; the result is out/state.safetensors. */
int train_state(const struct recipe *r, const struct train_control *c, struct pool *pool,
                bool *done, struct err *e) __attribute__((warn_unused_result));
/* About how many bytes of memory it takes, its texts apart, in *memory. ERR_IO, ERR_FORMAT, ERR_NOMEM. */
int train_state_plan(const struct recipe *r, int threads, double *memory, struct err *e)
    __attribute__((warn_unused_result));

#endif
