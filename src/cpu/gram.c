/* gram.c - x^T x, added to h: a tile of h at a time, its sum over the rows in fp64 and in their
 * order, rounded once; the lower half is a copy of the upper. */
#include "cpu/cpu.h"

#include <assert.h>
#include <stdlib.h>

#define TILE       64
#define ROWS_BLOCK 256

/* Columns first .. first + n of rows first_row .. as doubles: out [n_rows, TILE]. */
static void widen(const struct tensor *x, int64_t first_row, int64_t n_rows, int64_t first,
                  int64_t n, double *out)
{
    size_t element = dtype_bytes(x->dtype);
    float values[TILE];

    for (int64_t t = 0; t < n_rows; t++) {
        size_t at = (size_t)((first_row + t) * x->n_cols + first) * element;

        dtype_to_f32(x->dtype, (const char *)x->data + at, values, n);
        for (int64_t i = 0; i < n; i++)
            out[t * TILE + i] = (double)values[i];
        for (int64_t i = n; i < TILE; i++)
            out[t * TILE + i] = 0.0;
    }
}

static void add_products(const double *a, const double *b, int64_t n_rows, double *sum)
{
    for (int64_t t = 0; t < n_rows; t++)
        for (int64_t i = 0; i < TILE; i++) {
            double left = a[t * TILE + i];

#pragma omp simd
            for (int64_t j = 0; j < TILE; j++)
                sum[i * TILE + j] += left * b[t * TILE + j];
        }
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void tile(const struct gram_args *a, int64_t row, int64_t col, double *scratch)
{
    int64_t n_cols = a->x->n_cols, m = least(TILE, n_cols - row), n = least(TILE, n_cols - col);
    double *left = scratch, *right = left + ROWS_BLOCK * TILE, *sum = right + ROWS_BLOCK * TILE;
    float *h = a->h->data;

    for (int64_t i = 0; i < TILE * TILE; i++)
        sum[i] = 0.0;
    for (int64_t t = 0; t < a->n_rows; t += ROWS_BLOCK) {
        int64_t n_rows = least(ROWS_BLOCK, a->n_rows - t);

        widen(a->x, t, n_rows, row, m, left);
        widen(a->x, t, n_rows, col, n, right);
        add_products(left, right, n_rows, sum);
    }
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = row == col ? i : 0; j < n; j++) {
            float before = a->fresh ? 0.0f : h[(row + i) * n_cols + col + j];
            float value = before + (float)sum[i * TILE + j];

            h[(row + i) * n_cols + col + j] = value;
            h[(col + j) * n_cols + row + i] = value;
        }
}

int cpu_gram(struct backend *b, const struct gram_args *a, struct err *e)
{
    int64_t n_tiles = (a->x->n_cols + TILE - 1) / TILE;
    size_t scratch_bytes = (size_t)(2 * ROWS_BLOCK * TILE + TILE * TILE) * sizeof(double);
    bool refused = false;

    (void)b;
    assert(a->h->dtype == DTYPE_F32 && a->h->n_rows == a->x->n_cols &&
           a->h->n_cols == a->x->n_cols);
    assert(a->n_rows <= a->x->n_rows);
#pragma omp parallel reduction(|| : refused)
    {
        double *scratch = aligned_alloc(64, scratch_bytes);

        refused = !scratch;
#pragma omp for schedule(dynamic)
        for (int64_t k = 0; k < n_tiles * n_tiles; k++)
            if (scratch && k / n_tiles <= k % n_tiles)
                tile(a, k / n_tiles * TILE, k % n_tiles * TILE, scratch);
        free(scratch);
    }
    return refused ? err_set(e, ERR_MEMORY, "does not fit: the host refused scratch for x^T x") : 0;
}
