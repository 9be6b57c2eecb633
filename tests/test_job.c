/* test_job.c - a job as text and back, and what does and does not change its key; costs. */
#include "sweep_help.h"

#include "sweep/cost.h"

#define TASKS                                                                                \
    "[tasks.sanity]\n[tasks.coqa]\npath = 'c.json'\nsubset = 'random'\n[tasks.perplexity]\n" \
    "path = 'p.txt'\n"
#define TEXT                                                                            \
    "[sweep]\nseeds = [0, 1]\n" MODEL TASKS "[benchmark]\n" BASE                        \
    "[[experiment]]\nname = 'i'\nmethod = 'bnb_8bit'\noutlier_threshold = 6.1\n"        \
    "[[experiment]]\nname = 'f'\nmethod = 'bnb_4bit'\n"                                 \
    "[[experiment]]\nname = 'r'\nmethod = 'rtn'\nsym = false\ngrid = 'awq'\nbits = 3\n" \
    "skip_modules = ['lm_head', 'down_proj']\n"

static void a_job_survives_its_text(void **state)
{
    (void)state;
    struct sweep s;
    struct err e = ERR_INIT;

    CHECK_OK(expand_of(TEXT, NULL, &s, &e), e);
    CHECK(s.n_jobs == 8, "four experiments, two seeds");
    for (int i = 0; i < s.n_jobs; i++) {
        struct job back;
        struct experiment x;
        job_make_key(&s.jobs[i], &s, "identity");
        struct js *j = job_to_js(&s.jobs[i]);
        char *text = js_write(j, NULL);
        struct js *again = js_parse(text, strlen(text), &e);

        CHECK_OK(job_from_js(again, &back, &x, &e), e);
        CHECK(back.experiment == &x && back.id == -1, "the job points to the caller's experiment");
        CHECK(back.seed == s.jobs[i].seed && back.quality == s.jobs[i].quality &&
                  back.benchmark == s.jobs[i].benchmark && !strcmp(back.key, s.jobs[i].key),
              "seed, flags and key come back");
        CHECK(strlen(back.key) == 64, "the key has 64 digits");
        x.line = s.jobs[i].experiment->line;
        CHECK(!memcmp(&x, s.jobs[i].experiment, sizeof x), "%s comes back byte for byte", x.name);
        js_release(again);
        free(text);
        js_release(j);
    }
    sweep_release(&s);
}

static void a_broken_text_is_refused(void **state)
{
    (void)state;
    static const char good[] =
        "{\"experiment\":\"a\",\"seed\":0,\"quality\":true,\"benchmark\":false,\"key\":\"\","
        "\"quant\":{\"method\":\"rtn\",\"bits\":4,\"group_size\":-1,\"quant_type\":\"int\","
        "\"double_quant\":false,\"compute_dtype\":\"fp16\"}}";
    static const struct {
        const char *from, *to, *reason;
    } cases[] = {
        { "\"seed\":0", "\"seed\":\"0\"", "seed should be an integer, but is a string" },
        { "\"seed\":0,", "", "seed is missing" },
        { "\"bits\":4", "\"bits\":65", "quant.bits should be at most 64, but is 65" },
        { "\"fp16\"", "\"fp16fp16\"", "quant.compute_dtype has 8 bytes, room is for 7" },
        { "\"fp16\"", "\"fp16\",\"skip_modules\":[1]", "quant.skip_modules should hold texts" },
        { "\"fp16\"", "\"fp16\",\"skip_modules\":3", "quant.skip_modules should be a list" },
        { "\"quality\":true", "\"quality\":1", "quality should be a boolean" },
        { "\"quant\"", "\"quants\"", "quant.method is missing" },
    };
    struct job job;
    struct experiment x;
    struct err e = ERR_INIT;
    struct js *j = js_parse(good, strlen(good), &e);

    CHECK_OK(job_from_js(j, &job, &x, &e), e);
    js_release(j);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bytes text = BYTES_INIT;
        const char *at = strstr(good, cases[i].from);
        CHECK(at, "case %zu changes something", i);
        bytes_printf(&text, "%.*s%s%s", (int)(at - good), good, cases[i].to,
                     at + strlen(cases[i].from));
        j = js_parse(text.data, text.n, &e);
        CHECK(j, "case %zu is JSON: %s", i, e.text);
        CHECK(job_from_js(j, &job, &x, &e) < 0 && strstr(e.text, cases[i].reason),
              "refused because %s: %s", cases[i].reason, e.text);
        js_release(j);
        bytes_release(&text);
    }
}

