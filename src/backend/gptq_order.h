/* gptq_order.h - the parts of GPTQ that look at the diagonal of H alone and run on the host,
 * whatever the backend: dead columns, the order of the others, how much is added to the diagonal,
 * and what is refused. */
#pragma once

#include "backend/backend.h"

/* factor * (diagonal of a->h, given in h) as doubles; a dead column (0) becomes 1.  Refused where
 * an element is no sum of squares. */
int gptq_read_diagonal(const struct gptq_args *a, const float *h, double *diagonal, bool *dead,
                       struct err *e);

/* diagonal: [n], dead columns already 1.  perm: [n], the column settled at each place.  Equal
 * elements stay in their order. */
void gptq_order_of(enum gptq_order order, const double *diagonal, int64_t n, int64_t group_size,
                   int32_t *perm);

/* The group whose grid each place takes: by place, or by its own column. */
void gptq_groups_of(const struct gptq_args *a, const int32_t *perm, int32_t *group);
/* Are there groups that do not lie together in a row as it is stored? */
bool gptq_scatters_groups(const struct gptq_args *a);

/* A pivot that is no larger than this part of its diagonal element is what rounding has left of a
 * matrix that is not positive definite: H itself has 24 bits. */
#define GPTQ_LEAST_PIVOT 0x1p-44

/* Factorises H with `added` on its diagonal: 1; it is not positive definite: 0; -1: failed. */
typedef int gptq_factor_fn(void *context, double added, struct err *e);
/* By growing additions until one does; a->result says which. */
int gptq_factor(const struct gptq_args *a, const double *diagonal, gptq_factor_fn *factor,
                void *context, struct err *e);

/* -1: row `row` of the weights holds an infinity or a NaN (row < 0: 0). */
int gptq_check_row(int64_t row, struct err *e);
/* Larger magnitudes than this and what is equal to it are no numbers in a->source. */
float gptq_limit(const struct gptq_args *a);

/* What rounding with the same settings makes: the form of the weight. */
struct quantize_args gptq_form(const struct gptq_args *a);

/* Sums of the rows, in their order, into a->result: losses, d H d^T of D = W - Q, and of W. */
void gptq_sum_up(const struct gptq_args *a, const double *losses, const double *errors,
                 const double *squares);
