/* quantize_hqq.c - half-quadratic quantization (Badri, Shaji 2023): the scale
 * from the range of a group, the zero point by at most 20 steps that favour few large errors.
 *
 *   q = clamp(rn(W s + z)),  E = W - (q - z) / s,  E' = shrink(E),  z = mean(q - (W - E') s)
 *
 * over all groups of the matrix at once; it ends with the first step after which mean|E| of the
 * whole matrix is no longer smaller, and keeps the zero points of that step.  All in fp32 but for
 * the means (fp64), whose sums have the order of backend/hqq.h.  */
#include "backend/hqq.h"
#include "base/memory.h"
#include "cpu/quantize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double tenths[10] = HQQ_TENTHS;

struct hqq {
    struct quantize_work *k;
    float most;      /* 2^b - 1 */
    float *s, *z;    /* [n_groups]: multiplies, is added */
    double *row_sum; /* [n_out]: of |E| */
};

/* Lanes by halves. */
static double add_lanes(double *lane, int n)
{
    for (int half = n / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            lane[i] += lane[i + half];
    return lane[0];
}

/* Is the group's range a number? */
static bool start_group(struct hqq *h, const float *x, int64_t n, int64_t group)
{
    float least, greatest;

    quantize_range(x, n, &least, &greatest);
    const float range = greatest - least, s = hqq_scale(range, h->most);

    h->s[group] = s;
    h->z[group] = -least * s;
    if (h->k->a->round_zero)
        h->z[group] = rintf(h->z[group]);
    return range < INFINITY;
}

/* One step of one group; the sum of |E|. */
static double improve_group(struct hqq *h, const float *x, int64_t n, int64_t group)
{
    const int team = hqq_team(n);
    float s = h->s[group], z = h->z[group];
    double errors[HQQ_LANES], zeros[HQQ_LANES];

    memset(errors, 0, (size_t)team * sizeof *errors);
    memset(zeros, 0, (size_t)team * sizeof *zeros);
    for (int64_t i = 0; i < n; i++) {
        const int lane = (int)(i / 8 % HQQ_LANES);
        float q = hqq_code(x[i], s, z, h->most);
        float error = x[i] - (q - z) / s;

        errors[lane] += (double)fabsf(error);
        zeros[lane] += (double)(q - (x[i] - hqq_shrink(error, tenths)) * s);
    }
    h->z[group] = (float)(add_lanes(zeros, team) / (double)n);
    return add_lanes(errors, team);
}

enum pass { START, IMPROVE };

/* All groups; in START rows that hold what is no number, or whose range is none, are noted. */
static void run_pass(struct hqq *h, enum pass pass)
{
    struct weight *w = h->k->out;
    int64_t size = w->group_size, per_row = w->n_in / size, refused = INT64_MAX;
    const int n_lanes = HQQ_LANES / hqq_team(size);

#pragma omp parallel
    {
        float *x = mem_array((size_t)w->n_in, sizeof *x);
        double lane[HQQ_LANES];

#pragma omp for schedule(static) reduction(min : refused)
        for (int64_t row = 0; row < w->n_out; row++) {
            if (pass == START &&
                !(quantize_absmax(h->k->a->w, row * w->n_in, w->n_in) < INFINITY)) {
                refused = row * w->n_in < refused ? row * w->n_in : refused;
                continue;
            }
            quantize_widen_row(h->k->a->w, row, x);
            memset(lane, 0, sizeof lane);
            for (int64_t i = 0; i < per_row; i++) {
                if (pass == IMPROVE)
                    lane[i % n_lanes] += improve_group(h, x + i * size, size, row * per_row + i);
                else if (!start_group(h, x + i * size, size, row * per_row + i) &&
                         row * w->n_in < refused)
                    refused = row * w->n_in;
            }
            h->row_sum[row] = add_lanes(lane, n_lanes);
        }
        free(x);
    }
    if (pass == START)
        h->k->refused_from = refused;
}

static void improve(struct hqq *h)
{
    double best = INFINITY;

    for (int step = 0; step < HQQ_STEPS; step++) {
        double lane[HQQ_LANES] = { 0 };

        run_pass(h, IMPROVE);
        for (int64_t row = 0; row < h->k->out->n_out; row++)
            lane[row % HQQ_LANES] += h->row_sum[row];
        double error = add_lanes(lane, HQQ_LANES);
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
                codes[i] = (uint8_t)hqq_code(x[i], h->s[row * per_row + i / size],
                                             h->z[row * per_row + i / size], h->most);
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
    /* A group far from zero for its width, or a very wide one. */
    for (int64_t g = w->n_groups - 1; g >= 0; g--)
        if ((w->zero_form == ZERO_F16 && !(fabsf(h->z[g]) < 65520.0f)) ||
            !(grid_stored_scale(h->k->scales[g], w) < INFINITY))
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
