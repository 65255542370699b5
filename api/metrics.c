/* GET /metrics: Prometheus text. */
#include "api/route.h"

int handle_metrics(struct req *r, struct err *e)
{
    r->reply.status = 200;
    r->reply.type = "text/plain; version=0.0.4; charset=utf-8";
    if (service_metrics(r->svc, &r->reply.body) < 0)
        return err_set(e, ERR_NOMEM, "no memory for the metrics");
    return 0;
}
