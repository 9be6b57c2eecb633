/* worker.c - a rank other than 0: passes jobs to its engine and results back. */
#include "sched/hand.h"
#include "sched/sched.h"

#include "base/clock.h"
#include "base/log.h"

#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* ---- log lines, for rank 0's log ---- */

/* Lines are said on any thread (the engine's, with --no-isolate), MPI is called on one: so they
 * wait here.  Each is its level as a character, its text, a 0. */
struct lines {
    pthread_mutex_t lock;
    struct bytes waiting;
};

static void keep_line(enum log_level level, const char *text, void *context)
{
    struct lines *lines = context;
    char digit = (char)('0' + level);

    pthread_mutex_lock(&lines->lock);
    bytes_add(&lines->waiting, &digit, 1);
    bytes_add(&lines->waiting, text, strlen(text) + 1);
    pthread_mutex_unlock(&lines->lock);
}

static int send_lines(struct link *link, struct lines *lines, struct err *e)
{
    int rc = 0;

    pthread_mutex_lock(&lines->lock);
    struct bytes all = lines->waiting;
    lines->waiting = (struct bytes)BYTES_INIT;
    pthread_mutex_unlock(&lines->lock);
    for (size_t at = 0; rc == 0 && at < all.n;) {
        struct bytes m = BYTES_INIT;
        size_t n = strlen(all.data + at);
        message_pack(&m, all.data[at] - '0', all.data + at + 1, n - 1);
        rc = link_send(link, 0, MSG_LOG, m.data, m.n, e);
        bytes_release(&m);
        at += n + 1;
    }
    bytes_release(&all);
    return rc;
}

/* ---- work ---- */

static int tell(struct link *link, struct hand_news *news, struct err *e)
{
    struct bytes m = BYTES_INIT;

    message_pack(&m, news->number, news->bytes.data, news->bytes.n);
    int rc = link_send(link, 0, news->kind, m.data, m.n, e);
    bytes_release(&m);
    bytes_release(&news->bytes);
    return rc;
}

/* Beside what rank 0 writes down: a log must not end the work. */
static void open_log(int64_t rank, const char *log, size_t n_bytes)
{
    struct bytes path = BYTES_INIT;
    struct err e = ERR_INIT;
    char who[32];

    snprintf(who, sizeof who, "rank %lld", (long long)rank);
    bytes_printf(&path, "%.*s.rank-%lld", (int)n_bytes, log, (long long)rank);
    if (log_open(path.data, who, LOG_WARN, &e) < 0)
        log_warn("%s", e.text);
    bytes_release(&path);
}

/* 1: go on, 0: the end. */
static int obey(struct hand *h, const struct link *link, int kind, const struct bytes *m,
                struct err *e)
{
    int64_t number;
    const char *bytes;
    size_t n_bytes;

    if (kind == MSG_SETUP && message_unpack(m, &number, &bytes, &n_bytes)) {
        h->job_timeout_s = (double)number * 1e-9;
        engine_place(h->engine, link_local_rank(link), link_local_size(link));
        h->setup_timeout_s = fmax(h->job_timeout_s, HAND_SETUP_TIMEOUT_S);
        hand_setup(h, bytes, n_bytes);
        return 1;
    }
    if (kind == MSG_LOG_FILE && message_unpack(m, &number, &bytes, &n_bytes)) {
        open_log(number, bytes, n_bytes);
        return 1;
    }
    if (kind == MSG_HEARD && message_unpack(m, &number, &bytes, &n_bytes)) {
        engine_answer(h->engine, bytes, n_bytes);
        return 1;
    }
    if (kind == MSG_DROP && message_unpack(m, &number, &bytes, &n_bytes)) {
        hand_drop(h, number);
        return 1;
    }
    if (kind == MSG_JOB && message_unpack(m, &number, &bytes, &n_bytes))
        return hand_give(h, number, bytes, n_bytes, e) < 0 ? -1 : 1;
    return 0;
}

/* That this rank lives, and what it does. */
static int beat(struct link *link, const struct hand *h, double silent_s, int64_t *next_ns,
                struct err *e)
{
    double every_s = silent_s > 0 ? fmin(BEAT_EVERY_S, silent_s / 4) : BEAT_EVERY_S;
    struct bytes m = BYTES_INIT;

    if (clock_ns() < *next_ns)
        return 0;
    *next_ns = clock_ns() + (int64_t)(every_s * 1e9);
    message_pack(&m, h->job >= 0 ? h->job : h->ready ? BEAT_IDLE : BEAT_SETTING_UP, NULL, 0);
    int rc = link_send(link, 0, MSG_BEAT, m.data, m.n, e);
    bytes_release(&m);
    return rc;
}

/* One turn of the loop:
 *   1. do what rank 0 says;
 *   2. tell it what the engine says and what there is to log, and now and then that it lives;
 *   3. rest until the engine speaks, at most 2 ms: messages have no descriptor to wait for.
 * Ends when rank 0 says so.  */
int sched_work(struct link *link, struct engine *own, double silent_s, struct err *e)
{
    struct hand h = HAND_INIT;
    int64_t next_beat_ns = 0;
    struct bytes m = BYTES_INIT;
    struct lines lines = { PTHREAD_MUTEX_INITIALIZER, BYTES_INIT };
    int go_on = 1;

    h.engine = own;
    log_set_listener(keep_line, &lines);
    while (go_on == 1) {
        struct hand_news news;
        int rank, kind;
        if (link_poll(link, &rank, &kind, &m, e) < 0 || hand_poll(&h, &news, e) < 0) {
            go_on = -1;
            break;
        }
        if (kind >= 0)
            go_on = obey(&h, link, kind, &m, e);
        if (send_lines(link, &lines, e) < 0 || (news.kind && tell(link, &news, e) < 0) ||
            beat(link, &h, silent_s, &next_beat_ns, e) < 0)
            go_on = -1;
        if (kind < 0 && !news.kind)
            poll(&(struct pollfd){ engine_fd(own), POLLIN, 0 }, engine_fd(own) >= 0, 2);
    }
    log_set_listener(NULL, NULL);
    bytes_release(&lines.waiting);
    bytes_release(&m);
    return go_on < 0 ? -1 : 0;
}
