/* linear_decode_low.cu - products of the decode phase with codes of 2 and 3 bits. */
#include "linear_decode_coded.cuh"
#include "linear_decode_wide.cuh"

const void *decode_kernel_2(enum decode_kind kind, bool short_runs, bool bf16, bool shared)
{
    if (kind < DECODE_16)
        return coded_kernel<codes_2>(short_runs, bf16, shared);
    return large_kernel<codes_2, 2, 2>(kind, short_runs, bf16);
}

const void *decode_kernel_3(enum decode_kind kind, bool short_runs, bool bf16, bool shared)
{
    if (kind < DECODE_16)
        return coded_kernel<codes_3>(short_runs, bf16, shared);
    return large_kernel<codes_3, 2, 2>(kind, short_runs, bf16);
}
