/* test_checkpoint.c - folders, ids in a made-up Hugging Face cache, shards, identity. */
#include "check.h"

#include "base/file.h"
#include "base/hash.h"
#include "model/checkpoint.h"

#include <ftw.h>
#include <string.h>
#include <unistd.h>

#define COMMIT "0123456789abcdef0123456789abcdef01234567"
#define OTHER  "ffffffffffffffffffffffffffffffffffffffff"
#define CACHED "hub/models--org--tiny/"

static char root[] = "/tmp/llq_checkpoint.XXXXXX";

static char *at(const char *name)
{
    static char path[4096];

    snprintf(path, sizeof path, "%s/%s", root, name);
    return path;
}

static void put(const char *name, const char *text)
{
    struct err e = ERR_INIT;
    char *path = mem_text(at(name)), *folder = file_folder(path);

    CHECK_OK(file_make_folders(folder, &e), e);
    CHECK_OK(file_replace(path, text, strlen(text), &e), e);
    free(folder);
    free(path);
}

/* A file of one tensor: 4 bytes, all `value`. */
static void put_tensor(const char *name, const char *tensor, unsigned char value)
{
    unsigned char data[4] = { value, value, value, value };
    struct safetensors_out out = {
        .name = tensor, .dtype = DTYPE_U8, .n_dims = 1, .shape = { 4 }, .data = data
    };
    struct err e = ERR_INIT;
    char *path = mem_text(at(name)), *folder = file_folder(path);

    CHECK_OK(file_make_folders(folder, &e), e);
    CHECK_OK(safetensors_write(path, &out, 1, &e), e);
    free(folder);
    free(path);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *walk)
{
    (void)st;
    (void)kind;
    (void)walk;
    return remove(path);
}

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(root))
        return -1;
    unsetenv("HF_HUB_CACHE");
    unsetenv("HUGGINGFACE_HUB_CACHE");
    unsetenv("XDG_CACHE_HOME");
    setenv("HF_HOME", root, 1);
    put(CACHED "refs/main", COMMIT);
    put(CACHED "refs/refs/pr/1", OTHER);
    put(CACHED "snapshots/" COMMIT "/config.json", "{}");
    put_tensor(CACHED "snapshots/" COMMIT "/model.safetensors", "a", 1);
    put("hub/models--gpt2/refs/main", OTHER);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    return nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void found(const char *id, const char *revision, const char *commit, const char *where)
{
    char *folder = NULL, got[64];
    struct err e = ERR_INIT;
    int rc = checkpoint_find(id, revision, &folder, got, &e);

    CHECK(rc == 0, "%s is found, but: %s", id, e.text);
    CHECK(strcmp(folder, where) == 0 && strcmp(got, commit) == 0, "%s at \"%s\" is %s, not %s", id,
          commit, where, folder);
    free(folder);
}

static void not_found(const char *id, const char *revision, const char *word, const char *word2)
{
    char *folder = NULL, commit[64];
    struct err e = ERR_INIT;
    int rc = checkpoint_find(id, revision, &folder, commit, &e);

    CHECK(rc == -1 && !folder && !*commit, "%s at %s is not found", id, revision);
    CHECK(strstr(e.text, word) && strstr(e.text, word2), "%s: \"%s\" says \"%s\" and \"%s\"", id,
          e.text, word, word2);
}

static void test_folders_and_ids(void **state)
{
    char *snapshot = mem_text(at(CACHED "snapshots/" COMMIT));
    (void)state;

    found(root, "main", "", root);
    found("org/tiny", "main", COMMIT, snapshot);
    found("org/tiny", NULL, COMMIT, snapshot);
    found("org/tiny", COMMIT, COMMIT, snapshot);
    put(CACHED "refs/v1", COMMIT "\n");
    found("org/tiny", "v1", COMMIT, snapshot);
    not_found("org/tiny", "v2", "revision v2", COMMIT);
    not_found("org/tiny", "refs/pr/1", "refs/pr/1", "sweeps/README.md");
    not_found("org/tiny", "../../x", "revision", "");
    not_found("org/other", "main", "org/tiny", "sweeps/README.md");
    not_found("org/other", "main", "gpt2", "neither a folder nor");
    not_found("gpt2", "main", "gpt2", OTHER);
    not_found("/nowhere/at/all", "main", "/nowhere/at/all", "sweeps/README.md");
    not_found("../no/such", "..", "../no/such", "");
    free(snapshot);
}

