/* quantizer-vectors.json of the golden folder: HQQ, AWQ's searches, and casts to fp8. */
#include "vectors.h"

#include "quant/awq_search.h"

static struct backend backend = BACKEND_INIT;
static struct js *vectors;

/* The reference's groups as rows: along the inputs (axis 1), or every n_groups-th number (axis 0).
 */
static float *rows_of_groups(struct drawn d, int axis, int64_t group, int64_t *n_rows)
{
    float *x = drawn_numbers(d), *out;
    int64_t n = d.n_rows * d.n_cols;

    *n_rows = n / group;
    if (axis == 1)
        return x;
    out = mem_array((size_t)n, sizeof *out);
    for (int64_t row = 0; row < *n_rows; row++)
        for (int64_t i = 0; i < group; i++)
            out[row * group + i] = x[i * *n_rows + row];
    free(x);
    return out;
}

static double mean_error(const float *x, const float *y, int64_t n)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += fabs((double)x[i] - (double)y[i]);
    return sum / (double)n;
}

static void hqq(void **state)
{
    struct drawn d = vector_drawn(vectors, "hqq", 0);
    const char *at = strstr(vector_input(vectors, "hqq"), "group ");
    struct js_member m = JS_MEMBER_INIT;
    long group = 0, n_values = 0;
    double largest = 0;

    (void)state;
    CHECK(at && sscanf(at, "group %ld", &group) == 1, "hqq.input says the group size");
    while (js_next(vector_data(vectors, "hqq"), &m)) {
        struct quantize_args a = { .rule = QUANTIZE_HQQ };
        const struct js *zeros = js_get(m.value, "zf"), *codes = js_get(m.value, "q0");
        int axis, round_zero;
        int64_t n_rows;

        CHECK(sscanf(m.key, "b%d_ax%d_rz%d", &a.bits, &axis, &round_zero) == 3, "%s", m.key);
        a.group_size = group;
        a.round_zero = round_zero;
        float *x = rows_of_groups(d, axis, group, &n_rows);
        struct tensor w = tensor_over(x, DTYPE_F32, n_rows, group);
        struct weight got = vector_weight(&backend, &w, a);
        struct tensor values = vector_values(&backend, &got, DTYPE_F32);
        n_values += check_floats(got.scales, js_get(m.value, "scale"), 4, m.key);
        for (int i = 0; i < (int)js_count(zeros); i++) {
            double want = js_real(js_at(zeros, (size_t)i));
            largest = fmax(largest, fabs((double)((float *)got.zeros)[i] / want - 1));
        }
        for (int i = 0; i < (int)js_count(codes); i++)
            CHECK(code_at(&got, axis ? 0 : i, axis ? i : 0) == js_real(js_at(codes, (size_t)i)),
                  "%s: code %d", m.key, i);
        double off = mean_error(x, values.data, n_rows * group) / js_real(js_get(m.value, "mae"));
        CHECK(fabs(off - 1) <= 1e-5, "%s: mean error, off by %g", m.key, off - 1);
        n_values += (long)js_count(zeros) + (long)js_count(codes) + 1;
        free(values.data);
        weight_release(&backend, &got);
        free(x);
    }
    check_report("quantizer-vectors.json hqq (zero points)", n_values, largest, 1e-6);
}

