#include "api/route.h"

#include <stdio.h>
#include <string.h>

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

static const struct route routes[] = {
    {"GET", "/health", handle_health, SCOPE_OPEN, 0},
    {"GET", "/health/live", handle_live, SCOPE_OPEN, 0},
    {"GET", "/health/ready", handle_health, SCOPE_OPEN, 0},
    {"GET", "/v1/health", handle_health, SCOPE_OPEN, 0},
    {"GET", "/props", handle_props, SCOPE_READ, 0},
    {"GET", "/slots", handle_slots, SCOPE_READ, 0},
    {"GET", "/metrics", handle_metrics, SCOPE_READ, 0},
    {"GET", "/openapi.yaml", handle_openapi, SCOPE_READ, 0},
    {"GET", "/v1/models", handle_models, SCOPE_READ, 0},
    {"GET", "/v1/models/{id}", handle_model, SCOPE_READ, 0},
    {"POST", "/v1/completions", handle_completions, SCOPE_GENERATE, 64 * MIB},
    {"POST", "/v1/chat/completions", handle_chat, SCOPE_GENERATE, 64 * MIB},
    {"POST", "/apply-template", handle_apply_template, SCOPE_READ, 8 * MIB},
    {"POST", "/v1/embeddings", handle_embeddings, SCOPE_GENERATE, 16 * MIB},
    {"POST", "/tokenize", handle_tokenize, SCOPE_READ, 8 * MIB},
    {"POST", "/detokenize", handle_detokenize, SCOPE_READ, 8 * MIB},
    {"POST", "/v1/states", handle_state_create, SCOPE_WRITE, 16 * MIB},
    {"GET", "/v1/states", handle_state_list, SCOPE_READ, 0},
    {"POST", "/v1/states/edits", handle_state_edits, SCOPE_WRITE, 1 * MIB},
    {"POST", "/v1/states/compare", handle_state_compare, SCOPE_READ, 256 * KIB},
    {"POST", "/v1/states/evaluate", handle_state_evaluate, SCOPE_GENERATE, 8 * MIB},
    {"POST", "/v1/states/projections", handle_state_projections, SCOPE_READ, 1 * MIB},
    {"GET", "/v1/states/{ref}/neighbors", handle_state_neighbors, SCOPE_READ, 0},
    {"GET", "/v1/states/{ref}", handle_state_get, SCOPE_READ, 0},
    {"PATCH", "/v1/states/{ref}", handle_state_patch, SCOPE_WRITE, 256 * KIB},
    {"DELETE", "/v1/states/{ref}", handle_state_delete, SCOPE_WRITE, 0},
    {"POST", "/v1/states/{ref}/fork", handle_state_fork, SCOPE_WRITE, 256 * KIB},
    {"GET", "/v1/states/{name}/versions", handle_state_versions, SCOPE_READ, 0},
    {"POST", "/v1/states/{name}/append", handle_state_append, SCOPE_WRITE, 16 * MIB},
    {"POST", "/v1/states/{name}/rollback", handle_state_rollback, SCOPE_WRITE, 256 * KIB},
    {"GET", "/v1/states/{ref}/data", handle_state_data, SCOPE_READ, 0},
    {"POST", "/v1/states/import", handle_state_import, SCOPE_WRITE, 128 * MIB | ROUTE_FILE},
    {"POST", "/v1/jobs", handle_job_create, SCOPE_WRITE, 1 * MIB},
    {"GET", "/v1/jobs", handle_job_list, SCOPE_READ, 0},
    {"GET", "/v1/jobs/{id}", handle_job_get, SCOPE_READ, 0},
    {"DELETE", "/v1/jobs/{id}", handle_job_delete, SCOPE_WRITE, 0},
    {"GET", "/v1/jobs/{id}/events", handle_job_events, SCOPE_READ, 0},
    {"POST", "/v1/datasets/{name}", handle_dataset_append, SCOPE_WRITE, 64 * MIB | ROUTE_FILE},
    {"GET", "/v1/datasets", handle_dataset_list, SCOPE_READ, 0},
    {"GET", "/v1/datasets/{name}", handle_dataset_get, SCOPE_READ, 0},
    {"DELETE", "/v1/datasets/{name}", handle_dataset_delete, SCOPE_WRITE, 0},
    {"POST", "/v1/states/generations", handle_state_generations, SCOPE_WRITE, 1 * MIB},
    {"POST", "/v1/conditions", handle_condition_create, SCOPE_WRITE, 512 * KIB},
    {"GET", "/v1/conditions", handle_condition_list, SCOPE_READ, 0},
    {"GET", "/v1/conditions/{name}", handle_condition_get, SCOPE_READ, 0},
    {"PATCH", "/v1/conditions/{name}", handle_condition_patch, SCOPE_WRITE, 256 * KIB},
    {"DELETE", "/v1/conditions/{name}", handle_condition_delete, SCOPE_WRITE, 0},
    {"POST", "/v1/contexts", handle_context_create, SCOPE_WRITE, 64 * MIB},
    {"GET", "/v1/contexts", handle_context_list, SCOPE_READ, 0},
    {"GET", "/v1/contexts/{name}", handle_context_get, SCOPE_READ, 0},
    {"DELETE", "/v1/contexts/{name}", handle_context_delete, SCOPE_WRITE, 0},
    {"POST", "/v1/diffusers", handle_diffuser_import, SCOPE_WRITE, 256 * MIB | ROUTE_FILE},
    {"GET", "/v1/diffusers", handle_diffuser_list, SCOPE_READ, 0},
    {"GET", "/v1/diffusers/{name}", handle_diffuser_get, SCOPE_READ, 0},
    {"GET", "/v1/diffusers/{name}/data", handle_diffuser_data, SCOPE_READ, 0},
    {"DELETE", "/v1/diffusers/{name}", handle_diffuser_delete, SCOPE_WRITE, 0},
    {"POST", "/v1/hybrids", handle_hybrid_import, SCOPE_WRITE, 256 * MIB | ROUTE_FILE},
    {"GET", "/v1/hybrids", handle_hybrid_list, SCOPE_READ, 0},
    {"GET", "/v1/hybrids/{name}", handle_hybrid_get, SCOPE_READ, 0},
    {"GET", "/v1/hybrids/{name}/data", handle_hybrid_data, SCOPE_READ, 0},
    {"DELETE", "/v1/hybrids/{name}", handle_hybrid_delete, SCOPE_WRITE, 0},
    {"POST", "/admin/backup", handle_backup, SCOPE_ADMIN, 1 * MIB},
};
#define N_ROUTES (sizeof routes / sizeof routes[0])

