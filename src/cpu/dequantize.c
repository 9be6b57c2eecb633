/* dequantize.c - from packed weights to plain values: the definition of every form in weight.h.
 *
 * linear() multiplies with these values, block by block; dequantize() writes the whole matrix.
 * Codes of up to 4 bits are looked up in a table of the group's finished values (scaled and
 * rounded once for all weights of the group, which gives the same bits as doing it for each). */
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

/* First column after `col` that is in another group. */
static int64_t group_end(const struct weight *w, int64_t row, int64_t col, int64_t last)
{
    int64_t end = col + 1;

    if (w->flat_groups)
        end = (cpu_weight_group(w, row, col) + 1) * w->group_size - row * w->n_in;
    else if (!w->g_idx)
        end = (col / w->group_size + 1) * w->group_size;
    else
        while (end < last && w->g_idx[end] == w->g_idx[col])
            end++;
    return end < last ? end : last;
}

static void unpack(const struct weight *w, int64_t row, int64_t col, int64_t n, uint8_t *out)
{
    const uint8_t *codes = (const uint8_t *)w->codes + row * w->row_bytes;
    unsigned mask = (1u << w->bits) - 1;

    if (w->bits == 8) {
        memcpy(out, codes + col, (size_t)n);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t bit = (col + i) * w->bits;
        unsigned both = codes[bit >> 3], shift = (unsigned)(bit & 7);

        if (shift + (unsigned)w->bits > 8)
            both |= (unsigned)codes[(bit >> 3) + 1] << 8;
        out[i] = (uint8_t)(both >> shift & mask);
    }
}

/* Values of the 2^bits codes of a group, rounded to compute. */
static void group_table(const struct weight *w, int64_t group, enum dtype compute, float table[16])
{
    float scale = cpu_weight_scale(w, group);
    float zero = w->form == WEIGHT_AFFINE ? zero_of(w, group) : 0.0f;

    for (int c = 0; c < 16; c++) {
        float value = w->form == WEIGHT_TABLE ? w->table[c] : (float)c - zero;
        table[c] = value * scale;
    }
    dtype_round(compute, table, 16);
}

/* 4-bit codes go straight from their bytes to values. */
static void values_of_4_bits(const struct cpu_kernels *k, const struct weight *w, int64_t row,
                             int64_t first_col, int64_t n_cols, enum dtype compute, float *out)
{
    const uint8_t *packed = (const uint8_t *)w->codes + row * w->row_bytes;
    int64_t last = first_col + n_cols;

    for (int64_t col = first_col, end; col < last; col = end) {
        float table[16];

        end = group_end(w, row, col, last);
        group_table(w, cpu_weight_group(w, row, col), compute, table);
        k->lookup4(packed, col, end - col, table, out + (col - first_col));
    }
}

static void coded_values(const struct cpu_kernels *k, const struct weight *w, int64_t row,
                         int64_t first_col, int64_t n_cols, enum dtype compute, float *out)
{
    uint8_t codes[CHUNK];
    int64_t last = first_col + n_cols, unpacked = first_col, base = first_col;

    for (int64_t col = first_col; col < last;) {
        if (col == unpacked) {
            base = col;
            unpacked = last - col < CHUNK ? last : col + CHUNK;
            unpack(w, row, col, unpacked - col, codes);
        }
        int64_t group = cpu_weight_group(w, row, col);
        int64_t end = group_end(w, row, col, unpacked);
        const uint8_t *code = codes + (col - base);
        float *value = out + (col - first_col);

        if (w->bits <= 4) {
            float table[16];
            group_table(w, group, compute, table);
            for (int64_t i = 0; i < end - col; i++)
                value[i] = table[code[i]];
        } else {
            float scale = cpu_weight_scale(w, group), zero = zero_of(w, group);
            k->affine8(code, end - col, zero, scale, value);
            dtype_round(compute, value, end - col);
        }
        col = end;
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
        int64_t row = first_row + r;
        float *values = out + r * ld;

        if (w->form == WEIGHT_PLAIN) {
            size_t n_bytes = dtype_bytes(w->plain_dtype);
            dtype_to_f32(w->plain_dtype,
                         (const char *)w->codes + row * w->row_bytes + first_col * (int64_t)n_bytes,
                         values, n_cols);
            if (compute != w->plain_dtype)
                dtype_round(compute, values, n_cols);
        } else if (w->form == WEIGHT_INT8) {
            int8_values(w, row, first_col, n_cols, compute, values);
        } else if (w->bits == 4) {
            values_of_4_bits(k, w, row, first_col, n_cols, compute, values);
        } else {
            coded_values(k, w, row, first_col, n_cols, compute, values);
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
