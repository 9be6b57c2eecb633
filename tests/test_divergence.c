/* test_divergence.c - KL by hand and on the demo model, and long windows that run in pieces. */
#include "check.h"

#include "base/file.h"
#include "base/js.h"
#include "base/memory.h"
#include "cpu/cpu.h"
#include "eval/windows.h"
#include "quant/quant.h"

#include <string.h>

#define DEMO "sweeps/demo"

static struct backend backend;
static struct model base, plain, nf4;
static struct tokenizer *tokenizer;
static struct profile profile;

static int open_demo(void **state)
{
    static const struct quant_spec none = { .method = "none", .bits = 16, .compute = DTYPE_F16 };
    static const struct quant_spec four = { .method = "bnb_4bit",
                                            .bits = 4,
                                            .group_size = 64,
                                            .quant_type = "nf4",
                                            .compute = DTYPE_F16,
                                            .n_skip = 1,
                                            .skip = { "lm_head" } };
    struct quant_report one = { 0 }, two = { 0 };
    struct err e = ERR_INIT;

    (void)state;
    mkdir("build", 0777); /* on a GPU host there is none */
    if (backend_open(&backend, check_backend(), 0, NULL, &e) < 0 ||
        weights_load(&backend, DEMO, &base, &e) < 0 || tokenizer_open(&tokenizer, DEMO, &e) < 0)
        goto failed;
    base.config.max_position = 8192; /* of untrained positions: numbers, if no sense */
    if (profile_find("lm-eval-0.4.12", tokenizer, &base.config, &profile, &e) < 0 ||
        quantize_model(&base, &none, DTYPE_F16, &plain, &one, &e) < 0 ||
        quantize_model(&base, &four, DTYPE_F16, &nf4, &two, &e) < 0)
        goto failed;
    quant_report_release(&one);
    quant_report_release(&two);
    return 0;
failed:
    print_error("%s\n", e.text);
    return -1;
}

static int close_demo(void **state)
{
    (void)state;
    model_release(&nf4);
    model_release(&plain);
    model_release(&base);
    tokenizer_close(tokenizer);
    backend_close(&backend);
    return 0;
}

static void divergence_by_hand(void **state)
{
    (void)state;
    /* p = 1/2, 1/4, 1/4; q = 1/4, 1/4, 1/2. */
    float p[] = { logf(2), 0, 0 }, q[] = { 1, 1, 1 + logf(2) };
    struct divergence d = divergence_of(p, q, 3, 0);

    CHECK(check_near(d.kl, 0.25 * log(2), 1e-7), "1/2 ln 2 - 1/4 ln 2, got %g", d.kl);
    CHECK(check_near(d.nll_base, log(2), 1e-7) && check_near(d.nll, log(4), 1e-7),
          "the losses of id 0: ln 2 and ln 4");
    CHECK(!d.same_top && divergence_of(p, p, 3, 1).same_top, "ids 0 and 2 are the likeliest");
    CHECK(divergence_of(p, p, 3, 2).kl == 0, "no divergence from itself");
    float far[] = { 0, -1e4f, -INFINITY };
    CHECK(divergence_of(far, p, 3, 0).kl > 0 && isfinite(divergence_of(far, far, 3, 0).kl),
          "what has no probability adds nothing");
    CHECK(isinf(divergence_of(p, far, 3, 0).kl), "what q excludes is infinitely far");
    float bad[] = { 0, NAN, 0 };
    CHECK(isnan(divergence_of(p, bad, 3, 0).nll) && isnan(divergence_of(bad, p, 3, 0).nll_base) &&
              isnan(divergence_of(p, bad, 3, 0).kl) && isnan(divergence_of(bad, p, 3, 0).kl) &&
              divergence_of(p, bad, 3, 0).nll_base == d.nll_base,
          "a NaN shows");
}

/* The first n bytes of the held-out text as one document; its windows. */
static struct windows windows_of(size_t n_bytes, const char *options)
{
    static const char path[] = "build/test_divergence.txt";
    struct bytes text = BYTES_INIT, out = BYTES_INIT;
    struct windows w;
    struct err e = ERR_INIT;
    char all[256];

    CHECK_OK(file_read(DEMO "/heldout.txt", &text, &e), e);
    CHECK_OK(file_replace(path, text.data, n_bytes < text.n ? n_bytes : text.n, &e), e);
    snprintf(all, sizeof all, "{\"path\":\"%s\",%s}", path, options);
    struct js *j = js_parse(all, strlen(all), &e);
    CHECK_OK(windows_prepare(j, tokenizer, &profile, &base.config, &out, &e), e);
    CHECK_OK(windows_open(&w, "test", out.data, out.n, &e), e);
    js_release(j);
    bytes_release(&text);
    bytes_release(&out);
    return w;
}

