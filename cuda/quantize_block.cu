/* quantize_block.cu - plain weights to codes on the device, whatever the type, the groups and the
 * alignment; twin of src/cpu/quantize_block.c, quantize_grid.c and pack.c.
 *
 *   1. one warp reads one group: its scale, and its zero point where the rule has one;
 *   2. one thread makes one 32-bit word of codes, whatever the width of a code;
 *   3. the scales are stored as they are, or quantized again.
 *
 * Where bitsandbytes divides approximately so does this, with the same instructions, and gives
 * its codes; the CPU rounds correctly there and may differ as its header says.  All affine grids
 * are the CPU's to the bit.  */
#include "quantize.cuh"

#define N_THREADS 256

/* ---- 1. scales ---- */

struct range {
    float least, greatest, absmax; /* absmax: infinity when an element is not finite */
};

__device__ static struct range warp_range(const struct quantize_job &a, int64_t first, int64_t n)
{
    struct range r = { INFINITY, -INFINITY, 0.0f };

    for (int64_t i = threadIdx.x % 32; i < n; i += 32) {
        float x = input_value(a, first + i), size = fabsf(x);

        r.least = x < r.least ? x : r.least;
        r.greatest = x > r.greatest ? x : r.greatest;
        r.absmax = !(size <= a.most) ? INFINITY : size > r.absmax ? size : r.absmax;
    }
    for (int half = 16; half; half /= 2) {
        r.least = fminf(r.least, __shfl_xor_sync(0xFFFFFFFFu, r.least, half));
        r.greatest = fmaxf(r.greatest, __shfl_xor_sync(0xFFFFFFFFu, r.greatest, half));
        r.absmax = fmaxf(r.absmax, __shfl_xor_sync(0xFFFFFFFFu, r.absmax, half));
    }
    return r;
}

__global__ static void group_scales(struct quantize_job a, float *scales, uint8_t *zeros,
                                    unsigned long long *refused_from)
{
    const int64_t n_warps = (int64_t)gridDim.x * (N_THREADS / 32), n_all = a.n_out * a.n_in;

    for (int64_t group = (int64_t)blockIdx.x * (N_THREADS / 32) + threadIdx.x / 32;
         group < a.n_groups; group += n_warps) {
        int64_t first = group * a.group_size;
        int64_t n = n_all - first < a.group_size ? n_all - first : a.group_size;
        struct range r = warp_range(a, first, n);
        struct grid g = { r.absmax, 0 };

        if (is_grid(a.rule))
            g = grid_of(a.rule, a.bits, a.sym, r.least, r.greatest);
        if (threadIdx.x % 32)
            continue;
        scales[group] = g.scale;
        if (zeros)
            zeros[group] = (uint8_t)g.zero;
        if (!(r.absmax < INFINITY && g.scale < INFINITY))
            atomicMin(refused_from, (unsigned long long)first);
    }
}

/* ---- 2. codes ---- */

__device__ static unsigned nf4_code(const struct quantize_job &a, float x, float scale)
{
    float y = multiply_ftz(x, approximate_reciprocal(scale));
    unsigned code = 0;

#pragma unroll
    for (int k = 0; k < 15; k++)
        code += y > a.threshold[k];
    return code;
}

__device__ static unsigned fp4_code(const struct quantize_job &a, float x, float scale)
{
    float y = multiply_ftz(x, approximate_reciprocal(scale));
    unsigned n_below = 0;

#pragma unroll
    for (int k = 0; k < 7; k++)
        n_below += fabsf(y) > a.threshold[k];
    return (y < 0.0f ? 8u : 0u) | (a.fp4_codes >> 4 * n_below & 7u);
}

/* A row of zeros: 0 * infinity is NaN, and the nearest integer to that is 0. */
__device__ static unsigned int8_code(float x, float scale)
{
    return (unsigned)__float2int_rn(x * __fdividef(127.0f, scale)) & 0xFFu;
}

__device__ static unsigned grid_code(int bits, float x, float scale, int zero)
{
    const float low = (float)-zero, high = (float)((1 << bits) - 1 - zero);

    if (!(scale > 0.0f))
        return (unsigned)zero;
    float y = x / scale;
    y = y < low ? low : y;
    y = y > high ? high : y;
    return (unsigned)(int)(rintf(y) + (float)zero);
}

__device__ static unsigned code_of(const struct quantize_job &a, const float *scales,
                                   const uint8_t *zeros, int64_t row, int64_t col)
{
    int64_t at = row * a.n_in + col, group = at / a.group_size;
    float x = input_value(a, at), scale = scales[group];

    switch (a.rule) {
    case QUANTIZE_BNB_NF4:
        return nf4_code(a, x, scale);
    case QUANTIZE_BNB_FP4:
        return fp4_code(a, x, scale);
    case QUANTIZE_INT8_ROW:
        return int8_code(x, scale);
    default:
        return grid_code(a.bits, x, scale, zeros ? zeros[group] : a.zero_constant);
    }
}

/* Word i of a row holds bits 32 i ... 32 i + 31 of its stream; a code may reach into two words and
 * is then made twice. */
__global__ static void pack_codes(struct quantize_job a, const float *scales, const uint8_t *zeros,
                                  uint32_t *codes)
{
    GRID_STRIDE(i, a.n_out * a.row_words)
    {
        int64_t row = i / a.row_words, first_bit = i % a.row_words * 32;
        uint32_t word = 0;

        for (int64_t col = first_bit / a.bits; col < a.n_in && col * a.bits < first_bit + 32;
             col++) {
            uint32_t code = code_of(a, scales, zeros, row, col);
            int64_t shift = col * a.bits - first_bit;
            word |= shift < 0 ? code >> -shift : code << shift;
        }
        codes[i] = word;
    }
}

