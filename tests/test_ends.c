/* Head and embedding packed, too (skip_modules = []): what is stored once, what it weighs, and that
 * the model computes with exactly the values that its codes stand for. */
#include "check.h"

#include "base/memory.h"
#include "bench/footprint.h"
#include "quant/quant.h"

#include <string.h>

#define DEMO  "sweeps/demo"
#define N_IDS 48

static struct backend backend = BACKEND_INIT;
static struct model base, untied; /* the second: the same tensors, called two */
static struct quant_calibration text;
static int32_t ids[2 * N_IDS];

static struct quant_spec spec_of(const char *method, int bits, int64_t group_size)
{
    struct quant_spec s = {
        .bits = bits,
        .group_size = group_size,
        .quant_type = "int",
        .compute = DTYPE_F16,
        .scale_dtype = DTYPE_F16,
        .sym = true,
        .grid = "absmax",
        .calibration = &text,
        .gptq = { .damp = 0.01, .damp_step = 0.01, .true_sequential = true, .desc_act = true },
        .awq = { .zero_point = true },
        .outlier_threshold = 6,
    };

    strcpy(s.method, method);
    if (!strcmp(method, "bnb_4bit"))
        strcpy(s.quant_type, "nf4");
    if (!strcmp(method, "bnb_8bit"))
        s.quant_type[0] = 0;
    return s;
}

static const struct {
    const char *method;
    int bits;
    int64_t group_size;
} methods[] = { { "bnb_4bit", 4, 64 }, { "bnb_8bit", 8, 0 }, { "rtn", 4, 64 },
                { "hqq", 4, 64 },      { "gptq", 4, 64 },    { "awq", 4, 64 } };

static struct model made(const struct model *from, const struct quant_spec *s,
                         struct quant_report *report)
{
    struct model m;
    struct err e = ERR_INIT;

    CHECK_OK(quantize_model(from, s, DTYPE_F16, &m, report, &e), e);
    return m;
}

/* Logits of n ids from `from` on, each a sequence's next token. */
static float *logits_of(const struct model *m, const int32_t *from, int n, int n_seqs)
{
    const int64_t vocab = m->config.vocab_size;
    float *out = mem_array((size_t)(n * n_seqs * vocab), sizeof *out);
    int32_t slots[2] = { 0, 1 }, lengths[2] = { n, n };
    const struct batch batch = {
        .phase = PHASE_PROMPT, .n_seqs = n_seqs, .slot = slots, .n_tokens = lengths, .ids = from
    };
    struct forward_out to = { .logits = out };
    struct kv_cache cache;
    struct forward *f;
    struct err e = ERR_INIT;

    CHECK_OK(kv_cache_open(&cache, m, 2, n, &e), e);
    CHECK_OK(forward_open(&f, m, 2 * n, 2, &e), e);
    CHECK_OK(forward_run(f, &cache, &batch, WANT_ALL_LOGITS, NULL, 0, &to, &e), e);
    forward_close(f);
    kv_cache_close(&cache);
    return out;
}

static void a_tied_pair_is_stored_once(void **state)
{
    const int64_t n_pair = config_n_embedding(&base.config);

    (void)state;
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        struct quant_spec s = spec_of(methods[i].method, methods[i].bits, methods[i].group_size);
        struct quant_report report;
        struct quant_sizes sizes, plain;
        struct err e = ERR_INIT;
        struct model m = made(&base, &s, &report);
        const struct quant_module *last = &report.modules[report.n_modules - 1];

        CHECK(!m.embed.data && m.packed_embed.codes == m.head.codes && m.head.owned &&
                  !m.packed_embed.owned && m.head.form != WEIGHT_PLAIN,
              "%s: one packed matrix", s.method);
        CHECK(report.n_modules == base.config.n_layers * N_LINEARS + 1 &&
                  !strcmp(last->name, "lm_head") && last->relative_error > 0.001 &&
                  last->relative_error < 0.2,
              "%s: %s is measured: %g", s.method, last->name, last->relative_error);
        CHECK_OK(quant_sizes_of(&base.config, &s, DTYPE_F16, &sizes, &e), e);
        CHECK(sizes.model_bytes == report.sizes.model_bytes &&
                  sizes.model_bytes == footprint_model_bytes(&m) &&
                  sizes.bits_per_weight_linear == report.sizes.bits_per_weight_linear,
              "%s: %lld bytes by shapes, %lld made, %lld there", s.method,
              (long long)sizes.model_bytes, (long long)report.sizes.model_bytes,
              (long long)footprint_model_bytes(&m));
        CHECK(isnan(sizes.hf_footprint_bytes) && isnan(report.sizes.hf_footprint_bytes),
              "%s: Hugging Face packs no embedding", s.method);
        s.n_skip = 1;
        strcpy(s.skip[0], "lm_head");
        CHECK_OK(quant_sizes_of(&base.config, &s, DTYPE_F16, &plain, &e), e);
        double saved = (double)(plain.model_bytes - sizes.model_bytes) / (double)(2 * n_pair);
        CHECK(saved > (s.bits == 8 ? 0.4 : 0.6) && saved < 0.75, "%s saves %.2f of the pair",
              s.method, saved);
        model_release(&m);
        quant_report_release(&report);
    }
}

