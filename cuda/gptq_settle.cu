/* gptq_settle.cu - GPTQ's loop over columns, to the bit as src/cpu/gptq_columns.c has it.
 *
 * Rows do not depend on one another.  Blocks of 128 columns are settled one after the other, a row
 * a warp: a lane has 4 of the columns in registers, the block of U lies in shared memory; column
 * after column, every lane makes the code of the weight that its owner tells, and takes the error's
 * share from its own.  Then what the errors do to the columns right of the block is one product,
 * N x 128 x rest, whose sums are chains of separate multiplications and additions (the CPU's), on
 * fp32 units: N K^2 operations in all, 2 N K^2 with those of their own that a fused one would have
 * saved.  8192 x 2048: 69 G; bytes are few beside them (the weights, 64 MB, K / 128 times from L2
 * or memory).  */
#include "gptq.cuh"
#include "quantize.cuh"

#define N_WARPS   8 /* rows of a block */
#define LD_ERRORS (N_WARPS + 1)

/* ---- grids; by a warp ---- */

__device__ static float warp_least(float x)
{
    for (int half = 16; half; half /= 2)
        x = fminf(x, __shfl_xor_sync(0xFFFFFFFFu, x, half));
    return x;
}

/* Sum of |error|^mse in order. */
template <typename Get>
__device__ static double shrink_error(const struct gptq_job &a, struct grid g, int n, Get get)
{
    const float most = (float)((1 << a.bits) - 1);
    double sum = 0.0;

    for (int i = 0; i < n; i++) {
        const float x = get(i);
        const float q = clamp_value(rintf(x / g.scale) + (float)g.zero, 0.0f, most);

        sum += pow(fabs((double)(g.scale * (q - (float)g.zero) - x)), a.mse);
    }
    return sum;
}

/* Of the ranges p * (low, high), p = 1, 0.99 ... 0.21, the first with the least error; a lane tries
 * every 32nd. */
template <typename Get>
__device__ static struct grid shrunk_grid(const struct gptq_job &a, struct grid g, float low,
                                          float high, int n, Get get)
{
    const float most = (float)((1 << a.bits) - 1);
    double best = INFINITY;
    int found = INT32_MAX;
    struct grid mine = g;

    for (int i = threadIdx.x % 32; i < 80; i += 32) {
        const float p = (float)(1.0 - (double)i / 100.0);
        struct grid tried = { (p * high - p * low) / most, g.zero };

        if (!(tried.scale > 0.0f))
            break;
        if (!a.sym)
            tried.zero = (int)clamp_value(rintf(-(p * low) / tried.scale), 0.0f, most);
        const double error = shrink_error(a, tried, n, get);
        if (error < best) {
            best = error;
            found = i;
            mine = tried;
        }
    }
    for (int half = 16; half; half /= 2) {
        const double error = __shfl_xor_sync(0xFFFFFFFFu, best, half);
        const int i = __shfl_xor_sync(0xFFFFFFFFu, found, half);
        const float scale = __shfl_xor_sync(0xFFFFFFFFu, mine.scale, half);
        const int zero = __shfl_xor_sync(0xFFFFFFFFu, mine.zero, half);

        if (error < best || (error == best && i < found)) {
            best = error;
            found = i;
            mine = { scale, zero };
        }
    }
    return found == INT32_MAX ? g : mine;
}

template <typename Get>
__device__ static struct grid grid_of_weights(const struct gptq_job &a, float least, float greatest,
                                              int n, Get get)
{
    struct grid g = gptq_grid(a.bits, a.sym, least, greatest);

    if (!(g.scale > 0.0f)) {
        g.scale = 2.0f / (float)((1 << a.bits) - 1);
        return g;
    }
    if (a.mse > 0.0) {
        float low = fminf(least, 0.0f), high = fmaxf(greatest, 0.0f);

        if (a.sym) {
            high = fmaxf(-low, high);
            low = low < 0.0f ? -high : low;
        }
        g = shrunk_grid(a, g, low, high, n, get);
    }
    return g;
}

