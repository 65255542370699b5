/* A backup on request: the store copies itself, between other requests, into a folder of its own
 * under the folder for backups. Clients name the folder, never a path. */
#include "daemon/service_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct job {
    struct service *svc;
    struct backup_call *call;
};

static void on_backup(void *arg, const struct err *e, uint64_t bytes)
{
    struct job *j = arg;
    struct service *s = j->svc;
    struct backup_call *c = j->call;
    free(j);
    struct err err = *e;
    c->bytes = bytes;
    if (err.code == ERR_INVALID)
        err_set_param(&err, ERR_INVALID, "name", "there is a backup '%s' already", c->name);
    if (e->code)
        LOG(s->options.log, LOG_ERROR, "backup_failed", LOG_STR("name", c->name),
            LOG_STR("why", e->msg));
    else
        LOG(s->options.log, LOG_INFO, "backup", LOG_STR("name", c->name), LOG_INT("bytes", bytes));
    service_end_call(s, NULL, &c->call, &err);
}

/* A name, "" for one made of the time; no path. */
static int choose_name(struct backup_call *c, struct err *e)
{
    static const char chars[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-";
    char made[32];
    time_t now = time(NULL);
    struct tm tm;
    if (!c->name) {
        gmtime_r(&now, &tm);
        strftime(made, sizeof made, "%Y%m%dT%H%M%SZ", &tm);
        if (!(c->name = strdup(made)))
            return err_set(e, ERR_NOMEM, "no memory for a name");
    }
    size_t n = strlen(c->name);
    if (n == 0 || n > 128 || c->name[0] == '.' || strspn(c->name, chars) != n)
        return err_set_param(
            e, ERR_INVALID, "name",
            "a backup's name has 1 to 128 of the characters A-Z a-z 0-9 . _ -, and "
            "begins with no dot");
    return 0;
}

int service_backup(struct service *s, struct backup_call *c, struct err *e)
{
    char dir[4096];
    if (!s->options.backup_dir)
        return err_set(e, ERR_UNSUPPORTED, "the daemon has no folder for backups (--backup-dir)");
    if (choose_name(c, e) < 0)
        return e->code;
    int n = snprintf(dir, sizeof dir, "%s/%s", s->options.backup_dir, c->name);
    struct job *j = malloc(sizeof *j);
    if (!j || n < 0 || (size_t)n >= sizeof dir) {
        free(j);
        return err_set(e, ERR_NOMEM, "no memory for a backup");
    }
    int rc = service_admit(s, NULL, e);
    if (rc < 0) {
        free(j);
        return rc;
    }
    *j = (struct job){s, c};
    call_ref(&c->call);
    rc = store_backup(s->options.store, dir, on_backup, j, e);
    if (rc < 0) {
        free(j);
        call_unref(&c->call);
        service_leave(s);
    }
    return rc;
}
