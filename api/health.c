/* GET /health, /health/ready: is the service taking requests. GET /health/live: does the process
 * answer. */
#include "api/json.h"
#include "api/route.h"

static int reply_ok(struct req *r)
{
    req_reply_json(r, 200);
    struct jw w = {&r->reply.body, false};
    jw_object(&w, NULL);
    jw_string(&w, "status", "ok");
    jw_end_object(&w);
    return 0;
}

int handle_live(struct req *r, struct err *e)
{
    (void)e;
    return reply_ok(r);
}

int handle_health(struct req *r, struct err *e)
{
    if (!service_ready(r->svc))
        return err_set(e, ERR_UNAVAILABLE, "the daemon is shutting down");
    return reply_ok(r);
}
