/* divergence.c - how far two rows of logits are apart.  Sums in fp64, in the order of the ids. */
#include "cpu/cpu.h"

#include <assert.h>
#include <math.h>

/* Largest logit, and where it stands first; NaN where one is NaN. */
static double largest(const float *x, int64_t n, int64_t *at)
{
    double most = -INFINITY;

    *at = 0;
    for (int64_t i = 0; i < n; i++) {
        if (isnan(x[i]))
            return NAN;
        if ((double)x[i] > most) {
            most = (double)x[i];
            *at = i;
        }
    }
    return most;
}

static double log_sum_exp(const float *x, int64_t n, double most)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += exp((double)x[i] - most);
    return most + log(sum);
}

struct divergence divergence_of(const float *p, const float *q, int64_t n, int32_t target)
{
    int64_t top_p, top_q;
    double most_p = largest(p, n, &top_p), most_q = largest(q, n, &top_q), kl = 0;
    double log_p = log_sum_exp(p, n, most_p), log_q = log_sum_exp(q, n, most_q);

    if (isnan(log_p) || isnan(log_q))
        return (struct divergence){ NAN, log_p - (double)p[target], log_q - (double)q[target],
                                    false };
    for (int64_t i = 0; i < n; i++) {
        double a = (double)p[i] - log_p, b = (double)q[i] - log_q;
        if (a > -745) /* below, p is 0 in double */
            kl += exp(a) * (a - b);
    }
    return (struct divergence){ .kl = kl < 0 ? 0 : kl, /* only rounding is below 0 */
                                .nll_base = log_p - (double)p[target],
                                .nll = log_q - (double)q[target],
                                .same_top = top_p == top_q };
}

int cpu_divergence(struct backend *b, const struct divergence_args *a, struct err *e)
{
    const int64_t n = a->base->n_cols;

    (void)b, (void)e;
    assert(a->logits->n_cols == n && a->n_rows <= a->base->n_rows &&
           a->n_rows <= a->logits->n_rows);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < a->n_rows; i++)
        a->out[i] = divergence_of((const float *)a->base->data + i * n,
                                  (const float *)a->logits->data + i * n, n, a->targets[i]);
    return 0;
}
