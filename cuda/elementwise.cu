/* elementwise.cu - operations whose elements know nothing of each other; twin of
 * src/cpu/elementwise.c, to the bit. */
#include "common.cuh"

#define N_THREADS 256

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

static int start_copy(struct cuda_state *s, const void *x, enum dtype from, const int32_t *rows,
                      int64_t n_rows, int64_t n_cols, void *out, enum dtype to, int64_t ld,
                      struct err *e)
{
    if (n_rows * ld == 0)
        return 0;
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

int cuda_add(struct backend *b, const struct add_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    int64_t n = a->n_rows * a->x->n_cols;

    if (!n)
        return 0;
    add<<<blocks_for(s, n, N_THREADS), N_THREADS, 0, s->stream>>>(a->x->dtype, a->x->data,
                                                                  a->y->data, n);
    CUDA_LAUNCHED(s, "add");
    return 0;
}

__global__ static void swiglu(enum dtype t, const void *gate, const void *up, void *out, int64_t n)
{
    GRID_STRIDE(i, n)
    {
        float x = load_value(t, gate, i);

        x = round_value(t, x / (1.0f + exp_value(-x)));
        store_value(t, out, i, x * load_value(t, up, i));
    }
}

int cuda_swiglu(struct backend *b, const struct swiglu_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    int64_t n = a->n_rows * a->gate->n_cols;

    if (!n)
        return 0;
    swiglu<<<blocks_for(s, n, N_THREADS), N_THREADS, 0, s->stream>>>(a->gate->dtype, a->gate->data,
                                                                     a->up->data, a->out->data, n);
    CUDA_LAUNCHED(s, "swiglu");
    return 0;
}
