#include "daemon/bundled.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The folder this program was started from, or "." where /proc is not mounted. */
static void program_dir(char dir[PATH_MAX])
{
    ssize_t n = readlink("/proc/self/exe", dir, PATH_MAX - 1);
    dir[n > 0 ? n : 0] = 0;
    char *slash = strrchr(dir, '/');
    if (slash)
        *slash = 0;
    else
        memcpy(dir, ".", 2);
}

int bundled_path(const char *name, struct buf *out, struct err *e)
{
    char dir[PATH_MAX];
    program_dir(dir);
    const char *models = getenv("DREAMSTATE_MODELS");
    const struct {
        const char *root, *below;
    } places[] = {
        {models, ""},
        {dir, "/../share/dreamstate/models"},
        {dir, "/../../deploy/models"},
        {".", "/deploy/models"},
    };
    size_t start = out->len;
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        if (!places[i].root)
            continue;
        int rc = buf_printf(out, "%s%s/%s", places[i].root, places[i].below, name);
        if (rc < 0)
            return err_set(e, rc, "no memory for a path");
        if (access(out->data + start, R_OK) == 0)
            return 0;
        out->len = start;
        out->data[start] = 0;
    }
    return err_set(e, ERR_MODEL_NOT_FOUND,
                   "the bundled %s is not there: name one, or set DREAMSTATE_MODELS", name);
}
