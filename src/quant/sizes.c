/* sizes.c - what a model weighs: resident bytes, bits per weight, and the figure that Hugging
 * Face's get_memory_footprint gives, which counts parameters and buffers only (scales of
 * bitsandbytes are neither). */
#include "quant/method.h"

#include <math.h>

void size_count_start(struct size_count *n, const struct quantizer *method, enum dtype dtype)
{
    *n = (struct size_count){ .method = method, .dtype = dtype };
}

void size_count_linear(struct size_count *n, const struct weight *w, bool quantized)
{
    int64_t n_weights = w->n_out * w->n_in;
    double bits = weight_bits_per_weight(w) * (double)n_weights;

    n->n_bytes += (int64_t)weight_bytes(w);
    n->n_parameters += n_weights;
    n->n_linear += n_weights;
    n->linear_bits += bits;
    if (quantized) {
        n->n_quantized += n_weights;
        n->quantized_bits += bits;
        n->hf_bytes += n->method->hf_bytes ? n->method->hf_bytes(w) : NAN;
    } else {
        n->hf_bytes += (double)n_weights * (double)dtype_bytes(w->plain_dtype);
    }
}

void size_count_plain(struct size_count *n, int64_t n_elements, enum dtype t)
{
    n->n_bytes += n_elements * (int64_t)dtype_bytes(t);
    n->n_parameters += n_elements;
    n->hf_bytes += (double)n_elements * (double)dtype_bytes(t);
}

void size_count_head(struct size_count *n, const struct weight *w, bool tied)
{
    size_count_linear(n, w, true);
    if (tied)
        n->n_parameters -= w->n_out * w->n_in;
}

void size_count_embedding(struct size_count *n, const struct weight *w)
{
    size_count_linear(n, w, true);
    n->hf_bytes = NAN;
}

void size_count_finish(const struct size_count *n, const struct config *c, struct quant_sizes *out)
{
    /* Two rotary buffers of fp32, halved where the whole model was cast to 16 bit. */
    bool halved = n->method == &quantizer_none && dtype_is_16bit(n->dtype);
    double buffer_bytes = 2.0 * (double)(c->head_dim / 2) * (halved ? 2.0 : 4.0);

    *out = (struct quant_sizes){
        .model_bytes = n->n_bytes,
        .bits_per_weight_linear = n->n_quantized ? n->quantized_bits / (double)n->n_quantized
                                                 : n->linear_bits / (double)n->n_linear,
        .bits_per_weight_model = 8.0 * (double)n->n_bytes / (double)n->n_parameters,
        .hf_footprint_bytes = n->hf_bytes + buffer_bytes,
    };
}

static bool has_bias(const struct config *c, enum linear_name l)
{
    if (l == LINEAR_O)
        return c->o_bias;
    return l < LINEAR_O ? c->qkv_bias : c->mlp_bias;
}

/* Embedding and head: a tied pair is one, unless the head alone is packed. */
static int count_ends(const struct config *c, const struct quant_spec *s, enum dtype dtype,
                      struct size_count *n, struct err *e)
{
    const bool head = quant_packs_head(s), embedding = quant_packs_embedding(s);
    struct weight w;

    /* By the rule alone: no order of columns. */
    if (head && (n->method->args ? quant_shape_args : n->method->shape)(s, c->vocab_size,
                                                                        c->hidden_size, &w, e) < 0)
        return err_in(e, "lm_head");
    if (embedding)
        size_count_embedding(n, &w);
    else
        size_count_plain(n, config_n_embedding(c), dtype);
    if (c->tied && head == embedding)
        return 0;
    if (head)
        size_count_head(n, &w, c->tied);
    else
        size_count_plain(n, config_n_embedding(c), dtype);
    return 0;
}

int quant_sizes_of(const struct config *c, const struct quant_spec *s, enum dtype source,
                   struct quant_sizes *out, struct err *e)
{
    const struct quantizer *z = quantizer_find(s->method);
    enum dtype dtype = quant_model_dtype(s, source == DTYPE_OTHER ? c->stored_dtype : source);
    struct size_count n;

    if (quant_spec_check_model(s, c, e) < 0)
        return -1;
    size_count_start(&n, z, dtype);
    for (int64_t layer = 0; layer < c->n_layers; layer++)
        for (int l = 0; l < N_LINEARS; l++) {
            struct tensor plain = { .dtype = dtype };
            struct weight w;
            char module[96];

            config_linear_module(c, layer, l, module, sizeof module);
            config_linear_shape(c, l, &plain.n_rows, &plain.n_cols);
            bool skipped = !quant_is_plain(s) && quant_skips(s, module);
            if (skipped)
                w = weight_of_tensor(&plain);
            else if (z->shape(s, plain.n_rows, plain.n_cols, &w, e) < 0)
                return err_in(e, "%s", module);
            size_count_linear(&n, &w, !skipped);
            if (has_bias(c, l))
                size_count_plain(&n, plain.n_rows, dtype);
        }
    if (count_ends(c, s, dtype, &n, e) < 0)
        return -1;
    size_count_plain(&n, (2 * c->n_layers + 1) * c->hidden_size, dtype);
    size_count_finish(&n, c, out);
    return 0;
}
