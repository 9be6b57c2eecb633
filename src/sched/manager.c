/* manager.c - rank 0: hands out jobs, longest first, to every rank and to itself.
 *
 * A job goes to a group of ranks, of one or of several: each of them gets it, the first one's
 * record counts, and the group is free when all have answered.  Where one loses its engine, the
 * others give theirs up: the job is lost once, and the group begins again.  In the queue a group
 * goes by its first rank. */
#include "base/clock.h"
#include "base/log.h"
#include "sched/gather.h"
#include "sched/groups.h"
#include "sched/hand.h"
#include "sched/queue.h"
#include "sched/sched.h"

#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One that is silent may speak again; one that is gone has said that it takes no jobs. */
enum worker_state { WORKER_SETTING_UP, WORKER_IDLE, WORKER_BUSY, WORKER_SILENT, WORKER_GONE };

struct worker {
    enum worker_state state;
    int job; /* while it is busy */
    int64_t heard_ns;
};

#define OVERDUE_EVERY_NS 1000000000 /* jobs are looked at that often */

struct manager {
    struct link *link;
    struct hand hand;
    const struct sched_job *jobs;
    const struct sched_options *options;
    const struct sched_listener *listener;
    struct queue queue;
    struct worker *workers; /* [n_workers], by rank */
    int n_workers;
    int64_t next_overdue_ns;
    struct gather gather, inside; /* talk of a host while it sets up; of groups while they work */
    struct groups groups;
    bool ready; /* our own engine is set up: model and data are good */
};

static int give_one(struct manager *m, int worker, int job, struct err *e)
{
    const struct sched_job *j = &m->jobs[job];

    m->workers[worker].state = WORKER_BUSY;
    m->workers[worker].job = job;
    gather_forget(&m->inside, worker);
    if (worker == 0)
        return hand_give(&m->hand, job, j->text, j->n_bytes, e);
    struct bytes text = BYTES_INIT;
    message_pack(&text, job, j->text, j->n_bytes);
    int rc = link_send(m->link, worker, MSG_JOB, text.data, text.n, e);
    bytes_release(&text);
    return rc;
}

/* To each of the group that begins with this rank. */
static int give(struct manager *m, int first, int job, struct err *e)
{
    int rc = 0;

    if (m->listener->started)
        m->listener->started(m->listener->context, job, first);
    for (int i = 0; rc == 0 && i < m->groups.size; i++)
        rc = give_one(m, groups_member(&m->groups, first, i), job, e);
    return rc;
}

/* Does a group begin with this rank, and have all of it nothing to do? */
static bool is_free(const struct manager *m, int worker)
{
    bool all = groups_first(&m->groups, worker) == worker;

    for (int i = 0; all && i < m->groups.size; i++)
        all = m->workers[groups_member(&m->groups, worker, i)].state == WORKER_IDLE;
    return all;
}

/* For a worker that has nothing to do: a job that another should have finished long ago. */
static int find_overdue(struct manager *m, int worker)
{
    int job = queue_overdue(&m->queue, worker, clock_ns());

    if (job >= 0)
        log_warn("%s takes far longer on rank %d than expected (%.0f s); rank %d runs it, too, and "
                 "the first result counts",
                 m->jobs[job].name, m->queue.jobs[job].run[0].worker,
                 queue_expect_s(&m->queue, job), worker);
    return job;
}

static int hand_out(struct manager *m, struct err *e)
{
    bool look_for_overdue = clock_ns() >= m->next_overdue_ns;

    /* The first error of model or data must come before the first job. */
    if (!m->ready)
        return 0;
    if (look_for_overdue)
        m->next_overdue_ns = clock_ns() + OVERDUE_EVERY_NS;
    for (int w = 0; w < m->n_workers; w++) {
        if (!is_free(m, w))
            continue;
        int job = queue_next(&m->queue, w, clock_ns());
        if (job < 0 && look_for_overdue)
            job = find_overdue(m, w);
        if (job < 0)
            return 0;
        if (give(m, w, job, e) < 0)
            return err_in(e, "giving job %s to rank %d", m->jobs[job].name, w);
    }
    return 0;
}

