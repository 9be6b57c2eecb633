/* run_sweep.c - see run_sweep.h. */
#include "run_sweep.h"

#include "base/clock.h"
#include "base/log.h"
#include "output.h"
#include "progress.h"
#include "record/journal.h"
#include "record/report.h"
#include "record/store_h5.h"
#include "results.h"
#include "sweep/method.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define REBUILD_SHARE 0.01 /* of the time may go into rebuilding the results file */
#define SILENT_S      60.0
/* Who is told to leave has a second. */
#define LEAVE_REBUILD_MAX_S 0.3

/* A result that is written, but perhaps not on disk: nobody has been told of it. */
struct untold {
    int job, rank;
    double took_s;
};

struct run {
    const struct run_options *o;
    struct link *link;
    struct prepared prepared;
    struct output output;
    struct results results;
    struct journal journal;
    struct progress progress;
    struct sched_job *jobs; /* [n_jobs] */
    struct untold *untold;  /* [n_untold] */
    int n_untold;
    int n_records; /* finished jobs, those of earlier runs included */
    double start_s, rebuilding_s;
    double rebuild_s_each; /* of the last rebuild, for each of its records */
};

/* ---- before the first job ---- */

static void print_resumed(const struct run *r)
{
    const struct results *known = &r->results;
    const struct sweep *s = &r->prepared.sweep;

    fprintf(stderr, "llq_sweep: %d of %d jobs were finished before and are used again%s\n",
            known->n_taken_over, s->n_jobs,
            known->n_taken_over && !r->o->cli->verbose ? " (-v says which)" : "");
    for (int i = 0; r->o->cli->verbose && i < s->n_jobs; i++)
        if (results_has(known, i))
            fprintf(stderr, "llq_sweep: used again: %s seed %lld\n", s->jobs[i].experiment->name,
                    (long long)s->jobs[i].seed);
    if (known->n_kept)
        fprintf(stderr,
                "llq_sweep: %d results of experiments or seeds that are not asked for now "
                "are kept\n",
                known->n_kept);
    if (known->n_outdated)
        fprintf(stderr,
                "llq_sweep: %d finished jobs do not match any more (settings, model, data "
                "or version); they stay in %s alone\n",
                known->n_outdated, r->output.journal);
}

/* Jobs that an earlier run finished: their records are taken over. */
static int resume(struct run *r, struct err *e)
{
    struct js **lines = NULL;
    int n_lines = 0;
    char *warnings = NULL;

    if (!r->o->cli->resume)
        return 0;
    if (journal_read(r->output.journal, &lines, &n_lines, &warnings, e) < 0)
        return -1;
    if (warnings)
        log_warn("%s", warnings);
    free(warnings);
    results_take_over(&r->results, &r->prepared, lines, n_lines, false);
    journal_release(lines, n_lines);
    if (!r->o->cli->quiet)
        print_resumed(r);
    return 0;
}

/* Estimates of one method, for the same parts of a job, err alike. */
static int kind_of(const struct job *j)
{
    const struct method_rule *m = method_find(j->experiment->method);

    return 4 * (m ? (int)(m - method_rules) : 0) + 2 * j->benchmark + j->quality;
}

static void make_jobs(struct run *r)
{
    const struct sweep *s = &r->prepared.sweep;

    r->jobs = mem_array((size_t)s->n_jobs, sizeof *r->jobs);
    progress_open(&r->progress, stderr, r->o->cli->quiet, link_size(r->link), s->n_jobs);
    for (int i = 0; i < s->n_jobs; i++) {
        struct bytes name = BYTES_INIT;
        struct js *text = job_to_js(&s->jobs[i]);
        size_t n_bytes;
        char *written = js_write(text, &n_bytes);
        js_release(text);
        bytes_printf(&name, "%s seed %lld", s->jobs[i].experiment->name,
                     (long long)s->jobs[i].seed);
        r->jobs[i] = (struct sched_job){ .name = name.data,
                                         .text = written,
                                         .n_bytes = n_bytes,
                                         .cost_s = s->jobs[i].cost_s,
                                         .kind = kind_of(&s->jobs[i]),
                                         .done = results_has(&r->results, i) };
        r->n_records += r->jobs[i].done;
        progress_job(&r->progress, i, name.data, s->jobs[i].cost_s, r->jobs[i].done);
    }
}

static int write_status(const struct run *r, int exit_code, struct err *e)
{
    int ok, failed;

    results_count(&r->results, &ok, &failed);
    return output_write_status(&r->output, exit_code, ok, failed, r->prepared.sweep.n_jobs, e);
}

