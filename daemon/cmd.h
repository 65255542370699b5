/* Subcommands of the binary: one cmd_<name>.c each, listed in main.c.
 *
 * Each gets its own arguments (argv[0] is its name) and returns the exit code: 0, 1 for a failure that
 * it told on stderr, 2 for wrong usage. */
#ifndef DAEMON_CMD_H
#define DAEMON_CMD_H

int cmd_backup(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_train(int argc, char **argv);
int cmd_detokenize(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_quantize(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_healthcheck(int argc, char **argv);
int cmd_version(int argc, char **argv);

#endif
