/* test_choice.c - multiple choice on the demo model: an independent program's numbers
 * (golden/make_choices.py), the same bits however questions are batched, and files that are wrong.
 */
#include "check.h"

#include "base/file.h"
#include "base/js.h"
#include "eval/choice.h"
#include "quant/quant.h"

#include <string.h>
#include <unistd.h>

#define DEMO "sweeps/demo"
#define DATA "tests/golden/choices/"

static struct backend backend;
static struct model base, plain, nf4, int8;
static struct tokenizer *tokenizer;
static struct profile profile;
static struct js *golden;
static char folder[] = "/tmp/llq_choice_XXXXXX";

static int open_demo(void **state)
{
    static const struct quant_spec specs[] = {
        { .method = "none", .bits = 32, .compute = DTYPE_F32 },
        { .method = "bnb_4bit",
          .bits = 4,
          .group_size = 64,
          .quant_type = "nf4",
          .compute = DTYPE_F16,
          .n_skip = 1,
          .skip = { "lm_head" } },
        { .method = "bnb_8bit",
          .bits = 8,
          .compute = DTYPE_F16,
          .outlier_threshold = 6.0,
          .n_skip = 1,
          .skip = { "lm_head" } },
    };
    struct model *models[] = { &plain, &nf4, &int8 };
    struct err e = ERR_INIT;

    (void)state;
    golden = js_read("tests/golden/choices.json", &e);
    if (!golden || backend_open(&backend, check_backend(), 0, NULL, &e) < 0 ||
        weights_load(&backend, DEMO, &base, &e) < 0 || tokenizer_open(&tokenizer, DEMO, &e) < 0 ||
        profile_find("lm-eval-0.4.12", tokenizer, &base.config, &profile, &e) < 0)
        goto failed;
    for (int i = 0; i < 3; i++) {
        struct quant_report report = { 0 };
        if (quantize_model(&base, &specs[i], i ? DTYPE_F16 : DTYPE_F32, models[i], &report, &e) < 0)
            goto failed;
        quant_report_release(&report);
    }
    return mkdtemp(folder) ? 0 : -1;
failed:
    print_error("%s\n", e.text);
    return -1;
}

static int close_demo(void **state)
{
    (void)state;
    rmdir(folder);
    js_release(golden);
    model_release(&int8);
    model_release(&nf4);
    model_release(&plain);
    model_release(&base);
    tokenizer_close(tokenizer);
    backend_close(&backend);
    return 0;
}

struct how {
    const struct profile *profile;
    int batch_size;
    bool shuffle;
};

static int try_run(const struct model *m, const char *options_text, struct how how, struct js *out,
                   struct err *e)
{
    struct js *options = js_parse(options_text, strlen(options_text), e);
    const struct task *task = task_find("multiple_choice");
    const struct profile *p = how.profile ? how.profile : &profile;
    struct bytes prepared = BYTES_INIT;
    struct task_context c = { .model = m,
                              .tokenizer = tokenizer,
                              .profile = p,
                              .batch_size = how.batch_size,
                              .shuffle = how.shuffle };

    CHECK(options && task, "options and task are there: %s", e->text);
    int rc = task->prepare(options, tokenizer, p, &m->config, &prepared, e);
    if (rc == 0)
        rc = task->run(&c, options, prepared.data, prepared.n, out, e);
    bytes_release(&prepared);
    js_release(options);
    return rc;
}

static struct js *run(const struct model *m, const char *options, struct how how)
{
    struct err e = ERR_INIT;
    struct js *out = js_new_object();

    CHECK_OK(try_run(m, options, how, out, &e), e);
    return out;
}

#define ALL_SETS                                                    \
    "{\"hellaswag\":{\"path\":\"" DATA "hellaswag_val.jsonl\"},"    \
    "\"arc_easy\":{\"path\":\"" DATA "arc_easy.jsonl\"},"           \
    "\"arc_challenge\":{\"path\":\"" DATA "arc_challenge.jsonl\"}," \
    "\"winogrande\":{\"path\":\"" DATA "winogrande.jsonl\"},"       \
    "\"openbookqa\":{\"path\":\"" DATA "openbookqa.jsonl\"},"       \
    "\"boolq\":{\"path\":\"" DATA "boolq.jsonl\"},"                 \
    "\"mmlu\":{\"path\":\"" DATA "mmlu\"},"                         \
    "\"lambada\":{\"path\":\"" DATA "lambada_test.jsonl\"}}"

