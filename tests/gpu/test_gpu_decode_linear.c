/* test_gpu_decode_linear.c - products of the decode phase: arranged weights keep their values to
 * the bit, products beside float64, the same bits for a row in any batch, and what is fused with a
 * product beside the operations one after another. */
#include "twin.h"

#include "linear_decode.cuh"

/* Those that have an order of their own on the GPU, and two that have none. */
static const struct form packed[] = {
    { "nf4", WEIGHT_TABLE, 0, 4, 64, true, SCALE_F32, ZERO_CONSTANT, false },
    { "nf4 nested", WEIGHT_TABLE, 0, 4, 64, true, SCALE_NESTED, ZERO_CONSTANT, false },
    { "nf4 nested, 32", WEIGHT_TABLE, 0, 4, 32, true, SCALE_NESTED, ZERO_CONSTANT, false },
    { "table, per row", WEIGHT_TABLE, 0, 4, 0, false, SCALE_F16, ZERO_CONSTANT, false },
    { "e2m1, e8m0", WEIGHT_TABLE, 0, 4, 32, false, SCALE_E8M0, ZERO_CONSTANT, false },
    { "int2", WEIGHT_AFFINE, 0, 2, 128, false, SCALE_F32, ZERO_U8, false },
    { "int2, 32, sym", WEIGHT_AFFINE, 0, 2, 32, false, SCALE_F32, ZERO_CONSTANT, false },
    { "int3", WEIGHT_AFFINE, 0, 3, 128, false, SCALE_F16, ZERO_U8, false },
    { "int3, 64, hqq", WEIGHT_AFFINE, 0, 3, 64, false, SCALE_F32, ZERO_F32, false },
    { "int4", WEIGHT_AFFINE, 0, 4, 128, false, SCALE_F32, ZERO_U8, false },
    { "int4, sym, per row", WEIGHT_AFFINE, 0, 4, 0, false, SCALE_F32, ZERO_CONSTANT, false },
    { "int4, u8 scales", WEIGHT_AFFINE, 0, 4, 32, false, SCALE_U8, ZERO_F16, false },
    { "int5", WEIGHT_AFFINE, 0, 5, 64, false, SCALE_F32, ZERO_F16, false },
    { "int6", WEIGHT_AFFINE, 0, 6, 128, false, SCALE_F16, ZERO_U8, false },
    { "int8", WEIGHT_AFFINE, 0, 8, 128, false, SCALE_F32, ZERO_U8, false },
    { "int8, sym, 32", WEIGHT_AFFINE, 0, 8, 32, false, SCALE_U8, ZERO_CONSTANT, false },
    { "int7", WEIGHT_AFFINE, 0, 7, 64, false, SCALE_F32, ZERO_U8, false },
    { "int4 in order", WEIGHT_AFFINE, 0, 4, 32, false, SCALE_F16, ZERO_U8, true },
};
#define N_PACKED (sizeof packed / sizeof *packed)

static const struct form plain_16[] = {
    { "fp16", WEIGHT_PLAIN, DTYPE_F16, 16, 0, false, SCALE_NONE, ZERO_CONSTANT, false },
    { "bf16", WEIGHT_PLAIN, DTYPE_BF16, 16, 0, false, SCALE_NONE, ZERO_CONSTANT, false },
};

static bool has_order(const struct form *f)
{
    return f->bits != 7 && !f->g_idx;
}

/* On the device, in the order it likes best. */
static struct weight arranged_weight(const struct weight *w)
{
    struct weight out = device_weight(w);
    struct err e = ERR_INIT;

    CHECK_OK(gpu.ops->arrange(&gpu, &out, &e), e);
    return out;
}

