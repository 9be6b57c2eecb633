/* mma.cuh - the tensor cores' product of a warp, before Hopper's: 16 bits, fp32 sums. */
#pragma once

#include "common.cuh"

/* c[0 .. 3] += A B: 16 rows by 8 columns, over 16 of k. */
template <bool BF16>
__device__ inline void mma_16(float *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                              uint32_t b0, uint32_t b1)
{
    if (BF16)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                     "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                     "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

template <bool BF16>
__device__ inline void mma_16(float *c, const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    mma_16<BF16>(c, a[0], a[1], a[2], a[3], b0, b1);
}
