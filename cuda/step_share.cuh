/* step_share.cuh - launches of a decode step that several GPUs share: what one leaves is exchanged
 * by the launch itself.
 *
 * Each GPU has a room that the others write to (group.cu).  Who makes a value of 16 bits stores it
 * in its own rows and, in each of the others' rooms, as a line: 8 bytes, the value and a number
 * that grows from exchange to exchange.  Whoever sees the number has the value; nobody waits for
 * stores to arrive before he says that they did.  Then the same thread looks for what the others
 * made of their columns in its place, and puts it into its rows.  Between a sum and its way out
 * nothing is done that can be done before or after: the others stand still meanwhile.
 *
 * So a block waits for the blocks of its own number alone.  Grids are alike on all GPUs, and blocks
 * begin in the order of their numbers: the lowest that is not done has begun everywhere, or nothing
 * keeps it from that.
 *
 * Lines lie at the same place layer after layer.  None is overwritten that is still read: a launch
 * sends once the launches before it are over, with what they received, and between two exchanges at
 * one place is one whose senders have read the first; between two models, that of the best ids.  */
#pragma once

#if defined(__CUDACC__)
#include "overlap.cuh"
#else
#include <stdint.h>
#endif

#define SHARE_MEMBERS 8
#define SHARE_ROWS    8    /* of x, at most */
#define SHARE_LOOKS   64   /* at lines, until one at `gone` */
#define SHARE_ASKS    4096 /* until one at `broken`, which is far */
#define SHARE_AT_ONCE 3    /* members whose lines are on their way together */

struct step_share {
    int n, index;  /* GPUs, and which this is; 0: the launch leaves what it makes for itself */
    int number;    /* of the exchange in a step, from 1 */
    int n_cols;    /* that this GPU has of a row */
    int first_row; /* row 0 of the launch is this one */
    uint32_t at;   /* bytes: lines of member 0 in a room, [n][SHARE_ROWS][n_cols] */
    void *rows;    /* [n_rows, n * n_cols]: here */
    char *room[SHARE_MEMBERS];       /* of the k-th GPU after this one, which is the first */
    uint32_t *n_steps;               /* device: that this group has done so */
    const volatile uint32_t *broken; /* host: a member has given up */
    volatile uint32_t *gone;         /* device: that was seen here */
};

#if defined(__CUDACC__)
/* Steps so far.  next_step writes it: it is read behind wait_for_launch_before(), at once, for that
 * takes as long as a look at a line. */
__device__ static inline uint32_t steps_before(const struct step_share &s)
{
    return *(const volatile uint32_t *)s.n_steps;
}

/* A line of the launch without its value: the number, 48 bits. */
__device__ static inline uint64_t empty_line(const struct step_share &s, uint32_t n_steps)
{
    return (uint64_t)n_steps << 32 | (uint32_t)s.number << 16;
}

/* The k-th after this one, k < n. */
__device__ static inline int other_member(const struct step_share &s, int k)
{
    return s.index + k < s.n ? s.index + k : s.index + k - s.n;
}

/* Bytes from the start of a room to a line. */
__device__ static inline uint32_t line_at(const struct step_share &s, int from, int row, int col)
{
    return s.at + 8 * (uint32_t)((from * SHARE_ROWS + s.first_row + row) * s.n_cols + col);
}

__device__ static inline uint16_t *row_of_share(const struct step_share &s, int from, int row,
                                                int col)
{
    return (uint16_t *)s.rows + (uint32_t)(((s.first_row + row) * s.n + from) * s.n_cols + col);
}

/* Column `col` of this GPU's of a row of the launch; bits: of its value. */
__device__ static inline void send_to_members(const struct step_share &s, uint32_t n_steps, int row,
                                              int col, uint16_t bits)
{
    const uint64_t line = empty_line(s, n_steps) | bits;
    const uint32_t at = line_at(s, s.index, row, col);

#pragma unroll 1
    for (int k = 1; k < s.n; k++)
        asm volatile("st.volatile.global.u64 [%0], %1;" ::"l"(s.room[k] + at), "l"(line)
                     : "memory");
    *row_of_share(s, s.index, row, col) = bits;
}

/* The same of the others, which they send from where this was sent: columns col, col + stride, ..
 * below `end`, COLS at most. */
template <int COLS>
__device__ static inline void receive_from_members(const struct step_share &s, uint32_t n_steps,
                                                   int row, int col, int stride, int end)
{
    const uint64_t empty = empty_line(s, n_steps);
    const int n_cols = stride < end - col ? COLS : 1;

#pragma unroll 1
    for (int first = 1; first < s.n; first += SHARE_AT_ONCE) {
        uint64_t line[SHARE_AT_ONCE][COLS];
        bool all, gone = false;
        int looks = 0;

        do {
            all = true;
#pragma unroll
            for (int k = 0; k < SHARE_AT_ONCE; k++)
#pragma unroll
                for (int c = 0; c < COLS; c++)
                    if (first + k < s.n && c < n_cols)
                        asm volatile("ld.volatile.global.u64 %0, [%1];"
                                     : "=l"(line[k][c])
                                     : "l"(s.room[0] + line_at(s, other_member(s, first + k), row,
                                                               col + c * stride))
                                     : "memory");
#pragma unroll
            for (int k = 0; k < SHARE_AT_ONCE; k++)
#pragma unroll
                for (int c = 0; c < COLS; c++)
                    all = all &&
                          (first + k >= s.n || c >= n_cols || (line[k][c] ^ empty) <= UINT16_MAX);
            if (all || ++looks % SHARE_LOOKS)
                continue;
            if (looks % SHARE_ASKS == 0 && *s.broken)
                *s.gone = 1;
            gone = *s.gone;
        } while (!all && !gone);
#pragma unroll
        for (int k = 0; k < SHARE_AT_ONCE; k++)
#pragma unroll
            for (int c = 0; c < COLS; c++)
                if (first + k < s.n && c < n_cols)
                    *row_of_share(s, other_member(s, first + k), row, col + c * stride) =
                        (uint16_t)line[k][c];
    }
}
#endif
