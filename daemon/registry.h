/* The models this process serves: opened at the start, fixed until the end.
 *
 * A model's name is NAME of NAME=FILE, or --name, or its file's name without folder and extension
 * (of a file called model.*: its folder's name). Its vocabulary is --vocab; or out of the GGUF; or
 * rwkv_vocab_v20230424.txt beside it; a vocabulary of at most 256 without any of these is bytes;
 * else none: the model takes and gives token ids only. Its hybrid is what a --hybrid names for it, or
 * hybrid.safetensors beside it, if that was trained for these very weights; or a stored one (hybrids.h).
 *
 * Threads: read-only after registry_open, but for what is guarded. Ownership: the registry owns all; close it after the
 * workers have ended. */
#ifndef DAEMON_REGISTRY_H
#define DAEMON_REGISTRY_H

#include "daemon/served_hybrid.h"
#include "daemon/service.h"
#include "engine/kernels/pool.h"
#include "engine/rwkv/rwkv.h"
#include "engine/sampling/constraint.h"
#include "engine/tokenizer/tokenizer.h"

struct model {
    struct rwkv_model *rwkv;
    const struct rwkv_info *rwkv_info;
    struct tokenizer *tokenizer; /* NULL: none, nor the two below */
    struct token_index *token_index;
    struct mask_scratch *mask_scratch; /* the guider's (guide.h) */
    struct hybrid_place hybrids;       /* the one that requests run with */
    struct served_hybrid
        *hybrid_of_file; /* what --hybrid names, or what stands beside it; or NULL */
    bool hybrid_named;   /* by --hybrid */
    struct pool *pool;   /* the worker's, also used while loading */
    char *path;
    char name[129];
    char weights_type[8]; /* lower case, as requests and records have it */
};

struct registry {
    struct model *models;     /* [n]; models[0] is the default */
    struct model_info *infos; /* [n], the same order */
    size_t n;
};

struct registry_options {
    char *const *models; /* "FILE" or "NAME=FILE"; a FILE with '=' needs a NAME */
    size_t n_models;
    char *const *hybrids; /* "FILE", of the first model, or "MODEL=FILE" */
    size_t n_hybrids;
    const char *name, *vocab, *weights_type; /* NULL: not given */
    const char *chat_template;               /* chat_template.h; NULL: the default */
    int threads; /* in all, shared out among the models; 0: one a processor */
};

struct log;
/* ERR_IO, ERR_FORMAT, ERR_NOMEM, ERR_INVALID (names twice the same or not allowed, a hybrid for no
 * model or another one). */
int registry_open(const struct registry_options *o, const struct log *log, struct registry **out,
                  struct err *e) __attribute__((warn_unused_result));
void registry_close(struct registry *r); /* NULL is fine */

/* info as handed out by service_find_model. */
struct model *registry_model(const struct registry *r, const struct model_info *info);

/* Was it trained for this very model? */
bool registry_hybrid_fits(const struct model *m, const struct hybrid *h);

/* Appends the bytes of a token, or "<id>" where the model has no vocabulary or the token no bytes
 * (shown = false: nothing then). */
int model_token_text(const struct model *m, uint32_t id, bool shown, struct buf *out);
uint32_t model_separator(const struct model *m);

#endif
