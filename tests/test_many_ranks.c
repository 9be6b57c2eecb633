/* test_many_ranks.c - rank 0's loop as it is, with pretend ranks and a pretend clock: up to 1,024
 * ranks and 100,000 jobs in seconds.  Messages, engine and clock are ours; what hands out jobs and
 * takes results is the program's.  Prints how busy it was. */
#include "check.h"

#include "base/clock.h"
#include "base/js.h"
#include "base/log.h"
#include "record/journal.h"
#include "sched/hand.h"
#include "sched/sched.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define S ((int64_t)1000000000)

enum { RANKS_MAX = 1024 };

struct event {
    int64_t at_ns;
    int rank, kind;
    int64_t number;
};

/* What a rank does in the pretend world. */
struct rank {
    int64_t job; /* -1: none */
    int64_t silent_from_ns, silent_to_ns;
    int n_jobs;
};

struct engine {
    int64_t due_ns;
    bool is_set_up, told;
    int job;
};

static struct world {
    int64_t now_ns;
    int n_ranks, n_jobs;
    const double *takes_s;
    struct rank ranks[RANKS_MAX];
    struct event *heap;
    int n_heap, room;
    struct engine own;
    double loss_every; /* of so many jobs one is lost with its engine; 0: none */
    uint32_t x;
    long n_turns, n_messages;
} w;

/* ---- the clock ---- */

int clock_gettime(clockid_t clock, struct timespec *t)
{
    if (clock != CLOCK_MONOTONIC)
        return (int)syscall(SYS_clock_gettime, clock, t);
    *t = (struct timespec){ w.now_ns / S, w.now_ns % S };
    return 0;
}