/* The grid of n numbers, as it is stored; into its place. */
template <typename Get>
__device__ static void make_grid(const struct gptq_job &a, int64_t row, int group, int n, Get get)
{
    float least = get(0), greatest = least;
    struct grid g = {};

    for (int i = threadIdx.x % 32; i < n; i += 32) {
        const float x = get(i);

        least = x < least ? x : least;
        greatest = x > greatest ? x : greatest;
    }
    least = warp_least(least);
    greatest = -warp_least(-greatest);
    if (a.n_values)
        g.scale = fmaxf(-least, greatest);
    else
        g = grid_of_weights(a, least, greatest, n, get);
    if (a.f16_scales)
        g.scale = round_value(DTYPE_F16, g.scale);
    if (!(g.scale > 0.0f)) /* a table's group of zeros, or below fp16's numbers */
        g.scale = a.f16_scales ? 0x1p-24f : 1.0f;
    if (threadIdx.x % 32 == 0) {
        a.scales[row * a.per_row + group] = g.scale;
        a.zeros[row * a.per_row + group] = (uint8_t)g.zero;
    }
}

/* One group a row: of the row as given; static groups: dead columns count as 0. */
__global__ static void __launch_bounds__(32 * N_WARPS)
    gptq_grids(const __grid_constant__ struct gptq_job a)
{
    const int64_t at = (int64_t)blockIdx.x * N_WARPS + threadIdx.x / 32;
    const int64_t row = at / a.per_row, group = at % a.per_row;

    if (row < a.n_out)
        make_grid(a, row, (int)group, a.group_size, [&](int i) {
            const int64_t col = group * a.group_size + i;
            return !a.one_group && a.dead[col] ? 0.0f : gptq_plain(a, row, col);
        });
}

/* ---- a block of columns ---- */

struct settled {
    float value;
    uint8_t code;
};

template <bool TABLE>
__device__ static struct settled code_of(const struct gptq_job &a, float scale, float zero, float x)
{
    const float y = x / scale;

    if (TABLE) {
        int at = 0;

#pragma unroll
        for (int t = 0; t < 15; t++)
            at += y > a.threshold[t];
        return { a.value[at] * scale, a.code[at] };
    }
    const float q = clamp_value(rintf(y) + zero, 0.0f, (float)((1 << a.bits) - 1));
    return { scale * (q - zero), (uint8_t)q };
}

/* Columns of one row: a lane's four. */
struct lane_columns {
    float w[4], scale[4], zero[4], value[4], error[4];
    uint8_t code[4];
};

__device__ static void take_columns(const struct gptq_job &a, int64_t row, int64_t col,
                                    struct lane_columns *l)
{
    const float4 w = *(const float4 *)(a.settled + row * a.ld + col);

    l->w[0] = w.x;
    l->w[1] = w.y;
    l->w[2] = w.z;
    l->w[3] = w.w;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const bool there = col + k < a.n;
        const int64_t at = row * a.per_row + (there ? a.group[col + k] : 0);

        l->scale[k] = there ? a.scales[at] : 1.0f;
        l->zero[k] = there ? (float)a.zeros[at] : 0.0f;
        l->value[k] = l->error[k] = 0.0f;
        l->code[k] = 0;
    }
}

template <bool TABLE>
__device__ static void settle_row(const struct gptq_job &a, const float (*u)[GPTQ_BLOCK],
                                  int n_here, struct lane_columns *l, double *loss)
{
    const int lane = threadIdx.x % 32;

#pragma unroll 1
    for (int at = 0; 4 * at < n_here; at++)
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int i = 4 * at + k;
            const float w = __shfl_sync(0xFFFFFFFFu, l->w[k], at);
            const float scale = __shfl_sync(0xFFFFFFFFu, l->scale[k], at);
            const float zero = __shfl_sync(0xFFFFFFFFu, l->zero[k], at);

            if (i >= n_here)
                return;
            const float own = u[i][i];
            const float4 right = *(const float4 *)&u[i][4 * lane];
            const struct settled q = code_of<TABLE>(a, scale, zero, w);
            const float d = w - q.value, error = d / own;

            *loss += 0.5 * (double)(d * d / (own * own));
            if (lane == at) {
                l->value[k] = q.value;
                l->code[k] = q.code;
                l->error[k] = error;
            }
            l->w[0] -= error * right.x;
            l->w[1] -= error * right.y;
            l->w[2] -= error * right.z;
            l->w[3] -= error * right.w;
        }
}

