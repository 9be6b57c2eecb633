/* hand.c - see hand.h. */
#include "sched/hand.h"

#include "base/clock.h"
#include "base/log.h"

/* An engine that is lost while it is set up is given one more chance, as a job is. */
enum { SETUPS_LOST_MAX = 2 };

static void watch(struct hand *h, double timeout_s)
{
    h->timed_out = h->dropped = false;
    h->kill_at_ns = timeout_s > 0 ? clock_ns() + (int64_t)(timeout_s * 1e9) : 0;
}

void hand_setup(struct hand *h, const void *setup, size_t n_bytes)
{
    h->told = true;
    watch(h, h->setup_timeout_s);
    engine_setup(h->engine, setup, n_bytes);
}

int hand_give(struct hand *h, int64_t job, const void *bytes, size_t n_bytes, struct err *e)
{
    h->job = job;
    watch(h, h->job_timeout_s);
    return engine_give(h->engine, (int)job, bytes, n_bytes, e);
}

void hand_drop(struct hand *h, int64_t job)
{
    if (h->job != job || h->timed_out)
        return;
    h->dropped = true;
    engine_kill(h->engine);
}

static int restart(struct hand *h, struct err *e)
{
    h->ready = false;
    h->job = -1;
    watch(h, h->told ? h->setup_timeout_s : 0);
    return engine_restart(h->engine, e);
}

static void say_timeout(const struct hand *h, bool worked, struct bytes *text)
{
    bytes_release(text);
    if (worked)
        bytes_printf(text, "timed out after %g s (job_timeout)", h->job_timeout_s);
    else
        bytes_printf(text, "the engine was not set up after %g s", h->setup_timeout_s);
}

static int replaced(struct hand *h, struct engine_event *ev, struct hand_news *news, struct err *e)
{
    bool worked = ev->job_id >= 0, was_ready = h->ready, timed_out = h->timed_out;

    if (h->failed) { /* told already */
        bytes_release(&ev->bytes);
        return 0;
    }
    if (timed_out && (worked || !was_ready))
        say_timeout(h, worked, &ev->bytes);
    if (h->dropped && worked) {
        bytes_release(&ev->bytes);
        bytes_text(&ev->bytes, "ended because another engine of its group was lost");
    }
    if (!worked && !was_ready && ++h->n_setups_lost >= SETUPS_LOST_MAX) {
        h->kill_at_ns = 0;
        *news = (struct hand_news){ MSG_FAILED, ERR_DEVICE, ev->bytes };
        return 0;
    }
    log_warn("%s%s; a new engine takes its place", ev->bytes.data,
             worked      ? ""
             : was_ready ? " while it was idle"
                         : " before it was set up");
    if (worked) {
        *news = (struct hand_news){ MSG_LOST, ev->job_id, ev->bytes };
    } else {
        bytes_release(&ev->bytes);
        /* The engines of the node wait for this one no longer. */
        if (!was_ready && h->told)
            *news = (struct hand_news){ .kind = MSG_TELL };
    }
    return restart(h, e);
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
    if (ev.kind == ENGINE_RESULT || ev.kind == ENGINE_FAILED) {
        h->kill_at_ns = 0;
        h->job = -1;
    }
    if (ev.kind == ENGINE_READY) {
        h->ready = true;
        h->n_setups_lost = 0;
        /* It was replaced while it was idle, and has been given a job since. */
        watch(h, h->job >= 0 ? h->job_timeout_s : 0);
    }
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
