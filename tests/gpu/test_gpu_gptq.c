/* test_gpu_gptq.c - x^T x and GPTQ's solver on the GPU beside the CPU's: fp32 sums and codes to the
 * bit, 16-bit sums within what their chains may lose; the same bytes each time; what is refused,
 * with the CPU's words.  (test_gptq and test_gptq_golden run on the GPU, too.) */
#include "twin.h"

#include "../../cuda/gemm_wish.cuh"
#include "base/memory.h"
#include "quant/quant.h"

#include <string.h>

/* ---- x^T x ---- */

static const struct {
    int64_t n_rows, n_cols;
} grams[] = { { 1, 8 },     { 2, 3 },      { 33, 64 },    { 100, 257 }, { 300, 136 },
              { 517, 200 }, { 2048, 320 }, { 4096, 128 }, { 700, 776 } };
#define N_GRAMS (sizeof grams / sizeof *grams)

/* h of one engine, once afresh and once more on top; the rows behind n_rows are not looked at. */
static void gram_of(struct backend *b, const struct tensor *x, int64_t n_rows, struct tensor *h)
{
    struct err e = ERR_INIT;

    for (int again = 0; again < 2; again++) {
        struct gram_args a = { .x = x, .h = h, .n_rows = n_rows, .fresh = !again };
        CHECK_OK(b->ops->gram(b, &a, &e), e);
    }
}

static struct tensor device_gram(const struct tensor *x, int64_t n_rows)
{
    struct tensor dx = device_tensor(x), dh = device_result(DTYPE_F32, x->n_cols, x->n_cols);

    gram_of(&gpu, &dx, n_rows, &dh);
    struct tensor h = host_tensor(&dh);
    device_free(dh.data);
    device_free(dx.data);
    return h;
}

/* A chain over 16 rows at a time loses at most a last bit each. */
static double check_gram(const struct tensor *got, const struct tensor *want, int64_t n_rows)
{
    const int64_t n = want->n_cols;
    double largest = 0;

    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            double size = sqrt((double)element(want, i, i) * (double)element(want, j, j));
            double off = fabs((double)element(got, i, j) - (double)element(want, i, j));
            CHECK(off <= size * ((double)n_rows / 16 + 3) * 0x1p-23,
                  "h[%lld, %lld] of %lld rows of %lld is off by %g of %g", (long long)i,
                  (long long)j, (long long)n_rows, (long long)n, off, size);
            CHECK(element(got, i, j) == element(got, j, i), "symmetric");
            largest = fmax(largest, off / size);
        }
    return largest;
}

static void sums_of_squares(void **state)
{
    (void)state;
    for (size_t t = 0; t < 3; t++) {
        double largest = 0;

        for (size_t i = 0; i < N_GRAMS; i++) {
            if (left_out())
                continue;
            const int64_t n = grams[i].n_cols, n_rows = grams[i].n_rows;
            struct tensor x = random_tensor(model_dtypes[t], n_rows + 3, n, 1.0f);
            struct tensor want = new_tensor(DTYPE_F32, n, n);

            gram_of(cpu, &x, n_rows, &want);
            struct tensor got = device_gram(&x, n_rows), again = device_gram(&x, n_rows);
            CHECK(!memcmp(got.data, again.data, tensor_bytes(&got)), "the same bits again");
            if (model_dtypes[t] == DTYPE_F32)
                check_same("x^T x", &got, &want);
            else
                largest = fmax(largest, check_gram(&got, &want, n_rows));
            free_tensor(&again);
            gram_wish = 1;
            again = device_gram(&x, n_rows);
            gram_wish = 0;
            if (model_dtypes[t] != DTYPE_F32)
                check_gram(&again, &want, n_rows);
            free_tensor(&again);
            free_tensor(&got);
            free_tensor(&want);
            free_tensor(&x);
        }
        printf("x^T x of %s: off by at most %.2g of the diagonal\n", dtype_name(model_dtypes[t]),
               largest);
    }
}

/* ---- the solver ---- */

/* Inputs that depend on one another, of different size; some never there. */
static struct tensor random_h(int64_t n, int64_t n_rows, bool some_dead)
{
    struct tensor x = new_tensor(DTYPE_F32, n_rows, n), h = new_tensor(DTYPE_F32, n, n);

