/* test_tokenizer_golden.c - ids and decoded texts against the reference programs'.
 *
 * text/tokens_*.json.gz were made by Hugging Face tokenizers 0.23; the 47 test strings and ids
 * are llama.cpp's.  The tokenizers themselves are real data (LLQ_DATA), not in a bare clone.  */
#include "check.h"

#include "base/file.h"
#include "base/js.h"
#include "tokenizer/tokenizer.h"

#include <dirent.h>
#include <string.h>
#include <unistd.h>

#define PATH_ROOM 5000

/* A file as it is, or its .gz unpacked to a file of this process; *temp: remove it afterwards. */
static bool unpacked(const char *folder, const char *name, char path[PATH_ROOM], bool *temp)
{
    char packed[PATH_ROOM + 8], command[3 * PATH_ROOM];

    *temp = false;
    snprintf(path, PATH_ROOM, "%s/%s", folder, name);
    if (file_exists(path))
        return true;
    snprintf(packed, sizeof packed, "%s/%s.gz", folder, name);
    if (!file_exists(packed))
        return false;
    snprintf(path, PATH_ROOM, "build/test_tokenizer_golden.%ld.json", (long)getpid());
    snprintf(command, sizeof command, "mkdir -p build && gunzip -c '%s' > %s", packed, path);
    *temp = true;
    return system(command) == 0;
}

/* The tokenizer of a folder, whose tokenizer.json may be packed; NULL: not there. */
static struct tokenizer *open_in(const char *parent, const char *name)
{
    char folder[4096], path[PATH_ROOM], config[PATH_ROOM];
    struct tokenizer *t = NULL;
    struct err e = ERR_INIT;
    bool temp;

    snprintf(folder, sizeof folder, "%s/%s/%s", check_data(), parent, name);
    snprintf(config, sizeof config, "%s/tokenizer_config.json", folder);
    if (!unpacked(folder, "tokenizer.json", path, &temp))
        return NULL;
    CHECK_OK(tokenizer_open_files(&t, path, file_exists(config) ? config : NULL, &e), e);
    if (temp)
        unlink(path);
    return t;
}

/* By the name that a file of vectors has for it. */
static struct tokenizer *open_data(const char *name)
{
    static const char *const folders[][2] = { { "llama3.2-1b-instruct", "llama-3.2" },
                                              { "llama2", "llama-2" } };
    struct tokenizer *t = open_in("tokenizers", name);

    for (size_t i = 0; i < sizeof folders / sizeof *folders && !t; i++)
        if (!strcmp(name, folders[i][0]))
            t = open_in("tokenizers", folders[i][1]);
    return t ? t : open_in("models", name);
}

/* Positions where two lists of ids differ, missing ones included. */
static long ids_differ(const struct js *want, const struct token_ids *got)
{
    size_t n = js_count(want) > got->n ? js_count(want) : got->n;
    long wrong = 0;

    for (size_t i = 0; i < n; i++)
        wrong += i >= got->n || i >= js_count(want) || js_int(js_at(want, i)) != got->ids[i];
    return wrong;
}

static long encode_differs(const struct tokenizer *t, const struct js *text, bool special,
                           const struct js *want)
{
    struct token_ids ids = TOKEN_IDS_INIT;
    struct err e = ERR_INIT;

    CHECK(js_text(text) && js_kind(want) == JS_ARRAY, "a case has its text and ids");
    CHECK_OK(tokenizer_encode(t, js_text(text), js_text_bytes(text), special, &ids, &e), e);
    long wrong = ids_differ(want, &ids);
    if (wrong)
        print_error("text %.80s: %ld ids differ\n", js_text(text), wrong);
    token_ids_release(&ids);
    return wrong;
}

static long decode_differs(const struct tokenizer *t, const struct js *ids, const struct js *want)
{
    int32_t *given = calloc(js_count(ids) + 1, sizeof *given);
    struct err e = ERR_INIT;
    char *text = NULL;
    size_t n = 0;

    CHECK(js_text(want), "a case has its decoded text");
    for (size_t i = 0; i < js_count(ids); i++)
        given[i] = (int32_t)js_int(js_at(ids, i));
    CHECK_OK(tokenizer_decode(t, given, js_count(ids), true, false, &text, &n, &e), e);
    bool same = n == js_text_bytes(want) && memcmp(text, js_text(want), n) == 0;
    if (!same)
        print_error("decoded %.80s, wanted %.80s\n", text, js_text(want));
    free(text);
    free(given);
    return !same;
}