/* ---- numbers ---- */

static void same_integers(const struct js *got, const struct js *want, const char *task,
                          const char *what)
{
    CHECK(js_count(got) == js_count(want) && js_count(want) > 0, "%s: %s has %zu values", task,
          what, js_count(want));
    for (size_t i = 0; i < js_count(want); i++)
        CHECK(js_int(js_at(got, i)) == js_int(js_at(want, i)), "%s: %s[%zu] is %lld, not %lld",
              task, what, i, (long long)js_int(js_at(want, i)), (long long)js_int(js_at(got, i)));
}

static double share_right(const struct js *chosen, const struct js *gold)
{
    int64_t n = 0;

    for (size_t i = 0; i < js_count(gold); i++)
        n += js_int(js_at(chosen, i)) == js_int(js_at(gold, i));
    return (double)n / (double)js_count(gold);
}

static double deviation(double got, double want)
{
    return fabs(got - want) / fmax(1, fabs(want));
}

/* The largest deviation of a log likelihood, relative beyond 1. */
static double compare_words(const struct js *got, const struct js *want)
{
    const struct js *greedy = js_get(want, "greedy"), *all = js_get(want, "log_likelihood");
    double worst = 0, sum = 0;
    int64_t n_right = 0;

    for (size_t i = 0; i < js_count(greedy); i++) {
        double x = js_real(js_at(js_at(all, i), 0));
        CHECK(js_int(js_at(js_get(got, "correct"), i)) == js_bool(js_at(greedy, i)),
              "lambada: word %zu is right where greedy decoding gives it", i);
        n_right += js_bool(js_at(greedy, i));
        sum -= x;
        worst = fmax(worst, deviation(js_real(js_at(js_get(got, "nll"), i)), -x));
    }
    double n = (double)js_count(greedy);
    CHECK(n_right > 0 && n_right < (int64_t)n, "some words are right, some wrong");
    CHECK(js_real(js_get(got, "acc")) == (double)n_right / n, "lambada: acc");
    CHECK(check_near(js_real(js_get(got, "perplexity")) / exp(sum / n), 1, 1e-4), "perplexity");
    return worst;
}

static double compare_set(const char *task, const struct js *got, const struct js *want)
{
    const struct js *all = js_get(want, "log_likelihood"), *rows = js_get(got, "log_likelihood");
    const struct js *gold = js_get(want, "gold");
    double worst = 0;

    if (choice_task_find(task)->is_greedy)
        return compare_words(got, want);
    for (size_t i = 0; i < js_count(all); i++) {
        const struct js *row = js_at(all, i);
        CHECK(js_count(js_at(rows, i)) == js_count(row), "%s: question %zu has its choices", task,
              i);
        for (size_t k = 0; k < js_count(row); k++)
            worst =
                fmax(worst, deviation(js_real(js_at(js_at(rows, i), k)), js_real(js_at(row, k))));
    }
    same_integers(js_get(got, "gold"), gold, task, "gold");
    same_integers(js_get(got, "chosen"), js_get(want, "chosen"), task, "chosen");
    CHECK(js_real(js_get(got, "acc")) == share_right(js_get(want, "chosen"), gold), "%s: acc",
          task);
    if (choice_task_find(task)->has_norm) {
        same_integers(js_get(got, "chosen_norm"), js_get(want, "chosen_norm"), task, "chosen_norm");
        CHECK(js_real(js_get(got, "acc_norm")) == share_right(js_get(want, "chosen_norm"), gold),
              "%s: acc_norm", task);
    } else {
        CHECK(!js_get(got, "acc_norm"), "%s has no acc_norm", task);
    }
    return worst;
}

