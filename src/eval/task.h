/* task.h - from a model to per-item scores.
 *
 * Two halves.  prepare() runs once, on rank 0, without a model: it reads the task's data,
 * tokenizes it and returns a block of bytes that every job of the sweep shares (sent to the
 * ranks as it is).  run() takes the model and that block, and fills a record: a JSON object whose
 * members are the task's attributes (numbers, text) and per-item arrays.  */
#pragma once

#include "base/js.h"
#include "base/memory.h"
#include "model/generate.h"
#include "model/model.h"
#include "tokenizer/tokenizer.h"

/* How lm-evaluation-harness or another program is followed, every switch resolved. */
struct profile {
    char name[32];      /* "lm-eval-0.4.12" */
    bool add_bos;       /* the tokenizer's own BOS is used */
    bool clean_up;      /* decode clean-up as tokenizer_config.json says */
    bool all_golds;     /* CoQA's F1 and EM keep equal gold answers, as the official rule does */
    int max_new_tokens; /* 256 */
    int64_t max_length; /* config.max_position; contexts keep their last max_length - 256 ids */
};

struct task_context { /* of one job */
    const struct model *model;
    const struct model *base; /* the unquantized model, where the task needs it */
    const struct tokenizer *tokenizer;
    const struct profile *profile;
    int64_t seed;                   /* what a random subset is drawn by */
    int batch_size;                 /* 0: from free memory */
    bool shuffle;                   /* run items in a drawn order (tests); results never change */
    struct generate_counts *counts; /* what generating took (tests, benchmarks); may be NULL */
};

struct task {
    const char *name; /* "coqa", "perplexity", "sanity", ... */
    int version;      /* bumped with any change of scores; enters the job key */
    bool needs_base;  /* the unquantized model, in the compute dtype of the job */
    /* options: the task's table of the sweep file, resolved; paths absolute.  config: of the
     * model (max_position).  Errors name file and item. */
    int (*prepare)(const struct js *options, const struct tokenizer *tokenizer,
                   const struct profile *profile, const struct config *config, struct bytes *out,
                   struct err *e);
    int (*run)(const struct task_context *c, const struct js *options, const void *prepared,
               size_t n_bytes, struct js *out, struct err *e);
    /* Documents or tokens a run will touch, for cost estimates, from prepared bytes and options. */
    int (*work)(const struct js *options, const void *prepared, size_t n_bytes,
                int64_t *prompt_tokens, int64_t *new_tokens, struct err *e);
};

extern const struct task *const tasks[]; /* in running order: sanity first; ends with NULL */
const struct task *task_find(const char *name);

int profile_find(const char *name, const struct tokenizer *t, const struct config *c,
                 struct profile *out, struct err *e);
