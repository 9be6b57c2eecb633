/* From a base model to a job's model: what is packed, what is borrowed, what it weighs, how far
 * it is from the original. */
#include "vectors.h"

#include "base/rng.h"
#include "quant/method.h"

static struct backend backend = BACKEND_INIT;

#define LM_HEAD .n_skip = 1, .skip = { "lm_head" }

static const struct quant_spec fp16 = {
    .method = "none", .bits = 16, .compute = DTYPE_F16, LM_HEAD
};
static const struct quant_spec nf4 = { .method = "bnb_4bit",
                                       .bits = 4,
                                       .group_size = 64,
                                       .quant_type = "nf4",
                                       .double_quant = true,
                                       .compute = DTYPE_F16,
                                       LM_HEAD };
static const struct quant_spec int8 = {
    .method = "bnb_8bit", .bits = 8, .compute = DTYPE_F16, .outlier_threshold = 6, LM_HEAD
};
static const struct quant_spec rtn = { .method = "rtn",
                                       .bits = 4,
                                       .group_size = -1,
                                       .quant_type = "int",
                                       .sym = true,
                                       .grid = "absmax",
                                       .compute = DTYPE_F16,
                                       LM_HEAD };

/* Widths that no power of two divides, biases on some, an untied head: nothing is regular. */
static const struct config odd = { .family = FAMILY_QWEN2,
                                   .vocab_size = 61,
                                   .hidden_size = 36,
                                   .intermediate_size = 52,
                                   .n_layers = 3,
                                   .n_heads = 6,
                                   .n_kv_heads = 2,
                                   .head_dim = 6,
                                   .qkv_bias = true,
                                   .stored_dtype = DTYPE_BF16 };

static struct tensor random_tensor(enum dtype t, int64_t n_rows, int64_t n_cols, uint64_t *seed)
{
    struct tensor out;
    struct err e = ERR_INIT;
    float *x = mem_array((size_t)(n_rows * n_cols), sizeof *x);

    ++*seed;
    for (int64_t i = 0; i < n_rows * n_cols; i++)
        x[i] = (float)(rng_real(*seed, RNG_TEST, (uint64_t)i) - 0.5) * 0.1f;
    CHECK_OK(tensor_alloc(&backend, MEM_BASE, t, n_rows, n_cols, &out, &e), e);
    dtype_from_f32(t, x, out.data, n_rows * n_cols);
    free(x);
    return out;
}

static struct model base_model(const struct config *c, enum dtype t)
{
    struct model m = { .config = *c,
                       .backend = &backend,
                       .dtype = t,
                       .compute = t,
                       .owns_embed = true,
                       .owns_norms = true };
    uint64_t seed = 0;

    m.embed = random_tensor(t, c->vocab_size, c->hidden_size, &seed);
    m.norm = random_tensor(t, 1, c->hidden_size, &seed);
    if (c->tied) {
        m.head = weight_of_tensor(&m.embed);
    } else {
        struct tensor head = random_tensor(t, c->vocab_size, c->hidden_size, &seed);
        m.head = weight_of_tensor(&head);
        m.head.owned = true;
    }
    m.layers = mem_array((size_t)c->n_layers, sizeof *m.layers);
    for (int64_t i = 0; i < c->n_layers; i++) {
        struct layer *layer = &m.layers[i];

        layer->input_norm = random_tensor(t, 1, c->hidden_size, &seed);
        layer->post_norm = random_tensor(t, 1, c->hidden_size, &seed);
        for (int l = 0; l < N_LINEARS; l++) {
            int64_t n_out, n_in;
            config_linear_shape(c, l, &n_out, &n_in);
            struct tensor w = random_tensor(t, n_out, n_in, &seed);
            layer->linear[l] = weight_of_tensor(&w);
            layer->linear[l].owned = true;
            if (c->qkv_bias && l <= LINEAR_V)
                layer->bias[l] = random_tensor(t, 1, n_out, &seed);
        }
    }
    return m;
}

static struct model made(const struct model *base, const struct quant_spec *s, enum dtype source,
                         struct quant_report *report)
{
    struct model out;
    struct err e = ERR_INIT;

    CHECK_OK(quantize_model(base, s, source, &out, report, &e), e);
    return out;
}

static struct quant_spec with_compute(struct quant_spec s, enum dtype t)
{
    s.compute = t;
    if (quant_is_plain(&s))
        s.bits = 8 * (int)dtype_bytes(t);
    return s;
}

