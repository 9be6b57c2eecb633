/* linear_decode_high.cu - products of the decode phase with codes of 5, 6 and 8 bits. */
#include "linear_decode_few.cuh"
#include "linear_decode_many.cuh"

const void *decode_kernel_5(struct decode_choice c)
{
    if (c.many)
        return many_kernel<codes_4_and<1>, 2>(c.bf16, c.more);
    return c.bytes ? few_kernel<codes_4_and<1>, true, 3>(c.bf16)
                   : few_kernel<codes_4_and<1>, false, 3>(c.bf16);
}

const void *decode_kernel_6(struct decode_choice c)
{
    if (c.many)
        return many_kernel<codes_4_and<2>, 1>(c.bf16, c.more);
    return c.bytes ? few_kernel<codes_4_and<2>, true, 3>(c.bf16)
                   : few_kernel<codes_4_and<2>, false, 3>(c.bf16);
}

const void *decode_kernel_8(struct decode_choice c)
{
    if (c.many)
        return many_kernel<codes_8, 1>(c.bf16, c.more);
    return c.bytes ? few_kernel<codes_8, true, 3>(c.bf16) : few_kernel<codes_8, false, 3>(c.bf16);
}
