/* test_tokenizer.c - constructed tokenizers: every component, errors by name, odd texts.
 *
 * tests/golden/tokenizer_cases.json holds small tokenizers of random components with the ids and
 * texts that Hugging Face tokenizers 0.23 gives for them.  */
#include "check.h"

#include "base/js.h"
#include "base/memory.h"
#include "base/rng.h"
#include "tokenizer/tokenizer.h"

#include <string.h>

static const char byte_level_start[] =
    "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":9,\"content\":\"<s>\",\"special\":true}],"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
    "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",";

static struct tokenizer *open_ok(const char *json, const char *config)
{
    struct tokenizer *t = NULL;
    struct err e = ERR_INIT;

    CHECK_OK(tokenizer_open_text(&t, json, strlen(json), config, config ? strlen(config) : 0, &e),
             e);
    return t;
}

/* "1 2 3": ids as text, so that a check reads well; the caller frees it. */
static char *ids_of_bytes(const struct tokenizer *t, const char *text, size_t n, bool special)
{
    struct token_ids ids = TOKEN_IDS_INIT;
    struct bytes out = BYTES_INIT;
    struct err e = ERR_INIT;

    CHECK_OK(tokenizer_encode(t, text, n, special, &ids, &e), e);
    bytes_text(&out, "");
    for (size_t i = 0; i < ids.n; i++)
        bytes_printf(&out, i ? " %d" : "%d", ids.ids[i]);
    token_ids_release(&ids);
    return out.data;
}

#define CHECK_IDS(t, text, special, want)                                            \
    do {                                                                             \
        char *got_ = ids_of_bytes(t, text, strlen(text), special);                   \
        CHECK(strcmp(got_, want) == 0, "\"%s\" gives %s, not %s", text, want, got_); \
        free(got_);                                                                  \
    } while (0)

static void check_text(const struct tokenizer *t, const int32_t *ids, size_t n, bool clean_up,
                       const char *want)
{
    struct err e = ERR_INIT;
    char *text = NULL;

    CHECK_OK(tokenizer_decode(t, ids, n, true, clean_up, &text, NULL, &e), e);
    CHECK(strcmp(text, want) == 0, "the ids give \"%s\", not \"%s\"", want, text);
    free(text);
}

static void refused(const char *json, const char *config, const char *reason)
{
    struct tokenizer *t = NULL;
    struct err e = ERR_INIT;
    int rc = tokenizer_open_text(&t, json, strlen(json), config, config ? strlen(config) : 0, &e);

    CHECK(rc < 0 && t == NULL && e.code == ERR_INPUT, "%.200s is refused", json);
    CHECK(strstr(e.text, reason), "the reason names %s: %s", reason, e.text);
}

/* ---- against the reference ---- */

static long case_differs(const struct js *c, long *n_values)
{
    static const char *const decoded[][2] = { { "ids", "dec" },
                                              { "ids", "dec2" },
                                              { "rids", "rdec" } };
    struct tokenizer *t = NULL;
    struct err e = ERR_INIT;
    long wrong = 0;
    size_t n_json = 0;
    char *json = js_write(js_get(c, "tokenizer"), &n_json);

    CHECK_OK(tokenizer_open_text(&t, json, n_json, NULL, 0, &e), e);
    for (size_t i = 0; i < js_count(js_get(c, "rows")); i++) {
        const struct js *row = js_at(js_get(c, "rows"), i), *text = js_get(row, "text");
        for (int special = 0; special < 2; special++) {
            const struct js *want = js_get(row, special ? "ids" : "plain");
            struct token_ids ids = TOKEN_IDS_INIT;
            CHECK_OK(tokenizer_encode(t, js_text(text), js_text_bytes(text), special, &ids, &e), e);
            bool same = ids.n == js_count(want);
            for (size_t k = 0; k < ids.n && same; k++)
                same = js_int(js_at(want, k)) == ids.ids[k];
            wrong += !same;
            *n_values += (long)js_count(want);
            token_ids_release(&ids);
        }
        for (size_t d = 0; d < 3; d++) {
            const struct js *list = js_get(row, decoded[d][0]), *want = js_get(row, decoded[d][1]);
            int32_t *ids = mem_array(js_count(list), sizeof *ids);
            char *got = NULL;
            size_t n = 0;
            for (size_t k = 0; k < js_count(list); k++)
                ids[k] = (int32_t)js_int(js_at(list, k));
            CHECK_OK(tokenizer_decode(t, ids, js_count(list), d == 0, false, &got, &n, &e), e);
            wrong += n != js_text_bytes(want) || memcmp(got, js_text(want), n) != 0;
            *n_values += 1;
            free(got);
            free(ids);
        }
    }
    free(json);
    tokenizer_close(t);
    return wrong;
}