static void an_untied_pair_is_two(void **state)
{
    struct quant_spec s = spec_of("rtn", 4, 64);
    struct quant_report report;
    struct quant_sizes sizes;
    struct err e = ERR_INIT;
    struct model m = made(&untied, &s, &report);

    (void)state;
    CHECK(m.packed_embed.owned && m.head.owned && m.packed_embed.codes != m.head.codes, "two");
    CHECK(!strcmp(report.modules[report.n_modules - 2].name, "model.embed_tokens") &&
              !strcmp(report.modules[report.n_modules - 1].name, "lm_head"),
          "both are measured");
    CHECK_OK(quant_sizes_of(&untied.config, &s, DTYPE_F16, &sizes, &e), e);
    CHECK(sizes.model_bytes == report.sizes.model_bytes &&
              sizes.model_bytes == footprint_model_bytes(&m),
          "and weighed");
    model_release(&m);
    quant_report_release(&report);
}

/* 973,078,528 weights in linears, 262,668,288 in the tied pair, 67,584 in norms; 4 bits and an fp16
 * scale for 128. */
static void sizes_of_a_billion_worked_by_hand(void **state)
{
    const double n_linear = 973078528, n_pair = 262668288, n_norms = 67584, n = 1235814400;
    static const char *const skips[] = { "", "embed_tokens", "lm_head" };
    const double want[] = { (n_linear + n_pair) * 4.125 / 8 + 2 * n_norms,
                            (n_linear + n_pair) * 4.125 / 8 + 2 * (n_pair + n_norms),
                            n_linear * 4.125 / 8 + 2 * (n_pair + n_norms) };
    struct config c;
    struct err e = ERR_INIT;

    (void)state;
    CHECK_OK(config_read_file("sweeps/configs/llama-3.2-1b.json", &c, &e), e);
    for (int i = 0; i < 3; i++) {
        struct quant_spec s = spec_of("rtn", 4, 128);
        struct quant_sizes sizes;

        s.n_skip = i > 0;
        strcpy(s.skip[0], skips[i]);
        CHECK_OK(quant_sizes_of(&c, &s, DTYPE_F16, &sizes, &e), e);
        CHECK((double)sizes.model_bytes == want[i], "skipping \"%s\": %lld bytes, by hand %.0f",
              skips[i], (long long)sizes.model_bytes, want[i]);
        CHECK(sizes.bits_per_weight_model == 8 * want[i] / n, "%g bits a parameter",
              sizes.bits_per_weight_model);
        CHECK(sizes.bits_per_weight_linear == 4.125, "4.125 a quantized one");
    }
}

/* The head alone: of a tied pair, the embedding stays what it is beside it. */
static void one_of_them_stays_plain(void **state)
{
    const struct model *from[] = { &base, &untied };

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct quant_spec s = spec_of("rtn", 4, 64);
        struct quant_report report;
        struct quant_sizes sizes;
        struct err e = ERR_INIT;

        s.n_skip = 1;
        strcpy(s.skip[0], "embed_tokens");
        struct model m = made(from[i], &s, &report);
        CHECK(m.embed.data && !m.packed_embed.codes && m.head.form == WEIGHT_AFFINE,
              "a packed head, a plain embedding");
        CHECK_OK(quant_sizes_of(&from[i]->config, &s, DTYPE_F16, &sizes, &e), e);
        CHECK(sizes.model_bytes == report.sizes.model_bytes &&
                  sizes.model_bytes == footprint_model_bytes(&m),
              "%lld bytes by shapes, %lld made, %lld there", (long long)sizes.model_bytes,
              (long long)report.sizes.model_bytes, (long long)footprint_model_bytes(&m));
        model_release(&m);
        quant_report_release(&report);
    }
}

