#include "engine/kernels/effort.h"

void effort_init(struct effort *e, int most)
{
    *e = (struct effort){.most = most, .parts = most, .pause = EFFORT_PAUSE};
}

static void new_window(struct effort *e)
{
    e->pieces = e->ns = e->lost = 0;
}

static void end_trial(struct effort *e)
{
    if ((double)e->ns / (double)e->pieces < e->before * 15 / 16) {
        e->parts = e->trial;
        e->pause = EFFORT_PAUSE;
    } else {
        const uint64_t most = e->trial < e->parts ? EFFORT_MOST_PAUSE : EFFORT_MOST_PAUSE / 2;
        e->pause = 2 * e->pause < most ? 2 * e->pause : most;
        e->halve = e->trial < e->parts && !e->halve;
    }
    e->rest = e->pause;
    e->trial = 0;
}

static void begin_trial(struct effort *e)
{
    e->before = (double)e->ns / (double)e->pieces;
    if (e->lost > e->ns / 3 * (uint64_t)(e->parts - 1))
        e->trial = e->halve ? e->parts / 2 : e->parts - 1;
    else if (e->parts < e->most)
        e->trial = e->parts + 1;
}

void effort_note(struct effort *e, size_t size, uint64_t ns, uint64_t lost)
{
    e->rest = e->rest > ns ? e->rest - ns : 0;
    if (size != e->size) {
        e->size = size;
        e->trial = 0;
        new_window(e);
        return;
    }
    e->pieces++;
    e->ns += ns;
    e->lost += lost;
    if (e->pieces < EFFORT_PIECES || e->ns < EFFORT_NS)
        return;
    if (e->trial)
        end_trial(e);
    else if (!e->rest)
        begin_trial(e);
    new_window(e);
}
