#include "daemon/config_impl.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT(field) offsetof(struct config, field)
static const struct option options[] = {
    {NULL, NULL, OPTION_GROUP, 0, NULL, 0, 0, NULL, "The daemon"},
    {"config", "FILE", OPTION_TEXT, AT(config), NULL, 0, 0, NULL,
     "read options from this file (not inside of one)"},
    {"data", "DIR", OPTION_TEXT, AT(data), NULL, 0, 0, NULL,
     "where states are kept (default: $XDG_DATA_HOME/dreamstate or ~/.local/share/dreamstate)"},
    {"max-states", "N", OPTION_NUMBER, AT(max_states), "0", 0, (uint64_t)1 << 48, NULL,
     "states kept, all versions; more are refused with 507; 0 = any number"},
    {"max-state-bytes", "BYTES", OPTION_BYTES, AT(max_state_bytes), "0", 0, (uint64_t)1 << 60, NULL,
     "bytes of distinct states kept; more are refused with 507; 0 = any"},
    {"dataset-bytes", "BYTES", OPTION_BYTES, AT(dataset_bytes), "0", 0, (uint64_t)1 << 60, NULL,
     "of texts and baked states of data sets; more are refused with 507; 0 = any"},
    {"train-memory", "BYTES", OPTION_BYTES, AT(train_memory), "4G", 0, (uint64_t)1 << 48, NULL,
     "memory that a training job may take, by its estimate; more is refused with 409; 0 = any"},
    {"generation-seconds", "N", OPTION_NUMBER, AT(generation_seconds), "15", 0, 86400, NULL,
     "a generation of states that by its estimate takes longer becomes a job, where the request does not say "
     "which it wants; 0 = none does"},
    {"backup-dir", "DIR", OPTION_TEXT, AT(backup_dir), NULL, 0, 0, NULL,
     "where POST /admin/backup puts its folders (default: `backups` in the folder of --data)"},
    {"drain-seconds", "N", OPTION_NUMBER, AT(drain_seconds), "30", 0, 86400, NULL,
     "time for running requests after SIGTERM"},
    {"log-level", "LEVEL", OPTION_CHOICE, AT(log_level), "info", 0, 0, "debug|info|warn|error",
     "least level of the log on standard error; info has a line for each request"},
    {"log-bodies", "HOW", OPTION_CHOICE, AT(log_bodies), "no", 0, 0, "no|yes",
     "for debugging: what clients send, prompts too, goes to the log"},
    {NULL, NULL, OPTION_GROUP, 0, NULL, 0, 0, NULL, "Models"},
    {"model", "[NAME=]FILE", OPTION_LIST, AT(models), NULL, 0, 0, NULL,
     "a model (.pth, .safetensors, .gguf); may repeat, the first is the default one (default: the "
     "bundled model)"},
    {"name", "NAME", OPTION_TEXT, AT(name), NULL, 0, 0, NULL,
     "what requests call the model (default: from its file's name)"},
    {"vocab", "FILE", OPTION_TEXT, AT(vocab), NULL, 0, 0, NULL,
     "the World vocabulary, rwkv_vocab_v20230424.txt (default: out of the GGUF, or beside the "
     "model)"},
    {"weights-type", "TYPE", OPTION_CHOICE, AT(weights_type), NULL, 0, 0, "f32|f16|bf16|q8_0|q4_0",
     "of the large matrices in memory (default: as the file has them)"},
    {"hybrid", "[MODEL=]FILE", OPTION_LIST, AT(hybrids), NULL, 0, 0, NULL,
     "what `train hybrid` made, for a model (default: the first); may repeat (default: "
     "hybrid.safetensors beside the model, if it was trained for it)"},
    {"max-context", "N", OPTION_NUMBER, AT(max_context), "4194304", 1, (uint64_t)1 << 32, NULL,
     "tokens of a context that a hybrid reads; more are refused with 413"},
    {"chat-template", "SPEC", OPTION_TEXT, AT(chat_template), NULL, 0, 0, NULL,
     "words around chat messages, [MODEL:]KEY=VALUE,...;... of system, user, assistant, tool, "
     "colon, "
     "separator (default: System, User, Assistant, Tool, \":\" and an empty line)"},
    {"threads", "N", OPTION_NUMBER, AT(threads), "0", 0, 256, NULL,
     "threads for arithmetic, shared by the models; 0 = one a processor"},
    {"max-sequences", "N", OPTION_NUMBER, AT(max_sequences), "32", 1, 1024, NULL,
     "sequences stepped together, per model"},
    {"max-queue", "N", OPTION_NUMBER, AT(max_queue), "128", 0, 100000, NULL,
     "requests that may wait, per model; more are refused with 429"},
    {"state-cache", "BYTES", OPTION_BYTES, AT(state_cache), "256M", 0, (uint64_t)1 << 40, NULL,
     "named states kept in memory, so that starting from one costs a copy; 0 = none"},
    {"sessions", "N", OPTION_NUMBER, AT(sessions), "128", 0, 100000, NULL,
     "states parked in memory for chats that go on (two a turn); 0 = none"},
    {"session-bytes", "BYTES", OPTION_BYTES, AT(session_bytes), "512M", 0, (uint64_t)1 << 40, NULL,
     "memory for these"},
    {NULL, NULL, OPTION_GROUP, 0, NULL, 0, 0, NULL, "HTTP"},
    {"listen", "HOST:PORT", OPTION_TEXT, AT(listen), "127.0.0.1:8080", 0, 0, NULL,
     "address to serve; port 0 = any free one"},
    {"max-connections-per-address", "N", OPTION_NUMBER, AT(max_connections_per_address), "0", 0,
     100000, NULL, "of these from one address; 0 = any number"},
    {"tls-cert", "FILE", OPTION_TEXT, AT(tls_cert), NULL, 0, 0, NULL,
     "serve HTTPS with this certificate and those above it, in PEM (default: HTTP)"},
    {"tls-key", "FILE", OPTION_TEXT, AT(tls_key), NULL, 0, 0, NULL, "and its private key, in PEM"},
    {"http-threads", "N", OPTION_NUMBER, AT(http_threads), "2", 1, 64, NULL, "threads for HTTP"},
    {"max-headers", "BYTES", OPTION_BYTES, AT(max_headers), "64K", 8192, 1 << 20, NULL,
     "largest request line and headers, and the memory that a connection has for them"},
    {"max-connections", "N", OPTION_NUMBER, AT(max_connections), "1000", 8, 100000, NULL,
     "open connections"},
    {"max-body", "BYTES", OPTION_BYTES, AT(max_body), "16M", 1024, (uint64_t)1 << 32, NULL,
     "largest request body"},
    {"idle-seconds", "N", OPTION_NUMBER, AT(idle_seconds), "60", 1, 86400, NULL,
     "a connection that says nothing, or has not sent whole headers, is closed after this"},
    {"body-seconds", "N", OPTION_NUMBER, AT(body_seconds), "240", 1, 86400, NULL,
     "a request's body that has not come whole after this gets 408"},
    {"request-seconds", "N", OPTION_NUMBER, AT(request_seconds), "0", 0, 86400, NULL,
     "a request that works for longer ends with 408; 0 = never"},
    {"park-seconds", "N", OPTION_NUMBER, AT(park_seconds), "30", 1, 86400, NULL,
     "a client that reads nothing of its answer is given up after this"},
    {"half-open", "HOW", OPTION_CHOICE, AT(half_open), "gone", 0, 0, "gone|waiting",
     "what a client is that has closed its sending side and waits for its answer"},
    {NULL, NULL, OPTION_GROUP, 0, NULL, 0, 0, NULL, "Who may call"},
    {"api-keys", "FILE", OPTION_TEXT, AT(api_keys), NULL, 0, 0, NULL,
     "API keys, one `NAME SCOPES KEY` a line (deploy/api-keys.example); read again at SIGHUP "
     "(default: no key is wanted)"},
    {"api-key", "KEY", OPTION_SECRET, AT(api_key), NULL, 0, 0, NULL,
     "one key that may do everything; only in the environment, where `ps` does not show it"},
    {"metrics", "WHO", OPTION_CHOICE, AT(metrics), "key", 0, 0, "key|everybody",
     "who may GET /metrics where keys are wanted"},
    {"rate-requests", "N", OPTION_NUMBER, AT(rate_requests), "0", 0, 1000000000, NULL,
     "requests a minute for each key or, without keys, each address; more get 429; 0 = any number"},
    {"rate-tokens", "N", OPTION_NUMBER, AT(rate_tokens), "0", 0, 1000000000000, NULL,
     "and tokens that the models read and write for it"},
    {"cors-origins", "LIST", OPTION_TEXT, AT(cors_origins), NULL, 0, 0, NULL,
     "origins whose pages may call from a browser, as https://app.example; * for all, without "
     "credentials (default: none)"},
    {"allowed-hosts", "LIST", OPTION_TEXT, AT(allowed_hosts), NULL, 0, 0, NULL,
     "names by which requests may call this host (their Host header, without the port): with "
     "`localhost 127.0.0.1 [::1]` a web page cannot reach a local daemon through a DNS name of its "
     "own; keys keep it out too (default: any)"},
};
#define N_OPTIONS (sizeof options / sizeof options[0])

