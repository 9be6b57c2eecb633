/* quantize_stream.cu - 16-bit weights to codes, many matrices in one launch, each weight read once.
 *
 * The matrices are taken as flat lists of weights.  A lane reads 16 bytes, 8 weights, of a group
 * that a warp (up to 2048 weights) or a block (up to 16384) holds in registers: its range by packed
 * maxima and shuffles, then the codes of a lane as one word.  Codes of 4 bits go where the products
 * read them (unpack.cuh), when the caller likes that.  Bytes: 2 a weight in, bits / 8 and a scale a
 * group out.
 *
 * No threshold is searched for: a polynomial of the scaled value x names the one threshold that may
 * still lie between x and its code, which a comparison decides (checked for every fp32 number of
 * [-1, 1]).  Quotients of affine grids are correctly rounded: two corrections with a correctly
 * rounded reciprocal (Markstein 1990).  About 14 operations a weight in all; at the rate of
 * memory a multiprocessor of an H200 has 20.  */
#include "quantize_stream.cuh"

#define MAGIC      12582912.0f /* 1.5 * 2^23: adding it rounds to a whole number, in the low bits */
#define MAGIC_BITS 0x4B400000u

/* ---- 8 weights of a lane ---- */

template <typename T> struct pair_of;
template <> struct pair_of<__half> {
    typedef __half2 type;
};
template <> struct pair_of<__nv_bfloat16> {
    typedef __nv_bfloat162 type;
};

template <typename P> __device__ static P as_pair(uint32_t bits)
{
    P p;

    memcpy(&p, &bits, sizeof p);
    return p;
}

template <typename P> __device__ static uint32_t bits_of(P p)
{
    uint32_t bits;

    memcpy(&bits, &p, sizeof bits);
    return bits;
}

__device__ static float2 widen(__half2 p)
{
    return __half22float2(p);
}

__device__ static float2 widen(__nv_bfloat162 p)
{
    const uint32_t bits = bits_of(p);

    return { __uint_as_float(bits << 16), __uint_as_float(bits & 0xFFFF0000u) };
}

/* From the other type, rounded. */
__device__ static uint32_t converted(__half2, uint32_t bits)
{
    float2 x = widen(as_pair<__nv_bfloat162>(bits));

    return bits_of(__floats2half2_rn(x.x, x.y));
}

__device__ static uint32_t converted(__nv_bfloat162, uint32_t bits)
{
    float2 x = widen(as_pair<__half2>(bits));

    return bits_of(__floats2bfloat162_rn(x.x, x.y));
}

/* Read once: nothing of it should stay in the caches. */
template <typename T> __device__ static uint4 load_word(const uint4 *x, int64_t at, int64_t n_words)
{
    uint4 word = { 0, 0, 0, 0 };

    return at < n_words ? __ldcs(x + at) : word;
}

template <typename T> __device__ static uint4 convert_word(uint4 v)
{
    typename pair_of<T>::type tag = {};

    return { converted(tag, v.x), converted(tag, v.y), converted(tag, v.z), converted(tag, v.w) };
}

struct eight {
    float x[8];
};

template <typename T> __device__ static void widen_word(uint4 v, struct eight &out)
{
    typedef typename pair_of<T>::type P;
    const uint32_t bits[4] = { v.x, v.y, v.z, v.w };

#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 two = widen(as_pair<P>(bits[i]));
        out.x[2 * i] = two.x;
        out.x[2 * i + 1] = two.y;
    }
}

/* ---- the range of a group ---- */

/* Two numbers side by side each; a NaN anywhere stays. */
template <typename T> struct range2 {
    typedef typename pair_of<T>::type P;
    P least, most; /* grids; of the others `most` is the largest magnitude and `least` unused */
};

template <typename T, bool SIGNED> __device__ static range2<T> range_of_word(uint4 v)
{
    typedef typename pair_of<T>::type P;
    const P a = as_pair<P>(v.x), b = as_pair<P>(v.y), c = as_pair<P>(v.z), d = as_pair<P>(v.w);

    if (SIGNED)
        return { __hmin2_nan(__hmin2_nan(a, b), __hmin2_nan(c, d)),
                 __hmax2_nan(__hmax2_nan(a, b), __hmax2_nan(c, d)) };
    return { a, __hmax2_nan(__hmax2_nan(__habs2(a), __habs2(b)),
                            __hmax2_nan(__habs2(c), __habs2(d))) };
}

