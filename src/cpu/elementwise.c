/* elementwise.c - operations whose elements know nothing of each other: embedding and gathering
 * of rows, residual addition, SwiGLU, conversion.  Any division of the work gives the same bits. */
#include "cpu/cpu.h"

#include <assert.h>
#include <string.h>

#define CHUNK 1024 /* values in fp32 at a time */

static void copy_row(const struct tensor *from, int64_t from_row, struct tensor *to, int64_t to_row)
{
    size_t n_from = (size_t)from->n_cols * dtype_bytes(from->dtype);
    size_t n_to = (size_t)to->n_cols * dtype_bytes(to->dtype);
    const char *source = (const char *)from->data + (size_t)from_row * n_from;
    char *target = (char *)to->data + (size_t)to_row * n_to;
    float values[CHUNK];

    if (from->dtype == to->dtype) {
        memcpy(target, source, n_from);
        return;
    }
    for (int64_t at = 0; at < from->n_cols; at += CHUNK) {
        int64_t n = from->n_cols - at < CHUNK ? from->n_cols - at : CHUNK;
        dtype_to_f32(from->dtype, source + (size_t)at * dtype_bytes(from->dtype), values, n);
        dtype_from_f32(to->dtype, values, target + (size_t)at * dtype_bytes(to->dtype), n);
    }
}

int cpu_embed(struct backend *b, const struct embed_args *a, struct err *e)
{
    (void)b, (void)e;
    assert(a->table->n_cols == a->out->n_cols && a->n_rows <= a->out->n_rows);
    for (int64_t row = 0; row < a->n_rows; row++) {
        assert(a->ids[row] >= 0 && a->ids[row] < a->table->n_rows);
        copy_row(a->table, a->ids[row], a->out, row);
    }
    return 0;
}

int cpu_embed_packed(struct backend *b, const struct embed_packed_args *a, struct err *e)
{
    const struct cpu_kernels *k = cpu_kernels_of(b);
    const enum dtype t = a->out->dtype;
    const int64_t n_cols = a->table->n_in;
    float values[CHUNK];

    (void)e;
    assert(n_cols == a->out->n_cols && a->n_rows <= a->out->n_rows);
    for (int64_t row = 0; row < a->n_rows; row++) {
        char *to = (char *)a->out->data + (size_t)(row * n_cols) * dtype_bytes(t);

        assert(a->ids[row] >= 0 && a->ids[row] < a->table->n_out);
        for (int64_t col = 0; col < n_cols; col += CHUNK) {
            int64_t n = n_cols - col < CHUNK ? n_cols - col : CHUNK;

            cpu_weight_block(k, a->table, a->ids[row], 1, col, n, t, values, n);
            dtype_from_f32(t, values, to + (size_t)col * dtype_bytes(t), n);
        }
    }
    return 0;
}

int cpu_gather(struct backend *b, const struct gather_args *a, struct err *e)
{
    (void)b, (void)e;
    assert(a->x->n_cols == a->out->n_cols && a->n_rows <= a->out->n_rows);
    for (int64_t row = 0; row < a->n_rows; row++) {
        assert(a->rows[row] >= 0 && a->rows[row] < a->x->n_rows);
        copy_row(a->x, a->rows[row], a->out, row);
    }
    return 0;
}

int cpu_convert(struct backend *b, const struct convert_args *a, struct err *e)
{
    (void)b, (void)e;
    assert(a->x->n_cols == a->out->n_cols && a->x->n_rows == a->out->n_rows);
#pragma omp parallel for schedule(static) if (a->x->n_rows * a->x->n_cols > 1 << 16)
    for (int64_t row = 0; row < a->x->n_rows; row++)
        copy_row(a->x, row, a->out, row);
    return 0;
}

int cpu_add(struct backend *b, const struct add_args *a, struct err *e)
{
    const enum dtype t = a->x->dtype;
    const int64_t n_all = a->n_rows * a->x->n_cols;
    const size_t n_bytes = dtype_bytes(t);

    (void)b, (void)e;
    assert(a->y->dtype == t && a->y->n_cols == a->x->n_cols);
#pragma omp parallel for schedule(static) if (n_all > 1 << 16)
    for (int64_t at = 0; at < n_all; at += CHUNK) {
        int64_t n = n_all - at < CHUNK ? n_all - at : CHUNK;
        char *to = (char *)a->x->data + (size_t)at * n_bytes;
        float x[CHUNK], y[CHUNK];

        dtype_to_f32(t, to, x, n);
        dtype_to_f32(t, (const char *)a->y->data + (size_t)at * n_bytes, y, n);
        for (int64_t i = 0; i < n; i++)
            x[i] += y[i];
        dtype_from_f32(t, x, to, n);
    }
    return 0;
}

int cpu_swiglu(struct backend *b, const struct swiglu_args *a, struct err *e)
{
    const struct cpu_kernels *k = cpu_kernels_of(b);
    const enum dtype t = a->gate->dtype;
    const int64_t n_all = a->n_rows * a->gate->n_cols;
    const size_t n_bytes = dtype_bytes(t);

    (void)e;
    assert(a->up->dtype == t && a->out->dtype == t && a->up->n_cols == a->gate->n_cols);
#pragma omp parallel for schedule(static) if (n_all > 1 << 14)
    for (int64_t at = 0; at < n_all; at += CHUNK) {
        int64_t n = n_all - at < CHUNK ? n_all - at : CHUNK;
        size_t offset = (size_t)at * n_bytes;
        float gate[CHUNK], up[CHUNK];

        dtype_to_f32(t, (const char *)a->gate->data + offset, gate, n);
        dtype_to_f32(t, (const char *)a->up->data + offset, up, n);
        k->silu(gate, n);
        dtype_round(t, gate, n);
        for (int64_t i = 0; i < n; i++)
            gate[i] *= up[i];
        dtype_from_f32(t, gate, (char *)a->out->data + offset, n);
    }
    return 0;
}
