/* forward_divergence.c - see forward_divergence.h.
 *
 * Each model runs its layers over the batch, then both heads go over the rows in step, a chunk at
 * a time: 2 * rows * V logits, compared where they stand.  */
#include "model/forward_divergence.h"

#include "base/memory.h"
#include "model/forward_parts.h"

#include <math.h>
#include <stdlib.h>

/* The layers alone: of the head only what a pass cannot do without. */
static int run_layers(struct forward *f, struct kv_cache *c, const struct batch *batch,
                      int32_t *unused, struct err *e)
{
    struct forward_out out = { .next_ids = unused };

    return forward_run(f, c, batch, WANT_LAST_ARGMAX, NULL, 0, &out, e);
}

/* Rows first .. first + n - 1 of those listed; found: device, of all of them. */
static int compare_chunk(struct forward *base, struct forward *f, const struct batch *batch,
                         int64_t first, int64_t n, struct divergence *found, struct err *e)
{
    struct backend *b = f->model->backend;
    const struct divergence_args a = { .base = &base->logits,
                                       .logits = &f->logits,
                                       .targets = f->numbers + NUMBER_TARGET * f->max_rows + first,
                                       .n_rows = n,
                                       .out = found + first };

    if (head_logits(base, batch->phase, first, n, e) < 0 ||
        head_logits(f, batch->phase, first, n, e) < 0)
        return -1;
    return b->ops->divergence(b, &a, e);
}

/* All n listed rows, to their places in out. */
static int compare_rows(struct forward *base, struct forward *f, const struct batch *batch,
                        int64_t n, struct divergence *out, struct err *e)
{
    const int64_t chunk = base->head_rows < f->head_rows ? base->head_rows : f->head_rows;
    const int32_t *wanted = f->host_numbers + NUMBER_WANTED * f->max_rows;
    struct backend *b = f->model->backend;
    struct divergence *rows = mem_array((size_t)n, sizeof *rows);
    void *found = NULL;
    int rc = backend_alloc(b, MEM_SCRATCH, (size_t)n * sizeof *rows, &found, e);

    for (int64_t first = 0; first < n && rc == 0; first += chunk)
        rc = compare_chunk(base, f, batch, first, n - first < chunk ? n - first : chunk, found, e);
    if (rc == 0)
        rc = b->ops->download(b, rows, found, (size_t)n * sizeof *rows, e);
    for (int64_t i = 0; i < n && rc == 0; i++)
        out[wanted[i]] = rows[i];
    backend_free(b, found);
    free(rows);
    return rc;
}

int forward_divergence(struct forward *base, struct kv_cache *base_cache,
                       const struct batch *base_batch, struct forward *f, struct kv_cache *c,
                       const struct batch *batch, struct divergence *out, struct err *e)
{
    const int64_t vocab = f->model->config.vocab_size;
    int64_t n_rows = 0;
    int32_t *unused = mem_array((size_t)batch->n_seqs, sizeof *unused);
    int rc = -1;

    for (int s = 0; s < batch->n_seqs; s++)
        n_rows += batch->n_tokens[s];
    for (int64_t i = 0; i < n_rows; i++)
        out[i] = (struct divergence){ NAN, NAN, NAN, false };
    if (base->model->config.vocab_size != vocab) {
        err_set(e, ERR_USAGE, "two models with vocabularies of %lld and %lld",
                (long long)base->model->config.vocab_size, (long long)vocab);
        goto done;
    }
    if (run_layers(base, base_cache, base_batch, unused, e) < 0) {
        err_in(e, "the unquantized model");
        goto done;
    }
    if (run_layers(f, c, batch, unused, e) < 0)
        goto done;
    int64_t n = head_list_rows(base, base_batch, e);
    if (n < 0 || head_list_rows(f, batch, e) != n)
        goto done;
    rc = n ? compare_rows(base, f, batch, n, out, e) : 0;
done:
    free(unused);
    return rc;
}
