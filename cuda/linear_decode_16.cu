/* linear_decode_16.cu - products of the decode phase with weights of 16 bits, where they lie. */
#include "linear_decode_few.cuh"
#include "linear_decode_head_wide.cuh"

template <class Job> static const void *few_kernel_for(enum decode_kind kind, bool bf16)
{
    if (kind == DECODE_FEW_LONG) /* a piece of one unit is half the registers of one of two */
        return bf16 ? (const void *)decode_few<true, 1, 8, Job>
                    : (const void *)decode_few<false, 1, 8, Job>;
    return bf16 ? (const void *)decode_few<true, 2, 4, Job>
                : (const void *)decode_few<false, 2, 4, Job>;
}

const void *decode_kernel_16(enum decode_kind kind, bool bf16, bool shared)
{
    if (kind == DECODE_FEW || kind == DECODE_FEW_LONG)
        return shared ? few_kernel_for<struct decode_shared_job>(kind, bf16)
                      : few_kernel_for<struct decode_job>(kind, bf16);
    if (kind == DECODE_HEAD)
        return bf16 ? (const void *)decode_head<true> : (const void *)decode_head<false>;
    if (kind >= DECODE_HEAD_16)
        return wide_head_kernel<WIDE_HEAD_PLACES>(kind, bf16);
    return large_kernel<codes_16, 1, 2>(kind, false, bf16);
}
