/* wgmma.cuh - inner to gemm_sm90*.cu: Hopper's own instructions (sm_90a).
 *
 * A warpgroup multiplies 64 rows of A with BN rows of B, both in shared memory in rows of 128 bytes
 * whose 16-byte vectors lie at (vector ^ row % 8), as the copy engine leaves them with
 * CU_TENSOR_MAP_SWIZZLE_128B.  */
#pragma once

#include <stdint.h>

/* ---- barriers in shared memory; `at` addresses of the shared window ---- */

__device__ inline uint32_t shared_address(const void *p)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(p);

    asm volatile("" : "+r"(at)); /* else the compiler makes it anew at every use */
    return at;
}

__device__ inline void barrier_init(uint32_t at, uint32_t n_arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(n_arrivals));
}

/* So that the copy engine and other blocks of the cluster see them. */
__device__ inline void barriers_made()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/* Until the phase of this parity is over; the phase before the first counts as over. */
__device__ inline void barrier_wait(uint32_t at, uint32_t parity)
{
    asm volatile("{\n"
                 ".reg .pred over;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
                 "@!over bra again;\n"
                 "}\n" ::"r"(at),
                 "r"(parity)
                 : "memory");
}

/* The same where other blocks of the cluster wrote what is waited for. */
__device__ inline void barrier_wait_cluster(uint32_t at, uint32_t parity)
{
    asm volatile("{\n"
                 ".reg .pred over;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 over, [%0], %1;\n"
                 "@!over bra again;\n"
                 "}\n" ::"r"(at),
                 "r"(parity)
                 : "memory");
}

__device__ inline void barrier_expect(uint32_t at, uint32_t n_bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(n_bytes)
                 : "memory");
}

__device__ inline void barrier_arrive(uint32_t at)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
}

/* Address of the same place in another block of the cluster. */
__device__ inline uint32_t shared_of(uint32_t at, uint32_t rank)
{
    uint32_t there;

    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(at), "r"(rank));
    return there;
}

/* At an address from shared_of(). */
__device__ inline void barrier_arrive_there(uint32_t at)
{
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(at) : "memory");
}

/* ---- clusters ---- */

__device__ inline uint32_t cluster_rank()
{
    uint32_t rank;

    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

/* A meeting of all threads of all blocks; says nothing about what they wrote. */
__device__ inline void cluster_arrive()
{
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

__device__ inline void cluster_wait()
{
    asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
}

__device__ inline void cluster_meet()
{
    cluster_arrive();
    cluster_wait();
}

/* 16 bytes to another block, counted by its barrier; addresses from shared_of(). */
__device__ inline void store_there(uint32_t at, uint32_t barrier, float a, float b, float c,
                                   float d)
{
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 "
                 "[%0], {%1, %2, %3, %4}, [%5];" ::"r"(at),
                 "f"(a), "f"(b), "f"(c), "f"(d), "r"(barrier)
                 : "memory");
}

/* ---- kernels that start before the one before them ends ---- */

/* What earlier kernels wrote is there. */
__device__ inline void wait_for_earlier_kernels()
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

__device__ inline void let_next_kernel_start()
{
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

/* ---- the copy engine: a box at element (k, row) to shared memory, zeros outside ---- */

__device__ inline void copy_box(const void *map, int32_t k, int32_t row, uint32_t to,
                                uint32_t barrier)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
                 "l"(map), "r"(k), "r"(row), "r"(barrier)
                 : "memory");
}

/* To the same place in every block of the mask, where it counts at the same barrier. */
__device__ inline void copy_box_to(const void *map, int32_t k, int32_t row, uint32_t to,
                                   uint32_t barrier, uint16_t blocks)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
                 "l"(map), "r"(k), "r"(row), "r"(barrier), "h"(blocks)
                 : "memory");
}

__device__ inline void fetch_map(const void *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* ---- products ---- */

/* A tile that begins at this address, a multiple of 1024: rows of 128 bytes, eight rows 1024 bytes
 * apart; + 2 is 32 bytes further along k. */
__device__ inline uint64_t tile_descriptor(uint32_t at)
{
    return (uint64_t)(at >> 4 & 0x3FFF) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}

__device__ inline void products_begin()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ inline void products_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Until at most N committed groups are unfinished. */
template <int N> __device__ inline void products_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* The compiler keeps reads of sums behind these. */
template <int N> __device__ inline void products_done(float (&c)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(c[i])::"memory");
}

template <int N> __device__ inline void products_done(int (&c)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+r"(c[i])::"memory");
}

/* clang-format off */
#define SUMS_8(k, i)  k(c[i]), k(c[i+1]), k(c[i+2]), k(c[i+3]), k(c[i+4]), k(c[i+5]), k(c[i+6]), k(c[i+7])
#define SUMS_32(k, i) SUMS_8(k, i), SUMS_8(k, i+8), SUMS_8(k, i+16), SUMS_8(k, i+24)
#define SUMS_N32(k)   SUMS_32(k, 0)
#define SUMS_N48(k)   SUMS_N32(k), SUMS_8(k, 32), SUMS_8(k, 40)
#define SUMS_N64(k)   SUMS_N32(k), SUMS_32(k, 32)
#define SUMS_N96(k)   SUMS_N64(k), SUMS_32(k, 64)
#define SUMS_N128(k)  SUMS_N96(k), SUMS_32(k, 96)
#define TENS(n) "%" #n "0,%" #n "1,%" #n "2,%" #n "3,%" #n "4,%" #n "5,%" #n "6,%" #n "7,%" #n "8,%" #n "9,"
#define NAMES_N30  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9," TENS(1) TENS(2)
#define NAMES_N32  NAMES_N30 "%30,%31"
#define NAMES_N48  NAMES_N30 TENS(3) "%40,%41,%42,%43,%44,%45,%46,%47"
#define NAMES_N60  NAMES_N30 TENS(3) TENS(4) TENS(5)
#define NAMES_N64  NAMES_N60 "%60,%61,%62,%63"
#define NAMES_N90  NAMES_N60 TENS(6) TENS(7) TENS(8)
#define NAMES_N96  NAMES_N90 "%90,%91,%92,%93,%94,%95"
#define NAMES_N120 NAMES_N90 TENS(9) TENS(10) TENS(11)
#define NAMES_N128 NAMES_N120 "%120,%121,%122,%123,%124,%125,%126,%127"
#define AS_FLOAT(x) "+f"(x)
#define AS_INT(x)   "+r"(x)
/* clang-format on */

