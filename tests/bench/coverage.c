/* coverage.c - how often the intervals of the report hold what they say, and how often a sweep of
 * equal configurations is told apart: build/cpu/bench/coverage [repeats [part]].
 *
 * Counter-based draws: the same table every time.  Monte Carlo error of a share near 95 % is
 * 0.22 / sqrt(repeats): 0.35 points at 4000. */
#include "base/memory.h"
#include "base/resample.h"
#include "base/rng.h"
#include "record/compare.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BCA_DRAWS 1000

/* ---- populations ---- */

struct source {
    uint64_t seed, next;
};

static double uniform(struct source *s)
{
    return rng_real(s->seed, RNG_TEST, s->next++);
}

static double gauss(struct source *s)
{
    return normal_quantile(fmin(fmax(uniform(s), 1e-300), 1 - 1e-16));
}

/* Answers: wrong, right, or partly right with an F1 in between. */
static double answer(double u, double v)
{
    return u < 0.22 ? 0 : u < 0.75 ? 1 : 0.2 + 0.6 * v;
}

static double draw_normal(struct source *s, double shared)
{
    return shared + gauss(s);
}

static double draw_coqa(struct source *s, double shared)
{
    (void)shared;
    double u = uniform(s);
    return answer(u, uniform(s));
}

/* A hard story is hard in every turn. */
static double draw_coqa_turn(struct source *s, double shared)
{
    double u = normal_cdf((gauss(s) + 0.5 * shared) / sqrt(1.25));
    return answer(u, uniform(s));
}

static double draw_easy(struct source *s, double shared)
{
    (void)shared;
    return uniform(s) < 0.95;
}

static double draw_half(struct source *s, double shared)
{
    (void)shared;
    return uniform(s) < 0.5;
}

static double draw_lognormal(struct source *s, double shared)
{
    (void)shared;
    return exp(gauss(s));
}

static const struct population {
    const char *name;
    double (*draw)(struct source *s, double shared);
    int per_cluster;
    double mean;   /* true; NaN: found by drawing */
    bool is_share; /* scores in [0, 1] */
    bool is_positive;
} populations[] = {
    { "normal", draw_normal, 1, 0, false, false },
    { "normal, clusters of 16", draw_normal, 16, 0, false, false },
    { "CoQA-like F1", draw_coqa, 1, 0.53 + 0.25 * 0.5, true, false },
    { "CoQA-like, 16 turns a story", draw_coqa_turn, 16, 0.53 + 0.25 * 0.5, true, false },
    { "right or wrong, 50 %", draw_half, 1, 0.5, true, false },
    { "right or wrong, 95 %", draw_easy, 1, 0.95, true, false },
    { "lognormal", draw_lognormal, 1, 1.6487212707001282, false, true },
};

static void draw(const struct population *p, uint64_t seed, int n_clusters, double *x,
                 int64_t *cluster)
{
    struct source s = { seed, 0 };

    for (int c = 0, i = 0; c < n_clusters; c++) {
        double shared = p->per_cluster > 1 ? gauss(&s) : 0;
        for (int k = 0; k < p->per_cluster; k++, i++) {
            x[i] = p->draw(&s, shared);
            cluster[i] = c;
        }
    }
}

/* ---- intervals ---- */

enum { BY_T, BY_RULE, BY_BCA, N_METHODS };

/* What the report prints: record/statistic.c. */
static struct interval by_rule(const struct population *p, const struct estimate *e,
                               const double *x, int64_t n)
{
    bool binary = p->is_share && e->n_clusters == n;
    double hits = 0;

    for (int64_t i = 0; i < n; i++) {
        binary = binary && (x[i] == 0 || x[i] == 1);
        hits += x[i];
    }
    if (binary)
        return stats_wilson(hits, (double)n, 0.95);
    if (e->is_constant && p->is_share)
        return stats_constant(e->mean, e->n_clusters, 0, 1, 0.95);
    if (p->is_share)
        return stats_bounded(e, 0, 1, 0.95);
    if (p->is_positive) {
        double t = (e->high - e->mean) / e->mean;
        return (struct interval){ e->mean * exp(-t), e->mean * exp(t) };
    }
    return (struct interval){ e->low, e->high };
}

