/* gemm_sm90_int8.cu - products of signed bytes, exact in 32 bits. */
#include "gemm_sm90.cuh"

struct gemm_kernel gemm_int8_kernel(enum gemm_end end, bool split, int i)
{
    if (end != GEMM_STORE || split)
        return {};
    return i == 0   ? gemm_kernel_of<GEMM_INT8, 2, 256, GEMM_STORE>()
           : i == 1 ? gemm_kernel_of<GEMM_INT8, 2, 128, GEMM_STORE>()
           : i == 2 ? gemm_kernel_of<GEMM_INT8, 1, 128, GEMM_STORE>()
           : i == 3 ? gemm_kernel_of<GEMM_INT8, 1, 64, GEMM_STORE>()
                    : gemm_kernel{};
}
