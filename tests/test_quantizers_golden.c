/* quantizer-vectors.json of the golden folder: the maps of nested scales, and bitsandbytes'
 * 4-bit and 8-bit codes, values and nested scales.  (test_rtn_golden.c has the rest.)  Those are a
 * GPU's answers: a GPU has to meet FP4 to the bit, too, the CPU but for reciprocals in doubt. */
#include "solving.h"

#include "cpu/quantize.h"

static struct js *vectors;

static const struct js *data_of(const char *key)
{
    return vector_data(vectors, key);
}

static enum dtype dtype_in(const char *key)
{
    return strstr(key, "fp32") ? DTYPE_F32 : strstr(key, "bf16") ? DTYPE_BF16 : DTYPE_F16;
}

/* n fp32 numbers as a tensor of type t; free(tensor.data). */
static struct tensor tensor_from(const float *x, enum dtype t, int64_t n_rows, int64_t n_cols)
{
    struct tensor w = tensor_over(NULL, t, n_rows, n_cols);

    w.data = mem_array((size_t)(n_rows * n_cols), dtype_bytes(t));
    dtype_from_f32(t, x, w.data, n_rows * n_cols);
    return w;
}

/* ---- the dynamic maps ---- */

static void dynamic_maps(void **state)
{
    float map[256], unsigned_map[256];
    long n = 0;

    (void)state;
    codebook_dynamic(map);
    codebook_dynamic_unsigned(unsigned_map);
    CHECK(!memcmp(map, weight_dynamic_map, sizeof map), "the map in weight.h follows the recipe");
    n += check_floats(map, js_get(vectors, "dynamic_map_signed_fp32_hex"), 256, "signed map");
    n += check_floats(unsigned_map, js_get(vectors, "dynamic_map_unsigned_fp32_hex"), 256,
                      "unsigned map");
    check_report("quantizer-vectors.json dynamic_map_*", n, 0, 0);
}

/* ---- 4 bit, a few blocks, every number given ---- */

/* Compares codes, absmax and values with one entry of bnb4_small; returns ulp of deviation. */
static double check_small(const char *key, const struct tensor *w, const float *x, long block,
                          long *n_values)
{
    const struct js *want = js_get(data_of("bnb4_small"), key);
    bool fp4 = strstr(key, "fp4");
    enum quantize_rule rule = fp4 ? QUANTIZE_BNB_FP4 : QUANTIZE_BNB_NF4;
    struct weight got =
        solving_quantize(w, (struct quantize_args){ .rule = rule, .bits = 4, .group_size = block });
    struct tensor values = solving_values(&got, w->dtype);
    int64_t n = w->n_rows * w->n_cols;
    size_t element = dtype_bytes(w->dtype);
    uint8_t *packed = bytes_of_hex(text_of(want, "packed"), (size_t)(n + 1) / 2);
    char *deq = (char *)bytes_of_hex(text_of(want, "deq"), (size_t)n * element);
    double largest = 0;

    *n_values += check_floats(got.scales, js_get(want, "absmax"), got.n_groups, key);
    for (int64_t i = 0; i < n; i++) {
        int code = code_at(&got, i / w->n_cols, i % w->n_cols);
        int want_code = code_in_bnb_order(packed, i);

        if (code == want_code)
            CHECK(!memcmp((char *)values.data + (size_t)i * element, deq + (size_t)i * element,
                          element),
                  "%s: value %lld", key, (long long)i);
        else
            largest =
                fmax(largest, fp4 && !solving_on_gpu()
                                  ? fp4_moves(x[i], ((float *)got.scales)[i / block], want_code)
                                  : INFINITY);
    }
    *n_values += 2 * n;
    free(deq);
    free(packed);
    free(values.data);
    weight_release(&host, &got);
    return largest;
}

/* What bnb4_small.input says: the numbers of the whole cases, with one block of zeros, in blocks
 * of so many; those of the partial ones. */
struct small {
    struct drawn whole, partial;
    long block, zero_from, zero_to;
};

