/* kernels_int8_body.h - the inner loops of LLM.int8, for the width of the including file.
 * What each does stands in kernels.h.  Sums are integers, so any order of them is exact.  */
#pragma once

#include "cpu/kernels.h"
#include "cpu/vector.h"

/* X(1) ... X(TILE_ROWS): a tile of constant height keeps its sums in registers. */
#if TILE_ROWS > 6
#define EACH_TILE_HEIGHT(X) \
    X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#elif TILE_ROWS > 4
#define EACH_TILE_HEIGHT(X) X(1) X(2) X(3) X(4) X(5) X(6)
#else
#define EACH_TILE_HEIGHT(X) X(1) X(2) X(3) X(4)
#endif

static float int8_scan(const float *x, int64_t n, float threshold, uint8_t *outlier)
{
    float most = 0;
    bool nan = false, any = false;
    int64_t i = 0;
    vf largest = vf_all(0.0f), limit = vf_all(threshold);
    vi odd = { 0 }, beyond = { 0 };

    for (; i + LANES <= n; i += LANES) {
        vf v = vf_load(x + i), size = (vf)((vi)v & 0x7FFFFFFF);
        vi out = size >= limit;

        odd |= v != v;
        beyond |= out;
        size = vf_select(out, vf_all(0.0f), size);
        largest = vf_select(size > largest, size, largest);
    }
    for (int j = 0; j < LANES; j++) {
        most = largest[j] > most ? largest[j] : most;
        nan |= odd[j] != 0;
        any |= beyond[j] != 0;
    }
    for (int64_t col = any ? 0 : i; col < n; col++) {
        float size = fabsf(x[col]);

        if (size >= threshold)
            __atomic_store_n(&outlier[col], 1, __ATOMIC_RELAXED);
        else
            most = size > most ? size : most;
        nan |= size != size;
    }
    return nan ? NAN : most;
}

static void int8_codes(const float *x, int64_t n, float threshold, float scale, const uint8_t *skip,
                       int16_t *codes)
{
    for (int64_t i = 0; i < n; i++) {
        float value = (fabsf(x[i]) < threshold) & !skip[i] ? x[i] : 0.0f;

        codes[i] = (int16_t)(int32_t)((value * scale + 0x1.8p23f) - 0x1.8p23f);
    }
}

static void widen8(const int8_t *from, int16_t *to, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = from[i];
}

INLINE vi vi_load(const void *p)
{
    vi v;

    memcpy(&v, p, sizeof v);
    return v;
}

INLINE vi vi_all(int32_t x)
{
    return (vi){ 0 } + x;
}

/* Per lane, the sum of both products of two pairs. */
INLINE vi multiply_pairs(vi a, vi b)
{
#if LANES == 16
    return (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif LANES == 8
    return (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
    return (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16);
#endif
}

INLINE void tile16_of(const int m, int64_t n_pairs, const int16_t *a, const int16_t *b, int32_t *c,
                      int64_t ldc, bool add)
{
    vi sum[TILE_ROWS][TILE_VECTORS];

#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int j = 0; j < TILE_VECTORS; j++)
            sum[i][j] = add ? vi_load(c + i * ldc + j * LANES) : (vi){ 0 };
    for (int64_t p = 0; p < n_pairs; p++, a += 2 * m, b += 2 * TILE_COLS) {
        vi right[TILE_VECTORS];

#pragma GCC unroll 4
        for (int j = 0; j < TILE_VECTORS; j++)
            right[j] = vi_load(b + 2 * j * LANES);
#pragma GCC unroll 16
        for (int i = 0; i < m; i++) {
            int32_t pair;

            memcpy(&pair, a + 2 * i, sizeof pair);
#pragma GCC unroll 4
            for (int j = 0; j < TILE_VECTORS; j++)
                sum[i][j] += multiply_pairs(vi_all(pair), right[j]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int j = 0; j < TILE_VECTORS; j++)
            memcpy(c + i * ldc + j * LANES, &sum[i][j], sizeof sum[i][j]);
}

static void tile16(int m, int64_t n_pairs, const int16_t *a, const int16_t *b, int32_t *c,
                   int64_t ldc, bool add)
{
#define CASE(M)                                   \
    case M:                                       \
        tile16_of(M, n_pairs, a, b, c, ldc, add); \
        break;
    switch (m) {
        EACH_TILE_HEIGHT(CASE)
    }
#undef CASE
}

static void int8_scale(const int32_t *sums, int64_t n, float stat, const float *scb, float factor,
                       const float *bias, float *y)
{
    for (int64_t i = 0; i < n; i += LANES) {
        int32_t sum[LANES] = { 0 };
        float part[3][LANES] = { { 0 } };
        size_t n_bytes = (size_t)(n - i < LANES ? n - i : LANES) * sizeof *y;
        vf v;

        memcpy(sum, sums + i, n_bytes);
        memcpy(part[0], scb + i, n_bytes);
        if (bias)
            memcpy(part[1], bias + i, n_bytes);
        v = __builtin_convertvector(vi_load(sum), vf) * vf_all(stat) * vf_load(part[0]);
        v = bias ? vf_fma(v, vf_all(factor), vf_load(part[1])) : v * vf_all(factor);
        vf_store(part[2], v);
        memcpy(y + i, part[2], n_bytes);
    }
}
