/* awq_search.h - inner to src/quant: AWQ's two searches on host arrays (quantizers.md 6.4, 6.5),
 * one step at a time, so that a device can take a step over. */
#pragma once

#include "quant/quant.h"

struct awq_form {
    int bits;
    int64_t group_size; /* weights; n_in for one group a row */
    bool zero_point;
};

#define AWQ_RATIOS QUANT_RATIOS

/* Adds to sum [n_in] the rows' |w| over the largest |w| of their group. */
void awq_add_weight_sizes(const float *w, int64_t n_out, int64_t n_in, int64_t group_size,
                          double *sum);

/* s [n] for one ratio; w_mean NULL: without duo scaling. */
void awq_scales(const float *x_mean, const float *w_mean, double ratio, int64_t n, float *s);

/* w [n_out, n_in]: columns times s, to the grid and back, columns over s; s NULL: the grid alone.
 * `host` is the CPU backend. */
int awq_round(struct backend *host, const struct awq_form *f, float *w, int64_t n_out, int64_t n_in,
              const float *s, struct err *e);

/* Clamps w to the range of each row's groups that leaves the least error on x [n_rows, n_in].
 * largest (may be NULL): [n_out * n_in / group_size], the ranges. */
int awq_clip(struct backend *host, const struct awq_form *f, float *w, int64_t n_out, int64_t n_in,
             const float *x, int64_t n_rows, float *largest, struct err *e);
