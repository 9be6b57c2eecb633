/* vectors.h - what tests against reference vectors of quantizers share. */
#pragma once

#include "check.h"

#include "backend/backend.h"
#include "backend/codebook.h"
#include "base/hash.h"
#include "base/js.h"
#include "base/memory.h"

#include <string.h>

/* uint32 x = seed; x = x * 1664525 + 1013904223; v = (x >> 8) * 2^-23 - 1; v^3 / 8. */
static inline float *vector_numbers(uint32_t seed, int64_t n)
{
    float *out = mem_array((size_t)n, sizeof *out);
    uint32_t x = seed;

    for (int64_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        float v = (float)(x >> 8) * 0x1p-23f - 1.0f;
        out[i] = v * v * v * 0.125f;
    }
    return out;
}

static inline uint32_t bits_of_float(float x)
{
    uint32_t u;

    memcpy(&u, &x, sizeof u);
    return u;
}

/* "3df76000" -> the number with these bits. */
static inline float float_of_hex(const char *hex)
{
    uint32_t u = (uint32_t)strtoul(hex, NULL, 16);
    float x;

    memcpy(&x, &u, sizeof x);
    return x;
}

/* Steps between two finite fp32 numbers. */
static inline double ulps_apart(float a, float b)
{
    int64_t x = bits_of_float(a), y = bits_of_float(b);

    x = x & 0x80000000 ? -(x & 0x7FFFFFFF) : x;
    y = y & 0x80000000 ? -(y & 0x7FFFFFFF) : y;
    return fabs((double)(x - y));
}

/* "0a1b..." -> bytes; malloc'ed. */
static inline uint8_t *bytes_of_hex(const char *hex, size_t n_bytes)
{
    uint8_t *out = mem_array(n_bytes, 1);

    CHECK(hex && strlen(hex) == 2 * n_bytes, "a hex text of %zu bytes", n_bytes);
    for (size_t i = 0; i < n_bytes; i++) {
        char two[3] = { hex[2 * i], hex[2 * i + 1], 0 };
        out[i] = (uint8_t)strtoul(two, NULL, 16);
    }
    return out;
}

/* Code (row, col) as weight.h draws it; the CPU backend's memory is the host's. */
static inline int code_at(const struct weight *w, int64_t row, int64_t col)
{
    const uint8_t *from = (const uint8_t *)w->codes + row * w->row_bytes;
    int64_t bit = col * w->bits;
    int pair = from[bit / 8] | (bit / 8 + 1 < w->row_bytes ? from[bit / 8 + 1] << 8 : 0);

    return pair >> bit % 8 & ((1 << w->bits) - 1);
}

/* bitsandbytes' order: the flattened matrix, two codes a byte, the first in the high half. */
static inline int code_in_bnb_order(const uint8_t *packed, int64_t i)
{
    return i % 2 ? packed[i / 2] & 15 : packed[i / 2] >> 4;
}

/* The FP4 code of a scaled value, by the thresholds. */
static inline int fp4_code(float y)
{
    int n_below = 0;

    for (int k = 0; k < 7; k++)
        n_below += fabsf(y) > codebook_fp4_threshold[k];
    return codebook_fp4_code[n_below] | (y < 0 ? 8 : 0);
}

/* How many ulp the scaled value must move, by the CPU's arithmetic, for the code to be `code`;
 * infinity when two do not do.  (A GPU takes an approximate reciprocal.) */
static inline double fp4_moves(float x, float absmax, int code)
{
    float y = x * (1.0f / absmax), up = y, down = y;

    for (int n = 0; n <= 2; n++) {
        if (fp4_code(up) == code || fp4_code(down) == code)
            return n;
        up = nextafterf(up, INFINITY);
        down = nextafterf(down, -INFINITY);
    }
    return INFINITY;
}

