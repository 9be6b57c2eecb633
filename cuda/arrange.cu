/* arrange.cu - codes, scales and zero points into the order of unpack.cuh, in the bytes they are
 * in.
 *
 * A block takes one unit: its bytes to shared memory, and back in the new order.  Two passes over
 * 0.25 to 1 byte a weight, once a job.  */
#include "unpack.cuh"

#define N_THREADS 256

__device__ static unsigned bits_at(const uint8_t *bytes, int64_t bit, int n)
{
    unsigned both = bytes[bit >> 3], shift = (unsigned)(bit & 7);

    if (shift + (unsigned)n > 8)
        both |= (unsigned)bytes[(bit >> 3) + 1] << 8;
    return both >> shift & ((1u << n) - 1);
}

__device__ static void arrange_codes(const struct weight &w, uint8_t *unit, uint8_t *room)
{
    const int n_words = (int)(UNIT_ROWS * w.row_bytes / 4), chunk_words = CHUNK_COLS * w.bits / 4;

    for (int i = threadIdx.x; i < n_words / 4; i += N_THREADS)
        ((uint4 *)room)[i] = ((const uint4 *)unit)[i];
    __syncthreads();
    for (int i = threadIdx.x; i < n_words; i += N_THREADS) {
        uint32_t word = 0;

        for (int bit = 0; bit < 32;) {
            struct code_place at = place_in_chunk(w.bits, i % chunk_words, bit);
            int64_t col = i / chunk_words * CHUNK_COLS + at.col;

            word |= bits_at(room, 8 * at.row * w.row_bytes + col * w.bits + at.from, at.n) << bit;
            bit += at.n;
        }
        ((uint32_t *)unit)[i] = word;
    }
    __syncthreads();
}

/* Numbers of n_bytes each, [8][n] to [n][8]. */
__device__ static void arrange_numbers(uint8_t *numbers, int n_bytes, int n, uint8_t *room)
{
    for (int i = threadIdx.x; i < UNIT_ROWS * n * n_bytes; i += N_THREADS)
        room[i] = numbers[i];
    __syncthreads();
    for (int i = threadIdx.x; i < UNIT_ROWS * n * n_bytes; i += N_THREADS) {
        int at = i / n_bytes, byte = i % n_bytes;
        numbers[i] = room[(at % UNIT_ROWS * n + at / UNIT_ROWS) * n_bytes + byte];
    }
    __syncthreads();
}

__global__ static void __launch_bounds__(N_THREADS)
    arrange(struct weight w, int scale_bytes, int zero_bytes)
{
    extern __shared__ __align__(16) uint8_t arrange_room[];
    const int64_t unit = blockIdx.x;
    const int n_groups = (int)(w.n_groups / w.n_out);

    arrange_codes(w, (uint8_t *)w.codes + unit * UNIT_ROWS * w.row_bytes, arrange_room);
    if (scale_bytes)
        arrange_numbers((uint8_t *)w.scales + unit * UNIT_ROWS * n_groups * scale_bytes,
                        scale_bytes, n_groups, arrange_room);
    if (zero_bytes)
        arrange_numbers((uint8_t *)w.zeros + unit * UNIT_ROWS * n_groups * zero_bytes, zero_bytes,
                        n_groups, arrange_room);
}

static bool has_order(const struct weight *w)
{
    const int64_t group = w->group_size;
    bool codes = (w->form == WEIGHT_TABLE && w->bits <= 4) ||
                 (w->form == WEIGHT_AFFINE && w->bits >= 2 && w->bits <= 8 && w->bits != 7);
    bool groups =
        group == w->n_in || (group >= 32 && (group & (group - 1)) == 0 && w->n_in % group == 0);

    return codes && groups && !w->g_idx && w->n_out % UNIT_ROWS == 0 && w->n_in % CHUNK_COLS == 0 &&
           w->n_groups == w->n_out * (w->n_in / group) && (uintptr_t)w->codes % 16 == 0;
}

int cuda_arrange(struct backend *b, struct weight *w, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    int most = 0;

    CUDA_TRY(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, s->device));
    int64_t room = UNIT_ROWS * w->row_bytes;
    if (w->arrangement != 0 || !has_order(w) || room > most)
        return 0;
    /* Scales of 4 bytes in groups of 32: less than codes of 2 bits, unless there are 8 zero bits.
     */
    int64_t numbers = UNIT_ROWS * (w->n_in / w->group_size) * 4;
    room = room > numbers ? room : numbers;
    CUDA_TRY(cudaFuncSetAttribute(arrange, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)room));
    arrange<<<(unsigned)(w->n_out / UNIT_ROWS), N_THREADS, (size_t)room, s->stream>>>(
        *w, (int)(weight_scales_bytes(w) / (size_t)w->n_groups),
        (int)(weight_zeros_bytes(w) / (size_t)w->n_groups));
    CUDA_LAUNCHED(s, "arrange");
    w->arrangement = 1;
    return 0;
}
