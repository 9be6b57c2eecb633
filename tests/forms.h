/* forms.h - random weights in every form of weight.h and awkward shapes, for the tests of
 * products, on the CPU and on a GPU. */
#pragma once

#include "ops.h"

struct form {
    const char *name;
    enum weight_form form;
    enum dtype plain;
    int bits;
    int64_t group; /* 0: one a row */
    bool flat;
    enum scale_form scale;
    enum zero_form zero;
    bool g_idx;
};

static const struct form forms[] = {
    { "fp32", WEIGHT_PLAIN, DTYPE_F32, 32, 0, false, SCALE_NONE, ZERO_CONSTANT, false },
    { "fp16", WEIGHT_PLAIN, DTYPE_F16, 16, 0, false, SCALE_NONE, ZERO_CONSTANT, false },
    { "bf16", WEIGHT_PLAIN, DTYPE_BF16, 16, 0, false, SCALE_NONE, ZERO_CONSTANT, false },
    { "nf4 in blocks of 64", WEIGHT_TABLE, 0, 4, 64, true, SCALE_F32, ZERO_CONSTANT, false },
    { "nf4 in blocks of 4096", WEIGHT_TABLE, 0, 4, 4096, true, SCALE_F32, ZERO_CONSTANT, false },
    { "nf4 nested", WEIGHT_TABLE, 0, 4, 32, true, SCALE_NESTED, ZERO_CONSTANT, false },
    { "4-bit table, blocks of 5", WEIGHT_TABLE, 0, 4, 5, true, SCALE_F16, ZERO_CONSTANT, false },
    { "3-bit table", WEIGHT_TABLE, 0, 3, 16, false, SCALE_F16, ZERO_CONSTANT, false },
    { "e2m1, e8m0", WEIGHT_TABLE, 0, 4, 32, false, SCALE_E8M0, ZERO_CONSTANT, false },
    { "e2m1, e4m3", WEIGHT_TABLE, 0, 4, 16, false, SCALE_E4M3, ZERO_CONSTANT, false },
    { "int2", WEIGHT_AFFINE, 0, 2, 32, false, SCALE_F32, ZERO_CONSTANT, false },
    { "int3", WEIGHT_AFFINE, 0, 3, 0, false, SCALE_F32, ZERO_U8, false },
    { "int4 per row", WEIGHT_AFFINE, 0, 4, 0, false, SCALE_U8, ZERO_CONSTANT, false },
    { "int4", WEIGHT_AFFINE, 0, 4, 32, false, SCALE_F32, ZERO_F32, false },
    { "int4 in order", WEIGHT_AFFINE, 0, 4, 16, false, SCALE_F16, ZERO_U8, true },
    { "int5", WEIGHT_AFFINE, 0, 5, 16, false, SCALE_F32, ZERO_F16, false },
    { "int6", WEIGHT_AFFINE, 0, 6, 0, false, SCALE_F32, ZERO_U8, false },
    { "int7", WEIGHT_AFFINE, 0, 7, 32, false, SCALE_U8, ZERO_U8, true },
    { "int8", WEIGHT_AFFINE, 0, 8, 64, false, SCALE_F32, ZERO_CONSTANT, false },
    { "fp8", WEIGHT_E4M3, 0, 8, 16, false, SCALE_F32, ZERO_CONSTANT, false },
    { "fp8 per row", WEIGHT_E4M3, 0, 8, 0, false, SCALE_U8, ZERO_CONSTANT, false },
    { "LLM.int8", WEIGHT_INT8, 0, 8, 0, false, SCALE_F32, ZERO_CONSTANT, false },
};
#define N_FORMS (sizeof forms / sizeof *forms)

static const struct {
    int64_t n_out, n_in;
} shapes[] = { { 1, 1 }, { 3, 63 }, { 33, 65 }, { 130, 257 }, { 40, 600 } };
#define N_SHAPES (sizeof shapes / sizeof *shapes)

static inline void fill_random(void *p, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++)
        ((uint8_t *)p)[i] = (uint8_t)(draw() * 256);
}

static inline struct weight random_weight(const struct form *f, int64_t n_out, int64_t n_in)
{
    int64_t group = f->group ? f->group : n_in, per_row = (n_in + group - 1) / group;
    struct weight w = {
        .form = f->form,
        .n_out = n_out,
        .n_in = n_in,
        .plain_dtype = f->plain,
        .bits = f->bits,
        .row_bytes = f->form == WEIGHT_PLAIN ? n_in * f->bits / 8 : (n_in * f->bits + 31) / 32 * 4,
        .group_size = group,
        .flat_groups = f->flat,
        .n_groups = f->form == WEIGHT_PLAIN ? 0
                    : f->flat               ? (n_out * n_in + group - 1) / group
                                            : n_out * per_row,
        .scale_form = f->scale,
        .nested_offset = f->scale == SCALE_E4M3 ? 0.37f : 1.5f,
        .zero_form = f->zero,
        .zero_constant = 1 << (f->bits - 1) % 8,
    };
    struct err e = ERR_INIT;
    void *g_idx;

    CHECK_OK(weight_alloc(&isas[0], MEM_SCRATCH, &w, &e), e);
    fill_random(w.codes, weight_codes_bytes(&w));
    for (size_t i = 0; f->form == WEIGHT_E4M3 && i < weight_codes_bytes(&w); i++)
        ((uint8_t *)w.codes)[i] &= 0xF7; /* no NaN */
    fill_random(w.scales, weight_scales_bytes(&w));
    fill_random(w.zeros, weight_zeros_bytes(&w));
    if (f->form == WEIGHT_PLAIN)
        for (int64_t i = 0; i < n_out * n_in; i++) {
            float x = draw_value();
            dtype_from_f32(f->plain, &x, (char *)w.codes + i * f->bits / 8, 1);
        }
    for (int64_t i = 0; i < w.n_groups; i++) {
        float scale = (float)(0.1 + draw()), zero = draw_value() * 7;

        if (f->scale == SCALE_F32)
            ((float *)w.scales)[i] = scale;
        if (f->scale == SCALE_F16)
            ((uint16_t *)w.scales)[i] = dtype_f32_to_f16(scale);
        if (f->scale == SCALE_E8M0)
            ((uint8_t *)w.scales)[i] = (uint8_t)(120 + 12 * draw());
        if (f->scale == SCALE_E4M3)
            ((uint8_t *)w.scales)[i] &= 0x77; /* no NaN, positive */
        if (f->zero == ZERO_F32)
            ((float *)w.zeros)[i] = zero;
        if (f->zero == ZERO_F16)
            ((uint16_t *)w.zeros)[i] = dtype_f32_to_f16(zero);
    }
    for (size_t i = 0; i < weight_scales2_bytes(&w) / 4; i++)
        ((float *)w.scales2)[i] = (float)(0.01 + 0.01 * draw());
    for (int i = 0; i < 16; i++)
        w.table[i] = draw_value();
    if (f->g_idx) {
        CHECK_OK(backend_alloc(&isas[0], MEM_SCRATCH, (size_t)n_in * 4, &g_idx, &e), e);
        w.g_idx = g_idx;
        for (int64_t i = 0; i < n_in; i++)
            w.g_idx[i] = (int32_t)(draw() * (double)per_row);
    }
    return w;
}