/* One linear that is scaled and inspected: losses of all ratios, the scales, the ranges. */
static void awq(void **state)
{
    struct drawn of_w = vector_drawn(vectors, "awq", 0), of_x = vector_drawn(vectors, "awq", 1);
    const int64_t n_out = of_w.n_rows, n = of_w.n_cols, n_rows = of_x.n_rows;
    float *w = drawn_numbers(of_w), *x = drawn_numbers(of_x), *tried, s[1024], found[1024];
    float x_mean[1024], w_mean[1024], clip[4096];
    double largest = 0, largest_clip = 0, sums[1024];
    struct js_member m = JS_MEMBER_INIT;
    struct err e = ERR_INIT;
    long n_values = 0;
    int n_other = 0;

    (void)state;
    /* gen(...)*(1+column%7)*8 */
    for (int64_t i = 0; i < n_rows * n; i++)
        x[i] = x[i] / of_x.factor * (float)(1 + i % n % 7) * 8;
    tried = mem_array((size_t)(n_out * n), sizeof *tried);
    for (int64_t c = 0; c < n; c++) {
        double sum = 0;
        for (int64_t t = 0; t < n_rows; t++)
            sum += fabs((double)x[t * n + c]);
        x_mean[c] = (float)(sum / (double)n_rows);
    }
    while (js_next(vector_data(vectors, "awq"), &m)) {
        struct awq_form f;
        const struct js *losses = js_get(m.value, "losses");
        int zero_point, duo, best = -1;
        long group;
        double least = INFINITY;

        CHECK(sscanf(m.key, "w%d_zp%d_g%ld_duo%d", &f.bits, &zero_point, &group, &duo) == 4, "%s",
              m.key);
        f.zero_point = zero_point;
        f.group_size = group;
        memset(sums, 0, sizeof sums);
        awq_add_weight_sizes(w, n_out, n, group, sums);
        for (int64_t c = 0; c < n; c++)
            w_mean[c] = (float)(sums[c] / (double)n_out);
        for (int i = 0; i < AWQ_RATIOS; i++) {
            struct tensor plain = tensor_over(w, DTYPE_F32, n_out, n);

            awq_scales(x_mean, duo ? w_mean : NULL, i / 20.0, n, s);
            memcpy(tried, w, (size_t)(n_out * n) * sizeof *w);
            CHECK_OK(awq_round(&backend, &f, tried, n_out, n, s, &e), e);
            double loss = vector_output_mse(x, n_rows, &plain, tried);
            double off = fabs(loss / js_real(js_at(losses, (size_t)i)) - 1);
            CHECK(off <= 1e-4, "%s: ratio %d, loss %g, off by %g", m.key, i, loss, off);
            largest = fmax(largest, off);
            if (loss < least) {
                least = loss;
                best = i;
                memcpy(found, s, sizeof s);
            }
            n_values++;
        }
        CHECK(check_near(best / 20.0, js_real(js_get(m.value, "best_ratio")), 1e-9), "%s: ratio %g",
              m.key, best / 20.0);
        for (size_t i = 0; i < 8; i++, n_values++)
            largest =
                fmax(largest,
                     fabs((double)found[i] / js_real(js_at(js_get(m.value, "s_first8"), i)) - 1));
        /* The ranges of the scaled weights, on inputs over s. */
        float *scaled = mem_array((size_t)(n_out * n), sizeof *scaled);
        float *divided = mem_array((size_t)(n_rows * n), sizeof *divided);
        for (int64_t i = 0; i < n_out * n; i++)
            scaled[i] = w[i] * found[i % n];
        for (int64_t i = 0; i < n_rows * n; i++)
            divided[i] = x[i] / found[i % n];
        CHECK_OK(awq_clip(&backend, &f, scaled, n_out, n, divided, n_rows, clip, &e), e);
        /* A range is one of ten; where two of them are about as good, the order of a sum decides.
         */
        for (size_t i = 0; i < 8; i++, n_values++) {
            double want = js_real(js_at(js_get(m.value, "clip_first8"), i));
            double off = fabs((double)clip[i] / want - 1);

            n_other += off > 1e-5;
            CHECK(off <= 0.06, "%s: range %zu, a step off at most", m.key, i);
            largest_clip = fmax(largest_clip, off > 1e-5 ? 0 : off);
        }
        free(divided);
        free(scaled);
    }
    check_report("quantizer-vectors.json awq (losses, scales)", n_values, largest, 1e-4);
    CHECK(n_other <= 2, "%d of 32 ranges are another", n_other);
    check_report("quantizer-vectors.json awq (ranges)", n_values, largest_clip, 1e-5);
    free(tried);
    free(x);
    free(w);
}

