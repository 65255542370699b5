/* STATE_IMPORT: a file that somebody brings becomes a state. */
#include "daemon/base/mem.h"
#include "daemon/base/sha256.h"
#include "daemon/state_import.h"
#include "daemon/state_put.h"

#include <stdlib.h>

/* All words are ours: nothing of the file goes into the text. */
static int write_origin(const struct state_call *c, const struct state_import *i, struct buf *out,
                        struct err *e)
{
    uint8_t digest[32];
    char hex[65];
    buf_printf(out,
               "{\"kind\": \"import\", \"format\": \"%s\", \"container\": \"%s\", "
               "\"dtype\": \"%s\", \"orientation\": \"%s\"",
               i->format, i->container, i->dtype, state_orientation_word(i->orientation));
    if (c->from_model) {
        buf_puts(out, ", \"from\": \"model\"}");
    } else {
        sha256_of(c->data, c->data_bytes, digest);
        sha256_hex(digest, hex);
        buf_printf(out, ", \"bytes\": %zu, \"sha256\": \"%s\"}", c->data_bytes, hex);
    }
    return out->failed ? err_set(e, ERR_NOMEM, "no memory for a state's record") : 0;
}

static int put(struct service *s, const struct state_call *c, const struct state_import *i,
               struct record_to to, struct err *e)
{
    const struct model *m = registry_model(s->options.registry, c->model);
    const struct state_write *w = &c->write;
    const struct store_write how = {.if_exists = w->new_version ? STORE_EXISTS_NEW_VERSION
                                                                : STORE_EXISTS_ERROR,
                                    .key = w->key,
                                    .request_sha256 = w->request_sha256};
    struct buf origin;
    buf_init(&origin, 4096);
    int rc = write_origin(c, i, &origin, e);
    const struct state_put p = {.model = m,
                                .name = c->ref,
                                .weights_type =
                                    i->weights_type[0] ? i->weights_type : m->weights_type,
                                .parents = "[]",
                                .origin = origin.data,
                                .state = i->state,
                                .logits = i->has_logits ? i->logits : NULL,
                                .n_tokens = i->n_tokens,
                                .change = &c->change};
    if (rc == 0)
        rc = state_put(s, &p, &how, to.done, to.arg, e);
    buf_fini(&origin);
    return rc;
}

int service_check_orientation(const struct state_call *c, struct err *e)
{
    enum state_orientation o;
    if (!c->orientation || state_orientation_parse(c->orientation, &o))
        return 0;
    return err_set_param(e, ERR_INVALID, "orientation",
                         "orientation is neither \"value_key\" nor \"key_value\"");
}

int service_import(struct service *s, const struct state_call *c, struct claim *claim,
                   struct record_to to, struct err *e)
{
    const struct model *m = registry_model(s->options.registry, c->model);
    const struct rwkv_info *info = m->rwkv_info;
    struct state_import i = {.info = info, .state = rwkv_state_new(info)};
    i.logits = mem_calloc_aligned(info->n_vocab, sizeof *i.logits);
    if (c->orientation)
        state_orientation_parse(c->orientation, &i.declared);
    int rc;
    if (!i.state || !i.logits)
        rc = err_set(e, ERR_NOMEM, "no memory for a state");
    else if (c->from_model)
        rc = state_import_file(rwkv_get_file(m->rwkv), &i, e);
    else
        rc = state_import_bytes(c->data, c->data_bytes, &i, e);
    if (rc == 0) /* not before: a file that is refused stands in nobody's way */
        rc = service_claim(s, claim, c->ref, e);
    if (rc == 0)
        rc = put(s, c, &i, to, e);
    free(i.state);
    free(i.logits);
    return rc;
}
