/* unpack.cuh - codes, scales and zero points of packed weights, in registers.
 *
 * Arrangement 1 is the order in which the products of the decode phase read codes.  Eight rows of W
 * are a unit of 8 * row_bytes bytes, as before; in it 128 columns of the eight rows are a chunk of
 * 128 * bits bytes, and a chunk has the codes' bits in planes: 3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2, the
 * others one.  A plane has one piece for each of 32 lanes.  Lane 4 g + t has, of row g, the
 * elements 32 j + 8 t + i of the chunk, j = 0 .. 3, i = 0 .. 7: the fragment of four products of k
 * = 32 whose eight columns a lane are in one vector of x.
 *
 *   plane    piece of a lane              code i of j
 *   8 bits   2 vectors 512 bytes apart    byte i % 4 of word 2 j + i / 4
 *   4 bits   4 words                      nibble i of word j
 *   2 bits   2 words: j / 2               alone: byte i % 4, bits 4 (j % 2) + 2 (i / 4);
 *                                         of 3 bits: nibble i, bits 2 (j % 2);
 *                                         of 6 bits: byte i / 2, bits 4 (j % 2) + 2 (i % 2)
 *   1 bit    1 word                       of 3 bits: bit 4 i + j;
 *                                         of 5 bits: byte i / 2, bit 2 j + i % 2
 *
 * Scales and zero points lie in [unit][group of the row][row of the unit]; those of the second
 * level stay as they are.  It takes n_out in units, n_in in chunks, groups of 2^n >= 32 that divide
 * a row, or whole rows.  */
#pragma once

#include "common.cuh"

#define UNIT_ROWS  8
#define CHUNK_COLS 128

/* ---- scales and zero points ---- */

__device__ inline float e4m3_value(uint8_t byte)
{
    if ((byte & 0x7F) == 0x7F)
        return NAN;
    return __uint_as_float((uint32_t)(byte & 0x80) << 24 | (uint32_t)(byte & 0x7F) << 20) *
           0x1p120f;
}

/* 2^(byte - 127) */
__device__ inline float e8m0_value(uint8_t byte)
{
    return byte == 255 ? NAN : __uint_as_float(byte ? (uint32_t)byte << 23 : 0x400000u);
}

__device__ inline float half_bits_value(uint32_t bits)
{
    return __half2float(__ushort_as_half((unsigned short)bits));
}

/* The stored bits of scale `at`. */
__device__ inline uint32_t scale_bits(enum scale_form form, const void *scales, int64_t at)
{
    if (form == SCALE_F32)
        return __ldg((const uint32_t *)scales + at);
    if (form == SCALE_F16)
        return __ldg((const uint16_t *)scales + at);
    return form == SCALE_NONE ? 0 : __ldg((const uint8_t *)scales + at);
}

/* second: the scale of the second level, where the form has one; map: weight_dynamic_map. */
__device__ inline float scale_value(enum scale_form form, uint32_t bits, float second, float offset,
                                    const float *map)
{
    switch (form) {
    case SCALE_F32:
        return __uint_as_float(bits);
    case SCALE_F16:
        return half_bits_value(bits);
    case SCALE_NESTED:
        return map[bits] * second + offset;
    case SCALE_U8:
        return (float)bits * second;
    case SCALE_E8M0:
        return e8m0_value((uint8_t)bits);
    case SCALE_E4M3:
        return e4m3_value((uint8_t)bits) * offset;
    default:
        return 1.0f;
    }
}

__device__ inline bool has_second(enum scale_form form)
{
    return form == SCALE_NESTED || form == SCALE_U8;
}

__device__ inline uint32_t zero_bits(enum zero_form form, const void *zeros, int64_t at)
{
    if (form == ZERO_F32)
        return __ldg((const uint32_t *)zeros + at);
    if (form == ZERO_F16)
        return __ldg((const uint16_t *)zeros + at);
    return form == ZERO_CONSTANT ? 0 : __ldg((const uint8_t *)zeros + at);
}

__device__ inline float zero_value(enum zero_form form, uint32_t bits, float constant)
{
    if (form == ZERO_F32)
        return __uint_as_float(bits);
    if (form == ZERO_F16)
        return half_bits_value(bits);
    return form == ZERO_CONSTANT ? constant : (float)bits;
}

