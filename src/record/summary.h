/* summary.h - from records to tables: statistics per experiment, the summary, comparisons with
 * the baseline, in the shape of the results-file contract. */
#pragma once

#include "base/js.h"
#include "record/table.h"
#include "sweep/sweep_file.h"

struct experiment_results {
    const struct experiment *experiment;
    char status[16];         /* "success", "partial", "error" */
    struct table statistics; /* metric, n_seeds, mean, sd, seed_ci_low, ... */
};

struct summary {
    struct table summary;     /* /summary */
    struct table comparisons; /* /comparisons */
    int n_experiments;
    struct experiment_results *experiments; /* in sweep order */
    int jobs_total, jobs_ok, jobs_failed;
};

#define SUMMARY_INIT \
    {                \
        0            \
    }

/* records: parsed records of finished jobs (record.h), any order; the result does not depend on
 * it.  parameters: of the model, for bits per weight and compression. */
int summary_make(const struct sweep *s, const struct js *const *records, int n_records,
                 struct summary *out, struct err *e);
void summary_release(struct summary *s);