static bool is_job(const struct manager *m, int64_t job)
{
    return job >= 0 && job < m->queue.n_jobs;
}

static int finished(struct manager *m, int worker, int64_t job, const char *record, size_t n_bytes,
                    struct err *e)
{
    bool ok = false;

    if (!is_job(m, job))
        return err_set(e, ERR_IO, "rank %d answers for job %lld, which is none", worker,
                       (long long)job);
    m->workers[worker].state = WORKER_IDLE;
    if (groups_first(&m->groups, worker) != worker)
        return 0;
    /* Another was faster. */
    if (!queue_wants(&m->queue, (int)job))
        return 0;
    if (m->listener->finished(m->listener->context, (int)job, worker, record, n_bytes, &ok, e) < 0)
        return -1;
    queue_finished(&m->queue, (int)job, worker, clock_ns());
    if (!ok && m->options->fail_fast)
        queue_stop(&m->queue);
    return 0;
}

/* The others of a group have nobody to work with. */
static int drop_others(struct manager *m, int worker, int job, struct err *e)
{
    int rc = 0;

    for (int i = 0; rc == 0 && i < m->groups.size; i++) {
        int other = groups_member(&m->groups, groups_first(&m->groups, worker), i);
        struct bytes text = BYTES_INIT;

        if (other == worker || m->workers[other].state != WORKER_BUSY)
            continue;
        message_pack(&text, job, NULL, 0);
        if (other == 0)
            hand_drop(&m->hand, job);
        else
            rc = link_send(m->link, other, MSG_DROP, text.data, text.n, e);
        bytes_release(&text);
    }
    return rc;
}

/* The job goes to another, or is given up. */
static int hand_on(struct manager *m, int worker, int job, const char *text, struct err *e)
{
    const int first = groups_first(&m->groups, worker);
    bool ran_here =
        m->queue.jobs[job].state == QUEUE_RUNNING &&
        (m->queue.jobs[job].run[0].worker == first || m->queue.jobs[job].run[1].worker == first);

    if (!ran_here)
        return 0;
    if (drop_others(m, worker, job, e) < 0)
        return -1;
    if (!queue_lost(&m->queue, job, first)) {
        log_warn("%s: %s on rank %d; it is tried once more", m->jobs[job].name, text, worker);
        return 0;
    }
    if (m->options->fail_fast)
        queue_stop(&m->queue);
    return m->listener->lost(m->listener->context, job, first, text, e);
}

static int lost(struct manager *m, int worker, int64_t job, const char *text, struct err *e)
{
    if (!is_job(m, job))
        return err_set(e, ERR_IO, "rank %d lost job %lld, which is none", worker, (long long)job);
    m->workers[worker].state = WORKER_SETTING_UP;
    gather_forget(&m->inside, worker);
    return hand_on(m, worker, (int)job, text, e);
}

/* ---- ranks that say nothing ---- */

static int answer_gathered(struct manager *m, struct err *e);

static int fall_silent(struct manager *m, int worker, struct err *e)
{
    struct worker *w = &m->workers[worker];
    bool busy = w->state == WORKER_BUSY;
    char text[64];

    w->state = WORKER_SILENT;
    log_warn("rank %d on %s has said nothing for %.0f s; it gets no job until it speaks", worker,
             link_host_of(m->link, worker), m->options->silent_s);
    gather_left(&m->gather, worker);
    if (answer_gathered(m, e) < 0)
        return -1;
    snprintf(text, sizeof text, "its rank said nothing for %.0f s", m->options->silent_s);
    return busy ? hand_on(m, worker, w->job, text, e) : 0;
}

/* In a turn without a message: none waits that would show that they live. */
static int look_for_silent(struct manager *m, struct err *e)
{
    int64_t since_ns = clock_ns() - (int64_t)(m->options->silent_s * 1e9);

    for (int w = 1; w < m->n_workers && m->options->silent_s > 0; w++)
        if (m->workers[w].heard_ns < since_ns && m->workers[w].state < WORKER_SILENT &&
            fall_silent(m, w, e) < 0)
            return -1;
    return 0;
}

