/* gather.h - what engines of a node tell each other while they set up: who is waited for, and who
 * hears what.  No messages, no clock: rules that can be tested.
 *
 * In each round every rank of a host tells something once and then waits; when all of them did that
 * still take part, each hears all of it, in the order of ranks.  A rank that is set up, lost or of
 * no use takes no further part; nobody waits for it.  (Ranks that work on one job together talk the
 * same way while they work: their group is their host.) */
#pragma once

#include "base/memory.h"

#include <stdbool.h>

struct gather_rank {
    char *host;
    bool left;
    bool waits;          /* has told something */
    struct bytes told;   /* while it waits */
    struct bytes answer; /* due */
};

struct gather {
    struct gather_rank *ranks;
    int n;
};

void gather_init(struct gather *g, int n_ranks);
void gather_release(struct gather *g);
void gather_host(struct gather *g, int rank,
                 const char *host); /* for each, before the first word */

void gather_told(struct gather *g, int rank, const void *bytes, size_t n_bytes);
void gather_left(struct gather *g, int rank); /* also twice */
/* It will begin again: what it told counts no more, nor what it would hear. */
void gather_forget(struct gather *g, int rank);
/* A rank to answer, its bytes (for engine_heard()) moved to *out; -1: none. */
int gather_answer(struct gather *g, struct bytes *out);
