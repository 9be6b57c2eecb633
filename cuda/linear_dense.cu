/* linear_dense.cu - y = x W^T + bias for weights of every form but LLM.int8; twin of
 * src/cpu/linear.c.
 *
 * Weights that are not plain in the compute dtype are dequantized into scratch first, a part of
 * the rows of W at a time where they are many, and so is x.  Then
 *
 *   fp32        one chain of fused multiply-adds per output, as on the CPU, to the bit
 *   fp16, bf16  tensor cores, mma.m16n8k16 over k = 0, 16, 32, ... into one fp32 accumulator
 *
 * An output sees its row of x, its row of W and the order of k, never the tile it is in or the
 * rows beside it.  So tiles may be chosen by the number of rows, and the bits stay: tests compare
 * batches with memcmp.
 *
 * The decode phase has kernels of its own (linear_decode.cuh), for the weights and shapes they
 * know. */
#include "linear_decode.cuh"
#include "linear_prompt.cuh"
#include "mma.cuh"
#include "tile.cuh"

#define SCRATCH_W_BYTES ((int64_t)256 << 20) /* of dequantized weights at a time */
#define LD_MULTIPLE     8                    /* elements: 16 bytes, for asynchronous copies */
#define BK              64
#define LDS             (BK + 8) /* halves; 144 bytes: eight rows lie in different banks */

struct output {
    void *y;
    const void *bias; /* at the first of these columns; NULL: none */
    enum dtype t, bias_t;
    int64_t ld;
    __device__ void operator()(int64_t row, int64_t col, float sum) const
    {
        if (bias)
            sum += load_value(bias_t, bias, col);
        store_value(t, y, row * ld + col, sum);
    }
};

/* ---- 16 bits ---- */

struct mma_job {
    const uint16_t *x, *w; /* [n_rows, ldx], [n_out, ldw], 16-aligned, ld a multiple of 8 */
    int64_t ldx, ldw, n_rows, n_out, n_k; /* n_k a multiple of 8: zeros behind the last */
    struct output out;
};

/* 16 bytes to shared memory, or zeros. */
__device__ inline void copy_16(uint16_t *to, const uint16_t *from, bool there)
{
    unsigned at = (unsigned)__cvta_generic_to_shared(to);
    int n_bytes = there ? 16 : 0;

    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from),
                 "r"(n_bytes));
}

/* N_ROWS rows of BK elements from column first_k on. */
template <int N_ROWS>
__device__ inline void load_tile(uint16_t (*to)[LDS], const uint16_t *from, int64_t ld,
                                 int64_t first_row, int64_t n_rows, int64_t first_k, int64_t n_k)
{
    for (int i = threadIdx.x; i < N_ROWS * (BK / 8); i += 128) {
        int r = i / (BK / 8);
        int64_t k = first_k + i % (BK / 8) * 8, row = first_row + r;
        bool there = row < n_rows && k < n_k;

        copy_16(&to[r][i % (BK / 8) * 8], there ? from + row * ld + k : from, there);
    }
}

__device__ inline uint32_t pair_at(const uint16_t *p)
{
    return *(const uint32_t *)p;
}

/* BM x (32 NT) outputs by 4 warps; a warp makes 8 NT columns of all rows.  N_STAGES tiles are on
 * their way or in use. */
