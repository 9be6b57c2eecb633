/* elementwise.cu - operations whose elements know nothing of each other; twin of
 * src/cpu/elementwise.c, to the bit.
 *
 * Bound by memory: where addresses allow it, a thread moves eight elements at a time, in pieces of
 * 16 bytes, several of them under way at once.  The kernels for single elements take the rest. */
#include "eight.cuh"

#define N_THREADS 256
#define AT_ONCE   4 /* eights of a thread under way */

/* Same type: the bytes, so that a NaN keeps its payload. */
__device__ static void copy_value(enum dtype from, const void *x, int64_t i, enum dtype to,
                                  void *out, int64_t j)
{
    if (from != to)
        store_value(to, out, j, load_value(from, x, i));
    else if (from == DTYPE_F32)
        ((uint32_t *)out)[j] = ((const uint32_t *)x)[i];
    else
        ((uint16_t *)out)[j] = ((const uint16_t *)x)[i];
}

/* Row r of out is row rows[r] of x; rows NULL: row r. */
__global__ static void copy_rows(const void *x, enum dtype from, const int32_t *rows,
                                 int64_t n_rows, int64_t n_cols, void *out, enum dtype to,
                                 int64_t ld)
{
    GRID_STRIDE(i, n_rows * ld)
    {
        int64_t row = i / ld, col = i % ld;
        int64_t from_row = rows ? rows[row] : row;

        if (col < n_cols)
            copy_value(from, x, from_row * n_cols + col, to, out, i);
        else
            store_value(to, out, i, 0.0f);
    }
}

/* Rows of n_eights eights. */
template <enum dtype FROM, enum dtype TO>
__global__ static void copy_eights(const void *x, const int32_t *rows, int64_t n_eights, void *out)
{
    const int64_t to = blockIdx.x * n_eights;
    const int64_t from = (rows ? rows[blockIdx.x] : blockIdx.x) * n_eights;

    for (int64_t i = threadIdx.x; i < n_eights; i += N_THREADS) {
        if constexpr (FROM == TO)
            store_raw<TO>(out, to + i, load_raw<FROM>(x, from + i));
        else
            store_eight<TO>(out, to + i, load_eight<FROM>(x, from + i));
    }
}

/* n_eights eights, one behind the other. */
template <enum dtype FROM, enum dtype TO>
__global__ static void convert_eights(const void *x, int64_t n_eights, void *out)
{
    const int64_t first = (int64_t)blockIdx.x * N_THREADS * AT_ONCE + threadIdx.x;
    struct raw_eight<FROM> here[AT_ONCE];

#pragma unroll
    for (int k = 0; k < AT_ONCE; k++)
        if (first + k * N_THREADS < n_eights)
            here[k] = load_raw<FROM>(x, first + k * N_THREADS);
#pragma unroll
    for (int k = 0; k < AT_ONCE; k++)
        if (first + k * N_THREADS < n_eights)
            store_eight<TO>(out, first + k * N_THREADS, values_of(here[k]));
}

struct copy_kernels {
    void (*rows)(const void *, const int32_t *, int64_t, void *);
    void (*flat)(const void *, int64_t, void *);
};

template <enum dtype FROM> static struct copy_kernels copy_to(enum dtype to)
{
    if (to == DTYPE_F16)
        return { copy_eights<FROM, DTYPE_F16>, convert_eights<FROM, DTYPE_F16> };
    if (to == DTYPE_BF16)
        return { copy_eights<FROM, DTYPE_BF16>, convert_eights<FROM, DTYPE_BF16> };
    return { copy_eights<FROM, DTYPE_F32>, convert_eights<FROM, DTYPE_F32> };
}

static struct copy_kernels copy_of(enum dtype from, enum dtype to)
{
    return from == DTYPE_F16    ? copy_to<DTYPE_F16>(to)
           : from == DTYPE_BF16 ? copy_to<DTYPE_BF16>(to)
                                : copy_to<DTYPE_F32>(to);
}

/* Rows without gaps. */
static int start_eights(struct cuda_state *s, const void *x, enum dtype from, const int32_t *rows,
                        int64_t n_rows, int64_t n_cols, void *out, enum dtype to, struct err *e)
{
    const struct copy_kernels kernel = copy_of(from, to);
    const int64_t n_eights = n_rows * n_cols / 8;

    if (from == to && !rows) {
        CUDA_TRY(cudaMemcpyAsync(out, x, (size_t)(n_rows * n_cols) * dtype_bytes(to),
                                 cudaMemcpyDeviceToDevice, s->stream));
        return 0;
    }
    if (rows)
        kernel.rows<<<(unsigned)n_rows, N_THREADS, 0, s->stream>>>(x, rows, n_cols / 8, out);
    else
        kernel.flat<<<(unsigned)ceil_div(n_eights, N_THREADS * AT_ONCE), N_THREADS, 0, s->stream>>>(
            x, n_eights, out);
    CUDA_LAUNCHED(s, "copy_eights");
    return 0;
}

