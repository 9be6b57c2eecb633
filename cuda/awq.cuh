/* awq.cuh - what the files of AWQ's searches share. */
#pragma once

#include "quantize_rows.cuh"

extern "C" {
int cuda_awq_clip(struct backend *b, const struct awq_clip_args *a, struct err *e);
extern const struct awq_ops cuda_awq;
}

/* Of a tensor in groups inside its rows. */
static inline struct row_matrix awq_matrix(const struct tensor *x, int64_t group_size)
{
    struct quantize_args a = {};

    a.w = x;
    a.source = DTYPE_F32;
    a.group_size = group_size;
    return cuda_row_matrix(&a);
}

/* The code of x on a grid, less the zero point; no zero is negative. */
__device__ inline float awq_code(float x, float scale, float zero, float high)
{
    return rintf(clamp_value(x / scale, -zero, high - zero)) + zero - zero;
}
