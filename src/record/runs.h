/* runs.h - the records of a sweep in one order (experiment, seed), and their per-item scores.
 *
 * Everything is borrowed from the records, which must outlive it.  */
#pragma once

#include "base/js.h"
#include "base/stats.h"
#include "record/metric.h"
#include "sweep/sweep_file.h"

/* One finished job. */
struct run {
    int64_t seed;
    bool ok; /* status "success" */
    const struct js *record;
};

/* All of one experiment. */
struct runs {
    const struct experiment *experiment;
    int n_jobs; /* that the sweep asks for */
    int n, n_ok;
    struct run *all; /* by seed, one a seed */
};

struct run_list {
    int n;
    struct runs *all; /* in sweep order; then known experiments that only the records have */
    int jobs_total, jobs_ok, jobs_failed;
};

#define RUN_LIST_INIT \
    {                 \
        0             \
    }

/* Of two records of one experiment and seed the successful one counts, then the later finished.
 * Records of experiments that the sweep does not know are left out. */
int runs_collect(const struct sweep *s, const struct js *const *records, int n_records,
                 struct run_list *out, struct err *e);
void runs_release(struct run_list *l);

const struct runs *runs_find(const struct run_list *l, const char *experiment); /* NULL: none */

/* Of all devices that worked on it; 0 where the record does not say how long. */
double run_device_seconds(const struct js *record);

/* Can a seed change this task's scores: through calibration, or through the items it draws? */
bool runs_seed_matters(const struct sweep *s, const struct experiment *x, const char *task);

/* ---- items ---- */

/* One score: of a turn of a document, or of a window (no document; the window is its own). */
struct item {
    const char *document; /* NULL: number tells */
    int64_t number, turn, seed;
    double value;
};

struct items {
    int64_t n;
    struct item *all;
};

#define ITEMS_INIT \
    {              \
        0          \
    }

/* Appends the scores of one run; nothing where the record has none. */
void items_add(struct items *to, const struct metric *m, const struct run *run);
/* Appends a - b for each item that both runs have; seed: which draw the pair belongs to. */
void items_add_pairs(struct items *to, const struct metric *m, const struct run *a,
                     const struct run *b, int64_t seed);
void items_release(struct items *x);
bool items_same_document(const struct item *a, const struct item *b);

enum item_design {
    ITEMS_ONE_RUN, /* one run, or runs that agree in every item           */
    ITEMS_POOLED,  /* runs over different items, clustered by document    */
    ITEMS_CROSSED  /* the same items under every seed, with other scores  */
};

struct item_estimate {
    struct estimate e; /* t; e.n_clusters documents */
    enum item_design design;
    bool is_binary; /* every value is 0 or 1, one a document */
};

/* Sorts x, then estimates its mean by the design it finds; of runs that agree in every item one is
 * left in x. */
struct item_estimate items_estimate(struct items *x, double confidence);

#define FLIPS_BELOW 50 /* documents: with fewer, t is not calibrated and signs are flipped */

struct item_test {
    double p_value;
    double flip_rate; /* items whose difference is not 0 */
    const char *name; /* "McNemar", "sign flips", "paired t"; "": none */
};

/* After items_estimate(), of differences: are they 0 on average?  McNemar's exact test of 0/1
 * scores, one a document; sign flips of few documents' sums; else t. */
struct item_test items_test(const struct items *x, const struct item_estimate *e);