/* The same model with the codes' values as plain matrices gives the same bits. */
static void it_computes_with_the_codes_values(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        struct quant_spec s = spec_of(methods[i].method, methods[i].bits, methods[i].group_size);
        struct quant_report report;
        struct tensor values;
        struct err e = ERR_INIT;

        if (!strcmp(s.method, "bnb_8bit")) /* it quantizes what it multiplies with, too */
            continue;
        struct model m = made(&base, &s, &report), plain = m;
        CHECK_OK(
            tensor_alloc(&backend, MEM_SCRATCH, m.dtype, m.head.n_out, m.head.n_in, &values, &e),
            e);
        const struct dequantize_args a = { &m.head, &values };
        CHECK_OK(backend.ops->dequantize(&backend, &a, &e), e);
        plain.embed = values;
        plain.head = weight_of_tensor(&values);
        float *got = logits_of(&m, ids, N_IDS, 1), *want = logits_of(&plain, ids, N_IDS, 1);
        CHECK(!memcmp(got, want, (size_t)(N_IDS * m.config.vocab_size) * sizeof *got),
              "%s: the same logits", s.method);
        free(got);
        free(want);
        tensor_free(&backend, &values);
        model_release(&m);
        quant_report_release(&report);
    }
}

/* LLM.int8 finds outliers in what is multiplied together: in the head, a row at a time. */
static void a_row_of_logits_is_its_own(void **state)
{
    struct quant_spec s = spec_of("bnb_8bit", 8, 0);
    struct quant_report report;
    struct model m = made(&base, &s, &report);
    const size_t n_logits = (size_t)(N_IDS * m.config.vocab_size);

    (void)state;
    for (int l = 0; l < N_LINEARS; l++)
        for (int64_t i = 0; i < m.config.n_layers; i++)
            CHECK(m.layers[i].linear[l].form == WEIGHT_INT8, "all are LLM.int8's");
    float *both = logits_of(&m, ids, N_IDS, 2), *first = logits_of(&m, ids, N_IDS, 1);
    float *second = logits_of(&m, ids + N_IDS, N_IDS, 1);
    CHECK(!memcmp(both, first, n_logits * sizeof *both) &&
              !memcmp(both + n_logits, second, n_logits * sizeof *both),
          "alone or together");
    for (size_t i = 0; i < 2 * n_logits; i++)
        CHECK(isfinite(both[i]), "logit %zu", i);
    free(both);
    free(first);
    free(second);
    model_release(&m);
    quant_report_release(&report);
}

static void a_backend_without_the_look_up(void **state)
{
    struct backend_ops ops = *backend.ops;
    const struct backend_ops *all = backend.ops;
    struct quant_spec s = spec_of("rtn", 4, 64);
    struct quant_report report;
    struct model m;
    struct err e = ERR_INIT;

    (void)state;
    ops.embed_packed = NULL;
    backend.ops = &ops;
    CHECK(quantize_model(&base, &s, DTYPE_F16, &m, &report, &e) == -1 && e.code == ERR_USAGE &&
              strstr(e.text, "\"embed_tokens\" in skip_modules keeps it plain"),
          "%s", e.text);
    backend.ops = all;
}

static int open_all(void **state)
{
    int32_t lengths[] = { N_IDS, N_IDS };
    struct err e = ERR_INIT;

    (void)state;
    for (int i = 0; i < 2 * N_IDS; i++)
        ids[i] = 5 + i * 37 % 900;
    if (backend_open(&backend, "cpu", 0, NULL, &e) < 0 ||
        weights_load(&backend, DEMO, &base, &e) < 0 ||
        quant_calibration_make(&text, ids, 2 * N_IDS, lengths, 2, &e) < 0) {
        print_error("%s\n", e.text);
        return -1;
    }
    untied = base;
    untied.config.tied = false;
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    quant_calibration_release(&text);
    model_release(&base);
    backend_close(&backend);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tied_pair_is_stored_once),
        cmocka_unit_test(sizes_of_a_billion_worked_by_hand),
        cmocka_unit_test(an_untied_pair_is_two),
        cmocka_unit_test(one_of_them_stays_plain),
        cmocka_unit_test(it_computes_with_the_codes_values),
        cmocka_unit_test(a_row_of_logits_is_its_own),
        cmocka_unit_test(a_backend_without_the_look_up),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
