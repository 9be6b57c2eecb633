/* perplexity.c - perplexity by three protocols (windows.h): exp of the mean negative log
 * likelihood of the scored ids.  NLL in fp32 from fp32 logits, sums in fp64. */
#include "eval/windows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int run_windows(const struct task_context *c, const struct windows *w, double **nll,
                       struct err *e)
{
    struct window_runner *r = NULL;
    int64_t *order = window_order(w->n, c->shuffle, c->seed);
    double **of = NULL;
    int rc = window_runner_open(&r, c->model, w, c->batch_size, 1, e);

    int size = rc == 0 ? window_runner_size(r) : 1;
    of = mem_array((size_t)size, sizeof(double *));
    for (int64_t i = 0; i < w->n && rc == 0; i += size) {
        int n = w->n - i < size ? (int)(w->n - i) : size;
        for (int k = 0; k < n; k++)
            of[k] = nll[order[i + k]];
        rc = window_runner_nll(r, w, order + i, n, of, e);
    }
    window_runner_close(r);
    free(of);
    free(order);
    return rc;
}

static double sum_of(const double *x, int64_t n)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += x[i];
    return sum;
}

/* Windows of one length: the mean of their means, as the GPTQ papers take it; others by tokens. */
static void record(const struct windows *w, double *const *nll, struct js *out)
{
    struct js *means = js_new_array(), *tokens = js_new_array(), *documents = js_new_array();
    struct js *turns = js_new_array();
    double sum = 0, mean = 0, n_scored = (double)windows_n_scored(w);
    bool rolling = w->protocol == PROTOCOL_LM_EVAL;

    for (int64_t i = 0, turn = 0; i < w->n; i++) {
        const struct text_window *x = &w->at[i];
        double own = sum_of(nll[i], x->n_scored);
        sum += own;
        mean += own / (double)x->n_scored;
        turn = i && x->document == w->at[i - 1].document ? turn + 1 : 0;
        js_append(means, js_new_real(own / (double)x->n_scored));
        js_append(tokens, js_new_int(x->n_scored));
        js_append(documents, js_new_int(x->document));
        js_append(turns, js_new_int(turn));
    }
    mean = rolling ? sum / n_scored : mean / (double)w->n;
    js_set_real(out, "perplexity", exp(mean));
    js_set_real(out, "nll_sum", sum);
    js_set_int(out, "n_tokens", (int64_t)n_scored);
    js_set_text(out, "protocol", protocol_name(w->protocol));
    js_set_int(out, "window", w->window);
    js_set(out, "window_nll", means);
    if (!rolling) {
        js_release(tokens);
        js_release(documents);
        js_release(turns);
        return;
    }
    js_set_real(out, "word_perplexity", exp(sum / (double)w->n_words));
    js_set_real(out, "byte_perplexity", exp(sum / (double)w->n_bytes));
    js_set_real(out, "bits_per_byte", sum / (double)w->n_bytes / M_LN2);
    js_set_int(out, "n_words", w->n_words);
    js_set_int(out, "n_bytes", w->n_bytes);
    js_set_int(out, "n_documents", w->n_documents);
    js_set(out, "window_tokens", tokens);
    js_set(out, "document_id", documents);
    js_set(out, "turn", turns);
}

static int perplexity_run(const struct task_context *c, const struct js *options,
                          const void *prepared, size_t n_bytes, struct js *out, struct err *e)
{
    struct windows w;

    (void)options;
    if (windows_open(&w, "perplexity", prepared, n_bytes, e) < 0)
        return -1;
    double **nll = mem_array((size_t)w.n, sizeof(double *));
    for (int64_t i = 0; i < w.n; i++)
        nll[i] = mem_array((size_t)w.at[i].n_scored, sizeof(double));
    int rc = run_windows(c, &w, nll, e);
    if (rc == 0)
        record(&w, nll, out);
    for (int64_t i = 0; i < w.n; i++)
        free(nll[i]);
    free(nll);
    windows_release(&w);
    return rc;
}

static int perplexity_work(const struct js *options, const void *prepared, size_t n_bytes,
                           int64_t *prompt_tokens, int64_t *new_tokens, struct err *e)
{
    struct windows w;

    (void)options;
    if (windows_open(&w, "perplexity", prepared, n_bytes, e) < 0)
        return -1;
    *prompt_tokens = windows_n_tokens(&w);
    *new_tokens = 0;
    windows_release(&w);
    return 0;
}

const struct task task_perplexity = {
    .name = "perplexity",
    .version = 1,
    .prepare = windows_prepare,
    .run = perplexity_run,
    .work = perplexity_work,
};
