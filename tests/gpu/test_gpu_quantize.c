/* test_gpu_quantize.c - quantizers on the GPU beside the CPU's: scales for every rule, width and
 * group, and codes where both divide alike; the two ways that lead to codes; errors of
 * quantization.
 *
 * HQQ, floating-point formats and fp16 scales: every bit is the CPU's. */
#include "quantized.h"
#include "vectors.h"

/* ---- beside the CPU ---- */

/* Every bit pattern that is a number, in blocks of all magnitudes. */
static struct tensor all_numbers(enum dtype t, int64_t n_out, int64_t n_in)
{
    struct tensor out = new_tensor(t, n_out, n_in);
    uint16_t *bits = out.data;

    for (int64_t i = 0; i < n_out * n_in; i++) {
        const uint16_t limit = t == DTYPE_F16 ? 0x7BFF : 0x7F7F;
        uint16_t most = (uint16_t)(draw() * (limit + 1));

        /* Mostly within four binades below the block's greatest. */
        if (i % 64)
            most = bits[i - i % 64] & 0x7FFF;
        uint16_t span = t == DTYPE_F16 ? 0x1000 : 0x200;
        uint16_t low = most > span && draw() < 0.9 ? (uint16_t)(most - span) : 0;
        bits[i] = (uint16_t)(low + draw() * (most - low + 1));
        bits[i] |= draw() < 0.5 ? 0x8000 : 0;
    }
    return out;
}

/* Largest magnitude of the block that holds element `at`. */
static float block_absmax(const struct tensor *x, int64_t at, int64_t size)
{
    int64_t n = x->n_rows * x->n_cols, first = at / size * size;
    float most = 0;

    for (int64_t i = first; i < n && i < first + size; i++)
        most = fmaxf(most, fabsf(element(x, i / x->n_cols, i % x->n_cols)));
    return most;
}

/* Where bitsandbytes divides approximately, and the CPU does not, a code may differ: for FP4 where
 * the scaled value is within 2 ulp of a threshold, for int8 rows where it is that near to a half.
 * (A coarse input type has many equal values, so many codes may differ at once.) */
static void check_near_threshold(const char *name, const struct quantize_args *a,
                                 const struct weight *got, const struct weight *want)
{
    bool fp4 = a->rule == QUANTIZE_BNB_FP4;

    for (int64_t i = 0; i < want->n_out * want->n_in; i++) {
        int64_t row = i / want->n_in, col = i % want->n_in;
        int on_gpu = code_at(got, row, col), on_cpu = code_at(want, row, col);

        if (on_gpu == on_cpu)
            continue;
        float x = element(a->w, row, col), absmax = block_absmax(a->w, i, want->group_size);
        if (fp4) {
            CHECK(fp4_moves(x, absmax, on_gpu) <= 2, "%s: code %lld of %a / %a is %d, not %d", name,
                  (long long)i, (double)x, (double)absmax, on_gpu, on_cpu);
        } else {
            double y = (double)round_to(DTYPE_F16, x) * 127 / round_to(DTYPE_F16, absmax);
            CHECK(abs((int8_t)on_gpu - (int8_t)on_cpu) == 1 &&
                      check_near(fabs(y - floor(y)), 0.5, 127 * 0x1p-22),
                  "%s: code %lld of %g is %d, not %d", name, (long long)i, y, (int8_t)on_gpu,
                  (int8_t)on_cpu);
        }
    }
}

