/* run_sweep.h - rank 0's part of a sweep: prepares, hands out, writes down, reports. */
#pragma once

#include "cli.h"
#include "prepare.h"
#include "sched/sched.h"

struct run_options {
    const struct cli *cli;
    struct prepare_options prepare;
    const char *program; /* as it was started: argv[0] */
    const char *command_line;
    const char *const *versions; /* name, text, ..., NULL: for provenance */
    const volatile sig_atomic_t *stop;
};

/* The exit status of the contract: 0, 1, 2 or 75; errors are printed.  At the end every other rank
 * has been told to leave. */
int run_sweep(const struct run_options *o, struct link *link, struct engine *engine);

/* How long a rank may say nothing before its job is handed on. */
double run_silent_s(void);
