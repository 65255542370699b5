/* The options of `serve`: from the command line (--max-queue 64), the environment
 * (DREAMSTATE_MAX_QUEUE=64) and a file (--config FILE with lines "max-queue = 64"); each is stronger
 * than the next, and all are read and checked. One table in config.c says what there is, with unit,
 * range and default, and prints --help, deploy/dreamstated.conf and deploy/OPTIONS.md (a test
 * compares them).
 *
 * The file: one "key = value" a line, blanks around both dropped, nothing quoted; a line that begins
 * with # is a comment. An unknown key, a bad value, a key that stands twice (but `model`) is an error
 * with its line. (Why not JSON: people edit it, so it has comments, and errors have lines.)
 *
 * A new option is a row in the table and a field here; then write the two files in deploy/ anew. */
#ifndef DAEMON_CONFIG_H
#define DAEMON_CONFIG_H

#include "daemon/base/err.h"

#include <stdint.h>
#include <stdio.h>

#define CONFIG_MAX_MODELS 16

/* What --help asks for: the usage, an example file (=conf), a list for the documentation (=markdown) */
enum config_help { CONFIG_HELP, CONFIG_CONF, CONFIG_MARKDOWN };

/* The values of an option that may repeat. */
struct config_list {
    char *item[CONFIG_MAX_MODELS];
    size_t n;
};

struct config {
    enum config_help help;
    char *config;               /* the file that was read; NULL: none */
    struct config_list models;  /* "FILE" or "NAME=FILE" */
    struct config_list hybrids; /* the same; NAME: of a model */
    char *name;                 /* of the model, when there is one; NULL: from its file */
    char *vocab;                /* NULL: see registry.h */
    char *listen;               /* "HOST:PORT" as given */
    char host[64];              /* out of listen */
    char *data;                 /* directory of the store */
    char *backup_dir;           /* directory of its copies */
    char *weights_type;         /* "f32", ...; NULL: as the file has it */
    char *chat_template;        /* chat_template.h; NULL: the default */
    char *log_level, *half_open;
    char *tls_cert, *tls_key; /* NULL: no TLS */
    char *api_keys, *api_key; /* NULL: none */
    char *log_bodies, *metrics, *cors_origins, *allowed_hosts;
    uint64_t port;        /* out of listen; 0: any free one */
    uint64_t threads;     /* for the models' arithmetic; 0: one a processor */
    uint64_t state_cache; /* bytes */
    uint64_t http_threads, max_connections, max_connections_per_address, max_headers;
    uint64_t idle_seconds, body_seconds, request_seconds;
    uint64_t rate_requests, rate_tokens; /* a minute; 0: any number */
    uint64_t sessions, session_bytes;
    uint64_t max_sequences, max_queue, max_body, drain_seconds, park_seconds;
    uint64_t max_states, max_state_bytes; /* 0: any */
    uint64_t dataset_bytes, train_memory; /* 0: any */
    uint64_t generation_seconds;          /* 0: any number */
    uint64_t max_context;                 /* tokens */
};

/* Fills c from argv[1..], the environment and the file. 0; 1 when help was asked for (c->help says
 * which); ERR_INVALID naming the option, ERR_IO, ERR_NOMEM. env: looks a variable up (getenv).
 * config_fini in every case. */
int config_parse(struct config *c, int argc, char **argv, char *(*env)(const char *name),
                 struct err *e);
/* Fills in where things are kept, if it was not said: data, backup_dir. ERR_INVALID, ERR_NOMEM. */
int config_places(struct config *c, char *(*env)(const char *name), struct err *e);
void config_fini(struct config *c);
void config_print(FILE *to, enum config_help how);

#endif
