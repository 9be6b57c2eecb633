/* compare.h - every experiment against the baseline, paired item by item: /comparisons. */
#pragma once

#include "record/runs.h"
#include "record/table.h"

#define MARGIN_STANDARD 0.01
#define POWER           0.8 /* that items_needed aims at */

/* What a verdict is made of.  Intervals are of delta = a - b (perplexity: of mean logarithms); low
 * and high hold for all tests of the table at once (Bonferroni). */
struct verdict_case {
    double delta, low, high;
    double low90, high90;
    double p_holm, alpha; /* alpha = 1 - confidence */
    double margin;        /* on the scale of delta */
    bool higher_is_better;
};

/* "better", "worse", "equivalent", "non_inferior" or "undecided": the first that holds, in the
 * order of the results-file contract.  NaN decides nothing. */
const char *verdict_of(const struct verdict_case *c);

/* The margin of a metric on the scale of its delta: relative margins become log(1 + margin). */
double margin_of(const struct sweep *s, const struct metric *m);

/* One pair by one metric: the differences a - b, item by item. */
struct pair {
    const struct runs *a, *b;
    const struct metric *metric;
    struct estimate e;
    double largest; /* of a document, without its sign, where most have no difference; else 0 */
    struct item_test test;
    double p_holm, margin;
    const char *note;
};
struct pair pair_make(const struct sweep *s, const struct metric *m, const struct runs *a,
                      const struct runs *b);
/* Of the difference.  Of shares that differ in few documents by Bonett and Price: as if two more
 * had differed by the largest difference, one each way.  Few flips say less than their spread does:
 * with one in 150 the interval by t would not hold three. */
struct interval pair_limits(const struct pair *p, double confidence);

/* Every experiment against the baseline, then the sweep's own pairs; one Holm family.  Columns as
 * in the contract, and what the verdict was made of.  Without a baseline, or without
 * results of it, it has no rows with it, and why[n_why] says so. */
void compare_all(const struct sweep *s, const struct run_list *runs, struct table *out, char *why,
                 size_t n_why);
