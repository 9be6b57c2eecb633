/* Perplexity of real trained models, unquantized and quantized, against text/perplexity.json: its
 * text in windows as the GPTQ papers cut them, fp32 weights and arithmetic.
 *
 * Where LLQ_GOLDEN names the folder (make test-golden) the whole text is scored, 1.3 million
 * tokens in all; else the first windows of every case, whose scores are given, too. */
#include "check.h"

#include "base/file.h"
#include "base/js.h"
#include "eval/task.h"
#include "quant/quant.h"

#include <string.h>

#define ALLOWED 1e-3
#define AT_ONCE 16 /* windows a pass */

static struct backend backend = BACKEND_INIT;
static struct js *golden;

/* One model of the file. */
struct subject {
    const struct js *want;
    struct model base;
    struct token_ids text;
    int64_t window, n_windows;
};

/* "fp32", "nf4_g64_dq_fp32weights", "rtn3_row_asym", "rtn4_g64_sym" -> settings. */
static struct quant_spec spec_of(const char *key)
{
    struct quant_spec s = { .compute = DTYPE_F32, .n_skip = 1, .skip = { "lm_head" } };
    char type[8], nested[8], group[16], form[8];

    if (!strcmp(key, "fp32")) {
        strcpy(s.method, "none");
        s.bits = 32;
    } else if (sscanf(key, "%7[a-z0-9]_g%ld_%7[a-z]_fp32weights", type, &s.group_size, nested) ==
               3) {
        strcpy(s.method, "bnb_4bit");
        strcpy(s.quant_type, type);
        s.bits = 4;
        s.double_quant = !strcmp(nested, "dq");
    } else if (sscanf(key, "rtn%d_%15[a-z0-9]_%7[a-z]", &s.bits, group, form) == 3) {
        strcpy(s.method, "rtn");
        strcpy(s.quant_type, "int");
        strcpy(s.grid, "absmax");
        s.group_size = strcmp(group, "row") ? strtol(group + 1, NULL, 10) : -1;
        s.sym = !strcmp(form, "sym");
    }
    CHECK(s.method[0], "a case called %s is known", key);
    return s;
}

static bool whole_text(void)
{
    const char *named = getenv("LLQ_GOLDEN");

    return named && *named;
}

/* Mean nll of each of the first n windows: [n]. */
static void window_nll(const struct subject *t, const struct model *m, int64_t n, double *out)
{
    const int64_t window = t->window;
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
        batch.ids = t->text.ids + first * window;
        for (int i = 0; i < batch.n_seqs; i++) {
            slot[i] = i;
            n_tokens[i] = (int32_t)window;
            kv_cache_drop(&cache, i);
        }
        CHECK_OK(forward_run(forward, &cache, &batch, WANT_NLL, NULL, 0, &result, &e), e);
        for (int i = 0; i < batch.n_seqs; i++) {
            double sum = 0;
            for (int64_t k = 0; k + 1 < window; k++)
                sum += (double)nll[i * window + k];
            out[first + i] = sum / (double)(window - 1);
        }
    }
    forward_close(forward);
    kv_cache_close(&cache);
    free(nll);
}

