/* linear_decode_low.cu - products of the decode phase with codes of 2 and 3 bits. */
#include "linear_decode_few.cuh"
#include "linear_decode_many.cuh"

const void *decode_kernel_2(struct decode_choice c)
{
    if (c.many)
        return many_kernel<codes_2, 2>(c.bf16, c.more);
    return c.bytes ? few_kernel<codes_2, true, 4>(c.bf16) : few_kernel<codes_2, false, 4>(c.bf16);
}

const void *decode_kernel_3(struct decode_choice c)
{
    if (c.many)
        return many_kernel<codes_3, 2>(c.bf16, c.more);
    return c.bytes ? few_kernel<codes_3, true, 4>(c.bf16) : few_kernel<codes_3, false, 4>(c.bf16);
}
