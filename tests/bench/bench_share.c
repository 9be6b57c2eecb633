/* bench_share.c - weights for every GPU of a machine, both ways: each process reads the file, or
 * one reads and its GPU sends them to the others:
 *
 *   bench_share FOLDER [DEVICES [RUNS]]
 *
 * A process a GPU, as a rank has it.  Times are of the slowest, from the second run on; what
 * arrived is compared with what the file holds, byte by byte. */
#include "backend/backend.h"
#include "base/clock.h"
#include "base/memory.h"
#include "model/model.h"
#include "model/tensor_list.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEVICES_MAX 8
#define RUNS_MAX    20

/* What the processes share. */
struct common {
    pthread_barrier_t barrier;
    char id[SHARE_ID_BYTES];
    double read_s[DEVICES_MAX][RUNS_MAX], send_s[DEVICES_MAX][RUNS_MAX], join_s[DEVICES_MAX];
    int64_t n_bytes;
    char version[32];
};

struct process {
    struct common *common;
    struct backend backend;
    const char *folder;
    int index, n, run;
};

static void wait_for_all(struct common *c)
{
    pthread_barrier_wait(&c->barrier);
}

/* load_way.fill of the second way: index 0 reads, then all broadcast. */
static int fill(void *context, const struct load_parts *parts,
                int (*read)(void *reading, struct err *e), void *reading, struct err *e)
{
    struct process *p = context;
    double start;

    if (p->index == 0 && read(reading, e) < 0)
        return -1;
    wait_for_all(p->common);
    start = clock_seconds();
    if (p->backend.ops->share->broadcast(&p->backend, parts->at, parts->n_bytes, parts->n, 60, e) <
        0)
        return -1;
    p->common->send_s[p->index][p->run] = clock_seconds() - start;
    wait_for_all(p->common);
    return 0;
}

static int same_bytes(struct backend *b, const struct weight *x, const struct weight *y,
                      struct err *e)
{
    size_t n = weight_codes_bytes(x);
    char *mine = mem_alloc(n), *other = mem_alloc(n);
    int rc = b->ops->download(b, mine, x->codes, n, e) < 0 ||
                     b->ops->download(b, other, y->codes, n, e) < 0
                 ? -1
                 : 0;

    if (rc == 0 && memcmp(mine, other, n) != 0)
        rc = err_set(e, ERR_DEVICE, "what was sent is not what the file holds");
    free(mine);
    free(other);
    return rc;
}

static int compare(struct backend *b, const struct model *x, const struct model *y, struct err *e)
{
    for (int64_t i = 0; i < x->config.n_layers; i++)
        for (int l = 0; l < N_LINEARS; l++)
            if (same_bytes(b, &x->layers[i].linear[l], &y->layers[i].linear[l], e) < 0)
                return -1;
    return same_bytes(b, &x->head, &y->head, e);
}

static int measure(struct process *p, int runs, struct err *e)
{
    const struct share_ops *share = p->backend.ops->share;
    struct load_way sent = { .fill = fill, .context = p };
    struct load_facts facts;

    if (share->find(&p->backend, p->common->version, e) < 0 ||
        (p->index == 0 && share->id(&p->backend, p->common->id, e) < 0))
        return -1;
    wait_for_all(p->common);
    double start = clock_seconds();
    if (share->join(&p->backend, p->common->id, p->index, p->n, e) < 0 ||
        share->joined(&p->backend, 60, e) < 0)
        return -1;
    p->common->join_s[p->index] = clock_seconds() - start;
    for (p->run = 0; p->run < runs; p->run++) {
        struct model x = MODEL_INIT, y = MODEL_INIT;
        wait_for_all(p->common);
        int rc = weights_load_timed(&p->backend, p->folder, &x, &facts, e);
        p->common->read_s[p->index][p->run] = facts.read_s;
        if (rc == 0)
            rc = weights_load_by(&p->backend, p->folder, &sent, &y, &facts, e);
        if (rc == 0 && p->run == runs - 1)
            rc = compare(&p->backend, &x, &y, e);
        p->common->n_bytes = facts.n_bytes;
        model_release(&x);
        model_release(&y);
        if (rc < 0)
            return -1;
    }
    share->leave(&p->backend);
    return 0;
}

static int work(struct process *p, int runs)
{
    struct err e = ERR_INIT;
    int rc = backend_open(&p->backend, "cuda", p->index, NULL, &e);

    if (rc == 0)
        rc = measure(p, runs, &e);
    if (rc < 0)
        fprintf(stderr, "bench_share: GPU %d: %s\n", p->index, e.text);
    backend_close(&p->backend);
    return rc < 0;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Median over runs from the second on of the slowest process. */
static double slowest(double s[DEVICES_MAX][RUNS_MAX], int n, int runs)
{
    double worst[RUNS_MAX] = { 0 };

    for (int r = 0; r < runs; r++)
        for (int i = 0; i < n; i++)
            worst[r] = s[i][r] > worst[r] ? s[i][r] : worst[r];
    qsort(worst + 1, (size_t)runs - 1, sizeof *worst, ascending);
    return worst[1 + (runs - 1) / 2];
}

static void print(struct common *c, int n, int runs)
{
    double gb = (double)c->n_bytes * 1e-9, read_s = slowest(c->read_s, n, runs),
           send_s = slowest(c->send_s, n, runs);

    printf("%d GPUs, %.3f GB, medians of runs 2 to %d\n", n, gb, runs);
    printf("each reads the file:      %.4f s, %.1f GB/s each\n", read_s, gb / read_s);
    printf("%s broadcast: %.4f s, %.1f GB/s to each (first run %.4f s; joining %.2f s)\n",
           c->version, send_s, gb / send_s, c->send_s[n - 1][0], c->join_s[n - 1]);
}

int main(int argc, char **argv)
{
    int n = argc > 2 ? atoi(argv[2]) : 2, runs = argc > 3 ? atoi(argv[3]) : 5, failed = 0;
    struct common *c =
        mmap(NULL, sizeof *c, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_barrierattr_t shared;

    if (argc < 2 || n < 2 || n > DEVICES_MAX || runs < 2 || runs > RUNS_MAX || c == MAP_FAILED) {
        fprintf(stderr, "usage: bench_share FOLDER [DEVICES [RUNS]]\n");
        return 2;
    }
    pthread_barrierattr_init(&shared);
    pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&c->barrier, &shared, (unsigned)n);
    /* Before anything of CUDA: a process that has begun with it must not be copied. */
    for (int i = 0; i < n; i++)
        if (fork() == 0) {
            struct process p = { .common = c, .folder = argv[1], .index = i, .n = n };
            alarm(120); /* one that fails leaves the others at the barrier */
            exit(work(&p, runs));
        }
    for (int i = 0; i < n; i++) {
        int status;
        if (wait(&status) < 0 || status != 0)
            failed++;
    }
    if (!failed)
        print(c, n, runs);
    return failed != 0;
}
