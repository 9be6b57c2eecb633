/* awq.c - the searches of AWQ on the host (Lin et al., 2023, as AutoAWQ has them): sizes of
 * activations and weights, rounding with scales, sums of squared differences, ranges. */
#include "backend/hqq.h"
#include "base/memory.h"
#include "cpu/cpu.h"
#include "cpu/quantize.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CLIP_STEPS 10 /* of 1/20 each: to 0.55 of the largest */
#define COLUMNS    256

static float largest_of(const float *x, int64_t n)
{
    float largest = 0.0f;

    for (int64_t i = 0; i < n; i++)
        largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    return largest;
}

/* n elements of a row from column col on, widened. */
static void widen(const struct tensor *x, int64_t row, int64_t col, int64_t n, float *out)
{
    const char *data = x->data;

    dtype_to_f32(x->dtype, data + (size_t)(row * x->n_cols + col) * dtype_bytes(x->dtype), out, n);
}

static void narrow(struct tensor *x, int64_t row, int64_t col, int64_t n, const float *from)
{
    char *data = x->data;

    dtype_from_f32(x->dtype, from, data + (size_t)(row * x->n_cols + col) * dtype_bytes(x->dtype),
                   n);
}

/* Columns col .. col + n - 1, at most one group. */
static void add_sizes(const struct awq_sizes_args *a, int64_t col, int64_t n, float *x,
                      double *partial)
{
    for (int i = 0; i < a->segments.n; i++) {
        memset(partial, 0, (size_t)n * sizeof *partial);
        for (int64_t t = a->segments.first_row[i]; t < a->segments.first_row[i + 1]; t++) {
            widen(a->x, t, col, n, x);
            if (a->group_size) {
                const float largest = largest_of(x, n) + 1e-6f;

                for (int64_t c = 0; c < n; c++)
                    x[c] = fabsf(x[c]) / largest;
            }
#pragma omp simd
            for (int64_t c = 0; c < n; c++)
                partial[c] += (double)fabsf(x[c]);
        }
        for (int64_t c = 0; c < n; c++)
            a->sums[col + c] += partial[c];
    }
}

static int sizes(struct backend *b, const struct awq_sizes_args *a, struct err *e)
{
    const int64_t n_cols = a->x->n_cols, piece = a->group_size ? a->group_size : COLUMNS;

    (void)b, (void)e;
    assert(!a->group_size || n_cols % a->group_size == 0);
#pragma omp parallel
    {
        float *x = mem_array((size_t)piece, sizeof *x);
        double *partial = mem_array((size_t)piece, sizeof *partial);

#pragma omp for schedule(static)
        for (int64_t col = 0; col < n_cols; col += piece)
            add_sizes(a, col, n_cols - col < piece ? n_cols - col : piece, x, partial);
        free(partial);
        free(x);
    }
    return 0;
}

static void scale_row(const struct awq_scale_args *a, int64_t row, float *x)
{
    for (int64_t i = 0; i < a->w->n_cols; i++) {
        const float by = a->by[a->by_row ? row : i];

        x[i] = a->divides ? x[i] / by : x[i] * by;
    }
}

static int scale(struct backend *b, const struct awq_scale_args *a, struct err *e)
{
    const int64_t n_cols = a->w->n_cols;

    (void)b, (void)e;
#pragma omp parallel
    {
        float *x = mem_array((size_t)n_cols, sizeof *x);

#pragma omp for schedule(static)
        for (int64_t row = 0; row < a->w->n_rows; row++) {
            widen(a->w, row, 0, n_cols, x);
            scale_row(a, row, x);
            narrow(a->w, row, 0, n_cols, x);
        }
        free(x);
    }
    return 0;
}

/* A group to the grid of what lies in [-most, most], and back. */
static void to_grid(const struct awq_form *f, float *x, int64_t n, float most, uint8_t *codes)
{
    float least, greatest;

    for (int64_t i = 0; i < n; i++)
        x[i] = x[i] < -most ? -most : x[i] > most ? most : x[i];
    quantize_range(x, n, &least, &greatest);
    const struct grid g = grid_of(QUANTIZE_GRID_AWQ, f->bits, !f->zero_point, least, greatest);
    grid_codes(g, f->bits, x, n, codes);
    for (int64_t i = 0; i < n; i++)
        x[i] = ((float)codes[i] - (float)g.zero) * g.scale;
}

