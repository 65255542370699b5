/* A state as bytes and back: a safetensors file in memory, all values F32.
 *
 *     blocks.<i>.att.x_prev [C]
 *     blocks.<i>.att.wkv    [H, N (value), N (key)]
 *     blocks.<i>.ffn.x_prev [C]
 *     logits [V]            only where the state has logits
 *     __metadata__: "format" "dreamstate-state-1", "fingerprint", "weights_type", "n_tokens"
 *
 * Packing the same state gives the same bytes. Unpacking trusts nothing: the SHA-256 is compared
 * first, then every name, type and shape with the model's, then every value must be finite; all of
 * that wrong is ERR_STATE_CORRUPT (422), with what was found and wanted.
 *
 * Threads: pure functions, any thread; they take as long as hashing a state takes. */
#ifndef DAEMON_STATE_RECORD_H
#define DAEMON_STATE_RECORD_H

#include "daemon/base/buf.h"
#include "engine/rwkv/rwkv.h"
#include "engine/tensor/tensor.h"

/* state [rwkv_state_floats], logits [V] or NULL. *blob is the caller's (free); sha256 is its hash.
 * ERR_NOMEM, ERR_NUMERIC (a value is not finite: which part of which layer). */
int state_record_pack(const struct rwkv_info *info, const char *weights_type, uint64_t n_tokens,
                      const float *state, const float *logits, void **blob, size_t *bytes,
                      char sha256[65], struct err *e);
/* Into state [rwkv_state_floats] and, where the record has them, logits [V] (*has_logits).
 * ERR_STATE_CORRUPT, ERR_NOMEM. */
int state_record_unpack(const void *blob, size_t bytes, const char *sha256,
                        const struct rwkv_info *info, float *state, float *logits, bool *has_logits,
                        uint64_t *n_tokens, struct err *e);
/* The same from a file that is open, which need not be ours bit for bit. */
int state_record_read(const struct tensor_file *f, const struct rwkv_info *info, float *state,
                      float *logits, bool *has_logits, uint64_t *n_tokens, struct err *e);
/* Does the file say that it is a state's record? */
bool state_record_is(const struct tensor_file *f);
/* Are these the bytes of that SHA-256? Else ERR_STATE_CORRUPT. */
int state_record_verify(const void *blob, size_t bytes, const char *sha256, struct err *e);
/* Appends {"wkv": [one Frobenius norm a layer], "att_shift": [..], "ffn_shift": [..]}. */
int state_record_norms(const struct rwkv_info *info, const float *state, struct buf *out);

#endif
