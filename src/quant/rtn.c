/* rtn.c - round to nearest on an affine grid per group: the baseline of every table of
 * quantization methods.  Three grids: absmax (max|W| / (2^(b-1) - 1)), gptq (the solver's own,
 * its `--nearest`), awq. */
#include "backend/quantized.h"
#include "quant/method.h"

#include <string.h>

static struct quantize_args args_of(const struct quant_spec *s, int64_t n_in)
{
    enum quantize_rule rule = QUANTIZE_GRID_ABSMAX;

    if (!strcmp(s->grid, "gptq"))
        rule = QUANTIZE_GRID_GPTQ;
    if (!strcmp(s->grid, "awq"))
        rule = QUANTIZE_GRID_AWQ;
    return (struct quantize_args){
        .source = s->source,
        .rule = rule,
        .bits = s->bits,
        .group_size = s->group_size == -1 ? n_in : s->group_size,
        .sym = s->sym,
        .double_quant = s->double_quant,
    };
}

static int run(struct backend *b, const struct quant_spec *s, const struct tensor *w,
               struct weight *out, struct err *e)
{
    struct quantize_args a = args_of(s, w->n_cols);

    if (quant_spec_check(s, w->n_cols, e) < 0)
        return -1;
    a.w = w;
    a.out = out;
    return b->ops->quantize(b, &a, e);
}

static int shape(const struct quant_spec *s, int64_t n_out, int64_t n_in, struct weight *out,
                 struct err *e)
{
    struct quantize_args a = args_of(s, n_in);

    if (quant_spec_check(s, n_in, e) < 0)
        return -1;
    quantized_shape(&a, n_out, n_in, out);
    return 0;
}

const struct quantizer quantizer_rtn = {
    .name = "rtn",
    .agrees_with = "round to nearest, as the reference study and the solvers of GPTQ and AWQ do it",
    .allowed = {
        .bits = { 2, 3, 4, 5, 6, 7, 8 },
        .any_group = true,
        .quant_types = { "int" },
        .later_types = { "nf2", "nf3", "nf4", "fp4", "mxfp4", "nvfp4", "fp8_e4m3" },
        .double_quant = true,
        .grid = true,
    },
    .run = run,
    .shape = shape,
};
