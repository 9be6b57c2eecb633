/* gram.cuh - inner to x^T x: the job, and how sums get into h.  gram.cu starts it. */
#pragma once

#include "wide.cuh"

#define GRAM_COLS 128 /* of h, both ways, that a block makes */

struct gram_job {
    const void *x;
    float *h;
    int64_t n_rows, n_cols;
    bool fresh;
};

/* 16-bit rows that are whole vectors, at least one, on Hopper. */
int cuda_gram_sm90(struct cuda_state *s, const struct gram_job *job, enum dtype t, struct err *e);

/* 16 rows of 8 N columns: a lane has pairs of columns of row `row` and, 8 below, of another.  All
 * of h is read before anything is written.  Of a tile on the diagonal the upper half counts. */
template <int N>
__device__ inline void gram_end_rows(const struct gram_job &a, int64_t row, int64_t col,
                                     const float (&c)[N][4])
{
    float *upper = a.h + row * a.n_cols + col, *lower = a.h + col * a.n_cols + row;
    float2 old[N][2] = {};

#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int half = 0; half < 2; half++)
            if (!a.fresh && row + 8 * half <= col + 8 * j + 1 && col + 8 * j < a.n_cols)
                old[j][half] = *(const float2 *)(upper + 8 * half * a.n_cols + 8 * j);
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int64_t m = row + 8 * half, n = col + 8 * j;
            const float x = old[j][half].x + c[j][2 * half];
            const float y = old[j][half].y + c[j][2 * half + 1];

            if (n >= a.n_cols || m > n + 1)
                continue;
            if (m <= n) {
                *(float2 *)(upper + 8 * half * a.n_cols + 8 * j) = make_float2(x, y);
                lower[8 * j * a.n_cols + 8 * half] = x;
            } else {
                upper[8 * half * a.n_cols + 8 * j + 1] = y;
            }
            lower[(8 * j + 1) * a.n_cols + 8 * half] = y;
        }
}
