/* quantizer-vectors.json of the golden folder: round to nearest on the solvers' grids, and the
 * footprints of Llama-3.2-1B. */
#include "solving.h"

#include "quant/quant.h"

static struct js *vectors;

static void rtn(void **state)
{
    struct drawn of_w = vector_drawn(vectors, "gptq", 0), of_x = vector_drawn(vectors, "gptq", 1);
    float *numbers = drawn_numbers(of_w), *x = vector_rows(vectors, of_x);
    struct tensor w = tensor_over(numbers, DTYPE_F32, of_w.n_rows, of_w.n_cols);
    struct js_member m = JS_MEMBER_INIT;
    long n_values = 0;
    double largest = 0;

    (void)state;
    CHECK(of_x.n_cols == of_w.n_cols, "W and X have the same inputs");
    while (js_next(vector_data(vectors, "rtn"), &m)) {
        struct quantize_args a = { .rule = QUANTIZE_GRID_GPTQ };
        char form[8];
        double mse = js_real(js_get(m.value, "outmse"));

        CHECK(sscanf(m.key, "b%d_g%ld_%7s", &a.bits, &a.group_size, form) == 3, "%s", m.key);
        a.sym = !strcmp(form, "sym");
        if (a.group_size == -1)
            a.group_size = w.n_cols;
        struct weight got = solving_quantize(&w, a);
        struct tensor values = solving_values(&got, DTYPE_F32);
        CHECK(tensor_has_sha256(&values, text_of(m.value, "sha")), "%s: every value", m.key);
        double off = fabs(vector_output_mse(x, of_x.n_rows, &w, values.data) / mse - 1);
        CHECK(off <= 1e-5, "%s: output error, off by %g", m.key, off);
        largest = fmax(largest, off);
        n_values += w.n_rows * w.n_cols + 1;
        free(values.data);
        weight_release(&host, &got);
    }
    /* The values agree to the last bit; the reference's error was summed in fp32. */
    check_report("quantizer-vectors.json rtn (output error)", n_values, largest, 1e-5);
    free(x);
    free(numbers);
}

/* The reference's symmetric codes are numbers and keep the sign of a zero; ours are integers. */
static void sign_zeros(float *values, const float *of, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (values[i] == 0.0f)
            values[i] = copysignf(0.0f, of[i]);
}

static void rtn_on_the_awq_grid(void **state)
{
    struct drawn d = vector_drawn(vectors, "awq", 0);
    float *numbers = drawn_numbers(d);
    struct tensor w = tensor_over(numbers, DTYPE_F32, d.n_rows, d.n_cols);
    struct js_member m = JS_MEMBER_INIT;
    long n_values = 0;

    (void)state;
    while (js_next(vector_data(vectors, "awq_rtn_sha256"), &m)) {
        const struct js *zeros = js_get(m.value, "zeros_first8");
        struct quantize_args a = { .rule = QUANTIZE_GRID_AWQ };
        int zero_point;

        CHECK(sscanf(m.key, "w%d_zp%d_g%ld", &a.bits, &zero_point, &a.group_size) == 3, "%s",
              m.key);
        a.sym = !zero_point;
        struct weight got = solving_quantize(&w, a);
        struct tensor values = solving_values(&got, DTYPE_F32);
        if (a.sym)
            sign_zeros(values.data, numbers, d.n_rows * d.n_cols);
        CHECK(tensor_has_sha256(&values, text_of(m.value, "sha256_deq_fp32")), "%s: every value",
              m.key);
        n_values += d.n_rows * d.n_cols;
        n_values += check_floats(got.scales, js_get(m.value, "scales_first4"), 4, m.key);
        for (size_t i = 0; i < js_count(zeros); i++)
            CHECK(((uint8_t *)got.zeros)[i] == js_real(js_at(zeros, i)), "%s: zero %zu", m.key, i);
        n_values += (long)js_count(zeros);
        free(values.data);
        weight_release(&host, &got);
    }
    check_report("quantizer-vectors.json awq_rtn_sha256", n_values, 0, 0);
    free(numbers);
}

/* ---- footprints ---- */

