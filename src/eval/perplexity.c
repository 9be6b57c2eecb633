/* perplexity.c - perplexity in the GPTQ paper's windows (Frantar et al. 2022; their llama.py).
 *
 * The text is tokenized once, with BOS once at its start where the profile adds it; S = floor(n /
 * window) windows of that many tokens run alone, the rest is dropped.  Each predicts its last
 * window - 1 tokens; PPL = exp(mean over windows of the window's mean).  NLL in fp32 from fp32
 * logits, means in fp64.  */
#include "eval/dataset.h"
#include "eval/pack.h"
#include "eval/profile.h"
#include "eval/task.h"

#include "base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC     0x314C5050u /* "PPL1" */
#define BATCH_MAX 32

struct windows {
    int32_t *ids; /* [n * length] */
    size_t n_ids;
    int64_t n, length;
};

/* ---- preparing ---- */

static int check_windows(const struct id_table *t, int64_t window, const struct config *c,
                         struct err *e)
{
    if (window < 2)
        return err_set(e, ERR_USAGE, "a window of %lld tokens, should be 2 or more",
                       (long long)window);
    if (window > c->max_position)
        return err_set(e, ERR_USAGE, "a window of %lld tokens, but the model has %lld positions",
                       (long long)window, (long long)c->max_position);
    if (t->n_rows * t->n_cols < window)
        return err_set(e, ERR_INPUT, "%lld tokens, less than one window of %lld",
                       (long long)(t->n_rows * t->n_cols), (long long)window);
    return profile_check_ids(c, t->ids, (size_t)(t->n_rows * t->n_cols), e);
}

/* Text or ids -> one row of ids, or rows that are windows as they stand. */
static int read_ids(const char *path, const struct tokenizer *t, const struct profile *p,
                    const struct config *c, struct id_table *out, struct err *e)
{
    struct bytes text = BYTES_INIT;
    struct token_ids ids = TOKEN_IDS_INIT;

    *out = (struct id_table){ .n_rows = 1, .n_dims = 1 };
    if (dataset_kind(path) == DATASET_IDS)
        return dataset_ids(path, out, e);
    bytes_text(&text, "");
    int rc = dataset_text(path, &text, e);
    if (rc == 0 && profile_encode(p, t, c, text.data, text.n, &ids, e) < 0)
        rc = err_in(e, "%s", path);
    bytes_release(&text);
    if (rc < 0) {
        token_ids_release(&ids);
        return -1;
    }
    out->ids = ids.ids;
    out->n_cols = (int64_t)ids.n;
    return 0;
}

static int perplexity_prepare(const struct js *options, const struct tokenizer *t,
                              const struct profile *p, const struct config *c, struct bytes *out,
                              struct err *e)
{
    const char *path, *protocol;
    struct id_table table;
    int64_t window;

    if (js_want_text(options, "path", &path, e) < 0 ||
        js_text_or(options, "protocol", "gptq", &protocol, e) < 0 ||
        js_int_or(options, "window", 2048, &window, e) < 0)
        return err_in(e, "[tasks.perplexity]");
    if (strcmp(protocol, "gptq") != 0)
        return err_set(e, ERR_USAGE,
                       "perplexity: protocol \"%.32s\" is not in this version, "
                       "only gptq",
                       protocol);
    if (read_ids(path, t, p, c, &table, e) < 0)
        return -1;
    if (table.n_dims == 2)
        window = table.n_cols;
    int rc = check_windows(&table, window, c, e);
    if (rc < 0) {
        err_in(e, "%s", path);
    } else {
        int64_t n = table.n_rows * table.n_cols / window;
        pack_u32(out, MAGIC);
        pack_u32(out, (uint32_t)window);
        pack_ids(out, table.ids, (size_t)(n * window));
    }
    id_table_release(&table);
    return rc;
}

static int windows_open(struct windows *w, const void *prepared, size_t n_bytes, struct err *e)
{
    struct unpack u = { prepared, n_bytes, false };

    *w = (struct windows){ 0 };
    if (unpack_u32(&u) != MAGIC)
        return err_set(e, ERR_INPUT, "prepared data of perplexity: not what this version writes");
    w->length = unpack_u32(&u);
    w->ids = unpack_ids(&u, &w->n_ids);
    if (w->length < 2 || w->n_ids == 0 || w->n_ids % (size_t)w->length != 0)
        u.bad = true;
    if (unpack_end(&u, "perplexity", e) < 0) {
        free(w->ids);
        return -1;
    }
    w->n = (int64_t)w->n_ids / w->length;
    return 0;
}

/* ---- running ---- */

/* The windows that run together; lifetime: the job. */
struct runner {
    struct forward *forward;
    struct kv_cache cache;
    int32_t *ids, *slot, *n_tokens; /* of a batch */
    float *nll;
    int size; /* windows at a time */
};

static int runner_open(struct runner *r, const struct model *m, int64_t length, int size,
                       struct err *e)
{
    *r = (struct runner){ .size = size };
    r->ids = mem_array((size_t)(size * length), sizeof *r->ids);
    r->nll = mem_array((size_t)(size * length), sizeof *r->nll);
    r->slot = mem_array((size_t)size, sizeof *r->slot);
    r->n_tokens = mem_array((size_t)size, sizeof *r->n_tokens);
    for (int i = 0; i < size; i++) {
        r->slot[i] = i;
        r->n_tokens[i] = (int32_t)length;
    }
    if (forward_open(&r->forward, m, size * length, size, e) < 0)
        return -1;
    return kv_cache_open(&r->cache, m, size, length, e);
}

