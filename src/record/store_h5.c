/* store_h5.c - see store_h5.h: the layout of the results file.
 *
 * How values reach HDF5 is in store_h5_put.c, what becomes of a record in store_h5_record.c. */
#include "record/store_h5.h"

#include "base/file.h"
#include "record/store_h5_inner.h"
#include "sweep/sweep_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- tables ---- */

static int put_column(const struct h5_build *b, hid_t group, const struct table_column *c,
                      int n_rows, struct err *e)
{
    struct values v = { .rank = 1, .dims = { (hsize_t)n_rows } };
    struct h5_facts facts = { c->unit, c->what, c->higher_is_better };
    int8_t *flags = NULL;

    switch (c->kind) {
    case COLUMN_TEXT:
        v.kind = VALUES_TEXT;
        v.texts = (const char *const *)c->text;
        break;
    case COLUMN_REAL:
        v.kind = VALUES_REAL;
        v.reals = c->real;
        break;
    case COLUMN_COUNT:
        v.kind = VALUES_INT;
        v.ints = c->count;
        break;
    case COLUMN_BOOL:
        flags = mem_array((size_t)n_rows, sizeof *flags);
        for (int i = 0; i < n_rows; i++)
            flags[i] = c->count[i] != 0;
        v.kind = VALUES_BOOL;
        v.bools = flags;
        break;
    }
    int rc = h5_put_dataset(b, group, c->name, &v, &facts, e);
    free(flags);
    return rc;
}

static int put_table(const struct h5_build *b, hid_t parent, const char *name,
                     const struct table *t, struct err *e)
{
    hid_t group;
    int rc = 0;

    if (h5_put_group(b, parent, name, &group, e) < 0)
        return -1;
    for (int c = 0; rc == 0 && c < t->n_columns; c++)
        rc = put_column(b, group, &t->columns[c], t->n_rows, e);
    h5_close(group);
    return rc < 0 ? err_in(e, "table %s", name) : 0;
}

/* /pareto/FRONT/METRIC: a list of names. */
static int put_list(const struct h5_build *b, hid_t parent, const char *metric,
                    const struct table *t, int from, int n, struct err *e)
{
    struct js *names = js_new_array();
    struct values v;
    struct h5_facts facts = { "", "experiments that no other dominates, by rising cost", -1 };

    for (int i = from; i < from + n; i++)
        js_append(names, js_new_text(table_text(t, i, "name")));
    values_from_js(names, &v);
    int rc = h5_put_dataset(b, parent, metric, &v, &facts, e);
    values_release(&v);
    js_release(names);
    return rc;
}

static int put_fronts(const struct h5_build *b, const struct table *t, struct err *e)
{
    hid_t all = -1, front = -1;
    const char *open = "";
    int rc = h5_put_group(b, b->file, "pareto", &all, e);

    for (int i = 0, n; rc == 0 && i < t->n_rows; i += n) {
        const char *name = table_text(t, i, "front"), *metric = table_text(t, i, "metric");
        for (n = 1; i + n < t->n_rows && strcmp(table_text(t, i + n, "front"), name) == 0 &&
                    strcmp(table_text(t, i + n, "metric"), metric) == 0;)
            n++;
        if (strcmp(open, name) != 0) {
            h5_close(front);
            front = -1;
            rc = h5_put_group(b, all, open = name, &front, e);
        }
        if (rc == 0)
            rc = put_list(b, front, metric, t, i, n, e);
    }
    h5_close(front);
    h5_close(all);
    return rc < 0 ? err_in(e, "pareto") : 0;
}

/* ---- one job ---- */

static const char *text_member(const struct js *j, const char *key)
{
    const char *text = js_text(js_get(j, key));

    return text ? text : "";
}

static int put_seconds(const struct h5_build *b, hid_t group, const struct js *seconds,
                       struct err *e)
{
    struct js_member m = JS_MEMBER_INIT;
    char name[128];

    while (js_next(seconds, &m)) {
        snprintf(name, sizeof name, "seconds_%s", m.key);
        if (h5_put_real(b, group, name, js_real(m.value), e) < 0)
            return -1;
    }
    return 0;
}

/* Who, when, how it ended: the same attributes for every job, failed ones too. */
static int put_job_attributes(const struct h5_build *b, hid_t group, const struct js *record,
                              struct err *e)
{
    static const char *const texts[][2] = {
        /* attribute, member of the record */
        { "status", "status" },           { "error", "error" },
        { "error_stage", "error_stage" }, { "error_code", "error_code" },
        { "hostname", "hostname" },       { "gpu", "device" },
        { "started", "started" },         { "finished", "finished" }
    };
    const struct js *job = js_get(record, "job"), *rank = js_get(record, "rank");

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (h5_put_text(b, group, texts[i][0], text_member(record, texts[i][1]), e) < 0)
            return -1;
    if (h5_put_int(b, group, "rank", rank ? js_int(rank) : -1, e) < 0 ||
        h5_put_text(b, group, "key", text_member(job, "key"), e) < 0 ||
        h5_put_bool(b, group, "quality", js_bool(js_get(job, "quality")), e) < 0 ||
        h5_put_bool(b, group, "benchmark", js_bool(js_get(job, "benchmark")), e) < 0)
        return -1;
    return put_seconds(b, group, js_get(record, "seconds"), e);
}

