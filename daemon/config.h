/* The options of `serve`, from the command line and the environment (DREAMSTATE_<FLAG>, for example
 * DREAMSTATE_MAX_QUEUE for --max-queue; the command line wins). One table in config.c says what
 * there is, with unit, range and default, and prints --help. */
#ifndef DAEMON_CONFIG_H
#define DAEMON_CONFIG_H

#include "daemon/base/err.h"

#include <stdint.h>
#include <stdio.h>

#define CONFIG_MAX_MODELS 16

struct config {
    char *models[CONFIG_MAX_MODELS]; /* "FILE" or "NAME=FILE" */
    size_t n_models;
    char *name;         /* of the model, when there is one; NULL: from its file */
    char *vocab;        /* NULL: see registry.h */
    char *listen;       /* "HOST:PORT" as given */
    char host[64];      /* out of listen */
    char *data;         /* directory of the store */
    char *weights_type; /* "f32", ...; NULL: as the file has it */
    char *log_level, *half_open;
    uint64_t port;    /* out of listen; 0: any free one */
    uint64_t threads; /* for the models' arithmetic; 0: one a processor */
    uint64_t http_threads, max_connections, idle_seconds;
    uint64_t max_sequences, max_queue, max_body, drain_seconds, park_seconds;
};

/* Fills c from argv[1..] and from the environment. 0; 1 when --help was asked for; ERR_INVALID
 * naming the option, ERR_NOMEM. env: looks a variable up (getenv). config_fini in every case. */
int config_parse(struct config *c, int argc, char **argv, char *(*env)(const char *name),
                 struct err *e);
void config_fini(struct config *c);
void config_help(FILE *to);

#endif