static double check_case(const struct subject *t, const char *key, const struct js *expected,
                         long *n_values)
{
    const struct js *first = js_get(expected, "window_nll_first8");
    const struct quant_spec spec = spec_of(key);
    int64_t n_first = (int64_t)js_count(first), n = whole_text() ? t->n_windows : n_first;
    double *nll = mem_array((size_t)n, sizeof *nll), sum = 0, largest = 0;
    struct quant_report report;
    struct model m;
    struct err e = ERR_INIT;

    CHECK(n_first > 0 && n_first <= t->n_windows, "%s: the first windows are given", key);
    CHECK_OK(quantize_model(&t->base, &spec, DTYPE_F32, &m, &report, &e), e);
    window_nll(t, &m, n, nll);
    for (int64_t i = 0; i < n_first; i++) {
        double off = fabs(nll[i] / js_real(js_at(first, (size_t)i)) - 1);
        CHECK(off <= ALLOWED, "%s: window %lld, %.6f", key, (long long)i, nll[i]);
        largest = fmax(largest, off);
    }
    if (whole_text()) {
        double expect = js_real(js_get(expected, "ppl"));
        for (int64_t i = 0; i < n; i++)
            sum += nll[i];
        double perplexity = exp(sum / (double)n), off = fabs(perplexity / expect - 1);
        printf("  %-28s perplexity %12.6f  reference %12.6f  off by %.2g\n", key, perplexity,
               expect, off);
        CHECK(off <= ALLOWED, "%s: perplexity %.6f", key, perplexity);
        largest = fmax(largest, off);
    }
    *n_values += n_first + whole_text();
    model_release(&m);
    quant_report_release(&report);
    free(nll);
    return largest;
}

static void check_ids(const struct subject *t)
{
    const struct js *ids = js_get(t->want, "first_ids");

    CHECK((int64_t)t->text.n == js_int(js_get(t->want, "n_tokens")), "%zu tokens", t->text.n);
    for (size_t i = 0; i < js_count(ids); i++)
        CHECK(t->text.ids[i] == js_int(js_at(ids, i)), "id %zu", i);
}

static void open_subject(struct subject *t, const char *name, const struct js *want)
{
    struct tokenizer *tokenizer = NULL;
    struct bytes bytes = BYTES_INIT;
    struct err e = ERR_INIT;
    char model[4096], text[4096];

    *t = (struct subject){ .want = want, .window = js_int(js_get(want, "window")) };
    CHECK(js_text(js_get(want, "text")) && t->window > 1, "%s has text and window", name);
    snprintf(model, sizeof model, "%s/models/%s", check_data(), name);
    snprintf(text, sizeof text, "%s/%s", check_data(), js_text(js_get(want, "text")));
    CHECK_OK(file_read(text, &bytes, &e), e);
    CHECK_OK(tokenizer_open(&tokenizer, model, &e), e);
    CHECK_OK(tokenizer_encode(tokenizer, bytes.data, bytes.n, true, &t->text, &e), e);
    CHECK_OK(weights_load(&backend, model, &t->base, &e), e);
    t->n_windows = (int64_t)t->text.n / t->window;
    tokenizer_close(tokenizer);
    bytes_release(&bytes);
}

static bool have_all(void)
{
    struct js_member model = JS_MEMBER_INIT;
    char path[512];

    while (js_next(golden, &model)) {
        snprintf(path, sizeof path, "models/%s/model.safetensors", model.key);
        if (!check_has(check_data(), path))
            return false;
    }
    return golden;
}

static void perplexity(void **state)
{
    struct js_member model = JS_MEMBER_INIT;
    long n_values = 0;
    double largest = 0;

    (void)state;
    if (!have_all())
        CHECK_MISSING("no golden/text/perplexity.json and its data/models here");
    while (js_next(golden, &model)) {
        struct js_member m = JS_MEMBER_INIT;
        struct subject t;

        open_subject(&t, model.key, model.value);
        check_ids(&t);
        while (js_next(model.value, &m))
            if (js_kind(m.value) == JS_OBJECT)
                largest = fmax(largest, check_case(&t, m.key, m.value, &n_values));
        model_release(&t.base);
        token_ids_release(&t.text);
    }
    check_report("text/perplexity.json (relative)", n_values, largest, ALLOWED);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(perplexity) };
    char path[4096];
    struct err e = ERR_INIT;

    snprintf(path, sizeof path, "%s/text/perplexity.json", check_golden());
    if (check_has(check_golden(), "text/perplexity.json"))
        golden = js_read(path, &e);
    if (e.code || backend_open(&backend, "cpu", 0, NULL, &e) < 0) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    backend_close(&backend);
    js_release(golden);
    return rc;
}
