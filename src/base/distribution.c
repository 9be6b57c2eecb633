/* distribution.c - see distribution.h. */
#include "base/distribution.h"

#include <float.h>
#include <math.h>

static const double sqrt_2_pi = 2.50662827463100050242;
static const double half_log_2_pi = 0.918938533204672741780;

#define MANY_DF 1e5 /* from here on the beta fraction loses digits: 1 - x is all that counts */

double normal_cdf(double x)
{
    return 0.5 * erfc(-x * M_SQRT1_2);
}

/* Newton's rule on log(cdf), which is concave: from a start below the root every step stays below
 * it and the last digits are those of erfc.  P(X < -s) <= exp(-s^2 / 2) / 2 gives the start. */
double normal_quantile(double p)
{
    if (!(p >= 0 && p <= 1))
        return NAN;
    if (p == 0 || p == 1)
        return p == 0 ? -INFINITY : INFINITY;
    if (p == 0.5)
        return 0;
    if (p > 0.5)
        return -normal_quantile(1 - p);

    double x = -sqrt(-2 * log(p));
    for (int i = 0; i < 60; i++) {
        double cdf = normal_cdf(x), density = exp(-0.5 * x * x) / sqrt_2_pi;
        double step = log(p / cdf) * cdf / density;

        if (!(fabs(step) > 1e-16 * fabs(x)))
            break;
        x += step;
    }
    return x;
}

/* log Gamma(a) - ((a - 1/2) log a - a + log(2 pi) / 2) for a >= 10: Stirling's series, whose
 * coefficients are B(2k) / (2k (2k - 1)). */
static double stirling_rest(double a)
{
    static const double c[] = { 1.0 / 12,   -1.0 / 360,      1.0 / 1260, -1.0 / 1680,
                                1.0 / 1188, -691.0 / 360360, 1.0 / 156,  -3617.0 / 122400 };
    double power = 1 / a, sum = 0;

    for (unsigned i = 0; i < sizeof c / sizeof *c; i++, power /= a * a)
        sum += c[i] * power;
    return sum;
}

static double log_gamma(double a)
{
    int sign;

    return lgamma_r(a, &sign);
}

/* log B(a, b).  With large arguments the three lgamma cancel to nothing (df = 1e6 would keep 9
 * digits), so their leading terms are subtracted by hand. */
static double log_beta(double a, double b)
{
    double big = fmax(a, b), small = fmin(a, b);

    if (big < 10)
        return log_gamma(a) + log_gamma(b) - log_gamma(a + b);
    double rest = stirling_rest(big) - stirling_rest(big + small);
    if (small < 10)
        return log_gamma(small) + rest + small - (big - 0.5) * log1p(small / big) -
               small * log(big + small);
    return half_log_2_pi + rest + stirling_rest(small) - (big - 0.5) * log1p(small / big) -
           small * log1p(big / small) - 0.5 * log(small);
}

/* The continued fraction of I_x(a, b), DLMF 8.17.22, by Lentz's rule. */
static double beta_fraction(double a, double b, double x)
{
    const double tiny = 1e-300;
    double c = 1, d = 1 - (a + b) * x / (a + 1);

    d = 1 / (fabs(d) < tiny ? tiny : d);
    double f = d;
    for (int m = 1; m <= 1000000; m++) {
        double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
        double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));

        d = 1 + even * d;
        c = 1 + even / c;
        d = 1 / (fabs(d) < tiny ? tiny : d);
        c = fabs(c) < tiny ? tiny : c;
        f *= d * c;
        d = 1 + odd * d;
        c = 1 + odd / c;
        d = 1 / (fabs(d) < tiny ? tiny : d);
        c = fabs(c) < tiny ? tiny : c;
        f *= d * c;
        if (fabs(d * c - 1) < DBL_EPSILON)
            return f;
    }
    return NAN;
}

