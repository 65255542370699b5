#include "api/auth.h"

#include "daemon/base/sha256.h"
#include "daemon/text_file.h"

#include <ctype.h>
#include <nettle/base16.h>
#include <nettle/memops.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define GOOD_KEY 16  /* characters; less is worth a warning */
#define MAX_KEY  512 /* characters */

static const char *const scope_names[] = {"open", "read", "generate", "write", "admin"};

struct table {
    struct auth_key *keys; /* [n] */
    size_t n;
};

struct auth {
    char *path;         /* of the file; NULL: none */
    struct table admin; /* the key of the environment, or none */
    const struct log *log;
    pthread_rwlock_t lock;
    struct table table; /* guard: lock; the file's keys, then the admin's */
};

/* ---- reading ---- */

static int parse_scopes(char *text, unsigned *scopes)
{
    char *save = NULL;
    *scopes = 0;
    for (char *word = strtok_r(text, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
        int s = SCOPE_READ;
        while (s <= SCOPE_ADMIN && strcmp(word, scope_names[s]) != 0)
            s++;
        if (s > SCOPE_ADMIN)
            return -1;
        *scopes |= 1u << s;
    }
    return *scopes ? 0 : -1;
}

static bool good_key(const char *key, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (key[i] <= ' ' || key[i] > '~')
            return false;
    return n > 0 && n <= MAX_KEY;
}

static int parse_digest(const char *hex, uint8_t digest[32])
{
    struct base16_decode_ctx ctx;
    size_t n = 32;
    base16_decode_init(&ctx);
    return strlen(hex) == 64 && base16_decode_update(&ctx, &n, digest, 64, hex) &&
                   base16_decode_final(&ctx) && n == 32
               ? 0
               : -1;
}

static int parse_key(const char *text, struct auth_key *k, bool *is_short)
{
    if (!strncmp(text, "sha256:", 7))
        return parse_digest(text + 7, k->digest);
    size_t n = strlen(text);
    *is_short = n < GOOD_KEY;
    sha256_of(text, n, k->digest);
    return good_key(text, n) ? 0 : -1;
}

static int parse_limit(const char *word, struct grant *g)
{
    uint64_t *field = !strncmp(word, "requests=", 9) ? &g->requests
                      : !strncmp(word, "tokens=", 7) ? &g->tokens
                                                     : NULL;
    const char *digits = strchr(word, '=');
    char *end;
    if (!field || !isdigit((unsigned char)*++digits) || strlen(digits) > 12)
        return -1;
    *field = strtoull(digits, &end, 10);
    return *end ? -1 : 0;
}

static bool good_name(const char *name)
{
    static const char chars[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-";
    size_t n = strlen(name);
    return n > 0 && n < sizeof((struct grant *)0)->name && strspn(name, chars) == n;
}

/* "name scopes key [requests=N] [tokens=N]" */
static int parse_line(char *line, struct auth_key *k, bool *is_short, const char *where,
                      struct err *e)
{
    char *save = NULL;
    char *name = strtok_r(line, " \t", &save), *scopes = strtok_r(NULL, " \t", &save);
    char *key = strtok_r(NULL, " \t", &save), *more;
    *k = (struct auth_key){.grant = {.requests = AUTH_NO_LIMIT, .tokens = AUTH_NO_LIMIT}};
    if (!key)
        return err_set(e, ERR_INVALID, "%s: want NAME SCOPES KEY", where);
    if (!good_name(name))
        return err_set(e, ERR_INVALID, "%s: a name has 1 to 64 of the characters A-Z a-z 0-9 . _ -",
                       where);
    memcpy(k->grant.name, name, strlen(name));
    if (parse_scopes(scopes, &k->grant.scopes) < 0)
        return err_set(e, ERR_INVALID, "%s: scopes are read, generate, write, admin, with commas",
                       where);
    if (parse_key(key, k, is_short) < 0)
        return err_set(e, ERR_INVALID,
                       "%s: a key is up to %d visible ASCII characters, or sha256: "
                       "and 64 hex digits",
                       where, MAX_KEY);
    while ((more = strtok_r(NULL, " \t", &save)))
        if (parse_limit(more, &k->grant) < 0)
            return err_set(e, ERR_INVALID, "%s: behind the key may stand requests=N and tokens=N",
                           where);
    return 0;
}

/* Adds a key that differs from all there are in name and value. */
static int add_key(struct table *t, const struct auth_key *k, const char *where, struct err *e)
{
    for (size_t i = 0; i < t->n; i++)
        if (!strcmp(t->keys[i].grant.name, k->grant.name) ||
            memeql_sec(t->keys[i].digest, k->digest, sizeof k->digest))
            return err_set(e, ERR_INVALID, "%s: '%s' has the same name or key", where,
                           t->keys[i].grant.name);
    if (t->n == AUTH_MAX_KEYS)
        return err_set(e, ERR_INVALID, "%s: more than %d keys", where, AUTH_MAX_KEYS);
    if ((t->n & (t->n - 1)) == 0) { /* 1, 2, 4, ... are full */
        struct auth_key *more = realloc(t->keys, (t->n ? 2 * t->n : 1) * sizeof *more);
        if (!more)
            return err_set(e, ERR_NOMEM, "no memory for the keys");
        t->keys = more;
    }
    t->keys[t->n++] = *k;
    return 0;
}

static int read_keys(struct auth *a, struct table *t, struct err *e)
{
    struct buf text;
    struct stat st;
    int rc = text_file_read(a->path, &text, e), number = 0;
    if (rc == 0 && stat(a->path, &st) == 0 && (st.st_mode & S_IROTH))
        LOG(a->log, LOG_WARN, "api_keys_exposed", LOG_STR("file", a->path),
            LOG_STR("why", "everybody on this machine can read it (chmod o-r)"));
    for (char *at = text.data, *line; rc == 0 && (line = text_file_line(&at));) {
        char where[256];
        struct auth_key k;
        bool is_short = false;
        snprintf(where, sizeof where, "%.160s line %d", a->path, ++number);
        if (!*line || *line == '#')
            continue;
        rc = parse_line(line, &k, &is_short, where, e);
        if (rc == 0)
            rc = add_key(t, &k, where, e);
        if (rc == 0 && is_short)
            LOG(a->log, LOG_WARN, "api_key_short", LOG_STR("key", k.grant.name));
    }
    if (rc == 0 && t->n == 0)
        rc = err_set(e, ERR_INVALID, "%s: no key in it", a->path);
    if (text.data)
        explicit_bzero(text.data, text.len);
    buf_fini(&text);
    return rc;
}

int auth_reload(struct auth *a, struct err *e)
{
    struct table t = {0}, old;
    int rc = a->path ? read_keys(a, &t, e) : 0;
    for (size_t i = 0; rc == 0 && i < a->admin.n; i++)
        rc = add_key(&t, &a->admin.keys[i], "DREAMSTATE_API_KEY", e);
    if (rc < 0) {
        free(t.keys);
        return rc;
    }
    pthread_rwlock_wrlock(&a->lock);
    old = a->table;
    a->table = t;
    pthread_rwlock_unlock(&a->lock);
    free(old.keys);
    return 0;
}

/* ---- the table ---- */

static int set_admin(struct auth *a, const char *key, struct err *e)
{
    struct auth_key k = {.grant = {.name = "admin",
                                   .scopes = 1u << SCOPE_ADMIN,
                                   .requests = AUTH_NO_LIMIT,
                                   .tokens = AUTH_NO_LIMIT}};
    bool is_short = false;
    if (parse_key(key, &k, &is_short) < 0)
        return err_set(e, ERR_INVALID, "DREAMSTATE_API_KEY: want up to %d visible ASCII characters",
                       MAX_KEY);
    if (is_short)
        LOG(a->log, LOG_WARN, "api_key_short", LOG_STR("key", k.grant.name));
    return add_key(&a->admin, &k, "DREAMSTATE_API_KEY", e);
}

int auth_open(const char *keys_file, const char *admin_key, const struct log *log,
              struct auth **out, struct err *e)
{
    *out = NULL;
    bool file = keys_file && *keys_file, admin = admin_key && *admin_key;
    if (!file && !admin)
        return 0;
    struct auth *a = calloc(1, sizeof *a);
    if (!a || pthread_rwlock_init(&a->lock, NULL) != 0) {
        free(a);
        return err_set(e, ERR_NOMEM, "no memory for the keys");
    }
    a->log = log;
    int rc = 0;
    if (file && !(a->path = strdup(keys_file)))
        rc = err_set(e, ERR_NOMEM, "no memory for the keys");
    if (rc == 0 && admin)
        rc = set_admin(a, admin_key, e);
    if (rc == 0)
        rc = auth_reload(a, e);
    if (rc < 0) {
        auth_close(a);
        return rc;
    }
    *out = a;
    return 0;
}

void auth_close(struct auth *a)
{
    if (!a)
        return;
    free(a->path);
    free(a->admin.keys);
    free(a->table.keys);
    pthread_rwlock_destroy(&a->lock);
    free(a);
}

size_t auth_count(struct auth *a)
{
    pthread_rwlock_rdlock(&a->lock);
    size_t n = a->table.n;
    pthread_rwlock_unlock(&a->lock);
    return n;
}

const struct auth_key *auth_match(const struct auth_key *keys, size_t n, const uint8_t digest[32],
                                  size_t *compared)
{
    const struct auth_key *found = NULL;
    *compared = 0;
    for (size_t i = 0; i < n; i++, ++*compared)
        found = memeql_sec(keys[i].digest, digest, 32) ? &keys[i] : found;
    return found;
}

int auth_check(struct auth *a, const char *key, size_t n, struct grant *out, struct err *e)
{
    uint8_t digest[32];
    size_t compared;
    if (!key || !n)
        return err_set(e, ERR_UNAUTHENTICATED,
                       "an API key is wanted: Authorization: Bearer KEY, or X-Api-Key: KEY");
    sha256_of(key, n, digest);
    pthread_rwlock_rdlock(&a->lock);
    const struct auth_key *k = auth_match(a->table.keys, a->table.n, digest, &compared);
    if (k)
        *out = k->grant;
    pthread_rwlock_unlock(&a->lock);
    return k ? 0 : err_set(e, ERR_UNAUTHENTICATED, "the API key is not known here");
}

int auth_allow(const struct grant *g, enum scope scope, struct err *e)
{
    if (!g->scopes || scope == SCOPE_OPEN || (g->scopes & (1u << scope | 1u << SCOPE_ADMIN)))
        return 0;
    return err_set(e, ERR_PERMISSION, "the key '%s' has no scope '%s'", g->name,
                   scope_names[scope]);
}