template <typename T, bool SIGNED> __device__ static range2<T> wider(range2<T> a, range2<T> b)
{
    if (SIGNED)
        a.least = __hmin2_nan(a.least, b.least);
    a.most = __hmax2_nan(a.most, b.most);
    return a;
}

template <typename T, bool SIGNED> __device__ static range2<T> of_lane(range2<T> a, int distance)
{
    typedef typename pair_of<T>::type P;
    range2<T> b = a;

    if (SIGNED)
        b.least = as_pair<P>(__shfl_xor_sync(0xFFFFFFFFu, bits_of(a.least), distance));
    b.most = as_pair<P>(__shfl_xor_sync(0xFFFFFFFFu, bits_of(a.most), distance));
    return b;
}

/* (low, high) halves of two pairs: the first halves of both, or the second. */
template <typename P> __device__ static P halves(P a, P b, unsigned selector)
{
    return as_pair<P>(__byte_perm(bits_of(a), bits_of(b), selector));
}

/* What two words' pairs come to: { first word, second word }. */
template <typename T, bool SIGNED>
__device__ static range2<T> side_by_side(range2<T> a, range2<T> b)
{
    range2<T> low = { halves(a.least, b.least, 0x5410), halves(a.most, b.most, 0x5410) };
    range2<T> high = { halves(a.least, b.least, 0x7632), halves(a.most, b.most, 0x7632) };

    return wider<T, SIGNED>(low, high);
}

template <typename T> __device__ static range2<T> swapped(range2<T> a)
{
    return { halves(a.least, a.least, 0x1032), halves(a.most, a.most, 0x1032) };
}

struct group {
    float scale, absmax; /* absmax: infinity or NaN when a weight is */
    float r;             /* of a grid: 1 / scale, correctly rounded; 0: beyond all measure */
    int zero;
};

/* high: of the second halves. */
template <typename T, enum quantize_rule RULE, int BITS>
__device__ static struct group group_of(const struct batch &a, range2<T> range, bool high)
{
    const float2 least = widen(range.least), most = widen(range.most);
    const float x = high ? least.y : least.x, y = high ? most.y : most.x;

    if (RULE != QUANTIZE_GRID_ABSMAX)
        return { y, y, 0.0f, 0 };
    struct grid g = grid_of(a.rule, BITS, a.sym, x, y);
    float absmax = fabsf(x) <= fabsf(y) ? fabsf(y) : fabsf(x); /* a NaN is in both */
    bool plain = g.scale > 0x1p-60f && g.scale < 0x1p60f && absmax < 0x1p60f * g.scale;
    return { g.scale, absmax, plain ? __frcp_rn(g.scale) : 0.0f, a.sym ? a.zero_constant : g.zero };
}

/* ---- codes ---- */

/* The bits of MAGIC, 8 times, each 4 bits further up. */
constexpr uint32_t MAGIC_WORD = MAGIC_BITS + (MAGIC_BITS << 4) + (MAGIC_BITS << 8);
static_assert(MAGIC_BITS << 12 == 0, "and no more of them");

__device__ static void add_if_greater(uint32_t &n, float a, float b)
{
    asm("{\n\t.reg .pred p;\n\tsetp.gt.f32 p, %1, %2;\n\t@p add.u32 %0, %0, 1;\n\t}"
        : "+r"(n)
        : "f"(a), "f"(b));
}

/* Thresholds in shared memory, [c] behind the bits of MAGIC + c: an address is one multiply-add. */
__device__ static float threshold_at(uint32_t table, uint32_t c)
{
    float t;

    asm("ld.shared.f32 %0, [%1];" : "=f"(t) : "r"(table + c * 4));
    return t;
}

/* r is finite: y is a number, within an ulp of [-1, 1]. */
__device__ static uint32_t nf4_word(const struct eight &v, float r, uint32_t table)
{
    uint32_t word = 0;

#pragma unroll
    for (int i = 7; i >= 0; i--) {
        float y = multiply_ftz(v.x[i], r);
        uint32_t c = __float_as_uint(fmaf(y, fmaf(fabsf(y), -4.455f, 11.915f), MAGIC + 7.0f));

        word = word * 16 + c;
        add_if_greater(word, y, threshold_at(table, c));
    }
    return word - MAGIC_WORD;
}

/* The numbers of thresholds below, of even and of odd weights, are selectors of the bytes of codes.
 */
