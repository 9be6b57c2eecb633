/* Perplexity of a real trained model, unquantized and quantized, against text/perplexity.json:
 * stories260K on TinyStories text, windows of 256 tokens as the GPTQ papers cut them, fp32
 * weights and arithmetic.
 *
 * Where LLQ_GOLDEN names the folder (make test-golden) the whole text is scored, 1.3 million
 * tokens in all; else the first eight windows of every case, whose scores are given, too. */
#include "check.h"

#include "base/file.h"
#include "base/js.h"
#include "eval/task.h"
#include "quant/quant.h"

#include <string.h>

#define ALLOWED 1e-3
#define AT_ONCE 16 /* windows a pass */
#define MODEL   "stories260K-hf"

static struct backend backend = BACKEND_INIT;
static struct model base;
static struct token_ids text = TOKEN_IDS_INIT;
static struct js *golden;
static const struct js *want; /* of this model */
static int64_t window, n_windows;

#define LM_HEAD .n_skip = 1, .skip = { "lm_head" }
#define BNB4(key, type, nested)                                                    \
    {                                                                              \
        key,                                                                       \
        {                                                                          \
            .method = "bnb_4bit", .bits = 4, .group_size = 64, .quant_type = type, \
            .double_quant = nested, .compute = DTYPE_F32, LM_HEAD                  \
        }                                                                          \
    }
#define RTN(key, n_bits, symmetric)                                                 \
    {                                                                               \
        key,                                                                        \
        {                                                                           \
            .method = "rtn", .bits = n_bits, .group_size = -1, .quant_type = "int", \
            .grid = "absmax", .sym = symmetric, .compute = DTYPE_F32, LM_HEAD       \
        }                                                                           \
    }

static const struct {
    const char *key;
    struct quant_spec spec;
} cases[] = {
    { "fp32", { .method = "none", .bits = 32, .compute = DTYPE_F32, LM_HEAD } },
    BNB4("nf4_g64_nodq_fp32weights", "nf4", false),
    BNB4("nf4_g64_dq_fp32weights", "nf4", true),
    BNB4("fp4_g64_nodq_fp32weights", "fp4", false),
    BNB4("fp4_g64_dq_fp32weights", "fp4", true),
    RTN("rtn2_row_sym", 2, true),
    RTN("rtn2_row_asym", 2, false),
    RTN("rtn3_row_sym", 3, true),
    RTN("rtn3_row_asym", 3, false),
    RTN("rtn4_row_sym", 4, true),
    RTN("rtn4_row_asym", 4, false),
    RTN("rtn8_row_sym", 8, true),
    RTN("rtn8_row_asym", 8, false),
};
#define N_CASES ((int)(sizeof cases / sizeof *cases))

static bool whole_text(void)
{
    const char *named = getenv("LLQ_GOLDEN");

    return named && *named;
}

/* Mean nll of each of the first n windows: [n]. */
static void window_nll(const struct model *m, int64_t n, double *out)
{
    struct kv_cache cache = { 0 };
    struct forward *forward;
    struct err e = ERR_INIT;
    float *nll = mem_array((size_t)(AT_ONCE * window), sizeof *nll);
    int32_t slot[AT_ONCE], n_tokens[AT_ONCE];

    CHECK_OK(kv_cache_open(&cache, m, AT_ONCE, window, &e), e);
    CHECK_OK(forward_open(&forward, m, AT_ONCE * window, AT_ONCE, &e), e);
    for (int64_t first = 0; first < n; first += AT_ONCE) {
        struct batch batch = { .slot = slot, .n_tokens = n_tokens };
        struct forward_out result = { .nll = nll };

        batch.n_seqs = (int)(n - first < AT_ONCE ? n - first : AT_ONCE);
        batch.ids = text.ids + first * window;
        for (int i = 0; i < batch.n_seqs; i++) {
            slot[i] = i;
            n_tokens[i] = (int32_t)window;
            kv_cache_drop(&cache, i);
        }
        CHECK_OK(forward_run(forward, &cache, &batch, WANT_NLL, NULL, 0, &result, &e), e);
        for (int i = 0; i < batch.n_seqs; i++) {
            double sum = 0;
            for (int64_t t = 0; t + 1 < window; t++)
                sum += (double)nll[i * window + t];
            out[first + i] = sum / (double)(window - 1);
        }
    }
    forward_close(forward);
    kv_cache_close(&cache);
    free(nll);
}

