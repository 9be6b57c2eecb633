/* Quantizers without any reference: every method of the registry over awkward shapes, which
 * weights are refused, and the codes' way into memory. */
#include "vectors.h"

#include "base/distribution.h"
#include "base/rng.h"
#include "cpu/quantize.h"
#include "quant/method.h"

#include <float.h>
#include <omp.h>

static struct backend backend = BACKEND_INIT;

#define LM_HEAD .n_skip = 1, .skip = { "lm_head" }
#define BNB4(type, block, nested)                                                 \
    {                                                                             \
        .method = "bnb_4bit", .bits = 4, .group_size = block, .quant_type = type, \
        .double_quant = nested, .compute = DTYPE_F16, LM_HEAD                     \
    }
#define RTN(n_bits, group, is_sym, which, twice)                                                  \
    {                                                                                             \
        .method = "rtn", .bits = n_bits, .group_size = group, .quant_type = "int", .sym = is_sym, \
        .grid = which, .double_quant = twice, .compute = DTYPE_F16, LM_HEAD                       \
    }

#define TYPED(type, n_bits, group, scales, twice)                                   \
    {                                                                               \
        .method = "rtn", .bits = n_bits, .group_size = group, .quant_type = type,   \
        .scale_dtype = scales, .double_quant = twice, .compute = DTYPE_F16, LM_HEAD \
    }
#define HQQ(n_bits, group, scales, twice)                                           \
    {                                                                               \
        .method = "hqq", .bits = n_bits, .group_size = group, .quant_type = "int",  \
        .scale_dtype = scales, .double_quant = twice, .compute = DTYPE_F16, LM_HEAD \
    }

/* `bound`: largest error allowed, in units of the largest magnitude that shares the scale.  Half
 * the widest gap between codes; an asymmetric grid may shift by half a step more, because its
 * zero point is an integer. */
static const struct setting {
    struct quant_spec spec;
    double bound;
} settings[] = {
    { { .method = "none", .bits = 16, .compute = DTYPE_F16, LM_HEAD }, 0x1p-11 },
    { { .method = "none", .bits = 16, .compute = DTYPE_BF16, LM_HEAD }, 0x1p-8 },
    { { .method = "none", .bits = 32, .compute = DTYPE_F32, LM_HEAD }, 0 },
    { { .method = "bnb_8bit", .bits = 8, .compute = DTYPE_F16, .outlier_threshold = 6, LM_HEAD },
      0.5 / 127 + 0x1p-11 },
    { BNB4("nf4", 64, false), 0.1520 },
    { BNB4("nf4", 32, false), 0.1520 },
    { BNB4("nf4", 4096, false), 0.1520 },
    { BNB4("fp4", 64, false), 0.1667 },
    { BNB4("fp4", 128, false), 0.1667 },
    { RTN(2, 1, true, "absmax", false), 0.5 },
    { RTN(2, -1, true, "absmax", false), 0.5 },
    { RTN(3, -1, true, "absmax", false), 0.5 / 3 },
    { RTN(4, 13, true, "absmax", false), 0.5 / 7 },
    { RTN(5, -1, true, "absmax", false), 0.5 / 15 },
    { RTN(6, 32, true, "absmax", false), 0.5 / 31 },
    { RTN(7, -1, true, "absmax", false), 0.5 / 63 },
    { RTN(8, 64, true, "absmax", false), 0.5 / 127 },
    { RTN(2, -1, false, "absmax", false), 2.0 / 3 },
    { RTN(3, 2, false, "absmax", false), 2.0 / 7 },
    { RTN(4, -1, false, "gptq", false), 2.0 / 15 },
    { RTN(8, 128, false, "gptq", false), 2.0 / 255 },
    { RTN(4, -1, false, "awq", false), 2.0 / 15 },
    { RTN(4, 64, true, "awq", false), 0.5 / 7 },
    { TYPED("nf2", 2, -1, DTYPE_F32, false), 0.5 },
    { TYPED("nf3", 3, 13, DTYPE_F32, false), 0.2607 },
    { TYPED("nf3", 3, -1, DTYPE_F16, false), 0.2607 + 0x1p-11 },
    { TYPED("nf4", 4, 32, DTYPE_F32, false), 0.1520 },
    { TYPED("fp4", 4, -1, DTYPE_F32, false), 0.1667 },
    { TYPED("mxfp4", 4, 32, DTYPE_F32, false), 0.25 }, /* 7.99 becomes 6 */
    { TYPED("nvfp4", 4, 16, DTYPE_F32, false), 1.0 / 6 + 1.0 / 16 },
    { TYPED("fp8_e4m3", 8, -1, DTYPE_F32, false), 1.0 / 28 },
    { TYPED("fp8_e4m3", 8, 64, DTYPE_F16, false), 1.0 / 28 + 0x1p-11 },
    { TYPED("fp8_e4m3", 8, 0, DTYPE_F32, false), INFINITY }, /* the range is the matrix' */
    { HQQ(2, -1, DTYPE_F32, false), INFINITY },
    { HQQ(3, 13, DTYPE_F16, false), INFINITY },
    { HQQ(4, 64, DTYPE_F16, false), INFINITY },
    { HQQ(8, 64, DTYPE_F32, false), INFINITY },
};
#define N_SETTINGS ((int)(sizeof settings / sizeof *settings))

