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

#define N_CORNER      512
#define N_WARPS       (N_CORNER / 32)
#define LD_CORNER     (WIDE_TILE + 4)
#define PIECE         16 /* columns that one warp factors */
#define N_PIECES      (WIDE_TILE / PIECE)
#define LD_PIECE      (PIECE + 4)
#define CORNER_MEMORY ((WIDE_TILE * LD_CORNER + N_PIECES * PIECE * LD_PIECE) * (int)sizeof(double))

/* ---- a tile on the diagonal ---- */

/* 16 columns and their inverse, by a warp: lane i has row i.  Of it the elements behind column k
 * are still those of the matrix in step k, the ones before already those of the inverse, whose row
 * k is ready with column k.  The other half of the warp does the same. */
__device__ static void factor_piece(double *at, double *inverse, const double *least, int *failed)
{
    const int i = threadIdx.x % PIECE;
    const double too_little = least[i];
    double v[PIECE];

#pragma unroll
    for (int j = 0; j < PIECE; j++)
        v[j] = j <= i ? at[i * LD_CORNER + j] : 0.0;
#pragma unroll
    for (int k = 0; k < PIECE; k++) {
        const double pivot = __shfl_sync(0xFFFFFFFFu, v[k], k);
        const bool good = pivot > __shfl_sync(0xFFFFFFFFu, too_little, k) && pivot < INFINITY;
        const double over_root = good ? rsqrt(pivot) : 1.0, root = good ? pivot * over_root : 1.0;
        const double below = v[k] * over_root;

        if (!good && threadIdx.x == 0)
            *failed = 1;
        if (i >= k)
            at[i * LD_CORNER + k] = i == k ? root : below;
#pragma unroll
        for (int j = k + 1; j < PIECE; j++)
            v[j] = fma(-below, __shfl_sync(0xFFFFFFFFu, below, j), v[j]);
        v[k] = i == k ? over_root : -below * over_root;
#pragma unroll
        for (int j = 0; j < k; j++) {
            const double row = __shfl_sync(0xFFFFFFFFu, v[j], k) * over_root;

            if (i == k)
                v[j] = row;
            else if (i > k)
                v[j] = fma(-below, row, v[j]);
        }
        if (i < k)
            v[k] = 0.0;
    }
#pragma unroll
    for (int j = 0; j < PIECE; j++)
        inverse[i * LD_PIECE + j] = v[j];
}

/* c += 8 x 8 products of 4 n k: a at row 0, b at column 0 of the 8; b_row, b_col: how far the next
 * k and the next column of b lie. */
__device__ static void add_8x8(double (&c)[2], const double *a, int lda, const double *b, int b_row,
                               int b_col, int n)
{
    const int lane = threadIdx.x % 32;

    a += lane / 4 * lda + lane % 4;
    b += lane % 4 * b_row + lane / 4 * b_col;
    for (int k = 0; k < n; k++)
        wide_mma(c, a[4 * k], b[4 * k * b_row]);
}

/* Rows behind piece p, times its inverse turned around; 8 rows a warp, read before they are
 * written. */
__device__ static void multiply_rows(double *at, const double *inverse, int p)
{
    const int lane = threadIdx.x % 32, row = (p + 1) * PIECE + threadIdx.x / 32 * 8;
    double *rows = at + row * LD_CORNER + p * PIECE, c[2][2] = {};

    if (row >= WIDE_TILE)
        return;
    add_8x8(c[0], rows, LD_CORNER, inverse, 1, LD_PIECE, PIECE / 4);
    add_8x8(c[1], rows, LD_CORNER, inverse + 8 * LD_PIECE, 1, LD_PIECE, PIECE / 4);
    __syncwarp();
    for (int j = 0; j < 2; j++)
        *(double2 *)(rows + lane / 4 * LD_CORNER + 8 * j + lane % 4 * 2) =
            make_double2(c[j][0], c[j][1]);
}

/* What they take from the rest. */
__device__ static void take_from_rest(double *at, int p)
{
    const int lane = threadIdx.x % 32, n = (WIDE_TILE - (p + 1) * PIECE) / 8;
    const double *rows = at + (p + 1) * PIECE * LD_CORNER + p * PIECE;
    double *rest = at + (p + 1) * PIECE * (LD_CORNER + 1);

    for (int t = threadIdx.x / 32; t < n * (n + 1) / 2; t += N_WARPS) {
        const struct half_place place = half_place_at((unsigned)t);
        double2 *to = (double2 *)(rest + (8 * place.major + lane / 4) * LD_CORNER +
                                  8 * place.minor + lane % 4 * 2);
        double c[2] = {};

        add_8x8(c, rows + 8 * place.major * LD_CORNER, LD_CORNER,
                rows + 8 * place.minor * LD_CORNER, 1, LD_CORNER, PIECE / 4);
        *to = make_double2(to->x - c[0], to->y - c[1]);
    }
}

