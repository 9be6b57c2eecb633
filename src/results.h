/* results.h - the records of a sweep on rank 0, and the results file made of them. */
#pragma once

#include "prepare.h"
#include "sched/link_mpi.h"

struct results {
    int n_jobs;
    struct js **record; /* [n_jobs], NULL: not finished; owned */
    /* Of a resumed file: jobs of this sweep that are not asked for now (--experiment, --seeds). */
    int n_kept;
    struct js **kept; /* [n_kept], owned */
    int n_taken_over, n_outdated;
    struct js *provenance;
    char *command_line;
    char created[32];
};

#define RESULTS_INIT \
    {                \
        0            \
    }

void results_open(struct results *r, const struct prepared *p, const char *const *versions,
                  const char *command_line, const struct link *link);
/* With what the head of a journal says (results_header()). */
void results_reopen(struct results *r, const struct prepared *p, const struct js *head);
void results_close(struct results *r);

/* The lines of a resumed journal.  Successful jobs whose key is that of a job finish it
 * (n_taken_over of them).  Those whose key is that of an experiment of the sweep file, but which
 * are not asked for now, are kept: the results file goes on to show them.  The rest, n_outdated
 * finished jobs, had other settings, model, data or version; they stay in the journal alone.
 * failed_too: also jobs that failed, where they are not to be run again. */
void results_take_over(struct results *r, const struct prepared *p, struct js *const *lines,
                       int n_lines, bool failed_too);
bool results_has(const struct results *r, int job);
void results_set(struct results *r, int job, struct js *record); /* takes ownership */
void results_count(const struct results *r, int *ok, int *failed);
double results_device_seconds(const struct results *r);

/* The line with which every run begins in the journal: which sweep this is, and all that it takes
 * to build the results file without the sweep file, the model and the data. */
struct js *results_header(const struct results *r, const struct prepared *p,
                          const struct sweep_overrides *o);

int results_store(const struct results *r, const struct prepared *p, const char *path,
                  bool complete, struct err *e);
