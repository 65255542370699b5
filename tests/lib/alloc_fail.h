/* Makes allocations fail on purpose: the linker sends every malloc, calloc, realloc, aligned_alloc,
 * strdup and strndup of our own objects (not those inside shared libraries) through alloc_fail.c,
 * which lets the nth of this thread fail. Other threads are not disturbed.
 *
 *     static int open_and_close(void *path) { ...; return rc; }
 *     alloc_sweep(open_and_close, path); */
#ifndef TESTS_ALLOC_FAIL_H
#define TESTS_ALLOC_FAIL_H

#include <stdbool.h>
#include <stddef.h>

/* The nth allocation of this thread from now on (n >= 1) fails; `onwards`: and all that follow. */
void alloc_fail_start(size_t n, bool onwards);
/* Back to normal; true if an allocation was refused. */
bool alloc_fail_stop(void);

/* Calls run(arg) with the first, the second, ... allocation failing, alone and with all that
 * follow, until a run meets no failure. A run cleans up after itself and returns 0 or a negative
 * ERR_*: fails the test unless it is ERR_NOMEM whenever an allocation was refused, and 0 otherwise
 * (a leak is for the sanitizer to see). Returns the number of allocations in an undisturbed run, at
 * least one. */
size_t alloc_sweep(int (*run)(void *arg), void *arg);
/* The same with jansson's allocations failing as well. jansson does not tell lack of memory from
 * other failures, so any error will do; success will not. */
size_t alloc_sweep_json(int (*run)(void *arg), void *arg);

#endif
