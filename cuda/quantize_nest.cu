/* quantize_nest.cu - scales quantized again: bitsandbytes' double quantization (SCALE_NESTED) and
 * everybody else's (SCALE_U8), of several matrices in one launch; twin of pack_scales() in
 * src/cpu/pack.c.
 *
 * A warp takes a run of 256 scales, 8 a lane.  The 8-bit map is logarithmic: the leading bits of
 * |x| name a cell that holds at most one midpoint of neighbouring values, so one comparison with
 * it gives the nearest value.  4 bytes in and 1 out a scale.  */
#include "quantize.cuh"

#include <stdlib.h>

#define N_THREADS  256
#define N_WARPS    (N_THREADS / 32)
#define BLOCK_RUNS (4 * N_WARPS)
#define N_PER_LANE (WEIGHT_NESTED_RUN / 32)
#define N_POSITIVE 128 /* values of the map above 0, at indices 128 .. 255 */
#define INDEX_OF_0 127
#define CELL_SHIFT 17                            /* 6 bits of the mantissa */
#define CELL_FIRST ((127 - 22) << 6)             /* of 2^-22, below half the smallest value */
#define N_CELLS    ((127 << 6) + 1 - CELL_FIRST) /* up to that of 1 */

struct nest_table {
    float between[N_POSITIVE + 1];        /* [j]: midpoint of values j and j + 1, value 0 being 0 */
    uint8_t value[(N_CELLS + 3) / 4 * 4]; /* of the least number of a cell */
};

struct nest_table *cuda_nest_table_open(struct err *e)
{
    struct nest_table *t = (struct nest_table *)calloc(1, sizeof *t), *device = NULL;
    cudaError_t rc = cudaErrorMemoryAllocation;

    for (int j = 0; t && j < N_POSITIVE; j++)
        t->between[j] =
            (weight_dynamic_map[INDEX_OF_0 + j] + weight_dynamic_map[INDEX_OF_0 + j + 1]) * 0.5f;
    if (t)
        t->between[N_POSITIVE] = INFINITY;
    for (int i = 0, j = 0; t && i < N_CELLS; i++) {
        uint32_t bits = (uint32_t)(CELL_FIRST + i) << CELL_SHIFT;
        float least;

        memcpy(&least, &bits, sizeof least);
        while (t->between[j] < least)
            j++;
        t->value[i] = (uint8_t)j;
    }
    if (t)
        rc = cudaMalloc((void **)&device, sizeof *t);
    if (rc == cudaSuccess)
        rc = cudaMemcpy(device, t, sizeof *t, cudaMemcpyHostToDevice);
    free(t);
    if (rc == cudaSuccess)
        return device;
    err_set(e, cuda_err_code(rc), "the map of nested scales: %s", cudaGetErrorString(rc));
    return NULL;
}

/* As codebook_nearest(): a tie takes the even index, a NaN index 0. */
__device__ static uint32_t nearest(const struct nest_table &t, float x)
{
    const float size = fabsf(x);
    const int cell = (int)(__float_as_uint(size) >> CELL_SHIFT) - CELL_FIRST;
    int j = t.value[cell < 0 ? 0 : cell < N_CELLS ? cell : N_CELLS - 1];
    const float between = t.between[j];

    if (size > between || (size == between && j % 2 == 0))
        j++;
    if (x < 0.0f)
        return (uint32_t)(INDEX_OF_0 - (j < INDEX_OF_0 ? j : INDEX_OF_0));
    return x >= 0.0f ? (uint32_t)(INDEX_OF_0 + j) : 0;
}

/* Largest magnitude of a run. */
__device__ static float run_absmax(const float (&x)[N_PER_LANE])
{
    float most = 0;

#pragma unroll
    for (int i = 0; i < N_PER_LANE; i++)
        most = fmaxf(most, fabsf(x[i]));
    for (int half = 16; half; half /= 2)
        most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, half));
    return most;
}

/* The mean in double, in an order fixed by the number of sums, rounded once. */
__device__ static float mean_of(const struct nest_part &p)
{
    __shared__ float mean;
    double sum = 0;

    for (int64_t i = threadIdx.x; i < p.n_sums; i += N_THREADS)
        sum += p.sums[i];
    sum = block_sum<N_THREADS>(sum);
    if (threadIdx.x == 0)
        mean = (float)(sum / (double)p.n);
    __syncthreads();
    return mean;
}

