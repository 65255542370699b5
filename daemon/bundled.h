/* Where the bundled models and what belongs to them lie: deploy/models in the source tree,
 * ../share/dreamstate/models from the installed program. Any thread. */
#ifndef DAEMON_BUNDLED_H
#define DAEMON_BUNDLED_H

#include "daemon/base/buf.h"
#include "daemon/base/err.h"

/* Appends the path of `name` ("tiny/model.safetensors", "tiny/heldout") there, the first that exists of
 * those in
 *     $DREAMSTATE_MODELS   <folder of the program>/../share/dreamstate/models
 *     <folder of the program>/../../deploy/models   deploy/models
 * ERR_MODEL_NOT_FOUND, ERR_NOMEM. */
int bundled_path(const char *name, struct buf *out, struct err *e)
    __attribute__((warn_unused_result));

#endif
