#include "daemon/datasets.h"

#include "daemon/base/mem.h"
#include "daemon/base/sha256.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 1000

/* ---- texts ---- */

bool dataset_text_next(const char *data, size_t bytes, size_t *at, struct dataset_text *out)
{
    const char *field[3];
    size_t i = *at;
    for (int k = 0; k < 3; k++) {
        const char *end = i < bytes ? memchr(data + i, 0, bytes - i) : NULL;
        if (!end)
            return false;
        field[k] = data + i;
        i = (size_t)(end - data) + 1;
    }
    *out = (struct dataset_text){field[0], field[1], field[2], (size_t)(data + i - 1 - field[2])};
    *at = i;
    return true;
}

static void part_name(char out[160], const char *name, size_t part)
{
    snprintf(out, 160, "%.*s-%08zu", DATASET_NAME, name, part);
}

static int read_part(struct service *s, const char *name, size_t part, struct dataset_texts *t,
                     struct err *e)
{
    char key[160];
    struct fetched_item f;
    struct dataset_text text;
    size_t n = 0, at = 0;
    part_name(key, name, part);
    int rc = fetch_item(s, STORE_DATASET_PART, key, true, &f, e);
    if (rc < 0)
        return rc == ERR_DATASET_NOT_FOUND
                   ? err_set(e, ERR_STATE_CORRUPT, "part %zu of the data set %s is gone", part,
                             name)
                   : rc;
    while (dataset_text_next(f.data, f.bytes, &at, &text))
        n++;
    struct dataset_text *more = realloc(t->texts, (t->n + n + 1) * sizeof *more);
    t->texts = more ? more : t->texts;
    if (!more) {
        fetched_item_fini(&f);
        return err_set(e, ERR_NOMEM, "no memory for the texts of a data set");
    }
    for (at = 0; dataset_text_next(f.data, f.bytes, &at, &text); t->bytes += text.n_text)
        t->texts[t->n++] = text;
    t->parts[t->n_parts++] = f.data;
    f.data = NULL;
    fetched_item_fini(&f);
    return 0;
}

int datasets_read(struct service *s, const char *name, size_t n_parts, struct dataset_texts *out,
                  struct err *e)
{
    *out = (struct dataset_texts){.parts = calloc(n_parts + 1, sizeof *out->parts)};
    int rc = out->parts ? 0 : err_set(e, ERR_NOMEM, "no memory for the texts of a data set");
    for (size_t i = 1; rc == 0 && i <= n_parts; i++) {
        lane_yield(&s->lane);
        rc = read_part(s, name, i, out, e);
    }
    return rc;
}

void dataset_texts_fini(struct dataset_texts *t)
{
    for (size_t i = 0; i < t->n_parts; i++)
        free(t->parts[i]);
    free(t->parts);
    free(t->texts);
    *t = (struct dataset_texts){0};
}

/* ---- records ---- */

int datasets_find(struct service *s, const char *name, struct dataset_record *out, struct err *e)
{
    struct fetched_item f;
    *out = (struct dataset_record){0};
    int rc = fetch_item(s, STORE_DATASET, name, false, &f, e);
    if (rc < 0)
        return rc;
    out->info = f.info;
    out->meta = json_loads(f.info.meta, 0, NULL);
    return json_is_object(out->meta)
               ? 0
               : err_set(e, ERR_STATE_CORRUPT, "the record of the data set %s is damaged", name);
}

void dataset_record_fini(struct dataset_record *r)
{
    json_decref(r->meta);
    free(r->info.meta);
    *r = (struct dataset_record){0};
}

uint64_t dataset_number(const json_t *o, const char *key)
{
    json_int_t v = json_integer_value(json_object_get(o, key));
    return v > 0 ? (uint64_t)v : 0;
}

size_t dataset_record_parts(const struct dataset_record *r)
{
    return (size_t)dataset_number(r->meta, "parts");
}

static int add(json_t *o, const char *key, uint64_t more)
{
    return json_object_set_new(o, key, json_integer((json_int_t)(dataset_number(o, key) + more)));
}