/* The key of the job of one experiment under one seed, after --set and with an identity. */
static void key_of(const char *text, const char *set, const char *experiment, int64_t seed,
                   const char *identity, char out[HASH_TEXT_MAX])
{
    struct sweep s;
    struct err e = ERR_INIT;
    struct sweep_overrides o = { .limit = -1, .n_set = set ? 1 : 0, .set = &set };
    int n_found = 0;

    CHECK_OK(expand_of(text, &o, &s, &e), e);
    for (int i = 0; i < s.n_jobs; i++)
        if (!strcmp(s.jobs[i].experiment->name, experiment) && s.jobs[i].seed == seed) {
            job_make_key(&s.jobs[i], &s, identity);
            snprintf(out, HASH_TEXT_MAX, "%s", s.jobs[i].key);
            n_found++;
        }
    CHECK(n_found == 1, "there is one job of %s, seed %lld", experiment, (long long)seed);
    sweep_release(&s);
}

static void the_key_changes_with_what_decides_the_result(void **state)
{
    (void)state;
    /* seed 0: quality and benchmark; seed 1: quality alone. */
    static const struct {
        const char *set;
        bool changes_first, changes_second;
    } cases[] = {
        { "experiment.r.bits=4", true, true },
        { "experiment.r.group_size=32", true, true },
        { "experiment.r.sym=true", true, true },
        { "experiment.r.grid=gptq", true, true },
        { "experiment.r.double_quant=true", true, true },
        { "experiment.r.compute_dtype=bf16", true, true },
        { "experiment.r.skip_modules=[\"lm_head\"]", true, true },
        { "model.source_dtype=fp16", true, true },
        { "model.tensor_parallel=2", true, true },
        { "model.tensor_parallel=1", false, false }, /* results of before have the same key */
        { "tasks.profile=lm-eval-0.4.9", true, true },
        { "tasks.coqa.limit=5", true, true },
        { "tasks.perplexity.window=512", true, true },
        { "tasks.sanity.on_broken=skip", true, true },
        { "benchmark.repeats=11", true, false },
        { "benchmark.batch_sizes=[1]", true, false },
        { "benchmark.min_seconds=2", true, false },
        { "benchmark.min_seconds=1", false, false }, /* 1 and 1.0 are one number */
        { "benchmark.per_seed=false", false, false },
        { "experiment.r.scale_dtype=fp32", false, false }, /* the default, said */
        { "experiment.base.bits=16", false, false },
        { "sweep.name=other", false, false },
        { "sweep.confidence=0.9", false, false },
        { "sweep.job_timeout=60", false, false },
        { "sweep.margin.coqa_f1=0.5", false, false },
        { "sweep.seeds=[0,1,2]", false, false },
        { "run.batch_size=7", false, false },
        { "model.path=elsewhere/same", false, false }, /* identity says which model it is */
        { "model.revision=v2", false, false },
        { "tasks.coqa.path=copy.json", false, false },
        { "tasks.perplexity.path=copy.txt", false, false },
    };
    char first[HASH_TEXT_MAX], second[HASH_TEXT_MAX], now[HASH_TEXT_MAX];

    key_of(TEXT, NULL, "r", 0, "id", first);
    key_of(TEXT, NULL, "r", 1, "id", second);
    CHECK(strcmp(first, second) != 0, "two seeds have two keys");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        key_of(TEXT, cases[i].set, "r", 0, "id", now);
        CHECK((strcmp(now, first) != 0) == cases[i].changes_first, "%s %s the first job",
              cases[i].set, cases[i].changes_first ? "changes" : "leaves");
        key_of(TEXT, cases[i].set, "r", 1, "id", now);
        CHECK((strcmp(now, second) != 0) == cases[i].changes_second, "%s %s the second job",
              cases[i].set, cases[i].changes_second ? "changes" : "leaves");
    }
    key_of(TEXT, NULL, "r", 0, "other model", now);
    CHECK(strcmp(now, first) != 0, "another identity gives another key");
    key_of(TEXT, NULL, "f", 0, "id", now);
    CHECK(strcmp(now, first) != 0, "another experiment has another key");
}

