/* test_cpu_kernels.c - every instruction set gives the bits of weight.h's definition, which is
 * written down here once more, element by element, over awkward shapes. */
#include "check.h"

#include "base/memory.h"
#include "base/rng.h"
#include "cpu/cpu.h"

#include <string.h>

#define N_ISA 3

/* The kernels this processor runs, narrowest first. */
static int kernels_here(const struct cpu_kernels *out[N_ISA])
{
    static const char *const names[N_ISA] = { "generic", "avx2", "avx512" };
    int n = 0;

    for (int i = 0; i < N_ISA; i++) {
        struct err e = ERR_INIT;
        setenv("LLQ_CPU_ISA", names[i], 1);
        const struct cpu_kernels *k = cpu_kernels_choose(&e);
        if (k)
            out[n++] = k;
    }
    unsetenv("LLQ_CPU_ISA");
    return n;
}

static uint32_t draw(uint64_t seed, int64_t i, uint32_t below)
{
    return (uint32_t)rng_below(seed, RNG_TEST, (uint64_t)i, below);
}

static float e4m3(uint8_t byte)
{
    int exponent = byte >> 3 & 15, mantissa = byte & 7;
    float size =
        exponent ? ldexpf((float)(mantissa + 8), exponent - 10) : ldexpf((float)mantissa, -9);

    return byte & 0x80 ? -size : size;
}

static float scale_of(const struct weight *w, int64_t g)
{
    const uint8_t *bytes = w->scales;
    const float *scales2 = w->scales2;

    switch (w->scale_form) {
    case SCALE_NONE:
        return 1;
    case SCALE_F32:
        return ((const float *)w->scales)[g];
    case SCALE_F16:
        return dtype_f16_to_f32(((const uint16_t *)w->scales)[g]);
    case SCALE_NESTED: {
        float product = weight_dynamic_map[bytes[g]] * scales2[g / 256];
        return product + w->nested_offset;
    }
    case SCALE_U8:
        return (float)bytes[g] * scales2[g / 256];
    case SCALE_E8M0:
        return ldexpf(1, bytes[g] - 127);
    case SCALE_E4M3:
        return e4m3(bytes[g]) * w->nested_offset;
    }
    return NAN;
}

static float zero_of(const struct weight *w, int64_t g)
{
    switch (w->zero_form) {
    case ZERO_CONSTANT:
        return (float)w->zero_constant;
    case ZERO_U8:
        return ((const uint8_t *)w->zeros)[g];
    case ZERO_F32:
        return ((const float *)w->zeros)[g];
    case ZERO_F16:
        return dtype_f16_to_f32(((const uint16_t *)w->zeros)[g]);
    }
    return NAN;
}

static float rounded(enum dtype t, float x)
{
    return t == DTYPE_F16    ? dtype_f16_to_f32(dtype_f32_to_f16(x))
           : t == DTYPE_BF16 ? dtype_bf16_to_f32(dtype_f32_to_bf16(x))
                             : x;
}

static float value_of(const struct weight *w, int64_t row, int64_t col, enum dtype compute)
{
    const uint8_t *codes = (const uint8_t *)w->codes + row * w->row_bytes;
    int64_t group = w->flat_groups ? (row * w->n_in + col) / w->group_size
                                   : row * (w->n_groups / w->n_out) +
                                         (w->g_idx ? w->g_idx[col] : col / w->group_size);
    float scale = scale_of(w, group);
    unsigned code = 0;

    for (int64_t bit = 0; bit < w->bits; bit++) {
        int64_t at = col * w->bits + bit;
        code |= (unsigned)(codes[at / 8] >> at % 8 & 1) << bit;
    }
    if (w->form == WEIGHT_INT8) {
        float product = (float)(int8_t)code * scale;
        return rounded(compute, product * 0x1.020408p-7f);
    }
    float from_zero = w->form == WEIGHT_TABLE ? w->table[code] : (float)code - zero_of(w, group);
    return rounded(compute, from_zero * scale);
}

