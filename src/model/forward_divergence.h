/* forward_divergence.h - how far the predictions of two models are apart, row by row, without the
 * logits of all rows ever standing in memory. */
#pragma once

#include "model/model.h"

/* Both models run the same ids, each with its own working memory and cache.  out [T]: every row
 * but each sequence's last, which has no next id and gets NaN. */
int forward_divergence(struct forward *base, struct kv_cache *base_cache,
                       const struct batch *base_batch, struct forward *f, struct kv_cache *c,
                       const struct batch *batch, struct divergence *out, struct err *e);
