/* node.h - the machine a rank runs on: its place among the ranks of the node and the cores it may
 * use.  Before MPI is started, so from what launchers put into the environment.  node.c is the only
 * file that knows hwloc. */
#pragma once

#include <stdbool.h>

/* Rank and number of ranks as the launcher says (Open MPI, PMIx, Slurm, MPICH); 0 of 1 without one.
 */
int node_world_rank(void);
int node_world_size(void);
int node_local_rank(void);
int node_local_size(void);

struct node_cores {
    int n_machine; /* cores of the machine */
    int n_bound;   /* cores this process may use */
    int n_threads; /* cores this rank should use: its share where ranks are not bound apart */
    bool idle;     /* cores of the machine would idle: ranks are bound to fewer than there are */
};

void node_cores(int local_size, struct node_cores *out);

#define NODE_TEXT_MAX 256

/* Which cores this process may use: "0-7,16-23 (16 of 64)". */
void node_describe(char text[NODE_TEXT_MAX]);

/* Where a GPU sits, by the id that its driver gives it ("GPU-..."): its place on the bus and the
 * cores beside it, as the kernel lists them ("0-31,64-95").  False where that is not known, as for
 * the CPU.  root: "" but in tests. */
bool node_beside(const char *root, const char *gpu_id, char bus[NODE_TEXT_MAX],
                 char cores[NODE_TEXT_MAX]);
/* Ties this process to those of the cores that it may use at all; false: there are none, or nothing
 * changes. */
bool node_bind(const char *cores);
