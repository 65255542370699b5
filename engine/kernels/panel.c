#include "engine/kernels/panel.h"

#include "engine/tensor/blocks.h"

#include <string.h>

size_t mat_data_bytes(const struct mat *m)
{
    const size_t panels = (m->rows + MAT_PANEL_ROWS - 1) / MAT_PANEL_ROWS;
    if (!m->panels)
        return m->rows * m->row_bytes;
    if (panel__is_k(m->type))
        return panels * (m->cols / 256) * panel__super(m->type).bytes;
    return panels * MAT_PANEL_ROWS * (m->type == DTYPE_BF16 ? mat_pad(m->cols) * 2 : m->row_bytes);
}

size_t kern_ready_bytes(const struct kern *k, enum dtype t, size_t cols, size_t n)
{
    const size_t tiles = (n + 15) / 16 * 16;
    if (t == DTYPE_BF16 && k->level >= CPU_AMX)
        return tiles * mat_pad(cols) * 6; /* three parts */
    return panel__is_plain(t)
               ? 0
               : panel__in_bytes(t, tiles, cols / PANEL_BLOCK) + 64; /* in two regions */
}

/* A block of a K type, its packing undone. */
struct k_block {
    uint16_t d, m;
    uint8_t scale[16], min[8]; /* Q6_K: scales 128 more, no minima */
    uint8_t q[256];
};

/* Layouts: engine/tensor/blocks.c. */
static void read_q4_q5(struct k_block *k, const uint8_t *b, bool fifth)
{
    const uint8_t *high = b + 16, *q = b + (fifth ? 48 : 16);
    memcpy(&k->d, b, 2);
    memcpy(&k->m, b + 2, 2);
    block_scales(b + 4, k->scale, k->min);
    for (size_t i = 0; i < 256; i++) {
        const size_t group = i / 32, at = i / 64 * 32 + i % 32;
        k->q[i] = group % 2 ? q[at] >> 4 : q[at] & 15;
        if (fifth)
            k->q[i] |= (uint8_t)((high[i % 32] >> group & 1) << 4);
    }
}

static void read_q6(struct k_block *k, const uint8_t *b)
{
    for (size_t i = 0; i < 16; i++)
        k->scale[i] = (uint8_t)(b[192 + i] ^ 128);
    memcpy(&k->d, b + 208, 2);
    for (size_t i = 0; i < 256; i++) {
        const uint8_t low = b[i / 128 * 64 + i % 64], high = b[128 + i / 128 * 32 + i % 32];
        k->q[i] =
            (uint8_t)((i % 128 / 64 ? low >> 4 : low & 15) | (high >> 2 * (i % 128 / 32) & 3) << 4);
    }
}

static uint32_t four(const uint8_t *q)
{
    uint32_t w;
    memcpy(&w, q, sizeof w);
    return w;
}

/* Row r of 16: four bytes of each vector are its own. */
static void put_super(uint8_t *to, enum dtype t, size_t r, const struct k_block *k)
{
    const struct panel_super at = panel__super(t);
    const bool fifth = t == DTYPE_Q5_K;
    const uint32_t up = fifth ? 0x01010101 : 0x03030303;
    uint8_t *low = to + at.low + 4 * r, *high = to + at.high + 4 * r;
    memcpy(to + 2 * r, &k->d, 2);
    if (t != DTYPE_Q6_K)
        memcpy(to + 32 + 2 * r, &k->m, 2);
    for (size_t i = 0; i < 16; i++)
        to[at.scales + i * 16 + r] = t == DTYPE_Q6_K || i < 8 ? k->scale[i] : k->min[i - 8];
    for (size_t g = 0; g < 32; g++, low += 64) { /* four groups a block */
        const uint32_t a = four(k->q + g / 4 * 32 + g % 4 * 4),
                       c = four(k->q + g / 4 * 32 + g % 4 * 4 + 16);
        const uint32_t both = (a & 0x0f0f0f0f) | (c & 0x0f0f0f0f) << 4;
        const size_t vector = fifth ? g / 4 : g / 2, bit = fifth ? g % 4 * 2 : g % 2 * 4;
        const uint32_t bits = (a >> 4 & up) << bit | (c >> 4 & up) << (bit + (fifth ? 1 : 2));
        memcpy(low, &both, 4);
        if (t != DTYPE_Q4_K) {
            const uint32_t all = bits | (bit ? four(high + vector * 64) : 0);
            memcpy(high + vector * 64, &all, 4);
        }
    }
}

static void put_k(const struct mat *m, size_t row, size_t first, const uint8_t *from, size_t n)
{
    const size_t bytes = panel__super(m->type).bytes, blocks = m->cols / 256;
    uint8_t *to = (uint8_t *)(uintptr_t)m->data + (row / MAT_PANEL_ROWS * blocks + first) * bytes;
    for (size_t i = 0; i < n; i++, from += dtype_block_bytes(m->type), to += bytes) {
        struct k_block k = {0};
        if (m->type == DTYPE_Q6_K)
            read_q6(&k, from);
        else
            read_q4_q5(&k, from, m->type == DTYPE_Q5_K);
        put_super(to, m->type, row % MAT_PANEL_ROWS, &k);
    }
}

/* Numbers of `bytes` bytes. */
static void put_plain(const struct mat *m, size_t row, size_t first, const uint8_t *from, size_t n,
                      size_t bytes)
{
    const size_t panel = row / MAT_PANEL_ROWS, r = row % MAT_PANEL_ROWS;
    uint8_t *to =
        (uint8_t *)(uintptr_t)m->data + ((panel * m->cols + first) * MAT_PANEL_ROWS + r) * bytes;
    for (size_t i = 0; i < n; i++)
        memcpy(to + i * MAT_PANEL_ROWS * bytes, from + i * bytes, bytes);
}

static void put_bf16(const struct mat *m, size_t row, size_t first, const uint8_t *from, size_t n)
{
    size_t panel = row / MAT_PANEL_ROWS, r = row % MAT_PANEL_ROWS;
    uint8_t *to =
        (uint8_t *)(uintptr_t)m->data + panel * MAT_PANEL_ROWS * mat_pad(m->cols) * 2 + r * 4;
    for (size_t i = 0, k = first; i < n; i++, k++)
        memcpy(to + k / 2 * 64 + k % 2 * 2, from + 2 * i, 2);
}

void mat_put_blocks(const struct mat *m, size_t row, size_t first, const void *blocks, size_t n)
{
    const uint8_t *from = blocks;
    if (m->type == DTYPE_BF16) {
        put_bf16(m, row, first, from, n);
        return;
    }
    if (m->type == DTYPE_F32 || m->type == DTYPE_F16) {
        put_plain(m, row, first, from, n, dtype_block_bytes(m->type));
        return;
    }
    if (panel__is_k(m->type)) {
        put_k(m, row, first, from, n);
        return;
    }
    size_t panel = row / MAT_PANEL_ROWS, r = row % MAT_PANEL_ROWS,
           group = panel__group_bytes(m->type);
    uint8_t *integers = (uint8_t *)(uintptr_t)panel__integers(m, panel) + first * group + r * 4;
    uint8_t *scales =
        (uint8_t *)(uintptr_t)panel__scales(m, panel) + (first * MAT_PANEL_ROWS + r) * 2;
    for (size_t b = 0; b < n; b++, from += 2 + group / MAT_PANEL_ROWS) {
        memcpy(scales + b * MAT_PANEL_ROWS * 2, from, 2);
        for (size_t g = 0; g < group / 64; g++)
            memcpy(integers + b * group + g * 64, from + 2 + 4 * g, 4);
    }
}
