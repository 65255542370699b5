/* `serve`: puts the daemon together, runs it, takes it apart.
 *
 *     options -> store -> models -> loop -> service (workers, porter) -> HTTP -> "listening on ..."
 *     SIGTERM, SIGINT: no new connections, no new requests; those that run have --drain-seconds,
 * then they are cancelled; HTTP ends, then the service, the store, the models; exit code 0. A
 * second signal: exit code 1 at once. SIGHUP: the API keys are read again. */
#include "api/api.h"
#include "daemon/bundled.h"
#include "daemon/cmd.h"
#include "daemon/config.h"
#include "daemon/datasets.h"
#include "daemon/hybrids.h"
#include "daemon/notify.h"
#include "daemon/service_impl.h"
#include "engine/kernels/gemm.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* On the heap: at a second signal the threads still use it while the process ends. */
struct server {
    struct config config;
    struct log log;
    struct store *store;
    struct registry *registry;
    struct loop *loop;
    struct service *service;
    struct api *api;
    bool draining, at_once;
};

/* Makes a folder and those above it. */
static int make_folders(char *path, struct err *e)
{
    for (char *p = path + 1;; p++) {
        char c = *p;
        if (c && c != '/')
            continue;
        *p = 0;
        mkdir(path, 0700); /* an existing one is fine; what cannot be used, store_open tells */
        *p = c;
        if (!c)
            break;
    }
    return access(path, W_OK | X_OK) == 0
               ? 0
               : err_set(e, ERR_IO, "--data %s: not a folder that can be written", path);
}

/* The folder of the store: --data, or the user's place for data. */
static int choose_data(struct config *c, struct err *e)
{
    return config_places(c, getenv, e) < 0 ? e->code : make_folders(c->data, e);
}

/* Without --model the bundled one. */
static int choose_model(struct config *c, struct err *e)
{
    struct buf path;
    if (c->models.n)
        return 0;
    buf_init(&path, 8192);
    int rc = bundled_path("tiny/model.safetensors", &path, e);
    if (rc < 0)
        err_prefix(e, "no --model was given");
    else if ((c->models.item[0] = buf_take(&path, NULL)))
        c->models.n = 1;
    else
        rc = err_set(e, ERR_NOMEM, "no memory for the options");
    buf_fini(&path);
    return rc;
}

static void on_drained(void *arg)
{
    struct server *s = arg;
    loop_stop(s->loop);
}

static void on_signal(void *arg)
{
    struct server *s = arg;
    if (s->draining) {
        LOG(&s->log, LOG_WARN, "killed", LOG_STR("why", "a second signal"));
        s->at_once = true;
        loop_stop(s->loop);
        return;
    }
    s->draining = true;
    notify_tell("STOPPING=1");
    api_quiesce(s->api);
    service_drain(s->service, s->config.drain_seconds * 1000, on_drained, s);
    LOG(&s->log, LOG_INFO, "draining", LOG_INT("seconds", s->config.drain_seconds));
}

static void on_reload(void *arg)
{
    struct server *s = arg;
    if (s->api)
        api_reload(s->api);
}

/* The loop turns: told to who watches for it. */
static void on_watchdog(void *arg)
{
    (void)arg;
    notify_tell("WATCHDOG=1");
}

static int start_watchdog(struct server *s, struct err *e)
{
    uint64_t ms = notify_watchdog_ms();
    return ms ? loop_start_timer(s->loop, ms, ms, on_watchdog, NULL, NULL, e) : 0;
}

