/* The table of options and its parts: config.c (the table and its values), config_read.c (command
 * line, environment, file), config_print.c (help, example file, list). */
#ifndef DAEMON_CONFIG_IMPL_H
#define DAEMON_CONFIG_IMPL_H

#include "daemon/config.h"

enum option_kind {
    OPTION_GROUP, /* no option: a heading, its text in help */
    OPTION_TEXT,
    OPTION_SECRET, /* a text that may stand only in the environment */
    OPTION_LIST,   /* may repeat */
    OPTION_NUMBER,
    OPTION_BYTES,
    OPTION_CHOICE,
};

struct option {
    const char *flag, *arg; /* "max-queue", "N"; NULL for a heading */
    enum option_kind kind;
    size_t offset;      /* in struct config: char *, uint64_t or struct config_list */
    const char *preset; /* default, as one would type it; NULL: none */
    uint64_t min, max;
    const char *choices; /* separated by '|' */
    const char *help;
};

const struct option *config_options(size_t *n);
/* "DREAMSTATE_MAX_QUEUE"; returns name. */
const char *config_variable(const struct option *o, char name[64]);

/* Gives an option a value in c, in place of the one it had (a list: besides those there are). where:
 * how messages call the option ("--threads"). ERR_INVALID, ERR_NOMEM. */
int config_set(struct config *c, const struct option *o, const char *value, const char *where,
               struct err *e);
/* Drops the values of an OPTION_LIST. */
void config_forget(struct config *c, const struct option *o);
/* What can only be told when all options have their values. */
int config_check(struct config *c, struct err *e);

#endif
