/* test_gpu_prompt.c - products of the prompt phase on the GPU: beside float64; the same bits in any
 * tile, cluster and batch; ends of a product beside the operations they stand for; nll of the head
 * beside double. */
#include "twin.h"

#include "../../cuda/gemm_wish.cuh"

static const struct gemm_wish no_wish = GEMM_NO_WISH;

/* As test_gpu_linear has it: tensor cores cut off addends below the largest of a step. */
static double allowed_sum_error(int64_t n_in, double size)
{
    return ((double)n_in / 16 + 8) * size * 0x1p-23;
}

/* A plain weight on the device and on the host. */
struct both {
    struct tensor host, device;
    struct weight w;
};

static struct both random_both(enum dtype t, int64_t n_rows, int64_t n_cols, float scale)
{
    struct both out;

    out.host = random_tensor(t, n_rows, n_cols, scale);
    out.device = device_tensor(&out.host);
    out.w = weight_of_tensor(&out.device);
    return out;
}

static void free_both(struct both *b)
{
    free_tensor(&b->host);
    device_free(b->device.data);
}

static struct linear_args product(const struct tensor *x, const struct weight *w,
                                  const struct tensor *bias, struct tensor *y, int64_t n_rows)
{
    return (struct linear_args){ .x = x,
                                 .w = w,
                                 .bias = bias,
                                 .y = y,
                                 .n_rows = n_rows,
                                 .compute = x->dtype,
                                 .phase = PHASE_PROMPT };
}

static void linear(const struct linear_args *a)
{
    struct err e = ERR_INIT;

    CHECK_OK(gpu.ops->linear(&gpu, a, &e), e);
}

/* ---- beside float64 ---- */

/* Some outputs of each row, and every column somewhere. */
static void check_product(const struct tensor *x, const struct tensor *w, const struct tensor *bias,
                          const struct tensor *y, int64_t n_rows)
{
    const int64_t n_in = w->n_cols;
    float *xs = malloc((size_t)(x->n_rows * n_in) * sizeof *xs);
    float *ws = malloc((size_t)(w->n_rows * n_in) * sizeof *ws);

    dtype_to_f32(x->dtype, x->data, xs, x->n_rows * n_in);
    dtype_to_f32(w->dtype, w->data, ws, w->n_rows * n_in);
    for (int64_t r = 0; r < n_rows; r++)
        for (int64_t n = r % 7; n < w->n_rows; n += 7) {
            double exact = bias ? element(bias, 0, n) : 0, size = fabs(exact);

            for (int64_t k = 0; k < n_in; k++) {
                double p = (double)xs[r * n_in + k] * ws[n * n_in + k];
                exact += p;
                size += fabs(p);
            }
            double off = allowed_sum_error(n_in, size);
            CHECK(check_near(element(y, r, n), exact, half_step(y->dtype, fabs(exact) + off) + off),
                  "%s to %s [%lld of %lld, %lld of %lld], K %lld: %g, not %g", dtype_name(x->dtype),
                  dtype_name(y->dtype), (long long)r, (long long)n_rows, (long long)n,
                  (long long)w->n_rows, (long long)n_in, (double)element(y, r, n), exact);
        }
    for (int64_t r = n_rows; r < y->n_rows; r++)
        for (int64_t n = 0; n < y->n_cols; n++)
            CHECK(isnan(element(y, r, n)), "nothing is written behind the last row");
    free(xs);
    free(ws);
}

static void product_case(enum dtype t, enum dtype y_t, int64_t n_rows, int64_t n_out, int64_t n_in,
                         bool with_bias)
{
    if (left_out())
        return;
    struct both x = random_both(t, n_rows, n_in, 1), w = random_both(t, n_out, n_in, 1);
    struct both bias = random_both(t, 1, n_out, 1);
    struct tensor out = device_result(y_t, n_rows + 3, n_out);
    const struct linear_args a =
        product(&x.device, &w.w, with_bias ? &bias.device : NULL, &out, n_rows);

    linear(&a);
    struct tensor y = host_tensor(&out);
    check_product(&x.host, &w.host, with_bias ? &bias.host : NULL, &y, n_rows);
    free_tensor(&y);
    device_free(out.data);
    free_both(&x);
    free_both(&w);
    free_both(&bias);
}

