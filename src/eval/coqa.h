/* coqa.h - CoQA between its two halves: stories -> prompts and golds -> prepared bytes -> run. */
#pragma once

#include "eval/pack.h"
#include "eval/task.h"

#define COQA_GOLDS_MAX 4 /* the main annotator and three more */

struct coqa_document { /* the question asked of one story */
    struct text id, source;
    uint32_t turn;   /* from 1 */
    bool truncated;  /* the prompt lost ids from its left */
    int32_t *prompt; /* [n_prompt] */
    size_t n_prompt;
    struct text golds[COQA_GOLDS_MAX]; /* as written; the main answer first */
    size_t n_golds;
};

struct coqa_set { /* texts are borrowed from the prepared bytes */
    struct coqa_document *at;
    size_t n;
};

int coqa_prepare(const struct js *options, const struct tokenizer *t, const struct profile *p,
                 const struct config *c, struct bytes *out, struct err *e);
int coqa_open(struct coqa_set *s, const void *prepared, size_t n_bytes, struct err *e);
void coqa_release(struct coqa_set *s);

/* The documents a job takes, ascending indices, malloc'ed: the first `limit` (0: all), or that
 * many drawn without replacement by the seed. */
size_t *coqa_pick(size_t n, int64_t limit, bool random, int64_t seed, size_t *n_picked);

/* limit and subset of the options, checked. */
int coqa_limits(const struct js *options, int64_t *limit, bool *random, struct err *e);
