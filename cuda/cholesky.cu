/* cholesky.cu - symmetric positive definite matrices in fp64: M M^T = A and M^-1, in the order that
 * the size fixes, so that every device and every run gives the same bits.
 *
 * n^3 / 3 operations each, most of them on tensor cores (wide.cuh).  The factor goes by columns of
 * 128: one block factors and inverts the tile on the diagonal, the tiles below it are multiplied
 * with that inverse, and their products are taken from all that is to the right, which reads and
 * writes it once: 8 n^3 / 3 / 128 bytes in all.  M^-1 grows from the diagonal by doubling:
 *
 *   | A   0 |^-1   |    A^-1        0   |
 *   | B   C |    = | -C^-1 B A^-1  C^-1 |
 *
 * B A^-1 is kept turned around above the diagonal of M, where nothing else is.  */
#include "wide.cuh"

#define N_CORNER  1024
#define LD_CORNER (WIDE_TILE + 1)

/* ---- a tile on the diagonal ---- */

/* Both at once: below the diagonal of `at` M grows column by column, above it M^-1, turned around,
 * whose row k is ready with column k of M. */
__device__ static void factor_corner(double (*at)[LD_CORNER], double *of_diagonal, int *failed)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    for (int k = 0; k < WIDE_TILE; k++) {
        const double pivot = at[k][k];
        const bool good = pivot > 0.0 && pivot < INFINITY;
        const double root = good ? sqrt(pivot) : 1.0, inverse = 1.0 / root;

        if (threadIdx.x < WIDE_TILE && threadIdx.x != k)
            at[threadIdx.x][k] *= inverse;
        __syncthreads();
        if (threadIdx.x == 0) {
            at[k][k] = root;
            of_diagonal[k] = inverse;
            if (!good)
                *failed = 1;
        }
        for (int i = k + 1 + warp; i < WIDE_TILE; i += N_CORNER / 32) {
            const double x = at[i][k];

            for (int j = lane; j <= i; j += 32) {
                if (j > k)
                    at[i][j] -= x * at[j][k];
                else if (j < k)
                    at[j][i] -= x * at[j][k];
                else
                    at[k][i] = -x * inverse;
            }
        }
        __syncthreads();
    }
}

__global__ static void __launch_bounds__(N_CORNER)
    cholesky_corner(const __grid_constant__ struct cholesky c, int64_t first)
{
    extern __shared__ double room[];
    double(*at)[LD_CORNER] = (double(*)[LD_CORNER])room;
    double *of_diagonal = room + WIDE_TILE * LD_CORNER;
    double *a = c.a + first * c.n + first, *inverse = c.inverse + first * c.n + first;

    if (*c.failed)
        return;
    for (int i = threadIdx.x; i < WIDE_TILE * WIDE_TILE; i += N_CORNER) {
        const int row = i / WIDE_TILE, col = i % WIDE_TILE;
        at[row][col] = col <= row ? a[row * c.n + col] : 0.0;
    }
    __syncthreads();
    factor_corner(at, of_diagonal, c.failed);
    for (int i = threadIdx.x; i < WIDE_TILE * WIDE_TILE; i += N_CORNER) {
        const int row = i / WIDE_TILE, col = i % WIDE_TILE;

        if (col <= row)
            a[row * c.n + col] = at[row][col];
        inverse[row * c.n + col] = col < row ? at[col][row] : col == row ? of_diagonal[row] : 0.0;
    }
}

/* ---- products ---- */

__device__ static double *tile_of(double *x, int64_t n, int row, int col)
{
    return x + (row * n + col) * WIDE_TILE;
}

/* The tiles below tile k on the diagonal, times its inverse turned around.  A block reads its rows
 * before it writes them. */
__global__ static void __launch_bounds__(WIDE_THREADS)
    cholesky_panel(const __grid_constant__ struct cholesky c, int k)
{
    extern __shared__ double room[];
    double *tile = tile_of(c.a, c.n, k + 1 + blockIdx.x, k) + wide_row() * c.n + wide_col();
    wide_sums sum = {};

    if (*c.failed)
        return;
    wide_add<false>(
        { tile_of(c.a, c.n, k + 1 + blockIdx.x, k), tile_of(c.inverse, c.n, k, k), c.n, c.n }, 0,
        WIDE_TILE, room, sum);
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            *(double2 *)(tile + 8 * i * c.n + 8 * j) = make_double2(sum[i][j][0], sum[i][j][1]);
}

/* What column k of tiles takes from those to the right of it. */
__global__ static void __launch_bounds__(WIDE_THREADS)
    cholesky_rest(const __grid_constant__ struct cholesky c, int k)
{
    extern __shared__ double room[];
    const struct half_place p = half_place_at(blockIdx.x);
    const int row = k + 1 + p.major, col = k + 1 + p.minor;
    double *tile = tile_of(c.a, c.n, row, col) + wide_row() * c.n + wide_col();
    wide_sums sum = {};

    if (*c.failed)
        return;
    wide_add<false>({ tile_of(c.a, c.n, row, k), tile_of(c.a, c.n, col, k), c.n, c.n }, 0,
                    WIDE_TILE, room, sum);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        double2 old[4];

#pragma unroll
        for (int j = 0; j < 4; j++)
            old[j] = *(const double2 *)(tile + 8 * i * c.n + 8 * j);
#pragma unroll
        for (int j = 0; j < 4; j++)
            *(double2 *)(tile + 8 * i * c.n + 8 * j) =
                make_double2(old[j].x - sum[i][j][0], old[j].y - sum[i][j][1]);
    }
}

