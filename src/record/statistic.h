/* statistic.h - one metric of one experiment over its seeds: a row of /statistics. */
#pragma once

#include "record/runs.h"

struct statistic {
    int n_seeds; /* runs that have a value */
    double mean, sd;
    double seed_low, seed_high; /* across seeds: Student t; perplexity on the log scale */
    double item_low, item_high; /* across items: clustered t, Wilson, or ranks of repeats; those of
                                   scores in [0, 1] never leave it (stats_bounded) */
    bool seed_effective;        /* a seed can and does change it */
    char note[512];             /* how the intervals were made, or why there is none */
    char warning[256];          /* what the summary must not hide; "" mostly */
};

struct statistic statistic_make(const struct sweep *s, const struct runs *r,
                                const struct measure *m);

/* The interval that stands beside the mean: across seeds where they matter, else across items. */
struct interval statistic_interval(const struct statistic *t);
