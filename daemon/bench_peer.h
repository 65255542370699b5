/* llama.cpp's own benchmark programs and its server, run on the same file, to compare with in one sitting. */
#ifndef DAEMON_BENCH_PEER_H
#define DAEMON_BENCH_PEER_H

#include "daemon/bench_client.h"

struct bench_peer {
    double decode;     /* tokens/s, one sequence (llama-bench tg) */
    double prefill;    /* tokens/s of a 512-token prompt (llama-bench pp) */
    double batched[3]; /* tokens/s together at 4, 8 and 16 sequences (llama-batched-bench); 0: it is not there */
};

/* Runs the programs found in folder `dir` once. ERR_UNAVAILABLE (not there, or failed), ERR_FORMAT (its
 * answer). */
int bench_peer_run(const char *dir, const char *model, int threads, struct bench_peer *out,
                   struct err *e);
/* Starts dir/llama-server on the loopback and waits until it is ready; bench_daemon_stop ends it.
 * ERR_UNAVAILABLE (not there, or it ended), ERR_TIMEOUT (not ready within two minutes), ERR_IO. */
int bench_peer_serve(const char *dir, const char *model, int threads, int sequences,
                     struct bench_daemon *out, struct err *e);

#endif
