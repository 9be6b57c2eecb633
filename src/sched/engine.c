/* engine.c - the rank's side of its engine; engine_serve.c is the other. */
#include "sched/engine.h"

#include "base/clock.h"
#include "base/log.h"
#include "sched/frame.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

enum { CHILD_FD = 3 };

struct engine {
    int fd;    /* -1: not running */
    pid_t pid; /* 0: a thread */
    bool isolate;
    pthread_t thread;
    struct engine_body body; /* of the thread */
    int thread_fd;
    struct engine_site site;
    struct bytes setup;      /* for a replaced child */
    struct bytes partial;    /* of a frame */
    struct bytes last_words; /* why it ends, as it says itself */
    int job_id;              /* what it works on, -1: nothing */
};

static void *thread_main(void *context)
{
    struct engine *g = context;

    engine_serve_on(g->thread_fd, &g->body);
    return NULL;
}

static int start_thread(struct engine *g, int fd, struct err *e)
{
    g->thread_fd = fd;
    int rc = pthread_create(&g->thread, NULL, thread_main, g);
    if (rc != 0)
        return err_set(e, ERR_IO, "starting the engine thread: %s", strerror(rc));
    return 0;
}

static int start_child(struct engine *g, int fd, struct err *e)
{
    char number[16];
    char *const arguments[] = { (char[]){ "llq_sweep" }, (char[]){ "--engine-fd" }, number, NULL };
    posix_spawn_file_actions_t actions;

    snprintf(number, sizeof number, "%d", CHILD_FD);
    posix_spawn_file_actions_init(&actions);
    /* dup2 also clears close-on-exec; every other descriptor of ours has it set. */
    posix_spawn_file_actions_adddup2(&actions, fd, CHILD_FD);
    int rc = posix_spawn(&g->pid, "/proc/self/exe", &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(fd);
    if (rc != 0) {
        g->pid = 0;
        return err_set(e, ERR_IO, "starting the engine process: %s", strerror(rc));
    }
    return 0;
}

static int start(struct engine *g, struct err *e)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return err_set(e, ERR_IO, "socketpair: %s", strerror(errno));
    g->fd = pair[0];
    g->job_id = -1;
    int rc = g->isolate ? start_child(g, pair[1], e) : start_thread(g, pair[1], e);
    if (rc < 0) {
        close(g->fd);
        g->fd = -1;
    }
    return rc;
}

int engine_start(struct engine **out, bool isolate, const struct engine_body *body, struct err *e)
{
    struct engine *g = mem_alloc(sizeof *g);

    g->isolate = isolate;
    if (body)
        g->body = *body;
    if (start(g, e) < 0) {
        free(g);
        return -1;
    }
    *out = g;
    return 0;
}

/* How the child ended.  Its socket is closed, so it is ending by itself; a second is given. */
static void describe_end(pid_t pid, const struct bytes *last_words, struct bytes *out)
{
    int status = 0;
    pid_t got = 0;

    for (int i = 0; i < 200 && (got = waitpid(pid, &status, WNOHANG)) == 0; i++)
        nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
    if (got == 0) {
        kill(pid, SIGKILL);
        got = waitpid(pid, &status, 0);
    }
    if (last_words && last_words->n)
        bytes_printf(out, "%s; ", last_words->data);
    if (got != pid)
        bytes_text(out, "the engine process ended");
    else if (WIFSIGNALED(status))
        bytes_printf(out, "the engine process was killed by signal %d (%s)%s", WTERMSIG(status),
                     strsignal(WTERMSIG(status)),
                     WTERMSIG(status) == SIGKILL ? ", perhaps for using too much memory" : "");
    else
        bytes_printf(out, "the engine process ended with status %d", WEXITSTATUS(status));
}

static void forget(struct engine *g)
{
    if (g->fd >= 0)
        close(g->fd);
    g->fd = -1;
    g->pid = 0;
    g->job_id = -1;
    bytes_release(&g->partial);
    bytes_release(&g->last_words);
}

void engine_kill(struct engine *g)
{
    if (g->pid > 0)
        kill(g->pid, SIGKILL);
}

