/* test_queue.c - the rules of the scheduler, each a sentence. */
#include "check.h"

#include "sched/queue.h"

#define S ((int64_t)1000000000)

static struct queue queue_of(int n, const double *cost_s, int crash_limit, int64_t deadline_ns)
{
    struct queue q;

    queue_init(&q, n, 1, crash_limit, deadline_ns);
    for (int i = 0; i < n; i++)
        queue_set(&q, i, cost_s[i], 0, false);
    queue_sort(&q);
    return q;
}

static void longest_first(void **state)
{
    (void)state;
    struct queue q = queue_of(4, (double[]){ 1, 5, 3, 5 }, 2, 0);

    CHECK(queue_next(&q, 0, 0) == 1, "the longest job starts first");
    CHECK(queue_next(&q, 1, 0) == 3, "an equally long one follows in list order");
    CHECK(queue_next(&q, 2, 0) == 2, "then the next shorter");
    CHECK(queue_next(&q, 3, 0) == 0, "then the shortest");
    CHECK(queue_next(&q, 4, 0) == -1, "a fifth worker gets nothing");
    CHECK(!queue_over(&q, 0), "the sweep is not over while jobs run");
    for (int i = 0; i < 4; i++)
        queue_finished(&q, i, q.jobs[i].run[0].worker, 6 * S);
    CHECK(queue_over(&q, 6 * S) && queue_all_done(&q), "it is over when all have finished");
    queue_release(&q);
}

static void done_before(void **state)
{
    (void)state;
    struct queue q;

    queue_init(&q, 2, 1, 2, 0);
    queue_set(&q, 0, 9, 0, true);
    queue_set(&q, 1, 1, 0, false);
    queue_sort(&q);
    CHECK(queue_next(&q, 0, 0) == 1, "a job that is done already is not handed out");
    queue_release(&q);

    queue_init(&q, 0, 1, 2, 0);
    queue_sort(&q);
    CHECK(queue_over(&q, 0) && queue_all_done(&q), "no jobs at all: over at once");
    queue_release(&q);
}

static void deadline(void **state)
{
    (void)state;
    struct queue q = queue_of(1, (double[]){ 10 }, 2, 100 * S);

    CHECK(queue_next(&q, 1, 90 * S + 1) == -1,
          "no job starts that would end one tick after the deadline");
    CHECK(queue_over(&q, 90 * S + 1), "and then the sweep is over, though a job still waits");
    CHECK(!queue_all_done(&q), "but not everything is done");
    CHECK(queue_next(&q, 1, 90 * S) == 0, "a job that ends on the deadline does");
    queue_release(&q);
}

static void shorter_jobs_fill_the_end(void **state)
{
    (void)state;
    struct queue q = queue_of(2, (double[]){ 50, 5 }, 2, 100 * S);

    CHECK(queue_next(&q, 0, 80 * S) == 1, "a shorter job starts where the longest would not end");
    CHECK(queue_next(&q, 1, 10 * S) == 0, "the longer one is still there while there is time");
    queue_release(&q);
}

static void estimates_learn(void **state)
{
    (void)state;
    struct queue q = queue_of(3, (double[]){ 10, 10, 10 }, 2, 100 * S);

    queue_next(&q, 0, 0);
    queue_finished(&q, 0, 0, 30 * S); /* three times as long as estimated */
    CHECK(check_near(queue_expect_s(&q, 1), 30, 1e-9), "expectations follow what jobs took");
    CHECK(queue_next(&q, 0, 71 * S) == -1, "and decide what may still start");
    CHECK(queue_next(&q, 0, 70 * S) == 1, "to the second");
    queue_release(&q);
}

