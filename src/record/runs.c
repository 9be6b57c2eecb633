/* runs.c - see runs.h: records in order. */
#include "record/runs.h"

#include "base/memory.h"
#include "sweep/method.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- experiments by name ---- */

struct name_entry {
    const char *name;
    int at;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct name_entry *)a)->name, ((const struct name_entry *)b)->name);
}

/* ---- records ---- */

struct entry {
    int experiment; /* index in the sweep */
    struct run run;
    const char *finished;
};

static const char *text_or_empty(const struct js *j, const char *key)
{
    const char *text = js_text(js_get(j, key));

    return text ? text : "";
}

static int by_whole_text(const struct js *a, const struct js *b)
{
    char *x = js_write(a, NULL), *y = js_write(b, NULL);
    int order = strcmp(x, y);

    free(x);
    free(y);
    return order;
}

/* Experiment, seed; of doubles the one that counts comes first.  Never decided by the place in
 * the caller's list. */
static int by_experiment(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;

    if (x->experiment != y->experiment)
        return x->experiment < y->experiment ? -1 : 1;
    if (x->run.seed != y->run.seed)
        return x->run.seed < y->run.seed ? -1 : 1;
    if (x->run.ok != y->run.ok)
        return x->run.ok ? -1 : 1;
    int order = strcmp(y->finished, x->finished);
    return order ? order : by_whole_text(x->run.record, y->run.record);
}

static int n_known(const struct sweep *s)
{
    return s->n_known > s->n_experiments ? s->n_known : s->n_experiments;
}

static int read_entries(const struct sweep *s, const struct js *const *records, int n_records,
                        struct entry *out, int *n_out, struct err *e)
{
    int n = n_known(s), rc = -1;
    struct name_entry *names = mem_array((size_t)n, sizeof *names);

    for (int i = 0; i < n; i++)
        names[i] = (struct name_entry){ s->experiments[i].name, i };
    qsort(names, (size_t)n, sizeof *names, by_name);
    *n_out = 0;
    for (int i = 0; i < n_records; i++) {
        const struct js *job = js_get(records[i], "job"), *seed = js_get(job, "seed");
        const char *name = js_text(js_get(job, "experiment"));
        if (!name || js_kind(seed) != JS_INT) {
            err_set(e, ERR_INPUT, "a record names no experiment and seed");
            goto out;
        }
        struct name_entry key = { name, 0 };
        struct name_entry *found = bsearch(&key, names, (size_t)n, sizeof *names, by_name);
        if (!found)
            continue;
        out[(*n_out)++] =
            (struct entry){ .experiment = found->at,
                            .run = { .seed = js_int(seed),
                                     .ok = !strcmp(text_or_empty(records[i], "status"), "success"),
                                     .record = records[i] },
                            .finished = text_or_empty(records[i], "finished") };
    }
    qsort(out, (size_t)*n_out, sizeof *out, by_experiment);
    rc = 0;
out:
    free(names);
    return rc;
}

static bool has_seed(const struct runs *r, int64_t seed)
{
    for (int i = 0; i < r->n; i++)
        if (r->all[i].seed == seed)
            return true;
    return false;
}

int runs_collect(const struct sweep *s, const struct js *const *records, int n_records,
                 struct run_list *out, struct err *e)
{
    int n = n_known(s), n_entries, n_kept = 0;
    struct entry *entries = mem_array((size_t)n_records, sizeof *entries);

    *out = (struct run_list)RUN_LIST_INIT;
    if (read_entries(s, records, n_records, entries, &n_entries, e) < 0) {
        free(entries);
        return -1;
    }
    out->all = mem_array((size_t)n, sizeof *out->all);
    for (int i = 0; i < n; i++)
        out->all[i].experiment = &s->experiments[i];
    for (int i = 0; i < n_entries; i++) {
        struct runs *r = &out->all[entries[i].experiment];
        if (r->n && r->all[r->n - 1].seed == entries[i].run.seed)
            continue;
        r->all = mem_grow(r->all, (size_t)r->n + 1, sizeof *r->all);
        r->all[r->n++] = entries[i].run;
        r->n_ok += entries[i].run.ok;
        out->jobs_ok += entries[i].run.ok;
        out->jobs_failed += !entries[i].run.ok;
    }
    free(entries);

    /* Jobs still to come, and jobs of an earlier run that this one does not ask for. */
    out->jobs_total = out->jobs_ok + out->jobs_failed;
    for (int i = 0; i < s->n_jobs; i++) {
        struct runs *r = &out->all[s->jobs[i].experiment - s->experiments];
        r->n_jobs++;
        out->jobs_total += !has_seed(r, s->jobs[i].seed);
    }
    for (int i = 0; i < n; i++) /* what was filtered out and never ran is no part of this */
        if (i < s->n_experiments || out->all[i].n)
            out->all[n_kept++] = out->all[i];
    out->n = n_kept;
    return 0;
}

void runs_release(struct run_list *l)
{
    for (int i = 0; i < l->n; i++)
        free(l->all[i].all);
    free(l->all);
    *l = (struct run_list)RUN_LIST_INIT;
}

const struct runs *runs_find(const struct run_list *l, const char *experiment)
{
    for (int i = 0; i < l->n; i++)
        if (!strcmp(l->all[i].experiment->name, experiment))
            return &l->all[i];
    return NULL;
}

bool runs_seed_matters(const struct sweep *s, const struct experiment *x, const char *task)
{
    const struct method_rule *m = method_find(x->method);
    const char *subset = js_text(js_get(js_find(s->tasks, task), "subset"));

    return !m || !m->data_free || (subset && !strcmp(subset, "random"));
}

double run_device_seconds(const struct js *record)
{
    const struct js *devices = js_get(record, "tensor_parallel");
    double total = js_real(js_get(js_get(record, "seconds"), "total"));

    return isfinite(total) ? total * (devices ? (double)js_int(devices) : 1) : 0;
}
