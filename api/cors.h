/* Browsers: which origins may call (CORS), and under which names of this host (against DNS
 * rebinding).
 *
 * An allowed origin gets its headers on every answer, errors too; a preflight (OPTIONS) is answered
 * before keys are looked at, since browsers send none with it. "*" allows every origin, without
 * credentials: a page must bring its key itself. Without a list no origin but our own may call.
 *
 * A list is words with blanks or commas between them. Threads: read-only once made. */
#ifndef API_CORS_H
#define API_CORS_H

#include "daemon/base/err.h"

#include <stdbool.h>
#include <stddef.h>

struct MHD_Connection;
struct MHD_Response;

struct word_list {
    char *text; /* the words, each with a NUL behind */
    size_t n, bytes;
};

/* NULL or "": an empty list. */
int word_list_init(struct word_list *l, const char *text, struct err *e);
void word_list_fini(struct word_list *l);
bool word_list_has(const struct word_list *l, const char *word, size_t n);

/* ERR_INVALID naming what is no origin: scheme://host[:port], or "*". */
int cors_check_origins(const struct word_list *origins, struct err *e);
/* The headers of an answer to this request. preflight: those of an answer to OPTIONS too. */
void cors_add_headers(const struct word_list *origins, struct MHD_Connection *conn, bool preflight,
                      struct MHD_Response *m);

/* Is the Host header one of the hosts (names without a port)? An empty list allows all. NULL is not
 * allowed by any other. */
bool cors_host_allowed(const struct word_list *hosts, const char *host);

#endif
