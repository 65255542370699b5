/* The life of a job on the lane, and after a restart. */
#include "daemon/base/clock.h"
#include "daemon/fetch.h"
#include "daemon/job_impl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define TELL_NS    250000000u /* between two words to who watches */
#define MAX_KILLED 3          /* attempts that the process did not survive */

static const struct job_kind *const kinds[] = {&job_train_state, &job_train_dit, &job_bake_dataset,
                                               &job_generate_states, &job_train_hybrid};

const struct job_kind *job_kind_find(const char *name)
{
    for (size_t i = 0; name && i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i]->name, name))
            return kinds[i];
    return NULL;
}

static void job_main(struct lane *l, struct lane_task *t);

struct job *job_new(struct service *s, const struct job_kind *k, const char *request)
{
    unsigned char rnd[10];
    struct job *j = calloc(1, sizeof *j);
    if (!j || !(j->request = strdup(request)) ||
        getrandom(rnd, sizeof rnd, 0) != (ssize_t)sizeof rnd) {
        job_free(j);
        return NULL;
    }
    int n = snprintf(j->id, sizeof j->id, "job-");
    for (size_t i = 0; i < sizeof rnd; i++)
        snprintf(j->id + n + 2 * i, 3, "%02x", rnd[i]);
    j->svc = s;
    j->kind = k;
    j->eta_s = NAN;
    j->lane = (struct lane_task){.urgency = k->urgency, .bounded = true, .run = job_main};
    list_init(&j->lane.link);
    list_init(&j->link);
    list_init(&j->watchers);
    atomic_init(&j->stop, false);
    return j;
}

void job_free(struct job *j)
{
    if (!j)
        return;
    free(j->request);
    free(j->plan);
    free(j->metrics);
    free(j->result);
    free(j);
}

void job_post(struct job *j)
{
    struct err e;
    if (lane_post(&j->svc->lane, &j->lane, &e) == 0)
        return;
    /* The lane is closed: the next process takes it up. */
    pthread_mutex_lock(&j->svc->jobs.lock);
    list_remove(&j->link);
    j->svc->jobs.n--;
    job_end_watchers(j, &e);
    pthread_mutex_unlock(&j->svc->jobs.lock);
    job_free(j);
}

/* ---- files ---- */

int job_dir(const struct service *s, const char *id, char *out, size_t size, struct err *e)
{
    const char *data = s->options.work_dir;
    if (!data)
        return err_set(e, ERR_UNSUPPORTED, "this server has no folder for the files of jobs");
    int n = snprintf(out, size, "%s/jobs/%s", data, id);
    return n > 0 && (size_t)n < size
               ? 0
               : err_set(e, ERR_UNSUPPORTED, "the name of the data folder is too long for jobs");
}

static int make_dir(const char *dir, struct err *e)
{
    char above[768];
    const char *slash = strrchr(dir, '/');
    snprintf(above, sizeof above, "%.*s", (int)(slash - dir), dir);
    if ((mkdir(above, 0700) < 0 && errno != EEXIST) || (mkdir(dir, 0700) < 0 && errno != EEXIST))
        return err_set(e, errno == ENOSPC ? ERR_STORAGE_FULL : ERR_IO,
                       "make a folder for a job: %s", strerror(errno));
    return 0;
}

void job_dir_remove(const struct service *s, const char *id)
{
    char path[768];
    struct err e;
    DIR *d = job_dir(s, id, path, sizeof path, &e) == 0 ? opendir(path) : NULL;
    if (!d)
        return;
    for (struct dirent *f; (f = readdir(d));)
        if (strcmp(f->d_name, ".") != 0 && strcmp(f->d_name, "..") != 0)
            unlinkat(dirfd(d), f->d_name, 0);
    closedir(d);
    rmdir(path);
}

/* ---- telling ---- */

void job_unwatch(struct job *j, struct job_call *c, const char *json, const struct err *e)
{
    struct err own = e ? *e : (struct err){0};
    list_remove(&c->watch);
    j->n_watchers--;
    if (!own.code && (!json || job_call_add(c, json, j->seq, &own) < 0))
        err_set(&own, ERR_NOMEM, "no memory for an answer");
    service_end_call(j->svc, NULL, &c->call, &own);
}

void job_end_watchers(struct job *j, const struct err *e)
{
    char *json = job_json(j);
    LIST_FOR_EACH(n, &j->watchers)
    job_unwatch(j, LIST_OWNER(n, struct job_call, watch), json, e);
    free(json);
}

void job_tell(struct job *j)
{
    j->told_ns = clock_ns();
    if (list_empty(&j->watchers))
        return;
    char *json = job_json(j);
    LIST_FOR_EACH(n, &j->watchers)
    {
        struct job_call *c = LIST_OWNER(n, struct job_call, watch);
        if (json) /* one that finds the stream full is left out */
            stream_push(&c->call.stream, json, strlen(json));
    }
    free(json);
}

/* ---- running ---- */