/* Results, then what the status file says of them. */
static int rebuild(struct run *r, bool complete, int exit_code, struct err *e)
{
    double start = clock_seconds();
    int rc = results_store(&r->results, &r->prepared, r->output.file, complete, e);

    if (rc == 0)
        rc = write_status(r, exit_code, e);
    r->rebuilding_s += clock_seconds() - start;
    if (r->n_records)
        r->rebuild_s_each = (clock_seconds() - start) / r->n_records;
    return rc;
}

static double expected_rebuild_s(const struct run *r)
{
    return r->rebuild_s_each * r->n_records;
}

/* ---- what the scheduler tells ---- */

static int on_ready(void *context, struct err *e)
{
    struct run *r = context;

    /* Model and data are good: from here on files are written. */
    if (journal_open(&r->journal, r->output.journal, e) < 0)
        return -1;
    if (r->o->cli->force) {
        if (journal_clear(&r->journal, e) < 0)
            return -1;
        unlink(r->output.log);
    }
    enum log_level shown = r->o->cli->quiet ? LOG_ERROR : r->o->cli->verbose ? LOG_INFO : LOG_WARN;
    if (log_open(r->output.log, "rank 0", shown, e) < 0)
        return -1;
    struct js *header = results_header(&r->results, &r->prepared, &r->o->cli->overrides);
    int rc = journal_append(&r->journal, header, e);
    js_release(header);
    if (rc < 0 || journal_sync(&r->journal, e) < 0)
        return -1;
    return rebuild(r, false, OUTPUT_RUNNING, e);
}

static void on_started(void *context, int job, int rank)
{
    struct run *r = context;

    progress_started(&r->progress, job, rank);
}

/* Takes ownership of record.  It is told of when it is durable: on_settle(). */
static int keep(struct run *r, int job, int rank, struct js *record, struct err *e)
{
    js_set_int(record, "rank", rank);
    js_set_text(record, "hostname", link_host_of(r->link, rank));
    if (journal_append(&r->journal, record, e) < 0) {
        js_release(record);
        return err_in(e, "the result of %s", r->jobs[job].name);
    }
    r->n_records += !results_has(&r->results, job);
    results_set(&r->results, job, record);
    r->untold = mem_grow(r->untold, (size_t)r->n_untold + 1, sizeof *r->untold);
    r->untold[r->n_untold++] = (struct untold){ job, rank, progress_ended(&r->progress, rank) };
    return 0;
}

static int on_settle(void *context, bool all, struct err *e)
{
    struct run *r = context;
    double now = clock_seconds();

    if (!r->n_untold || (!all && !journal_sync_due(&r->journal, now)))
        return 0;
    if (journal_sync(&r->journal, e) < 0)
        return -1;
    for (int i = 0; i < r->n_untold; i++)
        progress_finished(&r->progress, r->untold[i].job, r->untold[i].rank, r->untold[i].took_s,
                          r->results.record[r->untold[i].job]);
    r->n_untold = 0;
    /* At the end it is built in any case. */
    if (all || r->rebuilding_s + expected_rebuild_s(r) > REBUILD_SHARE * (now - r->start_s))
        return 0;
    return rebuild(r, false, OUTPUT_RUNNING, e);
}

/* As a shell takes it. */
static void add_word(struct bytes *to, const char *word)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "_-./=+,:@%";

    if (*word && word[strspn(word, plain)] == 0) {
        bytes_printf(to, " %s", word);
        return;
    }
    bytes_text(to, " '");
    for (; *word; word++)
        if (*word == '\'')
            bytes_text(to, "'\\''");
        else
            bytes_add(to, word, 1);
    bytes_text(to, "'");
}

/* The command that runs one job alone, with what the command line changed in the sweep file. */
static void add_command(struct bytes *to, const struct run *r, const struct job *j)
{
    const struct sweep_overrides *o = &r->o->cli->overrides;

    bytes_printf(to, "%s --experiment %s --seeds %lld -o %s-%lld.h5", r->o->program,
                 j->experiment->name, (long long)j->seed, j->experiment->name, (long long)j->seed);
    if (strcmp(r->o->cli->backend, "auto") != 0)
        bytes_printf(to, " --backend %s", r->o->cli->backend);
    if (o->limit >= 0)
        bytes_printf(to, " --limit %lld", (long long)o->limit);
    for (int i = 0; i < o->n_set; i++) {
        bytes_text(to, " --set");
        add_word(to, o->set[i]);
    }
    add_word(to, r->prepared.sweep.path);
}