static void compare_tokens(const char *golden)
{
    char folder[4096], path[PATH_ROOM], name[128], file[160];
    struct err e = ERR_INIT;
    long n_values = 0, wrong = 0;
    bool temp;

    snprintf(folder, sizeof folder, "%s/text", check_golden());
    snprintf(name, sizeof name, "tokens_%s.json", golden);
    struct tokenizer *t = open_data(golden);
    if (!t || !unpacked(folder, name, path, &temp)) {
        tokenizer_close(t);
        CHECK_MISSING("text/%s: no %s here", name, t ? "reference vectors" : "tokenizer");
    }
    struct js *list = js_read(path, &e);
    CHECK(list, "the vectors can be read: %s", e.text);
    if (temp)
        unlink(path);
    for (size_t i = 0; i < js_count(list); i++) {
        const struct js *c = js_at(list, i), *text = js_get(c, "text");
        wrong += encode_differs(t, text, true, js_get(c, "ids"));
        wrong += encode_differs(t, text, false, js_get(c, "ids_no_special"));
        wrong += decode_differs(t, js_get(c, "ids"), js_get(c, "decoded"));
        n_values += (long)(js_count(js_get(c, "ids")) + js_count(js_get(c, "ids_no_special"))) + 1;
    }
    js_release(list);
    tokenizer_close(t);
    snprintf(file, sizeof file, "text/%s", name);
    check_report(file, n_values, (double)wrong, 0);
}

static bool is_known(const char *name)
{
    return !strcmp(name, "llama3.2-1b-instruct") || !strcmp(name, "llama2") ||
           !strcmp(name, "gpt2");
}

static void llama_3_2(void **state)
{
    (void)state;
    compare_tokens("llama3.2-1b-instruct");
}

static void llama_2(void **state)
{
    (void)state;
    compare_tokens("llama2");
}

static void gpt_2(void **state)
{
    (void)state;
    compare_tokens("gpt2");
}

/* Whatever else the folder has. */
static void other_tokenizers(void **state)
{
    char folder[4096];
    struct dirent **entry;

    (void)state;
    snprintf(folder, sizeof folder, "%s/text", check_golden());
    int n = scandir(folder, &entry, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        char *name = entry[i]->d_name, *end = strstr(name, ".json");

        if (!strncmp(name, "tokens_", 7) && end) {
            *end = 0;
            if (!is_known(name + 7))
                compare_tokens(name + 7);
        }
        free(entry[i]);
    }
    if (n >= 0)
        free(entry);
}

/* One line of .out: ids parted by spaces; moves *line behind it. */
static long line_differs(char **line, const struct token_ids *ids)
{
    char *end = strchr(*line, '\n'), *s = *line;
    size_t n = 0;
    long wrong = 0;

    if (end)
        *end = 0;
    for (char *next; *s; s = next, n++) {
        long id = strtol(s, &next, 10);
        if (next == s)
            break;
        wrong += n >= ids->n || ids->ids[n] != id;
    }
    *line = end ? end + 1 : s;
    return wrong + (n < ids->n ? (long)(ids->n - n) : 0);
}

static void compare_vectors(const char *name, const char *tokenizer)
{
    static const char between[] = "\n__ggml_vocab_test__\n";
    char path[PATH_ROOM], out_path[PATH_ROOM], file[160];
    struct bytes in = BYTES_INIT, out = BYTES_INIT;
    struct err e = ERR_INIT;
    long n_values = 0, wrong = 0, n_texts = 0;

    snprintf(path, sizeof path, "%s/tokenizer_vectors/ggml-vocab-%s.gguf.inp", check_data(), name);
    snprintf(out_path, sizeof out_path, "%s/tokenizer_vectors/ggml-vocab-%s.gguf.out", check_data(),
             name);
    struct tokenizer *t = open_data(tokenizer);
    if (!t || !file_exists(path) || !file_exists(out_path)) {
        tokenizer_close(t);
        CHECK_MISSING("%s: no %s here", name, t ? "vectors" : "tokenizer");
    }
    CHECK_OK(file_read(path, &in, &e), e);
    CHECK_OK(file_read(out_path, &out, &e), e);
    char *line = out.data;
    for (char *text = in.data; text; n_texts++) {
        struct token_ids ids = TOKEN_IDS_INIT;
        char *end = strstr(text, between);
        CHECK_OK(
            tokenizer_encode(t, text, end ? (size_t)(end - text) : strlen(text), false, &ids, &e),
            e);
        wrong += line_differs(&line, &ids);
        n_values += (long)ids.n;
        token_ids_release(&ids);
        text = end ? end + sizeof between - 1 : NULL;
    }
    CHECK(!line || !*line, "%s: ids of %ld texts were compared, more are given", name, n_texts);
    bytes_release(&in);
    bytes_release(&out);
    tokenizer_close(t);
    snprintf(file, sizeof file, "ggml-vocab-%s (%ld texts)", name, n_texts);
    check_report(file, n_values, (double)wrong, 0);
}

static void ggml_llama_bpe(void **state)
{
    (void)state;
    compare_vectors("llama-bpe", "llama-3.2");
}

static void ggml_llama_spm(void **state)
{
    (void)state;
    compare_vectors("llama-spm", "llama-2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_3_2),      cmocka_unit_test(llama_2),
        cmocka_unit_test(gpt_2),          cmocka_unit_test(other_tokenizers),
        cmocka_unit_test(ggml_llama_bpe), cmocka_unit_test(ggml_llama_spm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
