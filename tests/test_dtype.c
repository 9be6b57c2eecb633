/* test_dtype.c - conversions against arithmetic in double, over every 16-bit pattern and both
 * sides of every rounding boundary; sizes and names; the code tables. */
#include "check.h"

#include "backend/dtype.h"
#include "backend/weight.h"

#include <string.h>

static float float_of(uint32_t u)
{
    float x;

    memcpy(&x, &u, sizeof x);
    return x;
}

static uint32_t bits_of(float x)
{
    uint32_t u;

    memcpy(&u, &x, sizeof u);
    return u;
}

/* What a pattern means, from its definition. */
static double meaning(enum dtype t, uint16_t h)
{
    int mantissa_bits = t == DTYPE_F16 ? 10 : 7, bias = t == DTYPE_F16 ? 15 : 127;
    int exponent = (h & 0x7FFF) >> mantissa_bits, mantissa = h & ((1 << mantissa_bits) - 1);
    double sign = h & 0x8000 ? -1.0 : 1.0;

    if (exponent == (t == DTYPE_F16 ? 31 : 255))
        return mantissa ? NAN : sign * INFINITY;
    if (!exponent)
        return sign * ldexp(mantissa, 1 - bias - mantissa_bits);
    return sign * ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

static float one_to_f32(enum dtype t, uint16_t h)
{
    return t == DTYPE_F16 ? dtype_f16_to_f32(h) : dtype_bf16_to_f32(h);
}

static uint16_t one_from_f32(enum dtype t, float x)
{
    return t == DTYPE_F16 ? dtype_f32_to_f16(x) : dtype_f32_to_bf16(x);
}

static void every_pattern(enum dtype t)
{
    static uint16_t all[65536], back[65536];
    static float wide[65536], rounded[65536];

    for (int i = 0; i < 65536; i++)
        all[i] = (uint16_t)i;
    dtype_to_f32(t, all, wide, 65536);
    dtype_from_f32(t, wide, back, 65536);
    memcpy(rounded, wide, sizeof rounded);
    dtype_round(t, rounded, 65536);
    for (int i = 0; i < 65536; i++) {
        double want = meaning(t, (uint16_t)i);
        float one = one_to_f32(t, (uint16_t)i);

        CHECK(bits_of(one) == bits_of(wide[i]), "%s 0x%04X: the scalar and the array form agree",
              dtype_name(t), i);
        if (isnan(want)) {
            CHECK(isnan(wide[i]) && isnan(one_to_f32(t, back[i])), "0x%04X stays a NaN", i);
            CHECK(!signbit(wide[i]) == !(i & 0x8000), "0x%04X: a NaN keeps its sign", i);
            continue;
        }
        CHECK((double)wide[i] == want && !signbit(wide[i]) == !(i & 0x8000),
              "%s 0x%04X means %g, not %g", dtype_name(t), i, want, wide[i]);
        CHECK(back[i] == i, "%s 0x%04X comes back, not 0x%04X", dtype_name(t), i, back[i]);
        CHECK(bits_of(rounded[i]) == bits_of(wide[i]), "0x%04X: rounding keeps what fits", i);
    }
}

static void every_boundary(enum dtype t)
{
    int last = t == DTYPE_F16 ? 0x7BFF : 0x7F7F; /* the largest finite pattern */
    enum { N = 6 };

    for (int i = 0; i <= last; i++) {
        /* Halfway to the next pattern; beyond the last one, to where it would be. */
        double low = meaning(t, (uint16_t)i);
        double high =
            i < last ? meaning(t, (uint16_t)(i + 1)) : 2 * low - meaning(t, (uint16_t)(i - 1));
        float half = (float)((low + high) / 2);
        float x[2 * N] = { half,
                           nextafterf(half, 0),
                           nextafterf(half, INFINITY),
                           (float)low,
                           nextafterf((float)low, INFINITY),
                           nextafterf(half, 0) };
        uint16_t even = (uint16_t)(i & 1 ? i + 1 : i);
        uint16_t want[2 * N] = { even,        (uint16_t)i, (uint16_t)(i + 1),
                                 (uint16_t)i, (uint16_t)i, (uint16_t)i };
        uint16_t got[2 * N];

        for (int k = 0; k < N; k++) {
            x[N + k] = -x[k];
            want[N + k] = want[k] | 0x8000;
        }
        dtype_from_f32(t, x, got, 2 * N);
        for (int k = 0; k < 2 * N; k++) {
            CHECK(got[k] == want[k], "%s: %a becomes 0x%04X, not 0x%04X", dtype_name(t), x[k],
                  want[k], got[k]);
            CHECK(one_from_f32(t, x[k]) == want[k], "%s: %a alone becomes 0x%04X", dtype_name(t),
                  x[k], want[k]);
        }
    }
}

static void beyond_the_range(enum dtype t)
{
    float x[9] = { INFINITY,  -INFINITY,  3.4028235e38f,        -3.4028235e38f,      NAN,
                   0x1p-149f, -0x1p-149f, float_of(0x7F800001), float_of(0xFFC12345) };
    uint16_t got[9];
    float rounded[9];

    dtype_from_f32(t, x, got, 9);
    memcpy(rounded, x, sizeof x);
    dtype_round(t, rounded, 9);
    for (int k = 0; k < 4; k++)
        CHECK(isinf(one_to_f32(t, got[k])) && !signbit(one_to_f32(t, got[k])) == !(k & 1),
              "%s: %g becomes an infinity of its sign", dtype_name(t), x[k]);
    CHECK(one_to_f32(t, got[5]) == 0 && !signbit(one_to_f32(t, got[5])), "tiny becomes zero");
    CHECK(one_to_f32(t, got[6]) == 0 && signbit(one_to_f32(t, got[6])), "minus tiny minus zero");
    CHECK(isnan(rounded[4]) && isnan(rounded[7]) && isnan(rounded[8]), "a NaN stays a NaN");
    for (int k = 0; k < 9; k++) {
        CHECK(got[k] == one_from_f32(t, x[k]), "%s: %a is the same alone", dtype_name(t), x[k]);
        CHECK(isnan(x[k]) || bits_of(rounded[k]) == bits_of(one_to_f32(t, got[k])),
              "%s: rounding %a in place is there and back", dtype_name(t), x[k]);
    }
}

/* Random patterns: a nearest value has no closer neighbour. */
static void random_values(enum dtype t)
{
    uint32_t state = 12345;
    static float x[20011];
    static uint16_t got[20011];

    for (int i = 0; i < 20011; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = float_of((state >> 8 | state << 24) & 0xFFFFFFFFu);
    }
    dtype_from_f32(t, x, got, 20011);
    for (int i = 0; i < 20011; i++) {
        double y = meaning(t, got[i]);

        CHECK(got[i] == one_from_f32(t, x[i]), "%s: %a is the same alone", dtype_name(t), x[i]);
        if (isnan(x[i]) || isinf(y))
            continue;
        for (int step = -1; step <= 1; step += 2) {
            double other = meaning(t, (uint16_t)(got[i] + step));
            CHECK(!(fabs(other - x[i]) < fabs(y - x[i])), "%s: nothing is nearer to %a than %g",
                  dtype_name(t), x[i], y);
        }
    }
}

static void fp16(void **state)
{
    (void)state;
    every_pattern(DTYPE_F16);
    every_boundary(DTYPE_F16);
    beyond_the_range(DTYPE_F16);
    random_values(DTYPE_F16);
}

static void bf16(void **state)
{
    (void)state;
    every_pattern(DTYPE_BF16);
    every_boundary(DTYPE_BF16);
    beyond_the_range(DTYPE_BF16);
    random_values(DTYPE_BF16);
}

static void names(void **state)
{
    (void)state;
    for (int t = 0; t <= DTYPE_OTHER; t++) {
        CHECK(t == DTYPE_OTHER || dtype_from_name(dtype_name(t)) == t, "%s finds itself",
              dtype_name(t));
        CHECK((dtype_bytes(t) > 0) == (t != DTYPE_OTHER), "%s has a size", dtype_name(t));
    }
    CHECK(dtype_from_name("torch.bfloat16") == DTYPE_BF16, "torch's name is known");
    CHECK(dtype_from_name("float16") == DTYPE_F16 && dtype_from_name("float32") == DTYPE_F32,
          "the long names are known");
    CHECK(dtype_from_name("fp12") == -1 && dtype_from_name("") == -1, "others are not");
}

static void weight_sizes(void **state)
{
    struct weight nf4 = { .form = WEIGHT_TABLE,
                          .n_out = 3,
                          .n_in = 100,
                          .bits = 4,
                          .row_bytes = 52,
                          .group_size = 64,
                          .flat_groups = true,
                          .n_groups = 5,
                          .scale_form = SCALE_F32 };
    struct weight nested = nf4;
    struct weight affine = { .form = WEIGHT_AFFINE,
                             .n_out = 2,
                             .n_in = 1024,
                             .bits = 4,
                             .row_bytes = 512,
                             .group_size = 4,
                             .n_groups = 512,
                             .scale_form = SCALE_U8,
                             .zero_form = ZERO_U8 };
    struct weight large = { .form = WEIGHT_TABLE,
                            .n_out = 2048,
                            .n_in = 2048,
                            .bits = 4,
                            .row_bytes = 1024,
                            .group_size = 64,
                            .n_groups = 65536,
                            .scale_form = SCALE_F32 };

    (void)state;
    nested.scale_form = SCALE_NESTED;
    CHECK(weight_bytes(&nf4) == 3 * 52 + 5 * 4 + 64, "codes, scales and the code table");
    CHECK(weight_bytes(&nested) == 3 * 52 + 5 + 4 + 64 + 4 + 1024,
          "codes, byte scales, one second-level scale, table, offset and map");
    CHECK(weight_bytes(&affine) == 1024 + 512 + 2 * 4 + 512, "two runs of 256 byte scales");
    affine.n_groups = 513;
    CHECK(weight_scales2_bytes(&affine) == 12, "one scale more starts another run");
    CHECK(weight_bits_per_weight(&large) == 4.5, "nf4 in blocks of 64 takes 4.5 bits");
    large.scale_form = SCALE_NESTED;
    CHECK(check_near(weight_bits_per_weight(&large), 4.126953125, 0), "and 4.127 double quantized");
}

static void code_tables(void **state)
{
    float table[16], before = -1;

    (void)state;
    weight_code_table(TABLE_NF4, table);
    CHECK(bits_of(table[0]) == 0xBF800000 && bits_of(table[7]) == 0 &&
              bits_of(table[11]) == 0x3EAD033A && bits_of(table[15]) == 0x3F800000,
          "nf4 runs from -1 to 1 through 0");
    for (int i = 1; i < 16; i++)
        CHECK(table[i] > table[i - 1], "nf4 ascends at %d", i);
    weight_code_table(TABLE_FP4, table);
    CHECK(bits_of(table[1]) == 0x3BAAAAAB && bits_of(table[2]) == 0x3F2AAAAB &&
              bits_of(table[12]) == 0xBEAAAAAB && bits_of(table[8]) == 0x80000000,
          "fp4 has its sign in bit 3");
    for (int i = 0; i < 256; i++) {
        CHECK(weight_dynamic_map[i] > before, "the dynamic map ascends at %d", i);
        before = weight_dynamic_map[i];
    }
    CHECK(bits_of(weight_dynamic_map[0]) == 0xBF7E3333 && weight_dynamic_map[127] == 0 &&
              weight_dynamic_map[255] == 1,
          "from -0.993 through 0 to 1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fp16),         cmocka_unit_test(bf16),        cmocka_unit_test(names),
        cmocka_unit_test(weight_sizes), cmocka_unit_test(code_tables),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
