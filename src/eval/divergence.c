/* divergence.c - how far a quantized model's predictions are from the unquantized one's: KL
 * divergence of every scored id of the perplexity text, and how often both agree on the likeliest.
 * Exact: all logits, fp64; nothing is stored or rounded in between.  */
#include "eval/windows.h"

#include "base/stats.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int run_windows(const struct task_context *c, const struct windows *w,
                       struct divergence **found, struct err *e)
{
    struct window_runner *base = NULL, *r = NULL;
    int64_t *order = window_order(w->n, c->shuffle, c->seed);
    struct divergence **of = NULL;
    int rc = window_runner_open(&r, c->model, w, c->batch_size, 3, e), size = 1;

    if (rc == 0) {
        size = window_runner_size(r);
        rc = window_runner_open(&base, c->base, w, size, 1, e);
    }
    of = mem_array((size_t)size, sizeof(struct divergence *));
    for (int64_t i = 0; i < w->n && rc == 0; i += size) {
        int n = w->n - i < size ? (int)(w->n - i) : size;
        for (int k = 0; k < n; k++)
            of[k] = found[order[i + k]];
        rc = window_runner_divergence(base, r, w, order + i, n, of, e);
    }
    window_runner_close(base);
    window_runner_close(r);
    free(of);
    free(order);
    return rc;
}

/* Every scored id's number, one list for all windows. */
static double *all_of(const struct windows *w, struct divergence *const *found,
                      double (*number)(const struct divergence *d), int64_t *n)
{
    double *x = mem_array((size_t)windows_n_scored(w), sizeof *x);

    *n = 0;
    for (int64_t i = 0; i < w->n; i++)
        for (int64_t k = 0; k < w->at[i].n_scored; k++)
            x[(*n)++] = number(&found[i][k]);
    return x;
}

static double kl_of(const struct divergence *d)
{
    return d->kl;
}

/* Change of the probability of the right id, in percent. */
static double delta_p_of(const struct divergence *d)
{
    return 100 * (exp(-d->nll) - exp(-d->nll_base));
}

static double log_ratio_of(const struct divergence *d)
{
    return d->nll - d->nll_base;
}

/* Percentiles as llama.cpp prints them; linear between order statistics. */
static struct js *percentiles(const double *x, int64_t n)
{
    static const double at[] = { 0, 0.1, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9, 100 };
    enum { N = sizeof at / sizeof *at };
    double q[N], values[N];
    struct js *table = js_new_object(), *percent = js_new_array(), *value = js_new_array();

    for (int i = 0; i < N; i++)
        q[i] = at[i] / 100;
    stats_quantiles(x, n, q, N, values);
    for (int i = 0; i < N; i++) {
        js_append(percent, js_new_real(at[i]));
        js_append(value, js_new_real(values[i]));
    }
    js_set(table, "percent", percent);
    js_set(table, "value", value);
    return table;
}

static void record_windows(const struct windows *w, struct divergence *const *found, struct js *out)
{
    struct js *kl = js_new_array(), *top = js_new_array(), *ratio = js_new_array();
    struct js *tokens = js_new_array(), *documents = js_new_array(), *turns = js_new_array();

    for (int64_t i = 0, turn = 0; i < w->n; i++) {
        const struct text_window *x = &w->at[i];
        double sum = 0, same = 0, logs = 0;
        for (int64_t k = 0; k < x->n_scored; k++) {
            sum += found[i][k].kl;
            same += found[i][k].same_top;
            logs += log_ratio_of(&found[i][k]);
        }
        turn = i && x->document == w->at[i - 1].document ? turn + 1 : 0;
        js_append(kl, js_new_real(sum / (double)x->n_scored));
        js_append(top, js_new_real(same / (double)x->n_scored));
        js_append(ratio, js_new_real(logs / (double)x->n_scored));
        js_append(tokens, js_new_int(x->n_scored));
        js_append(documents, js_new_int(x->document));
        js_append(turns, js_new_int(turn));
    }
    js_set(out, "window_kl", kl);
    js_set(out, "window_top1_agreement", top);
    js_set(out, "window_log_ratio", ratio);
    if (w->protocol != PROTOCOL_LM_EVAL) { /* windows of one length, each on its own */
        js_release(tokens);
        js_release(documents);
        js_release(turns);
        return;
    }
    js_set(out, "window_tokens", tokens);
    js_set(out, "document_id", documents);
    js_set(out, "turn", turns);
}

static void record(const struct windows *w, struct divergence *const *found, struct js *out)
{
    int64_t n, n_same = 0;
    double *kl = all_of(w, found, kl_of, &n), *dp = all_of(w, found, delta_p_of, &n);
    double *ratio = all_of(w, found, log_ratio_of, &n), squares = 0;

    for (int64_t i = 0; i < w->n; i++)
        for (int64_t k = 0; k < w->at[i].n_scored; k++)
            n_same += found[i][k].same_top;
    for (int64_t i = 0; i < n; i++)
        squares += dp[i] * dp[i];
    js_set_real(out, "kl_mean", stats_mean(kl, n));
    js_set_real(out, "top1_agreement", (double)n_same / (double)n);
    js_set_int(out, "flips", n - n_same);
    js_set_real(out, "log_perplexity_ratio", stats_mean(ratio, n));
    js_set_real(out, "delta_p_mean", stats_mean(dp, n));
    js_set_real(out, "delta_p_rms", sqrt(squares / (double)n));
    js_set_int(out, "n_tokens", n);
    js_set_text(out, "protocol", protocol_name(w->protocol));
    js_set_int(out, "window", w->window);
    js_set(out, "kl_percentiles", percentiles(kl, n));
    js_set(out, "delta_p_percentiles", percentiles(dp, n));
    record_windows(w, found, out);
    free(kl);
    free(dp);
    free(ratio);
}

static int divergence_run(const struct task_context *c, const struct js *options,
                          const void *prepared, size_t n_bytes, struct js *out, struct err *e)
{
    struct windows w;

    (void)options;
    if (!c->base)
        return err_set(e, ERR_USAGE, "divergence needs the unquantized model");
    if (windows_open(&w, "divergence", prepared, n_bytes, e) < 0)
        return -1;
    struct divergence **found = mem_array((size_t)w.n, sizeof(struct divergence *));
    for (int64_t i = 0; i < w.n; i++)
        found[i] = mem_array((size_t)w.at[i].n_scored, sizeof **found);
    int rc = run_windows(c, &w, found, e);
    if (rc == 0)
        record(&w, found, out);
    for (int64_t i = 0; i < w.n; i++)
        free(found[i]);
    free(found);
    windows_release(&w);
    return rc;
}

static int divergence_work(const struct js *options, const void *prepared, size_t n_bytes,
                           int64_t *prompt_tokens, int64_t *new_tokens, struct err *e)
{
    struct windows w;

    (void)options;
    if (windows_open(&w, "divergence", prepared, n_bytes, e) < 0)
        return -1;
    *prompt_tokens = 2 * windows_n_tokens(&w);
    *new_tokens = 0;
    windows_release(&w);
    return 0;
}

const struct task task_divergence = {
    .name = "divergence",
    .version = 1,
    .needs_base = true,
    .prepare = windows_prepare,
    .run = divergence_run,
    .work = divergence_work,
};
