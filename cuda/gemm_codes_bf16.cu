/* gemm_codes_bf16.cu - products with 4-bit codes in bf16. */
#include "gemm_codes.cuh"

struct gemm_kernel gemm_codes_bf16_kernel(enum gemm_end end, bool split, bool zero, int i)
{
    return gemm_codes_16bit<true>(end, split, zero, i);
}