    for (int64_t t = 0; t < n_rows; t++)
        for (int64_t i = 0; i < n; i++) {
            float before = i ? element(&x, t, i - 1) : 0.0f;
            set_element(&x, t, i, 0.6f * before + draw_value() * (float)(1 + i % 5));
        }
    for (int64_t t = 0; some_dead && t < n_rows; t++)
        set_element(&x, t, n / 3, 0.0f), set_element(&x, t, n - 1, 0.0f);
    struct gram_args a = { .x = &x, .h = &h, .n_rows = n_rows, .fresh = true };
    struct err e = ERR_INIT;
    CHECK_OK(cpu->ops->gram(cpu, &a, &e), e);
    free_tensor(&x);
    return h;
}

/* The parts of a weight on the host; weight_release(cpu, ..). */
static void *part_down(const void *from, size_t n_bytes)
{
    struct err e = ERR_INIT;
    void *p;

    if (!from)
        return NULL;
    CHECK_OK(backend_alloc(cpu, MEM_SCRATCH, n_bytes, &p, &e), e);
    CHECK_OK(gpu.ops->download(&gpu, p, from, n_bytes, &e), e);
    return p;
}

static struct weight on_device(struct gptq_args a, struct gptq_result *result)
{
    struct tensor w = device_tensor(a.w), h = device_tensor(a.h);
    size_t before = gpu.mem.now[MEM_SCRATCH];
    struct weight got, out;
    struct err e = ERR_INIT;

    a.w = &w;
    a.h = &h;
    a.out = &got;
    a.result = result;
    CHECK_OK(gpu.ops->gptq_columns(&gpu, &a, &e), e);
    CHECK(gpu.mem.now[MEM_SCRATCH] == before, "the working memory is given back");
    out = got;
    out.codes = part_down(got.codes, weight_codes_bytes(&got));
    out.scales = part_down(got.scales, weight_scales_bytes(&got));
    out.scales2 = part_down(got.scales2, weight_scales2_bytes(&got));
    out.zeros = part_down(got.zeros, weight_zeros_bytes(&got));
    out.g_idx = part_down(got.g_idx, (size_t)got.n_in * sizeof *got.g_idx);
    weight_release(&gpu, &got);
    device_free(w.data);
    device_free(h.data);
    return out;
}

static struct weight on_cpu(struct gptq_args a, struct gptq_result *result)
{
    struct weight out;
    struct err e = ERR_INIT;

    a.out = &out;
    a.result = result;
    CHECK_OK(cpu->ops->gptq_columns(cpu, &a, &e), e);
    return out;
}

static bool same_part(const void *a, const void *b, size_t n_bytes)
{
    return (!a && !b) || (a && b && !memcmp(a, b, n_bytes));
}

static bool same_weight(const struct weight *a, const struct weight *b)
{
    return same_part(a->codes, b->codes, weight_codes_bytes(b)) &&
           same_part(a->scales, b->scales, weight_scales_bytes(b)) &&
           same_part(a->scales2, b->scales2, weight_scales2_bytes(b)) &&
           same_part(a->zeros, b->zeros, weight_zeros_bytes(b)) &&
           same_part(a->g_idx, b->g_idx, (size_t)b->n_in * sizeof *b->g_idx);
}

/* Rows whose codes differ. */
static int64_t n_other_rows(const struct weight *a, const struct weight *b)
{
    int64_t n = 0;

    for (int64_t row = 0; row < b->n_out; row++)
        n += memcmp((char *)a->codes + row * b->row_bytes, (char *)b->codes + row * b->row_bytes,
                    (size_t)b->row_bytes) != 0;
    return n;
}

static int64_t n_rows_in_all, n_rows_that_differ;

/* A last bit of U may differ: it counts in the loss, and a weight between two codes may take the
 * other. */
