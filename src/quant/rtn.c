/* rtn.c - round to nearest in groups: the baseline of every table of quantization methods.
 *
 *   int          an affine grid.  Three of them: absmax (max|W| / (2^(b-1) - 1)), gptq (the
 *                solver's own, its `--nearest`), awq
 *   nf2 .. fp4   the nearest value of a code table, scaled by the largest magnitude
 *   mxfp4        e2m1 in groups of 32 under a power of two (OCP Microscaling Formats 1.0)
 *   nvfp4        e2m1 in groups of 16 under an e4m3 number and one fp32 for the matrix
 *   fp8_e4m3     8-bit floats under a scale a group, a row or a matrix */
#include "quant/method.h"

#include <string.h>

static enum quantize_rule rule_of(const struct quant_spec *s)
{
    if (!strcmp(s->quant_type, "mxfp4"))
        return QUANTIZE_MXFP4;
    if (!strcmp(s->quant_type, "nvfp4"))
        return QUANTIZE_NVFP4;
    if (!strcmp(s->quant_type, "fp8_e4m3"))
        return QUANTIZE_E4M3;
    if (quant_type_table(s->quant_type) != TABLE_NONE)
        return QUANTIZE_TABLE;
    if (!strcmp(s->grid, "gptq"))
        return QUANTIZE_GRID_GPTQ;
    return strcmp(s->grid, "awq") ? QUANTIZE_GRID_ABSMAX : QUANTIZE_GRID_AWQ;
}

static struct quantize_args args_of(const struct quant_spec *s, int64_t n_out, int64_t n_in)
{
    int64_t size = s->group_size;

    return (struct quantize_args){
        .source = s->source,
        .rule = rule_of(s),
        .bits = s->bits,
        .group_size = size == -1  ? n_in
                      : size == 0 ? n_out * n_in
                                  : size,
        .sym = s->sym,
        .double_quant = s->double_quant,
        .scale_dtype = s->scale_dtype,
        .table = quant_type_table(s->quant_type),
    };
}

const struct quantizer quantizer_rtn = {
    .name = "rtn",
    .agrees_with = "round to nearest, as the reference study and the solvers of GPTQ and AWQ do "
                   "it; OCP MX (FLOOR), torchao's NVFP4",
    .allowed = {
        .bits = { 2, 3, 4, 5, 6, 7, 8 },
        .any_group = true,
        .quant_types = { "int", "nf2", "nf3", "nf4", "fp4", "mxfp4", "nvfp4", "fp8_e4m3" },
        .double_quant = true,
        .grid = true,
    },
    .run = quant_run_args,
    .shape = quant_shape_args,
    .args = args_of,
};