static void heard_again(struct manager *m, int worker, int kind, int64_t number)
{
    struct worker *w = &m->workers[worker];

    w->heard_ns = clock_ns();
    if (w->state != WORKER_SILENT || kind == MSG_LOG)
        return;
    log_info("rank %d speaks again", worker);
    w->state = WORKER_SETTING_UP;
    if (kind == MSG_BEAT && number != BEAT_SETTING_UP)
        w->state = number == BEAT_IDLE ? WORKER_IDLE : WORKER_BUSY;
    if (kind == MSG_BEAT && is_job(m, number))
        w->job = (int)number;
}

/* There is no group whose ranks can all work. */
static bool all_gone(const struct manager *m)
{
    for (int w = 0; w < m->n_workers; w++) {
        bool whole = groups_first(&m->groups, w) == w;

        for (int i = 0; whole && i < m->groups.size; i++)
            whole = m->workers[groups_member(&m->groups, w, i)].state != WORKER_GONE;
        if (whole)
            return false;
    }
    return true;
}

/* Model and data are good: rank 0 says so, or where its engine is lost, another. */
static int begin_jobs(struct manager *m, struct err *e)
{
    m->ready = true;
    return m->listener->ready ? m->listener->ready(m->listener->context, e) : 0;
}

static int failed(struct manager *m, int worker, int64_t code, const char *text, struct err *e)
{
    m->workers[worker].state = WORKER_GONE;
    /* What is wrong with model or data is wrong for all. */
    if (!m->ready && worker == 0 && (code != ERR_DEVICE || m->n_workers == 1))
        return err_set(e, (enum err_code)code, "%s", text);
    if (all_gone(m))
        return err_set(e, (enum err_code)code, "no rank has a working engine: %s", text);
    log_warn("rank %d takes no jobs: %s", worker, text);
    for (int w = 1; w < m->n_workers && !m->ready && worker == 0; w++)
        if (m->workers[w].state == WORKER_IDLE)
            return begin_jobs(m, e);
    return 0;
}

static int ready(struct manager *m, int worker, struct err *e)
{
    if (m->workers[worker].state == WORKER_SETTING_UP)
        m->workers[worker].state = WORKER_IDLE;
    if (m->ready || (worker != 0 && m->workers[0].state != WORKER_GONE))
        return 0;
    return begin_jobs(m, e);
}

static void log_from(int worker, int64_t level, const char *bytes, size_t n_bytes)
{
    char who[32], *text = mem_textn(bytes, n_bytes);

    snprintf(who, sizeof who, "rank %d", worker);
    log_line_of(who, level < LOG_ERROR || level > LOG_DEBUG ? LOG_WARN : (enum log_level)level,
                text);
    free(text);
}

static int answer(struct manager *m, struct gather *gather, struct err *e)
{
    struct bytes heard = BYTES_INIT;
    int worker, rc = 0;

    while (rc == 0 && (worker = gather_answer(gather, &heard)) >= 0) {
        struct bytes text = BYTES_INIT;
        message_pack(&text, 0, heard.data, heard.n);
        if (worker == 0)
            engine_answer(m->hand.engine, heard.data, heard.n);
        else
            rc = link_send(m->link, worker, MSG_HEARD, text.data, text.n, e);
        bytes_release(&text);
        bytes_release(&heard);
    }
    return rc;
}

static int answer_gathered(struct manager *m, struct err *e)
{
    return answer(m, &m->gather, e) < 0 || answer(m, &m->inside, e) < 0 ? -1 : 0;
}

static int heard(struct manager *m, int worker, int kind, int64_t number, const char *bytes,
                 size_t n_bytes, struct err *e)
{
    heard_again(m, worker, kind, number);
    if (kind == MSG_TELL && n_bytes && m->workers[worker].state == WORKER_BUSY)
        gather_told(&m->inside, worker, bytes, n_bytes);
    else if (kind == MSG_TELL && n_bytes)
        gather_told(&m->gather, worker, bytes, n_bytes);
    else if (kind != MSG_LOG && kind != MSG_BEAT)
        gather_left(&m->gather, worker);
    if (answer_gathered(m, e) < 0)
        return -1;
    switch (kind) {
    case MSG_TELL:
    case MSG_BEAT:
        return 0;
    case MSG_READY:
        return ready(m, worker, e);
    case MSG_RESULT:
        return finished(m, worker, number, bytes, n_bytes, e);
    case MSG_LOST:
        return lost(m, worker, number, bytes, e);
    case MSG_LOG:
        log_from(worker, number, bytes, n_bytes);
        return 0;
    case MSG_FAILED:
        return failed(m, worker, number, bytes, e);
    default:
        return err_set(e, ERR_IO, "rank %d sent a message of kind %d", worker, kind);
    }
}

