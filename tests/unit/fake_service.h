/* A service without an engine, for tests of the HTTP layer: every completion has a thread that
 * writes its stream. The first token of the prompt says what it does:
 *
 *   'e'  fails at once with ERR_STATE_NOT_FOUND      'm'  fails after three tokens
 *   'w'  gives nothing until it is cancelled         'b'  is refused with ERR_BUSY
 *   else max_tokens tokens, 'a' 'b' 'c' ..., as fast as its stream takes them
 *
 * fake_running() counts the threads that live. Included by one test program, whose definitions
 * stand in for the daemon's. */
#ifndef FAKE_SERVICE_H
#define FAKE_SERVICE_H

#include "daemon/items.h"
#include "daemon/jobs.h"
#include "daemon/log.h"
#include "daemon/service.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct service {
    atomic_int running;
    atomic_bool ready;
    atomic_int counted;
    void (*sweep)(void *arg);
    void *sweep_arg;
};

static const struct model_info fake_model = {.name = "fake",
                                             .fingerprint = "0123456789abcdef0123456789abcdef",
                                             .weights_type = "f32",
                                             .tokenizer = "bytes",
                                             .n_vocab = 256,
                                             .chat = CHAT_TEMPLATE_WORLD};

size_t service_models(const struct service *s, const struct model_info **out)
{
    (void)s;
    *out = &fake_model;
    return 1;
}

const struct model_info *service_find_model(const struct service *s, const char *name)
{
    (void)s;
    return !name || !*name || !strcmp(name, "fake") ? &fake_model : NULL;
}

bool service_model_hybrid(const struct service *s, const struct model_info *m, char sha256[65])
{
    (void)s;
    (void)m;
    *sha256 = 0;
    return false;
}

int service_tokenize(const struct service *s, const struct model_info *m, const char *text,
                     size_t bytes, uint32_t **ids, size_t *n, struct err *e)
{
    (void)s;
    (void)m;
    if (!(*ids = calloc(bytes + 1, sizeof **ids)))
        return err_set(e, ERR_NOMEM, "no memory");
    for (*n = 0; *n < bytes; ++*n)
        (*ids)[*n] = (unsigned char)text[*n];
    return 0;
}

int service_token_text(const struct service *s, const struct model_info *m, uint32_t id,
                       struct buf *out)
{
    (void)s;
    (void)m;
    return buf_append(out, &(char){(char)id}, 1);
}

int service_detokenize(const struct service *s, const struct model_info *m, const uint32_t *ids,
                       size_t n, struct buf *out, struct err *e)
{
    for (size_t i = 0; i < n; i++)
        if (service_token_text(s, m, ids[i], out) < 0)
            return err_set(e, ERR_NOMEM, "no memory");
    return 0;
}

const struct log *service_log(const struct service *s)
{
    (void)s;
    return NULL;
}

bool service_ready(const struct service *s)
{
    return atomic_load(&((struct service *)(uintptr_t)s)->ready);
}

void service_end_waiting(struct service *s)
{
    (void)s;
}

int service_every(struct service *s, unsigned ms, void (*fn)(void *arg), void *arg)
{
    (void)ms;
    s->sweep = fn;
    s->sweep_arg = arg;
    return 0;
}

int service_metrics(struct service *s, struct buf *out)
{
    return buf_printf(out, "dreamstate_http_requests_total %d\n", atomic_load(&s->counted));
}

void service_count_http(struct service *s, const char *route, int status, double seconds)
{
    (void)route;
    (void)status;
    (void)seconds;
    atomic_fetch_add(&s->counted, 1);
}

struct fake_job {
    struct service *s;
    struct completion *c;
};

static void fake_nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
}

static bool fake_cancelled(struct completion *c)
{
    return atomic_load(&c->call.cancel);
}

static bool fake_push(struct completion *c, uint32_t i)
{
    struct {
        struct token_event t;
        char tail[2];
    } rec = {.t = {.id = 'a' + i % 26, .logprob = -1, .piece_bytes = 1, .text_bytes = 1}};
    rec.tail[0] = rec.tail[1] = (char)rec.t.id;
    while (stream_push(&c->call.stream, &rec, sizeof rec.t + 2) == ERR_BUSY) {
        if (fake_cancelled(c))
            return false;
        fake_nap();
    }
    return !fake_cancelled(c);
}