static void small_tokenizers_agree(void **state)
{
    struct err e = ERR_INIT;
    struct js *cases = js_read("tests/golden/tokenizer_cases.json", &e);
    long n_values = 0, wrong = 0;

    (void)state;
    CHECK(cases, "the cases can be read: %s", e.text);
    for (size_t i = 0; i < js_count(cases); i++) {
        long w = case_differs(js_at(cases, i), &n_values);
        if (w)
            print_error("case %zu: %ld texts differ\n", i, w);
        wrong += w;
    }
    js_release(cases);
    check_report("tokenizer_cases.json", n_values, (double)wrong, 0);
}

/* ---- by hand ---- */

static void merges_of_both_forms(void **state)
{
    static const char vocab[] = "\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"bc\":4,\"abc\":5},";
    static const char *const merges[] = { "[\"b c\",\"a b\",\"ab c\"]",
                                          "[[\"b\",\"c\"],[\"a\",\"b\"],[\"ab\",\"c\"]]",
                                          "[\"#version: 0.2\",\"b c\",\"a b\",\"ab c\"]" };

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct bytes json = BYTES_INIT;
        bytes_printf(&json, "%s%s\"merges\":%s}}", byte_level_start, vocab, merges[i]);
        struct tokenizer *t = open_ok(json.data, NULL);
        CHECK_IDS(t, "abc", false, "0 4"); /* b c has the lowest rank */
        CHECK_IDS(t, "abab", false, "3 3");
        CHECK_IDS(t, "ab<s>c", false, "3 9 2");
        CHECK_IDS(t, "", true, "");
        CHECK(tokenizer_size(t) == 10, "the largest id is that of the added token");
        CHECK(tokenizer_id_of(t, "<s>") == 9 && tokenizer_id_of(t, "bc") == 4 &&
                  tokenizer_id_of(t, "zz") == -1,
              "tokens are found by their text");
        tokenizer_close(t);
        bytes_release(&json);
    }
}

static void ignore_merges_takes_whole_words(void **state)
{
    static const char rest[] = "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"abb\":3},"
                               "\"merges\":[\"a b\"]}}";
    struct bytes json = BYTES_INIT;

    (void)state;
    bytes_printf(&json, "%s\"ignore_merges\":true,%s", byte_level_start, rest);
    struct tokenizer *t = open_ok(json.data, NULL);
    CHECK_IDS(t, "abb", false, "3");
    tokenizer_close(t);
    json.n = 0;
    bytes_printf(&json, "%s%s", byte_level_start, rest);
    t = open_ok(json.data, NULL);
    CHECK_IDS(t, "abb", false, "2 1");
    tokenizer_close(t);
    bytes_release(&json);
}

#define UNK_START \
    "{\"model\":{\"vocab\":{\"<unk>\":0,\"a\":1,\"<0xC3>\":2,\"<0xA9>\":3},\"merges\":[],"

static void unknown_characters(void **state)
{
    struct tokenizer *t = open_ok(UNK_START "\"unk_token\":\"<unk>\",\"fuse_unk\":true}}", NULL);

    (void)state;
    CHECK_IDS(t, "axya", false, "1 0 1");
    tokenizer_close(t);
    t = open_ok(UNK_START "\"unk_token\":\"<unk>\"}}", NULL);
    CHECK_IDS(t, "axya", false, "1 0 0 1");
    tokenizer_close(t);
    t = open_ok(UNK_START "\"unk_token\":\"<unk>\",\"byte_fallback\":true}}", NULL);
    CHECK_IDS(t, "a\xC3\xA9\xC3\xA8", false, "1 2 3 0"); /* of the second, a byte is missing */
    tokenizer_close(t);
    t = open_ok(UNK_START "\"unk_token\":null}}", NULL);
    CHECK_IDS(t, "axya", false, "1 1"); /* without an unknown token it is dropped */
    tokenizer_close(t);
}