static const struct config llama_1b = { .vocab_size = 128256,
                                        .hidden_size = 2048,
                                        .intermediate_size = 8192,
                                        .n_layers = 16,
                                        .n_heads = 32,
                                        .n_kv_heads = 8,
                                        .head_dim = 64,
                                        .tied = true,
                                        .stored_dtype = DTYPE_BF16 };

static void footprint(void **state)
{
    const struct quant_spec fp16 = {
        .method = "none", .bits = 16, .compute = DTYPE_F16, .n_skip = 1, .skip = { "lm_head" }
    };
    const struct js *want = js_get(vectors, "footprint_llama_3_2_1b_shape");
    struct quant_spec nf4 = fp16, nested, int8 = fp16;
    struct quant_sizes got;
    struct err e = ERR_INIT;
    long n = 0;

    (void)state;
    snprintf(nf4.method, sizeof nf4.method, "bnb_4bit");
    snprintf(nf4.quant_type, sizeof nf4.quant_type, "nf4");
    nf4.bits = 4;
    nf4.group_size = 64;
    nested = nf4;
    nested.double_quant = true;
    snprintf(int8.method, sizeof int8.method, "bnb_8bit");
    int8.bits = 8;
    int8.outlier_threshold = 6;

    const struct {
        const struct quant_spec *spec;
        double want;
        const char *name;
    } cases[] = {
        { &fp16, js_real(js_at(js_get(want, "fp16"), 0)), "fp16" },
        { &nf4, js_real(js_get(js_get(want, "nf4"), "fp")), "nf4" },
        { &nested, js_real(js_get(js_get(want, "nf4dq"), "fp")), "nf4, double quantization" },
        { &int8, js_real(js_get(js_get(want, "int8"), "fp")), "int8" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK_OK(quant_sizes_of(&llama_1b, cases[i].spec, DTYPE_F16, &got, &e), e);
        CHECK(got.hf_footprint_bytes == cases[i].want, "%s: %.0f is %.0f bytes", cases[i].name,
              got.hf_footprint_bytes, cases[i].want);
        n++;
    }
    check_report("quantizer-vectors.json footprint_llama_3_2_1b", n, 0, 0);
}

/* What a checkpoint holds, in bytes: qweight, scales, qzeros, g_idx where there is an order, what
 * is not quantized, and the rotary buffers that every footprint counts. */
static void footprints_of_checkpoints(void **state)
{
    const double packed = 486539264 + 15204352 + 3801088, order = 1310720, rest = 525471744 + 256;
    const struct quant_spec gptq = { .method = "gptq",
                                     .bits = 4,
                                     .group_size = 128,
                                     .quant_type = "int",
                                     .compute = DTYPE_F16,
                                     .scale_dtype = DTYPE_F16,
                                     .sym = true,
                                     .gptq = { .desc_act = true },
                                     .n_skip = 1,
                                     .skip = { "lm_head" } };
    struct quant_spec awq = gptq;
    char mib[2][16];
    struct quant_sizes got[2];
    struct err e = ERR_INIT;

    (void)state;
    snprintf(awq.method, sizeof awq.method, "awq");
    awq.awq.zero_point = true;
    CHECK_OK(quant_sizes_of(&llama_1b, &gptq, DTYPE_F16, &got[0], &e), e);
    CHECK_OK(quant_sizes_of(&llama_1b, &awq, DTYPE_F16, &got[1], &e), e);
    CHECK(got[0].hf_footprint_bytes == packed + order + rest, "gptq: %.0f bytes",
          got[0].hf_footprint_bytes);
    CHECK(got[1].hf_footprint_bytes == packed + rest, "awq: %.0f bytes", got[1].hf_footprint_bytes);
    for (int i = 0; i < 2; i++)
        snprintf(mib[i], sizeof mib[i], "%.2f", got[i].hf_footprint_bytes / 1048576);
    CHECK(!strcmp(mib[0], "984.50") && !strcmp(mib[1], "983.25"), "%s and %s MiB", mib[0], mib[1]);
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
        cmocka_unit_test(rtn),
        cmocka_unit_test(rtn_on_the_awq_grid),
        cmocka_unit_test(footprint),
        cmocka_unit_test(footprints_of_checkpoints),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
