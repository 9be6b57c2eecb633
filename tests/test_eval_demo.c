/* test_eval_demo.c - the tasks on the demo model: PyTorch's numbers, and the same bits however the
 * items are batched and ordered. */
#include "check.h"

#include "base/file.h"
#include "base/js.h"
#include "eval/task.h"
#include "quant/quant.h"

#include <string.h>

#define DEMO "sweeps/demo"

static struct backend backend;
static struct model base;
static struct tokenizer *tokenizer;
static struct profile profile;

static int open_demo(void **state)
{
    struct err e = ERR_INIT;

    (void)state;
    if (backend_open(&backend, check_backend(), 0, NULL, &e) < 0 ||
        weights_load(&backend, DEMO, &base, &e) < 0 || tokenizer_open(&tokenizer, DEMO, &e) < 0 ||
        profile_find("lm-eval-0.4.12", tokenizer, &base.config, &profile, &e) < 0) {
        print_error("%s\n", e.text);
        return -1;
    }
    return 0;
}

static int close_demo(void **state)
{
    (void)state;
    tokenizer_close(tokenizer);
    model_release(&base);
    backend_close(&backend);
    return 0;
}

/* In fp32 the whole model is, else it runs in its stored bf16. */
static void quantize(const struct quant_spec *spec, struct model *out)
{
    enum dtype source = spec->compute == DTYPE_F32 ? DTYPE_F32 : DTYPE_OTHER;
    struct quant_report report = { 0 };
    struct err e = ERR_INIT;

    CHECK_OK(quantize_model(&base, spec, source, out, &report, &e), e);
    quant_report_release(&report);
}

static const struct quant_spec plain_fp32 = { .method = "none", .bits = 32, .compute = DTYPE_F32 };
static const struct quant_spec nf4_fp16 = { .method = "bnb_4bit",
                                            .bits = 4,
                                            .group_size = 64,
                                            .quant_type = "nf4",
                                            .double_quant = true,
                                            .compute = DTYPE_F16,
                                            .n_skip = 1,
                                            .skip = { "lm_head" } };
static const struct quant_spec int8 = { .method = "bnb_8bit",
                                        .bits = 8,
                                        .compute = DTYPE_F16,
                                        .outlier_threshold = 6.0,
                                        .n_skip = 1,
                                        .skip = { "lm_head" } };

struct how {
    int batch_size;
    bool shuffle;
    int64_t seed;
};

/* One task by its options (JSON text), prepared and run. */
static int try_task(const struct model *m, const char *name, const char *options_text,
                    struct how how, struct js *out, struct err *e)
{
    struct js *options = js_parse(options_text, strlen(options_text), e);
    const struct task *task = task_find(name);
    struct bytes prepared = BYTES_INIT;
    struct task_context c = { .model = m,
                              .tokenizer = tokenizer,
                              .profile = &profile,
                              .seed = how.seed,
                              .batch_size = how.batch_size,
                              .shuffle = how.shuffle };

    CHECK(options && task, "options and task are there: %s", e->text);
    CHECK_OK(task->prepare(options, tokenizer, &profile, &m->config, &prepared, e), *e);
    int rc = task->run(&c, options, prepared.data, prepared.n, out, e);
    bytes_release(&prepared);
    js_release(options);
    return rc;
}

static struct js *run_task(const struct model *m, const char *name, const char *options,
                           struct how how)
{
    struct err e = ERR_INIT;
    struct js *out = js_new_object();

    CHECK_OK(try_task(m, name, options, how, out, &e), e);
    return out;
}

static const struct js *reference_config(const struct js *reference, const char *method,
                                         const char *dtype)
{
    const struct js *configs = js_get(reference, "configs");

    for (size_t i = 0; i < js_count(configs); i++) {
        const struct js *c = js_at(configs, i);
        if (strcmp(js_text(js_get(c, "method")), method) == 0 &&
            strcmp(js_text(js_get(c, "dtype")), dtype) == 0)
            return c;
    }
    fail_msg("reference.json has no %s in %s", method, dtype);
    return NULL;
}