#define FALLBACK_DECODER                                                                   \
    "{\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\","             \
    "\"pattern\":{\"String\":\"_\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},"       \
    "{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}," \
    "\"model\":{\"vocab\":{\"_a\":0,\"b\":1,\"<0xC3>\":2,\"<0xA9>\":3},\"merges\":[]}}"

static void byte_tokens_become_text(void **state)
{
    struct tokenizer *t = open_ok(FALLBACK_DECODER, NULL);

    (void)state;
    check_text(t, (int32_t[]){ 0, 2, 3, 1 }, 4, false,
               "a\xC3\xA9"
               "b");
    check_text(t, (int32_t[]){ 0, 2, 1 }, 3, false,
               "a\xEF\xBF\xBD"
               "b");
    /* A run that is not UTF-8 as a whole gives one replacement a byte. */
    check_text(t, (int32_t[]){ 2, 3, 3 }, 3, false, "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
    check_text(t, (int32_t[]){ 0, 0 }, 2, false, "a a");
    check_text(t, (int32_t[]){ -1, 99, 1 }, 3, false, "b"); /* unknown ids are left out */
    tokenizer_close(t);
}

static void clean_up_follows_the_config(void **state)
{
    static const char json[] = "{\"decoder\":{\"type\":\"Fuse\"},\"model\":{\"vocab\":{\"it\":0,"
                               "\" 's\":1,\" .\":2,\" n't\":3,\" ' \":4},\"merges\":[]}}";
    static const int32_t ids[] = { 0, 1, 2, 0, 3, 0, 4, 0 };
    struct tokenizer *t = open_ok(json, "{\"clean_up_tokenization_spaces\":true}");

    (void)state;
    CHECK(tokenizer_cleans_up(t), "the config asks for it");
    check_text(t, ids, 8, true, "it's.itn'tit'it");
    check_text(t, ids, 8, false, "it 's .it n'tit ' it");
    tokenizer_close(t);
    t = open_ok(json, "{}");
    check_text(t, ids, 8, true, "it 's .it n'tit ' it");
    tokenizer_close(t);
}

#define FLAGGED(flags)                                                                   \
    "{\"added_tokens\":[{\"id\":5,\"content\":\"<m>\",\"normalized\":false," flags "}]," \
    "\"model\":{\"vocab\":{\" \":0,\"a\":1,\"b\":2,\"<\":3,\">\":4,\"m\":6},\"merges\":[]}}"

static void added_token_flags(void **state)
{
    struct tokenizer *t = open_ok(FLAGGED("\"lstrip\":true"), NULL);

    (void)state;
    CHECK_IDS(t, "a  <m>  b", false, "1 5 0 0 2");
    tokenizer_close(t);
    t = open_ok(FLAGGED("\"rstrip\":true"), NULL);
    CHECK_IDS(t, "a  <m>  <m> b", false, "1 0 0 5 5 2");
    tokenizer_close(t);
    t = open_ok(FLAGGED("\"single_word\":true"), NULL);
    CHECK_IDS(t, "<m> a<m> <m>b <m>", false, "5 0 1 3 6 4 0 3 6 4 2 0 5");
    tokenizer_close(t);
}

static void longest_added_token_wins(void **state)
{
    static const char json[] =
        "{\"added_tokens\":[{\"id\":5,\"content\":\"ab\",\"special\":true},{\"id\":6,\"content\":"
        "\"abc\",\"special\":true},{\"id\":7,\"content\":\"bcd\",\"special\":true},{\"id\":99,"
        "\"content\":\"d\",\"special\":true}],\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"c\":2,"
        "\"d\":3},\"merges\":[]}}";
    struct tokenizer *t = open_ok(json, NULL);

    (void)state;
    CHECK_IDS(t, "abcd", false,
              "6 3"); /* leftmost, then longest; d keeps its id of the vocabulary */
    CHECK_IDS(t, "abbcdab", false, "5 7 5");
    tokenizer_close(t);
}

#define TEMPLATED                                                                               \
    "{\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true},{\"id\":2,\"content\":" \
    "\"</s>\",\"special\":true}],\"post_processor\":{\"type\":\"TemplateProcessing\","          \
    "\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":"      \
    "\"A\",\"type_id\":0}}],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[1],"           \
    "\"tokens\":[\"<s>\"]}}},\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}"

static void config_overrides_the_template(void **state)
{
    struct tokenizer *t = open_ok(TEMPLATED, NULL);

    (void)state;
    CHECK_IDS(t, "a", true, "1 0");
    CHECK_IDS(t, "a", false, "0");
    CHECK(tokenizer_adds_bos(t) && tokenizer_bos_id(t) == 1 &&
              strcmp(tokenizer_bos_text(t), "<s>") == 0 && tokenizer_eos_text(t) == NULL,
          "without a config, what stands first is BOS");
    tokenizer_close(t);
    t = open_ok(TEMPLATED, "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"</s>\"},"
                           "\"add_bos_token\":false,\"add_eos_token\":true,"
                           "\"model_max_length\":1000000000000000019884624838656}");
    CHECK_IDS(t, "a", true, "0 2");
    CHECK(!tokenizer_adds_bos(t) && tokenizer_eos_id(t) == 2, "no BOS, an EOS");
    tokenizer_close(t);
    t = open_ok(TEMPLATED, "{\"bos_token\":\"<s>\",\"add_bos_token\":true}");
    CHECK_IDS(t, "a<s>a", true, "1 0 1 0");
    tokenizer_close(t);
    refused(TEMPLATED, "{\"add_eos_token\":true}", "add_eos_token");
}

#define CLASSES                                                                               \
    "{\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Removed\",\"pattern\":{\"Regex\":" \
    "\"%s\"}},\"model\":{\"unk_token\":\"u\",\"fuse_unk\":true,\"vocab\":{\"u\":0,\"a\":1},"  \
    "\"merges\":[]}}"

/* Counts the pieces: each unknown one is a 0. */
static void classes_are_unicode_16(void **state)
{
    static const struct {
        const char *pattern, *text, *ids;
    } rows[] = {
        { "\\\\s+",
          "a\xE1\xA0\x8E"
          "a",
          "1 0 1" }, /* U+180E is not white space */
        { "\\\\s+",
          "a\xC2\x85\xE3\x80\x80"
          "a",
          "1 1" },
        { "\\\\p{L}+", "\xF0\x91\xBC\x82", "" }, /* U+11F02: letter of Unicode 15 */
        { "\\\\p{L}+", "\xF0\xAE\xAF\xB0", "" }, /* U+2EBF0: letter of 15.1 */
        { "\\\\p{N}+", "\xF0\x91\xBD\x90", "" }, /* U+11F50: digit of Unicode 15 */
        { "\\\\p{N}+", "\xF0\x91\xAF\xB1", "" }, /* U+11BF1: digit of Unicode 16 */
        { "\\\\p{M}+", "\xE0\xB3\xB3", "" },     /* U+0CF3: mark of Unicode 15 */
        { "[^\\\\s\\\\p{L}\\\\p{N}]+", "\xE1\xA0\x8E", "" },
        { "\\\\p{L}+", "\xCD\xB8", "0" },                  /* U+0378 is unassigned */
        { "\\\\w+", "\xC2\xB2\xCC\x81_\xE2\x92\xB6", "" }, /* Oniguruma's word characters */
        { "\\\\w+", "\xE2\x81\xB4", "0" },
        { "(?i:'s)",
          "a'\xC5\xBF"
          "a",
          "1 1" }, /* long s folds to s */
        { "^a", "a\\nb", "0" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct bytes json = BYTES_INIT;
        bytes_printf(&json, CLASSES, rows[i].pattern);
        struct tokenizer *t = open_ok(json.data, NULL);
        CHECK_IDS(t, rows[i].text, false, rows[i].ids);
        tokenizer_close(t);
        bytes_release(&json);
    }
}

#define WITH(part)  "{" part ",\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}"
#define MODEL(part) "{\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2}," part "}}"

static void refused_by_name(void **state)
{
    (void)state;
    refused("", NULL, "JSON");
    refused("[]", NULL, "object");
    refused("{}", NULL, "model");
    refused(WITH("\"version\":\"2.0\""), NULL, "2.0");
    refused(WITH("\"normalizer\":{\"type\":\"BertNormalizer\"}"), NULL, "BertNormalizer");
    refused(WITH("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Nmt\"}]}"),
            NULL, "Nmt");
    refused(WITH("\"normalizer\":[]"), NULL, "normalizer");
    refused(WITH("\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}"), NULL, "UnicodeScripts");
    refused(WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Sometimes\","
                 "\"pattern\":{\"String\":\"a\"}}"),
            NULL, "Sometimes");
    refused(WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Removed\","
                 "\"pattern\":{\"Regex\":\"(\"}}"),
            NULL, "pattern (");
    refused(WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Removed\","
                 "\"pattern\":{\"Regex\":\"\\\\b\"}}"),
            NULL, "\\b");
    refused(WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Removed\","
                 "\"pattern\":{\"Regex\":\"[a&&b]\"}}"),
            NULL, "&&");
    refused(WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Removed\","
                 "\"pattern\":{\"Regex\":\"[a[b]]\"}}"),
            NULL, "class inside a class");
    refused(WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Removed\","
                 "\"pattern\":{\"String\":\"\"}}"),
            NULL, "empty");
    refused(WITH("\"post_processor\":{\"type\":\"BertProcessing\"}"), NULL, "BertProcessing");
    refused(WITH("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
                 "{\"SpecialToken\":{\"id\":\"<q>\"}}],\"special_tokens\":{}}"),
            NULL, "<q>");
    refused(WITH("\"decoder\":{\"type\":\"WordPiece\"}"), NULL, "WordPiece");
    refused(WITH("\"added_tokens\":[{\"id\":-1,\"content\":\"x\"}]"), NULL, "added_tokens[0]");
    refused(WITH("\"added_tokens\":[{\"id\":5,\"content\":\"x\"},{\"id\":5,\"content\":\"y\"}]"),
            NULL, "same id 5");
    refused("{\"model\":{\"type\":\"Unigram\"}}", NULL, "Unigram");
    refused(MODEL("\"merges\":[\"a b\"],\"dropout\":0.1"), NULL, "dropout");
    refused(MODEL("\"merges\":[],\"continuing_subword_prefix\":\"##\""), NULL, "##");
    refused(MODEL("\"merges\":[],\"end_of_word_suffix\":\"</w>\""), NULL, "</w>");
    refused(MODEL("\"merges\":[\"a b c\"]"), NULL, "merge 0");
    refused(MODEL("\"merges\":[[\"a\"]]"), NULL, "merge 0");
    refused(MODEL("\"merges\":[\"a b\",\"a z\"]"), NULL, "\"z\"");
    refused(MODEL("\"merges\":[\"b a\"]"), NULL, "\"ba\"");
    refused(MODEL("\"merges\":[],\"unk_token\":\"<u>\""), NULL, "<u>");
    refused("{\"model\":{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", NULL, "id 0");
    refused("{\"model\":{\"vocab\":{\"a\":16777216},\"merges\":[]}}", NULL, "\"a\"");
    refused("{\"model\":{\"vocab\":{},\"merges\":[]}}", NULL, "vocab");
    refused(WITH("\"decoder\":null"), "{\"bos_token\":5}", "bos_token");
}

