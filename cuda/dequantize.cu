/* dequantize.cu - from packed weights to plain values: every form of weight.h; twin of
 * src/cpu/dequantize.c, to the bit.
 *
 * Before every prompt all weights pass here, so the common forms go at the speed of memory (0.25 to
 * 1 byte in, 2 out, a weight):
 *
 *   arranged    a warp takes a chunk of a unit, a lane its piece: 16 bytes in (or less), four
 *               stores of 16 bytes out
 *   eights      8 columns of one group a thread, one store of 16 bytes
 *   anything    one value a thread: odd widths, groups out of order  */
#include "overlap.cuh"
#include "unpack.cuh"

#define N_THREADS 256

/* ---- one value ---- */

__device__ static unsigned code_at(const struct weight &w, int64_t row, int64_t col)
{
    if (w.arrangement) {
        const uint8_t *unit = (const uint8_t *)w.codes + row / UNIT_ROWS * UNIT_ROWS * w.row_bytes;
        const uint8_t *chunk = unit + col / CHUNK_COLS * CHUNK_COLS * w.bits;

        return arranged_code(w.bits, (const uint32_t *)chunk, (int)(row % UNIT_ROWS),
                             (int)(col % CHUNK_COLS));
    }
    const uint8_t *codes = (const uint8_t *)w.codes + row * w.row_bytes;
    int64_t bit = col * w.bits;
    unsigned both = codes[bit >> 3], shift = (unsigned)(bit & 7);

    if (shift + (unsigned)w.bits > 8)
        both |= (unsigned)codes[(bit >> 3) + 1] << 8;
    return both >> shift & ((1u << w.bits) - 1);
}

__device__ static int64_t group_of(const struct weight &w, int64_t row, int64_t col)
{
    if (w.flat_groups)
        return (row * w.n_in + col) / w.group_size;
    return row * (w.n_groups / w.n_out) + (w.g_idx ? w.g_idx[col] : col / w.group_size);
}

/* Scale and zero point of a group of a row; in arranged weights the numbers of 8 rows are mixed. */
__device__ static struct scale_zero numbers_of(const struct weight &w, int64_t row, int64_t group,
                                               const float *map)
{
    int64_t at = group;
    float second =
        has_second(w.scale_form) ? ((const float *)w.scales2)[group / WEIGHT_NESTED_RUN] : 0.0f;

    if (w.arrangement) {
        int64_t per_row = w.n_groups / w.n_out, unit = row / UNIT_ROWS;
        at = (unit * per_row + (group - row * per_row)) * UNIT_ROWS + row % UNIT_ROWS;
    }
    return { scale_value(w.scale_form, scale_bits(w.scale_form, w.scales, at), second,
                         w.nested_offset, map),
             w.form == WEIGHT_TABLE ? 0.0f
                                    : zero_value(w.zero_form, zero_bits(w.zero_form, w.zeros, at),
                                                 (float)w.zero_constant) };
}

__device__ static float int8_value(int8_t code, float scale)
{
    return (float)code * scale * 0x1.020408p-7f /* fl(1/127) */;
}

/* Before the rounding to the compute dtype. */
__device__ static float value_of(const struct weight &w, int64_t row, int64_t col, const float *map)
{
    const uint8_t *codes = (const uint8_t *)w.codes + row * w.row_bytes;

    if (w.form == WEIGHT_PLAIN)
        return load_value(w.plain_dtype, codes, col);
    if (w.form == WEIGHT_INT8)
        return int8_value(((const int8_t *)codes)[col], ((const float *)w.scales)[row]);
    struct scale_zero g = numbers_of(w, row, group_of(w, row, col), map);
    unsigned code = code_at(w, row, col);
    if (w.form == WEIGHT_E4M3)
        return e4m3_value((uint8_t)code) * g.scale;
    return (w.form == WEIGHT_TABLE ? w.table[code] : (float)code - g.zero) * g.scale;
}

struct target {
    void *out;
    enum dtype t;
    int64_t first_row, n_rows, ld;
};

/* rows: those of W, [to.n_rows]; NULL: from to.first_row on. */
__global__ static void dequantize_one(struct weight w, const float *map, const int32_t *rows,
                                      struct target to)
{
    GRID_STRIDE(i, to.n_rows * to.ld)
    {
        int64_t row = i / to.ld, col = i % to.ld, of_w = rows ? rows[row] : to.first_row + row;
        float v = col < w.n_in ? value_of(w, of_w, col, map) : 0.0f;

        store_value(to.t, to.out, i, v);
    }
}