/* A failed job's message ends with that command. */
static void fail(const struct run *r, int job, struct js *record, const char *why)
{
    struct bytes text = BYTES_INIT;

    bytes_printf(&text, "%s; again: ", why ? why : "no reason given");
    add_command(&text, r, &r->prepared.sweep.jobs[job]);
    js_set_text(record, "status", "error");
    js_set_text(record, "error", text.data);
    bytes_release(&text);
}

static int on_finished(void *context, int job, int rank, const void *bytes, size_t n_bytes,
                       bool *ok, struct err *e)
{
    struct run *r = context;
    struct js *record = js_parse(bytes, n_bytes, e);

    if (!record)
        return err_in(e, "the record of %s from rank %d", r->jobs[job].name, rank);
    const char *status = js_text(js_get(record, "status"));
    *ok = status && strcmp(status, "success") == 0;
    if (!*ok) {
        fail(r, job, record, js_text(js_get(record, "error")));
        log_info("%s failed while %s: %s", r->jobs[job].name,
                 js_text(js_get(record, "error_stage")), js_text(js_get(record, "error")));
    }
    return keep(r, job, rank, record, e);
}

static int on_lost(void *context, int job, int rank, const char *text, struct err *e)
{
    struct run *r = context;
    char date[CLOCK_DATE_MAX];
    struct js *record = js_new_object(), *seconds = js_new_object();

    js_set(record, "job", job_to_js(&r->prepared.sweep.jobs[job]));
    fail(r, job, record, text);
    js_set_text(record, "error_code", err_code_name(ERR_DEVICE));
    js_set_text(record, "error_stage", "process");
    if (r->prepared.sweep.tensor_parallel > 1)
        js_set_int(record, "tensor_parallel", r->prepared.sweep.tensor_parallel);
    js_set_text(record, "finished", clock_date(date));
    js_set_real(seconds, "total", clock_seconds() - r->progress.since_s[rank]);
    js_set(record, "seconds", seconds);
    return keep(r, job, rank, record, e);
}

static void on_tick(void *context)
{
    struct run *r = context;

    progress_tick(&r->progress);
}

/* ---- the end ---- */

static int terminal_width(void)
{
    struct winsize w = { 0 };

    return isatty(1) && ioctl(1, TIOCGWINSZ, &w) == 0 ? w.ws_col : 0;
}

/* Speeds measured beside other programs mislead; the tables alone would not show it. */
static void print_unsettled(const struct run *r)
{
    int n = 0, n_unsettled = 0, n_moved = 0, n_disturbed = 0;

    for (int i = 0; i < r->prepared.sweep.n_jobs; i++) {
        const struct js *record = r->results.record[i], *latency = js_get(record, "latency");
        int64_t points = js_int(js_get(latency, "unstable_points")) +
                         js_int(js_get(js_get(record, "throughput"), "unstable_points"));
        n += latency != NULL;
        n_unsettled += points > 0;
        n_disturbed += js_bool(js_get(latency, "disturbed"));
        n_moved += js_int(js_get(js_get(record, "clocks"), "moved_points")) > 0;
    }
    if (n_unsettled)
        printf(
            "speed: in %d of %d benchmarks some medians did not settle to 2 %% (short minima, or "
            "other programs on this machine); the samples are in the file\n",
            n_unsettled, n);
    if (n_disturbed)
        printf(
            "speed: %d of %d benchmarks ran while other ranks worked on the same device (latency's "
            "attribute disturbed); one rank a device measures undisturbed\n",
            n_disturbed, n);
    if (n_moved)
        printf("speed: in %d of %d benchmarks the device's clock moved by more than 3 %% within a "
               "point; /clocks of each in the file says where\n",
               n_moved, n);
}

static void print_end(struct run *r)
{
    struct store_report report = { 0 };
    struct err e = ERR_INIT;

    if (store_h5_read(r->output.file, &report, &e) < 0) {
        fprintf(stderr, "llq_sweep: %s\n", e.text);
        return;
    }
    if (!r->o->cli->quiet) {
        report_print(stdout, &report, terminal_width());
        print_unsettled(r);
    }
    store_report_release(&report);
    printf("%s\n", r->output.file);
    fflush(stdout);
}

