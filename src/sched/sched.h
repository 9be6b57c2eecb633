/* sched.h - runs a list of jobs on all ranks.  Knows jobs as bytes with a cost; knows nothing of
 * models or results. */
#pragma once

#include "base/err.h"
#include "sched/engine.h"
#include "sched/link_mpi.h"

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

struct sched_job {
    const char *name; /* "bnb_4bit_nf4 seed 0", for messages */
    const void *text; /* what the engine gets */
    size_t n_bytes;
    double cost_s; /* estimate; decides the order (longest first) and --time-limit */
    int kind;      /* from 0; estimates of one kind err alike */
    bool done;     /* a resumed one: not handed out */
};

struct sched_options {
    double job_timeout_s;
    double time_limit_s; /* 0: none */
    bool fail_fast;
    int crash_limit; /* engines one job may take down before it is an error: 2 */
    int group_size;  /* ranks of a host that work on one job together; 0 or 1: each alone */
    double silent_s; /* a rank that says nothing for so long loses its job to another */
    const char *log; /* where there are several nodes, rank N keeps its lines in LOG.rank-N, too:
                        the last ones of a node that dies reach nobody else; NULL: not */
    /* Set by a signal.  1: hand out no more, finish what runs.  2: drop what runs, leave. */
    const volatile sig_atomic_t *stop;
};

/* What rank 0 is told, in the order of events; called on rank 0 alone. */
struct sched_listener {
    /* Once, before the first job: rank 0's engine is set up, so model and data are good. */
    int (*ready)(void *context, struct err *e);
    void (*started)(void *context, int job, int rank);
    /* rank, here and below: the first of its group. */
    /* The record of a finished job.  *ok: it succeeded (for --fail-fast).  -1 ends the run. */
    int (*finished)(void *context, int job, int rank, const void *record, size_t n_bytes, bool *ok,
                    struct err *e);
    /* A job that has no record: its engine was lost or timed out; text says how. */
    int (*lost)(void *context, int job, int rank, const char *text, struct err *e);
    /* In every turn of the loop, and at its end with all: makes durable what there is to keep, when
     * enough time has gone since the last time. */
    int (*settle)(void *context, bool all, struct err *e);
    void (*tick)(void *context); /* a few times a second: progress */
    void *context;
};

enum sched_end { SCHED_ALL_DONE, SCHED_STOPPED_EARLY };

/* Rank 0.  setup goes to every rank's engine first.  Works with its own engine as well. */
int sched_manage(struct link *link, struct engine *own, const void *setup, size_t setup_bytes,
                 const struct sched_job *jobs, int n_jobs, const struct sched_options *o,
                 const struct sched_listener *l, enum sched_end *end, struct err *e);
/* Rank 0, instead of sched_manage(): there is nothing to do, the others may leave. */
void sched_dismiss(struct link *link);
/* Other ranks: until rank 0 says the end.  silent_s: as rank 0 has it. */
int sched_work(struct link *link, struct engine *own, double silent_s, struct err *e);
