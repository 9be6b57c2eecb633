/* test_gpu_quantize_answers.c - what quantizers on the GPU tell with the next wait: weights that
 * they refuse, by name and place, and many weights before one wait. */
#include "quantized.h"

#include "base/memory.h"

static void what_is_not_finite_is_refused(void **state)
{
    static const struct {
        enum quantize_rule rule;
        int64_t group;
    } rules[] = { { QUANTIZE_BNB_NF4, 64 },   { QUANTIZE_BNB_FP4, 64 }, { QUANTIZE_INT8_ROW, 64 },
                  { QUANTIZE_GRID_GPTQ, 64 }, { QUANTIZE_TABLE, 64 },   { QUANTIZE_MXFP4, 32 },
                  { QUANTIZE_NVFP4, 16 },     { QUANTIZE_E4M3, 64 },    { QUANTIZE_E4M3, 320 },
                  { QUANTIZE_HQQ, 32 } };
    static const float bad[] = { NAN, INFINITY, 70000.0f };

    (void)state;
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        for (size_t k = 0; k < 3; k++) {
            struct tensor x = random_tensor(DTYPE_F32, 5, 64, 1);
            struct weight w;
            struct err e = ERR_INIT;

            set_element(&x, 3, 41, bad[k]);
            struct tensor dx = device_tensor(&x);
            struct quantize_args a = { .w = &dx,
                                       .rule = rules[i].rule,
                                       .bits = 8,
                                       .group_size = rules[i].group,
                                       .table = TABLE_NF3,
                                       .out = &w };
            bool fine = k == 2 && rules[i].rule != QUANTIZE_INT8_ROW;
            CHECK_OK(gpu.ops->quantize(&gpu, &a, &e), e);
            CHECK((gpu.ops->sync(&gpu, &e) == 0) == fine, "%g and rule %d: %s", (double)bad[k],
                  rules[i].rule, e.text);
            CHECK(fine || (e.code == ERR_INPUT && strstr(e.text, "weight [3, 41]")),
                  "the place is said: %s", e.text);
            CHECK(gpu.ops->sync(&gpu, &e) == 0, "and only once");
            weight_release(&gpu, &w);
            device_free(dx.data);
            free_tensor(&x);
        }
}

/* Refused in the same words as on the host. */
static void too_wide_for_its_scales(void **state)
{
    static const struct {
        struct quantize_args a;
        float at, least;
        bool fine;
    } cases[] = {
        { { .rule = QUANTIZE_TABLE, .table = TABLE_NF4, .scale_dtype = DTYPE_F16 },
          7e4f,
          0,
          false },
        { { .rule = QUANTIZE_TABLE, .table = TABLE_NF4 }, 7e4f, 0, true },
        { { .rule = QUANTIZE_E4M3, .scale_dtype = DTYPE_F16 }, 3e7f, 0, false },
        { { .rule = QUANTIZE_E4M3, .scale_dtype = DTYPE_F16 }, 7e4f, 0, true },
        { { .rule = QUANTIZE_GRID_AWQ, .bits = 4, .scale_dtype = DTYPE_F16 }, 2e6f, 0, false },
        { { .rule = QUANTIZE_HQQ, .bits = 4, .scale_dtype = DTYPE_F16 }, 2e6f, 0, false },
        { { .rule = QUANTIZE_HQQ, .bits = 4, .scale_dtype = DTYPE_F16 }, 1e5f, 99999.0f, false },
        { { .rule = QUANTIZE_HQQ, .bits = 4 }, 1e5f, 99999.0f, true },
        { { .rule = QUANTIZE_HQQ, .bits = 4 }, 3e38f, -3e38f, false },
        { { .rule = QUANTIZE_GRID_GPTQ, .bits = 4 }, 3e38f, -3e38f, false },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tensor x = random_tensor(DTYPE_F32, 5, 64, 1);
        struct quantize_args a = cases[i].a;
        struct weight w, want = { 0 };
        struct err e = ERR_INIT, on_cpu = ERR_INIT;

        for (int64_t c = 0; c < 64; c++)
            set_element(&x, 3, c, cases[i].least ? cases[i].least : element(&x, 3, c));
        set_element(&x, 3, 41, cases[i].at);
        struct tensor dx = device_tensor(&x);
        a.group_size = 64;
        a.w = &x;
        a.out = &want;
        CHECK((cpu->ops->quantize(cpu, &a, &on_cpu) == 0) == cases[i].fine, "case %zu: %s", i,
              on_cpu.text);
        a.w = &dx;
        a.out = &w;
        CHECK_OK(gpu.ops->quantize(&gpu, &a, &e), e);
        CHECK((gpu.ops->sync(&gpu, &e) == 0) == cases[i].fine, "case %zu: %s", i, e.text);
        CHECK(!strcmp(e.text, on_cpu.text), "case %zu: %s; on the host %s", i, e.text, on_cpu.text);
        weight_release(cpu, &want);
        weight_release(&gpu, &w);
        device_free(dx.data);
        free_tensor(&x);
    }
}

