#include "daemon/stream.h"

#include "daemon/base/err.h"

#include <stdint.h>
#include <string.h>

int stream_init(struct stream *s, size_t limit)
{
    *s = (struct stream){0};
    buf_init(&s->queued, limit);
    return pthread_mutex_init(&s->lock, NULL) == 0 ? 0 : ERR_NOMEM;
}

void stream_fini(struct stream *s)
{
    pthread_mutex_destroy(&s->lock);
    buf_fini(&s->queued);
}

void stream_set_wake(struct stream *s, const struct stream_wake *wake)
{
    pthread_mutex_lock(&s->lock);
    s->wake = *wake;
    pthread_mutex_unlock(&s->lock);
}

/* guard: lock */
static void wake_consumer(struct stream *s)
{
    if (!s->waiting)
        return;
    s->waiting = false;
    if (s->wake.resume)
        s->wake.resume(s->wake.arg);
}

/* guard: lock */
static bool has_room(const struct stream *s, size_t bytes)
{
    size_t free_bytes = s->queued.limit - s->queued.len;
    return free_bytes >= sizeof(uint32_t) && bytes <= free_bytes - sizeof(uint32_t);
}

/* guard: lock */
static int append(struct stream *s, const void *record, size_t bytes)
{
    uint32_t length = (uint32_t)bytes;
    if (bytes > UINT32_MAX || bytes + sizeof length > s->queued.limit)
        return ERR_TOO_LARGE;
    if (!has_room(s, bytes))
        return ERR_BUSY;
    if (buf_reserve(&s->queued, sizeof length + bytes) < 0) {
        s->queued.failed = false; /* what was queued is whole: a later push may succeed */
        return ERR_NOMEM;
    }
    buf_append(&s->queued, &length, sizeof length);
    buf_append(&s->queued, record, bytes);
    return 0;
}

int stream_push(struct stream *s, const void *record, size_t bytes)
{
    int rc = 0;
    pthread_mutex_lock(&s->lock);
    if (!s->ended) {
        rc = append(s, record, bytes);
        if (rc == 0)
            wake_consumer(s);
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

bool stream_room(struct stream *s, size_t bytes)
{
    pthread_mutex_lock(&s->lock);
    bool room = has_room(s, bytes);
    pthread_mutex_unlock(&s->lock);
    return room;
}

void stream_end(struct stream *s)
{
    pthread_mutex_lock(&s->lock);
    if (!s->ended) {
        s->ended = true;
        wake_consumer(s);
    }
    pthread_mutex_unlock(&s->lock);
}

/* guard: lock. An empty batch exchanges its memory with the queue: nothing is copied. */
static void move_queued(struct stream *s, struct buf *batch)
{
    if (batch->len == 0 && !batch->failed) {
        struct buf full = s->queued;
        s->queued = *batch;
        s->queued.limit = full.limit;
        full.limit = batch->limit;
        *batch = full;
    } else if (buf_append(batch, s->queued.data, s->queued.len) == 0) {
        buf_reset(&s->queued);
    }
}

enum stream_take stream_take(struct stream *s, struct buf *batch)
{
    enum stream_take what = STREAM_DATA;
    pthread_mutex_lock(&s->lock);
    if (s->queued.len) {
        move_queued(s, batch);
    } else if (s->ended) {
        what = STREAM_END;
    } else {
        what = STREAM_WAIT;
        s->waiting = true;
        if (s->wake.suspend)
            s->wake.suspend(s->wake.arg);
    }
    pthread_mutex_unlock(&s->lock);
    return what;
}

void stream_poke(struct stream *s)
{
    pthread_mutex_lock(&s->lock);
    wake_consumer(s);
    pthread_mutex_unlock(&s->lock);
}

const void *stream_next_record(const struct buf *batch, size_t *at, size_t *bytes)
{
    uint32_t length;
    if (batch->len - *at < sizeof length)
        return NULL;
    memcpy(&length, batch->data + *at, sizeof length);
    if (length > batch->len - *at - sizeof length)
        return NULL;
    const char *record = batch->data + *at + sizeof length;
    *at += sizeof length + length;
    *bytes = length;
    return record;
}
