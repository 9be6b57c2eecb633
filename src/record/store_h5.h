/* store_h5.h - the results file (HDF5), always built whole: FILE.tmp, fsync, rename.  The layout
 * is the results-file contract.  store_h5*.c are the only files that know HDF5. */
#pragma once

#include "base/err.h"
#include "base/js.h"
#include "record/summary.h"

struct store_input {
    const struct sweep *sweep;
    const struct summary *summary;
    const struct js *const *records; /* finished jobs */
    int n_records;
    const struct js *provenance; /* provenance.h: scalar members become attributes of /provenance,
                                    arrays datasets; llq_version and git_commit go to the root */
    const char *command_line, *created, *finished; /* finished "" while it runs */
    bool complete;
};

/* The same input gives the same bytes.  Of two records of one experiment and seed the later one
 * counts; records of experiments that the summary does not know are kept, without statistics. */
int store_h5_build(const char *path, const struct store_input *in, struct err *e);

/* The tables and attributes that --report prints, from a results file alone.  failures: a table
 * with columns experiment, seed, stage, error. */
struct store_report {
    struct table summary, comparisons, failures;
    struct table halves; /* empty in files of 0.1.0 */
    char name[NAME_MAX_BYTES];
    double confidence;
    char no_comparisons[256]; /* why there are none; "" otherwise */
    bool complete;
    int64_t jobs_total, jobs_ok, jobs_failed;
};

/* ERR_INPUT, one line, for whatever is no whole results file of ours. */
int store_h5_read(const char *path, struct store_report *out, struct err *e);
void store_report_release(struct store_report *r);

/* One group below the seed of an experiment ("coqa") as JSON: attributes as members, datasets of
 * one dimension as arrays "NAME_item".  NULL with ERR_INPUT where there is none. */
struct js *store_h5_read_group(const char *path, const char *experiment, int64_t seed,
                               const char *group, struct err *e);
/* The attributes of the root and of /provenance. */
struct js *store_h5_read_provenance(const char *path, struct err *e);
/* The seeds of an experiment whose job succeeded, malloc'ed; *n of them. */
int store_h5_read_seeds(const char *path, const char *experiment, int64_t **seeds, int *n,
                        struct err *e);

const char *store_h5_version(void);