/* A tensor over host memory. */
static inline struct tensor tensor_over(void *data, enum dtype t, int64_t n_rows, int64_t n_cols)
{
    return (struct tensor){ .data = data, .dtype = t, .n_rows = n_rows, .n_cols = n_cols };
}

/* How many fp16 steps lie between two fp16 numbers given as bits. */
static inline int f16_steps(uint16_t a, uint16_t b)
{
    int x = a & 0x8000 ? -(a & 0x7FFF) : a, y = b & 0x8000 ? -(b & 0x7FFF) : b;

    return abs(x - y);
}

/* Largest distance, in steps of the 16-bit type t, of x W^T from `want`, one document's call; w is
 * the backend's, the rest the host's.
 * Where large terms cancel, the order of an fp32 sum shows in more than one step: what is below
 * 2^-21 of the largest output does not count. */
static inline int linear_16_bit_steps(struct backend *b, const struct weight *w, enum dtype t,
                                      const uint16_t *x, int64_t n_rows, const uint16_t *want)
{
    int64_t n = n_rows * w->n_out;
    uint16_t *y = mem_array((size_t)n, sizeof *y);
    float *got = mem_array((size_t)n, sizeof *got), *expected = mem_array((size_t)n, sizeof *got);
    struct tensor in, out;
    struct err e = ERR_INIT;
    float most = 0;
    int largest = 0;

    CHECK_OK(tensor_alloc(b, MEM_SCRATCH, t, n_rows, w->n_in, &in, &e), e);
    CHECK_OK(tensor_alloc(b, MEM_SCRATCH, t, n_rows, w->n_out, &out, &e), e);
    const struct linear_args a = { .x = &in, .w = w, .y = &out, .n_rows = n_rows, .compute = t };
    CHECK_OK(b->ops->upload(b, in.data, x, tensor_bytes(&in), &e), e);
    CHECK_OK(b->ops->linear(b, &a, &e), e);
    CHECK_OK(b->ops->download(b, y, out.data, tensor_bytes(&out), &e), e);
    tensor_free(b, &in);
    tensor_free(b, &out);
    dtype_to_f32(t, y, got, n);
    dtype_to_f32(t, want, expected, n);
    for (int64_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(expected[i]));
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(got[i] - expected[i]) <= most * 0x1p-21f))
            largest = f16_steps(y[i], want[i]) > largest ? f16_steps(y[i], want[i]) : largest;
    free(expected);
    free(got);
    free(y);
    return largest;
}

/* ---- quantizer-vectors.json ---- */

static inline struct js *vectors_read(struct err *e)
{
    char path[4096];

    snprintf(path, sizeof path, "%s/quantizer-vectors.json", check_golden());
    return js_read(path, e);
}

static inline const struct js *vector_data(const struct js *vectors, const char *key)
{
    const struct js *data = js_get(js_get(vectors, key), "data");

    CHECK(data, "quantizer-vectors.json has %s.data", key);
    return data;
}

/* The k-th "gen(SEED,N)" or "gen(SEED,RxC)", maybe "...*FACTOR", of a key's "input": another draw
 * of the vectors may have other seeds and sizes. */
struct drawn {
    uint32_t seed;
    int64_t n_rows, n_cols;
    float factor;
};

static inline const char *vector_input(const struct js *vectors, const char *key)
{
    const char *text = js_text(js_get(js_get(vectors, key), "input"));

    CHECK(text, "quantizer-vectors.json has %s.input", key);
    return text;
}

static inline struct drawn vector_drawn(const struct js *vectors, const char *key, int k)
{
    const char *at = vector_input(vectors, key);
    struct drawn d = { .n_rows = 1, .factor = 1 };

    for (int i = 0; at && i <= k; i++)
        at = strstr(at + (i > 0), "gen(");
    CHECK(at, "%s.input says how its numbers %d are drawn", key, k);
    if (sscanf(at, "gen(%u,%ldx%ld)", &d.seed, &d.n_rows, &d.n_cols) != 3) {
        d.n_rows = 1;
        CHECK(sscanf(at, "gen(%u,%ld)", &d.seed, &d.n_cols) == 2, "%s.input: %.24s", key, at);
    }
    sscanf(strchr(at, ')'), ")*%f", &d.factor);
    return d;
}

