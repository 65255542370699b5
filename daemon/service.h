/* What the daemon does, as the API layer sees it: models, completions, named states, health,
 * numbers.
 *
 * A request in flight is a `struct call` inside a typed request. The HTTP thread fills the request,
 * submits it and reads its stream; the loop, the RWKV worker and the store fill in the result and
 * end the stream. Results may be read after STREAM_END.
 *
 *     struct completion *c = completion_new();
 *     c->model = ..., c->prompt = ...;                       (malloc'd; owned by the completion)
 *     if (service_complete(svc, c, &e) < 0) ...;             (refused at once: 404, 429, 503)
 *     ... stream_take(&c->call.stream, &batch) ... token_event records ... STREAM_END
 *     c->call.err.code, c->finish, c->timings, c->saved
 *     call_unref(&c->call);
 *
 * A state that is unknown, of another model, or damaged is an error (404, 409, 422), never another
 * state. A completion never changes a named state unless save_state asks for it.
 *
 * Threads: all functions from any thread unless marked. Ownership: a call is reference-counted; the
 * maker holds one, the daemon takes one of its own while it works. Limits: queues are bounded
 * (ERR_BUSY); while draining every submit is ERR_UNAVAILABLE. */
#ifndef DAEMON_SERVICE_H
#define DAEMON_SERVICE_H

#include "daemon/base/err.h"
#include "daemon/stream.h"
#include "engine/sampling/sampling.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct service;

/* ---- calls ---- */

struct call {
    atomic_int refs;
    atomic_bool cancel; /* set by call_cancel; the worker looks at it once a token */
    struct stream stream;
    atomic_uint_least64_t tokens_read, tokens_made; /* so far: evaluated prompt, sampled */
    struct err err;       /* result: why it failed; code 0 if it did not */
    uint64_t received_ns; /* monotonic; set by call_init */
    uint64_t deadline_ns; /* monotonic; after it the work ends with ERR_TIMEOUT; 0: none */
    void (*free)(struct call *c);
};

/* For the makers of calls: one reference, a stream of the usual size. */
int call_init(struct call *c, void (*free)(struct call *c));
void call_ref(struct call *c);
void call_unref(struct call *c); /* NULL is fine */
/* The client has gone: work on it ends within a token, and its stream ends with ERR_CANCELLED. */
void call_cancel(struct call *c);

/* ---- models: fixed while the daemon runs ---- */

/* Which words stand around the messages of a chat: "<role><colon> <text>", and between two of them
 * the separator. The default is what World and G1 models are trained on. */
struct chat_template {
    char system[64], user[64], assistant[64], tool[64];
    char colon[16], separator[32];
};
#define CHAT_TEMPLATE_WORLD                                                                        \
    ((struct chat_template){.system = "System",                                                    \
                            .user = "User",                                                        \
                            .assistant = "Assistant",                                              \
                            .tool = "Tool",                                                        \
                            .colon = ":",                                                          \
                            .separator = "\n\n"})

struct model_info {
    const char *name;
    int64_t created;         /* Unix seconds, of the file */
    const char *fingerprint; /* hex */
    const char *weights_type;
    const char *tokenizer; /* "bytes", "world" or "none" */
    uint64_t n_params, weight_bytes, state_bytes;
    uint32_t n_layer, n_embd, head_size, n_vocab;
    bool has_time_state; /* its file holds a tuned state too: an import can take it */
    struct chat_template chat;
};

size_t service_models(const struct service *s, const struct model_info **out);
/* The model of a request: NULL or "" = the default one. NULL: no such model. */
const struct model_info *service_find_model(const struct service *s, const char *name);

/* SHA-256 of the file of the hybrid that it runs with now, hex; false and "": it has none. */
bool service_model_hybrid(const struct service *s, const struct model_info *m, char sha256[65]);

/* Text to ids ([*n], malloc'd, the caller's) and back. ERR_INVALID naming --vocab if the model has
 * no vocabulary; ERR_NOMEM. Runs on the calling thread. */
