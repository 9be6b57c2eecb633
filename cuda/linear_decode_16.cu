/* linear_decode_16.cu - products of the decode phase with weights of 16 bits, where they lie. */
#include "linear_decode_strip.cuh"

struct strip_kernels strip_kernels_16(void)
{
    return strip_kernels_of<codes_16, 2>();
}
