/* Where the bundled model and what belongs to it lie: deploy/models/tiny in the source tree,
 * ../share/dreamstate/models/tiny from the installed program. Any thread. */
#ifndef DAEMON_BUNDLED_H
#define DAEMON_BUNDLED_H

#include "daemon/base/buf.h"
#include "daemon/base/err.h"

/* Appends the path of `name` ("model.safetensors", "heldout") there, the first that exists of
 *     $DREAMSTATE_MODELS/tiny   <folder of the program>/../share/dreamstate/models/tiny
 *     <folder of the program>/../../deploy/models/tiny   deploy/models/tiny
 * ERR_MODEL_NOT_FOUND, ERR_NOMEM. */
int bundled_path(const char *name, struct buf *out, struct err *e)
    __attribute__((warn_unused_result));

#endif