/* One message of another rank and one of our own engine; *any: there was one. */
static int listen_once(struct manager *m, struct bytes *in, bool *any, struct err *e)
{
    struct hand_news news;
    int rank, kind;

    if (link_poll(m->link, &rank, &kind, in, e) < 0 || hand_poll(&m->hand, &news, e) < 0)
        return -1;
    *any = kind >= 0 || news.kind;
    if (kind >= 0) {
        int64_t number;
        const char *bytes;
        size_t n_bytes;
        if (!message_unpack(in, &number, &bytes, &n_bytes))
            return err_set(e, ERR_IO, "rank %d sent a message of %zu bytes", rank, in->n);
        if (heard(m, rank, kind, number, bytes, n_bytes, e) < 0)
            return -1;
    }
    int rc = 0;
    if (news.kind)
        rc = heard(m, 0, news.kind, news.number, news.bytes.data ? news.bytes.data : "",
                   news.bytes.n, e);
    bytes_release(&news.bytes);
    return rc;
}

static int tell_end(struct link *link, struct err *e)
{
    for (int w = 1; w < link_size(link); w++)
        if (link_send(link, w, MSG_END, NULL, 0, e) < 0)
            return -1;
    return 0;
}

void sched_dismiss(struct link *link)
{
    struct err ignored = ERR_INIT;

    tell_end(link, &ignored);
}

static bool on_several_nodes(const struct manager *m)
{
    char *first = mem_text(link_host_of(m->link, 0));
    bool several = false;

    for (int w = 1; w < m->n_workers && !several; w++)
        several = strcmp(link_host_of(m->link, w), first) != 0;
    free(first);
    return several;
}

static int tell_logs(struct manager *m, struct err *e)
{
    int rc = 0;

    if (!m->options->log || !on_several_nodes(m))
        return 0;
    for (int w = 1; rc == 0 && w < m->n_workers; w++) {
        struct bytes text = BYTES_INIT;
        message_pack(&text, w, m->options->log, strlen(m->options->log));
        rc = link_send(m->link, w, MSG_LOG_FILE, text.data, text.n, e);
        bytes_release(&text);
    }
    return rc;
}

static int begin(struct manager *m, const void *setup, size_t n_bytes, struct err *e)
{
    struct bytes text = BYTES_INIT;
    int rc = tell_logs(m, e);

    message_pack(&text, (int64_t)(m->hand.job_timeout_s * 1e9), setup, n_bytes);
    for (int w = 1; rc == 0 && w < m->n_workers; w++)
        if (m->workers[w].state != WORKER_GONE)
            rc = link_send(m->link, w, MSG_SETUP, text.data, text.n, e);
    bytes_release(&text);
    if (rc == 0 && m->workers[0].state != WORKER_GONE)
        hand_setup(&m->hand, setup, n_bytes);
    return rc;
}

static const char *host_of(const void *link, int rank)
{
    return link_host_of(link, rank);
}

/* Who works with whom, and who talks to whom. */
static int make_groups(struct manager *m, struct err *e)
{
    if (groups_make(&m->groups, m->n_workers, m->options->group_size, host_of, m->link, e) < 0)
        return -1;
    gather_init(&m->gather, m->n_workers);
    gather_init(&m->inside, m->n_workers);
    for (int w = 0; w < m->n_workers; w++) {
        char group[32];

        snprintf(group, sizeof group, "%d", groups_first(&m->groups, w));
        gather_host(&m->gather, w, link_host_of(m->link, w));
        gather_host(&m->inside, w, group);
    }
    for (int w = 0; w < m->n_workers; w++) {
        if (groups_first(&m->groups, w) >= 0)
            continue;
        log_warn("rank %d on %s takes no jobs: groups of %d ranks work on one job, and it is left "
                 "over on its node",
                 w, link_host_of(m->link, w), m->groups.size);
        m->workers[w].state = WORKER_GONE;
        gather_left(&m->gather, w);
    }
    return 0;
}

