/* Inside `bench speed`: what is measured, by whom, and what becomes of it. */
#ifndef DAEMON_BENCH_SPEED_H
#define DAEMON_BENCH_SPEED_H

#include "daemon/bench_client.h"
#include "daemon/bench_dit.h"
#include "daemon/bench_model.h"
#include "engine/rwkv/rwkv.h"

enum {
    SPEED_ROUNDS = 5,    /* at most */
    SPEED_PROMPT = 512,  /* tokens */
    SPEED_LENGTH = 64,   /* tokens of a completion through HTTP */
    SPEED_SEQUENCES = 16 /* at most at once */
};
enum { SPEED_DECODES = 4, SPEED_RANKS = 3, SPEED_DITS = 3, SPEED_TOGETHERS = 3 };
/* Sequences that decode at once; of vectors that a hybrid makes, a set for each of 1 and 16 sequences;
 * the bundled diffuser's shape, and the states of larger models; completions at once through HTTP. */
extern const size_t speed_decodes[SPEED_DECODES];
extern const size_t speed_ranks[SPEED_RANKS];
extern const struct bench_dit speed_dits[SPEED_DITS];
extern const size_t speed_togethers[SPEED_TOGETHERS];

struct speed_options {
    const char *model; /* NULL: random weights of `shape` and `type` */
    const char *llama; /* NULL: none */
    const struct bench_shape *shape;
    enum dtype type;
    int weights_type, threads, rounds; /* -1: as the file has them */
    bool json, dit;
};

/* One figure through the rounds. */
struct speed_figure {
    double round[SPEED_ROUNDS];
    int n;
};

enum { SPEED_OURS, SPEED_PEER, SPEED_SERVERS };
struct speed_http {
    struct bench_daemon server[SPEED_SERVERS];
    char dir[512]; /* of our daemon's store */
    struct bench_reply reply;
    struct speed_figure together[SPEED_SERVERS][SPEED_TOGETHERS]; /* tokens/s */
    struct speed_figure first[SPEED_SERVERS];                     /* ms */
    uint64_t peak;  /* bytes of memory that our daemon had at most */
    char note[256]; /* why there is no llama-server; "" if there is */
};

struct speed {
    struct speed_options o;
    char path[1024];
    struct pool *one, *pool;
    struct rwkv_model *m;
    struct rwkv_session *alone, *s; /* of one thread, of all */
    pid_t neighbour;                /* measure_neighbour_new */
    struct speed_figure bandwidth_one, bandwidth, decode[SPEED_DECODES], prefill, training[2];
    struct speed_figure decode_one, decode_beside; /* one thread; all beside another program */
    struct speed_figure cores; /* CPU seconds a second while decoding: below --threads, others were at work */
    struct speed_figure peer_decode[SPEED_DECODES], peer_prefill;
    double own[SPEED_RANKS][2]; /* over plain decoding, of 1 and 16 sequences */
    double load_ms;
    struct bench_dit_speed dit[SPEED_DITS];
    char peer_note[256]; /* why there are no figures of llama-bench; "" if there are */
    struct speed_http http;
};

void speed_add(struct speed_figure *f, double value);

/* Our daemon and, where there is one, llama-server on the same file, both alive until the end, which may
 * be called in any case. ERR_IO, ERR_NOMEM. */
int speed_http_start(struct speed *b, struct err *e);
void speed_http_stop(struct speed *b);
/* Each figure once of each server, in turn: greedy completions of SPEED_LENGTH tokens at once, and the
 * first token behind a fresh prompt. ERR_IO, ERR_FORMAT, ERR_NOMEM, ERR_UNAVAILABLE. */
int speed_http_round(struct speed *b, int round, struct err *e);

/* To stdout. 0, or -1. */
int speed_print(const struct speed *b);

#endif
