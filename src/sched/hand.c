/* hand.c - see hand.h. */
#include "sched/hand.h"

#include "base/clock.h"
#include "base/log.h"

int hand_give(struct hand *h, int64_t job, const void *bytes, size_t n_bytes, struct err *e)
{
    h->timed_out = false;
    h->kill_at_ns = h->job_timeout_s > 0 ? clock_ns() + (int64_t)(h->job_timeout_s * 1e9) : 0;
    return engine_give(h->engine, (int)job, bytes, n_bytes, e);
}

static int replaced(struct hand *h, struct engine_event *ev, struct hand_news *news, struct err *e)
{
    bool worked = ev->job_id >= 0;
    int kind = h->timed_out ? MSG_TIMED_OUT : MSG_LOST;

    if (h->failed) { /* told already */
        bytes_release(&ev->bytes);
        return 0;
    }
    if (h->timed_out) {
        bytes_release(&ev->bytes);
        bytes_printf(&ev->bytes, "timed out after %g s (job_timeout)", h->job_timeout_s);
    }
    h->kill_at_ns = 0;
    h->timed_out = false;
    if (!worked && h->ready) {
        /* Idle, or killed for its time just as its result came: no job is lost. */
        h->ready = false;
        log_warn("%s while it was idle; a new engine takes its place", ev->bytes.data);
        bytes_release(&ev->bytes);
        return engine_restart(h->engine, e);
    }
    h->ready = false;
    if (!worked) {
        /* It was lost while setting up: a second one would be lost, too. */
        *news = (struct hand_news){ MSG_FAILED, ERR_DEVICE, ev->bytes };
        return 0;
    }
    log_warn("%s; a new engine takes its place", ev->bytes.data);
    *news = (struct hand_news){ kind, ev->job_id, ev->bytes };
    return engine_restart(h->engine, e);
}

int hand_poll(struct hand *h, struct hand_news *news, struct err *e)
{
    struct engine_event ev;

    *news = (struct hand_news){ 0 };
    if (h->kill_at_ns && clock_ns() > h->kill_at_ns && !h->timed_out) {
        h->timed_out = true;
        engine_kill(h->engine);
    }
    if (engine_poll(h->engine, &ev, e) < 0)
        return -1;
    if (ev.kind == ENGINE_LOST)
        return replaced(h, &ev, news, e);
    if (ev.kind == ENGINE_RESULT)
        h->kill_at_ns = 0;
    if (ev.kind == ENGINE_READY)
        h->ready = true;
    if (ev.kind == ENGINE_FAILED)
        h->failed = true;
    news->kind = ev.kind == ENGINE_READY    ? MSG_READY
                 : ev.kind == ENGINE_RESULT ? MSG_RESULT
                 : ev.kind == ENGINE_FAILED ? MSG_FAILED
                 : ev.kind == ENGINE_TELLS  ? MSG_TELL
                                            : 0;
    news->number = ev.job_id;
    news->bytes = ev.bytes;
    return 0;
}