static void numbers_are_those_of_an_independent_program(void **state)
{
    static const char *const names[] = { "lm-eval-0.4.12", "lm-eval-0.4.9" };

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct profile p;
        struct err e = ERR_INIT;
        struct js_member m = JS_MEMBER_INIT;
        int n = 0;
        CHECK_OK(profile_find(names[i], tokenizer, &base.config, &p, &e), e);
        struct js *out = run(&plain, ALL_SETS, (struct how){ .profile = &p });
        while (js_next(out, &m)) {
            double worst = compare_set(m.key, m.value, js_get(js_get(golden, names[i]), m.key));
            CHECK(worst < 1e-4, "%s, %s: log likelihoods agree to %g", names[i], m.key, worst);
            n++;
        }
        CHECK(n == 8, "%d data sets", n);
        js_release(out);
    }
}

static void examples_stand_in_front(void **state)
{
    (void)state;
    struct js *out =
        run(&plain, "{\"mmlu\":{\"path\":\"" DATA "mmlu\",\"num_fewshot\":2}}", (struct how){ 0 });
    double worst =
        compare_set("mmlu", js_get(out, "mmlu"), js_get(js_get(golden, profile.name), "mmlu_2"));
    CHECK(worst < 1e-4, "log likelihoods agree to %g", worst);
    js_release(out);

    static const char *const wrong[][2] = {
        { "{\"mmlu\":{\"path\":\"" DATA "mmlu\",\"num_fewshot\":3}}",
          "has 2 examples, num_fewshot asks for 3" },
        { "{\"mmlu\":{\"path\":\"" DATA "mmlu\",\"num_fewshot\":6}}", "at most 5" },
        { "{\"boolq\":{\"path\":\"" DATA "boolq.jsonl\",\"num_fewshot\":1}}", "at most 0" },
        { "{\"mmlu\":{\"path\":\"" DATA "boolq.jsonl\",\"num_fewshot\":1}}", "folder dev" },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct err e = ERR_INIT;
        out = js_new_object();
        CHECK(try_run(&plain, wrong[i][0], (struct how){ 0 }, out, &e) < 0 &&
                  strstr(e.text, wrong[i][1]),
              "\"%s\" is said: %s", wrong[i][1], e.text);
        js_release(out);
    }
}

static void piqa_is_read_from_its_own_files(void **state)
{
    char path[4096], options[5000];

    (void)state;
    if (!check_has(check_data(), "multiple_choice/valid.jsonl"))
        CHECK_MISSING("%s/multiple_choice/valid.jsonl is not here", check_data());
    snprintf(path, sizeof path, "%s/multiple_choice/valid.jsonl", check_data());
    const struct js *want = js_get(js_get(golden, profile.name), "piqa");
    snprintf(options, sizeof options, "{\"piqa\":{\"path\":\"%s\",\"limit\":%zu}}", path,
             js_count(js_get(want, "gold")));
    struct js *out = run(&plain, options, (struct how){ 0 });
    double worst = compare_set("piqa", js_get(out, "piqa"), want);
    CHECK(worst < 1e-4, "log likelihoods agree to %g", worst);
    CHECK(js_int(js_find(out, "piqa.n")) == 60, "the first 60 questions");
    js_release(out);
}

/* ---- the same bits ---- */

static void same_bits(const struct model *m, const char *what)
{
    static const struct how hows[] = {
        { NULL, 1, false }, { NULL, 3, false }, { NULL, 64, true }, { NULL, 2, true }
    };
    struct js *first = run(m, ALL_SETS, (struct how){ 0 });
    char *want = js_write(first, NULL);

    for (size_t i = 0; i < sizeof hows / sizeof *hows; i++) {
        struct js *out = run(m, ALL_SETS, hows[i]);
        char *got = js_write(out, NULL);
        CHECK(strcmp(want, got) == 0, "%s: batch %d%s: the same bytes", what, hows[i].batch_size,
              hows[i].shuffle ? ", shuffled" : "");
        free(got);
        js_release(out);
    }
    free(want);
    js_release(first);
}

