/* gptq.cuh - inner to GPTQ's solver on the device: the job, and its two stages.
 *
 * Matrices with one element a weight have rows of `ld` elements, a multiple of 128, and columns in
 * the order of settling ("places"); what is behind the last column, or row, is 0.  */
#pragma once

#include "wide.cuh"

#define GPTQ_BLOCK 128 /* columns; part of the definition (src/cpu/gptq_columns.c) */

struct gptq_job {
    enum dtype w_t, source;
    const void *w;                /* [n_out, n], rounded to source as they are read */
    int64_t n_out, n, n_rows, ld; /* n_rows: n_out, padded */

    int bits, group_size, per_row;   /* groups a row */
    bool sym, one_group, in_advance; /* all grids are made before the first column is settled */
    bool f16_scales;
    double mse;
    int n_values; /* of the table, rising; 0: integers */
    float threshold[15], value[16];
    uint8_t code[16];

    const int32_t *perm, *place; /* column at each place, place of each column */
    const int32_t *group;        /* of each place */
    const uint8_t *dead;         /* of each column */
    const float *u;              /* [ld, ld]: U^T U = H^-1, upper triangular */
    float *settled;              /* [n_rows, ld]: weights, then what their codes stand for */
    uint8_t *codes;              /* [n_out, ld] */
    float *scales;               /* [n_out, per_row] */
    uint8_t *zeros;
    float *errors;  /* [GPTQ_BLOCK, n_rows]: of the block that was settled last */
    double *losses; /* [n_out] */
};

/* From the plain weights to codes and values. */
int cuda_gptq_settle(struct cuda_state *s, const struct gptq_job *job, struct err *e);

/* Weight of column `col`, as given. */
__device__ inline float gptq_plain(const struct gptq_job &a, int64_t row, int64_t col)
{
    return round_value(a.source, load_value(a.w_t, a.w, row * a.n + col));
}
