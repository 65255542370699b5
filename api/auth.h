/* Who may do what. Every route names a scope (route.c), every API key has some.
 *
 * Choose a route's scope by the strongest thing that a request to it can do. A handler whose request
 * does more than that by a field (a completion with save_state writes) asks with req_allow. */
#ifndef API_AUTH_H
#define API_AUTH_H

enum scope {
    SCOPE_OPEN,     /* no key wanted: health, static pages */
    SCOPE_READ,     /* look: lists, records, data, models, the tokens of a text, metrics */
    SCOPE_GENERATE, /* the models work, nothing is kept: completions, embeddings, evaluations */
    SCOPE_WRITE,    /* something is kept, changed or deleted */
    SCOPE_ADMIN,    /* the daemon itself; a key with it may do everything */
};

#endif
