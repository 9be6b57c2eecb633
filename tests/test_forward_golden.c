/* test_forward_golden.c - forward passes and generation against vectors of the reference
 * (transformers in float64 arithmetic), and against themselves: prefill = decode, batch = alone. */
#include "check.h"

#include "base/js.h"
#include "model/generate.h"
#include "model/model.h"
#include "model/safetensors.h"
#include "quant/quant.h"

#include <dirent.h>
#include <string.h>

/* fp32 mode: relative to the largest logit. */
#define LOGITS_FP32 1e-4
#define NLL_FP32    1e-4
/* 16-bit modes: what the rounding points of transformers' Llama do to these random models,
 * root mean square of the deviation to that of the logits (one value of 100,000 stands some five
 * times as far, relative to the largest logit).  An emulation of Hugging Face's rounding points in
 * another language stands as far from the float64 logits of llama_gqa_tied_rope3.  fp16 has 8
 * times smaller steps. */
#define LOGITS_BF16 5e-2
#define LOGITS_FP16 6.25e-3

#define N_NEW 32 /* at least so many were asked for: eos was forbidden */

struct golden {
    struct model base, model;
    int32_t *ids, *generated;
    float *logits, *nll;
    int64_t n_seqs, n_ids, vocab;
    int64_t n_generated, n_prompt; /* ids of a row of generated, and its prompt's part of them */
};

static struct backend backend;

static void *read_values(const struct safetensors *s, const char *name, enum dtype to,
                         int64_t shape[3])
{
    const struct safetensors_tensor *t = safetensors_find(s, name);
    struct err e = ERR_INIT;

    CHECK(t, "%s holds %s", s->path, name);
    CHECK(t->n_dims >= 2 && t->n_dims <= 3 && t->n_elements > 0, "%s has values", name);
    for (int i = 0; i < 3; i++)
        shape[i] = i < t->n_dims ? (int64_t)t->shape[i] : 1;
    char *raw = malloc((size_t)t->n_bytes + 1);
    CHECK_OK(safetensors_read(s, t, 0, t->n_bytes, raw, &e), e);
    void *out = malloc((size_t)t->n_elements * 4 + 1);
    if (t->dtype == DTYPE_F32 || dtype_is_16bit(t->dtype)) {
        CHECK(to == DTYPE_F32, "%s holds integers", name);
        dtype_to_f32(t->dtype, raw, out, t->n_elements);
        free(raw);
        return out;
    }
    for (int64_t i = 0; i < t->n_elements; i++) {
        double value = t->dtype == DTYPE_I64   ? (double)((int64_t *)raw)[i]
                       : t->dtype == DTYPE_I32 ? (double)((int32_t *)raw)[i]
                       : t->dtype == DTYPE_F64 ? ((double *)raw)[i]
                                               : NAN;
        CHECK(value == value, "%s has a type this test reads (%s)", name, t->dtype_text);
        if (to == DTYPE_I32)
            ((int32_t *)out)[i] = (int32_t)value;
        else
            ((float *)out)[i] = (float)value;
    }
    free(raw);
    return out;
}

static bool has_shape(const int64_t shape[3], int64_t a, int64_t b, int64_t c)
{
    return shape[0] == a && shape[1] == b && shape[2] == c;
}

/* A prompt is the beginning of a row of input_ids; N_NEW ids follow, or all that differ. */
static int64_t prompt_length(const struct golden *g)
{
    int64_t n = g->n_generated - N_NEW;

    for (int64_t s = 0; s < g->n_seqs; s++) {
        const int32_t *a = g->ids + s * g->n_ids, *b = g->generated + s * g->n_generated;
        int64_t same = 0;

        while (same < g->n_ids && same < g->n_generated && a[same] == b[same])
            same++;
        n = same < n ? same : n;
    }
    return n;
}

