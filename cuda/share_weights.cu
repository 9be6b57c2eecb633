/* share_weights.cu - one copy of the weights from a GPU to the others of its node: NCCL, where it
 * is there.
 *
 * NCCL is opened at run time (libnccl.so.2), so the program starts and works without it.  The
 * communicator does not block: a GPU that does not come, or stops, costs the time given and not the
 * run.  It is made once, used for one broadcast and given back; NCCL takes a GPU once and a process
 * that was replaced cannot join again, which is the caller's to know.  */
#include "common.cuh"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* ---- NCCL, as far as it is used: its interface of 2.18, which later ones keep ---- */

enum { NCCL_SUCCESS = 0, NCCL_IN_PROGRESS = 7 };
enum { NCCL_INT8 = 0 };

typedef struct ncclComm *nccl_comm;

struct nccl_id {
    char bytes[SHARE_ID_BYTES];
};

struct nccl_config {
    size_t size;
    unsigned magic, version;
    int blocking, cga_cluster_size, min_ctas, max_ctas;
    const char *net_name;
    int split_share;
};

struct nccl {
    int (*ncclGetVersion)(int *);
    int (*ncclGetUniqueId)(struct nccl_id *);
    int (*ncclCommInitRankConfig)(nccl_comm *, int n, struct nccl_id, int rank,
                                  struct nccl_config *);
    int (*ncclCommGetAsyncError)(nccl_comm, int *);
    int (*ncclCommAbort)(nccl_comm);
    int (*ncclGroupStart)(void);
    int (*ncclGroupEnd)(void);
    int (*ncclBroadcast)(const void *from, void *to, size_t n, int type, int root, nccl_comm,
                         cudaStream_t);
    const char *(*ncclGetErrorString)(int);
    const char *(*ncclGetLastError)(nccl_comm); /* may be NULL */
};

struct cuda_group {
    void *library;
    struct nccl nccl;
    nccl_comm comm;
};

static bool find_functions(struct cuda_group *g)
{
    bool all = true;

#define FIND(name) *(void **)&g->nccl.name = dlsym(g->library, #name)
#define NEED(name) all = (FIND(name)) != NULL && all
    NEED(ncclGetVersion);
    NEED(ncclGetUniqueId);
    NEED(ncclCommInitRankConfig);
    NEED(ncclCommGetAsyncError);
    NEED(ncclCommAbort);
    NEED(ncclGroupStart);
    NEED(ncclGroupEnd);
    NEED(ncclBroadcast);
    NEED(ncclGetErrorString);
    FIND(ncclGetLastError);
#undef NEED
#undef FIND
    return all;
}

static int open_library(struct cuda_group *g, struct err *e)
{
    g->library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!g->library)
        return err_set(e, ERR_USAGE, "NCCL is not there: %s", dlerror());
    if (!find_functions(g))
        return err_set(e, ERR_USAGE, "libnccl.so.2 is older than NCCL 2.14");
    return 0;
}

/* NULL: e says why. */
static struct cuda_group *group_of(struct cuda_state *s, struct err *e)
{
    if (s->group)
        return s->group;
    s->group = (struct cuda_group *)calloc(1, sizeof *s->group);
    if (!s->group)
        err_set(e, ERR_MEMORY, "the host refused %zu bytes", sizeof *s->group);
    else if (open_library(s->group, e) < 0)
        cuda_group_leave(s);
    return s->group;
}

/* The library stays loaded: NCCL has threads of its own. */
void cuda_group_leave(struct cuda_state *s)
{
    if (s->group && s->group->comm)
        s->group->nccl.ncclCommAbort(s->group->comm);
    free(s->group);
    s->group = NULL;
}

