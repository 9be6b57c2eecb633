/* test_stats.c - distributions, estimates and tests against scipy, to 1e-10.
 * Reference values: tests/golden/stats.json, made by tests/golden/make_stats.py. */
#include "check.h"

#include "base/js.h"
#include "base/stats.h"

#include <string.h>

#define ALLOWED 1e-10

static struct js *golden;
static double largest; /* deviation of this test so far */
static long n_values;

static double at(const struct js *row, size_t i)
{
    return js_real(js_at(row, i));
}

/* |got - want| within ALLOWED, absolute up to 1 and relative beyond; small tails relative. */
static void near(double got, double want, const char *what)
{
    double scale = want == 0 ? 1 : fabs(want), deviation = fabs(got - want) / scale;

    CHECK(deviation <= ALLOWED, "%s: %.17g is %.17g", what, got, want);
    largest = fmax(largest, deviation);
    n_values++;
}

static void report(const char *what)
{
    char name[80];

    snprintf(name, sizeof name, "stats.json %s", what);
    check_report(name, n_values, largest, ALLOWED);
    largest = 0;
    n_values = 0;
}

static int read_golden(void **state)
{
    (void)state;
    struct err e = ERR_INIT;

    golden = js_read("tests/golden/stats.json", &e);
    if (!golden)
        print_error("%s\n", e.text);
    return golden ? 0 : -1;
}

static int release_golden(void **state)
{
    (void)state;
    js_release(golden);
    return 0;
}

static void normal_agrees(void **state)
{
    (void)state;
    const struct js *n = js_get(golden, "normal"), *cdf = js_get(n, "cdf");
    const struct js *quantile = js_get(n, "quantile");

    for (size_t i = 0; i < js_count(cdf); i++)
        near(normal_cdf(at(js_at(cdf, i), 0)), at(js_at(cdf, i), 1), "normal cdf");
    for (size_t i = 0; i < js_count(quantile); i++)
        near(normal_quantile(at(js_at(quantile, i), 0)), at(js_at(quantile, i), 1),
             "normal quantile");
    report("normal");
    CHECK(normal_quantile(0) == -INFINITY && normal_quantile(1) == INFINITY, "the ends are there");
    CHECK(isnan(normal_quantile(-1e-9)) && isnan(normal_quantile(1.5)) &&
              isnan(normal_quantile(NAN)),
          "no quantile outside [0, 1]");
}

static void student_agrees(void **state)
{
    (void)state;
    const struct js *s = js_get(golden, "student"), *two = js_get(s, "two_sided");
    const struct js *quantile = js_get(s, "quantile");

    for (size_t i = 0; i < js_count(two); i++) {
        const struct js *r = js_at(two, i);
        double tails = student_two_sided(at(r, 0), at(r, 1));

        near(tails, at(r, 2), "two-sided tail");
        near(student_two_sided(-at(r, 0), at(r, 1)), at(r, 2), "mirrored tail");
        near(student_cdf(-at(r, 0), at(r, 1)), at(r, 2) / 2, "lower cdf");
        near(student_cdf(at(r, 0), at(r, 1)), 1 - at(r, 2) / 2, "upper cdf");
    }
    for (size_t i = 0; i < js_count(quantile); i++) {
        const struct js *r = js_at(quantile, i);

        near(student_quantile(at(r, 0), at(r, 1)), at(r, 2), "Student quantile");
    }
    report("student");
}

static void student_has_ends(void **state)
{
    (void)state;
    CHECK(student_two_sided(0, 3) == 1, "everything lies beyond 0");
    CHECK(student_two_sided(INFINITY, 3) == 0, "nothing lies beyond infinity");
    CHECK(isnan(student_two_sided(NAN, 3)) && isnan(student_two_sided(1, 0)) &&
              isnan(student_quantile(0.5, -1)) && isnan(student_quantile(NAN, 2)),
          "nonsense gives NaN");
    double tail = student_two_sided(1e200, 1.25); /* t * t overflows; the leading term remains */
    near(tail, student_two_sided(1e100, 1.25) * 1e-125, "a far tail falls as t^-df");
    near(student_two_sided(2, 1e300), erfc(M_SQRT2), "many degrees of freedom are normal");
    near(student_quantile(0.025, INFINITY), normal_quantile(0.025), "so is their quantile");
    report("ends");
}