static const struct {
    const char *name;
    int64_t n_rows, n_cols;
} shapes[] = {
    { "one weight", 1, 1 },
    { "an odd row", 1, 33 },
    { "blocks that cross rows", 3, 50 },
    { "rows shorter than a block", 70, 13 },
    { "one column", 129, 1 },
    { "one weight short of a block", 1, 63 },
    { "one more than a block", 1, 65 },
    { "a width of 172", 2, 172 },
    { "exact blocks", 16, 256 },
    { "more blocks than a run of scales", 65, 260 },
};
#define N_SHAPES ((int)(sizeof shapes / sizeof *shapes))

/* About normal, with a row of zeros and one large weight. */
static float *numbers(uint64_t seed, int64_t n_rows, int64_t n_cols)
{
    int64_t n = n_rows * n_cols;
    float *x = mem_array((size_t)n, sizeof *x);

    for (int64_t i = 0; i < n; i++) {
        double sum = -6;
        for (uint64_t k = 0; k < 12; k++)
            sum += rng_real(seed, RNG_TEST, 12 * (uint64_t)i + k);
        x[i] = (float)(0.02 * sum);
    }
    if (n_rows > 2)
        memset(x + n_cols, 0, (size_t)n_cols * sizeof *x);
    if (n > 100)
        x[n / 2] = 3.0f;
    return x;
}

static void describe(const struct quant_spec *s, char *out, size_t room)
{
    snprintf(out, room, "%s %s %d bits g%lld %s%s %s%s", s->method, s->quant_type, s->bits,
             (long long)s->group_size, s->grid, s->grid[0] ? s->sym ? " sym" : " asym" : "",
             dtype_name(s->compute), s->double_quant ? " dq" : "");
}

static float *run(const struct quant_spec *s, const float *x, int64_t n_rows, int64_t n_cols,
                  struct weight *w)
{
    float *values = mem_array((size_t)(n_rows * n_cols), sizeof *values);
    struct tensor plain = tensor_over((void *)(uintptr_t)x, DTYPE_F32, n_rows, n_cols);
    struct tensor out = tensor_over(values, DTYPE_F32, n_rows, n_cols);
    struct err e = ERR_INIT;

    CHECK_OK(quantizer_find(s->method)->run(&backend, s, &plain, w, &e), e);
    CHECK_OK(
        backend.ops->dequantize(&backend, &(struct dequantize_args){ .w = w, .out = &out }, &e), e);
    return values;
}

static bool applies(const struct quant_spec *s, int64_t n_cols)
{
    struct err e = ERR_INIT;

    return quant_spec_check(s, n_cols, &e) == 0;
}

static bool takes_double_quant(const struct quant_spec *s)
{
    return quantizer_find(s->method)->allowed.double_quant && !quant_type_group_of(s->quant_type);
}

static void every_method_is_a_row(void **state)
{
    (void)state;
    for (int i = 0; quantizers[i]; i++) {
        const struct quantizer *z = quantizers[i];
        bool tried = false;

        CHECK((z->run || z->run_model) && z->shape && z->agrees_with[0],
              "%s can run and names its reference", z->name);
        CHECK(z->wants_calibration == (z->run_model != NULL), "%s looks at a model or not",
              z->name);
        CHECK(quantizer_find(z->name) == z, "%s: no earlier row has this name", z->name);
        CHECK(z->allowed.bits[0] && !z->allowed.bits[7], "%s lists its bits", z->name);
        CHECK(!z->allowed.quant_types[8], "%s lists its types", z->name);
        for (int k = 0; k < N_SETTINGS; k++)
            tried = tried || !strcmp(settings[k].spec.method, z->name);
        CHECK(tried || z->run_model, "%s is tested below", z->name);
    }
    CHECK(!quantizer_find("NONE") && !quantizer_find(""), "other names are not found");
}