static void neither_names_nor_unused_seeds_enter_the_key(void **state)
{
    (void)state;
    char a[HASH_TEXT_MAX], b[HASH_TEXT_MAX];

    key_of(SWEEP MODEL "[[experiment]]\nname = 'a'\nmethod = 'rtn'\n", NULL, "a", 0, "id", a);
    key_of(SWEEP MODEL "[[experiment]]\nname = 'b'\nmethod = 'rtn'\nbits = [4, 3]\n", NULL,
           "b_4bit", 0, "id", b);
    CHECK(!strcmp(a, b), "a cell of a grid has the key of the same settings by another name");
    key_of("[sweep]\nseeds = [9]\n" MODEL "[[experiment]]\nname = 'a'\nmethod = 'rtn'\n", NULL, "a",
           9, "id", b);
    CHECK(!strcmp(a, b), "a deterministic job has one key under every seed");
    key_of("[sweep]\nseeds = [9]\n" MODEL "[benchmark]\n[[experiment]]\nname = 'a'\n"
           "method = 'rtn'\n",
           NULL, "a", 9, "id", a);
    key_of("[sweep]\nseeds = [8]\n" MODEL "[benchmark]\n[[experiment]]\nname = 'a'\n"
           "method = 'rtn'\n",
           NULL, "a", 8, "id", b);
    CHECK(strcmp(a, b) != 0, "a benchmark's prompts are drawn by the seed, so it counts there");
}

static struct cost_input example(void)
{
    return (struct cost_input){ .device = { 1e12, 1e11, 1e9 },
                                .n_linear_parameters = 1000000000,
                                .n_head_parameters = 250000000,
                                .kv_bytes_per_token = 32768,
                                .model_bytes = 2500000000,
                                .quality = true,
                                .n_sequences = 16,
                                .prompt_tokens = 16000,
                                .new_tokens = 160,
                                .longest_tokens = 2000 };
}

static void costs_grow_with_the_work(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct cost_input in = example();
    struct cost plain = cost_estimate(&in);

    /* Two calls of 8 prompts, 1,000 rows each: 2 x 8,000 rows of 2e9 flops and 8 of 0.5e9 at
     * 1e12/s = 2 x 16.004 s; 20 steps of 8: 2 x 8 x 1.25e9 / 1e12 = 0.02 s, reading 2.5 GB at
     * 1e11/s = 0.025 s is longer. */
    CHECK(check_near(plain.evaluate_s, 2 * 16.004 + 20 * 0.025, 1e-9), "by hand: %.6f s",
          plain.evaluate_s);
    CHECK(check_near(plain.quantize_s, 0.025, 1e-12), "a plain model is copied");
    CHECK(plain.device_bytes == 2500000000 + 2000 * 8 * INT64_C(32768), "model and cache");
    CHECK(plain.benchmark_s == 0 &&
              check_near(plain.total_s, plain.quantize_s + plain.evaluate_s, 0),
          "the total is the sum");

    in.quantized = true;
    CHECK(cost_estimate(&in).total_s > plain.total_s, "unpacking weights takes time");
    struct cost data_free = cost_estimate(&in);
    in.calibration_flops = 3 * in.device.flops_per_s;
    CHECK(fabs(cost_estimate(&in).total_s - data_free.total_s - 3) < 1e-9 &&
              fabs(cost_estimate(&in).quantize_s - data_free.quantize_s - 3) < 1e-9,
          "looking at text takes three seconds more");
    in.calibration_flops = 0;
    in.n_window_tokens = 300000;
    struct cost windows = cost_estimate(&in);
    CHECK(windows.evaluate_s > 300000 * 2.5e9 / 1e12, "windows need every logit row");

    const char *text = "{\"warmup\":1,\"repeats\":3,\"warmup_seconds\":5.0,\"min_seconds\":7.0,"
                       "\"prefill_tokens\":[128],\"decode_tokens\":32,\"batch_sizes\":[1,64]}";
    struct js *benchmark = js_parse(text, strlen(text), &e);
    in.benchmark = benchmark;
    struct cost all = cost_estimate(&in);
    CHECK(all.benchmark_s >= 5 * 12, "five phases of at least 12 seconds: %.1f", all.benchmark_s);
    CHECK(all.device_bytes == 2500000000 + 2000 * 8 * INT64_C(32768), "tasks need the most");
    in.quality = false;
    struct cost alone = cost_estimate(&in);
    CHECK(alone.evaluate_s == 0 && alone.device_bytes == 2500000000 + 64 * 48 * INT64_C(32768),
          "without tasks the largest batch does");
    js_release(benchmark);

    struct cost_device one = cost_cpu(1), many = cost_cpu(16), gpu = cost_gpu();
    CHECK(one.flops_per_s < many.flops_per_s && many.flops_per_s < gpu.flops_per_s &&
              one.bytes_per_s < many.bytes_per_s && many.bytes_per_s < gpu.bytes_per_s,
          "devices are ordered");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_survives_its_text),
        cmocka_unit_test(a_broken_text_is_refused),
        cmocka_unit_test(the_key_changes_with_what_decides_the_result),
        cmocka_unit_test(neither_names_nor_unused_seeds_enter_the_key),
        cmocka_unit_test(costs_grow_with_the_work),
    };

    return cmocka_run_group_tests(tests, sweep_folder_open, sweep_folder_close);
}
