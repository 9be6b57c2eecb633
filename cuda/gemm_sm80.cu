/* gemm_sm80.cu - y = x W^T of many rows in fp16 and bf16 for every device from sm_80 on.
 *
 * A block of 8 warps makes 128 rows by 128 columns; tiles of 32 k go through N_STAGES places in
 * shared memory by asynchronous copies.  A warp makes 64 rows by 32 columns with mma.m16n8k16 over
 * k = 0, 16, 32, ..., the chain that mma_product() has, so a row's bits do not tell which of the
 * two made it.  For SwiGLU half the columns are of gate, half of up, and a warp has both of the
 * same. */
#include "gemm.cuh"
#include "mma.cuh"

#define ROWS      128
#define COLS      128
#define STEP      32 /* of k: rows of 64 bytes, four vectors */
#define N_STAGES  4
#define N_THREADS 256
#define MEMORY    (N_STAGES * (ROWS + COLS) * STEP * 2)

struct tile_place {
    int part;
    int64_t row, col; /* col: in the part */
};

/* 16 bytes to shared memory, or zeros. */
__device__ inline void copy_16(uint4 *to, const void *from, bool there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     (unsigned)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(there ? 16 : 0));
}

/* Rows of x, then rows of W: columns step * STEP and on. */
template <bool SWIGLU>
__device__ inline void load_step(const struct gemm_args &a, const struct tile_place &p,
                                 int64_t step, uint4 *to)
{
    const int v = threadIdx.x % 4;
    const int64_t k = step * STEP + v * 8;

#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int r = i * 64 + threadIdx.x / 4;
        const bool there = p.row + r < a.n_rows && k < a.n_k;
        const char *from = (const char *)a.x + (there ? (p.row + r) * a.ldx + 2 * k : 0);

        copy_16(&to[strip_place<4>(r, v)], from, there);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int r = i * 64 + threadIdx.x / 4;
        const struct gemm_part &part = a.part[SWIGLU ? i : p.part];
        const int64_t row = p.col + (SWIGLU ? threadIdx.x / 4 : r);
        const bool there = row < part.n_out && k < a.n_k;
        const char *from = (const char *)part.w + (there ? row * part.ldw + 2 * k : 0);

        copy_16(&to[ROWS * 4 + strip_place<4>(r, v)], from, there);
    }
}

__device__ inline void load_fragment(uint32_t (&r)[4], const uint4 *at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((unsigned)__cvta_generic_to_shared(at)));
}

/* First row of W in the tile of blocks 2 j and 2 j + 1 of a warp. */
template <bool SWIGLU> __device__ inline int first_column(int warp_n, int j)
{
    return SWIGLU ? 64 * j + 16 * warp_n : 32 * warp_n + 16 * j;
}

template <bool BF16, bool SWIGLU>
__device__ inline void multiply_step(const uint4 *tile, int warp_m, int warp_n, float (&c)[4][16])
{
    const int lane = threadIdx.x % 32;

#pragma unroll
    for (int k = 0; k < 2; k++) {
        uint32_t w[2][4];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const int row = first_column<SWIGLU>(warp_n, j) + lane / 16 * 8 + lane % 8;
            load_fragment(w[j], &tile[ROWS * 4 + strip_place<4>(row, 2 * k + lane / 8 % 2)]);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t x[4];

            load_fragment(
                x, &tile[strip_place<4>(64 * warp_m + 16 * i + lane % 16, 2 * k + lane / 16)]);
#pragma unroll
            for (int j = 0; j < 4; j++)
                mma_16<BF16>(&c[i][4 * j], x, w[j / 2][j % 2 * 2], w[j / 2][j % 2 * 2 + 1]);
        }
    }
}

/* 16 rows and 32 columns, or 16 of gate and 16 of up. */
template <bool SWIGLU>
__device__ inline void end_rows(const struct gemm_args &a, const struct tile_place &p, int64_t row,
                                int warp_n, float (&c)[16], uint4 *room)
{
    if (SWIGLU) {
        const struct gemm_strip gate = { &a.part[0], a.y_t, a.n_rows, row, p.col + 16 * warp_n };
        const struct gemm_strip up = { &a.part[1], a.y_t, a.n_rows, row, p.col + 16 * warp_n };
        float v[8], u[8];

#pragma unroll
        for (int i = 0; i < 8; i++) {
            v[i] = c[i];
            u[i] = c[8 + i];
        }
        strip_add_bias<2>(gate, v);
        strip_add_bias<2>(up, u);
        strip_store_swiglu<2>(gate, v, u, room);
    } else {
        const struct gemm_strip s = { &a.part[p.part], a.y_t, a.n_rows, row, p.col + 32 * warp_n };
        uint4 old[2] = {};

        if (a.add)
            strip_load<4>(s, old);
        strip_add_bias<4>(s, c);
        strip_store<4>(s, c, room, a.add, old);
    }
}

template <bool BF16, bool SWIGLU>
__global__ static void __launch_bounds__(N_THREADS)
    gemm_mma(const __grid_constant__ struct gemm_args a)
{
    extern __shared__ uint4 tiles[];
    const int warp = threadIdx.x / 32, warp_m = warp / 4, warp_n = warp % 4;
    const int64_t n_steps = (a.n_k + STEP - 1) / STEP;
    struct tile_place p = { 0, (int64_t)blockIdx.y * ROWS,
                            (int64_t)blockIdx.x * (SWIGLU ? 64 : COLS) };
    float c[4][16] = {};

    if (!SWIGLU)
        while (p.col >= a.part[p.part].n_out) { /* tiles of the parts before it */
            p.col -= (a.part[p.part].n_out + COLS - 1) / COLS * COLS;
            p.part++;
        }
    for (int64_t step = 0; step < n_steps + N_STAGES - 1; step++) {
        if (step < n_steps)
            load_step<SWIGLU>(a, p, step, tiles + step % N_STAGES * (MEMORY / N_STAGES / 16));
        asm volatile("cp.async.commit_group;");
        if (step < N_STAGES - 1)
            continue;
        asm volatile("cp.async.wait_group %0;" ::"n"(N_STAGES - 1));
        __syncthreads();
        multiply_step<BF16, SWIGLU>(tiles + (step - (N_STAGES - 1)) % N_STAGES *
                                                (MEMORY / N_STAGES / 16),
                                    warp_m, warp_n, c);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        end_rows<SWIGLU>(a, p, p.row + 64 * warp_m + 16 * i, warp_n, c[i], tiles + warp * 64);
}

int gemm_sm80(struct cuda_state *s, const struct gemm_args *a, struct err *e)
{
    const bool swiglu = a->end == GEMM_SWIGLU;
    void (*const kernels[2][2])(const struct gemm_args) = {
        { gemm_mma<false, false>, gemm_mma<false, true> },
        { gemm_mma<true, false>, gemm_mma<true, true> },
    };
    void (*const kernel)(const struct gemm_args) = kernels[a->operand == GEMM_BF16][swiglu];
    int64_t n_tiles = 0;

    for (int i = 0; i < (swiglu ? 1 : a->n_parts); i++)
        n_tiles += ceil_div(a->part[i].n_out, swiglu ? 64 : COLS);
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, MEMORY));
    kernel<<<dim3((unsigned)n_tiles, (unsigned)ceil_div(a->n_rows, ROWS)), N_THREADS, MEMORY,
             s->stream>>>(*a);
    CUDA_LAUNCHED(s, "gemm_mma");
    return 0;
}
