/* gptq_order.h - the order in which GPTQ settles columns, from the diagonal of H: the same on
 * every backend, which brings its diagonal to the host. */
#pragma once

#include "backend/backend.h"

/* diagonal: [n], dead columns already 1.  perm: [n], the column settled at each place.  Equal
 * elements stay in their order. */
void gptq_order_of(enum gptq_order order, const double *diagonal, int64_t n, int64_t group_size,
                   int32_t *perm);