/* Tiles (row, col) of B in the pair of `half` x `half` tiles that block z is of; false: outside. */
__device__ static bool pair_place(const struct cholesky &c, int half, int *row, int *col)
{
    *col = 2 * half * blockIdx.z + blockIdx.x;
    *row = 2 * half * blockIdx.z + half + blockIdx.y;
    return *row < c.n / WIDE_TILE;
}

/* B A^-1, turned around into the tile on the other side of the diagonal. */
__global__ static void __launch_bounds__(WIDE_THREADS)
    inverse_left(const __grid_constant__ struct cholesky c, int half)
{
    extern __shared__ double room[];
    wide_sums sum = {};
    int row, col;

    if (!pair_place(c, half, &row, &col))
        return;
    wide_add<true>({ tile_of(c.a, c.n, row, 0), tile_of(c.inverse, c.n, 0, col), c.n, c.n },
                   col * WIDE_TILE, (2 * half * blockIdx.z + half) * WIDE_TILE, room, sum);
    double *tile = tile_of(c.a, c.n, col, row) + wide_col() * c.n + wide_row();
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int k = 0; k < 2; k++)
                tile[(8 * j + k) * c.n + 8 * i] = sum[i][j][k];
}

/* -C^-1 times that. */
__global__ static void __launch_bounds__(WIDE_THREADS)
    inverse_below(const __grid_constant__ struct cholesky c, int half)
{
    extern __shared__ double room[];
    wide_sums sum = {};
    int row, col;

    if (!pair_place(c, half, &row, &col))
        return;
    wide_add<false>({ tile_of(c.inverse, c.n, row, 0), tile_of(c.a, c.n, col, 0), c.n, c.n },
                    (2 * half * blockIdx.z + half) * WIDE_TILE, (row + 1) * WIDE_TILE, room, sum);
    double *tile = tile_of(c.inverse, c.n, row, col) + wide_row() * c.n + wide_col();
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            *(double2 *)(tile + 8 * i * c.n + 8 * j) = make_double2(-sum[i][j][0], -sum[i][j][1]);
}

/* ---- entries ---- */

int cuda_cholesky(struct cuda_state *s, const struct cholesky *c, struct err *e)
{
    const int n = (int)(c->n / WIDE_TILE);
    const int corner = (WIDE_TILE * LD_CORNER + WIDE_TILE) * (int)sizeof(double);
    const cudaFuncAttribute memory = cudaFuncAttributeMaxDynamicSharedMemorySize;

    CUDA_TRY(cudaFuncSetAttribute(cholesky_corner, memory, corner));
    CUDA_TRY(cudaFuncSetAttribute(cholesky_panel, memory, WIDE_MEMORY));
    CUDA_TRY(cudaFuncSetAttribute(cholesky_rest, memory, WIDE_MEMORY));
    CUDA_TRY(cudaMemsetAsync(c->failed, 0, sizeof *c->failed, s->stream));
    for (int k = 0; k < n; k++) {
        const unsigned below = (unsigned)(n - 1 - k);

        cholesky_corner<<<1, N_CORNER, corner, s->stream>>>(*c, (int64_t)k * WIDE_TILE);
        CUDA_LAUNCHED(s, "cholesky_corner");
        if (!below)
            break;
        cholesky_panel<<<below, WIDE_THREADS, WIDE_MEMORY, s->stream>>>(*c, k);
        CUDA_LAUNCHED(s, "cholesky_panel");
        cholesky_rest<<<below *(below + 1) / 2, WIDE_THREADS, WIDE_MEMORY, s->stream>>>(*c, k);
        CUDA_LAUNCHED(s, "cholesky_rest");
    }
    return 0;
}

int cuda_triangle_inverse(struct cuda_state *s, const struct cholesky *c, struct err *e)
{
    const int n = (int)(c->n / WIDE_TILE);
    const cudaFuncAttribute memory = cudaFuncAttributeMaxDynamicSharedMemorySize;

    CUDA_TRY(cudaFuncSetAttribute(inverse_left, memory, WIDE_MEMORY));
    CUDA_TRY(cudaFuncSetAttribute(inverse_below, memory, WIDE_MEMORY));
    for (int half = 1; half < n; half *= 2) {
        const dim3 grid((unsigned)half, (unsigned)half, (unsigned)ceil_div(n - half, 2 * half));

        inverse_left<<<grid, WIDE_THREADS, WIDE_MEMORY, s->stream>>>(*c, half);
        CUDA_LAUNCHED(s, "inverse_left");
        inverse_below<<<grid, WIDE_THREADS, WIDE_MEMORY, s->stream>>>(*c, half);
        CUDA_LAUNCHED(s, "inverse_below");
    }
    return 0;
}
