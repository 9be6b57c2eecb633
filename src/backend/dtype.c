/* dtype.c - see dtype.h.
 *
 * The scalar forms are the definition; the array forms give the same bits 8 values at a time
 * where the processor has F16C (asked at run time), NaN payloads included.  */
#include "backend/dtype.h"

#include <math.h>
#include <stdbool.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

static const struct {
    const char *name;
    size_t n_bytes;
} types[] = {
    [DTYPE_F32] = { "fp32", 4 },    [DTYPE_F16] = { "fp16", 2 },
    [DTYPE_BF16] = { "bf16", 2 },   [DTYPE_F8_E4M3] = { "fp8_e4m3", 1 },
    [DTYPE_F64] = { "fp64", 8 },    [DTYPE_I8] = { "int8", 1 },
    [DTYPE_U8] = { "uint8", 1 },    [DTYPE_I16] = { "int16", 2 },
    [DTYPE_U16] = { "uint16", 2 },  [DTYPE_I32] = { "int32", 4 },
    [DTYPE_U32] = { "uint32", 4 },  [DTYPE_I64] = { "int64", 8 },
    [DTYPE_U64] = { "uint64", 8 },  [DTYPE_BOOL] = { "bool", 1 },
    [DTYPE_OTHER] = { "other", 0 },
};

static const struct {
    const char *name;
    enum dtype type;
} other_names[] = {
    { "float32", DTYPE_F32 },
    { "float", DTYPE_F32 },
    { "F32", DTYPE_F32 },
    { "float16", DTYPE_F16 },
    { "half", DTYPE_F16 },
    { "F16", DTYPE_F16 },
    { "bfloat16", DTYPE_BF16 },
    { "BF16", DTYPE_BF16 },
    { "float64", DTYPE_F64 },
    { "double", DTYPE_F64 },
    { "float8_e4m3fn", DTYPE_F8_E4M3 },
};

size_t dtype_bytes(enum dtype t)
{
    return (unsigned)t <= DTYPE_OTHER ? types[t].n_bytes : 0;
}

const char *dtype_name(enum dtype t)
{
    return (unsigned)t <= DTYPE_OTHER ? types[t].name : "unknown";
}

int dtype_from_name(const char *name)
{
    if (!strncmp(name, "torch.", 6))
        name += 6;
    for (int t = 0; t < DTYPE_OTHER; t++)
        if (!strcmp(name, types[t].name))
            return t;
    for (size_t i = 0; i < sizeof other_names / sizeof *other_names; i++)
        if (!strcmp(name, other_names[i].name))
            return other_names[i].type;
    return -1;
}

static inline uint32_t bits_of(float x)
{
    uint32_t u;

    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float float_of(uint32_t u)
{
    float x;

    memcpy(&x, &u, sizeof x);
    return x;
}

float dtype_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023;

    if (exponent == 31) /* a signalling NaN becomes quiet, as in hardware */
        return float_of(sign | 0x7F800000u | mantissa << 13 | (mantissa ? 0x400000u : 0));
    if (exponent == 0) { /* subnormal: mantissa * 2^-24, exact */
        float x = (float)mantissa * 0x1p-24f;
        return float_of(bits_of(x) | sign);
    }
    return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t dtype_f32_to_f16(float x)
{
    uint32_t u = bits_of(x), sign = u >> 16 & 0x8000, a = u & 0x7FFFFFFFu;

    if (a > 0x7F800000u)
        return (uint16_t)(sign | 0x7E00 | (a >> 13 & 0x1FF));
    if (a >= 0x477FF000u) /* 65520 and above: nearer to 2^16 than to 65504, or a tie to even */
        return (uint16_t)(sign | 0x7C00);
    if (a < 0x38800000u) { /* below 2^-14: counted in steps of 2^-24, rounded by the addition */
        float steps = float_of(a) + 0.5f;
        return (uint16_t)(sign | (bits_of(steps) - 0x3F000000u));
    }
    return (uint16_t)(sign | ((a - 0x38000000u + 0xFFFu + (a >> 13 & 1)) >> 13));
}

static void f16_to_f32_plain(const uint16_t *from, float *to, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = dtype_f16_to_f32(from[i]);
}

static void f32_to_f16_plain(const float *from, uint16_t *to, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = dtype_f32_to_f16(from[i]);
}

#if defined(__x86_64__)
static bool has_f16c(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
}

__attribute__((target("avx2,f16c"))) static void f16_to_f32_f16c(const uint16_t *from, float *to,
                                                                 int64_t n)
{
    int64_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
    f16_to_f32_plain(from + i, to + i, n - i);
}

__attribute__((target("avx2,f16c"))) static void f32_to_f16_f16c(const float *from, uint16_t *to,
                                                                 int64_t n)
{
    int64_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(to + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
    f32_to_f16_plain(from + i, to + i, n - i);
}

__attribute__((target("avx2"))) static void bf16_to_f32_avx2(const uint16_t *from, float *to,
                                                             int64_t n)
{
    int64_t i = 0;

    for (; i + 8 <= n; i += 8) {
        __m256i u = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(from + i)));
        _mm256_storeu_si256((__m256i *)(to + i), _mm256_slli_epi32(u, 16));
    }
    for (; i < n; i++)
        to[i] = dtype_bf16_to_f32(from[i]);
}

