/* gram.cu - h = h + x^T x of T rows of K inputs.
 *
 * T K^2 operations for the upper half, 2 T K bytes of x and 12 K^2 of h: of 2048 rows of 8192
 * inputs 137 G and 840 MB.
 *
 * 16 bits: products are exact and are added in fp32 by the tensor cores, which cut off what lies
 * below the last bit, 16 rows at a time and in their order: one chain over the rows of the call,
 * rounded to fp32 as it grows (the CPU rounds once).  Seen on an H200: within 2.1e-5 of
 * sqrt(h_ii h_jj) of the CPU after two calls of 4096 rows, which is what the cut bits add up to.
 * Sums of calls are added to h in fp32 on both.  A block makes 128 x 128 elements
 * at or above the diagonal and writes them to both halves; x lies in shared memory as it does
 * outside, and both operands are turned on their way to the registers (ldmatrix.trans); Hopper has
 * a kernel of its own, gram_sm90.cu, with the same chains.
 *
 * fp32, and rows that are no whole vectors: one chain of fused multiply-adds in fp64 an element;
 * products of fp32 are exact there, so these are the CPU's bits.  */
#include "gemm.cuh"
#include "gemm_wish.cuh"
#include "gram.cuh"
#include "mma.cuh"

extern "C" {
int gram_wish;
}

#define STEP      32 /* rows of x */
#define N_STAGES  4
#define N_THREADS 128
#define VECTORS   (GRAM_COLS / 8)  /* of a row of a tile */
#define SIDE      (STEP * VECTORS) /* vectors of one operand of a stage */
#define MEMORY    (N_STAGES * 2 * SIDE * 16)

/* ---- 16 bits ---- */

/* Eight rows at one vector meet all banks. */
__device__ static int vector_at(int row, int v)
{
    return row * VECTORS + (v ^ row % 8);
}

__device__ static void copy_16(uint4 *to, const void *from, bool there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     (unsigned)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(there ? 16 : 0));
}

/* Rows first .. first + STEP - 1 of the columns of both sides of a tile. */
__device__ static void load_step(const struct gram_job &a, struct half_place p, int64_t first,
                                 uint4 *to)
{
    const int v = threadIdx.x % VECTORS;

#pragma unroll
    for (int side = 0; side < 2; side++) {
        const int64_t col = (int64_t)(side ? p.major : p.minor) * GRAM_COLS + v * 8;

#pragma unroll
        for (int i = 0; i < STEP; i += N_THREADS / VECTORS) {
            const int r = i + threadIdx.x / VECTORS;
            const bool there = first + r < a.n_rows && col < a.n_cols;
            const int64_t from = there ? (first + r) * a.n_cols + col : 0;

            copy_16(&to[side * SIDE + vector_at(r, v)], (const uint16_t *)a.x + from, there);
        }
    }
}

__device__ static void load_turned(uint32_t (&r)[4], const uint4 *at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((unsigned)__cvta_generic_to_shared(at)));
}

/* A warp makes 64 x 64 elements, 16 x 8 a product. */
template <bool BF16>
__device__ static void multiply_step(const uint4 *tile, int warp_m, int warp_n, float (&c)[4][8][4])
{
    const int lane = threadIdx.x % 32;

#pragma unroll
    for (int k = 0; k < STEP; k += 16) {
        uint32_t left[4][4], right[4][4];

#pragma unroll
        for (int i = 0; i < 4; i++)
            load_turned(
                left[i],
                &tile[vector_at(k + lane / 16 * 8 + lane % 8, 8 * warp_m + 2 * i + lane / 8 % 2)]);
#pragma unroll
        for (int j = 0; j < 4; j++)
            load_turned(right[j],
                        &tile[SIDE + vector_at(k + lane % 16, 8 * warp_n + 2 * j + lane / 16)]);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 8; j++)
                mma_16<BF16>(c[i][j], left[i], right[j / 2][j % 2 * 2],
                             right[j / 2][j % 2 * 2 + 1]);
    }
}

