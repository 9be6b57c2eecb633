/* profile.h - what the tasks share: how a prompt becomes ids, and how much may run at once. */
#pragma once

#include "eval/task.h"

/* Appends the ids of a prompt: with the tokenizer's special ids where the profile says so, but
 * without where the text itself starts with BOS (lm-evaluation-harness 0.4.9.2 on).  An id that
 * the model does not know (config) is an error. */
int profile_encode(const struct profile *p, const struct tokenizer *t, const struct config *c,
                   const char *text, size_t n_bytes, struct token_ids *out, struct err *e);
int profile_check_ids(const struct config *c, const int32_t *ids, size_t n, struct err *e);

/* Bytes that the sequences of a batch may take together: a part of what is free, and on a host,
 * where several ranks are to fit, a modest one.  Never changes a result. */
int64_t profile_batch_bytes(const struct model *m);
/* Sequences at a time: as asked, or what fits in that many bytes; 1 to most. */
int profile_batch_size(const struct model *m, int asked, size_t bytes_each, int most);