/* The library on a GPU computes in fp16: an error of the same size is all that can be asked. */
static void hqq_in_fp16(void **state)
{
    struct drawn d = vector_drawn(vectors, "hqq", 0);
    struct js_member m = JS_MEMBER_INIT;
    double largest = 0;
    long n = 0;

    (void)state;
    while (js_next(vector_data(vectors, "hqq_cuda_fp16"), &m)) {
        struct quantize_args a = { .rule = QUANTIZE_HQQ,
                                   .group_size = 64,
                                   .scale_dtype = DTYPE_F16 };
        int64_t n_rows;

        CHECK(sscanf(m.key, "cuda_b%d", &a.bits) == 1, "%s", m.key);
        a.round_zero = a.bits == 4;
        float *x = rows_of_groups(d, 1, a.group_size, &n_rows);
        struct tensor w = tensor_over(x, DTYPE_F32, n_rows, a.group_size);
        struct weight got = vector_weight(&backend, &w, a);
        struct tensor values = vector_values(&backend, &got, DTYPE_F32);
        const struct js *scales = js_get(m.value, "scale");
        for (size_t i = 0; i < js_count(scales); i++) {
            float scale = dtype_f16_to_f32(((uint16_t *)got.scales)[i]);
            largest = fmax(largest, fabs((double)scale / js_real(js_at(scales, i)) - 1));
            n++;
        }
        double off = mean_error(x, values.data, n_rows * 64) / js_real(js_get(m.value, "mae")) - 1;
        CHECK(off <= 0.02, "%s: mean error, off by %g", m.key, off);
        free(values.data);
        weight_release(&backend, &got);
        free(x);
    }
    check_report("quantizer-vectors.json hqq_cuda_fp16 (scales)", n, largest, 0x1p-9);
}

static void fp8_casts(void **state)
{
    const struct js *all = js_get(vectors, "fp8_e4m3fn_cast_torch_2_11");
    long n = 0;

    (void)state;
    for (int side = 0; side < 2; side++) {
        const struct js *pairs = js_get(all, side ? "cuda" : "cpu");

        CHECK(js_count(pairs) > 0, "there are casts");
        for (size_t i = 0; i < js_count(pairs); i++, n++) {
            const char *number = js_text(js_at(js_at(pairs, i), 0));
            float x = strtof(number, NULL);
            unsigned want = (unsigned)strtoul(js_text(js_at(js_at(pairs, i), 1)), NULL, 16);
            unsigned got = dtype_f32_to_e4m3(x);

            CHECK(got == want || ((got & want & 0x7F) == 0x7F && isnan(x)), "%s is %02x, not %02x",
                  number, want, got);
        }
    }
    /* And back: every finite byte is its own nearest. */
    for (unsigned byte = 0; byte < 256; byte++, n++)
        CHECK((byte & 0x7F) == 0x7F ? isnan(dtype_e4m3_to_f32((uint8_t)byte))
                                    : dtype_f32_to_e4m3(dtype_e4m3_to_f32((uint8_t)byte)) == byte,
              "byte %02x there and back", byte);
    check_report("quantizer-vectors.json fp8_e4m3fn_cast_torch_2_11", n, 0, 0);
}

static int open_all(void **state)
{
    struct err e = ERR_INIT;

    (void)state;
    vectors = vectors_read(&e);
    if (!vectors || backend_open(&backend, "cpu", 0, NULL, &e) < 0) {
        print_error("%s\n", e.text);
        return -1;
    }
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    backend_close(&backend);
    js_release(vectors);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hqq),
        cmocka_unit_test(hqq_in_fp16),
        cmocka_unit_test(awq),
        cmocka_unit_test(fp8_casts),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
