/* Philox4x32-10 (Salmon et al., SC 2011): a counter-based generator. The same key and counter give the
 * same numbers on every machine; streams with other keys are independent. Pure, any thread. */
#ifndef ENGINE_RNG_H
#define ENGINE_RNG_H

#include <stdint.h>

/* Four 32-bit words for key (64 bits) and counter (128 bits: stream in the upper half). */
void philox4x32(uint64_t key, uint64_t stream, uint64_t counter, uint32_t out[4]);

/* A sequence drawn in order; copy it to save its place. */
struct rng {
    uint64_t key, stream, counter;
    uint32_t word[4];
    int left;
};

void rng_init(struct rng *r, uint64_t seed, uint64_t stream);
uint32_t rng_u32(struct rng *r);
uint64_t rng_below(struct rng *r, uint64_t n); /* uniform in [0, n), n > 0 */
double rng_uniform(struct rng *r);             /* [0, 1), 53 bits */
double rng_normal(struct rng *r);              /* N(0, 1), Box-Muller, two uniforms a number */

#endif