int job_proceed(struct job_run *r, const struct job_progress *p, struct err *e)
{
    struct job *j = r->job;
    char *metrics = p && p->metrics ? strdup(p->metrics) : NULL;
    pthread_mutex_lock(&r->svc->jobs.lock);
    if (p) {
        j->step = p->step;
        j->steps = p->steps;
        j->eta_s = p->eta_s;
    }
    if (metrics) {
        free(j->metrics);
        j->metrics = metrics;
    }
    if (clock_ns() - j->told_ns > TELL_NS)
        job_tell(j);
    bool cancel = j->cancel, draining = r->svc->jobs.draining;
    pthread_mutex_unlock(&r->svc->jobs.lock);
    if (!cancel && !draining) {
        lane_yield(r->lane);
        return 0;
    }
    atomic_store(&j->stop, true);
    return cancel ? err_set(e, ERR_CANCELLED, "the job was cancelled")
                  : err_set(e, ERR_UNAVAILABLE, "the server is shutting down");
}

/* Writes how the job stands. What the store refuses is logged: the record then says less. */
static void save(struct job *j)
{
    struct err e = {0};
    pthread_mutex_lock(&j->svc->jobs.lock);
    char *json = job_record(j);
    const struct store_item i = job_item(j, json);
    pthread_mutex_unlock(&j->svc->jobs.lock);
    if (!json)
        err_set(&e, ERR_NOMEM, "no memory for a job's record");
    else
        fetch_item_put_take(j->svc, &i, NULL, &(struct store_item_write){.replace = true}, NULL,
                            &e);
    if (e.code)
        LOG(j->svc->options.log, LOG_ERROR, "job_not_saved", LOG_STR("job", j->id),
            LOG_STR("message", e.msg));
    free(json);
}

/* How a run that returned e has ended. guard: lock */
static enum job_status outcome(const struct job *j, const struct err *e)
{
    if (!e->code)
        return JOB_SUCCEEDED;
    if (j->cancel)
        return JOB_CANCELLED;
    if (j->svc->jobs.draining && (e->code == ERR_UNAVAILABLE || e->code == ERR_CANCELLED))
        return j->kind->resumable ? JOB_QUEUED : JOB_INTERRUPTED;
    return JOB_FAILED;
}

/* The last word: to the store, then to who watches; the job leaves the table. */
static void end(struct job *j, enum job_status status, const struct err *e)
{
    struct service *s = j->svc;
    pthread_mutex_lock(&s->jobs.lock);
    j->status = status;
    if (status == JOB_FAILED || status == JOB_INTERRUPTED)
        j->err = *e;
    if (status != JOB_QUEUED)
        j->ended_ms = clock_wall_ms();
    pthread_mutex_unlock(&s->jobs.lock);
    save(j);
    if (status != JOB_QUEUED)
        job_dir_remove(s, j->id);
    LOG(s->options.log, status == JOB_FAILED ? LOG_WARN : LOG_INFO, "job_ended",
        LOG_STR("job", j->id), LOG_STR("kind", j->kind->name),
        LOG_STR("status", job_status_word(status)), LOG_STR("why", e->code ? e->msg : ""));
    pthread_mutex_lock(&s->jobs.lock);
    list_remove(&j->link);
    s->jobs.n--;
    job_end_watchers(j, status == JOB_QUEUED ? e : NULL);
    pthread_mutex_unlock(&s->jobs.lock);
    job_free(j);
}

static void work(struct lane *l, struct job *j)
{
    struct err e = {0};
    struct job_run r = {.svc = j->svc,
                        .lane = l,
                        .job = j,
                        .id = j->id,
                        .request = j->request,
                        .plan = j->plan,
                        .stop = &j->stop};
    if (job_dir(j->svc, j->id, r.dir, sizeof r.dir, &e) == 0 && make_dir(r.dir, &e) == 0)
        j->kind->run(&r, &e);
    pthread_mutex_lock(&j->svc->jobs.lock);
    j->result = r.result;
    enum job_status status = outcome(j, &e);
    pthread_mutex_unlock(&j->svc->jobs.lock);
    end(j, status, &e);
}

/* [thread: lane] */
static void job_main(struct lane *l, struct lane_task *t)
{
    struct job *j = (struct job *)(void *)t;
    struct service *s = j->svc;
    struct err e = {0};
    pthread_mutex_lock(&s->jobs.lock);
    bool gone = j->status != JOB_QUEUED, draining = s->jobs.draining, cancel = j->cancel;
    if (!gone && !draining && !cancel) {
        j->status = JOB_RUNNING;
        j->attempts++;
        j->started_ms = j->started_ms ? j->started_ms : clock_wall_ms();
        job_tell(j);
    }
    if (!gone && draining) { /* its record says queued: the next process takes it up */
        list_remove(&j->link);
        s->jobs.n--;
        gone = true;
    }
    pthread_mutex_unlock(&s->jobs.lock);
    if (gone) {
        if (j->status == JOB_CANCELLED)
            job_dir_remove(s, j->id);
        job_free(j);
    } else if (cancel) {
        end(j, JOB_CANCELLED, &e);
    } else {
        save(j);
        work(l, j);
    }
}

