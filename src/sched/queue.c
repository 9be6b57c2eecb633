/* queue.c - see queue.h. */
#include "sched/queue.h"

#include "base/memory.h"

#include <stdlib.h>

/* A job is overdue that has taken three times as long as others of its kind let expect, and a
 * minute more. */
#define OVERDUE_RATIO 3.0
#define OVERDUE_MIN_S 60.0

void queue_init(struct queue *q, int n_jobs, int n_kinds, int crash_limit, int64_t deadline_ns)
{
    *q = (struct queue){
        .n_jobs = n_jobs, .n_kinds = n_kinds, .crash_limit = crash_limit, .deadline_ns = deadline_ns
    };
    q->jobs = mem_array((size_t)n_jobs, sizeof *q->jobs);
    q->running = mem_array((size_t)n_jobs, sizeof *q->running);
    q->kinds = mem_array((size_t)n_kinds, sizeof *q->kinds);
}

void queue_release(struct queue *q)
{
    for (int k = 0; k < q->n_kinds; k++) {
        free(q->kinds[k].order);
        free(q->kinds[k].skip);
    }
    free(q->kinds);
    free(q->running);
    free(q->jobs);
    *q = (struct queue){ 0 };
}

void queue_set(struct queue *q, int job, double cost_s, int kind, bool done)
{
    q->jobs[job] = (struct queue_job){ .cost_s = cost_s,
                                       .kind = kind,
                                       .state = done ? QUEUE_DONE : QUEUE_WAITING };
}

static int by_cost(const void *a, const void *b, void *context)
{
    const struct queue_job *jobs = context;
    int x = *(const int *)a, y = *(const int *)b;

    if (jobs[x].cost_s != jobs[y].cost_s)
        return jobs[x].cost_s > jobs[y].cost_s ? -1 : 1;
    return x < y ? -1 : x > y;
}

/* After a job has come back to wait, or at first. */
static void fill_skips(const struct queue *q, struct queue_kind *k)
{
    for (int i = 0; i < k->n; i++)
        k->skip[i] = q->jobs[k->order[i]].state == QUEUE_WAITING ? i : i + 1;
    k->skip[k->n] = k->n;
}

void queue_sort(struct queue *q)
{
    for (int i = 0; i < q->n_jobs; i++)
        q->kinds[q->jobs[i].kind].n++;
    for (int k = 0; k < q->n_kinds; k++) {
        q->kinds[k].order = mem_array((size_t)q->kinds[k].n, sizeof(int));
        q->kinds[k].skip = mem_array((size_t)q->kinds[k].n + 1, sizeof(int));
        q->kinds[k].n = 0;
    }
    for (int i = 0; i < q->n_jobs; i++) {
        struct queue_kind *k = &q->kinds[q->jobs[i].kind];
        k->order[k->n++] = i;
        q->n_over += q->jobs[i].state == QUEUE_DONE;
    }
    for (int k = 0; k < q->n_kinds; k++) {
        struct queue_kind *kind = &q->kinds[k];
        qsort_r(kind->order, (size_t)kind->n, sizeof *kind->order, by_cost, q->jobs);
        for (int i = 0; i < kind->n; i++)
            q->jobs[kind->order[i]].place = i;
        fill_skips(q, kind);
    }
}

/* ---- expectations ---- */

/* What its jobs took against their estimates; what all jobs took counts as one more of them. */
static double ratio_of(const struct queue *q, const struct queue_kind *k)
{
    double all = q->estimated_s > 0 && q->taken_s > 0 ? q->taken_s / q->estimated_s : 1;

    if (!k->n_finished || k->estimated_s <= 0)
        return all;
    double one = k->estimated_s / k->n_finished;
    return (k->taken_s + all * one) / (k->estimated_s + one);
}

double queue_expect_s(const struct queue *q, int job)
{
    return q->jobs[job].cost_s * ratio_of(q, &q->kinds[q->jobs[job].kind]);
}

static bool fits(const struct queue *q, double seconds, int64_t now_ns)
{
    return q->deadline_ns == 0 || now_ns + (int64_t)(seconds * 1e9) <= q->deadline_ns;
}

/* ---- what to run ---- */

/* The first place from i on whose job waits; n: none.  Shortens the way for the next time. */
static int waiting_from(struct queue_kind *k, int i)
{
    int end = i;

    while (k->skip[end] != end)
        end = k->skip[end];
    while (k->skip[i] != end && i != end) {
        int next = k->skip[i];
        k->skip[i] = end;
        i = next;
    }
    return end;
}