static void *fake_work(void *arg)
{
    struct fake_job *j = arg;
    struct completion *c = j->c;
    uint32_t kind = c->n_prompt ? c->prompt[0] : 0, i = 0;
    if (kind == 'e')
        err_set_param(&c->call.err, ERR_STATE_NOT_FOUND, "state", "there is no state");
    while (kind == 'w' && !fake_cancelled(c))
        fake_nap();
    while (kind != 'e' && kind != 'w' && i < c->max_tokens && fake_push(c, i))
        if (++i == 3 && kind == 'm') {
            err_set(&c->call.err, ERR_NUMERIC, "not a number");
            break;
        }
    if (fake_cancelled(c))
        err_set(&c->call.err, ERR_CANCELLED, "cancelled");
    c->timings.prompt_n = c->n_prompt;
    c->timings.predicted_n = i;
    c->finish = FINISH_LENGTH;
    stream_end(&c->call.stream);
    call_unref(&c->call);
    atomic_fetch_sub(&j->s->running, 1);
    free(j);
    return NULL;
}

int service_complete(struct service *s, struct completion *c, struct err *e)
{
    pthread_t t;
    struct fake_job *j = malloc(sizeof *j);
    if (!atomic_load(&s->ready) || !j || (c->n_prompt && c->prompt[0] == 'b')) {
        free(j);
        return err_set(e, ERR_BUSY, "the queue is full");
    }
    *j = (struct fake_job){s, c};
    call_ref(&c->call);
    atomic_fetch_add(&s->running, 1);
    if (pthread_create(&t, NULL, fake_work, j))
        abort();
    pthread_detach(t);
    return 0;
}

int service_errand(struct service *s, struct errand *c, struct err *e)
{
    (void)s;
    (void)c;
    return err_set(e, ERR_UNAVAILABLE, "the fake has no lane");
}

struct job_call *job_call_new(enum job_op op)
{
    (void)op;
    return NULL;
}

int service_job(struct service *s, struct job_call *c, struct err *e)
{
    (void)s;
    (void)c;
    return err_set(e, ERR_UNAVAILABLE, "the fake has no lane");
}

bool service_generation_is_long(const struct service *s, const struct state_generation *c)
{
    (void)s;
    (void)c;
    return false;
}

char *generation_request(const struct state_generation *c)
{
    (void)c;
    return NULL;
}

char *generation_info(const struct state_generation *c)
{
    (void)c;
    return NULL;
}

int condition_tokens(const struct service *s, const struct model_info *m, const uint32_t *ids,
                     size_t n, struct token_list *out, struct err *e)
{
    (void)s;
    (void)m;
    (void)ids;
    (void)n;
    (void)out;
    return err_set(e, ERR_UNAVAILABLE, "the fake has no conditions");
}

int service_make_context(struct service *s, struct item_call *c, struct err *e)
{
    (void)s;
    (void)c;
    return err_set(e, ERR_UNAVAILABLE, "the fake has no contexts");
}

int service_state(struct service *s, struct state_call *c, struct err *e)
{
    (void)s;
    (void)c;
    return err_set(e, ERR_STATE_NOT_FOUND, "there is no state");
}

int service_embed(struct service *s, struct embedding *c, struct err *e)
{
    (void)s;
    (void)c;
    return err_set(e, ERR_BUSY, "the queue is full");
}

void service_get_limits(const struct service *s, struct service_limits *out)
{
    (void)s;
    *out = (struct service_limits){.max_sequences = 32, .max_queue = 64};
}

const char *service_version(void)
{
    return "0";
}

void service_get_store(const struct service *s, struct store_info *out)
{
    (void)s;
    *out = (struct store_info){.backend = "none"};
}

size_t service_slots(const struct service *s, const struct model_info *m, struct slot_info *out)
{
    (void)s;
    (void)m;
    memset(out, 0, 32 * sizeof *out);
    return 32;
}

int service_backup(struct service *s, struct backup_call *c, struct err *e)
{
    (void)s;
    (void)c;
    return err_set(e, ERR_UNSUPPORTED, "there is nothing to copy");
}

static inline int fake_running(struct service *s)
{
    return atomic_load(&s->running);
}

#endif
