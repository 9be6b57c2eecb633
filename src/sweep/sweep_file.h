/* sweep_file.h - a sweep file (TOML) and what the command line changes in it -> one struct.
 *
 * Every error is one line: file:line: key = value: what is allowed.  */
#pragma once

#include "base/err.h"
#include "base/js.h"
#include "sweep/job.h"

#include <stdbool.h>
#include <stdint.h>

#define SWEEP_MAX_JOBS    100000
#define SWEEP_LIST_MAX    64
#define SWEEP_MAX_METRICS 16

/* One [[experiment]] block before expansion: values of each axis (sweep/block.h). */
struct experiment_block;
struct toml_value;

struct margin {
    char metric[32];
    double value;
};

/* [[comparison]]: a pair beside everything against the baseline. */
struct comparison {
    char a[NAME_MAX_BYTES], b[NAME_MAX_BYTES];
    int line;
};

struct sweep {
    char *path;   /* of the sweep file, as given */
    char *folder; /* relative paths in the file start here */
    char *text;   /* the file, verbatim */
    size_t text_bytes;

    /* [sweep] */
    char name[NAME_MAX_BYTES];
    int n_seeds;
    int64_t seeds[SWEEP_LIST_MAX];
    char baseline[NAME_MAX_BYTES]; /* "" when there is none */
    double confidence;
    int n_margins;
    struct margin margins[SWEEP_MAX_METRICS];
    double job_timeout_s;

    /* [model] */
    char *model_path;   /* absolute folder, or a hub id */
    char *model_config; /* absolute, or NULL */
    char *model_revision;
    char source_dtype[8]; /* "stored", "fp16", "bf16", "fp32" */
    int tensor_parallel;  /* ranks of a node that share one job */

    /* [run] */
    int batch_size;

    /* [tasks]: profile and one object a task, resolved, paths absolute; benchmark: resolved
     * [benchmark], or NULL where the file has none. */
    char profile[32];
    struct js *tasks; /* { "coqa": {...}, "perplexity": {...}, "sanity": {...} } */
    struct js *benchmark;
    bool benchmark_per_seed;

    int n_comparisons;
    struct comparison *comparisons; /* their names are checked by sweep_expand() */

    struct js *calibration; /* { "path" (absolute), "samples", "sequence_length" (0: by method) },
                               or NULL */
    char calibration_sha256[HASH_TEXT_MAX]; /* of its file; set by whoever reads it */

    int n_blocks;
    struct experiment_block *blocks;
    struct toml_value *tree; /* of the file, with --set put in; blocks point into it */
    int n_set;
    char **set; /* --set, for messages */

    /* After sweep_expand().  Behind the n_experiments that are run stand those that --experiment
     * filtered out, n_known in all: a resumed file may hold their results. */
    int n_experiments, n_known;
    struct experiment *experiments;
    int n_jobs;
    struct job *jobs;
    char *removed_cells; /* one line listing cells a list's impossible values removed, or NULL */
};

#define SWEEP_INIT \
    {              \
        0          \
    }

/* Paths in `set` are relative to the working directory, those of the file to the file. */
struct sweep_overrides {
    int n_set;
    const char *const *set; /* --set KEY=VALUE, in order */
    bool has_seeds;
    int n_seeds;
    int64_t seeds[SWEEP_LIST_MAX];
    int64_t limit; /* --limit: replaces the limit of every task that has one; -1: not given */
    int n_only;
    const char *const *only; /* --experiment, shell patterns */
    int shard, n_shards;     /* --shard: every n-th job, from this one (1 to n); 0 of 0: all */
};
#define SWEEP_OVERRIDES_INIT \
    {                        \
        .limit = -1          \
    }

/* o may be NULL: none.  Whether files named in it exist is not looked at, but for model.path: an
 * existing folder is made absolute, everything else that could be a hub id stays as it is. */
int sweep_read(const char *path, const struct sweep_overrides *o, struct sweep *out, struct err *e);
/* The same from a text, as if it were the file of that name. */
int sweep_read_text(const char *path, const char *text, size_t n_bytes,
                    const struct sweep_overrides *o, struct sweep *out, struct err *e);
void sweep_release(struct sweep *s);

/* Tests whether a resolved experiment can run at all; called for every cell.  The right tower
 * provides it (quant_spec_check through run_job.c). */
typedef int cell_check(const struct experiment *x, void *context, struct err *e);

/* Blocks -> experiments -> jobs.  A cell that `check` refuses is an error where its value stands
 * alone on its axis, and removes the cell (listed once) where it stands in a list.  Deterministic
 * experiments (data-free method, no task with subset "random") get one quality job, under the
 * first seed; benchmarks run under the first seed, or all with per_seed.  Also applies
 * --experiment and --shard; sets the default baseline.  check and o may be NULL.  May be called
 * again. */
int sweep_expand(struct sweep *s, const struct sweep_overrides *o, cell_check *check, void *context,
                 struct err *e);

/* True where a seed can change this experiment's quality results. */
bool sweep_seed_matters(const struct sweep *s, const struct experiment *x);

/* Everything jobs share, as JSON text for the engines: model, run, tasks, benchmark, profile. */
struct js *sweep_setup_js(const struct sweep *s);

/* Every resolved setting, defaults included, sections as in the file, the experiments that are
 * run by name: for --dry-run -v.  malloc'ed. */
char *sweep_resolved_text(const struct sweep *s);
