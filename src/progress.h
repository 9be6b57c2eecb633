/* progress.h - what is going on, for people: on a terminal one live line a rank and a total with
 * the expected end; elsewhere (a Slurm log) one line a finished job. */
#pragma once

#include "base/js.h"

#include <stdbool.h>
#include <stdio.h>

struct progress {
    FILE *to;
    bool quiet, terminal;
    int n_ranks, n_jobs, n_done, n_failed;
    double start_s;
    int *job_of_rank;     /* [n_ranks], -1: idle */
    double *since_s;      /* [n_ranks] */
    const char **name_of; /* [n_jobs], borrowed: "experiment seed 0" */
    double *cost_s;       /* [n_jobs] estimates */
    bool *over;           /* [n_jobs] */
    double estimated_s, taken_s;
    int n_lines_drawn;
};

/* n_done: jobs that a resumed run has already. */
void progress_open(struct progress *p, FILE *to, bool quiet, int n_ranks, int n_jobs);
void progress_job(struct progress *p, int job, const char *name, double cost_s, bool done);
void progress_started(struct progress *p, int job, int rank);
double progress_ended(struct progress *p, int rank); /* seconds since it was given a job */
void progress_finished(struct progress *p, int job, int rank, double took_s,
                       const struct js *record);
void progress_tick(struct progress *p);
void progress_close(struct progress *p); /* erases the live lines */