static struct small small_of(void)
{
    const char *text = vector_input(vectors, "bnb4_small");
    const char *zeros = strstr(text, "elements "), *block = strstr(text, "blocksize ");
    struct small s = { vector_drawn(vectors, "bnb4_small", 0),
                       vector_drawn(vectors, "bnb4_small", 1), 0, 0, 0 };

    CHECK(zeros && sscanf(zeros, "elements %ld..%ld set to 0", &s.zero_from, &s.zero_to) == 2,
          "bnb4_small.input says which elements are 0");
    CHECK(block && sscanf(block, "blocksize %ld", &s.block) == 1, "and the size of blocks");
    return s;
}

static float *whole_numbers(const struct small *s)
{
    float *x = drawn_numbers(s->whole);

    for (long i = s->zero_from; i <= s->zero_to; i++)
        x[i] = 0;
    return x;
}

static void bnb4_small(void **state)
{
    const struct small s = small_of();
    struct js_member m = JS_MEMBER_INIT;
    long n_values = 0;
    double largest = 0;

    (void)state;
    while (js_next(data_of("bnb4_small"), &m)) {
        long n_rows = 1, n_cols = s.whole.n_cols;
        /* Blocks that cross rows, a partial last one, an odd number of weights. */
        bool partial = sscanf(m.key, "partial_%ldx%ld", &n_rows, &n_cols) == 2;

        if (!js_get(m.value, "packed") || !strncmp(m.key, "cpu_", 4))
            continue;
        CHECK(!partial || n_rows * n_cols <= s.partial.n_cols, "%s: so many are drawn", m.key);
        float *x = partial ? drawn_numbers(s.partial) : whole_numbers(&s);
        struct tensor w = tensor_from(x, dtype_in(m.key), n_rows, n_cols);
        dtype_round(w.dtype, x, n_rows * n_cols);
        largest = fmax(largest, check_small(m.key, &w, x, s.block, &n_values));
        free(w.data);
        free(x);
    }
    check_report("quantizer-vectors.json bnb4_small", n_values, largest, 2);
}

/* bitsandbytes' CPU backend: the same codes but for an all-zero block, which has 7 there. */
static void bnb4_small_on_its_cpu(void **state)
{
    const struct small s = small_of();
    const struct js *want = js_get(data_of("bnb4_small"), "cpu_fp16_nf4");
    const int64_t n = s.whole.n_cols;
    uint8_t *packed = bytes_of_hex(text_of(want, "packed"), (size_t)(n + 1) / 2);
    float *x = whole_numbers(&s);
    struct tensor w = tensor_from(x, DTYPE_F16, 1, n);
    struct weight got = solving_quantize(
        &w, (struct quantize_args){ .rule = QUANTIZE_BNB_NF4, .bits = 4, .group_size = s.block });

    (void)state;
    for (int64_t i = 0; i < n; i++) {
        bool in_zeros = ((float *)got.scales)[i / s.block] == 0;

        CHECK(code_in_bnb_order(packed, i) == (in_zeros ? 7 : code_at(&got, 0, i)), "code %lld",
              (long long)i);
        CHECK(!in_zeros || code_at(&got, 0, i) == 0, "ours is the GPU's answer to zeros");
    }
    weight_release(&host, &got);
    free(w.data);
    free(x);
    free(packed);
    check_report("quantizer-vectors.json bnb4_small (its CPU)", n, 0, 0);
}

/* ---- 4 bit, every block size, by hash ---- */

#define DOUBTS_MAX      1024
#define RECIPROCALS_MAX 11

/* FP4 codes that change when the reciprocal of their block's absmax moves by an ulp, as a GPU's
 * may: it takes one reciprocal for all blocks of the same absmax. */
struct doubts {
    int n, n_absmax;
    int64_t at[DOUBTS_MAX];
    int of[DOUBTS_MAX]; /* index into absmax */
    float absmax[RECIPROCALS_MAX];
};

