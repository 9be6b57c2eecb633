/* windows.h - a text as the windows that run through a model: which ids, which of them are scored.
 *
 *   gptq       windows of W that do not overlap, the rest dropped; all but the first id are scored
 *              (Frantar et al. 2022; their llama.py)
 *   llama_cpp  windows of W, their first id replaced by BOS where the vocabulary adds it; the last
 *              W - 1 - W / 2 are scored (examples/perplexity)
 *   lm_eval    documents, each id scored once, W at a time behind one id of context; the last
 *              window of a document reaches back (loglikelihood_rolling)  */
#pragma once

#include "eval/pack.h"
#include "eval/task.h"
#include "model/forward_divergence.h"

enum protocol { PROTOCOL_GPTQ, PROTOCOL_LM_EVAL, PROTOCOL_LLAMA_CPP };

struct text_window {
    int32_t *ids;
    int64_t n, n_scored; /* the last n_scored ids are predicted */
    int64_t document;    /* lm_eval: which one; else the window's own number */
};

struct windows {
    enum protocol protocol;
    int64_t window;           /* W */
    int64_t n_words, n_bytes; /* lm_eval: of the documents as they were before detokenizing */
    int64_t n_documents;
    struct text_window *at;
    int64_t n, longest;
};

const char *protocol_name(enum protocol p);

/* The options of [tasks.perplexity] -> bytes; refuses what cannot be cut. */
int windows_prepare(const struct js *options, const struct tokenizer *t, const struct profile *p,
                    const struct config *c, struct bytes *out, struct err *e);
int windows_open(struct windows *w, const char *task, const void *prepared, size_t n_bytes,
                 struct err *e);
void windows_release(struct windows *w);
int64_t windows_n_tokens(const struct windows *w); /* ids that run */
int64_t windows_n_scored(const struct windows *w);

/* ---- running ---- */

struct window_runner; /* working memory of one model; lifetime: the job */

/* size: windows at a time, 0: from free memory, which n_models share. */
int window_runner_open(struct window_runner **r, const struct model *m, const struct windows *w,
                       int size, int n_models, struct err *e);
void window_runner_close(struct window_runner *r);
int window_runner_size(const struct window_runner *r);

/* nll[i]: malloc'ed by the caller, [at[order[i]].n_scored]: of the scored ids, in their order. */
int window_runner_nll(struct window_runner *r, const struct windows *w, const int64_t *order, int n,
                      double *const *nll, struct err *e);

/* Of each scored id.  The same windows through both models; both runners have one size. */
int window_runner_divergence(struct window_runner *base, struct window_runner *r,
                             const struct windows *w, const int64_t *order, int n,
                             struct divergence *const *out, struct err *e);

/* 0 .. n - 1, or drawn (tests); malloc'ed. */
int64_t *window_order(int64_t n, bool shuffle, int64_t seed);

/* ---- WikiText ---- */

/* A page as lm-evaluation-harness scores it: without the spaces that WikiText puts around marks. */
void wikitext_detokenize(const char *page, size_t n_bytes, struct bytes *out);
/* Words as its word perplexity counts them: 1 + runs of white space. */
int64_t wikitext_n_words(const char *page, size_t n_bytes);
/* The length of the first page of a text: up to the next line "= Title =", or all of it. */
size_t wikitext_page(const char *text, size_t n_bytes);