static void neither_batch_nor_order_changes_a_bit(void **state)
{
    (void)state;
    same_bits(&plain, "fp32");
    same_bits(&nf4, "nf4");
    same_bits(&int8, "LLM.int8");
}

/* What requests share is computed once; alone each gives the same bits. */
static void sharing_changes_no_bit(void **state)
{
    struct choice_set *sets;
    struct js *options = js_new_object(), *own = js_new_object();
    struct bytes prepared = BYTES_INIT;
    struct err e = ERR_INIT;
    const struct task_context c = { .model = &nf4, .tokenizer = tokenizer, .profile = &profile };
    double shared[CHOICES_MAX], alone[CHOICES_MAX];
    bool shares = false;
    int n;

    (void)state;
    js_set_text(own, "path", DATA "hellaswag_val.jsonl");
    js_set(options, "hellaswag", own);
    CHECK_OK(choice_prepare(options, tokenizer, &profile, &base.config, &prepared, &e), e);
    CHECK_OK(choice_open(&sets, &n, prepared.data, prepared.n, &e), e);
    for (size_t i = 0; i < (size_t)sets->n; i++) {
        struct choice_item *q = &sets->at[i], whole = *q;
        struct choice_scores s = { .log_likelihood = &shared };
        CHECK_OK(choice_run(&c, sets, &i, 1, &s, &e), e);
        s.log_likelihood = &alone;
        for (int k = 0; k < whole.n; k++) {
            shares = shares || (k && whole.request[k].n_common > 4);
            q->n = 1;
            q->request[0] = whole.request[k];
            CHECK_OK(choice_run(&c, sets, &i, 1, &s, &e), e);
            CHECK(memcmp(&shared[k], &alone[0], sizeof shared[k]) == 0,
                  "question %zu, choice %d: alone the same bits", i, k);
        }
        *q = whole;
    }
    CHECK(shares, "requests share more than a few ids");
    choice_release(sets, n);
    bytes_release(&prepared);
    js_release(options);
}

/* ---- items, limits, subsets ---- */

static void items_and_subsets(void **state)
{
    (void)state;
    struct js *out = run(&plain, ALL_SETS, (struct how){ 0 });
    const struct js *h = js_get(out, "hellaswag"), *m = js_get(out, "mmlu");

    CHECK(strcmp(js_text(js_at(js_get(h, "document_id"), 0)), "activitynet~c1") == 0 &&
              strcmp(js_text(js_at(js_get(h, "document_id"), 1)), "activitynet~c1") == 0,
          "questions of one video are one document");
    CHECK(strcmp(js_text(js_at(js_get(h, "question_id"), 1)), "11") == 0, "and keep their ids");
    CHECK(js_int(js_at(js_get(h, "turn"), 1)) == 1, "and their places");
    CHECK(!js_find(out, "boolq.question_id"), "elsewhere a question is a document");
    CHECK(strcmp(js_text(js_at(js_get(m, "document_id"), 2)), "high_school_world_history/0") == 0,
          "MMLU's are named by subject");
    const struct js *table = js_get(m, "by_subject");
    CHECK(js_count(js_get(table, "subject")) == 2 && js_int(js_at(js_get(table, "n"), 1)) == 3,
          "and counted by it");
    js_release(out);

    out = run(&plain, "{\"boolq\":{\"path\":\"" DATA "boolq.jsonl\",\"limit\":2}}",
              (struct how){ 0 });
    CHECK(js_int(js_find(out, "boolq.n")) == 2 &&
              strcmp(js_text(js_at(js_find(out, "boolq.document_id"), 1)), "1") == 0,
          "a limit takes the first");
    js_release(out);
    out = run(&plain,
              "{\"boolq\":{\"path\":\"" DATA "boolq.jsonl\",\"limit\":2,\"subset\":\"random\"}}",
              (struct how){ 0 });
    CHECK(js_int(js_find(out, "boolq.n")) == 2, "a random subset has as many");
    js_release(out);
}