static int finish(struct run *r, enum sched_end end, struct err *e)
{
    int ok, failed;

    progress_close(&r->progress);
    if (r->journal.fd < 0) /* stopped before anything began */
        return EXIT_RESUMABLE;
    results_count(&r->results, &ok, &failed);
    int status = end == SCHED_STOPPED_EARLY && !(r->o->cli->fail_fast && failed) ? EXIT_RESUMABLE
                 : failed                                                        ? EXIT_SOME_FAILED
                                                                                 : EXIT_ALL_OK;
    /* TERM leaves at once: what is finished is in the journal.  Whoever sends it may not wait for
     * the results, so that the status comes first. */
    bool told = r->o->stop && *r->o->stop > 1;
    bool at_once = told && expected_rebuild_s(r) > LEAVE_REBUILD_MAX_S;
    if ((told && write_status(r, status, e) < 0) ||
        (!at_once && rebuild(r, end == SCHED_ALL_DONE, status, e) < 0))
        return -1;
    if (!at_once)
        print_end(r);
    else
        fprintf(stderr, "llq_sweep: %s is behind its journal; --report builds it again\n",
                r->output.file);
    if (end == SCHED_STOPPED_EARLY)
        fprintf(stderr, "llq_sweep: stopped early; go on with --resume -o %s\n", r->output.file);
    return status;
}

static int begin(struct run *r, struct err *e)
{
    const struct run_options *o = r->o;
    char *file = NULL;

    if (prepare(&o->prepare, &r->prepared, e) < 0 || cli_output(o->cli, &file, e) < 0)
        return -1;
    int rc = output_names(file, o->cli->resume, &r->output, e);
    free(file);
    if (rc < 0)
        return -1;
    if (r->prepared.sweep.removed_cells && !o->cli->quiet)
        fprintf(stderr, "llq_sweep: cells that cannot run are left out: %s\n",
                r->prepared.sweep.removed_cells);
    results_open(&r->results, &r->prepared, o->versions, o->command_line, r->link);
    if (resume(r, e) < 0)
        return -1;
    make_jobs(r);
    return 0;
}

static void release(struct run *r)
{
    for (int i = 0; r->jobs && i < r->prepared.sweep.n_jobs; i++) {
        free((void *)(uintptr_t)r->jobs[i].name);
        free((void *)(uintptr_t)r->jobs[i].text);
    }
    free(r->jobs);
    free(r->untold);
    progress_close(&r->progress);
    journal_close(&r->journal);
    results_close(&r->results);
    output_release(&r->output);
    prepared_release(&r->prepared);
}

double run_silent_s(void)
{
    const char *test = getenv("LLQ_TEST_SILENT");

    return test ? atof(test) : SILENT_S;
}

int run_sweep(const struct run_options *o, struct link *link, struct engine *engine)
{
    struct run r = { .o = o, .link = link, .journal = JOURNAL_INIT, .start_s = clock_seconds() };
    struct err e = ERR_INIT;
    enum sched_end end = SCHED_STOPPED_EARLY;
    int status = -1;

    if (begin(&r, &e) == 0) {
        struct sched_options so = { .job_timeout_s = r.prepared.sweep.job_timeout_s,
                                    .time_limit_s = o->cli->time_limit_s,
                                    .fail_fast = o->cli->fail_fast,
                                    .crash_limit = 2,
                                    .group_size = r.prepared.sweep.tensor_parallel,
                                    .silent_s = run_silent_s(),
                                    .log = r.output.log,
                                    .stop = o->stop };
        struct sched_listener l = { .ready = on_ready,
                                    .started = on_started,
                                    .finished = on_finished,
                                    .lost = on_lost,
                                    .settle = on_settle,
                                    .tick = on_tick,
                                    .context = &r };
        if (sched_manage(link, engine, r.prepared.setup.data, r.prepared.setup.n, r.jobs,
                         r.prepared.sweep.n_jobs, &so, &l, &end, &e) == 0)
            status = finish(&r, end, &e);
    } else {
        sched_dismiss(link);
    }
    if (status < 0) {
        progress_close(&r.progress);
        fprintf(stderr, "llq_sweep: %s\n", e.text);
        status = EXIT_USAGE;
        /* Something broke on the way (a full disk, say): what is finished is in the journal. */
        if (r.journal.fd >= 0) {
            status = EXIT_RESUMABLE;
            fprintf(stderr, "llq_sweep: what is finished is kept; go on with --resume -o %s\n",
                    r.output.file);
            write_status(&r, status, &e);
        }
    }
    release(&r);
    return status;
}
