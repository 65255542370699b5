/* Small text files that people write (options, keys), line by line.
 *
 *     struct buf text;
 *     if (text_file_read(path, &text, &e) < 0) ...
 *     for (char *at = text.data, *line; (line = text_file_line(&at));) ...
 *     buf_fini(&text);
 *
 * Limits: TEXT_FILE_MAX bytes; a NUL is an error. Threads: any; it blocks on the disk. */
#ifndef DAEMON_TEXT_FILE_H
#define DAEMON_TEXT_FILE_H

#include "daemon/base/buf.h"
#include "daemon/base/err.h"

#define TEXT_FILE_MAX ((size_t)1 << 20)

/* Initialises *out in every case. ERR_IO with path and reason, ERR_INVALID, ERR_NOMEM. */
int text_file_read(const char *path, struct buf *out, struct err *e);
/* Cuts the next line off *at, without blanks at its ends; NULL at the end of the text. */
char *text_file_line(char **at);
/* The text without blanks at its ends; writes a NUL behind it. */
char *text_trim(char *s);

#endif
