/* linear_decode_16.cu - products of the decode phase with weights of 16 bits, where they lie. */
#include "linear_decode_few.cuh"
#include "linear_decode_head.cuh"
#include "linear_decode_wide.cuh"

const void *decode_kernel_16(enum decode_kind kind, bool bf16)
{
    if (kind == DECODE_FEW_LONG)
        return long_kernel<codes_16, 0, 8>(bf16);
    if (kind == DECODE_FEW || kind == DECODE_FEW_SHORT)
        return few_kernel<codes_16, 0, 4>(bf16);
    if (kind == DECODE_HEAD)
        return bf16 ? (const void *)decode_head<true> : (const void *)decode_head<false>;
    return large_kernel<codes_16, 1, 2>(kind, bf16);
}
