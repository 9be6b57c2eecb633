/* test_rope.c - frequencies of every kind of rotation against values computed apart in fp64. */
#include "check.h"

#include "base/memory.h"
#include "model/model.h"

#include <string.h>

static struct config llama(const char *more)
{
    struct config c;
    struct err e = ERR_INIT;
    struct bytes text = BYTES_INIT;

    bytes_printf(&text,
                 "{\"model_type\":\"llama\",\"hidden_size\":2048,\"num_attention_heads\":32%s}",
                 more);
    struct js *j = js_parse(text.data, text.n, &e);
    CHECK(j, "the test's JSON is valid: %s", e.text);
    CHECK_OK(config_parse(j, NULL, &c, &e), e);
    js_release(j);
    bytes_release(&text);
    return c;
}

static float frequencies(const struct config *c, int64_t length, float f[32])
{
    float attention_factor;
    struct err e = ERR_INIT;

    CHECK_OK(rope_frequencies(c, length, f, &attention_factor, &e), e);
    return attention_factor;
}

static void near(const char *what, int j, double got, double want)
{
    CHECK(check_near(got, want, 4e-7 * fabs(want)), "%s: frequency %d is %.10g, not %.10g", what, j,
          want, got);
}

#define LLAMA3                                                                            \
    ",\"rope_theta\":500000.0,\"rope_scaling\":{\"factor\":32.0,\"low_freq_factor\":1.0," \
    "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"}"

static void test_llama_3_2(void **state)
{
    static const struct {
        int j;
        double plain, scaled;
    } rows[] = {
        { 0, 1, 1 },
        { 1, 0.6636012377, 0.6636012377 },
        { 14, 0.003211445995, 0.003211445995 },
        { 15, 0.002131119537, 0.001290547928 },
        { 16, 0.001414213562, 0.0004295567966 },
        { 17, 0.0009384738704, 9.708287803e-05 },
        { 18, 0.0006227724219, 1.946163818e-05 },
        { 31, 3.013858152e-06, 9.418306725e-08 },
    };
    struct config plain = llama(",\"rope_theta\":500000.0"), scaled = llama(LLAMA3);
    float f[32], g[32];
    (void)state;

    CHECK(frequencies(&plain, 0, f) == 1 && frequencies(&scaled, 0, g) == 1,
          "neither scales the attention");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        near("default", rows[i].j, f[rows[i].j], rows[i].plain);
        /* The mixed branch cancels: 1 - s loses up to three bits. */
        CHECK(check_near(g[rows[i].j], rows[i].scaled, 2e-6 * rows[i].scaled),
              "llama3: frequency %d is %.10g, not %.10g", rows[i].j, rows[i].scaled, g[rows[i].j]);
    }
}

static void test_linear_and_dynamic(void **state)
{
    struct config plain = llama(""), linear = llama(",\"rope_scaling\":{\"type\":\"linear\","
                                                    "\"factor\":4.0}");
    struct config dynamic = llama(",\"max_position_embeddings\":512,\"rope_scaling\":{\"type\":"
                                  "\"dynamic\",\"factor\":2.0}");
    float f[32], g[32];
    (void)state;

    frequencies(&plain, 0, f);
    frequencies(&linear, 0, g);
    for (int j = 0; j < 32; j++)
        near("linear", j, g[j], f[j] / 4.0);
    frequencies(&dynamic, 512, g);
    CHECK(memcmp(f, g, sizeof f) == 0, "dynamic scaling leaves sequences up to the maximum alone");
    frequencies(&dynamic, 1024, g);
    double theta = 10000.0 * pow(2.0 * 1024 / 512 - 1, 64.0 / 62);
    for (int j = 0; j < 32; j++)
        near("dynamic", j, g[j], pow(theta, -2.0 * j / 64));
}

/* The formula, in fp64. */
static double yarn(int j, double l0, double theta, double factor, bool truncate)
{
    double lo = 64 * log(l0 / (2 * acos(-1) * 32)) / (2 * log(theta));
    double hi = 64 * log(l0 / (2 * acos(-1) * 1)) / (2 * log(theta));

    if (truncate) {
        lo = floor(lo);
        hi = ceil(hi);
    }
    lo = fmax(lo, 0);
    hi = fmin(hi, 63);
    double ramp = fmin(fmax((j - lo) / (hi - lo), 0), 1), f = pow(theta, -2.0 * j / 64);
    return f / factor * ramp + f * (1 - ramp);
}