static inline float *drawn_numbers(struct drawn d)
{
    float *x = vector_numbers(d.seed, d.n_rows * d.n_cols);

    for (int64_t i = 0; i < d.n_rows * d.n_cols; i++)
        x[i] *= d.factor;
    return x;
}

static inline const char *text_of(const struct js *j, const char *key)
{
    const char *text = js_text(js_get(j, key));

    CHECK(text, "the vectors have a text \"%s\"", key);
    return text;
}

static inline struct weight vector_weight(struct backend *b, const struct tensor *w,
                                          struct quantize_args a)
{
    struct weight out;
    struct err e = ERR_INIT;

    a.w = w;
    a.out = &out;
    CHECK_OK(b->ops->quantize(b, &a, &e), e);
    return out;
}

/* The values of a weight in type t; free(tensor.data). */
static inline struct tensor vector_values(struct backend *b, const struct weight *w, enum dtype t)
{
    struct tensor out = tensor_over(NULL, t, w->n_out, w->n_in);
    struct dequantize_args a = { .w = w, .out = &out };
    struct err e = ERR_INIT;

    out.data = mem_array((size_t)(w->n_out * w->n_in), dtype_bytes(t));
    CHECK_OK(b->ops->dequantize(b, &a, &e), e);
    return out;
}

static inline bool has_sha256(const void *data, size_t n_bytes, const char *want)
{
    char got[HASH_TEXT_MAX];

    hash_bytes(data, n_bytes, got);
    return !strcmp(got, want);
}

static inline bool tensor_has_sha256(const struct tensor *t, const char *want)
{
    return has_sha256(t->data, tensor_bytes(t), want);
}

/* got[i] has the bits of hex[i]; n_want 0: for as many as are given. */
static inline long check_floats(const float *got, const struct js *hex, int64_t n_want,
                                const char *what)
{
    size_t n = js_count(hex);

    CHECK(n > 0 && (n_want == 0 || n == (size_t)n_want), "%s: the vectors have all values", what);
    for (size_t i = 0; i < n; i++)
        CHECK(bits_of_float(got[i]) == bits_of_float(float_of_hex(js_text(js_at(hex, i)))),
              "%s %zu: %a is the reference's number", what, i, got[i]);
    return (long)n;
}

/* mean((X W^T - X Q^T)^2), in fp64. */
static inline double vector_output_mse(const float *x, int64_t n_rows, const struct tensor *w,
                                       const float *q)
{
    const float *plain = w->data;
    double sum = 0;

    for (int64_t t = 0; t < n_rows; t++)
        for (int64_t r = 0; r < w->n_rows; r++) {
            double d = 0;

            for (int64_t c = 0; c < w->n_cols; c++) {
                int64_t at = r * w->n_cols + c;
                d += x[t * w->n_cols + c] * ((double)plain[at] - (double)q[at]);
            }
            sum += d * d;
        }
    return sum / (double)(n_rows * w->n_rows);
}

/* X of the solvers' cases: columns of different size, one of them dead. */
static inline float *vector_rows(const struct js *vectors, struct drawn d)
{
    const char *dead_at = strstr(vector_input(vectors, "gptq"), "X[:,");
    float *x = drawn_numbers(d);
    long dead = -1;

    CHECK(!dead_at || sscanf(dead_at, "X[:,%ld]=0", &dead) == 1, "which column is dead");
    for (int64_t i = 0; i < d.n_rows * d.n_cols; i++) {
        int64_t column = i % d.n_cols;
        x[i] = column == dead ? 0.0f : x[i] * (float)(1 + column % 7);
    }
    return x;
}
