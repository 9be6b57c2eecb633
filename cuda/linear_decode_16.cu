/* linear_decode_16.cu - products of the decode phase with weights of 16 bits, where they lie. */
#include "linear_decode_few.cuh"
#include "linear_decode_head_wide.cuh"

const void *decode_kernel_16(enum decode_kind kind, bool bf16)
{
    if (kind == DECODE_FEW_LONG) /* a piece of one unit is half the registers of one of two */
        return bf16 ? (const void *)decode_few<true, 1, 8> : (const void *)decode_few<false, 1, 8>;
    if (kind == DECODE_FEW)
        return bf16 ? (const void *)decode_few<true, 2, 4> : (const void *)decode_few<false, 2, 4>;
    if (kind == DECODE_HEAD)
        return bf16 ? (const void *)decode_head<true> : (const void *)decode_head<false>;
    if (kind >= DECODE_HEAD_16)
        return wide_head_kernel<WIDE_HEAD_PLACES>(kind, bf16);
    return large_kernel<codes_16, 1, 2>(kind, false, bf16);
}