const struct option *config_options(size_t *n)
{
    *n = N_OPTIONS;
    return options;
}

static bool in_choices(const char *choices, const char *value)
{
    size_t n = strlen(value);
    if (strchr(value, '|'))
        return false;
    for (const char *p = choices; n && (p = strstr(p, value)); p++)
        if ((p == choices || p[-1] == '|') && (p[n] == '|' || !p[n]))
            return true;
    return false;
}

/* Decimal digits, for bytes with K, M or G behind. */
static bool parse_number(const struct option *o, const char *s, uint64_t *out)
{
    char *end;
    errno = 0;
    if (!isdigit((unsigned char)*s))
        return false;
    unsigned long long v = strtoull(s, &end, 10);
    const char *units = "KMG", *unit = *end ? strchr(units, *end) : NULL;
    if (o->kind == OPTION_BYTES && unit) {
        if (__builtin_mul_overflow(v, 1ull << (10 * (unit - units + 1)), &v))
            return false;
        end++;
    }
    *out = v;
    return errno == 0 && !*end && v >= o->min && v <= o->max;
}

static int set_text(char **field, const char *value, struct err *e)
{
    char *copy = strdup(value);
    if (!copy)
        return err_set(e, ERR_NOMEM, "no memory for the options");
    free(*field);
    *field = copy;
    return 0;
}