static int round_scaled(struct backend *b, const struct awq_round_args *a, struct err *e)
{
    const int64_t n_cols = a->w->n_cols, size = a->form.group_size;

    (void)b, (void)e;
    assert(a->w->dtype == DTYPE_F32 && n_cols % size == 0);
#pragma omp parallel
    {
        float *x = mem_array((size_t)n_cols, sizeof *x);
        uint8_t *codes = mem_array((size_t)size, 1);

#pragma omp for schedule(static)
        for (int64_t row = 0; row < a->w->n_rows; row++) {
            widen(a->w, row, 0, n_cols, x);
            for (int64_t i = 0; i < n_cols; i++)
                x[i] *= a->s[i];
            for (int64_t at = 0; at < n_cols; at += size)
                to_grid(&a->form, x + at, size, INFINITY, codes);
            for (int64_t i = 0; i < n_cols; i++)
                x[i] /= a->s[i];
            narrow(a->out, row, 0, n_cols, x);
        }
        free(codes);
        free(x);
    }
    return 0;
}

static double row_error(const float *x, const float *y, int64_t n)
{
    double lane[HQQ_LANES] = { 0 };

    for (int64_t i = 0; i < n; i++) {
        const double d = (double)x[i] - (double)y[i];

        lane[i / 8 % HQQ_LANES] += d * d;
    }
    for (int half = HQQ_LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            lane[i] += lane[i + half];
    return lane[0];
}

static int errors(struct backend *b, const struct awq_errors_args *a, struct err *e)
{
    const int64_t n_cols = a->x->n_cols;

    (void)b, (void)e;
    assert(!a->y || a->y->n_cols == n_cols);
#pragma omp parallel
    {
        float *x = mem_array((size_t)n_cols, sizeof *x), *y = mem_array((size_t)n_cols, sizeof *y);

#pragma omp for schedule(static)
        for (int64_t row = 0; row < a->n_rows; row++) {
            widen(a->x, row, 0, n_cols, x);
            if (a->y)
                widen(a->y, row, 0, n_cols, y);
            a->sums[row] = row_error(x, y, n_cols);
        }
        free(y);
        free(x);
    }
    return 0;
}

/* ---- ranges ---- */

/* Mean over the rows of x of (x . (rounded - w))^2, one group. */
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

static float best_range(const struct awq_clip_args *a, const float *x, const float *w, float *tried,
                        uint8_t *codes)
{
    const int64_t n = a->form.group_size;
    const float largest = largest_of(w, n);
    double least = 1e9; /* AutoAWQ's; where all are beyond, nothing is clamped */
    float best = largest;

    for (int step = 0; step < CLIP_STEPS; step++) {
        const float most = largest * (float)(1.0 - step / 20.0);

        memcpy(tried, w, (size_t)n * sizeof *tried);
        to_grid(&a->form, tried, n, most, codes);
        const double error = output_error(x, a->n_rows, a->x->n_cols, w, tried, n);
        if (error < least) {
            least = error;
            best = most;
        }
    }
    return best;
}

static int clip(struct backend *b, const struct awq_clip_args *a, struct err *e)
{
    const int64_t n_cols = a->w->n_cols, size = a->form.group_size, per_row = n_cols / size;
    float *w = a->w->data;
    const float *x = a->x->data;

    (void)b, (void)e;
    assert(a->w->dtype == DTYPE_F32 && a->x->dtype == DTYPE_F32 && a->x->n_cols == n_cols);
#pragma omp parallel
    {
        float *tried = mem_array((size_t)size, sizeof *tried);
        uint8_t *codes = mem_array((size_t)size, 1);

#pragma omp for schedule(static)
        for (int64_t k = 0; k < a->w->n_rows * per_row; k++) {
            float *group = w + k * size;
            const float most = best_range(a, x + k % per_row * size, group, tried, codes);

            for (int64_t i = 0; i < size; i++)
                group[i] = group[i] < -most ? -most : group[i] > most ? most : group[i];
            a->largest[k] = most;
        }
        free(codes);
        free(tried);
    }
    return 0;
}

const struct awq_ops cpu_awq = {
    .sizes = sizes,
    .scale = scale,
    .round = round_scaled,
    .errors = errors,
    .clip = clip,
};
