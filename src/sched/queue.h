/* queue.h - who runs what next: the decisions, without the messages.
 *
 * No MPI, no clock, no files: the caller says what happened and what time it is.  Every rule of
 * the scheduler can therefore be tested in microseconds.
 *
 * Longest estimate first; equal ones in list order.  A job whose worker is lost goes to the next
 * worker, until it has taken `crash_limit` of them down.  No job starts that is not expected to
 * end by the deadline; expectations learn from what finished jobs really took.  */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum queue_state { QUEUE_WAITING, QUEUE_RUNNING, QUEUE_DONE, QUEUE_GIVEN_UP };

struct queue_job {
    double cost_s;
    enum queue_state state;
    int n_lost;
    int worker;         /* while it runs */
    int64_t started_ns; /* while it runs */
};

struct queue {
    struct queue_job *jobs; /* [n_jobs], owned */
    int *order;             /* job indices, longest first */
    int n_jobs;
    int first_waiting; /* in order: nothing waits before it */
    int n_running;
    int crash_limit;
    bool stopped;                /* hand out no more */
    int64_t deadline_ns;         /* 0: none */
    double estimated_s, taken_s; /* of finished jobs */
};

void queue_init(struct queue *q, int n_jobs, int crash_limit, int64_t deadline_ns);
void queue_release(struct queue *q);
/* Before queue_sort(): what a job costs, and whether it is done already. */
void queue_set(struct queue *q, int job, double cost_s, bool done);
void queue_sort(struct queue *q);

int queue_next(struct queue *q, int worker, int64_t now_ns); /* index of a job, or -1 */
void queue_finished(struct queue *q, int job, int64_t now_ns);
bool queue_lost(struct queue *q, int job); /* true: it is given up, else it waits again */
void queue_stop(struct queue *q);
bool queue_over(const struct queue *q, int64_t now_ns); /* nothing runs, nothing may start */
bool queue_all_done(const struct queue *q);             /* every job is done or given up */
/* Seconds a job is expected to take, estimates corrected by experience. */
double queue_expect_s(const struct queue *q, int job);
/* Seconds until the end with n_workers, for progress. */
double queue_remaining_s(const struct queue *q, int n_workers, int64_t now_ns);
