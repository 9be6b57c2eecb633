/* dry_run.c - see dry_run.h. */
#include "dry_run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MIB 1048576.0

/* What one experiment's jobs cost together. */
struct line {
    int n_jobs;
    double seconds;
    struct quant_sizes sizes;
    int64_t device_bytes;
};

static int size_up(const struct prepared *p, const char *backend, int i, struct line *out,
                   struct err *e)
{
    for (int j = 0; j < p->sweep.n_jobs; j++) {
        struct cost cost;
        if (p->sweep.jobs[j].experiment != &p->sweep.experiments[i])
            continue;
        if (prepare_cost(p, backend, &p->sweep.jobs[j], &out->sizes, &cost, e) < 0)
            return -1;
        out->n_jobs++;
        out->seconds += cost.total_s;
        if (cost.device_bytes > out->device_bytes)
            out->device_bytes = cost.device_bytes;
    }
    return 0;
}

static int print(FILE *to, const struct prepared *p, const char *backend, bool verbose, int n_ranks,
                 struct err *e)
{
    double total = 0, longest = 0;

    fprintf(to, "%-40s %5s %11s %11s %12s %11s %9s\n", "experiment", "jobs", "bits/weight",
            "model bits", "model_size_mb", "memory MiB", "seconds");
    for (int i = 0; i < p->sweep.n_experiments; i++) {
        struct line l = { 0 };
        char size[32] = "-";
        if (size_up(p, backend, i, &l, e) < 0)
            return err_in(e, "%s", p->sweep.experiments[i].name);
        if (isfinite(l.sizes.hf_footprint_bytes))
            snprintf(size, sizeof size, "%.2f", l.sizes.hf_footprint_bytes / MIB);
        fprintf(to, "%-40s %5d %11.3f %11.3f %13s %11.1f %9.1f\n", p->sweep.experiments[i].name,
                l.n_jobs, l.sizes.bits_per_weight_linear, l.sizes.bits_per_weight_model, size,
                (double)l.device_bytes / MIB, l.seconds);
        total += l.seconds;
    }
    for (int j = 0; j < p->sweep.n_jobs; j++)
        if (p->sweep.jobs[j].cost_s > longest)
            longest = p->sweep.jobs[j].cost_s;
    const int n_parts = p->sweep.tensor_parallel, n_groups = n_ranks / n_parts;
    double at_once = total / (n_groups > 0 ? n_groups : 1);
    double wall = at_once > longest ? at_once : longest;
    fprintf(
        to,
        "%d job%s, about %.0f s of work, %.0f s on %d rank%s; seconds within a factor of a few, "
        "for %s\n",
        p->sweep.n_jobs, p->sweep.n_jobs == 1 ? "" : "s", total, wall, n_ranks,
        n_ranks == 1 ? "" : "s",
        strcmp(backend, "cuda") == 0 ? "a data-centre GPU" : "this machine's cores");
    if (n_parts > 1)
        fprintf(to, "memory is that of each of the %d ranks that share a job%s\n", n_parts,
                n_ranks < n_parts ? "; there are fewer here" : "");
    if (longest > p->sweep.job_timeout_s)
        fprintf(
            to,
            "the longest job is expected to take %.0f s, but sweep.job_timeout is %g s: it would "
            "be ended\n",
            longest, p->sweep.job_timeout_s);
    if (verbose) {
        char *text = sweep_resolved_text(&p->sweep);
        fprintf(to, "%s", text);
        free(text);
    }
    if (p->notes.n)
        fprintf(to, "%s", p->notes.data);
    if (p->sweep.removed_cells)
        fprintf(to, "cells that cannot run are left out: %s\n", p->sweep.removed_cells);
    return 0;
}

int dry_run(FILE *to, struct prepare_options o, bool verbose, int n_ranks, struct err *e)
{
    struct prepared p = PREPARED_INIT;

    o.shapes_suffice = true;
    int rc = prepare(&o, &p, e);
    if (rc == 0)
        rc = print(to, &p, o.backend, verbose, n_ranks, e);
    prepared_release(&p);
    return rc;
}