static void read_expected(struct golden *g, const char *folder)
{
    struct safetensors s = SAFETENSORS_INIT;
    struct err e = ERR_INIT;
    char path[4096];
    int64_t shape[3];

    snprintf(path, sizeof path, "%s/%s/expected.safetensors", check_golden(), folder);
    CHECK_OK(safetensors_open(&s, path, &e), e);
    g->ids = read_values(&s, "input_ids", DTYPE_I32, shape);
    g->n_seqs = shape[0];
    g->n_ids = shape[1];
    g->logits = read_values(&s, "logits", DTYPE_F32, shape);
    g->vocab = shape[2];
    CHECK(has_shape(shape, g->n_seqs, g->n_ids, g->model.config.vocab_size), "logits of all ids");
    g->nll = read_values(&s, "nll", DTYPE_F32, shape);
    CHECK(has_shape(shape, g->n_seqs, g->n_ids - 1, 1), "the loss of all ids but the first");
    g->generated = read_values(&s, "generated_ids", DTYPE_I32, shape);
    g->n_generated = shape[1];
    g->n_prompt = prompt_length(g);
    CHECK(shape[0] == g->n_seqs && g->n_prompt > 0, "generated_ids go on from input_ids");
    safetensors_close(&s);
}

static void open_golden(struct golden *g, const char *folder, enum dtype compute)
{
    struct quant_spec spec = { .method = "none",
                               .bits = compute == DTYPE_F32 ? 32 : 16,
                               .compute = compute };
    struct quant_report report = { 0 };
    struct err e = ERR_INIT;
    char path[4096];

    *g = (struct golden){ 0 };
    snprintf(path, sizeof path, "%s/%s", check_golden(), folder);
    CHECK_OK(weights_load(&backend, path, &g->base, &e), e);
    /* The files are bf16; another model dtype is asked for as the source. */
    CHECK_OK(quantize_model(&g->base, &spec, compute, &g->model, &report, &e), e);
    quant_report_release(&report);
    CHECK(g->model.dtype == compute, "%s runs in %s", folder, dtype_name(compute));
    read_expected(g, folder);
}

static void close_golden(struct golden *g)
{
    model_release(&g->model);
    model_release(&g->base);
    free(g->ids);
    free(g->logits);
    free(g->nll);
    free(g->generated);
}

/* Runs whole sequences in one batch. */
static void run_whole(const struct golden *g, enum want want, float *out)
{
    struct err e = ERR_INIT;
    struct kv_cache cache;
    struct forward *f;
    int32_t *slot = calloc((size_t)g->n_seqs, sizeof *slot);
    int32_t *n_tokens = calloc((size_t)g->n_seqs, sizeof *n_tokens);
    struct batch batch = {
        .n_seqs = (int)g->n_seqs, .slot = slot, .n_tokens = n_tokens, .ids = g->ids
    };
    struct forward_out result = { .logits = out, .nll = out };

    for (int i = 0; i < g->n_seqs; i++) {
        slot[i] = i;
        n_tokens[i] = (int32_t)g->n_ids;
    }
    if (backend.ops->trim) /* what it keeps for later calls counts, too */
        backend.ops->trim(&backend);
    CHECK_OK(kv_cache_open(&cache, &g->model, (int)g->n_seqs, g->n_ids, &e), e);
    CHECK_OK(forward_open(&f, &g->model, g->n_seqs * g->n_ids, (int)g->n_seqs, &e), e);
    CHECK(backend.mem.now[MEM_SCRATCH] ==
              forward_bytes(&g->model, g->n_seqs * g->n_ids, (int)g->n_seqs),
          "forward_bytes says what forward_open takes");
    CHECK(backend.mem.now[MEM_CACHE] == kv_cache_bytes(&g->model, (int)g->n_seqs, g->n_ids),
          "kv_cache_bytes says what kv_cache_open takes");
    CHECK_OK(forward_run(f, &cache, &batch, want, NULL, 0, &result, &e), e);
    forward_close(f);
    kv_cache_close(&cache);
    free(n_tokens);
    free(slot);
}

static double largest_of(const float *x, int64_t n)
{
    double most = 0;

    for (int64_t i = 0; i < n; i++)
        most = fabs((double)x[i]) > most ? fabs((double)x[i]) : most;
    return most;
}

/* NaN counts as infinitely far. */
static double distance(const float *a, const float *b, int64_t n)
{
    double most = 0;

    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= most))
            most = d == d ? d : INFINITY;
    }
    return most;
}

/* sqrt(sum (a - b)^2 / sum b^2); NaN counts as infinitely far. */
static double relative_rms(const float *a, const float *b, int64_t n)
{
    double error = 0, square = 0;

    for (int64_t i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        error += d * d;
        square += (double)b[i] * (double)b[i];
    }
    return error == error ? sqrt(error / square) : INFINITY;
}