static int open_parts(struct server *s, struct err *e)
{
    const struct config *c = &s->config;
    struct store_options store = {
        .dir = c->data, .max_states = c->max_states, .max_bytes = c->max_state_bytes};
    struct registry_options models = {.models = c->models.item,
                                      .n_models = c->models.n,
                                      .hybrids = c->hybrids.item,
                                      .n_hybrids = c->hybrids.n,
                                      .name = c->name,
                                      .vocab = c->vocab,
                                      .weights_type = c->weights_type,
                                      .chat_template = c->chat_template,
                                      .threads = (int)c->threads};
    if (store_open(&store, &s->store, e) < 0 ||
        registry_open(&models, &s->log, &s->registry, e) < 0 || loop_new(&s->loop, e) < 0 ||
        loop_on_signal(s->loop, SIGTERM, on_signal, s, e) < 0 ||
        loop_on_signal(s->loop, SIGINT, on_signal, s, e) < 0 ||
        loop_on_signal(s->loop, SIGHUP, on_reload, s, e) < 0 || start_watchdog(s, e) < 0)
        return e->code;
    struct service_options service = {.log = &s->log,
                                      .store = s->store,
                                      .registry = s->registry,
                                      .loop = s->loop,
                                      .backup_dir = c->backup_dir,
                                      .work_dir = c->data,
                                      .dataset_bytes = c->dataset_bytes,
                                      .train_bytes = c->train_memory,
                                      .generation_seconds = c->generation_seconds,
                                      .max_context = c->max_context,
                                      .max_sequences = c->max_sequences,
                                      .max_sessions = c->sessions,
                                      .session_bytes = c->session_bytes,
                                      .max_queue = c->max_queue,
                                      .state_cache = c->state_cache,
                                      .request_ns = c->request_seconds * 1000000000u,
                                      .lane_threads = (int)c->threads,
                                      .park_ns = c->park_seconds * 1000000000u};
    if (service_new(&service, &s->service, e) < 0 || datasets_sweep(s->service, e) < 0 ||
        hybrids_load(s->service, e) < 0 || jobs_resume(s->service, e) < 0)
        return e->code;
    struct api_options http = {.host = c->host,
                               .port = (int)c->port,
                               .threads = (int)c->http_threads,
                               .max_body = c->max_body,
                               .timeout_s = (unsigned)c->idle_seconds,
                               .connections = (unsigned)c->max_connections,
                               .keys_file = c->api_keys,
                               .admin_key = c->api_key,
                               .open_metrics = !strcmp(c->metrics, "everybody"),
                               .origins = c->cors_origins,
                               .hosts = c->allowed_hosts,
                               .rate_requests = c->rate_requests,
                               .rate_tokens = c->rate_tokens,
                               .body_s = (unsigned)c->body_seconds,
                               .max_headers = c->max_headers,
                               .connections_per_address = (unsigned)c->max_connections_per_address,
                               .log_bodies = !strcmp(c->log_bodies, "yes"),
                               .tls_cert = c->tls_cert,
                               .tls_key = c->tls_key,
                               .keep_half_open = !strcmp(c->half_open, "waiting")};
    return api_start(s->service, &http, &s->api, e);
}

static void close_parts(struct server *s)
{
    if (s->api)
        api_stop(s->api);
    service_free(s->service);
    if (s->store)
        store_close(s->store);
    registry_close(s->registry);
    loop_free(s->loop);
}

static void say_listening(const struct server *s)
{
    bool v6 = strchr(s->config.host, ':') != NULL;
    printf("listening on http%s://%s%s%s:%d\n", s->config.tls_cert ? "s" : "", v6 ? "[" : "",
           s->config.host, v6 ? "]" : "", api_port(s->api));
    fflush(stdout);
    LOG(&s->log, LOG_INFO, "listening", LOG_STR("host", s->config.host),
        LOG_INT("port", api_port(s->api)), LOG_STR("data", s->config.data),
        LOG_STR("store", store_backend((char[32]){0}, 32)));
}

/* Runs until a signal; the exit code. */
static int serve(struct server *s)
{
    struct err e = {0};
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGPIPE, &ignore, NULL); /* a client that has gone is an error of write() */
    sigaction(SIGXFSZ, &ignore, NULL); /* and so is a file that may not grow */
    s->log.fd = STDERR_FILENO;
    gemm_setup(); /* OpenBLAS starts no threads of its own beside ours */
    log_level_parse(s->config.log_level, &s->log.level);
    if (choose_data(&s->config, &e) < 0 || choose_model(&s->config, &e) < 0 ||
        open_parts(s, &e) < 0) {
        fprintf(stderr, "dreamstated: %s\n", e.msg);
        close_parts(s);
        return 1;
    }
    say_listening(s);
    notify_tell("READY=1");
    loop_run(s->loop);
    if (s->at_once)
        return 1;
    close_parts(s);
    LOG(&s->log, LOG_INFO, "stopped", LOG_STR("why", "signal"));
    return 0;
}

int cmd_serve(int argc, char **argv)
{
    struct err e = {0};
    struct server *s = calloc(1, sizeof *s);
    if (!s) {
        fputs("dreamstated: no memory\n", stderr);
        return 1;
    }
    int rc = config_parse(&s->config, argc, argv, getenv, &e);
    int code = 0;
    if (rc < 0) {
        fprintf(stderr, "dreamstated: %s\n", e.msg);
        code = 2;
    } else if (rc > 0) {
        config_print(stdout, s->config.help);
    } else {
        code = serve(s);
    }
    if (s->at_once)
        return code; /* threads still run: the end of the process frees all */
    config_fini(&s->config);
    free(s);
    return code;
}
