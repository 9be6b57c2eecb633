/* test_gpu_linear.c - values and products of every form of weight on the GPU: values and fp32
 * products beside the CPU to the bit, 16-bit products beside float64, and the same bits for a row
 * in any batch. */
#include "twin.h"

/* Tensor cores cut off addends below the largest of a step of 16; that many ulp of the sum of
 * magnitudes is generous to any such order. */
static double allowed_sum_error(int64_t n_in, double size)
{
    return ((double)n_in / 16 + 4) * size * 0x1p-23;
}

static void values(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_FORMS; i++)
        for (size_t s = 0; s < N_SHAPES; s++)
            for (size_t d = 0; d < 3; d++) {
                struct weight w = random_weight(&forms[i], shapes[s].n_out, shapes[s].n_in);
                struct weight dw = device_weight(&w);
                struct tensor want = new_tensor(model_dtypes[d], w.n_out, w.n_in);
                struct tensor out = device_result(model_dtypes[d], w.n_out, w.n_in);
                struct dequantize_args a = { &w, &want }, g = { &dw, &out };
                struct err e = ERR_INIT;

                CHECK_OK(cpu->ops->dequantize(cpu, &a, &e), e);
                CHECK_OK(gpu.ops->dequantize(&gpu, &g, &e), e);
                check_device(forms[i].name, &out, &want);
                weight_release(&gpu, &dw);
                weight_release(&isas[0], &w);
            }
}

/* Rows of packed tables, some twice, out of order. */
static void embeddings(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_FORMS; i++)
        for (size_t s = 0; s < N_SHAPES; s++)
            for (size_t d = 0; d < 3; d++) {
                struct weight w = random_weight(&forms[i], shapes[s].n_out, shapes[s].n_in);
                struct weight dw = device_weight(&w);
                const int32_t last = (int32_t)w.n_out - 1;
                const int32_t ids[] = { last, 0, last / 2, last, last / 3 };
                struct tensor want = new_tensor(model_dtypes[d], 5, w.n_in);
                struct tensor out = device_result(model_dtypes[d], 5, w.n_in);
                int32_t *on_device = to_device(ids, sizeof ids);
                struct embed_packed_args a = { &w, ids, &want, 5 }, g = { &dw, on_device, &out, 5 };
                struct err e = ERR_INIT;

                CHECK_OK(cpu->ops->embed_packed(cpu, &a, &e), e);
                CHECK_OK(gpu.ops->embed_packed(&gpu, &g, &e), e);
                check_device(forms[i].name, &out, &want);
                device_free(on_device);
                weight_release(&gpu, &dw);
                weight_release(&isas[0], &w);
            }
}

static void run(struct backend *b, const struct tensor *x, const struct weight *w,
                const struct tensor *bias, enum dtype compute, struct tensor *y)
{
    struct linear_args a = {
        .x = x, .w = w, .bias = bias, .y = y, .n_rows = y->n_rows, .compute = compute
    };
    struct err e = ERR_INIT;

    CHECK_OK(b->ops->linear(b, &a, &e), e);
}

/* y beside the product in float64 of the same rounded operands. */
static void check_exact(const char *name, const struct tensor *x, const struct weight *w,
                        const struct tensor *bias, enum dtype compute, const struct tensor *y)
{
    struct tensor plain = new_tensor(compute, w->n_out, w->n_in);
    struct dequantize_args a = { w, &plain };
    struct err e = ERR_INIT;
    double *row = malloc((size_t)w->n_in * sizeof *row);

    CHECK_OK(cpu->ops->dequantize(cpu, &a, &e), e);
    for (int64_t r = 0; r < y->n_rows; r++) {
        for (int64_t k = 0; k < w->n_in; k++)
            row[k] = round_to(compute, element(x, r, k));
        for (int64_t n = 0; n < w->n_out; n++) {
            double exact = bias ? element(bias, 0, n) : 0, size = fabs(exact);

            for (int64_t k = 0; k < w->n_in; k++) {
                double p = row[k] * element(&plain, n, k);
                exact += p;
                size += fabs(p);
            }
            double off = allowed_sum_error(w->n_in, size);
            CHECK(check_near(element(y, r, n), exact, half_step(y->dtype, fabs(exact) + off) + off),
                  "%s in %s [%lld, %lld], K %lld: %g, not %g", name, dtype_name(compute),
                  (long long)r, (long long)n, (long long)w->n_in, (double)element(y, r, n), exact);
        }
    }
    free(row);
    free_tensor(&plain);
}

static void product_case(const struct form *f, int64_t n_out, int64_t n_in, int64_t n_rows,
                         enum dtype x_t, enum dtype compute, enum dtype y_t, bool with_bias)
{
    if (left_out())
        return;
    struct weight w = random_weight(f, n_out, n_in), dw = device_weight(&w);
    struct tensor x = random_tensor(x_t, n_rows, n_in, 1), bias = random_tensor(x_t, 1, n_out, 1);
    struct tensor dx = device_tensor(&x), dbias = device_tensor(&bias);
    struct tensor out = device_result(y_t, n_rows, n_out);