/* ---- sizes ---- */

/* What the model's parts add up to, each distinct one once. */
static int64_t resident_bytes(const struct model *m)
{
    size_t n = tensor_bytes(&m->embed) + tensor_bytes(&m->norm);

    if (!m->config.tied)
        n += weight_bytes(&m->head);
    for (int64_t i = 0; i < m->config.n_layers; i++) {
        n += tensor_bytes(&m->layers[i].input_norm) + tensor_bytes(&m->layers[i].post_norm);
        for (int l = 0; l < N_LINEARS; l++)
            n += weight_bytes(&m->layers[i].linear[l]) + tensor_bytes(&m->layers[i].bias[l]);
    }
    return (int64_t)n;
}

static bool same(double a, double b)
{
    return a == b || (isnan(a) && isnan(b));
}

static void sizes_from_shapes_are_those_of_the_model(void **state)
{
    const struct quant_spec *specs[] = { &fp16, &nf4, &int8, &rtn };
    static const enum dtype types[] = { DTYPE_F32, DTYPE_F16, DTYPE_BF16 };
    int n_cases = 0;

    (void)state;
    for (int tied = 0; tied < 2; tied++)
        for (int k = 0; k < 4 * 3 * 3 * 4; k++) {
            struct quant_spec s = with_compute(*specs[k % 4], types[k / 4 % 3]);
            enum dtype stored = types[k / 12 % 3], source = types[k / 36 % 3];
            struct config c = odd;
            struct quant_report report;
            struct quant_sizes sizes;
            struct err e = ERR_INIT;

            source = k / 36 == 3 ? DTYPE_OTHER : source;
            c.tied = tied;
            c.stored_dtype = stored;
            struct model base = base_model(&c, stored);
            struct model m = made(&base, &s, source, &report);
            CHECK_OK(quant_sizes_of(&c, &s, source, &sizes, &e), e);
            CHECK(sizes.model_bytes == report.sizes.model_bytes &&
                      sizes.model_bytes == resident_bytes(&m),
                  "%s: %lld bytes by shapes, %lld made, %lld there", s.method,
                  (long long)sizes.model_bytes, (long long)report.sizes.model_bytes,
                  (long long)resident_bytes(&m));
            CHECK(sizes.bits_per_weight_linear == report.sizes.bits_per_weight_linear &&
                      sizes.bits_per_weight_model == report.sizes.bits_per_weight_model &&
                      same(sizes.hf_footprint_bytes, report.sizes.hf_footprint_bytes),
                  "%s: every other size is the same, too", s.method);
            model_release(&m);
            quant_report_release(&report);
            model_release(&base);
            n_cases++;
        }
    CHECK(n_cases == 288, "every combination of dtypes");
}

static void sizes_worked_by_hand(void **state)
{
    /* 36: q 36x36, k and v 12x36, o 36x36, gate and up 52x36, down 36x52; three layers. */
    const int64_t n_linear = 3 * (2 * 36 * 36 + 2 * 12 * 36 + 3 * 52 * 36);
    const int64_t n_rest = 2 * 61 * 36 + 7 * 36 + 3 * (36 + 12 + 12),
                  n_rows = 3 * (2 * 36 + 24 + 140);
    const double inv_freq = 2 * 3;
    struct quant_sizes got;
    struct err e = ERR_INIT;

    (void)state;
    CHECK_OK(quant_sizes_of(&odd, &fp16, DTYPE_F16, &got, &e), e);
    CHECK(got.model_bytes == 2 * (n_linear + n_rest), "fp16: two bytes each");
    CHECK(got.bits_per_weight_linear == 16 && got.bits_per_weight_model == 16, "16 bits");
    CHECK(got.hf_footprint_bytes == (double)(2 * (n_linear + n_rest)) + 2 * inv_freq,
          "fp16: and the rotary buffers in fp16");

    CHECK_OK(quant_sizes_of(&odd, &int8, DTYPE_F16, &got, &e), e);
    CHECK(got.model_bytes == n_linear + 4 * n_rows + 2 * n_rest, "int8: a byte, a scale a row");
    CHECK(got.hf_footprint_bytes == (double)(n_linear + 2 * n_rest) + 4 * inv_freq,
          "int8: scales do not count there, buffers stay fp32");

    CHECK_OK(quant_sizes_of(&odd, &rtn, DTYPE_F16, &got, &e), e);
    /* Rows of 36 codes are 18 bytes, stored as 20; of 52, 26 as 28. */
    CHECK(got.model_bytes ==
              3 * (20 * (2 * 36 + 2 * 12 + 2 * 52) + 28 * 36) + 4 * n_rows + 2 * n_rest,
          "rtn: %lld bytes", (long long)got.model_bytes);
    CHECK(isnan(got.hf_footprint_bytes), "rtn has no Hugging Face form");

    CHECK_OK(quant_sizes_of(&odd, &nf4, DTYPE_F16, &got, &e), e);
    CHECK(got.hf_footprint_bytes == (double)(n_linear / 2 + 2 * n_rest) + 4 * inv_freq, "nf4");
    CHECK(got.bits_per_weight_model == 8.0 * (double)got.model_bytes / (double)(n_linear + n_rest),
          "bits a weight over the whole model");

    CHECK_OK(quant_sizes_of(&odd, &fp16, DTYPE_OTHER, &got, &e), e);
    CHECK(got.model_bytes == 2 * (n_linear + n_rest), "as stored: bf16");
    struct quant_spec fp32 = with_compute(fp16, DTYPE_F32);
    CHECK_OK(quant_sizes_of(&odd, &fp32, DTYPE_F32, &got, &e), e);
    CHECK(got.model_bytes == 4 * (n_linear + n_rest) &&
              got.hf_footprint_bytes == (double)(4 * (n_linear + n_rest)) + 4 * inv_freq,
          "fp32: four bytes each");
}

