/* stats.c - see stats.h. */
#include "base/stats.h"

#include "base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char too_few[] = "fewer than two values";
static const char too_few_clusters[] = "fewer than two groups";
static const char not_finite[] = "a value is not finite";
static const char no_spread[] = "no spread";

/* A spread this small beside the values is rounding. */
#define SPREAD_MIN 1e-13

double stats_mean(const double *x, int64_t n)
{
    double sum = 0, rest = 0;

    if (n < 1)
        return NAN;
    for (int64_t i = 0; i < n; i++)
        sum += x[i];
    double mean = sum / (double)n;
    /* The second pass makes the mean of equal values that value. */
    for (int64_t i = 0; i < n; i++)
        rest += x[i] - mean;
    return isfinite(rest) ? mean + rest / (double)n : mean;
}

double stats_sd(const double *x, int64_t n)
{
    double mean = stats_mean(x, n), sum = 0;

    if (n < 2)
        return NAN;
    for (int64_t i = 0; i < n; i++)
        sum += (x[i] - mean) * (x[i] - mean);
    return sqrt(sum / (double)(n - 1));
}

double stats_skewness(const double *x, int64_t n)
{
    double mean = stats_mean(x, n), squares = 0, cubes = 0;

    for (int64_t i = 0; i < n; i++) {
        double d = x[i] - mean;
        squares += d * d;
        cubes += d * d * d;
    }
    return n > 1 && squares > 0 ? cubes / (double)n / pow(squares / (double)n, 1.5) : NAN;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* A sorted copy, or NULL where a NaN has no place in an order. */
static double *sorted(const double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (isnan(x[i]))
            return NULL;
    double *copy = mem_array((size_t)n, sizeof *copy);
    if (n)
        memcpy(copy, x, (size_t)n * sizeof *copy);
    qsort(copy, (size_t)n, sizeof *copy, by_value);
    return copy;
}

/* Of values in their order. */
static double quantile_of(const double *s, int64_t n, double q)
{
    if (!(q >= 0 && q <= 1))
        return NAN;
    double at = q * (double)(n - 1);
    int64_t i = (int64_t)at;
    double part = at - (double)i;
    return part > 0 && s[i] != s[i + 1] ? s[i] + part * (s[i + 1] - s[i]) : s[i];
}

void stats_quantiles(const double *x, int64_t n, const double *q, int n_q, double *out)
{
    double *s = n < 1 ? NULL : sorted(x, n);

    for (int i = 0; i < n_q; i++)
        out[i] = s ? quantile_of(s, n, q[i]) : NAN;
    free(s);
}

double stats_quantile(const double *x, int64_t n, double q)
{
    double value;

    stats_quantiles(x, n, &q, 1, &value);
    return value;
}

double stats_median(const double *x, int64_t n)
{
    return stats_quantile(x, n, 0.5);
}

void stats_limits(const struct estimate *a, double confidence, double *low, double *high)
{
    /* The lower quantile, negated: 1 - alpha / 2 would round. */
    double t = *a->reason ? NAN : -student_quantile((1 - confidence) / 2, a->df);

    *low = a->mean - t * a->se;
    *high = a->mean + t * a->se;
}

/* The estimate whose standard error is not known, and why. */
static struct estimate unknown(double mean, int64_t n, int64_t n_clusters, const char *reason)
{
    return (struct estimate){ .n = n,
                              .n_clusters = n_clusters,
                              .mean = mean,
                              .se = NAN,
                              .df = NAN,
                              .low = NAN,
                              .high = NAN,
                              .p_value = NAN,
                              .design_effect = NAN,
                              .reason = reason };
}

static struct estimate no_estimate_of_spread(struct estimate a, const double *x)
{
    struct estimate out = unknown(a.mean, a.n, a.n_clusters, no_spread);

    out.is_constant = true;
    for (int64_t i = 1; i < a.n && out.is_constant; i++)
        out.is_constant = x[i] == x[0];
    if (out.is_constant)
        out.p_value = x[0] == 0 ? 1 : exp2(1 - (double)a.n_clusters);
    return out;
}

/* Completes an estimate of x [a.n], refusing a standard error that is only rounding. */
static struct estimate known(struct estimate a, const double *x, double confidence)
{
    double largest = 0;

    for (int64_t i = 0; i < a.n; i++)
        largest = fmax(largest, fabs(x[i]));
    if (!isfinite(a.mean) || !isfinite(a.se))
        return unknown(a.mean, a.n, a.n_clusters, not_finite);
    if (!(a.se > SPREAD_MIN * largest / sqrt((double)a.n)))
        return no_estimate_of_spread(a, x);
    a.reason = "";
    a.p_value = student_two_sided(a.mean / a.se, a.df);
    stats_limits(&a, confidence, &a.low, &a.high);
    return a;
}

struct estimate stats_mean_interval(const double *x, int64_t n, double confidence)
{
    double mean = stats_mean(x, n);

    if (n < 2)
        return unknown(mean, n, n, too_few);
    struct estimate a = { .n = n, .n_clusters = n, .mean = mean, .design_effect = 1 };
    a.se = stats_sd(x, n) / sqrt((double)n);
    a.df = (double)(n - 1);
    return known(a, x, confidence);
}

/* ---- clusters ---- */

struct place {
    int64_t cluster, item;
};

static int by_cluster(const void *a, const void *b)
{
    const struct place *x = a, *y = b;

    if (x->cluster != y->cluster)
        return x->cluster < y->cluster ? -1 : 1;
    return (x->item > y->item) - (x->item < y->item);
}

int64_t stats_groups(const int64_t *cluster, int64_t n, int64_t *group)
{
    struct place *p = mem_array((size_t)n, sizeof *p);
    int64_t n_groups = 0;

    for (int64_t i = 0; i < n; i++)
        p[i] = (struct place){ cluster[i], i };
    qsort(p, (size_t)n, sizeof *p, by_cluster);
    for (int64_t i = 0; i < n; i++) {
        n_groups += i == 0 || p[i].cluster != p[i - 1].cluster;
        group[p[i].item] = n_groups - 1;
    }
    free(p);
    return n_groups;
}

struct estimate stats_clustered(const double *x, const int64_t *cluster, int64_t n,
                                double confidence)
{
    double mean = stats_mean(x, n), squares = 0;

    if (n < 2)
        return unknown(mean, n, n, too_few);
    int64_t *group = mem_array((size_t)n, sizeof *group);
    int64_t n_groups = stats_groups(cluster, n, group);
    double *sum = mem_array((size_t)n_groups, sizeof *sum);

    for (int64_t i = 0; i < n; i++)
        sum[group[i]] += x[i] - mean;
    for (int64_t c = 0; c < n_groups; c++)
        squares += sum[c] * sum[c];
    free(sum);
    free(group);
    if (n_groups < 2)
        return unknown(mean, n, n_groups, too_few_clusters);

    struct estimate a = { .n = n, .n_clusters = n_groups, .mean = mean };
    double iid = stats_sd(x, n) / sqrt((double)n);
    a.se = sqrt((double)n_groups / (double)(n_groups - 1) * squares) / (double)n;
    a.df = (double)(n_groups - 1);
    a.design_effect = a.se * a.se / (iid * iid);
    return known(a, x, confidence);
}

/* Mean squares of a table t [n_rows, n_columns]: rows, columns, rest. */
static void mean_squares(const double *t, int64_t n_rows, int n_columns, double ms[3])
{
    double *row = mem_array((size_t)n_rows, sizeof *row);
    double *column = mem_array((size_t)n_columns, sizeof *column), all = 0;

    for (int64_t i = 0; i < n_rows; i++)
        for (int j = 0; j < n_columns; j++) {
            row[i] += t[i * n_columns + j] / n_columns;
            column[j] += t[i * n_columns + j] / (double)n_rows;
        }
    for (int64_t i = 0; i < n_rows; i++)
        all += row[i] / (double)n_rows;
    ms[0] = ms[1] = ms[2] = 0;
    for (int64_t i = 0; i < n_rows; i++)
        ms[0] += (row[i] - all) * (row[i] - all);
    for (int j = 0; j < n_columns; j++)
        ms[1] += (column[j] - all) * (column[j] - all);
    for (int64_t i = 0; i < n_rows; i++)
        for (int j = 0; j < n_columns; j++) {
            double rest = t[i * n_columns + j] - row[i] - column[j] + all;
            ms[2] += rest * rest;
        }
    double row_df = (double)(n_rows - 1), column_df = n_columns - 1;
    ms[0] *= n_columns / row_df;
    ms[1] *= (double)n_rows / column_df;
    ms[2] /= row_df * column_df;
    free(row);
    free(column);
}

struct estimate stats_crossed(const double *x, const int64_t *cluster, int64_t n_items, int n_seeds,
                              double confidence)
{
    int64_t n = n_items * n_seeds;
    double mean = stats_mean(x, n), ms[3];

    if (n_items < 2 || n_seeds < 2)
        return unknown(mean, n, n_items, too_few);
    int64_t *group = mem_array((size_t)n_items, sizeof *group);
    int64_t n_groups = stats_groups(cluster, n_items, group);
    double *sum = mem_array((size_t)n_groups * (size_t)n_seeds, sizeof *sum);

    for (int64_t i = 0; i < n_items; i++)
        for (int r = 0; r < n_seeds; r++)
            sum[group[i] * n_seeds + r] += x[i * n_seeds + r] - mean;
    if (n_groups >= 2)
        mean_squares(sum, n_groups, n_seeds, ms);
    free(sum);
    free(group);
    if (n_groups < 2)
        return unknown(mean, n, n_groups, too_few_clusters);

    struct estimate a = { .n = n, .n_clusters = n_groups, .mean = mean, .design_effect = NAN };
    double both = ms[0] + ms[1] - ms[2], rows = (double)(n_groups - 1), seeds = n_seeds - 1;
    double variance = fmax(both, fmax(ms[0], ms[1])) / ((double)n_groups * n_seeds);
    a.se = sqrt(variance) * (double)n_groups / (double)n_items;
    a.df = both * both /
           (ms[0] * ms[0] / rows + ms[1] * ms[1] / seeds + ms[2] * ms[2] / (rows * seeds));
    a.df = fmax(a.df, 1); /* where the parts cancel, the formula falls below what any sample has */
    return known(a, x, confidence);
}

struct estimate stats_exp(struct estimate log_scale)
{
    log_scale.mean = exp(log_scale.mean);
    log_scale.low = exp(log_scale.low);
    log_scale.high = exp(log_scale.high);
    return log_scale;
}

/* ---- shares, medians, many tests ---- */

struct interval stats_wilson(double hits, double n, double confidence)
{
    if (!(n > 0 && hits >= 0 && hits <= n))
        return (struct interval){ NAN, NAN };
    double z = -normal_quantile((1 - confidence) / 2), p = hits / n, z2 = z * z;
    double centre = (p + z2 / (2 * n)) / (1 + z2 / n);
    double half = z / (1 + z2 / n) * sqrt(p * (1 - p) / n + z2 / (4 * n * n));

    return (struct interval){ hits == 0 ? 0 : centre - half, hits == n ? 1 : centre + half };
}

struct interval stats_constant(double value, int64_t n, double least, double most,
                               double confidence)
{
    if (n < 1 || !(least <= value && value <= most))
        return (struct interval){ NAN, NAN };
    double z = -normal_quantile((1 - confidence) / 2), share = z * z / ((double)n + z * z);

    return (struct interval){ value - share * (value - least), value + share * (most - value) };
}

struct interval stats_bounded(const struct estimate *a, double least, double most,
                              double confidence)
{
    double range = most - least, p = (a->mean - least) / range;

    if (*a->reason || !(p > 0 && p < 1))
        return (struct interval){ NAN, NAN };
    double t = -student_quantile((1 - confidence) / 2, a->df);
    double u = t * a->se / range, u2 = u * u / (p * (1 - p)); /* t^2 / n for n = p (1 - p) / se^2 */
    double centre = (p + u2 / 2) / (1 + u2);
    double half = sqrt(u * u + u2 * u2 / 4) / (1 + u2);

    return (struct interval){ least + range * fmax(0, centre - half),
                              least + range * fmin(1, centre + half) };
}

struct estimate stats_two_more(const struct estimate *a, double largest)
{
    double n = (double)a->n_clusters;
    struct estimate out = *a;

    if (*a->reason || largest == 0)
        return out;
    out.mean = a->mean * n / (n + 2);
    out.se = sqrt(a->se * a->se * n * n + 2 * largest * largest) / (n + 2);
    return out;
}

double stats_above(const struct estimate *a, double value)
{
    return *a->reason ? NAN : student_cdf((value - a->mean) / a->se, a->df);
}

double stats_equivalence(const struct estimate *a, double margin)
{
    struct estimate mirrored = *a;

    mirrored.mean = -a->mean;
    return fmax(stats_above(a, -margin), stats_above(&mirrored, -margin));
}

double stats_detectable(const struct estimate *a, double alpha, double power)
{
    return *a->reason ? NAN : (normal_quantile(power) - normal_quantile(alpha / 2)) * a->se;
}

struct flips stats_mcnemar(int64_t only_a, int64_t only_b, int64_t n)
{
    int64_t flips = only_a + only_b, few = only_a < only_b ? only_a : only_b;
    struct flips out = { n > 0 ? (double)flips / (double)n : NAN, 1, 1 };

    if (only_a < 0 || only_b < 0 || flips > n)
        return (struct flips){ NAN, NAN, NAN };
    if (flips == 0)
        return out;
    double tail = binomial_half_cdf((long)flips, (long)few);
    double last = tail - binomial_half_cdf((long)flips, (long)few - 1);
    out.p_exact = fmin(1, 2 * tail);
    out.p_mid = fmin(1, 2 * tail - last);
    return out;
}

struct interval stats_median_interval(const double *x, int64_t n, double confidence)
{
    int64_t k = 0;

    while (k < n / 2 && binomial_half_cdf(n, k) <= (1 - confidence) / 2)
        k++;
    double *s = k ? sorted(x, n) : NULL;
    if (!s)
        return (struct interval){ NAN, NAN };
    struct interval i = { s[k - 1], s[n - k] };
    free(s);
    return i;
}

struct ranked {
    double p;
    int at;
};

static int by_p(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;

    if (x->p != y->p)
        return x->p < y->p ? -1 : 1;
    return x->at - y->at;
}

void stats_holm(const double *p, int n, double *adjusted)
{
    struct ranked *r = mem_array((size_t)n, sizeof *r);
    int n_tests = 0;
    double largest = 0;

    for (int i = 0; i < n; i++) {
        adjusted[i] = NAN;
        if (!isnan(p[i]))
            r[n_tests++] = (struct ranked){ p[i], i };
    }
    qsort(r, (size_t)n_tests, sizeof *r, by_p);
    for (int k = 0; k < n_tests; k++) {
        largest = fmax(largest, fmin(1, (n_tests - k) * r[k].p));
        adjusted[r[k].at] = largest;
    }
    free(r);
}