/* move 0: correctly rounded, 1 and 2: the neighbours. */
static float reciprocal(float absmax, int move)
{
    float r = 1.0f / absmax;

    return move == 0 ? r : nextafterf(r, move == 1 ? INFINITY : 0.0f);
}

static int absmax_in_doubt(struct doubts *d, float absmax)
{
    for (int k = 0; k < d->n_absmax; k++)
        if (d->absmax[k] == absmax)
            return k;
    CHECK(d->n_absmax < RECIPROCALS_MAX, "few reciprocals are in doubt");
    d->absmax[d->n_absmax] = absmax;
    return d->n_absmax++;
}

static struct doubts doubts_of(const struct weight *w, const float *x)
{
    struct doubts d = { 0 };

    for (int64_t i = 0; i < w->n_in; i++) {
        float absmax = ((float *)w->scales)[i / w->group_size];
        int code = code_at(w, 0, i);

        if (code == fp4_code(x[i] * reciprocal(absmax, 1)) &&
            code == fp4_code(x[i] * reciprocal(absmax, 2)))
            continue;
        CHECK(d.n < DOUBTS_MAX, "few codes are in doubt");
        d.of[d.n] = absmax_in_doubt(&d, absmax);
        d.at[d.n++] = i;
    }
    return d;
}

static void set_code(struct weight *w, int64_t col, int code)
{
    uint8_t *byte = (uint8_t *)w->codes + col / 2;

    *byte = (uint8_t)(col % 2 ? (*byte & 0x0F) | code << 4 : (*byte & 0xF0) | code);
}

static bool codes_match(const struct weight *w, const char *sha256)
{
    int64_t n_bytes = w->n_in / 2;
    uint8_t *packed = mem_array((size_t)n_bytes, 1);

    for (int64_t i = 0; i < n_bytes; i++)
        packed[i] = (uint8_t)(code_at(w, 0, 2 * i) << 4 | code_at(w, 0, 2 * i + 1));
    bool match = has_sha256(packed, (size_t)n_bytes, sha256);
    free(packed);
    return match;
}

/* Tries every choice of the reciprocals in doubt; leaves the right codes in w. *n_changed of
 * them are not ours. */
static bool settle_doubts(struct weight *w, const float *x, const char *sha256, int *n_changed)
{
    struct doubts d = doubts_of(w, x);
    int n_choices = 1;

    for (int k = 0; k < d.n_absmax; k++)
        n_choices *= 3;
    for (int choice = 0; choice < n_choices; choice++) {
        float r[RECIPROCALS_MAX];

        for (int k = 0, rest = choice; k < d.n_absmax; k++, rest /= 3)
            r[k] = reciprocal(d.absmax[k], rest % 3);
        *n_changed = 0;
        for (int k = 0; k < d.n; k++) {
            float own = x[d.at[k]] * reciprocal(d.absmax[d.of[k]], 0);
            int code = fp4_code(x[d.at[k]] * r[d.of[k]]);

            set_code(w, d.at[k], code);
            *n_changed += code != fp4_code(own);
        }
        if (codes_match(w, sha256))
            return true;
    }
    return false;
}

static void check_hashes(const char *key, long *n_values, int *n_other)
{
    const struct js *want = js_get(data_of("bnb4_sha256"), key);
    bool fp4 = strstr(key, "fp4");
    enum dtype t = dtype_in(key);
    struct drawn d = vector_drawn(vectors, "bnb4_sha256", 0);
    float *x = drawn_numbers(d);
    struct tensor w = tensor_from(x, t, 1, d.n_cols);
    struct weight got = solving_quantize(
        &w, (struct quantize_args){ .rule = fp4 ? QUANTIZE_BNB_FP4 : QUANTIZE_BNB_NF4,
                                    .bits = 4,
                                    .group_size = strtol(strrchr(key, '_') + 1, NULL, 10) });
    int n_changed = 0;

    CHECK(d.n_cols % 2 == 0, "whole bytes of codes");
    dtype_round(t, x, d.n_cols);
    CHECK(has_sha256(got.scales, weight_scales_bytes(&got), text_of(want, "absmax")),
          "%s: every absmax", key);
    if (fp4 && !solving_on_gpu())
        CHECK(settle_doubts(&got, x, text_of(want, "packed"), &n_changed),
              "%s: every code, with reciprocals at most an ulp off ours", key);
    else
        CHECK(codes_match(&got, text_of(want, "packed")), "%s: every code", key);
    struct tensor values = solving_values(&got, t);
    CHECK(tensor_has_sha256(&values, text_of(want, "deq")), "%s: every value", key);
    *n_values += 2 * d.n_cols + got.n_groups;
    *n_other += n_changed;
    free(values.data);
    weight_release(&host, &got);
    free(w.data);
    free(x);
}

