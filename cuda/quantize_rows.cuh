/* quantize_rows.cuh - a matrix whose groups are parts of its rows: a block takes a row, a team of
 * threads a group, a thread eight neighbouring weights at a time.  Any type, width and group. */
#pragma once

#include "quantize.cuh"

#define ROW_THREADS 256

/* What kernels are compiled for: aligned words of one 16-bit type that is not rounded first, or all
 * else. */
enum row_kind { ROW_ANY, ROW_F16, ROW_BF16 };

struct row_matrix {
    enum dtype x_t, source; /* rounded to source as they are read; F32: not */
    const void *x;          /* [n_out, n_in] */
    int64_t n_out;
    int n_in, group_size, per_row; /* per_row: groups */
    int team;                      /* threads of a group: a power of two */
    bool eights;                   /* eight weights of a group are aligned words */
    enum row_kind kind;
};

struct row_matrix cuda_row_matrix(const struct quantize_args *a);

/* Scales of a matrix, where they are kept until they are quantized again or for good. */
struct row_scales {
    void *at;
    enum dtype t; /* F32, F16 */
};

/* SCALE_U8: room; else the weight's own memory. */
int cuda_row_scales(struct cuda_state *s, const struct weight *w, struct row_scales *out,
                    struct err *e);

int cuda_quantize_rows(struct cuda_state *s, const struct quantize_args *a, const struct weight *w,
                       union cuda_answer *answer, struct err *e);
int cuda_quantize_hqq(struct cuda_state *s, const struct quantize_args *a, const struct weight *w,
                      union cuda_answer *answer, struct err *e);

/* ---- on the device ---- */

__device__ inline void widen_pairs(enum dtype t, uint4 v, float (&x)[8])
{
    const uint32_t pair[4] = { v.x, v.y, v.z, v.w };

#pragma unroll
    for (int i = 0; i < 4; i++) {
        x[2 * i] = t == DTYPE_BF16 ? low_value<true>(pair[i]) : low_value<false>(pair[i]);
        x[2 * i + 1] = t == DTYPE_BF16 ? high_value<true>(pair[i]) : high_value<false>(pair[i]);
    }
}

/* Columns col .. col + 7 of a row, those from end on as 0; how many there are. */
template <enum row_kind KIND = ROW_ANY>
__device__ int load_eight(const struct row_matrix &m, int64_t row, int col, int end, float (&x)[8])
{
    const int64_t at = row * m.n_in + col;
    const int n = end - col < 8 ? end - col : 8;

    if (KIND != ROW_ANY) {
        widen_pairs(KIND == ROW_F16 ? DTYPE_F16 : DTYPE_BF16, ((const uint4 *)m.x)[at / 8], x);
        return 8;
    }
    if (m.eights && m.x_t == DTYPE_F32) {
        const float4 a = ((const float4 *)m.x)[at / 4], b = ((const float4 *)m.x)[at / 4 + 1];
        x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
        x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
    } else if (m.eights) {
        widen_pairs(m.x_t, ((const uint4 *)m.x)[at / 8], x);
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
            x[i] = i < n ? load_value(m.x_t, m.x, at + i) : 0.0f;
    }
    if (m.source != DTYPE_F32)
#pragma unroll
        for (int i = 0; i < 8; i++)
            x[i] = round_value(m.source, x[i]);
    return n;
}

/* What the threads of a team come to, by halves; in all of them.  The whole block calls it;
 * shared: ROW_THREADS. */
template <typename T, typename Add> __device__ T of_team(T x, int team, T *shared, Add add)
{
    const int t = (int)threadIdx.x;

    if (team > 32) {
        shared[t] = x;
        __syncthreads();
        for (int half = team / 2; half >= 32; half /= 2) {
            if ((t & (team - 1)) < half)
                shared[t] = add(shared[t], shared[t + half]);
            __syncthreads();
        }
        x = shared[(t & ~(team - 1)) | (t & 31)];
        __syncthreads();
    }
    for (int half = (team < 32 ? team : 32) / 2; half; half /= 2)
        x = add(x, __shfl_xor_sync(0xFFFFFFFFu, x, half));
    return x;
}