static void bad_utf8_names_its_place(void **state)
{
    static const char *const texts[] = { "ab\xFFz", "ab\xC3", "ab\xED\xA0\x80", "ab\xC0\xAF",
                                         "ab\xF4\x90\x80\x80" };
    struct tokenizer *t = open_ok(WITH("\"decoder\":null"), NULL);

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct token_ids ids = TOKEN_IDS_INIT;
        struct err e = ERR_INIT;
        CHECK(tokenizer_encode(t, texts[i], strlen(texts[i]), false, &ids, &e) < 0 &&
                  strstr(e.text, "byte 2"),
              "text %zu is refused at byte 2: %s", i, e.text);
        token_ids_release(&ids);
    }
    tokenizer_close(t);
}

static void a_zero_byte_is_text(void **state)
{
    struct tokenizer *t = open_ok("{\"model\":{\"vocab\":{\"a\":0,\"<0x00>\":1},"
                                  "\"merges\":[],\"byte_fallback\":true}}",
                                  NULL);

    (void)state;
    char *ids = ids_of_bytes(t, "a\0a", 3, false);
    CHECK(strcmp(ids, "0 1 0") == 0, "a 0 byte is a character like others: %s", ids);
    free(ids);
    tokenizer_close(t);
}

/* One word of a megabyte: the heap keeps this at a second or less; a quadratic loop would take
 * an hour, so that this test would never end. */
