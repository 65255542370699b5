/* What the tests of the benches share. cmocka's assertions are made inside; the folder is folder.h's. */
#ifndef TESTS_BENCH_H
#define TESTS_BENCH_H

/* Six documents to train on (NAME), and others held out (NAME.gz), of letters from `first` on. */
void bench_write_text(const char *name, char first);

/* Runs bench(argc, argv) with a NULL-ended list: its exit code; what it printed is in file OUT. */
int bench_command(int (*bench)(int argc, char **argv), const char *out, const char *const *list);

#endif