static void products(void **state)
{
    static const struct {
        int64_t n_rows, n_out, n_in;
    } sizes[] = { { 1, 8, 8 },        { 3, 40, 72 },     { 64, 264, 200 },  { 65, 64, 264 },
                  { 127, 520, 64 },   { 128, 128, 128 }, { 129, 72, 520 },  { 300, 1000, 136 },
                  { 17, 2048, 512 },  { 200, 96, 8192 }, { 30, 264, 4104 }, { 150, 2048, 8192 },
                  { 260, 1040, 2056 } };
    static const enum dtype types[][2] = { { DTYPE_F16, DTYPE_F16 },
                                           { DTYPE_BF16, DTYPE_BF16 },
                                           { DTYPE_F16, DTYPE_F32 },
                                           { DTYPE_BF16, DTYPE_F32 },
                                           { DTYPE_F16, DTYPE_BF16 } };
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t t = 0; t < 5; t++)
            product_case(types[t][0], types[t][1], sizes[i].n_rows, sizes[i].n_out, sizes[i].n_in,
                         (i + t) % 2);
}

/* Packed weights of every form, in shapes that these kernels take. */
static void packed(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_FORMS; i++)
        for (size_t d = 1; d < 3; d++) {
            if (forms[i].form == WEIGHT_INT8 || left_out())
                continue;
            struct weight w = random_weight(&forms[i], 136, 320), dw = device_weight(&w);
            struct both x = random_both(model_dtypes[d], 70, 320, 1);
            struct tensor plain = new_tensor(model_dtypes[d], 136, 320);
            struct tensor out = device_result(model_dtypes[d], 73, 136);
            const struct linear_args a = product(&x.device, &dw, NULL, &out, 70);
            const struct dequantize_args values = { &w, &plain };
            struct err e = ERR_INIT;

            linear(&a);
            CHECK_OK(cpu->ops->dequantize(cpu, &values, &e), e);
            struct tensor y = host_tensor(&out);
            check_product(&x.host, &plain, NULL, &y, 70);
            free_tensor(&y);
            free_tensor(&plain);
            device_free(out.data);
            free_both(&x);
            weight_release(&gpu, &dw);
            weight_release(&isas[0], &w);
        }
}

/* ---- the same bits ---- */

static void check_rows(const struct tensor *got, const struct tensor *want, int64_t first,
                       const char *what, int64_t n)
{
    struct tensor rows = rows_of(want, first, got->n_rows);

    CHECK(same_bits(got, &rows), "%s %lld, rows from %lld: the same bits (%lld x %lld)", what,
          (long long)n, (long long)first, (long long)want->n_rows, (long long)want->n_cols);
}

/* Whatever tiles, clusters and batches. */
static void tile_case(enum dtype t, int64_t n_rows, int64_t n_out, int64_t n_in)
{
    if (left_out())
        return;
    static const struct gemm_wish clusters[] = { { 0, 1, 1, 1, 0 },
                                                 { 0, 2, 1, 3, 0 },
                                                 { 0, 1, 2, 0, 0 },
                                                 { 0, 2, 2, 0, 0 },
                                                 { 0, 4, 1, 0, 0 } };
    static const int64_t batches[] = { 1, 7, 64, 65, 500, 512 };
    struct both x = random_both(t, n_rows, n_in, 1), w = random_both(t, n_out, n_in, 1);
    struct tensor all = device_result(t, n_rows, n_out);
    struct linear_args a = product(&x.device, &w.w, NULL, &all, n_rows);

    linear(&a);
    struct tensor want = host_tensor(&all);
    for (int kernel = 0; kernel < 6; kernel++)
        for (size_t c = 0; c < sizeof clusters / sizeof *clusters; c++) {
            struct tensor out = device_result(t, n_rows, n_out);

            gemm_wish = clusters[c];
            gemm_wish.kernel = kernel;
            a.y = &out;
            linear(&a);
            gemm_wish = no_wish;
            struct tensor got = host_tensor(&out);
            check_rows(&got, &want, 0, "kernel", kernel * 10 + (int)c);
            free_tensor(&got);
            device_free(out.data);
        }
    for (size_t i = 0; i < sizeof batches / sizeof *batches && batches[i] <= n_rows; i++)
        for (int64_t first = 0; first <= n_rows - batches[i]; first += n_rows - batches[i]) {
            struct tensor xs = rows_of(&x.device, first, batches[i]);
            struct tensor out = device_result(t, batches[i], n_out);
            const struct linear_args some = product(&xs, &w.w, NULL, &out, batches[i]);

            linear(&some);
            struct tensor got = host_tensor(&out);
            check_rows(&got, &want, first, "a batch of", batches[i]);
            free_tensor(&got);
            device_free(out.data);
            if (batches[i] == n_rows)
                break;
        }
    free_tensor(&want);
    device_free(all.data);
    free_both(&x);
    free_both(&w);
}

