/* linear_decode_4.cu - products of the decode phase with codes of 4 bits: NF4, FP4, affine. */
#include "linear_decode_few.cuh"
#include "linear_decode_many.cuh"

template <bool VARIES> static const void *kernel(struct decode_choice c)
{
    if (c.many)
        return many_kernel<codes_4<VARIES>, 2>(c.bf16, c.more);
    return c.bytes ? few_kernel<codes_4<VARIES>, true, 3>(c.bf16)
                   : few_kernel<codes_4<VARIES>, false, 3>(c.bf16);
}

const void *decode_kernel_4(bool zeros_vary, struct decode_choice c)
{
    return zeros_vary ? kernel<true>(c) : kernel<false>(c);
}
