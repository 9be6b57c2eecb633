/* logits.c - what is read off a row of logits: the greedy next id, the negative log-likelihood
 * of a given one.  Each row alone. */
#include "cpu/cpu.h"

#include <assert.h>
#include <math.h>

static bool listed(int32_t id, const int32_t *ids, int n)
{
    for (int i = 0; i < n; i++)
        if (ids[i] == id)
            return true;
    return false;
}

/* The lowest id of the largest logit that is not forbidden; -1 where every logit is forbidden or
 * one of the row, forbidden or not, is NaN. */
static int32_t best_of(const struct cpu_kernels *k, const float *logits, int64_t n,
                       const struct argmax_args *a)
{
    float most = k->maximum(logits, n);
    int32_t best = -1;

    if (!(most == most))
        return -1;
    for (int64_t id = 0; id < n; id++)
        if (logits[id] == most && !listed((int32_t)id, a->forbidden, a->n_forbidden))
            return (int32_t)id;
    /* The largest are forbidden: look at all others. */
    for (int64_t id = 0; id < n; id++)
        if ((best < 0 || logits[id] > logits[best]) &&
            !listed((int32_t)id, a->forbidden, a->n_forbidden))
            best = (int32_t)id;
    return best;
}

int cpu_argmax(struct backend *b, const struct argmax_args *a, struct err *e)
{
    const int64_t n = a->logits->n_cols;

    (void)e;
    assert(a->logits->dtype == DTYPE_F32 && a->n_rows <= a->logits->n_rows);
#pragma omp parallel for schedule(static) if (a->n_rows * n > 1 << 16)
    for (int64_t row = 0; row < a->n_rows; row++)
        a->out[row] = best_of(cpu_kernels_of(b), (const float *)a->logits->data + row * n, n, a);
    return 0;
}

/* ln x of a normal x > 0 in double, our own because libraries differ in the last bit between
 * processors: x = m 2^n with m near 1, ln m = 2 atanh((m - 1) / (m + 1)) as a series. */
static double natural_log(double x)
{
    int n;
    double m = frexp(x, &n);

    if (m < 0x1.6a09e667f3bcdp-1) {
        m *= 2;
        n--;
    }
    double f = (m - 1) / (m + 1), f2 = f * f, sum = 0;
    for (int i = 23; i >= 3; i -= 2)
        sum = (sum + 1.0 / i) * f2;
    return n * 0x1.62e42fefa39efp-1 + 2 * (f + f * sum);
}

/* ln(sum exp(x - max)) + (max - x[target]): both parts in double, rounded once. */
int cpu_nll(struct backend *b, const struct nll_args *a, struct err *e)
{
    const struct cpu_kernels *k = cpu_kernels_of(b);
    const int64_t n = a->logits->n_cols;

    (void)e;
    assert(a->logits->dtype == DTYPE_F32 && a->n_rows <= a->logits->n_rows);
#pragma omp parallel for schedule(static) if (a->n_rows * n > 1 << 14)
    for (int64_t row = 0; row < a->n_rows; row++) {
        const float *logits = (const float *)a->logits->data + row * n;
        float max = k->maximum(logits, n);

        assert(a->targets[row] >= 0 && a->targets[row] < n);
        if (!isfinite(max)) {
            a->out[row] = NAN;
            continue;
        }
        double sum = k->sum_exp(logits, n, max);
        a->out[row] = (float)(natural_log(sum) + ((double)max - (double)logits[a->targets[row]]));
    }
    return 0;
}
