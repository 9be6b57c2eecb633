/* eight.cuh - eight elements in a row, in pieces of 16 bytes, as fp32 in between. */
#pragma once

#include "common.cuh"

struct eight {
    float x[8];
};

/* As they lie. */
template <enum dtype T> struct raw_eight {
    static const int n = T == DTYPE_F32 ? 2 : 1;
    uint4 piece[n];
};

static inline bool aligned_16(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

/* Eight number i of p. */
template <enum dtype T> __device__ inline struct raw_eight<T> load_raw(const void *p, int64_t i) {
    struct raw_eight<T> e;

#pragma unroll
    for (int k = 0; k < e.n; k++)
        e.piece[k] = ((const uint4 *)p)[i * e.n + k];
    return e;
}

template <enum dtype T>
__device__ inline void store_raw(void *p, int64_t i, struct raw_eight<T> e)
{
#pragma unroll
    for (int k = 0; k < e.n; k++)
        ((uint4 *)p)[i * e.n + k] = e.piece[k];
}

template <enum dtype T> __device__ inline struct eight values_of(const struct raw_eight<T> &e)
{
    struct eight v;

#pragma unroll
    for (int k = 0; k < 8; k++)
        v.x[k] = load_value(T, e.piece, k);
    return v;
}

template <enum dtype T> __device__ inline struct eight load_eight(const void *p, int64_t i)
{
    return values_of(load_raw<T>(p, i));
}

template <enum dtype T>
__device__ inline void store_eight(void *p, int64_t i, const struct eight &v)
{
    struct raw_eight<T> e;

#pragma unroll
    for (int k = 0; k < 8; k++)
        store_value(T, e.piece, k, v.x[k]);
    store_raw<T>(p, i, e);
}
