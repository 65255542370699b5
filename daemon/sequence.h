/* One request at a model: a state machine that a worker steps with others as a batch.
 *
 *     NEW --> FIND --> QUEUED --> LOAD --> PREFILL --> DECODE --> SAVE --> DONE
 *       \______________^ ^ \_____________^            \__________________^
 *                        READ
 *     and from each of them to DONE with an error
 *
 *   NEW         made on the HTTP thread from a completion, a bake or an embedding
 *   FIND        lookup.c asks the store what it must know before the work: an unknown state, one of
 *               another model, a name that is taken end here
 *   QUEUED      in the worker's queue, until there is a place in the batch
 *   READ        feeds the text of a context (adjustment.h), then gives its place back and comes here again
 *   LOAD        has its place; the store reads the state, the porter checks and unpacks it. So no more
 *               states are in memory than there are places
 *   PREFILL     feeds the prompt in chunks that begin at multiples of SEQUENCE_CHUNK; an embedding feeds
 *               its texts so, one after the other, and is done
 *   DECODE      samples a token, feeds it, ...
 *   SAVE        the porter packs the state, the store commits it
 *   DONE        ended; about to be freed
 *
 * An answer that is held to a JSON schema may be stalled in DECODE: its logits are there, its mask is
 * not yet (guide.h). One in PREFILL may follow another that reads the same prompt (shared_prompt.h): it
 * feeds nothing until that one has. Parked is no phase: a sequence in PREFILL or DECODE whose records the stream does not take stays
 * in its place and is left out of the batch until they are taken.
 *
 * `mail` is its ticket: a sequence is in one mailbox, or in the hands of one thread. */
#ifndef DAEMON_SEQUENCE_H
#define DAEMON_SEQUENCE_H

#include "daemon/adjustment.h"
#include "daemon/embedder.h"
#include "daemon/guide.h"
#include "daemon/output.h"
#include "daemon/rewind.h"
#include "daemon/service_impl.h"
#include "daemon/shared_prompt.h"

#define SEQUENCE_CHUNK 64 /* tokens of a prompt in a step */

enum seq_phase {
    SEQ_NEW,
    SEQ_FIND,
    SEQ_QUEUED,
    SEQ_READ,
    SEQ_LOAD,
    SEQ_PREFILL,
    SEQ_DECODE,
    SEQ_SAVE,
    SEQ_DONE
};

/* What a sequence is made for: one of these is not NULL. */
struct work {
    struct completion *completion;
    struct state_call *bake;
    struct embedding *embedding;
    struct item_call *context;
};

struct sequence {
    struct mail mail;
    struct list link; /* worker: in its queue or its batch */
    struct service *svc;
    struct worker *worker;
    struct model *model;
    struct call *call;             /* one reference */
    struct completion *completion; /* the call, or NULL: */
    struct state_call *bake;       /* the call, or NULL: */
    struct embedding *embedding;   /* the call, or NULL: */
    struct item_call *context;     /* the call */
    enum seq_phase phase;
    size_t slot;   /* its place, in READ, and from LOAD or PREFILL on */
    uint64_t task; /* as the place shows it */

    /* the request; borrowed from the call */
    const uint32_t *prompt; /* [n_prompt] */
    size_t n_prompt;
    uint32_t separator;            /* the prompt, where there was none and one is needed */
    const char *from;              /* "name[@version]" or NULL */
    const char *save;              /* name or NULL */
    const struct state_file *file; /* a state that came with the request, or NULL */
    bool keep;                     /* its state is wanted at the end: saved, given back */
    uint32_t max_tokens;
    bool new_version, echo;
    uint64_t if_revision;             /* APPEND: what the state must have; 0: any */
    const char *key, *request_sha256; /* idempotency; NULL: none */
    struct claim claim;               /* of `save` */

    /* the recurrence: state [rwkv_state_floats] has read n_read tokens, n_start of them before this
     * request; logits [V] are those after the last one, where has_logits */
    float *state, *logits;
    bool has_logits;
    struct adjustment *adjustment; /* borrowed from the call; NULL: the model as it is */
    const float *theta; /* borrowed from it, once it is there; NULL: the model's own vectors */
    size_t rank;        /* of theta */
    bool leads_context; /* it makes that for all */
    struct hybrid_context *rows;  /* READ: what was read so far */
    size_t heard;                 /* READ: tokens of the text that were fed */
    struct shared_prompt *shared; /* borrowed from the call; NULL: it reads its prompt itself */
    bool leads, follows; /* PREFILL: it reads it for the others too; it waits for who does */
    bool joined;         /* another has read it */
    uint64_t n_start, n_read;
    size_t fed;          /* of prompt */
    const uint32_t *due; /* DECODE: [n_due] to be fed next */
    size_t n_due;
    uint32_t last;   /* sampled last */
    uint32_t chosen; /* the next, if it has been chosen ahead */
    bool has_chosen;
    bool over; /* nothing more to sample: once nothing is due, it ends */