static void beta_and_binomial_agree(void **state)
{
    (void)state;
    const struct js *b = js_get(golden, "beta"), *n = js_get(golden, "binomial_half");

    for (size_t i = 0; i < js_count(b); i++) {
        const struct js *r = js_at(b, i);

        near(beta_regularised(at(r, 0), at(r, 1), at(r, 2), 1 - at(r, 2)), at(r, 3), "beta");
    }
    for (size_t i = 0; i < js_count(n); i++) {
        const struct js *r = js_at(n, i);

        near(binomial_half_cdf((long)at(r, 0), (long)at(r, 1)), at(r, 2), "binomial");
    }
    report("beta, binomial");
    CHECK(binomial_half_cdf(5, -1) == 0 && binomial_half_cdf(5, 5) == 1 &&
              binomial_half_cdf(5, 9) == 1,
          "the ends are exact");
}

static double *reals(const struct js *list, int64_t *n)
{
    double *x = malloc(js_count(list) * sizeof *x);

    *n = (int64_t)js_count(list);
    for (int64_t i = 0; i < *n; i++)
        x[i] = at(list, (size_t)i);
    return x;
}

static int64_t *numbers(const struct js *list)
{
    int64_t *x = malloc(js_count(list) * sizeof *x);

    for (size_t i = 0; i < js_count(list); i++)
        x[i] = js_int(js_at(list, i));
    return x;
}

static void same_estimate(const struct estimate *got, const struct js *want, const char *what)
{
    CHECK(!*got->reason, "%s has an interval", what);
    near(got->mean, js_real(js_get(want, "mean")), what);
    near(got->se, js_real(js_get(want, "se")), what);
    near(got->df, js_real(js_get(want, "df")), what);
    near(got->low, js_real(js_get(want, "low")), what);
    near(got->high, js_real(js_get(want, "high")), what);
    if (js_get(want, "design_effect"))
        near(got->design_effect, js_real(js_get(want, "design_effect")), what);
}

static void estimates_agree(void **state)
{
    (void)state;
    const struct js *g = js_get(golden, "estimates"), *q = js_get(g, "quantiles");
    int64_t n;
    double *x = reals(js_get(g, "x"), &n), *y = reals(js_get(g, "y"), &n), low, high;
    int64_t *cluster = numbers(js_get(g, "cluster"));
    int64_t single[64];

    for (int64_t i = 0; i < n; i++)
        single[i] = 50 - i;
    near(stats_mean(x, n), js_real(js_get(g, "mean")), "mean");
    near(stats_sd(x, n), js_real(js_get(g, "sd")), "sd");
    near(stats_median(x, n), js_real(js_get(g, "median")), "median");
    for (size_t i = 0; i < js_count(q); i++)
        near(stats_quantile(x, n, at(js_at(q, i), 0)), at(js_at(q, i), 1), "quantile");

    struct estimate e = stats_mean_interval(x, n, 0.95);
    near(e.low, js_real(js_get(js_get(g, "iid"), "low")), "lower limit");
    near(e.high, js_real(js_get(js_get(g, "iid"), "high")), "upper limit");
    stats_limits(&e, 0.90, &low, &high);
    near(low, js_real(js_get(js_get(g, "iid"), "low90")), "lower 90 % limit");
    near(high, js_real(js_get(js_get(g, "iid"), "high90")), "upper 90 % limit");

    struct estimate one = stats_clustered(x, single, n, 0.95);
    near(one.low, e.low, "singletons are independent");
    near(one.design_effect, 1, "their design effect");
    e = stats_clustered(x, cluster, n, 0.95);
    same_estimate(&e, js_get(g, "clustered"), "clustered");
    for (int64_t i = 0; i < n; i++)
        x[i] -= y[i]; /* now the paired differences */
    e = stats_clustered(x, cluster, n, 0.95);
    same_estimate(&e, js_get(g, "paired"), "paired");
    near(e.p_value, js_real(js_get(js_get(g, "paired"), "p")), "paired p");
    e = stats_clustered(x, single, n, 0.95);
    near(e.p_value, js_real(js_get(g, "paired_singletons_p")), "paired t test");
    report("estimates");
    free(x);
    free(y);
    free(cluster);
}

static void crossed_agrees(void **state)
{
    (void)state;
    const struct js *g = js_get(golden, "estimates");
    int64_t n, n_items = js_int(js_get(g, "crossed_items")), single[64];
    int n_seeds = (int)js_int(js_get(g, "crossed_seeds"));
    double *x = reals(js_get(g, "crossed_x"), &n);
    int64_t *cluster = numbers(js_get(g, "crossed_cluster"));

    for (int64_t i = 0; i < n_items; i++)
        single[i] = i;
    CHECK(n == n_items * n_seeds, "the table is whole");
    struct estimate e = stats_crossed(x, single, n_items, n_seeds, 0.95);
    same_estimate(&e, js_get(g, "crossed"), "crossed");
    e = stats_crossed(x, cluster, n_items, n_seeds, 0.95);
    same_estimate(&e, js_get(g, "crossed_clustered"), "crossed, clustered");
    report("crossed");
    free(x);
    free(cluster);
}

