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
    const char *parts;       /* what it makes before its steps, a static string; NULL: nothing */
    size_t part;             /* of these, made */
    const char *eval_name;   /* what eval is, a static string */
    struct err err;          /* why it was told to stop */
};
/* The control of a training that reports to t, its ctx, zeroed but for samples and parts; stop is the run's. */
struct train_control job_training_control(struct job_training *t, struct job_run *r);
/* {"loss": ..., ...} of the last step into text [size]. */
void job_training_metrics(const struct job_training *t, char *text, size_t size);
/* How it ended: rc and done as the training has them. */
int job_training_end(const struct job_training *t, int rc, bool done, struct err *e);

/* Its on_eval, which writes the evaluation into the job's folder too: an attempt that was killed behind its
 * last step has it. Names with a dot are left out. */
void job_training_keep_eval(void *ctx, const struct train_eval *v);
#define EVALUATION_MAX 4096 /* bytes of one as JSON */
/* {"step": ..., "mean": ..., "bits_per_byte" or "x0_error": {...}}, "null" where there is none. */
void job_training_read_eval(const struct job_run *r, char text[EVALUATION_MAX]);

/* The fields that the jobs share which read a data set. */
struct job_ask {
    json_t *json; /* owned, also on an error */
    struct model *model;
    const char *dataset, *name;
    bool replace;
};
/* json, model, dataset. ERR_INVALID, ERR_MODEL_NOT_FOUND. */
int job_ask_decode(struct job_ask *a, const struct service *s, const char *request, struct err *e);
/* name, if_exists: of what the job makes. ERR_INVALID. */
int job_ask_decode_result(struct job_ask *a, struct err *e);
void job_ask_fini(struct job_ask *a);
/* ERR_NAME_EXISTS where the name of the result is taken; unless by these very bytes, which are this job's own, of
 * an attempt that was killed behind its write (NULL: whatever there is). */
int job_ask_check_free(struct service *s, const struct job_ask *a, enum store_kind kind,
                       const char *sha256, struct err *e);

/* The data set of a request's `dataset`. ERR_DATASET_NOT_FOUND. */
int job_find_dataset(struct service *s, const char *name, struct dataset_record *out,
                     struct err *e);
/* The same once the job runs: it must be the one that the plan found. */
int job_find_planned(struct job_run *r, const char *name, struct dataset_record *out,
                     struct err *e);
/* A number of the plan; 0: it has none. */
uint64_t job_planned(const struct job_run *r, const char *key);
struct state_shape job_state_shape(const struct model *m);
/* Can gradients go through its weights, with texts as bytes? ERR_QUANTIZED, ERR_UNSUPPORTED. */
int job_check_gradients(const struct model *m, struct err *e);
/* ERR_MEMORY_LIMIT where `what` would take more than a job may. */
int job_check_memory(const struct service *s, double bytes, const char *what, struct err *e);

#endif
