/* Constrained decoding: which bytes, and which tokens, may come next so that the output stays the
 * beginning of a document that a schema allows (response_format json_object and json_schema).
 *
 *     struct constraint *c = constraint_new(schema, &e);
 *     for (;;) {
 *         if (constraint_mask(c, index, scratch, allowed) == 0)
 *             break;                                  // complete, and no end token to say so
 *         id = sampler_pick_allowed(sampler, logits, allowed);
 *         if (tokenizer_is_end(t, id))
 *             break;
 *         constraint_accept(c, tokenizer_token(t, id, &n), n);
 *     }
 *
 * A pushdown matcher over bytes. Its stack is bounded (JSON_MAX_DEPTH); where anyOf leaves several
 * readings open it follows them side by side, equal ones once, at most CONSTRAINT_MAX_READINGS
 * (further ones are dropped: fewer documents are then possible, none that violates the schema).
 * Every accepted byte leaves a way to a complete document, spelt with single bytes if need be: a
 * vocabulary that holds all bytes meets no dead end.
 *
 * Threads: a constraint and a scratch belong to one thread at a time; a token index is immutable
 * and shared. Ownership: the caller frees; the schema must outlive its constraints, the index its
 * scratches. */
#ifndef ENGINE_CONSTRAINT_H
#define ENGINE_CONSTRAINT_H

#include "daemon/base/err.h"
#include "engine/sampling/json_schema.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONSTRAINT_MAX_READINGS 32

struct tokenizer;

struct constraint;
/* At the beginning of a document. NULL: no memory. */
struct constraint *constraint_new(const struct json_schema *schema, struct err *e);
/* The same place of the same document, from which both go on apart. NULL: no memory. */
struct constraint *constraint_clone(const struct constraint *c);
void constraint_free(struct constraint *c); /* NULL is fine */
/* Takes n bytes. False if they do not go on towards a document: c then takes nothing more. */
bool constraint_accept(struct constraint *c, const void *bytes, size_t n);
/* What was accepted is a whole document. */
bool constraint_is_complete(const struct constraint *c);
/* ... and nothing may follow it (a number may grow). */
bool constraint_is_final(const struct constraint *c);

/* The tokens of a vocabulary, sorted so that common beginnings are tried once. */
struct token_index;
/* For a model of n_vocab ids (those beyond the tokenizer's are never allowed). ERR_NOMEM. */
struct token_index *token_index_new(const struct tokenizer *t, size_t n_vocab, struct err *e);
void token_index_free(struct token_index *x); /* NULL is fine */
/* What a mask needs while it is computed, one for each thread that computes them. ERR_NOMEM. */
struct mask_scratch *mask_scratch_new(const struct token_index *x, struct err *e);
void mask_scratch_free(struct mask_scratch *m); /* NULL is fine */
/* Sets bit id % 64 of allowed[id / 64] for the tokens that c could accept, and for the end tokens
 * exactly when the document is complete; clears the others. (n_vocab + 63) / 64 words. Returns how
 * many are allowed. */
size_t constraint_mask(const struct constraint *c, const struct token_index *x,
                       struct mask_scratch *m, uint64_t *allowed);

#endif