static void twin_case(const char *name, struct quantize_args a, enum dtype t, int64_t n_out,
                      int64_t n_in)
{
    if (left_out())
        return;
    /* Where bitsandbytes divides approximately and the CPU does not, its files decide. */
    bool approximate = a.rule == QUANTIZE_BNB_FP4 || a.rule == QUANTIZE_INT8_ROW ||
                       (a.rule == QUANTIZE_BNB_NF4 && t == DTYPE_F32 && !dtype_is_16bit(a.source));
    struct tensor x = random_tensor(t, n_out, n_in, 0.1f);
    struct weight want;
    struct err e = ERR_INIT;

    for (int64_t c = 0; c < n_in && n_out > 2; c++)
        set_element(&x, 1, c, 0); /* groups of zeros */
    set_element(&x, n_out - 1, n_in - 1, -3);
    for (int64_t c = 0; c < n_in && n_out > 2; c += 3)
        set_element(&x, 1, c, -0.0f);
    a.w = &x;
    a.out = &want;
    CHECK_OK(cpu->ops->quantize(cpu, &a, &e), e);
    struct weight got = quantized(&x, a, t, NULL);
    CHECK(got.form == want.form && got.row_bytes == want.row_bytes && got.bits == want.bits &&
              got.n_groups == want.n_groups && got.scale_form == want.scale_form,
          "%s: same forms", name);
    if (a.rule == QUANTIZE_BNB_FP4 || a.rule == QUANTIZE_INT8_ROW) {
        for (int64_t i = 0; dtype_is_16bit(a.source) && i < n_out * n_in; i++)
            set_element(&x, i / n_in, i % n_in,
                        round_to(a.source, element(&x, i / n_in, i % n_in)));
        check_near_threshold(name, &a, &got, &want);
    }
    CHECK(approximate || !memcmp(got.codes, want.codes, weight_codes_bytes(&want)),
          "%s of %s, %lld x %lld: the CPU's codes", name, dtype_name(t), (long long)n_out,
          (long long)n_in);
    CHECK(!memcmp(got.zeros, want.zeros, weight_zeros_bytes(&want)) || !want.zeros,
          "%s: the CPU's zero points", name);
    if (want.scale_form == SCALE_NESTED) {
        CHECK(ulps_apart(got.nested_offset, want.nested_offset) <= 1, "%s: offset", name);
        for (int64_t g = 0; g < want.n_groups; g++)
            CHECK(abs(((uint8_t *)got.scales)[g] - ((uint8_t *)want.scales)[g]) <= 1,
                  "%s: scale %lld is at most a step off", name, (long long)g);
    } else {
        CHECK(got.nested_offset == want.nested_offset, "%s: the matrix's scale", name);
        CHECK(!memcmp(got.scales, want.scales, weight_scales_bytes(&want)), "%s: the CPU's scales",
              name);
        CHECK(!want.scales2 || !memcmp(got.scales2, want.scales2, weight_scales2_bytes(&want)),
              "%s: the CPU's second scales", name);
    }
    weight_release(&isas[0], &got);
    weight_release(cpu, &want);
    free_tensor(&x);
}

static void every_rule(void **state)
{
    static const struct {
        int64_t n_out, n_in, group;
    } cases[] = {
        { 1, 1, 1 },         { 3, 63, 63 },     { 9, 96, 32 },    { 33, 640, 128 },
        { 70, 172, 172 },    { 8, 512, 64 },    { 64, 256, 256 }, { 6, 1024, 512 },
        { 3, 1024, 1024 },   { 5, 2048, 2048 }, { 2, 896, 896 },  { 1, 16384, 16384 },
        { 1, 16416, 16416 },
    };
    static const struct {
        const char *name;
        enum quantize_rule rule;
    } grids[] = { { "absmax grid", QUANTIZE_GRID_ABSMAX },
                  { "gptq grid", QUANTIZE_GRID_GPTQ },
                  { "awq grid", QUANTIZE_GRID_AWQ } };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t d = 0; d < 3; d++) {
            int64_t n_out = cases[i].n_out, n_in = cases[i].n_in;

            for (int nested = 0; nested < 2; nested++) {
                struct quantize_args a = { .bits = 4, .group_size = 64, .double_quant = nested };

                a.rule = QUANTIZE_BNB_NF4;
                twin_case("nf4", a, model_dtypes[d], n_out, n_in);
                a.rule = QUANTIZE_BNB_FP4;
                a.group_size = 4096;
                twin_case("fp4", a, model_dtypes[d], n_out, n_in);
                for (int bits = 2; bits <= 8; bits++)
                    for (size_t k = 0; k < 6; k++) {
                        struct quantize_args g = { .rule = grids[k / 2].rule,
                                                   .bits = bits,
                                                   .group_size = cases[i].group,
                                                   .sym = k % 2,
                                                   .double_quant = nested };
                        twin_case(grids[k / 2].name, g, model_dtypes[d], n_out, n_in);
                    }
            }
            struct quantize_args a = { .rule = QUANTIZE_INT8_ROW, .bits = 8, .group_size = n_in };
            twin_case("int8 rows", a, model_dtypes[d], n_out, n_in);
        }
}

