#include "backend/quantized.h"

#include <assert.h>
#include <string.h>

static void table_shape(const struct quantize_args *a, struct weight *out)
{
    out->form = WEIGHT_TABLE;
    out->bits = 4;
    out->flat_groups = true;
    out->group_size = a->group_size;
    out->n_groups = (out->n_out * out->n_in + a->group_size - 1) / a->group_size;
    out->scale_form = a->double_quant ? SCALE_NESTED : SCALE_F32;
    out->table_id = a->rule == QUANTIZE_BNB_NF4 ? TABLE_NF4 : TABLE_FP4;
    weight_code_table(out->table_id, out->table);
}

static void int8_shape(struct weight *out)
{
    out->form = WEIGHT_INT8;
    out->bits = 8;
    out->group_size = out->n_in;
    out->n_groups = out->n_out;
    out->scale_form = SCALE_F32;
}

static enum scale_form plain_scales(const struct quantize_args *a)
{
    if (a->double_quant)
        return SCALE_U8;
    return a->scale_dtype == DTYPE_F16 ? SCALE_F16 : SCALE_F32;
}

/* Groups that start anew at each row. */
static void row_groups(const struct quantize_args *a, int64_t group_size, struct weight *out)
{
    assert(group_size > 0 && out->n_in % group_size == 0);
    out->group_size = group_size;
    out->n_groups = out->n_out * (out->n_in / group_size);
    out->scale_form = plain_scales(a);
}

static void codebook_shape(const struct quantize_args *a, enum code_table table, struct weight *out)
{
    out->form = WEIGHT_TABLE;
    out->bits = table == TABLE_NF2 ? 2 : table == TABLE_NF3 ? 3 : 4;
    out->table_id = table;
    weight_code_table(table, out->table);
    row_groups(a, a->group_size, out);
}

static void micro_shape(const struct quantize_args *a, struct weight *out)
{
    bool mx = a->rule == QUANTIZE_MXFP4;

    codebook_shape(a, TABLE_E2M1, out);
    assert(a->group_size == (mx ? 32 : 16) && !a->double_quant);
    out->scale_form = mx ? SCALE_E8M0 : SCALE_E4M3;
}

static void fp8_shape(const struct quantize_args *a, struct weight *out)
{
    bool whole = a->group_size == out->n_out * out->n_in;

    out->form = WEIGHT_E4M3;
    out->bits = 8;
    row_groups(a, whole ? out->n_in : a->group_size, out);
    if (whole) {
        out->flat_groups = true;
        out->group_size = a->group_size;
        out->n_groups = 1;
    }
}

static void hqq_shape(const struct quantize_args *a, struct weight *out)
{
    assert(a->bits >= 2 && a->bits <= 8);
    out->form = WEIGHT_AFFINE;
    out->bits = a->bits;
    row_groups(a, a->group_size, out);
    /* Quantizing the scales again leaves the zero points in fp16. */
    out->zero_form = out->scale_form == SCALE_F32 ? ZERO_F32 : ZERO_F16;
}

static void grid_shape(const struct quantize_args *a, struct weight *out)
{
    assert(a->bits >= 2 && a->bits <= 8);
    out->form = WEIGHT_AFFINE;
    out->bits = a->bits;
    row_groups(a, a->group_size, out);
    out->zero_form = a->sym ? ZERO_CONSTANT : ZERO_U8;
    out->zero_constant = a->sym ? 1 << (a->bits - 1) : 0;
}

void quantized_shape(const struct quantize_args *a, int64_t n_out, int64_t n_in, struct weight *out)
{
    assert(n_out > 0 && n_in > 0);
    memset(out, 0, sizeof *out);
    out->n_out = n_out;
    out->n_in = n_in;
    switch (a->rule) {
    case QUANTIZE_BNB_NF4:
    case QUANTIZE_BNB_FP4:
        assert(a->group_size > 0);
        table_shape(a, out);
        break;
    case QUANTIZE_INT8_ROW:
        int8_shape(out);
        break;
    case QUANTIZE_GRID_ABSMAX:
    case QUANTIZE_GRID_GPTQ:
    case QUANTIZE_GRID_AWQ:
        grid_shape(a, out);
        break;
    case QUANTIZE_TABLE:
        codebook_shape(a, a->table, out);
        break;
    case QUANTIZE_MXFP4:
    case QUANTIZE_NVFP4:
        micro_shape(a, out);
        break;
    case QUANTIZE_E4M3:
        fp8_shape(a, out);
        break;
    case QUANTIZE_HQQ:
        hqq_shape(a, out);
        break;
    }
    out->row_bytes = (n_in * out->bits + 31) / 32 * 4;
}
