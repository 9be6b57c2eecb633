/* link_mpi.c - see link_mpi.h.  The only file that knows MPI, which it also starts and ends. */
#include "sched/link_mpi.h"

#include "base/clock.h"
#include "base/log.h"

#include <limits.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    KIND_BYE = 30000, /* a rank has nothing more to say */
    HOST_MAX = 256
};

#define CLOSE_WAIT_S 10.0

struct sending {
    MPI_Request request;
    char *bytes;
    struct sending *next;
};

struct link {
    int rank, size, local_rank, local_size;
    char (*hosts)[HOST_MAX]; /* rank 0: of every rank; others: their own alone */
    struct sending *sending;
    MPI_Request receiving; /* a message being received, or MPI_REQUEST_NULL */
    int from, kind;
    char *buffer;
    int n_buffer;
    int n_bye;
};

static int failed(const char *what, int rc, struct err *e)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;

    MPI_Error_string(rc, text, &n);
    return err_set(e, ERR_IO, "%s: %s", what, text);
}

#define MPI_TRY(call)                     \
    do {                                  \
        int rc_ = (call);                 \
        if (rc_ != MPI_SUCCESS)           \
            return failed(#call, rc_, e); \
    } while (0)

static int learn_places(struct link *l, struct err *e)
{
    char host[HOST_MAX] = "";
    MPI_Comm node;

    MPI_TRY(MPI_Comm_rank(MPI_COMM_WORLD, &l->rank));
    MPI_TRY(MPI_Comm_size(MPI_COMM_WORLD, &l->size));
    gethostname(host, sizeof host - 1);
    l->hosts = mem_array(l->rank == 0 ? (size_t)l->size : 1, HOST_MAX);
    /* Collectives are for the start alone: here every rank is alive. */
    MPI_TRY(MPI_Gather(host, HOST_MAX, MPI_CHAR, l->hosts, HOST_MAX, MPI_CHAR, 0, MPI_COMM_WORLD));
    if (l->rank != 0)
        memcpy(l->hosts[0], host, HOST_MAX);
    MPI_TRY(
        MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, l->rank, MPI_INFO_NULL, &node));
    MPI_TRY(MPI_Comm_rank(node, &l->local_rank));
    MPI_TRY(MPI_Comm_size(node, &l->local_size));
    MPI_TRY(MPI_Comm_free(&node));
    return 0;
}

int link_open(struct link **out, int *argc, char ***argv, struct err *e)
{
    int provided = 0;

    MPI_TRY(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided));
    MPI_TRY(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
    struct link *l = mem_alloc(sizeof *l);
    l->receiving = MPI_REQUEST_NULL;
    if (learn_places(l, e) < 0) {
        free(l->hosts);
        free(l);
        return -1;
    }
    *out = l;
    return 0;
}

int link_rank(const struct link *l)
{
    return l->rank;
}

int link_size(const struct link *l)
{
    return l->size;
}

const char *link_host(const struct link *l)
{
    return l->hosts[0];
}

const char *link_host_of(const struct link *l, int rank)
{
    return l->rank == 0 && rank >= 0 && rank < l->size ? l->hosts[rank] : "";
}

int link_local_rank(const struct link *l)
{
    return l->local_rank;
}

int link_local_size(const struct link *l)
{
    return l->local_size;
}

/* Frees what has been sent. */
static int progress_sends(struct link *l, struct err *e)
{
    for (struct sending **at = &l->sending; *at;) {
        struct sending *s = *at;
        int done = 0;
        MPI_TRY(MPI_Test(&s->request, &done, MPI_STATUS_IGNORE));
        if (!done) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        free(s->bytes);
        free(s);
    }
    return 0;
}

int link_send(struct link *l, int rank, int kind, const void *bytes, size_t n_bytes, struct err *e)
{
    if (n_bytes > INT_MAX)
        return err_set(e, ERR_USAGE, "a message of %zu bytes; at most %d can be sent", n_bytes,
                       INT_MAX);
    struct sending *s = mem_alloc(sizeof *s);
    s->bytes = mem_textn(bytes, n_bytes);
    s->next = l->sending;
    l->sending = s;
    MPI_TRY(MPI_Isend(s->bytes, (int)n_bytes, MPI_BYTE, rank, kind, MPI_COMM_WORLD, &s->request));
    return progress_sends(l, e);
}

/* Starts to receive the next message.  Matched and non-blocking: a long message whose sender
 * stalls must not stall us. */
static int begin_receive(struct link *l, struct err *e)
{
    MPI_Message message;
    MPI_Status status;
    int here = 0;

    MPI_TRY(MPI_Improbe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &here, &message, &status));
    if (!here)
        return 0;
    MPI_TRY(MPI_Get_count(&status, MPI_BYTE, &l->n_buffer));
    l->from = status.MPI_SOURCE;
    l->kind = status.MPI_TAG;
    l->buffer = mem_alloc((size_t)l->n_buffer + 1);
    MPI_TRY(MPI_Imrecv(l->buffer, l->n_buffer, MPI_BYTE, &message, &l->receiving));
    return 0;
}

int link_poll(struct link *l, int *rank, int *kind, struct bytes *out, struct err *e)
{
    *kind = -1;
    if (progress_sends(l, e) < 0)
        return -1;
    if (!l->buffer && begin_receive(l, e) < 0)
        return -1;
    if (!l->buffer)
        return 0;
    int done = 0;
    MPI_TRY(MPI_Test(&l->receiving, &done, MPI_STATUS_IGNORE));
    if (!done)
        return 0;
    if (l->kind == KIND_BYE) {
        l->n_bye++;
    } else {
        *rank = l->from;
        *kind = l->kind;
        bytes_release(out);
        bytes_add(out, l->buffer, (size_t)l->n_buffer);
    }
    free(l->buffer);
    l->buffer = NULL;
    return 0;
}

static void rest(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

void link_close(struct link *l, int exit_code)
{
    struct err e = ERR_INIT;
    struct bytes ignored = BYTES_INIT;
    int rank, kind;
    double give_up = clock_seconds() + CLOSE_WAIT_S;

    if (!l)
        return;
    if (l->rank != 0)
        link_send(l, 0, KIND_BYE, NULL, 0, &e);
    while ((l->sending || (l->rank == 0 && l->n_bye < l->size - 1)) && clock_seconds() < give_up &&
           link_poll(l, &rank, &kind, &ignored, &e) == 0)
        rest();
    bytes_release(&ignored);
    if (l->rank == 0 && l->n_bye < l->size - 1) {
        log_warn("%d of %d ranks did not answer within %.0f s; ending them", l->size - 1 - l->n_bye,
                 l->size, CLOSE_WAIT_S);
        MPI_Abort(MPI_COMM_WORLD, exit_code);
    }
    MPI_Finalize();
    free(l->hosts);
    free(l);
}

const char *link_version(void)
{
    static char text[64];

#ifdef OMPI_MAJOR_VERSION
    snprintf(text, sizeof text, "Open MPI %d.%d.%d", OMPI_MAJOR_VERSION, OMPI_MINOR_VERSION,
             OMPI_RELEASE_VERSION);
#else
    snprintf(text, sizeof text, "MPI %d.%d", MPI_VERSION, MPI_SUBVERSION);
#endif
    return text;
}
