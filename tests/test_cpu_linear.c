/* test_cpu_linear.c - products with every form of weight: values against an independent reading of
 * weight.h, products against a chain of fmaf() to the bit, and the same bits on every instruction
 * set, thread count and batch. */
#include "forms.h"

/* ---- weight.h read again ---- */

static float e4m3(uint8_t byte)
{
    int exponent = byte >> 3 & 15;

    float size = exponent ? ldexpf(1 + (float)(byte & 7) / 8, exponent - 7)
                          : ldexpf((float)(byte & 7) / 8, -6);
    return byte & 0x80 ? -size : size;
}

static float value_of(const struct weight *w, int64_t row, int64_t col, enum dtype t)
{
    const uint8_t *codes = (const uint8_t *)w->codes + row * w->row_bytes;
    unsigned code = 0;

    if (w->form == WEIGHT_PLAIN) {
        struct tensor plain = { w->codes, w->plain_dtype, w->n_out, w->n_in, 0 };
        return round_to(t, element(&plain, row, col));
    }
    for (int bit = 0; bit < w->bits; bit++) {
        int64_t at = col * w->bits + bit;
        code |= (unsigned)(codes[at / 8] >> at % 8 & 1) << bit;
    }
    if (w->form == WEIGHT_INT8)
        return round_to(t, (float)((float)(int8_t)code * ((float *)w->scales)[row]) *
                               (float)(1.0 / 127));

    int64_t per_row = w->n_groups / w->n_out, group = row * per_row + col / w->group_size;
    if (w->flat_groups)
        group = (row * w->n_in + col) / w->group_size;
    else if (w->g_idx)
        group = row * per_row + w->g_idx[col];
    uint8_t byte = ((uint8_t *)w->scales)[group];
    float second = w->scales2 ? ((float *)w->scales2)[group / 256] : 0;
    volatile float scaled; /* each operation rounded */
    float scale = NAN, zero = NAN;
    switch (w->scale_form) {
    case SCALE_F32:
        scale = ((float *)w->scales)[group];
        break;
    case SCALE_F16:
        scale = dtype_f16_to_f32(((uint16_t *)w->scales)[group]);
        break;
    case SCALE_NESTED:
        scaled = weight_dynamic_map[byte] * second;
        scale = scaled + w->nested_offset;
        break;
    case SCALE_U8:
        scale = byte * second;
        break;
    case SCALE_E8M0:
        scale = ldexpf(1, byte - 127);
        break;
    case SCALE_E4M3:
        scale = e4m3(byte) * w->nested_offset;
        break;
    case SCALE_NONE:
        break;
    }
    switch (w->zero_form) {
    case ZERO_CONSTANT:
        zero = (float)w->zero_constant;
        break;
    case ZERO_U8:
        zero = ((uint8_t *)w->zeros)[group];
        break;
    case ZERO_F32:
        zero = ((float *)w->zeros)[group];
        break;
    case ZERO_F16:
        zero = dtype_f16_to_f32(((uint16_t *)w->zeros)[group]);
        break;
    }
    scaled = w->form == WEIGHT_TABLE  ? w->table[code]
             : w->form == WEIGHT_E4M3 ? e4m3((uint8_t)code)
                                      : (float)code - zero;
    scaled = scaled * scale;
    return round_to(t, scaled);
}

static void values(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_FORMS; i++)
        for (size_t s = 0; s < N_SHAPES; s++)
            for (size_t d = s < 2 ? 0 : (i + s) % 3; d < (s < 2 ? 3 : (i + s) % 3 + 1); d++) {
                enum dtype t = model_dtypes[d];
                struct weight w = random_weight(&forms[i], shapes[s].n_out, shapes[s].n_in);
                struct tensor first = new_tensor(t, w.n_out, w.n_in);
                struct err e = ERR_INIT;

                for (int k = 0; k < N_ISAS; k++) {
                    struct tensor out = new_tensor(t, w.n_out, w.n_in);
                    struct dequantize_args a = { .w = &w, .out = k ? &out : &first };

                    if (isas[k].ops) {
                        CHECK_OK(isas[k].ops->dequantize(&isas[k], &a, &e), e);
                        CHECK(!k || same_bits(&first, &out), "%s: %s gives the same bits",
                              forms[i].name, isa_names[k]);
                    }
                    free_tensor(&out);
                }
                for (int64_t r = 0; r < w.n_out; r++)
                    for (int64_t c = 0; c < w.n_in; c++) {
                        float want = value_of(&w, r, c, t), got = element(&first, r, c);
                        CHECK(!memcmp(&got, &want, sizeof got),
                              "%s in %s [%lld, %lld of %lld]: %a, not %a", forms[i].name,
                              dtype_name(t), (long long)r, (long long)c, (long long)w.n_in, got,
                              want);
                    }
                struct tensor wrong = new_tensor(t, w.n_out, w.n_in + 1);
                struct dequantize_args a = { .w = &w, .out = &wrong };
                CHECK(isas[0].ops->dequantize(&isas[0], &a, &e) < 0, "another shape is refused");
                free_tensor(&wrong);
                free_tensor(&first);
                weight_release(&isas[0], &w);
            }
}

