/* Inside engine/rwkv: which tensors a model has, under which name and in which order each file format
 * keeps them, and the check that a file's are all there with the right shapes. */
#ifndef ENGINE_RWKV_SOURCE_H
#define ENGINE_RWKV_SOURCE_H

#include "engine/rwkv/model.h"

enum rwkv_spec_kind {
    SPEC_VECTOR,
    SPEC_MATRIX,    /* y = W x, rows are outputs */
    SPEC_EMBEDDING, /* rows are looked up */
    SPEC_DOWN,      /* low-rank, canonically [C, D], applied as x @ w1 */
    SPEC_UP,        /* low-rank, canonically [D, C] */
};

struct rwkv_spec {
    const char *name; /* BlinkDL's, without "blocks.N." unless global */
    const char *gguf; /* llama.cpp's, without "blk.N." unless global */
    enum rwkv_spec_kind kind;
    char rows, cols;  /* 'C' 'F' 'V' 'H' 'N', 'w' 'a' 'v' 'g' for ranks; rows 0: a vector */
    bool global;
    int fused;        /* place in GGUF's fused mixes, else -1 */
    bool not_first;   /* layer 0 has none, or one that is ignored */
    size_t field;     /* in struct rwkv_model if global, else in struct rwkv_layer */
};

struct rwkv_sources {
    struct rwkv_source *sources; /* [n], owned, in the order of the fingerprint */
    const struct rwkv_spec **specs;
    size_t *layer_of;
    size_t n;
};

/* Fills the layout and the sizes in info. ERR_FORMAT: tensor, found, wanted. path is looked at only
 * for the ending ".st", which decides when square low-rank matrices could be in either order. */
int rwkv__sources_read(struct rwkv_sources *l, const struct tensor_file *f, const char *path,
                     struct rwkv_info *info, struct err *e);
void rwkv__sources_fini(struct rwkv_sources *l);

#endif