static int settle(struct manager *m, bool all, struct err *e)
{
    return m->listener->settle ? m->listener->settle(m->listener->context, all, e) : 0;
}

/* One turn of the loop:
 *   1. take what other ranks and the own engine say; write down results before acting on them;
 *   2. give idle ranks a job;
 *   3. make durable what was written down, when it is time;
 *   4. rest until the engine speaks, at most 2 ms.
 * Ends when nothing runs and nothing may start any more, or a signal says to drop all.  */
static int loop(struct manager *m, struct err *e)
{
    struct bytes in = BYTES_INIT;
    int64_t next_tick_ns = 0;
    int rc = 0;

    while (!(m->ready && queue_over(&m->queue, clock_ns()))) {
        bool any = false;
        int stop = m->options->stop ? (int)*m->options->stop : 0;
        if (stop)
            queue_stop(&m->queue);
        if (stop > 1 || (stop && !m->ready))
            break;
        if (listen_once(m, &in, &any, e) < 0 || hand_out(m, e) < 0 || settle(m, false, e) < 0) {
            rc = -1;
            break;
        }
        if (clock_ns() >= next_tick_ns) {
            if (!any && look_for_silent(m, e) < 0) {
                rc = -1;
                break;
            }
            if (m->listener->tick)
                m->listener->tick(m->listener->context);
            next_tick_ns = clock_ns() + 250000000;
        }
        int fd = engine_fd(m->hand.engine);
        if (!any)
            poll(&(struct pollfd){ fd, POLLIN, 0 }, fd >= 0, 2);
    }
    bytes_release(&in);
    return rc < 0 ? -1 : settle(m, true, e);
}

int sched_manage(struct link *link, struct engine *own, const void *setup, size_t setup_bytes,
                 const struct sched_job *jobs, int n_jobs, const struct sched_options *o,
                 const struct sched_listener *l, enum sched_end *end, struct err *e)
{
    struct manager m = { .link = link,
                         .hand = { .engine = own,
                                   .job = -1,
                                   .job_timeout_s = o->job_timeout_s,
                                   .setup_timeout_s =
                                       fmax(o->job_timeout_s, HAND_SETUP_TIMEOUT_S) },
                         .jobs = jobs,
                         .options = o,
                         .listener = l,
                         .n_workers = link_size(link) };
    int64_t deadline = o->time_limit_s > 0 ? clock_ns() + (int64_t)(o->time_limit_s * 1e9) : 0;

    int n_kinds = 0;

    for (int i = 0; i < n_jobs; i++)
        n_kinds = jobs[i].kind >= n_kinds ? jobs[i].kind + 1 : n_kinds;
    queue_init(&m.queue, n_jobs, n_kinds, o->crash_limit, deadline);
    for (int i = 0; i < n_jobs; i++)
        queue_set(&m.queue, i, jobs[i].cost_s, jobs[i].kind, jobs[i].done);
    queue_sort(&m.queue);
    m.workers = mem_array((size_t)m.n_workers, sizeof *m.workers);
    for (int w = 0; w < m.n_workers; w++)
        m.workers[w].heard_ns = clock_ns();

    engine_place(own, link_local_rank(link), link_local_size(link));

    int rc = make_groups(&m, e);
    if (rc == 0)
        rc = begin(&m, setup, setup_bytes, e);
    if (rc == 0)
        rc = loop(&m, e);
    *end = queue_all_done(&m.queue) ? SCHED_ALL_DONE : SCHED_STOPPED_EARLY;
    struct err second = ERR_INIT;
    if (tell_end(link, rc < 0 ? &second : e) < 0)
        rc = -1;
    gather_release(&m.gather);
    gather_release(&m.inside);
    groups_release(&m.groups);
    queue_release(&m.queue);
    free(m.workers);
    return rc;
}