/* ---- what is made of what ---- */

static void what_is_already_right_is_borrowed(void **state)
{
    struct quant_report report;
    struct model base = base_model(&odd, DTYPE_F16);
    struct model m = made(&base, &fp16, DTYPE_F16, &report);

    (void)state;
    CHECK(m.dtype == DTYPE_F16 && m.compute == DTYPE_F16, "an fp16 model");
    CHECK(backend.mem.now[MEM_WEIGHTS] == 0, "fp16 of fp16 takes no memory");
    CHECK(m.embed.data == base.embed.data && m.head.codes == base.head.codes && !m.head.owned,
          "embedding and head are the base's");
    CHECK(m.layers[2].linear[LINEAR_DOWN].codes == base.layers[2].linear[LINEAR_DOWN].codes,
          "linears are the base's");
    CHECK(report.n_modules == 0, "nothing was quantized");
    model_release(&m);
    quant_report_release(&report);

    m = made(&base, &nf4, DTYPE_F16, &report);
    CHECK(m.layers[1].bias[LINEAR_K].data == base.layers[1].bias[LINEAR_K].data, "biases, too");
    CHECK(!m.layers[1].bias[LINEAR_O].data, "where there is none, there is none");
    CHECK(m.layers[0].linear[LINEAR_Q].form == WEIGHT_TABLE && m.head.form == WEIGHT_PLAIN,
          "linears are packed, the head is not");
    CHECK(report.n_modules == 21, "21 modules");
    model_release(&m);
    quant_report_release(&report);
    model_release(&base);
    CHECK(backend.mem.now[MEM_WEIGHTS] + backend.mem.now[MEM_BASE] + backend.mem.now[MEM_SCRATCH] ==
              0,
          "everything is given back");
}

static float first_value(const struct tensor *t)
{
    float x;

    dtype_to_f32(t->dtype, t->data, &x, 1);
    return x;
}