/* First of all. */
static void zeros_stay_zeros(void **state)
{
    (void)state;
    for (int k = 0; k < N_SETTINGS; k++)
        for (int i = 0; i < N_SHAPES; i++)
            for (int twice = 0; twice < 2; twice++) {
                int64_t n = shapes[i].n_rows * shapes[i].n_cols;
                struct quant_spec s = settings[k].spec;
                struct weight w;
                char name[128];

                s.double_quant = twice && takes_double_quant(&s);
                describe(&s, name, sizeof name);
                if (!applies(&s, shapes[i].n_cols))
                    continue;
                float *x = mem_array((size_t)n, sizeof *x);
                float *values = run(&s, x, shapes[i].n_rows, shapes[i].n_cols, &w);
                for (int64_t j = 0; j < n; j++)
                    CHECK(values[j] == 0.0f, "%s: zeros come back, %s", name, shapes[i].name);
                free(values);
                free(x);
                weight_release(&backend, &w);
            }
}

/* Least and greatest of the weights that share weight i's scale, 0 included. */
static void range_near(const struct weight *w, const float *x, int64_t i, float *least,
                       float *greatest)
{
    int64_t n = w->n_out * w->n_in, size = w->group_size, first = i / size * size;

    if (!w->flat_groups)
        first = i / w->n_in * w->n_in + i % w->n_in / size * size;
    *least = *greatest = 0;
    for (int64_t j = first; j < first + size && j < n; j++) {
        *least = fminf(*least, x[j]);
        *greatest = fmaxf(*greatest, x[j]);
    }
}

static void values_come_back(void **state)
{
    (void)state;
    for (int k = 0; k < N_SETTINGS; k++)
        for (int i = 0; i < N_SHAPES; i++) {
            const struct quant_spec *s = &settings[k].spec;
            int64_t n_rows = shapes[i].n_rows, n_cols = shapes[i].n_cols;
            struct weight w;
            char name[128];

            describe(s, name, sizeof name);
            if (!applies(s, n_cols) || isinf(settings[k].bound))
                continue;
            float *x = numbers((uint64_t)(100 * k + i), n_rows, n_cols);
            float *values = run(s, x, n_rows, n_cols, &w);
            for (int64_t j = 0; j < n_rows * n_cols; j++) {
                float least, greatest;

                range_near(&w, x, j, &least, &greatest);
                /* The AWQ grid does not stretch to zero, yet its zero point is a code: a group
                 * of one sign is clipped. */
                if (!strcmp(s->grid, "awq") && !s->sym && (least == 0 || greatest == 0))
                    continue;
                double allowed = settings[k].bound * (1 + 1e-5) * (double)fmaxf(-least, greatest);
                CHECK(fabs((double)x[j] - (double)values[j]) <= allowed,
                      "%s: weight %lld of %s, %g, comes back as %g", name, (long long)j,
                      shapes[i].name, (double)x[j], (double)values[j]);
            }
            free(values);
            free(x);
            weight_release(&backend, &w);
        }
}

static void bytes_match_the_shape(void **state)
{
    (void)state;
    for (int k = 0; k < N_SETTINGS; k++)
        for (int i = 0; i < N_SHAPES; i++)
            for (int twice = 0; twice < 2; twice++) {
                struct quant_spec s = settings[k].spec;
                const struct quantizer *z = quantizer_find(s.method);
                struct weight w, shape;
                struct err e = ERR_INIT;
                char name[128];

                s.double_quant = twice && takes_double_quant(&s);
                describe(&s, name, sizeof name);
                if (!applies(&s, shapes[i].n_cols))
                    continue;
                float *x = numbers(7, shapes[i].n_rows, shapes[i].n_cols);
                size_t before = backend.mem.now[MEM_WEIGHTS];
                float *values = run(&s, x, shapes[i].n_rows, shapes[i].n_cols, &w);
                size_t taken = backend.mem.now[MEM_WEIGHTS] - before;
                CHECK_OK(z->shape(&s, shapes[i].n_rows, shapes[i].n_cols, &shape, &e), e);
                CHECK(weight_bytes(&shape) == weight_bytes(&w), "%s: bytes of %s", name,
                      shapes[i].name);
                CHECK(taken == weight_codes_bytes(&shape) + weight_scales_bytes(&shape) +
                                   weight_scales2_bytes(&shape) + weight_zeros_bytes(&shape),
                      "%s: %zu bytes are taken for %s", name, taken, shapes[i].name);
                CHECK(weight_bits_per_weight(&shape) == weight_bits_per_weight(&w) &&
                          shape.form == w.form && shape.table_id == w.table_id &&
                          shape.outlier_threshold == w.outlier_threshold,
                      "%s: the shape is the weight's", name);
                free(values);
                free(x);
                weight_release(&backend, &w);
                CHECK(backend.mem.now[MEM_WEIGHTS] == before, "%s gives everything back", name);
            }
}

