/* link_mpi.h - messages between ranks; link_mpi.c is the only file that knows MPI.
 *
 * Non-blocking throughout: no collective after start-up, no blocking call to a named rank.
 * MPI_Finalize is collective and a silent rank would hang it, so link_close() on rank 0 waits at
 * most 10 s for the others and then aborts with the exit code (the results are final by then).  */
#pragma once

#include "base/err.h"
#include "base/memory.h"

#include <stdbool.h>

struct link;

/* MPI_Init_thread; also works without mpirun (one rank). */
int link_open(struct link **out, int *argc, char ***argv, struct err *e);
int link_rank(const struct link *l);
int link_size(const struct link *l);
const char *link_host(const struct link *l);              /* of this rank */
const char *link_host_of(const struct link *l, int rank); /* rank 0 knows all */
int link_local_rank(const struct link *l);                /* among the ranks of this node */
int link_local_size(const struct link *l);

/* Bytes to a rank, kept until they are gone.  kind: small number of the caller's. */
int link_send(struct link *l, int rank, int kind, const void *bytes, size_t n_bytes, struct err *e);
/* The next message, if one is here: *kind >= 0, else -1.  Never blocks. */
int link_poll(struct link *l, int *rank, int *kind, struct bytes *out, struct err *e);
/* Sends what is still queued, then ends MPI.  exit_code: of this rank. */
void link_close(struct link *l, int exit_code);
const char *link_version(void); /* "Open MPI 4.1.4" */