/* Scales in fp32, in fp16, quantized again. */
static void with_every_scale(const char *name, struct quantize_args a, int64_t n_out, int64_t n_in)
{
    for (size_t d = 0; d < 3; d++)
        for (int k = 0; k < 3; k++) {
            a.scale_dtype = k == 1 ? DTYPE_F16 : DTYPE_F32;
            a.double_quant = k == 2;
            twin_case(name, a, model_dtypes[d], n_out, n_in);
        }
}

static const struct {
    int64_t n_out, n_in, group;
} row_cases[] = {
    { 1, 1, 1 },       { 3, 63, 63 },     { 5, 63, 9 },      { 9, 96, 32 },
    { 33, 640, 128 },  { 70, 172, 172 },  { 8, 512, 16 },    { 64, 256, 256 },
    { 6, 1024, 512 },  { 40, 2048, 64 },  { 2, 8192, 8192 }, { 3, 8192, 4096 },
    { 5, 2080, 1040 }, { 2, 4104, 4104 }, { 7, 100, 20 },    { 300, 128, 64 },
};
#define N_ROW_CASES (sizeof row_cases / sizeof *row_cases)

static void floating_point_formats(void **state)
{
    static const struct {
        const char *name;
        enum code_table table;
    } tables[] = {
        { "nf2", TABLE_NF2 }, { "nf3", TABLE_NF3 }, { "nf4", TABLE_NF4 }, { "fp4", TABLE_FP4 }
    };

    (void)state;
    for (size_t i = 0; i < N_ROW_CASES; i++) {
        const int64_t n_out = row_cases[i].n_out, n_in = row_cases[i].n_in;
        struct quantize_args a = { .group_size = row_cases[i].group };

        for (size_t k = 0; k < 4; k++) {
            a.rule = QUANTIZE_TABLE;
            a.table = tables[k].table;
            with_every_scale(tables[k].name, a, n_out, n_in);
        }
        a = (struct quantize_args){ .rule = QUANTIZE_E4M3, .group_size = row_cases[i].group };
        with_every_scale("fp8", a, n_out, n_in);
        a.group_size = n_out * n_in;
        with_every_scale("fp8 of a matrix", a, n_out, n_in);
        for (size_t d = 0; d < 3 && n_in % 16 == 0; d++) {
            struct quantize_args mx = { .rule = QUANTIZE_MXFP4, .group_size = 32 };
            struct quantize_args nv = { .rule = QUANTIZE_NVFP4, .group_size = 16 };

            twin_case("nvfp4", nv, model_dtypes[d], n_out, n_in);
            if (n_in % 32 == 0)
                twin_case("mxfp4", mx, model_dtypes[d], n_out, n_in);
        }
    }
}

static void grids_with_fp16_scales(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ROW_CASES; i++)
        for (int rule = QUANTIZE_GRID_ABSMAX; rule <= QUANTIZE_GRID_AWQ; rule++)
            for (int bits = 2; bits <= 8; bits++)
                for (size_t d = 0; d < 3; d++) {
                    struct quantize_args a = { .rule = (enum quantize_rule)rule,
                                               .bits = bits,
                                               .group_size = row_cases[i].group,
                                               .sym = (bits + rule) % 2,
                                               .scale_dtype = DTYPE_F16 };

                    twin_case("grid, fp16", a, model_dtypes[d], row_cases[i].n_out,
                              row_cases[i].n_in);
                }
}

static void half_quadratic(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ROW_CASES; i++)
        for (int bits = 2; bits <= 8; bits++) {
            struct quantize_args a = { .rule = QUANTIZE_HQQ,
                                       .bits = bits,
                                       .group_size = row_cases[i].group,
                                       .round_zero = (bits + (int)i) % 2 };

            with_every_scale("hqq", a, row_cases[i].n_out, row_cases[i].n_in);
        }
    /* As large as those of a model: many steps, many rows. */
    struct quantize_args a = {
        .rule = QUANTIZE_HQQ, .bits = 4, .group_size = 64, .round_zero = true
    };
    twin_case("hqq", a, DTYPE_BF16, 1030, 2048);
    a.bits = 2;
    a.group_size = 128;
    twin_case("hqq", a, DTYPE_F16, 515, 8192);
}