    run(&gpu, &dx, &dw, with_bias ? &dbias : NULL, compute, &out);
    struct tensor y = host_tensor(&out);
    check_exact(f->name, &x, &w, with_bias ? &bias : NULL, compute, &y);
    if (compute == DTYPE_F32) {
        struct tensor want = new_tensor(y_t, n_rows, n_out);
        run(cpu, &x, &w, with_bias ? &bias : NULL, compute, &want);
        check_same(f->name, &y, &want);
        free_tensor(&want);
    }
    device_free(out.data);
    device_free(dx.data);
    device_free(dbias.data);
    free_tensor(&y);
    free_tensor(&x);
    free_tensor(&bias);
    weight_release(&gpu, &dw);
    weight_release(&isas[0], &w);
}

static void products(void **state)
{
    static const struct {
        enum dtype x, compute, y;
    } types[] = { { DTYPE_F32, DTYPE_F32, DTYPE_F32 },   { DTYPE_BF16, DTYPE_BF16, DTYPE_BF16 },
                  { DTYPE_F16, DTYPE_F16, DTYPE_F32 },   { DTYPE_BF16, DTYPE_F16, DTYPE_BF16 },
                  { DTYPE_BF16, DTYPE_F32, DTYPE_BF16 }, { DTYPE_F16, DTYPE_F16, DTYPE_F16 } };
    static const int64_t n_rows[] = { 1, 16, 17, 65 };

    (void)state;
    for (size_t i = 0; i < N_FORMS; i++)
        for (size_t s = 0; s < N_SHAPES && forms[i].form != WEIGHT_INT8; s++)
            for (size_t d = 0; d < sizeof types / sizeof *types; d++)
                product_case(&forms[i], shapes[s].n_out, shapes[s].n_in, n_rows[(i + s + d) % 4],
                             types[d].x, types[d].compute, types[d].y, (s + d) % 2);
    product_case(&forms[1], 70, 2048, 70, DTYPE_F16, DTYPE_F16, DTYPE_F16, false);
    product_case(&forms[3], 70, 2048, 3, DTYPE_BF16, DTYPE_BF16, DTYPE_BF16, true);
}

/* Rows in batches of each size give the bytes of all rows at once. */
static void batch_case(const struct form *f, int64_t n_out, int64_t n_in, enum dtype t)
{
    if (left_out())
        return;
    enum { ROWS = 150 };
    static const int64_t sizes[] = { 1, 7, 16, 17, 64 };
    struct weight w = random_weight(f, n_out, n_in), dw = device_weight(&w);
    struct tensor x = random_tensor(t, ROWS, n_in, 1), dx = device_tensor(&x);
    struct tensor all = device_result(t, ROWS, n_out);

    dw.outlier_threshold = 0; /* with outliers a batch is one document */
    run(&gpu, &dx, &dw, NULL, t, &all);
    struct tensor want = host_tensor(&all);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        struct tensor out = device_result(t, ROWS, n_out);

        for (int64_t at = 0; at < ROWS; at += sizes[s]) {
            int64_t n = ROWS - at < sizes[s] ? ROWS - at : sizes[s];
            struct tensor xs = rows_of(&dx, at, n), ys = rows_of(&out, at, n);
            run(&gpu, &xs, &dw, NULL, t, &ys);
        }
        struct tensor got = host_tensor(&out);
        CHECK(same_bits(&got, &want), "%s in %s, %lld x %lld: the same bits in batches of %lld",
              f->name, dtype_name(t), (long long)n_out, (long long)n_in, (long long)sizes[s]);
        free_tensor(&got);
        device_free(out.data);
    }
    free_tensor(&want);
    device_free(all.data);
    device_free(dx.data);
    free_tensor(&x);
    weight_release(&gpu, &dw);
    weight_release(&isas[0], &w);
}

static void batches(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_FORMS; i++)
        for (size_t d = 0; d < 3; d++) {
            batch_case(&forms[i], 40, 150, model_dtypes[d]);
            batch_case(&forms[i], 130, 264, model_dtypes[d]);
        }
    batch_case(&forms[2], 96, 8192, DTYPE_BF16);
}

/* ---- LLM.int8 ---- */

/* A scale that is an ulp off (the GPU divides approximately, as bitsandbytes does) turns few codes
 * by one; such an output is off by about stat * SCB / 127. */
