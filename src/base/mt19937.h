/* mt19937.h - CPython's random.Random, as far as the reference tools use it to draw calibration
 * text: Mersenne Twister seeded by init_by_array, randint.  Everything else of ours draws by rng.h.
 */
#pragma once

#include <stdint.h>

struct mt19937 {
    uint32_t state[624];
    int at;
};

/* random.seed(seed) */
void mt19937_seed(struct mt19937 *r, uint64_t seed);
/* random.randint(0, n - 1); n >= 1 */
int64_t mt19937_below(struct mt19937 *r, int64_t n);
