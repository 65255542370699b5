/* POST /v1/states/projections and GET /v1/states/{ref}/neighbors: where states lie among others. */
#include "api/errands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SEED (INT64_C(1) << 53)

/* ---- POST /v1/states/projections ---- */

static void write_metrics(struct jw *w, const struct state_projection *c)
{
    jw_object(w, "metrics");
    jw_array(w, "explained_variance");
    jw_number(w, NULL, c->explained[0]);
    jw_number(w, NULL, c->explained[1]);
    jw_end_array(w);
    jw_number(w, "kept_variance", c->kept);
    if (c->method == PROJECT_TSNE)
        jw_number(w, "kl_divergence", c->kl);
    if (c->measured) {
        jw_uint(w, "k", c->k);
        jw_number(w, "silhouette", c->silhouette);
        jw_number(w, "knn_accuracy", c->accuracy);
        jw_number(w, "map_silhouette", c->map_silhouette);
        jw_number(w, "map_knn_accuracy", c->map_accuracy);
    }
    jw_end_object(w);
}

static void write_projection(struct jw *w, const struct state_projection *c)
{
    jw_object(w, NULL);
    jw_string(w, "object", "state.projection");
    jw_string(w, "model", c->errand.model->name);
    jw_string(w, "method", c->method == PROJECT_PCA ? "pca" : "tsne");
    if (c->method == PROJECT_TSNE) {
        jw_number(w, "perplexity", c->tsne.perplexity);
        jw_uint(w, "seed", c->tsne.seed);
    }
    jw_uint(w, "n_features", c->n_features);
    jw_array(w, "points");
    for (size_t i = 0; i < c->n_points; i++) {
        jw_object(w, NULL);
        jw_string(w, "state", c->points[i].ref);
        jw_string(w, "label", c->points[i].label);
        jw_number(w, "x", (double)c->points[i].x);
        jw_number(w, "y", (double)c->points[i].y);
        jw_end_object(w);
    }
    jw_end_array(w);
    write_metrics(w, c);
    jw_end_object(w);
}

static int finish_projection(struct req *r, struct err *e)
{
    const struct state_projection *c = (const struct state_projection *)(void *)r->sources[0].call;
    struct jw w = {&r->reply.body, false};
    req_reply_json(r, 200);
    if (c->svg) {
        r->reply.type = "image/svg+xml";
        buf_append(&r->reply.body, c->data, c->data_bytes);
    } else {
        write_projection(&w, c);
    }
    return r->reply.body.failed ? err_set(e, ERR_NOMEM, "the answer is too large to be held") : 0;
}

/* An optional field as a string of the call's own, at most `most` bytes. */
static int decode_string(const json_t *o, const char *key, size_t most, char **out, struct err *e)
{
    const char *s = NULL;
    if (decode_word(o, key, &s, e) < 0)
        return e->code;
    if (s && strlen(s) > most)
        return err_set_param(e, ERR_INVALID, key, "%s is longer than %zu bytes", key, most);
    if (s && !(*out = strdup(s)))
        return err_set(e, ERR_NOMEM, "no memory for a request");
    return 0;
}

static int decode_format(struct req *r, const json_t *o, struct state_projection *c, struct err *e)
{
    const char *format = NULL, *method = NULL, *accept = req_header(r, "Accept");
    if (decode_word(o, "format", &format, e) < 0 || decode_word(o, "method", &method, e) < 0)
        return e->code;
    if (format && strcmp(format, "json") != 0 && strcmp(format, "svg") != 0)
        return err_set_param(e, ERR_INVALID, "format", "format is neither \"json\" nor \"svg\"");
    if (method && strcmp(method, "pca") != 0 && strcmp(method, "tsne") != 0)
        return err_set_param(e, ERR_INVALID, "method", "method is neither \"pca\" nor \"tsne\"");
    c->svg = format ? !strcmp(format, "svg") : accept && strstr(accept, "image/svg+xml");
    c->method = method && !strcmp(method, "pca") ? PROJECT_PCA : PROJECT_TSNE;
    return 0;
}

static int decode_numbers(const json_t *o, struct state_projection *c, struct err *e)
{
    int64_t components = 50, k = 5, iterations = 1000, seed = 0;
    float perplexity = 0;
    if (decode_int(o, "components", 2, 1000, &components, e) < 0 ||
        decode_int(o, "k", 1, 100, &k, e) < 0 ||
        decode_int(o, "iterations", 1, 10000, &iterations, e) < 0 ||
        decode_int(o, "seed", -1, MAX_SEED, &seed, e) < 0 ||
        decode_number(o, "perplexity", 1, PROJECT_MAX_STATES, &perplexity, e) < 0 ||
        decode_bool(o, "normalize", &c->normalize, e) < 0)
        return e->code;
    c->components = (size_t)components;
    c->k = (size_t)k;
    c->tsne = TSNE_DEFAULTS;
    c->tsne.iterations = (size_t)iterations;
    c->tsne.perplexity = (double)perplexity;
    c->tsne.random_start = decode_field(o, "seed") != NULL;
    c->tsne.seed = seed < 0 ? service_random_seed() : (uint64_t)seed;
    return 0;
}

