/* worker.c - a rank other than 0: passes jobs to its engine and results back. */
#include "sched/hand.h"
#include "sched/sched.h"

#include <poll.h>

static int tell(struct link *link, struct hand_news *news, struct err *e)
{
    struct bytes m = BYTES_INIT;

    message_pack(&m, news->number, news->bytes.data, news->bytes.n);
    int rc = link_send(link, 0, news->kind, m.data, m.n, e);
    bytes_release(&m);
    bytes_release(&news->bytes);
    return rc;
}

/* 1: go on, 0: the end. */
static int obey(struct hand *h, int kind, const struct bytes *m, struct err *e)
{
    int64_t number;
    const char *bytes;
    size_t n_bytes;

    if (kind == MSG_SETUP && message_unpack(m, &number, &bytes, &n_bytes)) {
        h->job_timeout_s = (double)number * 1e-9;
        return engine_setup(h->engine, bytes, n_bytes, e) < 0 ? -1 : 1;
    }
    if (kind == MSG_JOB && message_unpack(m, &number, &bytes, &n_bytes))
        return hand_give(h, number, bytes, n_bytes, e) < 0 ? -1 : 1;
    return 0;
}

/* One turn of the loop:
 *   1. do what rank 0 says;
 *   2. tell it what the engine says;
 *   3. rest until the engine speaks, at most 2 ms: messages have no descriptor to wait for.
 * Ends when rank 0 says so.  */
int sched_work(struct link *link, struct engine *own, struct err *e)
{
    struct hand h = { .engine = own };
    struct bytes m = BYTES_INIT;
    int go_on = 1;

    while (go_on == 1) {
        struct hand_news news;
        int rank, kind;
        if (link_poll(link, &rank, &kind, &m, e) < 0 || hand_poll(&h, &news, e) < 0) {
            go_on = -1;
            break;
        }
        if (kind >= 0)
            go_on = obey(&h, kind, &m, e);
        if (news.kind && tell(link, &news, e) < 0)
            go_on = -1;
        if (kind < 0 && !news.kind)
            poll(&(struct pollfd){ engine_fd(own), POLLIN, 0 }, engine_fd(own) >= 0, 2);
    }
    bytes_release(&m);
    return go_on < 0 ? -1 : 0;
}