/* ---- the table ---- */

int jobs_init(struct jobs *j, struct err *e)
{
    *j = (struct jobs){0};
    list_init(&j->live);
    return pthread_mutex_init(&j->lock, NULL) == 0 ? 0
                                                   : err_set(e, ERR_NOMEM, "no memory for jobs");
}

void jobs_fini(struct jobs *j)
{
    pthread_mutex_destroy(&j->lock);
}

/* A record of a job that waited or ran when the last process ended. */
static void take_up(struct service *s, const struct item_info *i)
{
    struct err e = {0};
    struct job *j = NULL;
    if (job_read(s, i, &j, &e) < 0) {
        LOG(s->options.log, LOG_WARN, "job_not_taken_up", LOG_STR("job", i->name),
            LOG_STR("message", e.msg));
        return;
    }
    bool ran = !strcmp(i->status, job_status_word(JOB_RUNNING));
    pthread_mutex_lock(&s->jobs.lock);
    s->jobs.n++;
    list_push(&s->jobs.live, &j->link);
    j->resumed = j->attempts > 0;
    j->killed += ran;
    pthread_mutex_unlock(&s->jobs.lock);
    if (ran && !j->kind->resumable)
        err_set(&e, ERR_UNAVAILABLE, "the server ended while the job ran");
    else if (j->killed >= MAX_KILLED)
        err_set(&e, ERR_UNAVAILABLE, "the server ended %llu times while the job ran",
                (unsigned long long)j->killed);
    if (e.code)
        end(j, JOB_INTERRUPTED, &e);
    else
        job_post(j);
}

/* Is there a job of this name that has not ended? So also where it cannot be told. */
static bool is_unfinished(struct service *s, const char *id)
{
    struct fetched_item f;
    struct err e = {0};
    if (fetch_item(s, STORE_JOB, id, false, &f, &e) < 0)
        return e.code != ERR_JOB_NOT_FOUND && e.code != ERR_INVALID;
    bool yes = !strcmp(f.info.status, job_status_word(JOB_QUEUED)) ||
               !strcmp(f.info.status, job_status_word(JOB_RUNNING));
    fetched_item_fini(&f);
    return yes;
}

/* The folders of jobs that had ended when the process did, before their folders went. */
static void sweep_dirs(struct service *s)
{
    char path[768];
    int n = s->options.work_dir ? snprintf(path, sizeof path, "%s/jobs", s->options.work_dir) : -1;
    DIR *d = n > 0 && (size_t)n < sizeof path ? opendir(path) : NULL;
    if (!d)
        return;
    for (struct dirent *f; (f = readdir(d));)
        if (f->d_name[0] != '.' && !is_unfinished(s, f->d_name)) {
            LOG(s->options.log, LOG_INFO, "job_folder_removed", LOG_STR("job", f->d_name));
            job_dir_remove(s, f->d_name);
        }
    closedir(d);
}

int jobs_resume(struct service *s, struct err *e)
{
    sweep_dirs(s);
    for (int k = 0; k < 2; k++) {
        const struct store_item_query q = {.kind = STORE_JOB,
                                           .status = job_status_word(k ? JOB_QUEUED : JOB_RUNNING),
                                           .newest = true,
                                           .limit = 1000};
        struct item_info *items;
        size_t n;
        bool more;
        if (fetch_item_list(s, &q, &items, &n, &more, e) < 0)
            return e->code;
        for (size_t i = n; i-- > 0;) { /* the oldest first */
            take_up(s, &items[i]);
            free(items[i].meta);
        }
        free(items);
    }
    return 0;
}

void jobs_drain(struct service *s)
{
    struct err e;
    err_set(&e, ERR_UNAVAILABLE, "the server is shutting down");
    pthread_mutex_lock(&s->jobs.lock);
    s->jobs.draining = true;
    LIST_FOR_EACH(n, &s->jobs.live)
    {
        struct job *j = LIST_OWNER(n, struct job, link);
        atomic_store(&j->stop, true);
        job_end_watchers(j, &e);
    }
    pthread_mutex_unlock(&s->jobs.lock);
}

void jobs_sweep(struct service *s)
{
    struct err e;
    err_set(&e, ERR_CANCELLED, "the client has gone");
    pthread_mutex_lock(&s->jobs.lock);
    LIST_FOR_EACH(n, &s->jobs.live)
    {
        struct job *j = LIST_OWNER(n, struct job, link);
        LIST_FOR_EACH(w, &j->watchers)
        {
            struct job_call *c = LIST_OWNER(w, struct job_call, watch);
            if (atomic_load_explicit(&c->call.cancel, memory_order_acquire))
                job_unwatch(j, c, NULL, &e);
        }
    }
    pthread_mutex_unlock(&s->jobs.lock);
}