void engine_stop(struct engine *g)
{
    struct err ignored = ERR_INIT;

    if (!g)
        return;
    if (g->fd >= 0 && !g->isolate) {
        frame_send(g->fd, FRAME_STOP, 0, NULL, 0, &ignored);
        shutdown(g->fd, SHUT_RDWR);
        pthread_join(g->thread, NULL);
    } else if (g->fd >= 0 && g->pid > 0) {
        struct bytes text = BYTES_INIT;
        /* Idle, it ends by itself and can release its device; at work, it cannot hear us. */
        if (g->job_id >= 0)
            kill(g->pid, SIGKILL);
        close(g->fd);
        g->fd = -1;
        describe_end(g->pid, NULL, &text);
        bytes_release(&text);
    }
    forget(g);
    bytes_release(&g->setup);
    free(g);
}

int engine_fd(const struct engine *g)
{
    return g->fd;
}

pid_t engine_pid(const struct engine *g)
{
    return g->pid;
}

void engine_place(struct engine *g, int local_rank, int local_size)
{
    g->site.local_rank = local_rank;
    g->site.local_size = local_size;
}

/* To one that died since it was last heard: engine_poll() will tell. */
static void send_setup(struct engine *g)
{
    struct err gone = ERR_INIT;

    if (frame_send(g->fd, FRAME_SETUP, 0, g->setup.data, g->setup.n, &gone) < 0)
        engine_kill(g);
}

/* The engine is a process of this same program: its site goes as it stands, before the bytes. */
void engine_setup(struct engine *g, const void *setup, size_t n_bytes)
{
    bytes_release(&g->setup);
    bytes_add(&g->setup, &g->site, sizeof g->site);
    bytes_add(&g->setup, setup, n_bytes);
    send_setup(g);
}

void engine_answer(struct engine *g, const void *heard, size_t n_bytes)
{
    struct err gone = ERR_INIT;

    /* One that died since: engine_poll() will tell. */
    if (g->fd >= 0 && frame_send(g->fd, FRAME_HEARD, 0, heard, n_bytes, &gone) < 0)
        engine_kill(g);
}

int engine_give(struct engine *g, int job_id, const void *job, size_t n_bytes, struct err *e)
{
    struct err gone = ERR_INIT;

    if (g->fd < 0)
        return err_set(e, ERR_DEVICE, "the engine does not run");
    g->job_id = job_id;
    /* One that died since it was last heard: engine_poll() will tell, with this job as lost. */
    if (frame_send(g->fd, FRAME_JOB, job_id, job, n_bytes, &gone) < 0)
        engine_kill(g);
    return 0;
}

int engine_poll(struct engine *g, struct engine_event *out, struct err *e)
{
    struct frame_header h;
    enum frame_got got = FRAME_GOT_NOTHING;
    struct bytes body = BYTES_INIT;

    *out = (struct engine_event){ .kind = ENGINE_NOTHING, .job_id = -1 };
    if (g->fd < 0)
        return 0;
    for (;;) {
        if (frame_receive(g->fd, false, &g->partial, &h, &body, &got, e) < 0) {
            bytes_release(&body);
            return -1;
        }
        if (got == FRAME_GOT_ONE && h.kind == FRAME_LOG) {
            log_line((enum log_level)h.id, "%s", body.data);
        } else if (got == FRAME_GOT_ONE && h.kind == FRAME_LAST) {
            bytes_release(&g->last_words);
            bytes_add(&g->last_words, body.data, body.n);
        } else {
            break;
        }
    }
    if (got == FRAME_GOT_NOTHING) {
        bytes_release(&body); /* of a log line */
        return 0;
    }
    if (got == FRAME_GOT_END) {
        out->kind = ENGINE_LOST;
        out->job_id = g->job_id;
        if (g->pid > 0)
            describe_end(g->pid, &g->last_words, &out->bytes);
        else
            bytes_printf(&out->bytes, "%s%sthe engine thread ended",
                         g->last_words.n ? g->last_words.data : "", g->last_words.n ? "; " : "");
        if (!g->isolate)
            pthread_join(g->thread, NULL);
        forget(g);
        bytes_release(&body);
        return 0;
    }
    out->bytes = body;
    out->job_id = (int)h.id;
    out->kind = h.kind == FRAME_READY    ? ENGINE_READY
                : h.kind == FRAME_RESULT ? ENGINE_RESULT
                : h.kind == FRAME_TELL   ? ENGINE_TELLS
                                         : ENGINE_FAILED;
    if (h.kind == FRAME_RESULT)
        g->job_id = -1;
    return 0;
}

int engine_restart(struct engine *g, struct err *e)
{
    forget(g);
    if (start(g, e) < 0)
        return -1;
    if (!g->setup.n) /* it died before it was told anything */
        return 0;
    ((struct engine_site *)(void *)g->setup.data)->again = true;
    send_setup(g);
    return 0;
}