/* The source dtype rounds before anything else does. */
static void weights_go_through_the_source_dtype(void **state)
{
    const float value = 0.1f;
    float by_bf16 = value, by_both = value;
    struct quant_report report;
    struct model base = base_model(&odd, DTYPE_F32);
    struct quant_spec none = with_compute(fp16, DTYPE_F32);

    (void)state;
    dtype_round(DTYPE_BF16, &by_bf16, 1);
    dtype_round(DTYPE_BF16, &by_both, 1);
    dtype_round(DTYPE_F16, &by_both, 1);
    memcpy(base.embed.data, &value, sizeof value);
    memcpy(base.layers[0].linear[LINEAR_Q].codes, &value, sizeof value);

    struct model m = made(&base, &none, DTYPE_BF16, &report);
    CHECK(m.dtype == DTYPE_BF16 && first_value(&m.embed) == by_bf16, "the embedding is bf16");
    CHECK(m.layers[0].linear[LINEAR_Q].plain_dtype == DTYPE_F32 &&
              *(float *)m.layers[0].linear[LINEAR_Q].codes == by_bf16,
          "a linear of compute dtype fp32 holds the number rounded to bf16");
    model_release(&m);
    quant_report_release(&report);

    m = made(&base, &fp16, DTYPE_BF16, &report);
    CHECK(dtype_f16_to_f32(*(uint16_t *)m.layers[0].linear[LINEAR_Q].codes) == by_both,
          "bf16 first, then fp16");
    model_release(&m);
    quant_report_release(&report);

    /* A row of which every other weight is 0: its absmax is the rounded number. */
    struct quant_spec s = with_compute(int8, DTYPE_F32);
    float *row = base.layers[0].linear[LINEAR_Q].codes;
    memset(row + 1, 0, 35 * sizeof *row);
    m = made(&base, &s, DTYPE_BF16, &report);
    CHECK(*(float *)m.layers[0].linear[LINEAR_Q].scales == by_both, "int8 of bf16 of the weight");
    model_release(&m);
    quant_report_release(&report);
    m = made(&base, &s, DTYPE_OTHER, &report);
    float by_f16 = value;
    dtype_round(DTYPE_F16, &by_f16, 1);
    CHECK(*(float *)m.layers[0].linear[LINEAR_Q].scales == by_f16, "int8 of the weight as stored");
    CHECK(m.dtype == DTYPE_F32, "fp32 as stored, computed in fp32");
    model_release(&m);
    quant_report_release(&report);
    model_release(&base);
}

static void as_stored_keeps_a_16_bit_dtype(void **state)
{
    struct quant_report report;
    struct model base = base_model(&odd, DTYPE_BF16);
    struct model m = made(&base, &nf4, DTYPE_OTHER, &report);

    (void)state;
    CHECK(m.dtype == DTYPE_BF16 && m.compute == DTYPE_F16, "bf16 model, linears in fp16");
    CHECK(m.embed.data == base.embed.data, "the embedding is borrowed");
    model_release(&m);
    quant_report_release(&report);
    model_release(&base);
}

/* One norm in another dtype: all are converted, and given back. */
static void mixed_dtypes(void **state)
{
    struct quant_report report;
    struct model base = base_model(&odd, DTYPE_BF16);
    uint64_t seed = 99;

    (void)state;
    tensor_free(&backend, &base.layers[1].post_norm);
    base.layers[1].post_norm = random_tensor(DTYPE_F32, 1, 36, &seed);
    struct model m = made(&base, &rtn, DTYPE_BF16, &report);
    CHECK(!m.owns_embed && m.owns_norms, "the embedding is borrowed, the norms are not");
    CHECK(m.layers[1].post_norm.dtype == DTYPE_BF16 && m.norm.data != base.norm.data &&
              m.layers[0].bias[LINEAR_Q].data != base.layers[0].bias[LINEAR_Q].data,
          "norms and biases are copies in bf16");
    CHECK(!memcmp(m.norm.data, base.norm.data, tensor_bytes(&m.norm)), "with the same numbers");
    model_release(&m);
    quant_report_release(&report);
    model_release(&base);
    CHECK(backend.mem.now[MEM_WEIGHTS] == 0, "everything is given back");
}

static void skipped_modules_stay_plain(void **state)
{
    struct quant_spec s = nf4;
    struct quant_report report;
    struct model base = base_model(&odd, DTYPE_F32);
    struct err e = ERR_INIT;
    struct model m;

    (void)state;
    s.n_skip = 3;
    snprintf(s.skip[1], sizeof s.skip[1], "down_proj");
    snprintf(s.skip[2], sizeof s.skip[2], "layers.1.self_attn");
    m = made(&base, &s, DTYPE_F16, &report);
    CHECK(report.n_modules == 21 - 3 - 4, "14 modules are left");
    for (int i = 0; i < 3; i++)
        for (int l = 0; l < N_LINEARS; l++) {
            bool skipped = l == LINEAR_DOWN || (i == 1 && l <= LINEAR_O);
            struct weight *w = &m.layers[i].linear[l];

            CHECK((w->form == WEIGHT_PLAIN) == skipped, "layer %d, linear %d", i, l);
            CHECK(!skipped || w->plain_dtype == DTYPE_F16, "plain ones are in the model dtype");
        }
    CHECK(!strcmp(report.modules[0].name, "model.layers.0.self_attn.q_proj") &&
              !strcmp(report.modules[6].name, "model.layers.1.mlp.gate_proj"),
          "in module order");
    model_release(&m);
    quant_report_release(&report);

    struct quant_sizes sizes;
    snprintf(s.skip[2], sizeof s.skip[2], "dwn_proj");
    CHECK(quantize_model(&base, &s, DTYPE_F16, &m, &report, &e) == -1 && e.code == ERR_USAGE &&
              strstr(e.text, "no module \"dwn_proj\""),
          "a name of no module is refused: %s", e.text);
    CHECK(quant_sizes_of(&odd, &s, DTYPE_F16, &sizes, &e) == -1, "by a dry run, too");
    s = rtn;
    s.group_size = 12;
    CHECK(quantize_model(&base, &s, DTYPE_F16, &m, &report, &e) == -1 &&
              strstr(e.text, "does not divide 52 inputs") &&
              strstr(e.text, "layers.0.mlp.down_proj"),
          "a group that does not fit one linear: %s", e.text);
    s.n_skip = 2;
    snprintf(s.skip[1], sizeof s.skip[1], "down_proj");
    m = made(&base, &s, DTYPE_F16, &report);
    CHECK(report.n_modules == 18, "but does where that one is skipped");
    model_release(&m);
    quant_report_release(&report);
    model_release(&base);
}

