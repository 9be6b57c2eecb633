/* quantizer-vectors.json of the golden folder: HQQ, AWQ's searches, and casts to fp8. */
#include "awq_vectors.h"
#include "solving.h"

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
        struct weight got = solving_quantize(&w, a);
        struct tensor values = solving_values(&got, DTYPE_F32);
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
        weight_release(&host, &got);
        free(x);
    }
    check_report("quantizer-vectors.json hqq (zero points)", n_values, largest, 1e-6);
}

static void awq(void **state)
{
    (void)state;
    awq_vectors(&tested, vectors);
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
        struct weight got = solving_quantize(&w, a);
        struct tensor values = solving_values(&got, DTYPE_F32);
        const struct js *scales = js_get(m.value, "scale");
        for (size_t i = 0; i < js_count(scales); i++) {
            float scale = dtype_f16_to_f32(((uint16_t *)got.scales)[i]);
            largest = fmax(largest, fabs((double)scale / js_real(js_at(scales, i)) - 1));
            n++;
        }
        double off = mean_error(x, values.data, n_rows * 64) / js_real(js_get(m.value, "mae")) - 1;
        CHECK(off <= 0.02, "%s: mean error, off by %g", m.key, off);
        free(values.data);
        weight_release(&host, &got);
        free(x);
    }
    check_report("quantizer-vectors.json hqq_cuda_fp16 (scales)", n, largest, 0x1p-9);
}

/* As a quantizer rounds them: beside a 448 the scale of a group is 1. */
static int quantized_to_e4m3(float x)
{
    float row[16] = { 448, x };
    struct tensor w = tensor_over(row, DTYPE_F32, 1, 16);
    struct weight got =
        solving_quantize(&w, (struct quantize_args){ .rule = QUANTIZE_E4M3, .group_size = 16 });
    int code = code_at(&got, 0, 1);

    CHECK(code_at(&got, 0, 0) == 0x7E && ((float *)got.scales)[0] == 1, "448 stands for itself");
    weight_release(&host, &got);
    return code;
}

static void check_cast(float x, const char *hex, const char *what)
{
    const unsigned want = (unsigned)strtoul(hex, NULL, 16), got = dtype_f32_to_e4m3(x);

    CHECK(got == want || ((got & want & 0x7F) == 0x7F && isnan(x)), "%s: %g is %02x, not %s", what,
          (double)x, got, hex);
    CHECK(!(fabsf(x) <= 448) || quantized_to_e4m3(x) == (int)want, "%s: %g of a matrix is %s", what,
          (double)x, hex);
}

/* Of fp32 numbers, and of the same in fp16. */
static void fp8_casts(void **state)
{
    static const char *const sides[][2] = { { "cpu", "cpu_half" }, { "cuda", "cuda_half" } };
    const struct js *all = js_get(vectors, "fp8_e4m3fn_cast_torch_2_11");
    long n = 0;

    (void)state;
    for (size_t side = 0; side < 2; side++) {
        const struct js *pairs = js_get(all, sides[side][0]), *half = js_get(all, sides[side][1]);

        CHECK(js_count(pairs) > 0 && js_count(half) == js_count(pairs), "there are casts");
        for (size_t i = 0; i < js_count(pairs); i++, n += 2) {
            const float x = strtof(js_text(js_at(js_at(pairs, i), 0)), NULL);

            check_cast(x, js_text(js_at(js_at(pairs, i), 1)), sides[side][0]);
            check_cast(dtype_f16_to_f32(dtype_f32_to_f16(x)), js_text(js_at(half, i)),
                       sides[side][1]);
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
    if (!vectors) {
        print_error("%s\n", e.text);
        return -1;
    }
    return open_solving();
}

static int close_all(void **state)
{
    (void)state;
    close_solving();
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