static void bits_per_weight(void **state)
{
    static const struct {
        struct quant_spec spec;
        double bits;
    } cases[] = {
        { BNB4("nf4", 64, false), 4.5 },
        { BNB4("nf4", 64, true), 4 + 8.0 / 64 + 32.0 / (64 * 256) },
        { BNB4("fp4", 32, false), 5 },
        { RTN(4, 64, true, "absmax", false), 4.5 },
        { RTN(4, 64, true, "absmax", true), 4 + 8.0 / 64 + 32.0 / (64 * 256) },
        { RTN(3, 128, true, "absmax", false), 3.25 },
        { RTN(4, 128, false, "gptq", false), 4 + 40.0 / 128 },
        { TYPED("nf3", 3, 64, DTYPE_F16, false), 3.25 },
        { TYPED("mxfp4", 4, 32, DTYPE_F32, false), 4.25 },
        { TYPED("nvfp4", 4, 16, DTYPE_F32, false), 4.5 },
        { TYPED("fp8_e4m3", 8, -1, DTYPE_F32, false), 8 + 32.0 / 2048 },
        { TYPED("fp8_e4m3", 8, 0, DTYPE_F32, false), 8 + 32.0 / (1024 * 2048) },
        { HQQ(4, 64, DTYPE_F16, false), 4.5 },
        { HQQ(4, 64, DTYPE_F32, false), 5 },
        { HQQ(4, 64, DTYPE_F16, true), 4 + 24.0 / 64 + 32.0 / (64 * 256) },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct weight w;
        struct err e = ERR_INIT;

        CHECK_OK(quantizer_find(cases[i].spec.method)->shape(&cases[i].spec, 1024, 2048, &w, &e),
                 e);
        CHECK(weight_bits_per_weight(&w) == cases[i].bits, "case %zu: %g bits a weight", i,
              cases[i].bits);
    }
}

static void any_number_of_threads(void **state)
{
    int n_threads = omp_get_max_threads();

    (void)state;
    for (int k = 0; k < N_SETTINGS; k++) {
        struct quant_spec s = settings[k].spec;
        struct weight one, three;
        float *x = numbers(11, 65, 260), *values;
        char name[128];

        describe(&s, name, sizeof name);
        s.double_quant = takes_double_quant(&s);
        if (applies(&s, 260)) {
            omp_set_num_threads(1);
            free(run(&s, x, 65, 260, &one));
            omp_set_num_threads(3);
            values = run(&s, x, 65, 260, &three);
            omp_set_num_threads(n_threads);
            free(values);
            CHECK(
                !memcmp(one.codes, three.codes, weight_codes_bytes(&one)) &&
                    one.nested_offset == three.nested_offset &&
                    (!one.scales || !memcmp(one.scales, three.scales, weight_scales_bytes(&one))) &&
                    (!one.scales2 ||
                     !memcmp(one.scales2, three.scales2, weight_scales2_bytes(&one))) &&
                    (!one.zeros || !memcmp(one.zeros, three.zeros, weight_zeros_bytes(&one))),
                "%s: the same bytes with 1 and 3 threads", name);
            weight_release(&backend, &one);
            weight_release(&backend, &three);
        }
        free(x);
    }
}

/* A block of bitsandbytes does not see where rows end. */
static void flat_blocks_ignore_rows(void **state)
{
    const struct quant_spec s = BNB4("nf4", 64, false);
    float *x = numbers(5, 3, 50);
    struct weight rows, line;

    (void)state;
    float *a = run(&s, x, 3, 50, &rows), *b = run(&s, x, 1, 150, &line);
    CHECK(rows.n_groups == 3 && line.n_groups == 3, "150 weights are three blocks");
    for (int i = 0; i < 150; i++)
        CHECK(a[i] == b[i] && code_at(&rows, i / 50, i % 50) == code_at(&line, 0, i), "weight %d",
              i);
    free(a);
    free(b);
    free(x);
    weight_release(&backend, &rows);
    weight_release(&backend, &line);
}

