/* window_runner.c - see windows.h: windows through one model, or through two side by side.
 *
 * Short windows run several at a time, whole.  A long one runs alone, in pieces of which each
 * begins with the last id of the one before: that id was its last target.  LLM.int8 looks at all
 * rows of a call for its outlier columns, so its windows are never cut.  */
#include "eval/windows.h"

#include "eval/profile.h"
#include "model/forward_divergence.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_MAX 32
#define ROWS_MAX  16384 /* of a pass, where the number of windows is ours to choose */
#define WHOLE_MAX 4096  /* ids of a window that runs in one pass */
#define PIECE     2048

struct window_runner {
    struct forward *forward;
    struct kv_cache cache;
    int size;           /* windows at a time */
    int64_t piece;      /* ids of a pass, of one window */
    bool counts_inputs; /* lm_eval's model never sees the last id of a window */
    int32_t *ids, *targets, *slot, *n_tokens, *length;
    float *nll;              /* [size * piece] */
    struct divergence *pair; /* the same */
};

static int size_for(const struct model *m, const struct windows *w, int64_t piece, int asked,
                    int n_models)
{
    int most = w->n < BATCH_MAX ? (int)w->n : BATCH_MAX;
    int64_t room = profile_batch_bytes(m) / n_models;

    if (piece < w->longest)
        return 1;
    if (asked > 0)
        return asked < w->n ? asked : (int)w->n;
    while (most > 1 && most * piece > ROWS_MAX)
        most--;
    while (most > 1 && (int64_t)(forward_bytes(m, most * piece, most) +
                                 kv_cache_bytes(m, most, w->longest)) > room)
        most--;
    return most;
}

int window_runner_open(struct window_runner **out, const struct model *m, const struct windows *w,
                       int size, int n_models, struct err *e)
{
    struct window_runner *r = *out = mem_alloc(sizeof *r);
    bool whole = w->longest <= WHOLE_MAX || model_looks_at_whole_calls(m);

    r->piece = whole ? w->longest : PIECE;
    r->size = size_for(m, w, r->piece, size, n_models);
    r->counts_inputs = w->protocol == PROTOCOL_LM_EVAL;
    size_t n_rows = (size_t)r->size * (size_t)r->piece;
    r->ids = mem_array(n_rows, sizeof *r->ids);
    r->targets = mem_array(n_rows, sizeof *r->targets);
    r->nll = mem_array(n_rows, sizeof *r->nll);
    r->pair = mem_array(n_rows, sizeof *r->pair);
    r->slot = mem_array((size_t)r->size, sizeof *r->slot);
    r->n_tokens = mem_array((size_t)r->size, sizeof *r->n_tokens);
    r->length = mem_array((size_t)r->size, sizeof *r->length);
    if (forward_open(&r->forward, m, (int64_t)n_rows, r->size, e) < 0)
        return -1;
    return kv_cache_open(&r->cache, m, r->size, w->longest, e);
}

void window_runner_close(struct window_runner *r)
{
    if (!r)
        return;
    kv_cache_close(&r->cache);
    forward_close(r->forward);
    free(r->ids);
    free(r->targets);
    free(r->nll);
    free(r->pair);
    free(r->slot);
    free(r->n_tokens);
    free(r->length);
    free(r);
}

int window_runner_size(const struct window_runner *r)
{
    return r->size;
}

/* Row i of a pass that began at id `first` predicts id first + i + 1 of its window; the scored ids
 * are the last ones. */
static int64_t scored_place(const struct text_window *x, int64_t first, int64_t i)
{
    return first + i + 1 - (x->n - x->n_scored);
}

/* The pass over ids first .. of n windows at slots 0 .. n - 1; the head sees what is scored. */
static struct batch make_batch(struct window_runner *r, const struct windows *w,
                               const int64_t *order, int n, int64_t first)
{
    int64_t row = 0;

    for (int i = 0; i < n; i++) {
        const struct text_window *x = &w->at[order[i]];
        int64_t take = x->n - first < r->piece ? x->n - first : r->piece;
        r->slot[i] = i;
        r->n_tokens[i] = (int32_t)take;
        r->length[i] = (int32_t)(x->n - (r->counts_inputs ? 1 : 0));
        memcpy(r->ids + row, x->ids + first, (size_t)take * sizeof *r->ids);
        for (int64_t t = 0; t < take; t++)
            r->targets[row + t] =
                t + 1 < take && scored_place(x, first, t) >= 0 ? x->ids[first + t + 1] : -1;
        row += take;
        if (first == 0)
            kv_cache_drop(&r->cache, i);
    }
    return (struct batch){ .phase = PHASE_PROMPT,
                           .n_seqs = n,
                           .slot = r->slot,
                           .n_tokens = r->n_tokens,
                           .ids = r->ids,
                           .length = r->length,
                           .targets = r->targets };
}

static int check_loss(double nll, int64_t window, int64_t id, struct err *e)
{
    if (isfinite(nll))
        return 0;
    return err_set(e, ERR_INPUT, "the loss of token %lld of window %lld is %g", (long long)id,
                   (long long)window, nll);
}

int window_runner_nll(struct window_runner *r, const struct windows *w, const int64_t *order, int n,
                      double *const *nll, struct err *e)
{
    struct forward_out out = { .nll = r->nll };
    bool more = true;

    for (int64_t first = 0; more; first += r->piece - 1) {
        struct batch batch = make_batch(r, w, order, n, first);
        int64_t row = 0;
        if (forward_run(r->forward, &r->cache, &batch, WANT_NLL, NULL, 0, &out, e) < 0)
            return -1;
        more = false;
        for (int k = 0; k < n; row += r->n_tokens[k++]) {
            const struct text_window *x = &w->at[order[k]];
            for (int64_t i = 0; i + 1 < r->n_tokens[k]; i++) {
                int64_t at = scored_place(x, first, i);
                if (at >= 0 && check_loss(r->nll[row + i], order[k], first + i + 1, e) < 0)
                    return -1;
                if (at >= 0)
                    nll[k][at] = (double)r->nll[row + i];
            }
            if (first + r->n_tokens[k] < x->n) {
                r->cache.length[k]--; /* the next piece begins with that id */
                more = true;
            }
        }
    }
    return 0;
}

int window_runner_divergence(struct window_runner *base, struct window_runner *r,
                             const struct windows *w, const int64_t *order, int n,
                             struct divergence *const *out, struct err *e)
{
    bool more = true;

    for (int64_t first = 0; more; first += r->piece - 1) {
        struct batch one = make_batch(base, w, order, n, first);
        struct batch two = make_batch(r, w, order, n, first);
        int64_t row = 0;
        if (forward_divergence(base->forward, &base->cache, &one, r->forward, &r->cache, &two,
                               r->pair, e) < 0)
            return -1;
        more = false;
        for (int k = 0; k < n; row += r->n_tokens[k++]) {
            const struct text_window *x = &w->at[order[k]];
            for (int64_t i = 0; i + 1 < r->n_tokens[k]; i++) {
                int64_t at = scored_place(x, first, i);
                const struct divergence *d = &r->pair[row + i];
                if (at >= 0 && (check_loss(d->nll, order[k], first + i + 1, e) < 0 ||
                                check_loss(d->nll_base, order[k], first + i + 1, e) < 0))
                    return -1;
                if (at >= 0)
                    out[k][at] = *d;
            }
            if (first + r->n_tokens[k] < x->n) {
                base->cache.length[k]--;
                r->cache.length[k]--;
                more = true;
            }
        }
    }
    return 0;
}
