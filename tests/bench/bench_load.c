/* bench_load.c - how fast a checkpoint gets onto the device, NaN check included:
 *
 *   bench_load FOLDER [RUNS]
 *
 * The first run may read from the disk and, in a virtual machine, waits for the host to hand out
 * memory it has not touched yet; the median of the others is the figure to quote. */
#include "backend/backend.h"
#include "base/clock.h"
#include "model/model.h"

#include <stdio.h>
#include <stdlib.h>

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    struct backend b = BACKEND_INIT;
    struct err e = ERR_INIT;
    double rate[100];
    int runs = argc > 2 ? atoi(argv[2]) : 5, rc = 1;

    if (argc < 2 || runs < 2 || runs > 100) {
        fprintf(stderr, "usage: bench_load FOLDER [RUNS]\n");
        return 2;
    }
    if (backend_open(&b, "auto", 0, NULL, &e) < 0)
        goto out;
    for (int i = 0; i < runs; i++) {
        struct model m = MODEL_INIT;
        struct load_facts facts;
        if (weights_load_timed(&b, argv[1], &m, &facts, &e) < 0)
            goto out;
        rate[i] = (double)facts.n_bytes * 1e-9 / facts.read_s;
        printf("run %d: %.3f GB in %.3f s: %.2f GB/s on %s\n", i + 1, (double)facts.n_bytes * 1e-9,
               facts.read_s, rate[i], b.ops->name);
        model_release(&m);
    }
    qsort(rate + 1, (size_t)runs - 1, sizeof *rate, ascending);
    printf("first %.2f GB/s, median of the others %.2f GB/s\n", rate[0], rate[1 + (runs - 1) / 2]);
    rc = 0;
out:
    if (rc)
        fprintf(stderr, "bench_load: %s\n", e.text);
    backend_close(&b);
    return rc;
}
