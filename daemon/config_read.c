/* Where options come from, the weakest first: defaults, the file, the environment, the command line.
 * All of them are read and checked, also where a stronger one decides. */
#include "daemon/config_impl.h"
#include "daemon/text_file.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static const struct option *find_option(const char *name, size_t n)
{
    size_t n_options;
    const struct option *all = config_options(&n_options);
    for (size_t i = 0; i < n_options; i++)
        if (all[i].flag && strlen(all[i].flag) == n && !memcmp(all[i].flag, name, n))
            return &all[i];
    return NULL;
}

static int from_presets(struct config *c, struct err *e)
{
    size_t n;
    const struct option *all = config_options(&n);
    for (size_t i = 0; i < n; i++)
        if (all[i].preset && config_set(c, &all[i], all[i].preset, all[i].flag, e) < 0)
            return e->code;
    return 0;
}

/* ---- the file ---- */

/* One line "key = value"; seen[i]: the line where the i-th option stood. */
static int from_line(struct config *c, char *line, const char *where, int number, int *seen,
                     struct err *e)
{
    size_t n_options;
    const struct option *all = config_options(&n_options), *o;
    char *key = line, *eq = strchr(line, '='), name[512];
    if (!*key || *key == '#')
        return 0;
    if (!eq)
        return err_set(e, ERR_INVALID, "%s: want KEY = VALUE", where);
    *eq = 0;
    key = text_trim(key);
    if (!(o = find_option(key, strlen(key))) || o == find_option("config", 6))
        return err_set(e, ERR_INVALID, "%s: no option '%.60s'", where, key);
    if (o->kind == OPTION_SECRET)
        return err_set(e, ERR_INVALID, "%s: '%s' may stand only in the environment", where, key);
    int *first = &seen[o - all];
    if (*first && o->kind != OPTION_LIST)
        return err_set(e, ERR_INVALID, "%s: '%s' stands in line %d already", where, key, *first);
    *first = number;
    snprintf(name, sizeof name, "%s: %s", where, key);
    return config_set(c, o, text_trim(eq + 1), name, e);
}

static int from_file(struct config *c, struct err *e)
{
    struct buf text;
    size_t n_options;
    if (!c->config)
        return 0;
    config_options(&n_options);
    int rc = text_file_read(c->config, &text, e), number = 0;
    int *seen = calloc(n_options, sizeof *seen);
    if (rc == 0 && !seen)
        rc = err_set(e, ERR_NOMEM, "no memory for the options");
    for (char *at = text.data, *line; rc == 0 && (line = text_file_line(&at));) {
        char where[300];
        snprintf(where, sizeof where, "%.200s line %d", c->config, ++number);
        rc = from_line(c, line, where, number, seen, e);
    }
    free(seen);
    buf_fini(&text);
    return rc;
}

/* ---- the environment ---- */

const char *config_variable(const struct option *o, char name[64])
{
    int n = snprintf(name, 64, "DREAMSTATE_%s", o->flag);
    for (int k = 0; k < n; k++)
        name[k] = name[k] == '-' ? '_' : (char)toupper((unsigned char)name[k]);
    return name;
}

/* The variable of an option, if it is set and not empty. */
static const char *variable(const struct option *o, char name[64], char *(*env)(const char *name))
{
    const char *value = env(config_variable(o, name));
    return value && *value ? value : NULL;
}

static int from_environment(struct config *c, char *(*env)(const char *name), struct err *e)
{
    size_t n;
    const struct option *all = config_options(&n);
    for (size_t i = 0; i < n; i++) {
        char name[64];
        const char *value = all[i].flag ? variable(&all[i], name, env) : NULL;
        if (value && all[i].kind == OPTION_LIST)
            config_forget(c, &all[i]);
        if (value && config_set(c, &all[i], value, name, e) < 0)
            return e->code;
    }
    return 0;
}

/* ---- the command line ---- */

struct words {
    int argc, at; /* at: of the next word */
    char **argv;
};

/* The next option and its value, which stands in the same or in the next word; 0 at the end. */
static int next_option(struct words *w, const struct option **o, const char **value, struct err *e)
{
    if (w->at >= w->argc)
        return 0;
    const char *word = w->argv[w->at++], *eq = strchr(word, '=');
    size_t n = eq ? (size_t)(eq - word) : strlen(word);
    *o = !strncmp(word, "--", 2) ? find_option(word + 2, n - 2) : NULL;
    if (!*o)
        return err_set(e, ERR_INVALID, "no option '%s' (try --help)", word);
    if ((*o)->kind == OPTION_SECRET)
        return err_set(e, ERR_INVALID, "--%s: may stand only in the environment", (*o)->flag);
    if (!eq && w->at >= w->argc)
        return err_set(e, ERR_INVALID, "--%s: want %s, found nothing", (*o)->flag, (*o)->arg);
    *value = eq ? eq + 1 : w->argv[w->at++];
    return 1;
}

/* A list takes the place of what weaker sources have of it, as a whole. */
static int from_words(struct config *c, struct words w, struct err *e)
{
    const struct option *o;
    const char *value;
    int rc;
    for (struct words first = w; (rc = next_option(&first, &o, &value, e)) > 0;)
        if (o->kind == OPTION_LIST)
            config_forget(c, o);
    while (rc == 0 && (rc = next_option(&w, &o, &value, e)) > 0) {
        char where[64];
        snprintf(where, sizeof where, "--%s", o->flag);
        rc = config_set(c, o, value, where, e);
    }
    return rc;
}

/* Which file: it must be known before all else is read. */
static int find_file(struct config *c, struct words w, char *(*env)(const char *name),
                     struct err *e)
{
    const struct option *config = find_option("config", 6), *o;
    const char *value;
    char name[64];
    const char *path = variable(config, name, env);
    int rc;
    while ((rc = next_option(&w, &o, &value, e)) > 0)
        if (o == config)
            path = value;
    return rc < 0 || !path ? rc : config_set(c, config, path, "--config", e);
}

static bool wants_help(struct config *c, const char *word)
{
    static const char *const ways[] = {"--help", "--help=conf", "--help=markdown"};
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++)
        if (!strcmp(word, ways[i]) || (i == 0 && !strcmp(word, "-h"))) {
            c->help = (enum config_help)i;
            return true;
        }
    return false;
}

int config_parse(struct config *c, int argc, char **argv, char *(*env)(const char *name),
                 struct err *e)
{
    struct words w = {argc, 1, argv};
    *c = (struct config){0};
    for (int i = 1; i < argc; i++)
        if (wants_help(c, argv[i]))
            return 1;
    if (find_file(c, w, env, e) < 0 || from_presets(c, e) < 0 || from_file(c, e) < 0 ||
        from_environment(c, env, e) < 0 || from_words(c, w, e) < 0)
        return e->code;
    return config_check(c, e);
}
