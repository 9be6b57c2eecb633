/* dequantize.cu - from packed weights to plain values: every form of weight.h; twin of
 * src/cpu/dequantize.c, to the bit. */
#include "common.cuh"

#define N_THREADS 256

__device__ static float e4m3_value(uint8_t byte)
{
    if ((byte & 0x7F) == 0x7F)
        return NAN;
    return __uint_as_float((uint32_t)(byte & 0x80) << 24 | (uint32_t)(byte & 0x7F) << 20) *
           0x1p120f;
}

/* 2^(byte - 127) */
__device__ static float e8m0_value(uint8_t byte)
{
    return byte == 255 ? NAN : __uint_as_float(byte ? (uint32_t)byte << 23 : 0x400000u);
}

__device__ static float scale_of(const struct weight &w, int64_t group, const float *map)
{
    const uint8_t *bytes = (const uint8_t *)w.scales;
    const float *scales2 = (const float *)w.scales2;

    switch (w.scale_form) {
    case SCALE_F32:
        return ((const float *)w.scales)[group];
    case SCALE_F16:
        return __half2float(((const __half *)w.scales)[group]);
    case SCALE_NESTED:
        return map[bytes[group]] * scales2[group / WEIGHT_NESTED_RUN] + w.nested_offset;
    case SCALE_U8:
        return (float)bytes[group] * scales2[group / WEIGHT_NESTED_RUN];
    case SCALE_E8M0:
        return e8m0_value(bytes[group]);
    case SCALE_E4M3:
        return e4m3_value(bytes[group]) * w.nested_offset;
    default:
        return 1.0f;
    }
}

__device__ static float zero_of(const struct weight &w, int64_t group)
{
    switch (w.zero_form) {
    case ZERO_U8:
        return (float)((const uint8_t *)w.zeros)[group];
    case ZERO_F32:
        return ((const float *)w.zeros)[group];
    case ZERO_F16:
        return __half2float(((const __half *)w.zeros)[group]);
    default:
        return (float)w.zero_constant;
    }
}

/* Before the rounding to the compute dtype. */
__device__ static float value_of(const struct weight &w, int64_t row, int64_t col, const float *map)
{
    const uint8_t *codes = (const uint8_t *)w.codes + row * w.row_bytes;

    if (w.form == WEIGHT_PLAIN)
        return load_value(w.plain_dtype, codes, col);
    if (w.form == WEIGHT_INT8)
        return (float)((const int8_t *)codes)[col] * ((const float *)w.scales)[row] *
               0x1.020408p-7f /* fl(1/127) */;

    int64_t bit = col * w.bits;
    unsigned both = codes[bit >> 3], shift = (unsigned)(bit & 7);
    if (shift + (unsigned)w.bits > 8)
        both |= (unsigned)codes[(bit >> 3) + 1] << 8;
    unsigned code = both >> shift & ((1u << w.bits) - 1);

    int64_t group = w.flat_groups ? (row * w.n_in + col) / w.group_size
                                  : row * (w.n_groups / w.n_out) +
                                        (w.g_idx ? w.g_idx[col] : col / w.group_size);
    float scale = scale_of(w, group, map);
    if (w.form == WEIGHT_TABLE)
        return w.table[code] * scale;
    return ((float)code - zero_of(w, group)) * scale;
}

__global__ static void dequantize(struct weight w, const float *map, int64_t first_row,
                                  int64_t n_rows, enum dtype t, void *out, int64_t ld)
{
    GRID_STRIDE(i, n_rows * ld)
    {
        int64_t row = i / ld, col = i % ld;

        store_value(t, out, i, col < w.n_in ? value_of(w, first_row + row, col, map) : 0.0f);
    }
}

int cuda_weight_rows(struct cuda_state *s, const struct weight *w, int64_t first_row,
                     int64_t n_rows, enum dtype t, void *out, int64_t ld, struct err *e)
{
    if (w->arrangement != 0)
        return err_set(e, ERR_INPUT, "weights in arrangement %d are not this backend's",
                       w->arrangement);
    if (!n_rows)
        return 0;
    dequantize<<<blocks_for(s, n_rows * ld, N_THREADS), N_THREADS, 0, s->stream>>>(
        *w, s->dynamic_map, first_row, n_rows, t, out, ld);
    CUDA_LAUNCHED(s, "dequantize");
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
