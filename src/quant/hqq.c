/* hqq.c - half-quadratic quantization: no calibration, zero points that are numbers.  Badri,
 * Shaji, "Half-quadratic quantization of large machine learning models" (2023), as hqq 0.2.8
 * computes it on a CPU (constant beta, groups along the inputs, whole starting zero points for
 * 4 bits alone). */
#include "quant/method.h"

static struct quantize_args args_of(const struct quant_spec *s, int64_t n_out, int64_t n_in)
{
    (void)n_out;
    return (struct quantize_args){
        .source = s->source,
        .rule = QUANTIZE_HQQ,
        .bits = s->bits,
        .group_size = s->group_size == -1 ? n_in : s->group_size,
        .double_quant = s->double_quant,
        .scale_dtype = s->scale_dtype,
        .round_zero = s->bits == 4,
    };
}

const struct quantizer quantizer_hqq = {
    .name = "hqq",
    .agrees_with = "hqq 0.2.8, its fp32 arithmetic",
    .allowed = {
        .bits = { 2, 3, 4, 5, 6, 7, 8 },
        .any_group = true,
        .quant_types = { "int" },
        .double_quant = true,
    },
    .run = quant_run_args,
    .shape = quant_shape_args,
    .args = args_of,
};