static void cover(const struct population *p, int n_clusters, int repeats)
{
    int64_t n = (int64_t)n_clusters * p->per_cluster;
    long held[N_METHODS] = { 0 }, bca_repeats = repeats / 4;
    double outside = 0;

#pragma omp parallel for reduction(+ : held[:N_METHODS], outside)
    for (int r = 0; r < repeats; r++) {
        double *x = mem_array((size_t)n, sizeof *x);
        int64_t *cluster = mem_array((size_t)n, sizeof *cluster);
        draw(p, (uint64_t)r + 1, n_clusters, x, cluster);
        struct estimate e = stats_clustered(x, cluster, n, 0.95);
        struct interval i[N_METHODS] = { { e.low, e.high }, by_rule(p, &e, x, n), { NAN, NAN } };
        if (r < bca_repeats)
            i[BY_BCA] = bootstrap_mean(x, cluster, n, BCA_DRAWS, (uint64_t)r, 0.95);
        for (int m = 0; m < N_METHODS; m++)
            held[m] += i[m].low <= p->mean && p->mean <= i[m].high;
        outside += p->is_share && (e.low < 0 || e.high > 1);
        free(x);
        free(cluster);
    }
    double rule = 100.0 * (double)held[BY_RULE] / repeats;
    printf("%-28s %6d %6lld  %6.1f %6.1f %6.1f   %5.1f  %s\n", p->name, n_clusters, (long long)n,
           100.0 * (double)held[BY_T] / repeats, rule,
           100.0 * (double)held[BY_BCA] / (double)bca_repeats, 100 * outside / repeats,
           rule < 93 ? "below 93" : "");
}

/* ---- sweeps ---- */

/* A difference of two answers: equal in most documents. */
static double change(struct source *s, double lost)
{
    double u = uniform(s), v = uniform(s);

    return u < 0.1 + lost ? -(0.2 + 0.8 * v) : u > 0.9 ? 0.2 + 0.8 * v : 0;
}

/* Mean of -0.6 * (0.1 + lost) + 0.6 * 0.1. */
static double true_change(double lost)
{
    return -0.6 * lost;
}

static const struct metric *f1;
static const struct sweep no_margins;

static struct pair pair_of(struct source *s, int n, double lost)
{
    struct items items = { .n = n, .all = mem_array((size_t)n, sizeof(struct item)) };
    struct pair p = { .metric = f1, .margin = margin_of(&no_margins, f1), .note = "" };

    for (int i = 0; i < n; i++)
        items.all[i] = (struct item){ .number = i, .value = change(s, lost) };
    struct item_estimate e = items_estimate(&items, 0.95);
    p.e = e.e;
    for (int i = 0; i < n; i++)
        p.largest = fmax(p.largest, fabs(items.all[i].value));
    p.test = items_test(&items, &e);
    items_release(&items);
    return p;
}

/* Verdicts of k configurations, all of which lose the same. */
struct verdicts {
    long better, worse, equivalent, non_inferior, undecided;
};

static struct verdicts sweep_of(uint64_t seed, int k, int n, double lost)
{
    struct source s = { seed, 0 };
    struct pair *p = mem_array((size_t)k, sizeof *p);
    double *raw = mem_array((size_t)k, sizeof *raw), *holm = mem_array((size_t)k, sizeof *holm);
    struct verdicts v = { 0 };

