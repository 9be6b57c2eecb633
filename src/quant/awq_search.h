/* awq_search.h - inner to src/quant: the scales that AWQ tries.  What it does
 * with them is the backend's (struct awq_ops). */
#pragma once

#include "quant/quant.h"

#define AWQ_RATIOS QUANT_RATIOS

/* s [n] for one ratio; w_mean NULL: without duo scaling. */
void awq_scales(const float *x_mean, const float *w_mean, double ratio, int64_t n, float *s);