template <bool TABLE>
__global__ static void __launch_bounds__(32 * N_WARPS)
    gptq_settle(const __grid_constant__ struct gptq_job a, int64_t first)
{
    extern __shared__ float room[];
    float(*u)[GPTQ_BLOCK] = (float(*)[GPTQ_BLOCK])room;
    float(*errors)[LD_ERRORS] = (float(*)[LD_ERRORS])(room + GPTQ_BLOCK * GPTQ_BLOCK);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t row = (int64_t)blockIdx.x * N_WARPS + warp, col = first + 4 * lane;
    const int n_here = (int)(a.n - first < GPTQ_BLOCK ? a.n - first : GPTQ_BLOCK);
    struct lane_columns l = {};

    for (int i = threadIdx.x; i < GPTQ_BLOCK * GPTQ_BLOCK / 4; i += 32 * N_WARPS)
        *(float4 *)&u[i / 32][i % 32 * 4] =
            *(const float4 *)(a.u + (first + i / 32) * a.ld + first + i % 32 * 4);
    if (row < a.n_out && !a.in_advance) {
        /* From weights that hold the feedback of earlier blocks alone. */
        for (int64_t c = (first + a.group_size - 1) / a.group_size * a.group_size;
             c < first + n_here; c += a.group_size)
            make_grid(a, row, a.group[c], a.group_size,
                      [&](int i) { return a.settled[row * a.ld + c + i]; });
        __syncwarp();
    }
    __syncthreads();
    if (row < a.n_out) {
        double loss = first ? a.losses[row] : 0.0;

        take_columns(a, row, col, &l);
        settle_row<TABLE>(a, u, n_here, &l, &loss);
        __syncwarp();
        if (lane == 0)
            a.losses[row] = loss;
        *(float4 *)(a.settled + row * a.ld + col) =
            make_float4(l.value[0], l.value[1], l.value[2], l.value[3]);
        *(uchar4 *)(a.codes + row * a.ld + col) =
            make_uchar4(l.code[0], l.code[1], l.code[2], l.code[3]);
    }
#pragma unroll
    for (int k = 0; k < 4; k++)
        errors[4 * lane + k][warp] = l.error[k];
    __syncthreads();
    for (int i = threadIdx.x; i < GPTQ_BLOCK * N_WARPS; i += 32 * N_WARPS)
        a.errors[i / N_WARPS * a.n_rows + (int64_t)blockIdx.x * N_WARPS + i % N_WARPS] =
            errors[i / N_WARPS][i % N_WARPS];
}

/* ---- what its errors do to the columns right of it ---- */

#define SLICE    16
#define N_STAGES 3

__device__ static void copy_vector(float *to, const float *from)
{
    asm volatile(
        "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((unsigned)__cvta_generic_to_shared(to)),
        "l"(from));
}

/* Errors and U of columns first + k .. of 128 rows, and 128 columns. */
__device__ static void load_slice(const struct gptq_job &a, int64_t first, int k, int64_t row,
                                  int64_t col, float (*to)[2][128])
{
#pragma unroll
    for (int i = 0; i < SLICE; i += 8) {
        const int at = i + threadIdx.x / 32, v = threadIdx.x % 32 * 4;

        copy_vector(&to[at][0][v], a.errors + (k + at) * a.n_rows + row + v);
        copy_vector(&to[at][1][v], a.u + (first + k + at) * a.ld + col + v);
    }
}