static void one_word_of_a_megabyte(void **state)
{
    struct tokenizer *t = open_ok("{\"model\":{\"vocab\":{\"a\":0,\"aa\":1,\"aaaa\":2,\"b\":3},"
                                  "\"merges\":[\"a a\",\"aa aa\"]}}",
                                  NULL);
    size_t n = 1 << 20;
    char *text = mem_alloc(n);
    struct token_ids ids = TOKEN_IDS_INIT;
    struct err e = ERR_INIT;

    (void)state;
    memset(text, 'a', n);
    text[n - 1] = 'b';
    CHECK_OK(tokenizer_encode(t, text, n, false, &ids, &e), e);
    CHECK(ids.n == n / 4 + 2, "%zu ids", ids.n); /* aaaa ..., aa, a, b */
    CHECK(ids.ids[0] == 2 && ids.ids[ids.n - 1] == 3 && ids.ids[ids.n - 2] == 0, "in order");
    token_ids_release(&ids);
    free(text);
    tokenizer_close(t);
}

/* ---- any bytes ---- */

static void use(const struct tokenizer *t)
{
    struct token_ids ids = TOKEN_IDS_INIT;
    struct err e = ERR_INIT;
    char *text = NULL;
    static const char sample[] = "a <s>b\xC3\xA9 '  12\n";

    if (tokenizer_encode(t, sample, sizeof sample - 1, true, &ids, &e) == 0 &&
        tokenizer_decode(t, ids.ids, ids.n, false, true, &text, NULL, &e) == 0)
        free(text);
    token_ids_release(&ids);
}

