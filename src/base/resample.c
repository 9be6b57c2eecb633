/* resample.c - see resample.h. */
#include "base/resample.h"

#include "base/hash.h"
#include "base/memory.h"
#include "base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Sums that differ by less are one sum, added up in another order. */
#define SAME_SUM 1e-12

/* ---- clusters ---- */

struct cluster_sums cluster_sums(const double *x, const int64_t *cluster, int64_t n)
{
    int64_t *group = mem_array((size_t)n, sizeof *group);
    struct cluster_sums s = { .n = stats_groups(cluster, n, group) };

    s.sum = mem_array((size_t)s.n, sizeof *s.sum);
    s.count = mem_array((size_t)s.n, sizeof *s.count);
    for (int64_t i = 0; i < n; i++) {
        s.sum[group[i]] += x[i];
        s.count[group[i]]++;
    }
    free(group);
    return s;
}

void cluster_sums_release(struct cluster_sums *s)
{
    free(s->sum);
    free(s->count);
    *s = (struct cluster_sums){ 0 };
}

double cluster_sums_mean(const struct cluster_sums *s, const int64_t *pick)
{
    double sum = 0;
    int64_t count = 0;

    for (int64_t c = 0; c < s->n; c++) {
        sum += s->sum[pick[c]];
        count += s->count[pick[c]];
    }
    return sum / (double)count;
}

double cluster_sums_draw(const struct cluster_sums *s, uint64_t seed, uint64_t replicate)
{
    uint64_t n = (uint64_t)s->n;
    double sum = 0;
    int64_t count = 0;

    for (uint64_t c = 0; c < n; c++) {
        uint64_t pick = rng_below(seed, RNG_BOOTSTRAP, replicate * n + c, n);
        sum += s->sum[pick];
        count += s->count[pick];
    }
    return sum / (double)count;
}

/* ---- sign flips ---- */

/* Every choice of signs, bit c of the number for cluster c; half of them, by symmetry. */
static double flip_all(const struct cluster_sums *s, double limit)
{
    uint64_t n_choices = UINT64_C(1) << (s->n - 1), as_far = 0;

    for (uint64_t k = 0; k < n_choices; k++) {
        double sum = 0;
        for (int64_t c = 0; c < s->n; c++)
            sum += k >> c & 1 ? -s->sum[c] : s->sum[c];
        as_far += fabs(sum) >= limit;
    }
    return (double)as_far / (double)n_choices;
}

static double flip_drawn(const struct cluster_sums *s, double limit, int n_draws, uint64_t seed)
{
    uint64_t n_words = ((uint64_t)s->n + 63) / 64;
    int as_far = 0;

    for (int k = 0; k < n_draws; k++) {
        double sum = 0;
        uint64_t word = 0;
        for (int64_t c = 0; c < s->n; c++, word >>= 1) {
            if (c % 64 == 0)
                word = rng_u64(seed, RNG_SIGNS, (uint64_t)k * n_words + (uint64_t)c / 64);
            sum += word & 1 ? -s->sum[c] : s->sum[c];
        }
        as_far += fabs(sum) >= limit;
    }
    return (1.0 + as_far) / (1.0 + n_draws);
}

double resample_sign_flip(const double *x, const int64_t *cluster, int64_t n, int n_draws,
                          uint64_t seed)
{
    double sum = 0, size = 0;

    for (int64_t i = 0; i < n; i++) {
        sum += x[i];
        size += fabs(x[i]);
    }
    if (n < 1 || !isfinite(size))
        return NAN;
    struct cluster_sums s = cluster_sums(x, cluster, n);
    double limit = fabs(sum) - SAME_SUM * size;
    bool few = s.n <= 31 && (INT64_C(1) << s.n) <= n_draws;
    double p = few ? flip_all(&s, limit) : flip_drawn(&s, limit, n_draws, seed);
    cluster_sums_release(&s);
    return p;
}

/* ---- bootstrap ---- */

/* The share below the estimate, equal ones half: discrete scores give many of these. */
static double share_below(const double *replicate, int n, double estimate)
{
    double below = 0;

    for (int i = 0; i < n; i++)
        below += replicate[i] < estimate ? 1 : replicate[i] == estimate ? 0.5 : 0;
    return below / n;
}

static double acceleration(const double *left_out, int64_t n)
{
    double mean = stats_mean(left_out, n), squares = 0, cubes = 0;

    for (int64_t i = 0; i < n; i++) {
        double d = mean - left_out[i];
        squares += d * d;
        cubes += d * d * d;
    }
    return squares > 0 ? cubes / (6 * squares * sqrt(squares)) : 0;
}

struct interval bootstrap_bca(const double *replicate, int n, double estimate,
                              const double *left_out, int64_t n_clusters, double confidence)
{
    double below = share_below(replicate, n, estimate), tail = (1 - confidence) / 2;
    double at[2] = { tail, 1 - tail };

    if (n < 2 || n_clusters < 2 || !isfinite(estimate))
        return (struct interval){ NAN, NAN };
    if (below > 0 && below < 1) {
        double z0 = normal_quantile(below), a = acceleration(left_out, n_clusters);
        for (int i = 0; i < 2; i++) {
            double z = z0 + (i ? -normal_quantile(tail) : normal_quantile(tail));
            at[i] = normal_cdf(z0 + z / (1 - a * z));
        }
    }
    return (struct interval){ stats_quantile(replicate, n, at[0]),
                              stats_quantile(replicate, n, at[1]) };
}

struct interval bootstrap_mean(const double *x, const int64_t *cluster, int64_t n, int n_draws,
                               uint64_t seed, double confidence)
{
    struct interval out = { NAN, NAN };
    struct cluster_sums s = cluster_sums(x, cluster, n);
    double *replicate = mem_array((size_t)n_draws, sizeof *replicate);
    double *left_out = mem_array((size_t)s.n, sizeof *left_out), sum = 0;
    bool differ = false;

    for (int64_t c = 0; c < s.n; c++)
        sum += s.sum[c];
    for (int64_t i = 1; i < n; i++)
        differ = differ || x[i] != x[0];
    if (s.n >= 2 && differ && isfinite(sum)) {
        for (int k = 0; k < n_draws; k++)
            replicate[k] = cluster_sums_draw(&s, seed, (uint64_t)k);
        for (int64_t c = 0; c < s.n; c++)
            left_out[c] = (sum - s.sum[c]) / (double)(n - s.count[c]);
        out = bootstrap_bca(replicate, n_draws, sum / (double)n, left_out, s.n, confidence);
    }
    free(left_out);
    free(replicate);
    cluster_sums_release(&s);
    return out;
}

/* ---- halves ---- */

bool half_is_confirm(const char *document)
{
    char text[HASH_TEXT_MAX];

    hash_bytes(document, strlen(document), text);
    return strchr("13579bdf", text[0]) != NULL;
}
