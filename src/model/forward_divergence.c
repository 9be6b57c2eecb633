/* forward_divergence.c - see forward_divergence.h.
 *
 * Each model runs its layers over the batch, then both heads go over the rows in step, a chunk at
 * a time: 2 * rows * V logits, compared where they stand.  A chunk costs a reading of both heads,
 * so on a device, where a product of few rows waits for them, it is a large one.  */
#include "model/forward_divergence.h"

#include "base/memory.h"
#include "model/forward_parts.h"

#include <math.h>
#include <stdlib.h>

#define ROWS_DEVICE 1024 /* of a chunk */
#define MEMORY_PART 16   /* a chunk's logits take at most this part of what is free */

/* What a chunk needs of one model, and of both. */
struct half {
    struct forward *f;
    struct tensor last, logits;
};

struct pair {
    struct half base, own;
    int64_t n_rows;           /* of a chunk */
    struct divergence *found; /* device, of all rows */
};

/* The layers alone: of the head only what a pass cannot do without. */
static int run_layers(struct forward *f, struct kv_cache *c, const struct batch *batch,
                      int32_t *unused, struct err *e)
{
    struct forward_out out = { .next_ids = unused };

    return forward_run(f, c, batch, WANT_LAST_ARGMAX, NULL, 0, &out, e);
}

/* ---- memory of the chunks ---- */

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Rows that a chunk may have beyond those that the passes have room for: that many at most, or 0.
 */
static int64_t more_rows(const struct pair *p, struct err *e)
{
    const struct model *base = p->base.f->model, *m = p->own.f->model;
    const int64_t row_bytes = 2 * m->config.vocab_size * (int64_t)sizeof(float);
    int64_t n_bytes;

    if (!model_is_on_device(m) || m->head.form == WEIGHT_INT8 || base->head.form == WEIGHT_INT8)
        return 0;
    if (backend_free_bytes(m->backend, &n_bytes, e) < 0)
        return -1;
    int64_t n = least(ROWS_DEVICE, least(p->base.f->max_rows, p->own.f->max_rows));
    return least(n, n_bytes / MEMORY_PART / row_bytes);
}

/* The layers are done with `side`, which has room for all rows. */
static int open_half(struct half *h, int64_t n_rows, struct err *e)
{
    struct forward *f = h->f;

    h->last = f->last;
    h->last.data = f->side;
    h->last.n_rows = f->max_rows;
    return tensor_alloc(f->model->backend, MEM_SCRATCH, DTYPE_F32, n_rows,
                        f->model->config.vocab_size, &h->logits, e);
}

static int open_pair(struct pair *p, int64_t n, struct err *e)
{
    struct backend *b = p->own.f->model->backend;
    const int64_t few = least(p->base.f->head_rows, p->own.f->head_rows);
    int64_t more = least(more_rows(p, e), n);
    void *found;

    if (more < 0 || backend_alloc(b, MEM_SCRATCH, (size_t)n * sizeof *p->found, &found, e) < 0)
        return -1;
    p->found = found;
    if (more > few) {
        p->n_rows = more;
        return open_half(&p->base, more, e) < 0 ? -1 : open_half(&p->own, more, e);
    }
    p->n_rows = few;
    for (int i = 0; i < 2; i++) {
        struct half *h = i ? &p->own : &p->base;
        h->last = h->f->last;
        h->logits = h->f->logits;
    }
    return 0;
}

static void close_pair(struct pair *p)
{
    struct backend *b = p->own.f->model->backend;

    for (int i = 0; i < 2; i++) {
        struct half *h = i ? &p->own : &p->base;
        if (h->logits.data != h->f->logits.data)
            tensor_free(b, &h->logits);
    }
    backend_free(b, p->found);
}

/* ---- rows ---- */

/* Rows first .. first + n - 1 of those listed. */
static int compare_chunk(struct pair *p, enum phase phase, int64_t first, int64_t n, struct err *e)
{
    struct forward *f = p->own.f;
    struct backend *b = f->model->backend;
    const struct divergence_args a = { .base = &p->base.logits,
                                       .logits = &p->own.logits,
                                       .targets = f->numbers + NUMBER_TARGET * f->max_rows + first,
                                       .n_rows = n,
                                       .out = p->found + first };

    if (head_logits(p->base.f, phase, first, n, &p->base.last, &p->base.logits, e) < 0 ||
        head_logits(f, phase, first, n, &p->own.last, &p->own.logits, e) < 0)
        return -1;
    return b->ops->divergence(b, &a, e);
}

/* All n listed rows, to their places in out. */
static int compare_rows(struct forward *base, struct forward *f, enum phase phase, int64_t n,
                        struct divergence *out, struct err *e)
{
    const int32_t *wanted = f->host_numbers + NUMBER_WANTED * f->max_rows;
    struct backend *b = f->model->backend;
    struct divergence *rows = mem_array((size_t)n, sizeof *rows);
    struct pair p = { .base = { .f = base }, .own = { .f = f } };
    int rc = open_pair(&p, n, e);

    for (int64_t first = 0; first < n && rc == 0; first += p.n_rows)
        rc = compare_chunk(&p, phase, first, least(p.n_rows, n - first), e);
    if (rc == 0)
        rc = b->ops->download(b, rows, p.found, (size_t)n * sizeof *rows, e);
    for (int64_t i = 0; i < n && rc == 0; i++)
        out[wanted[i]] = rows[i];
    close_pair(&p);
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
    rc = n ? compare_rows(base, f, batch->phase, n, out, e) : 0;
done:
    free(unused);
    return rc;
}