/* Counts the texts into a record's JSON. */
static int count(json_t *meta, const char *data, size_t bytes, struct err *e)
{
    json_t *labels = json_object_get(meta, "labels");
    struct dataset_text t;
    int bad = 0;
    for (size_t at = 0; !bad && dataset_text_next(data, bytes, &at, &t);) {
        json_t *of = json_object_get(labels, t.label);
        if (!of && json_object_size(labels) >= DATASET_LABELS)
            return err_set_param(e, ERR_INVALID, "label", "more than %d labels", DATASET_LABELS);
        if (!of)
            bad |= json_object_set_new(labels, t.label, of = json_object());
        bad |= add(of, "texts", 1) | add(of, "bytes", t.n_text);
        bad |= add(meta, "texts", 1) | add(meta, "bytes", t.n_text);
    }
    bad |= add(meta, "parts", 1) | add(meta, "stored_bytes", bytes);
    return bad ? err_set(e, ERR_NOMEM, "no memory for a data set's record") : 0;
}

/* seq 0: the record is new. */
static int put_record(struct service *s, const char *name, const struct dataset_record *r,
                      struct item_info *saved, struct err *e)
{
    struct store_item item = {.kind = STORE_DATASET};
    char *meta = json_dumps(r->meta, JSON_COMPACT);
    const struct store_item_write how = {.replace = r->info.seq != 0,
                                         .if_revision = r->info.revision};
    snprintf(item.name, sizeof item.name, "%s", name);
    item.meta = meta;
    int rc = meta ? fetch_item_put_take(s, &item, NULL, &how, saved, e)
                  : err_set(e, ERR_NOMEM, "no memory for a data set's record");
    free(meta);
    return rc;
}

static int put_part_take(struct service *s, const char *name, size_t part, void *data, size_t bytes,
                         struct err *e)
{
    struct store_item item = {.kind = STORE_DATASET_PART, .bytes = bytes, .meta = "{}"};
    struct fetched_item old = {0};
    struct err none;
    char key[160];
    uint8_t digest[32];
    part_name(key, name, part);
    snprintf(item.name, sizeof item.name, "%.128s", key);
    sha256_of(data, bytes, digest);
    sha256_hex(digest, item.sha256);
    /* One that is there was left behind by an append that did not end. */
    const struct store_item_write how = {
        .replace = fetch_item(s, STORE_DATASET_PART, item.name, false, &old, &none) == 0};
    fetched_item_fini(&old);
    return fetch_item_put_take(s, &item, data, &how, NULL, e);
}

int datasets_append_take(struct service *s, const char *name, void *data, size_t bytes,
                         struct item_info *saved, bool *made, struct err *e)
{
    struct dataset_record r;
    int rc = datasets_check_quota(s, bytes, e);
    *made = false;
    if (rc < 0) {
        free(data);
        return rc;
    }
    if ((rc = datasets_find(s, name, &r, e)) == ERR_DATASET_NOT_FOUND) {
        *e = (struct err){0};
        *made = true;
        r.meta = json_pack("{s:i, s:i, s:{}, s:i, s:i, s:[]}", "texts", 0, "bytes", 0, "labels",
                           "parts", 0, "stored_bytes", 0, "baked");
        rc = r.meta ? 0 : err_set(e, ERR_NOMEM, "no memory for a data set's record");
    }
    if (rc == 0)
        rc = count(r.meta, data, bytes, e);
    if (rc == 0)
        rc = put_part_take(s, name, dataset_record_parts(&r), data, bytes, e);
    else
        free(data);
    if (rc == 0)
        rc = put_record(s, name, &r, saved, e);
    dataset_record_fini(&r);
    return rc;
}

/* ---- all of them ---- */