int service_tokenize(const struct service *s, const struct model_info *m, const char *text,
                     size_t bytes, uint32_t **ids, size_t *n, struct err *e);
int service_detokenize(const struct service *s, const struct model_info *m, const uint32_t *ids,
                       size_t n, struct buf *out, struct err *e);
/* The bytes of one token as shown in logprobs: its text, or "<id>" where there is none. */
int service_token_text(const struct service *s, const struct model_info *m, uint32_t id,
                       struct buf *out);

/* ---- hybrid inference (daemon/adjustment.h) ---- */

/* Under which context completions are read and written, shared by those of one request. */
struct adjustment_ask {
    char *context;  /* the name of a stored one; NULL: */
    uint32_t *text;  /* ... [n_text], as condition_tokens makes them (items.h) */
    size_t n_text;
    double strength; /* 0 (the model itself) to 1 */
    uint64_t seed;   /* of a text, and ... */
    uint32_t steps;  /* ... of its sampling, 1 to 100; 0: as the hybrid was trained */
};
/* What was used. */
struct adjustment_used {
    char context[129]; /* "": a text */
    char sha256[65];   /* of the vectors at strength 1; "": none were made */
    double strength;
    uint64_t seed, steps, n_tokens;
};
struct adjustment;
/* Takes the name and the tokens over, also when there is no memory (NULL). One reference. */
struct adjustment *adjustment_new_take(const struct adjustment_ask *ask);
void adjustment_ref(struct adjustment *a);
void adjustment_unref(struct adjustment *a); /* NULL is fine */
/* Once a call with it has ended well. */
const struct adjustment_used *adjustment_get_used(const struct adjustment *a);
/* ---- completions ---- */

/* One record in the stream of a completion: a token, sampled or (with echo) of the prompt. Behind
 * the struct stand n_top struct token_logprob, then piece_bytes bytes of the token itself, then
 * text_bytes bytes of text that may be shown now (whole UTF-8 characters, valid, past no stop
 * string). All texts in their order are the answer. A model without a vocabulary shows a token as
 * "<id>". Text that was held back for a stop string or a half character that never came is in a
 * last record with id TOKEN_NONE and no piece. The token that ends an answer (the model's end of
 * text, or the one that completes a stop string) has a record too: no text, or the part before the
 * stop string. Records are not aligned: memcpy them out. */
#define TOKEN_NONE UINT32_MAX

struct token_event {
    uint32_t id;
    float logprob; /* NAN where not asked or, for the first prompt token, not defined */
    bool prompt;   /* an echoed prompt token */
    uint16_t n_top;
    uint32_t piece_bytes, text_bytes;
};

/* Which JSON documents an answer may be (response_format), compiled; shared by completions. */
struct schema;
/* text: a JSON schema [n bytes] of the keywords in engine/sampling/json_schema.h, or NULL: any
 * object. ERR_INVALID with param "response_format" names the keyword and its place; ERR_NOMEM. */
int schema_new(const char *text, size_t n, struct schema **out, struct err *e);
void schema_ref(struct schema *s);
void schema_unref(struct schema *s); /* NULL is fine */

/* One prompt that several completions read from the same start: one of them reads it, the others copy
 * its state. What each says is what it says alone. */
struct shared_prompt;
/* For n completions; one reference. NULL: no memory. */
struct shared_prompt *shared_prompt_new(size_t n);
void shared_prompt_ref(struct shared_prompt *p);
void shared_prompt_unref(struct shared_prompt *p); /* NULL is fine */

enum finish { FINISH_NONE, FINISH_STOP, FINISH_LENGTH };

struct timings {       /* llama-server's words */
    uint64_t cache_n;  /* tokens that the named or parked state, or another choice, had read already */
    uint64_t prompt_n; /* tokens evaluated before the first sampled one */
    double prompt_ms;
    uint64_t predicted_n;
    double predicted_ms;
};

struct state_info; /* below */

