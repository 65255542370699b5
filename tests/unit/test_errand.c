/* Errands without HTTP: through the service as a request goes, and their functions alone with every
 * allocation failing in turn: ERR_NOMEM, nothing lost, nothing kept. */
#include "daemon/errand_impl.h"
#include "daemon/items.h"
#include "engine/dit/diffuser.h"
#include "engine/kernels/gemm.h"
#include "engine/kernels/rng.h"
#include "tests/lib/alloc_fail.h"
#include "tests/lib/host.h"

#include <semaphore.h>
#include <stdlib.h>
#include <unistd.h>

static const char *const models[] = {"rand=" RAND_A};
static struct host *h;

static void fill(float *x, size_t n, double by, struct rng *rng)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(by * rng_normal(rng));
}

/* A diffuser with random weights for the model: its file, malloc'd. */
static void *diffuser_bytes(const struct rwkv_info *m, size_t *bytes)
{
    char path[] = "/tmp/dreamstate-test-XXXXXX";
    struct diffuser net = {0};
    struct dit_codec *c = &net.codec;
    struct err e = {0};
    struct rng rng;
    rng_init(&rng, 1, 0);
    net.info.shape = c->shape = (struct state_shape){m->n_layer, m->n_embd, m->head_size};
    c->K = 8;
    c->p = m->head_size;
    c->shifts = true;
    assert_int_equal(dit_codec__make(c, &e), 0);
    for (size_t i = 0; i < c->n_token; i++)
        c->scale[i] = 1;
    fill(c->basis, c->n_matrix * c->K * c->p * c->p, 0.1, &rng);
    fill(c->shift_basis, 2 * m->n_layer * c->K * m->n_embd, 0.1, &rng);
    const struct dit_shape shape = {.n_token = c->n_token,
                                    .token_dim = c->K,
                                    .n_embd = 16,
                                    .n_head = 2,
                                    .n_block = 1,
                                    .n_mlp = 32,
                                    .cond_dim = m->n_embd,
                                    .n_label = 1,
                                    .per_token = true};
    static const char *const labels[] = {"sea"};
    assert_int_equal(dit_layout_init(&net.layout, &shape, &e), 0);
    assert_int_equal(dit_schedule_init(&net.schedule, DIT_SCHEDULE_COSINE, DIT_TIMESTEPS, &e), 0);
    assert_int_equal(diffuser_set_labels(&net, labels, 1, &e), 0);
    net.info.schedule = DIT_SCHEDULE_COSINE;
    net.info.prediction = DIT_PREDICT_V;
    memcpy(net.info.fingerprint, m->fingerprint, 65);
    net.params = calloc(net.layout.count, sizeof(float));
    net.cond_mean = calloc(m->n_embd, sizeof(float));
    net.cond_scale = calloc(m->n_embd, sizeof(float));
    fill(net.params, net.layout.count, 0.1, &rng);
    for (size_t i = 0; i < m->n_embd; i++)
        net.cond_scale[i] = 1;
    close(mkstemp(path));
    if (diffuser_write(&net, path, &e) < 0)
        fail_msg("%s", e.msg);
    diffuser_fini(&net);
    FILE *f = fopen(path, "rb");
    char *data = malloc(1 << 22);
    *bytes = fread(data, 1, 1 << 22, f);
    fclose(f);
    unlink(path);
    return data;
}

/* A condition of a vector, under a name of its own. */
static struct item_call *condition(const char *name)
{
    struct item_call *c = item_call_new(ITEM_CONDITION, ITEM_PUT);
    c->errand.model = service_find_model(h->svc, "rand");
    c->name = strdup(name);
    c->meta = strdup("{\"texts\": []}");
    c->data_bytes = c->errand.model->n_embd * sizeof(float);
    c->data = calloc(1, c->data_bytes);
    return c;
}

static void run_item(struct item_call *c)
{
    struct err e = {0};
    assert_int_equal(service_errand(h->svc, &c->errand, &e), 0);
    answer_free(answer_read(&c->errand.call));
    if (c->errand.call.err.code)
        fail_msg("%s", c->errand.call.err.msg);
    call_unref(&c->errand.call);
}

static void put_items(void)
{
    struct item_call *c = item_call_new(ITEM_DIFFUSER, ITEM_PUT);
    c->errand.model = service_find_model(h->svc, "rand");
    c->name = strdup("d");
    c->data =
        diffuser_bytes(registry_model(h->registry, c->errand.model)->rwkv_info, &c->data_bytes);
    run_item(c);
    run_item(condition("sea"));
}

