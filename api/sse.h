/* Server-sent events as OpenAI clients read them: `data: {json}` and an empty line, LF only; the
 * end is `data: [DONE]`; a failure in mid-stream is an event that holds the error object, with no
 * [DONE].
 *
 *     sse_begin(out); ... one JSON text without line breaks ... sse_end(out);
 *
 * Appends to the caller's buffer; check buf.failed once at the end. */
#ifndef API_SSE_H
#define API_SSE_H

#include "daemon/base/buf.h"
#include "daemon/base/err.h"

void sse_begin(struct buf *out);
void sse_end(struct buf *out);
void sse_done(struct buf *out);
void sse_error(struct buf *out, const struct err *e, const char *request_id);

#endif
