/* linear_prompt.cu - products of the prompt phase, alone or with what comes next in the layer.
 *
 * Weights that are not plain in the compute dtype are dequantized into scratch first, a part of the
 * columns at a time where they are many; plain ones are multiplied where they lie, and so are 4-bit
 * codes with some hundred rows (gemm_codes.cuh).  q, k and v go in one launch, gate and up end in
 * SwiGLU, o and down in the residual stream, the head in what its logits are asked for.  Products
 * that the kernels do not take are composed of the operations that take everything, with the same
 * rounding points.  */
#include "linear_prompt.cuh"
#include "gemm.cuh"

#define SCRATCH_W_BYTES  ((int64_t)256 << 20) /* of dequantized weights at a time */
#define COLS_AT_ONCE     256                  /* columns come in multiples of this then */
#define NLL_ROWS         4096                 /* at a time */
#define NLL_LOGITS_BYTES ((int64_t)128 << 20) /* at a time, where logits stand in memory */

static bool aligned(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

/* Long k over few outputs is split: else there are too few tiles to go round. */
static int n_splits_of(const struct weight *w)
{
    const bool few = w->n_out <= 4096 ? w->n_out <= w->n_in : w->n_out <= w->n_in / 2;

    return w->n_in >= 2048 && few ? GEMM_SPLITS : 1;
}

bool linear_prompt_fits(const struct cuda_state *s, const struct linear_args *a)
{
    const struct weight *w = a->w;

    /* The kernels for sm_80 make no less than 128 rows. */
    if (!gemm_sm90_runs(s) && a->n_rows <= 16)
        return false;
    return a->phase == PHASE_PROMPT && a->n_rows > 0 && a->n_rows <= INT32_MAX / 2 &&
           dtype_is_16bit(a->compute) && w->form != WEIGHT_INT8 && w->n_in % 8 == 0 &&
           w->n_out % 8 == 0 && w->n_out <= INT32_MAX / 4 && aligned(a->y->data);
}

static bool in_place(const struct weight *w, enum dtype compute)
{
    return w->form == WEIGHT_PLAIN && w->plain_dtype == compute && aligned(w->codes) &&
           w->row_bytes % 16 == 0;
}

/* One launch takes them: same x, and no other sums or stores. */
static bool go_together(const struct cuda_state *s, const struct linear_args *a, int n)
{
    for (int i = 0; i < n; i++)
        if (!linear_prompt_fits(s, &a[i]) || a[i].x->data != a[0].x->data ||
            a[i].x->dtype != a[0].x->dtype || a[i].n_rows != a[0].n_rows ||
            a[i].compute != a[0].compute || a[i].y->dtype != a[0].y->dtype ||
            a[i].w->n_in != a[0].w->n_in || n_splits_of(a[i].w) != n_splits_of(a[0].w))
            return false;
    return n <= GEMM_PARTS_MAX;
}

static int input_rows(struct cuda_state *s, const struct linear_args *a, struct gemm_args *g,
                      struct err *e)
{
    void *to;

    g->x = a->x->data;
    g->ldx = a->w->n_in * 2;
    if (a->x->dtype == a->compute && aligned(g->x))
        return 0;
    if (cuda_scratch(s, SCRATCH_X, (size_t)(a->n_rows * g->ldx), &to, e) < 0)
        return -1;
    g->x = to;
    return cuda_copy_rows(s, a->x->data, a->x->dtype, a->n_rows, a->w->n_in, to, a->compute,
                          a->w->n_in, e);
}

/* Columns first .. first + n - 1 of a product, as a part; its weights as they lie. */
static struct gemm_part part_of(const struct linear_args *a, int64_t first, int64_t n)
{
    const struct weight *w = a->w;
    struct gemm_part out = { .w = (const char *)w->codes + first * w->row_bytes,
                             .ldw = w->row_bytes,
                             .n_out = n,
                             .y = (char *)a->y->data + (size_t)first * dtype_bytes(a->y->dtype),
                             .ldy = w->n_out,
                             .bias = NULL,
                             .bias_t = DTYPE_F32,
                             .scale = NULL };

    if (a->bias) {
        out.bias_t = a->bias->dtype;
        out.bias = (const char *)a->bias->data + (size_t)first * dtype_bytes(out.bias_t);
    }
    return out;
}

/* The same with plain weights; room: where they may be put. */
static int make_part(struct cuda_state *s, const struct linear_args *a, int64_t first, int64_t n,
                     char **room, struct gemm_part *out, struct err *e)
{
    const struct weight *w = a->w;

    *out = part_of(a, first, n);
    if (in_place(w, a->compute))
        return 0;
    out->w = *room;
    out->ldw = w->n_in * 2;
    *room += n * out->ldw;
    return cuda_weight_rows(s, w, first, n, a->compute, (void *)out->w, w->n_in, e);
}

/* All columns from codes, if the product is of that kind. */
static int run_codes(struct cuda_state *s, const struct linear_args *const *a, int n,
                     struct gemm_args *g, bool *done, struct err *e)
{
    const struct weight *w[GEMM_PARTS_MAX];

    g->n_parts = n;
    for (int i = 0; i < n; i++) {
        w[i] = a[i]->w;
        g->part[i] = part_of(a[i], 0, w[i]->n_out);
    }
    return gemm_codes(s, g, w, done, e);
}

/* Columns of each part at a time, so that what must be dequantized stays within its limit. */
static int64_t columns_at_once(const struct linear_args *const *a, int n)
{
    int64_t row_bytes = 0, most = 0;

    for (int i = 0; i < n; i++) {
        row_bytes += in_place(a[i]->w, a[i]->compute) ? 0 : 2 * a[i]->w->n_in;
        most = a[i]->w->n_out > most ? a[i]->w->n_out : most;
    }
    if (row_bytes * most <= SCRATCH_W_BYTES)
        return most;
    most = SCRATCH_W_BYTES / row_bytes / COLS_AT_ONCE * COLS_AT_ONCE;
    return most ? most : COLS_AT_ONCE;
}

/* g: how the products a[0 .. n - 1] of one x end. */
static int run(struct cuda_state *s, const struct linear_args *const *a, int n, struct gemm_args *g,
               struct err *e)
{
    const int64_t at_once = columns_at_once(a, n);
    int64_t n_cols = 0, n_packed = 0;
    void *room = NULL;
    bool done;

    g->operand = a[0]->compute == DTYPE_BF16 ? GEMM_BF16 : GEMM_F16;
    g->n_rows = a[0]->n_rows;
    g->n_k = a[0]->w->n_in;
    g->y_t = a[0]->y->dtype;
    g->n_splits = g->end == GEMM_SWIGLU ? 1 : n_splits_of(a[0]->w);
    if (input_rows(s, a[0], g, e) < 0 || run_codes(s, a, n, g, &done, e) < 0)
        return -1;
    if (done)
        return 0;
    for (int i = 0; i < n; i++) {
        n_cols = a[i]->w->n_out > n_cols ? a[i]->w->n_out : n_cols;
        n_packed += in_place(a[i]->w, a[i]->compute)
                        ? 0
                        : (a[i]->w->n_out < at_once ? a[i]->w->n_out : at_once);
    }
    g->weights_stay = n_packed == 0;
    if (n_packed && cuda_scratch(s, SCRATCH_W, (size_t)(n_packed * g->n_k * 2), &room, e) < 0)
        return -1;
    for (int64_t first = 0; first < n_cols; first += at_once) {
        char *at = (char *)room;

        g->n_parts = 0;
        for (int i = 0; i < n; i++) {
            int64_t left = a[i]->w->n_out - first;
            if (left > 0 && make_part(s, a[i], first, left < at_once ? left : at_once, &at,
                                      &g->part[g->n_parts++], e) < 0)
                return -1;
        }
        g->nll.first_col = first;
        if ((gemm_sm90_runs(s) ? gemm_sm90(s, g, e) : gemm_sm80(s, g, e)) < 0)
            return -1;
    }
    return 0;
}

static int in_product(const struct linear_args *a, struct err *e)
{
    return err_in(e, "a product of %lld x %lld x %lld", (long long)a->n_rows,
                  (long long)a->w->n_out, (long long)a->w->n_in);
}

int linear_prompt(struct cuda_state *s, const struct linear_args *a, struct err *e)
{
    struct gemm_args g = {};

    return run(s, &a, 1, &g, e) < 0 ? in_product(a, e) : 0;
}

/* ---- entries of the table ---- */

int cuda_linear_many(struct backend *b, const struct linear_args *a, int n, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    const struct linear_args *all[GEMM_PARTS_MAX] = {};
    struct gemm_args g = {};

    if (n > 0 && a->phase == PHASE_PROMPT && a->n_rows && cuda_int8_together(a, n))
        return cuda_linear_int8_many(b, a, n, e);
    if (!go_together(s, a, n)) {
        for (int i = 0; i < n; i++)
            if (cuda_linear(b, &a[i], e) < 0)
                return -1;
        return 0;
    }
    for (int i = 0; i < n; i++)
        all[i] = &a[i];
    return run(s, all, n, &g, e) < 0 ? in_product(a, e) : 0;
}

int cuda_linear_add(struct backend *b, const struct linear_args *a, struct tensor *x, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    const struct add_args add = { .x = x, .y = a->y, .n_rows = a->n_rows };
    struct gemm_args g = {};
    struct linear_args onto = *a;
    const struct linear_args *const one = &onto;

    onto.y = x;
    if (!linear_prompt_fits(s, &onto) || x->dtype != a->y->dtype || !dtype_is_16bit(x->dtype))
        return cuda_linear(b, a, e) < 0 ? -1 : cuda_add(b, &add, e);
    g.add = true;
    return run(s, &one, 1, &g, e) < 0 ? in_product(a, e) : 0;
}

int cuda_linear_swiglu(struct backend *b, const struct linear_args *gate,
                       const struct linear_args *up, struct tensor *out, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    struct linear_args both[2] = { *gate, *up };
    const struct linear_args *const all[2] = { &both[0], &both[1] };
    const struct swiglu_args swiglu = {
        .gate = gate->y, .up = up->y, .out = out, .n_rows = gate->n_rows
    };
    struct gemm_args g = {};
    const bool one_type = gate->y->dtype == out->dtype && up->y->dtype == out->dtype;

    if (one_type) { /* else the launch would round to another type first */
        both[0].y = both[1].y = out;
        g.end = GEMM_SWIGLU;
        if (go_together(s, both, 2) && gate->w->n_out == up->w->n_out && dtype_is_16bit(out->dtype))
            return run(s, all, 2, &g, e) < 0 ? in_product(gate, e) : 0;
        both[0].y = gate->y;
        both[1].y = up->y;
    }
    return cuda_linear_many(b, both, 2, e) < 0 ? -1 : cuda_swiglu(b, &swiglu, e);
}

/* ---- the head, where only nll of its logits is asked for ---- */

/* One warp a row: the tiles' sums in double, each lane's in order, then those of the lanes. */
__global__ static void nll_of_parts(struct gemm_nll a, int64_t n_tiles, int64_t n_rows, float *out)
{
    const int64_t row = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    float most = -INFINITY;
    double sum = 0;

    if (row >= n_rows)
        return;
    for (int64_t i = threadIdx.x % 32; i < n_tiles; i += 32) {
        float x = a.out[i * n_rows + row].most;
        most = x > most || !(x == x) ? x : most;
    }
    for (int away = 1; away < 32; away *= 2) {
        float other = __shfl_xor_sync(0xFFFFFFFFu, most, away);
        most = most == most && (other > most || !(other == other)) ? other : most;
    }
    for (int64_t i = threadIdx.x % 32; i < n_tiles; i += 32) {
        const struct gemm_nll_part p = a.out[i * n_rows + row];
        sum += p.sum * exp((double)p.most - (double)most);
    }
    for (int away = 1; away < 32; away *= 2)
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, away);
    if (threadIdx.x % 32 == 0)
        out[row] =
            isfinite(most) ? (float)(log(sum) + ((double)most - (double)a.target_logit[row])) : NAN;
}

