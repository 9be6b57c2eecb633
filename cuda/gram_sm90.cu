/* gram_sm90.cu - x^T x of 16-bit rows with Hopper's products (wgmma).
 *
 * Tiles of 128 x 128 would have L2 give 64 bytes a clock to each multiprocessor, which it does not:
 * here a cluster of two blocks makes 256 x 256 elements at or above the diagonal, 128 x 256 a
 * block, and what both need, 256 columns of x, each brings half of and the copy engine delivers to
 * both. Rows of x, 64 at a time, go round a ring in shared memory as they lie outside, 64 columns
 * (128 bytes) a panel, swizzled; both operands are read turned around, straight from there.  One
 * thread keeps the copy engine busy, two warpgroups multiply 64 columns each with 256.
 *
 * 2048 rows of 8192: 1.1 GB through L2 to the multiprocessors (2.1 with tiles of 128 x 128) and 0.8
 * GB of h, 0.29 ms on an H200 (gram.cu's: 0.47).  */
#include "gemm_sm90.cuh"
#include "gram.cuh"

#include <cudaTypedefs.h>

#define STEP       64 /* rows of x */
#define PANEL      (STEP * 128)
#define SIDE       256 /* elements of h that a cluster makes, both ways */
#define LEFT       (2 * PANEL)
#define STAGE      (LEFT + 4 * PANEL)
#define N_STAGES   4
#define N_WARPS    8 /* that multiply, behind a warpgroup of which one thread copies */
#define N_THREADS  (32 * N_WARPS + 128)
#define MEMORY     (N_STAGES * STAGE + 1024) /* to be aligned to 1024 */
#define IN_CLUSTER 2

struct gram_sm90_job {
    CUtensorMap x;
    struct gram_job a;
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* A panel whose rows are steps of k; the next 64 columns lie in the next panel. */
__device__ static uint64_t panel_descriptor(uint32_t at)
{
    return (uint64_t)(at >> 4 & 0x3FFF) | (uint64_t)(PANEL >> 4) << 16 |
           (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

template <bool BF16>
__device__ static void multiply_turned(float (&c)[128], uint64_t a, uint64_t b, int more)
{
    if constexpr (BF16)
        WGMMA("m64n256k16.f32.bf16.bf16", NAMES_N128, 128, 129, 130, ", 1, 1, 1, 1",
              SUMS_N128(AS_FLOAT));
    else
        WGMMA("m64n256k16.f32.f16.f16", NAMES_N128, 128, 129, 130, ", 1, 1, 1, 1",
              SUMS_N128(AS_FLOAT));
}

/* One thread: its own columns of the left side, and for both blocks half of the right side's. */
__device__ static void fill_ring(const struct gram_sm90_job &job, struct gemm_ring r, int left,
                                 int right, int rank, int n_steps)
{
    fetch_map(&job.x);
    for (int step = 0; step < n_steps; step++) {
        const uint32_t at = r.data + r.stage * STAGE, full = r.full + 8 * r.stage;

        barrier_wait_cluster(r.empty + 8 * r.stage, r.parity ^ 1);
        barrier_expect(full, STAGE);
        for (int i = 0; i < 2; i++) {
            const int panel = 2 * rank + i;

            copy_box(&job.x, left + 64 * i, step * STEP, at + i * PANEL, full);
            copy_box_to(&job.x, right + 64 * panel, step * STEP, at + LEFT + panel * PANEL, full,
                        (1 << IN_CLUSTER) - 1);
        }
        advance<N_STAGES>(r);
    }
}

/* A lane each tells this block and the other that the place is free. */
__device__ static void free_place(uint32_t give, int stage)
{
    if (threadIdx.x % 32 < IN_CLUSTER)
        barrier_arrive_there(give + 8 * stage);
}

template <bool BF16>
__device__ static void empty_ring(struct gemm_ring r, int n_steps, float (&c)[128])
{
    const int warpgroup = threadIdx.x / 128 - 1;
    int last = 0;

    for (int step = 0; step < n_steps; step++) {
        const uint32_t at = r.data + r.stage * STAGE;

        barrier_wait(r.full + 8 * r.stage, r.parity);
        products_begin();
#pragma unroll
        for (int k = 0; k < STEP / 16; k++)
            multiply_turned<BF16>(c, panel_descriptor(at + warpgroup * PANEL + k * 2048),
                                  panel_descriptor(at + LEFT + k * 2048), step | k);
        products_commit();
        if (step > 0) { /* those of the step before are through */
            products_wait<1>();
            free_place(r.give, last);
        }
        last = r.stage;
        advance<N_STAGES>(r);
    }
    products_wait<0>();
    products_done(c);
}

/* 16 rows of 256 columns. */
__device__ static void end_block(const struct gram_job &a, int row, int col, const float (&c)[128])
{
    const int lane = threadIdx.x % 32;

#pragma unroll
    for (int first = 0; first < 128; first += 32) {
        float part[8][4];

#pragma unroll
        for (int i = 0; i < 32; i++)
            part[i / 4][i % 4] = c[first + i];
        gram_end_rows(a, row + lane / 4, col + first * 2 + lane % 4 * 2, part);
    }
}

#endif

/* Other architectures have a kernel without contents. */
template <bool BF16>
__global__ static void __launch_bounds__(N_THREADS, 1)
    gram_wgmma(const __grid_constant__ struct gram_sm90_job job)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ uint8_t memory[];
    __shared__ uint64_t barriers[2 * N_STAGES];
    const struct half_place p = half_place_at(blockIdx.x / IN_CLUSTER);
    const int rank = (int)cluster_rank(), n_steps = (int)((job.a.n_rows + STEP - 1) / STEP);
    const int row = p.minor * SIDE + rank * (SIDE / IN_CLUSTER), col = p.major * SIDE;
    const uint32_t full = shared_address(barriers), empty = full + 8 * N_STAGES;
    const struct gemm_ring r = { .data = shared_address(memory) + (-shared_address(memory) & 1023),
                                 .full = full,
                                 .empty = empty,
                                 .give = shared_of(empty, threadIdx.x % IN_CLUSTER),
                                 .stage = 0,
                                 .parity = 0,
                                 .alone = false };

    if (threadIdx.x == 0) {
        for (int i = 0; i < N_STAGES; i++) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, IN_CLUSTER * N_WARPS);
        }
        barriers_made();
    }
    __syncthreads();
    cluster_meet();
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
        if (threadIdx.x == 0)
            fill_ring(job, r, row, col, rank, n_steps);
        __syncwarp();
        cluster_meet();
    } else {
        float c[128];

        asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
        empty_ring<BF16>(r, n_steps, c);
        cluster_meet(); /* nobody tells the other block anything any more */
        end_block(job.a, row + (threadIdx.x / 32 - 4) * 16, col, c);
    }
