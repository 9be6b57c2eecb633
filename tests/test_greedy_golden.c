/* models/NAME/golden_greedy_N.json of the real data: N greedy ids of a trained model, from BOS. */
#include "check.h"

#include "base/file.h"
#include "base/js.h"
#include "base/memory.h"
#include "model/generate.h"

#include <dirent.h>
#include <string.h>

static struct backend backend;

static int32_t *ids_of(const struct js *j, const char *name, int *n)
{
    const struct js *list = js_get(j, name);
    int32_t *ids = mem_array(js_count(list), sizeof *ids);

    *n = (int)js_count(list);
    CHECK(*n > 0, "there are %s", name);
    for (int i = 0; i < *n; i++)
        ids[i] = (int32_t)js_int(js_at(list, (size_t)i));
    return ids;
}

static void compare(const char *folder, const char *name, const char *file)
{
    struct err e = ERR_INIT;
    struct generate_result result;
    struct model m;
    char *path = file_join(folder, file), what[600];
    int n_prompt, n_want, differ = 0;

    struct js *golden = js_read(path, &e);
    CHECK(golden, "the ids can be read: %s", e.text);
    int32_t *ids = ids_of(golden, "prompt_ids", &n_prompt);
    int32_t *want = ids_of(golden, "greedy_ids", &n_want);
    CHECK(!js_get(golden, "steps") || js_int(js_get(golden, "steps")) == n_want, "all steps");
    struct generate_prompt prompt = { ids, n_prompt };
    struct generate_options o = { .max_new_tokens = n_want };
    CHECK_OK(weights_load(&backend, folder, &m, &e), e);
    CHECK_OK(generate(&m, &prompt, 1, &o, &result, &e), e);
    for (int i = 0; i < n_want; i++)
        differ += i >= result.n_ids || result.ids[i] != want[i];
    snprintf(what, sizeof what, "%s/%s", name, file);
    check_report(what, n_want, differ, 0);
    generate_release(&result, 1);
    model_release(&m);
    free(want);
    free(ids);
    js_release(golden);
    free(path);
}

/* The number of files of one model's folder. */
static int compare_folder(const char *models, const char *name)
{
    struct dirent **entry;
    char *folder = file_join(models, name);
    int n_files = 0;

    int n = scandir(folder, &entry, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        if (!strncmp(entry[i]->d_name, "golden_greedy_", 14)) {
            compare(folder, name, entry[i]->d_name);
            n_files++;
        }
        free(entry[i]);
    }
    if (n >= 0)
        free(entry);
    free(folder);
    return n_files;
}

static void greedy_ids(void **state)
{
    struct dirent **entry;
    char *models = file_join(check_data(), "models");
    int n_files = 0;

    (void)state;
    int n = scandir(models, &entry, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        if (entry[i]->d_name[0] != '.')
            n_files += compare_folder(models, entry[i]->d_name);
        free(entry[i]);
    }
    if (n >= 0)
        free(entry);
    if (!n_files)
        CHECK_MISSING("no golden_greedy_*.json in %s", models);
    free(models);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(greedy_ids) };
    struct err e = ERR_INIT;

    if (backend_open(&backend, "cpu", 0, NULL, &e) < 0) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    backend_close(&backend);
    return rc;
}