/* ---- products ---- */

static void run(struct backend *b, const struct tensor *x, const struct weight *w,
                const struct tensor *bias, enum dtype compute, struct tensor *y)
{
    struct linear_args a = {
        .x = x, .w = w, .bias = bias, .y = y, .n_rows = x->n_rows, .compute = compute
    };
    struct err e = ERR_INIT;

    CHECK_OK(b->ops->linear(b, &a, &e), e);
}

/* The definition: one chain of fused multiply-adds, the bias, one rounding. */
static void check_chain(const char *name, const struct tensor *x, const struct weight *w,
                        const struct tensor *bias, enum dtype compute, const struct tensor *y)
{
    float *values_of_w = malloc((size_t)(w->n_out * w->n_in) * sizeof(float));

    for (int64_t n = 0; n < w->n_out; n++)
        for (int64_t k = 0; k < w->n_in; k++)
            values_of_w[n * w->n_in + k] = value_of(w, n, k, compute);
    for (int64_t r = 0; r < y->n_rows; r++)
        for (int64_t n = 0; n < w->n_out; n++) {
            float sum = 0, got = element(y, r, n);
            double exact = 0, size = 0;

            for (int64_t k = 0; k < w->n_in; k++) {
                float a = round_to(compute, element(x, r, k)), v = values_of_w[n * w->n_in + k];
                sum = fmaf(a, v, sum);
                exact += (double)a * v;
                size += fabs((double)a * v);
            }
            if (bias) {
                sum += element(bias, 0, n);
                exact += element(bias, 0, n);
            }
            float want = round_to(y->dtype, sum);
            CHECK(!memcmp(&got, &want, sizeof got),
                  "%s [%lld, %lld], K %lld: %a, not the chain's %a", name, (long long)r,
                  (long long)n, (long long)w->n_in, got, want);
            CHECK(check_near(got, exact,
                             half_step(y->dtype, exact) + 0x1p-24 * (double)w->n_in * size),
                  "%s: %g is the product %g", name, got, exact);
        }
    free(values_of_w);
}

static void products(void **state)
{
    static const struct {
        enum dtype x, compute, y;
    } types[] = { { DTYPE_F32, DTYPE_F32, DTYPE_F32 },
                  { DTYPE_BF16, DTYPE_BF16, DTYPE_BF16 },
                  { DTYPE_F16, DTYPE_F16, DTYPE_F32 },
                  { DTYPE_BF16, DTYPE_F16, DTYPE_BF16 } };

    (void)state;
    for (size_t i = 0; i < N_FORMS; i++)
        for (size_t s = 0; s < N_SHAPES && forms[i].form != WEIGHT_INT8; s++) {
            size_t d = (i + s) % 4;
            struct weight w = random_weight(&forms[i], shapes[s].n_out, shapes[s].n_in);
            struct tensor x = random_tensor(types[d].x, 16, w.n_in, 1);
            struct tensor y = new_tensor(types[d].y, 16, w.n_out);
            struct tensor bias = random_tensor(types[d].x, 1, w.n_out, 1);
            const struct tensor *b = s % 2 ? &bias : NULL;

            for (int k = 0; k < N_ISAS; k++)
                if (isas[k].ops) {
                    struct tensor again = new_tensor(y.dtype, 16, w.n_out);
                    run(&isas[k], &x, &w, b, types[d].compute, k ? &again : &y);
                    CHECK(!k || same_bits(&y, &again), "%s: %s gives the same bits", forms[i].name,
                          isa_names[k]);
                    free_tensor(&again);
                }
            check_chain(forms[i].name, &x, &w, b, types[d].compute, &y);
            free_tensor(&x);
            free_tensor(&y);
            free_tensor(&bias);
            weight_release(&isas[0], &w);
        }
}