/* The first of a reference's triple (value, lower, upper limit). */
static double value_of(const struct js *config, const char *metric)
{
    return js_real(js_at(js_get(config, metric), 0));
}

static void coqa_is_pytorchs(void **state)
{
    struct err e = ERR_INIT;
    struct js *reference = js_read(DEMO "/reference.json", &e);
    const struct js *want = js_get(reference, "predictions_float32");
    struct model m = MODEL_INIT;
    long n_differ = 0;

    (void)state;
    CHECK(reference, "the reference can be read: %s", e.text);
    quantize(&plain_fp32, &m);
    struct js *out =
        run_task(&m, "coqa", "{\"path\":\"" DEMO "/coqa-demo.json\"}", (struct how){ 0, false, 0 });
    const struct js *got = js_get(out, "prediction"), *id = js_get(out, "document_id");
    CHECK(js_count(got) == js_count(want) && js_count(want) > 0, "every story has an answer");
    for (size_t i = 0; i < js_count(want); i++) {
        CHECK(strcmp(js_text(js_at(id, i)), js_text(js_get(js_at(want, i), "id"))) == 0,
              "item %zu is the story at its place", i);
        n_differ +=
            strcmp(js_text(js_at(got, i)), js_text(js_get(js_at(want, i), "prediction"))) != 0;
    }
    const struct js *config = reference_config(reference, "none", "float32");
    double f1 = js_real(js_get(out, "f1")), em = js_real(js_get(out, "em"));
    double n = (double)js_count(want);
    printf("coqa, fp32: f1 %.6f (PyTorch %.6f), em %.6f (%.6f), %ld of %zu predictions differ\n",
           f1, value_of(config, "f1"), em, value_of(config, "em"), n_differ, js_count(want));
    /* Two near-ties of an argmax may fall the other way in another order of sums. */
    CHECK(n_differ <= 2, "the predictions are PyTorch's: %ld differ", n_differ);
    CHECK(check_near(f1, value_of(config, "f1"), 2 / n) &&
              check_near(em, value_of(config, "em"), 2 / n),
          "and so are the scores");
    CHECK(js_int(js_get(out, "n")) == (int64_t)js_count(want) &&
              js_int(js_get(out, "truncated")) == 0,
          "nothing was cut");
    js_release(out);
    js_release(reference);
    model_release(&m);
}

static void perplexity_is_pytorchs(void **state)
{
    struct err e = ERR_INIT;
    struct js *reference = js_read(DEMO "/reference.json", &e);
    const struct js *want = js_get(reference, "nll_256_float32");
    struct model m = MODEL_INIT;
    double largest = 0;

    (void)state;
    CHECK(reference, "the reference can be read: %s", e.text);
    quantize(&plain_fp32, &m);
    struct js *out =
        run_task(&m, "perplexity", "{\"path\":\"" DEMO "/heldout.txt\",\"window\":256}",
                 (struct how){ 0, false, 0 });
    const struct js *got = js_get(out, "window_nll");
    double perplexity = js_real(js_get(out, "perplexity"));
    CHECK(js_count(got) == js_count(want) && js_count(want) > 0, "as many windows");
    for (size_t i = 0; i < js_count(want); i++) {
        double off = fabs(js_real(js_at(got, i)) - js_real(js_at(want, i)));
        CHECK(off <= 1e-4, "window %zu is PyTorch's to 1e-4: %g", i, off);
        largest = fmax(largest, off);
    }
    double wanted = value_of(reference_config(reference, "none", "float32"), "perplexity_256");
    printf("perplexity, fp32: %.9f (PyTorch %.9f), largest deviation of a window %.3g\n",
           perplexity, wanted, largest);
    CHECK(check_near(perplexity, wanted, 1e-4 * wanted), "and so is the perplexity");
    js_release(out);
    js_release(reference);
    model_release(&m);
}

