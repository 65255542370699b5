#include "daemon/log.h"

#include "daemon/base/buf.h"
#include "daemon/base/clock.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

static const char *const level_names[] = {"debug", "info", "warn", "error"};

bool log_level_parse(const char *s, enum log_level *out)
{
    for (int i = LOG_DEBUG; i <= LOG_ERROR; i++)
        if (!strcmp(s, level_names[i])) {
            *out = (enum log_level)i;
            return true;
        }
    return false;
}

/* A JSON string in ASCII: other bytes become '?', so that any value gives a valid line. */
static void put_string(struct buf *b, const char *s)
{
    buf_puts(b, "\"");
    for (; *s && !b->failed; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            buf_printf(b, "\\%c", c);
        else if (c < 0x20 || c == 0x7f)
            buf_printf(b, "\\u%04x", c);
        else
            buf_append(b, c < 0x80 ? s : "?", 1);
    }
    buf_puts(b, "\"");
}

static void put_field(struct buf *b, const struct log_field *f)
{
    buf_printf(b, ",\"%s\":", f->key);
    if (f->type == LOG_FIELD_STR && f->str)
        put_string(b, f->str);
    else if (f->type == LOG_FIELD_INT)
        buf_printf(b, "%lld", (long long)f->i);
    else if (f->type == LOG_FIELD_NUM && isfinite(f->num))
        buf_printf(b, "%.6g", f->num);
    else
        buf_puts(b, "null");
}

static void put_time(struct buf *b)
{
    struct tm tm;
    int64_t ms = clock_wall_ms();
    time_t seconds = (time_t)(ms / 1000);
    gmtime_r(&seconds, &tm);
    buf_printf(b, "{\"time\":\"%04d-%02d-%02dT%02d:%02d:%02d.%03dZ\"", tm.tm_year + 1900,
               tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (int)(ms % 1000));
}

void log_write(const struct log *l, enum log_level level, const char *event,
               const struct log_field *fields, size_t n)
{
    if (!l || level < l->level)
        return;
    struct buf b;
    buf_init(&b, 4000);
    put_time(&b);
    buf_printf(&b, ",\"level\":\"%s\",\"event\":\"%s\"", level_names[level], event);
    for (size_t i = 0; i < n; i++)
        put_field(&b, &fields[i]);
    buf_puts(&b, "}\n");
    if (b.failed) { /* too long, or no memory: the event alone */
        buf_reset(&b);
        buf_printf(&b, "{\"level\":\"%s\",\"event\":\"%s\",\"cut\":true}\n", level_names[level],
                   event);
    }
    if (!b.failed && write(l->fd, b.data, b.len) < 0) {
        /* Nobody listens: there is nowhere to tell it. */
    }
    buf_fini(&b);
}
