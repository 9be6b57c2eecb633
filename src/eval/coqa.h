/* coqa.h - CoQA between its two halves: stories -> prompts and golds -> prepared bytes -> run. */
#pragma once

#include "eval/dataset.h"
#include "eval/pack.h"
#include "eval/task.h"

#define COQA_GOLDS_MAX 4 /* the main annotator and three more */

struct coqa_document { /* one question asked of one story */
    struct text id, source;
    uint32_t turn;   /* from 1 */
    bool truncated;  /* the prompt lost ids from its left */
    int32_t *prompt; /* [n_prompt] */
    size_t n_prompt;
    struct text golds[COQA_GOLDS_MAX]; /* as written; the main answer first */
    size_t n_golds;
};

struct coqa_set {             /* texts are borrowed from the prepared bytes */
    struct coqa_document *at; /* by story, then turn */
    size_t n;
    size_t *first; /* [n_stories + 1]: where in `at` each story begins; then n */
    size_t n_stories;
};

struct coqa_options {
    int64_t limit; /* stories; 0: all */
    bool random;
    bool all_turns;
};

int coqa_prepare(const struct js *options, const struct tokenizer *t, const struct profile *p,
                 const struct config *c, struct bytes *out, struct err *e);
int coqa_open(struct coqa_set *s, const void *prepared, size_t n_bytes, struct err *e);
void coqa_release(struct coqa_set *s);

/* The stories of a file and how many turns each has; refuses duplicate ids, and lists that do not
 * agree.  n_turns: malloc'ed. */
int coqa_stories(const char *path, struct stories *out, size_t **n_turns, struct err *e);
/* All but the prompt of one turn (from 0); texts borrowed from the story. */
int coqa_turn(const struct js *story, size_t turn, struct coqa_document *d, struct err *e);

/* The stories a job takes, ascending indices, malloc'ed: the first `limit` (0: all), or that
 * many drawn without replacement by the seed. */
size_t *coqa_pick(size_t n, int64_t limit, bool random, int64_t seed, size_t *n_picked);

/* The turns of these stories: indices of s->at. */
size_t *coqa_pick_turns(const struct coqa_set *s, const struct coqa_options *o, int64_t seed,
                        size_t *n_picked);

int coqa_options(const struct js *options, struct coqa_options *o, struct err *e); /* checked */

/* The official evaluation of a file of predictions ([{ "id", "turn_id", "answer" }, ...]): its
 * table of domains, in_domain, out_domain and overall, as JSON with EM and F1 times 100 rounded to
 * one decimal.  Turns without a prediction count 0; their number is *n_missing. */
struct js *coqa_official(const char *predictions, const char *data, int64_t *n_missing,
                         struct err *e);
