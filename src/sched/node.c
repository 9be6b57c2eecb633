/* node.c - see node.h.  The only file that knows hwloc. */
#include "sched/node.h"

#include <hwloc.h>
#include <stdlib.h>

static int first_of(const char *const *names, int standard)
{
    for (; *names; names++) {
        const char *value = getenv(*names);
        if (value && *value) {
            char *end;
            long n = strtol(value, &end, 10);
            /* SLURM_TASKS_PER_NODE may read "4(x2)": the number is what counts. */
            if (end != value && n >= 0 && n < 1 << 20)
                return (int)n;
        }
    }
    return standard;
}

int node_world_rank(void)
{
    return first_of((const char *const[]){ "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK",
                                           "SLURM_PROCID", NULL },
                    0);
}

int node_world_size(void)
{
    return first_of(
        (const char *const[]){ "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS", NULL }, 1);
}

int node_local_rank(void)
{
    return first_of((const char *const[]){ "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID",
                                           "SLURM_LOCALID", NULL },
                    0);
}

int node_local_size(void)
{
    return first_of((const char *const[]){ "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS",
                                           "SLURM_TASKS_PER_NODE", NULL },
                    1);
}

/* Cores with at least one processing unit in the set. */
static int cores_in(hwloc_topology_t topology, hwloc_const_cpuset_t set)
{
    int n = hwloc_get_nbobjs_inside_cpuset_by_type(topology, set, HWLOC_OBJ_CORE);

    if (n > 0)
        return n;
    /* Bound to one hyperthread of a core, or no cores known: count processing units. */
    n = hwloc_bitmap_weight(set);
    return n > 0 ? n : 1;
}

void node_cores(int local_size, struct node_cores *out)
{
    hwloc_topology_t topology;
    hwloc_bitmap_t bound = hwloc_bitmap_alloc();

    *out = (struct node_cores){ .n_machine = 1, .n_bound = 1, .n_threads = 1 };
    if (hwloc_topology_init(&topology) < 0) {
        hwloc_bitmap_free(bound);
        return;
    }
    if (hwloc_topology_load(topology) == 0) {
        out->n_machine = cores_in(topology, hwloc_topology_get_topology_cpuset(topology));
        out->n_bound = out->n_machine;
        if (hwloc_get_cpubind(topology, bound, HWLOC_CPUBIND_PROCESS) == 0)
            out->n_bound = cores_in(topology, bound);
    }
    hwloc_topology_destroy(topology);
    hwloc_bitmap_free(bound);

    /* Ranks that are not bound apart share the machine. */
    int share = local_size > 0 ? out->n_machine / local_size : out->n_machine;
    out->n_threads = out->n_bound < share ? out->n_bound : share;
    if (out->n_threads < 1)
        out->n_threads = 1;
    out->idle = (long)out->n_threads * local_size < out->n_machine && out->n_bound < share;
}
