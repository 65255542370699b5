#include "engine/train/recipe_json.h"

#include <stdint.h>
#include <string.h>

static int read_value(void *to, const struct recipe_key *k, const json_t *v, const char *where,
                      struct err *e)
{
    char *at = (char *)to + k->at;
    if (k->kind == RECIPE_TEXT) {
        const char *s = json_string_value(v);
        if (!s || !*s || strlen(s) >= (size_t)k->high || strlen(s) != json_string_length(v))
            return err_set_param(e, ERR_INVALID, k->name,
                                 "recipe: %s%s must be a text of 1 to %d bytes", where, k->name,
                                 (int)k->high - 1);
        memcpy(at, s, strlen(s) + 1);
        return 0;
    }
    if (k->kind == RECIPE_BOOL) {
        bool b = json_is_true(v);
        if (!json_is_boolean(v))
            return err_set_param(e, ERR_INVALID, k->name, "recipe: %s%s must be true or false",
                                 where, k->name);
        memcpy(at, &b, sizeof b);
        return 0;
    }
    double x = json_number_value(v);
    if ((k->kind == RECIPE_UINT ? !json_is_integer(v) : !json_is_number(v)) || x < k->low ||
        x > k->high)
        return err_set_param(e, ERR_INVALID, k->name, "recipe: %s%s must be %s from %g to %g",
                             where, k->name, k->kind == RECIPE_UINT ? "a whole number" : "a number",
                             k->low, k->high);
    uint64_t u = (uint64_t)json_integer_value(v);
    if (k->kind == RECIPE_UINT)
        memcpy(at, &u, sizeof u);
    else
        memcpy(at, &x, sizeof x);
    return 0;
}

int recipe_read_object(void *to, const json_t *o, const struct recipe_key *table, size_t n,
                       const char *others, const char *where, struct err *e)
{
    const char *name;
    json_t *v;
    if (!json_is_object(o))
        return err_set(e, ERR_INVALID, "recipe: %s must be an object", *where ? where : "the file");
    json_object_foreach((json_t *)o, name, v)
    {
        size_t i = 0;
        char padded[64];
        while (i < n && strcmp(table[i].name, name))
            i++;
        snprintf(padded, sizeof padded, " %s ", name);
        if (i < n) {
            int rc = read_value(to, &table[i], v, where, e);
            if (rc < 0)
                return rc;
        } else if (!strstr(others, padded)) {
            return err_set_param(e, ERR_INVALID, name, "recipe: unknown key %s%s", where, name);
        }
    }
    for (size_t i = 0; i < n; i++)
        if (table[i].required && !json_object_get(o, table[i].name))
            return err_set_param(e, ERR_INVALID, table[i].name, "recipe: %s%s is missing", where,
                                 table[i].name);
    return 0;
}

json_t *recipe_load(const char *path, struct err *e)
{
    json_error_t je;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &je);
    if (!root)
        err_set(e, je.line < 0 ? ERR_IO : ERR_INVALID, "recipe %s: line %d: %s", path, je.line,
                je.text);
    return root;
}