void config_forget(struct config *c, const struct option *o)
{
    struct config_list *list = (void *)((char *)c + o->offset);
    while (list->n) {
        free(list->item[--list->n]);
        list->item[list->n] = NULL;
    }
}

int config_set(struct config *c, const struct option *o, const char *value, const char *where,
               struct err *e)
{
    void *field = (char *)c + o->offset;
    switch (o->kind) {
    case OPTION_GROUP:
        break;
    case OPTION_LIST: {
        struct config_list *list = field;
        if (!*value)
            return err_set(e, ERR_INVALID, "%s: want %s, found nothing", where, o->arg);
        if (list->n == CONFIG_MAX_MODELS)
            return err_set(e, ERR_INVALID, "%s: at most %d of them", where, CONFIG_MAX_MODELS);
        return set_text(&list->item[list->n++], value, e);
    }
    case OPTION_CHOICE:
        if (!in_choices(o->choices, value))
            return err_set(e, ERR_INVALID, "%s %s: want one of %s", where, value, o->choices);
        return set_text(field, value, e);
    case OPTION_TEXT:
    case OPTION_SECRET:
        if (!*value)
            return err_set(e, ERR_INVALID, "%s: want %s, found nothing", where, o->arg);
        return set_text(field, value, e);
    case OPTION_NUMBER:
    case OPTION_BYTES:
        if (!parse_number(o, value, field))
            return err_set(e, ERR_INVALID, "%s %s: want a number from %llu to %llu", where, value,
                           (unsigned long long)o->min, (unsigned long long)o->max);
        return 0;
    }
    return err_set(e, ERR_INTERNAL, "%s: an option of no kind", where);
}

/* "127.0.0.1:8080", "[::1]:0" */
static int split_listen(struct config *c, struct err *e)
{
    static const struct option port = {.kind = OPTION_NUMBER, .max = 65535};
    const char *host = c->listen, *colon = strrchr(host, ':');
    size_t n = colon ? (size_t)(colon - host) : 0;
    if (n >= 2 && host[0] == '[' && host[n - 1] == ']')
        host++, n -= 2;
    if (n == 0 || n >= sizeof c->host || !parse_number(&port, colon + 1, &c->port))
        return err_set(e, ERR_INVALID, "--listen %s: want HOST:PORT, for example 127.0.0.1:8080",
                       c->listen);
    memcpy(c->host, host, n);
    c->host[n] = 0;
    return 0;
}

/* path, or a text made of parts of it. */
static int set_path(char **field, const char *path, const char *below, struct err *e)
{
    char text[4096];
    if (snprintf(text, sizeof text, "%s%s", path, below) >= (int)sizeof text)
        return err_set(e, ERR_INVALID, "%.100s...: too long a path", path);
    return set_text(field, text, e);
}

int config_places(struct config *c, char *(*env)(const char *name), struct err *e)
{
    const char *base = env("XDG_DATA_HOME"), *home = env("HOME");
    int rc = 0;
    if (!c->data && base && *base)
        rc = set_path(&c->data, base, "/dreamstate", e);
    else if (!c->data && home && *home)
        rc = set_path(&c->data, home, "/.local/share/dreamstate", e);
    else if (!c->data)
        rc = err_set(e, ERR_INVALID, "no --data, and neither XDG_DATA_HOME nor HOME is set");
    return rc < 0 || c->backup_dir ? rc : set_path(&c->backup_dir, c->data, "/backups", e);
}

int config_check(struct config *c, struct err *e)
{
    if (split_listen(c, e) < 0)
        return e->code;
    if (c->name && c->models.n > 1)
        return err_set(e, ERR_INVALID,
                       "--name goes with one --model; for more use --model NAME=FILE");
    return 0;
}

void config_fini(struct config *c)
{
    for (size_t i = 0; i < N_OPTIONS; i++)
        if (options[i].kind == OPTION_LIST)
            config_forget(c, &options[i]);
        else if (options[i].kind == OPTION_TEXT || options[i].kind == OPTION_SECRET ||
                 options[i].kind == OPTION_CHOICE)
            free(*(char **)(void *)((char *)c + options[i].offset));
    *c = (struct config){0};
}
