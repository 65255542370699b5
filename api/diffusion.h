/* The fields of a request that say how a diffuser is to run: generations.c, edits.c. */
#ifndef API_DIFFUSION_H
#define API_DIFFUSION_H

#include "api/errands.h"
#include "daemon/items.h"

/* A text as a condition reads it. param names the field. */
int diffusion_decode_text(struct req *r, const struct model_info *m, const json_t *v,
                          const char *param, struct token_list *out, struct err *e);
/* All fields of o; an edit has some more. The seed and what was left out are written back into o, so
 * that it says it all. prefix stands before a field's name in error.param. */
int diffusion_decode(struct req *r, const struct model_info *m, json_t *o, const char *prefix,
                     bool edit, struct diffusion *d, struct err *e);

#endif
