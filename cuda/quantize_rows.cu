/* quantize_rows.cu - plain weights to codes in groups of rows, whatever the type, the width and the
 * alignment: affine grids, code tables, MXFP4, NVFP4, FP8; twin of src/cpu/quantize_block.c,
 * quantize_grid.c and quantize_table.c, to the bit.
 *
 * A block takes a row: its teams find the ranges of their groups, then its threads make eight codes
 * each; the second reading finds the row in the caches.  2 bytes a weight in, bits / 8 and a scale
 * a group out; about 30 operations a weight, where a multiprocessor of an H200 has 20 at the rate
 * of memory.  What knows the whole matrix (NVFP4, FP8 with one scale) looks for its largest
 * magnitude first: 2 more bytes a weight. */
#include "quantize_rows.cuh"

#include <cuda_fp8.h>

#include <float.h>

#define E2M1_MAX  6.0f
#define E4M3_MAX  448.0f
#define E4M3_TINY 0x1p-6f /* the smallest normal number */

struct rows_job {
    struct row_matrix m;
    enum quantize_rule rule;
    int bits, row_bytes, zero_constant;
    bool sym, whole; /* whole: one scale for the matrix */
    uint8_t *codes;
    struct row_scales scales; /* MXFP4, NVFP4: not used */
    uint8_t *scale_bytes, *zeros;
    float of_zeros; /* stands for the scale of a group of zeros */
    float threshold[16];
    uint64_t table;         /* codes in the order of their values, 4 bits each */
    const unsigned *absmax; /* of the matrix, its bits */
    union cuda_answer *answer;
};

/* ---- the largest magnitude of the matrix ---- */

template <enum row_kind KIND>
__global__ static void __launch_bounds__(ROW_THREADS)
    find_absmax(const __grid_constant__ struct row_matrix m, unsigned *out)
{
    __shared__ float shared[ROW_THREADS];
    struct row_range r = NO_RANGE;
    float x[8];

    for (int64_t row = blockIdx.x; row < m.n_out; row += gridDim.x)
        for (int col = 8 * threadIdx.x; col < m.n_in; col += 8 * ROW_THREADS) {
            const int n = load_eight<KIND>(m, row, col, m.n_in, x);
            add_to_range<false>(r, x, n);
        }
    add_teams_range<false>(r, ROW_THREADS, shared);
    if (threadIdx.x == 0)
        atomicMax(out, __float_as_uint(absmax_of(r)));
}

/* ---- scales ---- */

__device__ static float stored_scale(const struct rows_job &a, float scale)
{
    return a.scales.t == DTYPE_F16 ? round_value(DTYPE_F16, scale) : scale;
}

/* NVFP4's number of the matrix; 1 / p is a number, too. */
__device__ static float matrix_scale(const struct rows_job &a)
{
    return fmaxf(__uint_as_float(*a.absmax) / (E4M3_MAX * E2M1_MAX), FLT_MIN);
}

/* 2^(byte - 127) is 2^(floor(log2 most) - 2). */
__device__ static uint8_t mxfp4_scale(float most)
{
    int exponent = 0;

    if (most > 0.0f) {
        frexpf(most, &exponent);
        exponent = exponent - 3 < -127 ? -127 : exponent - 3;
    }
    return (uint8_t)(exponent + 127);
}

__device__ static uint8_t nvfp4_scale(float most, float p)
{
    const float s = clamp_value(most / E2M1_MAX / p, E4M3_TINY, E4M3_MAX);

    return (uint8_t)__nv_cvt_float_to_fp8(s, __NV_SATFINITE, __NV_E4M3);
}

/* False: its scale is beyond what it is stored in. */
template <enum quantize_rule RULE>
__device__ static bool store_scale(const struct rows_job &a, int64_t group,
                                   const struct row_range &r)
{
    const float most = absmax_of(r);

    if (RULE == QUANTIZE_MXFP4 || RULE == QUANTIZE_NVFP4) {
        a.scale_bytes[group] =
            RULE == QUANTIZE_MXFP4 ? mxfp4_scale(most) : nvfp4_scale(most, matrix_scale(a));
        return true;
    }
    struct grid g = { RULE == QUANTIZE_E4M3 ? most / E4M3_MAX : most, 0 };
    if (RULE == QUANTIZE_GRID_GPTQ)
        g = grid_of(a.rule, a.bits, a.sym, r.least, r.greatest);
    const float scale = stored_scale(a, g.scale);
    store_value(a.scales.t, a.scales.at, group, scale > 0.0f ? scale : a.of_zeros);
    if (a.zeros)
        a.zeros[group] = (uint8_t)g.zero;
    return scale < INFINITY;
}

/* ---- codes ---- */

/* To the nearest value, a tie to the even code: from 1 on a code is an exponent and one bit of the
 * mantissa; below it is a whole number of halves. */
