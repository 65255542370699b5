/* The thread that carries states between the store and the workers: checks their SHA-256, unpacks,
 * packs and hashes them, so that neither a batch nor the database waits for that.
 *
 *     load: worker -> porter (copies out of the cache) -> worker's batch; if it is not there:
 *           worker -> porter -> store (reads) -> porter (checks, unpacks) -> worker's batch
 *     save: worker -> porter (packs, hashes) -> store (commits) -> the call ends
 *     end: worker (ends the call) -> porter (clears the sequence's memory)
 *
 * A state that is damaged (422) ends its call; nothing else ever takes its place. */
#ifndef DAEMON_PORTER_H
#define DAEMON_PORTER_H

#include "daemon/mailbox.h"

#include <stdatomic.h>

struct sequence;
struct porter {
    struct mailbox box;
    pthread_t thread;
    atomic_int n_clear; /* letters of porter_clear_post in the box */
};

/* Calls that carry a state's file (service_records.c) at one time; more are refused with ERR_BUSY. */
#define PORTER_FILES 32
/* Sequences whose memory waits to be cleared; more clear it themselves. */
#define PORTER_CLEARS 8

struct err;
/* limit: sequences that may be on their way, beside PORTER_FILES calls and PORTER_CLEARS. */
int porter_start(struct porter *p, size_t limit, struct err *e);
/* Joins the thread; it must have nothing left to do. */
void porter_stop(struct porter *p);

/* Loads the state that was found (q QUEUED); q comes back to its worker by worker_loaded_post, with
 * q->load_error where it failed. [thread: worker] */
void porter_load_post(struct sequence *q);
/* Takes q (DECODE, over) and ends it after its state is saved. [thread: worker] */
void porter_save_post(struct porter *p, struct sequence *q);
/* Takes q, which has ended, and runs sequence_leave for it, so that its worker need not clear 2.7 MB before
 * the next request. False: there are PORTER_CLEARS already. [thread: worker] */
bool porter_clear_post(struct porter *p, struct sequence *q);
/* Runs the letter of one of the PORTER_FILES calls on the porter's thread. */
void porter_post(struct porter *p, struct mail *m);

#endif