/* Records as text: one differing bit is seen. */
static void same_in_every_batch(const struct quant_spec *spec, const char *task,
                                const char *options)
{
    static const struct how hows[] = {
        { 1, false, 3 }, { 7, false, 3 }, { 64, false, 3 }, { 7, true, 3 }, { 0, false, 3 }
    };
    struct model m = MODEL_INIT;
    char *first = NULL;

    quantize(spec, &m);
    for (size_t i = 0; i < sizeof hows / sizeof hows[0]; i++) {
        struct js *out = run_task(&m, task, options, hows[i]);
        char *text = js_write(out, NULL);
        if (!first)
            first = mem_text(text);
        CHECK(strcmp(first, text) == 0, "%s of %s: batch %d%s gives the same record as batch 1",
              task, spec->method, hows[i].batch_size, hows[i].shuffle ? ", shuffled," : "");
        free(text);
        js_release(out);
    }
    free(first);
    model_release(&m);
}

#define COQA_DRAWN "{\"path\":\"" DEMO "/coqa-demo.json\",\"limit\":20,\"subset\":\"random\"}"
#define TEXT_128   "{\"path\":\"" DEMO "/heldout.txt\",\"window\":128}"

static void records_do_not_depend_on_batches(void **state)
{
    (void)state;
    same_in_every_batch(&nf4_fp16, "coqa", COQA_DRAWN);
    same_in_every_batch(&int8, "coqa", COQA_DRAWN);
    same_in_every_batch(&nf4_fp16, "perplexity", TEXT_128);
    same_in_every_batch(&int8, "perplexity", TEXT_128);
    same_in_every_batch(&nf4_fp16, "sanity", "{}");
}

static void a_seed_draws_the_documents(void **state)
{
    struct model m = MODEL_INIT;
    char *ids[3];

    (void)state;
    quantize(&nf4_fp16, &m);
    for (int i = 0; i < 3; i++) {
        struct js *out = run_task(&m, "coqa", COQA_DRAWN, (struct how){ 0, false, i == 2 ? 0 : i });
        ids[i] = js_write(js_get(out, "document_id"), NULL);
        CHECK(js_count(js_get(out, "document_id")) == 20 && js_int(js_get(out, "n")) == 20,
              "20 documents were drawn");
        js_release(out);
    }
    CHECK(strcmp(ids[0], ids[1]) != 0, "another seed draws others");
    CHECK(strcmp(ids[0], ids[2]) == 0, "the same seed draws the same");
    for (int i = 0; i < 3; i++)
        free(ids[i]);
    model_release(&m);
}

/* Generating on to the limit and cutting afterwards gives the same record as stopping early. */
static void stopping_early_changes_nothing(void **state)
{
    static const char options[] = "{\"path\":\"" DEMO "/coqa-demo.json\",\"limit\":6}";
    struct model m = MODEL_INIT;
    struct js *early, *late;

    (void)state;
    quantize(&plain_fp32, &m);
    early = run_task(&m, "coqa", options, (struct how){ 0, false, 0 });
    /* A tokenizer whose decoder cannot be judged never stops early. */
    struct tokenizer *kept = tokenizer;
    struct bytes text = BYTES_INIT, config = BYTES_INIT;
    struct err e = ERR_INIT;
    CHECK_OK(file_read(DEMO "/tokenizer.json", &text, &e), e);
    CHECK_OK(file_read(DEMO "/tokenizer_config.json", &config, &e), e);
    struct js *j = js_parse(text.data, text.n, &e);
    struct js *decoders = js_new_array(), *replace = js_new_object(), *pattern = js_new_object();
    struct js *sequence = js_new_object();
    js_set_text(pattern, "Regex", "\\x{10FFFF}");
    js_set_text(replace, "type", "Replace");
    js_set(replace, "pattern", pattern);
    js_set_text(replace, "content", "");
    js_append(decoders, js_copy(js_get(j, "decoder")));
    js_append(decoders, replace);
    js_set_text(sequence, "type", "Sequence");
    js_set(sequence, "decoders", decoders);
    js_set(j, "decoder", sequence);
    size_t n;
    char *changed = js_write(j, &n);
    CHECK_OK(tokenizer_open_text(&tokenizer, changed, n, config.data, config.n, &e), e);
    CHECK(!tokenizer_settles(tokenizer, 0) && tokenizer_settles(kept, 0),
          "only the demo's own tokenizer lets answers stop early");
    late = run_task(&m, "coqa", options, (struct how){ 0, false, 0 });
    char *a = js_write(early, NULL), *b = js_write(late, NULL);
    CHECK(strcmp(a, b) == 0, "the records are the same");
    tokenizer_close(tokenizer);
    tokenizer = kept;
    free(a);
    free(b);
    free(changed);
    js_release(j);
    js_release(early);
    js_release(late);
    bytes_release(&text);
    bytes_release(&config);
    model_release(&m);
}