/* In a double quantization an all-zero group counts as 0, not as its nominal scale of 1, which
 * would leave nothing of scales near 0.01. */
static void zero_groups_spare_their_neighbours(void **state)
{
    const struct quant_spec s = RTN(4, 16, true, "absmax", true);
    float x[64];
    struct weight w;

    (void)state;
    for (int i = 0; i < 64; i++)
        x[i] = i / 16 == 2 ? 0.0f : 0.01f * (float)(i % 15 - 7);
    float *values = run(&s, x, 1, 64, &w);
    for (int i = 0; i < 64; i++)
        CHECK(fabsf(values[i] - x[i]) <= 0.0004f, "weight %d, %g, comes back as %g", i,
              (double)x[i], (double)values[i]);
    free(values);
    weight_release(&backend, &w);
}

static void equal_scales_nest(void **state)
{
    const struct quant_spec s = BNB4("nf4", 64, true);
    float x[256];
    struct weight w;

    (void)state;
    for (int i = 0; i < 256; i++)
        x[i] = i % 2 ? 0.5f : -0.5f;
    float *values = run(&s, x, 1, 256, &w);
    for (int i = 0; i < 256; i++)
        CHECK(values[i] == x[i], "weight %d, where every scale equals the mean", i);
    free(values);
    weight_release(&backend, &w);
}

/* Weights so small that their scale has few bits, or none, still give finite values. */
static void subnormal_weights(void **state)
{
    (void)state;
    for (int k = 0; k < N_SETTINGS; k++)
        for (int exponent = -149; exponent <= -120; exponent++) {
            struct quant_spec s = settings[k].spec;
            float x[64];
            struct weight w;
            char name[128];

            describe(&s, name, sizeof name);
            if (!applies(&s, 64))
                continue;
            for (int i = 0; i < 64; i++)
                x[i] = ldexpf((float)(i - 31), exponent);
            float *values = run(&s, x, 1, 64, &w);
            for (int i = 0; i < 64; i++)
                CHECK(fabsf(values[i]) <= ldexpf(64, exponent) + 1e-5f, "%s: %g at 2^%d", name,
                      (double)values[i], exponent);
            free(values);
            weight_release(&backend, &w);
        }
}

/* ---- floats of few bits ---- */

/* A half of the range on each side, ties to the even code, saturation, signs. */
static void e2m1_by_hand(void **state)
{
    static const struct {
        float x, value;
    } cases[] = {
        { 0.25f, 0 },  { 0.26f, 0.5f }, { 0.75f, 1 }, { 1.25f, 1 }, { 1.75f, 2 },
        { 2.5f, 2 },   { 2.51f, 3 },    { 3.5f, 4 },  { 5.0f, 4 },  { 5.01f, 6 },
        { -2.5f, -2 }, { -0.2f, 0 },    { 4.0f, 4 },  { 7.9f, 6 },  { -7.9f, -6 },
    };
    const struct quant_spec s = TYPED("mxfp4", 4, 32, DTYPE_F32, false);
    struct weight w;
    float x[32] = { 0 };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        x[i] = cases[i].x * 0.125f;
    float *values = run(&s, x, 1, 32, &w);
    CHECK(((uint8_t *)w.scales)[0] == 127 - 3, "7.9 / 8 needs 2^-3: its exponent less e2m1's 2");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CHECK(values[i] == cases[i].value * 0.125f, "%g is nearest to %g, got %g",
              (double)cases[i].x, (double)cases[i].value, (double)values[i] * 8);
    CHECK(code_at(&w, 0, 11) == 8, "a small negative number keeps its sign");
    free(values);
    weight_release(&backend, &w);
}

static void nvfp4_by_hand(void **state)
{
    const struct quant_spec s = TYPED("nvfp4", 4, 16, DTYPE_F32, false);
    struct weight w;
    float x[48] = { 0 };

    (void)state;
    x[0] = 2688.0f; /* p = 1, and the first block's scale is the largest, 448 */
    x[1] = 448.0f * 2.5f;
    x[16] = 6.0f; /* scale 1 */
    x[17] = -1.75f;
    x[32] = 6.0f / 128; /* below the smallest normal scale, 2^-6 */
    float *values = run(&s, x, 1, 48, &w);
    const uint8_t *scales = w.scales;
    CHECK(w.nested_offset == 1.0f && scales[0] == 0x7E && scales[1] == 0x38 && scales[2] == 0x08,
          "p %g, scales %02x %02x %02x", (double)w.nested_offset, scales[0], scales[1], scales[2]);
    CHECK(values[0] == 2688.0f && values[1] == 896.0f && values[16] == 6.0f &&
              values[17] == -2.0f && values[32] == 3.0f / 64,
          "the values follow");
    free(values);
    weight_release(&backend, &w);
}