static void a_bad_weight_is_named(void **state)
{
    struct quant_report report;
    struct model base = base_model(&odd, DTYPE_F32), m;
    struct err e = ERR_INIT;

    (void)state;
    ((float *)base.layers[2].linear[LINEAR_UP].codes)[36 + 4] = NAN;
    CHECK(quantize_model(&base, &rtn, DTYPE_F32, &m, &report, &e) == -1, "refused");
    CHECK(strstr(e.text, "weight [1, 4] is nan") && strstr(e.text, "model.layers.2.mlp.up_proj"),
          "where it is: %s", e.text);
    CHECK(backend.mem.now[MEM_WEIGHTS] == 0 && backend.mem.now[MEM_SCRATCH] == 0,
          "what was made before is given back");
    model_release(&base);
}

/* A device that refuses when it is waited for. */
static const struct backend_ops *prompt_ops;
static struct err held;

static int late_quantize(struct backend *b, const struct quantize_args *a, struct err *e)
{
    struct err mine = ERR_INIT;

    if (prompt_ops->quantize(b, a, &mine) == 0)
        return 0;
    if (mine.code != ERR_INPUT) {
        *e = mine;
        return -1;
    }
    *a->out = (struct weight){ 0 };
    held = held.code ? held : mine;
    return 0;
}

static int late_sync(struct backend *b, struct err *e)
{
    (void)b;
    if (!held.code)
        return 0;
    *e = held;
    held = (struct err)ERR_INIT;
    return -1;
}

static void a_weight_refused_late_is_named_too(void **state)
{
    struct quant_report report;
    struct backend_ops late = *backend.ops;
    struct model base = base_model(&odd, DTYPE_F32), m;
    struct err e = ERR_INIT;

    (void)state;
    prompt_ops = backend.ops;
    late.quantize = late_quantize;
    late.sync = late_sync;
    backend.ops = &late;
    ((float *)base.layers[1].linear[LINEAR_V].codes)[2 * 36 + 7] = INFINITY;
    ((float *)base.layers[2].linear[LINEAR_UP].codes)[36 + 4] = NAN;
    int rc = quantize_model(&base, &rtn, DTYPE_F32, &m, &report, &e);
    backend.ops = prompt_ops;
    CHECK(rc == -1 && e.code == ERR_INPUT, "refused");
    CHECK(strstr(e.text, "weight [2, 7] is inf") &&
              strstr(e.text, "model.layers.1.self_attn.v_proj"),
          "the first of them: %s", e.text);
    CHECK(backend.mem.now[MEM_WEIGHTS] == 0 && backend.mem.now[MEM_SCRATCH] == 0,
          "what was made before is given back");
    model_release(&base);
}

/* ---- errors ---- */