/* c = A B^T, or + c; A, B, more: the operands behind the sums. */
#define WGMMA(what, names, A, B, MORE, tail, sums)                                                \
    asm volatile("{\n.reg .pred more;\nsetp.ne.b32 more, %" #MORE ", 0;\n"                        \
                 "wgmma.mma_async.sync.aligned." what " {" names "}, %" #A ", %" #B ", more" tail \
                 ";\n}\n"                                                                         \
                 : sums                                                                           \
                 : "l"(a), "l"(b), "r"(more))

#define WGMMA_16(type)                                                               \
    do {                                                                             \
        if constexpr (N == 32)                                                       \
            WGMMA("m64n64k16.f32." type, NAMES_N32, 32, 33, 34, ", 1, 1, 0, 0",      \
                  SUMS_N32(AS_FLOAT));                                               \
        else if constexpr (N == 48)                                                  \
            WGMMA("m64n96k16.f32." type, NAMES_N48, 48, 49, 50, ", 1, 1, 0, 0",      \
                  SUMS_N48(AS_FLOAT));                                               \
        else if constexpr (N == 64)                                                  \
            WGMMA("m64n128k16.f32." type, NAMES_N64, 64, 65, 66, ", 1, 1, 0, 0",     \
                  SUMS_N64(AS_FLOAT));                                               \
        else if constexpr (N == 96)                                                  \
            WGMMA("m64n192k16.f32." type, NAMES_N96, 96, 97, 98, ", 1, 1, 0, 0",     \
                  SUMS_N96(AS_FLOAT));                                               \
        else                                                                         \
            WGMMA("m64n256k16.f32." type, NAMES_N128, 128, 129, 130, ", 1, 1, 0, 0", \
                  SUMS_N128(AS_FLOAT));                                              \
    } while (0)

/* 32 bytes of k: N sums a thread, of 64 rows and 2 N columns. */
template <bool BF16, int N>
__device__ inline void multiply(float (&c)[N], uint64_t a, uint64_t b, int more)
{
    if constexpr (BF16)
        WGMMA_16("bf16.bf16");
    else
        WGMMA_16("f16.f16");
}

template <bool, int N>
__device__ inline void multiply(int (&c)[N], uint64_t a, uint64_t b, int more)
{
    if constexpr (N == 32)
        WGMMA("m64n64k32.s32.s8.s8", NAMES_N32, 32, 33, 34, "", SUMS_N32(AS_INT));
    else if constexpr (N == 64)
        WGMMA("m64n128k32.s32.s8.s8", NAMES_N64, 64, 65, 66, "", SUMS_N64(AS_INT));
    else if constexpr (N == 96)
        WGMMA("m64n192k32.s32.s8.s8", NAMES_N96, 96, 97, 98, "", SUMS_N96(AS_INT));
    else
        WGMMA("m64n256k32.s32.s8.s8", NAMES_N128, 128, 129, 130, "", SUMS_N128(AS_INT));
}

/* The same where a warp has its 16 rows of A in registers: as mma.m16n8k16 takes them. */
/* clang-format off */
#define WGMMA_REGISTERS(what, names, A, B, C, D, TILE, MORE, sums)                              \
    asm volatile("{\n.reg .pred more;\nsetp.ne.b32 more, %" #MORE ", 0;\n"                     \
                 "wgmma.mma_async.sync.aligned." what " {" names "}, "                          \
                 "{%" #A ", %" #B ", %" #C ", %" #D "}, %" #TILE ", more, 1, 1, 0;\n}\n"        \
                 : sums                                                                         \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(more))
/* clang-format on */

#define WGMMA_REGISTERS_16(type)                                                              \
    do {                                                                                      \
        if constexpr (N == 32)                                                                \
            WGMMA_REGISTERS("m64n64k16.f32." type, NAMES_N32, 32, 33, 34, 35, 36, 37,         \
                            SUMS_N32(AS_FLOAT));                                              \
        else if constexpr (N == 64)                                                           \
            WGMMA_REGISTERS("m64n128k16.f32." type, NAMES_N64, 64, 65, 66, 67, 68, 69,        \
                            SUMS_N64(AS_FLOAT));                                              \
        else                                                                                  \
            WGMMA_REGISTERS("m64n256k16.f32." type, NAMES_N128, 128, 129, 130, 131, 132, 133, \
                            SUMS_N128(AS_FLOAT));                                             \
    } while (0)

template <bool BF16, int N>
__device__ inline void multiply_registers(float (&c)[N], const uint32_t (&a)[4], uint64_t b,
                                          int more)
{
    if constexpr (BF16)
        WGMMA_REGISTERS_16("bf16.bf16");
    else
        WGMMA_REGISTERS_16("f16.f16");
}

/* Four blocks of 8 x 8 values, as sums have them in pairs of columns, with rows and columns
 * changed: lane 8 i + r says where column r of block i goes, 16 bytes. */
__device__ inline void store_matrices(void *to, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(to)),
                 "r"(a), "r"(b), "r"(c), "r"(d)
                 : "memory");
}