static void long_contexts_lose_their_left_end(void **state)
{
    struct profile tight = profile;

    (void)state;
    tight.max_length = 24;
    struct js *out = run(&plain, "{\"boolq\":{\"path\":\"" DATA "boolq.jsonl\"}}",
                         (struct how){ .profile = &tight });
    CHECK(js_int(js_find(out, "boolq.truncated")) == 4, "all four are counted");
    js_release(out);
    struct err e = ERR_INIT;
    out = js_new_object();
    tight.max_length = 2;
    CHECK(try_run(&plain, "{\"hellaswag\":{\"path\":\"" DATA "hellaswag_val.jsonl\"}}",
                  (struct how){ .profile = &tight }, out, &e) < 0 &&
              strstr(e.text, "the model has 2 positions"),
          "a choice that does not fit is refused: %s", e.text);
    js_release(out);
}

/* ---- wrong files ---- */

static void refused(const char *task, const char *file, const char *text, const char *want)
{
    char path[128], options[256];
    struct err e = ERR_INIT;
    struct js *out = js_new_object();

    snprintf(path, sizeof path, "%s/%s", folder, file);
    CHECK_OK(file_replace(path, text, strlen(text), &e), e);
    snprintf(options, sizeof options, "{\"%s\":{\"path\":\"%s\"}}", task, path);
    CHECK(try_run(&plain, options, (struct how){ 0 }, out, &e) < 0, "%s is refused", text);
    CHECK(strstr(e.text, want) && strstr(e.text, file) && strstr(e.text, task),
          "the message says \"%s\", file and task: %s", want, e.text);
    js_release(out);
    unlink(path);
}

static void wrong_files_are_refused(void **state)
{
    (void)state;
    refused("hellaswag", "a.jsonl", "{\"goal\":\"x\",\"sol1\":\"a\",\"sol2\":\"b\"}\n",
            "ind is missing");
    refused("arc_easy", "a.jsonl", "{\"id\":\"1\",\"question\":\"q\",\"answerKey\":\"A\"}\n",
            "choices should be a list");
    refused("arc_easy", "a.jsonl",
            "{\"id\":\"1\",\"question\":\"q\",\"choices\":{\"text\":[\"a\",\"b\"],"
            "\"label\":[\"A\",\"B\"]},\"answerKey\":\"C\"}\n",
            "answerKey \"C\" is the label of no choice");
    refused("piqa", "a.jsonl", "{\"goal\":\"x\",\"sol1\":\"a\",\"sol2\":\"b\"}\n",
            "label is missing");
    refused("piqa", "a.jsonl", "{\"goal\":\"x\",\"sol1\":\"a\",\"sol2\":\"b\",\"label\":2}\n",
            "label should be 0 to 1");
    refused("piqa", "a.jsonl", "{\"goal\":\"x\",\"sol1\":\"\",\"sol2\":\"b\",\"label\":1}\n",
            "choice 0 is empty");
    refused("piqa", "a.jsonl", "[1, 2]\n", "line 1 should be a JSON object");
    refused("piqa", "a.jsonl", "\n\n", "no questions");
    refused("piqa", "a.jsonl", "{\"goal\":\"\xff\"}\n", "line 1");
    refused("boolq", "a.jsonl",
            "{\"question\":\"q\",\"title\":\"t\",\"answer\":true,\"passage\":\"p\"}\n",
            "SuperGLUE's val.jsonl is wanted");
    refused("boolq", "a.jsonl",
            "{\"question\":\"q\",\"passage\":\"p\",\"idx\":3,\"label\":true}\n"
            "{\"question\":\"q\",\"passage\":\"p\",\"idx\":3,\"label\":true}\n",
            "two questions have the id \"3\"");
    refused("winogrande", "a.jsonl",
            "{\"qID\":\"1\",\"sentence\":\"no gap\",\"option1\":\"a\",\"option2\":\"b\","
            "\"answer\":\"\"}\n",
            "sentence has no gap");
    refused("winogrande", "a.jsonl",
            "{\"qID\":\"1\",\"sentence\":\"a _ b\",\"option1\":\"a\",\"option2\":\"b\","
            "\"answer\":\"\"}\n",
            "answer is missing or empty");
    refused("lambada", "a.jsonl", "{\"text\":\"word\"}\n", "text should be several words");
    refused("mmlu", "a.jsonl",
            "{\"subject\":\"s\",\"question\":\"q\",\"choices\":[\"a\",\"b\"],\"answer\":0}\n",
            "choices should be a list of four texts");
}