static bool is_job_attribute(const char *key)
{
    static const char *const keys[] = { "job",        "status",   "error",    "error_stage",
                                        "error_code", "rank",     "hostname", "device",
                                        "started",    "finished", "seconds" };

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strcmp(key, keys[i]) == 0)
            return true;
    return false;
}

static int put_job(const struct h5_build *b, hid_t seeds, const struct js *record, struct err *e)
{
    struct js_member m = JS_MEMBER_INIT;
    char name[32];
    hid_t group;

    snprintf(name, sizeof name, "%lld", (long long)js_int(js_get(js_get(record, "job"), "seed")));
    if (h5_put_group(b, seeds, name, &group, e) < 0)
        return -1;
    int rc = put_job_attributes(b, group, record, e);
    while (rc == 0 && js_next(record, &m))
        if (!is_job_attribute(m.key))
            rc = h5_put_member(b, group, m.key, m.value, e);
    h5_close(group);
    return rc < 0 ? err_in(e, "seed %s", name) : 0;
}

/* ---- records, sorted ---- */

struct entry {
    const char *experiment;
    int64_t seed;
    int i; /* in the caller's list: the later one counts */
    const struct js *record;
};

struct entries {
    int n;
    struct entry *all; /* by experiment, seed; one a pair */
};

static int by_experiment_and_seed(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    int names = strcmp(x->experiment, y->experiment);

    if (names)
        return names;
    if (x->seed != y->seed)
        return x->seed < y->seed ? -1 : 1;
    return (x->i > y->i) - (x->i < y->i);
}

static int sort_records(const struct store_input *in, struct entries *out, struct err *e)
{
    out->all = mem_array((size_t)in->n_records, sizeof *out->all);
    out->n = 0;
    for (int i = 0; i < in->n_records; i++) {
        const struct js *job = js_get(in->records[i], "job");
        const char *name = js_text(js_get(job, "experiment"));
        if (!name || !*name || js_kind(js_get(job, "seed")) != JS_INT)
            return err_set(e, ERR_INPUT, "record %d names no experiment and seed", i);
        out->all[out->n++] = (struct entry){ name, js_int(js_get(job, "seed")), i, in->records[i] };
    }
    qsort(out->all, (size_t)out->n, sizeof *out->all, by_experiment_and_seed);
    int kept = 0;
    for (int i = 0; i < out->n; i++) {
        const struct entry *x = &out->all[i];
        bool again = kept > 0 && strcmp(out->all[kept - 1].experiment, x->experiment) == 0 &&
                     out->all[kept - 1].seed == x->seed;
        out->all[again ? kept - 1 : kept++] = *x;
    }
    out->n = kept;
    return 0;
}

