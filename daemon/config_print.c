/* The table of options as text: --help, an example file, a list for the documentation. */
#include "daemon/config_impl.h"

#include <string.h>

static void print_help(FILE *to, const struct option *o)
{
    if (o->kind == OPTION_GROUP) {
        fprintf(to, "\n%s\n", o->help);
        return;
    }
    char name[64];
    if (o->kind == OPTION_SECRET)
        fprintf(to, "  %s=%s\n        %s", config_variable(o, name), o->arg, o->help);
    else
        fprintf(to, "  --%s %s\n        %s", o->flag, o->arg, o->help);
    if (o->choices)
        fprintf(to, "; one of %s", o->choices);
    if (o->preset)
        fprintf(to, " (default %s)", o->preset);
    fputc('\n', to);
}

/* A comment, wrapped at 100 columns. */
static void print_comment(FILE *to, const char *text)
{
    size_t column = 0;
    while (*text) {
        size_t n = strcspn(text, " ");
        if (column == 0 || column + 1 + n > 100)
            column =
                (size_t)fprintf(to, column ? "\n# %.*s" : "# %.*s", (int)n, text) - (column > 0);
        else
            column += (size_t)fprintf(to, " %.*s", (int)n, text);
        text += n + (text[n] == ' ');
    }
    fputc('\n', to);
}

static void print_conf(FILE *to, const struct option *o)
{
    if (o->kind == OPTION_GROUP) {
        fprintf(to, "\n# ---- %s ----\n", o->help);
        return;
    }
    if (!strcmp(o->flag, "config") || o->kind == OPTION_SECRET)
        return;
    fputc('\n', to);
    print_comment(to, o->help);
    if (o->choices)
        fprintf(to, "# one of %s\n", o->choices);
    fprintf(to, "#%s = %s\n", o->flag, o->preset ? o->preset : o->arg);
}

static void print_markdown(FILE *to, const struct option *o)
{
    if (o->kind == OPTION_GROUP) {
        fprintf(to, "\n## %s\n\n| option | default | what |\n|---|---|---|\n", o->help);
        return;
    }
    fprintf(to, "| `%s %s` | %s%s%s | %s", o->flag, o->arg, o->preset ? "`" : "",
            o->preset ? o->preset : "", o->preset ? "`" : "", o->help);
    for (const char *p = o->choices, * or = "; one of"; p && *p; or = ",") {
        size_t n = strcspn(p, "|");
        fprintf(to, "%s `%.*s`", or, (int)n, p);
        p += n + (p[n] == '|');
    }
    fputs(" |\n", to);
}

void config_print(FILE *to, enum config_help how)
{
    static const char *const heads[] = {
        "usage: dreamstated serve [OPTION ...]\n\n"
        "Serves RWKV-7 models over HTTP. Prints `listening on http://HOST:PORT` when it is ready;\n"
        "logs go to standard error. SIGTERM ends it when running requests have been answered.\n",
        "# The options of dreamstated with their defaults: `dreamstated serve --config FILE`.\n"
        "# One KEY = VALUE a line; a line that begins with # is a comment. `model` may stand in\n"
        "# several lines, everything else in one. The environment (DREAMSTATE_MAX_QUEUE for\n"
        "# max-queue) is stronger than this file, the command line (--max-queue N) than both.\n",
        "# Options\n\n"
        "Written by `dreamstated serve --help=markdown`. On the command line `--max-queue 64`, in "
        "the\n"
        "environment `DREAMSTATE_MAX_QUEUE=64`, in the file of `--config` `max-queue = 64`. The "
        "command\n"
        "line is stronger than the environment, the environment than the file.\n",
    };
    static void (*const print[])(FILE *, const struct option *) = {print_help, print_conf,
                                                                   print_markdown};
    size_t n;
    const struct option *all = config_options(&n);
    fputs(heads[how], to);
    for (size_t i = 0; i < n; i++)
        print[how](to, &all[i]);
    if (how == CONFIG_HELP)
        fputs("\nOptions may also stand in the environment, DREAMSTATE_MAX_QUEUE for --max-queue,\n"
              "and in a file (--help=conf prints one; --help=markdown prints a list).\n",
              to);
}
