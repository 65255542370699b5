/* Calls: reference counts, making and freeing of the typed requests, state references. */
#include "daemon/adjustment.h"
#include "daemon/base/clock.h"
#include "daemon/service_impl.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* A token's record is 40 bytes to about 1 kB (with 20 alternatives): a reader may fall hundreds of
 * tokens behind before its sequence is parked. */
#define STREAM_LIMIT (64 * 1024)

int call_init(struct call *c, void (*free_fn)(struct call *c))
{
    atomic_init(&c->refs, 1);
    atomic_init(&c->cancel, false);
    atomic_init(&c->tokens_read, 0);
    atomic_init(&c->tokens_made, 0);
    c->received_ns = clock_ns();
    c->free = free_fn;
    return stream_init(&c->stream, STREAM_LIMIT);
}

void call_ref(struct call *c)
{
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
}

void call_unref(struct call *c)
{
    if (!c || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
        return;
    stream_fini(&c->stream);
    c->free(c);
}

void call_cancel(struct call *c)
{
    atomic_store_explicit(&c->cancel, true, memory_order_release);
}

void state_info_fini(struct state_info *i)
{
    char *strings[] = {i->name,    i->model,  i->fingerprint, i->weights_type, i->sha256,
                       i->parents, i->origin, i->tags,        i->norms,        i->description};
    for (size_t n = 0; n < sizeof strings / sizeof strings[0]; n++)
        free(strings[n]);
}

struct state_file *state_file_new_take(void *data, size_t bytes)
{
    struct state_file *f = calloc(1, sizeof *f);
    if (!f) {
        free(data);
        return NULL;
    }
    atomic_init(&f->refs, 1);
    f->data = data;
    f->bytes = bytes;
    return f;
}

void state_file_ref(struct state_file *f)
{
    atomic_fetch_add_explicit(&f->refs, 1, memory_order_relaxed);
}

void state_file_unref(struct state_file *f)
{
    if (!f || atomic_fetch_sub_explicit(&f->refs, 1, memory_order_acq_rel) != 1)
        return;
    free(f->data);
    free(f->orientation);
    free(f);
}

struct adjustment *adjustment_new_take(const struct adjustment_ask *ask)
{
    struct adjustment *a = calloc(1, sizeof *a);
    if (!a || pthread_mutex_init(&a->lock, NULL) != 0) {
        free(ask->context);
        free(ask->text);
        free(a);
        return NULL;
    }
    atomic_init(&a->refs, 1);
    list_init(&a->waiting);
    a->ask = *ask;
    return a;
}

void adjustment_ref(struct adjustment *a)
{
    atomic_fetch_add_explicit(&a->refs, 1, memory_order_relaxed);
}

void adjustment_unref(struct adjustment *a)
{
    if (!a || atomic_fetch_sub_explicit(&a->refs, 1, memory_order_acq_rel) != 1)
        return;
    free(a->ask.context);
    free(a->ask.text);
    free(a->theta);
    served_hybrid_unref(a->hybrid);
    pthread_mutex_destroy(&a->lock);
    free(a);
}

const struct adjustment_used *adjustment_get_used(const struct adjustment *a)
{
    return &a->used;
}

static void completion_free(struct call *call)
{
    struct completion *c = (struct completion *)call;
    for (size_t i = 0; i < c->n_stops; i++)
        free(c->stops[i]);
    free(c->stops);
    free(c->stop_lens);
    free(c->bias);
    schema_unref(c->schema);
    shared_prompt_unref(c->shared);
    adjustment_unref(c->adjustment);
    free(c->scope);
    free(c->prompt);
    free(c->state);
    free(c->save_state);
    state_file_unref(c->state_file);
    free(c->returned.data);
    free(c->echo_logits);
    if (c->saved)
        state_info_fini(c->saved);
    free(c->saved);
    free(c);
}

struct completion *completion_new(void)
{
    struct completion *c = calloc(1, sizeof *c);
    if (!c || call_init(&c->call, completion_free) < 0) {
        free(c);
        return NULL;
    }
    c->sampling = SAMPLING_DEFAULT;
    c->n_logprobs = -1;
    return c;
}

static void embedding_free(struct call *call)
{
    struct embedding *c = (struct embedding *)call;
    for (size_t i = 0; c->texts && i < c->n_texts; i++)
        free(c->texts[i].ids);
    free(c->texts);
    free(c->state);
    free(c->vectors);
    free(c);
}

struct embedding *embedding_new(void)
{
    struct embedding *c = calloc(1, sizeof *c);
    if (!c || call_init(&c->call, embedding_free) < 0) {
        free(c);
        return NULL;
    }
    return c;
}

static void state_call_free(struct call *call)
{
    struct state_call *c = (struct state_call *)call;
    for (size_t i = 0; i < c->n_states; i++)
        state_info_fini(&c->states[i]);
    free(c->states);
    free(c->data);
    free(c->orientation);
    free(c->ref);
    free(c->prompt);
    free(c->base_state);
    adjustment_unref(c->adjustment);
    free(c->to);
    free(c->write.key);
    free(c->change.description);
    free(c->change.tags);
    free(c->after);
    free(c->prefix);
    free(c->tag);
    free(c->of_model);
    free(c);
}

struct state_call *state_call_new(enum state_op op)
{
    struct state_call *c = calloc(1, sizeof *c);
    if (!c || call_init(&c->call, state_call_free) < 0) {
        free(c);
        return NULL;
    }
    c->op = op;
    return c;
}

static void backup_call_free(struct call *c)
{
    free(((struct backup_call *)c)->name);
    free(c);
}

struct backup_call *backup_call_new(void)
{
    struct backup_call *c = calloc(1, sizeof *c);
    if (!c || call_init(&c->call, backup_call_free) < 0) {
        free(c);
        return NULL;
    }
    return c;
}

static bool name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
}

/* A decimal number of 1 and more, without sign or leading zeros; 0 if it is none. */
static uint64_t parse_version(const char *s)
{
    uint64_t v = 0;
    if (*s == '0' || !*s)
        return 0;
    for (; *s; s++)
        if (*s < '0' || *s > '9' || __builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v) || v > INT64_MAX)
            return 0;
    return v;
}

int state_ref_parse(const char *ref, char name[129], uint64_t *version, struct err *e)
{
    static const char *const reserved[] = {"import",   "edits",       "compare",
                                           "evaluate", "projections", "generations"};
    size_t n = 0;
    while (name_char(ref[n]))
        n++;
    if (n == 0 || n > 128 || (ref[n] && ref[n] != '@'))
        return err_set_param(
            e, ERR_INVALID, "state",
            "a state's name has 1 to 128 of the characters A-Z a-z 0-9 . _ -, and may "
            "be followed by @version");
    memcpy(name, ref, n);
    name[n] = 0;
    *version = ref[n] ? parse_version(ref + n + 1) : 0;
    if (ref[n] && *version == 0)
        return err_set_param(e, ERR_INVALID, "state",
                             "the version of a state is a number from 1 on");
    for (size_t i = 0; i < sizeof reserved / sizeof reserved[0]; i++)
        if (!strcmp(name, reserved[i]))
            return err_set_param(e, ERR_INVALID, "state", "'%s' cannot be a state's name", name);
    return 0;
}

uint64_t service_random_seed(void)
{
    uint64_t seed = 0;
    if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed)
        seed = clock_ns() * 0x9e3779b97f4a7c15u;
    return seed >> 11;
}
