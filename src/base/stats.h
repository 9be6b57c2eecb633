/* stats.h - means, intervals and tests, in double, two-pass, sums in the order given.
 *
 * Formulas: each at its function; Miller, arXiv 2411.00640, for clustered and paired errors.  Fewer
 * than two values give NaN and a reason, never 0; so does a spread of exactly 0, because an
 * interval of width 0 claims a certainty that no sample has.  */
#pragma once

#include "base/distribution.h"

#include <stdbool.h>
#include <stdint.h>

double stats_mean(const double *x, int64_t n);     /* n = 0: NaN */
double stats_sd(const double *x, int64_t n);       /* divisor n - 1; n < 2: NaN */
double stats_skewness(const double *x, int64_t n); /* mean cube / sd^3; NaN without spread */
double stats_median(const double *x, int64_t n);   /* x stays as it is */
double stats_quantile(const double *x, int64_t n, double q); /* linear between order statistics,
                                                                as numpy; a NaN in x gives NaN */
/* Several at once: out[i] is the quantile q[i]. */
void stats_quantiles(const double *x, int64_t n, const double *q, int n_q, double *out);

struct estimate {
    int64_t n, n_clusters;
    double mean, se, df;
    double low, high;     /* NaN where reason says why */
    double p_value;       /* of a mean of 0, two-sided; see below where every value is the same */
    double design_effect; /* (clustered SE / SE of independent items)^2; NaN where not known */
    bool is_constant;     /* every value is the same number */
    const char *reason;   /* "": there is an interval */
};

/* The differences of two configurations, item by item, are values like any others: their estimate
 * is the paired comparison.  Where all of them are one number there is no spread; p_value is then
 * the exact sign-flip probability of n_clusters equal signs, 2^(1 - C), and 1 for 0. */

/* mean +- t * se at another confidence (the 90 % interval of a verdict).  NaN stays NaN. */
void stats_limits(const struct estimate *a, double confidence, double *low, double *high);

/* Independent values: t with n - 1 degrees of freedom. */
struct estimate stats_mean_interval(const double *x, int64_t n, double confidence);

/* group[i]: which of 0 ... C - 1 item i belongs to, groups numbered by rising cluster number.
 * Returns C. */
int64_t stats_groups(const int64_t *cluster, int64_t n, int64_t *group);

/* Values that come in groups (turns of a story): sqrt(C / (C - 1) * sum_c (sum of residuals)^2) /
 * n, t with C - 1.  cluster: [n], any numbers, equal ones belong together.  With singletons the
 * same as stats_mean_interval. */
struct estimate stats_clustered(const double *x, const int64_t *cluster, int64_t n,
                                double confidence);

/* The same items under several seeds, generalised over both: two-way random effects on the sums of
 * residuals of each cluster.  x: [n_items, n_seeds]; cluster: [n_items]. */
struct estimate stats_crossed(const double *x, const int64_t *cluster, int64_t n_items, int n_seeds,
                              double confidence);

/* exp() of the mean and the limits of an estimate on the log scale; se stays on that scale. */
struct estimate stats_exp(struct estimate log_scale);

struct interval {
    double low, high;
};

/* A share of `hits` (need not be whole) among n, Wilson's score interval: never of width 0. */
struct interval stats_wilson(double hits, double n, double confidence);

/* What n independent values in [least, most] that all came out as `value` say about their mean: at
 * most a share z^2 / (n + z^2) of the population differs (Wilson), by no more than the range. */
struct interval stats_constant(double value, int64_t n, double least, double most,
                               double confidence);

/* The interval of a mean of values in [least, most] that never leaves them: Wilson's, with
 * Student's quantile, for as many independent 0/1 values as would have this standard error.  Where
 * the mean is one of the ends there is no spread to go by: NaN, see stats_constant. */
struct interval stats_bounded(const struct estimate *a, double least, double most,
                              double confidence);

/* As if two more clusters had been seen, at -largest and largest (Bonett and Price 2012, who add
 * one to each discordant count of paired 0/1 scores).  Unchanged where there is no standard error,
 * or largest is 0. */
struct estimate stats_two_more(const struct estimate *a, double largest);

/* P-values of "the mean is at most `value`" (small: it is above), and of "|mean| is at least the
 * margin" (TOST: the larger of two one-sided tests; small: equivalent). */
double stats_above(const struct estimate *a, double value);
double stats_equivalence(const struct estimate *a, double margin);

/* The smallest true mean that a sample like this would tell from 0 with that power. */
double stats_detectable(const struct estimate *a, double alpha, double power);

/* 0/1 scores of the same n items: only a right in `only_a` of them, only b in `only_b`. */
struct flips {
    double rate;           /* items on which they disagree */
    double p_exact, p_mid; /* McNemar, two-sided */
};
struct flips stats_mcnemar(int64_t only_a, int64_t only_b, int64_t n);

/* The median's interval from order statistics k and n + 1 - k, whatever the distribution; NaN
 * where n is too small (below 6 at 95 %). */
struct interval stats_median_interval(const double *x, int64_t n, double confidence);

/* Adjusted p-values by Holm; NaN entries are no tests and stay NaN. */
void stats_holm(const double *p, int n, double *adjusted);
