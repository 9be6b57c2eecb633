/* forward_head.c - the end of a forward pass: final norm and head on the rows that are asked
 * for, in chunks, so that logits of all rows never stand in memory at once. */
#include "model/forward_parts.h"

#include "base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool wants_nll(enum want want)
{
    return want == WANT_NLL || want == WANT_NLL_GREEDY;
}

/* -1: nothing. */
static int32_t target_of(const struct batch *batch, int32_t row, bool is_last)
{
    if (batch->targets)
        return batch->targets[row];
    return is_last ? -1 : batch->ids[row + 1];
}

/* Rows whose logits are wanted into host_numbers, with their targets for an nll. */
static int64_t list_rows(struct forward *f, const struct batch *batch, enum want want)
{
    int32_t *wanted = f->host_numbers + NUMBER_WANTED * f->max_rows;
    int32_t *target = f->host_numbers + NUMBER_TARGET * f->max_rows;
    bool last_only = want == WANT_LAST_ARGMAX || want == WANT_LAST_LOGITS;
    int64_t n = 0;

    for (int s = 0; s < batch->n_seqs; s++) {
        int32_t last = f->first_row[s + 1] - 1;

        for (int32_t row = last_only ? last : f->first_row[s]; row <= last; row++) {
            int32_t id =
                wants_nll(want) || want == WANT_ARGMAX ? target_of(batch, row, row == last) : 0;
            if (id < 0)
                continue;
            wanted[n] = row;
            target[n++] = id;
        }
    }
    return n;
}

/* Wanted rows first .. first + n - 1 into `to`, normed. */
static int make_last(struct forward *f, enum phase phase, int64_t first, int64_t n,
                     struct tensor *to, struct err *e)
{
    const struct model *m = f->model;
    struct backend *b = m->backend;
    const int32_t *wanted = f->numbers + NUMBER_WANTED * f->max_rows + first;
    const struct gather_args gather = { .x = &f->x, .rows = wanted, .out = to, .n_rows = n };
    const struct norm_args norm = { .x = to,
                                    .weight = &m->norm,
                                    .out = to,
                                    .n_rows = n,
                                    .eps = (float)m->config.rms_norm_eps,
                                    .phase = phase };

    if (b->ops->gather(b, &gather, e) < 0 || b->ops->norm(b, &norm, e) < 0)
        return err_in(e, "the head");
    return 0;
}

int head_logits(struct forward *f, enum phase phase, int64_t first, int64_t n, struct tensor *last,
                struct tensor *logits, struct err *e)
{
    const struct model *m = f->model;
    struct backend *b = m->backend;
    const bool is_int8 = m->head.form == WEIGHT_INT8;
    int32_t each[HEAD_ROWS_MAX + 1]; /* LLM.int8: outliers of a row alone, whatever comes with it */

    for (int32_t i = 0; is_int8 && i <= n; i++)
        each[i] = i;
    const struct linear_args head = {
        .x = last,
        .w = &m->head,
        .y = logits,
        .n_rows = n,
        .compute = m->head.form == WEIGHT_PLAIN ? m->dtype : m->compute,
        .phase = phase,
        .segments = { is_int8 ? (int)n : 0, each },
    };

    if (make_last(f, phase, first, n, last, e) < 0)
        return -1;
    return b->ops->linear(b, &head, e) < 0 ? err_in(e, "the head") : 0;
}

/* nll of chunk rows, spread to their places in out. */
static int take_nll(struct forward *f, int64_t first, int64_t n, float *out, struct err *e)
{
    struct backend *b = f->model->backend;
    const int32_t *wanted = f->host_numbers + NUMBER_WANTED * f->max_rows + first;
    const struct nll_args a = { .logits = &f->logits,
                                .targets = f->numbers + NUMBER_TARGET * f->max_rows + first,
                                .n_rows = n,
                                .out = f->nll };
    float values[HEAD_ROWS_MAX];

    if (b->ops->nll(b, &a, e) < 0 ||
        b->ops->download(b, values, f->nll, (size_t)n * sizeof *values, e) < 0)
        return -1;
    for (int64_t i = 0; i < n; i++)
        out[wanted[i]] = values[i];
    return 0;
}

/* nll of all n wanted rows, whose logits never stand in memory. */
static int stream_nll(struct forward *f, enum phase phase, int64_t n, float *out, struct err *e)
{
    const struct model *m = f->model;
    struct backend *b = m->backend;
    const int32_t *wanted = f->host_numbers + NUMBER_WANTED * f->max_rows;
    const int32_t *targets = f->numbers + NUMBER_TARGET * f->max_rows;
    struct tensor last = f->last; /* the layers are done with this room */
    const struct linear_args head = {
        .x = &last, .w = &m->head, .n_rows = n, .compute = m->dtype, .phase = phase
    };
    float *values = mem_array((size_t)n, sizeof *values);
    int rc = -1;

    last.data = f->side;
    last.n_rows = f->max_rows;
    if (make_last(f, phase, 0, n, &last, e) < 0)
        goto out;
    if (b->ops->linear_nll(b, &head, targets, f->nll, e) < 0 ||
        b->ops->download(b, values, f->nll, (size_t)n * sizeof *values, e) < 0) {
        err_in(e, "the head");
        goto out;
    }
    for (int64_t i = 0; i < n; i++)
        out[wanted[i]] = values[i];
    rc = 0;
out:
    free(values);
    return rc;
}