static void values(void **state)
{
    static const struct {
        int64_t n_out, n_in;
    } sizes[] = { { 8, 128 }, { 24, 640 }, { 40, 2048 }, { 8, 8192 }, { 12, 256 }, { 16, 192 } };

    (void)state;
    for (size_t i = 0; i < N_PACKED; i++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            if (sizes[s].n_in % (packed[i].group ? packed[i].group : 1))
                continue;
            struct weight w = random_weight(&packed[i], sizes[s].n_out, sizes[s].n_in);
            struct weight plain = device_weight(&w), dw = arranged_weight(&w);
            bool wanted = has_order(&packed[i]) && w.n_out % 8 == 0 && w.n_in % 128 == 0;

            CHECK((dw.arrangement != 0) == wanted, "%s %lld x %lld is arranged: %d", packed[i].name,
                  (long long)w.n_out, (long long)w.n_in, dw.arrangement);
            for (size_t d = 0; d < 3; d++) {
                struct tensor want = new_tensor(model_dtypes[d], w.n_out, w.n_in);
                struct tensor again = new_tensor(model_dtypes[d], w.n_out, w.n_in);
                struct tensor out = device_result(model_dtypes[d], w.n_out, w.n_in);
                struct tensor straight = device_result(model_dtypes[d], w.n_out, w.n_in);
                struct dequantize_args a = { &w, &want }, g = { &dw, &out };
                struct dequantize_args h = { &plain, &straight };
                struct err e = ERR_INIT;

                CHECK_OK(cpu->ops->dequantize(cpu, &a, &e), e);
                CHECK_OK(gpu.ops->dequantize(&gpu, &g, &e), e);
                CHECK_OK(gpu.ops->dequantize(&gpu, &h, &e), e);
                memcpy(again.data, want.data, tensor_bytes(&want));
                check_device(packed[i].name, &out, &want);
                check_device(packed[i].name, &straight, &again);
            }
            weight_release(&gpu, &dw);
            weight_release(&gpu, &plain);
            weight_release(&isas[0], &w);
        }
}

/* ---- products ---- */

/* Every row a document of its own. */
static void run_int8(const struct tensor *x, const struct weight *w, const struct tensor *bias,
                     enum phase phase, struct tensor *y)
{
    int32_t first_row[DECODE_ROWS_MAX + 1];
    struct linear_args a = { .x = x,
                             .w = w,
                             .bias = bias,
                             .y = y,
                             .n_rows = y->n_rows,
                             .compute = DTYPE_F16,
                             .phase = phase,
                             .segments = { (int)y->n_rows, first_row } };
    struct err e = ERR_INIT;

    for (int i = 0; i <= y->n_rows; i++)
        first_row[i] = i;
    CHECK_OK(gpu.ops->linear(&gpu, &a, &e), e);
}

static void run(const struct tensor *x, const struct weight *w, const struct tensor *bias,
                enum dtype compute, struct tensor *y)
{
    struct linear_args a = { .x = x,
                             .w = w,
                             .bias = bias,
                             .y = y,
                             .n_rows = y->n_rows,
                             .compute = compute,
                             .phase = PHASE_DECODE };
    struct err e = ERR_INIT;

    if (w->form == WEIGHT_INT8) {
        run_int8(x, w, bias, PHASE_DECODE, y);
        return;
    }
    CHECK_OK(gpu.ops->linear(&gpu, &a, &e), e);
}

/* Tensor cores cut off addends below the largest of a step of 16. */
static double allowed_sum_error(int64_t n_in, double size)
{
    return ((double)n_in / 16 + 12) * size * 0x1p-23;
}

/* What a product of the decode phase multiplies: the values of W in fp32, where those of a table
 * are rounded to the compute dtype before their scale.  Not bare: dequantized. */
static float *multiplied_values(const struct weight *w, bool bare, enum dtype compute)
{
    struct tensor values = new_tensor(DTYPE_F32, w->n_out, w->n_in);
    struct weight rounded = *w;
    struct dequantize_args a = { &rounded, &values };
    struct err e = ERR_INIT;
    float *out = malloc((size_t)(w->n_out * w->n_in) * sizeof *out);

    for (int i = 0; bare && w->form == WEIGHT_TABLE && i < 16; i++)
        rounded.table[i] = (float)round_to(compute, w->table[i]);
    CHECK_OK(cpu->ops->dequantize(cpu, &a, &e), e);
    for (int64_t i = 0; i < w->n_out * w->n_in; i++)
        out[i] = bare ? element(&values, 0, i) : (float)round_to(compute, element(&values, 0, i));
    free_tensor(&values);
    return out;
}

/* A zero point that is no integer: code - zero is rounded to the compute dtype. */
static double allowed_rounding(const struct weight *w, enum dtype compute)
{
    if (w->form == WEIGHT_PLAIN || w->zero_form == ZERO_CONSTANT || w->zero_form == ZERO_U8)
        return 0x1p-24;
    return compute == DTYPE_BF16 ? 0x1p-9 : 0x1p-12;
}

