/* staging.cu - uploads without a copy on the host: pinned memory lent piece by piece.
 *
 * A reader takes a piece, fills it, sends it; the copy engine takes it from there while the reader
 * fills its other one.  A thread keeps its two pieces, so that what it writes is still in its own
 * core's cache: handed round among cores they were filled half as fast.  A piece is as large as a
 * copy must be for the gap behind it (3 us on an H200: 48 GB/s with 1 MiB, 55 with 256) to be
 * small.
 *
 * Made at the first use and kept: pinning costs more than a copy.  */
#include "common.cuh"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#define PIECES_MAX 64
#define PER_THREAD 2

struct piece {
    char *p;
    cudaEvent_t done; /* of its last copy */
    bool used;        /* there was one */
    bool lent;
    bool owned;
    pthread_t owner; /* who had it last */
    int64_t sent;    /* when it came back, in the order of pieces */
};

struct cuda_staging {
    pthread_mutex_t lock;
    pthread_cond_t some; /* a piece came back */
    char *memory;        /* of the pieces */
    struct piece pieces[PIECES_MAX];
    int n; /* 0: not used yet */
    int64_t n_sent;
};

static int n_pieces(void)
{
    cpu_set_t cores;
    int n = sched_getaffinity(0, sizeof cores, &cores) == 0 ? PER_THREAD * CPU_COUNT(&cores)
                                                            : PIECES_MAX;

    return n < 4 ? 4 : n > PIECES_MAX ? PIECES_MAX : n;
}

struct cuda_staging *cuda_staging_open(void)
{
    struct cuda_staging *g = (struct cuda_staging *)calloc(1, sizeof *g);

    if (g) {
        pthread_mutex_init(&g->lock, NULL);
        pthread_cond_init(&g->some, NULL);
    }
    return g;
}

static void free_pieces(struct cuda_staging *g)
{
    for (int i = 0; i < g->n; i++)
        cudaEventDestroy(g->pieces[i].done);
    cudaFreeHost(g->memory);
    g->memory = NULL;
    g->n = 0;
}

void cuda_staging_close(struct cuda_staging *g)
{
    if (!g)
        return;
    free_pieces(g);
    pthread_cond_destroy(&g->some);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

static int make_pieces(struct cuda_staging *g, struct err *e)
{
    int n = n_pieces();

    CUDA_TRY(cudaHostAlloc((void **)&g->memory, (size_t)n * STAGE_BYTES, cudaHostAllocDefault));
    for (; g->n < n; g->n++) {
        struct piece *p = &g->pieces[g->n];
        CUDA_TRY(cudaEventCreateWithFlags(&p->done, cudaEventDisableTiming));
        p->p = g->memory + (size_t)g->n * STAGE_BYTES;
    }
    return 0;
}

/* The one of `owner` (NULL: of anybody) that came back first, or -1; *n: how many it has. */
static int oldest(const struct cuda_staging *g, const pthread_t *owner, int *n)
{
    int found = -1;

    *n = 0;
    for (int i = 0; i < g->n; i++) {
        const struct piece *p = &g->pieces[i];
        if (owner && (!p->owned || !pthread_equal(p->owner, *owner)))
            continue;
        (*n)++;
        if (!p->lent && (found < 0 || p->sent < g->pieces[found].sent))
            found = i;
    }
    return found;
}

static int nobodys(const struct cuda_staging *g)
{
    for (int i = 0; i < g->n; i++)
        if (!g->pieces[i].owned)
            return i;
    return -1;
}

/* A piece of the calling thread's own while it has enough, else a new one, else another's. */
static int choose(const struct cuda_staging *g, pthread_t self)
{
    int n_own, n_all;
    int own = oldest(g, &self, &n_own);
    int fresh = n_own < PER_THREAD ? nobodys(g) : -1;

    return fresh >= 0 ? fresh : own >= 0 ? own : oldest(g, NULL, &n_all);
}

/* -1: there is no memory for any. */
static int take(struct cuda_staging *g, struct err *e)
{
    pthread_t self = pthread_self();
    int i = -1;

    pthread_mutex_lock(&g->lock);
    if (g->memory || make_pieces(g, e) == 0) {
        while ((i = choose(g, self)) < 0)
            pthread_cond_wait(&g->some, &g->lock);
        g->pieces[i].lent = g->pieces[i].owned = true;
        g->pieces[i].owner = self;
    } else {
        free_pieces(g);
        cudaGetLastError();
        err_in(e, "%zu bytes of pinned memory for uploads", n_pieces() * STAGE_BYTES);
    }
    pthread_mutex_unlock(&g->lock);
    return i;
}

static void give_back(struct cuda_staging *g, int i)
{
    pthread_mutex_lock(&g->lock);
    g->pieces[i].lent = false;
    g->pieces[i].sent = g->n_sent++;
    pthread_cond_signal(&g->some);
    pthread_mutex_unlock(&g->lock);
}

int cuda_stage(struct backend *b, void **out, struct err *e)
{
    struct cuda_staging *g = cuda_state_of(b)->staging;
    int i = take(g, e);

    if (i < 0)
        return -1;
    struct piece *p = &g->pieces[i];
    if (p->used && cuda_check(cudaEventSynchronize(p->done), "an upload", e) < 0) {
        give_back(g, i);
        return -1;
    }
    *out = p->p;
    return 0;
}

int cuda_send(struct backend *b, void *to, void *staged, size_t n_bytes, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    int i = (int)((size_t)((char *)staged - s->staging->memory) / STAGE_BYTES), rc = 0;
    struct piece *p = &s->staging->pieces[i];

    if (n_bytes) {
        rc = cuda_check(cudaMemcpyAsync(to, staged, n_bytes, cudaMemcpyHostToDevice, s->stream),
                        "an upload", e);
        if (rc == 0)
            rc = cuda_check(cudaEventRecord(p->done, s->stream), "an upload", e);
        p->used = p->used || rc == 0;
    }
    give_back(s->staging, i);
    return rc;
}
