#include "daemon/dataset_split.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int by_name(const void *x, const void *y)
{
    const struct split_text *a = x, *b = y;
    int d = strcmp(a->text->document, b->text->document);
    return d ? d : (a->document > b->document) - (a->document < b->document);
}

static int by_document(const void *x, const void *y)
{
    const struct split_text *a = x, *b = y;
    if (a->document != b->document)
        return a->document < b->document ? -1 : 1;
    return (a->text > b->text) - (a->text < b->text);
}

size_t dataset_corpus(const char *label)
{
    return strcspn(label, "/");
}

/* Documents of a corpus so far. */
struct counter {
    const char *label;
    uint32_t n;
};

static struct counter *count_of(struct counter counters[DATASET_LABELS], const char *label)
{
    const size_t bytes = dataset_corpus(label);
    size_t i = 0;
    while (i + 1 < DATASET_LABELS && counters[i].label &&
           (dataset_corpus(counters[i].label) != bytes || memcmp(counters[i].label, label, bytes)))
        i++;
    counters[i].label = label;
    return &counters[i];
}

static void hold_out(struct split_text *all, size_t n, double share)
{
    struct counter counters[DATASET_LABELS] = {{0}};
    for (size_t i = 0; i < n; i++) {
        if (i && all[i].document == all[i - 1].document) {
            all[i].heldout = all[i - 1].heldout;
            continue;
        }
        struct counter *c = count_of(counters, all[i].text->label);
        const double before = floor(c->n * share);
        all[i].heldout = floor(++c->n * share) > before;
    }
}

struct split_text *dataset_split(const struct dataset_texts *t, double share)
{
    struct split_text *all = calloc(t->n + 1, sizeof *all);
    for (size_t i = 0; all && i < t->n; i++)
        all[i] = (struct split_text){&t->texts[i], i, false};
    if (!all)
        return NULL;
    qsort(all, t->n, sizeof *all, by_name);
    for (size_t i = 1; i < t->n; i++)
        if (all[i].text->document[0] && !strcmp(all[i].text->document, all[i - 1].text->document))
            all[i].document = all[i - 1].document;
    qsort(all, t->n, sizeof *all, by_document);
    hold_out(all, t->n, share);
    return all;
}
