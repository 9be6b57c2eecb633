/* gemm.cuh - inner to the products of many rows: what a kernel is asked for, and how sums become
 * outputs.
 *
 * Several matrices ("parts") of one x may be multiplied in one launch.  Every sum is one chain over
 * k, or n_splits of them over equal parts of k, added in order: what tile it was made in, and how
 * many rows there are, does not show in its bits.  */
#pragma once

#include "common.cuh"

#define GEMM_PARTS_MAX 3
#define GEMM_SPLITS    2

enum gemm_end {
    GEMM_STORE,  /* y = T(sum + bias); with `add`: y = T(y + T(sum + bias)) */
    GEMM_SWIGLU, /* two parts: y = T(T(silu(T(gate))) * T(up)) */
    GEMM_NLL     /* logits, of which a row's largest and its sum of exponentials remain */
};

enum gemm_operand { GEMM_F16, GEMM_BF16, GEMM_INT8 };

struct gemm_part {
    const void *w; /* [n_out, n_k], rows ldw bytes apart */
    int64_t ldw, n_out;
    void *y; /* row r begins r * ldy elements behind y; SWIGLU: of the first part alone */
    int64_t ldy;
    const void *bias; /* or NULL */
    enum dtype bias_t;
    const float *scale; /* INT8: SCB of the columns */
};

/* What GEMM_NLL leaves of a row and GEMM_NLL_COLS columns. */
#define GEMM_NLL_COLS 256
struct gemm_nll_part {
    double sum; /* of e^(logit - most) */
    float most; /* a NaN among the logits stays */
};

struct gemm_nll {
    const int32_t *targets;    /* [n_rows] */
    int64_t first_col;         /* of these columns in the vocabulary */
    struct gemm_nll_part *out; /* [tile][n_rows] */
    float *target_logit;       /* [n_rows] */
};

/* Addresses and strides are multiples of 16 bytes, n_k and every n_out of 8 elements (INT8: n_k of
 * 16). */
struct gemm_args {
    enum gemm_end end;
    enum gemm_operand operand;
    const void *x; /* [n_rows, n_k], rows ldx bytes apart */
    int64_t ldx, n_rows, n_k;
    int n_parts;
    struct gemm_part part[GEMM_PARTS_MAX];
    enum dtype y_t;
    bool add;
    bool weights_stay; /* nothing that is still queued writes them */
    int n_splits;      /* 1 or GEMM_SPLITS */
    struct gemm_nll nll;
    /* INT8: scale of a row, and the type that outputs are rounded to */
    const float *stat;
    enum dtype x_t;
};

/* Which of the two this device and this build run; false: the one for sm_80. */
bool gemm_sm90_runs(const struct cuda_state *s);
int gemm_sm90(struct cuda_state *s, const struct gemm_args *a, struct err *e);
int gemm_sm80(struct cuda_state *s, const struct gemm_args *a, struct err *e); /* no NLL, no INT8 */

/* gemm_codes.cu: w of the parts as 4-bit codes, the parts' own weights are not looked at; unless it
 * takes no such product, or it is less to make them plain first: not done. */
int gemm_codes(struct cuda_state *s, const struct gemm_args *a, const struct weight *const *w,
               bool *done, struct err *e);

/* ---- on the device: a warp has 16 rows of NB blocks of 8 columns, as mma leaves them: lane
 * 4 g + t has columns 8 j + 2 t and the next of rows g (v[4 j], v[4 j + 1]) and g + 8 ---- */

__device__ inline uint32_t pack_pair(enum dtype t, float low, float high)
{
    if (t == DTYPE_F16) {
        __half2 h = __floats2half2_rn(low, high);
        return *(uint32_t *)&h;
    }
    __nv_bfloat162 b = __floats2bfloat162_rn(low, high);
    return *(uint32_t *)&b;
}

__device__ inline float2 unpack_pair(enum dtype t, uint32_t pair)
{
    if (t == DTYPE_F16)
        return __half22float2(*(__half2 *)&pair);
    return __bfloat1622float2(*(__nv_bfloat162 *)&pair);
}

/* T(silu(x)) for two values of T, within 1.2 * 2^-21 + |x| 1.4 * 2^-24 of what swiglu() has before
 * it rounds; sure: no middle of two values of T is that near, so it is rounded the same. */
