/* linear_decode_high.cu - products of the decode phase with codes of 5, 6 and 8 bits. */
#include "linear_decode_few.cuh"
#include "linear_decode_wide.cuh"

const void *decode_kernel_5(enum decode_kind kind, bool bf16)
{
    if (kind < DECODE_16)
        return few_coded<codes_4_and<1>>(kind, bf16);
    return large_kernel<codes_4_and<1>, 2, 2>(kind, bf16);
}

const void *decode_kernel_6(enum decode_kind kind, bool bf16)
{
    if (kind < DECODE_16)
        return few_coded<codes_4_and<2>>(kind, bf16);
    return large_kernel<codes_4_and<2>, 1, 2>(kind, bf16);
}

const void *decode_kernel_8(enum decode_kind kind, bool bf16)
{
    if (kind < DECODE_16)
        return few_coded<codes_8>(kind, bf16);
    return large_kernel<codes_8, 1, 2>(kind, bf16);
}