static void compare_logits(const char *folder, enum dtype t, double allowed)
{
    struct golden g;
    char what[128];

    open_golden(&g, folder, t);
    int64_t n = g.n_seqs * g.n_ids * g.vocab, rows = g.n_seqs * g.n_ids, agree = 0;
    float *got = malloc((size_t)n * sizeof *got);
    run_whole(&g, WANT_ALL_LOGITS, got);
    double far = t == DTYPE_F32 ? distance(got, g.logits, n) / largest_of(g.logits, n)
                                : relative_rms(got, g.logits, n);
    snprintf(what, sizeof what, "%s logits %s (%s)", folder, dtype_name(t),
             t == DTYPE_F32 ? "relative" : "rms");
    check_report(what, (long)n, far, allowed);
    for (int64_t r = 0; r < rows; r++) {
        int64_t best = 0, want = 0;
        for (int64_t i = 1; i < g.vocab; i++) {
            best = got[r * g.vocab + i] > got[r * g.vocab + best] ? i : best;
            want = g.logits[r * g.vocab + i] > g.logits[r * g.vocab + want] ? i : want;
        }
        agree += best == want;
    }
    printf("golden %-48s %10ld values  top-1 agreement %.4f\n", what, (long)rows,
           (double)agree / (double)rows);
    free(got);
    close_golden(&g);
}

/* Every folder with expected values, whatever its name; those that are always there first. */
static char **folders;
static int n_folders;

static bool has_prefix(const char *prefix)
{
    for (int i = 0; i < n_folders; i++)
        if (!strncmp(folders[i], prefix, strlen(prefix)))
            return true;
    return false;
}

static void find_folders(void)
{
    struct dirent **entry;
    int n = scandir(check_golden(), &entry, NULL, alphasort);
    char path[300];

    folders = calloc(n > 0 ? (size_t)n : 1, sizeof *folders);
    for (int i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/config.json", entry[i]->d_name);
        if (entry[i]->d_name[0] != '.' && check_has(check_golden(), path))
            folders[n_folders++] = strdup(entry[i]->d_name);
        free(entry[i]);
    }
    if (n >= 0)
        free(entry);
}

static void every_kind_of_model_is_there(void **state)
{
    static const char *const kinds[] = { "llama_", "mistral", "qwen2_bias" };

    (void)state;
    CHECK(has_prefix(kinds[0]), "the committed vectors are there");
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!has_prefix(kinds[i]))
            CHECK_MISSING("%s: not in %s", kinds[i], check_golden());
}

static void logits_fp32(void **state)
{
    (void)state;
    for (int i = 0; i < n_folders; i++)
        compare_logits(folders[i], DTYPE_F32, LOGITS_FP32);
}

static void logits_16_bit(void **state)
{
    (void)state;
    for (int i = 0; i < n_folders; i++) {
        compare_logits(folders[i], DTYPE_BF16, LOGITS_BF16);
        compare_logits(folders[i], DTYPE_F16, LOGITS_FP16);
    }
}

static void nll(void **state)
{
    (void)state;
    for (int i = 0; i < n_folders; i++) {
        struct golden g;
        char what[128];
        double most = 0;

        open_golden(&g, folders[i], DTYPE_F32);
        int64_t n = g.n_seqs * g.n_ids;
        float *got = malloc((size_t)n * sizeof *got);
        run_whole(&g, WANT_NLL, got);
        for (int64_t s = 0; s < g.n_seqs; s++) {
            double d = distance(got + s * g.n_ids, g.nll + s * (g.n_ids - 1), g.n_ids - 1);
            most = d > most ? d : most;
            CHECK(isnan(got[(s + 1) * g.n_ids - 1]), "a last row has no target");
        }
        snprintf(what, sizeof what, "%s nll fp32", folders[i]);
        check_report(what, (long)(g.n_seqs * (g.n_ids - 1)), most, NLL_FP32);
        free(got);
        close_golden(&g);
    }
}