static void fp8_scales(void **state)
{
    const struct quant_spec by_row = TYPED("fp8_e4m3", 8, -1, DTYPE_F32, false);
    const struct quant_spec whole = TYPED("fp8_e4m3", 8, 0, DTYPE_F32, false);
    const float x[6] = { 448, 1, 0.3f, -4.48f, 0.01f, 0 };
    struct weight w;

    (void)state;
    float *values = run(&by_row, x, 2, 3, &w);
    CHECK(w.n_groups == 2 && ((float *)w.scales)[0] == 1.0f, "a scale a row, 448 / 448 the first");
    CHECK(values[0] == 448 && values[1] == 1 && values[2] == 0.3125f, "steps of 1/32 near 0.3");
    CHECK(check_near((double)values[3], -4.48, 1e-6), "the row's largest comes back");
    free(values);
    weight_release(&backend, &w);
    values = run(&whole, x, 2, 3, &w);
    CHECK(w.n_groups == 1 && values[0] == 448 && values[3] == -4.5f && values[4] == 0x1.4p-7f,
          "one scale for the matrix: %g %g", (double)values[3], (double)values[4]);
    free(values);
    weight_release(&backend, &w);
}

/* QLoRA's construction: quantiles of the normal distribution at even steps, 0, scaled to 1. */
static void normal_floats_by_construction(void **state)
{
    static const enum code_table ids[] = { 0, 0, TABLE_NF2, TABLE_NF3, TABLE_NF4 };
    const double offset = 0.9677083;

    (void)state;
    for (int bits = 2; bits <= 4; bits++) {
        int n = 1 << bits, n_values = 0;
        double want[16], most = normal_quantile(offset);
        float table[16];

        for (int i = 0; i < n / 2 - 1; i++)
            want[n_values++] = -normal_quantile(offset + (0.5 - offset) * i / (n / 2 - 1));
        want[n_values++] = 0;
        for (int i = n / 2 - 1; i >= 0; i--)
            want[n_values++] = normal_quantile(offset + (0.5 - offset) * i / (n / 2));
        CHECK(n_values == n, "%d values", n);
        weight_code_table(ids[bits], table);
        for (int i = 0; i < n; i++)
            CHECK(check_near((double)table[i], want[i] / most, bits == 4 ? 2e-7 : 6e-8),
                  "nf%d %d: %.9g is %.9g", bits, i, (double)table[i], want[i] / most);
    }
}

/* ---- a device that knows less ---- */

static bool knows_no_hqq(const struct quantize_args *a)
{
    return a->rule != QUANTIZE_HQQ;
}

static void what_a_device_lacks_is_done_on_the_host(void **state)
{
    const struct quant_spec hqq = HQQ(4, 64, DTYPE_F16, true);
    const struct quant_spec nf3 = TYPED("nf3", 3, 64, DTYPE_F32, false);
    struct backend_ops ops = *backend.ops;
    struct backend other = BACKEND_INIT;
    struct weight here, there;
    struct err e = ERR_INIT;
    float *x = numbers(13, 16, 256);
    struct tensor plain = tensor_over(x, DTYPE_F32, 16, 256);

    (void)state;
    CHECK_OK(backend_open(&other, "cpu", 0, NULL, &e), e);
    ops.quantizes = knows_no_hqq;
    other.ops = &ops;
    CHECK(quant_on_host(&other, &hqq) && !quant_on_host(&other, &nf3) &&
              !quant_on_host(&backend, &hqq),
          "which methods that is, is known before");
    free(run(&hqq, x, 16, 256, &here));
    CHECK_OK(quantizer_hqq.run(&other, &hqq, &plain, &there, &e), e);
    CHECK(!memcmp(here.codes, there.codes, weight_codes_bytes(&here)) &&
              !memcmp(here.scales, there.scales, weight_scales_bytes(&here)) &&
              !memcmp(here.scales2, there.scales2, weight_scales2_bytes(&here)) &&
              !memcmp(here.zeros, there.zeros, weight_zeros_bytes(&here)),
          "the same bytes");
    CHECK(other.mem.now[MEM_WEIGHTS] > 0, "in the device's memory");
    weight_release(&other, &there);
    x[70] = NAN;
    CHECK(quantizer_hqq.run(&other, &hqq, &plain, &there, &e) == -1 &&
              strstr(e.text, "weight [0, 70] is nan"),
          "errors come through: %s", e.text);
    CHECK(other.mem.now[MEM_WEIGHTS] == 0, "and nothing stays behind");
    weight_release(&backend, &here);
    backend_close(&other);
    free(x);
}

