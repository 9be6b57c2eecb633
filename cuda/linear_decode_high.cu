/* linear_decode_high.cu - products of the decode phase with codes of 5, 6 and 8 bits. */
#include "linear_decode_strip.cuh"

struct strip_kernels strip_kernels_high(int bits)
{
    if (bits == 5)
        return strip_kernels_of<codes_4_and<1>, 3>();
    return bits == 6 ? strip_kernels_of<codes_4_and<2>, 3>() : strip_kernels_of<codes_8, 2>();
}
