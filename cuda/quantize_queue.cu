/* quantize_queue.cu - quantizations that start together.
 *
 * quantize() puts a matrix into a queue; the queue starts when it is full, when a matrix of another
 * kind comes, or before anything else is started.  */
#include "quantize_stream.cuh"

#include <stdlib.h>

/* What matrices of one launch have in common. */
struct kind {
    enum dtype stored, working; /* working: what codes are made from */
    enum quantize_rule rule;
    int bits;
    int64_t group_size;
    bool sym;
    enum scale_form scale_form;
    bool arranged;
    enum way way;
};

struct cuda_queue {
    struct kind kind;
    struct batch batch;
    struct nest_batch nest; /* the same matrices, where scales are quantized again */
    int64_t n_blocks[QUEUE_PARTS];
};

int cuda_queue_open(struct cuda_state *s, struct err *e)
{
    s->queue = (struct cuda_queue *)calloc(1, sizeof *s->queue);
    if (!s->queue)
        return err_set(e, ERR_MEMORY, "the host refused %zu bytes", sizeof *s->queue);
    s->nest_table = cuda_nest_table_open(e);
    return s->nest_table ? 0 : -1;
}

void cuda_queue_close(struct cuda_state *s)
{
    cudaFree(s->nest_table);
    free(s->queue);
    s->nest_table = NULL;
    s->queue = NULL;
}

static bool is_power_of_two(int64_t n)
{
    return n > 0 && (n & (n - 1)) == 0;
}

/* Has arrangement 1 a place for these codes, and these kernels a way there? */
static bool is_arrangeable(const struct quantize_args *a, const struct weight *w, enum way way)
{
    const int64_t size = w->group_size;

    return a->arranged && w->bits == 4 && w->n_out % UNIT_ROWS == 0 && w->n_in % size == 0 &&
           (is_power_of_two(size) || size == w->n_in) &&
           w->n_in % (way == WAY_TILES ? TILE : CHUNK_COLS) == 0;
}

/* Is the call one of these kernels'? */
static bool kind_of(const struct quantize_args *a, const struct weight *w, struct kind *out)
{
    const int64_t size = w->group_size, n = w->n_out * w->n_in;
    const enum dtype stored = a->w->dtype;
    const enum dtype source = dtype_is_16bit(a->source) ? a->source : stored;
    const bool int8 = a->rule == QUANTIZE_INT8_ROW;
    const enum way way = size <= TILE && is_power_of_two(size) ? WAY_TILES
                         : size <= WARP_MAX                    ? WAY_WARP
                                                               : WAY_BLOCK;

    *out = (struct kind){ .stored = stored,
                          .working = int8 ? DTYPE_F16 : source,
                          .rule = a->rule,
                          .bits = w->bits,
                          .group_size = size,
                          .sym = a->sym,
                          .scale_form = w->scale_form,
                          .arranged = is_arrangeable(a, w, way),
                          .way = way };
    /* fp16 by way of bf16 to fp16 again */
    if (int8 && stored == DTYPE_F16 && source == DTYPE_BF16)
        return false;
    if (a->rule > QUANTIZE_GRID_AWQ || w->scale_form == SCALE_F16)
        return false;
    return dtype_is_16bit(stored) && (uintptr_t)a->w->data % 16 == 0 &&
           w->row_bytes * 8 == w->n_in * w->bits && n % size == 0 && size % 32 == 0 &&
           size <= BLOCK_MAX && (way == WAY_TILES ? n % TILE == 0 : size >= 256) &&
           n < INT32_MAX * (int64_t)32;
}

static bool same_kind(const struct kind *a, const struct kind *b)
{
    return a->stored == b->stored && a->working == b->working && a->rule == b->rule &&
           a->bits == b->bits && a->group_size == b->group_size && a->sym == b->sym &&
           a->scale_form == b->scale_form && a->arranged == b->arranged;
}

static void begin(struct cuda_queue *q, const struct kind *k, const struct weight *w)
{
    struct batch *b = &q->batch;

    q->kind = *k;
    b->n_parts = 0;
    b->group_size = (int)k->group_size;
    b->group_shift = 0;
    while (k->group_size >> b->group_shift > 1)
        b->group_shift++;
    b->rule = k->rule;
    b->sym = k->sym;
    b->converts = k->stored != k->working;
    b->zero_constant = w->zero_constant;
    b->of_zeros = quantize_zero_scale(k->rule, w);
    b->arranged = k->arranged;
    b->arranged_scales = k->arranged && k->scale_form == SCALE_F32;
    memcpy(&b->fp4_low, codebook_fp4_code, 4);
    memcpy(&b->fp4_high, codebook_fp4_code + 4, 4);
    for (int i = 0; i < 16; i++)
        b->threshold[i] = k->rule == QUANTIZE_BNB_NF4 && i < 15  ? codebook_nf4_threshold[i]
                          : k->rule == QUANTIZE_BNB_FP4 && i < 7 ? codebook_fp4_threshold[i]
                                                                 : INFINITY;
}

