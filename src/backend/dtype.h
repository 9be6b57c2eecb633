/* dtype.h - element types, and conversions that round to nearest even. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum dtype {
    DTYPE_F32,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_F8_E4M3,
    DTYPE_F64,
    DTYPE_I8,
    DTYPE_U8,
    DTYPE_I16,
    DTYPE_U16,
    DTYPE_I32,
    DTYPE_U32,
    DTYPE_I64,
    DTYPE_U64,
    DTYPE_BOOL,
    DTYPE_OTHER /* known to the file format, of no use here */
};

size_t dtype_bytes(enum dtype t);     /* of one element; 0 for DTYPE_OTHER */
const char *dtype_name(enum dtype t); /* "fp32", "fp16", "bf16", "fp8_e4m3", "int8", ... */
/* "fp16", "float16", "torch.float16", "bf16", ... -> dtype; -1 when unknown. */
int dtype_from_name(const char *name);
static inline int dtype_is_16bit(enum dtype t)
{
    return t == DTYPE_F16 || t == DTYPE_BF16;
}

/* n elements of type t to and from fp32 (round to nearest, ties to even; NaN stays NaN; beyond
 * the largest finite value becomes infinity).  Types: F32, F16, BF16. */
void dtype_to_f32(enum dtype t, const void *from, float *to, int64_t n);
void dtype_from_f32(enum dtype t, const float *from, void *to, int64_t n);
/* In place: every value rounded to what t can hold. */
void dtype_round(enum dtype t, float *values, int64_t n);

/* One value each; the same results as the array forms. */
float dtype_f16_to_f32(uint16_t h);
uint16_t dtype_f32_to_f16(float x);

/* e4m3fn: 1 sign, 4 exponent and 3 mantissa bits, no infinities, largest 448.  To e4m3: to nearest
 * even; a magnitude above 464 and a NaN become NaN (callers clamp first where that is not meant).
 */
float dtype_e4m3_to_f32(uint8_t byte);
uint8_t dtype_f32_to_e4m3(float x);

static inline float dtype_bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float x;

    memcpy(&x, &u, sizeof x);
    return x;
}

static inline uint16_t dtype_f32_to_bf16(float x)
{
    uint32_t u;

    memcpy(&u, &x, sizeof u);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7FFFu + (u >> 16 & 1)) >> 16);
}
