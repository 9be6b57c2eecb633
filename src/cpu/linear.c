/* linear.c - y = x W^T + bias for weights of every form but LLM.int8.
 *
 * An element of y is one chain of fused multiply-adds over k = 0 .. K-1 in this order, starting
 * from 0: fma(x[k], w[k], sum).  The chain knows nothing of the other rows, the tiles or the
 * threads, so its bits do not depend on the batch; and since a fused multiply-add is fixed to
 * the bit, not on the processor either.  A library's matrix product promises neither: OpenBLAS
 * sums in another order for other numbers of rows and threads.
 *
 *   x      packed once into panels of tile_rows rows: [K][tile_rows], rounded to compute
 *   W      for each task, a block of columns of n_block rows is dequantized, transposed into
 *          panels [k_block][tile_cols] that stay in a cache, and multiplied with every panel of
 *          x; the chains wait in c between blocks of columns
 *   task   n_block outputs of all rows
 *
 * Many rows: blocks of 256 columns, so that a panel stays in the first-level cache.  Few rows:
 * reading W is all the work, and long pieces of its rows come twice as fast from memory.  */
#include "cpu/cpu.h"

#include <assert.h>
#include <omp.h>
#include <stdlib.h>

#define K_BLOCK      256
#define K_BLOCK_FEW  2048
#define N_BLOCK      128
#define FEW_ROWS     16
#define ROWS_AT_ONCE 448       /* bounds the packed x: 448 rows of 8192 are 15 MB */
#define SMALL_WORK   (1 << 17) /* multiply-adds that are not worth waking threads for */

struct product {
    const struct cpu_kernels *k;
    const struct linear_args *a;
    int64_t first_row, n_rows;
    float *x; /* panels: rows r .. of panel p start at p * tile_rows * K */
    int64_t n_block, k_block;
    int64_t ld; /* of dequantized rows: no power of two, or all rows meet in one cache set */
    size_t thread_floats;
    float *thread_scratch;
};

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* One panel of x: widened, rounded to compute, transposed. */
static void pack_rows(const struct product *p, int64_t panel, float *scratch)
{
    const struct tensor *x = p->a->x;
    int64_t n_in = p->a->w->n_in, first = panel * p->k->tile_rows;
    int64_t m = p->n_rows - first < p->k->tile_rows ? p->n_rows - first : p->k->tile_rows;
    float *to = p->x + first * n_in;
    size_t n_bytes = dtype_bytes(x->dtype);

    for (int64_t col = 0; col < n_in; col += p->k_block) {
        int64_t n = n_in - col < p->k_block ? n_in - col : p->k_block;

        for (int64_t i = 0; i < m; i++) {
            size_t at = (size_t)((p->first_row + first + i) * n_in + col);
            dtype_to_f32(x->dtype, (const char *)x->data + at * n_bytes, scratch + i * p->ld, n);
            if (p->a->compute != x->dtype)
                dtype_round(p->a->compute, scratch + i * p->ld, n);
        }
        p->k->transpose(scratch, p->ld, m, n, to + col * m, m);
    }
}

/* Bias, one rounding, out. */
static void write_outputs(const struct product *p, int64_t first_out, int64_t n_out, float *c)
{
    const struct linear_args *a = p->a;
    float bias[N_BLOCK];
    size_t n_bytes = dtype_bytes(a->y->dtype);

    if (a->bias)
        dtype_to_f32(a->bias->dtype,
                     (const char *)a->bias->data + (size_t)first_out * dtype_bytes(a->bias->dtype),
                     bias, n_out);
    for (int64_t row = 0; row < p->n_rows; row++) {
        float *values = c + row * p->n_block;
        size_t at = (size_t)((p->first_row + row) * a->w->n_out + first_out);

        if (a->bias)
            for (int64_t i = 0; i < n_out; i++)
                values[i] += bias[i];
        dtype_from_f32(a->y->dtype, values, (char *)a->y->data + at * n_bytes, n_out);
    }
}

