/* Whole models of awkward shapes, packed by every method: the same as plain weights of the
 * decoded values, to the bit; and the same for every batch, number of threads, instruction set
 * and cut of a prompt. */
#include "ops.h"

#include "base/memory.h"
#include "model/generate.h"
#include "quant/quant.h"

#include <stdlib.h>

#define N_PROMPTS 9

static const int32_t lengths[N_PROMPTS] = { 1, 2, 31, 3, 17, 1, 64, 5, 40 };
#define N_IDS     164
#define N_LONGEST 64
#define N_FEW     2 /* for instruction sets without fused multiply-add, which take their time */

#define ROPE .rope = { .theta = 10000, .factor = 1, .partial_rotary_factor = 1 }

static const struct config shapes[] = {
    /* Nothing to divide: one key head, an MLP one wide, rows of two elements. */
    { .family = FAMILY_LLAMA,
      .vocab_size = 17,
      .hidden_size = 33,
      .intermediate_size = 1,
      .n_layers = 1,
      .n_heads = 7,
      .n_kv_heads = 1,
      .head_dim = 2,
      .max_position = 64,
      ROPE },
    /* Heads wider than the model, of 24. */
    { .family = FAMILY_LLAMA,
      .vocab_size = 61,
      .hidden_size = 40,
      .intermediate_size = 52,
      .n_layers = 2,
      .n_heads = 5,
      .n_kv_heads = 5,
      .head_dim = 24,
      .max_position = 128,
      .tied = true,
      .mlp_bias = true,
      .qkv_bias = true,
      .o_bias = true,
      .rope = { .type = ROPE_YARN,
                .theta = 500,
                .factor = 4,
                .partial_rotary_factor = 0.5,
                .beta_fast = 32,
                .beta_slow = 1,
                .attention_factor = NAN,
                .mscale = NAN,
                .mscale_all_dim = NAN,
                .truncate = true,
                .original_max_position = 32 } },
    /* A window shorter than the prompts, widths that no 8 divides. */
    { .family = FAMILY_MISTRAL,
      .vocab_size = 131,
      .hidden_size = 130,
      .intermediate_size = 259,
      .n_layers = 3,
      .n_heads = 6,
      .n_kv_heads = 2,
      .head_dim = 10,
      .max_position = 100,
      .sliding_window = 5,
      ROPE },
    /* Windows in the upper layers, frequencies that follow the length. */
    { .family = FAMILY_QWEN2,
      .vocab_size = 300,
      .hidden_size = 36,
      .intermediate_size = 44,
      .n_layers = 3,
      .n_heads = 6,
      .n_kv_heads = 2,
      .head_dim = 6,
      .max_position = 24,
      .tied = true,
      .qkv_bias = true,
      .sliding_window = 9,
      .window_first_layer = 1,
      .rope = { .type = ROPE_DYNAMIC, .theta = 10000, .factor = 2, .partial_rotary_factor = 1 } },
};
#define N_SHAPES ((int)(sizeof shapes / sizeof *shapes))

static const int64_t divisors[N_SHAPES] = { 1, 4, 1, 4 }; /* of every width */

/* ---- models ---- */

static struct tensor random_values(int64_t n_rows, int64_t n_cols, double mean, double spread)
{
    struct tensor t = new_tensor(DTYPE_F32, n_rows, n_cols);

    for (int64_t i = 0; i < n_rows * n_cols; i++)
        ((float *)t.data)[i] = (float)(mean + spread * (2 * draw() - 1));
    return t;
}

static struct weight random_weight(int64_t n_out, int64_t n_in)
{
    struct tensor t = random_values(n_out, n_in, 0, 2 / sqrt((double)n_in));
    struct weight w = weight_of_tensor(&t);

    w.owned = true;
    return w;
}

/* Norms of mean 2, so that LLM.int8 meets outliers. */
static struct model random_model(const struct config *c)
{
    struct model m = { .config = *c,
                       .backend = &isas[0],
                       .dtype = DTYPE_F32,
                       .compute = DTYPE_F32,
                       .owns_embed = true,
                       .owns_norms = true };

