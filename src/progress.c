/* progress.c - see progress.h. */
#include "progress.h"

#include "base/clock.h"
#include "base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

void progress_open(struct progress *p, FILE *to, bool quiet, int n_ranks, int n_jobs)
{
    *p = (struct progress){ .to = to, .quiet = quiet, .n_ranks = n_ranks, .n_jobs = n_jobs };
    p->terminal = isatty(fileno(to));
    p->start_s = clock_seconds();
    p->job_of_rank = mem_array((size_t)n_ranks, sizeof *p->job_of_rank);
    p->since_s = mem_array((size_t)n_ranks, sizeof *p->since_s);
    p->name_of = mem_array((size_t)n_jobs, sizeof *p->name_of);
    p->cost_s = mem_array((size_t)n_jobs, sizeof *p->cost_s);
    p->over = mem_array((size_t)n_jobs, sizeof *p->over);
    for (int i = 0; i < n_ranks; i++)
        p->job_of_rank[i] = -1;
}

void progress_job(struct progress *p, int job, const char *name, double cost_s, bool done)
{
    p->name_of[job] = name;
    p->cost_s[job] = cost_s;
    p->over[job] = done;
    p->n_done += done;
}

static void erase(struct progress *p)
{
    if (p->n_lines_drawn)
        fprintf(p->to, "\033[%dA\033[J", p->n_lines_drawn);
    p->n_lines_drawn = 0;
}

static void duration(double s, char out[32])
{
    if (s < 100)
        snprintf(out, 32, "%.1f s", s);
    else if (s < 6000)
        snprintf(out, 32, "%.0f min %02.0f s", floor(s / 60), fmod(floor(s), 60));
    else
        snprintf(out, 32, "%.0f h %02.0f min", floor(s / 3600), fmod(floor(s / 60), 60));
}

/* Work left over all ranks, estimates corrected by what finished jobs took. */
static double remaining_s(const struct progress *p)
{
    double ratio = p->estimated_s > 0 ? p->taken_s / p->estimated_s : 1, work = 0;

    for (int i = 0; i < p->n_jobs; i++)
        if (!p->over[i])
            work += p->cost_s[i] * ratio;
    for (int r = 0; r < p->n_ranks; r++)
        if (p->job_of_rank[r] >= 0) {
            double gone = clock_seconds() - p->since_s[r];
            double whole = p->cost_s[p->job_of_rank[r]] * ratio;
            work -= gone < whole ? gone : whole;
        }
    return work > 0 ? work / p->n_ranks : 0;
}

void progress_started(struct progress *p, int job, int rank)
{
    p->job_of_rank[rank] = job;
    p->since_s[rank] = clock_seconds();
}

static void add_number(struct bytes *line, const char *label, double value, int digits)
{
    if (isfinite(value))
        bytes_printf(line, "  %s %.*f", label, digits, value);
}

static void describe(struct bytes *line, const struct js *record)
{
    const struct js *coqa = js_get(record, "coqa"), *text = js_get(record, "perplexity");

    add_number(line, "F1", js_real(js_get(coqa, "f1")), 3);
    add_number(line, "EM", js_real(js_get(coqa, "em")), 3);
    add_number(line, "perplexity", js_real(js_get(text, "perplexity")), 4);
    int64_t n_empty = js_int(js_get(coqa, "n_empty")), n = js_int(js_get(coqa, "n"));
    if (2 * n_empty > n)
        bytes_printf(line, "  WARNING: %lld of %lld answers are empty", (long long)n_empty,
                     (long long)n);
    struct js_member task = JS_MEMBER_INIT;
    while (js_next(js_get(record, "multiple_choice"), &task))
        add_number(line, task.key, js_real(js_get(task.value, "acc")), 3);
    if (js_get(record, "latency"))
        bytes_text(line, "  benchmarked");
}

double progress_ended(struct progress *p, int rank)
{
    p->job_of_rank[rank] = -1;
    return clock_seconds() - p->since_s[rank];
}

void progress_finished(struct progress *p, int job, int rank, double took_s,
                       const struct js *record)
{
    const char *status = js_text(js_get(record, "status"));
    bool ok = status && strcmp(status, "success") == 0;
    char took_text[32];

    p->over[job] = true;
    p->n_done++;
    p->n_failed += !ok;
    p->estimated_s += p->cost_s[job];
    p->taken_s += took_s;
    if (p->quiet)
        return;
    erase(p);
    struct bytes line = BYTES_INIT;
    duration(took_s, took_text);
    bytes_printf(&line, "[%*d/%d] %-40s", p->n_jobs > 99 ? 5 : 2, p->n_done, p->n_jobs,
                 p->name_of[job]);
    if (ok)
        describe(&line, record);
    else
        bytes_printf(&line, "  FAILED: %s", js_text(js_get(record, "error")));
    fprintf(p->to, "%s  (rank %d, %s)\n", line.data, rank, took_text);
    fflush(p->to);
    bytes_release(&line);
}

void progress_tick(struct progress *p)
{
    struct winsize w = { 0 };
    char left[32], gone[32];

    if (p->quiet || !p->terminal)
        return;
    ioctl(fileno(p->to), TIOCGWINSZ, &w);
    int columns = w.ws_col > 20 ? w.ws_col - 1 : 79, rows = w.ws_row > 4 ? w.ws_row - 3 : 20;
    erase(p);
    for (int r = 0; r < p->n_ranks && p->n_lines_drawn < rows; r++) {
        char line[256];
        if (p->job_of_rank[r] < 0)
            continue;
        duration(clock_seconds() - p->since_s[r], gone);
        snprintf(line, sizeof line, "  rank %d: %s, %s", r, p->name_of[p->job_of_rank[r]], gone);
        fprintf(p->to, "%.*s\n", columns, line);
        p->n_lines_drawn++;
    }
    duration(clock_seconds() - p->start_s, gone);
    duration(remaining_s(p), left);
    fprintf(p->to, "  %d of %d jobs done%s, %s gone, about %s left\n", p->n_done, p->n_jobs,
            p->n_failed ? " (some failed)" : "", gone, left);
    p->n_lines_drawn++;
    fflush(p->to);
}

void progress_close(struct progress *p)
{
    if (p->to && p->terminal)
        erase(p);
    free(p->job_of_rank);
    free(p->since_s);
    free(p->name_of);
    free(p->cost_s);
    free(p->over);
    *p = (struct progress){ 0 };
}
