/* States out of files that people have, by content:
 *
 *     our own record (state_record.h), all of it: shifts, logits, the count of tokens;
 *     tuned states, blocks.<i>.att.time_state [H, N, N] a layer, as .pth or safetensors (RWKV-LM,
 *     RWKV-PEFT, Ai00), alone or beside a model's weights, under any one prefix: shift vectors are
 *     zero, there are no logits, no token was read.
 *
 * time_state is [H, value, key] in what trainers write and [H, key, value] in Ai00's files, which have
 * the same names. Told apart, in this order: by the metadata "orientation" (what `train state` writes);
 * by a w1 beside it, whose sides Ai00 exchanges too; by the container, as Ai00 writes no .pth; by what
 * the caller declares. A safetensors file of which none of that tells is refused, never guessed.
 *
 * Every byte is hostile: what opening may cost is bounded by a few times the file and the state. A file
 * that does not fit the model is ERR_FORMAT (tensor, found, wanted), one of another model's states
 * ERR_STATE_INCOMPATIBLE, our own record with a wrong part ERR_STATE_CORRUPT, values that are not finite
 * the like; ERR_INVALID (param "orientation"), ERR_NOMEM. Threads: pure functions, any thread. */
#ifndef DAEMON_STATE_IMPORT_H
#define DAEMON_STATE_IMPORT_H

#include "engine/rwkv/rwkv.h"
#include "engine/tensor/tensor.h"

enum state_orientation { ORIENTATION_UNKNOWN, ORIENTATION_VALUE_KEY, ORIENTATION_KEY_VALUE };

struct state_import {
    /* in: the model, what the caller declares, room for a state [rwkv_state_floats], logits [V] */
    const struct rwkv_info *info;
    enum state_orientation declared;
    float *state, *logits;
    /* out: what the file was */
    const char *format;    /* "dreamstate-state" or "time_state" */
    const char *container; /* "safetensors" or "pth" */
    const char *dtype;     /* "F32", ... */
    enum state_orientation orientation;
    char weights_type[8]; /* what it was computed with; "" where the file does not say */
    bool has_logits;
    uint64_t n_tokens;
};

/* "value_key" or "key_value"; UNKNOWN has no word (NULL). Parse: false for any other text. */
const char *state_orientation_word(enum state_orientation o);
bool state_orientation_parse(const char *word, enum state_orientation *out);

/* Fills all of state, and logits where the file has them (has_logits). */
int state_import_file(const struct tensor_file *f, struct state_import *i, struct err *e);
/* The same from bytes. */
int state_import_bytes(const void *bytes, size_t n, struct state_import *i, struct err *e);

#endif
