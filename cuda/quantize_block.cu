/* quantize_block.cu - plain weights to codes on the device; twin of src/cpu/quantize_block.c,
 * quantize_grid.c and pack.c.
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

/* rcp.approx.ftz.f32: what 1 / x is in a library compiled with --use_fast_math. */
__device__ static float approximate_reciprocal(float x)
{
    float r;

    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}

__device__ static float multiply_ftz(float a, float b)
{
    float r;

    asm("mul.ftz.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
    return r;
}

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

/* Sum in double, in an order fixed by n: the mean of all scales is rounded once to fp32. */
__global__ static void scales_mean(const float *scales, int64_t n, float *mean)
{
    __shared__ double of_thread[N_THREADS];
    double sum = 0;

    for (int64_t i = threadIdx.x; i < n; i += N_THREADS)
        sum += scales[i];
    of_thread[threadIdx.x] = sum;
    __syncthreads();
    for (int half = N_THREADS / 2; half; half /= 2) {
        if (threadIdx.x < half)
            of_thread[threadIdx.x] += of_thread[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0)
        *mean = (float)(of_thread[0] / (double)n);
}

/* Largest magnitude of a run of WEIGHT_NESTED_RUN numbers, one a thread. */
__device__ static float run_absmax(float x)
{
    __shared__ float largest[WEIGHT_NESTED_RUN];

    largest[threadIdx.x] = fabsf(x);
    __syncthreads();
    for (int half = WEIGHT_NESTED_RUN / 2; half; half /= 2) {
        if (threadIdx.x < half)
            largest[threadIdx.x] = fmaxf(largest[threadIdx.x], largest[threadIdx.x + half]);
        __syncthreads();
    }
    return largest[0];
}

/* As codebook_nearest(): a tie takes the even index, a NaN index 0. */
__device__ static int nearest(const float *map, float x)
{
    int low = 0, high = 255;

    if (!(x > map[0]))
        return 0;
    if (x >= map[255])
        return 255;
    while (high - low > 1) {
        int middle = (low + high) / 2;

        if (x >= map[middle])
            low = middle;
        else
            high = middle;
    }
    float between = (map[low] + map[high]) * 0.5f;
    if (x == between)
        return low % 2 == 0 ? low : high;
    return x > between ? high : low;
}

__global__ static void nest_scales(const float *scales, int64_t n, const float *offset,
                                   const float *map, uint8_t *indices, float *scales2)
{
    int64_t i = (int64_t)blockIdx.x * WEIGHT_NESTED_RUN + threadIdx.x;
    float d = i < n ? scales[i] - *offset : 0.0f, most = run_absmax(d);

    if (threadIdx.x == 0)
        scales2[blockIdx.x] = most;
    if (i < n)
        indices[i] = (uint8_t)nearest(map, multiply_ftz(d, approximate_reciprocal(most)));
}

__global__ static void scales_to_u8(const float *scales, int64_t n, uint8_t *codes, float *scales2)
{
    int64_t i = (int64_t)blockIdx.x * WEIGHT_NESTED_RUN + threadIdx.x;
    float x = i < n ? scales[i] : 0.0f, meta = run_absmax(x) / 127.0f;

    if (!(meta > 0.0f))
        meta = 1.0f;
    if (threadIdx.x == 0)
        scales2[blockIdx.x] = meta;
    if (i < n)
        codes[i] = (uint8_t)fminf(rintf(x / meta), 255.0f);
}

/* What stands for the scale of a group of zeros, whose codes all say zero. */
__global__ static void copy_scales(const float *scales, int64_t n, float of_zeros, float *out)
{
    GRID_STRIDE(i, n)
    out[i] = scales[i] > 0.0f ? scales[i] : of_zeros;
}

static int store_scales(struct cuda_state *s, const struct quantize_job *a, const float *scales,
                        float *offset, struct weight *w, struct err *e)
{
    unsigned n_runs = (unsigned)ceil_div(w->n_groups, WEIGHT_NESTED_RUN);
    float of_zeros = 0;

    if (is_grid(a->rule))
        of_zeros = a->rule == QUANTIZE_GRID_ABSMAX ? 1.0f : 2.0f / (float)((1 << a->bits) - 1);
    if (w->scale_form == SCALE_F32) {
        copy_scales<<<blocks_for(s, w->n_groups, N_THREADS), N_THREADS, 0, s->stream>>>(
            scales, w->n_groups, of_zeros, (float *)w->scales);
        CUDA_LAUNCHED(s, "copy_scales");
    } else if (w->scale_form == SCALE_U8) {
        scales_to_u8<<<n_runs, WEIGHT_NESTED_RUN, 0, s->stream>>>(
            scales, w->n_groups, (uint8_t *)w->scales, (float *)w->scales2);
        CUDA_LAUNCHED(s, "scales_to_u8");
    } else {
        scales_mean<<<1, N_THREADS, 0, s->stream>>>(scales, w->n_groups, offset);
        CUDA_LAUNCHED(s, "scales_mean");
        nest_scales<<<n_runs, WEIGHT_NESTED_RUN, 0, s->stream>>>(
            scales, w->n_groups, offset, s->dynamic_map, (uint8_t *)w->scales, (float *)w->scales2);
        CUDA_LAUNCHED(s, "nest_scales");
    }
    return 0;
}

/* ---- entry ---- */

/* What the device tells the host at the end. */
struct verdict {
    unsigned long long refused_from; /* first element of a group that cannot be quantized */
    float offset;
};

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
                                .most = a->rule == QUANTIZE_INT8_ROW ? QUANTIZE_F16_MAX
                                                                     : QUANTIZE_F32_MAX,
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

static int quantize(struct backend *b, const struct quantize_job *job, struct weight *w,
                    struct verdict *answer, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    uint8_t *zeros = w->zero_form == ZERO_U8 ? (uint8_t *)w->zeros : NULL;
    void *scratch;

    if (cuda_scratch(s, SCRATCH_SCALES, sizeof *answer + (size_t)w->n_groups * sizeof(float),
                     &scratch, e) < 0)
        return -1;
    struct verdict *verdict = (struct verdict *)scratch;
    float *scales = (float *)(verdict + 1);

    CUDA_TRY(cudaMemsetAsync(verdict, 0xFF, sizeof *verdict, s->stream));
    group_scales<<<blocks_for(s, w->n_groups * 32, N_THREADS), N_THREADS, 0, s->stream>>>(
        *job, scales, zeros, &verdict->refused_from);
    CUDA_LAUNCHED(s, "group_scales");
    pack_codes<<<blocks_for(s, w->n_out * job->row_words, N_THREADS), N_THREADS, 0, s->stream>>>(
        *job, scales, zeros, (uint32_t *)w->codes);
    CUDA_LAUNCHED(s, "pack_codes");
    if (store_scales(s, job, scales, &verdict->offset, w, e) < 0)
        return -1;
    return b->ops->download(b, answer, verdict, sizeof *answer, e);
}

/* The cold path: which element of the refused group is it? */
static int refuse(struct backend *b, const struct quantize_args *a, int64_t first, int64_t n,
                  float most, struct err *e)
{
    const struct tensor *w = a->w;
    size_t n_bytes = dtype_bytes(w->dtype);
    char value[4];

    for (int64_t i = first; i < first + n && i < w->n_rows * w->n_cols; i++) {
        float x;

        if (b->ops->download(b, value, (const char *)w->data + (size_t)i * n_bytes, n_bytes, e) < 0)
            return -1;
        dtype_to_f32(w->dtype, value, &x, 1);
        if (dtype_is_16bit(a->source))
            dtype_round(a->source, &x, 1);
        float rounded = x;
        if (a->rule == QUANTIZE_INT8_ROW)
            dtype_round(DTYPE_F16, &rounded, 1);
        if (!(fabsf(rounded) <= most))
            return err_set(e, ERR_INPUT, "weight [%lld, %lld] is %g, %s",
                           (long long)(i / w->n_cols), (long long)(i % w->n_cols), (double)x,
                           isfinite(x) ? "beyond the largest fp16 number, 65504"
                                       : "only finite weights can be quantized");
    }
    return err_set(e, ERR_INPUT, "the range of the weights of row %lld is too wide for fp32",
                   (long long)(first / w->n_cols));
}

extern "C" bool cuda_quantizes(const struct quantize_args *a)
{
    return a->rule <= QUANTIZE_GRID_AWQ && a->scale_dtype == DTYPE_F32;
}

extern "C" int cuda_quantize(struct backend *b, const struct quantize_args *a, struct err *e)
{
    struct weight w;
    struct verdict answer;

    quantized_shape(a, a->w->n_rows, a->w->n_cols, &w);
    if (weight_alloc(b, MEM_WEIGHTS, &w, e) < 0)
        return -1;
    struct quantize_job job = job_of(a, &w);
    int rc = quantize(b, &job, &w, &answer, e);
    if (rc == 0 && answer.refused_from != ~0ull)
        rc = refuse(b, a, (int64_t)answer.refused_from, w.group_size, job.most, e);
    if (rc < 0) {
        weight_release(b, &w);
        return -1;
    }
    if (w.scale_form == SCALE_NESTED)
        w.nested_offset = answer.offset;
    *a->out = w;
    return 0;
}