static void wilson_agrees(void **state)
{
    (void)state;
    const struct js *w = js_get(golden, "wilson");

    for (size_t i = 0; i < js_count(w); i++) {
        const struct js *r = js_at(w, i);
        struct interval got = stats_wilson(at(r, 0), at(r, 1), at(r, 2));

        near(got.low, at(r, 3), "Wilson, lower");
        near(got.high, at(r, 4), "Wilson, upper");
        CHECK(got.high > got.low, "an interval has a width");
        if (at(r, 0) == 0 || at(r, 0) == at(r, 1)) {
            struct interval c = stats_constant(at(r, 0) > 0, (int64_t)at(r, 1), 0, 1, at(r, 2));

            near(c.low, at(r, 3), "all alike is Wilson's end, lower");
            near(c.high, at(r, 4), "all alike is Wilson's end, upper");
        }
    }
    report("wilson");
    CHECK(isnan(stats_wilson(1, 0, 0.95).low) && isnan(stats_wilson(3, 2, 0.95).high),
          "no share of nothing, none above 1");
    struct interval c = stats_constant(0, 80, -1, 1, 0.95);
    CHECK(check_near(c.low, -c.high, 1e-15) && check_near(c.high, 0.04582, 1e-5),
          "80 equal differences leave 4.6 points open, got %g", c.high);
    CHECK(isnan(stats_constant(2, 80, 0, 1, 0.95).low), "a value outside its range has none");
}

static void median_interval_takes_the_right_ranks(void **state)
{
    (void)state;
    const struct js *m = js_get(golden, "median_rank");

    for (size_t i = 0; i < js_count(m); i++) {
        int64_t n = (int64_t)at(js_at(m, i), 0), k = (int64_t)at(js_at(m, i), 1);
        double *x = malloc((size_t)n * sizeof *x);

        for (int64_t j = 0; j < n; j++) /* a permutation of 1 ... n: 7919 is a prime above n */
            x[j] = (double)(j * 7919 % n + 1);
        struct interval got = stats_median_interval(x, n, 0.95);
        CHECK(got.low == (double)k && got.high == (double)(n + 1 - k),
              "of %d values ranks %d and %d, got %g and %g", (int)n, (int)k, (int)(n + 1 - k),
              got.low, got.high);
        free(x);
    }
    double five[] = { 5, 1, 4, 2, 3 }, six[] = { 5, 1, 4, 2, 3, 6 };
    CHECK(isnan(stats_median_interval(five, 5, 0.95).low), "five values have no 95 %% interval");
    CHECK(stats_median_interval(six, 6, 0.95).high == 6, "six span it");
    CHECK(stats_median_interval(five, 5, 0.90).low == 1, "five have a 90 %% interval");
    six[3] = NAN;
    CHECK(isnan(stats_median_interval(six, 6, 0.95).low), "a NaN has no rank");
}

static void holm_by_hand(void **state)
{
    (void)state;
    double p[] = { 0.01, 0.04, NAN, 0.03, 0.005, 0.9 }, a[6];
    double want[] = { 0.04, 0.09, NAN, 0.09, 0.025, 0.9 };

    stats_holm(p, 6, a);
    for (int i = 0; i < 6; i++)
        CHECK(i == 2 ? isnan(a[i]) : check_near(a[i], want[i], 1e-15), "entry %d is %g, got %g", i,
              want[i], a[i]);
    double many[] = { 0.6, 0.5 };
    stats_holm(many, 2, a);
    CHECK(a[0] == 1 && a[1] == 1, "no probability passes 1, and the order is kept");
    stats_holm(many, 0, a);
}

