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

static void grid_shape(const struct quantize_args *a, struct weight *out)
{
    assert(a->bits >= 2 && a->bits <= 8 && out->n_in % a->group_size == 0);
    out->form = WEIGHT_AFFINE;
    out->bits = a->bits;
    out->group_size = a->group_size;
    out->n_groups = out->n_out * (out->n_in / a->group_size);
    out->scale_form = a->double_quant ? SCALE_U8 : SCALE_F32;
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
        assert(a->group_size > 0);
        grid_shape(a, out);
        break;
    }
    out->row_bytes = (n_in * out->bits + 31) / 32 * 4;
}