__device__ static uint32_t fp4_word(const struct eight &v, float r, uint32_t table,
                                    const struct batch &a)
{
    uint32_t n[2] = { 0, 0 }, word = 0;

#pragma unroll
    for (int i = 7; i >= 0; i--) {
        float y = multiply_ftz(v.x[i], r), size = fabsf(y);
        uint32_t c = __float_as_uint(fmaf(size, fmaf(size, -4.61f, 11.2f), MAGIC));

        n[i % 2] = n[i % 2] * 16 + c;
        add_if_greater(n[i % 2], size, threshold_at(table, c));
        if (y < 0.0f)
            word |= 8u << 4 * i;
    }
    return word | __byte_perm(a.fp4_low, a.fp4_high, n[0] - MAGIC_WORD) |
           __byte_perm(a.fp4_low << 4, a.fp4_high << 4, n[1] - MAGIC_WORD);
}

/* One code: y rounded to a whole number of the grid. */
__device__ static uint32_t grid_code(float y, int zero, float low, float high)
{
    return __float_as_uint(fminf(fmaxf(y, low), high) + MAGIC) - MAGIC_BITS + (uint32_t)zero;
}

/* Scales beyond all measure; out of line, for it is long and hardly ever run. */
__device__ __noinline__ static uint64_t grid_codes_slowly(struct eight v, float scale, int zero,
                                                          int bits)
{
    uint64_t field = 0;

    for (int i = 7; i >= 0; i--) {
        uint32_t c = grid_code(v.x[i] / scale, zero, (float)-zero, (float)((1 << bits) - 1 - zero));
        field = field << bits | (scale > 0.0f ? c : (uint32_t)zero);
    }
    return field;
}

template <int BITS>
__device__ static uint64_t grid_codes(const struct eight &v, const struct group &g)
{
    const float low = (float)-g.zero, high = (float)((1 << BITS) - 1 - g.zero);
    uint64_t field = 0;

    if (g.r == 0.0f)
        return grid_codes_slowly(v, g.scale, g.zero, BITS);
#pragma unroll
    for (int i = 0; i < 8; i++)
        field |= (uint64_t)grid_code(quotient(v.x[i], g.scale, g.r), g.zero, low, high) << BITS * i;
    return field;
}

/* A row of zeros: 0 * infinity is NaN, and the nearest integer to that is 0. */
__device__ static uint64_t int8_codes(const struct eight &v, float absmax)
{
    const float s = __fdividef(127.0f, absmax);
    uint64_t field = 0;

#pragma unroll
    for (int i = 0; i < 8; i++) {
        uint32_t c = __float_as_uint(v.x[i] * s + MAGIC);
        field |= (uint64_t)(c & 0xFF) << 8 * i;
    }
    return absmax > 0.0f ? field : 0;
}

/* Word `word` of the codes that four lanes have, 8 * BITS bits each. */
template <int BITS> __device__ static uint32_t quad_word(uint64_t field, int word)
{
    const int from = word * 32 / (8 * BITS), shift = word * 32 - from * 8 * BITS;
    const int lane = (threadIdx.x % 32 & ~3) + from;
    const uint64_t low = __shfl_sync(0xFFFFFFFFu, field, lane & 31);
    const uint64_t high = __shfl_sync(0xFFFFFFFFu, field, (lane + 1) & 31);

    return (uint32_t)(low >> shift | (8 * BITS - shift < 32 ? high << (8 * BITS - shift) : 0));
}

/* Where the codes of word `at` of the weights begin; for widths that are no whole words those of
 * its four lanes. */
template <int BITS> __device__ static uint32_t *place_of(void *codes, int64_t at)
{
    return (uint32_t *)codes + (BITS % 4 ? at / 4 * BITS : at * (BITS / 4));
}

/* All lanes of a warp together. */
template <int BITS> __device__ static void store_codes(uint32_t *to, bool there, uint64_t field)
{
    if (BITS == 4) {
        if (there)
            *to = (uint32_t)field;
    } else if (BITS == 8) {
        if (there)
            *(uint2 *)to = { (uint32_t)field, (uint32_t)(field >> 32) };
    } else {
        const int lane = threadIdx.x % 4;
#pragma unroll
        for (int first = 0; first < BITS; first += 4) {
            uint32_t word = quad_word<BITS>(field, first + lane < BITS ? first + lane : 0);
            if (there && first + lane < BITS)
                to[first + lane] = word;
        }
    }
}