static void test_yarn(void **state)
{
    struct config old = llama(",\"max_position_embeddings\":8192,\"rope_scaling\":{\"rope_type\":"
                              "\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":2048}");
    struct config new =
        llama(",\"max_position_embeddings\":8192,\"rope_parameters\":{\"rope_type\":"
              "\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":2048,"
              "\"rope_theta\":10000.0}");
    struct config fine =
        llama(",\"max_position_embeddings\":8192,\"rope_parameters\":{\"rope_type\":"
              "\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":2048,"
              "\"rope_theta\":10000.0,\"truncate\":false,\"mscale\":1.0,"
              "\"mscale_all_dim\":0.5}");
    float f[32], g[32], h[32];
    (void)state;

    double scale = 0.1 * log(4) + 1;
    CHECK(check_near(frequencies(&old, 0, f), scale, 1e-6), "yarn scales the attention by g(4, 1)");
    CHECK(check_near(frequencies(&new, 0, g), scale, 1e-6), "in both forms");
    CHECK(check_near(frequencies(&fine, 0, h), scale / (0.05 * log(4) + 1), 1e-6),
          "mscale and mscale_all_dim give a ratio");
    int differ = 0;
    for (int j = 0; j < 32; j++) {
        CHECK(check_near(f[j], yarn(j, 8192, 10000, 4, true), 1e-6 * f[j]),
              "the old form measures by 8192 at %d", j);
        CHECK(check_near(g[j], yarn(j, 2048, 10000, 4, true), 1e-6 * g[j]),
              "the new form measures by 2048 at %d", j);
        CHECK(check_near(h[j], yarn(j, 2048, 10000, 4, false), 1e-6 * h[j]),
              "without truncation at %d", j);
        differ += f[j] != g[j];
    }
    CHECK(differ > 5, "the two rules differ in %d frequencies", differ);
    CHECK(check_near(f[0], 1, 0) && check_near(f[31], pow(10000, -62.0 / 64) / 4, 1e-10),
          "yarn keeps fast waves and divides slow ones");
}

static void test_partial_rotation(void **state)
{
    struct config c = llama(",\"partial_rotary_factor\":0.5");
    float f[32];
    (void)state;

    frequencies(&c, 0, f);
    for (int j = 0; j < 16; j++)
        near("half a head", j, f[j], pow(10000, -2.0 * j / 32));
    for (int j = 16; j < 32; j++)
        CHECK(f[j] == 0, "dimension %d does not rotate", j);
}

static void test_tables(void **state)
{
    struct config c = llama(LLAMA3);
    enum { N = 301 };
    static float cos_f[N * 32], sin_f[N * 32], cos_h[N * 32], sin_h[N * 32];
    float f[32];
    struct err e = ERR_INIT;
    (void)state;

    frequencies(&c, 0, f);
    CHECK_OK(rope_tables(&c, DTYPE_F32, N, N, cos_f, sin_f, &e), e);
    CHECK_OK(rope_tables(&c, DTYPE_BF16, N, N, cos_h, sin_h, &e), e);
    for (int p = 0; p < N; p++)
        for (int j = 0; j < 32; j++) {
            float angle = f[j] * (float)p; /* rounded to fp32, as the frequency was */
            int i = p * 32 + j;
            CHECK(check_near(cos_f[i], cos(angle), 6e-8) && check_near(sin_f[i], sin(angle), 6e-8),
                  "cos and sin at position %d, dimension %d", p, j);
            CHECK(cos_h[i] == dtype_bf16_to_f32(dtype_f32_to_bf16(cos_f[i])) &&
                      sin_h[i] == dtype_bf16_to_f32(dtype_f32_to_bf16(sin_f[i])),
                  "they are rounded to the model's dtype at %d, %d", p, j);
        }
    CHECK(cos_f[0] == 1 && sin_f[0] == 0, "position 0 does not turn");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama_3_2), cmocka_unit_test(test_linear_and_dynamic),
        cmocka_unit_test(test_yarn),      cmocka_unit_test(test_partial_rotation),
        cmocka_unit_test(test_tables),
    };

    return cmocka_run_group_tests_name("rope", tests, NULL, NULL);
}