/* Rows alone and in batches of 1, 7, 64 and all, 1 and 2 threads, every instruction set; 470 rows
 * take more than one pass over W. */
static void batches(void **state)
{
    enum { ROWS = 470 };
    static const int64_t sizes[] = { 1, 7, 14, 64, ROWS };

    (void)state;
    for (size_t i = 0; i < N_FORMS; i += 3) {
        bool int8 = forms[i].form == WEIGHT_INT8;
        struct weight w = random_weight(&forms[i], 40, 150);
        struct tensor x = random_tensor(DTYPE_BF16, ROWS, w.n_in, 1);
        struct tensor want = new_tensor(DTYPE_BF16, ROWS, w.n_out);

        if (int8)
            w.outlier_threshold = 0; /* else a batch is one document */
        run(&isas[0], &x, &w, NULL, DTYPE_BF16, &want);
        for (int k = 0; k < N_ISAS; k++)
            for (size_t s = 0; s < sizeof sizes / sizeof *sizes && isas[k].ops; s++)
                for (int threads = 1; threads <= 2; threads++) {
                    struct tensor y = new_tensor(DTYPE_BF16, ROWS, w.n_out);

                    omp_set_num_threads(threads);
                    for (int64_t at = 0; at < ROWS; at += sizes[s]) {
                        int64_t n = ROWS - at < sizes[s] ? ROWS - at : sizes[s];
                        struct tensor xs = rows_of(&x, at, n), ys = rows_of(&y, at, n);
                        /* The chunks of the generic path take long: a few show it. */
                        if (!k && at > 64 * sizes[s])
                            ys = rows_of(&want, at, n);
                        else
                            run(&isas[k], &xs, &w, NULL, DTYPE_BF16, &ys);
                    }
                    struct tensor seen = rows_of(&y, 0,
                                                 k                      ? ROWS
                                                 : 65 * sizes[s] < ROWS ? 65 * sizes[s]
                                                                        : ROWS);
                    struct tensor part = rows_of(&want, 0, seen.n_rows);
                    CHECK(same_bits(&seen, &part),
                          "%s: the same bits on %s with %d threads in batches of %lld",
                          forms[i].name, isa_names[k], threads, (long long)sizes[s]);
                    free_tensor(&y);
                }
        free_tensor(&x);
        free_tensor(&want);
        weight_release(&isas[0], &w);
    }
}

/* ---- LLM.int8 ---- */

/* LLM.int8's formulas, element by element. */
static float int8_element(const struct tensor *x, const struct weight *w, const struct tensor *bias,
                          const bool *outlier, int64_t row, int64_t n)
{
    const float threshold = w->outlier_threshold > 0 ? w->outlier_threshold : INFINITY;
    const float scb = ((float *)w->scales)[n], c = (float)(1.0 / (127.0 * 127.0));
    float stat = 0, added = 0;
    bool any = false;
    int64_t sum = 0;

    for (int64_t k = 0; k < w->n_in; k++) {
        float a = fabsf(round_to(DTYPE_F16, element(x, row, k)));
        stat = a < threshold && a > stat ? a : stat;
    }
    volatile float scale = 1.0f / stat;
    scale = 127.0f * scale;
    for (int64_t k = 0; k < w->n_in; k++) {
        float a = round_to(DTYPE_F16, element(x, row, k));
        int code = ((int8_t *)w->codes)[n * w->row_bytes + k];
        volatile float product = a * scale;
        if (!outlier[k] && stat > 0)
            sum += code * (int64_t)rintf(product);
        if (outlier[k]) {
            volatile float v = (float)code * scb;
            v = v * (float)(1.0 / 127);
            added = fmaf(element(x, row, k), round_to(x->dtype, v), added);
            any = true;
        }
    }
    volatile float v = (float)sum * stat;
    v = v * scb;
    float y;
    if (bias && x->dtype == DTYPE_F16)
        y = round_to(DTYPE_F16, fmaf(v, c, element(bias, 0, n)));
    else
        y = round_to(DTYPE_F16, (float)(v * c));
    if (bias && x->dtype != DTYPE_F16)
        y = round_to(DTYPE_F16, (float)(y + element(bias, 0, n)));
    y = round_to(x->dtype, y);
    return any ? round_to(x->dtype, (float)(y + added)) : y;
}

