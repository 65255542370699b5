#include "api/sse.h"

#include "api/json.h"

void sse_begin(struct buf *out)
{
    buf_puts(out, "data: ");
}

void sse_end(struct buf *out)
{
    buf_puts(out, "\n\n");
}

void sse_done(struct buf *out)
{
    buf_puts(out, "data: [DONE]\n\n");
}

void sse_error(struct buf *out, const struct err *e, const char *request_id)
{
    sse_begin(out);
    json_error_body(out, e, request_id);
    sse_end(out);
}
