#include "daemon/cmd.h"

#include <stdio.h>

#include "build/version.h"

int cmd_version(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    puts("dreamstated " DREAMSTATE_VERSION);
    return 0;
}
