/* generate.h - greedy generation of many prompts, continuously batched: a sequence that is
 * finished leaves, the next one enters, in an order of our own.  Prompts that begin alike share
 * what they begin with.
 * Each result depends on its prompt alone. */
#pragma once

#include "model/model.h"

struct generate_prompt {
    const int32_t *ids;
    int32_t n_ids;
};

/* What was done for all prompts together. */
struct generate_counts {
    int64_t n_passes, n_rows;        /* over pieces of prompts */
    int64_t n_copied;                /* ids whose keys and values went from slot to slot */
    int64_t n_looks, n_steps, n_fed; /* calls for steps, their steps, ids fed in them */
};

struct generate_options {
    int batch_size; /* sequences at a time; 0: from free memory */
    int max_new_tokens;
    int min_new_tokens; /* eos is forbidden before */
    const int32_t *eos_ids;
    int n_eos;
    /* Asked after every new token (eos is not passed): true ends the sequence, e.g. once the
     * text so far holds a line end.  NULL: only eos and the maximum stop. */
    bool (*stop)(void *context, int prompt, const int32_t *new_ids, int n_new);
    void *context;
    int n_steps;        /* ids of a sequence between two looks at it; 0: as suits the device */
    bool share_nothing; /* compute every prompt from its first id on, whatever others began with */
    struct generate_counts *counts; /* NULL: not asked for */
};

struct generate_result {
    int32_t *ids; /* malloc'ed; without the eos */
    int32_t n_ids;
    int32_t n_shared; /* ids of the prompt whose keys and values came from another's; all of them
                         where the first new id came from there, too */
    bool broken;      /* a logit was NaN: generation stopped there */
};

/* results: [n_prompts], filled in prompt order; release with generate_release(). */
int generate(const struct model *m, const struct generate_prompt *prompts, int n_prompts,
             const struct generate_options *o, struct generate_result *results, struct err *e);
void generate_release(struct generate_result *results, int n_prompts);