/* ---- numbers ---- */

/* Two values rounded to fp16 or bf16, a in the low half. */
template <bool BF16> __device__ inline uint32_t pack_pair(float a, float b)
{
    uint32_t out;

    if (BF16)
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(b), "f"(a));
    else
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(b), "f"(a));
    return out;
}

template <bool BF16> __device__ inline float low_value(uint32_t pair)
{
    return BF16 ? __uint_as_float(pair << 16) : half_bits_value(pair & 0xFFFF);
}

template <bool BF16> __device__ inline float high_value(uint32_t pair)
{
    return BF16 ? __uint_as_float(pair & 0xFFFF0000u) : half_bits_value(pair >> 16);
}

/* Weights are read once a pass: nothing for the L1 to keep. */
__device__ inline uint4 load_16(const void *p)
{
    uint4 v;

    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

__device__ inline uint2 load_8(const void *p)
{
    uint2 v;

    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];"
                 : "=r"(v.x), "=r"(v.y)
                 : "l"(p));
    return v;
}

__device__ inline uint32_t load_4(const void *p)
{
    uint32_t v;

    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}

/* Bytes of a and b by the low four nibbles of `selector`, each 0 .. 7. */
__device__ inline uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t selector)
{
    uint32_t out;

    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(selector));
    return out;
}

/* ---- a lane's piece of a chunk ----
 *
 * load() takes the chunk's first byte.  group() makes what the values of one scale need, and
 * pairs() the values of k = 32 number j: (0,1), (2,3), (4,5), (6,7), each rounded once.  lookup:
 * shared memory of N_LOOKUP bytes, filled by fill_lookup() before a barrier.  */

#define TABLE_COPIES 16 /* of a pair of floats: 16 lanes read 128 bytes, each its own banks */

/* 2^23 + code, for a code in one byte. */
__device__ inline float magic_byte(uint32_t word, uint32_t selector)
{
    return __uint_as_float(pick_bytes(word, 0x4B000000u, selector));
}

struct scale_zero {
    float scale, zero;
};