static void check_exact(const char *name, const struct tensor *x, const struct weight *w, bool bare,
                        const struct tensor *bias, enum dtype compute, const struct tensor *y)
{
    float *values = multiplied_values(w, bare, compute);
    const double rounding = allowed_rounding(w, compute);
    double *row = malloc((size_t)w->n_in * sizeof *row);

    for (int64_t n = 0; n < w->n_out; n++) {
        const float *value = values + n * w->n_in;

        for (int64_t r = 0; r < y->n_rows; r++) {
            double exact = bias ? element(bias, 0, n) : 0, size = fabs(exact);

            for (int64_t k = 0; k < w->n_in; k++)
                row[k] = round_to(compute, element(x, r, k));
            for (int64_t k = 0; k < w->n_in; k++) {
                exact += row[k] * value[k];
                size += fabs(row[k] * value[k]);
            }
            double off = allowed_sum_error(w->n_in, size) + rounding * size;
            CHECK(check_near(element(y, r, n), exact, half_step(y->dtype, fabs(exact) + off) + off),
                  "%s in %s [%lld of %lld, %lld], K %lld: %g, not %g", name, dtype_name(compute),
                  (long long)r, (long long)y->n_rows, (long long)n, (long long)w->n_in,
                  (double)element(y, r, n), exact);
        }
    }
    free(row);
    free(values);
}

static void product_case(const struct form *f, int64_t n_out, int64_t n_in, int64_t n_rows,
                         enum dtype x_t, enum dtype compute, enum dtype y_t, bool with_bias)
{
    if (left_out())
        return;
    struct weight w = random_weight(f, n_out, n_in), dw = arranged_weight(&w);
    struct tensor x = random_tensor(x_t, n_rows, n_in, 1), bias = random_tensor(x_t, 1, n_out, 1);
    struct tensor dx = device_tensor(&x), dbias = device_tensor(&bias);
    struct tensor out = device_result(y_t, n_rows, n_out);

    run(&dx, &dw, with_bias ? &dbias : NULL, compute, &out);
    struct tensor y = host_tensor(&out);
    check_exact(f->name, &x, &w, dw.arrangement != 0, with_bias ? &bias : NULL, compute, &y);
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
    } types[] = { { DTYPE_BF16, DTYPE_BF16, DTYPE_BF16 },
                  { DTYPE_F16, DTYPE_F16, DTYPE_F32 },
                  { DTYPE_BF16, DTYPE_F16, DTYPE_BF16 },
                  { DTYPE_F16, DTYPE_F16, DTYPE_F16 },
                  { DTYPE_F16, DTYPE_BF16, DTYPE_F32 } };
    static const int64_t n_rows[] = { 1, 2, 7, 8, 9, 16, 17, 33, 64, 70 };
    size_t at = 0;

    (void)state;
    for (size_t i = 0; i < N_PACKED; i++)
        for (size_t d = 0; d < sizeof types / sizeof *types; d++, at++) {
            product_case(&packed[i], 8, 128, n_rows[at % 10], types[d].x, types[d].compute,
                         types[d].y, at % 2);
            product_case(&packed[i], 24, 640, n_rows[(at + 3) % 10], types[d].x, types[d].compute,
                         types[d].y, at % 2);
            product_case(&packed[i], 16, 2048, n_rows[(at + 5) % 10], types[d].x, types[d].compute,
                         types[d].y, at % 3);
        }
    for (size_t i = 0; i < 2; i++)
        for (size_t r = 0; r < 10; r++) {
            enum dtype t = plain_16[i].plain;
            product_case(&plain_16[i], 24, 640, n_rows[r], t, t, r % 2 ? DTYPE_F32 : t, r % 3);
            product_case(&plain_16[i], 16, 3072, n_rows[r], t, t, t, r % 2);
        }
    product_case(&packed[1], 16, 8192, 8, DTYPE_F16, DTYPE_F16, DTYPE_F16, false);
    product_case(&packed[9], 8, 14336, 3, DTYPE_BF16, DTYPE_BF16, DTYPE_BF16, true);
    product_case(&plain_16[0], 1024 * 3, 256, 5, DTYPE_F16, DTYPE_F16, DTYPE_F32, true);
}

/* ---- batches ---- */

static const int64_t sizes_of_batches[] = { 1, 2, 7, 8, 16, 33, 64 };
#define N_SIZES (sizeof sizes_of_batches / sizeof *sizes_of_batches)

