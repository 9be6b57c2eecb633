/* decode_image.cuh - the order of x that products of 9 to 64 rows want on Hopper: an "image".
 *
 * Chunks of 128 columns one after another; in a chunk eight steps of k = 16 (of 32 columns first
 * elements 8 t .. 8 t + 3 of t = 0 .. 3, then 8 t + 4 .. 8 t + 7), in a step n_eights tiles of
 * eight rows, in a tile both halves of the pairs of a step, in a half eight rows of eight elements.
 */
#pragma once

#include <stdint.h>

/* In elements; col is even for pairs to lie together. */
__device__ inline int64_t image_element(int n_eights, int row, int col)
{
    const int step = col % 128 / 32 * 2 + col % 8 / 4;
    const int64_t tile = (int64_t)(col / 128 * 8 + step) * n_eights + row / 8;

    return tile * 128 + col % 4 / 2 * 64 + row % 8 * 8 + col % 32 / 8 * 2 + col % 2;
}