static void runner_close(struct runner *r)
{
    kv_cache_close(&r->cache);
    forward_close(r->forward);
    free(r->ids);
    free(r->nll);
    free(r->slot);
    free(r->n_tokens);
}

static int window_mean(const float *nll, int64_t length, int64_t window, double *sum, double *mean,
                       struct err *e)
{
    *sum = 0;
    for (int64_t t = 0; t + 1 < length; t++) {
        if (!isfinite(nll[t]))
            return err_set(e, ERR_INPUT, "the loss of token %lld of window %lld is %g",
                           (long long)t + 1, (long long)window, (double)nll[t]);
        *sum += (double)nll[t];
    }
    *mean = *sum / (double)(length - 1);
    return 0;
}

/* Windows order[0 .. n-1] as one batch. */
static int run_batch(struct runner *r, const struct windows *w, const int64_t *order, int n,
                     double *sums, double *means, struct err *e)
{
    struct batch batch = { .n_seqs = n, .slot = r->slot, .n_tokens = r->n_tokens, .ids = r->ids };
    struct forward_out out = { .nll = r->nll };

    for (int i = 0; i < n; i++) {
        memcpy(r->ids + i * w->length, w->ids + order[i] * w->length,
               (size_t)w->length * sizeof *r->ids);
        kv_cache_drop(&r->cache, i);
    }
    if (forward_run(r->forward, &r->cache, &batch, WANT_NLL, NULL, 0, &out, e) < 0)
        return -1;
    for (int i = 0; i < n; i++)
        if (window_mean(r->nll + i * w->length, w->length, order[i], &sums[order[i]],
                        &means[order[i]], e) < 0)
            return -1;
    return 0;
}

static int batch_for(const struct task_context *c, const struct windows *w)
{
    int most = w->n < BATCH_MAX ? (int)w->n : BATCH_MAX;
    int64_t room = profile_batch_bytes(c->model);

    if (c->batch_size > 0)
        return c->batch_size < w->n ? c->batch_size : (int)w->n;
    while (most > 1 && (int64_t)(forward_bytes(c->model, most * w->length, most) +
                                 kv_cache_bytes(c->model, most, w->length)) > room)
        most--;
    return most;
}

static int run_windows(const struct task_context *c, const struct windows *w, double *sums,
                       double *means, struct err *e)
{
    struct runner r;
    int64_t *order = mem_array((size_t)w->n, sizeof *order);
    int rc = -1;

    for (int64_t i = 0; i < w->n; i++)
        order[i] = i;
    for (int64_t i = 0; c->shuffle && i + 1 < w->n; i++) {
        int64_t k =
            i + (int64_t)rng_below((uint64_t)c->seed, RNG_TEST, (uint64_t)i, (uint64_t)(w->n - i));
        int64_t x = order[i];
        order[i] = order[k];
        order[k] = x;
    }
    if (runner_open(&r, c->model, w->length, batch_for(c, w), e) < 0)
        goto out;
    for (int64_t i = 0; i < w->n; i += r.size) {
        int n = w->n - i < r.size ? (int)(w->n - i) : r.size;
        if (run_batch(&r, w, order + i, n, sums, means, e) < 0)
            goto out;
    }
    rc = 0;
out:
    runner_close(&r);
    free(order);
    return rc;
}

static int perplexity_run(const struct task_context *c, const struct js *options,
                          const void *prepared, size_t n_bytes, struct js *out, struct err *e)
{
    struct windows w;
    double nll = 0, mean = 0;

    (void)options;
    if (windows_open(&w, prepared, n_bytes, e) < 0)
        return -1;
    double *sums = mem_array((size_t)w.n, sizeof *sums);
    double *means = mem_array((size_t)w.n, sizeof *means);
    int rc = run_windows(c, &w, sums, means, e);
    if (rc == 0) {
        struct js *list = js_new_array();
        for (int64_t i = 0; i < w.n; i++) {
            nll += sums[i];
            mean += means[i];
            js_append(list, js_new_real(means[i]));
        }
        js_set_real(out, "perplexity", exp(mean / (double)w.n));
        js_set_real(out, "nll_sum", nll);
        js_set_int(out, "n_tokens", w.n * (w.length - 1));
        js_set_text(out, "protocol", "gptq");
        js_set_int(out, "window", w.length);
        js_set(out, "window_nll", list);
    }
    free(sums);
    free(means);
    free(w.ids);
    return rc;
}

static int perplexity_work(const struct js *options, const void *prepared, size_t n_bytes,
                           int64_t *prompt_tokens, int64_t *new_tokens, struct err *e)
{
    struct windows w;

    (void)options;
    if (windows_open(&w, prepared, n_bytes, e) < 0)
        return -1;
    *prompt_tokens = w.n * w.length;
    *new_tokens = 0;
    free(w.ids);
    return 0;
}

const struct task task_perplexity = {
    .name = "perplexity",
    .version = 1,
    .prepare = perplexity_prepare,
    .run = perplexity_run,
    .work = perplexity_work,
};