/* All magnitudes: powers of two as scales, steps of e4m3 as small as they get. */
static void numbers_of_every_size(void **state)
{
    static const struct quantize_args rules[] = {
        { .rule = QUANTIZE_MXFP4, .group_size = 32 },
        { .rule = QUANTIZE_NVFP4, .group_size = 16 },
        { .rule = QUANTIZE_E4M3, .group_size = 64 },
        { .rule = QUANTIZE_E4M3, .group_size = 64 * 4096 },
        { .rule = QUANTIZE_TABLE, .table = TABLE_NF3, .group_size = 64 },
        { .rule = QUANTIZE_TABLE, .table = TABLE_FP4, .group_size = 128 },
    };

    (void)state;
    for (size_t d = 1; d < 3; d++)
        for (size_t r = 0; r < sizeof rules / sizeof *rules; r++) {
            if (left_out())
                continue;
            struct tensor x = all_numbers(model_dtypes[d], 64, 4096);
            struct quantize_args a = rules[r];
            struct weight want;
            struct err e = ERR_INIT;

            a.w = &x;
            a.out = &want;
            CHECK_OK(cpu->ops->quantize(cpu, &a, &e), e);
            struct weight got = quantized(&x, a, DTYPE_F32, NULL);
            CHECK(!memcmp(got.codes, want.codes, weight_codes_bytes(&want)), "rule %zu: codes", r);
            CHECK(!memcmp(got.scales, want.scales, weight_scales_bytes(&want)), "rule %zu: scales",
                  r);
            CHECK(got.nested_offset == want.nested_offset, "rule %zu: offset", r);
            weight_release(&isas[0], &got);
            weight_release(cpu, &want);
            free_tensor(&x);
        }
}

static void flat_blocks_of_every_size(void **state)
{
    (void)state;
    for (int64_t size = 32; size <= 8192; size *= 2)
        for (size_t d = 0; d < 3; d++)
            for (int nested = 0; nested < 2; nested++) {
                struct quantize_args a = {
                    .rule = QUANTIZE_BNB_NF4, .bits = 4, .group_size = size, .double_quant = nested
                };

                twin_case("nf4", a, model_dtypes[d], 31, 1056);
                twin_case("nf4", a, model_dtypes[d], 16, 4096);
                a.rule = QUANTIZE_BNB_FP4;
                twin_case("fp4", a, model_dtypes[d], 16, 4096);
            }
}

static void weights_go_through_the_source_dtype(void **state)
{
    static const struct quantize_args rules[] = {
        { .rule = QUANTIZE_BNB_NF4, .bits = 4, .group_size = 64, .double_quant = true },
        { .rule = QUANTIZE_BNB_FP4, .bits = 4, .group_size = 64 },
        { .rule = QUANTIZE_INT8_ROW, .bits = 8, .group_size = 1024 },
        { .rule = QUANTIZE_GRID_ABSMAX, .bits = 3, .group_size = 128, .sym = true },
        { .rule = QUANTIZE_GRID_AWQ, .bits = 4, .group_size = 1024 },
        { .rule = QUANTIZE_HQQ, .bits = 3, .group_size = 64 },
        { .rule = QUANTIZE_NVFP4, .group_size = 16 },
        { .rule = QUANTIZE_E4M3, .group_size = 12 * 1024 },
    };

    (void)state;
    for (size_t r = 0; r < sizeof rules / sizeof *rules; r++)
        for (size_t stored = 0; stored < 3; stored++)
            for (size_t source = 0; source < 3; source++) {
                struct quantize_args a = rules[r];

                a.source = model_dtypes[source];
                twin_case("by way of another type", a, model_dtypes[stored], 12, 1024);
            }
}

/* ---- the two ways to codes: side by side, and one word at a time ---- */

/* A copy whose elements begin 2 bytes further: no 16-byte word of it is aligned. */
static void *unaligned_copy(const struct tensor *x, struct tensor *view)
{
    char *p = mem_alloc(tensor_bytes(x) + 2);

    memcpy(p + 2, x->data, tensor_bytes(x));
    void *base = to_device(p, tensor_bytes(x) + 2);
    free(p);
    *view = *x;
    view->data = (char *)base + 2;
    return base;
}

