/* Who may do what: API keys and their scopes.
 *
 * Every route names a scope (route.c), every key has some. Choose a route's scope by the strongest
 * thing that a request to it can do. A handler whose request does more than that by a field (a
 * completion with save_state writes) asks with req_allow (req.h).
 *
 * Keys come from a file, one a line, and from DREAMSTATE_API_KEY (one, named "admin", that may do
 * everything):
 *
 *     # name   scopes          the key, or sha256: and the hex digest of it      limits, if any
 *     grafana  read            sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
 *     app      read,generate   3tnPBEKrXqxtZmZK3oPPmNYuQ6Z1LVYQ                  requests=60 tokens=20000
 *
 * (Lines, not JSON: one key an edit, comments, errors with their line.) limits: a minute, in place of
 * --rate-requests and --rate-tokens. A request brings its key as `Authorization: Bearer KEY` or
 * `X-Api-Key: KEY`, never in its body or query. Keys are kept and compared as SHA-256, each request's
 * with every one there is, in constant time.
 *
 * Without a file and a variable there is no struct auth (NULL) and everybody may do everything.
 *
 * Threads: auth_check and auth_reload from any. Limits: AUTH_MAX_KEYS. */
#ifndef API_AUTH_H
#define API_AUTH_H

#include "daemon/base/err.h"
#include "daemon/log.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum scope {
    SCOPE_OPEN,     /* no key wanted: health, static pages */
    SCOPE_READ,     /* look: lists, records, data, models, the tokens of a text, metrics */
    SCOPE_GENERATE, /* the models work, nothing is kept: completions, embeddings, evaluations */
    SCOPE_WRITE,    /* something is kept, changed or deleted */
    SCOPE_ADMIN,    /* the daemon itself; a key with it may do everything */
};

#define AUTH_MAX_KEYS 4096
#define AUTH_NO_LIMIT UINT64_MAX

struct auth;

struct grant { /* what a key gives */
    char name[65];
    unsigned scopes;           /* 1 << scope; 0: keys are off */
    uint64_t requests, tokens; /* a minute; AUTH_NO_LIMIT: as the server's options say */
};

/* keys_file, admin_key: NULL or "" for none; with none of both *out is NULL. log: NULL, or where a
 * file that everybody can read and keys of less than 16 characters are told. ERR_IO, ERR_INVALID
 * with file and line. */
int auth_open(const char *keys_file, const char *admin_key, const struct log *log,
              struct auth **out, struct err *e) __attribute__((warn_unused_result));
void auth_close(struct auth *a); /* NULL is fine */
/* Reads the file again; after an error the keys are those that there were. */
int auth_reload(struct auth *a, struct err *e);
size_t auth_count(struct auth *a);

/* key: NULL or n bytes. ERR_UNAUTHENTICATED. */
int auth_check(struct auth *a, const char *key, size_t n, struct grant *out, struct err *e);
/* ERR_PERMISSION if the grant has not the scope. */
int auth_allow(const struct grant *g, enum scope scope, struct err *e);

/* ---- inside, for tests ---- */

struct auth_key {
    struct grant grant;
    uint8_t digest[32];
};
/* The key with this digest among n, or NULL. *compared: how many were looked at, which is n. */
const struct auth_key *auth_match(const struct auth_key *keys, size_t n, const uint8_t digest[32],
                                  size_t *compared);

#endif