/* What the runner makes of rows is what all logits of both models say. */
static void rows_are_compared_with_their_own(void **state)
{
    (void)state;
    struct windows w = windows_of(2000, "\"window\":64");
    struct window_runner *one = NULL, *two = NULL;
    struct err e = ERR_INIT;
    const int64_t vocab = base.config.vocab_size, order[] = { 1, 0 };
    struct divergence got[2][64], *of[] = { got[0], got[1] };
    /* The CPU's order of sums is the definition; others are as good. */
    const double off = strcmp(check_backend(), "cpu") ? 1e-11 : 0;

    CHECK(w.n >= 2, "there are two windows");
    CHECK_OK(window_runner_open(&one, &plain, &w, 2, 1, &e), e);
    CHECK_OK(window_runner_open(&two, &nf4, &w, 2, 1, &e), e);
    CHECK_OK(window_runner_divergence(one, two, &w, order, 2, of, &e), e);
    for (int k = 0; k < 2; k++) {
        const struct model *models[] = { &plain, &nf4 };
        float *logits[2];
        for (int m = 0; m < 2; m++) {
            struct kv_cache cache = { 0 };
            struct forward *f;
            int32_t slot = 0, n_tokens = 64;
            struct batch batch = { .phase = PHASE_PROMPT,
                                   .n_seqs = 1,
                                   .slot = &slot,
                                   .n_tokens = &n_tokens,
                                   .ids = w.at[order[k]].ids };
            logits[m] = mem_array((size_t)(64 * vocab), sizeof(float));
            struct forward_out out = { .logits = logits[m] };
            CHECK_OK(forward_open(&f, models[m], 64, 1, &e), e);
            CHECK_OK(kv_cache_open(&cache, models[m], 1, 64, &e), e);
            CHECK_OK(forward_run(f, &cache, &batch, WANT_ALL_LOGITS, NULL, 0, &out, &e), e);
            kv_cache_close(&cache);
            forward_close(f);
        }
        for (int64_t i = 0; i < 63; i++) {
            struct divergence want = divergence_of(logits[0] + i * vocab, logits[1] + i * vocab,
                                                   vocab, w.at[order[k]].ids[i + 1]);
            CHECK(check_near(got[k][i].kl, want.kl, off) &&
                      check_near(got[k][i].nll, want.nll, off) &&
                      check_near(got[k][i].nll_base, want.nll_base, off) &&
                      got[k][i].same_top == want.same_top,
                  "row %d of window %d", (int)i, k);
            CHECK(want.kl > 0, "NF4 is not the same model");
        }
        free(logits[0]);
        free(logits[1]);
    }
    window_runner_close(one);
    window_runner_close(two);
    windows_release(&w);
}

static void long_windows_run_in_pieces(void **state)
{
    (void)state;
    struct windows w = windows_of(17000, "\"protocol\":\"lm_eval\"");
    const struct text_window *x = &w.at[0];
    struct window_runner *r = NULL;
    struct kv_cache cache = { 0 };
    struct forward *f;
    struct err e = ERR_INIT;
    const int64_t order = 0;
    int32_t slot = 0, n_tokens = (int32_t)x->n;
    struct batch batch = {
        .phase = PHASE_PROMPT, .n_seqs = 1, .slot = &slot, .n_tokens = &n_tokens, .ids = x->ids
    };
    float *whole = mem_array((size_t)x->n, sizeof *whole);
    double *nll = mem_array((size_t)x->n, sizeof *nll);

    CHECK(w.n == 1 && x->n > 4096, "a window of %d ids is not run whole", (int)x->n);
    CHECK_OK(window_runner_open(&r, &nf4, &w, 0, 1, &e), e);
    CHECK_OK(window_runner_nll(r, &w, &order, 1, &nll, &e), e);
    CHECK_OK(forward_open(&f, &nf4, x->n, 1, &e), e);
    CHECK_OK(kv_cache_open(&cache, &nf4, 1, x->n, &e), e);
    CHECK_OK(forward_run(f, &cache, &batch, WANT_NLL, NULL, 0,
                         &(struct forward_out){ .nll = whole }, &e),
             e);
    for (int64_t i = 0; i < x->n_scored; i++)
        CHECK(nll[i] == (double)whole[i], "id %d has the loss that one pass gives: %g and %g",
              (int)i + 1, nll[i], (double)whole[i]);
    window_runner_close(r);
    kv_cache_close(&cache);
    forward_close(f);
    free(whole);
    free(nll);
    windows_release(&w);
}

/* The task's record: the same bytes for any batch size and order. */
static char *record_of(int batch_size, bool shuffle)
{
    static const char options[] = "{\"path\":\"build/test_divergence.txt\",\"window\":128}";
    const struct task *task = task_find("divergence");
    struct task_context c = { .model = &nf4,
                              .base = &plain,
                              .tokenizer = tokenizer,
                              .profile = &profile,
                              .batch_size = batch_size,
                              .shuffle = shuffle };
    struct js *j, *out = js_new_object();
    struct bytes data = BYTES_INIT;
    struct err e = ERR_INIT;

    j = js_parse(options, strlen(options), &e);
    CHECK_OK(task->prepare(j, tokenizer, &profile, &base.config, &data, &e), e);
    CHECK_OK(task->run(&c, j, data.data, data.n, out, &e), e);
    CHECK(js_real(js_get(out, "kl_mean")) > 1e-4 && js_real(js_get(out, "kl_mean")) < 0.1,
          "NF4 is close, got %g", js_real(js_get(out, "kl_mean")));
    CHECK(js_real(js_get(out, "top1_agreement")) > 0.5 && js_int(js_get(out, "flips")) > 0,
          "most of the likeliest ids stay");
    char *text = js_write(out, NULL);
    js_release(out);
    js_release(j);
    bytes_release(&data);
    return text;
}

static void batches_change_nothing(void **state)
{
    (void)state;
    struct windows w = windows_of(5000, "\"window\":128"); /* leaves the text behind */
    windows_release(&w);
    char *want = record_of(1, false);

    for (int k = 0; k < 2; k++) {
        char *got = record_of(k ? 64 : 7, k == 0);
        CHECK(!strcmp(want, got), "the same record");
        free(got);
    }
    free(want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(divergence_by_hand),
        cmocka_unit_test(rows_are_compared_with_their_own),
        cmocka_unit_test(long_windows_run_in_pieces),
        cmocka_unit_test(batches_change_nothing),
    };

    return cmocka_run_group_tests(tests, open_demo, close_demo);
}
