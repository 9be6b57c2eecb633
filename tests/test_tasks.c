/* test_tasks.c - what prepare() makes of files, and what it refuses; no model runs. */
#include "check.h"

#include "base/file.h"
#include "base/js.h"
#include "eval/coqa.h"
#include "eval/dataset.h"
#include "eval/pack.h"
#include "eval/profile.h"
#include "eval/task.h"
#include "eval/windows.h"
#include "model/safetensors.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FOLDER "build/test_tasks"

/* Ids are bytes: a token for each of 256, BOS 256 before everything. */
static struct tokenizer *tokenizer;
static struct config config = { .vocab_size = 257, .max_position = 1024 };
static struct profile profile;

static int open_tokenizer(void **state)
{
    struct bytes json = BYTES_INIT;
    struct err e = ERR_INIT;

    (void)state;
    bytes_text(&json, "{\"added_tokens\":[{\"id\":256,\"content\":\"<s>\",\"special\":true}],"
                      "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
                      "{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}],"
                      "\"special_tokens\":{\"<s>\":{\"ids\":[256]}}},"
                      "\"decoder\":{\"type\":\"ByteFallback\"},"
                      "\"model\":{\"byte_fallback\":true,\"merges\":[],\"vocab\":{");
    for (int i = 0; i < 256; i++)
        bytes_printf(&json, "%s\"<0x%02X>\":%d", i ? "," : "", (unsigned)i, i);
    bytes_text(&json, "}}}");
    int rc = tokenizer_open_text(&tokenizer, json.data, json.n, NULL, 0, &e);
    bytes_release(&json);
    if (rc < 0 || profile_find("lm-eval-0.4.12", tokenizer, &config, &profile, &e) < 0 ||
        file_make_folders(FOLDER, &e) < 0)
        print_error("%s\n", e.text);
    return e.code == ERR_NONE ? 0 : -1;
}

static int close_tokenizer(void **state)
{
    (void)state;
    tokenizer_close(tokenizer);
    return 0;
}

static const char *file_of(const char *name, const char *text, size_t n)
{
    static char path[256];
    struct err e = ERR_INIT;

    snprintf(path, sizeof path, FOLDER "/%s", name);
    CHECK_OK(file_replace(path, text, n, &e), e);
    return path;
}

static int prepare(const char *task, const char *options, const struct config *c, struct bytes *out,
                   struct err *e)
{
    struct js *j = js_parse(options, strlen(options), e);

    CHECK(j, "the options are JSON: %s", e->text);
    int rc = task_find(task)->prepare(j, tokenizer, &profile, c, out, e);
    js_release(j);
    return rc;
}

/* Writes the file, prepares it, and wants an error that names both of these. */
static void refused(const char *task, const char *name, const char *text, const char *more,
                    const char *reason)
{
    struct bytes out = BYTES_INIT;
    struct err e = ERR_INIT;
    char options[512];
    const char *path = file_of(name, text, strlen(text));

    snprintf(options, sizeof options, "{\"path\":\"%s\"%s}", path, more);
    CHECK(prepare(task, options, &config, &out, &e) < 0, "%s %.80s is refused", name, text);
    CHECK(strstr(e.text, reason) && (more[0] || strstr(e.text, path)),
          "the message names %s and the file: %s", reason, e.text);
    bytes_release(&out);
}

/* ---- coqa ---- */

#define STORY                                                                                    \
    "{\"id\":\"s1\",\"source\":\"cnn\",\"story\":\"It is red.\",\"questions\":[{\"input_text\":" \
    "\"What?\",\"turn_id\":1},{\"input_text\":\"Who?\",\"turn_id\":2}],\"answers\":["            \
    "{\"input_text\":\"it\"},{\"input_text\":\"Ann\"}],\"additional_answers\":{\"0\":["          \
    "{\"input_text\":\"x\"},{\"input_text\":\"ann\"}],\"2\":[{\"input_text\":\"y\"},"            \
    "{\"input_text\":\"Ann B.\"}]}}"
#define PROMPT "It is red.\n\nQ: What?\n\nA: it\n\nQ: Who?\n\nA:"