static void bnb4_sha256(void **state)
{
    const struct js *data = data_of("bnb4_sha256");
    struct js_member m = JS_MEMBER_INIT;
    long n_values[2] = { 0 };
    int n_other[2] = { 0 };

    (void)state;
    while (js_next(data, &m))
        if (js_get(m.value, "packed")) {
            bool fp4 = strstr(m.key, "fp4");
            check_hashes(m.key, &n_values[fp4], &n_other[fp4]);
        }
    check_report("quantizer-vectors.json bnb4_sha256 NF4", n_values[0], n_other[0], 0);
    /* Six of the 24 hashes need a GPU's reciprocals: some tens among 460,800 codes; none there. */
    check_report("quantizer-vectors.json bnb4_sha256 FP4 (share)", n_values[1],
                 (double)n_other[1] / (double)n_values[1], 5e-4);
}

/* NF4 codes of fp16 weights, their values in every dtype, with and without nested scales. */
static void bnb4_values_in_every_dtype(void **state)
{
    static const char *const types[] = { "fp16", "bf16", "fp32" };
    struct drawn d = vector_drawn(vectors, "bnb4_sha256", 0);
    float *x = drawn_numbers(d);
    struct tensor w = tensor_from(x, DTYPE_F16, 1, d.n_cols);
    struct quantize_args a = { .rule = QUANTIZE_BNB_NF4, .bits = 4, .group_size = 64 };
    long n_values = 0;

    (void)state;
    for (int nested = 0; nested < 2; nested++) {
        a.double_quant = nested;
        struct weight got = solving_quantize(&w, a);
        for (int i = 0; i < 3; i++) {
            struct tensor values = solving_values(&got, dtype_in(types[i]));
            char key[32];

            snprintf(key, sizeof key, "%sdeq_to_%s", nested ? "dq_" : "", types[i]);
            CHECK(tensor_has_sha256(&values, text_of(data_of("bnb4_sha256"), key)), "%s", key);
            n_values += d.n_cols;
            free(values.data);
        }
        weight_release(&host, &got);
    }
    free(w.data);
    free(x);
    check_report("quantizer-vectors.json bnb4_sha256 deq_to_*", n_values, 0, 0);
}

