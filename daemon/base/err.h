/* Errors: one caller-owned struct, filled by the first function that fails.
 *
 *     struct err e;
 *     if (tensor_file_open(path, &f, &e) < 0)
 *         log_error("%s", e.msg);
 *
 * A function that can fail returns 0, or the negative ERR_* that it left in e->code. Callers may
 * prefix a message (err_prefix), never replace it. Every code carries the HTTP status and the two
 * strings of the OpenAI error object; openapi.yaml lists the same strings (a test compares them).
 * The message may reach a client: it names no path of this machine and no SQL, unless it came from
 * a command line. Threads: a struct err belongs to one thread at a time. */
#ifndef BASE_ERR_H
#define BASE_ERR_H

/* name, HTTP status, error.code, error.type */
#define ERR_MAP(XX)                                                                                \
    XX(INVALID, 400, "invalid_request", "invalid_request_error")                                   \
    XX(UNAUTHENTICATED, 401, "invalid_api_key", "authentication_error")                            \
    XX(PERMISSION, 403, "permission_denied", "permission_error")                                   \
    XX(ROUTE_NOT_FOUND, 404, "not_found", "not_found_error")                                       \
    XX(MODEL_NOT_FOUND, 404, "model_not_found", "not_found_error")                                 \
    XX(STATE_NOT_FOUND, 404, "state_not_found", "not_found_error")                                 \
    XX(JOB_NOT_FOUND, 404, "job_not_found", "not_found_error")                                     \
    XX(DATASET_NOT_FOUND, 404, "dataset_not_found", "not_found_error")                             \
    XX(CONDITION_NOT_FOUND, 404, "condition_not_found", "not_found_error")                         \
    XX(DIFFUSER_NOT_FOUND, 404, "diffuser_not_found", "not_found_error")                           \
    XX(CONTEXT_NOT_FOUND, 404, "context_not_found", "not_found_error")                             \
    XX(HYBRID_NOT_FOUND, 404, "hybrid_not_found", "not_found_error")                               \
    XX(METHOD, 405, "method_not_allowed", "invalid_request_error")                                 \
    XX(TIMEOUT, 408, "request_timeout", "invalid_request_error")                                   \
    XX(STATE_EXISTS, 409, "state_exists", "conflict_error")                                        \
    XX(DATASET_EXISTS, 409, "dataset_exists", "conflict_error")                                    \
    XX(NAME_EXISTS, 409, "name_exists", "conflict_error")                                          \
    XX(MODEL_MISMATCH, 409, "model_mismatch", "conflict_error")                                    \
    XX(STATE_BUSY, 409, "state_busy", "conflict_error")                                            \
    XX(STATE_INCOMPATIBLE, 409, "state_incompatible", "conflict_error")                            \
    XX(QUANTIZED, 409, "weights_quantized", "conflict_error")                                      \
    XX(NO_DIFFUSER, 409, "no_diffuser", "conflict_error")                                          \
    XX(NOT_BAKED, 409, "not_baked", "conflict_error")                                              \
    XX(MEMORY_LIMIT, 409, "memory_limit", "conflict_error")                                        \
    XX(NO_HYBRID, 409, "no_hybrid", "conflict_error")                                              \
    XX(LENGTH_REQUIRED, 411, "length_required", "invalid_request_error")                           \
    XX(VERSION_CONFLICT, 412, "version_conflict", "conflict_error")                                \
    XX(TOO_LARGE, 413, "request_too_large", "invalid_request_error")                               \
    XX(MEDIA_TYPE, 415, "unsupported_media_type", "invalid_request_error")                         \
    XX(RANGE, 416, "range_not_satisfiable", "invalid_request_error")                               \
    XX(FORMAT, 422, "invalid_file", "invalid_request_error")                                       \
    XX(STATE_CORRUPT, 422, "state_corrupt", "invalid_request_error")                               \
    XX(NOT_FINITE, 422, "not_finite", "invalid_request_error")                                     \
    XX(KEY_REUSED, 422, "idempotency_key_reused", "invalid_request_error")                         \
    XX(BUSY, 429, "too_many_requests", "rate_limit_error")                                         \
    XX(RATE_LIMIT, 429, "rate_limit_exceeded", "rate_limit_error")                                 \
    XX(CANCELLED, 499, "cancelled", "cancelled_error")                                             \
    XX(INTERNAL, 500, "internal_error", "server_error")                                            \
    XX(IO, 500, "io_error", "server_error")                                                        \
    XX(NUMERIC, 500, "numeric_error", "server_error")                                              \
    XX(UNSUPPORTED, 501, "not_supported", "not_supported_error")                                   \
    XX(NOMEM, 503, "out_of_memory", "unavailable_error")                                           \
    XX(UNAVAILABLE, 503, "unavailable", "unavailable_error")                                       \
    XX(STORAGE_FULL, 507, "storage_full", "server_error")

enum err_index {
    ERR_INDEX_OK,
#define XX(name, http, code, type) ERR_INDEX_##name,
    ERR_MAP(XX)
#undef XX
        ERR_INDEX_END
};
enum err_code {
    ERR_OK = 0,
#define XX(name, http, code, type) ERR_##name = -ERR_INDEX_##name,
    ERR_MAP(XX)
#undef XX
};

struct err {
    int code;       /* ERR_*, 0 while nothing failed */
    char param[48]; /* the request field at fault, or "" */
    char msg
        [256]; /* one line for a person: what was being done, to what, what was found and wanted */
};

/* Fill e (NULL: nothing is kept) and return code. The message is cut to fit. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The same, for a request field: param becomes error.param. */
int err_set_param(struct err *e, int code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Put "<text>: " before the message; returns e->code. */
int err_prefix(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The table, by ERR_* code. An unknown code reads as INTERNAL. */
int err_http(int code);
const char *err_code_name(int code);
const char *err_type_name(int code);

#endif