static void check_story(const char *path, bool bos)
{
    struct bytes out = BYTES_INIT;
    struct coqa_set set;
    struct err e = ERR_INIT;
    char options[512];
    int64_t prompt_tokens, new_tokens;

    snprintf(options, sizeof options, "{\"path\":\"%s\"}", path);
    CHECK_OK(prepare("coqa", options, &config, &out, &e), e);
    CHECK_OK(coqa_open(&set, out.data, out.n, &e), e);
    CHECK(set.n == 1, "one story");
    const struct coqa_document *d = &set.at[0];
    CHECK(d->id.n == 2 && memcmp(d->id.data, "s1", 2) == 0, "its id");
    CHECK(d->source.n == 3 && memcmp(d->source.data, "cnn", 3) == 0, "its source");
    CHECK(d->turn == 2 && !d->truncated && d->n_golds == 3, "the second turn, three golds");
    CHECK(memcmp(d->golds[0].data, "Ann", 3) == 0 && memcmp(d->golds[1].data, "ann", 3) == 0 &&
              memcmp(d->golds[2].data, "Ann B.", 6) == 0,
          "golds in the annotators' order, as written");
    CHECK(d->n_prompt == strlen(PROMPT) + bos && (!bos || d->prompt[0] == 256),
          "as many ids as bytes, and BOS where the profile adds it");
    for (size_t i = 0; i < strlen(PROMPT); i++)
        CHECK(d->prompt[i + bos] == (unsigned char)PROMPT[i], "id %zu of the prompt", i);
    struct js *j = js_parse(options, strlen(options), &e);
    CHECK_OK(task_find("coqa")->work(j, out.data, out.n, &prompt_tokens, &new_tokens, &e), e);
    CHECK(prompt_tokens == (int64_t)d->n_prompt && new_tokens > 0, "its work is counted");
    js_release(j);

    /* Cut short or grown long, the bytes are refused, never read past. */
    struct coqa_set cut;
    for (size_t n = 0; n < out.n; n++) {
        struct bytes part = BYTES_INIT;
        bytes_add(&part, out.data, n);
        CHECK(coqa_open(&cut, part.data, n, &e) < 0, "%zu of %zu bytes are refused", n, out.n);
        bytes_release(&part);
    }
    bytes_add(&out, "", 1);
    CHECK(coqa_open(&cut, out.data, out.n, &e) < 0, "a byte too much is refused");
    coqa_release(&set);
    bytes_release(&out);
}

static void a_story_becomes_a_prompt(void **state)
{
    static const char official[] = "{\"version\":\"1.0\",\"data\":[" STORY "]}";
    static const char lines[] = "\n" STORY "\r\n\n";

    (void)state;
    check_story(file_of("one.json", official, strlen(official)), true);
    check_story(file_of("one.jsonl", lines, strlen(lines)), true);
    profile.add_bos = false;
    check_story(file_of("one.json", official, strlen(official)), false);
    profile.add_bos = true;
}

static void bos_is_not_doubled(void **state)
{
    static const char text[] = "<s>ab";
    struct token_ids ids = TOKEN_IDS_INIT;
    struct err e = ERR_INIT;

    (void)state;
    CHECK_OK(profile_encode(&profile, tokenizer, &config, text, 5, &ids, &e), e);
    CHECK(ids.n == 3 && ids.ids[0] == 256 && ids.ids[1] == 'a', "the text brought its own BOS");
    token_ids_release(&ids);
}

static void long_prompts_lose_their_left(void **state)
{
    static const char official[] = "{\"data\":[" STORY "]}";
    struct config small = config;
    struct bytes out = BYTES_INIT;
    struct coqa_set set;
    struct err e = ERR_INIT;
    size_t whole = strlen(PROMPT) + 1;
    char options[512];

    (void)state;
    snprintf(options, sizeof options, "{\"path\":\"%s\"}",
             file_of("one.json", official, strlen(official)));
    for (int less = 0; less < 3; less++) {
        small.max_position = 256 + (int64_t)whole - less;
        CHECK_OK(profile_find("lm-eval-0.4.12", tokenizer, &small, &profile, &e), e);
        out.n = 0;
        CHECK_OK(prepare("coqa", options, &small, &out, &e), e);
        CHECK_OK(coqa_open(&set, out.data, out.n, &e), e);
        CHECK(set.at[0].n_prompt == whole - (size_t)less && set.at[0].truncated == (less > 0),
              "%d ids are cut, and counted", less);
        CHECK(set.at[0].prompt[0] == (less == 0 ? 256 : PROMPT[less - 1]), "from the left");
        coqa_release(&set);
    }
    small.max_position = 256;
    CHECK_OK(profile_find("lm-eval-0.4.12", tokenizer, &small, &profile, &e), e);
    CHECK(prepare("coqa", options, &small, &out, &e) < 0 && strstr(e.text, "256"),
          "no room for a prompt: %s", e.text);
    bytes_release(&out);
    CHECK_OK(profile_find("lm-eval-0.4.12", tokenizer, &config, &profile, &e), e);
}

#define DATA(story) "{\"data\":[" STORY "," story "]}"

