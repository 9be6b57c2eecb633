/* awq_search.c - see awq_search.h. */
#include "quant/awq_search.h"

#include "base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CLIP_STEPS 10 /* of 1/20 each: to 0.55 of the largest */

static float largest_of(const float *x, int64_t n)
{
    float largest = 0.0f;

    for (int64_t i = 0; i < n; i++)
        largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    return largest;
}

void awq_add_weight_sizes(const float *w, int64_t n_out, int64_t n_in, int64_t group_size,
                          double *sum)
{
    for (int64_t row = 0; row < n_out; row++)
        for (int64_t first = 0; first < n_in; first += group_size) {
            const float *x = w + row * n_in + first;
            float largest = largest_of(x, group_size) + 1e-6f;

            for (int64_t i = 0; i < group_size; i++)
                sum[first + i] += (double)(fabsf(x[i]) / largest);
        }
}

void awq_scales(const float *x_mean, const float *w_mean, double ratio, int64_t n, float *s)
{
    float least = INFINITY, most = 0.0f;

    for (int64_t i = 0; i < n; i++) {
        float value = (float)pow((double)x_mean[i], ratio);

        if (w_mean)
            value /= (float)pow((double)w_mean[i], 1.0 - ratio) + 1e-4f;
        s[i] = value > 1e-4f ? value : 1e-4f;
        least = s[i] < least ? s[i] : least;
        most = s[i] > most ? s[i] : most;
    }
    float middle = sqrtf(most * least);
    for (int64_t i = 0; i < n; i++) {
        s[i] /= middle;
        if (!isfinite(s[i]))
            s[i] = 1.0f;
    }
}

/* To the grid and back, in place. */
static int to_grid(struct backend *host, const struct awq_form *f, float *w, int64_t n_out,
                   int64_t n_in, struct err *e)
{
    struct tensor plain = { .data = w, .dtype = DTYPE_F32, .n_rows = n_out, .n_cols = n_in };
    struct weight packed = { 0 };
    const struct quantize_args a = { .w = &plain,
                                     .source = DTYPE_F32,
                                     .rule = QUANTIZE_GRID_AWQ,
                                     .bits = f->bits,
                                     .group_size = f->group_size,
                                     .sym = !f->zero_point,
                                     .out = &packed };

    if (host->ops->quantize(host, &a, e) < 0)
        return -1;
    int rc = host->ops->dequantize(host, &(struct dequantize_args){ &packed, &plain }, e);
    weight_release(host, &packed);
    return rc;
}

static void scale_columns(float *w, int64_t n_out, int64_t n_in, const float *s, bool divide)
{
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < n_out; row++)
        for (int64_t i = 0; i < n_in; i++)
            w[row * n_in + i] = divide ? w[row * n_in + i] / s[i] : w[row * n_in + i] * s[i];
}

int awq_round(struct backend *host, const struct awq_form *f, float *w, int64_t n_out, int64_t n_in,
              const float *s, struct err *e)
{
    if (s)
        scale_columns(w, n_out, n_in, s, false);
    if (to_grid(host, f, w, n_out, n_in, e) < 0)
        return -1;
    if (s)
        scale_columns(w, n_out, n_in, s, true);
    return 0;
}

/* Mean over the rows of x of (x . d)^2, one group. */
static double output_error(const float *x, int64_t n_rows, int64_t ld, const float *w,
                           const float *rounded, int64_t n)
{
    double sum = 0.0;

    for (int64_t t = 0; t < n_rows; t++) {
        double d = 0.0;

#pragma omp simd reduction(+ : d)
        for (int64_t i = 0; i < n; i++)
            d += (double)x[t * ld + i] * ((double)rounded[i] - (double)w[i]);
        sum += d * d;
    }
    return sum / (double)n_rows;
}

int awq_clip(struct backend *host, const struct awq_form *f, float *w, int64_t n_out, int64_t n_in,
             const float *x, int64_t n_rows, float *largest, struct err *e)
{
    const int64_t g = f->group_size, per_row = n_in / g, n_groups = n_out * per_row;
    float *tried = mem_array((size_t)(n_out * n_in), sizeof *tried);
    float *found = mem_array((size_t)n_groups, sizeof *found);
    double *best = mem_array((size_t)n_groups, sizeof *best);
    int rc = 0;

    for (int64_t k = 0; k < n_groups; k++)
        best[k] = 1e9;
    for (int step = 0; step < CLIP_STEPS && rc == 0; step++) {
        for (int64_t k = 0; k < n_groups; k++) {
            float most = largest_of(w + k * g, g) * (float)(1.0 - step / 20.0);

            for (int64_t i = k * g; i < (k + 1) * g; i++)
                tried[i] = w[i] < -most ? -most : w[i] > most ? most : w[i];
        }
        rc = to_grid(host, f, tried, n_out, n_in, e);
#pragma omp parallel for schedule(static)
        for (int64_t k = 0; k < n_groups; k++) {
            double error =
                output_error(x + k % per_row * g, n_rows, n_in, w + k * g, tried + k * g, g);

            if (error < best[k]) {
                best[k] = error;
                found[k] = largest_of(w + k * g, g) * (float)(1.0 - step / 20.0);
            }
        }
    }
    for (int64_t i = 0; i < n_out * n_in && rc == 0; i++) {
        float most = found[i / g];

        w[i] = w[i] < -most ? -most : w[i] > most ? most : w[i];
    }
    if (largest && rc == 0)
        memcpy(largest, found, (size_t)n_groups * sizeof *found);
    free(best);
    free(found);
    free(tried);
    return rc;
}
