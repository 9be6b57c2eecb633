/* linear_decode_4.cu - products of the decode phase with codes of 4 bits: NF4, FP4, affine. */
#include "linear_decode_few.cuh"
#include "linear_decode_wide.cuh"

template <bool VARIES> static const void *kernel(enum decode_kind kind, bool bf16)
{
    if (kind < DECODE_16)
        return few_coded<codes_4<VARIES>>(kind, bf16);
    return large_kernel<codes_4<VARIES>, 2, 2>(kind, bf16);
}

const void *decode_kernel_4(bool zeros_vary, enum decode_kind kind, bool bf16)
{
    return zeros_vary ? kernel<true>(kind, bf16) : kernel<false>(kind, bf16);
}