/* ---- 3. scales again ---- */

/* Sums of WEIGHT_NESTED_RUN scales. */
__global__ static void run_sums(const float *scales, int64_t n, double *sums)
{
    int64_t i = (int64_t)blockIdx.x * WEIGHT_NESTED_RUN + threadIdx.x;
    double sum = block_sum<WEIGHT_NESTED_RUN>(i < n ? scales[i] : 0.0);

    if (threadIdx.x == 0)
        sums[blockIdx.x] = sum;
}

__global__ static void copy_scales(const float *scales, int64_t n, float of_zeros, float *out)
{
    GRID_STRIDE(i, n)
    out[i] = scales[i] > 0.0f ? scales[i] : of_zeros;
}

/* sums: room for one a run. */
static int store_scales(struct cuda_state *s, const struct quantize_job *a, const float *scales,
                        double *sums, const struct weight *w, union cuda_answer *answer,
                        struct err *e)
{
    const int64_t n_runs = ceil_div(w->n_groups, WEIGHT_NESTED_RUN);
    struct nest_batch batch;

    if (w->scale_form == SCALE_F32) {
        copy_scales<<<blocks_for(s, w->n_groups, N_THREADS), N_THREADS, 0, s->stream>>>(
            scales, w->n_groups, quantize_zero_scale(a->rule, w), (float *)w->scales);
        CUDA_LAUNCHED(s, "copy_scales");
        return 0;
    }
    if (w->scale_form == SCALE_NESTED) {
        run_sums<<<(unsigned)n_runs, WEIGHT_NESTED_RUN, 0, s->stream>>>(scales, w->n_groups, sums);
        CUDA_LAUNCHED(s, "run_sums");
    }
    batch.n_parts = 1;
    batch.part[0] = { .scales = scales,
                      .sums = sums,
                      .n = w->n_groups,
                      .n_sums = n_runs,
                      .codes = (uint8_t *)w->scales,
                      .scales2 = (float *)w->scales2,
                      .answer = answer,
                      .groups_per_row = 0,
                      .first_block = 0 };
    return cuda_nest(s, &batch, w->scale_form, e);
}

/* ---- entry ---- */

static struct quantize_job job_of(const struct quantize_args *a, const struct weight *w)
{
    struct quantize_job job = { .x_t = a->w->dtype,
                                .source = a->source,
                                .x = a->w->data,
                                .rule = a->rule,
                                .bits = w->bits,
                                .zero_constant = w->zero_constant,
                                .sym = a->sym,
                                .n_out = w->n_out,
                                .n_in = w->n_in,
                                .group_size = w->group_size,
                                .n_groups = w->n_groups,
                                .row_words = w->row_bytes / 4,
                                .most = quantize_most(a->rule),
                                .fp4_codes = 0,
                                .threshold = {} };

    if (a->rule == QUANTIZE_BNB_NF4)
        memcpy(job.threshold, codebook_nf4_threshold, sizeof codebook_nf4_threshold);
    if (a->rule == QUANTIZE_BNB_FP4)
        memcpy(job.threshold, codebook_fp4_threshold, sizeof codebook_fp4_threshold);
    for (int i = 0; i < 8; i++)
        job.fp4_codes |= (uint32_t)codebook_fp4_code[i] << 4 * i;
    return job;
}

static int quantize(struct cuda_state *s, const struct quantize_job *job, const struct weight *w,
                    union cuda_answer *answer, struct err *e)
{
    uint8_t *zeros = w->zero_form == ZERO_U8 ? (uint8_t *)w->zeros : NULL;
    const size_t n_runs = (size_t)ceil_div(w->n_groups, WEIGHT_NESTED_RUN);
    void *scratch;

    if (cuda_scratch(s, SCRATCH_SCALES,
                     n_runs * sizeof(double) + (size_t)w->n_groups * sizeof(float), &scratch,
                     e) < 0)
        return -1;
    double *sums = (double *)scratch;
    float *scales = (float *)(sums + n_runs);

    group_scales<<<blocks_for(s, w->n_groups * 32, N_THREADS), N_THREADS, 0, s->stream>>>(
        *job, scales, zeros, &answer->quantized.refused_from);
    CUDA_LAUNCHED(s, "group_scales");
    pack_codes<<<blocks_for(s, w->n_out * job->row_words, N_THREADS), N_THREADS, 0, s->stream>>>(
        *job, scales, zeros, (uint32_t *)w->codes);
    CUDA_LAUNCHED(s, "pack_codes");
    return store_scales(s, job, scales, sums, w, answer, e);
}

extern "C" bool cuda_quantizes(const struct quantize_args *a)
{
    return a->rule <= QUANTIZE_GRID_AWQ && a->scale_dtype == DTYPE_F32;
}

extern "C" int cuda_quantize(struct backend *b, const struct quantize_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_here(b);
    union cuda_answer *answer;
    struct weight w;

    quantized_shape(a, a->w->n_rows, a->w->n_cols, &w);
    if (weight_alloc(b, MEM_WEIGHTS, &w, e) < 0)
        return -1;
    if (cuda_answer_quantized(s, a, &w, &answer, e) < 0) {
        weight_release(b, &w);
        return -1;
    }
    const bool queued = cuda_quantize_queue(s, a, &w, answer);
    *a->out = w;
    if (queued)
        return 0;
    const struct quantize_job job = job_of(a, &w);
    if (quantize(s, &job, &w, answer, e) == 0)
        return 0;
    cuda_answer_withdraw(s);
    weight_release(b, &w);
    return -1;
}
