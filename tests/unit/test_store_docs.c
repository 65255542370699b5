/* Documents in the store: put, get, list, delete, across a restart. */
#include "tests/lib/check.h"

#include "tests/lib/store_sync.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct asked {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool done, has_more;
    int code;
    char names[256]; /* each followed by a space */
    char body[64];   /* of the last */
    uint64_t seq;
};

static void on_docs(void *arg, const struct err *e, const struct store_doc *docs, size_t n,
                    bool has_more)
{
    struct asked *a = arg;
    pthread_mutex_lock(&a->lock);
    a->code = e->code;
    a->has_more = has_more;
    for (size_t i = 0; i < n; i++) {
        size_t used = strlen(a->names);
        snprintf(a->names + used, sizeof a->names - used, "%s ", docs[i].name);
        snprintf(a->body, sizeof a->body, "%s", docs[i].body);
        a->seq = docs[i].seq;
    }
    a->done = true;
    pthread_cond_signal(&a->wake);
    pthread_mutex_unlock(&a->lock);
}

static struct asked fresh(void)
{
    return (struct asked){.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};
}

static int answer(struct asked *a, int rc)
{
    pthread_mutex_lock(&a->lock);
    while (rc == 0 && !a->done)
        pthread_cond_wait(&a->wake, &a->lock);
    pthread_mutex_unlock(&a->lock);
    return rc ? rc : a->code;
}

static int put(struct store *s, enum store_area area, const char *name, const char *status,
               const char *body, enum store_doc_if how)
{
    struct err e;
    struct asked a = fresh();
    struct store_doc d = {.area = area, .kind = "k", .body = body};
    snprintf(d.name, sizeof d.name, "%s", name);
    snprintf(d.status, sizeof d.status, "%s", status);
    return answer(&a, store_put_doc(s, &d, how, on_docs, &a, &e));
}

static void check_list(struct store *s, struct store_doc_query q, const char *want, bool more)
{
    struct err e;
    struct asked a = fresh();
    q.limit = q.limit ? q.limit : 10;
    assert_int_equal(answer(&a, store_list_docs(s, &q, on_docs, &a, &e)), 0);
    assert_string_equal(a.names, want);
    assert_int_equal(a.has_more, more);
}

static void test_life(void **state)
{
    (void)state;
    struct err e;
    struct asked a = fresh();
    char *dir = made_dir();
    struct store *s = opened(dir, 0);
    assert_int_equal(put(s, STORE_JOBS, "a", "queued", "{\"n\": 1}", STORE_DOC_NEW), 0);
    assert_int_equal(put(s, STORE_JOBS, "b", "running", "{}", STORE_DOC_NEW), 0);
    assert_int_equal(put(s, STORE_DATASETS, "a", "", "{}", STORE_DOC_NEW), 0);
    assert_int_equal(put(s, STORE_DATASETS, "a", "", "{}", STORE_DOC_NEW), ERR_DATASET_EXISTS);
    assert_int_equal(put(s, STORE_JOBS, "c", "", "{}", STORE_DOC_CHANGE), ERR_JOB_NOT_FOUND);
    assert_int_equal(put(s, STORE_JOBS, "a b", "", "{}", STORE_DOC_ANY), ERR_INVALID);
    assert_int_equal(put(s, STORE_JOBS, "a", "running", "{\"n\": 2}", STORE_DOC_CHANGE), 0);
    store_close(s);
    s = opened(dir, 0);
    assert_int_equal(answer(&a, store_get_doc(s, STORE_JOBS, "a", on_docs, &a, &e)), 0);
    assert_string_equal(a.body, "{\"n\": 2}");
    assert_int_equal(a.seq, 1);
    check_list(s, (struct store_doc_query){.area = STORE_JOBS}, "b a ", false);
    check_list(s, (struct store_doc_query){.area = STORE_JOBS, .limit = 1}, "b ", true);
    check_list(s, (struct store_doc_query){.area = STORE_JOBS, .before = 2}, "a ", false);
    check_list(s, (struct store_doc_query){.area = STORE_JOBS, .status = "queued"}, "", false);
    check_list(s, (struct store_doc_query){.area = STORE_JOBS, .kind = "k", .status = "running"},
               "b a ", false);
    check_list(s, (struct store_doc_query){.area = STORE_DATASETS}, "a ", false);
    a = fresh();
    assert_int_equal(answer(&a, store_delete_doc(s, STORE_JOBS, "b", on_docs, &a, &e)), 0);
    a = fresh();
    assert_int_equal(answer(&a, store_delete_doc(s, STORE_JOBS, "b", on_docs, &a, &e)),
                     ERR_JOB_NOT_FOUND);
    assert_int_equal(put(s, STORE_JOBS, "d", "", "{}", STORE_DOC_ANY), 0);
    a = fresh();
    assert_int_equal(answer(&a, store_get_doc(s, STORE_JOBS, "d", on_docs, &a, &e)), 0);
    assert_true(a.seq > 3); /* a number is never used again */
    store_close(s);
    removed_dir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_life)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
