/* The parts of `dreamstated bench`: each gets its own arguments (argv[0] is its name) and returns the
 * exit code, as a subcommand does (cmd.h). --json prints one object with a list `targets` of
 * {name, value, target, met} and a list `skipped` of what could not be measured here. */
#ifndef DAEMON_BENCH_H
#define DAEMON_BENCH_H

int bench_dreamstate(int argc, char **argv);
int bench_hybrid(int argc, char **argv);
int bench_quality(int argc, char **argv);
int bench_recall(int argc, char **argv);
int bench_service(int argc, char **argv);
int bench_speed(int argc, char **argv);
int bench_tracking(int argc, char **argv);

#endif
