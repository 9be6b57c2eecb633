/* codebook.h - from numbers to codes: the thresholds between the values of the code tables, and
 * how the 8-bit map of nested scales is made and searched.  The values themselves are in
 * weight.h.  Every backend takes these from here.
 *
 * Source: bitsandbytes 0.50; the thresholds are its own fp32
 * literals, which for FP4 lie up to 14 ulp off the true midpoints.  */
#pragma once

#include "backend/weight.h"

#include <stdint.h>

/* NF4: code = number of thresholds strictly below x, x in [-1, 1]. */
extern const float codebook_nf4_threshold[15];

/* FP4: bit 3 is the sign, set when x < 0; the three bits below are not monotone in |x|.
 * codebook_fp4_code[number of thresholds strictly below |x|] are those three bits. */
extern const float codebook_fp4_threshold[7];
extern const uint8_t codebook_fp4_code[8];

/* Any table of weight.h by nearest value: code[number of thresholds strictly below x], so a tie
 * takes the lower value.  The thresholds are the fp32 midpoints of neighbouring values; of a zero
 * that has two codes the positive one is taken. */
struct codebook {
    int bits, n; /* n different values, n - 1 thresholds */
    float threshold[15];
    uint8_t code[16];
};
struct codebook codebook_of_table(enum code_table id);

/* The recipe of the dynamic maps, with torch's fused multiply-adds; all values are bit-exact.
 * Signed: weight_dynamic_map, 0 at index 127, 1 at 255.  Unsigned: 0 at index 0, 1 at 255. */
void codebook_dynamic(float map[256]);
void codebook_dynamic_unsigned(float map[256]);

/* Index of the value nearest to x in an ascending map; a tie takes the even index, and a NaN
 * index 0, as bitsandbytes on the GPU. */
int codebook_nearest(const float map[256], float x);
