/* linear_decode_low.cu - products of the decode phase with codes of 2 and 3 bits. */
#include "linear_decode_strip.cuh"

struct strip_kernels strip_kernels_low(int bits)
{
    return bits == 2 ? strip_kernels_of<codes_2, 4>() : strip_kernels_of<codes_3, 4>();
}
