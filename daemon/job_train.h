/* What the jobs that train share. */
#ifndef DAEMON_JOB_TRAIN_H
#define DAEMON_JOB_TRAIN_H

#include "daemon/jobs_impl.h"
#include "engine/train/run.h"

/* A training's reports as a job's progress. */
struct job_training {
    struct job_run *run;
    struct train_step step;  /* the last */
    double first_loss, eval; /* NAN: none yet */
    const char *eval_name;   /* what eval is, a static string */
    struct err err;          /* why it was told to stop */
};
/* The control of a training that reports to t; stop is the run's. */
struct train_control job_training_control(struct job_training *t, struct job_run *r);
/* {"loss": ..., ...} of the last step into text [size]. */
void job_training_metrics(const struct job_training *t, char *text, size_t size);

#endif