/* The longest one of its kind that waits and fits, or -1. */
static int pick_of(const struct queue *q, struct queue_kind *k, int64_t now_ns)
{
    double ratio = ratio_of(q, k);
    int low = 0, high = k->n;

    while (low < high) { /* the first place that fits: they are in order */
        int middle = low + (high - low) / 2;
        if (fits(q, q->jobs[k->order[middle]].cost_s * ratio, now_ns))
            high = middle;
        else
            low = middle + 1;
    }
    int at = waiting_from(k, low);
    return at < k->n ? k->order[at] : -1;
}

static int pick(struct queue *q, int64_t now_ns)
{
    double longest = 0;
    int best = -1;

    for (int k = 0; k < q->n_kinds && !q->stopped; k++) {
        int job = pick_of(q, &q->kinds[k], now_ns);
        if (job < 0)
            continue;
        double s = queue_expect_s(q, job);
        if (best < 0 || s > longest || (s == longest && job < best)) {
            best = job;
            longest = s;
        }
    }
    return best;
}

int queue_next(struct queue *q, int worker, int64_t now_ns)
{
    int job = pick(q, now_ns);

    if (job < 0)
        return -1;
    struct queue_job *j = &q->jobs[job];
    j->state = QUEUE_RUNNING;
    j->run[0] = (struct queue_run){ worker, now_ns };
    j->run[1] = (struct queue_run){ .worker = -1 };
    j->running_at = q->n_running;
    q->running[q->n_running++] = job;
    q->kinds[j->kind].skip[j->place] = j->place + 1;
    return job;
}

int queue_overdue(struct queue *q, int worker, int64_t now_ns)
{
    double most = OVERDUE_MIN_S;
    int found = -1;

    for (int i = 0; i < q->n_running && !q->stopped; i++) {
        const struct queue_job *j = &q->jobs[q->running[i]];
        double expected = queue_expect_s(q, q->running[i]);
        double gone = (double)(now_ns - j->run[0].started_ns) * 1e-9;
        if (!q->kinds[j->kind].n_finished || j->run[1].worker >= 0 || j->run[0].worker == worker ||
            gone < OVERDUE_RATIO * expected || gone - expected < most || !fits(q, expected, now_ns))
            continue;
        most = gone - expected;
        found = q->running[i];
    }
    if (found >= 0)
        q->jobs[found].run[1] = (struct queue_run){ worker, now_ns };
    return found;
}

/* ---- what happened ---- */

bool queue_wants(const struct queue *q, int job)
{
    return q->jobs[job].state == QUEUE_WAITING || q->jobs[job].state == QUEUE_RUNNING;
}

static void leave_running(struct queue *q, struct queue_job *j)
{
    int last = q->running[--q->n_running];

    q->running[j->running_at] = last;
    q->jobs[last].running_at = j->running_at;
}

static void end(struct queue *q, struct queue_job *j, enum queue_state state)
{
    if (j->state == QUEUE_RUNNING)
        leave_running(q, j);
    else
        q->kinds[j->kind].skip[j->place] = j->place + 1;
    j->state = state;
    q->n_over++;
}

void queue_finished(struct queue *q, int job, int worker, int64_t now_ns)
{
    struct queue_job *j = &q->jobs[job];
    struct queue_kind *k = &q->kinds[j->kind];

    for (int i = 0; i < 2 && j->state == QUEUE_RUNNING; i++)
        if (j->run[i].worker == worker) {
            double taken = (double)(now_ns - j->run[i].started_ns) * 1e-9;
            k->n_finished++;
            k->estimated_s += j->cost_s;
            k->taken_s += taken;
            q->estimated_s += j->cost_s;
            q->taken_s += taken;
            break;
        }
    /* A worker that was silent may answer for a job that waits again. */
    end(q, j, QUEUE_DONE);
}

bool queue_lost(struct queue *q, int job, int worker)
{
    struct queue_job *j = &q->jobs[job];

    if (j->state != QUEUE_RUNNING || (j->run[0].worker != worker && j->run[1].worker != worker))
        return false;
    j->n_lost++;
    if (j->run[1].worker >= 0) {
        if (j->run[0].worker == worker)
            j->run[0] = j->run[1];
        j->run[1].worker = -1;
        return false;
    }
    if (j->n_lost >= q->crash_limit) {
        end(q, j, QUEUE_GIVEN_UP);
        return true;
    }
    leave_running(q, j);
    j->state = QUEUE_WAITING;
    fill_skips(q, &q->kinds[j->kind]);
    return false;
}

void queue_stop(struct queue *q)
{
    q->stopped = true;
}

bool queue_over(struct queue *q, int64_t now_ns)
{
    return q->n_running == 0 && pick(q, now_ns) < 0;
}

bool queue_all_done(const struct queue *q)
{
    return q->n_over == q->n_jobs;
}