/* A state's file as a client sends it, shared by the completions that start from it. */
struct state_file {
    atomic_int refs;
    void *data; /* [bytes]; malloc'd, the file's */
    size_t bytes;
    char *orientation; /* as in an import (below); NULL: not declared */
};
/* Takes data over, also when there is no memory (NULL). */
struct state_file *state_file_new_take(void *data, size_t bytes);
void state_file_ref(struct state_file *f);
void state_file_unref(struct state_file *f); /* NULL is fine */

/* A state's file as a client gets it. */
struct returned_state {
    void *data; /* [bytes]; NULL: none */
    size_t bytes;
    char sha256[65];
    uint64_t n_tokens;
    bool has_logits;
};

struct completion {
    struct call call;
    /* the request; malloc'd parts are the completion's */
    const struct model_info *model;
    uint32_t *prompt; /* token ids */
    size_t n_prompt;
    char *state; /* "name" or "name@version"; NULL: from the zero state, or from ... */
    struct state_file *state_file; /* ... this one; one reference */
    struct adjustment *adjustment; /* one reference; NULL: the model as it is */
    bool return_state;             /* give the state after the last token back, as a file */
    bool no_cache;         /* neither look for `state` in the cache of states nor add to it */
    char *save_state;      /* name for the state after the last token; NULL: keep none */
    bool save_new_version; /* if it exists: add a version (else 409) */
    uint32_t max_tokens;   /* 0: only read the prompt */
    struct sampling_params sampling;
    struct logit_bias *bias; /* [n_bias] */
    size_t n_bias;
    char **stops; /* [n_stops] */
    size_t *stop_lens;
    size_t n_stops;
    struct schema *schema; /* one reference; NULL: any text */
    struct shared_prompt *shared; /* one reference; NULL: it reads its prompt itself. Not with echo */
    bool reuse;            /* may go on from, and leave behind, parked states: daemon/sessions.h */
    char *scope;           /* with reuse: who may share them; NULL = "" */
    bool echo;
    int n_logprobs; /* -1: none; else 0..20 alternatives a token */
    float *
        echo_logits; /* NULL, or with echo and n_logprobs >= 0: [n_prompt, n_vocab], malloc'd by who
                         * asks; gets the logits that predict each token but the first */
    /* the result */
    enum finish finish;
    struct timings timings;
    char state_used[160];     /* "name@version" that was started from; "" */
    bool other_weights_type;  /* that state was made with another weights type of this model */
    struct state_info *saved; /* the record, with save_state */
    struct returned_state returned; /* with return_state */
};

/* What a saved state has read: the state it started from, the prompt, and the tokens whose text was
 * shown; never an end token, never a token of which a stop string took a part. So continuing it
 * means the same whatever ended the answer: the next prompt goes on from the shown text. Its logits
 * are those after its last token, so it may be continued with an empty prompt too.
 *
 * An empty prompt: a state with logits is continued from them (nothing is evaluated: prompt_n 0); a
 * state without, or the zero state, is fed the separator first (prompt_n 1; not echoed). */

/* Zeroed but for sampling = SAMPLING_DEFAULT and n_logprobs = -1; one reference. NULL: no memory.
 */
struct completion *completion_new(void);
/* Queues it. ERR_BUSY (429), ERR_UNAVAILABLE, ERR_INVALID. Everything later comes by the stream. */
int service_complete(struct service *s, struct completion *c, struct err *e);

/* ---- embeddings ---- */

struct token_list {
    uint32_t *ids;
    size_t n;
};

/* Vectors of texts: the mean over a text's tokens of the final hidden states (what the model's head
 * multiplies). Each text is read from the zero state, or from the same named one. A call's texts are
 * read one after the other: several calls stand side by side in the batch. */
