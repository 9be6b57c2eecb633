/* results.c - see results.h. */
#include "results.h"

#include "base/clock.h"
#include "base/file.h"
#include "cli.h"
#include "record/provenance.h"
#include "record/runs.h"
#include "record/store_h5.h"
#include "record/summary.h"
#include "eval/choice.h"
#include "setup.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of the tasks that run, and of the data sets in their tables. */
static struct js *task_versions(const struct js *asked)
{
    struct js *out = js_new_object();

    for (int i = 0; tasks[i]; i++)
        if (js_get(asked, tasks[i]->name))
            js_set_int(out, tasks[i]->name, tasks[i]->version);
    for (const struct choice_task *t = choice_tasks; t->name; t++)
        if (js_get(js_get(asked, "multiple_choice"), t->name))
            js_set_int(out, t->name, t->version);
    return out;
}

/* The profile with what its switches come to for this model. */
static struct js *resolved_profile(const struct prepared *p)
{
    struct js *out = profile_to_js(&p->profile);
    bool bos = p->tokenizer && p->profile.add_bos && tokenizer_adds_bos(p->tokenizer);
    const char *text = bos ? tokenizer_bos_text(p->tokenizer) : NULL;

    js_set_text(out, "prompts_begin_with", text ? text : "");
    js_set_int(out, "longest_prompt", p->profile.max_length - p->profile.max_new_tokens);
    js_set_text(out, "cut_end", "left");
    js_set_text(out, "log_softmax", "fp32");
    js_set(out, "task_versions", task_versions(p->sweep.tasks));
    return out;
}

/* What is known when the run starts. */
static struct js *make_provenance(const struct prepared *p, const char *const *versions,
                                  const struct link *link)
{
    int n = link_size(link), n_versions = 0;
    struct provenance_rank *ranks = mem_array((size_t)n, sizeof *ranks);
    struct provenance_version list[16];
    struct js *profile = resolved_profile(p);

    for (int r = 0; r < n; r++)
        ranks[r].hostname = link_host_of(link, r);
    for (int i = 0; versions[i] && n_versions < 16; i += 2)
        list[n_versions++] = (struct provenance_version){ versions[i], versions[i + 1] };
    struct provenance_input in = { .llq_version = llq_version(),
                                   .git_commit = llq_commit(),
                                   .n_versions = n_versions,
                                   .versions = list,
                                   .n_ranks = n,
                                   .ranks = ranks,
                                   .model_path = p->folder,
                                   .model_revision =
                                       p->commit[0] ? p->commit : p->sweep.model_revision,
                                   .model_sha256 = p->model_sha256,
                                   .data = p->data,
                                   .profile = profile,
                                   .sweep = &p->sweep };
    struct js *made = provenance_make(&in);
    js_release(profile);
    free(ranks);
    return made;
}

void results_open(struct results *r, const struct prepared *p, const char *const *versions,
                  const char *command_line, const struct link *link)
{
    *r = (struct results){ .n_jobs = p->sweep.n_jobs };
    r->record = mem_array((size_t)r->n_jobs, sizeof(struct js *));
    r->provenance = make_provenance(p, versions, link);
    r->command_line = mem_text(command_line);
    clock_date(r->created);
}

void results_reopen(struct results *r, const struct prepared *p, const struct js *head)
{
    const struct js *provenance = js_get(head, "provenance");
    const char *command_line = js_text(js_get(head, "command_line"));

    *r = (struct results){ .n_jobs = p->sweep.n_jobs };
    r->record = mem_array((size_t)r->n_jobs, sizeof(struct js *));
    r->provenance = provenance ? js_copy(provenance) : js_new_object();
    r->command_line = mem_text(command_line ? command_line : "");
}

void results_close(struct results *r)
{
    for (int i = 0; i < r->n_jobs; i++)
        js_release(r->record[i]);
    free(r->record);
    for (int i = 0; i < r->n_kept; i++)
        js_release(r->kept[i]);
    free(r->kept);
    js_release(r->provenance);
    free(r->command_line);
    *r = (struct results)RESULTS_INIT;
}

