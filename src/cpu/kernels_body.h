/* kernels_body.h - the functions of struct cpu_kernels, for the width of the including file.
 * What each does, and why its bits do not depend on the width, stands in kernels.h. */
#pragma once

#pragma GCC optimize("O3")

#define TILE_COLS (TILE_VECTORS * LANES)

#include "cpu/kernels.h"
#include "cpu/kernels_codes_body.h"
#include "cpu/kernels_int8_body.h"
#include "cpu/vector.h"

/* ---- products ---- */

INLINE void tile_of(const int m, int64_t k, const float *a, const float *b, float *c, int64_t ldc,
                    bool add)
{
    vf sum[TILE_ROWS][TILE_VECTORS];

#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int j = 0; j < TILE_VECTORS; j++)
            sum[i][j] = add ? vf_load(c + i * ldc + j * LANES) : (vf){ 0 };
    for (int64_t p = 0; p < k; p++, a += m, b += TILE_COLS) {
        vf right[TILE_VECTORS];

#pragma GCC unroll 4
        for (int j = 0; j < TILE_VECTORS; j++)
            right[j] = vf_load(b + j * LANES);
#pragma GCC unroll 16
        for (int i = 0; i < m; i++) {
            vf left = vf_all(a[i]);
#pragma GCC unroll 4
            for (int j = 0; j < TILE_VECTORS; j++)
                sum[i][j] = vf_fma(left, right[j], sum[i][j]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int j = 0; j < TILE_VECTORS; j++)
            vf_store(c + i * ldc + j * LANES, sum[i][j]);
}

static void tile(int m, int64_t k, const float *a, const float *b, float *c, int64_t ldc, bool add)
{
#define CASE(M)                           \
    case M:                               \
        tile_of(M, k, a, b, c, ldc, add); \
        break;
    switch (m) {
        EACH_TILE_HEIGHT(CASE)
    }
#undef CASE
}

/* The transpose of LANES vectors, by halves: after the step of distance d, rows that differ in
 * bit d have exchanged the columns that differ in bit d.  Lane i of the two results comes from
 * KEEP(i, d) and TAKE(i, d) of both rows; written as constants, or the compiler computes them. */
#define KEEP(i, d)    ((i) & (d) ? LANES + (i) - (d) : (i))
#define TAKE(i, d)    ((i) & (d) ? LANES + (i) : (i) + (d))
#define FOUR(F, i, d) F(i, d), F(i + 1, d), F(i + 2, d), F(i + 3, d)
#if LANES == 16
#define ALL(F, d) FOUR(F, 0, d), FOUR(F, 4, d), FOUR(F, 8, d), FOUR(F, 12, d)
#elif LANES == 8
#define ALL(F, d) FOUR(F, 0, d), FOUR(F, 4, d)
#else
#define ALL(F, d) FOUR(F, 0, d)
#endif

#define EXCHANGE(v, d)                                                           \
    do {                                                                         \
        const vi keep = { ALL(KEEP, d) }, take = { ALL(TAKE, d) };               \
                                                                                 \
        _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) if (!(i & (d))) \
        {                                                                        \
            vf a = v[i], b = v[i + (d)];                                         \
            v[i] = __builtin_shuffle(a, b, keep);                                \
            v[i + (d)] = __builtin_shuffle(a, b, take);                          \
        }                                                                        \
    } while (0)

INLINE void transpose_vectors(vf v[LANES])
{
#if LANES == 16
    EXCHANGE(v, 8);
#endif
#if LANES >= 8
    EXCHANGE(v, 4);
#endif
    EXCHANGE(v, 2);
    EXCHANGE(v, 1);
}

/* LANES rows of LANES columns; rows n .. LANES-1 are zeros. */
INLINE void transpose_square(const float *from, int64_t ld, const int64_t n, float *to,
                             int64_t width)
{
    vf v[LANES];

#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
        v[i] = i < n ? vf_load(from + i * ld) : (vf){ 0 };
    transpose_vectors(v);
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
        vf_store(to + i * width, v[i]);
}

/* Squares of LANES x LANES through registers where a row of `to` holds whole vectors.  Narrower
 * rows are written in order, each overwriting what the one before wrote too far; the last columns
 * then go one by one, so that nothing is written past the end. */
static void transpose(const void *source, int64_t ld, int64_t n_rows, int64_t n_cols, void *target,
                      int64_t width)
{
    const float *from = source;
    float *to = target;
    bool overlap = width < LANES && 2 * width >= LANES;
    int64_t last = overlap ? n_cols - 1 : n_cols;

    for (int64_t row = 0; row < width; row += LANES) {
        int64_t here = width - row < LANES ? width - row : LANES, col = 0;
        int64_t n = n_rows - row < here ? n_rows - row : here;

        for (; (here == LANES || overlap) && col + LANES <= last; col += LANES) {
            const float *square = from + row * ld + col;

            if (n == LANES)
                transpose_square(square, ld, LANES, to + col * width + row, width);
            else
                transpose_square(square, ld, n, to + col * width + row, width);
        }
        for (; col < n_cols; col++)
            for (int64_t i = 0; i < here; i++) {
                float *element = to + col * width + row + i;

                if (i < n)
                    memcpy(element, from + (row + i) * ld + col, sizeof *element);
                else
                    memset(element, 0, sizeof *element);
            }
    }
}

/* ---- functions of values ---- */

static void silu(float *values, int64_t n)
{
    int64_t i = 0;

    for (; i < n; i += LANES) {
        float part[LANES] = { 0 };
        bool whole = i + LANES <= n;
        vf x;

        if (!whole)
            memcpy(part, values + i, (size_t)(n - i) * sizeof *part);
        x = vf_load(whole ? values + i : part);
        x = x / (vf_all(1.0f) + vf_exp(-x));
        if (whole) {
            vf_store(values + i, x);
        } else {
            vf_store(part, x);
            memcpy(values + i, part, (size_t)(n - i) * sizeof *part);
        }
    }
}

static float softmax_block(float *scores, int first, int last, float scale, struct softmax_row *s)
{
    enum { N = ATTENTION_BLOCK / LANES, PER_SUM = SOFTMAX_LANES / LANES };
    vf score[N], largest = vf_all(s->max), lane;
    float old = s->max, lanes[LANES];

    for (int i = 0; i < LANES; i++)
        lane[i] = (float)i;
    for (int j = 0; j < N; j++) {
        vf at = lane + vf_all((float)(j * LANES));
        vi counts = (at >= vf_all((float)first)) & (at < vf_all((float)last));

        score[j] =
            vf_select(counts, vf_load(scores + j * LANES) * vf_all(scale), vf_all(-INFINITY));
        largest = vf_select(score[j] > largest, score[j], largest);
    }
    vf_store(lanes, largest);
    for (int i = 0; i < LANES; i++)
        s->max = lanes[i] > s->max ? lanes[i] : s->max;

    vf before = vf_exp(vf_all(old) - vf_all(s->max));
    float factor = before[0];
    for (int j = 0; j < N; j++) {
        score[j] = vf_exp(score[j] - vf_all(s->max));
        vf_store(scores + j * LANES, score[j]);
    }
    for (int i = 0; i < PER_SUM; i++) {
        vf sum = vf_load(s->sum + i * LANES) * before;
        for (int j = i; j < N; j += PER_SUM)
            sum = sum + score[j];
        vf_store(s->sum + i * LANES, sum);
    }
    return factor;
}

typedef float vh __attribute__((vector_size(2 * LANES))); /* as many lanes as a vd */

static double sum_exp(const float *x, int64_t n, float max)
{
    enum { HALF = LANES / 2, N = 8 / HALF };
    vd sum[N];
    double lanes[8], most = max;
    vh part;

    for (int j = 0; j < N; j++)
        sum[j] = (vd){ 0 };
    for (int64_t at = 0; at < n; at += 8) {
        float tail[8];
        const float *block = x + at;

        if (at + 8 > n) {
            for (int i = 0; i < 8; i++)
                tail[i] = at + i < n ? block[i] : -INFINITY;
            block = tail;
        }
        for (int j = 0; j < N; j++) {
            memcpy(&part, block + j * HALF, sizeof part);
            sum[j] = sum[j] + vd_exp(__builtin_convertvector(part, vd) - most);
        }
    }
    for (int j = 0; j < N; j++)
        for (int i = 0; i < HALF; i++)
            lanes[j * HALF + i] = sum[j][i];
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
           ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

static float maximum(const float *x, int64_t n)
{
    float lanes[LANES], most = -INFINITY;
    vf largest = vf_all(-INFINITY), odd = vf_all(0.0f);
    int64_t i = 0;
    bool nan = false;

    for (; i + LANES <= n; i += LANES) {
        vf v = vf_load(x + i);
        largest = vf_select(v > largest, v, largest);
        odd = (vf)((vi)odd | (v != v));
    }
    vf_store(lanes, largest);
    for (int j = 0; j < LANES; j++) {
        most = lanes[j] > most ? lanes[j] : most;
        nan |= ((vi)odd)[j] != 0;
    }
    for (; i < n; i++) {
        most = x[i] > most ? x[i] : most;
        nan |= x[i] != x[i];
    }
    return nan ? NAN : most;
}

static bool all_finite(const float *x, int64_t n)
{
    vi bad = { 0 };
    bool finite = true;
    int64_t i = 0;

    for (; i + LANES <= n; i += LANES)
        bad |= ((vi)vf_load(x + i) & 0x7F800000) == 0x7F800000;
    for (int j = 0; j < LANES; j++)
        finite &= !bad[j];
    for (; i < n; i++)
        finite &= fabsf(x[i]) < INFINITY;
    return finite;
}

const struct cpu_kernels KERNELS = {
    .name = KERNELS_NAME,
    .tile_rows = TILE_ROWS,
    .tile_cols = TILE_COLS,
    .tile = tile,
    .transpose = transpose,
    .unpack = unpack,
    .grouped = grouped,
    .scattered = scattered,
    .signed8 = signed8,
    .silu = silu,
    .softmax_block = softmax_block,
    .sum_exp = sum_exp,
    .maximum = maximum,
    .all_finite = all_finite,
    .int8_scan = int8_scan,
    .int8_codes = int8_codes,
    .widen8 = widen8,
    .tile16 = tile16,
    .int8_scale = int8_scale,
};
