/* attention_decode.cuh - attention of a decode step in one launch: rotation, the way of the new
 * keys and values into the cache, softmax(q k^T / sqrt(E)) v.  C and C++ alike. */
#pragma once

#include "step_share.cuh"

#ifdef __cplusplus
extern "C" {
#endif

#include "backend/backend.h"

struct cuda_state;

struct decode_attention {
    enum dtype t;            /* of everything but the tables: F16 or BF16 */
    const void *q, *k, *v;   /* device, [n_rows, H*E], [n_rows, G*E] twice: before the rotation */
    void *k_cache, *v_cache; /* [n_slots * capacity, G*E] */
    const void *cos_table, *sin_table; /* fp32 [positions, E/2], as in rope_args; row = position */
    const int32_t *slot, *position;    /* device, [n_rows]: no slot twice */
    void *out;                         /* [n_rows, H*E] */
    int eights; /* out is an image (decode_image.cuh) of as many eights of rows; 0: rows */
    int64_t n_rows, capacity, window;
    int64_t bound; /* no position is larger; how work is cut goes by it, never a result */
    int n_heads, n_kv_heads, head_dim, n_rotated;
    bool appended; /* q is turned already, and the cache holds the row's own key and value: k, v and
                      the tables are not looked at */
    bool overlap;  /* the launch may begin before the one before it in the stream has ended.  The
                      kernel then reads the cache below `position` ahead of time, and again when
                      slot or position turn out to have changed: whoever counts positions up must
                      do so after the attention of the position before, in stream order. */
    struct step_share share; /* instead of out */
    int n_blocks; /* of a row and key/value head: 1, 2, 4, 8, 16; 0: chosen.  Same bits. */
};

/* Heads and type that the kernel knows. */
bool cuda_attention_decode_fits(enum dtype t, int n_heads, int n_kv_heads, int head_dim,
                                int n_rotated);
int cuda_attention_decode(struct cuda_state *s, const struct decode_attention *a, struct err *e);

#ifdef __cplusplus
}
#endif