static void int8_case(enum dtype t, int64_t n_out, int64_t n_in, float threshold, bool with_bias)
{
    if (left_out())
        return;
    static const int32_t first_row[] = { 0, 1, 6, 7, 70 };
    enum { ROWS = 70 };
    const struct form form = { "LLM.int8", WEIGHT_INT8, 0, 8, 0, false, SCALE_F32, 0, false };
    struct weight w = random_weight(&form, n_out, n_in), dw;
    struct tensor x = random_tensor(t, ROWS, n_in, 1), want = new_tensor(t, ROWS, n_out);
    struct tensor bias = random_tensor(t, 1, n_out, 1);
    struct err e = ERR_INIT;
    int64_t n_equal = 0;

    w.outlier_threshold = threshold;
    dw = device_weight(&w);
    for (int64_t c = 0; c < n_in; c++)
        set_element(&x, 2, c, 0);
    struct tensor dx = device_tensor(&x), db = device_tensor(&bias);
    struct tensor out = device_result(t, ROWS, n_out);
    struct linear_args a = { .x = &x,
                             .w = &w,
                             .bias = with_bias ? &bias : NULL,
                             .y = &want,
                             .n_rows = ROWS,
                             .compute = DTYPE_F16,
                             .segments = { 4, first_row } };
    struct linear_args g = a;
    g.x = &dx, g.w = &dw, g.bias = with_bias ? &db : NULL, g.y = &out;
    CHECK_OK(cpu->ops->linear(cpu, &a, &e), e);
    CHECK_OK(gpu.ops->linear(&gpu, &g, &e), e);
    struct tensor got = host_tensor(&out);
    for (int64_t r = 0; r < ROWS; r++)
        for (int64_t n = 0; n < n_out; n++) {
            float y = element(&got, r, n), z = element(&want, r, n);
            double code = 5.0 * ((float *)w.scales)[n] / 127 * 3; /* 3 codes at stat 5 */

            n_equal += y == z;
            CHECK(check_near(y, z, code + 4 * half_step(t, z) + 4 * half_step(DTYPE_F16, z)),
                  "int8 %s K %lld threshold %g [%lld, %lld]: %a, not %a", dtype_name(t),
                  (long long)n_in, (double)threshold, (long long)r, (long long)n, (double)y,
                  (double)z);
        }
    CHECK((double)n_equal >= 0.9 * (double)(ROWS * n_out) - 1,
          "int8 %s K %lld: %lld of %lld equal the CPU's", dtype_name(t), (long long)n_in,
          (long long)n_equal, (long long)(ROWS * n_out));
    for (int s = 0; s < 4; s++) { /* a document alone */
        int64_t first = first_row[s], n = first_row[s + 1] - first;
        struct tensor xs = rows_of(&dx, first, n), alone = device_result(t, n, n_out);

        run(&gpu, &xs, &dw, with_bias ? &db : NULL, DTYPE_F16, &alone);
        struct tensor ys = host_tensor(&alone), expected = rows_of(&got, first, n);
        CHECK(same_bits(&ys, &expected), "a document's rows are the same alone");
        free_tensor(&ys);
        device_free(alone.data);
    }
    set_element(&x, 3, n_in / 2, NAN);
    CHECK_OK(gpu.ops->upload(&gpu, dx.data, x.data, tensor_bytes(&x), &e), e);
    CHECK_OK(gpu.ops->linear(&gpu, &g, &e), e);
    free_tensor(&got);
    got = host_tensor(&out);
    for (int64_t n = 0; n < n_out; n++)
        CHECK(isnan(element(&got, 3, n)) && !isnan(element(&got, 4, n)),
              "a NaN spoils its row alone");
    free_tensor(&got);
    free_tensor(&x);
    free_tensor(&want);
    free_tensor(&bias);
    device_free(dx.data);
    device_free(db.data);
    device_free(out.data);
    weight_release(&gpu, &dw);
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
    int8_case(DTYPE_F16, 5, 700, 0.5f, false); /* most columns are outliers */
}

/* Weights that decode has no kernel for take the general way, and the record says so. */
static void the_general_way_is_noted(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_FORMS; i++) {
        if (forms[i].bits != 7 && forms[i].form != WEIGHT_PLAIN)
            continue;
        struct weight w = random_weight(&forms[i], 33, 65), dw = device_weight(&w);
        struct tensor x = random_tensor(DTYPE_F16, 2, 65, 1), dx = device_tensor(&x);
        struct tensor y = device_result(DTYPE_F16, 2, 33);
        struct linear_args a = {
            .x = &dx, .w = &dw, .y = &y, .n_rows = 2, .compute = DTYPE_F16, .phase = PHASE_DECODE
        };
        struct err e = ERR_INIT;

        gpu.notes[0] = 0;
        CHECK_OK(gpu.ops->linear(&gpu, &a, &e), e);
        CHECK(!!strstr(gpu.notes, "dequantized weights first") == (forms[i].bits == 7),
              "%s: \"%s\"", forms[i].name, gpu.notes);
        device_free(y.data);
        device_free(dx.data);
        free_tensor(&x);
        weight_release(&gpu, &dw);
        weight_release(&isas[0], &w);
    }
    gpu.notes[0] = 0;
}

static void nothing_is_left(void **state)
{
    (void)state;
    gpu.ops->trim(&gpu);
    for (int i = 0; i < MEM_N_TAGS; i++)
        CHECK(gpu.mem.now[i] == 0, "%zu bytes of kind %d were not freed", gpu.mem.now[i], i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values),          cmocka_unit_test(embeddings),
        cmocka_unit_test(products),        cmocka_unit_test(batches),
        cmocka_unit_test(int8_products),   cmocka_unit_test(the_general_way_is_noted),
        cmocka_unit_test(nothing_is_left),
    };

    return open_device() ? cmocka_run_group_tests(tests, open_twins, close_twins) : 1;
}