__device__ inline uint32_t shared_place(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* at: 128 times a byte, and where the lane's copies begin, made by one instruction. */
__device__ inline uint32_t look_up_4(uint32_t at)
{
    return *(const uint32_t *)__cvta_shared_to_generic(at);
}

__device__ inline float2 look_up_8(uint32_t at)
{
    return *(const float2 *)__cvta_shared_to_generic(at);
}

/* 4 bits looked up: code tables, and affine codes less their zero.  VARIES: with the group, so does
 * the zero. */
template <bool VARIES> struct codes_4 {
    static constexpr bool SCALED = true, ZERO = VARIES;
    static constexpr int N_WORDS = 4, BITS = 4, PIECE_COLS = CHUNK_COLS;
    static constexpr int N_LOOKUP = 256 * TABLE_COPIES * 8;
    uint32_t word[4];
    typedef struct scale_zero group_t;

    template <bool BF16> __device__ static void fill_lookup(char *lookup, const float *table)
    {
        for (int i = threadIdx.x; i < 256 * TABLE_COPIES / 2; i += blockDim.x) {
            int byte = i / (TABLE_COPIES / 2);
            float low = table[byte & 15], high = table[byte >> 4];
            ((float4 *)lookup)[i] = make_float4(low, high, low, high);
        }
    }
    __device__ void load(const uint8_t *chunk, int lane)
    {
        uint4 v = load_16(chunk + 16 * lane);

        word[0] = v.x, word[1] = v.y, word[2] = v.z, word[3] = v.w;
    }
    template <bool BF16> __device__ static group_t group(float scale, float zero, const float *)
    {
        return { scale, zero };
    }
    template <bool BF16>
    __device__ void pairs(int j, const group_t &g, const char *lookup, int lane, uint32_t out[4])
    {
        const uint32_t own = shared_place(lookup) + (uint32_t)(lane % TABLE_COPIES) * 8;

#pragma unroll
        for (int b = 0; b < 4; b++) {
            float2 v = look_up_8(__dp4a(word[j], 128u << 8 * b, own));

            if (ZERO) {
                v.x -= g.zero;
                v.y -= g.zero;
            }
            out[b] = pack_pair<BF16>(v.x * g.scale, v.y * g.scale);
        }
    }
};

/* The same of one zero, without scale: pairs as the product takes them, which the table holds
 * rounded. */
struct codes_4_bare : codes_4<false> {
    static constexpr int N_LOOKUP = 256 * 32 * 4; /* a copy for each lane, its own bank */
    struct group_t {
    };

    /* A thread has the copies of a byte; eight lanes at a time are all banks. Whole warps. */
    template <bool BF16> __device__ static void fill_lookup(char *lookup, const float *table)
    {
        const float own = table[threadIdx.x & 15];

        for (int byte = threadIdx.x; byte < 256; byte += blockDim.x) {
            const uint32_t pair = pack_pair<BF16>(own, __shfl_sync(0xFFFFFFFFu, own, byte >> 4));

#pragma unroll
            for (int i = 0; i < 8; i++)
                ((uint4 *)lookup)[8 * byte + (i + byte) % 8] = make_uint4(pair, pair, pair, pair);
        }
    }
    template <bool BF16> __device__ static group_t group(float, float, const float *)
    {
        return {};
    }
    template <bool BF16>
    __device__ void pairs(int j, const group_t &, const char *lookup, int lane, uint32_t out[4])
    {
        const uint32_t own = shared_place(lookup) + 4u * (uint32_t)lane;

#pragma unroll
        for (int b = 0; b < 4; b++)
            out[b] = look_up_4(__dp4a(word[j], 128u << 8 * b, own));
    }
};

/* Affine codes less a zero that varies and is a whole number: exact in 16 bits. */
struct codes_4_less : codes_4_bare {
    static constexpr bool ZERO = true;
    struct group_t {
        uint32_t less; /* -zero, twice */
    };

    template <bool BF16> __device__ static group_t group(float, float zero, const float *)
    {
        return { pack_pair<BF16>(-zero, -zero) };
    }
    template <bool BF16>
    __device__ void pairs(int j, const group_t &g, const char *lookup, int lane, uint32_t out[4])
    {
        codes_4_bare::pairs<BF16>(j, {}, lookup, lane, out);
#pragma unroll
        for (int b = 0; b < 4; b++)
            if (BF16) /* times one: compute_80 knows no other sum of bf16 */
                asm("fma.rn.bf16x2 %0, %0, %1, %2;" : "+r"(out[b]) : "r"(0x3F803F80), "r"(g.less));
            else
                asm("add.rn.f16x2 %0, %0, %1;" : "+r"(out[b]) : "r"(g.less));
    }
};

/* 2 bits: the four finished values of a group are eight bytes, and a permutation picks two. */
struct codes_2 {
    static constexpr bool SCALED = true, ZERO = true; /* group() wants it */
    static constexpr int N_WORDS = 2, BITS = 2, N_LOOKUP = 0, PIECE_COLS = CHUNK_COLS;
    uint32_t word[2];
    struct group_t {
        uint32_t low, high; /* values 0 and 1, 2 and 3 */
    };

    template <bool BF16> __device__ static void fill_lookup(char *, const float *)
    {
    }
    __device__ void load(const uint8_t *chunk, int lane)
    {
        uint2 v = load_8(chunk + 8 * lane);

        word[0] = v.x, word[1] = v.y;
    }
    template <bool BF16>
    __device__ static group_t group(float scale, float zero, const float *table)
    {
        return { pack_pair<BF16>((table[0] - zero) * scale, (table[1] - zero) * scale),
                 pack_pair<BF16>((table[2] - zero) * scale, (table[3] - zero) * scale) };
    }
    template <bool BF16>
    __device__ void pairs(int j, const group_t &g, const char *, int, uint32_t out[4])
    {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            /* Four codes, a byte each; bytes 2 c and 2 c + 1 are the value. */
            uint32_t codes = word[j / 2] >> (2 * (2 * (j % 2) + half)) & 0x03030303u;
            uint32_t selector = codes * 0x22u + 0x10101010u;

            out[2 * half] = pick_bytes(g.low, g.high, selector);
            out[2 * half + 1] = pick_bytes(g.low, g.high, selector >> 16);
        }
    }
};

