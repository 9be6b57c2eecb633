/* quantize_hqq.c - half-quadratic quantization (Badri, Shaji 2023; quantizers.md 7.2): the scale
 * from the range of a group, the zero point by at most 20 steps that favour few large errors.
 *
 *   q = clamp(rn(W s + z)),  E = W - (q - z) / s,  E' = shrink(E),  z = mean(q - (W - E') s)
 *
 * over all groups of the matrix at once; it ends with the first step after which mean|E| of the
 * whole matrix is no longer smaller, and keeps the zero points of that step.  All in fp32 but for
 * the means (fp64) and the power.  */
#include "base/memory.h"
#include "cpu/quantize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define STEPS     20
#define POWER     (0.7 - 1.0)
#define BETA      10.0f
#define SCALE_MAX 2e4f

struct hqq {
    struct quantize_work *k;
    float most;      /* 2^b - 1 */
    float *s, *z;    /* [n_groups]: multiplies, is added */
    double *row_sum; /* [n_out]: of |E| */
};

static float clamp(float x, float low, float high)
{
    return x < low ? low : x > high ? high : x;
}

static float code_of(const struct hqq *h, float x, int64_t group)
{
    return clamp(rintf(x * h->s[group] + h->z[group]), 0.0f, h->most);
}

static float shrink(float error)
{
    float magnitude = fabsf(error);

    if (magnitude == 0.0f)
        return 0.0f;
    float rest = magnitude - (float)pow((double)magnitude, POWER) / BETA;
    return rest > 0.0f ? copysignf(rest, error) : 0.0f;
}

static void start_group(struct hqq *h, const float *x, int64_t n, int64_t group)
{
    float least, greatest;

    quantize_range(x, n, &least, &greatest);
    float range = greatest - least;
    float s = fabsf(range) <= 1e-4f ? 1.0f : 1.0f / range * h->most;

    s = s < SCALE_MAX ? s : SCALE_MAX;
    h->s[group] = s;
    h->z[group] = -least * s;
    if (h->k->a->round_zero)
        h->z[group] = rintf(h->z[group]);
}

/* One step of one group; the sum of |E|. */
static double improve_group(struct hqq *h, const float *x, int64_t n, int64_t group)
{
    float s = h->s[group], z = h->z[group];
    double errors = 0.0, zeros = 0.0;

    for (int64_t i = 0; i < n; i++) {
        float q = code_of(h, x[i], group);
        float error = x[i] - (q - z) / s;

        errors += (double)fabsf(error);
        zeros += (double)(q - (x[i] - shrink(error)) * s);
    }
    h->z[group] = (float)(zeros / (double)n);
    return errors;
}

enum pass { START, IMPROVE };

/* All groups; rows that hold what is no number are noted in START and left alone afterwards. */
static void run_pass(struct hqq *h, enum pass pass)
{
    struct weight *w = h->k->out;
    int64_t size = w->group_size, per_row = w->n_in / size, refused = INT64_MAX;

#pragma omp parallel
    {
        float *x = mem_array((size_t)w->n_in, sizeof *x);

#pragma omp for schedule(static) reduction(min : refused)
        for (int64_t row = 0; row < w->n_out; row++) {
            if (pass == START &&
                !(quantize_absmax(h->k->a->w, row * w->n_in, w->n_in) < INFINITY)) {
                refused = row * w->n_in < refused ? row * w->n_in : refused;
                continue;
            }
            quantize_widen_row(h->k->a->w, row, x);
            h->row_sum[row] = 0.0;
            for (int64_t i = 0; i < per_row; i++) {
                if (pass == START)
                    start_group(h, x + i * size, size, row * per_row + i);
                else
                    h->row_sum[row] += improve_group(h, x + i * size, size, row * per_row + i);
            }
        }
        free(x);
    }
    if (pass == START)
        h->k->refused_from = refused;
}

static void improve(struct hqq *h)
{
    double best = INFINITY;

    for (int step = 0; step < STEPS; step++) {
        double error = 0.0;

        run_pass(h, IMPROVE);
        for (int64_t row = 0; row < h->k->out->n_out; row++)
            error += h->row_sum[row];
        if (!(error < best))
            break;
        best = error;
    }
}

static void store(struct hqq *h)
{
    struct weight *w = h->k->out;
    int64_t size = w->group_size, per_row = w->n_in / size;

#pragma omp parallel
    {
        float *x = mem_array((size_t)w->n_in, sizeof *x);
        uint8_t *codes = mem_array((size_t)w->n_in, 1);

#pragma omp for schedule(static)
        for (int64_t row = 0; row < w->n_out; row++) {
            quantize_widen_row(h->k->a->w, row, x);
            for (int64_t i = 0; i < w->n_in; i++)
                codes[i] = (uint8_t)code_of(h, x[i], row * per_row + i / size);
            quantize_store_row(w, row, codes);
        }
        free(codes);
        free(x);
    }
    for (int64_t g = 0; g < w->n_groups; g++)
        h->k->scales[g] = 1.0f / h->s[g];
    if (w->zero_form == ZERO_F32)
        memcpy(w->zeros, h->z, (size_t)w->n_groups * sizeof *h->z);
    else
        dtype_from_f32(DTYPE_F16, h->z, w->zeros, w->n_groups);
    /* A group far from zero for its width. */
    for (int64_t g = w->n_groups - 1; w->zero_form == ZERO_F16 && g >= 0; g--)
        if (!(fabsf(h->z[g]) < 65520.0f))
            h->k->refused_from = g / per_row * w->n_in;
}

void quantize_hqq_rows(struct quantize_work *k)
{
    const struct weight *w = k->out;
    struct hqq h = { .k = k, .most = (float)((1 << w->bits) - 1) };

    h.s = mem_array((size_t)w->n_groups, sizeof *h.s);
    h.z = mem_array((size_t)w->n_groups, sizeof *h.z);
    h.row_sum = mem_array((size_t)w->n_out, sizeof *h.row_sum);
    run_pass(&h, START);
    if (k->refused_from == INT64_MAX) {
        improve(&h);
        store(&h);
    }
    free(h.row_sum);
    free(h.z);
    free(h.s);
}
