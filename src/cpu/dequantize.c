/* dequantize.c - from packed weights to plain values: the definition of every form in weight.h.
 *
 * linear() multiplies with these values, block by block; dequantize() writes the whole matrix.
 * Codes of up to 4 bits are looked up in a table of the group's finished values (scaled and
 * rounded once for all weights of the group, which gives the same bits as doing it for each);
 * the loops are in kernels_codes_body.h.  */
#include "cpu/cpu.h"

#include <assert.h>
#include <math.h>

/* Columns unpacked at a time. */
#define CHUNK 512

static const float as_they_are[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };

static float float_of(uint32_t u)
{
    float x;

    memcpy(&x, &u, sizeof x);
    return x;
}

/* 2^(byte - 127) */
static float e8m0_to_f32(uint8_t byte)
{
    return byte == 255 ? NAN : float_of(byte ? (uint32_t)byte << 23 : 0x400000u);
}

/* Scales of n groups from `first` on, decoded: in `room`, or where they lie. */
static const float *scales_of(const struct weight *w, int64_t first, int64_t n, float *room)
{
    const float *scales2 = w->scales2;
    const uint8_t *bytes = (const uint8_t *)w->scales + first;

    switch (w->scale_form) {
    case SCALE_NONE:
        for (int64_t i = 0; i < n; i++)
            room[i] = 1.0f;
        break;
    case SCALE_F32:
        return (const float *)w->scales + first;
    case SCALE_F16:
        dtype_to_f32(DTYPE_F16, (const uint16_t *)w->scales + first, room, n);
        break;
    case SCALE_NESTED:
        for (int64_t i = 0; i < n; i++) {
            float scaled = weight_dynamic_map[bytes[i]] * scales2[(first + i) / WEIGHT_NESTED_RUN];
            room[i] = scaled + w->nested_offset;
        }
        break;
    case SCALE_U8:
        for (int64_t i = 0; i < n; i++)
            room[i] = (float)bytes[i] * scales2[(first + i) / WEIGHT_NESTED_RUN];
        break;
    case SCALE_E8M0:
        for (int64_t i = 0; i < n; i++)
            room[i] = e8m0_to_f32(bytes[i]);
        break;
    case SCALE_E4M3:
        for (int64_t i = 0; i < n; i++)
            room[i] = dtype_e4m3_to_f32(bytes[i]) * w->nested_offset;
        break;
    }
    return room;
}

/* Zeros of n groups; a code table has none, and x - 0 is x. */
static const float *zeros_of(const struct weight *w, int64_t first, int64_t n, float *room)
{
    enum zero_form form = w->form == WEIGHT_AFFINE ? w->zero_form : ZERO_CONSTANT;
    float constant = w->form == WEIGHT_AFFINE ? (float)w->zero_constant : 0.0f;

    switch (form) {
    case ZERO_CONSTANT:
        for (int64_t i = 0; i < n; i++)
            room[i] = constant;
        break;
    case ZERO_U8:
        for (int64_t i = 0; i < n; i++)
            room[i] = (float)((const uint8_t *)w->zeros)[first + i];
        break;
    case ZERO_F32:
        return (const float *)w->zeros + first;
    case ZERO_F16:
        dtype_to_f32(DTYPE_F16, (const uint16_t *)w->zeros + first, room, n);
        break;
    }
    return room;
}

/* At most CHUNK columns of a row whose groups follow one another. */
static void grouped_values(const struct cpu_kernels *k, const struct weight *w, int64_t row,
                           struct code_run *r, int64_t col, float *out)
{
    float scales[CHUNK], zeros[CHUNK];
    /* Counted from where the row's, or the matrix', first group starts. */
    int64_t at = w->flat_groups ? row * w->n_in + col : col;
    int64_t first = at / w->group_size, last = first;

    r->group_size = w->group_size;
    r->first_end = (first + 1) * w->group_size - at;
    if (r->n > r->first_end)
        last += (r->n - r->first_end + w->group_size - 1) / w->group_size;
    if (!w->flat_groups)
        first += row * (w->n_groups / w->n_out), last += row * (w->n_groups / w->n_out);
    r->scale = scales_of(w, first, last - first + 1, scales);
    r->zero = zeros_of(w, first, last - first + 1, zeros);
    k->grouped(r, out);
}

/* At most CHUNK columns of a row, each of the group that g_idx says. */
static void scattered_values(const struct cpu_kernels *k, const struct weight *w, int64_t row,
                             struct code_run *r, int64_t col, float *out)
{
    float scales[CHUNK], zeros[CHUNK], room;
    int64_t before = row * (w->n_groups / w->n_out);

    for (int64_t i = 0; i < r->n; i++) {
        int32_t group = w->g_idx[col + i];

        if (i && group == w->g_idx[col + i - 1]) {
            scales[i] = scales[i - 1];
            zeros[i] = zeros[i - 1];
        } else {
            scales[i] = *scales_of(w, before + group, 1, &room);
            zeros[i] = *zeros_of(w, before + group, 1, &room);
        }
    }
    r->scale = scales;
    r->zero = zeros;
    k->scattered(r, out);
}

/* The scale of (row, col) where there are groups without an order. */
static float scale_at(const struct weight *w, int64_t row, int64_t col)
{
    int64_t group = w->flat_groups ? (row * w->n_in + col) / w->group_size
                                   : row * (w->n_groups / w->n_out) + col / w->group_size;
    float room;

    return *scales_of(w, group, 1, &room);
}

static void e4m3_values(const struct weight *w, int64_t row, int64_t first_col, int64_t n_cols,
                        enum dtype compute, float *out)
{
    const uint8_t *codes = (const uint8_t *)w->codes + row * w->row_bytes;
    int64_t at = w->flat_groups ? row * w->n_in : 0;

    for (int64_t col = first_col, end; col < first_col + n_cols; col = end) {
        float scale = scale_at(w, row, col);

        end = ((at + col) / w->group_size + 1) * w->group_size - at;
        end = end < first_col + n_cols ? end : first_col + n_cols;
        for (int64_t i = col; i < end; i++)
            out[i - first_col] = dtype_e4m3_to_f32(codes[i]) * scale;
    }
    dtype_round(compute, out, n_cols);
}

static void coded_values(const struct cpu_kernels *k, const struct weight *w, int64_t row,
                         int64_t first_col, int64_t n_cols, enum dtype compute, float *out)
{
    const uint8_t *packed = (const uint8_t *)w->codes + row * w->row_bytes;
    const float *base = w->form == WEIGHT_TABLE ? w->table : w->bits <= 4 ? as_they_are : NULL;
    uint8_t codes[CHUNK];

    for (int64_t done = 0; done < n_cols; done += CHUNK) {
        int64_t col = first_col + done, n = n_cols - done < CHUNK ? n_cols - done : CHUNK;
        struct code_run r = { .codes = codes, .n = n, .base = base, .compute = compute };

        if (w->bits == 8)
            r.codes = packed + col;
        else
            k->unpack(w->bits, packed, col, n, codes);
        if (w->g_idx && !w->flat_groups)
            scattered_values(k, w, row, &r, col, out + done);
        else
            grouped_values(k, w, row, &r, col, out + done);
    }
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
            k->signed8((const int8_t *)w->codes + row * w->row_bytes + first_col, n_cols,
                       ((const float *)w->scales)[row], 0x1.020408p-7f /* fl(1/127) */, compute,
                       values);
        } else if (w->form == WEIGHT_E4M3) {
            e4m3_values(w, row, first_col, n_cols, compute, values);
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