const struct route *route_table(size_t *n)
{
    *n = N_ROUTES;
    return routes;
}

static size_t segment(const char *p)
{
    return strcspn(p, "/");
}

/* Walks pattern and path segment by segment; both begin with '/'. Without r nothing is decoded. */
static bool matches(const char *pattern, const char *path, struct req *r, struct err *e)
{
    size_t n_params = 0;
    while (*pattern == '/' && *path == '/') {
        size_t want = segment(++pattern), have = segment(++path);
        bool param = *pattern == '{';
        if (param ? !have : want != have || memcmp(pattern, path, want) != 0)
            return false;
        if (param && r && n_params < REQ_PARAMS) {
            char *out = r->params[n_params++];
            if (!req_unescape(path, have, out, sizeof r->params[0]))
                err_set(e, ERR_INVALID, "the path is badly escaped or too long");
        }
        pattern += want;
        path += have;
    }
    return !*pattern && !*path;
}

static void allow(struct req *r, const char *method)
{
    char *a = r->reply.allow;
    size_t used = strlen(a);
    snprintf(a + used, sizeof r->reply.allow - used, "%s%s%s", used ? ", " : "", method,
             strcmp(method, "GET") == 0 ? ", HEAD" : "");
}

/* Is the path one that a pattern without parameters has? */
static bool is_literal(const char *path)
{
    for (size_t i = 0; i < N_ROUTES; i++)
        if (!strcmp(routes[i].pattern, path) && !strchr(path, '{'))
            return true;
    return false;
}

const struct route *route_find(struct req *r, const char *method, const char *path, struct err *e)
{
    const char *as = strcmp(method, "HEAD") == 0 ? "GET" : method;
    bool literal = is_literal(path);
    for (size_t i = 0; i < N_ROUTES; i++) {
        if (literal ? strcmp(routes[i].pattern, path) != 0
                    : !matches(routes[i].pattern, path, NULL, NULL))
            continue;
        if (strcmp(routes[i].method, as) == 0) {
            matches(routes[i].pattern, path, r, e);
            r->reply.allow[0] = 0;
            return &routes[i];
        }
        allow(r, routes[i].method);
    }
    if (r->reply.allow[0])
        err_set(e, ERR_METHOD, "this path takes %s", r->reply.allow);
    else
        err_set(e, ERR_ROUTE_NOT_FOUND, "there is nothing at this path");
    return NULL;
}