static void tiles(void **state)
{
    (void)state;
    tile_case(DTYPE_F16, 2048, 512, 2048);
    tile_case(DTYPE_BF16, 700, 1032, 328);
    tile_case(DTYPE_F16, 513, 520, 8192);
    tile_case(DTYPE_BF16, 150, 2048, 4096);
    tile_case(DTYPE_F16, 300, 2056, 8192);
    tile_case(DTYPE_F16, 70, 4104, 4104);
    tile_case(DTYPE_BF16, 513, 1032, 2048);
}

/* ---- ends ---- */

static struct tensor copy_on_device(const struct tensor *t)
{
    struct tensor host = host_tensor(t), out = device_tensor(&host);

    free_tensor(&host);
    return out;
}

static void check_equal(const char *what, struct tensor *got, struct tensor *want)
{
    struct tensor a = host_tensor(got), b = host_tensor(want);

    CHECK(same_bits(&a, &b), "%s in %s, %lld x %lld: the bits of its parts", what,
          dtype_name(a.dtype), (long long)a.n_rows, (long long)a.n_cols);
    free_tensor(&a);
    free_tensor(&b);
    device_free(got->data);
    device_free(want->data);
}

static void end_case(enum dtype t, int64_t n_rows, int64_t wide, int64_t narrow, int64_t n_in,
                     bool with_bias)
{
    if (left_out())
        return;
    const int64_t n_out[3] = { wide, narrow, narrow };
    struct both x = random_both(t, n_rows, n_in, 0.3f), w[3], bias[3];
    struct linear_args many[3], each[3];
    struct tensor together[3], alone[3];
    struct err e = ERR_INIT;

    for (int i = 0; i < 3; i++) {
        w[i] = random_both(t, n_out[i], n_in, 0.3f);
        bias[i] = random_both(t, 1, n_out[i], 1);
        together[i] = device_result(t, n_rows, n_out[i]);
        alone[i] = device_result(t, n_rows, n_out[i]);
        many[i] =
            product(&x.device, &w[i].w, with_bias ? &bias[i].device : NULL, &together[i], n_rows);
        each[i] = many[i];
        each[i].y = &alone[i];
        linear(&each[i]);
    }
    CHECK_OK(gpu.ops->linear_many(&gpu, many, 3, &e), e);
    /* SwiGLU of the two narrow ones, which never splits k */
    const bool alike = n_in < 2048 || narrow > n_in; /* as the parts alone */
    struct tensor fused = device_result(t, n_rows, narrow);
    struct tensor parts = device_result(t, n_rows, narrow);
    const struct swiglu_args swiglu = { &alone[1], &alone[2], &parts, n_rows };
    struct tensor room = device_result(t, n_rows, narrow);
    many[1].y = &fused;
    many[2].y = &room;
    CHECK_OK(gpu.ops->swiglu(&gpu, &swiglu, &e), e);
    CHECK_OK(gpu.ops->linear_swiglu(&gpu, &many[1], &many[2], &fused, &e), e);
    if (alike) {
        check_equal("linear_swiglu", &fused, &parts);
    } else {
        device_free(fused.data);
        device_free(parts.data);
    }
    device_free(room.data);
    /* onto a residual stream */
    struct both stream = random_both(t, n_rows, wide, 2);
    struct tensor by_parts = copy_on_device(&stream.device);
    struct tensor at_once = copy_on_device(&stream.device), y = device_result(t, n_rows, wide);
    const struct add_args add = { &by_parts, &alone[0], n_rows };
    CHECK_OK(gpu.ops->add(&gpu, &add, &e), e);
    many[0].y = &y;
    CHECK_OK(gpu.ops->linear_add(&gpu, &many[0], &at_once, &e), e);
    check_equal("linear_add", &at_once, &by_parts);
    device_free(y.data);
    for (int i = 0; i < 3; i++) {
        check_equal("linear_many", &together[i], &alone[i]);
        free_both(&w[i]);
        free_both(&bias[i]);
    }
    free_both(&stream);
    free_both(&x);
}

