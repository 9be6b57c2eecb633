/* forward_divergence.c - see forward_divergence.h.
 *
 * Each model runs its layers over the batch, then both heads go over the rows in step, a chunk at
 * a time: 2 * rows * V logits, compared on the host.  Sums in fp64, in the order of the ids, so a
 * row's result depends on its logits alone.  */
#include "model/forward_divergence.h"

#include "base/memory.h"
#include "model/forward_parts.h"

#include <math.h>
#include <stdlib.h>

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

/* ---- two models ---- */

/* The layers alone: of the head only what a pass cannot do without. */
static int run_layers(struct forward *f, struct kv_cache *c, const struct batch *batch,
                      int32_t *unused, struct err *e)
{
    struct forward_out out = { .next_ids = unused };

    return forward_run(f, c, batch, WANT_LAST_ARGMAX, NULL, 0, &out, e);
}

static int compare_chunk(struct forward *base, struct forward *f, const struct batch *batch,
                         int64_t first, int64_t n, float *p, float *q, struct divergence *out,
                         struct err *e)
{
    const int64_t vocab = f->model->config.vocab_size;
    const int32_t *wanted = f->host_numbers + NUMBER_WANTED * f->max_rows + first;
    const int32_t *target = f->host_numbers + NUMBER_TARGET * f->max_rows + first;

    if (head_logits(base, batch->phase, first, n, p, e) < 0 ||
        head_logits(f, batch->phase, first, n, q, e) < 0)
        return -1;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        out[wanted[i]] = divergence_of(p + i * vocab, q + i * vocab, vocab, target[i]);
    return 0;
}

int forward_divergence(struct forward *base, struct kv_cache *base_cache,
                       const struct batch *base_batch, struct forward *f, struct kv_cache *c,
                       const struct batch *batch, struct divergence *out, struct err *e)
{
    const int64_t vocab = f->model->config.vocab_size;
    int64_t chunk = base->head_rows < f->head_rows ? base->head_rows : f->head_rows, n_rows = 0;
    int32_t *unused = mem_array((size_t)batch->n_seqs, sizeof *unused);
    float *p = mem_array((size_t)(chunk * vocab), sizeof *p);
    float *q = mem_array((size_t)(chunk * vocab), sizeof *q);
    int rc = -1;

    for (int s = 0; s < batch->n_seqs; s++)
        n_rows += batch->n_tokens[s];
    for (int64_t i = 0; i < n_rows; i++)
        out[i] = (struct divergence){ NAN, NAN, NAN, false };
    if (base->model->config.vocab_size != vocab) {
        err_set(e, ERR_USAGE, "two models with vocabularies of %lld and %lld",
                (long long)base->model->config.vocab_size, (long long)vocab);
        goto done;
    }
    if (run_layers(base, base_cache, base_batch, unused, e) < 0) {
        err_in(e, "the unquantized model");
        goto done;
    }
    if (run_layers(f, c, batch, unused, e) < 0)
        goto done;
    int64_t n = head_list_rows(base, base_batch, e);
    if (n < 0 || head_list_rows(f, batch, e) != n)
        goto done;
    for (int64_t first = 0; first < n; first += chunk)
        if (compare_chunk(base, f, batch, first, n - first < chunk ? n - first : chunk, p, q, out,
                          e) < 0)
            goto done;
    rc = 0;
done:
    free(unused);
    free(p);
    free(q);
    return rc;
}
