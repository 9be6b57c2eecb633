/* hqq.h - half-quadratic quantization (Badri, Shaji 2023), the arithmetic of one
 * weight: every backend takes it from here, so that all agree to the bit.
 *
 * And the order of its sums: numbers i = 0 .. n-1 go to lane i / 8 mod HQQ_LANES, in order; lanes
 * are added by halves (0 + 128, 0 + 64, ...).  A lane that gets nothing is 0 and changes nothing,
 * so a group of 64 needs 8 of them.  Groups of a row add up over hqq_team() lanes each, rows over
 * lane i mod HQQ_LANES, again by halves.  */
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__CUDACC__)
#define HQQ_BOTH __host__ __device__
#else
#define HQQ_BOTH
#endif

#define HQQ_STEPS     20
#define HQQ_LANES     256
#define HQQ_BETA      10.0f
#define HQQ_SCALE_MAX 2e4f

/* 2^(-0.3 k) */
#define HQQ_TENTHS                                                                                 \
    {                                                                                              \
        0x1p+0, 0x1.9fdf8bcce533dp-1, 0x1.51cb453b9536cp-1, 0x1.125fbee250664p-1,                  \
            0x1.bdb8cdadbe12p-2, 0x1.6a09e667f3bcdp-2, 0x1.2611186bae675p-2, 0x1.ddb680117ab12p-3, \
            0x1.8406003b2ae5cp-3, 0x1.3b2c47bff8329p-3                                             \
    }

/* Lanes that a group of n weights takes: a power of two. */
static inline int hqq_team(int64_t n)
{
    int team = 1;

    while (team < HQQ_LANES && 8 * team < n)
        team *= 2;
    return team;
}

/* x^-0.3, to 3e-12 before the rounding to fp32: x = 2^(10 q + r) f, a polynomial of f - 1.5, a
 * table of r, and q into the exponent.  x is positive and finite. */
HQQ_BOTH static inline float hqq_power(float x, const double *tenths)
{
    const double wide = (double)x;
    uint64_t bits, scale_bits;
    double f, scale;

    memcpy(&bits, &wide, sizeof bits);
    const int exponent = (int)(bits >> 52) - 1023 + 150; /* of any fp32 number at least 1 */
    const int q = exponent / 10, r = exponent - 10 * q;
    bits = (bits & 0xFFFFFFFFFFFFFu) | 0x3FF0000000000000u;
    memcpy(&f, &bits, sizeof f);
    memcpy(&scale_bits, &tenths[r], sizeof scale_bits);
    scale_bits += (uint64_t)(int64_t)(3 * (15 - q)) << 52;
    memcpy(&scale, &scale_bits, sizeof scale);

    const double t = f - 1.5;
    double p = -0x1.7b4325718df07p-12;
    p = p * t + 0x1.2bd06116d1ff3p-11;
    p = p * t - 0x1.362660c91fa47p-11;
    p = p * t + 0x1.f183b55d8761dp-11;
    p = p * t - 0x1.ae5dcb5ac1d91p-10;
    p = p * t + 0x1.5df18d1ed972ep-9;
    p = p * t - 0x1.1e5bd2d5c74b5p-8;
    p = p * t + 0x1.dd44bfd2badfdp-8;
    p = p * t - 0x1.954906bfe2cdcp-7;
    p = p * t + 0x1.617245469aacbp-6;
    p = p * t - 0x1.41507235a6f47p-5;
    p = p * t + 0x1.3a54433fd0e38p-4;
    p = p * t - 0x1.6aafff08a365p-3;
    p = p * t + 0x1.c55bfecac4065p-1;
    return (float)(p * scale);
}

/* clamp(rn(x s + z), 0, most): adding and taking away 1.5 * 2^23 rounds a small number. */
HQQ_BOTH static inline float hqq_code(float x, float s, float z, float most)
{
    const float shift = 12582912.0f;
    float y = x * s + z;

    y = y < 0.0f ? 0.0f : y;
    y = y > most ? most : y;
    return (y + shift) - shift;
}

/* sign(e) max(|e| - |e|^-0.3 / beta, 0) */
HQQ_BOTH static inline float hqq_shrink(float error, const double *tenths)
{
    const float size = fabsf(error);

    if (size == 0.0f)
        return 0.0f;
    const float rest = size - hqq_power(size, tenths) / HQQ_BETA;
    return rest > 0.0f ? copysignf(rest, error) : 0.0f;
}

/* The scale that multiplies, of a group whose least and greatest weight are `range` apart. */
HQQ_BOTH static inline float hqq_scale(float range, float most)
{
    const float s = range <= 1e-4f ? 1.0f : 1.0f / range * most;

    return s < HQQ_SCALE_MAX ? s : HQQ_SCALE_MAX;
}
