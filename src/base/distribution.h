/* distribution.h - tails and quantiles of the normal and Student distributions, in double.
 *
 * Arguments out of range give NaN.  Small tails keep their relative accuracy: ask for the tail,
 * not for 1 - cdf.  tests/test_stats.c compares with scipy to 1e-10.  */
#pragma once

double normal_cdf(double x);
double normal_quantile(double p); /* p in [0, 1]; 0 and 1 give -+infinity */

/* I_x(a, b), the regularised incomplete beta function; a, b > 0 and y = 1 - x, which the caller
 * knows more exactly than a subtraction would give it where x is close to 1. */
double beta_regularised(double a, double b, double x, double y);

/* Degrees of freedom > 0, fractions too; infinity is the normal distribution. */
double student_cdf(double t, double df);
double student_two_sided(double t, double df); /* P(|T| >= |t|), a p-value */
double student_quantile(double p, double df);

/* P(Binomial(n, 1/2) <= k). */
double binomial_half_cdf(long n, long k);
