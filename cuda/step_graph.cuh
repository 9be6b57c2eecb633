/* step_graph.cuh - launches that come again and again, as CUDA graphs.
 *
 * A graph is made of addresses and numbers, and is found again by all of them: the key holds every
 * argument that a launch of the step is made from.  Memory that was freed and given out again can
 * not be mistaken: with equal keys the launches are equal, whatever they were captured for. */
#pragma once

#include "common.cuh"

extern "C" {
#include "base/memory.h"
}

#define GRAPHS_MAX 64

struct step_graph {
    struct bytes key;     /* n = 0: free */
    cudaGraphExec_t exec; /* NULL: not captured yet */
    int n_direct;         /* steps that were launched one by one */
    uint64_t last_used;
};

struct step_graphs { /* zero: none */
    struct step_graph at[GRAPHS_MAX];
    uint64_t n_used;
    char refused[256]; /* why capturing failed: launches go one by one from then on */
};

/* The launches of a step, on the state's stream; the same every time. */
typedef int step_launch(const void *step, struct err *e);

/* The graph of this key, which is taken over, in the place of the one that was not used for the
 * longest time when new. */
struct step_graph *cuda_step_graph(struct step_graphs *all, struct bytes key);
/* One step: by a graph when it is likely to be asked for again, n_left times at least.  Before that
 * it is launched by itself once, which loads kernels and takes scratch: neither may happen during
 * a capture.  Where capturing is refused the record says so, and launches go on without. */
int cuda_step_run(struct cuda_state *s, struct step_graphs *all, struct step_graph *g, int n_left,
                  step_launch *launch, const void *step, struct err *e);
void cuda_step_graphs_release(struct step_graphs *all);