template <typename T, enum quantize_rule RULE, int BITS>
__device__ static uint64_t codes_of(const struct batch &a, uint4 word, const struct group &g,
                                    uint32_t table)
{
    struct eight v;

    widen_word<T>(word, v);
    if (RULE == QUANTIZE_INT8_ROW)
        return int8_codes(v, g.absmax);
    if (RULE == QUANTIZE_GRID_ABSMAX)
        return grid_codes<BITS>(v, g);
    /* Else 1 / absmax is infinite for bitsandbytes: 0 * infinity is above no threshold, code 0. */
    if (!(g.absmax >= 0x1p-126f && g.absmax < INFINITY))
        return 0;
    const float r = approximate_reciprocal(g.absmax);
    return RULE == QUANTIZE_BNB_NF4 ? nf4_word(v, r, table) : fp4_word(v, r, table, a);
}

/* By one lane of a group.  at: its place in the order of the codes. */
__device__ static void store_group(const struct batch &a, const struct part &p, int64_t i,
                                   int64_t at, const struct group &g)
{
    p.scales[a.arranged_scales ? at : i] = g.scale > 0.0f ? g.scale : a.of_zeros;
    if (p.zeros)
        p.zeros[at] = (uint8_t)g.zero;
    if (!(g.absmax < INFINITY && g.scale < INFINITY))
        atomicMin(&p.answer->quantized.refused_from, (unsigned long long)(i * a.group_size));
}

/* ---- kernels ---- */

__device__ static const struct part &part_of(const struct batch &a)
{
    int i = 0;

#pragma unroll
    for (int step = 16; step; step /= 2)
        if (i + step < a.n_parts && a.part[i + step].first_block <= blockIdx.x)
            i += step;
    return a.part[i];
}

/* The table that threshold_at() reads; its address is made behind the barrier, so that no read can
 * be moved before it. */
__device__ static uint32_t load_thresholds(const struct batch &a)
{
    __shared__ float threshold[16];
    uint32_t table;

    if (threadIdx.x < 16)
        threshold[threadIdx.x] = a.threshold[threadIdx.x];
    __syncthreads();
    asm volatile("sub.u32 %0, %1, %2;"
                 : "=r"(table)
                 : "r"((uint32_t)__cvta_generic_to_shared(threshold)), "n"(MAGIC_BITS << 2));
    return table;
}

/* Of vector j of a lane: from the lane that made it. */
template <typename T, enum quantize_rule RULE, int BITS>
__device__ static struct group group_of_word(const struct batch &a, const range2<T> (&r)[2],
                                             const struct group &own, int first_lane,
                                             int group_size, int j)
{
    if (RULE != QUANTIZE_GRID_ABSMAX)
        return group_of<T, RULE, BITS>(a, r[j / 2], j % 2);
    const int lane = first_lane + (group_size > 256 ? j & ~(group_size / 256 - 1) : j);
    struct group g = { __shfl_sync(0xFFFFFFFFu, own.scale, lane), 0.0f,
                       __shfl_sync(0xFFFFFFFFu, own.r, lane), a.zero_constant };

    if (!a.sym)
        g.zero = __shfl_sync(0xFFFFFFFFu, own.zero, lane);
    return g;
}

/* A warp takes TILE weights: words of a lane lie 32 words apart, so word j holds weights
 * 256 j .. 256 j + 255 of them.  Returns the scale of the group that the lane stored, or 0. */