/* Two kinds: what one teaches counts little for the other once that has finished jobs, too. */
static void kinds_learn_apart(void **state)
{
    (void)state;
    struct queue q;

    queue_init(&q, 6, 2, 2, 0);
    for (int i = 0; i < 6; i++)
        queue_set(&q, i, i < 3 ? 12 : 10, i < 3 ? 0 : 1, false);
    queue_sort(&q);
    CHECK(queue_next(&q, 0, 0) == 0, "the longest estimate starts");
    queue_finished(&q, 0, 0, 24 * S);
    CHECK(check_near(queue_expect_s(&q, 1), 24, 1e-9) &&
              check_near(queue_expect_s(&q, 3), 20, 1e-9),
          "a kind without a finished job learns from all");
    CHECK(queue_next(&q, 0, 24 * S) == 1, "the longest expectation starts");
    CHECK(queue_next(&q, 1, 24 * S) == 2, "and so on");
    CHECK(queue_next(&q, 2, 24 * S) == 3, "then one of the other kind");
    queue_finished(&q, 3, 2, 124 * S); /* ten times its estimate */
    double all = 124.0 / 22;
    CHECK(check_near(queue_expect_s(&q, 4), 10 * (100 + all * 10) / 20, 1e-9),
          "then from its own, and from all as from one more job");
    CHECK(check_near(queue_expect_s(&q, 2), 12 * (24 + all * 12) / 24, 1e-9), "so does the first");
    queue_release(&q);

    queue_init(&q, 4, 2, 2, 0);
    for (int i = 0; i < 4; i++)
        queue_set(&q, i, i < 2 ? 12 : 10, i < 2 ? 0 : 1, false);
    queue_sort(&q);
    CHECK(queue_next(&q, 0, 0) == 0 && queue_next(&q, 1, 0) == 1, "both of the first kind start");
    CHECK(queue_next(&q, 2, 0) == 2, "then one of the second");
    queue_finished(&q, 0, 0, S);
    queue_finished(&q, 2, 2, 100 * S);
    queue_lost(&q, 1, 1);
    CHECK(queue_next(&q, 0, 100 * S) == 3, "what is learnt changes who is the longest");
    CHECK(queue_next(&q, 1, 100 * S) == 1, "and the job that was lost comes after it");
    queue_release(&q);
}

static void lost_workers(void **state)
{
    (void)state;
    struct queue q = queue_of(2, (double[]){ 2, 1 }, 2, 0);

    CHECK(queue_next(&q, 0, 0) == 0, "job 0 starts");
    CHECK(queue_next(&q, 1, 0) == 1, "job 1 starts");
    CHECK(!queue_lost(&q, 0, 0), "a job that took one worker down waits again");
    CHECK(!queue_over(&q, 0), "so the sweep is not over");
    CHECK(queue_next(&q, 0, 0) == 0, "it is handed out again");
    CHECK(queue_lost(&q, 0, 0), "the second time it is given up");
    CHECK(queue_next(&q, 0, 0) == -1, "and never given to a third worker");
    queue_finished(&q, 1, 1, S);
    CHECK(queue_over(&q, S) && queue_all_done(&q), "a job given up does not keep the sweep open");
    queue_release(&q);
}

/* A worker that was silent: its job went to another, and then it speaks after all. */
static void late_answers(void **state)
{
    (void)state;
    struct queue q = queue_of(2, (double[]){ 2, 1 }, 2, 0);

    queue_next(&q, 0, 0);
    queue_lost(&q, 0, 0);
    CHECK(queue_wants(&q, 0), "an answer for a job that waits again counts");
    queue_finished(&q, 0, 0, S);
    CHECK(queue_next(&q, 1, S) == 1 && queue_next(&q, 2, S) == -1, "and nobody runs it any more");
    queue_lost(&q, 1, 1);
    CHECK(queue_next(&q, 2, 2 * S) == 1, "the other one is handed on, too");
    CHECK(queue_wants(&q, 1), "an answer for a job that runs elsewhere counts");
    queue_finished(&q, 1, 1, 3 * S);
    CHECK(!queue_wants(&q, 1), "the second answer does not");
    CHECK(!queue_lost(&q, 1, 2), "nor does the loss of the second worker");
    CHECK(queue_over(&q, 3 * S) && queue_all_done(&q), "all is done");
    queue_release(&q);
}

