/* compare.h - every experiment against the baseline, paired item by item: /comparisons. */
#pragma once

#include "record/runs.h"
#include "record/table.h"

#define MARGIN_STANDARD 0.01
#define POWER           0.8 /* that items_needed aims at */

/* What a verdict is made of.  Intervals are of delta = a - b (perplexity: of mean logarithms). */
struct verdict_case {
    double delta, low, high; /* at the sweep's confidence */
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

/* Columns as in the contract, and n_items, n_documents, ci90_low, ci90_high, margin, note.  Without
 * a baseline, or without results of it, no rows, and why[n_why] says so. */
void compare_all(const struct sweep *s, const struct run_list *runs, struct table *out, char *why,
                 size_t n_why);