static void bad_stories_name_file_and_item(void **state)
{
    (void)state;
    refused("coqa", "bad.json", "", "", "JSON");
    refused("coqa", "bad.json", "{\"data\":[]}", "", "no stories");
    refused("coqa", "bad.json", "[]", "", "\"data\"");
    refused("coqa", "bad.json", "{\"data\":{}}", "", "\"data\"");
    refused("coqa", "bad.jsonl", "\n \n", "", "no stories");
    refused("coqa", "bad.jsonl", STORY "\n{\n", "", "line 2");
    refused("coqa", "bad.jsonl", STORY "\n7\n", "", "line 2");
    refused("coqa", "bad.json", DATA("5"), "", "data[1]");
    refused("coqa", "bad.json", DATA("{}"), "", "id is missing, in data[1]");
    refused("coqa", "bad.json", DATA("{\"id\":\"a\",\"story\":\"s\"}"), "", "questions");
    refused("coqa", "bad.json",
            DATA("{\"id\":\"a\",\"story\":\"s\",\"questions\":[],\"answers\":[]}"), "",
            "questions is missing, empty");
    refused("coqa", "bad.json",
            DATA("{\"id\":\"a\",\"questions\":[{\"input_text\":\"q\"}],\"answers\":[{"
                 "\"input_text\":\"a\"}]}"),
            "", "story is missing, in data[1]");
    refused("coqa", "bad.json",
            DATA("{\"id\":\"a\",\"story\":\"s\",\"questions\":[{\"input_text\":\"q\"}],"
                 "\"answers\":[{\"span_text\":\"a\"}]}"),
            "", "answers[0].input_text");
    refused("coqa", "bad.json",
            DATA("{\"id\":\"a\",\"story\":\"s\",\"questions\":[{\"input_text\":\"q\"}],"
                 "\"answers\":[{\"input_text\":\"a\"},{\"input_text\":\"b\"}]}"),
            "", "1 questions, but 2 answers");
    refused("coqa", "bad.json",
            DATA("{\"id\":\"a\",\"story\":\"s\",\"questions\":[{\"input_text\":\"q\"}],"
                 "\"answers\":[{\"input_text\":\"a\"}],\"additional_answers\":{\"1\":[]}}"),
            "", "1[0].input_text is missing or no string, in additional_answers");
    refused("coqa", "bad.json", "{\"data\":[{\"id\":\"\xFF\"}]}", "", "byte 0xff");
}

#define STORY2                                                                                   \
    "{\"id\":\"s2\",\"source\":\"race\",\"story\":\"S.\",\"questions\":[{\"input_text\":\"A?\"," \
    "\"turn_id\":1}],\"answers\":[{\"input_text\":\"a\",\"turn_id\":1}]}"

static void every_turn_is_a_document(void **state)
{
    static const char official[] = "{\"data\":[" STORY "," STORY2 "]}";
    static const char *const prompts[] = { "It is red.\n\nQ: What?\n\nA:", PROMPT,
                                           "S.\n\nQ: A?\n\nA:" };
    struct coqa_options o = { .all_turns = true };
    struct bytes out = BYTES_INIT;
    struct coqa_set set;
    struct err e = ERR_INIT;
    char options[512];
    size_t n;

    (void)state;
    snprintf(options, sizeof options, "{\"path\":\"%s\",\"turns\":\"all\"}",
             file_of("two.json", official, strlen(official)));
    CHECK_OK(prepare("coqa", options, &config, &out, &e), e);
    CHECK_OK(coqa_open(&set, out.data, out.n, &e), e);
    CHECK(set.n == 3 && set.n_stories == 2 && set.first[1] == 2, "three turns of two stories");
    for (size_t i = 0; i < 3; i++) {
        const struct coqa_document *d = &set.at[i];
        CHECK(d->n_prompt == strlen(prompts[i]) + 1 && d->turn == (i == 1 ? 2u : 1u),
              "turn %u has its own history", d->turn);
        for (size_t k = 0; k < strlen(prompts[i]); k++)
            CHECK(d->prompt[k + 1] == (unsigned char)prompts[i][k], "id %zu of prompt %zu", k, i);
    }
    CHECK(set.at[0].n_golds == 3 && memcmp(set.at[0].golds[0].data, "it", 2) == 0 &&
              memcmp(set.at[0].golds[1].data, "x", 1) == 0 &&
              memcmp(set.at[0].golds[2].data, "y", 1) == 0,
          "the golds are of the turn that is asked");
    size_t *at = coqa_pick_turns(&set, &o, 0, &n);
    CHECK(n == 3 && at[2] == 2, "all of them");
    CHECK(memcmp(set.at[1].prompt, set.at[0].prompt, set.at[0].n_prompt * sizeof(int32_t)) == 0,
          "a turn's prompt begins with the one before");
    free(at);
    o.limit = 1;
    at = coqa_pick_turns(&set, &o, 0, &n);
    CHECK(n == 2 && at[0] == 0 && at[1] == 1, "a limit counts stories");
    free(at);
    coqa_release(&set);
    bytes_release(&out);
    refused("coqa", "twice.json", "{\"data\":[" STORY "," STORY "]}", "",
            "two stories have the id \"s1\"");
    refused(
        "coqa", "turn.json",
        DATA("{\"id\":\"a\",\"story\":\"s\",\"questions\":[{\"input_text\":\"q\",\"turn_id\":1}],"
             "\"answers\":[{\"input_text\":\"a\",\"turn_id\":2}]}"),
        "", "questions[0] is turn 1, but answers[0] is turn 2");
    refused("coqa", "few.json",
            DATA("{\"id\":\"a\",\"story\":\"s\",\"questions\":[{\"input_text\":\"q\"},"
                 "{\"input_text\":\"r\"}],\"answers\":[{\"input_text\":\"a\"},{\"input_text\":"
                 "\"b\"}],\"additional_answers\":{\"0\":[{\"input_text\":\"a\"}]}}"),
            ",\"turns\":\"all\"", "0[1].input_text is missing");
}