static double check_case(int k)
{
    const struct js *expected = js_get(want, cases[k].key);
    const struct js *first = js_get(expected, "window_nll_first8");
    int64_t n = whole_text() ? n_windows : 8;
    double *nll = mem_array((size_t)n, sizeof *nll), sum = 0, largest = 0;
    struct quant_report report;
    struct model m;
    struct err e = ERR_INIT;

    CHECK(js_count(first) == 8, "%s: the first windows are given", cases[k].key);
    CHECK_OK(quantize_model(&base, &cases[k].spec, DTYPE_F32, &m, &report, &e), e);
    window_nll(&m, n, nll);
    for (int i = 0; i < 8; i++) {
        double off = fabs(nll[i] / js_real(js_at(first, (size_t)i)) - 1);
        CHECK(off <= ALLOWED, "%s: window %d, %.6f", cases[k].key, i, nll[i]);
        largest = fmax(largest, off);
    }
    if (whole_text()) {
        double expect = js_real(js_get(expected, "ppl"));
        for (int64_t i = 0; i < n; i++)
            sum += nll[i];
        double perplexity = exp(sum / (double)n), off = fabs(perplexity / expect - 1);
        printf("  %-28s perplexity %12.6f  reference %12.6f  off by %.2g\n", cases[k].key,
               perplexity, expect, off);
        CHECK(off <= ALLOWED, "%s: perplexity %.6f", cases[k].key, perplexity);
        largest = fmax(largest, off);
    }
    model_release(&m);
    quant_report_release(&report);
    free(nll);
    return largest;
}

static void the_text_has_the_reference_s_ids(void **state)
{
    const struct js *ids = js_get(want, "first_ids");

    (void)state;
    CHECK((int64_t)text.n == js_int(js_get(want, "n_tokens")), "%zu tokens", text.n);
    for (size_t i = 0; i < js_count(ids); i++)
        CHECK(text.ids[i] == js_int(js_at(ids, i)), "id %zu", i);
}

static void perplexity(void **state)
{
    double largest = 0;

    (void)state;
    for (int k = 0; k < N_CASES; k++)
        largest = fmax(largest, check_case(k));
    check_report("text/perplexity.json (relative)", N_CASES * (whole_text() ? 9 : 8), largest,
                 ALLOWED);
}

static char *in_data(const char *name)
{
    return file_join(check_data(), name);
}

static int open_all(void **state)
{
    struct tokenizer *tokenizer = NULL;
    struct bytes bytes = BYTES_INIT;
    struct err e = ERR_INIT;
    char *model = in_data("models/" MODEL),
         *path = file_join(check_golden(), "text/perplexity.json");
    char *text_path = NULL;
    int rc = -1;

    (void)state;
    golden = js_read(path, &e);
    want = js_get(golden, MODEL);
    if (!want)
        goto out;
    window = js_int(js_get(want, "window"));
    text_path = in_data(js_text(js_get(want, "text")));
    if (file_read(text_path, &bytes, &e) < 0 || tokenizer_open(&tokenizer, model, &e) < 0 ||
        tokenizer_encode(tokenizer, bytes.data, bytes.n, true, &text, &e) < 0 ||
        backend_open(&backend, "cpu", 0, NULL, &e) < 0 ||
        weights_load(&backend, model, &base, &e) < 0)
        goto out;
    n_windows = (int64_t)text.n / window;
    rc = 0;
out:
    if (rc < 0)
        print_error("%s\n", e.text);
    tokenizer_close(tokenizer);
    bytes_release(&bytes);
    free(text_path);
    free(path);
    free(model);
    return rc;
}

static int close_all(void **state)
{
    (void)state;
    model_release(&base);
    backend_close(&backend);
    token_ids_release(&text);
    js_release(golden);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_text_has_the_reference_s_ids),
        cmocka_unit_test(perplexity),
    };

    if (!check_has(check_data(), "models/" MODEL "/model.safetensors") ||
        !check_has(check_golden(), "text/perplexity.json")) {
        printf("SKIP: no data/models/" MODEL " or golden/text/perplexity.json here\n");
        return 0;
    }
    return cmocka_run_group_tests(tests, open_all, close_all);
}
