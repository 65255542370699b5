/* What a sequence must know of the store before it may wait for its place, asked in this order; what
 * does not matter to it is left out:
 *
 *     key      an earlier request with its idempotency key has done this: that one's record is the
 *              answer, and nothing else is done
 *     claim    nobody else writes the name that it will save under (409)
 *     target   and that name is free, where it must be (409)
 *     context  no other context has the name under which it is to keep one (409)
 *     source   the state that it starts from is there (404), of its model (409), of the revision that
 *              the request names (412); its version is fixed from here on
 *
 *
 * then it goes to adjustment_post, where it has one, or into its worker's queue.
 *
 * Threads: posted from any; the answers come on the store's thread. */
#ifndef DAEMON_LOOKUP_H
#define DAEMON_LOOKUP_H

struct sequence;

/* Takes q (NEW): it goes on, or its call ends. */
void lookup_post(struct sequence *q);

#endif
