/* turn.h - ranks that share a device, on this machine: their benchmarks take turns, and a benchmark
 * knows whether others worked beside it.
 *
 * Two files in /dev/shm, one pair a device, hold nothing but locks: an engine that works shares the
 * one, a benchmark has the other alone.  The kernel gives them back when a process dies. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct turn {
    int busy_fd, turn_fd; /* -1: cannot be had; then nobody waits, and nothing is known */
    double waited_s;      /* for the last turn */
    bool disturbed;       /* others were at work when it began, or did not wait for it */
    int64_t began_ns;     /* by the clock of files */
};

#define TURN_INIT                    \
    {                                \
        .busy_fd = -1, .turn_fd = -1 \
    }

/* device: its id; "" for the one that a machine has (its CPU). */
void turn_open(struct turn *t, const char *device);
void turn_close(struct turn *t);

void turn_work(struct turn *t, bool begins); /* around a job */

/* Within a job, around a benchmark.  Waits while another one measures, for at most so long. */
void turn_take(struct turn *t, double wait_s);
/* Sets disturbed: others worked on the device meanwhile.  The job goes on. */
void turn_give(struct turn *t);