/* ---- eight values ---- */

template <enum dtype T> __device__ static void store_8(void *out, int64_t at, const float v[8])
{
    if (T == DTYPE_F32) {
        ((float4 *)out)[at / 4] = make_float4(v[0], v[1], v[2], v[3]);
        ((float4 *)out)[at / 4 + 1] = make_float4(v[4], v[5], v[6], v[7]);
    } else {
        constexpr bool bf16 = T == DTYPE_BF16;
        ((uint4 *)out)[at / 8] =
            make_uint4(pack_pair<bf16>(v[0], v[1]), pack_pair<bf16>(v[2], v[3]),
                       pack_pair<bf16>(v[4], v[5]), pack_pair<bf16>(v[6], v[7]));
    }
}

__device__ static void plain_8(const struct weight &w, const uint8_t *codes, int col, float v[8])
{
    if (w.plain_dtype == DTYPE_F32) {
        float4 a = ((const float4 *)codes)[col / 4], b = ((const float4 *)codes)[col / 4 + 1];

        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
        v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
        return;
    }
    uint4 u = ((const uint4 *)codes)[col / 8];
    const uint32_t pair[4] = { u.x, u.y, u.z, u.w };
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[2 * i] =
            w.plain_dtype == DTYPE_BF16 ? low_value<true>(pair[i]) : low_value<false>(pair[i]);
        v[2 * i + 1] =
            w.plain_dtype == DTYPE_BF16 ? high_value<true>(pair[i]) : high_value<false>(pair[i]);
    }
}

/* Eight codes are as many bytes as a code has bits. */
__device__ static uint64_t codes_8_at(const struct weight &w, const uint8_t *codes, int col)
{
    const uint8_t *p = codes + (size_t)col / 8 * (size_t)w.bits;
    uint64_t all = 0;

    if (w.bits == 4)
        return *(const uint32_t *)p;
    if (w.bits == 8)
        return *(const uint32_t *)p | (uint64_t)((const uint32_t *)p)[1] << 32;
    if (w.bits == 2)
        return *(const uint16_t *)p;
    for (int i = 0; i < w.bits; i++)
        all |= (uint64_t)p[i] << 8 * i;
    return all;
}

__device__ static uint64_t arranged_8_at(const struct weight &w, int64_t row, int64_t col)
{
    uint64_t all = 0;

    for (int i = 0; i < 8; i++)
        all |= (uint64_t)code_at(w, row, col + i) << w.bits * i;
    return all;
}

__device__ static void packed_8(const struct weight &w, const uint8_t *codes, int64_t row, int col,
                                const float *map, const float *table, float v[8])
{
    uint64_t all = w.arrangement ? arranged_8_at(w, row, col) : codes_8_at(w, codes, col);

    if (w.form == WEIGHT_INT8) {
        float scale = ((const float *)w.scales)[row];
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = int8_value((int8_t)(all >> 8 * i), scale);
        return;
    }
    bool whole = !w.flat_groups || w.n_in % w.group_size == 0;
    int64_t group = whole ? row * (w.n_groups / w.n_out) + col / (int)w.group_size
                          : (row * w.n_in + col) / w.group_size;
    struct scale_zero g = numbers_of(w, row, group, map);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        unsigned code = (unsigned)(all >> w.bits * i) & ((1u << w.bits) - 1);
        v[i] = (w.form == WEIGHT_TABLE ? table[code] : (float)code - g.zero) * g.scale;
    }
}

/* Block y takes row y, and so on in steps of the grid. */
template <enum dtype T>
__global__ static void __launch_bounds__(N_THREADS)
    dequantize_8(struct weight w, const float *map, struct target to)
{
    __shared__ float table[16];
    const int64_t col = 8 * ((int64_t)blockIdx.x * N_THREADS + threadIdx.x);
    float v[8] = {};

    if (threadIdx.x < 16)
        table[threadIdx.x] = w.table[threadIdx.x];
    __syncthreads();
    if (col >= to.ld)
        return;
    for (int64_t r = blockIdx.y; r < to.n_rows; r += gridDim.y) {
        const int64_t row = to.first_row + r;
        const uint8_t *codes = (const uint8_t *)w.codes + row * w.row_bytes;

        if (col < w.n_in && w.form == WEIGHT_PLAIN)
            plain_8(w, codes, (int)col, v);
        else if (col < w.n_in)
            packed_8(w, codes, row, (int)col, map, table, v);
        store_8<T>(to.out, r * to.ld + col, v);
    }
}

