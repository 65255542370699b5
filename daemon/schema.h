/* The inside of a struct schema (service.h): a compiled JSON schema with a count of its users. */
#ifndef DAEMON_SCHEMA_H
#define DAEMON_SCHEMA_H

#include "daemon/service.h"
#include "engine/sampling/json_schema.h"

struct schema {
    atomic_int refs;
    struct json_schema *compiled;
};

#endif
