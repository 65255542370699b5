/* Checks that the tests of all tensor file formats share. */
#ifndef TESTS_HOSTILE_H
#define TESTS_HOSTILE_H

#include "engine/tensor/tensor.h"

/* Opens bytes that must be good; fails the test with the message otherwise. */
struct tensor_file *must_open(const void *bytes, size_t n);
/* Bytes that must be refused as ERR_FORMAT, with `part` in a message of one line. */
void must_refuse(const void *bytes, size_t n, const char *part);
/* Every prefix, each in a block of its exact size (so that ASan sees any read past it), must be
 * refused; from `enough` bytes on it may also open. */
void check_truncations(const void *bytes, size_t n, size_t enough);
/* f holds exactly these tensors in this order, with equal bytes. */
void check_same_tensors(const struct tensor_file *f, const struct tensor *want, size_t n);

#endif
