/* linear_decode_4.cu - products of the decode phase with codes of 4 bits: NF4, FP4, affine. */
#include "linear_decode_strip.cuh"

struct strip_kernels strip_kernels_4(bool zeros)
{
    return zeros ? strip_kernels_of<codes_4<true>, 3>() : strip_kernels_of<codes_4<false>, 3>();
}