    for (int i = 0; i < k; i++) {
        p[i] = pair_of(&s, n, lost);
        raw[i] = p[i].test.p_value;
    }
    stats_holm(raw, k, holm);
    for (int i = 0; i < k; i++) {
        struct interval all = pair_limits(&p[i], 1 - 0.05 / k), ci90 = pair_limits(&p[i], 0.9);
        struct verdict_case c = { .delta = p[i].e.mean,
                                  .low = all.low,
                                  .high = all.high,
                                  .low90 = ci90.low,
                                  .high90 = ci90.high,
                                  .p_holm = holm[i],
                                  .alpha = 0.05,
                                  .margin = p[i].margin,
                                  .higher_is_better = true };
        char first = *verdict_of(&c);
        v.better += first == 'b';
        v.worse += first == 'w';
        v.equivalent += first == 'e';
        v.non_inferior += first == 'n';
        v.undecided += first == 'u';
    }
    free(p);
    free(raw);
    free(holm);
    return v;
}

/* Signs of few documents are flipped 100,000 times a test: fewer sweeps then. */
static void false_verdicts(int k, int n, int most)
{
    int repeats = n < FLIPS_BELOW ? most / 20 : most;
    long wrong = 0, one = 0;

#pragma omp parallel for reduction(+ : wrong, one)
    for (int r = 0; r < repeats; r++) {
        struct verdicts v = sweep_of((uint64_t)r + 1, k, n, 0);
        wrong += v.better + v.worse > 0;
        one += v.better + v.worse;
    }
    printf("%6d %6d   %6.1f %%  %8.2f %%  of %d\n", k, n, 100.0 * (double)wrong / repeats,
           100.0 * (double)one / repeats / k, repeats);
}

static void power(int n, double lost, int repeats)
{
    struct verdicts sum = { 0 };

    for (int r = 0; r < repeats; r++) {
        struct verdicts v = sweep_of((uint64_t)r + 1, 1, n, lost);
        sum.better += v.better;
        sum.worse += v.worse;
        sum.equivalent += v.equivalent;
        sum.non_inferior += v.non_inferior;
        sum.undecided += v.undecided;
    }
    struct source s = { 1, 0 };
    struct pair p = pair_of(&s, n, lost);
    printf("%6d  %6.1f   %5.1f %5.1f %5.1f %5.1f %5.1f   %6.1f\n", n, 100 * true_change(lost),
           100.0 * (double)sum.worse / repeats, 100.0 * (double)sum.undecided / repeats,
           100.0 * (double)sum.non_inferior / repeats, 100.0 * (double)sum.equivalent / repeats,
           100.0 * (double)sum.better / repeats, 100 * stats_detectable(&p.e, 0.05, 0.8));
}

/* ---- few flips ---- */

/* Right or wrong, one item in 1 / lost lost, one in 1 / won won. */
static struct pair flips_of(struct source *s, int n, double lost, double won)
{
    struct items items = { .n = n, .all = mem_array((size_t)n, sizeof(struct item)) };
    struct pair p = { .metric = f1, .margin = lost - won, .note = "" };

    for (int i = 0; i < n; i++) {
        double u = uniform(s);
        items.all[i] = (struct item){ .number = i, .value = u < lost ? -1 : u < lost + won };
    }
    struct item_estimate e = items_estimate(&items, 0.95);
    p.e = e.e;
    for (int i = 0; i < n; i++)
        p.largest = fmax(p.largest, fabs(items.all[i].value));
    p.test = items_test(&items, &e);
    items_release(&items);
    return p;
}

/* The true difference is the margin: a claim that it is smaller is wrong. */
static void few_flips(int n, double lost, double won, int repeats)
{
    long held = 0, held_t = 0, claimed = 0, claimed_t = 0;

#pragma omp parallel for reduction(+ : held, held_t, claimed, claimed_t)
    for (int r = 0; r < repeats; r++) {
        struct source s = { (uint64_t)r + 1, 0 };
        struct pair p = flips_of(&s, n, lost, won);
        struct interval i = pair_limits(&p, 0.95), i90 = pair_limits(&p, 0.9), t = i, t90 = i90;
        if (!p.e.is_constant) {
            stats_limits(&p.e, 0.95, &t.low, &t.high);
            stats_limits(&p.e, 0.9, &t90.low, &t90.high);
        }
        held += i.low <= won - lost && won - lost <= i.high;
        held_t += t.low <= won - lost && won - lost <= t.high;
        claimed += i90.low > -p.margin;
        claimed_t += t90.low > -p.margin;
    }
    printf("%6d  %5.1f %5.1f   %6.1f %6.1f   %6.1f %6.1f\n", n, 100 * lost, 100 * won,
           100.0 * (double)held_t / repeats, 100.0 * (double)held / repeats,
           100.0 * (double)claimed_t / repeats, 100.0 * (double)claimed / repeats);
}

