#include "engine/train/corpus.h"

#include "engine/kernels/rng.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MIN_REST      16  /* a shorter rest of a document is not worth a window */
#define BOUNDARY_SPAN 512 /* how far to look for the end of a line or sentence */

static int read_all(const char *path, uint8_t **out, size_t *n, struct err *e)
{
    struct stat st;
    int rc = 0;
    uint8_t *p = NULL;
    FILE *f = fopen(path, "rb");
    if (!f || fstat(fileno(f), &st) < 0) {
        rc = err_set(e, ERR_IO, "corpus %s: %s", path, strerror(errno));
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        rc = err_set(e, ERR_FORMAT, "corpus %s: not a regular file", path);
        goto out;
    }
    *n = (size_t)st.st_size;
    p = malloc(*n + 1);
    if (!p)
        rc = err_set(e, ERR_NOMEM, "corpus %s: no memory for %zu bytes", path, *n);
    else if (fread(p, 1, *n, f) != *n)
        rc = err_set(e, ERR_IO, "corpus %s: cut short while reading", path);
    else
        p[*n] = 0;
out:
    if (f)
        fclose(f);
    if (rc < 0) {
        free(p);
        return rc;
    }
    *out = p;
    return 0;
}

int corpus_open(struct corpus *c, const char *name, const char *path, double weight, struct err *e)
{
    memset(c, 0, sizeof *c);
    snprintf(c->name, sizeof c->name, "%s", name);
    c->weight = weight;
    int rc = read_all(path, &c->text, &c->n, e);
    if (rc < 0)
        return rc;
    size_t docs = 0;
    for (size_t i = 0; i < c->n; i++)
        docs += c->text[i] && (i == 0 || !c->text[i - 1]);
    c->doc = calloc(docs + 1, sizeof *c->doc);
    if (!c->doc || !docs) {
        corpus_close(c);
        return docs ? err_set(e, ERR_NOMEM, "corpus %s: out of memory", path)
                    : err_set(e, ERR_FORMAT, "corpus %s: no text in it", path);
    }
    for (size_t i = 0; i < c->n; i++)
        if (c->text[i] && (i == 0 || !c->text[i - 1]))
            c->doc[c->n_docs++] = i;
    c->doc[docs] = c->n + 1;
    return 0;
}

void corpus_close(struct corpus *c)
{
    free(c->text);
    free(c->doc);
    memset(c, 0, sizeof *c);
}

/* The end of the document that holds byte i (its NUL). */
static size_t doc_end(const struct corpus *c, size_t i)
{
    return i + strlen((const char *)c->text + i);
}

size_t corpus_boundary(const uint8_t *text, size_t i, size_t end)
{
    size_t limit = end - i > BOUNDARY_SPAN ? i + BOUNDARY_SPAN : end;
    for (size_t p = i; p + 1 < limit; p++) {
        if (text[p] == '\n' && text[p + 1] != '\n')
            return p + 1;
        if ((text[p] == '.' || text[p] == '?' || text[p] == '!') && text[p + 1] == ' ')
            return p + 2;
    }
    return i;
}

/* A place of corpus k: a document's first byte (probability at_start), or behind the first boundary
 * after a random byte; in the document [begin, end) alone where one is given. */
static void draw_place(const struct sampler *s, struct corpus_stream *at, int64_t k,
                       const struct corpus_stream *within, struct rng *rng)
{
    const struct corpus *c = &s->corpora[k];
    size_t begin, end;
    if (within) {
        begin = (size_t)within->at;
        begin += (size_t)rng_below(rng, (size_t)within->end - begin);
        end = (size_t)within->end;
    } else if (rng_uniform(rng) < s->at_start) {
        begin = c->doc[rng_below(rng, c->n_docs)];
        *at = (struct corpus_stream){k, (int64_t)begin, (int64_t)doc_end(c, begin)};
        return;
    } else {
        do
            begin = (size_t)rng_below(rng, c->n);
        while (!c->text[begin]);
        end = doc_end(c, begin);
    }
    size_t b = corpus_boundary(c->text, begin, end);
    begin = end - b >= MIN_REST ? b : begin;
    *at = (struct corpus_stream){k, (int64_t)begin, (int64_t)end};
}

static void start_anew(const struct sampler *s, struct corpus_stream *at, struct rng *rng)
{
    double total = 0;
    for (size_t i = 0; i < s->n; i++)
        total += s->corpora[i].weight;
    double x = rng_uniform(rng) * total;
    size_t k = 0;
    while (k + 1 < s->n && x >= s->corpora[k].weight)
        x -= s->corpora[k++].weight;
    draw_place(s, at, (int64_t)k, NULL, rng);
}

/* Up to T bytes from the stream's place into tokens; how many. */
static size_t read_on(const struct sampler *s, struct corpus_stream *at, size_t T, uint32_t *tokens)
{
    const uint8_t *text = s->corpora[at->corpus].text;
    size_t left = (size_t)(at->end - at->at), n = left < T ? left : T;
    for (size_t i = 0; i < n; i++)
        tokens[i] = text[(size_t)at->at + i];
    at->at += (int64_t)n;
    return n;
}

/* Half of the jumps stay in the document: what comes next is told by its style and names as well as
 * by its kind. */
static void jump(const struct sampler *s, struct corpus_stream *at, struct rng *rng)
{
    const struct corpus *c = &s->corpora[at->corpus];
    struct corpus_stream doc = *at;
    while (doc.at > 0 && c->text[doc.at - 1])
        doc.at--;
    draw_place(s, at, at->corpus, rng_uniform(rng) < 0.5 ? &doc : NULL, rng);
}

size_t sampler_next(const struct sampler *s, struct corpus_stream *at, uint64_t step,
                    uint64_t stream, uint32_t *tokens, bool *fresh)
{
    struct rng rng;
    rng_init(&rng, s->seed, (stream << 40) + step);
    *fresh = at->end - at->at < MIN_REST || rng_uniform(&rng) >= s->carry;
    if (*fresh)
        start_anew(s, at, &rng);
    tokens[0] = *fresh ? CORPUS_SEPARATOR : s->corpora[at->corpus].text[at->at - 1];
    if (s->jump <= 0 || rng_uniform(&rng) >= s->jump || s->T < 4)
        return read_on(s, at, s->T, tokens + 1);
    size_t T = read_on(s, at, s->T / 4 + (size_t)rng_below(&rng, s->T / 2), tokens + 1);
    tokens[++T] = CORPUS_SEPARATOR;
    jump(s, at, &rng);
    return T + read_on(s, at, s->T - T, tokens + 1 + T);
}
