/* linear_decode_high.cu - products of the decode phase with codes of 5, 6 and 8 bits. */
#include "linear_decode_coded.cuh"
#include "linear_decode_wide.cuh"

const void *decode_kernel_5(enum decode_kind kind, bool short_runs, bool bf16, bool shared)
{
    if (kind < DECODE_16)
        return coded_kernel<codes_4_and<1>>(short_runs, bf16, shared);
    return large_kernel<codes_4_and<1>, 2, 2>(kind, short_runs, bf16);
}

const void *decode_kernel_6(enum decode_kind kind, bool short_runs, bool bf16, bool shared)
{
    if (kind < DECODE_16)
        return coded_kernel<codes_4_and<2>>(short_runs, bf16, shared);
    return large_kernel<codes_4_and<2>, 1, 2>(kind, short_runs, bf16);
}

const void *decode_kernel_8(enum decode_kind kind, bool short_runs, bool bf16, bool shared)
{
    if (kind < DECODE_16)
        return coded_kernel<codes_8>(short_runs, bf16, shared);
    return large_kernel<codes_8, 1, 2>(kind, short_runs, bf16);
}