/* First entry of an experiment, or where it would stand. */
static int first_entry(const struct entries *s, const char *experiment)
{
    int low = 0, high = s->n;

    while (low < high) {
        int middle = low + (high - low) / 2;
        if (strcmp(s->all[middle].experiment, experiment) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* ---- experiments ---- */

static int put_setting(const struct h5_build *b, hid_t group, const char *key,
                       const struct js *value, struct err *e)
{
    struct values v;

    values_from_js(value, &v);
    int rc = h5_put_attribute(b, group, key, &v, e);
    values_release(&v);
    return rc;
}

static int put_settings(const struct h5_build *b, hid_t group, const struct js *settings,
                        struct err *e)
{
    struct js_member m = JS_MEMBER_INIT;

    while (js_next(settings, &m))
        if (put_setting(b, group, m.key, m.value, e) < 0)
            return -1;
    return 0;
}

/* NULL where the summary does not know the experiment (yet). */
static const struct experiment_results *results_of(const struct summary *s, int i,
                                                   const char *experiment)
{
    if (i >= 0 && i < s->n_experiments &&
        strcmp(s->experiments[i].experiment->name, experiment) == 0)
        return &s->experiments[i];
    for (int k = 0; k < s->n_experiments; k++)
        if (strcmp(s->experiments[k].experiment->name, experiment) == 0)
            return &s->experiments[k];
    return NULL;
}

/* The statistics once more, in words: h5dump shows attributes first, long before the tables. */
static int put_intervals(const struct h5_build *b, hid_t group, const struct table *t,
                         double confidence, struct err *e)
{
    struct js *lines = js_new_array();
    struct values v;

    for (int i = 0; i < t->n_rows; i++) {
        double mean = table_real(t, i, "mean"), low = table_real(t, i, "seed_ci_low");
        double high = table_real(t, i, "seed_ci_high");
        bool across_seeds = isfinite(low) && isfinite(high);
        char line[256];
        int n;
        if (isnan(mean))
            continue;
        if (!across_seeds) {
            low = table_real(t, i, "item_ci_low");
            high = table_real(t, i, "item_ci_high");
        }
        n = snprintf(line, sizeof line, "%s %.6g", table_text(t, i, "metric"), mean);
        if (isfinite(low) && isfinite(high))
            snprintf(line + n, sizeof line - (size_t)n, " [%.6g, %.6g] %g %% across %s", low, high,
                     100 * confidence, across_seeds ? "seeds" : "items");
        js_append(lines, js_new_text(line));
    }
    values_from_js(lines, &v);
    int rc = js_count(lines) ? h5_put_attribute(b, group, "intervals", &v, e) : 0;
    values_release(&v);
    js_release(lines);
    return rc;
}

static const char *status_of(const struct entry *jobs, int n)
{
    int n_ok = 0;

    for (int i = 0; i < n; i++)
        n_ok += strcmp(text_member(jobs[i].record, "status"), "success") == 0;
    return n_ok == n && n > 0 ? "success" : n_ok > 0 ? "partial" : "error";
}

/* results NULL: an experiment that the sweep file does not name any more. */
static int put_experiment(const struct h5_build *b, hid_t parent, const char *name,
                          const struct js *settings, const struct experiment_results *results,
                          double confidence, const struct entry *jobs, int n_jobs, struct err *e)
{
    hid_t group = -1, seeds = -1;
    int rc = -1;

    if (h5_put_group(b, parent, name, &group, e) < 0 || put_settings(b, group, settings, e) < 0 ||
        h5_put_text(b, group, "status", results ? results->status : status_of(jobs, n_jobs), e) < 0)
        goto out;
    if (results && (put_intervals(b, group, &results->statistics, confidence, e) < 0 ||
                    put_table(b, group, "statistics", &results->statistics, e) < 0))
        goto out;
    if (h5_put_group(b, group, "seeds", &seeds, e) < 0)
        goto out;
    for (int i = 0; i < n_jobs; i++)
        if (put_job(b, seeds, jobs[i].record, e) < 0)
            goto out;
    rc = 0;
out:
    h5_close(seeds);
    h5_close(group);
    return rc < 0 ? err_in(e, "experiment %s", name) : 0;
}

static int count_jobs(const struct entries *s, int first, const char *experiment)
{
    int n = 0;

    while (first + n < s->n && strcmp(s->all[first + n].experiment, experiment) == 0)
        n++;
    return n;
}

static int put_experiments(const struct h5_build *b, const struct store_input *in,
                           const struct entries *records, struct err *e)
{
    bool *written = mem_array((size_t)records->n, sizeof *written);
    hid_t parent = -1;
    int rc = h5_put_group(b, b->file, "experiments", &parent, e);

    for (int i = 0; rc == 0 && i < in->sweep->n_experiments; i++) {
        const struct experiment *x = &in->sweep->experiments[i];
        int first = first_entry(records, x->name), n = count_jobs(records, first, x->name);
        struct js *settings = experiment_to_js(x);
        rc = put_experiment(b, parent, x->name, settings, results_of(in->summary, i, x->name),
                            in->sweep->confidence, &records->all[first], n, e);
        js_release(settings);
        for (int k = 0; k < n; k++)
            written[first + k] = true;
    }
    for (int i = 0; rc == 0 && i < records->n; i++) {
        const struct entry *x = &records->all[i];
        if (written[i])
            continue;
        int n = count_jobs(records, i, x->experiment);
        rc = put_experiment(b, parent, x->experiment, js_get(js_get(x->record, "job"), "quant"),
                            results_of(in->summary, -1, x->experiment), in->sweep->confidence, x, n,
                            e);
        i += n - 1;
    }
    h5_close(parent);
    free(written);
    return rc;
}

/* ---- the whole ---- */

static bool goes_to_root(const char *key)
{
    return strcmp(key, "llq_version") == 0 || strcmp(key, "git_commit") == 0;
}

static int put_root(const struct h5_build *b, const struct store_input *in, struct err *e)
{
    const struct sweep *s = in->sweep;
    hid_t root = b->file;

    if (h5_put_text(b, root, "format", STORE_FORMAT, e) < 0 ||
        h5_put_int(b, root, "format_version", STORE_FORMAT_VERSION, e) < 0 ||
        h5_put_text(b, root, "created", in->created, e) < 0 ||
        h5_put_text(b, root, "finished", in->finished, e) < 0 ||
        h5_put_text(b, root, "llq_version", text_member(in->provenance, "llq_version"), e) < 0 ||
        h5_put_text(b, root, "git_commit", text_member(in->provenance, "git_commit"), e) < 0 ||
        h5_put_text(b, root, "command_line", in->command_line, e) < 0 ||
        h5_put_bool(b, root, "complete", in->complete, e) < 0 ||
        h5_put_int(b, root, "jobs_total", in->summary->jobs_total, e) < 0 ||
        h5_put_int(b, root, "jobs_ok", in->summary->jobs_ok, e) < 0 ||
        h5_put_int(b, root, "jobs_failed", in->summary->jobs_failed, e) < 0 ||
        h5_put_text(b, root, "name", s->name, e) < 0 ||
        h5_put_text(b, root, "baseline", s->baseline, e) < 0 ||
        h5_put_real(b, root, "confidence", s->confidence, e) < 0 ||
        h5_put_text(b, root, "no_comparisons", in->summary->no_comparisons, e) < 0)
        return -1;
    return 0;
}

static int put_provenance(const struct h5_build *b, const struct store_input *in, struct err *e)
{
    struct js_member m = JS_MEMBER_INIT;
    struct values text;
    struct h5_facts facts = { "", "the sweep file, verbatim", -1 };
    hid_t group;

    if (h5_put_group(b, b->file, "provenance", &group, e) < 0)
        return -1;
    int rc = 0;
    while (rc == 0 && js_next(in->provenance, &m))
        if (!goes_to_root(m.key) && strcmp(m.key, "sweep_toml") != 0)
            rc = h5_put_member(b, group, m.key, m.value, e);
    if (rc == 0) {
        struct js *toml = js_new_textn(in->sweep->text ? in->sweep->text : "",
                                       in->sweep->text ? in->sweep->text_bytes : 0);
        values_from_js(toml, &text);
        rc = h5_put_dataset(b, group, "sweep_toml", &text, &facts, e);
        values_release(&text);
        js_release(toml);
    }
    h5_close(group);
    return rc < 0 ? err_in(e, "provenance") : 0;
}

/* A program killed while it wrote leaves FILE.tmp.PID behind.  One that nobody has touched for
 * ten minutes has no writer any more. */
static void remove_old_temps(const char *path)
{
    const int old_s = 600;
    char *folder = file_folder(path);
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    size_t n = strlen(base);
    DIR *d = opendir(folder);

    for (struct dirent *entry; d && (entry = readdir(d));) {
        const char *number = entry->d_name + n + strlen(".tmp.");
        struct stat st;
        if (strncmp(entry->d_name, base, n) != 0 || strncmp(entry->d_name + n, ".tmp.", 5) != 0 ||
            !*number || number[strspn(number, "0123456789")])
            continue;
        if (fstatat(dirfd(d), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISREG(st.st_mode) && time(NULL) - st.st_mtime > old_s)
            unlinkat(dirfd(d), entry->d_name, 0);
    }
    if (d)
        closedir(d);
    free(folder);
}

int store_h5_build(const char *path, const struct store_input *in, struct err *e)
{
    struct h5_build b = { .file = -1 };
    struct entries records = { 0 };
    struct bytes image = BYTES_INIT;
    int rc = -1;

    if (h5_build_start(&b, in->sweep->confidence, e) < 0 || sort_records(in, &records, e) < 0)
        goto out;
    if (put_root(&b, in, e) < 0 || put_provenance(&b, in, e) < 0 ||
        put_table(&b, b.file, "summary", &in->summary->summary, e) < 0 ||
        put_table(&b, b.file, "comparisons", &in->summary->comparisons, e) < 0 ||
        put_table(&b, b.file, "halves", &in->summary->halves, e) < 0 ||
        put_fronts(&b, &in->summary->pareto, e) < 0 || put_experiments(&b, in, &records, e) < 0)
        goto out;
    if (h5_build_finish(&b, &image, e) < 0)
        goto out;
    h5_seal(&image);
    remove_old_temps(path);
    /* Rename last: kill -9 during a write in place leaves files that HDF5 cannot open. */
    if (file_replace(path, image.data, image.n, e) < 0)
        goto out;
    rc = 0;
out:
    if (rc < 0)
        err_in(e, "%s", path);
    h5_build_release(&b);
    bytes_release(&image);
    free(records.all);
    return rc;
}

const char *store_h5_version(void)
{
    static const char version[] = H5_VERS_INFO; /* "HDF5 library version: 1.10.8" */
    const char *colon = strrchr(version, ' ');

    return colon ? colon + 1 : version;
}