static void unaligned_pair(const char *name, struct quantize_args a, const struct tensor *x)
{
    struct tensor dx = device_tensor(x), view;
    void *base = unaligned_copy(x, &view);
    struct weight w, v;
    struct err e = ERR_INIT;

    a.w = &dx;
    a.out = &w;
    CHECK_OK(gpu.ops->quantize(&gpu, &a, &e), e);
    a.w = &view;
    a.out = &v;
    CHECK_OK(gpu.ops->quantize(&gpu, &a, &e), e);
    CHECK_OK(gpu.ops->sync(&gpu, &e), e);
    check_same_weights(name, &w, &v);
    weight_release(&gpu, &w);
    weight_release(&gpu, &v);
    device_free(dx.data);
    device_free(base);
}

static void unaligned_case(const char *name, struct quantize_args a, const struct tensor *x)
{
    if (!left_out())
        unaligned_pair(name, a, x);
}

/* The second matrix cannot wait, and makes working memory larger that the first one, which does,
 * will need larger still. */
static void one_waits_and_one_does_not(void **state)
{
    struct tensor x = all_numbers(DTYPE_F16, 160, 4096);
    struct quantize_args a = {
        .rule = QUANTIZE_GRID_GPTQ, .bits = 3, .group_size = 4096, .double_quant = true
    };

    (void)state;
    gpu.ops->trim(&gpu);
    unaligned_pair("scales of rows", a, &x);
    a.group_size = 32;
    unaligned_pair("scales of groups", a, &x);
    free_tensor(&x);
}

static void both_ways_give_the_same_bits(void **state)
{
    static const int64_t groups[] = { 32, 64, 128, 256, 512, 1024, 2048, 4096 };

    (void)state;
    for (size_t d = 1; d < 3; d++) {
        struct tensor x = all_numbers(model_dtypes[d], 160, 4096);

        for (size_t k = 0; k < 8; k++)
            for (int nested = 0; nested < 2; nested++) {
                struct quantize_args a = { .rule = QUANTIZE_BNB_NF4,
                                           .bits = 4,
                                           .group_size = groups[k] };

                /* Means of such scales are not exact, so they depend on the order. */
                unaligned_case("nf4", a, &x);
                a.rule = QUANTIZE_BNB_FP4;
                unaligned_case("fp4", a, &x);
                for (int bits = 2; bits <= 8; bits++)
                    for (int rule = QUANTIZE_GRID_ABSMAX; rule <= QUANTIZE_GRID_AWQ; rule++) {
                        struct quantize_args g = { .rule = (enum quantize_rule)rule,
                                                   .bits = bits,
                                                   .group_size = groups[k],
                                                   .sym = (bits + nested) % 2,
                                                   .double_quant = nested };
                        /* A range from -3e38 to 3e38 is refused. */
                        if (d == 1)
                            unaligned_case("grid", g, &x);
                    }
            }
        struct quantize_args a = { .rule = QUANTIZE_INT8_ROW, .bits = 8, .group_size = 4096 };
        if (d == 1)
            unaligned_case("int8 rows", a, &x);
        free_tensor(&x);

        x = random_tensor(model_dtypes[d], 160, 4096, 0.02f);
        a = (struct quantize_args){
            .rule = QUANTIZE_BNB_NF4, .bits = 4, .group_size = 64, .double_quant = true
        };
        unaligned_case("nf4 nested", a, &x);
        a.source = model_dtypes[3 - d];
        unaligned_case("nf4 nested, converted", a, &x);
        free_tensor(&x);
    }
}

