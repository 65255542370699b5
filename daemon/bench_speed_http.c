/* Through HTTP: our daemon beside llama-server. */
#include "daemon/bench_corpora.h"
#include "daemon/bench_peer.h"
#include "daemon/bench_speed.h"

#include "daemon/base/clock.h"

#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

const size_t speed_togethers[] = {1, 4, SPEED_SEQUENCES};

/* ---- asking ----------------------------------------------------------------------------------- */

/* Words of the World vocabulary, from 300 on, or of a smaller one what it has but for its first: the same
 * for a seed, other ones for each. */
static void words(struct buf *out, size_t n, size_t n_vocab, uint32_t seed)
{
    const size_t first = n_vocab > 20300 ? 300 : 1, of = n_vocab > 20300 ? 20000 : n_vocab - 1;
    uint32_t x = seed * 7919 + 1;
    for (size_t i = 0; i < n; i++) {
        x = (x * 1103515245 + 12345) % 2147483648;
        buf_printf(out, "%s%zu", i ? "," : "", first + (x >> 8) % of);
    }
}

/* A greedy completion that does not end early, as each of the two servers is asked for it. */
static void body_of(struct buf *out, int server, size_t n_prompt, size_t length, size_t n_vocab,
                    uint32_t seed)
{
    buf_puts(out, "{\"prompt\":[");
    words(out, n_prompt, n_vocab, seed);
    buf_printf(out, server == SPEED_OURS
                        ? "],\"max_tokens\":%zu,\"temperature\":0,\"logit_bias\":{\"0\":false}}"
                        : "],\"n_predict\":%zu,\"temperature\":0,\"logit_bias\":[[0,false]]}",
               length);
}

/* How many tokens the answer has. llama-server answers 500 where what it made is no text, as random weights
 * make it, behind all of its work. */
static int count_tokens(const struct bench_reply *r, int server, size_t length, size_t *n, struct err *e)
{
    *n = length;
    if (server == SPEED_PEER && r->status == 500)
        return 0;
    if (r->status != 200)
        return err_set(e, ERR_UNAVAILABLE, "a completion: %d %.100s", r->status,
                       r->body.len ? r->body.data : "");
    json_t *o = json_loadb(r->body.data, r->body.len, 0, NULL);
    json_t *usage = json_object_get(o, "usage");
    *n = (size_t)json_integer_value(server == SPEED_OURS ? json_object_get(usage, "completion_tokens")
                                                         : json_object_get(o, "tokens_predicted"));
    json_decref(o);
    return *n ? 0 : err_set(e, ERR_FORMAT, "a completion without tokens");
}

struct question {
    int server;
    size_t n, n_prompt, length; /* completions at once; tokens */
    uint32_t seed;
};

/* Asks on connections that are there, and reads all answers: tokens and ms of all together. */
static int ask(struct speed *b, const struct question *q, struct bench_conn *c, size_t *tokens,
               double *ms, struct err *e)
{
    struct buf body[SPEED_SEQUENCES];
    const char *path = q->server == SPEED_OURS ? "/v1/completions" : "/completion";
    const size_t n_vocab = rwkv_get_info(b->m)->n_vocab;
    int rc = 0;
    for (size_t i = 0; i < q->n; i++) {
        buf_init(&body[i], 1 << 20);
        body_of(&body[i], q->server, q->n_prompt, q->length, n_vocab, q->seed + (uint32_t)i);
        if (body[i].failed)
            rc = err_set(e, ERR_NOMEM, "no memory for a prompt");
    }
    uint64_t begun = clock_ns();
    for (size_t i = 0; i < q->n && rc == 0; i++)
        rc = bench_send(&c[i], "POST", path, body[i].data, body[i].len, e);
    *tokens = 0;
    for (size_t i = 0, n; i < q->n && rc == 0; i++) {
        rc = bench_read(&c[i], &b->http.reply, e);
        if (rc == 0 && (rc = count_tokens(&b->http.reply, q->server, q->length, &n, e)) == 0)
            *tokens += n;
    }
    *ms = (double)(clock_ns() - begun) * 1e-6;
    for (size_t i = 0; i < q->n; i++)
        buf_fini(&body[i]);
    return rc;
}