__device__ static unsigned e2m1_code(float x)
{
    const float size = fabsf(x), halves = 6291456.0f; /* 1.5 * 2^22: its last bit is a half */
    const unsigned bits = __float_as_uint(size);
    const unsigned above = (bits + 0x1FFFFFu + (bits >> 22 & 1)) >> 22;
    const unsigned below = __float_as_uint(size + halves) - __float_as_uint(halves);
    const unsigned code = size < 1.0f ? below : min(above - 252u, 7u);

    return code | (__float_as_uint(x) >> 31) << 3;
}

template <enum quantize_rule RULE> struct coder {
    float scale, zero; /* e2m1: what x is multiplied with */
    float r;           /* 1 / scale, correctly rounded; 0: beyond all measure */
    float high;        /* grids: the largest code */
    const float *threshold;
    uint64_t table;

    __device__ unsigned operator()(float x) const
    {
        if (RULE == QUANTIZE_MXFP4 || RULE == QUANTIZE_NVFP4)
            return e2m1_code(x * scale);
        if (RULE == QUANTIZE_GRID_GPTQ) {
            if (!(scale > 0.0f))
                return (unsigned)zero;
            return (unsigned)(rintf(clamp_value(x / scale, -zero, high - zero)) + zero);
        }
        const float y = copysignf(r == 0.0f ? x / scale : quotient(x, scale, r), x); /* -0 stays */
        if (RULE == QUANTIZE_E4M3)
            return __nv_cvt_float_to_fp8(fminf(fmaxf(y, -E4M3_MAX), E4M3_MAX), __NV_SATFINITE,
                                         __NV_E4M3);
        int below = 0;
#pragma unroll
        for (int step = 8; step; step /= 2)
            below += y > threshold[below + step - 1] ? step : 0;
        return (unsigned)(table >> 4 * below) & 15;
    }
};

template <enum quantize_rule RULE>
__device__ static struct coder<RULE> coder_of(const struct rows_job &a, const float *threshold,
                                              int64_t group) {
    struct coder<RULE> c = {
        1.0f, 0.0f, 0.0f, 0.0f, threshold, a.table
    };

    if (RULE == QUANTIZE_MXFP4) {
        c.scale = __uint_as_float((254u - a.scale_bytes[group]) << 23);
    } else if (RULE == QUANTIZE_NVFP4) {
        c.scale = (1.0f / matrix_scale(a)) / e4m3_value(a.scale_bytes[group]);
    } else {
        const float scale = a.whole ? stored_scale(a, __uint_as_float(*a.absmax) / E4M3_MAX)
                                    : load_value(a.scales.t, a.scales.at, group);
        c.scale = scale > 0.0f || RULE == QUANTIZE_GRID_GPTQ ? scale : 1.0f;
        c.zero = (float)(a.zeros ? a.zeros[group] : a.zero_constant);
        c.high = (float)((1 << a.bits) - 1);
        if (c.scale > 0x1p-60f && c.scale < 0x1p60f)
            c.r = __frcp_rn(c.scale);
    }
    return c;
}

/* RULE: GRID_GPTQ stands for all grids. */
template <enum quantize_rule RULE, enum row_kind KIND>
__global__ static void __launch_bounds__(ROW_THREADS)
    quantize_rows(const __grid_constant__ struct rows_job a)
{
    constexpr bool SIGNED = RULE == QUANTIZE_GRID_GPTQ;
    constexpr int BITS = RULE == QUANTIZE_MXFP4 || RULE == QUANTIZE_NVFP4 ? 4
                         : RULE == QUANTIZE_E4M3                          ? 8
                                                                          : 0;
    __shared__ float shared[ROW_THREADS], threshold[16];
    const struct row_matrix &m = a.m;
    const int64_t row = blockIdx.x;
    const int n_teams = ROW_THREADS / m.team, own = threadIdx.x / m.team;

    if (RULE == QUANTIZE_TABLE && threadIdx.x < 16)
        threshold[threadIdx.x] = a.threshold[threadIdx.x];
    for (int first = 0; first < m.per_row && !a.whole; first += n_teams) {
        const int group = first + own;
        const int64_t at = row * m.per_row + group;
        const struct row_range r = range_of_group<KIND, SIGNED>(m, row, group, shared);

        if (group >= m.per_row || threadIdx.x & (m.team - 1))
            continue;
        const bool stored = store_scale<RULE>(a, at, r);
        if (!stored || !(absmax_of(r) < INFINITY))
            atomicMin(&a.answer->quantized.refused_from,
                      (unsigned long long)(row * m.n_in + group * m.group_size));
    }
    if (a.absmax && row == 0 && threadIdx.x == 0) {
        const struct row_range all = { 0.0f, 0.0f, *a.absmax };

        if (a.whole && !(store_scale<RULE>(a, 0, all) && absmax_of(all) < INFINITY))
            a.answer->quantized.refused_from = 0;
        if (RULE == QUANTIZE_NVFP4)
            a.answer->quantized.offset = matrix_scale(a);
    }
    __syncthreads();
    store_row<KIND, BITS>(m, row, a.bits, a.codes + row * a.row_bytes, a.row_bytes, [&](int group) {
        return coder_of<RULE>(a, threshold, row * m.per_row + group);
    });
}

/* ---- entry ---- */

