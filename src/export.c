/* export.c - see export.h. */
#include "export.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/stats.h"
#include "record/report.h"
#include "record/store_h5.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* "results.h5" and "summary.csv" -> "results.summary.csv" */
static char *beside(const char *path, const char *name, const char *ending)
{
    struct bytes b = BYTES_INIT;
    size_t n = strlen(path);

    if (n > 3 && strcmp(path + n - 3, ".h5") == 0)
        n -= 3;
    bytes_add(&b, path, n);
    bytes_printf(&b, ".%s%s", name, ending);
    return b.data;
}

static int write_file(FILE *to, char *name, const char *text, size_t n, struct err *e)
{
    int rc = file_replace(name, text, n, e);

    if (rc == 0)
        fprintf(to, "%s\n", name);
    free(name);
    return rc;
}

/* ---- CSV ---- */

static int export_table(FILE *to, const char *path, const struct table *t, const char *name,
                        struct err *e)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);

    report_csv(f, t);
    fclose(f);
    int rc = write_file(to, beside(path, name, ".csv"), text, n, e);
    free(text);
    return rc;
}

/* ---- lm-evaluation-harness ---- */

/* Where a number of a record stands in that program's results.  Its standard errors are those of
 * independent items. */
static const struct line {
    const char *group, *member, *items;
    const char *task, *name;
    bool higher_is_better;
} lines[] = {
    { "coqa", "em", "em_item", "coqa", "em", true },
    { "coqa", "f1", "f1_item", "coqa", "f1", true },
    { "perplexity", "word_perplexity", NULL, "wikitext", "word_perplexity", false },
    { "perplexity", "byte_perplexity", NULL, "wikitext", "byte_perplexity", false },
    { "perplexity", "bits_per_byte", NULL, "wikitext", "bits_per_byte", false },
    { "perplexity", "perplexity", "window_nll_item", "perplexity", "perplexity", false },
    { "multiple_choice/hellaswag", "acc", "correct_item", "hellaswag", "acc", true },
    { "multiple_choice/hellaswag", "acc_norm", "correct_norm_item", "hellaswag", "acc_norm", true },
    { "multiple_choice/arc_easy", "acc", "correct_item", "arc_easy", "acc", true },
    { "multiple_choice/arc_easy", "acc_norm", "correct_norm_item", "arc_easy", "acc_norm", true },
    { "multiple_choice/arc_challenge", "acc", "correct_item", "arc_challenge", "acc", true },
    { "multiple_choice/arc_challenge", "acc_norm", "correct_norm_item", "arc_challenge", "acc_norm",
      true },
    { "multiple_choice/piqa", "acc", "correct_item", "piqa", "acc", true },
    { "multiple_choice/piqa", "acc_norm", "correct_norm_item", "piqa", "acc_norm", true },
    { "multiple_choice/winogrande", "acc", "correct_item", "winogrande", "acc", true },
    { "multiple_choice/openbookqa", "acc", "correct_item", "openbookqa", "acc", true },
    { "multiple_choice/openbookqa", "acc_norm", "correct_norm_item", "openbookqa", "acc_norm",
      true },
    { "multiple_choice/boolq", "acc", "correct_item", "boolq", "acc", true },
    { "multiple_choice/mmlu", "acc", "correct_item", "mmlu", "acc", true },
    { "multiple_choice/lambada", "acc", "correct_item", "lambada_openai", "acc", true },
    { "multiple_choice/lambada", "perplexity", "nll_item", "lambada_openai", "perplexity", false },
};

static struct js *object_in(struct js *parent, const char *key)
{
    if (!js_get(parent, key))
        js_set(parent, key, js_new_object());
    return (struct js *)(uintptr_t)js_get(parent, key); /* ours: it was made above */
}

static double standard_error(const struct js *items)
{
    int64_t n = (int64_t)js_count(items);
    double *x = mem_array((size_t)n, sizeof *x);

    for (int64_t i = 0; i < n; i++)
        x[i] = js_real(js_at(items, (size_t)i));
    double se = stats_sd(x, n) / sqrt((double)n);
    free(x);
    return se;
}

/* CoQA by all turns is another task: the two are never to stand in one table. */
static const char *task_of(const struct line *l, const struct js *record)
{
    const char *turns = js_text(js_get(record, "turns"));

    return turns && strcmp(turns, "all") == 0 ? "coqa_all" : l->task;
}

static void add_number(struct js *all, const struct line *l, const struct js *record)
{
    char key[80];
    const char *name = task_of(l, record);
    struct js *task = object_in(object_in(all, "results"), name);
    struct js *better = object_in(object_in(all, "higher_is_better"), name);
    const struct js *items = l->items ? js_get(record, l->items) : NULL;
    double se = items ? standard_error(items) : NAN;

    js_set_text(task, "alias", name);
    snprintf(key, sizeof key, "%s,none", l->name);
    js_set_real(task, key, js_real(js_get(record, l->member)));
    snprintf(key, sizeof key, "%s_stderr,none", l->name);
    if (!isfinite(se)) /* what that program writes where it has none */
        js_set_text(task, key, "N/A");
    else /* of a perplexity by the delta rule: its items are logarithms */
        js_set_real(task, key,
                    strcmp(l->name, "perplexity") ? se : se * js_real(js_get(record, l->member)));
    js_set_bool(better, l->name, l->higher_is_better);
}

