/* What several resources read the same way: the model of a request, tokens or text to read, the
 * text of a token, a state's record. */
#ifndef API_PROMPT_H
#define API_PROMPT_H

#include "api/json.h"
#include "api/req.h"

/* The model of an id: a model's name, or "model@state" or "model@state@version", whose part from the
 * state's name on is put into *ref (else NULL). NULL: there is no such model. */
const struct model_info *prompt_model_id(struct req *r, const char *id, const char **ref);
/* The model named by the field "model" (absent or "": the default one); a state in it is not looked at.
 * NULL and e. */
const struct model_info *prompt_model(struct req *r, const json_t *o, struct err *e);
/* The state that the field "model" names, if it does, into *ref, as if the field `key` had named it.
 * ERR_INVALID: that one (already in *ref) names another. */
int prompt_model_state(struct req *r, const json_t *o, const char *key, char **ref, struct err *e);
/* One prompt: a string, or an array of token ids, into ids [*n] (malloc'd). param names the field.
 */
int prompt_ids(struct req *r, const struct model_info *m, const json_t *v, const char *param,
               uint32_t **ids, size_t *n, struct err *e);
/* The field `key` as a state reference, copied into *ref (left alone where it is absent). versioned: it
 * may have a version, and may also be written {"name": ..., "version": ...}. */
int prompt_state_ref(const json_t *o, const char *key, bool versioned, char **ref, struct err *e);
/* "if_exists": "error" (false) or "new_version" (true). */
int prompt_if_exists(const json_t *o, bool *new_version, struct err *e);

void write_state(struct jw *w, const char *key, const struct state_info *s);
/* The same inside an object that the caller opens and ends. */
void write_state_fields(struct jw *w, const struct state_info *s);
void write_model_meta(struct jw *w, const char *key, const struct service *s,
                      const struct model_info *m);
/* "started_from", where ref is not "". */
void write_started_from(struct jw *w, const char *ref, bool other_weights_type);
void write_timings(struct jw *w, const char *key, const struct timings *t);

#endif