static void check_solved(struct gptq_args a, const char *what)
{
    struct gptq_result want_result, result, again_result;
    struct weight want = on_cpu(a, &want_result), got = on_device(a, &result);
    struct weight again = on_device(a, &again_result);
    int64_t n_other = n_other_rows(&got, &want);
    /* Two last bits of fp32; the errors are those of the codes. */
    const double loose = n_other ? 1e-2 : 2.4e-7, error = n_other ? 1e-2 : 1e-10;

    CHECK(same_weight(&got, &again) &&
              !memcmp(&result, &again_result, offsetof(struct gptq_result, n_raised)),
          "%s: the same bytes each time, results included", what);
    CHECK(n_other || same_weight(&got, &want),
          "%s: the same codes, so the same scales, zeros and "
          "order",
          what);
    n_rows_in_all += want.n_out;
    n_rows_that_differ += n_other;
    CHECK(n_other <= 1 + want.n_out / 50, "%s: %lld of %lld rows have other codes", what,
          (long long)n_other, (long long)want.n_out);
    CHECK(check_near(result.loss, want_result.loss, loose * (fabs(want_result.loss) + 1e-30)),
          "%s: loss %.17g, on the CPU %.17g", what, result.loss, want_result.loss);
    CHECK(check_near(result.output_mse, want_result.output_mse,
                     error * (want_result.output_mse + 1e-30)) &&
              check_near(result.output_ms, want_result.output_ms, 1e-10 * want_result.output_ms),
          "%s: errors %.17g of %.17g, on the CPU %.17g of %.17g", what, result.output_mse,
          result.output_ms, want_result.output_mse, want_result.output_ms);
    CHECK(result.damp == want_result.damp && result.floor == want_result.floor &&
              result.n_raised == want_result.n_raised,
          "%s: damped as on the CPU", what);
    weight_release(cpu, &want);
    weight_release(cpu, &got);
    weight_release(cpu, &again);
}

static int64_t one_of(const int64_t *from, int n)
{
    return from[(int)(draw() * n)];
}

/* A random divisor of n from 16 to 1024, or n. */
static int64_t random_group(int64_t n)
{
    for (int i = 0; i < 40; i++) {
        int64_t g = 16 + (int64_t)(draw() * 300);
        if (n % g == 0)
            return g;
    }
    return n;
}

static void random_cases(void **state)
{
    static const int64_t inputs[] = { 40, 64, 128, 192, 256, 320, 384, 400, 640 };
    static const int64_t outputs[] = { 1, 7, 24, 128, 130 };
    static const enum code_table tables[] = { TABLE_NONE, TABLE_NONE, TABLE_NF2,
                                              TABLE_NF3,  TABLE_NF4,  TABLE_FP4 };

    (void)state;
    for (int i = 0; i < 60; i++) {
        const int64_t n = one_of(inputs, 9), n_out = one_of(outputs, 5);
        const enum code_table table = tables[(int)(draw() * 6)];
        const bool half = draw() < 0.5;

        if (left_out())
            continue;
        struct tensor w = random_tensor(model_dtypes[(int)(draw() * 3)], n_out, n, 1.0f);
        struct tensor h = random_h(n, 2 * n, draw() < 0.5);
        struct gptq_args a = {
            .w = &w,
            .source = draw() < 0.5   ? DTYPE_OTHER
                      : draw() < 0.5 ? DTYPE_F16
                                     : DTYPE_BF16,
            .h = &h,
            .n_rows = 2 * n,
            .factor = 1.0 / (double)n,
            .bits = table == TABLE_NF2   ? 2
                    : table == TABLE_NF3 ? 3
                    : table              ? 4
                                         : 2 + (int)(draw() * 7),
            .group_size = random_group(n),
            .sym = draw() < 0.5,
            .table = table,
            .order = (enum gptq_order)(draw() * 3),
            .damp = 0.01,
            .damp_step = 0.01,
            .mse = !table && draw() < 0.3 ? 2.4 : 0.0,
            .double_quant = !half && draw() < 0.4,
            .scale_dtype = half ? DTYPE_F16 : DTYPE_F32,
        };
        char what[200];

        a.static_groups = a.order != GPTQ_GROUP_AWARE && draw() < 0.4;
        snprintf(what, sizeof what,
                 "case %d: %lld x %lld, %d bits, table %d, groups of %lld, sym %d, order %d, "
                 "static %d, mse %g, dq %d, scales %s",
                 i, (long long)n_out, (long long)n, a.bits, (int)table, (long long)a.group_size,
                 a.sym, (int)a.order, a.static_groups, a.mse, a.double_quant,
                 dtype_name(a.scale_dtype));
        check_solved(a, what);
        free_tensor(&h);
        free_tensor(&w);
    }
}