static struct tensor first_columns(const struct tensor *t, int64_t n)
{
    struct tensor all = host_tensor(t), some = new_tensor(t->dtype, t->n_rows, n);
    const size_t bytes = (size_t)n * dtype_bytes(t->dtype);

    for (int64_t r = 0; r < t->n_rows; r++)
        memcpy((char *)some.data + (size_t)r * bytes,
               (const char *)all.data + (size_t)(r * t->n_cols) * dtype_bytes(t->dtype), bytes);
    struct tensor out = device_tensor(&some);
    free_tensor(&all);
    free_tensor(&some);
    return out;
}

/* Gate and up of a model in parts have the sums that they have in the whole: as in matrices with
 * many outputs, whose k is not split. */
static void pair_case(enum dtype t, int64_t n_rows, int64_t n_out, int64_t n_in)
{
    if (left_out())
        return;
    struct both x = random_both(t, n_rows, n_in, 0.3f), whole[2];
    struct tensor alone[2], room[2], parts = device_result(t, n_rows, n_out);
    const struct swiglu_args swiglu = { &alone[0], &alone[1], &parts, n_rows };
    struct linear_args pair[2];
    struct weight some[2];
    struct err e = ERR_INIT;

    for (int i = 0; i < 2; i++) {
        whole[i] = random_both(t, 4104, n_in, 0.3f);
        struct tensor y = device_result(t, n_rows, 4104);
        const struct linear_args a = product(&x.device, &whole[i].w, NULL, &y, n_rows);

        linear(&a);
        alone[i] = first_columns(&y, n_out);
        device_free(y.data);
        room[i] = device_result(t, n_rows, n_out);
        some[i] = whole[i].w;
        some[i].n_out = n_out;
        pair[i] = product(&x.device, &some[i], NULL, &room[i], n_rows);
    }
    CHECK_OK(gpu.ops->swiglu(&gpu, &swiglu, &e), e);
    CHECK_OK(gpu.ops->linear_swiglu(&gpu, &pair[0], &pair[1], &room[0], &e), e);
    check_equal("linear_swiglu of parts", &room[0], &parts);
    device_free(room[1].data);
    for (int i = 0; i < 2; i++) {
        device_free(alone[i].data);
        free_both(&whole[i]);
    }
    free_both(&x);
}

static void ends(void **state)
{
    (void)state;
    for (size_t d = 0; d < 3; d++)
        for (int bias = 0; bias < 2; bias++) {
            end_case(model_dtypes[d], 1, 64, 32, 64, bias);
            end_case(model_dtypes[d], 130, 264, 72, 200, bias);
            end_case(model_dtypes[d], 77, 130, 65, 63, bias); /* composed */
        }
    for (size_t d = 1; d < 3; d++) {
        end_case(model_dtypes[d], 512, 2048, 512, 512, false);
        end_case(model_dtypes[d], 300, 520, 256, 4096, d == 1); /* k is split */
        end_case(model_dtypes[d], 1000, 1024, 1024, 128, d == 2);
        end_case(model_dtypes[d], 200, 2048, 512, 2048, d == 2);
        pair_case(model_dtypes[d], 200, 1024, 2048);
    }
}

