/* work.h - what a point cannot do without: bytes that must come from memory, operations that must
 * be done.  Beside its time they say how near to the device's limits it came. */
#pragma once

#include "bench/point.h"

struct work {
    double bytes; /* weights once a pass (the embedding is looked up, not read), keys and values */
    double flops; /* multiply and add count as two; attention, causal; the head at the last row */
};
/* Of one run of p; DECODE: of its steps alone. */
struct work work_of(const struct model *m, const struct point *p);
/* Seconds that such a run took, from a sample in the point's unit. */
double work_seconds(const struct point *p, double sample);

/* A table, one row a point: work, the median run, and their ratios. */
struct js *work_table(const struct model *m, const struct point *points, int n);