static int for_each(struct service *s, enum store_kind kind,
                    int (*each)(void *arg, const struct item_info *i, struct err *e), void *arg,
                    struct err *e)
{
    char after[STORE_NAME_MAX + 1] = "";
    bool more = true;
    int rc = 0;
    while (rc == 0 && more) {
        const struct store_item_query q = {.kind = kind, .after = after, .limit = PAGE};
        struct item_info *page;
        size_t n;
        if ((rc = fetch_item_list(s, &q, &page, &n, &more, e)) < 0)
            return rc;
        for (size_t i = 0; i < n; i++) {
            snprintf(after, sizeof after, "%s", page[i].name);
            if (rc == 0)
                rc = each(arg, &page[i], e);
            free(page[i].meta);
        }
        free(page);
    }
    return rc;
}

static int add_bytes(void *arg, const struct item_info *i, struct err *e)
{
    uint64_t *sum = arg;
    size_t k;
    json_t *b, *meta = i->meta ? json_loads(i->meta, 0, NULL) : NULL;
    (void)e;
    *sum += dataset_number(meta, "stored_bytes");
    json_array_foreach(json_object_get(meta, "baked"), k, b) *sum += dataset_number(b, "bytes");
    json_decref(meta);
    return 0;
}

int datasets_check_quota(struct service *s, uint64_t more, struct err *e)
{
    uint64_t used = 0, most = s->options.dataset_bytes;
    int rc = most ? for_each(s, STORE_DATASET, add_bytes, &used, e) : 0;
    if (rc == 0 && most && (more > most || used > most - more))
        rc = err_set(e, ERR_STORAGE_FULL,
                     "data sets hold %llu bytes, %llu more would be beyond --dataset-bytes %llu",
                     (unsigned long long)used, (unsigned long long)more, (unsigned long long)most);
    return rc;
}

/* ---- baked states ---- */

static int states_dir(struct service *s, char *out, size_t size, struct err *e)
{
    const char *data = s->options.work_dir;
    if (!data)
        return err_set(e, ERR_UNSUPPORTED, "this server has no folder for baked states");
    int n = snprintf(out, size, "%s/datasets", data);
    return n > 0 && (size_t)n < size
               ? 0
               : err_set(e, ERR_UNSUPPORTED, "the name of the data folder is too long");
}

int datasets_states_path(struct service *s, const struct item_info *record, const char *fingerprint,
                         char *out, size_t size, struct err *e)
{
    int rc = states_dir(s, out, size, e);
    if (rc == 0 && mkdir(out, 0700) < 0 && errno != EEXIST)
        rc = err_set(e, errno == ENOSPC ? ERR_STORAGE_FULL : ERR_IO, "a folder for states: %s",
                     strerror(errno));
    if (rc < 0)
        return rc;
    size_t n = strlen(out);
    int m = snprintf(out + n, size - n, "/%llu-%.16s.safetensors", (unsigned long long)record->seq,
                     fingerprint);
    return m > 0 && n + (size_t)m < size
               ? 0
               : err_set(e, ERR_UNSUPPORTED, "the name of the data folder is too long");
}

const json_t *dataset_record_baked(const struct dataset_record *r, const char *fingerprint)
{
    size_t k;
    json_t *b;
    json_array_foreach(json_object_get(r->meta, "baked"), k, b)
    {
        const char *of = json_string_value(json_object_get(b, "fingerprint"));
        if (of && !strcmp(of, fingerprint))
            return b;
    }
    return NULL;
}

static int set_baked(struct dataset_record *r, const json_t *baked, struct err *e)
{
    const char *of = json_string_value(json_object_get(baked, "fingerprint"));
    json_t *list = json_array(), *b;
    size_t k;
    json_array_foreach(json_object_get(r->meta, "baked"), k, b)
    {
        const char *is = json_string_value(json_object_get(b, "fingerprint"));
        if (is && strcmp(is, of) != 0)
            json_array_append(list, b);
    }
    bool bad = json_array_append_new(list, json_deep_copy(baked)) < 0 ||
               json_object_set(r->meta, "baked", list) < 0;
    json_decref(list);
    return bad ? err_set(e, ERR_NOMEM, "no memory for a data set's record") : 0;
}