/* SwiGLU of every value a gate can have: x = (1, 0, ...) picks W's first column. */
static void every_gate(void **state)
{
    enum { N = 65536, K = 8 };
    (void)state;
    for (size_t d = 1; d < 3; d++) {
        struct tensor x = new_tensor(model_dtypes[d], 1, K),
                      gates = new_tensor(model_dtypes[d], N, K);
        struct tensor ups = new_tensor(model_dtypes[d], N, K);
        struct err e = ERR_INIT;

        memset(x.data, 0, tensor_bytes(&x));
        set_element(&x, 0, 0, 1);
        memset(gates.data, 0, tensor_bytes(&gates));
        memset(ups.data, 0, tensor_bytes(&ups));
        for (int64_t i = 0; i < N; i++) {
            ((uint16_t *)gates.data)[i * K] = (uint16_t)i;
            set_element(&ups, i, 0, i % 2 ? 1.0f : 1.0f + draw_value() * 0.1f);
        }
        struct tensor dx = device_tensor(&x), dg = device_tensor(&gates), du = device_tensor(&ups);
        struct weight wg = weight_of_tensor(&dg), wu = weight_of_tensor(&du);
        struct tensor g = device_result(x.dtype, 1, N), u = device_result(x.dtype, 1, N);
        struct tensor parts = device_result(x.dtype, 1, N), fused = device_result(x.dtype, 1, N);
        struct linear_args ga = product(&dx, &wg, NULL, &g, 1), ua = product(&dx, &wu, NULL, &u, 1);
        const struct swiglu_args swiglu = { &g, &u, &parts, 1 };
        linear(&ga);
        linear(&ua);
        struct tensor seen = host_tensor(&g);
        int64_t n_seen = 0;
        for (int64_t i = 0; i < N; i++)
            n_seen += ((uint16_t *)seen.data)[i] == i;
        CHECK(n_seen > N - 2100, "nearly every bit pattern reaches the gate: %lld",
              (long long)n_seen); /* NaN payloads and -0 do not */
        CHECK_OK(gpu.ops->swiglu(&gpu, &swiglu, &e), e);
        CHECK_OK(gpu.ops->linear_swiglu(&gpu, &ga, &ua, &fused, &e), e);
        struct tensor got = host_tensor(&fused), want = host_tensor(&parts);
        check_same("every gate", &got, &want);
        struct tensor *host[] = { &x, &gates, &ups, &seen, &got, &want };
        struct tensor *device[] = { &dx, &dg, &du, &g, &u, &parts, &fused };
        for (size_t i = 0; i < 6; i++)
            free_tensor(host[i]);
        for (size_t i = 0; i < 7; i++)
            device_free(device[i]->data);
    }
}

/* ---- nll ---- */

