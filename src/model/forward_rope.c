/* forward_rope.c - the rotary tables of a forward pass: one for all sequences, made as long as
 * positions have come up; and, where frequencies depend on the length (ROPE_DYNAMIC), rows of
 * their own for sequences longer than the model was trained on. */
#include "model/forward_parts.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_TABLE 2048 /* positions; 2048 x 32 take 5 ms, a table of 131072 would 0.3 s */

static int64_t first_table(const struct config *c)
{
    return c->max_position < FIRST_TABLE ? c->max_position : FIRST_TABLE;
}

static int64_t n_extra(const struct config *c, int64_t max_rows)
{
    return c->rope.type == ROPE_DYNAMIC ? max_rows : 0;
}

size_t rope_part_bytes(const struct model *m, int64_t max_rows)
{
    int64_t n = first_table(&m->config) + n_extra(&m->config, max_rows);

    return 2 * (size_t)(n * (m->config.head_dim / 2)) * sizeof(float);
}

static int upload_rows(struct forward *f, int64_t to_row, int64_t n, const float *cos_rows,
                       const float *sin_rows, struct err *e)
{
    struct backend *b = f->model->backend;
    const int64_t half = f->model->config.head_dim / 2;
    const size_t n_bytes = (size_t)(n * half) * sizeof(float);

    if (b->ops->upload(b, (float *)f->cos_table.data + to_row * half, cos_rows, n_bytes, e) < 0 ||
        b->ops->upload(b, (float *)f->sin_table.data + to_row * half, sin_rows, n_bytes, e) < 0)
        return err_in(e, "the rotary tables");
    return 0;
}

/* Tables of n common rows, with their room for the others. */
static int make_tables(struct forward *f, int64_t n, struct err *e)
{
    const struct model *m = f->model;
    struct backend *b = m->backend;
    const int64_t half = m->config.head_dim / 2, all = n + f->n_extra;
    float *rows = mem_array((size_t)(2 * n * half), sizeof *rows);
    int rc = -1;

    /* Calls in flight still read the old ones. */
    if (b->ops->sync(b, e) < 0)
        goto out;
    tensor_free(b, &f->cos_table);
    tensor_free(b, &f->sin_table);
    f->n_table = 0;
    if (tensor_alloc(b, MEM_SCRATCH, DTYPE_F32, all, half, &f->cos_table, e) < 0 ||
        tensor_alloc(b, MEM_SCRATCH, DTYPE_F32, all, half, &f->sin_table, e) < 0 ||
        rope_tables(&m->config, m->dtype, n, 0, rows, rows + n * half, e) < 0 ||
        upload_rows(f, 0, n, rows, rows + n * half, e) < 0)
        goto out;
    f->n_table = n;
    rc = 0;
out:
    free(rows);
    return rc;
}

int rope_part_open(struct forward *f, struct err *e)
{
    f->n_extra = n_extra(&f->model->config, f->max_rows);
    return make_tables(f, first_table(&f->model->config), e);
}

/* Rows of one sequence with the frequencies of its length. */
static int own_rows(struct forward *f, int64_t first, int64_t n, int64_t length, int64_t to_row,
                    struct err *e)
{
    const struct model *m = f->model;
    const int64_t half = m->config.head_dim / 2;
    float *rows = mem_array((size_t)(2 * n * half), sizeof *rows);
    int rc = rope_rows(&m->config, m->dtype, first, n, length, rows, rows + n * half, e);

    if (rc == 0)
        rc = upload_rows(f, to_row, n, rows, rows + n * half, e);
    free(rows);
    return rc;
}

/* Length that a sequence's frequencies go by; its last position + 1 after this batch. */
static int64_t length_of(const struct kv_cache *c, const struct batch *batch, int s, int64_t *end)
{
    *end = c->length[batch->slot[s]] + (int64_t)batch->n_tokens[s];
    return batch->length && batch->length[s] > *end ? batch->length[s] : *end;
}

int rope_part_extend(struct forward *f, int64_t n, struct err *e)
{
    int64_t longer = f->n_table;

    if (n <= f->n_table)
        return 0;
    while (longer < n)
        longer *= 2;
    return make_tables(f, longer, e);
}

int rope_part_prepare(struct forward *f, const struct kv_cache *c, const struct batch *batch,
                      struct err *e)
{
    const bool dynamic = f->model->config.rope.type == ROPE_DYNAMIC;
    const int64_t trained = f->model->config.max_position;
    int32_t *table_row = f->host_numbers + NUMBER_TABLE_ROW * f->max_rows;
    int64_t longest = 0, n_own = 0, end;

    memcpy(table_row, f->host_numbers + NUMBER_POSITION * f->max_rows,
           (size_t)f->first_row[batch->n_seqs] * sizeof *table_row);
    for (int s = 0; s < batch->n_seqs; s++)
        if ((length_of(c, batch, s, &end) <= trained || !dynamic) && end > longest)
            longest = end;
    if (rope_part_extend(f, longest, e) < 0)
        return -1;
    for (int s = 0; s < batch->n_seqs && dynamic; s++) {
        int64_t length = length_of(c, batch, s, &end), n = batch->n_tokens[s];

        if (length <= trained)
            continue;
        if (own_rows(f, end - n, n, length, f->n_table + n_own, e) < 0)
            return -1;
        for (int64_t row = f->first_row[s]; row < f->first_row[s + 1]; row++)
            table_row[row] = (int32_t)(f->n_table + n_own++);
    }
    return 0;
}
