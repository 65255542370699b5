/* The thread that carries states between the store and the workers: checks their SHA-256, unpacks,
 * packs and hashes them, so that neither a batch nor the database waits for that.
 *
 *     load: worker -> porter (copies out of the cache) -> worker's batch; if it is not there:
 *           worker -> porter -> store (reads) -> porter (checks, unpacks) -> worker's batch
 *     save: worker -> porter (packs, hashes) -> store (commits) -> the call ends
 *
 * A state that is damaged (422) ends its call; nothing else ever takes its place. */
#ifndef DAEMON_PORTER_H
#define DAEMON_PORTER_H

#include "daemon/mailbox.h"

struct sequence;
struct porter {
    struct mailbox box;
    pthread_t thread;
};

/* Calls that carry a state's file (service_records.c) at one time; more are refused with ERR_BUSY. */
#define PORTER_FILES 32

struct err;
/* limit: sequences that may be on their way, beside PORTER_FILES calls. */
int porter_start(struct porter *p, size_t limit, struct err *e);
/* Joins the thread; it must have nothing left to do. */
void porter_stop(struct porter *p);

/* Loads the state that was found (q QUEUED); q comes back to its worker by worker_loaded_post, with
 * q->load_error where it failed. [thread: worker] */
void porter_load_post(struct sequence *q);
/* Takes q (DECODE, over) and ends it after its state is saved. [thread: worker] */
void porter_save_post(struct porter *p, struct sequence *q);
/* Runs the letter of one of the PORTER_FILES calls on the porter's thread. */
void porter_post(struct porter *p, struct mail *m);

#endif