static void nll_case(enum dtype t, int64_t n_rows, int64_t vocab, int64_t n_in, float scale)
{
    if (left_out())
        return;
    static const int64_t batches[] = { 1, 7, 65 };
    struct both x = random_both(t, n_rows, n_in, scale), w = random_both(t, vocab, n_in, 1);
    struct tensor logits = device_result(DTYPE_F32, n_rows, vocab);
    struct linear_args a = product(&x.device, &w.w, NULL, &logits, n_rows);
    int32_t *targets = malloc((size_t)n_rows * sizeof *targets);
    float *got = malloc((size_t)n_rows * sizeof *got),
          *again = malloc((size_t)n_rows * sizeof *got);
    struct err e = ERR_INIT;

    linear(&a);
    struct tensor all = host_tensor(&logits);
    for (int64_t r = 0; r < n_rows; r++) {
        targets[r] = (int32_t)(draw() * (double)vocab);
        if (r % 3 == 0) /* the largest: a small nll */
            for (int64_t n = targets[r] = 0; n < vocab; n++)
                if (element(&all, r, n) > element(&all, r, targets[r]))
                    targets[r] = (int32_t)n;
        if (r % 3 == 1)
            targets[r] = r % 2 ? 0 : (int32_t)vocab - 1;
    }
    int32_t *device_targets = to_device(targets, (size_t)n_rows * sizeof *targets);
    struct tensor out = device_result(DTYPE_F32, 1, n_rows);
    a.y = NULL;
    CHECK_OK(gpu.ops->linear_nll(&gpu, &a, device_targets, out.data, &e), e);
    CHECK_OK(gpu.ops->download(&gpu, got, out.data, (size_t)n_rows * sizeof *got, &e), e);
    for (int64_t r = 0; r < n_rows; r++) {
        const float *row = (const float *)all.data + r * vocab;
        double most = row[0], sum = 0;

        for (int64_t n = 0; n < vocab; n++)
            most = row[n] > most ? row[n] : most;
        for (int64_t n = 0; n < vocab; n++)
            sum += exp(row[n] - most);
        double exact = log(sum) + (most - row[targets[r]]);
        CHECK(check_near(got[r], exact, 1e-6 * fabs(exact) + 1e-13),
              "nll [%lld] of %lld: %.9g, not %.9g", (long long)r, (long long)vocab, (double)got[r],
              exact);
    }
    for (size_t i = 0; i < 3; i++) {
        for (int64_t at = 0; at < n_rows; at += batches[i]) {
            int64_t n = n_rows - at < batches[i] ? n_rows - at : batches[i];
            struct tensor xs = rows_of(&x.device, at, n);
            struct linear_args some = product(&xs, &w.w, NULL, NULL, n);

            CHECK_OK(
                gpu.ops->linear_nll(&gpu, &some, device_targets + at, (float *)out.data + at, &e),
                e);
        }
        CHECK_OK(gpu.ops->download(&gpu, again, out.data, (size_t)n_rows * sizeof *got, &e), e);
        CHECK(!memcmp(got, again, (size_t)n_rows * sizeof *got),
              "nll: the same bits in batches of %lld", (long long)batches[i]);
    }
    /* a NaN and an infinity spoil their rows alone */
    if (n_rows > 2) {
        set_element(&x.host, 0, 3, NAN);
        set_element(&x.host, 2, 3, INFINITY);
        CHECK_OK(gpu.ops->upload(&gpu, x.device.data, x.host.data, tensor_bytes(&x.host), &e), e);
        CHECK_OK(gpu.ops->linear_nll(&gpu, &a, device_targets, out.data, &e), e);
        CHECK_OK(gpu.ops->download(&gpu, again, out.data, (size_t)n_rows * sizeof *got, &e), e);
        CHECK(isnan(again[0]) && isnan(again[2]) && again[1] == got[1], "NaN rows of nll");
    }
    free(targets);
    free(got);
    free(again);
    free_tensor(&all);
    device_free(device_targets);
    device_free(out.data);
    device_free(logits.data);
    free_both(&x);
    free_both(&w);
}

static void nll(void **state)
{
    (void)state;
    for (size_t d = 1; d < 3; d++) {
        nll_case(model_dtypes[d], 1, 8, 8, 1);
        nll_case(model_dtypes[d], 130, 1000, 72, 0.3f);
        nll_case(model_dtypes[d], 70, 2568, 128, 1);
        nll_case(model_dtypes[d], 200, 512, 64, 3); /* the largest has nearly all */
    }
    nll_case(DTYPE_F32, 40, 300, 64, 1); /* composed */
    nll_case(DTYPE_F16, 40, 301, 63, 1);
}

/* ---- 4-bit codes multiplied where they lie ---- */

#define N_ENDS 5

/* y of: linear of the first weight; of three at once; added to a stream; SwiGLU. */
static void code_ends(const struct tensor *x, const struct weight *w, const struct both *bias,
                      const struct tensor *stream, int64_t n_rows, struct tensor out[N_ENDS + 1])
{
    const enum dtype t = x->dtype;
    struct linear_args a[3];
    struct tensor y[3];
    struct err e = ERR_INIT;

    for (int i = 0; i < 3; i++) {
        y[i] = device_result(t, n_rows + 1, w[i].n_out);
        a[i] = product(x, &w[i], bias ? &bias[i].device : NULL, &y[i], n_rows);
    }
    linear(&a[0]);
    out[0] = host_tensor(&y[0]);
    CHECK_OK(gpu.ops->linear_many(&gpu, a, 3, &e), e);
    for (int i = 0; i < 3; i++)
        out[1 + i] = host_tensor(&y[i]);
    struct tensor x_stream = copy_on_device(stream);
    CHECK_OK(gpu.ops->linear_add(&gpu, &a[0], &x_stream, &e), e);
    out[4] = host_tensor(&x_stream);
    CHECK_OK(gpu.ops->linear_swiglu(&gpu, &a[1], &a[2], &y[1], &e), e);
    out[5] = host_tensor(&y[1]);
    device_free(x_stream.data);
    for (int i = 0; i < 3; i++)
        device_free(y[i].data);
}

