/* resample.h - what is estimated by drawing again: sign flips, the bootstrap, halves.
 *
 * Draws come from the counter-based generator, by (seed, stream, number of the draw), so a result
 * does not depend on how many ranks or threads there are, nor on what was drawn before.  Whole
 * clusters are flipped and drawn: items of one story are no independent evidence.  */
#pragma once

#include "base/stats.h"

#define RESAMPLE_DRAWS 10000 /* enough for percentiles at 95 % */

/* The two-sided probability of a mean this far from 0 or farther, if every cluster's sum were as
 * likely to have the opposite sign: exact where 2^C choices are at most n_draws, else
 * (1 + those as far) / (n_draws + 1).  NaN for no values or one that is not finite. */
double resample_sign_flip(const double *x, const int64_t *cluster, int64_t n, int n_draws,
                          uint64_t seed);

/* Sums and numbers of items of each cluster: all that a mean needs.  malloc'ed. */
struct cluster_sums {
    int64_t n;
    double *sum;
    int64_t *count;
};
struct cluster_sums cluster_sums(const double *x, const int64_t *cluster, int64_t n);
void cluster_sums_release(struct cluster_sums *s);

/* The mean of the items of the clusters pick[0 .. s->n - 1]. */
double cluster_sums_mean(const struct cluster_sums *s, const int64_t *pick);

/* The mean of the replicate'th draw of as many clusters as there are, with replacement. */
double cluster_sums_draw(const struct cluster_sums *s, uint64_t seed, uint64_t replicate);

/* replicate[n]: the statistic of each draw; left_out[n_clusters]: the statistic without each
 * cluster.  Bias-corrected and accelerated limits (Efron 1987); percentile limits where every
 * replicate lies on one side of the estimate.  NaN where a value is not finite. */
struct interval bootstrap_bca(const double *replicate, int n, double estimate,
                              const double *left_out, int64_t n_clusters, double confidence);

/* The interval of a clustered mean by BCa; NaN below two clusters or without any spread. */
struct interval bootstrap_mean(const double *x, const int64_t *cluster, int64_t n, int n_draws,
                               uint64_t seed, double confidence);

/* Which half an item's document belongs to: the best of many is chosen on one half and confirmed
 * on the other.  By a hash of the name, so every experiment, rank and run agrees. */
bool half_is_confirm(const char *document);
