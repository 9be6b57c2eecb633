/* gemm_sm90_f16.cu - products in fp16. */
#include "gemm_sm90.cuh"

struct gemm_kernel gemm_f16_kernel(enum gemm_end end, bool split, int i)
{
    return gemm_16bit_kernel<GEMM_F16>(end, split, i);
}