/* ---- the official evaluation ---- */

/* One story of a question for every rule; four golds each, of which one is given here and the
 * others are the same. */
static const struct {
    const char *source, *golds[4], *prediction;
    double em, f1;
} rules[] = {
    { "mctest", { "white", "white", "White", "It was white" }, "white", 1, 1 },
    { "mctest", { "white", "white", "white", "white" }, "The white.", 1, 1 },
    { "gutenberg", { "a barn", "in a barn", "the barn" }, "barn", 1, 1 },
    { "gutenberg", { "red and blue", "blue and red", "red, blue" }, "blue and red", 2.0 / 3, 1 },
    { "race", { "the" }, "a", 1, 1 },
    { "race", { "" }, "the", 1, 1 },
    { "cnn", { "unknown" }, "", 0, 0 },
    { "cnn", { "U.S.A." }, "usa", 1, 1 },
    { "wikipedia", { "the-end" }, "the end", 0, 0 },
    { "wikipedia", { "42" }, "42.0", 0, 0 },
    { "reddit", { "It\xE2\x80\x99s red" }, "its red", 0, 0.5 },
    { "reddit", { "an apple a day" }, "apple day apple", 0, 0.8 },
    { "science", { "two  spaces" }, "two\xC2\xA0\xC2\xA0spaces", 1, 1 },
    { "science", { "a\xCC\x81" }, "\xCC\x81", 1, 1 },
    { "science", { "never answered" }, NULL, 0, 0 },
};
enum { N_RULES = sizeof rules / sizeof *rules };

static char *official_data(void)
{
    struct js *all = js_new_object(), *data = js_new_array();

    for (int i = 0; i < N_RULES; i++) {
        struct js *story = js_new_object(), *q = js_new_array(), *a = js_new_array();
        struct js *one = js_new_object(), *more = js_new_object();
        char id[16];
        snprintf(id, sizeof id, "r%d", i);
        js_set_text(story, "id", id);
        js_set_text(story, "source", rules[i].source);
        js_set_text(story, "story", "s");
        js_set_text(one, "input_text", "q?");
        js_set_int(one, "turn_id", 1);
        js_append(q, one);
        one = js_new_object();
        js_set_text(one, "input_text", rules[i].golds[0]);
        js_set_int(one, "turn_id", 1);
        js_append(a, one);
        for (int k = 1; k < 4 && rules[i].golds[k]; k++) {
            struct js *list = js_new_array();
            one = js_new_object();
            js_set_text(one, "input_text", rules[i].golds[k]);
            js_append(list, one);
            js_set(more, (const char *[]){ "0", "1", "2" }[k - 1], list);
        }
        js_set(story, "questions", q);
        js_set(story, "answers", a);
        js_set(story, "additional_answers", more);
        js_append(data, story);
    }
    js_set(all, "data", data);
    char *text = js_write(all, NULL);
    js_release(all);
    return text;
}

static char *official_predictions(void)
{
    struct js *all = js_new_array();

    for (int i = N_RULES - 1; i >= 0; i--) { /* any order */
        struct js *one = js_new_object();
        char id[16];
        snprintf(id, sizeof id, "r%d", i);
        js_set_text(one, "id", id);
        js_set_int(one, "turn_id", 1);
        js_set_text(one, "answer", rules[i].prediction);
        if (rules[i].prediction)
            js_append(all, one);
        else
            js_release(one);
    }
    char *text = js_write(all, NULL);
    js_release(all);
    return text;
}

static void near_percent(const struct js *table, const char *domain, double em, double f1, int n)
{
    const struct js *row = js_get(table, domain);

    CHECK(js_int(js_get(row, "turns")) == n && check_near(js_real(js_get(row, "em")), em, 1e-9) &&
              check_near(js_real(js_get(row, "f1")), f1, 1e-9),
          "%s: %g / %g of %d turns, got %g / %g", domain, em, f1, n, js_real(js_get(row, "em")),
          js_real(js_get(row, "f1")));
}

