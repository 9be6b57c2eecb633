/* results.h - the records of a sweep on rank 0, and the results file made of them. */
#pragma once

#include "prepare.h"
#include "sched/link_mpi.h"

struct results {
    int n_jobs;
    struct js **record; /* [n_jobs], NULL: not finished; owned */
    int n_taken_over;
    struct js *provenance;
    char *command_line;
    char created[32];
};

#define RESULTS_INIT \
    {                \
        0            \
    }

void results_open(struct results *r, const struct prepared *p, const char *const *versions,
                  const char *command_line, const struct link *link);
void results_close(struct results *r);

/* Records of successful jobs with the same key; returns how many jobs they finish. */
int results_take_over(struct results *r, const struct sweep *s, struct js *const *lines,
                      int n_lines);
bool results_has(const struct results *r, int job);
void results_set(struct results *r, int job, struct js *record); /* takes ownership */
void results_count(const struct results *r, int *ok, int *failed);
double results_device_seconds(const struct results *r);

/* The journal's first line: which sweep this is. */
struct js *results_header(const struct results *r, const struct prepared *p);

int results_store(const struct results *r, const struct prepared *p, const char *path,
                  bool complete, struct err *e);