/* Exactly n bytes, so that a sanitizer sees a read behind them. */
static void *random_bytes(int64_t n, uint64_t seed, uint32_t below)
{
    uint8_t *p = malloc((size_t)n);

    for (int64_t i = 0; i < n; i++)
        p[i] = (uint8_t)draw(seed, i, below);
    return p;
}

static float *random_floats(int64_t n, uint64_t seed, float size)
{
    float *p = malloc((size_t)n * sizeof *p);

    for (int64_t i = 0; i < n; i++)
        p[i] = ((float)rng_real(seed, RNG_TEST, (uint64_t)i) - 0.3f) * size;
    return p;
}

static uint16_t *random_halves(int64_t n, uint64_t seed, float size)
{
    float *values = random_floats(n, seed, size);
    uint16_t *p = malloc((size_t)n * sizeof *p);

    dtype_from_f32(DTYPE_F16, values, p, n);
    free(values);
    return p;
}

static void fill(struct weight *w, uint64_t seed)
{
    int64_t n = w->n_groups;

    w->row_bytes = (w->n_in * w->bits + 31) / 32 * 4;
    w->codes = random_bytes(w->n_out * w->row_bytes, seed, 256);
    w->scales = w->scale_form == SCALE_F32   ? (void *)random_floats(n, seed + 1, 0.1f)
                : w->scale_form == SCALE_F16 ? (void *)random_halves(n, seed + 1, 0.1f)
                : w->scale_form == SCALE_E4M3
                    ? random_bytes(n, seed + 1, 127)
                    : random_bytes(n, seed + 1, w->scale_form == SCALE_E8M0 ? 150 : 256);
    w->scales2 = random_floats((n + 255) / 256, seed + 2, 0.01f);
    w->nested_offset = 0.37f;
    w->zero_constant = 1 << (w->bits - 1);
    w->zeros = w->zero_form == ZERO_F32   ? (void *)random_floats(n, seed + 3, 9)
               : w->zero_form == ZERO_F16 ? (void *)random_halves(n, seed + 3, 9)
                                          : random_bytes(n, seed + 3, 1u << w->bits);
    if (w->form == WEIGHT_TABLE)
        weight_code_table(TABLE_NF4, w->table);
}

static void drop(struct weight *w)
{
    free(w->codes);
    free(w->scales);
    free(w->scales2);
    free(w->zeros);
    free(w->g_idx);
}

/* Columns first .. first + n - 1 of all rows, in every instruction set and compute type. */
static void check_block(const struct weight *w, int64_t first, int64_t n)
{
    static const enum dtype types[] = { DTYPE_F32, DTYPE_F16, DTYPE_BF16 };
    const struct cpu_kernels *k[N_ISA];
    int n_isa = kernels_here(k);
    float *want = mem_alloc((size_t)(w->n_out * n) * sizeof *want);
    float *got = mem_alloc((size_t)(w->n_out * n) * sizeof *got);

    for (size_t t = 0; t < 3; t++) {
        for (int64_t i = 0; i < w->n_out * n; i++)
            want[i] = value_of(w, i / n, first + i % n, types[t]);
        for (int i = 0; i < n_isa; i++) {
            memset(got, 0xFF, (size_t)(w->n_out * n) * sizeof *got);
            cpu_weight_block(k[i], w, 0, w->n_out, first, n, types[t], got, n);
            for (int64_t at = 0; at < w->n_out * n; at++)
                CHECK(memcmp(&got[at], &want[at], sizeof *got) == 0,
                      "%s: form %d, %d bits, %lld columns in groups of %lld, scale form %d, zero "
                      "form %d, compute %s: row %lld, column %lld is %a, not %a",
                      k[i]->name, (int)w->form, w->bits, (long long)w->n_in,
                      (long long)w->group_size, (int)w->scale_form, (int)w->zero_form,
                      dtype_name(types[t]), (long long)(at / n), (long long)(first + at % n),
                      (double)want[at], (double)got[at]);
        }
    }
    free(want);
    free(got);
}

