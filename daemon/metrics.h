/* What the daemon counts, as Prometheus text (exposition format 0.0.4).
 *
 * Counters and histograms are relaxed atomics: adding costs a few nanoseconds from any thread. HTTP
 * requests are counted by route and status in a small table under a lock.
 *
 *     metrics_add(m, METRIC_STEPS, 1);
 *     metrics_add_model(m, METRIC_PREDICTED_TOKENS, model, 1);
 *     metrics_observe_ns(m, METRIC_FIRST_TOKEN, clock_ns() - received_ns);
 */
#ifndef DAEMON_METRICS_H
#define DAEMON_METRICS_H

#include "daemon/base/buf.h"

#include <stdint.h>

/* name, metric, help */
#define METRIC_COUNTERS(XX)                                                                        \
    XX(COMPLETIONS, "completions_total", "Completions admitted")                                   \
    XX(BAKES, "bakes_total", "Bakes admitted")                                                     \
    XX(EMBEDDINGS, "embeddings_total", "Embedding calls admitted")                                 \
    XX(CONTEXTS, "contexts_total", "Contexts to be read and kept admitted")                        \
    XX(ERRANDS, "errands_total", "Edits, comparisons, maps of states admitted to the background")  \
    XX(REFUSED, "refused_total", "Requests refused because the queue was full")                    \
    XX(CANCELLED, "cancelled_total", "Requests ended because the client had gone")                 \
    XX(PARKED, "parked_total", "Times a sequence was parked because its client read too slowly")   \
    XX(STATES_LOADED, "states_loaded_total", "Named states loaded and checked")                    \
    XX(STATES_SAVED, "states_saved_total", "Named states saved")                                   \
    XX(SESSION_HITS, "session_hits_total", "Requests that went on from a parked state")            \
    XX(SESSION_MISSES, "session_misses_total", "Requests that might have, and found none")         \
    XX(SESSION_TOKENS, "session_tokens_total", "Tokens that parked states had read already")       \
    XX(STEPS, "steps_total", "Batch steps of all models")

/* The same for each model, which is the label `model`. name, metric, more labels, help; rows of one
 * metric stand together */
#define METRIC_MODEL_COUNTERS(XX)                                                                  \
    XX(PROMPT_TOKENS, "prompt_tokens_total", "", "Tokens evaluated for prompts")                   \
    XX(CACHED_TOKENS, "cached_tokens_total", "", "Tokens that named states had read already")      \
    XX(CONTEXT_TOKENS, "context_tokens_total", "", "Tokens of contexts that a hybrid has read")     \
    XX(PREDICTED_TOKENS, "predicted_tokens_total", "", "Tokens sampled")                           \
    XX(ENDED_STOP, "completions_ended_total", ",reason=\"stop\"", "Completions ended")             \
    XX(ENDED_LENGTH, "completions_ended_total", ",reason=\"length\"", "")                          \
    XX(ENDED_CANCELLED, "completions_ended_total", ",reason=\"cancelled\"", "")                    \
    XX(ENDED_ERROR, "completions_ended_total", ",reason=\"error\"", "")

/* name, metric, help, buckets: see metrics.c */
#define METRIC_HISTOGRAMS(XX)                                                                      \
    XX(BATCH_SEQUENCES, "batch_sequences", "Sequences in a batch step", sizes)                     \
    XX(BATCH_ROWS, "batch_rows", "Tokens in a batch step", sizes)                                  \
    XX(STEP, "step_seconds", "Time of a batch step", seconds)                                      \
    XX(QUEUE, "queue_seconds", "From arrival to the first step", seconds)                          \
    XX(FIRST_TOKEN, "first_token_seconds", "From arrival to the first sampled token", seconds)     \
    XX(INTER_TOKEN, "inter_token_seconds", "Between sampled tokens of one sequence", seconds)      \
    XX(MASK, "mask_seconds", "Computing which tokens a JSON schema allows next", seconds)          \
    XX(COMPLETION, "completion_seconds", "From arrival to the end of a completion", seconds)       \
    XX(PROMPT_LENGTH, "completion_prompt_tokens", "Tokens evaluated for one prompt", sizes)        \
    XX(PREDICTED_LENGTH, "completion_predicted_tokens", "Tokens sampled for one prompt", sizes)    \
    XX(STATE_LOAD, "state_load_seconds", "Reading, checking and unpacking a state", seconds)       \
    XX(STATE_SAVE, "state_save_seconds", "Packing, hashing and committing a state", seconds)       \
    XX(SYNTHESIS, "synthesis_seconds", "Making the vectors of a context that was read", seconds)   \
    XX(STORE, "store_seconds", "Answer time of the store", seconds)

enum metric_counter {
#define XX(name, ...) METRIC_##name,
    METRIC_COUNTERS(XX)
    METRIC_MODEL_COUNTERS(XX)
#undef XX
        METRIC_COUNTER_END
};
enum metric_histogram {
#define XX(name, metric, help, buckets) METRIC_##name,
    METRIC_HISTOGRAMS(XX)
#undef XX
        METRIC_HISTOGRAM_END
};

struct metrics;

/* NULL: no memory. */
struct metrics *metrics_new(size_t n_models);
/* The label of model i; the string lives as long as m. [before others use m] */
void metrics_name_model(struct metrics *m, size_t i, const char *name);
void metrics_free(struct metrics *m);

void metrics_add(struct metrics *m, enum metric_counter c, uint64_t n);
void metrics_add_model(struct metrics *m, enum metric_counter c, size_t model, uint64_t n);
/* Over all models. */
uint64_t metrics_get(const struct metrics *m, enum metric_counter c);
/* A duration, for the histograms in seconds; a size, for the others. */
void metrics_observe_ns(struct metrics *m, enum metric_histogram h, uint64_t ns);
void metrics_observe(struct metrics *m, enum metric_histogram h, uint64_t n);
/* A request that failed, by its ERR_* code. */
void metrics_count_error(struct metrics *m, int code);
/* route: a string that lives as long as m. */
void metrics_count_http(struct metrics *m, const char *route, int status, double seconds);

/* Appends all of it; 0 or buf's error. */
int metrics_write(struct metrics *m, struct buf *out);
/* One number of `type` "gauge" or "counter"; labels ("model=\"tiny\"") may be NULL; help NULL: the
 * HELP and TYPE lines were written. */
void metrics_write_one(struct buf *out, const char *type, const char *metric, const char *help,
                       const char *labels, double value);
/* Appends name="value" with the value escaped. */
void metrics_write_label(struct buf *out, const char *name, const char *value);

#endif