#endif
}

static int make_map(const struct gram_job *a, enum dtype t, CUtensorMap *out, struct err *e)
{
    const CUtensorMapDataType type =
        t == DTYPE_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    const cuuint64_t size[2] = { (cuuint64_t)a->n_cols, (cuuint64_t)a->n_rows };
    const cuuint64_t stride[1] = { (cuuint64_t)a->n_cols * 2 };
    const cuuint32_t box[2] = { 64, STEP }, every[2] = { 1, 1 };
    PFN_cuTensorMapEncodeTiled_v12000 encode = NULL;

    if (gemm_sm90_encoder(&encode, e) < 0)
        return -1;
    CUresult rc = encode(out, type, 2, (void *)a->x, size, stride, box, every,
                         CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                         CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (rc != CUDA_SUCCESS)
        return err_set(e, ERR_DEVICE,
                       "the copy engine takes no rows of %lld x %lld at %p (CUDA "
                       "error %d)",
                       (long long)a->n_rows, (long long)a->n_cols, a->x, (int)rc);
    return 0;
}

int cuda_gram_sm90(struct cuda_state *s, const struct gram_job *a, enum dtype t, struct err *e)
{
    void (*const kernel)(const struct gram_sm90_job) =
        t == DTYPE_BF16 ? gram_wgmma<true> : gram_wgmma<false>;
    const int64_t n = ceil_div(a->n_cols, SIDE);
    struct gram_sm90_job job = {};
    cudaLaunchAttribute how = {};
    cudaLaunchConfig_t config = {};

    job.a = *a;
    if (make_map(a, t, &job.x, e) < 0)
        return -1;
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, MEMORY));
    how.id = cudaLaunchAttributeClusterDimension;
    how.val.clusterDim.x = IN_CLUSTER;
    how.val.clusterDim.y = how.val.clusterDim.z = 1;
    config.gridDim = dim3((unsigned)(n * (n + 1) / 2 * IN_CLUSTER));
    config.blockDim = dim3(N_THREADS);
    config.dynamicSmemBytes = MEMORY;
    config.stream = s->stream;
    config.attrs = &how;
    config.numAttrs = 1;
    CUDA_TRY(cudaLaunchKernelEx(&config, kernel, job));
    s->last_kernel = "gram_wgmma";
    return 0;
}
