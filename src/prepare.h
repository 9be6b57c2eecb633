/* prepare.h - everything that can be known and checked before the first job: the sweep, the model's
 * files, the tokenizer, the tasks' data, the keys and costs of the jobs.  Needs no device. */
#pragma once

#include "eval/task.h"
#include "model/config.h"
#include "quant/quant.h"
#include "sweep/cost.h"
#include "sweep/sweep_file.h"

struct prepare_options {
    const char *sweep_path;
    struct sweep_overrides overrides;
    const char *backend; /* "auto", "cpu", "cuda" */
    bool share_gpu;      /* several ranks may have one GPU */
    bool shuffle;        /* items in a drawn order (tests) */
    bool shapes_suffice; /* --dry-run: the model's config alone, stated token counts where the data
                            are not there; what was assumed is said in notes */
};

struct prepared {
    struct sweep sweep;
    char *folder; /* of the model; NULL: not there (shapes_suffice) */
    char commit[64];
    struct config config;
    struct tokenizer *tokenizer;
    struct profile profile;
    struct bytes setup;       /* setup.h */
    struct bytes model_stamp; /* of its files, before they were hashed */
    char model_sha256[HASH_TEXT_MAX];
    struct bytes identity; /* of model and data, for the keys of jobs (job.h) */
    struct js *data;       /* { "coqa": { "path": text, "sha256": text }, ... } */
    /* Of one quality run. */
    int64_t n_sequences, prompt_tokens, new_tokens, window_tokens;
    int64_t
        least_job_bytes; /* packed linears of the smallest job: what it adds to the stored ones */
    struct bytes notes;  /* shapes_suffice: one line each */
};

#define PREPARED_INIT \
    {                 \
        0             \
    }

int prepare(const struct prepare_options *o, struct prepared *out, struct err *e);
void prepared_release(struct prepared *p);

/* The sweep's tokenizer and profile alone (--tokenize); *out is the caller's to close. */
int prepare_tokenizer(const struct prepare_options *o, struct tokenizer **out,
                      struct profile *profile, struct err *e);

/* cell_check for sweep_expand(): context says what is known of the model. */
struct cell_context {
    const struct config *config; /* NULL: shapes are not known */
    int n_parts;                 /* that the model is cut into; 0 or 1: it is not */
};
int prepare_check_cell(const struct experiment *x, void *context, struct err *e);

/* What one job takes: seconds for the order of jobs, bytes for --dry-run. */
int prepare_cost(const struct prepared *p, const char *backend, const struct job *j,
                 struct quant_sizes *sizes, struct cost *cost, struct err *e);
