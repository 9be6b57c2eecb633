/* quantize_block.cu - bitsandbytes' rules on the device, whatever the type, the block and the
 * alignment; twin of src/cpu/quantize_block.c.  Other rules: quantize_rows.cu, quantize_hqq.cu.
 *
 *   1. one warp reads one block of weights: its largest magnitude;
 *   2. one thread makes one 32-bit word of codes;
 *   3. the scales are stored as they are, or quantized again.
 *
 * Where bitsandbytes divides approximately so does this, with the same instructions, and gives
 * its codes; the CPU rounds correctly there and may differ as its header says.  */
#include "quantize_rows.cuh"

#define N_THREADS 256

/* ---- 1. scales ---- */

/* Of n weights; infinity when one of them is beyond a.most. */
__device__ static float warp_absmax(const struct quantize_job &a, int64_t first, int64_t n)
{
    float most = 0;

    for (int64_t i = threadIdx.x % 32; i < n; i += 32) {
        float size = fabsf(input_value(a, first + i));

        most = !(size <= a.most) ? INFINITY : size > most ? size : most;
    }
    for (int half = 16; half; half /= 2)
        most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, half));
    return most;
}

__global__ static void block_scales(struct quantize_job a, float *scales,
                                    unsigned long long *refused_from)
{
    const int64_t n_warps = (int64_t)gridDim.x * (N_THREADS / 32), n_all = a.n_out * a.n_in;

    for (int64_t group = (int64_t)blockIdx.x * (N_THREADS / 32) + threadIdx.x / 32;
         group < a.n_groups; group += n_warps) {
        int64_t first = group * a.group_size;
        float most =
            warp_absmax(a, first, n_all - first < a.group_size ? n_all - first : a.group_size);

        if (threadIdx.x % 32)
            continue;
        scales[group] = most;
        if (!(most < INFINITY))
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

__device__ static unsigned code_of(const struct quantize_job &a, const float *scales, int64_t row,
                                   int64_t col)
{
    int64_t at = row * a.n_in + col;
    float x = input_value(a, at), scale = scales[at / a.group_size];

    switch (a.rule) {
    case QUANTIZE_BNB_NF4:
        return nf4_code(a, x, scale);
    case QUANTIZE_BNB_FP4:
        return fp4_code(a, x, scale);
    default:
        return int8_code(x, scale);
    }
}

/* Word i of a row holds bits 32 i ... 32 i + 31 of its stream; a code may reach into two words and
 * is then made twice. */
__global__ static void pack_codes(struct quantize_job a, const float *scales, uint32_t *codes)
{
    GRID_STRIDE(i, a.n_out * a.row_words)
    {
        int64_t row = i / a.row_words, first_bit = i % a.row_words * 32;
        uint32_t word = 0;

        for (int64_t col = first_bit / a.bits; col < a.n_in && col * a.bits < first_bit + 32;
             col++) {
            uint32_t code = code_of(a, scales, row, col);
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

/* sums: room for one a run. */
static int store_scales(struct cuda_state *s, const float *scales, double *sums,
                        const struct weight *w, union cuda_answer *answer, struct err *e)
{
    if (w->scale_form == SCALE_F32) {
        CUDA_TRY(cudaMemcpyAsync(w->scales, scales, (size_t)w->n_groups * sizeof *scales,
                                 cudaMemcpyDeviceToDevice, s->stream));
        return 0;
    }
    run_sums<<<(unsigned)ceil_div(w->n_groups, WEIGHT_NESTED_RUN), WEIGHT_NESTED_RUN, 0,
               s->stream>>>(scales, w->n_groups, sums);
    CUDA_LAUNCHED(s, "run_sums");
    return cuda_nest_one(s, scales, sums, w, answer, e);
}

/* ---- entry ---- */

static struct quantize_job job_of(const struct quantize_args *a, const struct weight *w)
{
    struct quantize_job job = { .x_t = a->w->dtype,
                                .source = a->source,
                                .x = a->w->data,
                                .rule = a->rule,
                                .bits = w->bits,
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
    const size_t n_runs = (size_t)ceil_div(w->n_groups, WEIGHT_NESTED_RUN);
    void *scratch;

    if (cuda_scratch(s, SCRATCH_SCALES,
                     n_runs * sizeof(double) + (size_t)w->n_groups * sizeof(float), &scratch,
                     e) < 0)
        return -1;
    double *sums = (double *)scratch;
    float *scales = (float *)(sums + n_runs);

    block_scales<<<blocks_for(s, w->n_groups * 32, N_THREADS), N_THREADS, 0, s->stream>>>(
        *job, scales, &answer->quantized.refused_from);
    CUDA_LAUNCHED(s, "block_scales");
    pack_codes<<<blocks_for(s, w->n_out * job->row_words, N_THREADS), N_THREADS, 0, s->stream>>>(
        *job, scales, (uint32_t *)w->codes);
    CUDA_LAUNCHED(s, "pack_codes");
    return store_scales(s, scales, sums, w, answer, e);
}

static int start(struct cuda_state *s, const struct quantize_args *a, const struct weight *w,
                 union cuda_answer *answer, struct err *e)
{
    const struct quantize_job job = job_of(a, w);

    if (a->rule == QUANTIZE_HQQ)
        return cuda_quantize_hqq(s, a, w, answer, e);
    return a->rule > QUANTIZE_INT8_ROW ? cuda_quantize_rows(s, a, w, answer, e)
                                       : quantize(s, &job, w, answer, e);
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
    cuda_quantize_start(s); /* what waits takes working memory that this one may have to grow */
    if (start(s, a, &w, answer, e) == 0)
        return 0;
    cuda_answer_withdraw(s);
    weight_release(b, &w);
    return -1;
}
