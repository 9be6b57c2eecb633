/* int8.c - LLM.int8(): rows of signed bytes with one scale each; the activations are quantized
 * while they are multiplied (linear()), all but outlier columns.  Dettmers, Lewis, Belkada,
 * Zettlemoyer, "LLM.int8(): 8-bit matrix multiplication for transformers at scale" (2022), as
 * bitsandbytes 0.50 computes it. */
#include "backend/quantized.h"
#include "quant/method.h"

static int run(struct backend *b, const struct quant_spec *s, const struct tensor *w,
               struct weight *out, struct err *e)
{
    struct quantize_args a = { .w = w,
                               .source = s->source,
                               .rule = QUANTIZE_INT8_ROW,
                               .bits = 8,
                               .group_size = w->n_cols,
                               .out = out };

    if (b->ops->quantize(b, &a, e) < 0)
        return -1;
    out->outlier_threshold = (float)s->outlier_threshold;
    return 0;
}

static int shape(const struct quant_spec *s, int64_t n_out, int64_t n_in, struct weight *out,
                 struct err *e)
{
    struct quantize_args a = { .rule = QUANTIZE_INT8_ROW, .bits = 8, .group_size = n_in };

    (void)e;
    quantized_shape(&a, n_out, n_in, out);
    out->outlier_threshold = (float)s->outlier_threshold;
    return 0;
}

static double hf_bytes(const struct weight *w)
{
    return (double)w->n_out * (double)w->n_in; /* the scales are no parameter there */
}

const struct quantizer quantizer_bnb_8bit = {
    .name = "bnb_8bit",
    .agrees_with = "bitsandbytes 0.50, Linear8bitLt",
    .allowed = { .bits = { 8 } },
    .run = run,
    .shape = shape,
    .hf_bytes = hf_bytes,
};
