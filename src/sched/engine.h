/* engine.h - the process that does the work of a rank: bytes in, bytes out over a socket.
 *
 * A rank supervises; a child of the same executable, started before MPI, sets up once (model,
 * data) and runs jobs.  A crash, an out-of-memory kill or a lost device costs the job and the
 * child, which is started again; not the rank, not the sweep.  With isolate = false the same loop
 * runs on a thread of the rank itself, for debuggers.  */
#pragma once

#include "base/err.h"
#include "base/memory.h"

#include <stdbool.h>
#include <sys/types.h>

/* Where an engine stands while it sets up. */
struct engine_site {
    int local_rank, local_size; /* of its rank, on this node */
    bool again;                 /* it takes the place of one that was lost: nobody hears it */
    int fd;                     /* engine_tell()'s own */
};

/* Tells bytes to the engines of this node and waits until each of them has told something, takes no
 * further part, or is set up or lost.  *heard: what they told, for engine_heard().  n_bytes 0:
 * takes no further part itself, returns at once; heard may be NULL. */
int engine_tell(const struct engine_site *site, const void *bytes, size_t n_bytes,
                struct bytes *heard, struct err *e);
/* What was told, in the order of ranks: *at starts at 0; false after the last. */
bool engine_heard(const struct bytes *heard, size_t *at, int *rank, const char **bytes,
                  size_t *n_bytes);

/* What the engine does; main.c provides it.  Messages may be sent with log_*(): they reach the
 * rank's log.  run fills record and returns 0 also for a job that failed by itself (its record says
 * so); -1 means that the engine is unusable and must be replaced. */
struct engine_body {
    int (*setup)(void *context, const struct engine_site *site, const void *setup, size_t n_bytes,
                 struct err *e);
    int (*run)(void *context, const void *job, size_t n_bytes, struct bytes *record, struct err *e);
    void (*close)(void *context);
    void *context;
};

struct engine; /* opaque; owned by the rank */

/* Starts the child: /proc/self/exe with the hidden arguments "--engine-fd N".  body is used where
 * isolate is false. */
int engine_start(struct engine **out, bool isolate, const struct engine_body *body, struct err *e);
void engine_stop(struct engine *g); /* ends the child, waits; NULL is fine */

/* The child's main loop; returns the exit status.  Ends with the socket, which it closes. */
int engine_serve(int fd, const struct engine_body *body);
/* The loop itself, without what only a process of its own may do (signals, log). */
int engine_serve_on(int fd, const struct engine_body *body);

int engine_fd(const struct engine *g); /* for poll() */
pid_t engine_pid(const struct engine *g);

/* Which of the node's ranks this is; before engine_setup().  0 of 1 where it is not said. */
void engine_place(struct engine *g, int local_rank, int local_size);
/* Hands over the setup bytes (kept, and sent again to a replaced child). */
void engine_setup(struct engine *g, const void *setup, size_t n_bytes);
int engine_give(struct engine *g, int job_id, const void *job, size_t n_bytes, struct err *e);

enum engine_event_kind {
    ENGINE_NOTHING,
    ENGINE_READY,  /* set up; may be given a job */
    ENGINE_RESULT, /* record of job_id in `bytes` */
    ENGINE_FAILED, /* setup failed: text in `bytes`, its err_code in job_id; of no use */
    ENGINE_TELLS,  /* `bytes` for the engines of the node, which waits for engine_answer() unless
                      there are none */
    ENGINE_LOST    /* the child ended: `bytes` says how ("killed by signal 11"), after what it said
                      itself; job_id -1: idle */
};

struct engine_event {
    enum engine_event_kind kind;
    int job_id;
    struct bytes bytes; /* owned by the event */
};

/* Never blocks. */
int engine_poll(struct engine *g, struct engine_event *out, struct err *e);
/* What the engines of the node told, to one that waits for it. */
void engine_answer(struct engine *g, const void *heard, size_t n_bytes);
/* After ENGINE_LOST: a new child, set up again where the lost one was (READY follows). */
int engine_restart(struct engine *g, struct err *e);
/* Kills a child that works longer than its job may. */
void engine_kill(struct engine *g);