static void errors_worked_by_hand(void **state)
{
    /* Two groups of two; 3-bit codes of step 1: -0.4 comes back as 0, 1.25 as 1. */
    float x[4] = { 3, -0.4f, 1.25f, -3 };
    struct tensor w = tensor_over(x, DTYPE_F32, 1, 4), scratch;
    struct quantize_args a = {
        .w = &w, .rule = QUANTIZE_GRID_ABSMAX, .bits = 3, .group_size = 2, .sym = true
    };
    struct quant_module got;
    double sums[2];
    struct weight packed;
    struct err e = ERR_INIT;
    const double small = (double)0.4f * (double)0.4f;
    double error = small + 0.25 * 0.25, square = 9 + small + 1.25 * 1.25 + 9;

    (void)state;
    a.out = &packed;
    CHECK_OK(backend.ops->quantize(&backend, &a, &e), e);
    CHECK_OK(tensor_alloc(&backend, MEM_SCRATCH, DTYPE_F32, 2, 4, &scratch, &e), e);
    CHECK_OK(quant_measure(&backend, &w, DTYPE_OTHER, &packed, &scratch, sums, &e), e);
    quant_errors_of(sums, w.n_cols, &got);
    CHECK(check_near(got.mse, error / 4, 1e-9), "mse %g", got.mse);
    CHECK(check_near(got.relative_error, sqrt(error / square), 1e-9), "relative %g",
          got.relative_error);

    /* Against the weight as it was quantized: the source dtype counts as exact. */
    float third = 1.0f / 3, rounded = third;
    struct tensor one = tensor_over(&third, DTYPE_F32, 1, 1);
    dtype_round(DTYPE_F16, &rounded, 1);
    struct tensor as_f16 = tensor_over(&rounded, DTYPE_F32, 1, 1);
    struct quantize_args b = {
        .w = &as_f16, .rule = QUANTIZE_GRID_ABSMAX, .bits = 2, .group_size = 1, .sym = true
    };
    weight_release(&backend, &packed);
    b.out = &packed;
    CHECK_OK(backend.ops->quantize(&backend, &b, &e), e);
    CHECK_OK(quant_measure(&backend, &one, DTYPE_F16, &packed, &scratch, sums, &e), e);
    quant_errors_of(sums, one.n_cols, &got);
    CHECK(got.mse == 0 && got.relative_error == 0, "no error against the rounded weight");
    CHECK_OK(quant_measure(&backend, &one, DTYPE_OTHER, &packed, &scratch, sums, &e), e);
    quant_errors_of(sums, one.n_cols, &got);
    CHECK(got.mse > 0 && got.relative_error > 0, "some against the stored one");

    third = 0;
    weight_release(&backend, &packed);
    b.w = &one;
    CHECK_OK(backend.ops->quantize(&backend, &b, &e), e);
    CHECK_OK(quant_measure(&backend, &one, DTYPE_OTHER, &packed, &scratch, sums, &e), e);
    quant_errors_of(sums, one.n_cols, &got);
    CHECK(got.mse == 0 && got.relative_error == 0, "zeros are kept, and nothing is divided by 0");
    weight_release(&backend, &packed);
    tensor_free(&backend, &scratch);
}

static double mean_error(const struct quant_report *r)
{
    double sum = 0;

    CHECK(r->n_modules > 0, "modules were measured");
    for (int i = 0; i < r->n_modules; i++)
        sum += r->modules[i].relative_error;
    return sum / r->n_modules;
}

static void fewer_bits_cost_more(void **state)
{
    struct model base = base_model(&odd, DTYPE_F32);
    double last = INFINITY;

    (void)state;
    for (int bits = 2; bits <= 8; bits++) {
        struct quant_spec s = rtn;
        struct quant_report report;

        s.bits = bits;
        struct model m = made(&base, &s, DTYPE_F32, &report);
        CHECK(mean_error(&report) < 0.6 * last, "%d bits: error %g", bits, mean_error(&report));
        CHECK(report.seconds > 0, "it took some time");
        last = mean_error(&report);
        model_release(&m);
        quant_report_release(&report);
    }
    CHECK(last < 0.005, "8 bits are within half a percent: %g", last);
    model_release(&base);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_from_shapes_are_those_of_the_model),
        cmocka_unit_test(sizes_worked_by_hand),
        cmocka_unit_test(what_is_already_right_is_borrowed),
        cmocka_unit_test(weights_go_through_the_source_dtype),
        cmocka_unit_test(as_stored_keeps_a_16_bit_dtype),
        cmocka_unit_test(mixed_dtypes),
        cmocka_unit_test(skipped_modules_stay_plain),
        cmocka_unit_test(a_bad_weight_is_named),
        cmocka_unit_test(a_weight_refused_late_is_named_too),
        cmocka_unit_test(errors_worked_by_hand),
        cmocka_unit_test(fewer_bits_cost_more),
    };
    return cmocka_run_group_tests(tests, open_backend, close_backend);
}