/* A thread makes 8 x 8 sums: 4 + 4 rows and 4 + 4 columns, 64 apart. */
__global__ static void __launch_bounds__(256, 2)
    gptq_feed_back(const __grid_constant__ struct gptq_job a, int64_t first)
{
    __shared__ __align__(16) float room[N_STAGES][SLICE][2][128];
    const int64_t row = (int64_t)blockIdx.y * 128;
    const int64_t col = first + GPTQ_BLOCK + (int64_t)blockIdx.x * 128;
    const int y = threadIdx.x / 16 * 4, x = threadIdx.x % 16 * 4;
    float sum[8][8] = {};

    for (int i = 0; i < N_STAGES - 1; i++) {
        load_slice(a, first, i * SLICE, row, col, room[i]);
        asm volatile("cp.async.commit_group;");
    }
#pragma unroll 1
    for (int i = 0; i < GPTQ_BLOCK / SLICE; i++) {
        const int next = i + N_STAGES - 1;

        asm volatile("cp.async.wait_group %0;" ::"n"(N_STAGES - 2));
        __syncthreads();
        if (next < GPTQ_BLOCK / SLICE)
            load_slice(a, first, next * SLICE, row, col, room[next % N_STAGES]);
        asm volatile("cp.async.commit_group;");
#pragma unroll
        for (int k = 0; k < SLICE; k++) {
            float e[8], u[8];

#pragma unroll
            for (int half = 0; half < 2; half++) {
                *(float4 *)&e[4 * half] = *(const float4 *)&room[i % N_STAGES][k][0][y + 64 * half];
                *(float4 *)&u[4 * half] = *(const float4 *)&room[i % N_STAGES][k][1][x + 64 * half];
            }
#pragma unroll
            for (int m = 0; m < 8; m++)
#pragma unroll
                for (int n = 0; n < 8; n++)
                    sum[m][n] += e[m] * u[n];
        }
    }
#pragma unroll
    for (int m = 0; m < 8; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float4 *at =
                (float4 *)(a.settled + (row + y + m / 4 * 64 + m % 4) * a.ld + col + x + 64 * half);
            float4 w = *at;

            w.x -= sum[m][4 * half];
            w.y -= sum[m][4 * half + 1];
            w.z -= sum[m][4 * half + 2];
            w.w -= sum[m][4 * half + 3];
            *at = w;
        }
}

/* ---- all of it ---- */

__global__ static void __launch_bounds__(256) gptq_start(const __grid_constant__ struct gptq_job a)
{
    GRID_STRIDE(i, a.n_rows * a.ld)
    {
        const int64_t row = i / a.ld, c = i % a.ld;
        const bool there = row < a.n_out && c < a.n && !a.dead[a.perm[c]];

        a.settled[i] = there ? gptq_plain(a, row, a.perm[c]) : 0.0f;
    }
}

int cuda_gptq_settle(struct cuda_state *s, const struct gptq_job *job, struct err *e)
{
    void (*const kernel)(const struct gptq_job, int64_t) =
        job->n_values ? gptq_settle<true> : gptq_settle<false>;
    const int memory = (GPTQ_BLOCK * GPTQ_BLOCK + GPTQ_BLOCK * LD_ERRORS) * (int)sizeof(float);

    gptq_start<<<blocks_for(s, job->n_rows * job->ld, 256), 256, 0, s->stream>>>(*job);
    CUDA_LAUNCHED(s, "gptq_start");
    if (job->in_advance) {
        gptq_grids<<<(unsigned)ceil_div(job->n_out * job->per_row, N_WARPS), 32 * N_WARPS, 0,
                     s->stream>>>(*job);
        CUDA_LAUNCHED(s, "gptq_grids");
    }
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, memory));
    for (int64_t first = 0; first < job->n; first += GPTQ_BLOCK) {
        const int64_t rest = job->ld - first - GPTQ_BLOCK;

        kernel<<<(unsigned)(job->n_rows / N_WARPS), 32 * N_WARPS, memory, s->stream>>>(*job, first);
        CUDA_LAUNCHED(s, "gptq_settle");
        if (!rest)
            break;
        gptq_feed_back<<<dim3((unsigned)(rest / 128), (unsigned)(job->n_rows / 128)), 256, 0,
                         s->stream>>>(*job, first);
        CUDA_LAUNCHED(s, "gptq_feed_back");
    }
    return 0;
}