/* ---- refusals ---- */

static void weights_refused(void **state)
{
    static const struct {
        float value;
        const char *sentence;
        bool int8_only;
    } cases[] = {
        { NAN, "weight [2, 5] is nan, only finite weights can be quantized", false },
        { -NAN, "nan, only finite weights can be quantized", false },
        { INFINITY, "weight [2, 5] is inf, only finite", false },
        { -INFINITY, "weight [2, 5] is -inf, only finite", false },
        { 65520.0f, "weight [2, 5] is 65520, beyond the largest fp16 number, 65504", true },
        { -1e30f, "weight [2, 5] is -1e+30, beyond the largest fp16 number", true },
    };

    (void)state;
    for (int k = 0; k < N_SETTINGS; k++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            const struct quant_spec *s = &settings[k].spec;
            bool int8 = !strcmp(s->method, "bnb_8bit");
            struct err e = ERR_INIT;
            struct weight w = { 0 };

            if (quant_is_plain(s) || !applies(s, 64) || (cases[i].int8_only && !int8))
                continue;
            float *x = numbers(3, 4, 64);
            x[2 * 64 + 5] = cases[i].value;
            struct tensor plain = tensor_over(x, DTYPE_F32, 4, 64);
            size_t before = backend.mem.now[MEM_WEIGHTS];
            CHECK(quantizer_find(s->method)->run(&backend, s, &plain, &w, &e) == -1,
                  "%s refuses %g", s->method, (double)cases[i].value);
            CHECK(e.code == ERR_INPUT && strstr(e.text, cases[i].sentence), "\"%s\" says \"%s\"",
                  e.text, cases[i].sentence);
            CHECK(backend.mem.now[MEM_WEIGHTS] == before, "%s gives its memory back", s->method);
            free(x);
        }
}

static void the_limits_of_fp16_and_fp32(void **state)
{
    const struct quant_spec int8 = { .method = "bnb_8bit", .bits = 8, .compute = DTYPE_F16 };
    const struct quant_spec rtn = RTN(4, -1, false, "gptq", false);
    float x[4] = { 65504, 1, -65519, 0 };
    struct weight w;
    struct err e = ERR_INIT;

    (void)state;
    float *values = run(&int8, x, 1, 4, &w);
    CHECK(((float *)w.scales)[0] == 65504, "65519 still rounds to the largest fp16 number");
    CHECK((int8_t)code_at(&w, 0, 0) == 127 && (int8_t)code_at(&w, 0, 2) == -127, "full range");
    free(values);
    weight_release(&backend, &w);

    float wide[2] = { FLT_MAX, -FLT_MAX };
    struct tensor plain = tensor_over(wide, DTYPE_F32, 1, 2);
    CHECK(quantizer_rtn.run(&backend, &rtn, &plain, &w, &e) == -1 &&
              strstr(e.text, "row 0 is too wide for fp32"),
          "a range of twice the largest number is refused: %s", e.text);
}

/* ---- codes in memory ---- */

static void codes_of_every_width(void **state)
{
    (void)state;
    for (int bits = 2; bits <= 8; bits++)
        for (int n = 1; n <= 70; n++) {
            uint8_t codes[70], stream[80], last = (uint8_t)((1 << bits) - 1);
            struct weight w = { .bits = bits, .n_in = n, .codes = stream };

            w.row_bytes = (n * bits + 31) / 32 * 4;
            for (int i = 0; i < n; i++)
                codes[i] = (uint8_t)rng_below((uint64_t)n, RNG_TEST, (uint64_t)i, last + 1u);
            memset(stream, 0xA5, sizeof stream);
            pack_codes(codes, n, bits, stream, w.row_bytes);
            for (int i = 0; i < n; i++)
                CHECK(code_at(&w, 0, i) == codes[i], "code %d of %d with %d bits", i, n, bits);
            for (int64_t bit = (int64_t)n * bits; bit < 8 * w.row_bytes; bit++)
                CHECK(!(stream[bit / 8] >> bit % 8 & 1), "the rest of a row is 0");
            CHECK(stream[w.row_bytes] == 0xA5, "nothing is written behind the row");
        }
}

