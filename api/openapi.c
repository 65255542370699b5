/* GET /openapi.yaml: the contract, as it stood when the daemon was built. */
#include "api/route.h"

__asm__(".section .rodata\n"
        ".global api_openapi_begin\n"
        ".global api_openapi_end\n"
        "api_openapi_begin:\n"
        ".incbin \"openapi.yaml\"\n"
        "api_openapi_end:\n"
        ".byte 0\n"
        ".previous\n");
extern const char api_openapi_begin[], api_openapi_end[];

int handle_openapi(struct req *r, struct err *e)
{
    (void)e;
    r->reply.status = 200;
    r->reply.type = "application/yaml";
    r->reply.still = api_openapi_begin;
    r->reply.still_bytes = (size_t)(api_openapi_end - api_openapi_begin);
    return 0;
}