static void wrong_folders_are_refused(void **state)
{
    char path[128];
    struct err e = ERR_INIT;

    (void)state;
    snprintf(path, sizeof path, "%s/x_test.csv", folder);
    static const char *const files[][2] = {
        { "a,b,c\n", "3 fields, should be 6" },
        { "q,a,b,c,d,E\n", "the answer is \"E\"" },
        { "\"q,a,b,c,d,A\n", "a quoted field has no end" },
        { "q,a,b,c,\"d\"x,A\n", "text behind a quoted field" },
        { "q,a,b,c,\xff,A\n", "byte 8 is not UTF-8" },
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char options[256];
        struct js *out = js_new_object();
        err_clear(&e);
        CHECK_OK(file_replace(path, files[i][0], strlen(files[i][0]), &e), e);
        snprintf(options, sizeof options, "{\"mmlu\":{\"path\":\"%s\"}}", folder);
        CHECK(try_run(&plain, options, (struct how){ 0 }, out, &e) < 0 &&
                  strstr(e.text, files[i][1]) && strstr(e.text, "x_test.csv"),
              "\"%s\" is said: %s", files[i][1], e.text);
        js_release(out);
    }
    unlink(path);
    struct js *out = js_new_object();
    char options[256];
    err_clear(&e);
    snprintf(options, sizeof options, "{\"mmlu\":{\"path\":\"%s\"}}", folder);
    CHECK(try_run(&plain, options, (struct how){ 0 }, out, &e) < 0 &&
              strstr(e.text, "no file SUBJECT_test.csv"),
          "an empty folder: %s", e.text);
    js_release(out);
}

static void damaged_bytes_are_refused(void **state)
{
    struct js *options = js_new_object(), *own = js_new_object();
    struct bytes prepared = BYTES_INIT;
    struct err e = ERR_INIT;
    struct choice_set *sets;
    int n, n_refused = 0;

    (void)state;
    js_set_text(own, "path", DATA "boolq.jsonl");
    js_set(options, "boolq", own);
    CHECK_OK(choice_prepare(options, tokenizer, &profile, &base.config, &prepared, &e), e);
    for (size_t cut = 0; cut < prepared.n; cut++) {
        err_clear(&e);
        CHECK(choice_open(&sets, &n, prepared.data, cut, &e) < 0 && n == 0, "%zu of %zu bytes", cut,
              prepared.n);
    }
    for (size_t i = 0; i < prepared.n; i++) { /* the sanitizers watch */
        err_clear(&e);
        prepared.data[i] = (char)(prepared.data[i] ^ 0x55);
        if (choice_open(&sets, &n, prepared.data, prepared.n, &e) < 0)
            n_refused++;
        else
            choice_release(sets, n);
        prepared.data[i] = (char)(prepared.data[i] ^ 0x55);
    }
    CHECK(n_refused > 20, "%d damages were seen", n_refused);
    bytes_release(&prepared);
    js_release(options);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_those_of_an_independent_program),
        cmocka_unit_test(examples_stand_in_front),
        cmocka_unit_test(piqa_is_read_from_its_own_files),
        cmocka_unit_test(neither_batch_nor_order_changes_a_bit),
        cmocka_unit_test(sharing_changes_no_bit),
        cmocka_unit_test(items_and_subsets),
        cmocka_unit_test(long_contexts_lose_their_left_end),
        cmocka_unit_test(wrong_files_are_refused),
        cmocka_unit_test(wrong_folders_are_refused),
        cmocka_unit_test(damaged_bytes_are_refused),
    };

    return cmocka_run_group_tests(tests, open_demo, close_demo);
}
