/* engine_serve.c - the engine's side: one frame in, one frame out. */
#include "base/log.h"
#include "sched/engine.h"
#include "sched/frame.h"

#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static void send_log(enum log_level level, const char *text, void *context)
{
    struct err ignored = ERR_INIT;
    size_t n = 0;

    while (text[n])
        n++;
    frame_send((int)(intptr_t)context, FRAME_LOG, level, text, n, &ignored);
}

int engine_tell(const struct engine_site *site, const void *bytes, size_t n_bytes,
                struct bytes *heard, struct err *e)
{
    struct bytes partial = BYTES_INIT;
    struct frame_header h;
    enum frame_got got = FRAME_GOT_END;

    if (frame_send(site->fd, FRAME_TELL, 0, bytes, n_bytes, e) < 0)
        return -1;
    if (n_bytes == 0)
        return 0;
    int rc = frame_receive(site->fd, true, &partial, &h, heard, &got, e);
    bytes_release(&partial);
    if (rc == 0 && (got != FRAME_GOT_ONE || h.kind != FRAME_HEARD))
        rc = err_set(e, ERR_STOPPED, "the rank ends while its engine is set up");
    return rc;
}

bool engine_heard(const struct bytes *heard, size_t *at, int *rank, const char **bytes,
                  size_t *n_bytes)
{
    int64_t front[2];

    if (heard->n < sizeof front || *at > heard->n - sizeof front)
        return false;
    memcpy(front, heard->data + *at, sizeof front);
    *at += sizeof front;
    if (front[1] < 0 || (uint64_t)front[1] > heard->n - *at)
        return false;
    *rank = (int)front[0];
    *bytes = heard->data + *at;
    *n_bytes = (size_t)front[1];
    *at += *n_bytes;
    return true;
}

static int set_up(int fd, const struct engine_body *body, const struct bytes *in, struct err *e)
{
    struct engine_site site;

    if (in->n < sizeof site)
        return err_set(e, ERR_IO, "a setup of %zu bytes", in->n);
    memcpy(&site, in->data, sizeof site);
    site.fd = fd;
    return body->setup(body->context, &site, in->data + sizeof site, in->n - sizeof site, e);
}

/* 1: go on, 0: the end, -1: the engine is of no use any more. */
static int answer(int fd, const struct engine_body *body, const struct frame_header *h,
                  const struct bytes *in, struct err *e)
{
    if (h->kind == FRAME_SETUP) {
        struct err why = ERR_INIT;
        if (set_up(fd, body, in, &why) < 0)
            /* The end: whoever is of no use gives its device back. */
            return frame_send(fd, FRAME_FAILED, why.code, why.text, sizeof why.text, e) < 0 ? -1
                                                                                            : 0;
        return frame_send(fd, FRAME_READY, 0, NULL, 0, e) < 0 ? -1 : 1;
    }
    if (h->kind == FRAME_JOB) {
        struct bytes record = BYTES_INIT;
        int rc = body->run(body->context, in->data, in->n, &record, e);
        if (rc == 0)
            rc = frame_send(fd, FRAME_RESULT, h->id, record.data, record.n, e);
        bytes_release(&record);
        if (rc < 0) {
            struct err ignored = ERR_INIT;
            frame_send(fd, FRAME_LAST, 0, e->text, strlen(e->text), &ignored);
        }
        return rc < 0 ? -1 : 1;
    }
    return 0;
}

int engine_serve_on(int fd, const struct engine_body *body)
{
    struct bytes partial = BYTES_INIT, in = BYTES_INIT;
    struct frame_header h;
    enum frame_got got;
    struct err e = ERR_INIT;
    int go_on = 1;

    while (go_on == 1) {
        if (frame_receive(fd, true, &partial, &h, &in, &got, &e) < 0)
            go_on = -1;
        else
            go_on = got == FRAME_GOT_ONE ? answer(fd, body, &h, &in, &e) : 0;
    }
    if (go_on < 0)
        log_error("engine: %s", e.text);
    bytes_release(&partial);
    bytes_release(&in);
    if (body->close)
        body->close(body->context);
    close(fd);
    return go_on < 0 ? 1 : 0;
}

/* When memory runs out the kernel shall take this process, not the rank that would replace it. */
static void go_first(void)
{
    static const char score[] = "500";
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return;
    if (write(fd, score, sizeof score - 1) < 0)
        log_debug("the kernel's choice of whom to kill for memory is left as it is");
    close(fd);
}

int engine_serve(int fd, const struct engine_body *body)
{
    go_first();
    /* The rank decides when this process ends: by closing the socket, or by dying. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGUSR1, SIG_IGN);
    signal(SIGUSR2, SIG_IGN);
    log_set_listener(send_log, (void *)(intptr_t)fd);
    int status = engine_serve_on(fd, body);
    log_set_listener(NULL, NULL);
    return status;
}
