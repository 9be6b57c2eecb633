/* awq_clip.cu - AWQ's ranges on the device: which of ten ranges of a group of weights leaves the
 * least error on the inputs x [T, K]; twin of clip() in src/cpu/awq.c.
 *
 *   1. a team of threads finds the least and greatest weight of a group: the grid of every range
 *      follows from these two, for clamping keeps the order;
 *   2. a block takes 128 rows, one group of columns and one range: D = Q(clamp(w)) - w, then
 *      Y = x D^T in fp32, 128 tokens at a time, and for each row the sum of Y^2;
 *   3. a thread takes a group and the first of the ranges with the least error.
 *
 * Operations: 10 T multiply-adds a weight, whatever the groups: for Llama-3.2-1B and 512 tokens
 * 4.6 * 10^12 in all, 0.15 s of an H200's fp32 units, of which half is reached (no tensor core: the
 * errors of near ranges differ in the fourth digit).  Making D costs 20 operations for every 128
 * multiply-adds.  Bytes: a block reads its part of x from the L2, 256 kB for 8.4 million
 * multiply-adds.
 *
 * The order of every sum is fixed by T and the group size. */
#include "awq.cuh"

#define N_THREADS  256
#define TILE       128 /* rows, and tokens */
#define DEPTH      32  /* columns at a time */
#define LD         (TILE + 4)
#define CLIP_STEPS 10 /* of 1/20 each: to 0.55 of the largest */

struct clip_job {
    struct row_matrix m;
    const float *x; /* [n_tokens, n_in] */
    int n_tokens, bits;
    bool sym;
    float2 *range;  /* [n_groups] least, greatest */
    double *error;  /* [CLIP_STEPS, n_groups] */
    float *largest; /* [n_groups] */
    float *w;       /* m.x, to be clamped */
    int64_t n_groups;
};

__device__ static float range_of_step(float2 range, int step)
{
    return fmaxf(-range.x, range.y) * (float)(1.0 - step / 20.0);
}

/* ---- 1. ---- */

__global__ static void __launch_bounds__(ROW_THREADS)
    find_ranges(const __grid_constant__ struct clip_job a)
{
    __shared__ float shared[ROW_THREADS];
    const struct row_matrix &m = a.m;
    const int64_t row = blockIdx.x;

    for (int first = 0; first < m.per_row; first += ROW_THREADS / m.team) {
        const int group = first + threadIdx.x / m.team;
        const struct row_range r = range_of_group(m, row, group, shared);

        if (group < m.per_row && !(threadIdx.x & (m.team - 1)))
            a.range[row * m.per_row + group] = { r.least, r.greatest };
    }
}

/* ---- 2. ---- */

/* How a row's weights are rounded under one range. */
struct row_grid {
    float most, scale, zero, high;
};

struct clip_tiles {
    float x[DEPTH][LD], d[DEPTH][LD];
    struct row_grid grid[TILE];
    double error[TILE]; /* of a row */
};

/* A warp reads the same four columns of 32 rows, so that it writes to 32 banks. */
template <typename Value> __device__ static void fill_tile(float (&tile)[DEPTH][LD], Value value)
{
    const int col = threadIdx.x / 32 * 4, lane = threadIdx.x % 32;

#pragma unroll
    for (int k = 0; k < TILE / 32; k++) {
        const int row = 32 * k + lane;
        const float4 v = value(row, col);

        tile[col][row] = v.x;
        tile[col + 1][row] = v.y;
        tile[col + 2][row] = v.z;
        tile[col + 3][row] = v.w;
    }
}

/* Four numbers of a row; what is not there is 0. */
__device__ static float4 load_four(const float *p, int n, bool aligned)
{
    if (n >= 4 && aligned)
        return *(const float4 *)p;
    return { n > 0 ? p[0] : 0.0f, n > 1 ? p[1] : 0.0f, n > 2 ? p[2] : 0.0f, n > 3 ? p[3] : 0.0f };
}

__device__ static float error_of(const struct row_grid &g, float w)
{
    const float x = clamp_value(w, -g.most, g.most);

    return awq_code(x, g.scale, g.zero, g.high) * g.scale - w;
}

__device__ static float4 error_of_four(const struct row_grid &g, float4 w, int n)
{
    return { n > 0 ? error_of(g, w.x) : 0.0f, n > 1 ? error_of(g, w.y) : 0.0f,
             n > 2 ? error_of(g, w.z) : 0.0f, n > 3 ? error_of(g, w.w) : 0.0f };
}

/* y[i][j] of a thread: rows 4 ty + i (and 64 more for i > 3), tokens 4 tx + j likewise. */
__device__ static void multiply_tiles(const struct clip_tiles &s, int tx, int ty, float (&y)[8][8])
{
#pragma unroll 8
    for (int k = 0; k < DEPTH; k++) {
        const float4 d0 = *(const float4 *)&s.d[k][4 * ty];
        const float4 d1 = *(const float4 *)&s.d[k][4 * ty + 64];
        const float4 x0 = *(const float4 *)&s.x[k][4 * tx];
        const float4 x1 = *(const float4 *)&s.x[k][4 * tx + 64];
        const float d[8] = { d0.x, d0.y, d0.z, d0.w, d1.x, d1.y, d1.z, d1.w };
        const float x[8] = { x0.x, x0.y, x0.z, x0.w, x1.x, x1.y, x1.z, x1.w };

#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int j = 0; j < 8; j++)
                y[i][j] = fmaf(d[i], x[j], y[i][j]);
    }
}