    m.embed = random_values(c->vocab_size, c->hidden_size, 0, 1);
    m.norm = random_values(1, c->hidden_size, 1, 0.5);
    m.head = c->tied ? weight_of_tensor(&m.embed) : random_weight(c->vocab_size, c->hidden_size);
    m.layers = mem_array((size_t)c->n_layers, sizeof *m.layers);
    for (int64_t i = 0; i < c->n_layers; i++) {
        m.layers[i].input_norm = random_values(1, c->hidden_size, 2, 2);
        m.layers[i].post_norm = random_values(1, c->hidden_size, 2, 2);
        for (int l = 0; l < N_LINEARS; l++) {
            int64_t n_out, n_in;

            config_linear_shape(c, (enum linear_name)l, &n_out, &n_in);
            m.layers[i].linear[l] = random_weight(n_out, n_in);
            if (config_linear_bias(c, (enum linear_name)l))
                m.layers[i].bias[l] = random_values(1, n_out, 0, 0.5);
        }
    }
    return m;
}

/* The same model with plain weights of the packed ones' values; the rest is borrowed. */
static struct model decoded(const struct model *packed)
{
    struct model m = *packed;
    struct err e = ERR_INIT;

    m.owns_embed = m.owns_norms = m.head.owned = false;
    m.layers = mem_array((size_t)m.config.n_layers, sizeof *m.layers);
    for (int64_t i = 0; i < m.config.n_layers; i++) {
        m.layers[i] = packed->layers[i];
        for (int l = 0; l < N_LINEARS; l++) {
            const struct weight *from = &packed->layers[i].linear[l];
            struct tensor values = new_tensor(m.compute, from->n_out, from->n_in);
            struct dequantize_args a = { .w = from, .out = &values };

            CHECK_OK(m.backend->ops->dequantize(m.backend, &a, &e), e);
            m.layers[i].linear[l] = weight_of_tensor(&values);
            m.layers[i].linear[l].owned = true;
        }
    }
    return m;
}

/* ---- runs ---- */

/* The same model computed by another backend; on a CPU all can read its weights. */
static struct model on(const struct model *m, struct backend *b)
{
    struct model out = *m;

    out.backend = b;
    return out;
}

static struct backend *fastest(void)
{
    int k = N_ISAS - 1;

    while (k > 0 && !isas[k].ops)
        k--;
    return &isas[k];
}

static int32_t ids[N_IDS];

static void draw_ids(int64_t vocab)
{
    for (int i = 0; i < N_IDS; i++)
        ids[i] = (int32_t)(draw() * (double)vocab);
}

static const int32_t *prompt_of(int p)
{
    const int32_t *at = ids;

    for (int i = 0; i < p; i++)
        at += lengths[i];
    return at;
}

/* Last logits of prompts first .. first + n - 1 in one batch, in slots from the highest down. */
static void run_together(const struct model *m, int first, int n, float *out)
{
    struct kv_cache cache;
    struct forward *f;
    struct err e = ERR_INIT;
    int32_t slot[N_PROMPTS];
    struct batch batch = {
        .n_seqs = n, .slot = slot, .n_tokens = lengths + first, .ids = prompt_of(first)
    };
    struct forward_out result = { .logits = out + first * m->config.vocab_size };

    for (int i = 0; i < n; i++)
        slot[i] = n - 1 - i;
    CHECK_OK(kv_cache_open(&cache, m, n, N_LONGEST, &e), e);
    CHECK_OK(forward_open(&f, m, N_IDS, n, &e), e);
    CHECK_OK(forward_run(f, &cache, &batch, WANT_LAST_LOGITS, NULL, 0, &result, &e), e);
    forward_close(f);
    kv_cache_close(&cache);
}

