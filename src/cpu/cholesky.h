/* cholesky.h - inner to src/cpu: symmetric positive definite matrices in fp64, with sums whose
 * order the size fixes, whatever the number of threads. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* a [n, n], its lower half: replaced by M, lower triangular, with M M^T = a.  False where a pivot
 * is not above `least` times its diagonal element (or NaN): a is then half done. */
bool cholesky(double *a, int64_t n, double least);

/* m: lower triangular.  column [n, n]: row j receives column j of m^-1 (elements j .. n-1; the
 * rest 0). */
void triangle_inverse(const double *m, int64_t n, double *column);
