#include "api/cors.h"

#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>

#define MAX_HEADERS 2048 /* characters of Access-Control-Request-Headers that are reflected */

int word_list_init(struct word_list *l, const char *text, struct err *e)
{
    static const char between[] = " \t,";
    *l = (struct word_list){0};
    if (!text || !*text)
        return 0;
    if (!(l->text = malloc(strlen(text) + 1)))
        return err_set(e, ERR_NOMEM, "no memory for a list");
    for (text += strspn(text, between); *text; text += strspn(text, between)) {
        size_t n = strcspn(text, between);
        memcpy(l->text + l->bytes, text, n);
        l->text[l->bytes + n] = 0;
        l->bytes += n + 1;
        l->n++;
        text += n;
    }
    return 0;
}

void word_list_fini(struct word_list *l)
{
    free(l->text);
    *l = (struct word_list){0};
}

bool word_list_has(const struct word_list *l, const char *word, size_t n)
{
    for (const char *p = l->text; p && p < l->text + l->bytes; p += strlen(p) + 1)
        if (strlen(p) == n && !strncasecmp(p, word, n))
            return true;
    return false;
}

int cors_check_origins(const struct word_list *origins, struct err *e)
{
    for (const char *p = origins->text; p && p < origins->text + origins->bytes;
         p += strlen(p) + 1) {
        const char *host = strstr(p, "://");
        if (strcmp(p, "*") != 0 && (!host || host == p || !host[3] || strpbrk(host + 3, "/?#@*")))
            return err_set(e, ERR_INVALID,
                           "--cors-origins %s: want scheme://host[:port], without a path, or *", p);
    }
    return 0;
}

/* Names of headers, as a browser lists them. */
static bool is_header_list(const char *s)
{
    static const char chars[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                "!#$%&'*+-.^_`|~, \t";
    size_t n = strlen(s);
    return n && n <= MAX_HEADERS && strspn(s, chars) == n;
}

void cors_add_headers(const struct word_list *origins, struct MHD_Connection *conn, bool preflight,
                      struct MHD_Response *m)
{
    const char *origin = MHD_lookup_connection_value(conn, MHD_HEADER_KIND, "Origin");
    bool any = word_list_has(origins, "*", 1);
    if (!origins->n)
        return;
    MHD_add_response_header(m, "Vary", "Origin");
    if (!origin || !(any || word_list_has(origins, origin, strlen(origin))))
        return;
    MHD_add_response_header(m, "Access-Control-Allow-Origin", any ? "*" : origin);
    if (!preflight) {
        MHD_add_response_header(m, "Access-Control-Expose-Headers",
                                "X-Request-Id, ETag, Location, Retry-After, Idempotent-Replayed");
        return;
    }
    const char *wanted =
        MHD_lookup_connection_value(conn, MHD_HEADER_KIND, "Access-Control-Request-Headers");
    MHD_add_response_header(m, "Access-Control-Allow-Methods",
                            "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    if (wanted && is_header_list(wanted))
        MHD_add_response_header(m, "Access-Control-Allow-Headers", wanted);
    MHD_add_response_header(m, "Access-Control-Max-Age", "7200");
}

bool cors_host_allowed(const struct word_list *hosts, const char *host)
{
    if (!hosts->n)
        return true;
    if (!host)
        return false;
    size_t n = *host == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":");
    return n <= strlen(host) && word_list_has(hosts, host, n);
}