/* Outputs task * n_block ... of all rows. */
static void multiply(const struct product *p, int64_t task, float *scratch)
{
    const struct weight *w = p->a->w;
    const int rows = p->k->tile_rows, cols = p->k->tile_cols;
    int64_t first_out = task * p->n_block;
    int64_t n_out = w->n_out - first_out < p->n_block ? w->n_out - first_out : p->n_block;
    float *plain = scratch, *panels = plain + cols * p->ld, *c = panels + p->n_block * p->k_block;

    for (int64_t col = 0; col < w->n_in; col += p->k_block) {
        int64_t n_k = w->n_in - col < p->k_block ? w->n_in - col : p->k_block;

        for (int64_t j = 0; j < n_out; j += cols) {
            int64_t n = n_out - j < cols ? n_out - j : cols;
            cpu_weight_block(p->k, w, first_out + j, n, col, n_k, p->a->compute, plain, p->ld);
            p->k->transpose(plain, p->ld, n, n_k, panels + j * p->k_block, cols);
        }
        for (int64_t i = 0; i < p->n_rows; i += rows) {
            int m = (int)(p->n_rows - i < rows ? p->n_rows - i : rows);
            const float *x = p->x + i * w->n_in + col * m;

            for (int64_t j = 0; j < n_out; j += cols)
                p->k->tile(m, n_k, x, panels + j * p->k_block, c + i * p->n_block + j, p->n_block,
                           col > 0);
        }
    }
    write_outputs(p, first_out, n_out, c);
}

static int multiply_rows(struct product *p, struct err *e)
{
    const struct weight *w = p->a->w;
    int64_t n_panels = ceil_div(p->n_rows, p->k->tile_rows);
    bool small = p->n_rows * w->n_out * w->n_in < SMALL_WORK;
    int n_threads = small ? 1 : omp_get_max_threads();

    bool few = p->n_rows <= FEW_ROWS;
    p->k_block = few ? K_BLOCK_FEW : K_BLOCK;
    p->k_block = w->n_in < p->k_block ? (w->n_in + 15) / 16 * 16 : p->k_block;
    p->ld = p->k_block + 16;
    p->n_block = few ? p->k->tile_cols : N_BLOCK;
    while (p->n_block > p->k->tile_cols && ceil_div(w->n_out, p->n_block) < 2 * n_threads)
        p->n_block /= 2;
    int64_t n_tasks = ceil_div(w->n_out, p->n_block);
    p->thread_floats = (size_t)(p->k->tile_cols * p->ld + p->n_block * p->k_block) +
                       (size_t)(p->n_rows * p->n_block);
    size_t x_floats = (size_t)(p->n_rows * w->n_in + 15) / 16 * 16;

    p->x = cpu_scratch((x_floats + p->thread_floats * (size_t)n_threads) * sizeof(float), e);
    if (!p->x)
        return -1;
    p->thread_scratch = p->x + x_floats;
#pragma omp parallel num_threads(n_threads) if (!small)
    {
        float *scratch = p->thread_scratch + p->thread_floats * (size_t)omp_get_thread_num();

#pragma omp for schedule(static)
        for (int64_t panel = 0; panel < n_panels; panel++)
            pack_rows(p, panel, scratch);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < n_tasks; task++)
            multiply(p, task, scratch);
    }
    free(p->x);
    return 0;
}

int cpu_linear(struct backend *b, const struct linear_args *a, struct err *e)
{
    assert(a->x->n_cols == a->w->n_in && a->y->n_cols == a->w->n_out);
    assert(a->n_rows <= a->x->n_rows && a->n_rows <= a->y->n_rows);
    if (a->w->form == WEIGHT_INT8)
        return cpu_linear_int8(b, a, e);

    int64_t n_chunks = ceil_div(a->n_rows, ROWS_AT_ONCE), first = 0;
    for (int64_t i = 0; i < n_chunks; i++) {
        int64_t end = a->n_rows * (i + 1) / n_chunks;
        struct product p = {
            .k = cpu_kernels_of(b), .a = a, .first_row = first, .n_rows = end - first
        };

        if (multiply_rows(&p, e) < 0)
            return err_in(e, "a product of %lld x %lld x %lld", (long long)a->n_rows,
                          (long long)a->w->n_out, (long long)a->w->n_in);
        first = end;
    }
    return 0;
}