static void add_counts(struct js *all, const char *task, const struct js *record, int64_t n)
{
    struct js *samples = object_in(object_in(all, "n-samples"), task);

    js_set_int(samples, "effective", n);
    js_set_int(object_in(all, "n-shot"), task, 0);
    js_set_int(object_in(all, "versions"), task, js_int(js_get(record, "version"))); /* ours */
    js_set(object_in(object_in(all, "configs"), task), "llq_sweep", js_copy(record));
}

/* The scalars of a record: its switches and totals. */
static struct js *scalars_of(const struct js *record)
{
    struct js *out = js_new_object();
    struct js_member m = JS_MEMBER_INIT;

    while (js_next(record, &m))
        if (js_kind(m.value) != JS_ARRAY && js_kind(m.value) != JS_OBJECT)
            js_set(out, m.key, js_copy(m.value));
    return out;
}

static int add_records(struct js *all, const char *path, const char *name, int64_t seed,
                       struct err *e)
{
    const char *done = "";
    struct js *record = NULL, *plain = NULL;
    int n = 0;

    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct err absent = ERR_INIT;
        if (strcmp(done, lines[i].group) != 0) {
            js_release(record);
            record = store_h5_read_group(path, name, seed, done = lines[i].group, &absent);
        }
        if (!record || !js_get(record, lines[i].member))
            continue;
        add_number(all, &lines[i], record);
        plain = scalars_of(record);
        const struct js *items = lines[i].items ? js_get(record, lines[i].items) : NULL;
        int64_t count = items ? (int64_t)js_count(items) : js_int(js_get(record, "n_documents"));
        add_counts(all, task_of(&lines[i], record), plain, count);
        js_release(plain);
        n++;
    }
    js_release(record);
    return n ? 0
             : err_set(e, ERR_INPUT, "%s: %s has no results that lm-eval has a name for", path,
                       name);
}

static struct js *config_of(const struct js *provenance, const char *name, int64_t seed)
{
    static const char *const keys[] = { "model_path",  "model_revision", "model_sha256",
                                        "llq_version", "git_commit",     "gpu_names" };
    struct js *out = js_new_object();

    js_set_text(out, "model", "llq_sweep");
    js_set_text(out, "experiment", name);
    js_set_int(out, "seed", seed);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (js_get(provenance, keys[i]))
            js_set(out, keys[i], js_copy(js_get(provenance, keys[i])));
    return out;
}

/* One run, as that program makes it: the first seed that succeeded. */
static int export_experiment(FILE *to, const char *path, const struct js *provenance,
                             const char *name, int64_t seed, struct err *e)
{
    struct js *all = js_new_object();
    char ending[] = ".json";
    size_t n;

    js_set(all, "results", js_new_object());
    if (add_records(all, path, name, seed, e) < 0) {
        js_release(all);
        return -1;
    }
    js_set(all, "config", config_of(provenance, name, seed));
    if (js_get(provenance, "model_path"))
        js_set(all, "model_name", js_copy(js_get(provenance, "model_path")));
    js_set_text(all, "model_source", "llq_sweep");
    char *text = js_write(all, &n);
    int rc = write_file(to, beside(path, name, ending), text, n, e);
    free(text);
    js_release(all);
    return rc;
}

static int export_lm_eval(FILE *to, const char *path, const struct table *summary, struct err *e)
{
    struct js *provenance = store_h5_read_provenance(path, e);
    int written = 0, rc = provenance ? 0 : -1;

    for (int i = 0; rc == 0 && i < summary->n_rows; i++) {
        const char *name = table_text(summary, i, "name");
        int64_t *seeds;
        int n;
        if (store_h5_read_seeds(path, name, &seeds, &n, e) < 0)
            rc = -1;
        else if (n) {
            rc = export_experiment(to, path, provenance, name, seeds[0], e);
            written++;
        }
        free(seeds);
    }
    js_release(provenance);
    if (rc == 0 && written == 0)
        return err_set(e, ERR_INPUT, "%s: no experiment has succeeded", path);
    return rc;
}

int export_results(FILE *to, const char *form, const char *path, struct err *e)
{
    struct store_report r = { 0 };
    int rc;

    if (store_h5_read(path, &r, e) < 0)
        return -1;
    if (strcmp(form, "csv") == 0)
        rc = export_table(to, path, &r.summary, "summary", e) < 0 ||
                     export_table(to, path, &r.comparisons, "comparisons", e) < 0 ||
                     export_table(to, path, &r.halves, "halves", e) < 0
                 ? -1
                 : 0;
    else
        rc = export_lm_eval(to, path, &r.summary, e);
    store_report_release(&r);
    return rc;
}