static int take_argmax(struct forward *f, int64_t first, int64_t n, int n_forbidden, struct err *e)
{
    struct backend *b = f->model->backend;
    const struct argmax_args a = { .logits = &f->logits,
                                   .n_rows = n,
                                   .forbidden = n_forbidden ? f->forbidden : NULL,
                                   .n_forbidden = n_forbidden,
                                   .out = f->next + first };

    return b->ops->argmax(b, &a, e);
}

/* The likeliest ids of chunk rows, likewise. */
static int take_likeliest(struct forward *f, int64_t first, int64_t n, int n_forbidden,
                          int32_t *out, struct err *e)
{
    struct backend *b = f->model->backend;
    const int32_t *wanted = f->host_numbers + NUMBER_WANTED * f->max_rows + first;
    const struct argmax_args a = { .logits = &f->logits,
                                   .n_rows = n,
                                   .forbidden = n_forbidden ? f->forbidden : NULL,
                                   .n_forbidden = n_forbidden,
                                   .out = f->next };
    int32_t ids[HEAD_ROWS_MAX];

    if (b->ops->argmax(b, &a, e) < 0 ||
        b->ops->download(b, ids, f->next, (size_t)n * sizeof *ids, e) < 0)
        return -1;
    for (int64_t i = 0; i < n; i++)
        out[wanted[i]] = ids[i];
    return 0;
}

int head_upload_forbidden(struct forward *f, const int32_t *ids, int n, struct err *e)
{
    struct backend *b = f->model->backend;

    if (n > f->n_forbidden_max) {
        void *room;
        if (b->ops->sync(b, e) < 0 ||
            backend_alloc(b, MEM_SCRATCH, (size_t)n * sizeof *ids, &room, e) < 0)
            return -1;
        backend_free(b, f->forbidden);
        f->forbidden = room;
        f->n_forbidden_max = n;
    }
    return n ? b->ops->upload(b, f->forbidden, ids, (size_t)n * sizeof *ids, e) : 0;
}

int head_run(struct forward *f, const struct batch *batch, int64_t n_rows, enum want want,
             const int32_t *forbidden, int n_forbidden, struct forward_out *out, struct err *e)
{
    struct backend *b = f->model->backend;
    const int64_t vocab = f->model->config.vocab_size;
    const int64_t n = list_rows(f, batch, want), offset = NUMBER_WANTED * f->max_rows;
    const size_t n_bytes = (size_t)(2 * f->max_rows) * sizeof *f->numbers;

    for (int64_t row = 0; wants_nll(want) && row < n_rows; row++)
        out->nll[row] = NAN;
    if (b->ops->upload(b, f->numbers + offset, f->host_numbers + offset, n_bytes, e) < 0)
        return -1;
    if ((want == WANT_LAST_ARGMAX || want == WANT_ARGMAX) &&
        head_upload_forbidden(f, forbidden, n_forbidden, e) < 0)
        return -1;
    if (want == WANT_NLL && b->ops->linear_nll && f->model->head.form == WEIGHT_PLAIN)
        return n ? stream_nll(f, batch->phase, n, out->nll, e) : b->ops->sync(b, e);
    for (int64_t first = 0; first < n; first += f->head_rows) {
        int64_t chunk = n - first < f->head_rows ? n - first : f->head_rows;
        int rc;

        if (head_logits(f, batch->phase, first, chunk, &f->last, &f->logits, e) < 0)
            return -1;
        if (wants_nll(want))
            rc = take_nll(f, first, chunk, out->nll, e);
        else if (want == WANT_LAST_ARGMAX)
            rc = take_argmax(f, first, chunk, n_forbidden, e);
        else if (want == WANT_ARGMAX)
            rc = take_likeliest(f, first, chunk, n_forbidden, out->next_ids, e);
        else
            rc = b->ops->download(b, out->logits + first * vocab, f->logits.data,
                                  (size_t)(chunk * vocab) * sizeof(float), e);
        if (rc == 0 && want == WANT_NLL_GREEDY)
            rc = take_likeliest(f, first, chunk, 0, out->next_ids, e);
        if (rc < 0)
            return -1;
    }
    if (want == WANT_LAST_ARGMAX)
        return b->ops->download(b, out->next_ids, f->next, (size_t)n * sizeof *f->next, e);
    return b->ops->sync(b, e);
}

int64_t head_list_rows(struct forward *f, const struct batch *batch, struct err *e)
{
    struct backend *b = f->model->backend;
    const int64_t n = list_rows(f, batch, WANT_NLL), offset = NUMBER_WANTED * f->max_rows;
    const size_t n_bytes = (size_t)(2 * f->max_rows) * sizeof *f->numbers;

    if (b->ops->upload(b, f->numbers + offset, f->host_numbers + offset, n_bytes, e) < 0)
        return -1;
    return n;
}
