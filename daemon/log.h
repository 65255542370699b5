/* The log: one JSON object a line, to a file descriptor (standard error). What a client sent or was
 * sent (prompts, texts, states) is never logged; request ids, names and counts are.
 *
 *     LOG(log, LOG_INFO, "model_loaded", LOG_STR("model", name), LOG_INT("layers", n));
 *     {"time":"2026-11-23T10:00:00.123Z","level":"info","event":"model_loaded","model":"tiny","layers":4}
 *
 * Lines are at most 4 kB and written whole by one write(2). Threads: any. NULL for the log:
 * silence. */
#ifndef DAEMON_LOG_H
#define DAEMON_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

struct log {
    int fd;
    enum log_level level; /* lines below it are dropped */
};

struct log_field {
    const char *key;
    enum { LOG_FIELD_STR, LOG_FIELD_INT, LOG_FIELD_NUM } type;
    const char *str;
    int64_t i;
    double num;
};
#define LOG_STR(k, v) ((struct log_field){.key = (k), .type = LOG_FIELD_STR, .str = (v)})
#define LOG_INT(k, v) ((struct log_field){.key = (k), .type = LOG_FIELD_INT, .i = (int64_t)(v)})
#define LOG_NUM(k, v) ((struct log_field){.key = (k), .type = LOG_FIELD_NUM, .num = (v)})

void log_write(const struct log *l, enum log_level level, const char *event,
               const struct log_field *fields, size_t n);
#define LOG(l, level, event, ...)                                                                  \
    log_write(l, level, event, (struct log_field[]){__VA_ARGS__},                                  \
              sizeof((struct log_field[]){__VA_ARGS__}) / sizeof(struct log_field))

/* "debug", "info", "warn", "error". */
bool log_level_parse(const char *s, enum log_level *out);

#endif
