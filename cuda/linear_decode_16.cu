/* linear_decode_16.cu - products of the decode phase with weights of 16 bits, where they lie. */
#include "linear_decode_few.cuh"
#include "linear_decode_many.cuh"

const void *decode_kernel_16(struct decode_choice c)
{
    return c.many ? many_kernel<codes_16, 1>(c.bf16, c.more)
                  : few_kernel<codes_16, false, 4>(c.bf16);
}
