/* linear_ahead.cu - what linear_ahead.cuh says: the bookkeeping; gemm_sm90_ahead.cuh does the work.
 */
#include "linear_ahead.cuh"
#include "gemm.cuh"
#include "unpack.cuh"

#include <stdlib.h>

#define AHEAD_BYTES_MAX ((int64_t)1 << 30) /* of both halves */
#define AHEAD_BYTES_LET ((size_t)2 << 30)  /* left free for others */
#define AHEAD_ROWS_MIN  384                /* shorter products end before their share is made */

/* 4-bit codes in arrangement 1, a scale for 64 columns or more. */
static bool can_be_made(const struct weight *w, enum dtype t)
{
    return (w->form == WEIGHT_TABLE || w->form == WEIGHT_AFFINE) && w->arrangement == 1 &&
           w->bits == 4 && w->group_size % 64 == 0 && !w->g_idx && dtype_is_16bit(t) &&
           w->n_in % CHUNK_COLS == 0 && w->n_out % UNIT_ROWS == 0;
}

static bool holds(const struct cuda_state *s)
{
    return s->ahead && s->ahead->n_taken == s->n_taken;
}

int cuda_ahead(struct backend *b, const struct ahead_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    struct linear_ahead *ahead = s->ahead;
    int64_t half_bytes = 0, at = 0;
    size_t n_free, n_all;
    void *room;

    if (!ahead)
        ahead = s->ahead = (struct linear_ahead *)calloc(1, sizeof *ahead);
    if (!ahead)
        return err_set(e, ERR_MEMORY, "the host refused %zu bytes", sizeof *ahead);
    if (a->first || !holds(s))
        ahead->n_next = 0;
    memcpy(ahead->now, ahead->next, sizeof ahead->now);
    ahead->n_now = ahead->n_next;
    ahead->n_next = 0;
    if (a->n > AHEAD_MAX || a->n_rows < AHEAD_ROWS_MIN || a->phase != PHASE_PROMPT ||
        !gemm_sm90_runs(s))
        return 0;
    for (int i = 0; i < a->n; i++)
        half_bytes += can_be_made(&a->w[i], a->compute) ? 2 * a->w[i].n_out * a->w[i].n_in : 0;
    if (!half_bytes || 2 * half_bytes > AHEAD_BYTES_MAX)
        return 0;
    if (s->scratch[SCRATCH_AHEAD].n_bytes < (size_t)(2 * half_bytes)) {
        /* Only what nobody else will miss. */
        CUDA_TRY(cudaMemGetInfo(&n_free, &n_all));
        ahead->n_now = 0;
        if (n_free < (size_t)(2 * half_bytes) + AHEAD_BYTES_LET)
            return 0;
    }
    if (cuda_scratch(s, SCRATCH_AHEAD, (size_t)(2 * half_bytes), &room, e) < 0)
        return -1;
    ahead->half = !ahead->half;
    ahead->n_taken = s->n_taken;
    at = ahead->half * (int64_t)(s->scratch[SCRATCH_AHEAD].n_bytes / 2 / 256 * 256);
    for (int i = 0; i < a->n; i++) {
        const struct weight *w = &a->w[i];

        if (!can_be_made(w, a->compute))
            continue;
        ahead->next[ahead->n_next++] = { .w = *w,
                                         .out = (uint16_t *)((char *)room + at),
                                         .t = a->compute,
                                         .n_chunks = w->n_out / UNIT_ROWS * (w->n_in / CHUNK_COLS),
                                         .done = 0 };
        at += 2 * w->n_out * w->n_in;
    }
    return 0;
}

static void make_piece(const struct linear_ahead_entry *entry, int64_t n, struct gemm_ahead *out)
{
    const struct weight *w = &entry->w;

    out->piece[out->n++] = { .codes = (const uint8_t *)w->codes,
                             .scales = w->scales,
                             .zeros = w->zeros,
                             .scales2 = (const float *)w->scales2,
                             .out = entry->out,
                             .nested_offset = w->nested_offset,
                             .n_chunks = (int32_t)(w->n_in / CHUNK_COLS),
                             .n_groups = (int32_t)(w->n_groups / w->n_out),
                             .group_size = (int32_t)w->group_size,
                             .first = (int32_t)entry->done,
                             .end = (int32_t)(entry->done + n) };
}

static bool same_kind(const struct weight *a, const struct weight *b)
{
    return a->form == b->form && a->scale_form == b->scale_form && a->zero_form == b->zero_form &&
           a->zero_constant == b->zero_constant && !memcmp(a->table, b->table, sizeof a->table);
}

void linear_ahead_take(struct cuda_state *s, struct gemm_args *g)
{
    struct linear_ahead *ahead = s->ahead;
    const struct weight *first = NULL;
    int64_t left = 0;

    g->ahead.n = 0;
    if (!holds(s) || g->n_rows < AHEAD_ROWS_MIN)
        return;
    for (int i = 0; i < g->n_parts; i++)
        left += g->part[i].n_out * g->n_k / (UNIT_ROWS * CHUNK_COLS);
    left += left / 8; /* so that a layer's products make a layer for certain */
    for (int i = 0; i < ahead->n_next && left > 0 && g->ahead.n < GEMM_AHEAD_PIECES; i++) {
        struct linear_ahead_entry *entry = &ahead->next[i];
        int64_t n = entry->n_chunks - entry->done;

        n = n < left ? n : left;
        if (!n || (first && !same_kind(first, &entry->w)))
            continue;
        if (!first) {
            first = &entry->w;
            g->ahead.bf16 = entry->t == DTYPE_BF16;
            g->ahead.scale_form = first->scale_form;
            g->ahead.zero_form = first->zero_form;
            g->ahead.map = s->dynamic_map;
            for (int c = 0; c < 16; c++)
                g->ahead.table[c] = first->form == WEIGHT_TABLE ? first->table[c]
                                    : first->zero_form == ZERO_CONSTANT
                                        ? (float)(c - first->zero_constant)
                                        : (float)c;
        }
        make_piece(entry, n, &g->ahead);
        entry->done += n;
        left -= n;
    }
}

int linear_ahead_find(struct cuda_state *s, const struct weight *w, enum dtype t, const void **out,
                      struct err *e)
{
    struct linear_ahead *ahead = s->ahead;

    *out = NULL;
    if (!holds(s))
        return 0;
    for (int i = 0; i < ahead->n_now; i++) {
        struct linear_ahead_entry *entry = &ahead->now[i];

        if (entry->w.codes != w->codes || entry->w.n_out != w->n_out || entry->w.n_in != w->n_in ||
            entry->t != t)
            continue;
        if (entry->done < entry->n_chunks) {
            const int64_t row = entry->done / (w->n_in / CHUNK_COLS) * UNIT_ROWS;

            if (cuda_weight_rows(s, w, row, w->n_out - row, t, entry->out + row * w->n_in, w->n_in,
                                 e) < 0)
                return -1;
            entry->done = entry->n_chunks;
        }
        *out = entry->out;
        return 0;
    }
    return 0;
}
