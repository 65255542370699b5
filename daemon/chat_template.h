/* Which words stand around the messages of a chat (struct chat_template, service.h), per model.
 *
 * Written as --chat-template has it: "KEY=VALUE,..." for all models, or "MODEL:KEY=VALUE,...;..." for
 * some, later parts over earlier ones. Keys: system user assistant tool (what the roles are called),
 * colon (between a role's name and its text), separator (between messages). In a value \n and \t are
 * line end and tab, any other character behind a backslash is itself. */
#ifndef DAEMON_CHAT_TEMPLATE_H
#define DAEMON_CHAT_TEMPLATE_H

#include "daemon/service.h"

/* The template of a model by spec (NULL: the default, CHAT_TEMPLATE_WORLD). ERR_INVALID. */
int chat_template_parse(const char *spec, const char *model, struct chat_template *out,
                        struct err *e);

#endif
