/* vector.h - vectors of the width a kernels_*.c file is compiled for.
 *
 * Only arithmetic that IEEE 754 fixes to the bit is used (+ - * /, fused multiply-add, rounding
 * to nearest even), so that every width gives the same results lane by lane.  The including file
 * sets LANES and, where there is one, the target, before the first include.  */
#pragma once

#include "backend/dtype.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && LANES > 4
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef double vd __attribute__((vector_size(4 * LANES))); /* half as many lanes */
typedef int64_t vl __attribute__((vector_size(4 * LANES)));

#define INLINE static inline __attribute__((always_inline))

INLINE vf vf_load(const float *p)
{
    vf v;

    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void vf_store(float *p, vf v)
{
    memcpy(p, &v, sizeof v);
}

INLINE vf vf_all(float x)
{
    vf v;

    for (int i = 0; i < LANES; i++)
        v[i] = x;
    return v;
}

INLINE vf vf_select(vi mask, vf yes, vf no)
{
    return (vf)((mask & (vi)yes) | (~mask & (vi)no));
}

#if LANES == 16
#define vf_all(x)       ((vf)_mm512_set1_ps(x))
#define vf_fma(a, b, c) ((vf)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#elif LANES == 8
#define vf_all(x)       ((vf)_mm256_set1_ps(x))
#define vf_fma(a, b, c) ((vf)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#elif defined(__aarch64__)
#define vf_fma(a, b, c) ((vf)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#else
/* round(a * b + c) once, without the instruction: the product is exact in double, and a sum
 * rounded to odd there rounds to the right float (Boldo and Melquiond, "Emulation of FMA and
 * correctly rounded sums: proved algorithms using rounding to odd", 2008). */
static inline float fma_one(float a, float b, float c)
{
    double product = (double)a * (double)b, sum = product + (double)c;
    double part = sum - product, rest = (product - (sum - part)) + ((double)c - part);
    uint64_t bits;

    if (!(rest != 0) || rest != rest)
        return (float)sum;
    memcpy(&bits, &sum, sizeof bits);
    if (!(bits & 1))
        bits += (rest > 0) == (sum > 0) ? 1 : UINT64_MAX;
    memcpy(&sum, &bits, sizeof sum);
    return (float)sum;
}

INLINE vf vf_fma(vf a, vf b, vf c)
{
    vf v;

    for (int i = 0; i < LANES; i++)
        v[i] = fma_one(a[i], b[i], c[i]);
    return v;
}
#endif

/* Every lane rounded to t, as dtype_round(). */
INLINE vf vf_round(enum dtype t, vf x)
{
#if LANES == 16
    if (t == DTYPE_F16)
        return (vf)_mm512_cvtph_ps(_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
#elif LANES == 8
    if (t == DTYPE_F16)
        return (vf)_mm256_cvtph_ps(_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
#else
    if (t == DTYPE_F16)
        for (int i = 0; i < LANES; i++)
            x[i] = dtype_f16_to_f32(dtype_f32_to_f16(x[i]));
#endif
    if (t == DTYPE_BF16) {
        vi u = (vi)x, odd = u >> 16 & 1, rounded = (u + 0x7FFF + odd) & (int)0xFFFF0000;
        x = vf_select(x != x, (vf)((u | 0x400000) & (int)0xFFFF0000), (vf)rounded);
    }
    return x;
}

/* e^x within 1 ulp of 2: x = n ln 2 + r, a polynomial in r (minimax, 4.2e-10), and 2^n in two
 * factors, so that results below the normal range round once.  NaN stays NaN. */
INLINE vf vf_exp(vf x)
{
    const vf shift = vf_all(0x1.8p23f), one = vf_all(1.0f);

    x = vf_select(x < vf_all(-105.0f), vf_all(-105.0f), x);
    x = vf_select(x > vf_all(89.0f), vf_all(89.0f), x);
    vf shifted = x * vf_all(0x1.715476p0f) + shift;
    vf n = shifted - shift;
    vf r = (x - n * vf_all(0x1.62e4p-1f)) - n * vf_all(0x1.7f7d1cp-20f);
    vf p = vf_all(0x1.9745c4p-13f);
    p = p * r + vf_all(0x1.6d3dd8p-10f);
    p = p * r + vf_all(0x1.1116a6p-7f);
    p = p * r + vf_all(0x1.5554e6p-5f);
    p = p * r + vf_all(0x1.555552p-3f);
    p = p * r + vf_all(0.5f);
    p = one + (r + (r * r) * p);
    vi exponent = (vi)shifted - (vi)shift, half = exponent >> 1;
    vf low = (vf)((half + 127) << 23), high = (vf)((exponent - half + 127) << 23);
    return p * low * high;
}

/* e^x for x <= 0 in double, within 1 ulp or 2; below -700, where no float notices, 0. */
INLINE vd vd_exp(vd x)
{
    const vd shift = (vd){ 0 } + 0x1.8p52;
    vl tiny = x < -700.0;

    vd shifted = x * 0x1.71547652b82fep0 + shift;
    vd n = shifted - shift;
    vd r = (x - n * 0x1.62e42fee00000p-1) - n * 0x1.a39ef35793c76p-33;
    vd p = (vd){ 0 } + 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = 1.0 + (r + (r * r) * p);
    vl power = ((vl)shifted - (vl)shift + 1023) << 52;
    return (vd)((vl)(p * (vd)power) & ~tiny);
}
