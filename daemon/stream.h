/* The bounded pipe from whoever works on a request to the HTTP connection that waits for it.
 *
 * The producer (an engine worker, the loop, the store's callback) appends records; the consumer
 * (the connection's HTTP thread) takes everything that is there. When nothing is there, "is it
 * empty", "mark as waiting" and the consumer's suspend callback are one critical section, and so
 * are "append", "was it waiting" and the resume callback: no wake-up is lost and none is given
 * twice.
 *
 *     worker:  stream_push(&c->stream, &rec, sizeof rec);  ...  stream_end(&c->stream);
 *     http:    switch (stream_take(&c->stream, &batch)) {
 *              case STREAM_DATA: ...  case STREAM_WAIT: ...  case STREAM_END: ... }
 *
 * Threads: one producer at a time, one consumer, any threads; stream_push after stream_end is
 * dropped. The callbacks run under the stream's lock: they may suspend or resume a connection,
 * nothing more (lock order: stream lock, then MHD's own). Ownership: init/fini of the user's
 * storage. */
#ifndef DAEMON_STREAM_H
#define DAEMON_STREAM_H

#include "daemon/base/buf.h"

#include <pthread.h>
#include <stdbool.h>

struct stream_wake {
    void (*suspend)(void *arg); /* called by stream_take when it returns STREAM_WAIT */
    void (*resume)(void *arg);  /* called once after that, by the next push or end */
    void *arg;
};

struct stream {
    pthread_mutex_t lock;
    struct buf queued; /* guard: lock; whole records, each behind its uint32_t length in bytes */
    struct stream_wake wake; /* guard: lock */
    bool waiting, ended;     /* guard: lock */
};

enum stream_take { STREAM_DATA, STREAM_END, STREAM_WAIT };

/* limit: bytes that may be queued. wake may be set later, before the first stream_take. */
int stream_init(struct stream *s, size_t limit);
void stream_fini(struct stream *s);
void stream_set_wake(struct stream *s, const struct stream_wake *wake);

/* Appends one record whole. ERR_BUSY: it does not fit now (the producer keeps it and parks the
 * sequence; stream_room tells when to try again). ERR_TOO_LARGE: it would not fit an empty stream;
 * ERR_NOMEM. */
int stream_push(struct stream *s, const void *record, size_t bytes);
bool stream_room(struct stream *s, size_t bytes);
/* Nothing more will come. Everything the producer wrote before is visible to the consumer that sees
 * STREAM_END. */
void stream_end(struct stream *s);
/* Moves all queued records to the end of *batch (STREAM_DATA), or tells that the end was reached
 * and all was taken (STREAM_END), or suspends (STREAM_WAIT). An empty batch (buf_init, buf_reset)
 * exchanges memory with the queue and cannot fail; appending to one that is not may leave
 * batch->failed. */
enum stream_take stream_take(struct stream *s, struct buf *batch);
/* Wakes a waiting consumer with no data (shutdown, a client that has gone). */
void stream_poke(struct stream *s);
/* Walks the records of a batch: *at is the place, 0 at first. NULL at the end. A record starts at
 * any address: memcpy its struct out. */
const void *stream_next_record(const struct buf *batch, size_t *at, size_t *bytes);

#endif
