/* quantize_rows.cuh - a matrix whose groups are parts of its rows: a block takes a row, a team of
 * threads a group, a thread eight neighbouring weights at a time.  Any type, width and group. */
#pragma once

#include "quantize.cuh"

#define ROW_THREADS 256

struct row_matrix {
    enum dtype x_t, source; /* rounded to source as they are read; F32: not */
    const void *x;          /* [n_out, n_in] */
    int64_t n_out;
    int n_in, group_size, per_row; /* per_row: groups */
    int team;                      /* threads of a group: a power of two */
    bool eights;                   /* eight weights of a group are aligned words */
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
__device__ inline int load_eight(const struct row_matrix &m, int64_t row, int col, int end,
                                 float (&x)[8])
{
    const int64_t at = row * m.n_in + col;
    const int n = end - col < 8 ? end - col : 8;

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
    float least, greatest, absmax; /* absmax: infinity when a weight is not finite */
};

__device__ inline void add_to_range(struct row_range &r, const float (&x)[8], int n)
{
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (i < n) {
            const float size = fabsf(x[i]);

            r.least = x[i] < r.least ? x[i] : r.least;
            r.greatest = x[i] > r.greatest ? x[i] : r.greatest;
            r.absmax = !(size < INFINITY) ? INFINITY : size > r.absmax ? size : r.absmax;
        }
}

/* Of the group that a thread's team has; the whole block calls it. */
__device__ inline struct row_range range_of_group(const struct row_matrix &m, int64_t row,
                                                  int group, float *shared)
{
    struct row_range r = { INFINITY, -INFINITY, 0.0f };
    const int begin = group * m.group_size, end = begin + m.group_size;
    float x[8];

    if (group < m.per_row)
        for (int col = begin + 8 * (threadIdx.x & (m.team - 1)); col < end; col += 8 * m.team) {
            const int n = load_eight(m, row, col, end, x);
            add_to_range(r, x, n);
        }
    const auto least = [](float a, float b) { return fminf(a, b); };
    const auto most = [](float a, float b) { return fmaxf(a, b); };
    r.least = of_team(r.least, m.team, shared, least);
    r.greatest = of_team(r.greatest, m.team, shared, most);
    r.absmax = of_team(r.absmax, m.team, shared, most);
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

/* The codes of a row.  coder_of(group of the row) says what stands for a weight. */
template <typename Coders>
__device__ void store_row(const struct row_matrix &m, int64_t row, int bits, uint8_t *codes,
                          int row_bytes, Coders coder_of)
{
    const int n_eights = (m.n_in + 7) / 8;

    for (int j = threadIdx.x; j < n_eights; j += ROW_THREADS) {
        const int col = 8 * j;
        float x[8];
        const int n = load_eight(m, row, col, m.n_in, x);
        int group = col / m.group_size, end = (group + 1) * m.group_size;
        auto coder = coder_of(group);
        uint64_t field = 0;

#pragma unroll
        for (int i = 0; i < 8; i++)
            if (i < n) {
                if (!m.eights && col + i >= end) {
                    coder = coder_of(++group);
                    end += m.group_size;
                }
                field |= (uint64_t)coder(x[i]) << bits * i;
            }
        store_field(codes + j * bits, bits, field, j + 1 < n_eights ? bits : row_bytes - j * bits);
    }
}