/* Made in arrangement 1, or brought into it afterwards: the same bytes, the same errors. */
static void arranged_case(struct quantize_args a, enum dtype t, int64_t n_out, int64_t n_in)
{
    if (left_out())
        return;
    struct tensor x = random_tensor(t, n_out, n_in, 0.02f), dx = device_tensor(&x);
    struct weight w, v;
    double sums[3][2];
    struct err e = ERR_INIT;

    a.w = &dx;
    a.out = &w;
    CHECK_OK(gpu.ops->quantize(&gpu, &a, &e), e);
    a.out = &v;
    a.arranged = true;
    CHECK_OK(gpu.ops->quantize(&gpu, &a, &e), e);
    CHECK_OK(gpu.ops->sync(&gpu, &e), e);
    for (int i = 0; i < 3; i++) {
        struct compare_args c = { .w = &dx, .packed = i == 1 ? &v : &w, .out = sums[i] };
        CHECK_OK(gpu.ops->compare(&gpu, &c, &e), e);
        if (i == 1)
            CHECK_OK(gpu.ops->arrange(&gpu, &w, &e), e);
    }
    CHECK_OK(gpu.ops->arrange(&gpu, &v, &e), e);
    CHECK_OK(gpu.ops->sync(&gpu, &e), e);
    CHECK(v.arrangement == w.arrangement, "rule %d, %lld x %lld in %lld: the same arrangement",
          a.rule, (long long)n_out, (long long)n_in, (long long)a.group_size);
    check_same_weights("arranged", &v, &w);
    CHECK(!memcmp(sums[0], sums[1], sizeof sums[0]) && !memcmp(sums[0], sums[2], sizeof sums[0]),
          "the same errors: %.17g, %.17g, %.17g", sums[0][0], sums[1][0], sums[2][0]);
    weight_release(&gpu, &w);
    weight_release(&gpu, &v);
    device_free(dx.data);
    free_tensor(&x);
}

static void arranged_at_once(void **state)
{
    static const struct {
        enum quantize_rule rule;
        bool sym, twice;
    } rules[] = {
        { QUANTIZE_BNB_NF4, false, true },    { QUANTIZE_BNB_NF4, false, false },
        { QUANTIZE_BNB_FP4, false, true },    { QUANTIZE_GRID_ABSMAX, true, false },
        { QUANTIZE_GRID_GPTQ, false, true },  { QUANTIZE_GRID_AWQ, false, false },
        { QUANTIZE_GRID_ABSMAX, true, true },
    };
    static const int64_t shapes_of[][2] = { { 8, 1024 },  { 64, 2048 }, { 24, 3072 },
                                            { 16, 8192 }, { 7, 2048 },  { 16, 1152 } };

    (void)state;
    if (!gpu.ops->arrange)
        skip();
    for (size_t r = 0; r < sizeof rules / sizeof *rules; r++)
        for (size_t k = 0; k < sizeof shapes_of / sizeof *shapes_of; k++)
            for (int64_t group = 16; group <= 16384; group *= 2) {
                struct quantize_args a = { .rule = rules[r].rule,
                                           .bits = 4,
                                           .group_size = group < 32 ? shapes_of[k][1] : group,
                                           .sym = rules[r].sym,
                                           .double_quant = rules[r].twice };

                if (a.rule >= QUANTIZE_GRID_ABSMAX && shapes_of[k][1] % a.group_size)
                    continue;
                arranged_case(a, r % 2 ? DTYPE_F16 : DTYPE_BF16, shapes_of[k][0], shapes_of[k][1]);
            }
}

/* ---- errors of quantization ---- */

static void compare_case(const struct quantize_args *rule, enum dtype stored, enum dtype source,
                         int64_t n_out, int64_t n_in)
{
    if (left_out())
        return;
    struct tensor x = random_tensor(stored, n_out, n_in, 0.02f), dx = device_tensor(&x), values;
    struct quantize_args a = *rule;
    struct weight w;
    double sums[2] = { NAN, NAN };
    long double error = 0, square = 0;
    struct err e = ERR_INIT;

    a.w = &dx;
    a.out = &w;
    a.source = source;
    CHECK_OK(gpu.ops->quantize(&gpu, &a, &e), e);
    CHECK_OK(gpu.ops->sync(&gpu, &e), e);
    struct tensor out = device_result(DTYPE_F32, n_out, n_in);
    struct dequantize_args d = { &w, &out };
    struct compare_args c = { .w = &dx, .source = source, .packed = &w, .out = sums };
    CHECK_OK(gpu.ops->dequantize(&gpu, &d, &e), e);
    CHECK_OK(gpu.ops->compare(&gpu, &c, &e), e);
    CHECK_OK(gpu.ops->sync(&gpu, &e), e);
    values = host_tensor(&out);
    for (int64_t i = 0; i < n_out * n_in; i++) {
        double plain = element(&x, i / n_in, i % n_in);
        if (dtype_is_16bit(source))
            plain = round_to(source, plain);
        double delta = plain - (double)element(&values, i / n_in, i % n_in);
        error += (long double)delta * delta;
        square += (long double)plain * plain;
    }
    CHECK(check_near(sums[0], (double)error, 1e-13 * (double)error) && error > 0,
          "rule %d, %lld x %lld: %.17g, not %.17g", a.rule, (long long)n_out, (long long)n_in,
          sums[0], (double)error);
    CHECK(check_near(sums[1], (double)square, 1e-13 * (double)square), "squares: %.17g, not %.17g",
          sums[1], (double)square);
    free_tensor(&values);
    device_free(out.data);
    weight_release(&gpu, &w);
    device_free(dx.data);
    free_tensor(&x);
}