static void nearest_in_the_dynamic_map(void **state)
{
    const float *map = weight_dynamic_map;

    (void)state;
    for (int k = 0; k < 255; k++) {
        float middle = (map[k] + map[k + 1]) * 0.5f;
        int even = k % 2 ? k + 1 : k;

        CHECK(codebook_nearest(map, map[k]) == k, "value %d is its own nearest", k);
        CHECK(codebook_nearest(map, middle) == even, "a tie at %d goes to the even index", k);
        CHECK(codebook_nearest(map, nextafterf(middle, -2)) == k, "just below the middle of %d", k);
        CHECK(codebook_nearest(map, nextafterf(middle, 2)) == k + 1, "just above it");
    }
    CHECK(codebook_nearest(map, 1) == 255 && codebook_nearest(map, 7) == 255, "the upper end");
    CHECK(codebook_nearest(map, -1) == 0 && codebook_nearest(map, -INFINITY) == 0, "the lower end");
    CHECK(codebook_nearest(map, NAN) == 0, "a NaN has index 0");
}

static void nf4_thresholds_are_midpoints(void **state)
{
    float table[16];

    (void)state;
    weight_code_table(TABLE_NF4, table);
    for (int k = 0; k < 15; k++) {
        double middle = ((double)table[k] + (double)table[k + 1]) / 2;

        CHECK(fabs((double)codebook_nf4_threshold[k] - middle) <= 0.5 * fabs(middle) * 0x1p-23,
              "threshold %d is the fp32 number at the middle", k);
    }
}

static int open_backend(void **state)
{
    struct err e = ERR_INIT;

    (void)state;
    return backend_open(&backend, "cpu", 0, NULL, &e);
}

static int close_backend(void **state)
{
    (void)state;
    backend_close(&backend);
    return 0;
}

/* Activations so large that every range's error is beyond what the search begins with. */
static void awq_never_clamps_to_nothing(void **state)
{
    enum { N_OUT = 2, N_IN = 64, N_ROWS = 4 };
    float x[N_ROWS * N_IN], w[N_OUT * N_IN], before[N_OUT * N_IN], largest[N_OUT];
    struct tensor tw = { .data = w, .dtype = DTYPE_F32, .n_rows = N_OUT, .n_cols = N_IN };
    struct tensor tx = { .data = x, .dtype = DTYPE_F32, .n_rows = N_ROWS, .n_cols = N_IN };
    struct awq_clip_args a = { &tw, &tx, N_ROWS, { 4, N_IN, true }, largest };
    struct err e = ERR_INIT;

    (void)state;
    for (int i = 0; i < N_ROWS * N_IN; i++)
        x[i] = 1e12f * (float)(1 + i % 7);
    for (int i = 0; i < N_OUT * N_IN; i++)
        w[i] = before[i] = 0.01f * (float)(i % 13 - 6);
    CHECK_OK(backend.ops->awq->clip(&backend, &a, &e), e);
    for (int r = 0; r < N_OUT; r++)
        CHECK(largest[r] == 0.06f, "row %d keeps its largest weight: %g", r, (double)largest[r]);
    CHECK(memcmp(w, before, sizeof w) == 0, "and all others");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_method_is_a_row),
        cmocka_unit_test(zeros_stay_zeros),
        cmocka_unit_test(values_come_back),
        cmocka_unit_test(bytes_match_the_shape),
        cmocka_unit_test(bits_per_weight),
        cmocka_unit_test(any_number_of_threads),
        cmocka_unit_test(flat_blocks_ignore_rows),
        cmocka_unit_test(zero_groups_spare_their_neighbours),
        cmocka_unit_test(equal_scales_nest),
        cmocka_unit_test(subnormal_weights),
        cmocka_unit_test(e2m1_by_hand),
        cmocka_unit_test(nvfp4_by_hand),
        cmocka_unit_test(fp8_scales),
        cmocka_unit_test(normal_floats_by_construction),
        cmocka_unit_test(what_a_device_lacks_is_done_on_the_host),
        cmocka_unit_test(weights_refused),
        cmocka_unit_test(the_limits_of_fp16_and_fp32),
        cmocka_unit_test(awq_never_clamps_to_nothing),
        cmocka_unit_test(codes_of_every_width),
        cmocka_unit_test(nearest_in_the_dynamic_map),
        cmocka_unit_test(nf4_thresholds_are_midpoints),
    };
    return cmocka_run_group_tests(tests, open_backend, close_backend);
}
