/* metric.h - the table of what is measured: name, unit, direction, where it stands in a record.
 *
 * Statistics, summary, comparisons and report all walk these rows; a new number is a new row.  */
#pragma once

#include "base/js.h"

#include <stdbool.h>
#include <stdint.h>

enum metric_kind {
    METRIC_QUALITY, /* a score of items: intervals across seeds and across items         */
    METRIC_TIMING,  /* skewed samples: medians, intervals from order statistics          */
    METRIC_SIZE     /* counted: the same in every run                                    */
};

enum metric_shape {
    SHAPE_SCALAR,  /* record[group][member]                                              */
    SHAPE_SAMPLES, /* record[group][member]: [repeats]                                   */
    SHAPE_FIRST,   /* record[group][member][0]: [repeats], at the first prompt length    */
    SHAPE_BATCHES  /* record[group][member][i]: [repeats], at record[group].batch_size[i] */
};

struct metric {
    const char *name, *unit, *what;
    int higher_is_better;
    enum metric_kind kind;
    const char *group, *member; /* group: dotted path */
    enum metric_shape shape;
    double scale;        /* what is reported = scale * what is recorded */
    const char *item;    /* record[group][item]: one value an item; NULL: none */
    bool log_scale;      /* items are logarithms, means and intervals are made on that scale */
    const char *weights; /* record[group][weights]: tokens of each item, where they differ; items of
                            one document then count together */
    bool compared_as_log; /* a ratio of two experiments' items says more than a difference */
    bool is_share;        /* items lie in [0, 1], and so do the ends of every interval */
    const char *margin;   /* its key of [sweep] margin; NULL: the name */
    bool in_summary;      /* has columns in /summary */
    bool is_compared;     /* has rows in /comparisons */
};

extern const struct metric metrics[]; /* ends with name NULL */

/* The row of a column name; "throughput_tok_s_b8" finds throughput_tok_s_b.  NULL: none. */
const struct metric *metric_find(const char *name);

/* A metric of one sweep: the row, and the batch size where the row has one a size. */
struct measure {
    const struct metric *metric;
    int64_t batch_size; /* 0: not of this shape */
    char name[64];
};

struct measure measure_of(const struct metric *m, int64_t batch_size);

/* Is it in this record at all? */
bool measure_is_in(const struct measure *m, const struct js *record);

/* The value of one run (samples: their median); NaN where absent or null. */
double measure_value(const struct measure *m, const struct js *record);

/* The samples behind the value, malloc'ed; *n = 0 and NULL for scalars. */
double *measure_samples(const struct measure *m, const struct js *record, int64_t *n);
