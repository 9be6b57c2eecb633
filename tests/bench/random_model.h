/* random_model.h - what benchmark programs that need no file work on: a base model of random
 * weights, and random ids to calibrate with. */
#pragma once

#include "base/memory.h"
#include "base/rng.h"
#include "model/model.h"
#include "quant/quant.h"

#include <stdlib.h>

struct maker {
    struct backend *b;
    uint16_t *values, *draws;
    uint64_t stream;
    struct split split; /* of linears */
};

/* Values about normal; 16 random bits pick one of 65536 draws.  Of them the rows of a part. */
static int random_rows(struct maker *m, int64_t n_rows, int64_t n_cols, struct split s,
                       struct tensor *out, struct err *e)
{
    const uint64_t stream = ++m->stream;

    if (tensor_alloc(m->b, MEM_BASE, DTYPE_BF16, n_rows / s.n, n_cols, out, e) < 0)
        return -1;
#pragma omp parallel for
    for (int64_t i = 0; i < n_rows * n_cols / 4; i++) {
        uint64_t bits = rng_u64(stream, RNG_WEIGHTS, (uint64_t)i);
        for (int k = 0; k < 4; k++)
            m->values[4 * i + k] = m->draws[bits >> 16 * k & 0xFFFF];
    }
    return m->b->ops->upload(m->b, out->data, m->values + s.index * out->n_rows * n_cols,
                             tensor_bytes(out), e);
}

static int random_matrix(struct maker *m, int64_t n_rows, int64_t n_cols, struct tensor *out,
                         struct err *e)
{
    return random_rows(m, n_rows, n_cols, (struct split){ 0, 1 }, out, e);
}

static int ones(struct maker *m, int64_t n, struct tensor *out, struct err *e)
{
    if (tensor_alloc(m->b, MEM_BASE, DTYPE_BF16, 1, n, out, e) < 0)
        return -1;
    for (int64_t i = 0; i < n; i++)
        m->values[i] = dtype_f32_to_bf16(1.0f);
    return m->b->ops->upload(m->b, out->data, m->values, tensor_bytes(out), e);
}

static int make_layer(struct maker *k, const struct config *c, struct layer *layer, struct err *e)
{
    if (ones(k, c->hidden_size, &layer->input_norm, e) < 0 ||
        ones(k, c->hidden_size, &layer->post_norm, e) < 0)
        return -1;
    for (int l = 0; l < N_LINEARS; l++) {
        struct tensor w;
        int64_t n_out, n_in;

        config_linear_shape(c, l, &n_out, &n_in);
        if (random_rows(k, n_out, n_in, k->split, &w, e) < 0)
            return -1;
        layer->linear[l] = weight_of_tensor(&w);
        layer->linear[l].owned = true;
    }
    return 0;
}

/* bf16, norms of 1, the head the embedding; the same numbers every time, whole or a part of them.
 * m: model_release(), also after an error. */
static int make_random_part(struct backend *b, const struct config *c, struct split split,
                            struct model *m, struct err *e)
{
    const int64_t inner = c->intermediate_size * c->hidden_size;
    const int64_t embed = c->vocab_size * c->hidden_size;
    struct maker k = { .b = b,
                       .split = split,
                       .values = mem_array((size_t)(inner > embed ? inner : embed), 2),
                       .draws = mem_array(65536, 2) };
    int rc = -1;

    *m = (struct model){ .config = *c,
                         .backend = b,
                         .split = split,
                         .dtype = DTYPE_BF16,
                         .compute = DTYPE_BF16,
                         .owns_embed = true,
                         .owns_norms = true };
    m->layers = mem_array((size_t)c->n_layers, sizeof *m->layers);
    for (int i = 0; i < 65536; i++) {
        double sum = -2;
        for (uint64_t j = 0; j < 4; j++)
            sum += rng_real(0, RNG_WEIGHTS, 4 * (uint64_t)i + j);
        k.draws[i] = dtype_f32_to_bf16((float)(0.035 * sum));
    }
    if (random_matrix(&k, c->vocab_size, c->hidden_size, &m->embed, e) < 0 ||
        ones(&k, c->hidden_size, &m->norm, e) < 0)
        goto out;
    m->head = weight_of_tensor(&m->embed);
    for (int64_t i = 0; i < c->n_layers; i++)
        if (make_layer(&k, c, &m->layers[i], e) < 0)
            goto out;
    rc = b->ops->sync(b, e);
out:
    free(k.values);
    free(k.draws);
    return rc;
}

static inline int make_random_model(struct backend *b, const struct config *c, struct model *m,
                                    struct err *e)
{
    return make_random_part(b, c, (struct split){ 0, 1 }, m, e);
}

/* n_seqs sequences of `length` ids. */
static inline int make_random_calibration(int n_seqs, int length, int64_t vocab_size,
                                          struct quant_calibration *out, struct err *e)
{
    const size_t n = (size_t)n_seqs * (size_t)length;
    int32_t *ids = mem_array(n, sizeof *ids), *lengths = mem_array((size_t)n_seqs, sizeof *lengths);

    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)(rng_u64(5, RNG_TEST, i) % (uint64_t)vocab_size);
    for (int i = 0; i < n_seqs; i++)
        lengths[i] = length;
    int rc = quant_calibration_make(out, ids, n, lengths, (size_t)n_seqs, e);
    free(ids);
    free(lengths);
    return rc;
}