/* 3 bits: eight values, their low and high bytes apart. */
struct codes_3 {
    static constexpr bool SCALED = true, ZERO = true;
    static constexpr int N_WORDS = 3, BITS = 3, N_LOOKUP = 0, PIECE_COLS = CHUNK_COLS;
    uint32_t word[3];
    struct group_t {
        uint32_t low[2], high[2];
    };

    template <bool BF16> __device__ static void fill_lookup(char *, const float *)
    {
    }
    __device__ void load(const uint8_t *chunk, int lane)
    {
        uint2 v = load_8(chunk + 8 * lane);

        word[0] = v.x, word[1] = v.y;
        word[2] = load_4(chunk + 256 + 4 * lane);
    }
    template <bool BF16>
    __device__ static group_t group(float scale, float zero, const float *table)
    {
        uint32_t v[4];
        group_t g;

#pragma unroll
        for (int i = 0; i < 4; i++)
            v[i] =
                pack_pair<BF16>((table[2 * i] - zero) * scale, (table[2 * i + 1] - zero) * scale);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            g.low[i] = pick_bytes(v[2 * i], v[2 * i + 1], 0x6420);
            g.high[i] = pick_bytes(v[2 * i], v[2 * i + 1], 0x7531);
        }
        return g;
    }
    template <bool BF16>
    __device__ void pairs(int j, const group_t &g, const char *, int, uint32_t out[4])
    {
        uint32_t two = word[j / 2] >> 2 * (j % 2),
                 one = j < 2 ? word[2] << (2 - j) : word[2] >> (j - 2);
        uint32_t codes = (two & 0x33333333u) | (one & 0x44444444u);

#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t selector = codes >> 16 * half;
            uint32_t low = pick_bytes(g.low[0], g.low[1], selector);
            uint32_t high = pick_bytes(g.high[0], g.high[1], selector);

            out[2 * half] = pick_bytes(low, high, 0x5140);
            out[2 * half + 1] = pick_bytes(low, high, 0x7362);
        }
    }
};

/* fl(fl(code - zero) * scale) of the codes in bytes, even[i] and odd[i] a pair. */
template <bool BF16>
__device__ inline void affine_pairs(uint32_t even, uint32_t odd, const struct scale_zero &g,
                                    uint32_t out[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float a = magic_byte(even, 0x7540u + i) - 0x1p23f;
        float b = magic_byte(odd, 0x7540u + i) - 0x1p23f;

        out[i] = pack_pair<BF16>((a - g.zero) * g.scale, (b - g.zero) * g.scale);
    }
}

/* 5 and 6 bits: nibbles, and HIGH more bits. */
template <int HIGH> struct codes_4_and {
    static constexpr bool SCALED = true, ZERO = true;
    static constexpr int N_WORDS = 4 + HIGH, BITS = 4 + HIGH, N_LOOKUP = 0, PIECE_COLS = CHUNK_COLS;
    uint32_t word[4 + HIGH];
    typedef struct scale_zero group_t;

    template <bool BF16> __device__ static void fill_lookup(char *, const float *)
    {
    }
    __device__ void load(const uint8_t *chunk, int lane)
    {
        uint4 v = load_16(chunk + 16 * lane);

        word[0] = v.x, word[1] = v.y, word[2] = v.z, word[3] = v.w;
        if (HIGH == 1) {
            word[4] = load_4(chunk + 512 + 4 * lane);
        } else {
            uint2 h = load_8(chunk + 512 + 8 * lane);
            word[4] = h.x, word[3 + HIGH] = h.y;
        }
    }
    template <bool BF16> __device__ static group_t group(float scale, float zero, const float *)
    {
        return { scale, zero };
    }
    /* Bits `from` up of each byte, put at bit 4. */
    __device__ static uint32_t high_bits(uint32_t plane, int from)
    {
        uint32_t moved = from < 4 ? plane << (4 - from) : plane >> (from - 4);

        return moved & (HIGH == 1 ? 0x10101010u : 0x30303030u);
    }
    template <bool BF16>
    __device__ void pairs(int j, const group_t &g, const char *, int, uint32_t out[4])
    {
        uint32_t plane = HIGH == 1 ? word[4] : word[4 + j / 2];
        int from = HIGH == 1 ? 2 * j : 4 * (j % 2);

        affine_pairs<BF16>((word[j] & 0x0F0F0F0Fu) | high_bits(plane, from),
                           (word[j] >> 4 & 0x0F0F0F0Fu) | high_bits(plane, from + HIGH), g, out);
    }
};