static int set_up(void **state)
{
    const struct service_options o = {.lane_threads = 2};
    uint32_t ids[40];
    char name[16];
    (void)state;
    gemm_setup();
    h = host_new(models, 1, &o);
    for (size_t i = 0; i < 12; i++) {
        some_ids(i + 1, ids, 40);
        snprintf(name, sizeof name, "s%zu", i);
        struct state_call *c = bake(h, "rand", name, NULL, ids, 40, 0);
        call_unref(&c->call);
        c = state_call_new(STATE_PATCH);
        c->ref = strdup(name);
        c->change.tags = strdup(i % 2 ? "[\"odd\"]" : "[\"even\"]");
        run_state_call(h, c, 0);
        call_unref(&c->call);
    }
    put_items();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    host_free(h);
    return 0;
}

/* ---- requests ---- */

static struct errand *with_model(struct errand *c)
{
    if (c)
        c->model = service_find_model(h->svc, "rand");
    return c;
}

static char **refs_of(const char *a, const char *b)
{
    char **refs = calloc(2, sizeof *refs);
    refs[0] = strdup(a);
    refs[1] = strdup(b);
    return refs;
}

static struct errand *make_edit(void)
{
    struct state_edit *c = state_edit_new();
    c->state = strdup("s0");
    c->name = strdup("edited");
    c->ops = calloc(2, sizeof *c->ops);
    c->n_ops = 2;
    c->ops[0] = (struct edit_op){.kind = RWKV_EDIT_ADD, .amount = .5, .parts = {true, true, true}};
    c->ops[0].with = refs_of("s1", "s2");
    c->ops[0].n_with = 2;
    c->ops[1] = (struct edit_op){
        .kind = RWKV_EDIT_NOISE, .amount = .1, .seed = 3, .parts = {[RWKV_WKV] = true}};
    c->ops_json = strdup("[]");
    c->write.new_version = true;
    return with_model(&c->errand);
}

static struct errand *make_comparison(void)
{
    struct state_comparison *c = state_comparison_new();
    c->a = strdup("s0");
    c->b = strdup("s1@1");
    return with_model(&c->errand);
}

static struct errand *make_projection(void)
{
    struct state_projection *c = state_projection_new();
    c->prefix = strdup("s");
    c->title = strdup("A map");
    c->method = PROJECT_TSNE;
    c->tsne = TSNE_DEFAULTS;
    c->tsne.perplexity = 0;
    c->tsne.iterations = 20;
    c->components = 5;
    c->k = 3;
    c->normalize = c->svg = true;
    c->select.parts[RWKV_WKV] = true;
    return with_model(&c->errand);
}

static struct errand *make_neighbors(void)
{
    struct state_neighbors *c = state_neighbors_new();
    c->ref = strdup("s3");
    c->k = 4;
    c->metric = METRIC_EUCLIDEAN;
    return with_model(&c->errand);
}

static struct errand *make_condition(void)
{
    static unsigned n;
    char name[32];
    snprintf(name, sizeof name, "c%u", n++);
    return &condition(name)->errand;
}

static struct errand *make_patch(void)
{
    struct item_call *c = item_call_new(ITEM_CONDITION, ITEM_PATCH);
    c->name = strdup("sea");
    c->meta = strdup("{\"tags\": [\"a\"], \"none\": null}");
    return with_model(&c->errand);
}

static struct errand *make_list(void)
{
    struct item_call *c = item_call_new(ITEM_DIFFUSER, ITEM_LIST);
    c->limit = 10;
    return with_model(&c->errand);
}

static struct mix mix_of(const char *name)
{
    struct mix m = {calloc(1, sizeof *m.parts), 1};
    m.parts[0] = (struct mix_part){.name = strdup(name), .weight = 1};
    return m;
}

static struct errand *make_generation(void)
{
    struct state_generation *c = state_generation_new();
    c->name = strdup("made");
    c->n_states = 2;
    c->params_json = strdup("{}");
    c->write.new_version = true;
    c->diffusion = (struct diffusion){
        .condition = mix_of("sea"), .steps = 2, .guidance = 2, .seed = 1, .strength = 1};
    return with_model(&c->errand);
}

static struct errand *make_diffusion(void)
{
    struct state_edit *c = state_edit_new();
    c->state = strdup("s0");
    c->name = strdup("diffused");
    c->ops = calloc(1, sizeof *c->ops);
    c->n_ops = 1;
    c->ops[0].parts[RWKV_WKV] = true;
    c->ops[0].diffusion = calloc(1, sizeof *c->ops[0].diffusion);
    *c->ops[0].diffusion = (struct diffusion){.condition = mix_of("sea"),
                                              .diffuser = strdup("d"),
                                              .masked = true,
                                              .steps = 4,
                                              .guidance = 1,
                                              .strength = 0.5};
    c->ops_json = strdup("[]");
    c->write.new_version = true;
    c->errand.samples = true;
    return with_model(&c->errand);
}

static struct errand *(*const makers[])(void) = {make_edit,      make_comparison, make_projection,
                                                 make_neighbors, make_condition,  make_patch,
                                                 make_list,      make_generation, make_diffusion};
static const struct errand_impl *const impls[] = {
    &errand_edit, &errand_compare, &errand_project,  &errand_neighbors, &errand_item,
    &errand_item, &errand_item,    &errand_generate, &errand_edit};