static bool succeeded(const struct js *record)
{
    const char *status = js_text(js_get(record, "status"));

    return status && strcmp(status, "success") == 0;
}

static int by_key(const void *a, const void *b, void *context)
{
    const struct job *jobs = context;

    return strcmp(jobs[*(const int *)a].key, jobs[*(const int *)b].key);
}

/* The job of this key, or -1; order: job indices sorted by key. */
static int find(const struct sweep *s, const int *order, const char *key)
{
    int low = 0, high = s->n_jobs - 1;

    while (key && low <= high) {
        int middle = low + (high - low) / 2;
        int side = strcmp(key, s->jobs[order[middle]].key);
        if (side == 0)
            return order[middle];
        if (side < 0)
            high = middle - 1;
        else
            low = middle + 1;
    }
    return -1;
}

/* Which backend "auto" took, and on which device, is known once an engine has answered. */
static void learn_device(struct results *r, const struct js *record)
{
    const struct js *backend = js_get(record, "backend"), *device = js_get(record, "device");
    int64_t rank = js_int(js_get(record, "rank"));
    const struct js *devices = js_get(r->provenance, "gpu_names");

    const struct js *driver = js_get(record, "driver"), *nccl = js_get(record, "shared_by");

    if (backend)
        js_set(r->provenance, "backend", js_copy(backend));
    if (driver)
        js_set(r->provenance, "driver_version", js_copy(driver));
    if (nccl)
        js_set(r->provenance, "nccl_version", js_copy(nccl));
    if (device && rank >= 0 && (size_t)rank < js_count(devices)) {
        struct js *all = js_new_array();
        for (size_t i = 0; i < js_count(devices); i++)
            js_append(all, js_copy((int64_t)i == rank ? device : js_at(devices, i)));
        js_set(r->provenance, "gpu_names", all);
    }
}

/* Sets out->experiment to the one of the sweep file whose job, with the record's seed, has the
 * record's key.  Usually it has its name, too. */
static bool find_known(const struct prepared *p, const struct js *text, struct job *out)
{
    const struct sweep *s = &p->sweep;
    struct experiment before;
    struct err ignored = ERR_INIT;
    const char *key = js_text(js_get(text, "key"));

    if (!key || job_from_js(text, out, &before, &ignored) < 0 || (out->benchmark && !s->benchmark))
        return false;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < s->n_known; i++) {
            const struct experiment *x = &s->experiments[i];
            bool same_name = strcmp(x->name, before.name) == 0;
            if (same_name != (pass == 0) || strcmp(x->method, before.method) != 0 ||
                x->bits != before.bits || x->group_size != before.group_size)
                continue;
            out->experiment = x;
            job_make_key(out, s, p->identity.data);
            if (strcmp(key, out->key) == 0)
                return true;
        }
    return false;
}

/* Names may have changed since; settings have not, or the key would differ. */
static struct js *renamed(const struct js *record, const struct job *job)
{
    struct js *copy = js_copy(record);

    js_set(copy, "job", job_to_js(job));
    return copy;
}

void results_take_over(struct results *r, const struct prepared *p, struct js *const *lines,
                       int n_lines, bool failed_too)
{
    const struct sweep *s = &p->sweep;
    int *order = mem_array((size_t)s->n_jobs, sizeof *order);
    const char *created = n_lines ? js_text(js_get(lines[0], "created")) : NULL;

    if (created)
        snprintf(r->created, sizeof r->created, "%s", created);
    for (int i = 0; i < s->n_jobs; i++)
        order[i] = i;
    qsort_r(order, (size_t)s->n_jobs, sizeof *order, by_key, s->jobs);
    for (int i = 0; i < n_lines; i++) {
        const struct js *text = js_get(lines[i], "job");
        struct job job;
        if (!text) /* the head of a journal */
            continue;
        int at = find(s, order, js_text(js_get(text, "key")));
        if (at >= 0) {
            if ((r->record[at] && succeeded(r->record[at])) ||
                (!succeeded(lines[i]) && !failed_too))
                continue;
            r->n_taken_over += !r->record[at];
            js_release(r->record[at]);
            r->record[at] = renamed(lines[i], &s->jobs[at]);
            if (failed_too) /* the ranks of this very run, not of one before it */
                learn_device(r, lines[i]);
        } else if (find_known(p, text, &job)) {
            r->kept = mem_grow(r->kept, (size_t)r->n_kept + 1, sizeof *r->kept);
            r->kept[r->n_kept++] = renamed(lines[i], &job);
        } else {
            r->n_outdated += succeeded(lines[i]);
        }
    }
    free(order);
}

