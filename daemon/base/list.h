/* An intrusive doubly linked list. A node sits inside its owner; LIST_OWNER leads back to it.
 *
 *     struct job { struct list link; ... };
 *     list_push(&jobs, &j->link);
 *     struct job *first = LIST_OWNER(list_pop(&jobs), struct job, link);
 *
 * The list owns nothing. Guarding it against threads is the user's matter. */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *prev, *next;
};

#define LIST_OWNER(node, type, member) ((type *)(void *)((char *)(node) - offsetof(type, member)))
/* The body may remove the current node. */
#define LIST_FOR_EACH(n, head)                                                                     \
    for (struct list *n = (head)->next, *n##_next = n->next; n != (head);                          \
         n = n##_next, n##_next = n->next)

static inline void list_init(struct list *head)
{
    head->prev = head->next = head;
}

static inline bool list_empty(const struct list *head)
{
    return head->next == head;
}

static inline void list_push(struct list *head, struct list *n)
{
    n->prev = head->prev;
    n->next = head;
    head->prev->next = n;
    head->prev = n;
}

/* The node may be in no list (after list_init or list_remove): then nothing happens. */
static inline void list_remove(struct list *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    list_init(n);
}

/* The oldest node, or NULL. */
static inline struct list *list_pop(struct list *head)
{
    struct list *n = head->next;
    if (n == head)
        return NULL;
    list_remove(n);
    return n;
}

#endif