__device__ inline uint32_t silu_quickly(enum dtype t, float2 x, bool &sure)
{
    float e0, e1, inverse0, inverse1;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e0) : "f"(x.x * -1.44269504f));
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e1) : "f"(x.y * -1.44269504f));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse0) : "f"(1.0f + e0));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse1) : "f"(1.0f + e1));
    const float y0 = x.x * inverse0, off0 = y0 * fmaf(fabsf(x.x), 0x1.6cp-24f, 0x1.3p-21f);
    const float y1 = x.y * inverse1, off1 = y1 * fmaf(fabsf(x.y), 0x1.6cp-24f, 0x1.3p-21f);
    const uint32_t low = pack_pair(t, y0 - off0, y1 - off1);
    sure = low == pack_pair(t, y0 + off0, y1 + off1) && fminf(x.x, x.y) >= -64.0f;
    return low;
}

/* T(silu(T(gate))) * T(up) rounded to T, of N pairs of columns: all by the quick way first, for a
 * branch after each would leave every step waiting for the one before. */
template <int N>
__device__ inline void swiglu_pairs(enum dtype t, const float (&gate)[2 * N],
                                    const float (&up)[2 * N], uint32_t (&out)[N])
{
    float2 g[N];
    unsigned unsure = 0;

#pragma unroll
    for (int i = 0; i < N; i++) {
        bool sure;

        g[i] = unpack_pair(t, pack_pair(t, gate[2 * i], gate[2 * i + 1]));
        out[i] = silu_quickly(t, g[i], sure);
        unsure |= sure ? 0u : 1u << i;
    }
    if (unsure)
#pragma unroll
        for (int i = 0; i < N; i++)
            if (unsure >> i & 1)
                out[i] = pack_pair(t, g[i].x / (1.0f + exp_value(-g[i].x)),
                                   g[i].y / (1.0f + exp_value(-g[i].y)));
#pragma unroll
    for (int i = 0; i < N; i++) {
        const float2 v = unpack_pair(t, out[i]);
        const float2 u = unpack_pair(t, pack_pair(t, up[2 * i], up[2 * i + 1]));

        out[i] = pack_pair(t, v.x * u.x, v.y * u.y);
    }
}

struct gemm_strip {
    const struct gemm_part *part;
    enum dtype y_t;
    int64_t n_rows, row; /* row: first of the 16 */
    int64_t col;         /* first of the NB blocks of 8, in the part */
};

template <int NB>
__device__ inline void strip_add_bias(const struct gemm_strip &s, float (&v)[4 * NB])
{
    const int t = threadIdx.x % 4;

    if (!s.part->bias)
        return;
#pragma unroll
    for (int j = 0; j < NB; j++)
        for (int i = 0; i < 2; i++) {
            int64_t col = s.col + 8 * j + 2 * t + i;
            float b = col < s.part->n_out ? load_value(s.part->bias_t, s.part->bias, col) : 0.0f;
            v[4 * j + i] += b;
            v[4 * j + 2 + i] += b;
        }
}

/* Through shared memory (16 * NB * 16 bytes of the warp), a lane gets 8 columns of one row: vector
 * i of lane l is of row i * (32 / NB) + l / NB, columns 8 (l % NB) and on.  NULL: outside. */
template <int NB> __device__ inline uint4 *strip_vector(const struct gemm_strip &s, int i)
{
    const int lane = threadIdx.x % 32;
    const int64_t row = s.row + i * (32 / NB) + lane / NB, col = s.col + lane % NB * 8;

    if (row >= s.n_rows || col >= s.part->n_out)
        return NULL;
    return (uint4 *)((uint16_t *)s.part->y + row * s.part->ldy + col);
}

/* What y holds, for strip_store(..., add). */
template <int NB>
__device__ inline void strip_load(const struct gemm_strip &s, uint4 (&old)[NB / 2])
{
#pragma unroll
    for (int i = 0; i < NB / 2; i++) {
        const uint4 *from = strip_vector<NB>(s, i);
        old[i] = from ? *from : make_uint4(0, 0, 0, 0);
    }
}

/* Place of a vector in the warp's memory: eight at a time meet different banks. */
template <int NB> __device__ inline int strip_place(int row, int j)
{
    return row * NB + (j ^ (NB == 4 ? row >> 1 & 3 : row >> 2 & 1));
}

__device__ inline uint4 add_vectors(enum dtype t, uint4 x, uint4 y)
{
    uint32_t a[4] = { x.x, x.y, x.z, x.w };
    const uint32_t b[4] = { y.x, y.y, y.z, y.w };

#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 p = unpack_pair(t, a[i]), q = unpack_pair(t, b[i]);
        a[i] = pack_pair(t, p.x + q.x, p.y + q.y);
    }
    return make_uint4(a[0], a[1], a[2], a[3]);
}