static void official_scores_by_domain(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    int64_t n_missing;
    char *data = official_data(), *predictions = official_predictions();

    file_of("data.json", data, strlen(data));
    file_of("said.json", predictions, strlen(predictions));
    struct js *t = coqa_official(FOLDER "/said.json", FOLDER "/data.json", &n_missing, &e);
    CHECK(t, "it is scored: %s", e.text);
    CHECK(n_missing == 1, "one turn has no prediction");
    near_percent(t, "children_stories", 100, 100, 2);
    near_percent(t, "literature", 83.3, 100, 2);
    near_percent(t, "mid-high_school", 100, 100, 2);
    near_percent(t, "news", 50, 50, 2);
    near_percent(t, "wikipedia", 0, 0, 2);
    near_percent(t, "reddit", 0, 65, 2);
    near_percent(t, "science", 66.7, 66.7, 3);
    near_percent(t, "in_domain", 66.7, 70, 10);
    near_percent(t, "out_domain", 40, 66, 5);
    near_percent(t, "overall", 57.8, 68.7, 15);
    js_release(t);
    free(data);
    free(predictions);
}

static void official_refuses(const char *predictions, const char *reason)
{
    struct err e = ERR_INIT;
    int64_t n_missing;

    file_of("said.json", predictions, strlen(predictions));
    CHECK(!coqa_official(FOLDER "/said.json", FOLDER "/two.json", &n_missing, &e) &&
              strstr(e.text, reason),
          "%s: %s", reason, e.text);
}

static void bad_predictions_are_refused(void **state)
{
    (void)state;
    static const char official[] = "{\"data\":[" STORY "," STORY2 "]}";

    file_of("two.json", official, strlen(official));
    official_refuses("{\"id\":\"s1\"}", "should be a list of objects");
    official_refuses("[5]", "[0]");
    official_refuses("[{\"id\":\"s1\",\"turn_id\":1}]", "answer is missing");
    official_refuses("[{\"id\":\"s1\",\"turn_id\":\"1\",\"answer\":\"x\"}]", "turn_id");
    official_refuses("[{\"id\":\"s1\",\"turn_id\":1,\"answer\":\"x\"},"
                     "{\"id\":\"s1\",\"turn_id\":1,\"answer\":\"y\"}]",
                     "two predictions for turn 1");
    official_refuses("[", "JSON");
    static const char strange[] = "{\"data\":[{\"id\":\"a\",\"source\":\"blog\",\"story\":\"s\","
                                  "\"questions\":[{\"input_text\":\"q\"}],\"answers\":[{"
                                  "\"input_text\":\"a\"}]}]}";
    file_of("two.json", strange, strlen(strange));
    official_refuses("[]", "\"blog\" belongs to no domain of CoQA");
}

static void bad_options_are_refused(void **state)
{
    struct bytes out = BYTES_INIT;
    struct err e = ERR_INIT;

    (void)state;
    refused("coqa", "one.json", "", ",\"limit\":-1", "limit is -1");
    refused("coqa", "one.json", "", ",\"subset\":\"some\"", "some");
    refused("coqa", "one.json", "", ",\"turns\":\"first\"", "should be last or all");
    refused("coqa", "one.json", "", ",\"num_fewshot\":1", "num_fewshot");
    refused("perplexity", "one.txt", "", ",\"protocol\":\"ptb\"", "should be gptq, lm_eval or");
    CHECK(prepare("coqa", "{\"path\":\"" FOLDER "/none.json\"}", &config, &out, &e) < 0 &&
              strstr(e.text, "none.json"),
          "an absent file is named: %s", e.text);
    CHECK(prepare("coqa", "{}", &config, &out, &e) < 0 && strstr(e.text, "path"), "no path: %s",
          e.text);
    CHECK(prepare("sanity", "{\"on_broken\":\"stop\"}", &config, &out, &e) < 0 &&
              strstr(e.text, "stop"),
          "on_broken: %s", e.text);
    CHECK(profile_find("lm-eval-9", tokenizer, &config, &(struct profile){ 0 }, &e) < 0 &&
              strstr(e.text, "lm-eval-9") && strstr(e.text, "lm-eval-0.4.9"),
          "an unknown profile, and what is known: %s", e.text);
    bytes_release(&out);
}

/* ---- which documents ---- */