static void test_where_the_cache_is(void **state)
{
    char *snapshot = mem_text(at(CACHED "snapshots/" COMMIT));
    char *expanded = mem_text(at("hub"));
    char *home = getenv("HOME") ? mem_text(getenv("HOME")) : NULL;
    (void)state;

    setenv("HF_HOME", "/nowhere", 1);
    not_found("org/tiny", "main", "/nowhere/hub", "nothing");
    setenv("HF_HUB_CACHE", expanded, 1);
    found("org/tiny", "main", COMMIT, snapshot);
    setenv("LLQ_TEST_ROOT", root, 1);
    setenv("HF_HUB_CACHE", "${LLQ_TEST_ROOT}/hub", 1);
    found("org/tiny", "main", COMMIT, snapshot);
    setenv("HF_HUB_CACHE", "$LLQ_TEST_ROOT/hub", 1);
    found("org/tiny", "main", COMMIT, snapshot);
    setenv("HOME", root, 1);
    setenv("HF_HUB_CACHE", "~/hub", 1);
    found("org/tiny", "main", COMMIT, snapshot);
    setenv("HF_HUB_CACHE", "$LLQ_UNKNOWN/hub", 1);
    not_found("org/tiny", "main", "$LLQ_UNKNOWN/hub", "");
    unsetenv("HF_HUB_CACHE");
    setenv("HUGGINGFACE_HUB_CACHE", expanded, 1);
    found("org/tiny", "main", COMMIT, snapshot);
    unsetenv("HUGGINGFACE_HUB_CACHE");
    unsetenv("HF_HOME");
    setenv("XDG_CACHE_HOME", "/nowhere", 1);
    not_found("org/tiny", "main", "/nowhere/huggingface/hub", "");
    unsetenv("XDG_CACHE_HOME");
    not_found("org/tiny", "main", "/.cache/huggingface/hub", root);

    setenv("HF_HOME", root, 1);
    if (home)
        setenv("HOME", home, 1);
    free(home);
    free(snapshot);
    free(expanded);
}

static void test_incomplete_snapshots(void **state)
{
    (void)state;
    put("hub/models--org--part/refs/main", COMMIT);
    put("hub/models--org--part/snapshots/" COMMIT "/tokenizer.json", "{}");
    not_found("org/part", "main", "without config.json", "");
    put("hub/models--org--part/trees/" COMMIT ".json",
        "[{\"path\":\"config.json\"},{\"path\":\"tokenizer.json\"},"
        "{\"path\":\"model-00001-of-00002.safetensors\"},{\"path\":\"README.md\"}]");
    not_found("org/part", "main", "missing of its files: config.json, model-00001-of-00002", "");
    put("hub/models--org--part/snapshots/" COMMIT "/config.json", "{}");
    not_found("org/part", "main", "without model.safetensors", "");
}

static void opened(const char *folder, size_t n)
{
    struct checkpoint c = CHECKPOINT_INIT;
    struct err e = ERR_INIT;

    CHECK_OK(checkpoint_open(&c, at(folder), &e), e);
    CHECK(c.n == n, "%s has %zu tensors, not %zu", folder, n, c.n);
    checkpoint_close(&c);
    checkpoint_close(&c);
}

static void not_opened(const char *folder, const char *word)
{
    struct checkpoint c = CHECKPOINT_INIT;
    struct err e = ERR_INIT;
    int rc = checkpoint_open(&c, at(folder), &e);

    CHECK(rc == -1 && e.code == ERR_INPUT && strstr(e.text, word), "%s: \"%s\" says \"%s\"", folder,
          e.text, word);
    checkpoint_close(&c);
}

#define INDEX "model.safetensors.index.json"

