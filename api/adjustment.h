/* The field "hybrid" of completions and of what reads states: completions.c, chat.c, states_write.c. */
#ifndef API_ADJUSTMENT_H
#define API_ADJUSTMENT_H

#include "api/prompt.h"
#include "daemon/items.h"

/* {context: "name" | {text | tokens}, strength, seed, num_inference_steps} of o into *out (one
 * reference), or NULL where it is absent. seed: of a text that brings none; -1: any. */
int adjustment_decode(struct req *r, const struct model_info *m, const json_t *o, int64_t seed,
                      struct adjustment **out, struct err *e);
/* One of the fields text and tokens of o, as a hybrid reads it: malloc'd. param stands before a field's
 * name in error.param. */
int adjustment_decode_text(struct req *r, const struct model_info *m, const json_t *o,
                           const char *param, uint32_t **ids, size_t *n, struct err *e);
/* The fields seed and num_inference_steps of o. */
int adjustment_decode_sampling(const json_t *o, const char *param, int64_t *seed, int64_t *steps,
                               struct err *e);
/* What was used, or nothing for NULL. */
void adjustment_write(struct jw *w, const struct adjustment *a);

#endif