/* On connections of its own: a server may close one that rests. */
static int ask_fresh(struct speed *b, const struct question *q, size_t *tokens, double *ms,
                     struct err *e)
{
    struct bench_conn c[SPEED_SEQUENCES];
    size_t open = 0;
    int rc = 0;
    for (; open < q->n && rc == 0; open++)
        rc = bench_connect(&c[open], b->http.server[q->server].port, e);
    if (rc == 0)
        rc = ask(b, q, c, tokens, ms, e);
    while (open--)
        bench_disconnect(&c[open]);
    return rc;
}

/* ---- the servers ------------------------------------------------------------------------------ */

static int start_ours(struct speed *b, struct err *e)
{
    char threads[16], sequences[16], type[16] = "";
    snprintf(threads, sizeof threads, "%d", b->o.threads);
    snprintf(sequences, sizeof sequences, "%d", SPEED_SEQUENCES);
    if (b->o.weights_type >= 0)
        snprintf(type, sizeof type, "%s", dtype_name((enum dtype)b->o.weights_type));
    for (char *p = type; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    const char *const args[] = {"--model", b->path, "--data", b->http.dir, "--threads", threads,
                                "--max-sequences", sequences, *type ? "--weights-type" : NULL, type, NULL};
    return bench_daemon_start(&b->http.server[SPEED_OURS], args, e);
}

int speed_http_start(struct speed *b, struct err *e)
{
    struct speed_http *h = &b->http;
    struct err peer = {0};
    buf_init(&h->reply.body, 1 << 24);
    if (bench_folder(h->dir, sizeof h->dir, e) < 0) {
        h->dir[0] = 0;
        return e->code;
    }
    if (start_ours(b, e) < 0)
        return e->code;
    if (!b->o.llama)
        snprintf(h->note, sizeof h->note, "no --llama and no DREAMSTATE_LLAMA");
    else if (bench_peer_serve(b->o.llama, b->path, b->o.threads, SPEED_SEQUENCES,
                              &h->server[SPEED_PEER], &peer) < 0)
        snprintf(h->note, sizeof h->note, "%s", peer.msg);
    return 0;
}

void speed_http_stop(struct speed *b)
{
    struct speed_http *h = &b->http;
    if (h->server[SPEED_OURS].pid > 0)
        h->peak = bench_daemon_peak(&h->server[SPEED_OURS]);
    for (int s = 0; s < SPEED_SERVERS; s++)
        bench_daemon_stop(&h->server[s]);
    if (h->dir[0])
        bench_folder_remove(h->dir);
    buf_fini(&h->reply.body);
}

/* ---- a round ---------------------------------------------------------------------------------- */

enum { WARM = -1 }; /* before the first round; no figure */

/* k: which of speed_togethers, or, one behind them, the first token. */
static int measure_server(struct speed *b, int server, int k, int round, struct err *e)
{
    const bool first = k == SPEED_TOGETHERS;
    const struct question q = {
        .server = server,
        .n = first || k == WARM ? 1 : speed_togethers[k],
        .n_prompt = first ? SPEED_PROMPT : 8,
        .length = first ? 1 : SPEED_LENGTH,
        .seed = (uint32_t)(round * (SPEED_TOGETHERS + 1) + k + 1) * SPEED_SEQUENCES,
    };
    size_t tokens = 0;
    double ms = 0;
    if (ask_fresh(b, &q, &tokens, &ms, e) < 0)
        return e->code;
    if (first)
        speed_add(&b->http.first[server], ms);
    else if (k != WARM)
        speed_add(&b->http.together[server][k], (double)tokens * 1e3 / ms);
    return 0;
}

/* A server that fails: ours ends the bench, the other has no more figures. */
static int try_server(struct speed *b, int server, int k, int round, struct err *e)
{
    struct speed_http *h = &b->http;
    struct err failed = {0};
    if (h->server[server].pid <= 0 || measure_server(b, server, k, round, &failed) == 0)
        return 0;
    if (server == SPEED_OURS) {
        *e = failed;
        return e->code;
    }
    snprintf(h->note, sizeof h->note, "%.250s", failed.msg);
    bench_daemon_stop(&h->server[server]);
    return 0;
}

int speed_http_round(struct speed *b, int round, struct err *e)
{
    for (int k = round == 0 ? WARM : 0; k <= SPEED_TOGETHERS; k++)
        for (int turn = 0; turn < SPEED_SERVERS; turn++)
            if (try_server(b, (turn + round) % SPEED_SERVERS, k, round, e) < 0)
                return e->code;
    return 0;
}