static void test_shards(void **state)
{
    struct checkpoint c = CHECKPOINT_INIT;
    struct err e = ERR_INIT;
    unsigned char byte;
    (void)state;

    put_tensor("s/one.safetensors", "a", 1);
    put_tensor("s/two.safetensors", "b", 2);
    not_opened("s", "neither model.safetensors nor");
    put("s/pytorch_model.bin", "");
    not_opened("s", ".bin");
    put("s/" INDEX, "{\"metadata\":{},\"weight_map\":{\"b\":\"two.safetensors\","
                    "\"a\":\"one.safetensors\"}}");
    CHECK_OK(checkpoint_open(&c, at("s"), &e), e);
    const struct checkpoint_tensor *b = checkpoint_tensor(&c, "b");
    CHECK(c.n == 2 && c.n_files == 2 && b && checkpoint_tensor(&c, "a") &&
              !checkpoint_tensor(&c, "c"),
          "both tensors are found, and no other");
    CHECK_OK(safetensors_read(b->file, b->tensor, 3, 1, &byte, &e), e);
    CHECK(byte == 2, "b is read from its own shard");
    checkpoint_close(&c);

    put_tensor("s/model.safetensors", "whole", 3);
    opened("s", 1);
    unlink(at("s/model.safetensors"));
    put("s/" INDEX, "{\"weight_map\":{\"c\":\"two.safetensors\"}}");
    not_opened("s", "tensor c is not in two.safetensors");
    put("s/" INDEX, "{\"weight_map\":{\"b\":\"three.safetensors\"}}");
    not_opened("s", "three.safetensors");
    put("s/" INDEX, "{\"weight_map\":{\"b\":\"../s/two.safetensors\"}}");
    not_opened("s", "plain file name");
    put("s/" INDEX, "{\"weight_map\":{\"b\":\"..\"}}");
    not_opened("s", "plain file name");
    put("s/" INDEX, "{\"weight_map\":{\"b\":2}}");
    not_opened("s", "plain file name");
    put("s/" INDEX, "{\"weight_map\":{}}");
    not_opened("s", "empty");
    put("s/" INDEX, "{\"weight_map\":[]}");
    not_opened("s", "weight_map");
    put("s/" INDEX, "{}");
    not_opened("s", "weight_map is missing");
    put("s/" INDEX, "{");
    not_opened("s", INDEX);
}

static void test_identity(void **state)
{
    char one[HASH_TEXT_MAX], two[HASH_TEXT_MAX], blob[HASH_TEXT_MAX], link[128];
    struct err e = ERR_INIT;
    (void)state;

    put("h/config.json", "{}");
    CHECK(checkpoint_sha256(at("h"), one, &e) < 0 && strstr(e.text, "model.safetensors"),
          "a folder without weights has no identity");
    put_tensor("h/model.safetensors", "a", 1);
    CHECK_OK(checkpoint_sha256(at("h"), one, &e), e);
    CHECK(strlen(one) == 64, "the hash has 64 digits");
    put("h/README.md", "words");
    CHECK_OK(checkpoint_sha256(at("h"), two, &e), e);
    CHECK(strcmp(one, two) == 0, "a README does not count");
    put("h/generation_config.json", "{}");
    CHECK_OK(checkpoint_sha256(at("h"), two, &e), e);
    CHECK(strcmp(one, two) != 0, "generation_config.json counts");
    unlink(at("h/generation_config.json"));

    /* The same weights as a blob of the cache, named by their hash. */
    CHECK_OK(hash_file(at("h/model.safetensors"), blob, &e), e);
    CHECK_OK(file_make_folders(at("h/blobs"), &e), e);
    char *from = mem_text(at("h/model.safetensors"));
    snprintf(link, sizeof link, "blobs/%s", blob);
    char *to = mem_text(at("h/"));
    to = mem_grow(to, strlen(to) + sizeof link, 1);
    strcat(to, link);
    CHECK(rename(from, to) == 0 && symlink(link, from) == 0, "the blob is linked");
    CHECK_OK(checkpoint_sha256(at("h"), two, &e), e);
    CHECK(strcmp(one, two) == 0, "a linked blob has the same identity");
    CHECK(unlink(to) == 0 && checkpoint_sha256(at("h"), two, &e) < 0,
          "a link to nothing has no identity");
    unlink(from);
    put_tensor("h/model.safetensors", "a", 2);
    CHECK_OK(checkpoint_sha256(at("h"), two, &e), e);
    CHECK(strcmp(one, two) != 0, "other weights have another identity");

    put_tensor("i/one.safetensors", "a", 1);
    put_tensor("i/two.safetensors", "b", 2);
    put("i/config.json", "{}");
    put("i/" INDEX, "{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}}");
    CHECK_OK(checkpoint_sha256(at("i"), one, &e), e);
    put_tensor("i/two.safetensors", "b", 3);
    CHECK_OK(checkpoint_sha256(at("i"), two, &e), e);
    CHECK(strcmp(one, two) != 0, "every shard counts");
    free(from);
    free(to);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_folders_and_ids),
        cmocka_unit_test(test_where_the_cache_is),
        cmocka_unit_test(test_incomplete_snapshots),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_identity),
    };

    return cmocka_run_group_tests_name("checkpoint", tests, set_up, tear_down);
}