enum { KINDS = 9 };

/* ---- tests ---- */

static int submit(struct errand *c)
{
    struct err e = {0};
    assert_int_equal(service_errand(h->svc, c, &e), 0);
    answer_free(answer_read(&c->call));
    return c->call.err.code;
}

static void test_through_the_service(void **state)
{
    (void)state;
    struct errand *c[KINDS];
    for (size_t i = 0; i < KINDS; i++) {
        c[i] = makers[i]();
        assert_int_equal(submit(c[i]), 0);
    }
    const struct state_edit *edit = (const struct state_edit *)(const void *)c[0];
    assert_string_equal(edit->saved->parents, "[\"s0@1\", \"s1@1\", \"s2@1\"]");
    assert_false(edit->saved->has_logits);
    assert_int_equal(edit->saved->n_tokens, 40);
    const struct state_comparison *cmp = (const struct state_comparison *)(const void *)c[1];
    assert_int_equal(cmp->n_blocks, 3 * (2 + 2));
    assert_true(cmp->whole.relative_l2 > 0);
    const struct state_projection *map = (const struct state_projection *)(const void *)c[2];
    assert_int_equal(map->n_points, 12);
    assert_int_equal(map->n_labels, 2);
    assert_true(map->measured && map->data_bytes > 1000);
    const struct state_neighbors *near = (const struct state_neighbors *)(const void *)c[3];
    assert_int_equal(near->n_found, 4);
    for (size_t i = 1; i < 4; i++)
        assert_true(near->found[i].distance >= near->found[i - 1].distance);
    for (size_t i = 0; i < KINDS; i++)
        call_unref(&c[i]->call);
}

/* A client that has gone before it began; one that a deadline ends. */
static void test_ended(void **state)
{
    (void)state;
    for (size_t i = 0; i < KINDS; i++) {
        struct errand *c = makers[i]();
        call_cancel(&c->call);
        assert_int_equal(submit(c), ERR_CANCELLED);
        call_unref(&c->call);
        c = makers[i]();
        c->call.deadline_ns = 1;
        assert_int_equal(submit(c), ERR_TIMEOUT);
        call_unref(&c->call);
    }
}

/* Many together from several sides of the queue: all end, in whatever order. */
static void test_together(void **state)
{
    (void)state;
    struct errand *c[32];
    struct err e = {0};
    for (size_t i = 0; i < 32; i++) {
        c[i] = makers[i % KINDS]();
        if (i % 5 == 4)
            call_cancel(&c[i]->call);
        assert_int_equal(service_errand(h->svc, c[i], &e), 0);
    }
    for (size_t i = 0; i < 32; i++) {
        answer_free(answer_read(&c[i]->call));
        /* Two edits of one name at once is the lane's to prevent: it runs one after the other. */
        assert_int_equal(c[i]->call.err.code, i % 5 == 4 ? ERR_CANCELLED : 0);
        call_unref(&c[i]->call);
    }
}

/* One run of an errand's function, on the lane, with its nth allocation failing. */
struct trial {
    struct lane_task task;
    const struct errand_impl *impl;
    struct errand *c;
    size_t n;
    bool refused;
    int rc;
    struct err e;
    sem_t done;
};

static void try_run(struct lane *l, struct lane_task *task)
{
    struct trial *t = LIST_OWNER(task, struct trial, task);
    const struct errand_run r = {.svc = h->svc,
                                 .lane = l,
                                 .model = registry_model(h->registry, t->c->model),
                                 .call = &t->c->call};
    alloc_fail_start(t->n, false);
    t->rc = t->impl->run(&r, t->c, &t->e);
    t->refused = alloc_fail_stop();
    sem_post(&t->done);
}

/* Whether there was an nth allocation. */
static bool fails_cleanly(size_t kind, size_t n)
{
    struct trial t = {.task = {.run = try_run}, .impl = impls[kind], .c = makers[kind](), .n = n};
    struct err e = {0};
    assert_int_equal(sem_init(&t.done, 0, 0), 0);
    assert_int_equal(lane_post(&h->svc->lane, &t.task, &e), 0);
    while (sem_wait(&t.done) < 0)
        ;
    sem_destroy(&t.done);
    assert_int_equal(t.rc, t.e.code);
    if (t.rc != (t.refused ? ERR_NOMEM : 0))
        fail_msg("kind %zu, allocation %zu: %d", kind, n, t.rc);
    call_unref(&t.c->call);
    return t.refused;
}

static void test_no_memory(void **state)
{
    (void)state;
    for (size_t kind = 0; kind < KINDS; kind++) {
        size_t n = 1;
        while (fails_cleanly(kind, n))
            n++;
        printf("  kind %zu: %zu allocations\n", kind, n - 1);
        assert_true(n > 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_through_the_service),
        cmocka_unit_test(test_ended),
        cmocka_unit_test(test_together),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
