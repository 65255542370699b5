/* What the jobs that train share. */
#ifndef DAEMON_JOB_TRAIN_H
#define DAEMON_JOB_TRAIN_H

#include "daemon/datasets.h"
#include "engine/dit/dataset.h"
#include "engine/train/run.h"

/* A training's reports as a job's progress. */
struct job_training {
    struct job_run *run;
    bool samples;            /* it counts samples, not tokens */
    struct train_step step;  /* the last */
    double first_loss, eval; /* NAN: none yet */
    const char *eval_name;   /* what eval is, a static string */
    struct err err;          /* why it was told to stop */
};
/* The control of a training that reports to t, its ctx; stop is the run's. */
struct train_control job_training_control(struct job_training *t, struct job_run *r);
/* Its on_eval, for one that does more. */
void job_training_eval(void *ctx, const struct train_eval *v);
/* {"loss": ..., ...} of the last step into text [size]. */
void job_training_metrics(const struct job_training *t, char *text, size_t size);
/* How it ended: rc and done as the training has them. */
int job_training_end(const struct job_training *t, int rc, bool done, struct err *e);

/* The data set of a request's `dataset`. ERR_DATASET_NOT_FOUND. */
int job_find_dataset(struct service *s, const char *name, struct dataset_record *out,
                     struct err *e);
struct state_shape job_state_shape(const struct model *m);
/* ERR_MEMORY_LIMIT where `what` would take more than a job may. */
int job_check_memory(const struct service *s, double bytes, const char *what, struct err *e);

#endif
