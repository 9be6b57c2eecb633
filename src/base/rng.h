/* rng.h - counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random
 * numbers: as easy as 1, 2, 3", SC 2011).
 *
 * A number is a function of (seed, stream, index) alone, so a draw does not depend on
 * which rank makes it, nor on what was drawn before.  `stream` separates uses of one seed
 * (documents, prompts, bootstrap replicates); give each use its own constant.  */
#pragma once

#include <stdint.h>

enum rng_stream {
    RNG_DOCUMENTS = 1, /* which documents of a task     */
    RNG_PROMPTS,       /* benchmark prompt ids          */
    RNG_BOOTSTRAP,
    RNG_CALIBRATION,
    RNG_TEST,
    RNG_WEIGHTS, /* make_model */
    RNG_SIGNS    /* flipped signs of differences */
};

static inline uint64_t rng_u64(uint64_t seed, uint32_t stream, uint64_t index)
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32), c2 = stream, c3 = 0;

    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(b >> 32) ^ c1 ^ k0, n2 = (uint32_t)(a >> 32) ^ c3 ^ k1;

        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (uint64_t)c1 << 32 | c0;
}

/* Uniform in [0, n), n >= 1: the high half of a 64 x 64 bit product (bias < n / 2^64). */
static inline uint64_t rng_below(uint64_t seed, uint32_t stream, uint64_t index, uint64_t n)
{
    return (uint64_t)(((unsigned __int128)rng_u64(seed, stream, index) * n) >> 64);
}

/* Uniform in [0, 1), 53 bits. */
static inline double rng_real(uint64_t seed, uint32_t stream, uint64_t index)
{
    return (double)(rng_u64(seed, stream, index) >> 11) * 0x1p-53;
}
