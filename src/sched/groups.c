/* groups.c - see groups.h. */
#include "sched/groups.h"

#include "base/memory.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* The host's ranks from `rank` on, which is its first: into groups of `size`.  How many there are.
 */
static int group_host(struct groups *g, char *const *hosts, int rank, bool *seen)
{
    int *own = mem_array((size_t)g->n_ranks, sizeof *own), n = 0;

    for (int i = rank; i < g->n_ranks; i++)
        if (!seen[i] && strcmp(hosts[i], hosts[rank]) == 0) {
            seen[i] = true;
            own[n++] = i;
        }
    for (int i = 0; i + g->size <= n; i += g->size)
        for (int k = 0; k < g->size; k++) {
            g->first[own[i + k]] = own[i];
            g->member[own[i] * g->size + k] = own[i + k];
        }
    free(own);
    return n;
}

int groups_make(struct groups *g, int n_ranks, int size,
                const char *(*host_of)(const void *context, int rank), const void *context,
                struct err *e)
{
    char **hosts = mem_array((size_t)n_ranks, sizeof *hosts);
    bool *seen = mem_array((size_t)n_ranks, sizeof *seen);
    int most = 0;

    *g = (struct groups){ .n_ranks = n_ranks, .size = size > 1 ? size : 1 };
    g->first = mem_array((size_t)n_ranks, sizeof *g->first);
    g->member = mem_array((size_t)n_ranks * (size_t)g->size, sizeof *g->member);
    for (int i = 0; i < n_ranks; i++) {
        hosts[i] = mem_text(host_of(context, i));
        g->first[i] = -1;
    }
    for (int i = 0; i < n_ranks; i++)
        if (!seen[i]) {
            int n = group_host(g, hosts, i, seen);
            most = n > most ? n : most;
        }
    for (int i = 0; i < n_ranks; i++)
        free(hosts[i]);
    free(hosts);
    free(seen);
    if (most >= g->size)
        return 0;
    groups_release(g);
    return err_set(e, ERR_USAGE,
                   "tensor_parallel = %d takes %d ranks on one node; there are at most %d "
                   "(mpirun -np %d)",
                   size, size, most, size);
}

void groups_release(struct groups *g)
{
    free(g->first);
    free(g->member);
    *g = (struct groups){ 0 };
}