static void sanity_says_what_it_saw(void **state)
{
    struct model m = MODEL_INIT;

    (void)state;
    quantize(&plain_fp32, &m);
    struct js *out =
        run_task(&m, "sanity", "{\"on_broken\":\"warn\"}", (struct how){ 0, false, 0 });
    CHECK(js_count(js_get(out, "prompt")) == 3 && js_count(js_get(out, "generated")) == 3 &&
              js_count(js_get(out, "flags")) == 3,
          "three prompts, three texts, three flags");
    for (size_t i = 0; i < 3; i++)
        printf("sanity: %s -> %.60s [%s]\n", js_text(js_at(js_get(out, "prompt"), i)),
               js_text(js_at(js_get(out, "generated"), i)),
               js_text(js_at(js_get(out, "flags"), i)));
    CHECK(!js_bool(js_get(out, "broken")), "the demo model is not broken");
    js_release(out);
    model_release(&m);
}

static void nan_is_never_a_number(void **state)
{
    struct model m = MODEL_INIT;
    struct err e = ERR_INIT;
    const struct how how = { 0, false, 0 };
    const float not_a_number = NAN;

    (void)state;
    quantize(&plain_fp32, &m);
    CHECK(m.norm.dtype == DTYPE_F32 && m.owns_norms, "the norm is this model's own");
    CHECK_OK(backend.ops->upload(&backend, m.norm.data, &not_a_number, sizeof not_a_number, &e), e);
    struct js *out = run_task(&m, "sanity", "{}", how), *none = js_new_object();
    CHECK(js_bool(js_get(out, "broken")) &&
              strcmp(js_text(js_at(js_get(out, "flags"), 0)), "nan") == 0,
          "sanity says so");
    CHECK(try_task(&m, "perplexity", TEXT_128, how, none, &e) < 0 && strstr(e.text, "nan") &&
              strstr(e.text, "window 0"),
          "perplexity names the window: %s", e.text);
    CHECK(try_task(&m, "coqa", COQA_DRAWN, how, none, &e) < 0 && strstr(e.text, "NaN") &&
              strstr(e.text, "document demo-"),
          "coqa names the document: %s", e.text);
    CHECK(js_count(none) == 0, "and nothing is recorded");
    js_release(out);
    js_release(none);
    model_release(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(coqa_is_pytorchs),
        cmocka_unit_test(perplexity_is_pytorchs),
        cmocka_unit_test(records_do_not_depend_on_batches),
        cmocka_unit_test(a_seed_draws_the_documents),
        cmocka_unit_test(stopping_early_changes_nothing),
        cmocka_unit_test(sanity_says_what_it_saw),
        cmocka_unit_test(nan_is_never_a_number),
    };

    return cmocka_run_group_tests(tests, open_demo, close_demo);
}