/* More tiles than a power of two has; more rows than a piece of the measurement. */
static void wide_ones(void **state)
{
    static const struct {
        int64_t n_out, n_in, group;
    } sizes[] = { { 300, 1152, 128 }, { 40, 2176, 2176 }, { 1100, 256, 32 } };

    (void)state;
    for (int i = 0; i < 3; i++) {
        if (one_in() > 1 && i < 2)
            continue;
        struct tensor w = random_tensor(DTYPE_BF16, sizes[i].n_out, sizes[i].n_in, 1.0f);
        struct tensor h = random_h(sizes[i].n_in, 2500, true);
        struct gptq_args a = { .w = &w,
                               .source = DTYPE_F16,
                               .h = &h,
                               .n_rows = 2500,
                               .factor = 2.0 / 2500,
                               .bits = 4,
                               .group_size = sizes[i].group,
                               .sym = true,
                               .order = GPTQ_DESC_ACT,
                               .damp = 0.1,
                               .damp_step = 0.01,
                               .scale_dtype = DTYPE_F16 };

        check_solved(a, "a wide one");
        free_tensor(&h);
        free_tensor(&w);
    }
    printf("%lld of %lld rows in all have other codes than on the CPU\n",
           (long long)n_rows_that_differ, (long long)n_rows_in_all);
    CHECK(n_rows_that_differ <= 1 + n_rows_in_all / 200, "hardly any");
}

/* ---- what is refused ---- */

static void both_refuse(struct gptq_args a, const char *words)
{
    struct tensor w = device_tensor(a.w), h = device_tensor(a.h);
    struct gptq_result result;
    struct weight out;
    struct err e = ERR_INIT, on_host = ERR_INIT;
    size_t weights = gpu.mem.now[MEM_WEIGHTS], scratch = gpu.mem.now[MEM_SCRATCH];

    a.result = &result;
    a.out = &out;
    CHECK(cpu->ops->gptq_columns(cpu, &a, &on_host) < 0, "the CPU refuses: %s", words);
    a.w = &w;
    a.h = &h;
    CHECK(gpu.ops->gptq_columns(&gpu, &a, &e) < 0, "the GPU refuses: %s", words);
    CHECK(e.code == on_host.code && !strcmp(e.text, on_host.text) && strstr(e.text, words),
          "\"%s\" on the GPU, \"%s\" on the CPU", e.text, on_host.text);
    CHECK(gpu.mem.now[MEM_WEIGHTS] == weights && gpu.mem.now[MEM_SCRATCH] == scratch,
          "nothing stays behind");
    device_free(w.data);
    device_free(h.data);
}

static void what_is_refused(void **state)
{
    const int64_t n = 200;
    struct tensor w = random_tensor(DTYPE_F16, 20, n, 1.0f), h = random_h(n, 400, false);
    struct gptq_args a = { .w = &w,
                           .source = DTYPE_OTHER,
                           .h = &h,
                           .n_rows = 400,
                           .factor = 1,
                           .bits = 4,
                           .group_size = 40,
                           .damp = 0.01,
                           .damp_step = 0.01 };
    float before = element(&h, 150, 150);

    (void)state;
    set_element(&h, 150, 3, 1e6f * before);
    set_element(&h, 3, 150, 1e6f * before);
    both_refuse(a, "the Hessian is not positive definite, not with damping up to 0.99");
    set_element(&h, 150, 3, 0.0f);
    set_element(&h, 3, 150, 0.0f);
    set_element(&h, 150, 150, NAN);
    both_refuse(a, "the calibration activations of input 150 are not finite");
    set_element(&h, 150, 150, before);
    set_element(&w, 13, 199, INFINITY);
    set_element(&w, 17, 0, NAN);
    both_refuse(a, "row 13 holds what is no number");
    free_tensor(&h);
    free_tensor(&w);
}