/* One prompt in pieces of `piece` ids. */
static void run_in_pieces(const struct model *m, int p, int32_t piece, float *out)
{
    struct kv_cache cache;
    struct forward *f;
    struct err e = ERR_INIT;
    int32_t slot = 0;
    struct forward_out result = { .logits = out + p * m->config.vocab_size };

    CHECK_OK(kv_cache_open(&cache, m, 1, N_LONGEST, &e), e);
    CHECK_OK(forward_open(&f, m, piece, 1, &e), e);
    for (int32_t at = 0; at < lengths[p]; at += piece) {
        int32_t n = lengths[p] - at < piece ? lengths[p] - at : piece;
        struct batch batch = { .n_seqs = 1,
                               .slot = &slot,
                               .n_tokens = &n,
                               .ids = prompt_of(p) + at,
                               .length = &lengths[p] };
        CHECK_OK(forward_run(f, &cache, &batch, WANT_LAST_LOGITS, NULL, 0, &result, &e), e);
    }
    forward_close(f);
    kv_cache_close(&cache);
}

static double relative_rms(const float *a, const float *b, int64_t n)
{
    double error = 0, square = 0;

    for (int64_t i = 0; i < n; i++) {
        error += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        square += (double)b[i] * (double)b[i];
    }
    return sqrt(error / square);
}

#define SAME(a, b, n, ...) CHECK(!memcmp(a, b, (size_t)(n) * sizeof *(a)), __VA_ARGS__)

static void check_decoded(const struct model *m, const char *what, const float *want, int64_t n)
{
    struct model plain = decoded(m), fast = on(&plain, fastest());
    float *got = mem_array((size_t)n, sizeof *got);

    run_together(&fast, 0, N_PROMPTS, got);
    if (m->layers[0].linear[0].form != WEIGHT_INT8)
        SAME(got, want, n, "%s: as plain weights of its values", what);
    else /* there the activations are rounded to 8 bits, too */
        CHECK(relative_rms(got, want, n) <= 0.1, "%s: near plain weights of its values: %g", what,
              relative_rms(got, want, n));
    free(got);
    model_release(&plain);
}

static void check_runs(const struct model *packed, const char *what)
{
    const struct model fast = on(packed, fastest()), *m = &fast;
    const int64_t n = N_PROMPTS * m->config.vocab_size;
    const bool int8 = m->layers[0].linear[0].form == WEIGHT_INT8;
    float *want = mem_array((size_t)n, sizeof *want), *got = mem_array((size_t)n, sizeof *got);

    run_together(m, 0, N_PROMPTS, want);
    for (int64_t i = 0; i < n; i++)
        CHECK(isfinite(want[i]), "%s: logit %lld is finite", what, (long long)i);
    for (int p = 0; p < N_PROMPTS; p++)
        run_together(m, p, 1, got);
    SAME(got, want, n, "%s: alone as in a batch", what);
    for (int p = 0; p < N_PROMPTS; p += 4)
        run_together(m, p, N_PROMPTS - p < 4 ? N_PROMPTS - p : 4, got);
    SAME(got, want, n, "%s: in batches of four", what);
    for (int32_t piece = 1; piece <= 7 && !int8; piece += 6) {
        for (int p = 0; p < N_PROMPTS; p++)
            run_in_pieces(m, p, piece, got);
        SAME(got, want, n, "%s: in pieces of %d", what, piece);
    }
    omp_set_num_threads(3);
    run_together(m, 0, N_PROMPTS, got);
    omp_set_num_threads(1);
    SAME(got, want, n, "%s: with three threads", what);
    for (int k = 0; k < N_ISAS; k++) {
        const int64_t n_few = N_FEW * m->config.vocab_size;
        struct model other = on(m, &isas[k]);

        if (!isas[k].ops)
            continue;
        run_together(&other, 0, N_FEW, got);
        SAME(got, want, n_few, "%s: with %s", what, isa_names[k]);
    }
    check_decoded(packed, what, want, n);
    free(got);
    free(want);
}

