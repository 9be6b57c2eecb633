/* gemm_sm90_bf16.cu - products in bf16. */
#include "gemm_sm90.cuh"

struct gemm_kernel gemm_bf16_kernel(enum gemm_end end, bool split, int i)
{
    return gemm_16bit_kernel<GEMM_BF16>(end, split, i);
}