struct row_matrix cuda_row_matrix(const struct quantize_args *a)
{
    const struct tensor *w = a->w;
    const bool rounds = dtype_is_16bit(a->source) && a->source != w->dtype;
    const int64_t size = a->group_size < w->n_cols ? a->group_size : w->n_cols;
    struct row_matrix m = { .x_t = w->dtype,
                            .source = rounds ? a->source : DTYPE_F32,
                            .x = w->data,
                            .n_out = w->n_rows,
                            .n_in = (int)w->n_cols,
                            .group_size = (int)size,
                            .per_row = (int)(w->n_cols / size),
                            .team = 1,
                            .eights =
                                (uintptr_t)w->data % 16 == 0 && w->n_cols % 8 == 0 && size % 8 == 0,
                            .kind = ROW_ANY };

    if (m.eights && !rounds && dtype_is_16bit(w->dtype))
        m.kind = w->dtype == DTYPE_F16 ? ROW_F16 : ROW_BF16;

    while (m.team < ROW_THREADS && 8 * m.team < m.group_size)
        m.team *= 2;
    return m;
}

int cuda_row_scales(struct cuda_state *s, const struct weight *w, struct row_scales *out,
                    struct err *e)
{
    *out = { w->scales, w->scale_form == SCALE_F16 ? DTYPE_F16 : DTYPE_F32 };
    if (w->scale_form != SCALE_U8)
        return 0;
    return cuda_scratch(s, SCRATCH_SCALES, (size_t)w->n_groups * sizeof(float), &out->at, e);
}

/* The kernel of a matrix. */
#define OF_KIND(m, kernel, ...)                                           \
    ((m).kind == ROW_F16    ? kernel<__VA_ARGS__ __VA_OPT__(, ) ROW_F16>  \
     : (m).kind == ROW_BF16 ? kernel<__VA_ARGS__ __VA_OPT__(, ) ROW_BF16> \
                            : kernel<__VA_ARGS__ __VA_OPT__(, ) ROW_ANY>)

static int start_absmax(struct cuda_state *s, struct rows_job *job, struct err *e)
{
    const unsigned n_blocks = blocks_for(s, job->m.n_out * ROW_THREADS, ROW_THREADS);
    void *room;

    if (cuda_scratch(s, SCRATCH_ROWS, sizeof(unsigned), &room, e) < 0)
        return -1;
    CUDA_TRY(cudaMemsetAsync(room, 0, sizeof(unsigned), s->stream));
    OF_KIND(job->m, find_absmax)<<<n_blocks, ROW_THREADS, 0, s->stream>>>(job->m, (unsigned *)room);
    CUDA_LAUNCHED(s, "find_absmax");
    job->absmax = (const unsigned *)room;
    return 0;
}

static void (*kernel_of(const struct rows_job *job))(struct rows_job)
{
    switch (job->rule) {
    case QUANTIZE_TABLE:
        return OF_KIND(job->m, quantize_rows, QUANTIZE_TABLE);
    case QUANTIZE_MXFP4:
        return OF_KIND(job->m, quantize_rows, QUANTIZE_MXFP4);
    case QUANTIZE_NVFP4:
        return OF_KIND(job->m, quantize_rows, QUANTIZE_NVFP4);
    case QUANTIZE_E4M3:
        return OF_KIND(job->m, quantize_rows, QUANTIZE_E4M3);
    default:
        return OF_KIND(job->m, quantize_rows, QUANTIZE_GRID_GPTQ);
    }
}

int cuda_quantize_rows(struct cuda_state *s, const struct quantize_args *a, const struct weight *w,
                       union cuda_answer *answer, struct err *e)
{
    struct rows_job job = { .m = cuda_row_matrix(a),
                            .rule = a->rule,
                            .bits = w->bits,
                            .row_bytes = (int)w->row_bytes,
                            .zero_constant = w->zero_constant,
                            .sym = a->sym,
                            .whole = w->flat_groups,
                            .codes = (uint8_t *)w->codes,
                            .scales = {},
                            .scale_bytes = (uint8_t *)w->scales,
                            .zeros = w->zero_form == ZERO_U8 ? (uint8_t *)w->zeros : NULL,
                            .of_zeros = quantize_zero_scale(a->rule, w),
                            .threshold = {},
                            .table = 0,
                            .absmax = NULL,
                            .answer = answer };
    const struct codebook book = codebook_of_table(a->table);

    for (int i = 0; i < 16; i++) {
        job.threshold[i] = i + 1 < book.n ? book.threshold[i] : INFINITY;
        job.table |= (uint64_t)book.code[i] << 4 * i;
    }
    if (cuda_row_scales(s, w, &job.scales, e) < 0 ||
        ((job.whole || a->rule == QUANTIZE_NVFP4) && start_absmax(s, &job, e) < 0))
        return -1;
    kernel_of(&job)<<<(unsigned)w->n_out, ROW_THREADS, 0, s->stream>>>(job);
    CUDA_LAUNCHED(s, "quantize_rows");
    return w->scale_form == SCALE_U8
               ? cuda_nest_one(s, (const float *)job.scales.at, NULL, w, answer, e)
               : 0;
}