static double real_seconds(void)
{
    struct timespec t;

    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Rank 0 rests: until something happens, at most as long as it says. */
int poll(struct pollfd *fds, nfds_t n, int timeout_ms)
{
    int64_t until = w.now_ns + timeout_ms * (S / 1000);

    (void)fds, (void)n;
    if (w.n_heap && w.heap[0].at_ns < until)
        until = w.heap[0].at_ns;
    if (w.own.due_ns && w.own.due_ns < until)
        until = w.own.due_ns;
    if (until > w.now_ns)
        w.now_ns = until;
    w.n_turns++;
    return 0;
}

/* ---- what happens, in the order of time ---- */

static void add_event(int64_t at_ns, int rank, int kind, int64_t number)
{
    if (w.n_heap == w.room) {
        w.room = w.room ? 2 * w.room : 1024;
        w.heap = mem_grow(w.heap, (size_t)w.room, sizeof *w.heap);
    }
    int i = w.n_heap++;
    struct event e = { at_ns, rank, kind, number };
    for (; i > 0 && e.at_ns < w.heap[(i - 1) / 2].at_ns; i = (i - 1) / 2)
        w.heap[i] = w.heap[(i - 1) / 2];
    w.heap[i] = e;
}

static struct event next_event(void)
{
    struct event first = w.heap[0], last = w.heap[--w.n_heap];
    int i = 0;

    for (int k = 1; k < w.n_heap; k = 2 * i + 1) {
        k += k + 1 < w.n_heap && w.heap[k + 1].at_ns < w.heap[k].at_ns;
        if (last.at_ns <= w.heap[k].at_ns)
            break;
        w.heap[i] = w.heap[k];
        i = k;
    }
    w.heap[i] = last;
    return first;
}

static bool is_lost(void)
{
    w.x = w.x * 1664525u + 1013904223u;
    return w.loss_every > 0 && (double)(w.x >> 8) < (1 << 24) / w.loss_every;
}

/* ---- messages: what link_mpi.c does ---- */

int link_size(const struct link *l)
{
    (void)l;
    return w.n_ranks;
}

int link_local_rank(const struct link *l)
{
    (void)l;
    return 0;
}

int link_local_size(const struct link *l)
{
    (void)l;
    return 8;
}

const char *link_host_of(const struct link *l, int rank)
{
    static char name[32];

    (void)l;
    snprintf(name, sizeof name, "node%d", rank / 8);
    return name;
}

int link_send(struct link *l, int rank, int kind, const void *bytes, size_t n_bytes, struct err *e)
{
    struct bytes m = BYTES_INIT;
    int64_t number = 0;
    const char *text;
    size_t n;

    (void)l, (void)e;
    w.n_messages++;
    bytes_add(&m, bytes, n_bytes);
    message_unpack(&m, &number, &text, &n);
    if (kind == MSG_SETUP) {
        add_event(w.now_ns + 2 * S + rank, rank, MSG_READY, 0);
        add_event(w.now_ns + rank * (S / 1000), rank, MSG_BEAT, BEAT_SETTING_UP);
    }
    if (kind == MSG_JOB) {
        int64_t end = w.now_ns + (int64_t)(w.takes_s[number] * 1e9);
        CHECK(w.ranks[rank].job < 0, "rank %d is given a job when it has none", rank);
        w.ranks[rank].job = number;
        w.ranks[rank].n_jobs++;
        add_event(end, rank, is_lost() ? MSG_LOST : MSG_RESULT, number);
    }
    bytes_release(&m);
    return 0;
}

int link_poll(struct link *l, int *rank, int *kind, struct bytes *out, struct err *e)
{
    (void)l, (void)e;
    *kind = -1;
    if (!w.n_heap || w.heap[0].at_ns > w.now_ns)
        return 0;
    struct event event = next_event();
    struct rank *r = &w.ranks[event.rank];
    /* One that is silent says it afterwards. */
    if (event.at_ns >= r->silent_from_ns && event.at_ns < r->silent_to_ns) {
        add_event(r->silent_to_ns, event.rank, event.kind, event.number);
        return 0;
    }
    *rank = event.rank;
    *kind = event.kind;
    w.n_messages++;
    bytes_release(out);
    if (event.kind == MSG_BEAT) {
        int64_t does = event.number == BEAT_SETTING_UP && w.now_ns < 2 * S ? BEAT_SETTING_UP
                       : r->job >= 0                                       ? r->job
                                                                           : BEAT_IDLE;
        message_pack(out, does, NULL, 0);
        add_event(w.now_ns + (int64_t)(BEAT_EVERY_S * 1e9), event.rank, MSG_BEAT, BEAT_IDLE);
        return 0;
    }
    if (event.kind == MSG_LOST)
        add_event(w.now_ns + 2 * S, event.rank, MSG_READY, 0);
    r->job = -1;
    message_pack(out, event.number, "{\"status\":\"success\"}", 21);
    return 0;
}

/* ---- rank 0's own engine: what engine.c does ---- */

int engine_fd(const struct engine *g)
{
    (void)g;
    return -1;
}

void engine_setup(struct engine *g, const void *setup, size_t n_bytes)
{
    (void)setup, (void)n_bytes;
    g->due_ns = w.now_ns + 2 * S;
}

int engine_give(struct engine *g, int job, const void *bytes, size_t n_bytes, struct err *e)
{
    (void)bytes, (void)n_bytes, (void)e;
    CHECK(g->job < 0, "rank 0 is given a job when it has none");
    g->job = job;
    g->due_ns = w.now_ns + (int64_t)(w.takes_s[job] * 1e9);
    w.ranks[0].n_jobs++;
    return 0;
}

int engine_poll(struct engine *g, struct engine_event *out, struct err *e)
{
    (void)e;
    *out = (struct engine_event){ .kind = ENGINE_NOTHING, .job_id = -1 };
    if (!g->due_ns || w.now_ns < g->due_ns)
        return 0;
    g->due_ns = 0;
    out->kind = g->is_set_up ? ENGINE_RESULT : ENGINE_READY;
    out->job_id = g->job;
    if (g->is_set_up)
        bytes_text(&out->bytes, "{\"status\":\"success\"}");
    g->is_set_up = true;
    g->job = -1;
    return 0;
}

void engine_answer(struct engine *g, const void *heard, size_t n_bytes)
{
    (void)g, (void)heard, (void)n_bytes;
}

int engine_restart(struct engine *g, struct err *e)
{
    (void)g, (void)e;
    return 0;
}

void engine_kill(struct engine *g)
{
    (void)g;
}

void engine_place(struct engine *g, int local_rank, int local_size)
{
    (void)g, (void)local_rank, (void)local_size;
}

/* ---- what the program is told ---- */

struct told {
    int *n_results; /* [n_jobs] */
    int *n_given_up;
    struct journal journal;
    struct js *record;
    int64_t first_ns, last_ns;
    int n_syncs;
};

static void on_started(void *context, int job, int rank)
{
    struct told *t = context;

    (void)job, (void)rank;
    if (!t->first_ns)
        t->first_ns = w.now_ns;
}

static int on_finished(void *context, int job, int rank, const void *record, size_t n_bytes,
                       bool *ok, struct err *e)
{
    struct told *t = context;

    (void)record, (void)n_bytes;
    t->n_results[job]++;
    t->last_ns = w.now_ns;
    *ok = true;
    if (t->journal.fd < 0)
        return 0;
    js_set_int(t->record, "job", job);
    js_set_int(t->record, "rank", rank);
    return journal_append(&t->journal, t->record, e);
}

static int on_lost(void *context, int job, int rank, const char *text, struct err *e)
{
    struct told *t = context;

    (void)rank, (void)text, (void)e;
    t->n_given_up[job]++;
    t->last_ns = w.now_ns;
    return 0;
}

/* As in run_sweep.c, but that a sync is only counted: its cost is measured apart. */
static int on_settle(void *context, bool all, struct err *e)
{
    struct told *t = context;

    (void)e;
    if (!t->journal.n_unsynced || (!all && !journal_sync_due(&t->journal, (double)w.now_ns * 1e-9)))
        return 0;
    t->journal.synced_s = (double)w.now_ns * 1e-9;
    t->journal.n_unsynced = 0;
    t->n_syncs++;
    return 0;
}

/* Returns seconds from the first job's start to the last one's end, of the pretend clock. */
static double simulate(int n_ranks, int n_jobs, const double *takes_s, const double *cost_s,
                       const int *kind, struct told *t, double *real_s)
{
    struct sched_job *jobs = mem_array((size_t)n_jobs, sizeof *jobs);
    struct sched_options o = { .crash_limit = 2, .silent_s = 60 };
    struct sched_listener l = { .started = on_started,
                                .finished = on_finished,
                                .lost = on_lost,
                                .settle = on_settle,
                                .context = t };
    enum sched_end end;
    struct err e = ERR_INIT;

    w.n_ranks = n_ranks;
    w.n_jobs = n_jobs;
    w.takes_s = takes_s;
    w.now_ns = 1000 * S;
    w.own = (struct engine){ .job = -1 };
    for (int r = 0; r < n_ranks; r++)
        w.ranks[r].job = -1;
    for (int i = 0; i < n_jobs; i++)
        jobs[i] = (struct sched_job){ .name = "a job",
                                      .text = "{\"experiment\":\"of a few hundred bytes\"}",
                                      .n_bytes = 40,
                                      .cost_s = cost_s[i],
                                      .kind = kind ? kind[i] : 0 };
    t->n_results = mem_array((size_t)n_jobs, sizeof *t->n_results);
    t->n_given_up = mem_array((size_t)n_jobs, sizeof *t->n_given_up);
    double start = real_seconds();
    CHECK_OK(sched_manage(NULL, &w.own, "setup", 5, jobs, n_jobs, &o, &l, &end, &e), e);
    *real_s = real_seconds() - start;
    CHECK(end == SCHED_ALL_DONE, "every job comes to an end");
    for (int i = 0; i < n_jobs; i++)
        CHECK(t->n_results[i] + t->n_given_up[i] == 1, "job %d has one result, not %d", i,
              t->n_results[i] + t->n_given_up[i]);
    free(w.heap);
    free(jobs);
    return (double)(t->last_ns - t->first_ns) * 1e-9;
}

static void told_release(struct told *t)
{
    free(t->n_results);
    free(t->n_given_up);
    js_release(t->record);
    w = (struct world){ 0 };
}

static double drawn(double low, double high)
{
    w.x = w.x * 1664525u + 1013904223u;
    return low + (high - low) * (double)(w.x >> 8) / (1 << 24);
}

/* What a result's line and an fsync cost here, with a record of that size. */
static double sync_seconds(struct journal *j, struct js *record)
{
    enum { SYNCS = 50 };
    struct err e = ERR_INIT;
    double sum = 0;

    for (int i = 0; i < SYNCS; i++) {
        CHECK_OK(journal_append(j, record, &e), e);
        double start = real_seconds();
        CHECK_OK(journal_sync(j, &e), e);
        sum += real_seconds() - start;
    }
    return sum / SYNCS;
}

static void a_thousand_ranks(void **state)
{
    enum { RANKS = 1024, JOBS = 100000, FEWER = 25000 };
    const int n_jobs = getenv("LLQ_TEST_SHORT") ? FEWER : JOBS;
    double *takes = mem_array(JOBS, sizeof *takes), *cost = mem_array(JOBS, sizeof *cost), real;
    int *kind = mem_array(JOBS, sizeof *kind);
    struct told t = { .journal = JOURNAL_INIT, .record = js_new_object() };
    struct err e = ERR_INIT;
    struct bytes text = BYTES_INIT;
    char path[] = "/tmp/llq_many_XXXXXX";
    double sum = 0;

    (void)state;
    for (int i = 0; i < 256; i++)
        bytes_text(&text, "item ");
    js_set_text(t.record, "status", "success");
    js_set_text(t.record, "items", text.data);
    close(mkstemp(path));
    CHECK_OK(journal_open(&t.journal, path, &e), e);
    double sync_s = sync_seconds(&t.journal, t.record);
    t.journal.synced_s = 0;
    t.journal.sync_took_s = sync_s;
    for (int i = 0; i < n_jobs; i++) {
        kind[i] = i % 12;
        takes[i] = drawn(40, 80);
        cost[i] = takes[i] * drawn(0.8, 1.25) * (1 + 0.2 * kind[i]); /* each kind errs its way */
        sum += takes[i];
    }
    double makespan = simulate(RANKS, n_jobs, takes, cost, kind, &t, &real);
    double ideal = sum / RANKS, busy = real + t.n_syncs * sync_s;
    printf("%d ranks, %d jobs of 40 to 80 s: %.0f s, efficiency %.1f %%\n", RANKS, n_jobs, makespan,
           100 * ideal / makespan);
    printf("rank 0 busy %.2f s of it (%.2f %%): %.2f s for %ld turns and %ld messages, this "
           "simulation included, and %d syncs of %.2f ms\n",
           busy, 100 * busy / makespan, real, w.n_turns, w.n_messages, t.n_syncs, sync_s * 1e3);
    CHECK(ideal / makespan >= 0.95, "at least 95 %% of the ranks' time is work");
    journal_close(&t.journal);
    unlink(path);
    bytes_release(&text);
    told_release(&t);
    free(takes);
    free(cost);
    free(kind);
}

/* The bars for four GPUs, with estimates that are off by up to a half. */
static void four_ranks(void **state)
{
    static const struct {
        const char *what;
        int n;
        double low, high, least;
    } cases[] = { { "32 equal jobs", 32, 5, 5, 0.95 },
                  { "64 equal jobs", 64, 5, 5, 0.95 },
                  { "32 jobs of 5 to 100 s", 32, 5, 100, 0.90 },
                  { "48 jobs of 5 to 100 s", 48, 5, 100, 0.90 },
                  { "100 jobs of 5 to 100 s", 100, 5, 100, 0.90 } };

    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (int draw = 0; draw < 20; draw++) {
            double takes[128], cost[128], sum = 0, real;
            struct told t = { .journal = JOURNAL_INIT };
            w.x = (uint32_t)(draw * 77 + 1);
            for (int i = 0; i < cases[c].n; i++) {
                /* As many short as long ones: even on a logarithmic scale. */
                takes[i] = cases[c].low * pow(cases[c].high / cases[c].low, drawn(0, 1));
                cost[i] = takes[i] * drawn(0.67, 1.5);
                sum += takes[i];
            }
            double makespan = simulate(4, cases[c].n, takes, cost, NULL, &t, &real);
            if (draw == 0)
                printf("4 ranks, %s: efficiency %.1f %%\n", cases[c].what,
                       100 * sum / 4 / makespan);
            CHECK(sum / 4 / makespan >= cases[c].least, "%s, draw %d: efficiency %.3f",
                  cases[c].what, draw, sum / 4 / makespan);
            told_release(&t);
        }
}

/* Engines are lost, ranks stand still for minutes, one job takes for ever on its rank. */
static void a_bad_day(void **state)
{
    enum { RANKS = 64, JOBS = 3000 };
    double takes[JOBS], cost[JOBS], real;
    struct told t = { .journal = JOURNAL_INIT };
    int n_given_up = 0;

    (void)state;
    w.x = 5;
    for (int i = 0; i < JOBS; i++) {
        takes[i] = drawn(5, 30);
        cost[i] = takes[i] * drawn(0.5, 2);
    }
    w.loss_every = 25;
    for (int r = 3; r < RANKS; r += 5) {
        w.ranks[r].silent_from_ns = 1000 * S + (int64_t)drawn(3, 300) * S;
        w.ranks[r].silent_to_ns = w.ranks[r].silent_from_ns + (int64_t)drawn(10, 400) * S;
    }
    double makespan = simulate(RANKS, JOBS, takes, cost, NULL, &t, &real);
    for (int i = 0; i < JOBS; i++)
        n_given_up += t.n_given_up[i];
    printf("%d ranks, %d jobs, one of 25 lost with its engine, %d ranks silent for minutes: %d "
           "jobs given up after two losses, %.0f s\n",
           RANKS, JOBS, (RANKS - 3 + 4) / 5, n_given_up, makespan);
    CHECK(n_given_up < JOBS / 100, "few jobs are lost twice");
    for (int r = 0; r < RANKS; r++)
        CHECK(w.ranks[r].n_jobs > 1, "rank %d has worked, before or after it was silent", r);
    told_release(&t);
}

int main(void)
{
    log_set_terminal_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(four_ranks),
        cmocka_unit_test(a_bad_day),
        cmocka_unit_test(a_thousand_ranks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
