/* forward_divergence.h - how far the predictions of two models are apart, row by row, without the
 * logits of all rows ever standing in memory. */
#pragma once

#include "model/model.h"

/* Of one row's prediction, from fp32 logits in fp64. */
struct divergence {
    double kl;            /* sum p ln(p / q), p of the base model; 0 for equal logits */
    double nll_base, nll; /* of the next id */
    bool same_top;        /* both think the same id most likely (the first of equal ones) */
};

/* p and q: logits [n]. */
struct divergence divergence_of(const float *p, const float *q, int64_t n, int32_t target);

/* Both models run the same ids, each with its own working memory and cache.  out [T]: every row
 * but each sequence's last, which has no next id and gets NaN. */
int forward_divergence(struct forward *base, struct kv_cache *base_cache,
                       const struct batch *base_batch, struct forward *f, struct kv_cache *c,
                       const struct batch *batch, struct divergence *out, struct err *e);