static void check_generation(const struct model *packed, const char *what)
{
    const struct model fast = on(packed, fastest()), *m = &fast;
    static const int sizes[] = { 64, 1, 4 };
    struct generate_prompt prompts[N_PROMPTS];
    struct generate_result first[N_PROMPTS], more[N_PROMPTS];
    const int32_t eos[] = { 3, 5, 7 }; /* some end early */
    struct generate_options o = {
        .max_new_tokens = 12, .min_new_tokens = 2, .eos_ids = eos, .n_eos = 3
    };
    struct err e = ERR_INIT;

    for (int p = 0; p < N_PROMPTS; p++)
        prompts[p] = (struct generate_prompt){ prompt_of(p), lengths[p] };
    for (int k = 0; k < 3; k++) {
        struct generate_result *to = k ? more : first;

        o.batch_size = sizes[k];
        CHECK_OK(generate(m, prompts, N_PROMPTS, &o, to, &e), e);
        for (int p = 0; p < N_PROMPTS; p++) {
            CHECK(to[p].n_ids >= 2 && !to[p].broken, "%s: two new ids at least", what);
            CHECK(to[p].n_ids == first[p].n_ids, "%s: as many ids in batches of %d", what,
                  sizes[k]);
            SAME(to[p].ids, first[p].ids, to[p].n_ids, "%s: ids in batches of %d", what, sizes[k]);
        }
        if (k)
            generate_release(more, N_PROMPTS);
    }
    generate_release(first, N_PROMPTS);
}

/* ---- every method ---- */

#define SPECS_MAX 64

static const enum dtype computes[] = { DTYPE_F32, DTYPE_F16, DTYPE_BF16 };

static int list_specs(int64_t divisor, struct quant_spec specs[SPECS_MAX])
{
    static const char *const grids[] = { "absmax", "gptq", "awq" };
    int n = 0;

    for (int k = 0; k < 3; k++) {
        struct quant_spec s = { .method = "none", .compute = computes[k] };

        s.bits = 8 * (int)dtype_bytes(s.compute);
        specs[n++] = s;
        s = (struct quant_spec){ .method = "bnb_8bit", .bits = 8, .compute = computes[k] };
        specs[n++] = s;
        s.outlier_threshold = 6;
        specs[n++] = s;
        for (int i = k; i < 8; i += 3) {
            s = (struct quant_spec){ .method = "bnb_4bit",
                                     .bits = 4,
                                     .group_size = i & 1 ? 4096 : 32,
                                     .double_quant = i & 2,
                                     .compute = computes[k] };
            strcpy(s.quant_type, i & 4 ? "fp4" : "nf4");
            specs[n++] = s;
        }
    }
    for (int k = 0; k < 18; k++) { /* of 7 bits x 3 grids x 2 forms */
        int i = k * 5 % 42;
        struct quant_spec s = { .method = "rtn",
                                .bits = 2 + i / 6,
                                .quant_type = "int",
                                .group_size = k % 2 ? -1 : divisor,
                                .double_quant = k / 2 % 2,
                                .sym = i % 2,
                                .compute = computes[k % 3] };
        strcpy(s.grid, grids[i % 6 / 2]);
        specs[n++] = s;
    }
    for (int i = 0; i < n; i++) {
        specs[i].n_skip = 1;
        strcpy(specs[i].skip[0], "lm_head");
    }
    return n;
}

static void every_method(const struct config *c, int64_t divisor)
{
    struct quant_spec specs[SPECS_MAX];
    struct model base = random_model(c);
    int n = list_specs(divisor, specs);

    draw_ids(c->vocab_size);
    for (int i = 0; i < n; i++) {
        const struct quant_spec *s = &specs[i];
        struct quant_report report;
        struct model m;
        struct err e = ERR_INIT;
        char what[300];

        snprintf(what, sizeof what, "%.15s %d bits, group %lld, %.15s %.15s%s %s %s, width %lld",
                 s->method, s->bits, (long long)s->group_size, s->quant_type, s->grid,
                 s->sym ? " sym" : "", s->double_quant ? "dq" : "", dtype_name(s->compute),
                 (long long)c->hidden_size);
        CHECK_OK(quantize_model(&base, s, s->compute, &m, &report, &e), e);
        CHECK(m.dtype == s->compute, "%s: model and compute dtype are the same", what);
        check_runs(&m, what);
        if (i % 3 == 0)
            check_generation(&m, what);
        model_release(&m);
        quant_report_release(&report);
    }
    model_release(&base);
}

