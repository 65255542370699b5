/* ASSERT holds in every build: an invariant of ours that is broken must stop the program before it
 * can damage data. Never for input: bad input is an error (err.h). */
#ifndef BASE_ASSERT_H
#define BASE_ASSERT_H

#include <stdio.h>
#include <stdlib.h>

#define ASSERT(cond)                                                                               \
    ((cond) ? (void)0                                                                              \
            : (fprintf(stderr, "%s:%d: %s: broken: %s\n", __FILE__, __LINE__, __func__, #cond),    \
               abort()))

#endif