int datasets_set_baked(struct service *s, const char *name, uint64_t seq, const json_t *baked,
                       struct err *e)
{
    int rc;
    do { /* an append may come in between */
        struct dataset_record r;
        *e = (struct err){0};
        rc = datasets_find(s, name, &r, e);
        if (rc == 0 && r.info.seq != seq)
            rc = err_set(e, ERR_DATASET_NOT_FOUND, "the data set %s is another one by now", name);
        if (rc == 0)
            rc = set_baked(&r, baked, e);
        if (rc == 0)
            rc = put_record(s, name, &r, NULL, e);
        dataset_record_fini(&r);
    } while (rc == ERR_VERSION_CONFLICT);
    return rc;
}

/* ---- the end ---- */

/* Removes the files of states whose record's seq `keep` does not know. */
static void remove_files(struct service *s, bool (*keep)(const void *arg, uint64_t seq),
                         const void *arg)
{
    char path[768];
    struct err e;
    DIR *d = states_dir(s, path, sizeof path, &e) == 0 ? opendir(path) : NULL;
    if (!d)
        return;
    for (struct dirent *f; (f = readdir(d));)
        if (f->d_name[0] != '.' && !keep(arg, strtoull(f->d_name, NULL, 10)))
            unlinkat(dirfd(d), f->d_name, 0);
    closedir(d);
}

static bool is_other(const void *arg, uint64_t seq)
{
    return seq != *(const uint64_t *)arg;
}

int datasets_delete(struct service *s, const char *name, uint64_t if_revision, struct err *e)
{
    struct dataset_record r;
    char part[160];
    int rc = datasets_find(s, name, &r, e); /* damaged: the next start sweeps up behind it */
    if (rc == 0 || rc == ERR_STATE_CORRUPT) {
        *e = (struct err){0};
        rc = fetch_item_delete(s, STORE_DATASET, name, if_revision, e);
    }
    for (size_t i = 1; rc == 0 && i <= dataset_record_parts(&r); i++) {
        struct err none;
        part_name(part, name, i);
        fetch_item_delete(s, STORE_DATASET_PART, part, 0, &none);
    }
    if (rc == 0 && r.info.seq)
        remove_files(s, is_other, &r.info.seq);
    dataset_record_fini(&r);
    return rc;
}

/* What is known while sweeping. */
struct sweep {
    struct service *svc;
    uint64_t *seqs; /* [n] of all records */
    size_t n;
};

static int note(void *arg, const struct item_info *i, struct err *e)
{
    struct sweep *w = arg;
    uint64_t *more = realloc(w->seqs, (w->n + 1) * sizeof *more);
    if (!more)
        return err_set(e, ERR_NOMEM, "no memory for data sets");
    w->seqs = more;
    w->seqs[w->n++] = i->seq;
    return 0;
}

static bool is_known(const void *arg, uint64_t seq)
{
    const struct sweep *w = arg;
    for (size_t i = 0; i < w->n; i++)
        if (w->seqs[i] == seq)
            return true;
    return false;
}

static int sweep_part(void *arg, const struct item_info *i, struct err *e)
{
    struct sweep *w = arg;
    struct dataset_record r;
    char name[STORE_NAME_MAX + 1];
    struct err why;
    snprintf(name, sizeof name, "%s", i->name);
    char *dash = strrchr(name, '-');
    if (!dash)
        return 0;
    *dash = 0;
    int rc = datasets_find(w->svc, name, &r, &why);
    bool stray = rc == ERR_DATASET_NOT_FOUND ||
                 (rc == 0 && strtoull(dash + 1, NULL, 10) > dataset_record_parts(&r));
    dataset_record_fini(&r);
    return stray ? fetch_item_delete(w->svc, STORE_DATASET_PART, i->name, 0, e) : 0;
}

int datasets_sweep(struct service *s, struct err *e)
{
    struct sweep w = {.svc = s};
    int rc = for_each(s, STORE_DATASET, note, &w, e);
    if (rc == 0)
        remove_files(s, is_known, &w);
    if (rc == 0)
        rc = for_each(s, STORE_DATASET_PART, sweep_part, &w, e);
    free(w.seqs);
    return rc;
}