/* 16-bit weights of every way that are refused, in words of their own and others'. */
static void refused_in_16_bits(void **state)
{
    static const struct quantize_args rules[] = {
        { .rule = QUANTIZE_BNB_NF4, .bits = 4, .group_size = 64, .double_quant = true },
        { .rule = QUANTIZE_BNB_FP4, .bits = 4, .group_size = 1024 },
        { .rule = QUANTIZE_BNB_NF4, .bits = 4, .group_size = 4096 },
        { .rule = QUANTIZE_INT8_ROW, .bits = 8, .group_size = 1024 },
        { .rule = QUANTIZE_GRID_ABSMAX, .bits = 3, .group_size = 32, .sym = true },
        { .rule = QUANTIZE_GRID_GPTQ, .bits = 8, .group_size = 512 },
    };
    static const float bad[] = { NAN, INFINITY, -INFINITY };

    (void)state;
    for (size_t i = 0; i < 6; i++)
        for (size_t k = 0; k < 9; k++) {
            const enum dtype t = k / 3 == 0 ? DTYPE_F16 : DTYPE_BF16;
            struct tensor x = random_tensor(t, 8, 1024, 1);
            struct quantize_args a = rules[i];
            struct weight w;
            struct err e = ERR_INIT;

            a.source = k / 3 == 2 ? DTYPE_F16 : DTYPE_F32;
            /* What the source dtype cannot hold is infinite. */
            set_element(&x, 5, 1000, k / 3 == 2 ? 1e6f : bad[k % 3]);
            set_element(&x, 6, 3, NAN);
            struct tensor dx = device_tensor(&x);
            a.w = &dx;
            a.out = &w;
            CHECK_OK(gpu.ops->quantize(&gpu, &a, &e), e);
            CHECK(gpu.ops->sync(&gpu, &e) == -1 && e.code == ERR_INPUT &&
                      strstr(e.text, "weight [5, 1000]"),
                  "rule %d: %s", (int)i, e.text);
            weight_release(&gpu, &w);
            device_free(dx.data);
            free_tensor(&x);
        }
}

/* Many are asked for, two of them refused: the first is told, all others are what they are alone.
 */
static void many_before_a_wait(void **state)
{
    enum { N = 75 };
    static struct weight w[N];
    static struct tensor dx[N], x[N];
    struct err e = ERR_INIT;

    (void)state;
    for (int i = 0; i < N; i++) {
        /* Kinds change now and then, so that some start together and some do not. */
        struct quantize_args a = { .w = &dx[i],
                                   .rule = i / 30 % 2 ? QUANTIZE_BNB_FP4 : QUANTIZE_BNB_NF4,
                                   .bits = 4,
                                   .group_size = i == 20 ? 5 : 64,
                                   .double_quant = i != 64,
                                   .out = &w[i] };

        x[i] = random_tensor(i % 11 ? DTYPE_F16 : DTYPE_BF16, 16 + 16 * (i % 3), 1024, 0.02f);
        if (i == 33 || i == 50)
            set_element(&x[i], 3, i, NAN);
        dx[i] = device_tensor(&x[i]);
        CHECK_OK(gpu.ops->quantize(&gpu, &a, &e), e);
        CHECK(w[i].codes && w[i].n_out == x[i].n_rows, "the form is there at once");
    }
    CHECK(gpu.ops->sync(&gpu, &e) == -1 && strstr(e.text, "weight [3, 33]"), "refused: %s", e.text);
    for (int i = 0; i < N; i++) {
        struct quantize_args a = { .rule = i / 30 % 2 ? QUANTIZE_BNB_FP4 : QUANTIZE_BNB_NF4,
                                   .bits = 4,
                                   .group_size = i == 20 ? 5 : 64,
                                   .double_quant = i != 64 };
        if (i != 33 && i != 50) {
            struct weight alone;
            a.w = &dx[i];
            a.out = &alone;
            CHECK_OK(gpu.ops->quantize(&gpu, &a, &e), e);
            CHECK_OK(gpu.ops->sync(&gpu, &e), e);
            check_same_weights("alone", &w[i], &alone);
            weight_release(&gpu, &alone);
        }
        weight_release(&gpu, &w[i]);
        device_free(dx[i].data);
        free_tensor(&x[i]);
    }
}

/* More answers than there is room for at once. */
static void thousands_before_a_wait(void **state)
{
    enum { N = 2100 };
    struct weight *w = mem_array(N, sizeof *w);
    struct tensor x = random_tensor(DTYPE_F16, 1, 1024, 1), dx = device_tensor(&x);
    struct tensor bad = random_tensor(DTYPE_F16, 1, 1024, 1);
    struct err e = ERR_INIT;

    (void)state;
    set_element(&bad, 0, 77, INFINITY);
    struct tensor dbad = device_tensor(&bad);
    for (int i = 0; i < N; i++) {
        struct quantize_args a = { .w = i == 100 ? &dbad : &dx,
                                   .rule = QUANTIZE_BNB_NF4,
                                   .bits = 4,
                                   .group_size = 64,
                                   .double_quant = true,
                                   .out = &w[i] };
        CHECK_OK(gpu.ops->quantize(&gpu, &a, &e), e);
    }
    CHECK(gpu.ops->sync(&gpu, &e) == -1 && strstr(e.text, "weight [0, 77]"),
          "an early refusal is not lost: %s", e.text);
    const float offset = w[0].nested_offset;
    for (int i = 0; i < N; i++) {
        CHECK(i == 100 || (w[i].nested_offset == offset && offset > 0), "offset %d came", i);
        weight_release(&gpu, &w[i]);
    }
    device_free(dx.data);
    device_free(dbad.data);
    free_tensor(&x);
    free_tensor(&bad);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_finite_is_refused),
        cmocka_unit_test(too_wide_for_its_scales),
        cmocka_unit_test(refused_in_16_bits),
        cmocka_unit_test(many_before_a_wait),
        cmocka_unit_test(thousands_before_a_wait),
    };

    return open_device() ? cmocka_run_group_tests(tests, open_twins, close_twins) : 1;
}