/* ---- arranged ---- */

template <class C, bool BF16>
__global__ static void __launch_bounds__(N_THREADS)
    dequantize_arranged(struct weight w, const float *map, struct target to)
{
    extern __shared__ __align__(16) char lookup[];
    const int lane = threadIdx.x % 32, n_chunks = (int)(w.n_in / CHUNK_COLS);
    const int n_groups = (int)(w.n_groups / w.n_out), group_size = (int)w.group_size;
    const int64_t first = to.first_row / UNIT_ROWS;
    const int64_t last = (to.first_row + to.n_rows + UNIT_ROWS - 1) / UNIT_ROWS;
    const int64_t n_warps = (int64_t)gridDim.x * (N_THREADS / 32);

    if (C::N_LOOKUP) {
        __shared__ float table[16];
        if (threadIdx.x < 16)
            table[threadIdx.x] = w.table[threadIdx.x];
        __syncthreads();
        C::template fill_lookup<BF16>(lookup, table);
        __syncthreads();
    }
    wait_for_launch_before(); /* it may read what is written here */
    let_next_start();
    for (int64_t i = (int64_t)blockIdx.x * (N_THREADS / 32) + threadIdx.x / 32;
         i < (last - first) * n_chunks; i += n_warps) {
        const int64_t unit = first + i / n_chunks;
        const int chunk = (int)(i % n_chunks);
        const int64_t row = unit * UNIT_ROWS + lane / 4, r = row - to.first_row;
        const uint8_t *codes = (const uint8_t *)w.codes + unit * UNIT_ROWS * w.row_bytes;
        uint16_t *out = (uint16_t *)to.out + r * to.ld + chunk * CHUNK_COLS + 8 * (lane % 4);
        struct scale_zero of_group;
        C c;

        c.load(codes + (int64_t)chunk * CHUNK_COLS * w.bits, lane);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int group = (chunk * CHUNK_COLS + 32 * j) / group_size;
            uint32_t v[4];

            if (j == 0 || group_size < 64 || (group_size < 128 && j == 2))
                of_group = numbers_of(w, row, row * n_groups + group, map);
            auto g = C::template group<BF16>(of_group.scale, of_group.zero, w.table);
            c.template pairs<BF16>(j, g, lookup, lane, v);
            if (r >= 0 && r < to.n_rows)
                *(uint4 *)(out + 32 * j) = make_uint4(v[0], v[1], v[2], v[3]);
        }
    }
}

template <class C>
static int start_arranged(struct cuda_state *s, const struct weight *w, const struct target *to,
                          struct err *e)
{
    int64_t n_units = ceil_div(to->n_rows, UNIT_ROWS) + 1, n = n_units * (w->n_in / CHUNK_COLS);
    int64_t n_blocks = ceil_div(n, N_THREADS / 32), most = 6 * (int64_t)s->n_multiprocessors;
    const void *kernel = to->t == DTYPE_BF16 ? (const void *)dequantize_arranged<C, true>
                                             : (const void *)dequantize_arranged<C, false>;
    void *arguments[] = { (void *)w, &s->dynamic_map, (void *)to };
    cudaLaunchAttribute overlap;
    cudaLaunchConfig_t config = {};

    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = dim3((unsigned)(n_blocks < most ? n_blocks : most));
    config.blockDim = dim3(N_THREADS);
    config.dynamicSmemBytes = C::N_LOOKUP;
    config.stream = s->stream;
    config.attrs = &overlap;
    config.numAttrs = s->overlaps ? 1 : 0;
    CUDA_TRY(cudaLaunchKernelExC(&config, kernel, arguments));
    s->last_kernel = "dequantize_arranged";
    return 0;
}

/* ---- which ---- */

static bool arranged_stores(const struct weight *w, const struct target *to)
{
    return w->arrangement && to->t != DTYPE_F32 && to->ld == w->n_in &&
           (uintptr_t)to->out % 16 == 0;
}