static int failed(const struct cuda_group *g, const char *what, int rc, struct err *e)
{
    const char *more = g->nccl.ncclGetLastError ? g->nccl.ncclGetLastError(g->comm) : NULL;

    return err_set(e, ERR_DEVICE, "%s: %s%s%.300s", what, g->nccl.ncclGetErrorString(rc),
                   more && *more ? ": " : "", more ? more : "");
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void rest(void)
{
    struct timespec t = { 0, 50000 };

    nanosleep(&t, NULL);
}

/* Until what was asked of the communicator has been taken up everywhere. */
static int settle(struct cuda_group *g, const char *what, double until, struct err *e)
{
    int state = NCCL_IN_PROGRESS;

    for (;;) {
        int rc = g->nccl.ncclCommGetAsyncError(g->comm, &state);
        if (rc != NCCL_SUCCESS)
            return failed(g, what, rc, e);
        if (state == NCCL_SUCCESS)
            return 0;
        if (state != NCCL_IN_PROGRESS)
            return failed(g, what, state, e);
        if (now() > until)
            return err_set(e, ERR_DEVICE, "%s: another GPU did not answer in time", what);
        rest();
    }
}

/* ---- share_ops ---- */

static int share_find(struct backend *b, char version[32], struct err *e)
{
    const struct cuda_group *g = group_of(cuda_state_of(b), e);
    int number = 0;

    if (!g)
        return -1;
    g->nccl.ncclGetVersion(&number);
    snprintf(version, 32, "NCCL %d.%d.%d", number / 10000, number / 100 % 100, number % 100);
    return 0;
}

static int share_id(struct backend *b, char id[SHARE_ID_BYTES], struct err *e)
{
    struct cuda_group *g = group_of(cuda_state_of(b), e);
    struct nccl_id own;

    if (!g)
        return -1;
    int rc = g->nccl.ncclGetUniqueId(&own);
    if (rc != NCCL_SUCCESS)
        return failed(g, "ncclGetUniqueId", rc, e);
    memcpy(id, own.bytes, SHARE_ID_BYTES);
    return 0;
}

static int share_join(struct backend *b, const char id[SHARE_ID_BYTES], int index, int n,
                      struct err *e)
{
    struct nccl_config config = { sizeof config, 0xcafebeef, 21800,   0,      INT_MIN,
                                  INT_MIN,       INT_MIN,    nullptr, INT_MIN };
    struct cuda_group *g = group_of(cuda_state_of(b), e);
    struct nccl_id own;

    if (!g)
        return -1;
    memcpy(own.bytes, id, SHARE_ID_BYTES);
    int rc = g->nccl.ncclCommInitRankConfig(&g->comm, n, own, index, &config);
    if (rc != NCCL_SUCCESS && rc != NCCL_IN_PROGRESS)
        return failed(g, "ncclCommInitRankConfig", rc, e);
    return 0;
}

static int share_joined(struct backend *b, double timeout_s, struct err *e)
{
    struct cuda_group *g = cuda_state_of(b)->group;

    if (!g || !g->comm)
        return err_set(e, ERR_DEVICE, "no group was joined");
    return settle(g, "joining the other GPUs", now() + timeout_s, e);
}

static int put_broadcasts(struct cuda_state *s, void *const *at, const size_t *n_bytes, size_t n,
                          double until, struct err *e)
{
    struct cuda_group *g = s->group;
    int rc = g->nccl.ncclGroupStart();

    if (rc != NCCL_SUCCESS)
        return failed(g, "ncclGroupStart", rc, e);
    for (size_t i = 0; i < n && (rc == NCCL_SUCCESS || rc == NCCL_IN_PROGRESS); i++)
        rc = g->nccl.ncclBroadcast(at[i], at[i], n_bytes[i], NCCL_INT8, 0, g->comm, s->stream);
    int end = g->nccl.ncclGroupEnd();
    if (rc != NCCL_SUCCESS && rc != NCCL_IN_PROGRESS)
        return failed(g, "ncclBroadcast", rc, e);
    if (end != NCCL_SUCCESS && end != NCCL_IN_PROGRESS)
        return failed(g, "ncclGroupEnd", end, e);
    return settle(g, "the broadcast", until, e);
}

static int share_broadcast(struct backend *b, void *const *at, const size_t *n_bytes, size_t n,
                           double timeout_s, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    double until = now() + timeout_s;

    if (!s->group || !s->group->comm)
        return err_set(e, ERR_DEVICE, "no group was joined");
    if (put_broadcasts(s, at, n_bytes, n, until, e) < 0)
        return -1;
    for (;;) {
        cudaError_t rc = cudaStreamQuery(s->stream);
        if (rc == cudaSuccess)
            return settle(s->group, "the broadcast", until, e);
        if (rc != cudaErrorNotReady)
            return cuda_check(rc, "the broadcast", e);
        cudaGetLastError(); /* not ready is no error */
        if (now() > until) {
            cuda_group_leave(s); /* ends what hangs on the stream */
            return err_set(e, ERR_DEVICE, "the broadcast: nothing moved for %g s", timeout_s);
        }
        rest();
    }
}

static void share_leave(struct backend *b)
{
    cuda_group_leave(cuda_state_of(b));
}

extern "C" {
const struct share_ops cuda_share = {
    .find = share_find,
    .id = share_id,
    .join = share_join,
    .joined = share_joined,
    .broadcast = share_broadcast,
    .leave = share_leave,
};
}
