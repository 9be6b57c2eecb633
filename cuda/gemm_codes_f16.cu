/* gemm_codes_f16.cu - products with 4-bit codes in fp16. */
#include "gemm_codes.cuh"

struct gemm_kernel gemm_codes_f16_kernel(enum gemm_end end, bool split, bool zero, int i)
{
    return gemm_codes_16bit<false>(end, split, zero, i);
}