template <typename T, enum quantize_rule RULE, int BITS>
__device__ static double take_tile(const struct batch &a, const struct part &p, unsigned tile,
                                   int group_size, uint32_t table)
{
    constexpr bool SIGNED = RULE == QUANTIZE_GRID_ABSMAX;
    const int lane = threadIdx.x % 32;
    const int64_t first = (int64_t)tile * (TILE / 8) + lane; /* word */
    const uint4 *x = p.x + first;
    uint4 v[TILE_WORDS];

#pragma unroll
    for (int j = 0; j < TILE_WORDS; j++)
        v[j] = __ldcs(x + 32 * j);
    if (a.converts)
#pragma unroll
        for (int j = 0; j < TILE_WORDS; j++)
            v[j] = convert_word<T>(v[j]);

    range2<T> r[2];
#pragma unroll
    for (int j = 0; j < 2; j++)
        r[j] = side_by_side<T, SIGNED>(range_of_word<T, SIGNED>(v[2 * j]),
                                       range_of_word<T, SIGNED>(v[2 * j + 1]));
    if (group_size > 512)
        r[0] = r[1] = wider<T, SIGNED>(r[0], r[1]);
#pragma unroll
    for (int j = 0; j < 2; j++) {
        if (group_size > 256)
            r[j] = wider<T, SIGNED>(r[j], swapped<T>(r[j]));
#pragma unroll
        for (int distance = 1; distance < 32; distance *= 2)
            if (8 * distance < group_size)
                r[j] = wider<T, SIGNED>(r[j], of_lane<T, SIGNED>(r[j], distance));
    }

    /* The first lanes of a group have and store one group each: that of word `mine`. */
    const int lanes = group_size < 256 ? group_size / 8 : 32, mine = lane & (lanes - 1);
    const int weight = 256 * mine + 8 * (lane - mine);
    const struct group own = group_of<T, RULE, BITS>(a, mine & 2 ? r[1] : r[0], mine & 1);

    uint32_t *codes = place_of<BITS>(p.codes, first);
    int step = 32 * BITS / 4;
    int64_t i = ((int64_t)tile * TILE + weight) >> a.group_shift, at = i;
    if (BITS == 4 && a.arranged) {
        const unsigned tiles = p.row_words / (TILE / 8), row = tile / tiles,
                       col = tile - row * tiles;

        codes = (uint32_t *)p.codes + arranged_word(row, col * (TILE / 8) + lane, p.row_words);
        step = 256; /* 32 words on are 256 words on */
        at = arranged_group(row, (col * TILE + weight) >> a.group_shift,
                            p.row_words * 8 >> a.group_shift);
    }
#pragma unroll
    for (int j = 0; j < TILE_WORDS; j++) {
        const struct group g = group_of_word<T, RULE, BITS>(a, r, own, lane - mine, group_size, j);

        store_codes<BITS>(codes + j * step, true, codes_of<T, RULE, BITS>(a, v[j], g, table));
    }
    if (mine >= TILE_WORDS || (weight & (group_size - 1)))
        return 0;
    store_group(a, p, i, at, own);
    return own.scale;
}

/* GROUP_SIZE 0: any. */
template <typename T, enum quantize_rule RULE, int BITS, int GROUP_SIZE>
__global__ static void __launch_bounds__(N_THREADS, RULE == QUANTIZE_GRID_ABSMAX ? 4 : 5)
    quantize_tiles(const __grid_constant__ struct batch a)
{
    const struct part &p = part_of(a);
    const unsigned block = blockIdx.x - p.first_block;
    double sum = 0;

    const uint32_t table = load_thresholds(a);
#pragma unroll 1
    for (int i = threadIdx.x / 32; i < CHUNK / TILE; i += N_WARPS) {
        const unsigned tile = block * (CHUNK / TILE) + i;
        if ((int64_t)tile * TILE < p.n)
            sum +=
                take_tile<T, RULE, BITS>(a, p, tile, GROUP_SIZE ? GROUP_SIZE : a.group_size, table);
    }
    if (!p.sums)
        return;
    sum = block_sum<N_THREADS>(sum);
    if (threadIdx.x == 0)
        p.sums[block] = sum;
}

/* The range of a group's words, in every thread of its WARPS. */
template <typename T, bool SIGNED, int WARPS> __device__ static range2<T> range_of_all(range2<T> r)
{
    __shared__ range2<T> of_warp[N_WARPS];

#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2)
        r = wider<T, SIGNED>(r, of_lane<T, SIGNED>(r, distance));
    r = wider<T, SIGNED>(r, swapped<T>(r));
    if (WARPS == 1)
        return r;
    if (threadIdx.x % 32 == 0)
        of_warp[threadIdx.x / 32] = r;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < N_WARPS; i++)
        r = wider<T, SIGNED>(r, of_warp[i]);
    return r;
}

