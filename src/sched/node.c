/* node.c - see node.h.  The only file that knows hwloc. */
#include "sched/node.h"

#include <dirent.h>
#include <hwloc.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

/* ---- where it is bound ---- */

/* By the system itself: to learn the whole machine takes hwloc a tenth of a second on large ones.
 */
static bool get_bound(hwloc_bitmap_t out)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof set, &set) < 0)
        return false;
    hwloc_bitmap_zero(out);
    for (unsigned i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &set))
            hwloc_bitmap_set(out, i);
    return true;
}

/* Every thread of this process; those that it starts later inherit it. */
static bool set_bound(hwloc_const_bitmap_t wanted)
{
    cpu_set_t set;
    unsigned i;
    bool done = false;
    DIR *d = opendir("/proc/self/task");

    CPU_ZERO(&set);
    hwloc_bitmap_foreach_begin(i, wanted)
    {
        if (i < CPU_SETSIZE)
            CPU_SET(i, &set);
    }
    hwloc_bitmap_foreach_end();
    for (struct dirent *entry; d && (entry = readdir(d));)
        if (atoi(entry->d_name) > 0)
            done |= sched_setaffinity(atoi(entry->d_name), sizeof set, &set) == 0;
    if (d)
        closedir(d);
    return done;
}

void node_describe(char text[NODE_TEXT_MAX])
{
    hwloc_bitmap_t bound = hwloc_bitmap_alloc();
    char list[NODE_TEXT_MAX - 64];

    snprintf(text, NODE_TEXT_MAX, "not known");
    if (get_bound(bound)) {
        hwloc_bitmap_list_snprintf(list, sizeof list, bound);
        snprintf(text, NODE_TEXT_MAX, "%s (%d of %ld)", list, hwloc_bitmap_weight(bound),
                 sysconf(_SC_NPROCESSORS_ONLN));
    }
    hwloc_bitmap_free(bound);
}

/* The first line of a file that begins so, without that and blanks before the rest; the first of
 * all where `begin` is "". */
static bool read_line(const char *path, const char *begin, char out[NODE_TEXT_MAX])
{
    char line[NODE_TEXT_MAX];
    bool found = false;
    FILE *f = fopen(path, "r");

    while (f && !found && fgets(line, sizeof line, f)) {
        if (strncmp(line, begin, strlen(begin)) != 0)
            continue;
        const char *rest = line + strlen(begin);
        rest += strspn(rest, " \t");
        snprintf(out, NODE_TEXT_MAX, "%.*s", (int)strcspn(rest, "\r\n"), rest);
        found = *out != 0;
    }
    if (f)
        fclose(f);
    return found;
}

bool node_beside(const char *root, const char *gpu_id, char bus[NODE_TEXT_MAX],
                 char cores[NODE_TEXT_MAX])
{
    char path[4096], id[NODE_TEXT_MAX];
    bool found = false;

    snprintf(path, sizeof path, "%s/proc/driver/nvidia/gpus", root);
    DIR *d = *gpu_id ? opendir(path) : NULL;
    for (struct dirent *entry; d && !found && (entry = readdir(d));) {
        snprintf(path, sizeof path, "%s/proc/driver/nvidia/gpus/%s/information", root,
                 entry->d_name);
        if (!read_line(path, "GPU UUID:", id) || strcmp(id, gpu_id) != 0)
            continue;
        snprintf(bus, NODE_TEXT_MAX, "%s", entry->d_name);
        snprintf(path, sizeof path, "%s/sys/bus/pci/devices/%s/local_cpulist", root, bus);
        found = read_line(path, "", cores);
    }
    if (d)
        closedir(d);
    return found;
}

bool node_bind(const char *cores)
{
    hwloc_bitmap_t wanted = hwloc_bitmap_alloc(), bound = hwloc_bitmap_alloc();
    bool changed = false;

    if (get_bound(bound) && hwloc_bitmap_list_sscanf(wanted, cores) == 0) {
        hwloc_bitmap_and(wanted, wanted, bound);
        changed = !hwloc_bitmap_iszero(wanted) && !hwloc_bitmap_isequal(wanted, bound) &&
                  set_bound(wanted);
    }
    hwloc_bitmap_free(wanted);
    hwloc_bitmap_free(bound);
    return changed;
}
