/* none.c - no quantization: plain weights in the compute dtype. */
#include "quant/method.h"

static int run(struct backend *b, const struct quant_spec *s, const struct tensor *w,
               struct weight *out, struct err *e)
{
    struct tensor plain = { 0 };

    if (tensor_alloc(b, MEM_WEIGHTS, s->compute, w->n_rows, w->n_cols, &plain, e) < 0)
        return -1;
    if (b->ops->convert(b, &(struct convert_args){ .x = w, .out = &plain }, e) < 0) {
        tensor_free(b, &plain);
        return -1;
    }
    *out = weight_of_tensor(&plain);
    out->owned = true;
    return 0;
}

static int shape(const struct quant_spec *s, int64_t n_out, int64_t n_in, struct weight *out,
                 struct err *e)
{
    struct tensor plain = { .dtype = s->compute, .n_rows = n_out, .n_cols = n_in };

    (void)e;
    *out = weight_of_tensor(&plain);
    return 0;
}

static double hf_bytes(const struct weight *w)
{
    return (double)w->n_out * (double)w->n_in * (double)dtype_bytes(w->plain_dtype);
}

const struct quantizer quantizer_none = {
    .name = "none",
    .agrees_with = "the checkpoint, rounded to the compute dtype",
    .allowed = { .bits = { 16, 32 } },
    .run = run,
    .shape = shape,
    .hf_bytes = hf_bytes,
};