static void documents_are_drawn_without_replacement(void **state)
{
    long first_drawn[10] = { 0 };
    size_t n;

    (void)state;
    for (int64_t seed = 0; seed < 400; seed++) {
        size_t *at = coqa_pick(10, 4, true, seed, &n);
        CHECK(n == 4, "four of ten");
        for (size_t i = 0; i < n; i++) {
            CHECK(at[i] < 10 && (i == 0 || at[i] > at[i - 1]), "ascending, none twice");
            first_drawn[at[i]]++;
        }
        free(at);
    }
    for (int i = 0; i < 10; i++) /* 160 expected, standard deviation 9.8 */
        CHECK(first_drawn[i] > 110 && first_drawn[i] < 210, "document %d came %ld times", i,
              first_drawn[i]);
    for (int64_t limit = 9; limit <= 11; limit++) {
        size_t *at = coqa_pick(10, limit, false, 5, &n);
        CHECK(n == (limit < 10 ? 9 : 10) && at[0] == 0 && at[n - 1] == n - 1,
              "the first %lld of ten", (long long)limit);
        free(at);
    }
    size_t *at = coqa_pick(10, 0, true, 5, &n);
    CHECK(n == 10, "0 is all");
    free(at);
}

/* ---- perplexity ---- */

static int64_t work_of(const char *options, const struct bytes *prepared)
{
    struct err e = ERR_INIT;
    struct js *j = js_parse(options, strlen(options), &e);
    int64_t prompt_tokens = 0, new_tokens = 1;

    CHECK_OK(task_find("perplexity")
                 ->work(j, prepared->data, prepared->n, &prompt_tokens, &new_tokens, &e),
             e);
    CHECK(new_tokens == 0, "nothing is generated");
    js_release(j);
    return prompt_tokens;
}

static void windows_take_whole_ones(void **state)
{
    static const struct {
        const char *name, *text;
        int window;
        int64_t n_tokens;
    } rows[] = {
        { "w.txt", "abcdefg", 4, 8 }, /* 1 BOS + 7 */
        { "w.raw", "abcdefgh", 4, 8 },
        { "w.txt", "abc", 4, 4 },
        { "w.jsonl", "{\"text\":\"ab\"}\n{\"text\":\"c\"}\n", 2, 6 }, /* BOS a b LF LF c */
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct bytes out = BYTES_INIT;
        struct err e = ERR_INIT;
        char options[512];
        snprintf(options, sizeof options, "{\"path\":\"%s\",\"window\":%d}",
                 file_of(rows[i].name, rows[i].text, strlen(rows[i].text)), rows[i].window);
        CHECK_OK(prepare("perplexity", options, &config, &out, &e), e);
        CHECK(work_of(options, &out) == rows[i].n_tokens, "row %zu: %lld tokens", i,
              (long long)work_of(options, &out));
        bytes_release(&out);
    }
}

static void bad_texts_are_refused(void **state)
{
    (void)state;
    refused("perplexity", "p.txt", "ab", ",\"window\":4", "3 tokens, less than one window of 4");
    refused("perplexity", "p.txt", "", ",\"window\":4", "less than one window");
    refused("perplexity", "p.txt", "abc\xFFz", ",\"window\":2", "byte 3");
    refused("perplexity", "p.txt", "abc", ",\"window\":1", "2 or more");
    refused("perplexity", "p.txt", "abc", ",\"window\":1025", "1024 positions");
    refused("perplexity", "p.jsonl", "{\"text\":\"a\"}\n{\"txt\":\"b\"}\n", ",\"window\":2",
            "text is missing, in line 2");
    refused("perplexity", "p.jsonl", "{\"text\":\"a\"", ",\"window\":2", "line 1");
    refused("perplexity", "p.safetensors", "no tensors here", ",\"window\":2", "p.safetensors");
}

static void ids_come_as_tensors(void **state)
{
    int64_t ids[] = { 5, 6, 7, 8, 9, 10 };
    int32_t beyond[] = { 5, 257 };
    struct safetensors_out tensor = {
        .name = "input_ids", .dtype = DTYPE_I64, .n_dims = 2, .shape = { 2, 3 }, .data = ids
    };
    struct bytes out = BYTES_INIT;
    struct err e = ERR_INIT;
    static const char path[] = FOLDER "/ids.safetensors";
    static const char options[] = "{\"path\":\"" FOLDER "/ids.safetensors\",\"window\":2}";

    (void)state;
    CHECK_OK(safetensors_write(path, &tensor, 1, &e), e);
    CHECK_OK(prepare("perplexity", options, &config, &out, &e), e);
    struct unpack u = { (const unsigned char *)out.data, out.n, false };
    unpack_u32(&u);
    CHECK(unpack_u32(&u) == 3, "each row is a window as it stands");
    CHECK(work_of(options, &out) == 6, "two of them");
    tensor.n_dims = 1;
    tensor.shape[0] = 6;
    CHECK_OK(safetensors_write(path, &tensor, 1, &e), e);
    out.n = 0;
    CHECK_OK(prepare("perplexity", options, &config, &out, &e), e);
    u = (struct unpack){ (const unsigned char *)out.data, out.n, false };
    unpack_u32(&u);
    CHECK(unpack_u32(&u) == 2 && work_of(options, &out) == 6, "a row of ids is cut");
    tensor = (struct safetensors_out){
        .name = "input_ids", .dtype = DTYPE_I32, .n_dims = 1, .shape = { 2 }, .data = beyond
    };
    CHECK_OK(safetensors_write(path, &tensor, 1, &e), e);
    CHECK(prepare("perplexity", options, &config, &out, &e) < 0 && strstr(e.text, "257") &&
              strstr(e.text, path),
          "an id that the model does not have: %s", e.text);
    tensor.name = "ids";
    CHECK_OK(safetensors_write(path, &tensor, 1, &e), e);
    CHECK(prepare("perplexity", options, &config, &out, &e) < 0 && strstr(e.text, "input_ids"),
          "no such tensor: %s", e.text);
    tensor = (struct safetensors_out){
        .name = "input_ids", .dtype = DTYPE_F32, .n_dims = 1, .shape = { 2 }, .data = beyond
    };
    CHECK_OK(safetensors_write(path, &tensor, 1, &e), e);
    CHECK(prepare("perplexity", options, &config, &out, &e) < 0 && strstr(e.text, "F32"),
          "not of integers: %s", e.text);
    bytes_release(&out);
}

