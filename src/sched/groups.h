/* groups.h - which ranks work on one job together: `size` ranks of a host, in their order.  No
 * messages, no clock.  Ranks that are left over on their host are in no group. */
#pragma once

#include "base/err.h"

struct groups {
    int n_ranks, size;
    int *first;  /* [n_ranks]: rank of the first member of each rank's group, -1: in none */
    int *member; /* [n_ranks, size], by that rank: its members */
};

/* ERR_USAGE where no host has as many ranks. */
int groups_make(struct groups *g, int n_ranks, int size,
                const char *(*host_of)(const void *context, int rank), const void *context,
                struct err *e);
void groups_release(struct groups *g); /* zero state is fine */

static inline int groups_first(const struct groups *g, int rank)
{
    return g->first[rank];
}

/* The i-th member of the group that begins with this rank. */
static inline int groups_member(const struct groups *g, int first, int i)
{
    return g->member[first * g->size + i];
}