/* The inverse where M was, from the pieces' own: pairs of `half` rows become one.  B A^-1 goes
 * above the diagonal. */
__device__ static void join_pairs(double *at, int half, bool below)
{
    const int lane = threadIdx.x % 32, n = half / 8, n_pairs = WIDE_TILE / 2 / half;

    for (int t = threadIdx.x / 32; t < n_pairs * n * n; t += N_WARPS) {
        const int first = t / (n * n) * 2 * half, middle = first + half;
        const int i = t / n % n * 8, j = t % n * 8; /* in B */
        double c[2] = {};

        if (below) {
            const int end = i / PIECE * PIECE + PIECE;

            add_8x8(c, at + (middle + i) * LD_CORNER + middle, LD_CORNER,
                    at + first * LD_CORNER + middle + j, LD_CORNER, 1, end / 4);
            *(double2 *)(at + (middle + i + lane / 4) * LD_CORNER + first + j + lane % 4 * 2) =
                make_double2(-c[0], -c[1]);
        } else {
            const int begin = j / PIECE * PIECE;

            add_8x8(c, at + (middle + i) * LD_CORNER + first + begin, LD_CORNER,
                    at + (first + begin) * LD_CORNER + first + j, LD_CORNER, 1, (half - begin) / 4);
            *(double2 *)(at + (first + i + lane / 4) * LD_CORNER + middle + j + lane % 4 * 2) =
                make_double2(c[0], c[1]);
        }
    }
    __syncthreads();
}

__global__ static void __launch_bounds__(N_CORNER)
    cholesky_corner(const __grid_constant__ struct cholesky c, int64_t first)
{
    extern __shared__ double at[];
    double *pieces = at + WIDE_TILE * LD_CORNER;
    double *a = c.a + first * c.n + first, *inverse = c.inverse + first * c.n + first;

    if (*c.failed)
        return;
    for (int i = threadIdx.x; i < WIDE_TILE * WIDE_TILE; i += N_CORNER)
        at[i / WIDE_TILE * LD_CORNER + i % WIDE_TILE] = a[i / WIDE_TILE * c.n + i % WIDE_TILE];
    __syncthreads();
    for (int p = 0; p < N_PIECES; p++) {
        double *piece = pieces + p * PIECE * LD_PIECE;

        if (threadIdx.x < 32)
            factor_piece(at + p * PIECE * (LD_CORNER + 1), piece, c.least + first + p * PIECE,
                         c.failed);
        __syncthreads();
        multiply_rows(at, piece, p);
        __syncthreads();
        take_from_rest(at, p);
        __syncthreads();
    }
    for (int i = threadIdx.x; i < WIDE_TILE * WIDE_TILE; i += N_CORNER)
        if (i % WIDE_TILE <= i / WIDE_TILE)
            a[i / WIDE_TILE * c.n + i % WIDE_TILE] = at[i / WIDE_TILE * LD_CORNER + i % WIDE_TILE];
    __syncthreads();
    for (int i = threadIdx.x; i < N_PIECES * PIECE * PIECE; i += N_CORNER) {
        const int p = i / (PIECE * PIECE), row = i / PIECE % PIECE, col = i % PIECE;
        at[(p * PIECE + row) * LD_CORNER + p * PIECE + col] =
            pieces[(p * PIECE + row) * LD_PIECE + col];
    }
    __syncthreads();
    for (int half = PIECE; half < WIDE_TILE; half *= 2) {
        join_pairs(at, half, false);
        join_pairs(at, half, true);
    }
    for (int i = threadIdx.x; i < WIDE_TILE * WIDE_TILE; i += N_CORNER) {
        const int row = i / WIDE_TILE, col = i % WIDE_TILE;
        inverse[row * c.n + col] = col <= row ? at[row * LD_CORNER + col] : 0.0;
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
    const cudaFuncAttribute memory = cudaFuncAttributeMaxDynamicSharedMemorySize;

    CUDA_TRY(cudaFuncSetAttribute(cholesky_corner, memory, CORNER_MEMORY));
    CUDA_TRY(cudaFuncSetAttribute(cholesky_panel, memory, WIDE_MEMORY));
    CUDA_TRY(cudaFuncSetAttribute(cholesky_rest, memory, WIDE_MEMORY));
    CUDA_TRY(cudaMemsetAsync(c->failed, 0, sizeof *c->failed, s->stream));
    for (int k = 0; k < n; k++) {
        const unsigned below = (unsigned)(n - 1 - k);

        cholesky_corner<<<1, N_CORNER, CORNER_MEMORY, s->stream>>>(*c, (int64_t)k * WIDE_TILE);
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
