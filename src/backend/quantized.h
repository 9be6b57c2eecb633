/* quantized.h - what a rule makes of a matrix, before any number is computed: form, bits,
 * groups, scales, zeros.  Backends allocate by it, and sizes without weights are counted by it,
 * so the two cannot differ. */
#pragma once

#include "backend/backend.h"

/* Fills shape, forms and code table of *out for a matrix [n_out, n_in]; allocates nothing.
 * Reads every setting of a, not its tensors. */
void quantized_shape(const struct quantize_args *a, int64_t n_out, int64_t n_in,
                     struct weight *out);
