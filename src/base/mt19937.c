/* mt19937.c - see mt19937.h (Matsumoto, Nishimura 1998; CPython's Modules/_randommodule.c). */
#include "base/mt19937.h"

#define N 624
#define M 397

static void fill(struct mt19937 *r, uint32_t seed)
{
    r->state[0] = seed;
    for (uint32_t i = 1; i < N; i++)
        r->state[i] = 1812433253u * (r->state[i - 1] ^ r->state[i - 1] >> 30) + i;
    r->at = N;
}

void mt19937_seed(struct mt19937 *r, uint64_t seed)
{
    const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    const int n_key = key[1] ? 2 : 1;
    int i = 1, j = 0;

    fill(r, 19650218u);
    for (int k = 0; k < N; k++) {
        uint32_t before = r->state[i - 1];

        r->state[i] = (r->state[i] ^ (before ^ before >> 30) * 1664525u) + key[j] + (uint32_t)j;
        j = (j + 1) % n_key;
        if (++i == N) {
            r->state[0] = r->state[N - 1];
            i = 1;
        }
    }
    for (int k = 0; k < N - 1; k++) {
        uint32_t before = r->state[i - 1];

        r->state[i] = (r->state[i] ^ (before ^ before >> 30) * 1566083941u) - (uint32_t)i;
        if (++i == N) {
            r->state[0] = r->state[N - 1];
            i = 1;
        }
    }
    r->state[0] = 0x80000000u;
}

static void next_state(struct mt19937 *r)
{
    for (int i = 0; i < N; i++) {
        uint32_t y = (r->state[i] & 0x80000000u) | (r->state[(i + 1) % N] & 0x7FFFFFFFu);

        r->state[i] = r->state[(i + M) % N] ^ y >> 1 ^ (y & 1 ? 0x9908B0DFu : 0);
    }
    r->at = 0;
}

static uint32_t next(struct mt19937 *r)
{
    if (r->at == N)
        next_state(r);
    uint32_t y = r->state[r->at++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9D2C5680u;
    y ^= y << 15 & 0xEFC60000u;
    return y ^ y >> 18;
}

/* The top bits of a draw, again until they are below n. */
int64_t mt19937_below(struct mt19937 *r, int64_t n)
{
    int n_bits = 64 - __builtin_clzll((uint64_t)n);

    for (;;) {
        uint64_t drawn = n_bits <= 32 ? next(r) >> (32 - n_bits)
                                      : next(r) | (uint64_t)(next(r) >> (64 - n_bits)) << 32;
        if (drawn < (uint64_t)n)
            return (int64_t)drawn;
    }
}