static void all_few_flips(int repeats)
{
    static const double shares[][2] = { { 0.01, 0 }, { 0.02, 0 }, { 0.02, 0.01 }, { 0.06, 0.05 } };
    static const int sizes[] = { 50, 150, 500, 1838, 10042 };

    printf(
        "\nFew flips: right-or-wrong scores of which some %% are lost and won; 95 %% intervals "
        "that hold,\nand false claims that the loss is below what it is (5 %% would be right)\n");
    printf("%6s  %5s %5s   %6s %6s   %6s %6s\n", "items", "lost", "won", "t", "rule", "t", "rule");
    for (size_t k = 0; k < sizeof shares / sizeof *shares; k++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            few_flips(sizes[i], shares[k][0], shares[k][1], repeats);
}

static const int sizes[] = { 10, 20, 50, 100, 200, 500 };
enum { N_SIZES = sizeof sizes / sizeof *sizes };

static void all_coverage(int repeats)
{
    printf("Coverage of 95 %% intervals in %% of %d samples (BCa: %d draws, a quarter of the "
           "samples)\n",
           repeats, BCA_DRAWS);
    printf("%-28s %6s %6s  %6s %6s %6s   %5s\n", "scores", "docs", "items", "t", "rule", "BCa",
           "t out");
    for (size_t p = 0; p < sizeof populations / sizeof *populations; p++)
        for (size_t i = 0; i < N_SIZES; i++)
            cover(&populations[p], sizes[i], repeats);
    printf("rule: what the report prints (Wilson, its form for scores in [0, 1], log scale for KL, "
           "else t);\nt out: t intervals that leave [0, 1]\n");
}

static void all_sweeps(int repeats)
{
    printf("\nSweeps of configurations without any difference: false better or worse\n");
    printf("%6s %6s   %8s  %10s\n", "config", "items", "a sweep", "a verdict");
    for (int k = 1; k <= 20; k = k == 1 ? 5 : k * 2)
        for (size_t i = 1; i < N_SIZES; i++)
            false_verdicts(k, sizes[i], repeats);
}

static void all_power(int repeats)
{
    static const double losses[] = { 0, 0.02, 0.05, 0.1 };

    printf("\nVerdicts on one difference of F1 (%% of %d samples); the last column: smallest "
           "difference found\nwith a power of 80 %%, in points\n",
           repeats / 4);
    printf("%6s  %6s   %5s %5s %5s %5s %5s   %6s\n", "items", "true", "worse", "undec", "noninf",
           "equiv", "better", "points");
    for (size_t l = 0; l < sizeof losses / sizeof *losses; l++)
        for (int n = 50; n <= 8000; n = n == 50 ? 500 : n == 500 ? 2000 : n * 4)
            power(n, losses[l], repeats / 4);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(int repeats);
    } parts[] = { { "coverage", all_coverage },
                  { "flips", all_few_flips },
                  { "sweeps", all_sweeps },
                  { "power", all_power } };
    int repeats = argc > 1 ? atoi(argv[1]) : 4000, n_run = 0;

    f1 = metric_find("coqa_f1");
    for (size_t i = 0; i < sizeof parts / sizeof *parts && repeats >= 100; i++)
        if (argc < 3 || strcmp(argv[2], parts[i].name) == 0) {
            parts[i].run(repeats);
            fflush(stdout);
            n_run++;
        }
    if (n_run == 0)
        fprintf(stderr, "coverage [repeats [coverage|flips|sweeps|power]], at least 100\n");
    return n_run ? 0 : 2;
}