/* How many of the generated ids differ from the reference's. */
static int differing_ids(const struct golden *g)
{
    const int64_t n_new = g->n_generated - g->n_prompt;
    struct generate_prompt *prompts = calloc((size_t)g->n_seqs, sizeof *prompts);
    struct generate_result *results = calloc((size_t)g->n_seqs, sizeof *results);
    struct generate_options o = { .max_new_tokens = (int)n_new,
                                  .min_new_tokens = (int)n_new,
                                  .eos_ids = g->model.config.eos_ids,
                                  .n_eos = g->model.config.n_eos };
    struct err e = ERR_INIT;
    int differ = 0;

    for (int64_t s = 0; s < g->n_seqs; s++)
        prompts[s] =
            (struct generate_prompt){ g->generated + s * g->n_generated, (int32_t)g->n_prompt };
    CHECK_OK(generate(&g->model, prompts, (int)g->n_seqs, &o, results, &e), e);
    for (int64_t s = 0; s < g->n_seqs; s++) {
        CHECK(results[s].n_ids == n_new, "%d new ids", results[s].n_ids);
        for (int64_t k = 0; k < n_new; k++)
            differ += results[s].ids[k] != prompts[s].ids[g->n_prompt + k];
    }
    generate_release(results, (int)g->n_seqs);
    free(results);
    free(prompts);
    return differ;
}

static void generated_ids(void **state)
{
    (void)state;
    for (int i = 0; i < n_folders; i++) {
        struct golden g;
        char what[128];

        open_golden(&g, folders[i], DTYPE_F32);
        snprintf(what, sizeof what, "%s generated ids (differing)", folders[i]);
        check_report(what, (long)(g.n_seqs * (g.n_generated - g.n_prompt)), differing_ids(&g), 0);
        close_golden(&g);
    }
}

/* The trained model of 260 thousand parameters: 200 greedy ids from BOS. */
static void stories_greedy(void **state)
{
    struct quant_spec spec = { .method = "none", .bits = 32, .compute = DTYPE_F32 };
    struct quant_report report = { 0 };
    struct model stories, m;
    struct err e = ERR_INIT;
    char path[4096];
    int32_t prompt[16], n_prompt, differ = 0;

    (void)state;
    if (!check_has(check_data(), "models/stories260K-hf"))
        CHECK_MISSING("stories260K-hf: not in %s", check_data());
    snprintf(path, sizeof path, "%s/models/stories260K-hf", check_data());
    CHECK_OK(weights_load(&backend, path, &stories, &e), e);
    CHECK_OK(quantize_model(&stories, &spec, DTYPE_F32, &m, &report, &e), e);
    snprintf(path, sizeof path, "%s/models/stories260K-hf/golden_greedy_200.json", check_data());
    struct js *j = js_read(path, &e);
    CHECK(j, "%s", e.text);
    const struct js *want = js_get(j, "greedy_ids"), *ids = js_get(j, "prompt_ids");
    n_prompt = (int32_t)js_count(ids);
    CHECK(n_prompt > 0 && n_prompt <= 16 && js_count(want) == 200, "a prompt and 200 ids");
    for (int i = 0; i < n_prompt; i++)
        prompt[i] = (int32_t)js_int(js_at(ids, (size_t)i));

    struct generate_prompt p = { prompt, n_prompt };
    struct generate_options o = { .max_new_tokens = 200 };
    struct generate_result r;
    CHECK_OK(generate(&m, &p, 1, &o, &r, &e), e);
    CHECK(r.n_ids == 200, "200 new ids, not %d", r.n_ids);
    for (int i = 0; i < 200; i++)
        differ += r.ids[i] != js_int(js_at(want, (size_t)i));
    check_report("stories260K-hf greedy ids (differing)", 200, differ, 0);
    generate_release(&r, 1);
    js_release(j);
    quant_report_release(&report);
    model_release(&m);
    model_release(&stories);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_model_is_there),
        cmocka_unit_test(logits_fp32),
        cmocka_unit_test(logits_16_bit),
        cmocka_unit_test(nll),
        cmocka_unit_test(generated_ids),
        cmocka_unit_test(stories_greedy),
    };
    struct err e = ERR_INIT;

    if (backend_open(&backend, check_backend(), 0, NULL, &e) < 0) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    find_folders();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    while (n_folders)
        free(folders[--n_folders]);
    free(folders);
    backend_close(&backend);
    return rc;
}
