/* rebuild.c - see rebuild.h. */
#include "rebuild.h"

#include "base/file.h"
#include "output.h"
#include "record/journal.h"
#include "record/store_h5.h"
#include "results.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_complete(const char *file)
{
    struct store_report report = { 0 };
    struct err ignored = ERR_INIT;
    bool complete = store_h5_read(file, &report, &ignored) == 0 && report.complete;

    store_report_release(&report);
    return complete;
}

/* The texts of a list; the list owns them, the caller the array. */
static const char **texts_of(const struct js *list, int *n)
{
    const char **out = mem_array(js_count(list) + 1, sizeof *out);

    *n = (int)js_count(list);
    for (int i = 0; i < *n; i++)
        out[i] = js_text(js_at(list, (size_t)i)) ? js_text(js_at(list, (size_t)i)) : "";
    return out;
}

/* The sweep as the run understood it: its file's text and what the command line changed. */
static int read_sweep(const struct js *said, struct sweep *out, struct err *e)
{
    struct sweep_overrides o = SWEEP_OVERRIDES_INIT;
    const char *path, *text;
    int64_t shard, n_shards;
    int rc = -1;

    if (js_want_text(said, "path", &path, e) < 0 || js_want_text(said, "text", &text, e) < 0 ||
        js_want_int(said, "limit", &o.limit, e) < 0 || js_int_or(said, "shard", 0, &shard, e) < 0 ||
        js_int_or(said, "shards", 0, &n_shards, e) < 0)
        return -1;
    if (n_shards > 1 && (shard < 1 || shard > n_shards || n_shards > SWEEP_MAX_JOBS))
        return err_set(e, ERR_INPUT, "its journal speaks of part %lld of %lld", (long long)shard,
                       (long long)n_shards);
    o.shard = (int)shard;
    o.n_shards = (int)n_shards;
    const char **set = texts_of(js_get(said, "set"), &o.n_set);
    const char **only = texts_of(js_get(said, "experiments"), &o.n_only);
    const struct js *seeds = js_get(said, "seeds");
    o.set = set;
    o.only = only;
    o.has_seeds = true;
    for (size_t i = 0; i < js_count(seeds) && i < SWEEP_LIST_MAX; i++)
        o.seeds[o.n_seeds++] = js_int(js_at(seeds, i));
    /* No shapes to check cells by: those that could not run are not among the experiments. */
    if (sweep_read_text(path, text, strlen(text), &o, out, e) == 0 &&
        sweep_expand(out, &o, NULL, NULL, e) == 0)
        rc = 0;
    free(set);
    free(only);
    return rc;
}

static int rebuild(const char *file, const struct js *head, struct js *const *lines, int n_lines,
                   struct err *e)
{
    struct prepared p = PREPARED_INIT;
    struct results r = RESULTS_INIT;
    const char *identity, *calibration = js_text(js_get(head, "calibration_sha256"));
    int ok, failed, rc = -1;

    if (js_want_text(head, "identity", &identity, e) < 0 ||
        read_sweep(js_get(head, "sweep_file"), &p.sweep, e) < 0)
        goto out;
    bytes_add(&p.identity, identity, strlen(identity));
    /* Part of the keys of jobs that look at text. */
    snprintf(p.sweep.calibration_sha256, sizeof p.sweep.calibration_sha256, "%s",
             calibration ? calibration : "");
    for (int i = 0; i < p.sweep.n_jobs; i++)
        job_make_key(&p.sweep.jobs[i], &p.sweep, identity);
    results_reopen(&r, &p, head);
    results_take_over(&r, &p, lines, n_lines, true);
    results_count(&r, &ok, &failed);
    rc = results_store(&r, &p, file, ok + failed == r.n_jobs, e);
out:
    results_close(&r);
    prepared_release(&p);
    return rc < 0 ? err_in(e, "building it again from its journal") : 0;
}

int rebuild_results(const char *file, struct err *e)
{
    struct journal journal = JOURNAL_INIT;
    struct output names = OUTPUT_INIT;
    struct js **lines = NULL;
    const struct js *head = NULL;
    struct err busy = ERR_INIT;
    int n_lines = 0, rc = 0;

    if (output_names(file, false, &names, e) < 0)
        return -1;
    if (!file_exists(names.journal) || is_complete(file))
        goto out;
    /* Locked: its sweep runs, and rebuilds the file itself.  Not ours to write: then not to mend
     * either. */
    if (journal_open(&journal, names.journal, &busy) < 0)
        goto out;
    rc = journal_read(names.journal, &lines, &n_lines, NULL, e);
    for (int i = 0; rc == 0 && i < n_lines; i++)
        if (js_get(lines[i], "sweep_file"))
            head = lines[i];
    if (head)
        rc = rebuild(file, head, lines, n_lines, e);
out:
    journal_release(lines, n_lines);
    journal_close(&journal);
    output_release(&names);
    return rc;
}