/* Made plain first, or not; in any tile: the same bits. */
static void codes_case(const struct form *f, enum dtype t, int64_t n_rows, int64_t wide,
                       int64_t narrow, int64_t n_in, bool with_bias)
{
    if (left_out())
        return;
    static const struct gemm_wish wishes[] = {
        GEMM_NO_WISH,      { 0, 0, 0, 0, 0 }, { 1, 0, 0, 0, 0 }, { 2, 0, 0, 0, 0 },
        { 0, 1, 0, 0, 0 }, { 1, 1, 0, 0, 0 }, { 2, 1, 0, 0, 0 },
    };
    const int64_t n_out[3] = { wide, narrow, narrow };
    struct both x = random_both(t, n_rows, n_in, 1), bias[3];
    struct both stream = random_both(t, n_rows + 1, wide, 1);
    struct tensor want[N_ENDS + 1], got[N_ENDS + 1];
    struct weight w[3], dw[3];
    struct err e = ERR_INIT;

    for (int i = 0; i < 3; i++) {
        w[i] = random_weight(f, n_out[i], n_in);
        memcpy(w[i].table, w[0].table, sizeof w[i].table);
        bias[i] = random_both(t, 1, n_out[i], 1);
        dw[i] = device_weight(&w[i]);
        CHECK_OK(gpu.ops->arrange(&gpu, &dw[i], &e), e);
        CHECK(dw[i].arrangement == 1, "%s has an order for the decode phase", f->name);
    }
    gemm_wish.plain = 1;
    code_ends(&x.device, dw, with_bias ? bias : NULL, &stream.device, n_rows, want);
    for (size_t k = 0; k < sizeof wishes / sizeof *wishes; k++) {
        gemm_wish = wishes[k];
        code_ends(&x.device, dw, with_bias ? bias : NULL, &stream.device, n_rows, got);
        for (int i = 0; i <= N_ENDS; i++) {
            CHECK(same_bits(&got[i], &want[i]),
                  "%s in %s, %lld x %lld and %lld x %lld, way %zu, end %d: as from plain weights",
                  f->name, dtype_name(t), (long long)n_rows, (long long)wide, (long long)narrow,
                  (long long)n_in, k, i);
            free_tensor(&got[i]);
        }
    }
    gemm_wish = no_wish;
    for (int i = 0; i <= N_ENDS; i++)
        free_tensor(&want[i]);
    for (int i = 0; i < 3; i++) {
        free_both(&bias[i]);
        weight_release(&gpu, &dw[i]);
        weight_release(&isas[0], &w[i]);
    }
    free_both(&stream);
    free_both(&x);
}

static void codes(void **state)
{
    static const struct form kinds[] = {
        { "nf4", WEIGHT_TABLE, 0, 4, 64, true, SCALE_F32, ZERO_CONSTANT, false },
        { "nf4 nested", WEIGHT_TABLE, 0, 4, 64, true, SCALE_NESTED, ZERO_CONSTANT, false },
        { "int4", WEIGHT_AFFINE, 0, 4, 128, false, SCALE_F16, ZERO_U8, false },
        { "int4 per row", WEIGHT_AFFINE, 0, 4, 0, false, SCALE_U8, ZERO_CONSTANT, false },
        { "int4 by 64", WEIGHT_AFFINE, 0, 4, 64, false, SCALE_F32, ZERO_F32, false },
        { "fp4 by 256", WEIGHT_TABLE, 0, 4, 256, false, SCALE_F16, ZERO_F16, false },
    };
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        for (size_t d = 1; d < 3; d++) {
            const bool bias = (i + d) % 2;

            codes_case(&kinds[i], model_dtypes[d], 1, 264, 72, 256, bias);
            codes_case(&kinds[i], model_dtypes[d], 70, 128, 8, 768, !bias);
            codes_case(&kinds[i], model_dtypes[d], 513, 392, 1000, 1024, bias);
            codes_case(&kinds[i], model_dtypes[d], 130, 1032, 2048, 4096, !bias); /* k is split */
        }
    for (size_t i = 0; i < 3; i++)
        for (size_t d = 1; d < 3; d++) { /* here, too; of SwiGLU's pairs nowhere */
            codes_case(&kinds[i], model_dtypes[d], 300, 2056, 136, 8192, i == 1);
            codes_case(&kinds[i], model_dtypes[d], 513, 520, 1032, 2048, i == 0);
        }
    for (size_t d = 1; d < 3; d++) { /* several turns of all blocks */
        codes_case(&kinds[d], model_dtypes[d], 512, 2048, 8192, 512, false);
        codes_case(&kinds[0], model_dtypes[d], 1024, 1024, 4096, 256, false);
    }
}

