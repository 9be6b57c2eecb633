/* test_resample.c - sign flips, the bootstrap, McNemar, equivalence and bounded intervals against
 * scipy, to 1e-10.  Reference values: tests/golden/resample.json, by make_resample.py. */
#include "check.h"

#include "base/js.h"
#include "base/resample.h"
#include "base/rng.h"

#include <string.h>

#define ALLOWED 1e-10

static struct js *golden;
static double largest;
static long n_values;

static void near(double got, double want, const char *what)
{
    double scale = fmax(1e-12, fabs(want)), deviation = fabs(got - want) / scale;

    CHECK(deviation <= ALLOWED, "%s: %.17g is %.17g", what, got, want);
    largest = fmax(largest, deviation);
    n_values++;
}

static void report(const char *what)
{
    char name[80];

    snprintf(name, sizeof name, "resample.json %s", what);
    check_report(name, n_values, largest, ALLOWED);
    largest = 0;
    n_values = 0;
}

static int read_golden(void **state)
{
    (void)state;
    struct err e = ERR_INIT;

    golden = js_read("tests/golden/resample.json", &e);
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

static double member(const struct js *j, const char *key)
{
    return js_real(js_get(j, key));
}

static double *reals(const struct js *list, int64_t *n)
{
    double *x = malloc(js_count(list) * sizeof *x);

    *n = (int64_t)js_count(list);
    for (int64_t i = 0; i < *n; i++)
        x[i] = js_real(js_at(list, (size_t)i));
    return x;
}

static int64_t *numbers(const struct js *list)
{
    int64_t *x = malloc(js_count(list) * sizeof *x);

    for (size_t i = 0; i < js_count(list); i++)
        x[i] = js_int(js_at(list, i));
    return x;
}

static void the_bootstrap_agrees_on_stored_draws(void **state)
{
    (void)state;
    const struct js *all = js_get(golden, "bootstrap");

    for (size_t k = 0; k < js_count(all); k++) {
        const struct js *b = js_at(all, k), *limits = js_get(b, "bca");
        int64_t n, n_draws, *cluster = numbers(js_get(b, "cluster"));
        int64_t *pick = numbers(js_get(b, "pick"));
        double *x = reals(js_get(b, "x"), &n), *want = reals(js_get(b, "replicates"), &n_draws);
        struct cluster_sums s = cluster_sums(x, cluster, n);
        double *got = malloc((size_t)n_draws * sizeof *got);
        double *left_out = malloc((size_t)s.n * sizeof *left_out);

        for (int64_t i = 0; i < n_draws; i++) {
            got[i] = cluster_sums_mean(&s, pick + i * s.n);
            near(got[i], want[i], "replicate");
        }
        double sum = 0;
        for (int64_t c = 0; c < s.n; c++)
            sum += s.sum[c];
        for (int64_t c = 0; c < s.n; c++)
            left_out[c] = (sum - s.sum[c]) / (double)(n - s.count[c]);
        for (size_t i = 0; i < js_count(limits); i++) {
            const struct js *l = js_at(limits, i);
            struct interval bca = bootstrap_bca(got, (int)n_draws, sum / (double)n, left_out, s.n,
                                                js_real(js_at(l, 0)));
            near(bca.low, js_real(js_at(l, 1)), "BCa, lower");
            near(bca.high, js_real(js_at(l, 2)), "BCa, upper");
        }
        cluster_sums_release(&s);
        free(left_out);
        free(got);
        free(want);
        free(x);
        free(pick);
        free(cluster);
    }
    report("bootstrap");
}

static void a_draw_is_its_number_alone(void **state)
{
    (void)state;
    double x[] = { 1, 2, 4, 8, 16, 32 };
    int64_t cluster[] = { 3, 3, 5, 9, 9, 9 }, seen = 0;
    struct cluster_sums s = cluster_sums(x, cluster, 6);

    CHECK(s.n == 3 && s.sum[0] == 3 && s.count[2] == 3, "three clusters");
    double later = cluster_sums_draw(&s, 7, 4711);
    for (uint64_t i = 0; i < 100; i++)
        seen += cluster_sums_draw(&s, 7, i) == cluster_sums_draw(&s, 7, 0);
    CHECK(seen < 100, "draws differ");
    CHECK(cluster_sums_draw(&s, 7, 4711) == later, "whatever was drawn in between");
    CHECK(cluster_sums_draw(&s, 8, 4711) != later || cluster_sums_draw(&s, 8, 4712) != later,
          "another seed draws otherwise");
    cluster_sums_release(&s);
}

static void a_bootstrapped_mean_is_where_the_mean_is(void **state)
{
    (void)state;
    double x[200], shuffled[200];
    int64_t own[200];

    for (int i = 0; i < 200; i++) {
        own[i] = i;
        x[i] = normal_quantile((i + 0.5) / 200);
        shuffled[(i * 77) % 200] = x[i];
    }
    struct estimate t = stats_mean_interval(x, 200, 0.95);
    struct interval b = bootstrap_mean(x, own, 200, RESAMPLE_DRAWS, 1, 0.95);
    CHECK(check_near(b.low, t.low, 0.01) && check_near(b.high, t.high, 0.01),
          "normal values: BCa [%g, %g] is close to t [%g, %g]", b.low, b.high, t.low, t.high);
    struct interval again = bootstrap_mean(x, own, 200, RESAMPLE_DRAWS, 1, 0.95);
    CHECK(again.low == b.low && again.high == b.high, "and the same every time");
    b = bootstrap_mean(shuffled, own, 200, RESAMPLE_DRAWS, 1, 0.95);
    CHECK(check_near(b.low, t.low, 0.02), "in any order, up to the draws");

    double same[] = { 0.5, 0.5, 0.5 }, bad[] = { 0.5, NAN, 1 };
    CHECK(isnan(bootstrap_mean(same, own, 3, 1000, 1, 0.95).low), "no spread, no interval");
    CHECK(isnan(bootstrap_mean(bad, own, 3, 1000, 1, 0.95).low), "a NaN has none");
    CHECK(isnan(bootstrap_mean(x, own, 1, 1000, 1, 0.95).high), "one item has none");
}

static void one_sided_replicates_give_percentiles(void **state)
{
    (void)state;
    double above[] = { 1, 2, 3, 4, 5 }, left_out[] = { 0.5, 0.1, 0.3 };
    struct interval i = bootstrap_bca(above, 5, 0.5, left_out, 3, 0.5);

    CHECK(i.low == 2 && i.high == 4, "plain quartiles, got %g and %g", i.low, i.high);
}

static void sign_flips_agree(void **state)
{
    (void)state;
    const struct js *all = js_get(golden, "sign_flip");

    for (size_t k = 0; k < js_count(all); k++) {
        const struct js *s = js_at(all, k);
        int64_t n, *cluster = numbers(js_get(s, "cluster"));
        double *x = reals(js_get(s, "x"), &n);
        double exact = resample_sign_flip(x, cluster, n, RESAMPLE_DRAWS, 1);

        near(exact, member(s, "p"), "exact sign flips");
        double drawn = resample_sign_flip(x, cluster, n, 10, 1);
        CHECK(drawn >= 1.0 / 11 && drawn <= 1, "ten draws never give less than 1 / 11");
        free(x);
        free(cluster);
    }
    report("sign flips");
}

static void drawn_sign_flips_are_close_to_t(void **state)
{
    (void)state;
    double x[400];
    int64_t own[400];

    for (int i = 0; i < 400; i++) {
        own[i] = i;
        x[i] = 0.1 + normal_quantile((i + 0.5) / 400);
    }
    double t = stats_mean_interval(x, 400, 0.95).p_value;
    double p = resample_sign_flip(x, own, 400, RESAMPLE_DRAWS, 1);
    CHECK(check_near(p, t, 5 * sqrt(t / RESAMPLE_DRAWS)), "p %g beside Student's %g", p, t);
    CHECK(resample_sign_flip(x, own, 400, RESAMPLE_DRAWS, 1) == p, "the same every time");
    for (int i = 0; i < 400; i++)
        own[i] = i / 200;
    CHECK(resample_sign_flip(x, own, 400, RESAMPLE_DRAWS, 1) >= 0.5,
          "two stories cannot say anything, however many turns they have");
    x[3] = NAN;
    CHECK(isnan(resample_sign_flip(x, own, 400, 100, 1)) &&
              isnan(resample_sign_flip(x, own, 0, 100, 1)),
          "NaN in, NaN out");
}

static void mcnemar_agrees(void **state)
{
    (void)state;
    const struct js *all = js_get(golden, "mcnemar");

    for (size_t k = 0; k < js_count(all); k++) {
        const struct js *r = js_at(all, k);
        int64_t b = js_int(js_at(r, 0)), c = js_int(js_at(r, 1));
        struct flips f = stats_mcnemar(b, c, 20000);

        near(f.p_exact, js_real(js_at(r, 2)), "McNemar, exact");
        near(f.p_mid, js_real(js_at(r, 3)), "McNemar, mid-p");
        CHECK(f.rate == (double)(b + c) / 20000, "the flip rate");
    }
    report("McNemar");
    struct flips none = stats_mcnemar(0, 0, 10);
    CHECK(none.rate == 0 && none.p_exact == 1, "no flips: no difference");
    CHECK(isnan(stats_mcnemar(3, 3, 5).p_exact), "more flips than items is nonsense");
}

static void equivalence_agrees(void **state)
{
    (void)state;
    const struct js *all = js_get(golden, "equivalence");

    for (size_t k = 0; k < js_count(all); k++) {
        const struct js *q = js_at(all, k);
        int64_t n;
        double *x = reals(js_get(q, "x"), &n), margin = member(q, "margin");
        struct estimate e = stats_mean_interval(x, n, 0.95);

        near(stats_equivalence(&e, margin), member(q, "tost"), "TOST");
        near(stats_above(&e, -margin), member(q, "non_inferior"), "non-inferiority");
        near(stats_detectable(&e, 0.05, 0.8), member(q, "detectable"), "detectable");
        free(x);
    }
    report("equivalence");
    double one = 1;
    struct estimate none = stats_mean_interval(&one, 1, 0.95);
    CHECK(isnan(stats_equivalence(&none, 1)) && isnan(stats_detectable(&none, 0.05, 0.8)),
          "one item tests nothing");
}

static void bounded_intervals_stay_inside(void **state)
{
    (void)state;
    const struct js *all = js_get(golden, "bounded");

    for (size_t k = 0; k < js_count(all); k++) {
        const struct js *b = js_at(all, k);
        int64_t n;
        double *x = reals(js_get(b, "x"), &n);
        double least = member(b, "least"), most = member(b, "most");
        struct estimate e = stats_mean_interval(x, n, 0.95);
        struct interval i = stats_bounded(&e, least, most, 0.95);

        near(i.low, member(b, "low"), "bounded, lower");
        near(i.high, member(b, "high"), "bounded, upper");
        CHECK(i.low >= least && i.high <= most, "inside [%g, %g]", least, most);
        free(x);
    }
    report("bounded");

    /* Whatever values there are, from two to eight of them. */
    for (uint64_t k = 0; k < 20000; k++) {
        double x[8];
        int n = 2 + (int)(k % 7);
        for (int i = 0; i < n; i++)
            x[i] = pow(rng_real(3, RNG_TEST, k * 8 + (uint64_t)i), k % 5 ? 0.05 : 20);
        struct estimate e = stats_mean_interval(x, n, 0.95);
        struct interval i = stats_bounded(&e, 0, 1, 0.95);
        CHECK(*e.reason || (i.low >= 0 && i.high <= 1 && i.low <= e.mean && e.mean <= i.high),
              "mean %g of %d values: [%g, %g]", e.mean, n, i.low, i.high);
    }
}

static void halves_are_halves(void **state)
{
    (void)state;
    int n = 0;

    for (int i = 0; i < 1000; i++) {
        char id[32];
        snprintf(id, sizeof id, "story-%d", i);
        n += half_is_confirm(id);
        CHECK(half_is_confirm(id) == half_is_confirm(id), "a story stays in its half");
    }
    CHECK(n > 440 && n < 560, "about half of the stories confirm, got %d of 1000", n);
}

int main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(the_bootstrap_agrees_on_stored_draws),
        cmocka_unit_test(a_draw_is_its_number_alone),
        cmocka_unit_test(a_bootstrapped_mean_is_where_the_mean_is),
        cmocka_unit_test(one_sided_replicates_give_percentiles),
        cmocka_unit_test(sign_flips_agree),
        cmocka_unit_test(drawn_sign_flips_are_close_to_t),
        cmocka_unit_test(mcnemar_agrees),
        cmocka_unit_test(equivalence_agrees),
        cmocka_unit_test(bounded_intervals_stay_inside),
        cmocka_unit_test(halves_are_halves),
    };

    return cmocka_run_group_tests(all, read_golden, release_golden);
}
