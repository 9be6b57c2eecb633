/* dequantize.c - from packed weights to plain values: the definition of every form in weight.h.
 *
 * linear() multiplies with these values, block by block; dequantize() writes the whole matrix.
 * Codes of up to 4 bits are looked up in a table of the group's finished values: scaled and
 * rounded once for all weights of the group, which gives the same bits as doing it for each. */
#include "cpu/cpu.h"

#include <assert.h>
#include <math.h>

/* Columns unpacked at a time. */
#define CHUNK 512

static float e4m3_to_f32(uint8_t byte)
{
    int exponent = byte >> 3 & 15, mantissa = byte & 7;
    float sign = byte & 0x80 ? -1.0f : 1.0f;

    if (exponent == 15 && mantissa == 7)
        return NAN;
    if (!exponent)
        return sign * ldexpf((float)mantissa, -9);
    return sign * ldexpf((float)(mantissa + 8), exponent - 10);
}

float cpu_weight_scale(const struct weight *w, int64_t group)
{
    const float *scales2 = w->scales2;
    uint8_t byte = w->scale_form >= SCALE_NESTED ? ((const uint8_t *)w->scales)[group] : 0;

    switch (w->scale_form) {
    case SCALE_NONE:
        return 1.0f;
    case SCALE_F32:
        return ((const float *)w->scales)[group];
    case SCALE_F16:
        return dtype_f16_to_f32(((const uint16_t *)w->scales)[group]);
    case SCALE_NESTED: {
        float scaled = weight_dynamic_map[byte] * scales2[group / WEIGHT_NESTED_RUN];
        return scaled + w->nested_offset;
    }
    case SCALE_U8:
        return (float)byte * scales2[group / WEIGHT_NESTED_RUN];
    case SCALE_E8M0:
        return byte == 255 ? NAN : ldexpf(1.0f, byte - 127);
    case SCALE_E4M3:
        return e4m3_to_f32(byte) * w->nested_offset;
    }
    assert(!"a scale form of weight.h");
    return NAN;
}

static float zero_of(const struct weight *w, int64_t group)
{
    switch (w->zero_form) {
    case ZERO_CONSTANT:
        return (float)w->zero_constant;
    case ZERO_U8:
        return (float)((const uint8_t *)w->zeros)[group];
    case ZERO_F32:
        return ((const float *)w->zeros)[group];
    case ZERO_F16:
        return dtype_f16_to_f32(((const uint16_t *)w->zeros)[group]);
    }
    assert(!"a zero form of weight.h");
    return NAN;
}

int64_t cpu_weight_group(const struct weight *w, int64_t row, int64_t col)
{
    if (w->flat_groups)
        return (row * w->n_in + col) / w->group_size;
    return row * (w->n_groups / w->n_out) + (w->g_idx ? w->g_idx[col] : col / w->group_size);
}

/* Columns of one row that share a scale. */
struct run {
    int64_t group, end; /* end: the first column behind them, or further */
};

static struct run run_at(const struct weight *w, int64_t row, int64_t col, int64_t last)
{
    int64_t group = cpu_weight_group(w, row, col), end = col + 1;

    if (w->flat_groups)
        end = (group + 1) * w->group_size - row * w->n_in;
    else if (!w->g_idx)
        end = (group - row * (w->n_groups / w->n_out) + 1) * w->group_size;
    else
        while (end < last && w->g_idx[end] == w->g_idx[col])
            end++;
    return (struct run){ group, end };
}

/* Groups in order need no division. */
static struct run run_after(const struct weight *w, int64_t row, struct run r, int64_t last)
{
    if (w->g_idx)
        return run_at(w, row, r.end, last);
    return (struct run){ r.group + 1, r.end + w->group_size };
}

static void affine_values(const struct weight *w, int64_t group, float value_of[16])
{
    float zero = zero_of(w, group);

    for (int c = 0; c < 16; c++)
        value_of[c] = (float)c - zero;
}