template <int NB>
__device__ inline void strip_store_f32(const struct gemm_strip &s, const float (&v)[4 * NB])
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

#pragma unroll
    for (int j = 0; j < NB; j++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int64_t row = s.row + g + 8 * half, col = s.col + 8 * j + 2 * t;
            if (row < s.n_rows && col < s.part->n_out)
                *(float2 *)((float *)s.part->y + row * s.part->ldy + col) =
                    make_float2(v[4 * j + 2 * half], v[4 * j + 2 * half + 1]);
        }
}

/* Pairs of columns: p[2 j] of row g, p[2 j + 1] of row g + 8.  With `add`: added to old. */
template <int NB>
__device__ inline void strip_store_pairs(const struct gemm_strip &s, const uint32_t (&p)[2 * NB],
                                         uint4 *room, bool add, const uint4 (&old)[NB / 2])
{
    const int lane = threadIdx.x % 32;

#pragma unroll
    for (int j = 0; j < NB; j += 2) {
#if __CUDA_ARCH__ >= 900
        const int row = lane % 16, at = strip_place<NB>(row, j + lane / 16);
        asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                         (unsigned)__cvta_generic_to_shared(room + at)),
                     "r"(p[2 * j]), "r"(p[2 * j + 1]), "r"(p[2 * j + 2]), "r"(p[2 * j + 3])
                     : "memory");
#else
#pragma unroll
        for (int i = 0; i < 4; i++)
            ((uint32_t *)(room + strip_place<NB>(lane / 4 + i % 2 * 8, j + i / 2)))[lane % 4] =
                p[2 * j + i];
#endif
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < NB / 2; i++) {
        uint4 y = room[strip_place<NB>(i * (32 / NB) + lane / NB, lane % NB)];
        uint4 *to = strip_vector<NB>(s, i);
        if (add)
            y = add_vectors(s.y_t, old[i], y);
        if (to)
            *to = y;
    }
    __syncwarp();
}

/* Rounds once and stores. */
template <int NB>
__device__ inline void strip_store(const struct gemm_strip &s, const float (&v)[4 * NB],
                                   uint4 *room, bool add, const uint4 (&old)[NB / 2])
{
    uint32_t p[2 * NB];

    if (s.y_t == DTYPE_F32) {
        strip_store_f32<NB>(s, v);
        return;
    }
#pragma unroll
    for (int i = 0; i < 2 * NB; i++)
        p[i] = pack_pair(s.y_t, v[2 * i], v[2 * i + 1]);
    strip_store_pairs<NB>(s, p, room, add, old);
}

/* Both after their biases. */
template <int NB>
__device__ inline void strip_store_swiglu(const struct gemm_strip &s, const float (&gate)[4 * NB],
                                          const float (&up)[4 * NB], uint4 *room)
{
    const uint4 none[NB / 2] = {};
    uint32_t p[2 * NB];

    swiglu_pairs<2 * NB>(s.y_t, gate, up, p);
    strip_store_pairs<NB>(s, p, room, false, none);
}

/* LLM.int8: y = fp16(sum * stat * SCB / 127^2 [+ bias]), in the type of x. */
template <int NB>
__device__ inline void strip_of_int8(const struct gemm_args &a, const struct gemm_strip &s,
                                     const int (&sums)[4 * NB], float (&v)[4 * NB])
{
    const float per_127_squared = 0x1.040c2p-14f;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    float stat[2];

#pragma unroll
    for (int i = 0; i < 2; i++)
        stat[i] = s.row + g + 8 * i < s.n_rows ? a.stat[s.row + g + 8 * i] : 0.0f;
#pragma unroll
    for (int j = 0; j < NB; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int64_t col = s.col + 8 * j + 2 * t + i;
            const bool there = col < s.part->n_out, with_bias = there && s.part->bias;
            const float scale = there ? s.part->scale[col] : 0.0f;
            const float bias = with_bias ? load_value(s.part->bias_t, s.part->bias, col) : 0.0f;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float x = ((float)sums[4 * j + 2 * half + i] * stat[half]) * scale, y;

                if (with_bias && a.x_t == DTYPE_F16) {
                    y = round_value(DTYPE_F16, fmaf(x, per_127_squared, bias));
                } else {
                    y = round_value(DTYPE_F16, x * per_127_squared);
                    if (with_bias)
                        y = round_value(DTYPE_F16, y + bias);
                }
                v[4 * j + 2 * half + i] = round_value(a.x_t, y);
            }
        }
}