struct row_range {
    float least, greatest; /* where they were asked for */
    unsigned size;         /* bits of the largest magnitude, which order like it; above infinity's
                              where a weight is a NaN */
};

#define NO_RANGE               \
    {                          \
        INFINITY, -INFINITY, 0 \
    }

/* Infinity when a weight is not finite. */
__device__ inline float absmax_of(const struct row_range &r)
{
    return r.size < 0x7F800000u ? __uint_as_float(r.size) : INFINITY;
}

template <bool SIGNED> __device__ void add_to_range(struct row_range &r, const float (&x)[8], int n)
{
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (i < n) {
            r.size = max(r.size, __float_as_uint(x[i]) & 0x7FFFFFFFu);
            if (SIGNED) {
                r.least = fminf(r.least, x[i]);
                r.greatest = fmaxf(r.greatest, x[i]);
            }
        }
}

/* What those of a team come to. */
template <bool SIGNED> __device__ void add_teams_range(struct row_range &r, int team, float *shared)
{
    const auto least = [](float a, float b) { return fminf(a, b); };
    const auto most = [](float a, float b) { return fmaxf(a, b); };
    const auto larger = [](unsigned a, unsigned b) { return max(a, b); };

    r.size = of_team(r.size, team, (unsigned *)shared, larger);
    if (SIGNED) {
        r.least = of_team(r.least, team, shared, least);
        r.greatest = of_team(r.greatest, team, shared, most);
    }
}

/* Of the group that a thread's team has; the whole block calls it. */
template <enum row_kind KIND = ROW_ANY, bool SIGNED = true>
__device__ struct row_range range_of_group(const struct row_matrix &m, int64_t row, int group,
                                           float *shared)
{
    struct row_range r = NO_RANGE;
    const int begin = group * m.group_size, end = begin + m.group_size;
    float x[8];

    if (group < m.per_row)
        for (int col = begin + 8 * (threadIdx.x & (m.team - 1)); col < end; col += 8 * m.team) {
            const int n = load_eight<KIND>(m, row, col, end, x);
            add_to_range<SIGNED>(r, x, n);
        }
    add_teams_range<SIGNED>(r, m.team, shared);
    return r;
}

/* n_bytes of a row's code stream from `to` on; what is beyond the field is 0. */
__device__ inline void store_field(uint8_t *to, int bits, uint64_t field, int n_bytes)
{
    if (n_bytes == 4 && bits == 4) {
        *(uint32_t *)to = (uint32_t)field;
    } else if (n_bytes == 8 && bits == 8) {
        ((uint32_t *)to)[0] = (uint32_t)field;
        ((uint32_t *)to)[1] = (uint32_t)(field >> 32);
    } else if (n_bytes == 2 && bits == 2) {
        *(uint16_t *)to = (uint16_t)field;
    } else {
        for (int i = 0; i < n_bytes; i++)
            to[i] = i < 8 ? (uint8_t)(field >> 8 * i) : 0;
    }
}

/* The codes of a row.  coder_of(group of the row) says what stands for a weight.  BITS 0: any. */
template <enum row_kind KIND, int BITS, typename Coders>
__device__ void store_row(const struct row_matrix &m, int64_t row, int any_bits, uint8_t *codes,
                          int row_bytes, Coders coder_of)
{
    const int n_eights = (m.n_in + 7) / 8, bits = BITS ? BITS : any_bits;

    for (int j = threadIdx.x; j < n_eights; j += ROW_THREADS) {
        const int col = 8 * j;
        float x[8];
        const int n = load_eight<KIND>(m, row, col, m.n_in, x);
        int group = (int)((unsigned)col / (unsigned)m.group_size), end = (group + 1) * m.group_size;
        auto coder = coder_of(group);
        uint64_t field = 0;

#pragma unroll
        for (int i = 0; i < 8; i++)
            if (i < n) {
                if (KIND == ROW_ANY && col + i >= end) {
                    coder = coder_of(++group);
                    end += m.group_size;
                }
                field |= (uint64_t)coder(x[i]) << bits * i;
            }
        store_field(codes + j * bits, bits, field, j + 1 < n_eights ? bits : row_bytes - j * bits);
    }
}