static void nothing_to_divide(void **state)
{
    (void)state;
    every_method(&shapes[0], divisors[0]);
}

static void heads_of_24(void **state)
{
    (void)state;
    every_method(&shapes[1], divisors[1]);
}

static void a_short_window(void **state)
{
    (void)state;
    every_method(&shapes[2], divisors[2]);
}

static void frequencies_that_follow_the_length(void **state)
{
    (void)state;
    every_method(&shapes[3], divisors[3]);
}

static const struct backend_ops *watched;
static int64_t most_rows; /* of one document in one product */

static int watching_linear(struct backend *b, const struct linear_args *a, struct err *e)
{
    for (int i = 0; i < a->segments.n; i++) {
        int64_t n = a->segments.first_row[i + 1] - a->segments.first_row[i];
        most_rows = n > most_rows ? n : most_rows;
    }
    return watched->linear(b, a, e);
}

/* How many rows of a prompt of n_prompt ids a product sees at once. */
static int64_t rows_at_once(const struct quant_spec *spec, int32_t n_prompt)
{
    const struct config c = { .family = FAMILY_LLAMA,
                              .vocab_size = 97,
                              .hidden_size = 8,
                              .intermediate_size = 8,
                              .n_layers = 1,
                              .n_heads = 1,
                              .n_kv_heads = 1,
                              .head_dim = 8,
                              .max_position = 8192,
                              ROPE };
    struct model base = random_model(&c), m;
    struct quant_report report;
    struct err e = ERR_INIT;
    struct backend backend = *fastest();
    struct backend_ops ops = *backend.ops;
    int32_t *prompt = mem_array((size_t)n_prompt, sizeof *prompt);
    struct generate_prompt asked = { prompt, n_prompt };
    struct generate_options o = { .max_new_tokens = 2 };
    struct generate_result got;

    watched = backend.ops;
    most_rows = 0;
    ops.linear = watching_linear;
    backend.ops = &ops;
    for (int32_t i = 0; i < n_prompt; i++)
        prompt[i] = (int32_t)(draw() * 97);
    CHECK_OK(quantize_model(&base, spec, DTYPE_F16, &m, &report, &e), e);
    struct model watched_model = on(&m, &backend);
    CHECK_OK(generate(&watched_model, &asked, 1, &o, &got, &e), e);
    generate_release(&got, 1);
    free(prompt);
    model_release(&m);
    quant_report_release(&report);
    model_release(&base);
    return most_rows;
}

/* LLM.int8 looks for outlier columns in the rows of a document's own call: its whole prompt,
 * however long.  The others are cut, which no bit depends on. */
static void a_long_prompt_is_one_call(void **state)
{
    struct quant_spec spec = { .method = "bnb_8bit",
                               .bits = 8,
                               .compute = DTYPE_F16,
                               .outlier_threshold = 6,
                               .n_skip = 1,
                               .skip = { "lm_head" } };

    (void)state;
    CHECK(rows_at_once(&spec, 5000) == 5000, "all 5000 ids at once");
    spec.outlier_threshold = 0;
    CHECK(rows_at_once(&spec, 5000) < 5000, "without outliers a prompt may be cut");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_to_divide),
        cmocka_unit_test(heads_of_24),
        cmocka_unit_test(a_short_window),
        cmocka_unit_test(frequencies_that_follow_the_length),
        cmocka_unit_test(a_long_prompt_is_one_call),
    };

    omp_set_num_threads(1);
    return cmocka_run_group_tests(tests, open_isas, close_isas);
}
