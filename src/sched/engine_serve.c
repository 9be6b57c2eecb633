/* engine_serve.c - the engine's side: one frame in, one frame out. */
#include "base/log.h"
#include "sched/engine.h"
#include "sched/frame.h"

#include <signal.h>
#include <stdint.h>
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

/* 1: go on, 0: the end, -1: the engine is of no use any more. */
static int answer(int fd, const struct engine_body *body, const struct frame_header *h,
                  const struct bytes *in, struct err *e)
{
    if (h->kind == FRAME_SETUP) {
        struct err why = ERR_INIT;
        if (body->setup(body->context, in->data, in->n, &why) < 0)
            return frame_send(fd, FRAME_FAILED, why.code, why.text, sizeof why.text, e) < 0 ? -1
                                                                                            : 1;
        return frame_send(fd, FRAME_READY, 0, NULL, 0, e) < 0 ? -1 : 1;
    }
    if (h->kind == FRAME_JOB) {
        struct bytes record = BYTES_INIT;
        int rc = body->run(body->context, in->data, in->n, &record, e);
        if (rc == 0)
            rc = frame_send(fd, FRAME_RESULT, h->id, record.data, record.n, e);
        bytes_release(&record);
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

int engine_serve(int fd, const struct engine_body *body)
{
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
