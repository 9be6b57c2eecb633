/* queue.h - who runs what next: the decisions, without the messages.
 *
 * No MPI, no clock, no files: the caller says what happened and what time it is.  Every rule of
 * the scheduler can therefore be tested in microseconds.
 *
 * The job that is expected to take longest goes first; of equal ones, the first of the list.
 * Expectations learn from what finished jobs of the same kind really took.  No job starts that is
 * not expected to end by the deadline.  A job whose worker is lost or silent goes to the next
 * worker, until it has taken `crash_limit` of them down.  When nothing waits, a job that takes far
 * longer than expected may be given to a second worker; the first answer counts.  */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum queue_state { QUEUE_WAITING, QUEUE_RUNNING, QUEUE_DONE, QUEUE_GIVEN_UP };

struct queue_run {
    int worker; /* -1: none */
    int64_t started_ns;
};

struct queue_job {
    double cost_s;
    int kind;
    enum queue_state state;
    int n_lost;
    struct queue_run run[2]; /* while it runs; the second where it is run twice */
    int place;               /* among those of its kind */
    int running_at;          /* in queue.running */
};

/* Jobs whose estimates err alike. */
struct queue_kind {
    int *order; /* job indices, longest first */
    int *skip;  /* from a place to where something may wait: itself, or further on */
    int n;
    int n_finished;
    double estimated_s, taken_s; /* of the finished ones */
};

struct queue {
    struct queue_job *jobs; /* [n_jobs], owned */
    struct queue_kind *kinds;
    int *running; /* [n_jobs]: job indices, n_running of them */
    int n_jobs, n_kinds, n_running, n_over;
    int crash_limit;
    bool stopped;        /* hand out no more */
    int64_t deadline_ns; /* 0: none */
    double estimated_s, taken_s;
};

void queue_init(struct queue *q, int n_jobs, int n_kinds, int crash_limit, int64_t deadline_ns);
void queue_release(struct queue *q);
/* Before queue_sort(): what a job costs, its kind from 0, and whether it is done already. */
void queue_set(struct queue *q, int job, double cost_s, int kind, bool done);
void queue_sort(struct queue *q);

int queue_next(struct queue *q, int worker, int64_t now_ns); /* index of a job, or -1 */
/* A running job that is long overdue, for a second worker, or -1. */
int queue_overdue(struct queue *q, int worker, int64_t now_ns);

/* Whether an answer still counts: of two that run a job, the later one's does not. */
bool queue_wants(const struct queue *q, int job);
void queue_finished(struct queue *q, int job, int worker, int64_t now_ns);
/* The worker that ran it was lost, or is silent.  True: the job is given up, else it waits again,
 * or runs elsewhere. */
bool queue_lost(struct queue *q, int job, int worker);

void queue_stop(struct queue *q);
bool queue_over(struct queue *q, int64_t now_ns); /* nothing runs, nothing may start */
bool queue_all_done(const struct queue *q);       /* every job is done or given up */
/* Seconds a job is expected to take, estimates corrected by experience. */
double queue_expect_s(const struct queue *q, int job);
