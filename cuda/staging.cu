/* staging.cu - uploads without a copy on the host: pinned memory lent piece by piece.
 *
 * Readers take a piece, fill it, send it; the copy engine takes it from there while they fill
 * others.  Pieces go round in the order they were sent, so a reader that must wait waits for the
 * oldest copy.  Small ones, so that what is read and checked is still in the processor's cache when
 * it is copied: 2.5 GB move through host memory once, not three times.
 *
 * Made at the first use and kept: pinning costs more than a copy.  */
#include "common.cuh"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#define PIECES_MAX 64

struct piece {
    char *p;
    cudaEvent_t done; /* of its last copy */
    bool used;        /* there was one */
};

struct cuda_staging {
    pthread_mutex_t lock;
    pthread_cond_t some; /* a piece came back */
    char *memory;        /* of the pieces */
    struct piece pieces[PIECES_MAX];
    int n;                                     /* 0: not used yet */
    int waiting[PIECES_MAX], first, n_waiting; /* not lent, in the order they were sent */
};

/* Two for each core: one is filled while the other is copied. */
static int n_pieces(void)
{
    cpu_set_t cores;
    int n = sched_getaffinity(0, sizeof cores, &cores) == 0 ? 2 * CPU_COUNT(&cores) : PIECES_MAX;

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
    g->n = g->n_waiting = 0;
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
        g->waiting[g->n_waiting++] = g->n;
    }
    return 0;
}

/* The piece that was sent first, or -1. */
static int take(struct cuda_staging *g, struct err *e)
{
    int i = -1;

    pthread_mutex_lock(&g->lock);
    if (g->memory || make_pieces(g, e) == 0) {
        while (g->n_waiting == 0)
            pthread_cond_wait(&g->some, &g->lock);
        i = g->waiting[g->first];
        g->first = (g->first + 1) % PIECES_MAX;
        g->n_waiting--;
    } else {
        free_pieces(g);
        cudaGetLastError();
        err_in(e, "%d MiB of pinned memory for uploads", n_pieces());
    }
    pthread_mutex_unlock(&g->lock);
    return i;
}

static void give_back(struct cuda_staging *g, int i)
{
    pthread_mutex_lock(&g->lock);
    g->waiting[(g->first + g->n_waiting++) % PIECES_MAX] = i;
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
