/* test_queue.c - the rules of the scheduler, each a sentence. */
#include "check.h"

#include "sched/queue.h"

#define S ((int64_t)1000000000)

static struct queue queue_of(int n, const double *cost_s, int crash_limit, int64_t deadline_ns)
{
    struct queue q;

    queue_init(&q, n, crash_limit, deadline_ns);
    for (int i = 0; i < n; i++)
        queue_set(&q, i, cost_s[i], false);
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
        queue_finished(&q, i, 6 * S);
    CHECK(queue_over(&q, 6 * S) && queue_all_done(&q), "it is over when all have finished");
    queue_release(&q);
}

static void done_before(void **state)
{
    (void)state;
    struct queue q;

    queue_init(&q, 2, 2, 0);
    queue_set(&q, 0, 9, true);
    queue_set(&q, 1, 1, false);
    queue_sort(&q);
    CHECK(queue_next(&q, 0, 0) == 1, "a job that is done already is not handed out");
    queue_release(&q);

    queue_init(&q, 0, 2, 0);
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
    queue_finished(&q, 0, 30 * S); /* three times as long as estimated */
    CHECK(check_near(queue_expect_s(&q, 1), 30, 1e-9), "expectations follow what jobs took");
    CHECK(queue_next(&q, 0, 71 * S) == -1, "and decide what may still start");
    CHECK(queue_next(&q, 0, 70 * S) == 1, "to the second");
    CHECK(check_near(queue_remaining_s(&q, 1, 80 * S), 20 + 30, 1e-9),
          "what remains is the rest of the running job and the waiting one");
    CHECK(check_near(queue_remaining_s(&q, 4, 80 * S), 30, 1e-9),
          "with many workers the longest job is what remains");
    queue_release(&q);
}

static void lost_workers(void **state)
{
    (void)state;
    struct queue q = queue_of(2, (double[]){ 2, 1 }, 2, 0);

    CHECK(queue_next(&q, 0, 0) == 0, "job 0 starts");
    CHECK(queue_next(&q, 1, 0) == 1, "job 1 starts");
    CHECK(!queue_lost(&q, 0), "a job that took one worker down waits again");
    CHECK(!queue_over(&q, 0), "so the sweep is not over");
    CHECK(queue_next(&q, 0, 0) == 0, "it is handed out again");
    CHECK(queue_lost(&q, 0), "the second time it is given up");
    CHECK(queue_next(&q, 0, 0) == -1, "and never given to a third worker");
    queue_finished(&q, 1, S);
    CHECK(queue_over(&q, S) && queue_all_done(&q), "a job given up does not keep the sweep open");
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
    queue_finished(&q, 0, S);
    CHECK(queue_over(&q, S) && !queue_all_done(&q), "then it is over, with a job left");
    queue_release(&q);
}

/* Random events against a plain simulation: every job ends once, none runs twice at a time. */
static void random_events(void **state)
{
    (void)state;
    enum { JOBS = 200, WORKERS = 7 };
    double cost[JOBS];
    int on[WORKERS], ended[JOBS] = { 0 }, lost_times[JOBS] = { 0 };
    uint32_t x = 12345;
    int64_t now = 0;

    for (int i = 0; i < JOBS; i++)
        cost[i] = (x = x * 1664525u + 1013904223u) >> 28;
    struct queue q = queue_of(JOBS, cost, 2, 0);
    for (int w = 0; w < WORKERS; w++)
        on[w] = -1;
    while (!queue_over(&q, now)) {
        x = x * 1664525u + 1013904223u;
        int w = (int)((x >> 16) % WORKERS);
        now += S;
        if (on[w] < 0) {
            on[w] = queue_next(&q, w, now);
            for (int v = 0; v < WORKERS; v++)
                CHECK(v == w || on[w] < 0 || on[v] != on[w], "job %d runs on one worker", on[w]);
            continue;
        }
        if ((x >> 8) % 5 == 0) {
            lost_times[on[w]]++;
            if (queue_lost(&q, on[w]))
                ended[on[w]]++;
        } else {
            queue_finished(&q, on[w], now);
            ended[on[w]]++;
        }
        on[w] = -1;
    }
    for (int i = 0; i < JOBS; i++) {
        CHECK(ended[i] == 1, "job %d ended once, not %d times", i, ended[i]);
        CHECK(lost_times[i] <= 2, "job %d was lost at most twice", i);
    }
    queue_release(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(longest_first),   cmocka_unit_test(done_before),
        cmocka_unit_test(deadline),        cmocka_unit_test(shorter_jobs_fill_the_end),
        cmocka_unit_test(estimates_learn), cmocka_unit_test(lost_workers),
        cmocka_unit_test(stopping),        cmocka_unit_test(random_events),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
