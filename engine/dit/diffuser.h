/* Inside engine/dit and engine/train: what a diffuser is made of, and its file. */
#ifndef ENGINE_DIT_DIFFUSER_H
#define ENGINE_DIT_DIFFUSER_H

#include "engine/dit/codec.h"
#include "engine/dit/dit.h"
#include "engine/dit/params.h"

struct diffuser {
    struct diffuser_info info;
    struct dit_layout layout;
    struct dit_codec codec;
    struct dit_schedule schedule;  /* all of its timesteps */
    float *params;                 /* [layout.count] */
    float *cond_mean, *cond_scale; /* [cond_dim]: the network sees (v - mean) / scale */
    char *names;                   /* the labels' text */
    const char **label;
};

void diffuser_fini(struct diffuser *d); /* a zeroed one is fine */
/* Copies the labels into d. ERR_NOMEM, ERR_INVALID (a name with a line end). */
int diffuser_set_labels(struct diffuser *d, const char *const *label, size_t n, struct err *e)
    __attribute__((warn_unused_result));
/* One safetensors file, weights and bases as F16, whole or not at all. d must be complete. ERR_NUMERIC: a
 * weight that F16 does not hold; ERR_IO, ERR_NOMEM. */
int diffuser_write(const struct diffuser *d, const char *path, struct err *e)
    __attribute__((warn_unused_result));

#endif