    /* the answer; completions only */
    struct sampler *sampler;
    struct output output;
    struct rewind rewind;
    bool reuse;      /* it may use and leave parked states (sessions.h) */
    struct buf said; /* uint32_t: with reuse, the tokens of the answer that were read */
    struct guide guide;
    bool stalled; /* its logits wait for its mask */
    bool dropped; /* ends with `why` once the guider has given it back */
    struct err why;
    enum finish finish;
    uint64_t predicted;
    struct embedder embedder;                               /* embeddings only */
    uint64_t told_ns;                                       /* the last record of progress */
    uint64_t begun_ns, prompt_done_ns, token_ns, parked_ns; /* 0: not yet, not parked */

    /* between the store, the porter and the worker */
    char used[160];            /* "name@version" that it starts from; "": the zero state */
    struct store_state record; /* of that state; its JSON texts are not kept */
    void *blob;                /* FIND: the context's bytes; LOAD: the state's */
    size_t blob_bytes;
    uint64_t hop_ns;       /* when the question to the store began */
    struct err load_error; /* LOAD: why it failed */
};

/* Takes a reference on the call. ERR_NOMEM. */
int sequence_new(struct service *s, struct worker *w, const struct work *work,
                 struct sequence **out, struct err *e);
void sequence_set_phase(struct sequence *q, enum seq_phase to);
/* The field of the request that names the state it starts from. */
const char *sequence_from_param(const struct sequence *q);
/* The record of what it saved, as its result. ERR_NOMEM. */
int sequence_set_saved(struct sequence *q, const struct store_state *state, struct err *e);
/* Ends the call with e (NULL or code 0: well) and lets q leave, itself or by the porter. [any thread that
 * has q] */
void sequence_end(struct sequence *q, const struct err *e);
/* Clears and frees q, whose call has ended; the service must not be used after this. */
void sequence_leave(struct sequence *q);
/* Memory for its state and logits, zeroed, unless it has some. ERR_NOMEM. [any thread that has q] */
int sequence_make_room(struct sequence *q, struct err *e);
/* Counts n for its model. [any thread that has q] */
void sequence_count(const struct sequence *q, enum metric_counter c, uint64_t n);

/* Cancelled, past its deadline, or parked for too long: true with e filled. [any thread that has q] */
bool sequence_must_end(struct sequence *q, uint64_t now, struct err *e);

/* All below: [thread: worker] */

/* Takes its place in the batch: memory, sampler, first phase. */
int sequence_start(struct sequence *q, struct err *e);
/* Begins to read its prompt: at the start, and again while it waits for another to read it. */
int sequence_begin_prompt(struct sequence *q, struct err *e);
/* The tokens it feeds in this step; 0: none. */
size_t sequence_next(const struct sequence *q, const uint32_t **tokens);
/* What it wants of them: no logits, those after the last (into q->logits), those after every one, or
 * the final hidden states after every one. */
enum sequence_wish { LOGITS_NONE, LOGITS_LAST, LOGITS_ALL, HIDDEN_ALL };
enum sequence_wish sequence_wants(const struct sequence *q);
/* After a step, before sequence_advance: chooses the token that it would, so that those of a batch choose at the same
 * time. [any thread of the worker's pool] */
void sequence_choose(struct sequence *q);
/* After a step that fed n tokens; all: logits [n, V] or hidden states [n, C], where it wanted all. */
int sequence_advance(struct sequence *q, size_t n, const float *all, struct err *e);
/* Its mask is there (q->stalled): goes on. */
int sequence_resume(struct sequence *q, struct err *e);
/* It is over and nothing failed: leaves its state to the turn that follows. */
void sequence_park(struct sequence *q);
/* True when it has nothing left to do in the batch. */
static inline bool sequence_is_over(const struct sequence *q)
{
    return q->over && q->n_due == 0;
}

#endif