/* The whole rows, and parts that begin inside a byte and inside a group. */
static void check_weight(const struct weight *w)
{
    static const int64_t firsts[] = { 1, 3, 8, 17, 37, 128, 515 };

    check_block(w, 0, w->n_in);
    for (size_t i = 0; i < sizeof firsts / sizeof *firsts; i++)
        if (firsts[i] < w->n_in) {
            int64_t left = w->n_in - firsts[i];
            check_block(w, firsts[i], left);
            check_block(w, firsts[i], left < 33 ? 1 : 33);
        }
}

static void test_affine(void **state)
{
    static const int64_t widths[] = { 1, 7, 33, 96, 131, 512, 1063 };
    static const int64_t sizes[] = { 1, 5, 16, 32, 64, 128, 1024, 0 /* a row */ };
    static const enum scale_form scales[] = { SCALE_F32, SCALE_F16, SCALE_U8 };
    int n = 0;

    (void)state;
    for (int bits = 2; bits <= 8; bits++)
        for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
            for (size_t j = 0; j < sizeof sizes / sizeof *sizes; j++, n++) {
                struct weight w = { .form = WEIGHT_AFFINE,
                                    .n_out = 2,
                                    .n_in = widths[i],
                                    .bits = bits,
                                    .group_size = sizes[j] ? sizes[j] : widths[i],
                                    .scale_form = scales[n % 3],
                                    .zero_form = (enum zero_form)(n % 4) };

                w.n_groups = 2 * ((w.n_in + w.group_size - 1) / w.group_size);
                fill(&w, (uint64_t)n);
                check_weight(&w);
                drop(&w);
            }
}

/* Blocks of the flattened matrix cross rows. */
static void test_flat_tables(void **state)
{
    static const int64_t widths[] = { 5, 33, 100, 515, 1063 };
    static const int64_t sizes[] = { 16, 64, 256, 4096 };
    static const enum scale_form scales[] = { SCALE_F32, SCALE_NESTED, SCALE_E8M0, SCALE_E4M3,
                                              SCALE_NONE };
    int n = 0;

    (void)state;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        for (size_t j = 0; j < sizeof sizes / sizeof *sizes; j++, n++) {
            struct weight w = { .form = WEIGHT_TABLE,
                                .n_out = 3,
                                .n_in = widths[i],
                                .bits = 2 + n % 3,
                                .group_size = sizes[j],
                                .flat_groups = true,
                                .n_groups = (3 * widths[i] + sizes[j] - 1) / sizes[j],
                                .scale_form = scales[n % 5] };

            fill(&w, (uint64_t)(1000 + n));
            check_weight(&w);
            drop(&w);
        }
}

/* Columns in another order than their groups (act-order). */
static void test_groups_by_column(void **state)
{
    (void)state;
    for (int bits = 2; bits <= 8; bits++) {
        struct weight w = { .form = WEIGHT_AFFINE,
                            .n_out = 2,
                            .n_in = 613,
                            .bits = bits,
                            .group_size = 64,
                            .n_groups = 20,
                            .scale_form = bits % 2 ? SCALE_F32 : SCALE_F16,
                            .zero_form = bits % 2 ? ZERO_U8 : ZERO_F16 };

        fill(&w, (uint64_t)(2000 + bits));
        w.g_idx = malloc((size_t)w.n_in * sizeof *w.g_idx);
        for (int64_t i = 0; i < w.n_in; i++)
            w.g_idx[i] = (int32_t)draw(7, i / (1 + i % 3), 10);
        check_weight(&w);
        drop(&w);
    }
}

static void test_int8(void **state)
{
    (void)state;
    for (int64_t n_in = 1; n_in < 80; n_in += 13) {
        struct weight w = { .form = WEIGHT_INT8,
                            .n_out = 3,
                            .n_in = n_in,
                            .bits = 8,
                            .group_size = n_in,
                            .n_groups = 3,
                            .scale_form = SCALE_F32 };

        fill(&w, (uint64_t)(3000 + n_in));
        check_weight(&w);
        drop(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_affine),
        cmocka_unit_test(test_flat_tables),
        cmocka_unit_test(test_groups_by_column),
        cmocka_unit_test(test_int8),
    };

    return cmocka_run_group_tests_name("cpu_kernels", tests, NULL, NULL);
}
