/* quantize.cuh - what the quantizers on the device share: the job, and the affine grids of
 * src/cpu/quantize_grid.c, to the bit. */
#pragma once

#include "common.cuh"

#define QUANTIZE_F16_MAX 65504.0f
#define QUANTIZE_F32_MAX 0x1.fffffep127f

struct quantize_job {
    enum dtype x_t, source;
    const void *x; /* [n_out, n_in], of type x_t, rounded to source as they are read */
    enum quantize_rule rule;
    int bits, zero_constant;
    bool sym;
    int64_t n_out, n_in, group_size, n_groups, row_words;
    float most;         /* larger magnitudes are refused */
    uint32_t fp4_codes; /* codebook_fp4_code, 4 bits each */
    float threshold[15];
};

/* An affine grid of 2^b codes: value = (code - zero) * scale. */
struct grid {
    float scale; /* 0: every value of the group is zero */
    int zero;
};

/* LLM.int8 sees weights rounded to fp16. */
__device__ inline float input_value(const struct quantize_job &a, int64_t i)
{
    float x = round_value(a.source, load_value(a.x_t, a.x, i));

    return a.rule == QUANTIZE_INT8_ROW ? round_value(DTYPE_F16, x) : x;
}

__host__ __device__ inline bool is_grid(enum quantize_rule rule)
{
    return rule == QUANTIZE_GRID_ABSMAX || rule == QUANTIZE_GRID_GPTQ || rule == QUANTIZE_GRID_AWQ;
}

__device__ inline float clamp_value(float x, float low, float high)
{
    return x < low ? low : x > high ? high : x;
}

/* Zero is always inside the range. */
__device__ inline struct grid gptq_grid(int bits, bool sym, float least, float greatest)
{
    float most = (float)((1 << bits) - 1);
    float low = fminf(least, 0.0f), high = fmaxf(greatest, 0.0f);

    if (sym) {
        high = fmaxf(-low, high);
        if (low < 0.0f)
            low = -high;
    }
    struct grid g = { (high - low) / most, 1 << (bits - 1) };
    if (!sym && g.scale > 0.0f)
        g.zero = (int)clamp_value(rintf(-low / g.scale), 0.0f, most);
    else if (!sym)
        g.zero = (int)rintf(1.0f / (2.0f / most)); /* all zero: the range is taken as -1 .. 1 */
    return g;
}

/* Zero need not be inside the range; a group narrower than 1e-5 gets that range. */
__device__ inline struct grid awq_grid(int bits, bool sym, float least, float greatest)
{
    float most = (float)((1 << bits) - 1);
    float largest = fmaxf(fabsf(least), fabsf(greatest));

    if (sym)
        return { fmaxf(largest, 1e-5f) / (float)((1 << (bits - 1)) - 1), 1 << (bits - 1) };
    float scale = fmaxf(greatest - least, 1e-5f) / most;
    return { scale, (int)clamp_value(-rintf(least / scale), 0.0f, most) };
}

__device__ inline struct grid grid_of(enum quantize_rule rule, int bits, bool sym, float least,
                                      float greatest)
{
    float largest = fmaxf(fabsf(least), fabsf(greatest));

    if (rule == QUANTIZE_GRID_AWQ)
        return awq_grid(bits, sym, least, greatest);
    if (rule == QUANTIZE_GRID_ABSMAX && sym)
        return { largest / (float)((1 << (bits - 1)) - 1), 1 << (bits - 1) };
    return gptq_grid(bits, sym, least, greatest);
}