static void any_bytes_parse_or_are_refused(void **state)
{
    static const char *const seeds[] = { TEMPLATED, FALLBACK_DECODER, FLAGGED("\"lstrip\":true"),
                                         MODEL("\"merges\":[\"a b\"],\"byte_fallback\":true") };
    static const char alphabet[] = "{}[]\":,0123456789-abs<>\\ \xFF\xC3\xA9";
    uint64_t at = 0;
    long n_open = 0, n_refused = 0;

    (void)state;
    for (int round = 0; round < 400; round++) {
        const char *seed = seeds[round % 4];
        size_t n = strlen(seed);
        char *text = mem_textn(seed, n);
        struct tokenizer *t = NULL;
        struct err e = ERR_INIT;
        for (int k = 0; k <= round % 3; k++) {
            size_t where = rng_below(7, RNG_TEST, at++, n);
            text[where] = alphabet[rng_below(7, RNG_TEST, at++, sizeof alphabet - 1)];
        }
        if (round % 5 == 0)
            n = rng_below(7, RNG_TEST, at++, n);
        if (tokenizer_open_text(&t, text, n, NULL, 0, &e) == 0) {
            n_open++;
            use(t);
        } else {
            n_refused++;
            CHECK(e.code != ERR_NONE && e.text[0], "a refusal has a reason");
        }
        tokenizer_close(t);
        free(text);
    }
    CHECK(n_open > 0 && n_refused > 0, "both happen: %ld and %ld", n_open, n_refused);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_tokenizers_agree),
        cmocka_unit_test(merges_of_both_forms),
        cmocka_unit_test(ignore_merges_takes_whole_words),
        cmocka_unit_test(unknown_characters),
        cmocka_unit_test(byte_tokens_become_text),
        cmocka_unit_test(clean_up_follows_the_config),
        cmocka_unit_test(added_token_flags),
        cmocka_unit_test(longest_added_token_wins),
        cmocka_unit_test(config_overrides_the_template),
        cmocka_unit_test(classes_are_unicode_16),
        cmocka_unit_test(refused_by_name),
        cmocka_unit_test(bad_utf8_names_its_place),
        cmocka_unit_test(a_zero_byte_is_text),
        cmocka_unit_test(one_word_of_a_megabyte),
        cmocka_unit_test(any_bytes_parse_or_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