/* Windows of a text under a protocol. */
static struct windows cut(const char *name, const char *text, const char *more)
{
    struct bytes out = BYTES_INIT;
    struct windows w;
    struct err e = ERR_INIT;
    char options[512];

    snprintf(options, sizeof options, "{\"path\":\"%s\"%s}", file_of(name, text, strlen(text)),
             more);
    CHECK_OK(prepare("perplexity", options, &config, &out, &e), e);
    CHECK_OK(windows_open(&w, "perplexity", out.data, out.n, &e), e);
    for (size_t n = 0; n < out.n; n++) {
        struct windows part;
        CHECK(windows_open(&part, "perplexity", out.data, n, &e) < 0, "%zu bytes are refused", n);
    }
    bytes_release(&out);
    return w;
}

static void window_is(const struct windows *w, int64_t i, const char *ids, int64_t n_scored)
{
    const struct text_window *x = &w->at[i];

    CHECK(x->n == (int64_t)strlen(ids) && x->n_scored == n_scored,
          "window %d has %d ids, %d of them scored, got %d and %d", (int)i, (int)strlen(ids),
          (int)n_scored, (int)x->n, (int)x->n_scored);
    for (int64_t k = 0; k < x->n; k++)
        CHECK(x->ids[k] == (ids[k] == '^' ? 256 : (unsigned char)ids[k]), "window %d, id %d",
              (int)i, (int)k);
}

static void llama_cpp_scores_second_halves(void **state)
{
    (void)state;
    struct windows w = cut("l.txt", "abcdefghijk", ",\"protocol\":\"llama_cpp\",\"window\":4");

    CHECK(w.n == 3, "BOS and eleven bytes are three windows of 4");
    window_is(&w, 0, "^abc", 1); /* 4 - 1 - 2: position 2 predicts position 3 */
    window_is(&w, 1, "^efg", 1); /* the first id gives way to BOS */
    window_is(&w, 2, "^ijk", 1);
    windows_release(&w);
    profile.add_bos = false;
    w = cut("l.txt", "abcdefghij", ",\"protocol\":\"llama_cpp\",\"window\":5");
    CHECK(w.n == 2, "ten bytes");
    window_is(&w, 0, "abcde", 2);
    window_is(&w, 1, "fghij", 2);
    windows_release(&w);
    profile.add_bos = true;
    refused("perplexity", "l.txt", "abcdef", ",\"protocol\":\"llama_cpp\",\"window\":4",
            "less than two windows of 4");
}

static void lm_eval_rolls_over_documents(void **state)
{
    static const char lines[] = "{\"text\":\"abcdefg\"}\n{\"text\":\"xy\"}\n";

    (void)state;
    profile.add_bos = false;
    struct windows w = cut("d.jsonl", lines, ",\"protocol\":\"lm_eval\",\"window\":3");
    CHECK(w.n == 4 && w.n_documents == 2 && w.n_words == 2 && w.n_bytes == 9, "two documents");
    window_is(&w, 0, "^abc", 3);
    window_is(&w, 1, "cdef", 3); /* one id of context */
    window_is(&w, 2, "defg", 1); /* the last one reaches back */
    window_is(&w, 3, "^xy", 2);
    CHECK(w.at[2].document == 0 && w.at[3].document == 1, "documents are numbered");
    CHECK(windows_n_scored(&w) == 9, "every id once");
    windows_release(&w);
    profile.add_bos = true;
    w = cut("d.jsonl", lines, ",\"protocol\":\"lm_eval\"");
    CHECK(w.n == 2 && w.window == 1024, "a window is as long as the model");
    window_is(&w, 0, "^^abcdefg", 8); /* the tokenizer's BOS is scored behind the prefix */
    windows_release(&w);
    refused("perplexity", "e.jsonl", "{\"text\":\"a\"}\n{\"txt\":1}\n", ",\"protocol\":\"lm_eval\"",
            "line 2");
    refused("perplexity", "f.safetensors", "x", ",\"protocol\":\"lm_eval\"", "it needs a text");
}

