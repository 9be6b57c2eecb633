/* bnb4.c - NF4 and FP4 in flat blocks, with or without nested scales.  Dettmers, Pagnoni,
 * Holtzman, Zettlemoyer, "QLoRA: efficient finetuning of quantized LLMs" (2023), as
 * bitsandbytes 0.50 computes it. */
#include "quant/method.h"

#include <string.h>

static struct quantize_args args_of(const struct quant_spec *s, int64_t n_out, int64_t n_in)
{
    (void)n_out, (void)n_in;
    return (struct quantize_args){
        .source = s->source,
        .rule = strcmp(s->quant_type, "fp4") ? QUANTIZE_BNB_NF4 : QUANTIZE_BNB_FP4,
        .bits = 4,
        .group_size = s->group_size,
        .double_quant = s->double_quant,
    };
}

static double hf_bytes(const struct weight *w)
{
    return (double)((w->n_out * w->n_in + 1) / 2); /* the scales are no parameter there */
}

const struct quantizer quantizer_bnb_4bit = {
    .name = "bnb_4bit",
    .agrees_with = "bitsandbytes 0.50, Linear4bit (dequantize, then multiply)",
    .allowed = {
        .bits = { 4 },
        .group_sizes = { 32, 64, 128, 256, 512, 1024, 2048, 4096 },
        .quant_types = { "nf4", "fp4" },
        .double_quant = true,
    },
    .run = quant_run_args,
    .shape = quant_shape_args,
    .args = args_of,
    .hf_bytes = hf_bytes,
};