struct codes_8 {
    static constexpr bool SCALED = true, ZERO = true;
    static constexpr int N_WORDS = 8, BITS = 8, N_LOOKUP = 0, PIECE_COLS = CHUNK_COLS;
    uint32_t word[8];
    typedef struct scale_zero group_t;

    template <bool BF16> __device__ static void fill_lookup(char *, const float *)
    {
    }
    __device__ void load(const uint8_t *chunk, int lane)
    {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint4 v = load_16(chunk + 512 * i + 16 * lane);
            word[4 * i] = v.x, word[4 * i + 1] = v.y, word[4 * i + 2] = v.z, word[4 * i + 3] = v.w;
        }
    }
    template <bool BF16> __device__ static group_t group(float scale, float zero, const float *)
    {
        return { scale, zero };
    }
    template <bool BF16>
    __device__ void pairs(int j, const group_t &g, const char *, int, uint32_t out[4])
    {
        affine_pairs<BF16>(pick_bytes(word[2 * j], word[2 * j + 1], 0x6420),
                           pick_bytes(word[2 * j], word[2 * j + 1], 0x7531), g, out);
    }
};

/* ---- where a code lies, for putting it there ---- */

/* Bits `bit` .. bit + n - 1 of a word of a chunk are bits from .. from + n - 1 of this code. */
struct code_place {
    int row, col, from, n;
};

__device__ inline struct code_place lane_place(int lane, int j, int i, int from, int n)
{
    return { lane / 4, 32 * j + 8 * (lane % 4) + i, from, n };
}

__device__ inline struct code_place place_in_chunk(int bits, int word, int bit)
{
    const int byte = bit / 8, nibble = bit / 4;

    if (bits == 8) {
        int lane = word / 4 % 32, w = word / 128 * 4 + word % 4;
        return lane_place(lane, w / 2, 4 * (w % 2) + byte, 0, 8);
    }
    if (bits >= 4 && word < 128)
        return lane_place(word / 4, word % 4, nibble, 0, 4);
    if (bits == 2) { /* pair p of sixteen codes */
        int p = 2 * (bit % 8 / 2) + byte / 2;
        return lane_place(word / 2, 2 * (word % 2) + p / 4, 2 * (p % 4) + byte % 2, 0, 2);
    }
    if (bits == 3 && word < 64)
        return lane_place(word / 2, 2 * (word % 2) + bit % 4 / 2, nibble, 0, 2);
    if (bits == 3)
        return lane_place(word - 64, bit % 4, nibble, 2, 1);
    if (bits == 5)
        return lane_place(word - 128, bit % 8 / 2, 2 * byte + bit % 2, 4, 1);
    word -= 128; /* 6 bits */
    return lane_place(word / 2, 2 * (word % 2) + bit % 8 / 4, 2 * byte + bit % 4 / 2, 4, 2);
}

/* The code of an element of a chunk: the other way. */
__device__ inline unsigned arranged_code(int bits, const uint32_t *chunk, int row, int col)
{
    const int lane = 4 * row + col % 32 / 8, j = col / 32, i = col % 8;

    if (bits == 8)
        return chunk[j / 2 * 128 + 4 * lane + 2 * (j % 2) + i / 4] >> 8 * (i % 4) & 0xFF;
    if (bits == 2) {
        int p = 4 * (j % 2) + i / 2;
        return chunk[2 * lane + j / 2] >> (8 * (2 * (p % 2) + i % 2) + 2 * (p / 2)) & 3;
    }
    if (bits == 3)
        return (chunk[2 * lane + j / 2] >> (4 * i + 2 * (j % 2)) & 3) |
               (chunk[64 + lane] >> (4 * i + j) & 1) << 2;
    unsigned code = chunk[4 * lane + j] >> 4 * i & 15;
    if (bits == 5)
        code |= (chunk[128 + lane] >> (8 * (i / 2) + 2 * j + i % 2) & 1) << 4;
    if (bits == 6)
        code |= (chunk[128 + 2 * lane + j / 2] >> (8 * (i / 2) + 4 * (j % 2) + 2 * (i % 2)) & 3)
                << 4;
    return code;
}