static void batch_case(const struct form *f, int64_t n_out, int64_t n_in, enum dtype t,
                       enum dtype compute)
{
    if (left_out())
        return;
    enum { ROWS = 64 };
    struct weight w = random_weight(f, n_out, n_in), dw = arranged_weight(&w);
    struct tensor x = random_tensor(t, ROWS, n_in, 1), dx = device_tensor(&x);
    struct tensor all = device_result(t, ROWS, n_out);

    run(&dx, &dw, NULL, compute, &all);
    struct tensor want = host_tensor(&all);
    for (size_t s = 0; s < N_SIZES; s++) {
        struct tensor out = device_result(t, ROWS, n_out);

        for (int64_t at = 0; at < ROWS; at += sizes_of_batches[s]) {
            int64_t n = ROWS - at < sizes_of_batches[s] ? ROWS - at : sizes_of_batches[s];
            struct tensor xs = rows_of(&dx, at, n), ys = rows_of(&out, at, n);
            run(&xs, &dw, NULL, compute, &ys);
        }
        struct tensor got = host_tensor(&out);
        CHECK(same_bits(&got, &want), "%s in %s, %lld x %lld: the same bits in batches of %lld",
              f->name, dtype_name(t), (long long)n_out, (long long)n_in,
              (long long)sizes_of_batches[s]);
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
    for (size_t i = 0; i < N_PACKED; i++) {
        batch_case(&packed[i], 40, 640, DTYPE_F16, DTYPE_F16);
        batch_case(&packed[i], 136, 2048, DTYPE_BF16, i % 2 ? DTYPE_BF16 : DTYPE_F16);
    }
    for (size_t i = 0; i < 2; i++) {
        batch_case(&plain_16[i], 40, 640, plain_16[i].plain, plain_16[i].plain);
        batch_case(&plain_16[i], 3072, 2048, plain_16[i].plain, plain_16[i].plain);
    }
    batch_case(&packed[0], 64, 8192, DTYPE_F16, DTYPE_F16);
    batch_case(&packed[11], 64, 8192, DTYPE_F16, DTYPE_F16); /* more scales than have room */
    batch_case(&packed[1], 2048, 2048, DTYPE_F16, DTYPE_F16);
    batch_case(&plain_16[0], 2048, 8192, DTYPE_F16, DTYPE_F16);
}

/* ---- what is fused ---- */

enum { FUSED_ROWS = 64 };

struct fused {
    struct weight w[3], dw[3]; /* 0 and 1 of one shape; 2 of another */
    struct tensor x, dx, bias[3], dbias[3], norm, dnorm;
    enum dtype t, compute;
};

static void open_fused(struct fused *f, const struct form *form, int64_t n_out, int64_t n_in,
                       enum dtype t, enum dtype compute)
{
    *f = (struct fused){ .t = t, .compute = compute };
    f->x = random_tensor(t, FUSED_ROWS, n_in, 1);
    f->dx = device_tensor(&f->x);
    f->norm = random_tensor(t, 1, n_in, 1);
    f->dnorm = device_tensor(&f->norm);
    for (int i = 0; i < 3; i++) {
        f->w[i] = random_weight(form, i < 2 ? n_out : 3 * n_out, n_in);
        if (form->form == WEIGHT_TABLE)
            memcpy(f->w[i].table, f->w[0].table, sizeof f->w[i].table);
        f->dw[i] = arranged_weight(&f->w[i]);
        f->bias[i] = random_tensor(t, 1, f->w[i].n_out, 1);
        f->dbias[i] = device_tensor(&f->bias[i]);
    }
}

static void close_fused(struct fused *f)
{
    device_free(f->dx.data);
    device_free(f->dnorm.data);
    free_tensor(&f->x);
    free_tensor(&f->norm);
    for (int i = 0; i < 3; i++) {
        weight_release(&gpu, &f->dw[i]);
        weight_release(&isas[0], &f->w[i]);
        device_free(f->dbias[i].data);
        free_tensor(&f->bias[i]);
    }
}

static struct decode_linear fused_args(const struct fused *f, enum decode_epilogue epilogue,
                                       int n_parts, const struct tensor *x)
{
    struct decode_linear a = { .epilogue = epilogue,
                               .n_parts = n_parts,
                               .x = x->data,
                               .eps = 1e-5f,
                               .model = f->t,
                               .compute = f->compute,
                               .n_rows = x->n_rows };

    for (int i = 0; i < n_parts; i++) {
        a.w[i] = &f->dw[i];
        a.bias[i] = &f->dbias[i];
    }
    return a;
}

static void run_fused(const struct decode_linear *a)
{
    struct err e = ERR_INIT;

    CHECK(cuda_linear_decode_fits(a), "%d parts in epilogue %d fit", a->n_parts, a->epilogue);
    CHECK_OK(cuda_linear_decode(gpu.state, a, &e), e);
}

/* Three parts in one launch, and as three. */
static void check_parts(const struct fused *f, const struct tensor *x)
{
    struct decode_linear a = fused_args(f, DECODE_STORE, 3, x);
    struct tensor y[3];

    for (int i = 0; i < 3; i++) {
        y[i] = device_result(f->t, x->n_rows, f->w[i].n_out);
        a.y[i] = y[i].data;
    }
    run_fused(&a);
    for (int i = 0; i < 3; i++) {
        struct tensor alone = device_result(f->t, x->n_rows, f->w[i].n_out);
        run(x, &f->dw[i], &f->dbias[i], f->compute, &alone);
        struct tensor want = host_tensor(&alone);
        check_device("a part of three", &y[i], &want);
        device_free(alone.data);
    }
}

static void check_residual(const struct fused *f, const struct tensor *x)
{
    struct tensor held = random_tensor(f->t, x->n_rows, f->w[0].n_out, 9);
    struct tensor sum = device_tensor(&held), y = device_result(f->t, x->n_rows, f->w[0].n_out);
    struct tensor composed = device_tensor(&held);
    struct decode_linear a = fused_args(f, DECODE_ADD, 1, x);
    struct add_args add = { &composed, &y, x->n_rows };
    struct err e = ERR_INIT;

    a.residual = sum.data;
    run_fused(&a);
    run(x, &f->dw[0], &f->dbias[0], f->compute, &y);
    CHECK_OK(gpu.ops->add(&gpu, &add, &e), e);
    struct tensor want = host_tensor(&composed);
    check_device("residual", &sum, &want);
    device_free(y.data);
    device_free(composed.data);
    free_tensor(&held);
}

static void check_swiglu(const struct fused *f, const struct tensor *x)
{
    struct tensor out = device_result(f->t, x->n_rows, f->w[0].n_out);
    struct tensor gate = device_result(f->t, x->n_rows, f->w[0].n_out);
    struct tensor up = device_result(f->t, x->n_rows, f->w[0].n_out);
    struct decode_linear a = fused_args(f, DECODE_SWIGLU, 2, x);
    struct swiglu_args composed = { &gate, &up, &gate, x->n_rows };
    struct err e = ERR_INIT;

    a.y[0] = out.data;
    run_fused(&a);
    run(x, &f->dw[0], &f->dbias[0], f->compute, &gate);
    run(x, &f->dw[1], &f->dbias[1], f->compute, &up);
    CHECK_OK(gpu.ops->swiglu(&gpu, &composed, &e), e);
    struct tensor want = host_tensor(&gate);
    check_device("SwiGLU", &out, &want);
    device_free(gate.data);
    device_free(up.data);
}

/* Where element (row, col) of x lies in an image, told the other way than decode_image.cuh does. */
static int64_t place_in_image(int eights, int64_t row, int64_t col)
{
    const int64_t at[][2] = { /* how many, which: from outside in */
                              { INT64_MAX, col / 128 }, { 4, col / 32 % 4 }, { 2, col / 4 % 2 },
                              { eights, row / 8 },      { 2, col / 2 % 2 },  { 8, row % 8 },
                              { 4, col / 8 % 4 },       { 2, col % 2 }
    };
    int64_t place = 0;

    for (size_t i = 0; i < sizeof at / sizeof *at; i++)
        place = (i ? place * at[i][0] : 0) + at[i][1];
    return place;
}

/* x as an image, and SwiGLU into one, where a kernel knows that: as with rows. */
static void check_image(const struct fused *f, const struct tensor *x)
{
    struct decode_linear a = fused_args(f, DECODE_STORE, 1, x);
    struct tensor rows = device_result(f->t, x->n_rows, f->w[0].n_out);
    struct tensor got = device_result(f->t, x->n_rows, f->w[0].n_out);
    int eights = cuda_linear_decode_eights(gpu.state, &a);

    CHECK(!eights || f->t == f->compute, "an image of %lld rows of another type",
          (long long)x->n_rows);
    if (eights) {
        struct tensor host = host_tensor(x), image = new_tensor(f->t, 8 * eights, x->n_cols);

        memset(image.data, 0xFF, tensor_bytes(&image)); /* rows that are not there: NaN */
        for (int64_t r = 0; r < x->n_rows; r++)
            for (int64_t c = 0; c < x->n_cols; c++)
                ((uint16_t *)image.data)[place_in_image(eights, r, c)] =
                    ((const uint16_t *)host.data)[r * x->n_cols + c];
        struct tensor dimage = device_tensor(&image);
        a.y[0] = rows.data;
        run_fused(&a);
        a.x = dimage.data;
        a.x_eights = eights;
        a.y[0] = got.data;
        run_fused(&a);
        struct tensor want = host_tensor(&rows);
        check_device("x as an image", &got, &want);
        device_free(rows.data);
        device_free(dimage.data);
        free_tensor(&host);
        free_tensor(&image);
    } else {
        device_free(rows.data);
        device_free(got.data);
    }
    a = fused_args(f, DECODE_SWIGLU, 2, x);
    if (f->w[0].n_out % 128 || !cuda_linear_decode_leaves_image(gpu.state, &a))
        return;
    eights = x->n_rows <= 16 ? 2 : x->n_rows <= 32 ? 4 : 8;
    rows = device_result(f->t, x->n_rows, f->w[0].n_out);
    got = device_result(f->t, 8 * eights, f->w[0].n_out);
    a.y[0] = rows.data;
    run_fused(&a);
    a.y[0] = got.data;
    a.y_eights = eights;
    run_fused(&a);
    struct tensor want = host_tensor(&rows), image = host_tensor(&got);
    for (int64_t r = 0; r < x->n_rows; r++)
        for (int64_t c = 0; c < want.n_cols; c++)
            CHECK(((const uint16_t *)image.data)[place_in_image(eights, r, c)] ==
                      ((const uint16_t *)want.data)[r * want.n_cols + c],
                  "SwiGLU as an image [%lld, %lld]", (long long)r, (long long)c);
    free_tensor(&want);
    free_tensor(&image);
    device_free(rows.data);
    device_free(got.data);
}

/* What the candidates of all blocks come to. */
static int32_t best_of(const struct decode_best *best, int n_blocks, int64_t n_rows, int64_t row)
{
    struct decode_best top = { 0, DECODE_NONE };

    for (int i = 0; i < n_blocks; i++) {
        struct decode_best b = best[i * n_rows + row];

        if (b.id == DECODE_NAN)
            return -1;
        if (b.id >= 0 &&
            (top.id < 0 || b.value > top.value || (b.value == top.value && b.id < top.id)))
            top = b;
    }
    return top.id;
}

static void check_argmax(const struct fused *f, const struct tensor *x, bool with_nan)
{
    struct tensor logits = device_result(DTYPE_F32, x->n_rows, f->w[2].n_out);
    struct decode_linear a = fused_args(f, DECODE_ARGMAX, 1, x);
    int32_t forbidden[2], *ids, got[FUSED_ROWS];
    struct err e = ERR_INIT;

    a.w[0] = &f->dw[2];
    a.bias[0] = with_nan ? NULL : &f->dbias[2];
    run(x, &f->dw[2], a.bias[0], f->compute, &logits);
    struct tensor host = host_tensor(&logits);
    for (int i = 0; i < 2; i++) { /* the winners of two rows */
        const float *row = (const float *)host.data + (i * (x->n_rows - 1)) * host.n_cols;
        forbidden[i] = 0;
        for (int32_t c = 0; c < host.n_cols; c++)
            if (row[c] > row[forbidden[i]])
                forbidden[i] = c;
    }
    ids = to_device(got, sizeof got);
    a.forbidden = to_device(forbidden, sizeof forbidden);
    a.n_forbidden = 2;
    int n_blocks = cuda_linear_decode_blocks(gpu.state, &a);
    size_t n_bytes = (size_t)n_blocks * (size_t)x->n_rows * sizeof *a.best;
    struct decode_best *best = malloc(n_bytes);
    memset(best, 0x5A, n_bytes);
    a.best = to_device(best, n_bytes);
    run_fused(&a);
    struct argmax_args composed = { &logits, x->n_rows, a.forbidden, 2, ids };
    CHECK_OK(gpu.ops->argmax(&gpu, &composed, &e), e);
    CHECK_OK(gpu.ops->download(&gpu, best, a.best, n_bytes, &e), e);
    CHECK_OK(gpu.ops->download(&gpu, got, ids, (size_t)x->n_rows * sizeof *got, &e), e);
    for (int64_t r = 0; r < x->n_rows; r++)
        CHECK(best_of(best, n_blocks, x->n_rows, r) == got[r], "row %lld of %lld: id %d, not %d",
              (long long)r, (long long)x->n_rows, best_of(best, n_blocks, x->n_rows, r), got[r]);
    if (with_nan)
        CHECK(got[0] == -1, "a NaN has no best id");
    free(best);
    device_free(a.best);
    device_free((void *)a.forbidden);
    device_free(ids);
    device_free(logits.data);
    free_tensor(&host);
}

/* Beside the norm of the GPU and a product: the sums of squares have another order. */
static void check_norm(const struct fused *f, struct tensor *first)
{
    const int64_t n_rows = f->dx.n_rows;
    struct tensor all = device_result(f->t, n_rows, f->w[0].n_out);
    struct tensor u = device_result(f->t, n_rows, f->x.n_cols);
    struct tensor composed = device_result(f->t, n_rows, f->w[0].n_out);
    struct norm_args norm = { &f->dx, &f->dnorm, &u, n_rows, 1e-5f, PHASE_DECODE };
    struct decode_linear a = fused_args(f, DECODE_STORE, 1, &f->dx);
    struct err e = ERR_INIT;
    double off = 0, size = 0;

    a.norm_weight = &f->dnorm;
    a.y[0] = all.data;
    run_fused(&a);
    CHECK_OK(gpu.ops->norm(&gpu, &norm, &e), e);
    run(&u, &f->dw[0], &f->dbias[0], f->compute, &composed);
    struct tensor want = host_tensor(&composed);
    *first = host_tensor(&all);
    for (int64_t r = 0; r < n_rows; r++)
        for (int64_t n = 0; n < want.n_cols; n++) {
            double d = element(first, r, n) - element(&want, r, n);
            off += d * d;
            size += (double)element(&want, r, n) * element(&want, r, n);
        }
    CHECK(sqrt(off / size) < (f->t == DTYPE_F16 ? 3e-4 : 3e-3), "norm and product: %g off",
          sqrt(off / size));
    device_free(all.data);
    device_free(u.data);
    device_free(composed.data);
    free_tensor(&want);
}

/* All rows normed and multiplied, without a comparison. */
static void run_normed(const struct fused *f, struct tensor *out)
{
    struct tensor all = device_result(f->t, f->dx.n_rows, f->w[0].n_out);
    struct decode_linear a = fused_args(f, DECODE_STORE, 1, &f->dx);

    a.norm_weight = &f->dnorm;
    a.y[0] = all.data;
    run_fused(&a);
    *out = host_tensor(&all);
    device_free(all.data);
}

/* The same bits for a normed row in any batch. */
static void check_norm_batches(const struct fused *f, const struct tensor *want)
{
    for (size_t s = 0; s < N_SIZES; s++) {
        int64_t n = sizes_of_batches[s];
        struct tensor xs = rows_of(&f->dx, FUSED_ROWS - n, n),
                      expected = rows_of(want, FUSED_ROWS - n, n);
        struct tensor ys = device_result(f->t, n, f->w[0].n_out);
        struct decode_linear a = fused_args(f, DECODE_STORE, 1, &xs);

        a.norm_weight = &f->dnorm;
        a.y[0] = ys.data;
        run_fused(&a);
        struct tensor got = host_tensor(&ys);
        CHECK(same_bits(&got, &expected), "normed rows have the same bits in a batch of %lld",
              (long long)n);
        free_tensor(&got);
        device_free(ys.data);
    }
}

static void fused_case(const struct form *form, int64_t n_out, int64_t n_in, enum dtype t,
                       enum dtype compute)
{
    if (left_out())
        return;
    static const int64_t n_rows[] = { 1, 3, 8, 13, 64 };
    struct fused f;
    struct tensor normed;