static void wikitext_is_detokenized(void **state)
{
    static const struct {
        const char *page, *text;
        int64_t n_words, n_bytes;
    } rows[] = {
        { " = = Early life = = \n Born in 1 @,@ 999 , he said \" hello there \" . \n",
          " == Early life ==\nBorn in 1,999, he said \"hello there\".\n", 21, 69 },
        { " The dogs ' bowl ( red ) cost 3 @.@ 5 N 20 ; ok ? \n",
          " The dogs' bowl (red) cost 3.5 1 20; ok?\n", 18, 51 },
        { "", "", 1, 0 },
        { "a ( b", "a ( b", 3, 5 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct bytes out = BYTES_INIT;
        size_t n = strlen(rows[i].page);
        bytes_text(&out, "");
        wikitext_detokenize(rows[i].page, n, &out);
        CHECK(!strcmp(out.data, rows[i].text), "\"%s\" is \"%s\"", rows[i].page, out.data);
        CHECK(wikitext_n_words(rows[i].page, n) == rows[i].n_words && (int64_t)n == rows[i].n_bytes,
              "%d words of \"%s\", got %d", (int)rows[i].n_words, rows[i].page,
              (int)wikitext_n_words(rows[i].page, n));
        bytes_release(&out);
    }
    static const char two[] = " \n = A = \n \n x \n = = B = = \n y \n = C = \n z";
    CHECK(wikitext_page(two, strlen(two)) == (size_t)(strstr(two, " = C") - two),
          "a page ends before the next title");
}

static void wikitext_has_62_pages(void **state)
{
    char path[512];
    struct bytes text = BYTES_INIT;
    struct err e = ERR_INIT;
    int n_pages = 0;

    (void)state;
    snprintf(path, sizeof path, "%s/text/wiki.test.raw", check_data());
    if (!check_has(check_data(), "text/wiki.test.raw"))
        CHECK_MISSING("%s", path);
    CHECK_OK(file_read(path, &text, &e), e);
    for (size_t at = 0; at < text.n; n_pages++)
        at += wikitext_page(text.data + at, text.n - at);
    CHECK(n_pages == 62, "the test part of WikiText-2 has 62 pages, got %d", n_pages);
    bytes_release(&text);
}

/* ---- the list ---- */

static void every_task(void **state)
{
    (void)state;
    CHECK(strcmp(tasks[0]->name, "sanity") == 0, "sanity runs first");
    for (int i = 0; tasks[i]; i++)
        CHECK(tasks[i]->prepare && tasks[i]->run && tasks[i]->work && tasks[i]->version >= 1 &&
                  task_find(tasks[i]->name) == tasks[i],
              "%s is whole", tasks[i]->name);
    CHECK(!task_find("hellaswag"), "what is not there is not found");
}

static void foreign_bytes_are_refused(void **state)
{
    struct err e = ERR_INIT;
    int64_t a, b;

    (void)state;
    for (int i = 0; tasks[i]; i++)
        CHECK(tasks[i]->work(NULL, "who knows what", 14, &a, &b, &e) < 0 &&
                  strstr(e.text, tasks[i]->name),
              "%s refuses bytes of another kind: %s", tasks[i]->name, e.text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_story_becomes_a_prompt),
        cmocka_unit_test(bos_is_not_doubled),
        cmocka_unit_test(long_prompts_lose_their_left),
        cmocka_unit_test(bad_stories_name_file_and_item),
        cmocka_unit_test(every_turn_is_a_document),
        cmocka_unit_test(official_scores_by_domain),
        cmocka_unit_test(bad_predictions_are_refused),
        cmocka_unit_test(bad_options_are_refused),
        cmocka_unit_test(documents_are_drawn_without_replacement),
        cmocka_unit_test(windows_take_whole_ones),
        cmocka_unit_test(bad_texts_are_refused),
        cmocka_unit_test(ids_come_as_tensors),
        cmocka_unit_test(llama_cpp_scores_second_halves),
        cmocka_unit_test(lm_eval_rolls_over_documents),
        cmocka_unit_test(wikitext_is_detokenized),
        cmocka_unit_test(wikitext_has_62_pages),
        cmocka_unit_test(every_task),
        cmocka_unit_test(foreign_bytes_are_refused),
    };

    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
