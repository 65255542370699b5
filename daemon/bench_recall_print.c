/* The figures as a table and as JSON. */
#include "daemon/bench_recall.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>

void rc_print_text(const struct rc_bench *b)
{
    printf("%s: %zu layers of %zu heads; %zu held-out lists, seed %llu, %.0f s\n", b->o.model,
           b->info->n_layer, b->info->n_head, b->n, (unsigned long long)b->o.seed, b->seconds);
    if (b->diffuser)
        printf("%s: %zu parameters, %llu steps\n", b->o.diffuser,
               diffuser_get_info(b->diffuser)->n_params,
               (unsigned long long)diffuser_get_info(b->diffuser)->steps);
    printf("\nShare told (95 %%); wanted: new 1, old 0, untouched 1, removed 0, \"%s\" 1, list 1, "
           "distance 0\n%-44s %-16s %-16s %-16s %-16s %-16s %-16s %s\n",
           RC_NONE, "", "edited: new", "edited: old", "untouched", "removed", "removed: " RC_NONE,
           "whole list", "distance");
    for (size_t k = 0; k < b->n_rows; k++) {
        const struct rc_row *r = &b->row[k];
        const struct rc_share *const share[] = {&r->edited_new,  &r->edited_old,   &r->untouched,
                                                &r->removed_old, &r->removed_none, &r->all};
        char name[64];
        rc_setting_name(&r->setting, name, sizeof name);
        printf("%-44s", name);
        for (size_t i = 0; i < 6; i++)
            printf(" %.3f %.2f-%.2f ", share[i]->mean, share[i]->low, share[i]->high);
        printf(" %.3f\n", r->distance);
    }
    if (!b->diffuser)
        printf("skipped: diffuse and inpaint, without a diffuser\n");
}

static json_t *share_json(const struct rc_share *s)
{
    return json_pack("{s:f, s:f, s:f}", "mean", s->mean, "low", s->low, "high", s->high);
}

static json_t *row_json(const struct rc_row *r)
{
    char name[64];
    rc_setting_name(&r->setting, name, sizeof name);
    return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "row", name, "edited_new",
                     share_json(&r->edited_new), "edited_old", share_json(&r->edited_old),
                     "untouched", share_json(&r->untouched), "removed_old",
                     share_json(&r->removed_old), "removed_none", share_json(&r->removed_none),
                     "whole_list", share_json(&r->all), "distance",
                     isfinite(r->distance) ? json_real(r->distance) : json_null());
}

int rc_print_json(const struct rc_bench *b)
{
    json_t *rows = json_array(), *skipped = json_array();
    for (size_t k = 0; k < b->n_rows; k++)
        json_array_append_new(rows, row_json(&b->row[k]));
    if (!b->diffuser)
        json_array_append_new(skipped, json_string("diffuse and inpaint: no diffuser"));
    json_t *root = json_pack(
        "{s:s, s:s, s:o, s:f, s:i, s:o, s:[], s:o}", "bench", "recall", "model", b->o.model,
        "diffuser", b->diffuser ? json_string(b->o.diffuser) : json_null(), "seconds", b->seconds,
        "lists", (int)b->n, "rows", rows, "targets", "skipped", skipped);
    int rc = root ? json_dumpf(root, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) : -1;
    putchar('\n');
    json_decref(root);
    return rc;
}
