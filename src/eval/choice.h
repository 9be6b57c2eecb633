/* choice.h - multiple choice between its halves: data file -> questions -> ids -> scores.
 *
 * A question is a handful of requests, each a context and a continuation; the log likelihood of the
 * continuation's ids is all that is asked of the model.  Formats, prompts and metrics of each data
 * set are those of lm-evaluation-harness 0.4.  */
#pragma once

#include "eval/pack.h"
#include "eval/task.h"

#define CHOICES_MAX 16
#define SHOTS_MAX   5

/* A question as its data file has it.  Owned; released for the next one. */
struct question {
    struct bytes document;             /* what counts as one unit of sampling */
    struct bytes id;                   /* of the question itself, no two alike */
    struct bytes subject;              /* mmlu */
    struct bytes context[CHOICES_MAX]; /* what the model is shown ... */
    struct bytes choice[CHOICES_MAX];  /* ... and, behind one blank, what it might say */
    int n;                             /* requests */
    int gold;                          /* the right one */
};
void question_release(struct question *q);

struct choice_task {
    const char *name;  /* of [tasks.multiple_choice.NAME] */
    int version;       /* bumped with any change of scores; part of the prepared bytes */
    const char *file;  /* whose form is read, for messages and help */
    bool has_norm;     /* acc_norm: by the characters of each choice */
    bool has_subjects; /* and examples of each, for num_fewshot */
    bool is_greedy;    /* right when every id is the likeliest one; one request */
    int64_t n_stated, tokens_stated; /* of the public data, about: estimates without the file */
    /* One line (MMLU: row) -> q.  Errors name the member. */
    int (*read)(const struct js *line, struct question *q, struct err *e);
};
extern const struct choice_task choice_tasks[]; /* ends with name NULL */
const struct choice_task *choice_task_find(const char *name);

/* Question and choices of an MMLU line, up to "Answer:". */
int choice_mmlu_text(const struct js *line, struct bytes *out, struct err *e);

/* All questions of a file, in its order; take() is given each.  PATH-labels.lst beside PATH.jsonl
 * holds labels that the lines lack (PIQA); MMLU: a folder of SUBJECT_test.csv files, and n_shots >
 * 0 that many of SUBJECT_dev.csv in front of each. */
int choice_read(const struct choice_task *t, const char *path, int n_shots,
                int (*take)(void *context, const struct question *q, struct err *e), void *context,
                struct err *e);

/* ---- prepared ---- */

struct choice_request {
    int32_t *ids; /* [n_ids], context and continuation, without what was cut from the left */
    int32_t n_ids, n_scored; /* the last n_scored ids are the continuation's */
    int32_t n_common;        /* ids that the request before it begins with, too */
    int32_t n_chars;         /* code points of the choice */
};

struct choice_item {
    struct text document, id, subject;
    bool truncated;
    int n, gold;
    struct choice_request request[CHOICES_MAX];
};

struct choice_set { /* of one task; texts are borrowed from the prepared bytes */
    const struct choice_task *task;
    struct choice_item *at;
    int64_t n;
};

int choice_prepare(const struct js *options, const struct tokenizer *t, const struct profile *p,
                   const struct config *c, struct bytes *out, struct err *e);
/* The sets of all tasks in the bytes; malloc'ed. */
int choice_open(struct choice_set **sets, int *n_sets, const void *prepared, size_t n_bytes,
                struct err *e);
void choice_release(struct choice_set *sets, int n_sets);

/* ---- running ---- */

/* log_likelihood[i][k]: of request k of picked[i]; greedy[i] (may be NULL): every id of request 0
 * was the likeliest.  Neither depends on what else runs, or in which order. */
struct choice_scores {
    double (*log_likelihood)[CHOICES_MAX]; /* [n] */
    bool *greedy;                          /* [n] or NULL */
};
int choice_run(const struct task_context *c, const struct choice_set *set, const size_t *picked,
               int64_t n, struct choice_scores *out, struct err *e);