__device__ static int64_t place_of(const struct nest_part &p, int64_t at)
{
    const unsigned row = (unsigned)at / p.groups_per_row;

    return arranged_group(row, (unsigned)at - row * p.groups_per_row, p.groups_per_row);
}

/* Four codes of a lane go out as a word, where they stay in order. */
template <typename Code>
__device__ static void store_run(const struct nest_part &p, int64_t first, Code code)
{
#pragma unroll
    for (int i = 0; i < N_PER_LANE; i += 4) {
        int64_t at = first + 32 * i + threadIdx.x % 32 * 4;

        if (at + 4 <= p.n && !p.groups_per_row)
            *(uint32_t *)(p.codes + at) =
                code(i) | code(i + 1) << 8 | code(i + 2) << 16 | code(i + 3) << 24;
        else
#pragma unroll
            for (int k = 0; k < 4; k++)
                if (at + k < p.n)
                    p.codes[p.groups_per_row ? place_of(p, at + k) : at + k] = (uint8_t)code(i + k);
    }
}

template <enum scale_form FORM>
__global__ static void __launch_bounds__(N_THREADS) nest(const __grid_constant__ nest_batch a)
{
    __shared__ struct nest_table table;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int which = 0;
    float offset = 0;

    while (which + 1 < a.n_parts && a.part[which + 1].first_block <= blockIdx.x)
        which++;
    const struct nest_part &p = a.part[which];
    const int64_t block = blockIdx.x - p.first_block;
    if (FORM == SCALE_NESTED) {
        for (int i = threadIdx.x; i < (int)(sizeof table / 4); i += N_THREADS)
            ((uint32_t *)&table)[i] = ((const uint32_t *)a.table)[i];
        offset = mean_of(p);
        if (block == 0 && threadIdx.x == 0)
            p.answer->quantized.offset = offset;
    }
    for (int k = 0; k < BLOCK_RUNS; k += N_WARPS) {
        const int64_t run = block * BLOCK_RUNS + k + warp, first = run * WEIGHT_NESTED_RUN;
        float x[N_PER_LANE];

        if (first >= p.n)
            break;
#pragma unroll
        for (int i = 0; i < N_PER_LANE; i++) {
            int64_t at = first + i / 4 * 128 + lane * 4 + i % 4;
            x[i] = at < p.n ? p.scales[at] - offset : 0.0f;
        }
        float most = run_absmax(x);
        if (FORM == SCALE_NESTED) {
            float r = approximate_reciprocal(most);
            store_run(p, first, [&](int i) { return nearest(table, multiply_ftz(x[i], r)); });
        } else {
            most /= 127.0f;
            if (!(most > 0.0f))
                most = 1.0f;
            store_run(p, first, [&](int i) { return (uint32_t)fminf(rintf(x[i] / most), 255.0f); });
        }
        if (lane == 0)
            p.scales2[run] = most;
    }
}

int cuda_nest(struct cuda_state *s, struct nest_batch *a, enum scale_form form, struct err *e)
{
    unsigned n_blocks = 0;

    a->table = s->nest_table;
    for (int i = 0; i < a->n_parts; i++) {
        a->part[i].first_block = n_blocks;
        n_blocks += (unsigned)ceil_div(a->part[i].n, BLOCK_RUNS * WEIGHT_NESTED_RUN);
    }
    if (form == SCALE_NESTED)
        nest<SCALE_NESTED><<<n_blocks, N_THREADS, 0, s->stream>>>(*a);
    else
        nest<SCALE_U8><<<n_blocks, N_THREADS, 0, s->stream>>>(*a);
    CUDA_LAUNCHED(s, "nest");
    return 0;
}

int cuda_nest_one(struct cuda_state *s, const float *scales, const double *sums,
                  const struct weight *w, union cuda_answer *answer, struct err *e)
{
    struct nest_batch batch;

    batch.n_parts = 1;
    batch.part[0] = { .scales = scales,
                      .sums = sums,
                      .n = w->n_groups,
                      .n_sums = ceil_div(w->n_groups, WEIGHT_NESTED_RUN),
                      .codes = (uint8_t *)w->scales,
                      .scales2 = (float *)w->scales2,
                      .answer = answer,
                      .groups_per_row = 0,
                      .first_block = 0 };
    return cuda_nest(s, &batch, w->scale_form, e);
}