static void overdue(void **state)
{
    (void)state;
    struct queue q = queue_of(3, (double[]){ 40, 30, 10 }, 2, 0);

    queue_next(&q, 0, 0);
    queue_next(&q, 1, 0);
    queue_next(&q, 2, 0);
    CHECK(queue_overdue(&q, 3, 1000 * S) == -1, "an estimate alone makes no job overdue");
    queue_finished(&q, 2, 2, 10 * S);
    CHECK(queue_overdue(&q, 2, 89 * S) == -1, "within three times the expectation nothing happens");
    CHECK(queue_overdue(&q, 1, 95 * S) == -1, "a worker is not given its own job again");
    CHECK(queue_overdue(&q, 2, 95 * S) == 1, "then a second worker gets the job");
    CHECK(queue_overdue(&q, 3, 95 * S) == -1, "a third does not");
    CHECK(queue_overdue(&q, 3, 150 * S) == 0, "the other one is overdue later");
    CHECK(!queue_lost(&q, 1, 1), "the first worker is lost:");
    CHECK(queue_wants(&q, 1) && queue_next(&q, 4, 150 * S) == -1, "the second one goes on");
    queue_finished(&q, 1, 2, 160 * S);
    queue_finished(&q, 0, 3, 160 * S);
    CHECK(!queue_lost(&q, 0, 0) && queue_all_done(&q), "the first answer counts");
    queue_release(&q);

    q = queue_of(1, (double[]){ 40 }, 2, 130 * S);
    queue_next(&q, 0, 0);
    CHECK(queue_overdue(&q, 1, 121 * S) == -1, "nothing starts twice that cannot end in time");
    queue_stop(&q);
    CHECK(queue_overdue(&q, 1, 10 * S) == -1, "nor in a queue that is stopped");
    queue_release(&q);
}

static void stopping(void **state)
{
    (void)state;
    struct queue q = queue_of(2, (double[]){ 2, 1 }, 2, 0);

    queue_next(&q, 0, 0);
    queue_stop(&q);
    CHECK(queue_next(&q, 1, 0) == -1, "a stopped queue hands out nothing");
    CHECK(!queue_over(&q, 0), "but waits for what runs");
    queue_finished(&q, 0, 0, S);
    CHECK(queue_over(&q, S) && !queue_all_done(&q), "then it is over, with a job left");
    queue_release(&q);
}

/* Random events against a plain simulation: every job ends once, none runs twice at a time; and
 * each choice is the one that looking at all jobs would make. */
static void random_events(void **state)
{
    (void)state;
    enum { JOBS = 300, WORKERS = 7, KINDS = 4 };
    int on[WORKERS], ended[JOBS] = { 0 }, lost_times[JOBS] = { 0 };
    uint32_t x = 12345;
    int64_t now = 0;
    struct queue q;

    queue_init(&q, JOBS, KINDS, 2, 2500 * S);
    for (int i = 0; i < JOBS; i++) {
        x = x * 1664525u + 1013904223u;
        queue_set(&q, i, 1 + (x >> 28), (int)(x >> 20) % KINDS, false);
    }
    queue_sort(&q);
    for (int w = 0; w < WORKERS; w++)
        on[w] = -1;
    while (!queue_over(&q, now)) {
        x = x * 1664525u + 1013904223u;
        int w = (int)((x >> 16) % WORKERS);
        now += S;
        if (on[w] < 0) {
            int best = -1;
            for (int i = 0; i < JOBS; i++)
                if (q.jobs[i].state == QUEUE_WAITING &&
                    now + (int64_t)(queue_expect_s(&q, i) * 1e9) <= q.deadline_ns &&
                    (best < 0 || queue_expect_s(&q, i) > queue_expect_s(&q, best)))
                    best = i;
            on[w] = queue_next(&q, w, now);
            CHECK(on[w] == best, "the longest that fits is %d, not %d", best, on[w]);
            for (int v = 0; v < WORKERS; v++)
                CHECK(v == w || on[w] < 0 || on[v] != on[w], "job %d runs on one worker", on[w]);
            continue;
        }
        if ((x >> 8) % 5 == 0) {
            lost_times[on[w]]++;
            if (queue_lost(&q, on[w], w))
                ended[on[w]]++;
        } else {
            queue_finished(&q, on[w], w, now);
            ended[on[w]]++;
        }
        on[w] = -1;
    }
    int n_ended = 0;
    for (int i = 0; i < JOBS; i++) {
        CHECK(ended[i] <= 1, "job %d ended once, not %d times", i, ended[i]);
        CHECK(lost_times[i] <= 2, "job %d was lost at most twice", i);
        n_ended += ended[i];
    }
    CHECK(queue_all_done(&q) == (n_ended == JOBS) && n_ended == q.n_over, "the count is right");
    CHECK(n_ended > JOBS / 2, "most have ended before the deadline");
    queue_release(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(longest_first),   cmocka_unit_test(done_before),
        cmocka_unit_test(deadline),        cmocka_unit_test(shorter_jobs_fill_the_end),
        cmocka_unit_test(estimates_learn), cmocka_unit_test(kinds_learn_apart),
        cmocka_unit_test(lost_workers),    cmocka_unit_test(late_answers),
        cmocka_unit_test(overdue),         cmocka_unit_test(stopping),
        cmocka_unit_test(random_events),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