static int decode_projection(struct req *r, const json_t *o, struct state_projection *c,
                             struct err *e)
{
    const json_t *states = decode_field(o, "states");
    if (!(c->errand.model = prompt_model(r, o, e)) || decode_format(r, o, c, e) < 0 ||
        decode_string(o, "tag", 128, &c->tag, e) < 0 ||
        decode_string(o, "prefix", 128, &c->prefix, e) < 0 ||
        decode_string(o, "label_prefix", 128, &c->label_prefix, e) < 0 ||
        decode_string(o, "title", 200, &c->title, e) < 0 || decode_numbers(o, c, e) < 0 ||
        errands_decode_select(o, "", &c->select, e) < 0)
        return e->code;
    if (!decode_field(o, "parts")) /* the shift vectors hold the last token: not what a map is of */
        c->select.parts[RWKV_ATT_SHIFT] = c->select.parts[RWKV_FFN_SHIFT] = false;
    if (states && (c->tag || c->prefix))
        return err_set_param(e, ERR_INVALID, "states",
                             "states are given by name, or by tag and prefix, not by both");
    return states
               ? errands_decode_refs(states, "states", PROJECT_MAX_STATES, &c->refs, &c->n_refs, e)
               : 0;
}

int handle_state_projections(struct req *r, struct err *e)
{
    static const struct task task = {states_no_record, states_no_end, finish_projection, NULL,
                                     false};
    struct state_projection *c = state_projection_new();
    if (!c)
        return err_set(e, ERR_NOMEM, "no memory for a request");
    c->normalize = true;
    json_t *o = decode_object(r->body.data, r->body.len, e);
    int rc = o ? decode_projection(r, o, c, e) : e->code;
    json_decref(o);
    return errands_submit(r, &c->errand, &task, rc, e);
}

/* ---- GET /v1/states/{ref}/neighbors ---- */

static int finish_neighbors(struct req *r, struct err *e)
{
    const struct state_neighbors *c = (const struct state_neighbors *)(void *)r->sources[0].call;
    struct jw w = {&r->reply.body, false};
    (void)e;
    req_reply_json(r, 200);
    jw_object(&w, NULL);
    jw_string(&w, "object", "list");
    jw_string(&w, "state", c->used);
    jw_string(&w, "metric", c->metric == METRIC_COSINE ? "cosine" : "euclidean");
    jw_uint(&w, "n_seen", c->n_seen);
    jw_array(&w, "data");
    for (size_t i = 0; i < c->n_found; i++) {
        jw_object(&w, NULL);
        jw_string(&w, "state", c->found[i].ref);
        jw_number(&w, "distance", c->found[i].distance);
        jw_end_object(&w);
    }
    jw_end_array(&w);
    jw_end_object(&w);
    return 0;
}

static int query_string(struct req *r, const char *name, char **out, struct err *e)
{
    char text[160];
    bool found;
    if (req_query(r, name, text, sizeof text, &found, e) < 0)
        return e->code;
    return !found || (*out = strdup(text)) ? 0 : err_set(e, ERR_NOMEM, "no memory for a request");
}

static int decode_query(struct req *r, struct state_neighbors *c, struct err *e)
{
    char text[160];
    bool found;
    if (req_query(r, "k", text, sizeof text, &found, e) < 0)
        return e->code;
    c->k = 5;
    if (found) {
        size_t n = strspn(text, "0123456789");
        c->k = n && n < 5 && !text[n] ? strtoul(text, NULL, 10) : 0;
    }
    if (req_query(r, "metric", text, sizeof text, &found, e) < 0)
        return e->code;
    c->metric = METRIC_COSINE;
    if (found && !strcmp(text, "euclidean"))
        c->metric = METRIC_EUCLIDEAN;
    else if (found && strcmp(text, "cosine") != 0)
        return err_set_param(e, ERR_INVALID, "metric", "metric is neither cosine nor euclidean");
    if (query_string(r, "tag", &c->tag, e) < 0 || query_string(r, "prefix", &c->prefix, e) < 0 ||
        req_query(r, "model", text, sizeof text, &found, e) < 0)
        return e->code;
    c->errand.model = service_find_model(r->svc, found ? text : NULL);
    if (!c->errand.model)
        return err_set_param(e, ERR_MODEL_NOT_FOUND, "model", "there is no model %s", text);
    return 0;
}

int handle_state_neighbors(struct req *r, struct err *e)
{
    static const struct task task = {states_no_record, states_no_end, finish_neighbors, NULL,
                                     false};
    char name[129];
    uint64_t version;
    if (state_ref_parse(r->params[0], name, &version, e) < 0) {
        snprintf(e->param, sizeof e->param, "ref");
        return e->code;
    }
    struct state_neighbors *c = state_neighbors_new();
    if (!c)
        return err_set(e, ERR_NOMEM, "no memory for a request");
    int rc = (c->ref = strdup(r->params[0])) ? 0 : err_set(e, ERR_NOMEM, "no memory for a request");
    if (rc == 0)
        rc = decode_query(r, c, e);
    return errands_submit(r, &c->errand, &task, rc, e);
}