/* Of the tokens of a tile: 8 a thread, then those of 16 threads. */
__device__ static void add_squares(struct clip_tiles &s, int tx, int ty, const float (&y)[8][8])
{
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float squares = 0;

#pragma unroll
        for (int j = 0; j < 8; j++)
            squares = fmaf(y[i][j], y[i][j], squares);
        for (int half = 8; half; half /= 2)
            squares += __shfl_xor_sync(0xFFFFFFFFu, squares, half);
        if (tx == 0)
            s.error[4 * ty + i % 4 + i / 4 * 64] += (double)squares;
    }
}

__global__ static void __launch_bounds__(N_THREADS, 2)
    clip_errors(const __grid_constant__ struct clip_job a)
{
    __shared__ struct clip_tiles s;
    const struct row_matrix &m = a.m;
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    const int group = blockIdx.x % m.per_row, step = blockIdx.z;
    const int64_t first_row = (int64_t)(blockIdx.x / m.per_row) * TILE;
    const int begin = group * m.group_size, end = begin + m.group_size;
    const bool aligned = m.eights;

    if (threadIdx.x < TILE)
        s.error[threadIdx.x] = 0;
    if (threadIdx.x < TILE && first_row + threadIdx.x < m.n_out) {
        const float2 range = a.range[(first_row + threadIdx.x) * m.per_row + group];
        const float most = range_of_step(range, step);
        const struct grid g =
            grid_of(QUANTIZE_GRID_AWQ, a.bits, a.sym, clamp_value(range.x, -most, most),
                    clamp_value(range.y, -most, most));
        s.grid[threadIdx.x] = { most, g.scale, (float)g.zero, (float)((1 << a.bits) - 1) };
    }
    for (int token = 0; token < a.n_tokens; token += TILE) {
        float y[8][8] = {};

        for (int col = begin; col < end; col += DEPTH) {
            __syncthreads();
            fill_tile(s.x, [&](int row, int k) {
                const int n = token + row < a.n_tokens ? end - col - k : 0;
                return load_four(a.x + (int64_t)(token + row) * m.n_in + col + k, n, aligned);
            });
            fill_tile(s.d, [&](int row, int k) {
                const int n = first_row + row < m.n_out ? end - col - k : 0;
                const float4 w = load_four(a.w + (first_row + row) * m.n_in + col + k, n, aligned);
                return error_of_four(s.grid[row], w, n);
            });
            __syncthreads();
            multiply_tiles(s, tx, ty, y);
        }
        add_squares(s, tx, ty, y);
    }
    __syncthreads();
    const int64_t row = first_row + threadIdx.x;
    if (threadIdx.x < TILE && row < m.n_out)
        a.error[step * a.n_groups + row * m.per_row + group] =
            s.error[threadIdx.x] / (double)a.n_tokens;
}

/* ---- 3. ---- */

__global__ static void __launch_bounds__(N_THREADS)
    choose_ranges(const __grid_constant__ struct clip_job a)
{
    GRID_STRIDE(k, a.n_groups)
    {
        double least = 1e9;
        float best = range_of_step(a.range[k], 0);

        for (int step = 0; step < CLIP_STEPS; step++) {
            const double error = a.error[step * a.n_groups + k];

            if (error < least) {
                least = error;
                best = range_of_step(a.range[k], step);
            }
        }
        a.largest[k] = best;
    }
}

__global__ static void __launch_bounds__(N_THREADS)
    clamp_weights(const __grid_constant__ struct clip_job a)
{
    GRID_STRIDE(i, a.m.n_out * a.m.n_in)
    {
        const int64_t row = i / a.m.n_in;
        const int col = (int)(i - row * a.m.n_in);
        const float most = a.largest[row * a.m.per_row + col / a.m.group_size];

        a.w[i] = clamp_value(a.w[i], -most, most);
    }
}

int cuda_awq_clip(struct backend *b, const struct awq_clip_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    struct clip_job job = { .m = awq_matrix(a->w, a->form.group_size),
                            .x = (const float *)a->x->data,
                            .n_tokens = (int)a->n_rows,
                            .bits = a->form.bits,
                            .sym = !a->form.zero_point,
                            .range = NULL,
                            .error = NULL,
                            .largest = a->largest,
                            .w = (float *)a->w->data,
                            .n_groups = a->w->n_rows * (a->w->n_cols / a->form.group_size) };
    const int64_t n = a->w->n_rows * a->w->n_cols;
    const unsigned n_tiles = (unsigned)(ceil_div(a->w->n_rows, TILE) * job.m.per_row);
    void *room;

    if (cuda_scratch(s, SCRATCH_ROWS,
                     (size_t)job.n_groups * (CLIP_STEPS * sizeof(double) + sizeof(float2)), &room,
                     e) < 0)
        return -1;
    job.error = (double *)room;
    job.range = (float2 *)(job.error + CLIP_STEPS * job.n_groups);
    job.m.eights = job.m.eights && (uintptr_t)a->x->data % 16 == 0;
    find_ranges<<<(unsigned)a->w->n_rows, ROW_THREADS, 0, s->stream>>>(job);
    CUDA_LAUNCHED(s, "find_ranges");
    clip_errors<<<dim3(n_tiles, 1, CLIP_STEPS), N_THREADS, 0, s->stream>>>(job);
    CUDA_LAUNCHED(s, "clip_errors");
    choose_ranges<<<blocks_for(s, job.n_groups, N_THREADS), N_THREADS, 0, s->stream>>>(job);
    CUDA_LAUNCHED(s, "choose_ranges");
    clamp_weights<<<blocks_for(s, n, N_THREADS), N_THREADS, 0, s->stream>>>(job);
    CUDA_LAUNCHED(s, "clamp_weights");
    return 0;
}