/* A NaN among 16-bit activations shows on the diagonal of its input. */
static void activations_that_are_no_numbers(void **state)
{
    struct tensor w = random_tensor(DTYPE_BF16, 8, 64, 1.0f);
    struct tensor x = random_tensor(DTYPE_BF16, 100, 64, 1.0f);
    struct err e = ERR_INIT;

    (void)state;
    set_element(&x, 77, 41, NAN);
    struct tensor h = device_gram(&x, 100);
    struct tensor dw = device_tensor(&w), dh = device_tensor(&h);
    struct gptq_result result;
    struct weight out;
    struct gptq_args a = { .w = &dw,
                           .source = DTYPE_OTHER,
                           .h = &dh,
                           .n_rows = 100,
                           .factor = 1,
                           .bits = 4,
                           .group_size = 64,
                           .damp = 0.01,
                           .out = &out,
                           .result = &result };
    CHECK(gpu.ops->gptq_columns(&gpu, &a, &e) < 0 && e.code == ERR_INPUT &&
              strstr(e.text, "activations of input 41 are not finite (sum of squares nan)"),
          "\"%s\" names the input", e.text);
    device_free(dw.data);
    device_free(dh.data);
    free_tensor(&h);
    free_tensor(&x);
    free_tensor(&w);
}

/* ---- a whole model ---- */

#define VOCAB 97

static const struct config small = { .family = FAMILY_LLAMA,
                                     .vocab_size = VOCAB,
                                     .hidden_size = 128,
                                     .intermediate_size = 320,
                                     .n_layers = 2,
                                     .n_heads = 4,
                                     .n_kv_heads = 2,
                                     .head_dim = 32,
                                     .max_position = 512,
                                     .rms_norm_eps = 1e-5,
                                     .rope = { .theta = 10000, .partial_rotary_factor = 1 },
                                     .stored_dtype = DTYPE_BF16,
                                     .tied = true };

/* Of the same seed the same numbers, whatever the engine; row_of_nan: of the embedding, -1: none.
 */
static struct tensor model_tensor(struct backend *b, int64_t n_rows, int64_t n_cols, float scale,
                                  int64_t row_of_nan)
{
    struct tensor t = random_tensor(DTYPE_BF16, n_rows, n_cols, scale), out;
    struct err e = ERR_INIT;

    if (row_of_nan >= 0)
        set_element(&t, row_of_nan, 7, NAN);
    CHECK_OK(tensor_alloc(b, MEM_BASE, DTYPE_BF16, n_rows, n_cols, &out, &e), e);
    CHECK_OK(b->ops->upload(b, out.data, t.data, tensor_bytes(&t), &e), e);
    free_tensor(&t);
    return out;
}

static struct model small_model(struct backend *b, uint64_t first_draw, int64_t row_of_nan)
{
    struct model m = { .config = small,
                       .backend = b,
                       .dtype = DTYPE_BF16,
                       .compute = DTYPE_BF16,
                       .owns_embed = true,
                       .owns_norms = true };

    drawn = first_draw;
    m.layers = mem_array((size_t)small.n_layers, sizeof *m.layers);
    m.embed = model_tensor(b, VOCAB, small.hidden_size, 1, row_of_nan);
    m.norm = model_tensor(b, 1, small.hidden_size, 1, -1);
    m.head = weight_of_tensor(&m.embed);
    for (int64_t i = 0; i < small.n_layers; i++) {
        m.layers[i].input_norm = model_tensor(b, 1, small.hidden_size, 1, -1);
        m.layers[i].post_norm = model_tensor(b, 1, small.hidden_size, 1, -1);
        for (int l = 0; l < N_LINEARS; l++) {
            int64_t n_out, n_in;

            config_linear_shape(&small, l, &n_out, &n_in);
            struct tensor w = model_tensor(b, n_out, n_in, 0.1f, -1);
            m.layers[i].linear[l] = weight_of_tensor(&w);
            m.layers[i].linear[l].owned = true;
        }
    }
    return m;
}

static struct quant_calibration small_ids(void)
{
    enum { N_SEQS = 40, MOST = 60 };
    int32_t ids[N_SEQS * MOST], lengths[N_SEQS];
    struct quant_calibration out;
    struct err e = ERR_INIT;
    size_t n = 0;

    for (int i = 0; i < N_SEQS; i++) {
        lengths[i] = 20 + (int)(draw() * (MOST - 20));
        for (int k = 0; k < lengths[i]; k++)
            ids[n++] = (int32_t)(draw() * (VOCAB - 1)); /* the last one never */
    }
    CHECK_OK(quant_calibration_make(&out, ids, n, lengths, N_SEQS, &e), e);
    return out;
}

