/* Chat messages as the text that a model reads, in the model's template (struct chat_template).
 *
 *     User: hi                     {role: user, content: hi}
 *                                  (the separator)
 *     Assistant:                   here the model goes on
 *
 * The models are trained on turns with one empty line between them and none inside, so a message
 * loses its outer white space and its empty lines, and nothing follows the last colon. developer
 * reads as system. A last message of the assistant is continued in the place of a new turn. Behind a
 * state (follows) the text begins with the separator.
 *
 * Limits: the text is bounded by MESSAGES_LIMIT. Ownership: the caller's buffer. */
#ifndef API_MESSAGES_H
#define API_MESSAGES_H

#include "api/json.h"
#include "daemon/service.h"

#define MESSAGES_LIMIT ((size_t)32 << 20)

struct messages_how {
    bool follows; /* something was read before: begin with the separator */
    bool answer;  /* end where the assistant's next answer begins */
};

enum { MESSAGES_ROLES = 5 };

/* The roles that messages may have, and what the template calls each. */
struct messages_role {
    const char *role, *name;
};
void messages_roles(const struct chat_template *t, struct messages_role out[MESSAGES_ROLES]);

/* Appends the array `messages` to out; *continued says whether an answer is begun already. ERR_INVALID
 * with param "messages" or "messages[i].content" and the like. */
int messages_render(const json_t *messages, const struct chat_template *t, struct messages_how how,
                    struct buf *out, bool *continued, struct err *e);

#endif
