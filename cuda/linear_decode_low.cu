/* linear_decode_low.cu - products of the decode phase with codes of 2 and 3 bits. */
#include "linear_decode_few.cuh"
#include "linear_decode_wide.cuh"

const void *decode_kernel_2(enum decode_kind kind, bool bf16)
{
    if (kind < DECODE_16)
        return few_coded<codes_2>(kind, bf16);
    return large_kernel<codes_2, 2, 2>(kind, bf16);
}

const void *decode_kernel_3(enum decode_kind kind, bool bf16)
{
    if (kind < DECODE_16)
        return few_coded<codes_3>(kind, bf16);
    return large_kernel<codes_3, 2, 2>(kind, bf16);
}