static void errors_are_those_of_the_values(void **state)
{
    static const struct quantize_args rules[] = {
        { .rule = QUANTIZE_BNB_NF4, .bits = 4, .group_size = 64, .double_quant = true },
        { .rule = QUANTIZE_BNB_FP4, .bits = 4, .group_size = 64 },
        { .rule = QUANTIZE_BNB_NF4, .bits = 4, .group_size = 5 },
        { .rule = QUANTIZE_INT8_ROW, .bits = 8 },
        { .rule = QUANTIZE_GRID_ABSMAX, .bits = 3, .sym = true },
        { .rule = QUANTIZE_GRID_GPTQ, .bits = 7, .double_quant = true },
        { .rule = QUANTIZE_GRID_AWQ, .bits = 4 },
        { .rule = QUANTIZE_GRID_AWQ, .bits = 4, .scale_dtype = DTYPE_F16 },
        { .rule = QUANTIZE_HQQ, .bits = 5 },
        { .rule = QUANTIZE_HQQ, .bits = 4, .double_quant = true },
        { .rule = QUANTIZE_E4M3 },
        { .rule = QUANTIZE_TABLE, .table = TABLE_NF3, .scale_dtype = DTYPE_F16 },
    };
    static const int64_t sizes[][2] = { { 7, 33 }, { 12, 520 }, { 70, 1024 }, { 40, 601 } };

    (void)state;
    for (size_t r = 0; r < sizeof rules / sizeof *rules; r++)
        for (size_t k = 0; k < 4; k++)
            for (size_t d = 0; d < 3; d++)
                for (size_t source = 0; source < 3; source++) {
                    struct quantize_args a = rules[r];

                    a.group_size = a.group_size ? a.group_size : sizes[k][1];
                    compare_case(&a, model_dtypes[d], model_dtypes[source], sizes[k][0],
                                 sizes[k][1]);
                }
    struct quantize_args large = {
        .rule = QUANTIZE_BNB_NF4, .bits = 4, .group_size = 64, .double_quant = true
    };
    compare_case(&large, DTYPE_BF16, DTYPE_F16, 1030, 4104);
    large.group_size = 63;
    compare_case(&large, DTYPE_BF16, DTYPE_F16, 1030, 4104);
    large = (struct quantize_args){ .rule = QUANTIZE_MXFP4, .group_size = 32 };
    compare_case(&large, DTYPE_BF16, DTYPE_BF16, 70, 1024);
    large = (struct quantize_args){ .rule = QUANTIZE_NVFP4, .group_size = 16 };
    compare_case(&large, DTYPE_F16, DTYPE_F16, 70, 1040);
    large = (struct quantize_args){ .rule = QUANTIZE_E4M3, .group_size = 70 * 1024 };
    compare_case(&large, DTYPE_BF16, DTYPE_BF16, 70, 1024);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rule),
        cmocka_unit_test(floating_point_formats),
        cmocka_unit_test(grids_with_fp16_scales),
        cmocka_unit_test(half_quadratic),
        cmocka_unit_test(numbers_of_every_size),
        cmocka_unit_test(flat_blocks_of_every_size),
        cmocka_unit_test(weights_go_through_the_source_dtype),
        cmocka_unit_test(both_ways_give_the_same_bits),
        cmocka_unit_test(one_waits_and_one_does_not),
        cmocka_unit_test(arranged_at_once),
        cmocka_unit_test(errors_are_those_of_the_values),
    };

    return open_device() ? cmocka_run_group_tests(tests, open_twins, close_twins) : 1;
}
