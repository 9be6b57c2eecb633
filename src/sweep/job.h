/* job.h - what one job is: an experiment and a seed, every setting resolved.
 *
 * A job travels as JSON text (job_text), so that ranks, the engine process and a journal from
 * yesterday all read the same thing.  Its key is the SHA-256 of everything that decides the
 * result: settings, seed, model and data hashes, versions of the tasks and of the program's
 * semantics; nothing else (not names, paths, rank counts, batch size).  */
#pragma once

#include "base/err.h"
#include "base/hash.h"
#include "base/js.h"

#include <stdbool.h>
#include <stdint.h>

#define NAME_MAX_BYTES 65 /* names match [A-Za-z0-9_.-]{1,64} */
#define SKIP_MAX       8

/* Bumped with any change that alters a result which no task version covers. */
#define SEMANTICS_VERSION 1

/* One experiment: a cell of the grid, resolved. */
struct experiment {
    char name[NAME_MAX_BYTES];
    char method[16];
    int bits;
    int64_t group_size; /* -1: per row; 0: the method has none */
    char quant_type[16];
    bool double_quant;
    char compute_dtype[8]; /* "fp16", "bf16", "fp32" */
    bool sym;
    char grid[16];
    double outlier_threshold;
    char scale_dtype[8]; /* "fp32", "fp16"; "": the method has no choice */
    char preset[16];     /* gptq; the keys below hold what it says where they were not given */
    bool desc_act, static_groups, gar, true_sequential;
    double damp_percent, mse;
    bool zero_point, duo_scaling, clip; /* awq */
    int n_skip;
    char skip[SKIP_MAX][64];
    int line; /* in the sweep file, for messages */
};

struct job {
    int id;                              /* index in the list; names results of one run only */
    const struct experiment *experiment; /* owned by the sweep */
    int64_t seed;
    bool quality; /* quantize and evaluate */
    bool benchmark;
    char key[HASH_TEXT_MAX];
    double cost_s; /* estimate */
};

/* Resolved settings under their sweep-file names, without the name: for a job's text, the
 * attributes of /experiments/NAME and --dry-run -v.  Keys that the method does not have are left
 * out, but bits, group_size (0: none), quant_type ("": none), double_quant and compute_dtype are
 * always there. */
struct js *experiment_to_js(const struct experiment *x);

/* The members "experiment" (the name), "seed", "quality", "benchmark", "key" and "quant"
 * (experiment_to_js); shared settings (model, tasks, benchmark, run) travel once, in
 * sweep_setup_js(). */
struct js *job_to_js(const struct job *j);
/* Into caller's structs; job->experiment points to *experiment, job->id is -1. */
int job_from_js(const struct js *text, struct job *job, struct experiment *experiment,
                struct err *e);

/* Sets j->key.  What enters: SEMANTICS_VERSION, the experiment's settings (not its name), the
 * quality and benchmark flags, the source dtype; where quality is asked for, profile and task
 * options (not their paths); where a benchmark is, its settings; the seed where it can change
 * something; and identity (hashes of model and data, task versions), a canonical text made by
 * the caller.  So a deterministic job keeps its key when only the list of seeds changes. */
struct sweep;
void job_make_key(struct job *j, const struct sweep *s, const char *identity);