bool results_has(const struct results *r, int job)
{
    return r->record[job] != NULL;
}

void results_set(struct results *r, int job, struct js *record)
{
    learn_device(r, record);
    js_release(r->record[job]);
    r->record[job] = record;
}

void results_count(const struct results *r, int *ok, int *failed)
{
    *ok = *failed = 0;
    for (int i = 0; i < r->n_jobs; i++)
        if (r->record[i])
            ++*(succeeded(r->record[i]) ? ok : failed);
}

double results_device_seconds(const struct results *r)
{
    double s = 0;

    for (int i = 0; i < r->n_jobs; i++)
        s += run_device_seconds(r->record[i]);
    return s;
}

static struct js *sweep_file_js(const struct sweep *s, const struct sweep_overrides *o)
{
    struct js *j = js_new_object(), *set = js_new_array(), *seeds = js_new_array();
    struct js *experiments = js_new_array();
    char *path = file_absolute(s->path);

    js_set_text(j, "path", path);
    js_set(j, "text", js_new_textn(s->text, s->text_bytes));
    js_set_int(j, "limit", o->limit);
    if (o->n_shards > 1) {
        js_set_int(j, "shard", o->shard);
        js_set_int(j, "shards", o->n_shards);
    }
    for (int i = 0; i < o->n_set; i++)
        js_append(set, js_new_text(o->set[i]));
    for (int i = 0; i < s->n_seeds; i++)
        js_append(seeds, js_new_int(s->seeds[i]));
    for (int i = 0; i < s->n_experiments; i++)
        js_append(experiments, js_new_text(s->experiments[i].name));
    js_set(j, "set", set);
    js_set(j, "seeds", seeds);
    js_set(j, "experiments", experiments);
    free(path);
    return j;
}

struct js *results_header(const struct results *r, const struct prepared *p,
                          const struct sweep_overrides *o)
{
    struct js *j = js_new_object();

    js_set_text(j, "llq_journal", "1");
    js_set_text(j, "sweep", p->sweep.name);
    js_set_text(j, "created", r->created);
    js_set_text(j, "command_line", r->command_line);
    js_set_text(j, "identity", p->identity.data);
    js_set_text(j, "calibration_sha256", p->sweep.calibration_sha256);
    js_set(j, "sweep_file", sweep_file_js(&p->sweep, o));
    js_set(j, "provenance", js_copy(r->provenance));
    return j;
}

int results_store(const struct results *r, const struct prepared *p, const char *path,
                  bool complete, struct err *e)
{
    const struct js **records = mem_array((size_t)(r->n_jobs + r->n_kept), sizeof *records);
    struct summary summary = SUMMARY_INIT;
    char now[CLOCK_DATE_MAX];
    int n = 0;

    /* Of two records of one experiment and seed the later one counts: what is new. */
    for (int i = 0; i < r->n_kept; i++)
        records[n++] = r->kept[i];
    for (int i = 0; i < r->n_jobs; i++)
        if (r->record[i])
            records[n++] = r->record[i];
    int rc = summary_make(&p->sweep, records, n, &summary, e);
    if (rc == 0) {
        struct store_input in = { .sweep = &p->sweep,
                                  .summary = &summary,
                                  .records = records,
                                  .n_records = n,
                                  .provenance = r->provenance,
                                  .command_line = r->command_line,
                                  .created = r->created,
                                  .finished = complete ? clock_date(now) : "",
                                  .complete = complete };
        rc = store_h5_build(path, &in, e);
    }
    summary_release(&summary);
    free(records);
    return rc;
}
