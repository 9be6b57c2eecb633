/* tile.cuh - products whose every output is one chain over k in order: of fused multiply-adds
 * (float), or of four exact byte products a word (int).
 *
 * A tile of BM x BN outputs is made by (BM / TM) x (BN / TN) threads.  The chain of an output does
 * not know the tile, so small and large tiles give the same bits, whatever the batch.  */
#pragma once

#include "common.cuh"

#define TILE_K 32

__device__ inline float tile_step(float sum, float a, float b)
{
    return fmaf(a, b, sum);
}

__device__ inline int tile_step(int sum, int a, int b)
{
    return __dp4a(a, b, sum);
}

template <typename V> struct tile_job {
    const V *x, *w; /* [n_rows, ldx], [n_out, ldw] */
    int64_t ldx, ldw, n_rows, n_out, n_k;
};

template <typename V, int BM, int BN, int TM, int TN>
__device__ inline void tile_steps(const V (*xs)[BM + 1], const V (*ws)[BN + 1], int k, int row,
                                  int col, V (&sum)[TM][TN])
{
    V x[TM], w[TN];

#pragma unroll
    for (int i = 0; i < TM; i++)
        x[i] = xs[k][row + i * (BM / TM)];
#pragma unroll
    for (int j = 0; j < TN; j++)
        w[j] = ws[k][col + j * (BN / TN)];
#pragma unroll
    for (int i = 0; i < TM; i++)
#pragma unroll
        for (int j = 0; j < TN; j++)
            sum[i][j] = tile_step(sum[i][j], x[i], w[j]);
}

/* finish(row, col, sum) takes each output.  Columns on x: a vocabulary of 128256 passes here. */
template <typename V, int BM, int BN, int TM, int TN, typename Finish>
__global__ static void __launch_bounds__((BM / TM) * (BN / TN))
    tile_product(struct tile_job<V> a, Finish finish)
{
    constexpr int n_threads = (BM / TM) * (BN / TN);
    __shared__ V xs[TILE_K][BM + 1], ws[TILE_K][BN + 1];
    const int64_t first_row = (int64_t)blockIdx.y * BM, first_out = (int64_t)blockIdx.x * BN;
    const int row = threadIdx.x / (BN / TN), col = threadIdx.x % (BN / TN);
    V sum[TM][TN] = {};

    for (int64_t first = 0; first < a.n_k; first += TILE_K) {
        int n_k = (int)(a.n_k - first < TILE_K ? a.n_k - first : TILE_K);

        for (int i = threadIdx.x; i < BM * TILE_K; i += n_threads) {
            int64_t r = first_row + i / TILE_K;
            int k = i % TILE_K;
            xs[k][i / TILE_K] = r < a.n_rows && k < n_k ? a.x[r * a.ldx + first + k] : V(0);
        }
        for (int i = threadIdx.x; i < BN * TILE_K; i += n_threads) {
            int64_t r = first_out + i / TILE_K;
            int k = i % TILE_K;
            ws[k][i / TILE_K] = r < a.n_out && k < n_k ? a.w[r * a.ldw + first + k] : V(0);
        }
        __syncthreads();
        if (n_k == TILE_K) {
#pragma unroll 8
            for (int k = 0; k < TILE_K; k++)
                tile_steps<V, BM, BN, TM, TN>(xs, ws, k, row, col, sum);
        } else {
            for (int k = 0; k < n_k; k++)
                tile_steps<V, BM, BN, TM, TN>(xs, ws, k, row, col, sum);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < TM; i++)
#pragma unroll
        for (int j = 0; j < TN; j++) {
            int64_t r = first_row + row + i * (BM / TM), n = first_out + col + j * (BN / TN);
            if (r < a.n_rows && n < a.n_out)
                finish(r, n, sum[i][j]);
        }
}

#define TILE_FEW_ROWS 16

template <typename V, typename Finish>
static int tile_start(struct cuda_state *s, const struct tile_job<V> *a, Finish finish,
                      const char *kernel, struct err *e)
{
    if (a->n_rows <= TILE_FEW_ROWS)
        tile_product<V, 16, 32, 2, 2>
            <<<dim3((unsigned)ceil_div(a->n_out, 32), (unsigned)ceil_div(a->n_rows, 16)), 128, 0,
               s->stream>>>(*a, finish);
    else
        tile_product<V, 64, 64, 4, 4>
            <<<dim3((unsigned)ceil_div(a->n_out, 64), (unsigned)ceil_div(a->n_rows, 64)), 256, 0,
               s->stream>>>(*a, finish);
    CUDA_LAUNCHED(s, kernel);
    return 0;
}
