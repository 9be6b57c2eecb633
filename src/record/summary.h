/* summary.h - from records to tables: statistics per experiment, the summary, comparisons with
 * the baseline, in the shape of the results-file contract. */
#pragma once

#include "base/js.h"
#include "record/table.h"
#include "sweep/sweep_file.h"

struct experiment_results {
    const struct experiment *experiment; /* the sweep's */
    char status[16];         /* "success", "partial" (some failed or not yet run), "error" */
    struct table statistics; /* metric, n_seeds, mean, sd, seed_ci_low, ... */
};

struct summary {
    struct table summary;     /* /summary */
    struct table comparisons; /* /comparisons */
    struct table pareto;      /* front, metric, name: /pareto/FRONT/METRIC are the names */
    struct table halves;      /* /halves: halves.h */
    int n_experiments;
    struct experiment_results *experiments; /* in sweep order; then known ones that --experiment
                                               filtered out and a resumed file has results of */
    int jobs_total, jobs_ok, jobs_failed;
    char no_comparisons[256]; /* why there is none ("" otherwise): no baseline, or no results of it
                               */
};

#define SUMMARY_INIT \
    {                \
        0            \
    }

/* records: parsed records of finished jobs (record.h), any order; the result does not depend on
 * it.  Metrics that neither the sweep asks for nor any record has get no rows and columns.
 * ERR_INPUT where a record names no experiment and seed.  The sweep must outlive *out. */
int summary_make(const struct sweep *s, const struct js *const *records, int n_records,
                 struct summary *out, struct err *e);
void summary_release(struct summary *s);