static struct quant_spec small_spec(const struct quant_calibration *ids, bool true_sequential)
{
    return (struct quant_spec){ .method = "gptq",
                                .bits = 4,
                                .group_size = 64,
                                .quant_type = "int",
                                .sym = true,
                                .compute = DTYPE_BF16,
                                .scale_dtype = DTYPE_F16,
                                .calibration = ids,
                                .gptq = { .desc_act = true,
                                          .true_sequential = true_sequential,
                                          .damp = 0.05,
                                          .damp_step = 0.01 },
                                .n_skip = 1,
                                .skip = { "lm_head" } };
}

static void check_same_models(const struct model *a, const struct model *b)
{
    for (int64_t i = 0; i < small.n_layers; i++)
        for (int l = 0; l < N_LINEARS; l++) {
            const struct weight *x = &a->layers[i].linear[l], *y = &b->layers[i].linear[l];
            void *parts[4] = { part_down(x->codes, weight_codes_bytes(x)),
                               part_down(y->codes, weight_codes_bytes(y)),
                               part_down(x->scales, weight_scales_bytes(x)),
                               part_down(y->scales, weight_scales_bytes(y)) };

            CHECK(!memcmp(parts[0], parts[1], weight_codes_bytes(x)) &&
                      !memcmp(parts[2], parts[3], weight_scales_bytes(x)),
                  "linear %d of layer %lld: the same bytes each time", l, (long long)i);
            for (int k = 0; k < 4; k++)
                backend_free(cpu, parts[k]);
        }
}

/* Activations of the two engines differ by roundings, so errors are compared, not codes. */
static void a_model_as_on_the_cpu(void **state)
{
    const uint64_t first_draw = drawn;
    struct model on[2] = { small_model(&gpu, first_draw, -1), small_model(cpu, first_draw, -1) };
    struct quant_calibration ids = small_ids();
    struct err e = ERR_INIT;

    (void)state;
    for (int sequential = 0; sequential < 2; sequential++) {
        const struct quant_spec s = small_spec(&ids, sequential);
        struct quant_report reports[3];
        struct model packed[3];

        for (int i = 0; i < 3; i++)
            CHECK_OK(quantize_model(&on[i == 2], &s, DTYPE_BF16, &packed[i], &reports[i], &e), e);
        CHECK(!reports[0].on_host, "the device does all of it");
        check_same_models(&packed[0], &packed[1]);
        for (int i = 0; i < reports[0].n_modules; i++) {
            const struct quant_solved *got = &reports[0].modules[i].solved;
            const struct quant_solved *want = &reports[2].modules[i].solved;

            CHECK(got->there && got->damp == want->damp &&
                      check_near(got->output_error, want->output_error, 0.05 * want->output_error),
                  "%s: output error %g, on the CPU %g", reports[0].modules[i].name,
                  got->output_error, want->output_error);
        }
        for (int i = 0; i < 3; i++) {
            model_release(&packed[i]);
            quant_report_release(&reports[i]);
        }
    }
    quant_calibration_release(&ids);
    model_release(&on[0]);
    model_release(&on[1]);
}

static void a_module_with_activations_that_are_no_numbers(void **state)
{
    struct model base = small_model(&gpu, drawn, 11), packed;
    struct quant_calibration ids = small_ids();
    const struct quant_spec s = small_spec(&ids, true);
    struct quant_report report;
    struct err e = ERR_INIT;

    (void)state;
    CHECK(quantize_model(&base, &s, DTYPE_BF16, &packed, &report, &e) < 0 && e.code == ERR_INPUT &&
              strstr(e.text, "are not finite") &&
              strstr(e.text, "in model.layers.0.self_attn.q_proj"),
          "\"%s\" names the module", e.text);
    quant_calibration_release(&ids);
    model_release(&base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_of_squares),
        cmocka_unit_test(random_cases),
        cmocka_unit_test(wide_ones),
        cmocka_unit_test(what_is_refused),
        cmocka_unit_test(activations_that_are_no_numbers),
        cmocka_unit_test(a_model_as_on_the_cpu),
        cmocka_unit_test(a_module_with_activations_that_are_no_numbers),
    };

    return open_device() ? cmocka_run_group_tests(tests, open_twins, close_twins) : 1;
}
