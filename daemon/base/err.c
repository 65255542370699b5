#include "daemon/base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    int http;
    const char *code, *type;
} err_table[] = {
    [ERR_INDEX_OK] = {200, "ok", "ok"},
#define XX(name, http, code, type) [ERR_INDEX_##name] = {http, code, type},
    ERR_MAP(XX)
#undef XX
};

static int err_row(int code)
{
    return code <= 0 && code > -ERR_INDEX_END ? -code : ERR_INDEX_INTERNAL;
}

int err_http(int code)
{
    return err_table[err_row(code)].http;
}

const char *err_code_name(int code)
{
    return err_table[err_row(code)].code;
}

const char *err_type_name(int code)
{
    return err_table[err_row(code)].type;
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
    if (e) {
        va_list ap;
        va_start(ap, fmt);
        e->code = code;
        e->param[0] = 0;
        vsnprintf(e->msg, sizeof e->msg, fmt, ap);
        va_end(ap);
    }
    return code;
}

int err_set_param(struct err *e, int code, const char *param, const char *fmt, ...)
{
    if (e) {
        va_list ap;
        va_start(ap, fmt);
        e->code = code;
        snprintf(e->param, sizeof e->param, "%s", param);
        vsnprintf(e->msg, sizeof e->msg, fmt, ap);
        va_end(ap);
    }
    return code;
}

int err_prefix(struct err *e, const char *fmt, ...)
{
    char old[sizeof e->msg];
    memcpy(old, e->msg, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof e->msg)
        snprintf(e->msg + n, sizeof e->msg - (size_t)n, ": %.*s", (int)sizeof e->msg - n, old);
    return e->code;
}