static void too_little_is_nan_with_a_reason(void **state)
{
    (void)state;
    double x[] = { 0.3, 0.3, 0.3, 0.3 }, bad[] = { 0.1, NAN, 0.3 };
    int64_t own[] = { 1, 2, 3, 4 }, same[] = { 7, 7, 7, 7 };
    struct estimate e = stats_mean_interval(x, 1, 0.95);

    CHECK(e.mean == 0.3 && isnan(e.se) && isnan(e.low) && isnan(e.high),
          "one value: a mean, alone");
    CHECK(!strcmp(e.reason, "fewer than two values"), "and why, not \"%s\"", e.reason);
    CHECK(isnan(stats_sd(x, 1)) && isnan(stats_mean(x, 0)) && isnan(stats_median(x, 0)),
          "no spread of one value, no mean of none");
    e = stats_clustered(x, same, 4, 0.95);
    CHECK(isnan(e.low) && !strcmp(e.reason, "fewer than two groups"), "one story says nothing");
    e = stats_crossed(x, own, 4, 1, 0.95);
    CHECK(isnan(e.low) && *e.reason, "one seed is not crossed");
    e = stats_clustered(x, own, 4, 0.95);
    CHECK(e.mean == 0.3 && isnan(e.se) && isnan(e.low) && !strcmp(e.reason, "no spread"),
          "equal values have no interval of width 0");
    e = stats_mean_interval(bad, 3, 0.95);
    CHECK(isnan(e.mean) && isnan(e.low) && !strcmp(e.reason, "a value is not finite"),
          "a NaN shows");
    bad[1] = INFINITY;
    e = stats_clustered(bad, own, 3, 0.95);
    CHECK(isnan(e.low) && !strcmp(e.reason, "a value is not finite"), "infinity does, too");
}

static void equal_differences_have_an_exact_probability(void **state)
{
    (void)state;
    double none[] = { 0, 0, 0, 0 }, up[] = { 1, 1, 1, 1 };
    int64_t own[] = { 1, 2, 3, 4 }, two[] = { 5, 5, 6, 6 };
    struct estimate e = stats_clustered(none, own, 4, 0.95);

    CHECK(e.is_constant && e.mean == 0 && e.p_value == 1, "no difference: probability 1");
    e = stats_clustered(up, own, 4, 0.95);
    CHECK(e.is_constant && e.p_value == 0.125, "four equal signs by chance: 2 / 2^4, got %g",
          e.p_value);
    e = stats_clustered(up, two, 4, 0.95);
    CHECK(e.p_value == 0.5, "two stories count, not four turns, got %g", e.p_value);
    e = stats_clustered(up, own, 0, 0.95);
    CHECK(isnan(e.mean) && isnan(e.p_value), "no pairs, no probability");
}

static void residuals_that_cancel_are_no_certainty(void **state)
{
    (void)state;
    /* Both stories hold the same two scores: every sum of residuals is rounding. */
    double x[] = { 0.1, 0.7, 0.7, 0.1 };
    int64_t cluster[] = { 1, 1, 2, 2 };
    struct estimate e = stats_clustered(x, cluster, 4, 0.95);

    CHECK(isnan(e.p_value) && !e.is_constant, "and no test of anything");
    CHECK(isnan(e.low) && !strcmp(e.reason, "no spread"), "an error of 1e-17 is none, got %g",
          e.se);
}

static void a_mean_of_equal_values_is_that_value(void **state)
{
    (void)state;
    double x[1000];

    for (int i = 0; i < 1000; i++)
        x[i] = 0.1;
    for (int n = 1; n <= 1000; n++)
        CHECK(stats_mean(x, n) == 0.1, "the mean of %d tenths is a tenth", n);
    CHECK(stats_sd(x, 1000) == 0, "and their spread is 0");
}

static void exp_turns_limits(void **state)
{
    (void)state;
    double nll[] = { 1.0, 1.5, 1.25, 1.75 };
    struct estimate e = stats_mean_interval(nll, 4, 0.95), ppl = stats_exp(e);

    CHECK(check_near(ppl.mean, exp(1.375), 1e-15) && check_near(ppl.low, exp(e.low), 1e-15) &&
              check_near(ppl.high, exp(e.high), 1e-15),
          "each is exponentiated");
    ppl = stats_exp(stats_mean_interval(nll, 1, 0.95));
    CHECK(ppl.mean == exp(1.0) && isnan(ppl.low), "NaN stays NaN");
}

int main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(normal_agrees),
        cmocka_unit_test(student_agrees),
        cmocka_unit_test(student_has_ends),
        cmocka_unit_test(beta_and_binomial_agree),
        cmocka_unit_test(estimates_agree),
        cmocka_unit_test(crossed_agrees),
        cmocka_unit_test(wilson_agrees),
        cmocka_unit_test(median_interval_takes_the_right_ranks),
        cmocka_unit_test(holm_by_hand),
        cmocka_unit_test(too_little_is_nan_with_a_reason),
        cmocka_unit_test(equal_differences_have_an_exact_probability),
        cmocka_unit_test(residuals_that_cancel_are_no_certainty),
        cmocka_unit_test(a_mean_of_equal_values_is_that_value),
        cmocka_unit_test(exp_turns_limits),
    };

    return cmocka_run_group_tests(all, read_golden, release_golden);
}
