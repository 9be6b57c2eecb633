/* wide.cuh - products in fp64 on tensor cores (from sm_80 on): 128 x 128 sums a block, each one
 * chain over k in an order that the shape and the architecture fix.
 *
 * 256 threads; slices of 16 k go round a ring in shared memory.  A warp makes 64 x 32 sums from 12
 * loads and 32 products a 4 k; rows in shared memory are padded so that a half-warp's loads meet
 * different banks.  Everything is a multiple of 128: who calls pads with zeros.  */
#pragma once

#include "common.cuh"

#define WIDE_TILE    128
#define WIDE_SLICE   16
#define WIDE_PLACES  3
#define WIDE_THREADS 256
#define WIDE_LD_K    (WIDE_SLICE + 4) /* rows that run along k */
#define WIDE_LD_N    (WIDE_TILE + 4)  /* rows of one k */
#define WIDE_SIDE    (WIDE_TILE * WIDE_LD_K)
#define WIDE_MEMORY  (WIDE_PLACES * 2 * WIDE_SIDE * (int)sizeof(double))

/* Operands of a tile, at its first row and column and k = 0, ld elements a row.  b_of_k: row k of b
 * holds the columns; else row n of b holds k. */
struct wide_operands {
    const double *a, *b;
    int64_t lda, ldb;
};

/* Sums of a thread: [i][j]: row 8 i, columns 8 j and the next behind its first. */
typedef double wide_sums[8][4][2];

/* The t-th tile on or on one side of the diagonal, counted along `major`. */
struct half_place {
    int minor, major; /* minor <= major */
};

__device__ inline struct half_place half_place_at(unsigned t)
{
    int major = (int)((sqrtf(8.0f * (float)t + 1.0f) - 1.0f) * 0.5f);

    while ((unsigned)(major + 1) * (unsigned)(major + 2) / 2 <= t)
        major++;
    while ((unsigned)major * (unsigned)(major + 1) / 2 > t)
        major--;
    return { (int)(t - (unsigned)major * (unsigned)(major + 1) / 2), major };
}

/* Row and column of a thread's first sum in the tile. */
__device__ inline int wide_row()
{
    return threadIdx.x / 128 * 64 + threadIdx.x % 32 / 4;
}

__device__ inline int wide_col()
{
    return threadIdx.x / 32 % 4 * 32 + threadIdx.x % 4 * 2;
}

__device__ inline void wide_copy(double *to, const double *from)
{
    asm volatile(
        "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((unsigned)__cvta_generic_to_shared(to)),
        "l"(from));
}

template <bool B_OF_K>
__device__ inline void wide_load(const struct wide_operands &o, int64_t k, double *to)
{
    const int t = threadIdx.x;

#pragma unroll
    for (int i = 0; i < WIDE_TILE; i += WIDE_THREADS / 8)
        wide_copy(&to[(i + t / 8) * WIDE_LD_K + t % 8 * 2],
                  o.a + (int64_t)(i + t / 8) * o.lda + k + t % 8 * 2);
    to += WIDE_SIDE;
    if (B_OF_K) {
#pragma unroll
        for (int i = 0; i < WIDE_SLICE; i += WIDE_THREADS / 64)
            wide_copy(&to[(i + t / 64) * WIDE_LD_N + t % 64 * 2],
                      o.b + (k + i + t / 64) * o.ldb + t % 64 * 2);
    } else {
#pragma unroll
        for (int i = 0; i < WIDE_TILE; i += WIDE_THREADS / 8)
            wide_copy(&to[(i + t / 8) * WIDE_LD_K + t % 8 * 2],
                      o.b + (int64_t)(i + t / 8) * o.ldb + k + t % 8 * 2);
    }
}

__device__ inline void wide_mma(double (&c)[2], double a, double b)
{
    asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
                 : "+d"(c[0]), "+d"(c[1])
                 : "d"(a), "d"(b));
}

/* 16 rows and 8 k. */
__device__ inline void wide_mma_16(double (&c)[2], double (&d)[2], const double (&a)[4],
                                   const double (&b)[2])
{
#if __CUDA_ARCH__ >= 900
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+d"(c[0]), "+d"(c[1]), "+d"(d[0]), "+d"(d[1])
                 : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(b[0]), "d"(b[1]));
#else
    wide_mma(c, a[0], b[0]);
    wide_mma(d, a[1], b[0]);
    wide_mma(c, a[2], b[1]);
    wide_mma(d, a[3], b[1]);
#endif
}

template <bool B_OF_K> __device__ inline void wide_multiply(const double *slice, wide_sums &c)
{
    const int lane = threadIdx.x % 32, k = lane % 4;
    const double *a = slice + (threadIdx.x / 128 * 64 + lane / 4) * WIDE_LD_K + k;
    const int n = threadIdx.x / 32 % 4 * 32 + lane / 4;
    const double *b = slice + WIDE_SIDE + (B_OF_K ? k * WIDE_LD_N + n : n * WIDE_LD_K + k);

#pragma unroll
    for (int at = 0; at < WIDE_SLICE; at += 8) {
        double left[4][4], right[4][2];

#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int h = 0; h < 4; h++)
                left[i][h] = a[(16 * i + h % 2 * 8) * WIDE_LD_K + at + h / 2 * 4];
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                right[j][h] =
                    b[B_OF_K ? (at + 4 * h) * WIDE_LD_N + 8 * j : 8 * j * WIDE_LD_K + at + 4 * h];
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                wide_mma_16(c[2 * i][j], c[2 * i + 1][j], left[i], right[j]);
    }
}

/* c += the products of k = first .. end - 1, multiples of 16; all threads of the block. */
template <bool B_OF_K>
__device__ inline void wide_add(const struct wide_operands &o, int64_t first, int64_t end,
                                double *room, wide_sums &c)
{
    const int64_t n = (end - first) / WIDE_SLICE;

    __syncthreads(); /* the ring may have been in use */
    for (int i = 0; i < WIDE_PLACES - 1; i++) {
        if (i < n)
            wide_load<B_OF_K>(o, first + i * WIDE_SLICE, room + i * (2 * WIDE_SIDE));
        asm volatile("cp.async.commit_group;");
    }
    for (int64_t i = 0; i < n; i++) {
        const int64_t next = i + WIDE_PLACES - 1; /* its place has been read in the turn before */

        asm volatile("cp.async.wait_group %0;" ::"n"(WIDE_PLACES - 2));
        __syncthreads();
        if (next < n)
            wide_load<B_OF_K>(o, first + next * WIDE_SLICE,
                              room + next % WIDE_PLACES * (2 * WIDE_SIDE));
        asm volatile("cp.async.commit_group;");
        wide_multiply<B_OF_K>(room + i % WIDE_PLACES * (2 * WIDE_SIDE), c);
    }
}

/* ---- cholesky.cu ---- */

/* Matrices [n, n] of doubles, n a multiple of 128. */
struct cholesky {
    double *a;       /* its lower half: replaced by M, lower triangular, with M M^T = a; what is
                        above the diagonal is working memory */
    double *inverse; /* M^-1: its lower half; tiles on the diagonal are whole */
    double *least;   /* [n]: no pivot may be as small */
    int *failed;     /* 1: one is, or a NaN; a and inverse are then half done */
    int64_t n;
};

/* The tiles of `inverse` on the diagonal are there, too. */
int cuda_cholesky(struct cuda_state *s, const struct cholesky *c, struct err *e);
int cuda_triangle_inverse(struct cuda_state *s, const struct cholesky *c, struct err *e);
