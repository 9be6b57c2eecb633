/* linear_decode_head.cuh - the head of 16 bits and the best id, for up to 8 rows of x: sums,
 * logits and ids of linear_decode_few.cuh, to the bit.
 *
 * It reads half a gigabyte where other products read some megabytes, and nothing counts but how
 * evenly that flows: pieces of W go to rings in shared memory, one a warp, by copies that no
 * register waits for.  A lane reads what it copied itself.
 *
 * Bytes: W once.  Operations: two for each weight and row of x. */
#pragma once

#include "linear_decode_few.cuh"

/* A warp's pieces, of 64 columns of 16 rows each, pass by pass. */
struct head_ring {
    const uint8_t *next; /* the lane's, in the first unit */
    int64_t unit, pass;  /* bytes from unit to unit, and to the next pass of the block */
    int piece, n_pieces, n_left;
    uint32_t place, begin, end; /* of the oldest piece, which is where the next one goes */

    __device__ head_ring(const struct decode_job &a, char *rings, int first_piece, int n,
                         int n_passes, int warp, int lane)
        : unit(a.unit_bytes), pass(2 * (int64_t)gridDim.x * a.unit_bytes), piece(0), n_pieces(n),
          n_left(n * n_passes)
    {
        const int bytes = HEAD_PLACES * HEAD_PIECE;

        next = a.part[0].codes + 2 * (int64_t)blockIdx.x * unit + lane / 4 * (unit / UNIT_ROWS) +
               first_piece * 128 + 16 * (lane % 4);
        place = begin =
            (uint32_t)__cvta_generic_to_shared(rings) + (uint32_t)(warp * bytes + 16 * lane);
        end = begin + (uint32_t)bytes;
    }
    __device__ static void copy(uint32_t to, const uint8_t *from)
    {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
    }
    /* The next piece into the oldest place; an empty group where none is left. */
    __device__ void fetch(void)
    {
        if (n_left) {
            n_left--;
            copy(place, next);
            copy(place + 512, next + 64);
            copy(place + 1024, next + unit);
            copy(place + 1536, next + unit + 64);
            next += 128;
            if (++piece == n_pieces) {
                piece = 0;
                next += pass - 128 * n_pieces;
            }
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
        place += HEAD_PIECE;
        if (place == end)
            place = begin;
    }
    __device__ static void read(uint32_t at, uint32_t (&w)[4])
    {
        asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                     : "r"(at)
                     : "memory");
    }
    /* The oldest piece: [k = 32][unit]; the next one is asked for. */
    __device__ void take(uint32_t (&w)[2][2][4])
    {
        asm volatile("cp.async.wait_group %0;" ::"n"(HEAD_PLACES - 1) : "memory");
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int r = 0; r < 2; r++)
                read(place + 1024 * r + 512 * j, w[j][r]);
        fetch();
    }
};

template <bool BF16>
__global__ static void __launch_bounds__(DECODE_THREADS, 2)
    decode_head(const __grid_constant__ struct decode_job a)
{
    extern __shared__ __align__(128) char room[];
    struct decode_best *bests = (struct decode_best *)room;
    char *rings = (char *)(bests + HEAD_BESTS);
    float *sums = (float *)(rings + K_PARTS * HEAD_PLACES * HEAD_PIECE);
    uint16_t *xs = (uint16_t *)(sums + a.n_slots * a.n_rows * (K_PARTS * PASS_ROWS));
    const int lane = threadIdx.x % 32, warp = warp_of_block(), n_chunks = a.n_in / CHUNK_COLS;
    const int begin = first_chunk(n_chunks, warp) * (CHUNK_COLS / 64);
    const int n_pieces = first_chunk(n_chunks, warp + 1) * (CHUNK_COLS / 64) - begin;
    const int n_passes = (a.n_passes - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x;
    struct head_ring ring(a, rings, begin, n_pieces, n_passes, warp, lane);

    let_next_start();
    for (int i = 0; i < HEAD_PLACES; i++)
        ring.fetch();
    if (threadIdx.x < HEAD_BESTS)
        bests[threadIdx.x] = { 0.0f, DECODE_NONE };
    const uint4 first_weights = norm_weights(a, threadIdx.x);
    wait_for_launch_before();
    stage_x<BF16, 1>(a, xs, sums, first_weights, [] {});

    const bool there = lane / 4 < a.n_rows;
    const unsigned x_first = few_x_at(a, xs, lane) + 128 * begin;
    for (int done = 0; done < n_passes; done += a.n_slots) {
        const int n_here = n_passes - done < a.n_slots ? n_passes - done : a.n_slots;

#pragma unroll 1
        for (int at = 0; at < n_here; at++) {
            float sum[4] = {};
            struct few_x<2> x = {
            };

#pragma unroll 1
            for (int i = 0; i < n_pieces; i++) {
                uint32_t w[2][2][4];

                ring.take(w);
                x.load(x_first + 128 * i, there);
#pragma unroll
                for (int j = 0; j < 2; j++)
                    multiply_32<BF16, 2>(sum, w[j], x.word[j]);
            }
            store_sums<2>(a, sums, at, warp, lane, sum);
        }
        __syncthreads();
        finish_logits(a, sums, blockIdx.x + done * gridDim.x, n_here, bests);
        __syncthreads();
    }
    store_bests(a, bests);
}
