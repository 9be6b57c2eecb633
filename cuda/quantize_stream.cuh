/* quantize_stream.cuh - between the queue of quantizations and the kernels that it starts. */
#pragma once

#include "quantize.cuh"

#define N_THREADS   256
#define N_WARPS     (N_THREADS / 32)
#define TILE_WORDS  4                     /* 16-byte words of a lane */
#define TILE        (TILE_WORDS * 32 * 8) /* weights of a warp at a time */
#define CHUNK       (2 * N_WARPS * TILE)  /* weights of a block */
#define ROW_WORDS   8                     /* of a lane, where a warp or a block holds one group */
#define WARP_MAX    (ROW_WORDS * 32 * 8)
#define BLOCK_MAX   (ROW_WORDS * N_THREADS * 8)
#define QUEUE_PARTS 28 /* 4 layers */

static_assert(QUEUE_PARTS <= NEST_PARTS_MAX, "what is queued is nested in one launch");

struct part {
    const uint4 *x;
    void *codes;
    float *scales;
    uint8_t *zeros;
    double *sums; /* one a block: of its scales; NULL: not wanted */
    union cuda_answer *answer;
    int64_t n; /* weights */
    unsigned n_groups, row_words, first_block;
};

struct batch {
    struct part part[QUEUE_PARTS];
    int n_parts;
    int group_size, group_shift; /* shift: log2, for groups of a warp */
    enum quantize_rule rule;
    bool sym, converts; /* converts: stored in the other 16-bit type */
    bool arranged, arranged_scales;
    int zero_constant;
    float of_zeros;
    uint32_t fp4_low, fp4_high; /* codebook_fp4_code, a byte each */
    float threshold[16];
};

/* How groups are held. */
enum way { WAY_TILES, WAY_WARP, WAY_BLOCK };

/* One launch for all parts of a batch. */
typedef void (*stream_kernel)(struct batch);

/* bf16: what codes are made from, else fp16. */
stream_kernel quantize_stream_kernel(enum way way, bool bf16, enum quantize_rule rule, int bits,
                                     int64_t group_size);