/* Rows first .. first + n - 1. */
static int fused_nll(struct cuda_state *s, const struct linear_args *a, const int32_t *targets,
                     float *out, struct err *e)
{
    const int64_t n_tiles = ceil_div(a->w->n_out, GEMM_NLL_COLS);
    const int n_warps = 4;
    struct gemm_args g = {};
    void *room;

    if (cuda_scratch(s, SCRATCH_LOGITS,
                     (size_t)(a->n_rows * (n_tiles * (int64_t)sizeof *g.nll.out + 4)), &room,
                     e) < 0)
        return -1;
    g.end = GEMM_NLL;
    g.nll.targets = targets;
    g.nll.out = (struct gemm_nll_part *)room;
    g.nll.target_logit = (float *)(g.nll.out + n_tiles * a->n_rows);
    if (run(s, &a, 1, &g, e) < 0)
        return -1;
    nll_of_parts<<<(unsigned)ceil_div(a->n_rows, n_warps), 32 * n_warps, 0, s->stream>>>(
        g.nll, n_tiles, a->n_rows, out);
    CUDA_LAUNCHED(s, "nll_of_parts");
    return 0;
}

/* The same by way of logits in memory. */
static int composed_nll(struct backend *b, const struct linear_args *a, const int32_t *targets,
                        float *out, struct err *e)
{
    struct tensor logits = *a->y;
    struct linear_args head = *a;

    logits.dtype = DTYPE_F32;
    logits.n_rows = a->n_rows;
    logits.n_cols = a->w->n_out;
    if (cuda_scratch(cuda_state_of(b), SCRATCH_LOGITS, (size_t)(a->n_rows * a->w->n_out * 4),
                     &logits.data, e) < 0)
        return -1;
    head.y = &logits;
    const struct nll_args nll = {
        .logits = &logits, .targets = targets, .n_rows = a->n_rows, .out = out
    };
    return cuda_linear(b, &head, e) < 0 ? -1 : cuda_nll(b, &nll, e);
}

int cuda_linear_nll(struct backend *b, const struct linear_args *a, const int32_t *targets,
                    float *out, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    struct tensor x = *a->x, y = {};
    struct linear_args some = *a;

    y.dtype = DTYPE_F32;
    some.x = &x;
    some.y = &y; /* aligned, and never written */
    const bool fused = gemm_sm90_runs(s) && linear_prompt_fits(s, &some) && n_splits_of(a->w) == 1;
    int64_t at_once = fused ? NLL_ROWS : NLL_LOGITS_BYTES / (4 * a->w->n_out);

    at_once = at_once ? at_once : 1;
    for (int64_t first = 0; first < a->n_rows; first += at_once) {
        int64_t left = a->n_rows - first;

        x.data = (char *)a->x->data + (size_t)(first * x.n_cols) * dtype_bytes(x.dtype);
        some.n_rows = left < at_once ? left : at_once;
        if ((fused ? fused_nll(s, &some, targets + first, out + first, e)
                   : composed_nll(b, &some, targets + first, out + first, e)) < 0)
            return in_product(a, e);
    }
    return 0;
}