static int arranged(struct cuda_state *s, const struct weight *w, const struct target *to,
                    struct err *e)
{
    struct weight v = *w;

    for (int i = 0; i < 16 && w->form == WEIGHT_AFFINE; i++)
        v.table[i] = (float)i;
    switch (w->bits) {
    case 2:
        return start_arranged<codes_2>(s, &v, to, e);
    case 3:
        return start_arranged<codes_3>(s, &v, to, e);
    case 4:
        if (w->form == WEIGHT_TABLE)
            return start_arranged<codes_4<false>>(s, &v, to, e);
        return start_arranged<codes_4<true>>(s, &v, to, e);
    case 5:
        return start_arranged<codes_4_and<1>>(s, &v, to, e);
    case 6:
        return start_arranged<codes_4_and<2>>(s, &v, to, e);
    default:
        return start_arranged<codes_8>(s, &v, to, e);
    }
}

static bool eights(const struct weight *w, const struct target *to)
{
    bool aligned =
        (uintptr_t)to->out % 16 == 0 && to->ld % 8 == 0 && w->n_in % 8 == 0 && to->ld <= INT32_MAX;

    if (w->form == WEIGHT_PLAIN)
        return aligned && (uintptr_t)w->codes % 16 == 0 && w->row_bytes % 16 == 0;
    if (w->form == WEIGHT_E4M3)
        return false;
    return aligned && !w->g_idx && (w->form == WEIGHT_INT8 || w->group_size % 8 == 0);
}

template <enum dtype T>
static void start_eights(struct cuda_state *s, const struct weight *w, const struct target *to)
{
    int64_t n_x = ceil_div(to->ld, 8 * N_THREADS), most = 32 * (int64_t)s->n_multiprocessors / n_x;

    most = most < 1 ? 1 : most;
    dim3 grid((unsigned)n_x, (unsigned)(to->n_rows < most ? to->n_rows : most));
    dequantize_8<T><<<grid, N_THREADS, 0, s->stream>>>(*w, s->dynamic_map, *to);
}

int cuda_weight_rows(struct cuda_state *s, const struct weight *w, int64_t first_row,
                     int64_t n_rows, enum dtype t, void *out, int64_t ld, struct err *e)
{
    const struct target to = { out, t, first_row, n_rows, ld };

    if (w->arrangement != 0 && w->arrangement != 1)
        return err_set(e, ERR_INPUT, "weights in arrangement %d are not this backend's",
                       w->arrangement);
    if (!n_rows)
        return 0;
    if (arranged_stores(w, &to))
        return arranged(s, w, &to, e);
    if (!eights(w, &to)) {
        dequantize_one<<<blocks_for(s, n_rows * ld, N_THREADS), N_THREADS, 0, s->stream>>>(
            *w, s->dynamic_map, NULL, to);
        CUDA_LAUNCHED(s, "dequantize_one");
        return 0;
    }
    if (t == DTYPE_F16)
        start_eights<DTYPE_F16>(s, w, &to);
    else if (t == DTYPE_BF16)
        start_eights<DTYPE_BF16>(s, w, &to);
    else
        start_eights<DTYPE_F32>(s, w, &to);
    CUDA_LAUNCHED(s, "dequantize_8");
    return 0;
}

int cuda_dequantize(struct backend *b, const struct dequantize_args *a, struct err *e)
{
    const struct weight *w = a->w;

    if (a->out->n_rows != w->n_out || a->out->n_cols != w->n_in)
        return err_set(e, ERR_INPUT, "dequantize: %lld x %lld weights into %lld x %lld elements",
                       (long long)w->n_out, (long long)w->n_in, (long long)a->out->n_rows,
                       (long long)a->out->n_cols);
    return cuda_weight_rows(cuda_state_of(b), w, 0, w->n_out, a->out->dtype, a->out->data, w->n_in,
                            e);
}

/* A few rows here and there: one value a thread will do. */
int cuda_embed_packed(struct backend *b, const struct embed_packed_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    const struct target to = { a->out->data, a->out->dtype, 0, a->n_rows, a->table->n_in };

    if (!a->n_rows)
        return 0;
    dequantize_one<<<blocks_for(s, a->n_rows * to.ld, N_THREADS), N_THREADS, 0, s->stream>>>(
        *a->table, s->dynamic_map, a->ids, to);
    CUDA_LAUNCHED(s, "dequantize_one");
    return 0;
}
