/* Strict reading of JSON objects by tables of keys: what every recipe is read with. */
#ifndef ENGINE_TRAIN_RECIPE_JSON_H
#define ENGINE_TRAIN_RECIPE_JSON_H

#include "daemon/base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

enum recipe_kind {
    RECIPE_UINT, /* uint64_t or size_t */
    RECIPE_REAL, /* double */
    RECIPE_TEXT, /* char array */
    RECIPE_BOOL  /* bool */
};

/* One key of an object: where its value goes and what it may be. */
struct recipe_key {
    const char *name;
    enum recipe_kind kind;
    size_t at;        /* offset in the struct that is filled */
    double low, high; /* numbers; texts: size of the array in high */
    bool required;
};
#define RECIPE_KEY(type, name, member, kind, low, high, required)                                  \
    {                                                                                              \
        name, kind, offsetof(type, member), low, high, required                                    \
    }
#define RECIPE_KEYS(a) (sizeof(a) / sizeof *(a))

/* Fills `to` from an object by its table; keys in `others` (each between spaces) are left to the
 * caller, any other is refused by its name behind `where`. ERR_INVALID, its param the key. */
int recipe_read_object(void *to, const json_t *o, const struct recipe_key *table, size_t n,
                       const char *others, const char *where, struct err *e)
    __attribute__((warn_unused_result));
/* A list of corpora, {"name", "path", "weight"}; `where` is its key. ERR_INVALID. */
struct recipe_corpus;
int recipe_read_corpora(struct recipe_corpus *to, size_t *n, const json_t *list, const char *where,
                        struct err *e) __attribute__((warn_unused_result));
/* A file's JSON, to be json_decref'd. NULL: ERR_IO, ERR_INVALID. */
json_t *recipe_load(const char *path, struct err *e) __attribute__((warn_unused_result));

#endif