static int start_copy(struct cuda_state *s, const void *x, enum dtype from, const int32_t *rows,
                      int64_t n_rows, int64_t n_cols, void *out, enum dtype to, int64_t ld,
                      struct err *e)
{
    if (n_rows * ld == 0)
        return 0;
    if (ld == n_cols && (rows ? n_cols : n_rows * n_cols) % 8 == 0 && aligned_16(x) &&
        aligned_16(out))
        return start_eights(s, x, from, rows, n_rows, n_cols, out, to, e);
    copy_rows<<<blocks_for(s, n_rows * ld, N_THREADS), N_THREADS, 0, s->stream>>>(
        x, from, rows, n_rows, n_cols, out, to, ld);
    CUDA_LAUNCHED(s, "copy_rows");
    return 0;
}

int cuda_copy_rows(struct cuda_state *s, const void *x, enum dtype from, int64_t n_rows,
                   int64_t n_cols, void *out, enum dtype to, int64_t ld, struct err *e)
{
    return start_copy(s, x, from, NULL, n_rows, n_cols, out, to, ld, e);
}

int cuda_embed(struct backend *b, const struct embed_args *a, struct err *e)
{
    return start_copy(cuda_state_of(b), a->table->data, a->table->dtype, a->ids, a->n_rows,
                      a->out->n_cols, a->out->data, a->out->dtype, a->out->n_cols, e);
}

int cuda_gather(struct backend *b, const struct gather_args *a, struct err *e)
{
    return start_copy(cuda_state_of(b), a->x->data, a->x->dtype, a->rows, a->n_rows, a->out->n_cols,
                      a->out->data, a->out->dtype, a->out->n_cols, e);
}

int cuda_convert(struct backend *b, const struct convert_args *a, struct err *e)
{
    return start_copy(cuda_state_of(b), a->x->data, a->x->dtype, NULL, a->x->n_rows, a->x->n_cols,
                      a->out->data, a->out->dtype, a->x->n_cols, e);
}

__global__ static void add(enum dtype t, void *x, const void *y, int64_t n)
{
    GRID_STRIDE(i, n)
    store_value(t, x, i, load_value(t, x, i) + load_value(t, y, i));
}

template <enum dtype T> __global__ static void add_eights(void *x, const void *y, int64_t n_eights)
{
    GRID_STRIDE(i, n_eights)
    {
        struct eight a = load_eight<T>(x, i), b = load_eight<T>(y, i);

#pragma unroll
        for (int k = 0; k < 8; k++)
            a.x[k] += b.x[k];
        store_eight<T>(x, i, a);
    }
}

int cuda_add(struct backend *b, const struct add_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    const int64_t n = a->n_rows * a->x->n_cols;
    const enum dtype t = a->x->dtype;

    if (!n)
        return 0;
    if (n % 8 == 0 && aligned_16(a->x->data) && aligned_16(a->y->data)) {
        auto *kernel = t == DTYPE_F16    ? add_eights<DTYPE_F16>
                       : t == DTYPE_BF16 ? add_eights<DTYPE_BF16>
                                         : add_eights<DTYPE_F32>;
        kernel<<<blocks_for(s, n / 8, N_THREADS), N_THREADS, 0, s->stream>>>(a->x->data, a->y->data,
                                                                             n / 8);
    } else {
        add<<<blocks_for(s, n, N_THREADS), N_THREADS, 0, s->stream>>>(t, a->x->data, a->y->data, n);
    }
    CUDA_LAUNCHED(s, "add");
    return 0;
}

__device__ static inline float silu(float x)
{
    return x / (1.0f + exp_value(-x));
}

__global__ static void swiglu(enum dtype t, const void *gate, const void *up, void *out, int64_t n)
{
    GRID_STRIDE(i, n)
    {
        float x = round_value(t, silu(load_value(t, gate, i)));
        store_value(t, out, i, x * load_value(t, up, i));
    }
}

template <enum dtype T>
__global__ static void swiglu_eights(const void *gate, const void *up, void *out, int64_t n_eights)
{
    GRID_STRIDE(i, n_eights)
    {
        struct eight a = load_eight<T>(gate, i), b = load_eight<T>(up, i);

#pragma unroll
        for (int k = 0; k < 8; k++)
            a.x[k] = round_value(T, silu(a.x[k])) * b.x[k];
        store_eight<T>(out, i, a);
    }
}

int cuda_swiglu(struct backend *b, const struct swiglu_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    const int64_t n = a->n_rows * a->gate->n_cols;
    const enum dtype t = a->gate->dtype;
    const void *gate = a->gate->data, *up = a->up->data;
    void *out = a->out->data;

    if (!n)
        return 0;
    if (n % 8 == 0 && aligned_16(gate) && aligned_16(up) && aligned_16(out)) {
        auto *kernel = t == DTYPE_F16    ? swiglu_eights<DTYPE_F16>
                       : t == DTYPE_BF16 ? swiglu_eights<DTYPE_BF16>
                                         : swiglu_eights<DTYPE_F32>;
        kernel<<<blocks_for(s, n / 8, N_THREADS), N_THREADS, 0, s->stream>>>(gate, up, out, n / 8);
    } else {
        swiglu<<<blocks_for(s, n, N_THREADS), N_THREADS, 0, s->stream>>>(t, gate, up, out, n);
    }
    CUDA_LAUNCHED(s, "swiglu");
    return 0;
}
