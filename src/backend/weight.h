/* weight.h - one weight matrix of a linear layer, y = x W^T, in whatever form a quantizer made.
 *
 * Every quantizer fills this structure, every backend multiplies with it, sizes are counted
 * here.  W is [n_out, n_in], row-major.  value(row, col) is
 *
 *   WEIGHT_PLAIN    the stored element
 *   WEIGHT_AFFINE   fl((code - zero) * scale)         rtn, gptq, awq, hqq, int formats
 *   WEIGHT_TABLE    fl(table[code] * scale)           nf2, nf3, nf4, fp4, mxfp4, nvfp4
 *   WEIGHT_E4M3     fl(e4m3(code) * scale)            fp8: a code is an e4m3fn byte
 *   WEIGHT_INT8     fl(fl(code * scale) * fl(1/127))  LLM.int8: codes are signed bytes, scale is
 *                                                     the row's absmax (SCB); the activations
 *                                                     are quantized too (linear() does it)
 *
 * rounded once to the compute dtype.  All fp32 arithmetic, each operation rounded.  A product of
 * the decode phase may round the value without its scale instead, and scale sums of a group in
 * fp32, as kernels that never dequantize do.
 *
 *   codes   row r starts at byte r * row_bytes; inside a row, code i of b bits sits at bits
 *           b*i ... b*i + b-1 of a little-endian bit stream; row_bytes is a multiple of 4.
 *
 *      b = 4:  byte 0: col 1 | col 0     b = 3:  byte 0: c2(low 2) | c1 | c0, byte 1: ...
 *              byte 1: col 3 | col 2
 *
 *   group   of (row, col): flat_groups ? (row * n_in + col) / group_size
 *                                      : row * groups_per_row + (g_idx ? g_idx[col]
 *                                                                      : col / group_size)
 *           bitsandbytes' blocks run through the flattened matrix and may cross rows; everybody
 *           else's groups start anew at each row.
 *   scales  one a group, in scale_form:
 *     SCALE_F32, SCALE_F16   the number
 *     SCALE_NESTED           bitsandbytes' double quantization: fl(fl(map[u8] * scales2[g / 256])
 *                            + nested_offset), map = the signed dynamic map
 *     SCALE_U8               fl(u8 * scales2[g / 256])   (double quantization of everybody else)
 *     SCALE_E8M0             2^(byte - 127)
 *     SCALE_E4M3             e4m3(byte) * nested_offset  (nvfp4: one fp32 for the tensor)
 *   zeros   ZERO_CONSTANT (zero_constant), or one a group: ZERO_U8, ZERO_F32 (hqq), ZERO_F16
 *
 * A backend may keep codes in another order (`arrangement` != 0, its own numbering); only it
 * reads them then, and dequantize() gives the canonical matrix back.  */
#pragma once

#include "backend/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum weight_form { WEIGHT_PLAIN, WEIGHT_AFFINE, WEIGHT_TABLE, WEIGHT_INT8, WEIGHT_E4M3 };
enum scale_form {
    SCALE_NONE,
    SCALE_F32,
    SCALE_F16,
    SCALE_NESTED,
    SCALE_U8,
    SCALE_E8M0,
    SCALE_E4M3
};
enum zero_form { ZERO_CONSTANT, ZERO_U8, ZERO_F32, ZERO_F16 };

#define WEIGHT_NESTED_RUN 256 /* scales that share one second-level scale */

struct weight {
    enum weight_form form;
    int64_t n_out, n_in;

    enum dtype plain_dtype; /* WEIGHT_PLAIN: of the elements in `codes` */
    int bits;               /* of a code; 8 * element bytes for WEIGHT_PLAIN */
    int64_t row_bytes;      /* of `codes` */

    int64_t group_size; /* weights per scale; n_in for one scale a row */
    bool flat_groups;
    int64_t n_groups; /* scales in all */
    enum scale_form scale_form;
    float nested_offset;
    enum zero_form zero_form;
    int zero_constant;
    int table_id;            /* which code table: enum code_table */
    float table[16];         /* WEIGHT_TABLE */
    float outlier_threshold; /* WEIGHT_INT8; 0 switches the decomposition off */
    int arrangement;         /* 0: canonical, as drawn above */

    /* Device memory, owned when `owned`; freed by weight_release() in backend.h. */
    void *codes, *scales, *scales2, *zeros;
    int32_t *g_idx; /* [n_in] group of each column, or NULL */
    bool owned;     /* false: plain elements borrowed from the base checkpoint */
};

enum code_table { TABLE_NONE, TABLE_NF4, TABLE_FP4, TABLE_NF2, TABLE_NF3, TABLE_E2M1 };

/* The values of a code table (bitsandbytes' NF4 and FP4, OCP's e2m1); TABLE_NONE gives zeros.  NF2
 * and NF3 are QLoRA's construction for 2 and 3 bits. */
void weight_code_table(enum code_table id, float out[16]);
/* bitsandbytes' signed dynamic map, ascending: the 256 values of the 8-bit
 * codes of SCALE_NESTED. */
extern const float weight_dynamic_map[256];

/* Bytes of each part, as allocated. */
size_t weight_codes_bytes(const struct weight *w);
size_t weight_scales_bytes(const struct weight *w);
size_t weight_scales2_bytes(const struct weight *w);
size_t weight_zeros_bytes(const struct weight *w);
/* All of it: parts, g_idx and, per tensor, the code table (64 B), nested offset (4 B) and
 * dynamic map (1 KiB) where used: what must be resident to compute with this weight. */
size_t weight_bytes(const struct weight *w);
/* Codes, scales, zeros and order alone, in bits per weight: 4.5 for nf4 in blocks of 64. */
double weight_bits_per_weight(const struct weight *w);
