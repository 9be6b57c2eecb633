/* quantize.cuh - what the quantizers on the device share: the job, the affine grids of
 * src/cpu/quantize_grid.c, to the bit, and the second quantization of scales.
 *
 * Two ways lead to the same bits: quantize_stream.cu for 16-bit weights in groups of a warp or a
 * block, which it queues and starts together; quantize_block.cu and quantize_rows.cu for all
 * others.  */
#pragma once

#include "answers.cuh"
#include "unpack.cuh"

#define QUANTIZE_F16_MAX 65504.0f
#define QUANTIZE_F32_MAX 0x1.fffffep127f

/* Larger magnitudes are refused. */
static inline float quantize_most(enum quantize_rule rule)
{
    return rule == QUANTIZE_INT8_ROW ? QUANTIZE_F16_MAX : QUANTIZE_F32_MAX;
}

/* What stands for the scale of a group of zeros, whose codes all say zero; 0 where it is quantized
 * again, and for bitsandbytes. */
static inline float quantize_zero_scale(enum quantize_rule rule, const struct weight *w)
{
    if (rule <= QUANTIZE_INT8_ROW || w->scale_form == SCALE_U8)
        return 0.0f;
    return rule == QUANTIZE_GRID_GPTQ || rule == QUANTIZE_GRID_AWQ
               ? 2.0f / (float)((1 << w->bits) - 1)
               : 1.0f;
}

/* ---- scales again ---- */

#define NEST_PARTS_MAX 32

/* Scales of a matrix and where they go. */
struct nest_part {
    const float *scales; /* [n] */
    /* SCALE_NESTED: sums of the scales in the order that they are added; their mean is rounded once
     * to fp32. */
    const double *sums; /* [n_sums] */
    int64_t n, n_sums;
    uint8_t *codes; /* [n] */
    float *scales2; /* [ceil(n / WEIGHT_NESTED_RUN)] */
    union cuda_answer *answer;
    unsigned groups_per_row; /* the codes go in arrangement 1 (unpack.cuh); 0: in order */
    unsigned first_block;    /* filled in */
};

struct nest_batch {
    struct nest_part part[NEST_PARTS_MAX];
    int n_parts;
    const struct nest_table *table; /* filled in */
};

/* To SCALE_NESTED or SCALE_U8. */
int cuda_nest(struct cuda_state *s, struct nest_batch *a, enum scale_form form, struct err *e);

/* The scales of one matrix; sums: of its runs, for SCALE_NESTED. */
int cuda_nest_one(struct cuda_state *s, const float *scales, const double *sums,
                  const struct weight *w, union cuda_answer *answer, struct err *e);

struct nest_table *cuda_nest_table_open(struct err *e);

/* ---- the queue ---- */

/* Takes the call when it knows how; false: it does not.  w is allocated; its arrangement is set. */
bool cuda_quantize_queue(struct cuda_state *s, const struct quantize_args *a, struct weight *w,
                         union cuda_answer *answer);

struct quantize_job {
    enum dtype x_t, source;
    const void *x; /* [n_out, n_in], of type x_t, rounded to source as they are read */
    enum quantize_rule rule;
    int bits;
    int64_t n_out, n_in, group_size, n_groups, row_words;
    float most;         /* larger magnitudes are refused */
    uint32_t fp4_codes; /* codebook_fp4_code, 4 bits each */
    float threshold[15];
};

/* ---- on the device ---- */

/* rcp.approx.ftz.f32: what 1 / x is in a library compiled with --use_fast_math. */
__device__ inline float approximate_reciprocal(float x)
{
    float r;

    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}

__device__ inline float multiply_ftz(float a, float b)
{
    float r;

    asm("mul.ftz.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
    return r;
}

/* Arrangement 1 (unpack.cuh), of 4-bit codes: word `at` of a row among those of the matrix. */
__device__ inline int64_t arranged_word(unsigned row, unsigned at, unsigned row_words)
{
    return (int64_t)(row / UNIT_ROWS) * UNIT_ROWS * row_words + at / 16 * (16 * UNIT_ROWS) +
           row % UNIT_ROWS * 16 + at % 4 * 4 + at / 4 % 4;
}

/* The scale and the zero point of group `col` of a row. */
__device__ inline int64_t arranged_group(unsigned row, unsigned col, unsigned groups_per_row)
{
    return ((int64_t)(row / UNIT_ROWS) * groups_per_row + col) * UNIT_ROWS + row % UNIT_ROWS;
}

/* The sum of one number a thread, by halves; in thread 0. */
template <int N_THREADS> __device__ inline double block_sum(double x)
{
    __shared__ double of_warp[N_THREADS / 32];

    for (int half = 16; half; half /= 2)
        x += __shfl_xor_sync(0xFFFFFFFFu, x, half);
    if (threadIdx.x % 32 == 0)
        of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    for (int i = 1; threadIdx.x == 0 && i < N_THREADS / 32; i++)
        x += of_warp[i];
    return x;
}

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

/* Correctly rounded x / d where nothing overflows; r: 1 / d, correctly rounded (Markstein 1990). */
__device__ inline float quotient(float x, float d, float r)
{
    float q = x * r;

    q = fmaf(fmaf(-q, d, x), r, q);
    return fmaf(fmaf(-q, d, x), r, q);
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
