/* gather.c - see gather.h. */
#include "sched/gather.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

void gather_init(struct gather *g, int n_ranks)
{
    *g = (struct gather){ .n = n_ranks };
    g->ranks = mem_array((size_t)n_ranks, sizeof *g->ranks);
}

void gather_release(struct gather *g)
{
    for (int i = 0; i < g->n; i++) {
        free(g->ranks[i].host);
        bytes_release(&g->ranks[i].told);
        bytes_release(&g->ranks[i].answer);
    }
    free(g->ranks);
    *g = (struct gather){ 0 };
}

void gather_host(struct gather *g, int rank, const char *host)
{
    g->ranks[rank].host = mem_text(host);
}

static bool beside(const struct gather *g, int a, int b)
{
    return strcmp(g->ranks[a].host, g->ranks[b].host) == 0;
}

static void add_told(const struct gather *g, int rank, struct bytes *out)
{
    const struct gather_rank *r = &g->ranks[rank];
    int64_t front[2] = { rank, (int64_t)r->told.n };

    bytes_add(out, front, sizeof front);
    bytes_add(out, r->told.data, r->told.n);
}

/* The round of this rank's host ends where nobody is waited for. */
static void end_round(struct gather *g, int rank)
{
    struct bytes all = BYTES_INIT;

    for (int i = 0; i < g->n; i++)
        if (beside(g, i, rank) && !g->ranks[i].left && !g->ranks[i].waits)
            return;
    for (int i = 0; i < g->n; i++)
        if (beside(g, i, rank) && g->ranks[i].waits)
            add_told(g, i, &all);
    for (int i = 0; i < g->n; i++)
        if (beside(g, i, rank) && g->ranks[i].waits) {
            bytes_add(&g->ranks[i].answer, all.data, all.n);
            bytes_release(&g->ranks[i].told);
            g->ranks[i].waits = false;
        }
    bytes_release(&all);
}

void gather_told(struct gather *g, int rank, const void *bytes, size_t n_bytes)
{
    struct gather_rank *r = &g->ranks[rank];

    if (r->left)
        return;
    bytes_release(&r->told);
    bytes_add(&r->told, bytes, n_bytes);
    r->waits = true;
    end_round(g, rank);
}

void gather_left(struct gather *g, int rank)
{
    struct gather_rank *r = &g->ranks[rank];

    if (r->left)
        return;
    r->left = true;
    r->waits = false;
    bytes_release(&r->told);
    end_round(g, rank);
}

void gather_forget(struct gather *g, int rank)
{
    struct gather_rank *r = &g->ranks[rank];

    r->waits = false;
    bytes_release(&r->told);
    bytes_release(&r->answer);
}

int gather_answer(struct gather *g, struct bytes *out)
{
    for (int i = 0; i < g->n; i++)
        if (g->ranks[i].answer.n) {
            *out = g->ranks[i].answer;
            g->ranks[i].answer = (struct bytes)BYTES_INIT;
            return i;
        }
    return -1;
}
