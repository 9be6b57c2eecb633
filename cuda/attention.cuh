/* attention.cuh - what both tensor-core attentions are made of; inner to cuda/attention*.cu.
 *
 * mma.m16n8k16: lane (g, t) = (lane / 4, lane % 4) holds, as pairs of 16 bits,
 *   A  a0 = row g, k 2t..2t+1; a1 = row g + 8; a2, a3 = the same rows, k + 8
 *   B  b0 = column g, k 2t..2t+1; b1 = k + 8
 *   C  c0, c1 = row g, columns 2t, 2t+1; c2, c3 = row g + 8 */
#pragma once

#include "common.cuh"
#include "wgmma.cuh"

#define LOG2_E 1.4426950408889634

/* Bits of t. */
template <enum dtype t> __device__ inline uint16_t bits_of(float x)
{
    if (t == DTYPE_F16)
        return __half_as_ushort(__float2half_rn(x));
    return __bfloat16_as_ushort(__float2bfloat16_rn(x));
}

template <enum dtype t> __device__ inline float value_of(uint16_t x)
{
    if (t == DTYPE_F16)
        return __half2float(__ushort_as_half(x));
    return __uint_as_float((uint32_t)x << 16);
}

/* Two values rounded to t, the first in the low half. */
template <enum dtype t> __device__ inline uint32_t pair_of(float low, float high)
{
    uint32_t pair;

    if (t == DTYPE_F16)
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    else
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

/* c += a b */
template <enum dtype t>
__device__ inline void mma_16x8x16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                   uint32_t a3, uint32_t b0, uint32_t b1)
{
    if (t == DTYPE_F16)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
            "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    else
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
            "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* 2^x; 0 at -inf. */
__device__ inline float exp2_value(float x)
{
    float y;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Four 8 x 8 matrices of 16-bit elements; lane i names row i % 8 of matrix i / 8.  Of each, a lane
 * gets elements 2t, 2t + 1 of row g, */
__device__ inline void load_matrices(uint32_t (&x)[4], uint32_t from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(from));
}

/* or of column g. */
__device__ inline void load_transposed(uint32_t (&x)[4], uint32_t from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(from));
}

/* 16 bytes to shared memory, on their way on return; zeros where `there` is false. */
__device__ inline void copy_16(uint32_t to, const uint16_t *from, bool there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(there ? 16 : 0)
                 : "memory");
}
