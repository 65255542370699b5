/* How much each caller may ask in a minute: two token buckets, one of requests and one of model
 * tokens (read and sampled).
 *
 * A bucket holds at most a minute's worth and fills evenly. A request takes one of the first and
 * needs something in the second; its tokens are taken when it has ended, when their number is known,
 * so the second may go below nothing and the caller then waits for longer. Callers are known by the
 * name of their key or, where keys are off, by their address (IPv6: its first 64 bits).
 *
 * Bounded: LIMITS_CALLERS; where a new one finds no place, the one that has asked nothing for the
 * longest among its neighbours is forgotten. Threads: any; one short lock. */
#ifndef API_LIMITS_H
#define API_LIMITS_H

#include "daemon/base/err.h"

#include <stddef.h>
#include <stdint.h>

#define LIMITS_CALLERS 4096

struct limits;

struct quota {
    uint64_t requests, tokens; /* a minute; 0: any number */
};

/* NULL: no memory. */
struct limits *limits_new(void);
void limits_free(struct limits *l);

/* 0: go on; else the seconds after which a request may be taken. *what: "requests" or "tokens". now:
 * monotonic. */
unsigned limits_take(struct limits *l, const char *caller, const struct quota *q, uint64_t now_ns,
                     const char **what);
/* A request has ended that took this many tokens. */
void limits_charge(struct limits *l, const char *caller, const struct quota *q, uint64_t tokens,
                   uint64_t now_ns);

#endif
