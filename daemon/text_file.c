#include "daemon/text_file.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

int text_file_read(const char *path, struct buf *out, struct err *e)
{
    char piece[4096];
    size_t n;
    buf_init(out, TEXT_FILE_MAX);
    FILE *f = fopen(path, "re");
    if (!f)
        return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    int rc = 0;
    while (rc == 0 && (n = fread(piece, 1, sizeof piece, f)) > 0)
        if (memchr(piece, 0, n))
            rc = err_set(e, ERR_INVALID, "%s: not a text: it has a NUL", path);
        else if (buf_append(out, piece, n) < 0)
            rc = err_set(e, ERR_INVALID, "%s: larger than %zu bytes, or no memory for it", path,
                         TEXT_FILE_MAX);
    if (rc == 0 && ferror(f))
        rc = err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    fclose(f);
    return rc;
}

char *text_trim(char *s)
{
    char *end = s + strlen(s);
    while (isspace((unsigned char)*s))
        s++;
    while (end > s && isspace((unsigned char)end[-1]))
        end--;
    *end = 0;
    return s;
}

char *text_file_line(char **at)
{
    char *line = *at;
    if (!line || !*line)
        return NULL;
    char *end = line + strcspn(line, "\n");
    *at = *end ? end + 1 : end;
    *end = 0;
    return text_trim(line);
}