struct embedding {
    struct call call;
    /* the request; malloc'd parts are the embedding's */
    const struct model_info *model;
    struct token_list *texts; /* [n_texts], each of at least one token */
    size_t n_texts;           /* at least 1 */
    char *state;              /* "name" or "name@version"; NULL: the zero state */
    bool unit;                /* scale every vector to the length 1 */
    /* the result */
    float *vectors;         /* [n_texts, n_embd] */
    struct timings timings; /* prompt_n: tokens of all texts */
    char state_used[160];
    bool other_weights_type;
};

/* Zeroed; one reference. NULL: no memory. */
struct embedding *embedding_new(void);
int service_embed(struct service *s, struct embedding *c, struct err *e);

/* ---- named states ---- */

struct state_info { /* a record, as the store has it; strings malloc'd */
    char *name, *model, *fingerprint, *weights_type, *sha256, *description;
    char *parents, *origin, *tags, *norms; /* JSON texts */
    uint64_t version, n_tokens, bytes;
    uint64_t revision; /* grows within the name with every new version and every change */
    uint32_t n_layer, n_embd, head_size;
    bool has_logits, pinned;
    bool damaged;                   /* in a list: only name and version are known */
    int64_t created_ms, expires_ms; /* wall clock; expires_ms 0: never */
};

/* What a request sets of a record; zeroed: nothing. */
struct state_change {
    char *description, *tags; /* NULL: not set; tags: a JSON array of strings */
    bool set_pinned, pinned;
    bool set_expires;
    int64_t expires_ms; /* 0: never */
};

/* One record in the stream of a bake or an append that asked for progress: at the start, at the end, and
 * now and then in between. One that finds the stream full is left out. */
struct prompt_progress {
    uint64_t total;     /* tokens that the state will have read */
    uint64_t cache;     /* of these, what it had read before */
    uint64_t processed; /* of these, read so far */
    double time_ms;     /* since reading began */
};

/* How a request that adds a version meets what is there already. */
struct state_write {
    bool new_version;        /* if the name exists, add a version (else 409) */
    uint64_t if_revision;    /* the state it goes on from must have it (else 412); 0: any */
    char *key;               /* Idempotency-Key; NULL: none */
    char request_sha256[65]; /* of the request, hex; with a key */
};

/* One writer a name: while a bake, an append, a completion with save_state, a fork, a rollback or the
 * deletion of a whole name is at work on a name, another is refused with ERR_STATE_BUSY. Readers are
 * not: they see the versions that were there before it, until its own is committed. */
enum state_op {
    STATE_BAKE,
    STATE_APPEND,
    STATE_GET,
    STATE_PATCH,
    STATE_DELETE,
    STATE_FORK,
    STATE_ROLLBACK,
    STATE_LIST,
    STATE_VERSIONS,
    STATE_DATA,
    STATE_IMPORT
};

struct state_call {
    struct call call;
    enum state_op op;
    /* the request */
    /* BAKE, IMPORT: the new name; APPEND, VERSIONS: a name; ROLLBACK: "name@version", what to go back to; the
     * others but LIST: "name" or "name@version" */
    char *ref;
    char *to;                       /* FORK: the name of the copy */
    const struct model_info *model; /* BAKE, APPEND, IMPORT */
    uint32_t *prompt;               /* BAKE, APPEND: token ids to read, no token is sampled */
    size_t n_prompt;
    bool progress;              /* BAKE, APPEND: tell about it in the stream */
    char *base_state;           /* BAKE: start from this one; NULL: the zero state */
    struct adjustment *adjustment; /* BAKE, APPEND: one reference; NULL: the model as it is */
    struct state_write write;   /* of a write; PATCH, DELETE: if_revision only */
    struct state_change change; /* of all writes but DELETE */
    char *after, *prefix;       /* LIST; NULL = "" */
    char *tag, *of_model;       /* LIST: only those; NULL = "" */
    uint64_t before;            /* VERSIONS: below this one; 0: from the latest */
    size_t limit;               /* LIST, VERSIONS: 1..1000 */
    bool newest;                /* LIST: the newest first, without `after`; else in order of names */
    /* the result */
    struct state_info *states; /* [n_states]: one, or the page */
    size_t n_states;
    bool has_more;
    bool replayed;          /* the answer to an earlier request with this key: nothing was done */
    struct timings timings; /* BAKE, APPEND */
    /* DATA: the state's file [data_bytes], its SHA-256 checked. IMPORT, of the request: the file to
     * be read, as state_import.h has it, and what the client says of it; NULL: nothing. */
    void *data;
    size_t data_bytes;
    char *orientation;
    bool from_model; /* IMPORT: the file is the model's own, which holds a tuned state */
};

