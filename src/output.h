/* output.h - where results go: FILE, FILE.journal, FILE.log, FILE.status. */
#pragma once

#include "base/err.h"

#include <stdbool.h>

struct output {
    char *file, *journal, *log, *status; /* absolute, owned */
};

#define OUTPUT_INIT \
    {               \
        0           \
    }

/* The names beside `file` (absolute, copied).  Refuses to resume a file whose journal is gone. */
int output_names(const char *file, bool resume, struct output *out, struct err *e);
void output_release(struct output *o);

enum { OUTPUT_RUNNING = -1 };

/* One line for scripts: "state=stopped exit=75 ok=12 failed=0 total=30".  state: running (exit_code
 * OUTPUT_RUNNING, printed as "-"; so it stays after kill -9), finished, or stopped: jobs are left
 * for --resume. */
int output_write_status(const struct output *o, int exit_code, int ok, int failed, int total,
                        struct err *e);
