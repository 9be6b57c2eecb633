/* kernels_codes_body.h - from packed codes to values, for the width of the including file.
 * What each does stands in kernels.h; every operation is lane-wise, so the width changes no bit. */
#pragma once

#include "backend/dtype.h"
#include "cpu/kernels.h"
#include "cpu/vector.h"

/* ---- unpacking ---- */

INLINE uint8_t code_at(int bits, const uint8_t *packed, int64_t i)
{
    int64_t bit = i * bits;
    unsigned both = packed[bit >> 3], shift = (unsigned)(bit & 7);

    if (shift + (unsigned)bits > 8)
        both |= (unsigned)packed[(bit >> 3) + 1] << 8;
    return (uint8_t)(both >> shift & ((1u << bits) - 1));
}

#if LANES >= 8
/* 32 codes fill `bits` words of 4 bytes.  Eight codes (a quarter) start at byte bits * quarter:
 * `words` brings the words around them to the quarter's 16 bytes, `bytes` the two bytes around
 * each code to its 16 bits, `factor` moves the code to the top and what is above it out. */
struct unpacker {
    int32_t words[16];
    uint16_t bytes[32], factor[32];
    int32_t used[8]; /* which words are read */
};

#define WORD(b, j)       (((b) * ((j) / 4) / 4 + (j) % 4) & 7)
#define BYTE(b, j)       ((b) * ((j) / 8) % 4 + (j) % 8 * (b) / 8)
#define PAIR(b, j)       (BYTE(b, j) | (BYTE(b, j) + 1) << 8)
#define MOVE(b, j)       (1 << (16 - (b) - (j) % 8 * (b) % 8))
#define USED(b, j)       ((j) < (b) ? -1 : 0)
#define FOUR(F, b, j)    F(b, j), F(b, (j) + 1), F(b, (j) + 2), F(b, (j) + 3)
#define EIGHT(F, b, j)   FOUR(F, b, j), FOUR(F, b, (j) + 4)
#define SIXTEEN(F, b, j) EIGHT(F, b, j), EIGHT(F, b, (j) + 8)
#define UNPACKER(b)                                                  \
    [b] = { .words = { SIXTEEN(WORD, b, 0) },                        \
            .bytes = { SIXTEEN(PAIR, b, 0), SIXTEEN(PAIR, b, 16) },  \
            .factor = { SIXTEEN(MOVE, b, 0), SIXTEEN(MOVE, b, 16) }, \
            .used = { EIGHT(USED, b, 0) } }

static const struct unpacker unpackers[8] = { UNPACKER(1), UNPACKER(2), UNPACKER(3), UNPACKER(4),
                                              UNPACKER(5), UNPACKER(6), UNPACKER(7) };

#undef WORD
#undef BYTE
#undef PAIR
#undef MOVE
#undef USED
#undef FOUR
#undef EIGHT
#undef SIXTEEN
#undef UNPACKER

/* n / 32 * 32 codes from a whole byte on; reads no byte behind them. */
static int64_t unpack_words(int bits, const uint8_t *packed, int64_t n, uint8_t *codes)
{
    const struct unpacker *u = &unpackers[bits];
    const __m128i down = _mm_cvtsi32_si128(16 - bits);
    int64_t i = 0;

#if LANES == 16
    const __m512i words = _mm512_loadu_si512(u->words), bytes = _mm512_loadu_si512(u->bytes);
    const __m512i factor = _mm512_loadu_si512(u->factor);
    const __mmask8 used = (__mmask8)((1u << bits) - 1);

    for (; i + 32 <= n; i += 32, packed += 4 * bits) {
        __m512i x = _mm512_castsi256_si512(_mm256_maskz_loadu_epi32(used, packed));

        x = _mm512_shuffle_epi8(_mm512_permutexvar_epi32(words, x), bytes);
        x = _mm512_srl_epi16(_mm512_mullo_epi16(x, factor), down);
        _mm256_storeu_si256((__m256i *)(codes + i), _mm512_cvtepi16_epi8(x));
    }
#else
    const __m256i used = _mm256_loadu_si256((const __m256i *)u->used);
    __m256i words[2], bytes[2], factor[2];

    for (int half = 0; half < 2; half++) {
        words[half] = _mm256_loadu_si256((const __m256i *)u->words + half);
        bytes[half] = _mm256_loadu_si256((const __m256i *)u->bytes + half);
        factor[half] = _mm256_loadu_si256((const __m256i *)u->factor + half);
    }
    for (; i + 32 <= n; i += 32, packed += 4 * bits) {
        __m256i all = _mm256_maskload_epi32((const int *)packed, used), x[2];

#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            x[half] = _mm256_permutevar8x32_epi32(all, words[half]);
            x[half] = _mm256_shuffle_epi8(x[half], bytes[half]);
            x[half] = _mm256_srl_epi16(_mm256_mullo_epi16(x[half], factor[half]), down);
        }
        _mm256_storeu_si256((__m256i *)(codes + i),
                            _mm256_permute4x64_epi64(_mm256_packus_epi16(x[0], x[1]), 0xD8));
    }