/* ---- LLM.int8 ---- */

/* On tensor cores beside the general way, which an unaligned output asks for; three at once. */
static void int8_case(enum dtype t, int64_t n_rows, int64_t n_out, int64_t n_in, float threshold,
                      bool with_bias)
{
    if (left_out())
        return;
    const struct form form = { "LLM.int8", WEIGHT_INT8, 0, 8, 0, false, SCALE_F32, 0, false };
    const int32_t first_row[] = { 0, 1, (int32_t)n_rows / 2 + 1, (int32_t)n_rows };
    struct both x = random_both(t, n_rows, n_in, 1), bias = random_both(t, 1, n_out, 1);
    struct weight w[3], dw[3];
    struct tensor y[3];
    struct linear_args a[3];
    struct err e = ERR_INIT;

    for (int i = 0; i < 3; i++) {
        w[i] = random_weight(&form, n_out, n_in);
        w[i].outlier_threshold = threshold;
        dw[i] = device_weight(&w[i]);
        y[i] = device_result(t, n_rows, n_out);
        a[i] = product(&x.device, &dw[i], with_bias ? &bias.device : NULL, &y[i], n_rows);
        a[i].compute = DTYPE_F16;
        a[i].segments = (struct segments){ n_rows > 2 ? 3 : 0, first_row };
    }
    CHECK_OK(gpu.ops->linear_many(&gpu, a, 3, &e), e);
    for (int i = 0; i < 3; i++) {
        struct tensor room = device_result(t, n_rows + 1, n_out), off = room;
        struct tensor got = host_tensor(&y[i]);

        off.data = (char *)room.data + 8;
        off.n_rows = n_rows;
        a[i].y = &off;
        linear(&a[i]);
        struct tensor want = host_tensor(&off);
        CHECK(same_bits(&got, &want), "int8 %s, %lld x %lld x %lld, part %d: the same either way",
              dtype_name(t), (long long)n_rows, (long long)n_out, (long long)n_in, i);
        free_tensor(&want);
        a[i].y = &y[i];
        device_free(room.data);
        if (n_rows > 2) { /* a document alone */
            int64_t n = first_row[2] - 1;
            struct tensor xs = rows_of(&x.device, 1, n), alone = device_result(t, n, n_out);
            struct linear_args some = a[i];

            some.x = &xs, some.y = &alone, some.n_rows = n, some.segments.n = 0;
            linear(&some);
            struct tensor ys = host_tensor(&alone), rows = rows_of(&got, 1, n);
            CHECK(same_bits(&ys, &rows), "a document's rows are the same alone");
            free_tensor(&ys);
            device_free(alone.data);
        }
        free_tensor(&got);
        device_free(y[i].data);
        weight_release(&gpu, &dw[i]);
        weight_release(&isas[0], &w[i]);
    }
    free_both(&x);
    free_both(&bias);
}

static void int8_products(void **state)
{
    (void)state;
    for (size_t d = 0; d < 3; d++)
        for (int bias = 0; bias < 2; bias++) {
            int8_case(model_dtypes[d], 1, 8, 16, 0, bias);
            int8_case(model_dtypes[d], 70, 136, 320, 2.5f, bias);
            int8_case(model_dtypes[d], 300, 520, 1040, 3.5f, bias);
            int8_case(model_dtypes[d], 600, 1032, 128, 0, bias);
        }
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
        cmocka_unit_test(products),        cmocka_unit_test(packed),
        cmocka_unit_test(tiles),           cmocka_unit_test(ends),
        cmocka_unit_test(every_gate),      cmocka_unit_test(nll),
        cmocka_unit_test(codes),           cmocka_unit_test(int8_products),
        cmocka_unit_test(nothing_is_left),
    };

    return open_device() ? cmocka_run_group_tests(tests, open_twins, close_twins) : 1;
}
