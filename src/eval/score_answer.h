/* score_answer.h - exact match and F1 of an answer, as lm-evaluation-harness scores CoQA (SQuAD's
 * normalisation with Python's ideas of lower case, white space and words).  No model in sight. */
#pragma once

#include "eval/pack.h"

struct answer_score { /* each from 0 to 1 */
    double em, f1;
    double precision, recall; /* of the gold answer that gave the F1 */
};

/* Appends: lower case, ASCII punctuation deleted, the words a, an, the dropped, white space as
 * single spaces.  s is UTF-8. */
void answer_normalise(const char *s, size_t n_bytes, struct bytes *out);

/* One gold answer. */
struct answer_score answer_score_one(struct text gold, struct text prediction);

/* n >= 1 gold answers: with several, each is left out in turn and the best of the others
 * counts; the mean of that.  Duplicates count as they stand: CoQA's official rule over all
 * annotators. */
struct answer_score answer_score_all(const struct text *golds, size_t n, struct text prediction);

/* lm-evaluation-harness's rule: golds that equal an earlier one in lower case are dropped first.
 * Keeps order, gives how many stay. */
size_t answer_distinct(struct text *golds, size_t n);

/* The part of a generated text that is scored: cut at "\nQ:" and at eos_text (may be NULL), white
 * space stripped from both ends, first line.  Borrowed from s. */
struct text answer_of_generated(const char *s, size_t n_bytes, const char *eos_text);

/* True when no further text could change answer_of_generated() but for white space at its end:
 * the answer's line is over. */
bool answer_is_over(const char *s, size_t n_bytes);
