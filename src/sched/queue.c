/* queue.c - see queue.h. */
#include "sched/queue.h"

#include "base/memory.h"

#include <stdlib.h>

void queue_init(struct queue *q, int n_jobs, int crash_limit, int64_t deadline_ns)
{
    *q = (struct queue){ .n_jobs = n_jobs, .crash_limit = crash_limit, .deadline_ns = deadline_ns };
    q->jobs = mem_array((size_t)n_jobs, sizeof *q->jobs);
    q->order = mem_array((size_t)n_jobs, sizeof *q->order);
    for (int i = 0; i < n_jobs; i++)
        q->order[i] = i;
}

void queue_release(struct queue *q)
{
    free(q->jobs);
    free(q->order);
    *q = (struct queue){ 0 };
}

void queue_set(struct queue *q, int job, double cost_s, bool done)
{
    q->jobs[job].cost_s = cost_s;
    q->jobs[job].state = done ? QUEUE_DONE : QUEUE_WAITING;
}

static int by_cost(const void *a, const void *b, void *context)
{
    const struct queue_job *jobs = context;
    int x = *(const int *)a, y = *(const int *)b;

    if (jobs[x].cost_s != jobs[y].cost_s)
        return jobs[x].cost_s > jobs[y].cost_s ? -1 : 1;
    return x < y ? -1 : x > y;
}

void queue_sort(struct queue *q)
{
    qsort_r(q->order, (size_t)q->n_jobs, sizeof *q->order, by_cost, q->jobs);
    q->first_waiting = 0;
}

double queue_expect_s(const struct queue *q, int job)
{
    double ratio = q->estimated_s > 0 ? q->taken_s / q->estimated_s : 1;

    return q->jobs[job].cost_s * ratio;
}

static bool fits(const struct queue *q, int job, int64_t now_ns)
{
    return q->deadline_ns == 0 ||
           now_ns + (int64_t)(queue_expect_s(q, job) * 1e9) <= q->deadline_ns;
}

/* The first job in order that waits and fits, or -1. */
static int pick(const struct queue *q, int64_t now_ns)
{
    if (q->stopped)
        return -1;
    for (int i = q->first_waiting; i < q->n_jobs; i++)
        if (q->jobs[q->order[i]].state == QUEUE_WAITING && fits(q, q->order[i], now_ns))
            return q->order[i];
    return -1;
}

int queue_next(struct queue *q, int worker, int64_t now_ns)
{
    while (q->first_waiting < q->n_jobs &&
           q->jobs[q->order[q->first_waiting]].state != QUEUE_WAITING)
        q->first_waiting++;
    int job = pick(q, now_ns);
    if (job < 0)
        return -1;
    q->jobs[job].state = QUEUE_RUNNING;
    q->jobs[job].worker = worker;
    q->jobs[job].started_ns = now_ns;
    q->n_running++;
    return job;
}

void queue_finished(struct queue *q, int job, int64_t now_ns)
{
    struct queue_job *j = &q->jobs[job];

    j->state = QUEUE_DONE;
    q->n_running--;
    q->estimated_s += j->cost_s;
    q->taken_s += (double)(now_ns - j->started_ns) * 1e-9;
}

bool queue_lost(struct queue *q, int job)
{
    struct queue_job *j = &q->jobs[job];

    q->n_running--;
    j->n_lost++;
    j->state = j->n_lost >= q->crash_limit ? QUEUE_GIVEN_UP : QUEUE_WAITING;
    /* It may stand before everything that waits now. */
    if (j->state == QUEUE_WAITING)
        q->first_waiting = 0;
    return j->state == QUEUE_GIVEN_UP;
}

void queue_stop(struct queue *q)
{
    q->stopped = true;
}

bool queue_over(const struct queue *q, int64_t now_ns)
{
    return q->n_running == 0 && pick(q, now_ns) < 0;
}

bool queue_all_done(const struct queue *q)
{
    for (int i = 0; i < q->n_jobs; i++)
        if (q->jobs[i].state == QUEUE_WAITING || q->jobs[i].state == QUEUE_RUNNING)
            return false;
    return true;
}

double queue_remaining_s(const struct queue *q, int n_workers, int64_t now_ns)
{
    double work = 0, longest = 0;

    for (int i = 0; i < q->n_jobs; i++) {
        double left = queue_expect_s(q, i);
        if (q->jobs[i].state == QUEUE_RUNNING)
            left -= (double)(now_ns - q->jobs[i].started_ns) * 1e-9;
        else if (q->jobs[i].state != QUEUE_WAITING)
            continue;
        if (left < 0)
            left = 0;
        work += left;
        if (left > longest)
            longest = left;
    }
    double shared = n_workers > 0 ? work / n_workers : work;
    return shared > longest ? shared : longest;
}