    open_fused(&f, form, n_out, n_in, t, compute);
    for (size_t i = 0; i < sizeof n_rows / sizeof *n_rows; i++) {
        struct tensor x = rows_of(&f.dx, FUSED_ROWS - n_rows[i], n_rows[i]);

        check_parts(&f, &x);
        check_residual(&f, &x);
        check_swiglu(&f, &x);
        check_image(&f, &x);
        check_argmax(&f, &x, false);
    }
    check_norm(&f, &normed);
    check_norm_batches(&f, &normed);
    free_tensor(&normed);
    set_element(&f.x, 0, n_in / 2, NAN);
    struct tensor spoiled = device_tensor(&f.x);
    check_argmax(&f, &spoiled, true);
    device_free(spoiled.data);
    close_fused(&f);
}

static void fused(void **state)
{
    (void)state;
    fused_case(&packed[1], 136, 256, DTYPE_F16, DTYPE_F16);
    fused_case(&packed[1], 64, 2048, DTYPE_BF16, DTYPE_F16);
    fused_case(&packed[9], 2112, 640, DTYPE_F16, DTYPE_F16);
    fused_case(&packed[5], 72, 8192, DTYPE_F16, DTYPE_F16);
    fused_case(&plain_16[0], 136, 2048, DTYPE_F16, DTYPE_F16);
    fused_case(&plain_16[1], 2112, 256, DTYPE_BF16, DTYPE_BF16);
    fused_case(&packed[2], 256, 640, DTYPE_F16, DTYPE_F16);
    /* So many rows of W that no blocks share K, but two streams of a block. */
    fused_case(&packed[1], 6400, 640, DTYPE_F16, DTYPE_F16);
    fused_case(&packed[7], 6400, 2048, DTYPE_BF16, DTYPE_BF16);
    fused_case(&plain_16[0], 6400, 640, DTYPE_F16, DTYPE_F16);
    /* And a head of which every warp has several passes. */
    fused_case(&plain_16[1], 12032, 256, DTYPE_BF16, DTYPE_BF16);
}

/* ---- LLM.int8 ---- */

/* The bits of the prompt's kernels, whose rows are documents of their own here. */
static void int8_case(int64_t n_out, int64_t n_in, enum dtype t, float threshold, float scale,
                      bool with_bias)
{
    if (left_out())
        return;
    static const int64_t n_rows[] = { 1, 3, 8, 21 };
    const struct form form = { "LLM.int8", WEIGHT_INT8, 0, 8, 0, false, SCALE_F32, 0, false };
    struct fused f;

    open_fused(&f, &form, n_out, n_in, t, DTYPE_F16);
    for (int i = 0; i < 3; i++)
        f.w[i].outlier_threshold = f.dw[i].outlier_threshold = threshold;
    for (int64_t i = 0; i < FUSED_ROWS * n_in; i++)
        set_element(&f.x, 0, i, element(&f.x, 0, i) * scale);
    for (int64_t c = 0; c < n_in; c++)
        set_element(&f.x, 1, c, 0);
    set_element(&f.x, 2, n_in / 3, NAN);
    struct tensor dx = device_tensor(&f.x);
    for (size_t i = 0; i < sizeof n_rows / sizeof *n_rows; i++) {
        struct tensor x = rows_of(&dx, n_rows[i] == 3 ? 0 : 40, n_rows[i]);
        struct tensor y = device_result(t, n_rows[i], n_out),
                      z = device_result(t, n_rows[i], n_out);
        const struct tensor *bias = with_bias ? &f.dbias[0] : NULL;

        run_int8(&x, &f.dw[0], bias, PHASE_PROMPT, &z);
        run_int8(&x, &f.dw[0], bias, PHASE_DECODE, &y);
        struct tensor want = host_tensor(&z);
        check_device("LLM.int8", &y, &want);
        device_free(z.data);
    }
    device_free(dx.data);
    for (size_t i = 0; i < 3; i++) {
        struct tensor x = rows_of(&f.dx, 10, n_rows[i]);
        check_parts(&f, &x);
        check_residual(&f, &x);
        check_swiglu(&f, &x);
    }
    struct tensor normed;
    run_normed(&f, &normed);
    check_norm_batches(&f, &normed);
    free_tensor(&normed);
    close_fused(&f);
}

static void int8_products(void **state)
{
    (void)state;
    int8_case(40, 640, DTYPE_F16, 6, 1, true);
    int8_case(40, 640, DTYPE_F16, 6, 3, true);
    int8_case(136, 2048, DTYPE_BF16, 2, 1, true);
    int8_case(72, 2048, DTYPE_F16, 0, 3, false);
    int8_case(24, 8192, DTYPE_F16, 3, 1, false);
    int8_case(2120, 256, DTYPE_BF16, 6, 3, false);
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
        cmocka_unit_test(values),        cmocka_unit_test(products),
        cmocka_unit_test(batches),       cmocka_unit_test(fused),
        cmocka_unit_test(int8_products), cmocka_unit_test(nothing_is_left),
    };

    return open_device() ? cmocka_run_group_tests(tests, open_twins, close_twins) : 1;
}