bool cuda_quantize_queue(struct cuda_state *s, const struct quantize_args *a, struct weight *w,
                         union cuda_answer *answer)
{
    struct cuda_queue *q = s->queue;
    struct kind k;

    if (!kind_of(a, w, &k))
        return false;
    if (s->n_queued && (s->n_queued == QUEUE_PARTS || !same_kind(&k, &q->kind)))
        cuda_quantize_start(s);
    if (!s->n_queued)
        begin(q, &k, w);
    w->arrangement = k.arranged;
    const int i = s->n_queued++;
    const int64_t n = w->n_out * w->n_in;
    q->n_blocks[i] = k.way == WAY_TILES  ? ceil_div(n, CHUNK)
                     : k.way == WAY_WARP ? ceil_div(w->n_groups, N_WARPS)
                                         : w->n_groups;
    q->batch.part[i] = { .x = (const uint4 *)a->w->data,
                         .codes = w->codes,
                         .scales = (float *)w->scales,
                         .zeros = w->zero_form == ZERO_U8 ? (uint8_t *)w->zeros : NULL,
                         .sums = NULL,
                         .answer = answer,
                         .n = n,
                         .n_groups = (unsigned)w->n_groups,
                         .row_words = (unsigned)(w->n_in / 8),
                         .first_block = 0 };
    q->nest.part[i] = { .scales = NULL,
                        .sums = NULL,
                        .n = w->n_groups,
                        .n_sums = k.way == WAY_TILES ? q->n_blocks[i] : w->n_groups,
                        .codes = (uint8_t *)w->scales,
                        .scales2 = (float *)w->scales2,
                        .answer = answer,
                        .groups_per_row = k.arranged ? (unsigned)(w->n_in / w->group_size) : 0,
                        .first_block = 0 };
    return true;
}

static size_t whole(size_t n_bytes)
{
    return (n_bytes + 255) / 256 * 256;
}

/* Room for the scales that are quantized again, and for their sums. */
static int place_scales(struct cuda_state *s, int n_parts, struct err *e)
{
    struct cuda_queue *q = s->queue;
    size_t n_bytes = 0;
    void *room;

    for (int i = 0; i < n_parts; i++)
        n_bytes += whole((size_t)q->nest.part[i].n * sizeof(float)) +
                   whole((size_t)q->nest.part[i].n_sums * sizeof(double));
    if (cuda_scratch(s, SCRATCH_SCALES, n_bytes, &room, e) < 0)
        return -1;
    char *at = (char *)room;
    for (int i = 0; i < n_parts; i++) {
        q->batch.part[i].scales = (float *)at;
        q->nest.part[i].scales = (const float *)at;
        at += whole((size_t)q->nest.part[i].n * sizeof(float));
        q->batch.part[i].sums = q->kind.scale_form == SCALE_NESTED ? (double *)at : NULL;
        q->nest.part[i].sums = (const double *)at;
        at += whole((size_t)q->nest.part[i].n_sums * sizeof(double));
    }
    return 0;
}

static int start(struct cuda_state *s, int n_parts, struct err *e)
{
    struct cuda_queue *q = s->queue;
    const bool nests = q->kind.scale_form != SCALE_F32;
    int64_t n_blocks = 0;

    if (nests && place_scales(s, n_parts, e) < 0)
        return -1;
    for (int i = 0; i < n_parts; i++) {
        q->batch.part[i].first_block = (unsigned)n_blocks;
        n_blocks += q->n_blocks[i];
    }
    q->batch.n_parts = q->nest.n_parts = n_parts;
    const struct kind *k = &q->kind;
    const stream_kernel kernel =
        quantize_stream_kernel(k->way, k->working == DTYPE_BF16, k->rule, k->bits, k->group_size);
    kernel<<<(unsigned)n_blocks, N_THREADS, 0, s->stream>>>(q->batch);
    CUDA_LAUNCHED(s, q->kind.way == WAY_TILES ? "quantize_tiles" : "quantize_rows");
    return nests ? cuda_nest(s, &q->nest, q->kind.scale_form, e) : 0;
}

/* The queue counts as empty at once: making room for scales may come back here. */
void cuda_quantize_start(struct cuda_state *s)
{
    const int n_parts = s->n_queued;
    struct err e = {};

    s->n_queued = 0;
    if (n_parts && start(s, n_parts, &e) < 0)
        cuda_fail_later(s, &e);
}