/* Eight values of dtype_f32_to_bf16() in the low halves of the lanes. */
__attribute__((target("avx2"))) static inline __m256i bf16_bits(__m256 x)
{
    __m256i u = _mm256_castps_si256(x);
    __m256i even = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFF)), even);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));

    return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
}

__attribute__((target("avx2"))) static void f32_to_bf16_avx2(const float *from, uint16_t *to,
                                                             int64_t n)
{
    int64_t i = 0;

    for (; i + 8 <= n; i += 8) {
        __m256i h = bf16_bits(_mm256_loadu_ps(from + i));
        __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(h, h), 0x88);
        _mm_storeu_si128((__m128i *)(to + i), _mm256_castsi256_si128(packed));
    }
    for (; i < n; i++)
        to[i] = dtype_f32_to_bf16(from[i]);
}

__attribute__((target("avx2,f16c"))) static void round_f16_f16c(float *values, int64_t n)
{
    int64_t i = 0;

    for (; i + 8 <= n; i += 8) {
        __m128i h = _mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT);
        _mm256_storeu_ps(values + i, _mm256_cvtph_ps(h));
    }
    for (; i < n; i++)
        values[i] = dtype_f16_to_f32(dtype_f32_to_f16(values[i]));
}

__attribute__((target("avx2"))) static void round_bf16_avx2(float *values, int64_t n)
{
    int64_t i = 0;

    for (; i + 8 <= n; i += 8) {
        __m256i h = bf16_bits(_mm256_loadu_ps(values + i));
        _mm256_storeu_si256((__m256i *)(values + i), _mm256_slli_epi32(h, 16));
    }
    for (; i < n; i++)
        values[i] = dtype_bf16_to_f32(dtype_f32_to_bf16(values[i]));
}
#endif

/* Exponent and mantissa are at the top of a float's; 2^120 makes up for the bias, exactly. */
float dtype_e4m3_to_f32(uint8_t byte)
{
    uint32_t u = (uint32_t)(byte & 0x80) << 24 | (uint32_t)(byte & 0x7F) << 20;
    float x;

    memcpy(&x, &u, sizeof x);
    return (byte & 0x7F) == 0x7F ? NAN : x * 0x1p120f;
}

uint8_t dtype_f32_to_e4m3(float x)
{
    uint32_t u, magnitude;

    memcpy(&u, &x, sizeof u);
    uint8_t sign = (uint8_t)(u >> 24 & 0x80);
    magnitude = u & 0x7FFFFFFFu;
    if (magnitude > 0x43E80000u) /* 464, half a step above 448 */
        return sign | 0x7F;
    if (magnitude < 0x3C800000u) /* 2^-6: below it steps of 2^-9 */
        return sign | (uint8_t)rintf(fabsf(x) * 512.0f);
    magnitude += 0x7FFFFu + (magnitude >> 20 & 1);
    return sign | (uint8_t)((magnitude >> 20) - (120u << 3));
}

void dtype_to_f32(enum dtype t, const void *from, float *to, int64_t n)
{
    if (t == DTYPE_F32) {
        memmove(to, from, (size_t)n * sizeof *to);
        return;
    }
#if defined(__x86_64__)
    if (has_f16c()) {
        if (t == DTYPE_F16)
            f16_to_f32_f16c(from, to, n);
        else
            bf16_to_f32_avx2(from, to, n);
        return;
    }
#endif
    if (t == DTYPE_F16)
        f16_to_f32_plain(from, to, n);
    else
        for (int64_t i = 0; i < n; i++)
            to[i] = dtype_bf16_to_f32(((const uint16_t *)from)[i]);
}

void dtype_from_f32(enum dtype t, const float *from, void *to, int64_t n)
{
    if (t == DTYPE_F32) {
        memmove(to, from, (size_t)n * sizeof *from);
        return;
    }
#if defined(__x86_64__)
    if (has_f16c()) {
        if (t == DTYPE_F16)
            f32_to_f16_f16c(from, to, n);
        else
            f32_to_bf16_avx2(from, to, n);
        return;
    }
#endif
    if (t == DTYPE_F16)
        f32_to_f16_plain(from, to, n);
    else
        for (int64_t i = 0; i < n; i++)
            ((uint16_t *)to)[i] = dtype_f32_to_bf16(from[i]);
}

void dtype_round(enum dtype t, float *values, int64_t n)
{
    if (t == DTYPE_F32)
        return;
#if defined(__x86_64__)
    if (has_f16c()) {
        if (t == DTYPE_F16)
            round_f16_f16c(values, n);
        else
            round_bf16_avx2(values, n);
        return;
    }
#endif
    for (int64_t i = 0; i < n; i++)
        values[i] = t == DTYPE_F16 ? dtype_f16_to_f32(dtype_f32_to_f16(values[i]))
                                   : dtype_bf16_to_f32(dtype_f32_to_bf16(values[i]));
}
