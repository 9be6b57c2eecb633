/* measure.c - how far the packed weights are from the plain ones. */
#include "base/memory.h"
#include "quant/method.h"

#include <math.h>
#include <stdlib.h>

#define CHUNK ((int64_t)1 << 20) /* elements on the host at a time */
#define PIECE ((int64_t)1 << 12) /* elements summed by one thread, in order */

struct sums {
    double error, square; /* of (W - W')^2, of W^2 */
};

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static struct sums sum_piece(const float *w, const float *q, int64_t n)
{
    struct sums s = { 0 };

    for (int64_t i = 0; i < n; i++) {
        double d = (double)w[i] - (double)q[i];

        s.error += d * d;
        s.square += (double)w[i] * (double)w[i];
    }
    return s;
}

/* Pieces side by side, their sums in order. */
static void add_chunk(const float *w, const float *q, int64_t n, struct sums *total)
{
    struct sums piece[CHUNK / PIECE];
    int64_t n_pieces = (n + PIECE - 1) / PIECE;

#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n_pieces; i++)
        piece[i] = sum_piece(w + i * PIECE, q + i * PIECE, least(PIECE, n - i * PIECE));
    for (int64_t i = 0; i < n_pieces; i++) {
        total->error += piece[i].error;
        total->square += piece[i].square;
    }
}

int quant_measure(struct backend *b, const struct tensor *w, enum dtype source,
                  const struct weight *packed, const struct tensor *scratch, double sums[2],
                  struct err *e)
{
    struct tensor values = { scratch->data, DTYPE_F32, w->n_rows, w->n_cols, scratch->tag };
    struct dequantize_args a = { .w = packed, .out = &values };
    int64_t n = w->n_rows * w->n_cols, room = least(n, CHUNK);
    size_t stored_bytes = dtype_bytes(w->dtype);
    char *stored = mem_array((size_t)room, stored_bytes);
    float *plain = mem_array((size_t)room, sizeof *plain);
    float *got = mem_array((size_t)room, sizeof *got);
    struct sums total = { 0 };
    int rc = -1;

    if (b->ops->dequantize(b, &a, e) < 0)
        goto out;
    for (int64_t at = 0; at < n; at += room) {
        int64_t here = least(room, n - at);
        const char *from = (const char *)w->data + (size_t)at * stored_bytes;
        const float *from_values = (const float *)values.data + at;

        if (b->ops->download(b, stored, from, (size_t)here * stored_bytes, e) < 0 ||
            b->ops->download(b, got, from_values, (size_t)here * sizeof *got, e) < 0)
            goto out;
        dtype_to_f32(w->dtype, stored, plain, here);
        if (source != DTYPE_OTHER)
            dtype_round(source, plain, here);
        add_chunk(plain, got, here, &total);
    }
    sums[0] = total.error;
    sums[1] = total.square;
    rc = 0;
out:
    free(got);
    free(plain);
    free(stored);
    return rc;
}

void quant_errors_of(const double sums[2], int64_t n, struct quant_module *out)
{
    out->mse = sums[0] / (double)n;
    /* A matrix of zeros is kept exactly by every method. */
    out->relative_error = sums[0] > 0.0 ? sqrt(sums[0] / sums[1]) : 0.0;
}
