/* `backup DIR [OPTION ...]`: a copy of the store in DIR, which can then be served as --data.
 *
 * The options are those of `serve` (--data, --listen, --backup-dir, --config), the key is
 * DREAMSTATE_API_KEY. If no daemon uses the data, it is copied here. If one does, it is asked to
 * copy into its folder for backups, and the copy is then moved to DIR: so the daemon takes no path
 * from a client, and this command needs the right to both folders. */
#include "daemon/client.h"
#include "daemon/cmd.h"
#include "daemon/config.h"
#include "store/store.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ANSWER_SECONDS 600 /* for the daemon's copying */

struct waiting {
    pthread_mutex_t lock;
    pthread_cond_t done;
    bool over;
    struct err err;
};

static void on_backup(void *arg, const struct err *e, uint64_t bytes)
{
    struct waiting *w = arg;
    (void)bytes;
    pthread_mutex_lock(&w->lock);
    w->err = *e;
    w->over = true;
    pthread_cond_signal(&w->done);
    pthread_mutex_unlock(&w->lock);
}

static int copy_offline(struct store *s, const char *dir, struct err *e)
{
    struct waiting w = {.lock = PTHREAD_MUTEX_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};
    int rc = store_backup(s, dir, on_backup, &w, e);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&w.lock);
    while (!w.over)
        pthread_cond_wait(&w.done, &w.lock);
    pthread_mutex_unlock(&w.lock);
    *e = w.err;
    return e->code;
}

/* Asks the daemon for a backup under this name. */
static int ask_daemon(const struct config *c, const char *name, struct err *e)
{
    char url[256], body[128];
    struct target t;
    struct buf answer;
    snprintf(url, sizeof url, "%s/admin/backup", c->listen);
    snprintf(body, sizeof body, "{\"name\": \"%s\"}", name);
    if (target_parse(url, c->tls_cert != NULL, &t, e) < 0)
        return e->code;
    struct client_request q = {.method = "POST",
                               .body = body,
                               .key = c->api_key,
                               .pin = c->tls_cert,
                               .seconds = ANSWER_SECONDS};
    int status = client_ask(&t, &q, &answer, e);
    if (status > 0 && status != 201)
        err_set(e, status == 401 || status == 403 ? ERR_PERMISSION : ERR_IO,
                "the daemon at %s answered %d%s: %.160s", c->listen, status,
                status == 401 ? " (set DREAMSTATE_API_KEY)" : "", answer.data ? answer.data : "");
    buf_fini(&answer);
    return status == 201 ? 0 : e->code;
}

static int copy_online(const struct config *c, const char *dir, struct err *e)
{
    char name[64], made[4200];
    snprintf(name, sizeof name, "command-%ld", (long)getpid());
    snprintf(made, sizeof made, "%s/%s", c->backup_dir, name);
    if (ask_daemon(c, name, e) < 0)
        return e->code;
    if (!store_exists(made))
        return err_set(e, ERR_IO,
                       "the daemon at %s has copied to %s under a --backup-dir that is not %s",
                       c->listen, name, c->backup_dir);
    if (rename(made, dir) < 0)
        return err_set(e, ERR_IO, "the copy stays in %s, it could not be moved to %s: %s", made,
                       dir, strerror(errno));
    return 0;
}

static int backup(const struct config *c, const char *dir, struct err *e)
{
    struct store *s = NULL;
    struct store_options o = {.dir = c->data};
    if (!store_exists(c->data))
        return err_set(e, ERR_IO, "--data %s: no states there", c->data);
    if (store_exists(dir))
        return err_set(e, ERR_INVALID, "%s: there is a copy already", dir);
    if (store_open(&o, &s, e) < 0) {
        struct err why = *e;
        int rc = copy_online(c, dir, e);
        if (rc == ERR_UNAVAILABLE) {
            *e = why;
            err_prefix(e, "nobody answers at %s, and", c->listen);
        }
        return rc;
    }
    int rc = copy_offline(s, dir, e);
    store_close(s);
    return rc;
}

int cmd_backup(int argc, char **argv)
{
    struct config c;
    struct err e = {0};
    if (argc < 2 || argv[1][0] == '-') {
        fputs("usage: dreamstated backup DIR [--data DIR] [--listen HOST:PORT] [--backup-dir DIR] "
              "[--config FILE]\n",
              stderr);
        return 2;
    }
    const char *dir = argv[1];
    int rc = config_parse(&c, argc - 1, argv + 1, getenv, &e), code = 0;
    if (rc > 0)
        config_print(stdout, c.help);
    else if (rc < 0 || config_places(&c, getenv, &e) < 0)
        code = 2;
    else if (backup(&c, dir, &e) < 0)
        code = 1;
    else
        printf("%s\n", dir);
    if (code)
        fprintf(stderr, "dreamstated backup: %s\n", e.msg);
    config_fini(&c);
    return code;
}