double beta_regularised(double a, double b, double x, double y)
{
    if (!(a > 0 && b > 0 && x >= 0 && y >= 0))
        return NAN;
    if (x == 0 || y == 0)
        return x == 0 ? 0 : 1;
    /* The fraction converges quickly below the mean; above it the mirror image does. */
    if (x > (a + 1) / (a + b + 2))
        return 1 - beta_regularised(b, a, y, x);
    double log_x = y < 0.5 ? log1p(-y) : log(x), log_y = x < 0.5 ? log1p(-x) : log(y);

    return exp(a * log_x + b * log_y - log_beta(a, b)) / a * beta_fraction(a, b, x);
}

/* Both tails for many degrees of freedom: the expansion of I_x(a, 1/2) in 1 / v^2 by DiDonato and
 * Morris (ACM TOMS 18, 1992, section 9), whose leading term is erfc(sqrt(u)). */
static double student_many(double square, double df)
{
    const double b = 0.5, p1 = -1.0 / 12, p2 = 1.0 / 160;
    double v = df / 2 - 0.25, log_x = -log1p(square), u = -v * log_x, v4 = 4 * v * v;
    if (!(u < 1e4)) /* below the least double, and sqrt(u) may be infinite */
        return 0;
    double q = erfc(sqrt(u)), h = exp(-u) * sqrt(u) * M_2_SQRTPI / 2;
    double hj1 = b * (b + 1) / v4 * q + h * (u + b + 1) / v4;
    double hj2 = (b + 2) * (b + 3) / v4 * hj1 + h * (u + b + 3) / v4 * log_x * log_x / 4;

    return exp(-log_beta(df / 2, b) - 0.5 * log(v)) * 2 / M_2_SQRTPI * (q + p1 * hj1 + p2 * hj2);
}

double student_two_sided(double t, double df)
{
    if (isnan(t) || !(df > 0))
        return NAN;
    if (isinf(t))
        return 0;
    if (isinf(df))
        return erfc(fabs(t) * M_SQRT1_2);
    double r = t / sqrt(df), square = r * r; /* t * t may overflow before the ratio does */

    if (df >= MANY_DF)
        return student_many(square, df);
    if (isinf(square)) /* the leading term of the tail: x^(df / 2) / (df / 2 B) */
        return exp(-df * log(fabs(r)) - log_beta(df / 2, 0.5)) * 2 / df;
    return beta_regularised(df / 2, 0.5, 1 / (1 + square), square / (1 + square));
}

double student_cdf(double t, double df)
{
    double tails = student_two_sided(t, df);

    return t > 0 ? 1 - tails / 2 : tails / 2;
}

static double log_student_density(double t, double df)
{
    return -0.5 * (df + 1) * log1p(t / df * t) - 0.5 * log(df) - log_beta(df / 2, 0.5);
}

/* Solves P(T >= t) = p for p < 1/2: Newton's rule on the logarithms of tail and t, where the tail
 * is close to a straight line, inside a bracket that halves when a step leaves it. */
static double student_upper(double p, double df)
{
    double low = -800, high = 800; /* of log t */
    double u = log(-normal_quantile(p));

    for (int i = 0; i < 400; i++) {
        double t = exp(u), tail = student_two_sided(t, df) / 2;

        if (tail > p)
            low = u;
        else
            high = u;
        double step = log(tail / p) * tail / exp(log_student_density(t, df) + u);
        double next = u + step;
        if (fabs(step) <= 1e-15 || high - low <= 1e-15 * fabs(u))
            break;
        u = next > low && next < high ? next : low + (high - low) / 2;
    }
    return exp(u);
}

double student_quantile(double p, double df)
{
    if (!(p >= 0 && p <= 1 && df > 0))
        return NAN;
    if (isinf(df) || p == 0 || p == 1)
        return normal_quantile(p);
    if (p == 0.5)
        return 0;
    return p < 0.5 ? -student_upper(p, df) : student_upper(1 - p, df);
}

double binomial_half_cdf(long n, long k)
{
    if (n < 0)
        return NAN;
    if (k < 0 || k >= n)
        return k < 0 ? 0 : 1;
    return beta_regularised((double)(n - k), (double)k + 1, 0.5, 0.5);
}
