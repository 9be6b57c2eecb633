/* parts.c - weights of a model that several devices hold in parts: brought together, so that what
 * is quantized is the whole matrix, with its statistics; and cut again.
 *
 * A part is some rows.  Codes, scales and zero points of rows lie together in every form, so a part
 * is copied, not computed.  One thing can be cut in its middle: a run of scales that share a
 * second-level scale.  Such scales become fp32 numbers, their exact values: on every device where
 * they do on one, because from the form of its own part a device decides how it multiplies. */
#include "base/memory.h"
#include "quant/method.h"

#include <stdlib.h>
#include <string.h>

int quant_whole(struct backend *b, const struct tensor *part, struct tensor *out, struct err *e)
{
    const int64_t n = b->n_members, n_part = part->n_rows * part->n_cols;

    if (tensor_alloc(b, MEM_SCRATCH, part->dtype, n * part->n_rows, part->n_cols, out, e) < 0)
        return -1;
    struct tensor own = *part, all = *out;
    own.n_rows = all.n_rows = 1;
    own.n_cols = n_part;
    all.n_cols = n * n_part;
    const struct collect_args a = { .part = &own, .out = &all, .n_rows = 1 };
    int rc = b->ops->group->collect(b, &a, e);
    if (rc < 0)
        tensor_free(b, out);
    return rc;
}

/* ---- cutting ---- */

/* Groups of the rows before the part, and of its rows; false where a group has rows of two parts.
 * One group of the whole matrix is one of each part. */
static bool groups_of(const struct weight *w, struct split s, int64_t *first, int64_t *n)
{
    const int64_t n_rows = w->n_out / s.n, weights = n_rows * w->n_in;

    if (!w->flat_groups) {
        *n = w->n_groups / s.n;
        *first = *n * s.index;
        return true;
    }
    if (w->n_groups == 1) {
        *first = 0;
        *n = 1;
        return true;
    }
    *first = weights * s.index / w->group_size;
    *n = weights / w->group_size;
    return weights % w->group_size == 0;
}

int quant_check_cut(const struct weight *w, int n, struct err *e)
{
    int64_t first, n_groups;

    if (w->n_out % n == 0 && groups_of(w, (struct split){ 0, n }, &first, &n_groups))
        return 0;
    return err_set(e, ERR_USAGE,
                   "blocks of %lld weights run across the parts that %d devices have of a "
                   "%lld x %lld matrix",
                   (long long)w->group_size, n, (long long)w->n_out, (long long)w->n_in);
}

int quant_check_parts(const struct quant_spec *s, int64_t n_out, int64_t n_in, int n, struct err *e)
{
    const struct quantizer *z = quantizer_find(s->method);
    struct weight w;

    if (quant_is_plain(s))
        return 0;
    return z->shape(s, n_out, n_in, &w, e) < 0 ? -1 : quant_check_cut(&w, n, e);
}

static bool is_nested(const struct weight *w)
{
    return w->scale_form == SCALE_NESTED || w->scale_form == SCALE_U8;
}

/* Does each of n parts start a run of scales?  All do where the second does: the others start at
 * multiples of its place. */
static bool starts_runs(const struct weight *w, int n)
{
    int64_t first, n_groups;

    groups_of(w, (struct split){ 1, n }, &first, &n_groups);
    return first % WEIGHT_NESTED_RUN == 0;
}

/* n groups from `first` on of scales that are quantized again, as numbers: weight.h. */
static void scale_values(const struct weight *w, const uint8_t *codes, const float *scales2,
                         int64_t first, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) {
        const float scale = scales2[(first + i) / WEIGHT_NESTED_RUN];

        if (w->scale_form == SCALE_NESTED) {
            const float product = weight_dynamic_map[codes[first + i]] * scale;
            out[i] = product + w->nested_offset;
        } else {
            out[i] = (float)codes[first + i] * scale;
        }
    }
}

/* By way of the host. */
static int unnest(struct backend *b, const struct weight *w, int64_t first, struct weight *out,
                  struct err *e)
{
    uint8_t *codes = mem_array((size_t)w->n_groups, 1);
    float *scales2 = mem_alloc(weight_scales2_bytes(w));
    float *values = mem_array((size_t)out->n_groups, sizeof *values);
    int rc = b->ops->download(b, codes, w->scales, weight_scales_bytes(w), e);

    if (rc == 0)
        rc = b->ops->download(b, scales2, w->scales2, weight_scales2_bytes(w), e);
    if (rc == 0) {
        scale_values(w, codes, scales2, first, out->n_groups, values);
        rc = b->ops->upload(b, out->scales, values, weight_scales_bytes(out), e);
    }
    free(values);
    free(scales2);
    free(codes);
    return rc;
}

/* n of the n_all equal pieces of a memory, from the first-th on. */
static int copy_pieces(struct backend *b, void *to, const void *from, size_t n_bytes, int64_t n_all,
                       int64_t first, int64_t n, struct err *e)
{
    if (!n_bytes)
        return 0;
    const size_t each = n_bytes / (size_t)n_all;

    return b->ops->copy(b, to, (const char *)from + (size_t)first * each, (size_t)n * each, e);
}

static int copy_parts(struct backend *b, const struct weight *w, struct split s, int64_t first,
                      struct weight *out, struct err *e)
{
    const int64_t runs = (w->n_groups + WEIGHT_NESTED_RUN - 1) / WEIGHT_NESTED_RUN;
    const int64_t own_runs = (out->n_groups + WEIGHT_NESTED_RUN - 1) / WEIGHT_NESTED_RUN;
    const bool as_they_are = out->scale_form == w->scale_form;

    if (copy_pieces(b, out->codes, w->codes, weight_codes_bytes(w), s.n, s.index, 1, e) < 0 ||
        copy_pieces(b, out->zeros, w->zeros, weight_zeros_bytes(w), w->n_groups, first,
                    out->n_groups, e) < 0)
        return -1;
    if (!as_they_are)
        return unnest(b, w, first, out, e);
    if (copy_pieces(b, out->scales, w->scales, weight_scales_bytes(w), w->n_groups, first,
                    out->n_groups, e) < 0)
        return -1;
    return copy_pieces(b, out->scales2, w->scales2, weight_scales2_bytes(w), runs,
                       first / WEIGHT_NESTED_RUN, own_runs, e);
}

int quant_cut(struct backend *b, const struct weight *w, struct split s, struct weight *out,
              struct err *e)
{
    const size_t order_bytes = (size_t)w->n_in * sizeof *w->g_idx;
    struct weight part = *w;
    int64_t first;
    void *order = NULL;

    if (quant_check_cut(w, s.n, e) < 0)
        return -1;
    groups_of(w, s, &first, &part.n_groups);
    part.n_out = w->n_out / s.n;
    if (is_nested(w) && !starts_runs(w, s.n)) {
        part.scale_form = SCALE_F32;
        part.nested_offset = 0;
    }
    if (weight_alloc(b, MEM_WEIGHTS, &part, e) < 0)
        return -1;
    int rc = copy_parts(b, w, s, first, &part, e);
    if (rc == 0 && w->g_idx)
        rc = backend_alloc(b, MEM_WEIGHTS, order_bytes, &order, e);
    part.g_idx = order;
    if (rc == 0 && w->g_idx)
        rc = b->ops->copy(b, order, w->g_idx, order_bytes, e);
    if (rc < 0)
        weight_release(b, &part);
    else
        *out = part;
    return rc;
}
