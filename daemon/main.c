/* dreamstated: finds the subcommand and runs it. No subcommand, or an option first, means `serve`. */
#include "daemon/cmd.h"

#include <stdio.h>
#include <string.h>

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *usage, *help;
} commands[] = {
    {"serve", cmd_serve, "[--model FILE] [OPTION ...]", "the daemon (the default; serve --help)"},
    {"bench", cmd_bench, "quality [OPTION ...]", "measure the program and its models"},
    {"train", cmd_train, "base|state RECIPE [OPTION ...]", "train a model or a state, resumable"},
    {"tokenize", cmd_tokenize, "--vocab FILE | --bytes", "bytes on stdin to ids on stdout"},
    {"detokenize", cmd_detokenize, "--vocab FILE | --bytes", "and back"},
    {"inspect", cmd_inspect, "FILE [--json]", "what a model, state or tensor file holds"},
    {"quantize", cmd_quantize, "IN OUT --type q8_0|q4_0", "a model as a smaller GGUF"},
    {"backup", cmd_backup, "DIR [OPTION ...]", "copy the states, of a running daemon too"},
    {"healthcheck", cmd_healthcheck, "[URL]", "does a running daemon take requests?"},
    {"version", cmd_version, "", "the version of this program"},
};
#define N_COMMANDS (sizeof commands / sizeof commands[0])

static int usage(FILE *to)
{
    fputs("usage: dreamstated COMMAND [OPTION ...]\n\n", to);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(to, "  %-11s %-44s %s\n", commands[i].name, commands[i].usage, commands[i].help);
    return to == stdout ? 0 : 2;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 && argv[1][0] != '-' ? argv[1] : "serve";
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "help")))
        return usage(stdout);
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (!strcmp(name, commands[i].name)) {
            int skip = argc > 1 && argv[1][0] != '-';
            return commands[i].run(argc - skip, argv + skip);
        }
    fprintf(stderr, "dreamstated: no command '%s'\n", name);
    return usage(stderr);
}
