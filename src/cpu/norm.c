/* norm.c - RMSNorm (Zhang and Sennrich, 2019) with the rounding points of Hugging Face's
 * LlamaRMSNorm. */
#include "cpu/cpu.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#define LANES 16 /* partial sums: element i is added to sum i % 16 */

/* Mean of squares of one row: 16 sums in order, then halves.  The order depends on n alone. */
static float mean_square(const float *x, int64_t n)
{
    float sum[LANES] = { 0 };

    for (int64_t i = 0; i < n; i += LANES)
        for (int64_t j = 0; j < LANES && i + j < n; j++)
            sum[j] += x[i + j] * x[i + j];
    for (int half = LANES / 2; half; half /= 2)
        for (int j = 0; j < half; j++)
            sum[j] += sum[j + half];
    return sum[0] / (float)n;
}

/* A row of out depends on the same row of x alone. */
int cpu_norm(struct backend *b, const struct norm_args *a, struct err *e)
{
    const struct tensor *x = a->x;
    int64_t n = x->n_cols;
    size_t n_bytes = dtype_bytes(x->dtype);

    (void)b;
    assert(a->out->dtype == x->dtype && a->out->n_cols == n && a->weight->n_cols == n);
    float *scratch = cpu_scratch((size_t)(n * (1 + a->n_rows)) * sizeof(float), e);
    if (!scratch)
        return -1;
    dtype_to_f32(a->weight->dtype, a->weight->data, scratch, n);
#pragma omp parallel for schedule(static) if (a->n_rows > 4)
    for (int64_t row = 0; row < a->n_rows; row++) {
        float *u = scratch + n * (1 + row);
        size_t at = (size_t)(row * n) * n_bytes;

        dtype_to_f32(x->dtype, (const char *)x->data + at, u, n);
        float factor = 1.0f / sqrtf(mean_square(u, n) + a->eps);
        for (int64_t i = 0; i < n; i++)
            u[i] *= factor;
        dtype_round(x->dtype, u, n);
        for (int64_t i = 0; i < n; i++)
            u[i] *= scratch[i];
        dtype_from_f32(x->dtype, u, (char *)a->out->data + at, n);
    }
    free(scratch);
    return 0;
}