template <bool BF16>
__global__ static void __launch_bounds__(N_THREADS, 2)
    gram_mma(const __grid_constant__ struct gram_job a)
{
    extern __shared__ uint4 tiles[];
    const struct half_place p = half_place_at(blockIdx.x);
    const int warp = threadIdx.x / 32, warp_m = warp / 2, warp_n = warp % 2;
    const int64_t n_steps = (a.n_rows + STEP - 1) / STEP;
    float c[4][8][4] = {};

    for (int i = 0; i < N_STAGES - 1; i++) {
        if (i < n_steps)
            load_step(a, p, (int64_t)i * STEP, tiles + i * (2 * SIDE));
        asm volatile("cp.async.commit_group;");
    }
    for (int64_t step = 0; step < n_steps; step++) {
        const int64_t next = step + N_STAGES - 1; /* its place has been read in the turn before */

        asm volatile("cp.async.wait_group %0;" ::"n"(N_STAGES - 2));
        __syncthreads();
        if (next < n_steps)
            load_step(a, p, next * STEP, tiles + next % N_STAGES * (2 * SIDE));
        asm volatile("cp.async.commit_group;");
        multiply_step<BF16>(tiles + step % N_STAGES * (2 * SIDE), warp_m, warp_n, c);
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        gram_end_rows(
            a, (int64_t)p.minor * GRAM_COLS + 64 * warp_m + 16 * (i / 2) + threadIdx.x % 32 / 4,
            (int64_t)p.major * GRAM_COLS + 64 * warp_n + 32 * (i % 2) + threadIdx.x % 4 * 2,
            *(float(*)[4][4]) & c[i / 2][i % 2 * 4]);
}

static int start_mma(struct cuda_state *s, const struct gram_job *job, enum dtype t, struct err *e)
{
    void (*const kernel)(const struct gram_job) =
        t == DTYPE_BF16 ? gram_mma<true> : gram_mma<false>;
    const int64_t n = ceil_div(job->n_cols, GRAM_COLS);

    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, MEMORY));
    kernel<<<(unsigned)(n * (n + 1) / 2), N_THREADS, MEMORY, s->stream>>>(*job);
    CUDA_LAUNCHED(s, "gram_mma");
    return 0;
}

/* ---- in double ---- */

#define WIDE_COLS 64
#define WIDE_STEP 16

__device__ static void load_wide(const struct gram_job &a, enum dtype t, int64_t first, int64_t col,
                                 double (*to)[WIDE_COLS])
{
    for (int i = threadIdx.x; i < WIDE_STEP * WIDE_COLS; i += 256) {
        const int64_t row = first + i / WIDE_COLS, c = col + i % WIDE_COLS;
        const bool there = row < a.n_rows && c < a.n_cols;

        to[i / WIDE_COLS][i % WIDE_COLS] =
            there ? (double)load_value(t, a.x, row * a.n_cols + c) : 0.0;
    }
}

/* A thread makes 4 x 4 elements, 16 apart. */
__global__ static void __launch_bounds__(256)
    gram_wide(const __grid_constant__ struct gram_job a, enum dtype t)
{
    __shared__ double left[WIDE_STEP][WIDE_COLS], right[WIDE_STEP][WIDE_COLS];
    const struct half_place p = half_place_at(blockIdx.x);
    const int64_t row = (int64_t)p.minor * WIDE_COLS, col = (int64_t)p.major * WIDE_COLS;
    const int y = threadIdx.x / 16, x = threadIdx.x % 16;
    double c[4][4] = {};

    for (int64_t first = 0; first < a.n_rows; first += WIDE_STEP) {
        load_wide(a, t, first, row, left);
        load_wide(a, t, first, col, right);
        __syncthreads();
        for (int k = 0; k < WIDE_STEP; k++)
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    c[i][j] = fma(left[k][y + 16 * i], right[k][x + 16 * j], c[i][j]);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int64_t r = row + y + 16 * i, n = col + x + 16 * j;

            if (r > n || n >= a.n_cols)
                continue;
            const float before = a.fresh ? 0.0f : a.h[r * a.n_cols + n];
            a.h[r * a.n_cols + n] = a.h[n * a.n_cols + r] = before + (float)c[i][j];
        }
}

/* ---- entry ---- */

extern "C" int cuda_gram(struct backend *b, const struct gram_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    const struct gram_job job = { a->x->data, (float *)a->h->data, a->n_rows, a->x->n_cols,
                                  a->fresh };

    if (a->h->dtype != DTYPE_F32 || a->h->n_rows != job.n_cols || a->h->n_cols != job.n_cols ||
        a->n_rows > a->x->n_rows)
        return err_set(e, ERR_INPUT, "x^T x: %lld rows of %lld into a matrix of %lld x %lld",
                       (long long)a->n_rows, (long long)job.n_cols, (long long)a->h->n_rows,
                       (long long)a->h->n_cols);
    if (dtype_is_16bit(a->x->dtype) && job.n_cols % 8 == 0 && (uintptr_t)job.x % 16 == 0)
        return job.n_rows && !gram_wish && gemm_sm90_runs(s)
                   ? cuda_gram_sm90(s, &job, a->x->dtype, e)
                   : start_mma(s, &job, a->x->dtype, e);
    const int64_t n = ceil_div(job.n_cols, WIDE_COLS);
    gram_wide<<<(unsigned)(n * (n + 1) / 2), 256, 0, s->stream>>>(job, a->x->dtype);
    CUDA_LAUNCHED(s, "gram_wide");
    return 0;
}