static void int8_case(enum dtype t, int64_t n_out, int64_t n_in, float threshold, bool with_bias)
{
    static const int32_t first_row[] = { 0, 1, 6, 7, 20 };
    const struct form form = { "LLM.int8", WEIGHT_INT8, 0, 8, 0, false, SCALE_F32, 0, false };
    struct segments segments = { 4, first_row };
    struct weight w = random_weight(&form, n_out, n_in);
    struct tensor x = random_tensor(t, 20, n_in, 1), y = new_tensor(t, 20, n_out);
    struct tensor bias = random_tensor(t, 1, n_out, 1);
    struct err e = ERR_INIT;

    w.outlier_threshold = threshold;
    for (int64_t c = 0; c < n_in; c++)
        set_element(&x, 2, c, 0);
    for (int i = 0; i < N_ISAS; i++) {
        struct tensor again = new_tensor(t, 20, n_out);
        struct linear_args a = { .x = &x,
                                 .w = &w,
                                 .bias = with_bias ? &bias : NULL,
                                 .y = i ? &again : &y,
                                 .n_rows = 20,
                                 .compute = DTYPE_F16,
                                 .segments = segments };
        if (isas[i].ops) {
            CHECK_OK(isas[i].ops->linear(&isas[i], &a, &e), e);
            CHECK(!i || same_bits(&y, &again), "int8: %s gives the same bits", isa_names[i]);
        }
        free_tensor(&again);
    }
    for (int s = 0; s < 4; s++) {
        bool *outlier = calloc((size_t)n_in, sizeof *outlier);

        for (int64_t r = first_row[s]; r < first_row[s + 1] && threshold > 0; r++)
            for (int64_t k = 0; k < n_in; k++)
                outlier[k] |= fabsf(round_to(DTYPE_F16, element(&x, r, k))) >= threshold;
        for (int64_t r = first_row[s]; r < first_row[s + 1]; r++)
            for (int64_t n = 0; n < n_out; n++) {
                float want = int8_element(&x, &w, with_bias ? &bias : NULL, outlier, r, n);
                CHECK(element(&y, r, n) == want,
                      "int8 %s K %lld threshold %g [%lld, %lld]: %a, not %a", dtype_name(t),
                      (long long)n_in, threshold, (long long)r, (long long)n, element(&y, r, n),
                      want);
            }
        free(outlier);
        /* A document alone. */
        struct tensor xs = rows_of(&x, first_row[s], first_row[s + 1] - first_row[s]);
        struct tensor ys = rows_of(&y, first_row[s], xs.n_rows),
                      alone = new_tensor(t, xs.n_rows, n_out);
        run(isas[N_ISAS - 1].ops ? &isas[N_ISAS - 1] : &isas[0], &xs, &w, with_bias ? &bias : NULL,
            DTYPE_F16, &alone);
        CHECK(same_bits(&ys, &alone), "a document's rows are the same alone");
        free_tensor(&alone);
    }
    set_element(&x, 3, n_in / 2, NAN);
    run(&isas[0], &x, &w, NULL, DTYPE_F16, &y);
    for (int64_t n = 0; n < n_out; n++)
        CHECK(isnan(element(&y, 3, n)) && !isnan(element(&y, 4, n)), "a NaN spoils its row alone");
    free_tensor(&x);
    free_tensor(&y);
    free_tensor(&bias);
    weight_release(&isas[0], &w);
}

static void int8_products(void **state)
{
    (void)state;
    for (size_t d = 0; d < 3; d++)
        for (size_t s = 0; s < N_SHAPES; s++)
            for (int bias = 0; bias < 2; bias++) {
                int8_case(model_dtypes[d], shapes[s].n_out, shapes[s].n_in, 2.5f, bias);
                int8_case(model_dtypes[d], shapes[s].n_out, shapes[s].n_in, 0, bias);
            }
    int8_case(DTYPE_F16, 5, 2100, 3, false);   /* more than one block of K */
    int8_case(DTYPE_F16, 5, 700, 0.5f, false); /* more than one block of outliers */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values),
        cmocka_unit_test(products),
        cmocka_unit_test(batches),
        cmocka_unit_test(int8_products),
    };

    return cmocka_run_group_tests(tests, open_isas, close_isas);
}