#endif
    return i;
}
#endif

/* n / 8 * 8 codes from a whole byte on: eight of them fill `bits` bytes. */
INLINE int64_t unpack_eights(const int bits, const uint8_t *packed, int64_t n, uint8_t *codes)
{
    int64_t i = 0;

    for (; i + 8 <= n; i += 8, packed += bits) {
        uint64_t stream = 0;

#pragma GCC unroll 8
        for (int j = 0; j < bits; j++)
            stream |= (uint64_t)packed[j] << (8 * j);
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++)
            codes[i + j] = (uint8_t)(stream >> (bits * j) & ((1u << bits) - 1));
    }
    return i;
}

static void unpack(int bits, const uint8_t *packed, int64_t first, int64_t n, uint8_t *codes)
{
    int64_t i = 0;

    if (bits == 8) {
        memcpy(codes, packed + first, (size_t)n);
        return;
    }
    for (; i < n && (first + i) % 8; i++)
        codes[i] = code_at(bits, packed, first + i);
#if LANES >= 8
    i += unpack_words(bits, packed + (first + i) / 8 * bits, n - i, codes + i);
#endif
    const uint8_t *from = packed + (first + i) / 8 * bits;
    switch (bits) {
#define CASE(B)                                        \
    case B:                                            \
        i += unpack_eights(B, from, n - i, codes + i); \
        break
        CASE(1);
        CASE(2);
        CASE(3);
        CASE(4);
        CASE(5);
        CASE(6);
        CASE(7);
#undef CASE
    }
    for (; i < n; i++)
        codes[i] = code_at(bits, packed, first + i);
}

/* ---- values ---- */

/* Narrow vectors leave the rounding to dtype_round(), which has 8 lanes where the processor has
 * the instruction. */
INLINE vf round_lanes(const enum dtype t, vf x)
{
    return LANES >= 8 ? vf_round(t, x) : x;
}

INLINE void round_rest(const enum dtype t, float *values, int64_t n)
{
    if (LANES < 8)
        dtype_round(t, values, n);
}

/* out[i] = fl(fl(i - zero) * scale) for i = 0 .. 15, or base[i] instead of i, rounded. */
INLINE void table_of(const enum dtype t, const float base[16], float zero, float scale,
                     float table[16])
{
    for (int i = 0; i < 16; i += LANES)
        vf_store(table + i, round_lanes(t, (vf_load(base + i) - vf_all(zero)) * vf_all(scale)));
    round_rest(t, table, 16);
}

/* out[i] = table[codes[i]] */
INLINE void look_up(const uint8_t *codes, int64_t n, const float table[16], float *out)
{
    int64_t i = 0;

#if LANES == 16
    const __m512 all = _mm512_loadu_ps(table);

    for (; i + 16 <= n; i += 16) {
        __m512i c = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(codes + i)));
        _mm512_storeu_ps(out + i, _mm512_permutexvar_ps(c, all));
    }