/* One row's columns first .. last-1, at most CHUNK. */
static void coded_values(const struct cpu_kernels *k, const struct weight *w, int64_t row,
                         int64_t first, int64_t last, enum dtype compute, float *out)
{
    const uint8_t *packed = (const uint8_t *)w->codes + row * w->row_bytes;
    const bool table = w->form == WEIGHT_TABLE, own_zeros = w->zero_form != ZERO_CONSTANT;
    uint8_t unpacked[CHUNK], *codes = unpacked;
    float affine[16];
    const float *value_of = table ? w->table : affine;

    if (w->bits != 4)
        k->unpack(packed, w->row_bytes, w->bits, first, last - first, unpacked);
    if (!table && !own_zeros)
        affine_values(w, 0, affine);
    for (struct run r = run_at(w, row, first, last);; r = run_after(w, row, r, last)) {
        int64_t n = (r.end < last ? r.end : last) - first;
        float scale = cpu_weight_scale(w, r.group);

        if (!table && own_zeros && w->bits <= 4)
            affine_values(w, r.group, affine);
        if (w->bits == 4)
            k->decode4(packed, first, n, value_of, scale, compute, out);
        else if (w->bits < 4)
            k->decode(codes, n, value_of, scale, compute, out);
        else
            k->affine8(codes, n, zero_of(w, r.group), scale, compute, out);
        if (r.end >= last)
            return;
        first += n;
        out += n;
        codes += n;
    }
}

static void int8_values(const struct weight *w, int64_t row, int64_t first_col, int64_t n_cols,
                        enum dtype compute, float *out)
{
    const int8_t *codes = (const int8_t *)w->codes + row * w->row_bytes + first_col;
    float scale = cpu_weight_scale(w, row);

    for (int64_t i = 0; i < n_cols; i++)
        out[i] = ((float)codes[i] * scale) * 0x1.020408p-7f; /* fl(1/127) */
    dtype_round(compute, out, n_cols);
}

void cpu_weight_block(const struct cpu_kernels *k, const struct weight *w, int64_t first_row,
                      int64_t n_rows, int64_t first_col, int64_t n_cols, enum dtype compute,
                      float *out, int64_t ld)
{
    assert(w->arrangement == 0);
    for (int64_t r = 0; r < n_rows; r++) {
        int64_t row = first_row + r, last = first_col + n_cols;
        const char *codes = (const char *)w->codes + row * w->row_bytes;
        float *values = out + r * ld;

        if (w->form == WEIGHT_PLAIN) {
            dtype_to_f32(w->plain_dtype, codes + first_col * w->bits / 8, values, n_cols);
            if (compute != w->plain_dtype)
                dtype_round(compute, values, n_cols);
        } else if (w->form == WEIGHT_INT8) {
            int8_values(w, row, first_col, n_cols, compute, values);
        } else {
            for (int64_t col = first_col; col < last; col += CHUNK)
                coded_values(k, w, row, col, last - col < CHUNK ? last : col + CHUNK, compute,
                             values + (col - first_col));
        }
    }
}

void cpu_weight_rows(const struct weight *w, int64_t first_row, int64_t n_rows, enum dtype compute,
                     float *out)
{
    cpu_weight_block(&cpu_kernels_generic, w, first_row, n_rows, 0, w->n_in, compute, out, w->n_in);
}

/* Rounded to out's dtype, once: cpu_weight_rows() rounds, the conversion after it is exact. */
int cpu_dequantize(struct backend *b, const struct dequantize_args *a, struct err *e)
{
    const struct weight *w = a->w;
    size_t row_bytes = (size_t)w->n_in * dtype_bytes(a->out->dtype);

    if (a->out->n_rows != w->n_out || a->out->n_cols != w->n_in)
        return err_set(e, ERR_INPUT, "dequantize: %lld x %lld weights into %lld x %lld elements",
                       (long long)w->n_out, (long long)w->n_in, (long long)a->out->n_rows,
                       (long long)a->out->n_cols);
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < w->n_out; row++) {
        float values[CHUNK];

        for (int64_t col = 0; col < w->n_in; col += CHUNK) {
            int64_t n = w->n_in - col < CHUNK ? w->n_in - col : CHUNK;
            char *to = (char *)a->out->data + (size_t)row * row_bytes;

            cpu_weight_block(cpu_kernels_of(b), w, row, 1, col, n, a->out->dtype, values, n);
            dtype_from_f32(a->out->dtype, values, to + (size_t)col * dtype_bytes(a->out->dtype), n);
        }
    }
    return 0;
}