/* A warp or a block takes one group. */
template <typename T, enum quantize_rule RULE, int BITS, int WARPS>
__global__ static void __launch_bounds__(N_THREADS, 4)
    quantize_rows(const __grid_constant__ struct batch a)
{
    constexpr bool SIGNED = RULE == QUANTIZE_GRID_ABSMAX;
    constexpr int TEAM = 32 * WARPS;
    const struct part &p = part_of(a);
    const uint32_t table = load_thresholds(a);
    const unsigned group = (blockIdx.x - p.first_block) * (N_THREADS / TEAM) + threadIdx.x / TEAM;
    const int n_words = a.group_size / 8, t = threadIdx.x % TEAM;
    const uint4 *x = p.x + (int64_t)group * n_words;
    uint4 v[ROW_WORDS];

    if (group >= p.n_groups)
        return;
#pragma unroll
    for (int j = 0; j < ROW_WORDS; j++)
        v[j] = load_word<T>(x, t + TEAM * j, n_words);
    if (a.converts)
#pragma unroll
        for (int j = 0; j < ROW_WORDS; j++)
            v[j] = convert_word<T>(v[j]);

    /* A thread that has no word of its own repeats the first. */
    range2<T> r = range_of_word<T, SIGNED>(t < n_words  ? v[0]
                                           : a.converts ? convert_word<T>(__ldg(x))
                                                        : __ldg(x));
#pragma unroll
    for (int j = 1; j < ROW_WORDS; j++)
        if (t + TEAM * j < n_words)
            r = wider<T, SIGNED>(r, range_of_word<T, SIGNED>(v[j]));
    r = range_of_all<T, SIGNED, WARPS>(r);

    const struct group g = group_of<T, RULE, BITS>(a, r, false);
    uint32_t *codes = place_of<BITS>(p.codes, (int64_t)group * n_words + t);
    int step = TEAM * BITS / 4;
    int64_t at = group;
    if (BITS == 4 && a.arranged) {
        const unsigned groups = p.row_words / n_words, row = group / groups,
                       col = group - row * groups;

        codes = (uint32_t *)p.codes + arranged_word(row, col * n_words + t, p.row_words);
        step = TEAM * 8;
        at = arranged_group(row, col, groups);
    }
#pragma unroll
    for (int j = 0; j < ROW_WORDS; j++)
        if (TEAM * j < n_words)
            store_codes<BITS>(codes + j * step, t + TEAM * j < n_words,
                              codes_of<T, RULE, BITS>(a, v[j], g, table));
    if (t == 0) {
        store_group(a, p, group, at, g);
        if (p.sums)
            p.sums[group] = g.scale;
    }
}

/* ---- which ---- */

/* Of one way and type: nf4, fp4, int8, grids of 2 .. 8 bits. */
#define KERNELS(way)                                                                   \
    {                                                                                  \
        way(QUANTIZE_BNB_NF4, 4), way(QUANTIZE_BNB_FP4, 4), way(QUANTIZE_INT8_ROW, 8), \
            way(QUANTIZE_GRID_ABSMAX, 2), way(QUANTIZE_GRID_ABSMAX, 3),                \
            way(QUANTIZE_GRID_ABSMAX, 4), way(QUANTIZE_GRID_ABSMAX, 5),                \
            way(QUANTIZE_GRID_ABSMAX, 6), way(QUANTIZE_GRID_ABSMAX, 7),                \
            way(QUANTIZE_GRID_ABSMAX, 8),                                              \
    }
#define F16_TILES(rule, bits)  quantize_tiles<__half, rule, bits, 0>
#define BF16_TILES(rule, bits) quantize_tiles<__nv_bfloat16, rule, bits, 0>
#define F16_WARP(rule, bits)   quantize_rows<__half, rule, bits, 1>
#define BF16_WARP(rule, bits)  quantize_rows<__nv_bfloat16, rule, bits, 1>
#define F16_BLOCK(rule, bits)  quantize_rows<__half, rule, bits, N_WARPS>
#define BF16_BLOCK(rule, bits) quantize_rows<__nv_bfloat16, rule, bits, N_WARPS>

static const stream_kernel kernels[3][2][10] = {
    { KERNELS(F16_TILES), KERNELS(BF16_TILES) },
    { KERNELS(F16_WARP), KERNELS(BF16_WARP) },
    { KERNELS(F16_BLOCK), KERNELS(BF16_BLOCK) },
};

/* bitsandbytes' own block size: nf4, fp4. */
static const stream_kernel kernels_of_64[2][2] = {
    { quantize_tiles<__half, QUANTIZE_BNB_NF4, 4, 64>,
      quantize_tiles<__half, QUANTIZE_BNB_FP4, 4, 64> },
    { quantize_tiles<__nv_bfloat16, QUANTIZE_BNB_NF4, 4, 64>,
      quantize_tiles<__nv_bfloat16, QUANTIZE_BNB_FP4, 4, 64> },
};

stream_kernel quantize_stream_kernel(enum way way, bool bf16, enum quantize_rule rule, int bits,
                                     int64_t group_size)
{
    const int i = rule == QUANTIZE_BNB_NF4    ? 0
                  : rule == QUANTIZE_BNB_FP4  ? 1
                  : rule == QUANTIZE_INT8_ROW ? 2
                                              : 1 + bits;

    return i < 2 && group_size == 64 ? kernels_of_64[bf16][i] : kernels[way][bf16][i];
}
