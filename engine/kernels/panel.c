#include "engine/kernels/panel.h"

#include <string.h>

size_t mat_data_bytes(const struct mat *m)
{
    size_t rows =
        m->panels ? (m->rows + MAT_PANEL_ROWS - 1) / MAT_PANEL_ROWS * MAT_PANEL_ROWS : m->rows;
    return rows * (m->panels && m->type == DTYPE_BF16 ? mat_pad(m->cols) * 2 : m->row_bytes);
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
