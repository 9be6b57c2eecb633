/* step_graph.cu - see step_graph.cuh. */
#include "step_graph.cuh"

#include <stdio.h>
#include <stdlib.h>

static void drop_graph(struct step_graph *g)
{
    if (g->exec)
        cudaGraphExecDestroy(g->exec);
    bytes_release(&g->key);
    *g = {};
}

struct step_graph *cuda_step_graph(struct step_graphs *all, struct bytes key)
{
    struct step_graph *oldest = &all->at[0], *found = NULL;

    for (int i = 0; i < GRAPHS_MAX && !found; i++) {
        struct step_graph *g = &all->at[i];

        if (g->key.n == key.n && !memcmp(g->key.data, key.data, key.n))
            found = g;
        if (g->last_used < oldest->last_used)
            oldest = g;
    }
    if (found) {
        bytes_release(&key);
    } else {
        found = oldest;
        drop_graph(found);
        found->key = key;
    }
    found->last_used = ++all->n_used;
    return found;
}

/* LLQ_TEST_NO_GRAPH: as if the driver refused, for the tests. */
static int record_step(struct cuda_state *s, step_launch *launch, const void *step,
                       cudaGraph_t *graph, struct err *e)
{
    CUDA_TRY(cudaStreamBeginCapture(s->stream, cudaStreamCaptureModeThreadLocal));
    int rc = launch(step, e);
    cudaError_t ended = cudaStreamEndCapture(s->stream, graph);

    if (rc == 0 && (ended != cudaSuccess || getenv("LLQ_TEST_NO_GRAPH")))
        rc = err_set(e, ERR_DEVICE, "cudaStreamEndCapture: %s",
                     ended ? cudaGetErrorString(ended) : "refused for a test");
    return rc;
}

static int capture(struct cuda_state *s, step_launch *launch, const void *step,
                   cudaGraphExec_t *exec, struct err *e)
{
    cudaGraph_t graph = NULL;
    int rc = record_step(s, launch, step, &graph, e);

    if (rc == 0) {
        cudaError_t made = cudaGraphInstantiate(exec, graph, 0);
        if (made != cudaSuccess)
            rc = err_set(e, ERR_DEVICE, "cudaGraphInstantiate: %s", cudaGetErrorString(made));
    }
    if (graph)
        cudaGraphDestroy(graph);
    if (rc < 0) {
        *exec = NULL;
        cudaGetLastError(); /* it is told below, and the launches go on without */
    }
    return rc;
}

/* Captures the step; where that is refused, says so in the record, once. */
static void try_capture(struct cuda_state *s, struct step_graphs *all, struct step_graph *g,
                        step_launch *launch, const void *step)
{
    struct err why = {};

    if (!all->refused[0] && capture(s, launch, step, &g->exec, &why) < 0)
        snprintf(all->refused, sizeof all->refused, "decode steps ran without a CUDA graph: %.200s",
                 why.text);
    if (all->refused[0])
        backend_note(s->backend, all->refused);
}

int cuda_step_run(struct cuda_state *s, struct step_graphs *all, struct step_graph *g, int n_left,
                  step_launch *launch, const void *step, struct err *e)
{
    if (!g->exec && g->n_direct > 0 && (n_left > 3 || g->n_direct > 7))
        try_capture(s, all, g, launch, step);
    if (!g->exec) {
        g->n_direct++;
        return launch(step, e);
    }
    CUDA_TRY(cudaGraphLaunch(g->exec, s->stream));
    s->last_kernel = "a decode step";
    return 0;
}

void cuda_step_graphs_release(struct step_graphs *all)
{
    for (int i = 0; i < GRAPHS_MAX; i++)
        drop_graph(&all->at[i]);
}