template <bool BF16, int BM, int NT, int N_STAGES>
__global__ static void __launch_bounds__(128) mma_product(struct mma_job a)
{
    constexpr int BN = 32 * NT, MT = BM / 16;
    __shared__ __align__(16) uint16_t xs[N_STAGES][BM][LDS], ws[N_STAGES][BN][LDS];
    const int64_t first_row = (int64_t)blockIdx.y * BM, first_out = (int64_t)blockIdx.x * BN;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int warp_col = threadIdx.x / 32 * 8 * NT;
    const int64_t n_tiles = (a.n_k + BK - 1) / BK;
    float c[MT][NT][4] = {};

    for (int64_t tile = 0; tile < n_tiles + N_STAGES - 1; tile++) {
        if (tile < n_tiles) {
            load_tile<BM>(xs[tile % N_STAGES], a.x, a.ldx, first_row, a.n_rows, tile * BK, a.n_k);
            load_tile<BN>(ws[tile % N_STAGES], a.w, a.ldw, first_out, a.n_out, tile * BK, a.n_k);
        }
        asm volatile("cp.async.commit_group;");
        if (tile < N_STAGES - 1)
            continue;
        asm volatile("cp.async.wait_group %0;" ::"n"(N_STAGES - 1));
        __syncthreads();
        const int stage = (int)((tile - (N_STAGES - 1)) % N_STAGES);
#pragma unroll
        for (int k = 0; k < BK; k += 16) {
            uint32_t b[NT][2];
#pragma unroll
            for (int j = 0; j < NT; j++) {
                const uint16_t *w = &ws[stage][warp_col + 8 * j + g][k + 2 * t];
                b[j][0] = pair_at(w);
                b[j][1] = pair_at(w + 8);
            }
#pragma unroll
            for (int i = 0; i < MT; i++) {
                const uint16_t *x = &xs[stage][16 * i + g][k + 2 * t];
                const uint32_t rows[4] = { pair_at(x), pair_at(x + 8 * LDS), pair_at(x + 8),
                                           pair_at(x + 8 * LDS + 8) };
#pragma unroll
                for (int j = 0; j < NT; j++)
                    mma_16<BF16>(c[i][j], rows, b[j][0], b[j][1]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
            for (int v = 0; v < 4; v++) {
                int64_t row = first_row + 16 * i + g + v / 2 * 8;
                int64_t col = first_out + warp_col + 8 * j + 2 * t + v % 2;
                if (row < a.n_rows && col < a.n_out)
                    a.out(row, col, c[i][j][v]);
            }
}

template <bool BF16>
static int start_mma(struct cuda_state *s, const struct mma_job *a, struct err *e)
{
    if (a->n_rows <= TILE_FEW_ROWS)
        mma_product<BF16, 16, 1, 4>
            <<<dim3((unsigned)ceil_div(a->n_out, 32), 1), 128, 0, s->stream>>>(*a);
    else
        mma_product<BF16, 64, 2, 2>
            <<<dim3((unsigned)ceil_div(a->n_out, 64), (unsigned)ceil_div(a->n_rows, 64)), 128, 0,
               s->stream>>>(*a);
    CUDA_LAUNCHED(s, BF16 ? "mma_product bf16" : "mma_product fp16");
    return 0;
}

/* ---- both ---- */

/* A matrix in the compute dtype: where it lies, or in scratch. */
struct operand {
    const void *data;
    int64_t ld;
};

static bool fits(const void *data, int64_t ld_bytes)
{
    return (uintptr_t)data % 16 == 0 && ld_bytes % 16 == 0;
}

static int input_rows(struct cuda_state *s, const struct linear_args *a, struct operand *out,
                      struct err *e)
{
    const int64_t n_in = a->w->n_in, n_bytes = (int64_t)dtype_bytes(a->compute);
    const int64_t ld = ceil_div(n_in, LD_MULTIPLE) * LD_MULTIPLE;
    void *to;

    *out = { a->x->data, n_in };
    if (a->x->dtype == a->compute && (a->compute == DTYPE_F32 || fits(out->data, n_in * n_bytes)))
        return 0;
    if (cuda_scratch(s, SCRATCH_X, (size_t)(a->n_rows * ld * n_bytes), &to, e) < 0)
        return -1;
    *out = { to, ld };
    return cuda_copy_rows(s, a->x->data, a->x->dtype, a->n_rows, n_in, to, a->compute, ld, e);
}

static int weight_rows(struct cuda_state *s, const struct linear_args *a, int64_t first, int64_t n,
                       struct operand *out, struct err *e)
{
    const struct weight *w = a->w;
    const int64_t n_bytes = (int64_t)dtype_bytes(a->compute);
    const int64_t ld = ceil_div(w->n_in, LD_MULTIPLE) * LD_MULTIPLE;
    void *to;

    *out = { (const char *)w->codes + first * w->row_bytes, w->row_bytes / n_bytes };
    if (w->form == WEIGHT_PLAIN && w->plain_dtype == a->compute &&
        (a->compute == DTYPE_F32 || fits(out->data, w->row_bytes)))
        return 0;
    if (cuda_scratch(s, SCRATCH_W, (size_t)(n * ld * n_bytes), &to, e) < 0)
        return -1;
    *out = { to, ld };
    return cuda_weight_rows(s, w, first, n, a->compute, to, ld, e);
}

static int product(struct cuda_state *s, const struct linear_args *a, const struct operand *x,
                   const struct operand *w, int64_t first, int64_t n, struct err *e)
{
    const size_t y_bytes = dtype_bytes(a->y->dtype);
    struct output out = { .y = (char *)a->y->data + (size_t)first * y_bytes,
                          .bias = NULL,
                          .t = a->y->dtype,
                          .bias_t = DTYPE_F32,
                          .ld = a->w->n_out };

    if (a->bias) {
        out.bias_t = a->bias->dtype;
        out.bias = (const char *)a->bias->data + (size_t)first * dtype_bytes(out.bias_t);
    }
    if (a->compute == DTYPE_F32) {
        struct tile_job<float> job = {
            (const float *)x->data, (const float *)w->data, x->ld, w->ld, a->n_rows, n, a->w->n_in
        };
        return tile_start(s, &job, out, "tile_product fp32", e);
    }
    /* Both operands have zeros behind a row, or rows of whole vectors. */
    struct mma_job job = { .x = (const uint16_t *)x->data,
                           .w = (const uint16_t *)w->data,
                           .ldx = x->ld,
                           .ldw = w->ld,
                           .n_rows = a->n_rows,
                           .n_out = n,
                           .n_k = ceil_div(a->w->n_in, LD_MULTIPLE) * LD_MULTIPLE,
                           .out = out };
    return a->compute == DTYPE_BF16 ? start_mma<true>(s, &job, e) : start_mma<false>(s, &job, e);
}

/* ---- the decode phase ---- */

static bool decode_fits(const struct linear_args *a, struct decode_linear *out)
{
    /* LLM.int8 there takes every row for a document of its own. */
    if (a->w->form == WEIGHT_INT8 && a->n_rows != (a->segments.n ? a->segments.n : 1))
        return false;
    memset(out, 0, sizeof *out);
    out->epilogue = a->y->dtype == DTYPE_F32 ? DECODE_LOGITS : DECODE_STORE;
    out->n_parts = 1;
    out->w[0] = a->w;
    out->bias[0] = a->bias;
    out->model = a->x->dtype;
    out->compute = a->compute;
    return a->phase == PHASE_DECODE && (a->y->dtype == DTYPE_F32 || a->y->dtype == a->x->dtype) &&
           cuda_linear_decode_fits(out);
}

/* As many rows at a time as the kernels take. */
static int decode_rows(struct cuda_state *s, const struct linear_args *a, struct decode_linear *d,
                       struct err *e)
{
    const size_t x_bytes = (size_t)a->w->n_in * dtype_bytes(a->x->dtype);
    const size_t y_bytes = (size_t)a->w->n_out * dtype_bytes(a->y->dtype);
    void *x = a->x->data;

    if ((uintptr_t)x % 16 &&
        (cuda_scratch(s, SCRATCH_ROWS, (size_t)a->n_rows * x_bytes, &x, e) < 0 ||
         cuda_copy_rows(s, a->x->data, a->x->dtype, a->n_rows, a->w->n_in, x, a->x->dtype,
                        a->w->n_in, e) < 0))
        return -1;
    for (int64_t at = 0; at < a->n_rows; at += DECODE_ROWS_MAX) {
        d->n_rows = a->n_rows - at < DECODE_ROWS_MAX ? a->n_rows - at : DECODE_ROWS_MAX;
        d->x = (const char *)x + (size_t)at * x_bytes;
        d->y[0] = (char *)a->y->data + (size_t)at * y_bytes;
        if (cuda_linear_decode(s, d, e) < 0)
            return -1;
    }
    return 0;
}

int cuda_linear(struct backend *b, const struct linear_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    const struct weight *w = a->w;
    struct decode_linear decode;
    struct operand x, rows;

    if (!a->n_rows)
        return 0;
    if (decode_fits(a, &decode))
        return decode_rows(s, a, &decode, e);
    if (w->form == WEIGHT_INT8)
        return cuda_linear_int8(b, a, e);
    if (linear_prompt_fits(s, a))
        return linear_prompt(s, a, e);

    int64_t at_once =
        SCRATCH_W_BYTES / ((w->n_in + LD_MULTIPLE) * (int64_t)dtype_bytes(a->compute));
    at_once = at_once < 64 ? 64 : at_once / 64 * 64;
    if (a->phase == PHASE_DECODE && w->form != WEIGHT_PLAIN)
        backend_note(b,
                     "decode steps dequantized weights first: their form or shape has no kernel");
    if (input_rows(s, a, &x, e) < 0)
        return err_in(e, "a product of %lld x %lld x %lld", (long long)a->n_rows,
                      (long long)w->n_out, (long long)w->n_in);
    for (int64_t first = 0; first < w->n_out; first += at_once) {
        int64_t n = w->n_out - first < at_once ? w->n_out - first : at_once;

        if (weight_rows(s, a, first, n, &rows, e) < 0 || product(s, a, &x, &rows, first, n, e) < 0)
            return err_in(e, "a product of %lld x %lld x %lld", (long long)a->n_rows,
                          (long long)w->n_out, (long long)w->n_in);
    }
    return 0;
}