#elif LANES == 8
    const __m256 below = _mm256_loadu_ps(table), above = _mm256_loadu_ps(table + 8);

    for (; i + 8 <= n; i += 8) {
        __m256i c = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(codes + i)));
        __m256 low = _mm256_permutevar8x32_ps(below, c);
        __m256 high = _mm256_permutevar8x32_ps(above, c);
        __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(c, 28));
        _mm256_storeu_ps(out + i, _mm256_blendv_ps(low, high, upper));
    }
#endif
    for (; i < n; i++)
        out[i] = table[codes[i]];
}

/* Codes as floats. */
INLINE vf vf_codes(const uint8_t *codes)
{
#if LANES == 16
    __m128i c = _mm_loadu_si128((const __m128i *)codes);
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(c));
#elif LANES == 8
    __m128i c = _mm_loadl_epi64((const __m128i *)codes);
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(c));
#else
    vf v;

    for (int i = 0; i < LANES; i++)
        v[i] = (float)codes[i];
    return v;
#endif
}

INLINE void shift_and_scale(const enum dtype t, const uint8_t *codes, int64_t n, float zero,
                            float scale, float *out)
{
    int64_t i = 0;

    for (; i + LANES <= n; i += LANES)
        vf_store(out + i, round_lanes(t, (vf_codes(codes + i) - vf_all(zero)) * vf_all(scale)));
    round_rest(t, out, i);
    for (int64_t j = i; j < n; j++)
        out[j] = ((float)codes[j] - zero) * scale;
    dtype_round(t, out + i, n - i);
}

INLINE void grouped_of(const enum dtype t, const struct code_run *r, float *out)
{
    int64_t at = 0, end = r->first_end < r->n ? r->first_end : r->n;

    for (int64_t g = 0; at < r->n; g++) {
        if (r->base) {
            float table[16];
            table_of(t, r->base, r->zero[g], r->scale[g], table);
            look_up(r->codes + at, end - at, table, out + at);
        } else {
            shift_and_scale(t, r->codes + at, end - at, r->zero[g], r->scale[g], out + at);
        }
        at = end;
        end = r->n - end < r->group_size ? r->n : end + r->group_size;
    }
}

/* out[i] = fl(fl(code i - zero[i]) * scale[i]), rounded. */
static void scattered(const struct code_run *r, float *out)
{
    for (int64_t i = 0; i < r->n; i++)
        out[i] = r->base ? r->base[r->codes[i]] : (float)r->codes[i];
    for (int64_t i = 0; i < r->n; i++)
        out[i] = (out[i] - r->zero[i]) * r->scale[i];
    dtype_round(r->compute, out, r->n);
}

static void grouped(const struct code_run *r, float *out)
{
    switch (r->compute) {
    case DTYPE_F16:
        grouped_of(DTYPE_F16, r, out);
        break;
    case DTYPE_BF16:
        grouped_of(DTYPE_BF16, r, out);
        break;
    default:
        grouped_of(DTYPE_F32, r, out);
    }
}

/* ---- signed bytes ---- */

INLINE void signed8_of(const enum dtype t, const int8_t *codes, int64_t n, float scale,
                       float factor, float *out)
{
    int64_t i = 0;

#if LANES >= 8
    for (; i + LANES <= n; i += LANES) {
#if LANES == 16
        __m128i c = _mm_loadu_si128((const __m128i *)(codes + i));
        vf v = (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(c));
#else
        __m128i c = _mm_loadl_epi64((const __m128i *)(codes + i));
        vf v = (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(c));
#endif
        vf_store(out + i, round_lanes(t, v * vf_all(scale) * vf_all(factor)));
    }
#endif
    for (int64_t j = i; j < n; j++)
        out[j] = ((float)codes[j] * scale) * factor;
    dtype_round(t, out + i, n - i);
}

static void signed8(const int8_t *codes, int64_t n, float scale, float factor, enum dtype compute,
                    float *out)
{
    switch (compute) {
    case DTYPE_F16:
        signed8_of(DTYPE_F16, codes, n, scale, factor, out);
        break;
    case DTYPE_BF16:
        signed8_of(DTYPE_BF16, codes, n, scale, factor, out);
        break;
    default:
        signed8_of(DTYPE_F32, codes, n, scale, factor, out);
    }
}
