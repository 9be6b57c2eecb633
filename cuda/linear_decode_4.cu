/* linear_decode_4.cu - products of the decode phase with codes of 4 bits: NF4, FP4, affine. */
#include "linear_decode_coded.cuh"
#include "linear_decode_wide.cuh"

template <class C>
static const void *kernel(enum decode_kind kind, bool short_runs, bool bf16, bool shared)
{
    if (kind < DECODE_16)
        return coded_kernel<C>(short_runs, bf16, shared);
    return large_kernel<C, 2, 2>(kind, short_runs, bf16);
}

const void *decode_kernel_4(int zero_bytes, enum decode_kind kind, bool short_runs, bool bf16,
                            bool shared)
{
    if (zero_bytes == 0)
        return kernel<codes_4_bare>(kind, short_runs, bf16, shared);
    if (zero_bytes == 1 && kind < DECODE_16)
        return coded_kernel<codes_4_less>(short_runs, bf16, shared);
    return kernel<codes_4<true>>(kind, short_runs, bf16, shared);
}