struct state_call *state_call_new(enum state_op op);
int service_state(struct service *s, struct state_call *c, struct err *e);

/* Parses "name" or "name@version" (version 0 where it has none). ERR_INVALID with what is wrong. */
int state_ref_parse(const char *ref, char name[129], uint64_t *version, struct err *e);

/* ---- the daemon itself ---- */

/* A copy of the store, as it was when asked or later, in a folder of its own. */
struct backup_call {
    struct call call;
    char *name;     /* of the folder, no path; malloc'd; NULL: one made of the time (UTC) */
    uint64_t bytes; /* the result */
};
struct backup_call *backup_call_new(void);
/* ERR_INVALID (the name, or there is such a backup), ERR_UNSUPPORTED (no folder for backups),
 * ERR_BUSY (one at a time), ERR_STORAGE_FULL, ERR_IO. */
int service_backup(struct service *s, struct backup_call *c, struct err *e);

/* A seed for a request that brought none: 53 random bits (exact in a JSON number). */
uint64_t service_random_seed(void);
/* Where the daemon logs (daemon/log.h). */
const struct log *service_log(const struct service *s);
/* The version of this program. */
const char *service_version(void);

/* What bounds it, as configured. */
struct service_limits {
    size_t max_sequences;           /* stepped together, per model */
    size_t max_queue;               /* waiting for a place, per model */
    size_t max_prompt;              /* tokens of a prompt */
    uint64_t max_states, max_bytes; /* quotas of the store; 0: none */
    uint64_t cache_bytes;           /* of states held in memory; 0: none are */
};
void service_get_limits(const struct service *s, struct service_limits *out);

/* What the store holds now, and what it is ("sqlite 3.40.1"). */
struct store_info {
    char backend[32];
    uint64_t states, blobs, blob_bytes;
};
void service_get_store(const struct service *s, struct store_info *out);

/* A place in a model's batch, as the worker last showed it (once a step). */
enum slot_phase { SLOT_IDLE, SLOT_LOADING, SLOT_PROMPT, SLOT_GENERATING };
enum slot_kind { SLOT_COMPLETION, SLOT_BAKE, SLOT_EMBEDDING, SLOT_CONTEXT };
struct slot_info {
    uint64_t task; /* counts the model's sequences from 1; 0: the place was never used */
    uint64_t phase, kind;
    uint64_t cache_n, prompt_n, predicted_n; /* as in struct timings, so far */
    uint64_t n_prompt, max_tokens;           /* what was asked */
    struct sampling_params sampling;         /* SLOT_COMPLETION */
};
/* The places of a model into out [limits.max_sequences]; their number. No lock, no wait for the worker. */
size_t service_slots(const struct service *s, const struct model_info *m, struct slot_info *out);
/* False while draining: /health/ready answers 503. */
bool service_ready(const struct service *s);
/* Ends the cancelled and the late that wait for a place, at once: the model's thread looks only between
 * two of its steps. */
void service_end_waiting(struct service *s);
/* Calls fn(arg) on the loop thread every `ms`, until the service stops. [thread: before it runs] */
int service_every(struct service *s, unsigned ms, void (*fn)(void *arg), void *arg);
/* All numbers as Prometheus text (metric names start with dreamstate_). */
int service_metrics(struct service *s, struct buf *out);
/* Counts a finished HTTP request: route pattern (a static string), status, seconds. */
void service_count_http(struct service *s, const char *route, int status, double seconds);

#endif