static void bnb_double_quant(void **state)
{
    const struct js *want = data_of("bnb_double_quant");
    struct drawn d = vector_drawn(vectors, "bnb_double_quant", 0);
    float *x = drawn_numbers(d);
    struct tensor w = tensor_from(x, DTYPE_F16, 1, d.n_cols);
    struct quantize_args a = { .rule = QUANTIZE_BNB_NF4, .bits = 4, .group_size = 64 };
    struct weight plain = solving_quantize(&w, a);
    const int64_t n_scales = plain.n_groups;
    float *decoded = mem_array((size_t)n_scales, sizeof *decoded);
    long n = 0;

    (void)state;
    a.double_quant = true;
    struct weight got = solving_quantize(&w, a);
    uint8_t *codes = bytes_of_hex(text_of(want, "qabsmax"), (size_t)n_scales);

    n += check_floats(plain.scales, js_get(want, "absmax_fp32"), n_scales, "absmax");
    /* The GPU's order of summation is its own: an ulp; what follows goes by its offset. */
    float offset = float_of_hex(js_text(js_at(js_get(want, "offset"), 0)));
    CHECK(ulps_apart(got.nested_offset, offset) <= 1, "offset %a", got.nested_offset);
    if (got.nested_offset != offset)
        pack_nested(plain.scales, n_scales, offset, got.scales, got.scales2);
    got.nested_offset = offset;
    n++;
    n += check_floats(got.scales2, js_get(want, "absmax2"), 0, "absmax2");
    CHECK(!memcmp(got.scales, codes, (size_t)n_scales), "every 8-bit scale");
    for (int64_t i = 0; i < n_scales; i++) {
        float scaled = weight_dynamic_map[codes[i]] * ((float *)got.scales2)[i / 256];
        decoded[i] = scaled + got.nested_offset;
    }
    n += n_scales + check_floats(decoded, js_get(want, "absmax_deq"), n_scales, "decoded scale");
    CHECK(has_sha256(decoded, (size_t)n_scales * sizeof *decoded, text_of(want, "absmax_deq_sha")),
          "every decoded scale");
    struct tensor values = solving_values(&got, DTYPE_F16);
    CHECK(tensor_has_sha256(&values, text_of(want, "deq")), "every value");
    check_report("quantizer-vectors.json bnb_double_quant", n + d.n_cols, 0, 0);

    free(values.data);
    free(decoded);
    free(codes);
    weight_release(&host, &got);
    weight_release(&host, &plain);
    free(w.data);
    free(x);
}

static void llm_int8(void **state)
{
    const struct js *data = data_of("llm_int8"), *want = js_get(data, "W");
    struct drawn d = vector_drawn(vectors, "llm_int8", 0),
                 of_a = vector_drawn(vectors, "llm_int8", 1);
    const int64_t n_weights = d.n_rows * d.n_cols, n_out = of_a.n_rows * d.n_rows;
    float *x = drawn_numbers(d);
    struct tensor w = tensor_from(x, DTYPE_F16, d.n_rows, d.n_cols);
    struct weight got = solving_quantize(
        &w, (struct quantize_args){ .rule = QUANTIZE_INT8_ROW, .bits = 8, .group_size = d.n_cols });
    int8_t *codes = (int8_t *)bytes_of_hex(text_of(want, "CB"), (size_t)n_weights);

    (void)state;
    for (int64_t i = 0; i < n_weights; i++)
        CHECK((int8_t)code_at(&got, i / d.n_cols, i % d.n_cols) == codes[i], "code %lld",
              (long long)i);
    long n = check_floats(got.scales, js_get(want, "SCB"), d.n_rows, "SCB");
    check_report("quantizer-vectors.json llm_int8 (weights)", n + n_weights, 0, 0);

    uint16_t *a = (uint16_t *)bytes_of_hex(text_of(js_get(data, "A"), "A"),
                                           2 * (size_t)(of_a.n_rows * d.n_cols));
    uint16_t *y = (uint16_t *)bytes_of_hex(text_of(data, "out"), 2 * (size_t)n_out);
    got.outlier_threshold = 6;
    struct weight there = weight_up(&got);
    check_report("quantizer-vectors.json llm_int8 (out, fp16 steps)", n_out,
                 linear_16_bit_steps(&tested, &there, DTYPE_F16, a, of_a.n_rows, y), 1);
    weight_release(&tested, &there);
    free(y);
    free(a);
    free(codes);
    weight_release(&host, &got);
    free(w.data);
    free(x);
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
        cmocka_unit_test(dynamic_maps),
        cmocka_unit_test(bnb4_small),
        cmocka_unit_test(bnb4_small_on_its_cpu),
        cmocka_unit_test(bnb4_sha256),
        cmocka_unit_test(bnb4_values_in_every_dtype),
        cmocka_unit_test(bnb_double_quant),
        cmocka_unit_test(llm_int8),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
