/* decode.cu - greedy decoding, whole steps at a time, with no word from the host in between.
 *
 * A step is five launches a layer,
 *   norm + q|k|v,   rotation + cache + attention,   o + residual,
 *   norm + gate|up + SwiGLU,   down + residual,
 * then norm + head + best ids, and `next_step`: it picks the best id of each row, writes it where
 * the host will look, counts the position up and fetches the id's row of the embedding.  Slots,
 * positions and counts live on the device, so the launches of a step are the same every time.  They
 * are captured once as a CUDA graph (step_graph.cuh), and n_steps replays are queued before the
 * host waits.
 *
 * Of a model in parts (backend.h) a GPU has some outputs of each product.  What attention, o, the
 * MLP and down give is exchanged by the launch that makes it (step_share.cuh); of more than a few
 * rows, it is brought together by a launch of its own (group.cu).  So are the best ids of the
 * head, of which each GPU looks at some rows.  The residual stream stands twice: whole, for the
 * norms, and this GPU's columns, which o and down are added to.
 *
 * Bytes of a step: every weight once, the keys and values of the rows; the rest is small.  What
 * costs beyond them is the start and end of launches: each lets the next one begin at once and
 * fetch what no launch of the step writes (weights, tables) before it waits. */
#include "attention_decode.cuh"
#include "group.cuh"
#include "linear_decode.cuh"
#include "step_graph.cuh"

#include <stdlib.h>

extern "C" {
#include "base/memory.h"
}

#define ROWS_MAX  DECODE_ROWS_MAX
#define STEPS_MAX 256 /* queued before the host waits; a power of two */
#define BOUND_MIN 256 /* positions; a graph for every power of two from here on */
#define N_THREADS 256

struct decode_graphs {
    struct step_graphs steps;
    int32_t *out; /* host, pinned, [STEPS_MAX, ROWS_MAX]: written by the device */
};

/* A step, and the working memory it is launched on. */
struct decode_step {
    struct backend *b;
    struct cuda_state *s;
    const struct decode_args *a;
    enum dtype t;
    int64_t n_rows, bound;
    int n_best;                                  /* candidates of a row, of this GPU */
    void *x, *q, *k, *v, *attended, *mlp, *room; /* [ROWS_MAX, ...] */
    /* What this GPU has of them; the same where the model is whole. */
    void *own_x, *own_attended, *own_mlp;
    int member;              /* of a group; 0 where the model is whole */
    struct step_share share; /* n = 0: what a launch leaves stays here */
    struct {
        size_t x, attended, mlp;
    } lines;            /* in a room */
    struct weight head; /* this GPU's rows */
    struct decode_best *own_best, *best;
    int32_t *slot, *position, *n_done; /* [ROWS_MAX]: of each row; steps so far */
    int32_t *out;
};

/* ---- the ends of a step ---- */

struct first_rows {
    int32_t slot[ROWS_MAX], position[ROWS_MAX], id[ROWS_MAX];
};

struct ends_job {
    const uint4 *table;
    uint4 *x;
    uint4 *own;    /* columns of x that stand there, too; NULL: none do */
    int n_vectors; /* of 8 elements, in a row */
    int own_first, n_own;
    int n_rows, n_best; /* candidates of a row, of all GPUs */
    int n_ids;
    const struct decode_best *best;
    int32_t *slot, *position, *n_done, *out;
    uint32_t *n_steps; /* of the group; NULL: nobody asks */
};

__device__ static void embed_row(const struct ends_job &a, int row, int32_t id)
{
    for (int i = threadIdx.x; i < a.n_vectors; i += N_THREADS) {
        const uint4 x = a.table[(int64_t)id * a.n_vectors + i];

        a.x[(int64_t)row * a.n_vectors + i] = x;
        if (a.own && i >= a.own_first && i < a.own_first + a.n_own)
            a.own[(int64_t)row * a.n_own + i - a.own_first] = x;
    }
}

__global__ static void first_step(struct ends_job a, struct first_rows first)
{
    const int row = blockIdx.x;

    if (threadIdx.x == 0) {
        a.slot[row] = first.slot[row];
        a.position[row] = first.position[row];
    }
    embed_row(a, row, first.id[row]);
}

__device__ static struct decode_best best_of_warp(struct decode_best mine)
{
    for (int far = 16; far; far /= 2) {
        struct decode_best other;
        other.value = __shfl_xor_sync(0xFFFFFFFFu, mine.value, far);
        other.id = __shfl_xor_sync(0xFFFFFFFFu, mine.id, far);
        mine = better_of(mine, other);
    }
    return mine;
}

__global__ static void __launch_bounds__(N_THREADS) next_step(struct ends_job a)
{
    __shared__ struct decode_best of_warp[N_THREADS / 32];
    const int row = blockIdx.x;
    struct decode_best mine = { 0, DECODE_NONE };

    let_next_start();
    wait_for_launch_before();
    for (int i = threadIdx.x; i < a.n_best; i += N_THREADS)
        mine = better_of(mine, a.best[i * a.n_rows + row]);
    mine = best_of_warp(mine);
    if (threadIdx.x % 32 == 0)
        of_warp[threadIdx.x / 32] = mine;
    __syncthreads();
    mine = best_of_warp(of_warp[threadIdx.x % (N_THREADS / 32)]);
    if (threadIdx.x == 0) {
        const int step = a.n_done[row];

        a.out[step % STEPS_MAX * ROWS_MAX + row] = mine.id < 0 ? -1 : mine.id;
        a.position[row]++;
        a.n_done[row] = step + 1;
        if (row == 0 && a.n_steps)
            ++*a.n_steps;
    }
    /* Where another GPU gave up, candidates are anything. */
    embed_row(a, row, mine.id < 0 || mine.id >= a.n_ids ? 0 : mine.id);
}

static bool in_parts(const struct decode_step *d)
{
    return d->a->n_parts > 1;
}

static struct ends_job ends_of(const struct decode_step *d)
{
    const int64_t n_cols = d->a->embed->n_cols;
    const int n_own = (int)(n_cols / 8 / d->a->n_parts);
    struct ends_job job = { .table = (const uint4 *)d->a->embed->data,
                            .x = (uint4 *)d->x,
                            .own = in_parts(d) ? (uint4 *)d->own_x : NULL,
                            .n_vectors = (int)(n_cols / 8),
                            .own_first = d->member * n_own,
                            .n_own = n_own,
                            .n_rows = (int)d->n_rows,
                            .n_best = d->n_best * d->a->n_parts,
                            .n_ids = (int)d->a->embed->n_rows,
                            .best = d->best,
                            .slot = d->slot,
                            .position = d->position,
                            .n_done = d->n_done,
                            .out = d->out,
                            .n_steps = d->share.n_steps };

    return job;
}

static int start_rows(const struct decode_step *d, int first, struct err *e)
{
    const struct decode_args *a = d->a;
    struct first_rows rows;

    for (int i = 0; i < d->n_rows; i++) {
        rows.slot[i] = a->slot[first + i];
        rows.position[i] = a->position[first + i];
        rows.id[i] = a->ids[first + i];
    }
    first_step<<<(unsigned)d->n_rows, N_THREADS, 0, d->s->stream>>>(ends_of(d), rows);
    CUDA_LAUNCHED(d->s, "first_step");
    /* No launch overlaps with what is not a kernel: attention, which looks at slots and positions
     * before it waits, never sees those of another cache. */
    CUDA_TRY(cudaMemsetAsync(d->n_done, 0, ROWS_MAX * sizeof *d->n_done, d->s->stream));
    return 0;
}

static int finish_step(const struct decode_step *d, struct err *e)
{
    return start_overlapping(d->s, "next_step", e, next_step, dim3((unsigned)d->n_rows), N_THREADS,
                             0, ends_of(d));
}

/* ---- a step ---- */

enum { Q, K, V, O, GATE, UP, DOWN };

static struct decode_linear product(const struct decode_step *d, const struct decode_layer *l,
                                    int first, int n, enum decode_epilogue epilogue)
{
    struct decode_linear p = {};

    p.epilogue = epilogue;
    p.n_parts = n;
    for (int i = 0; i < n; i++) {
        p.w[i] = &l->linear[first + i];
        p.bias[i] = l->bias[first + i].data ? &l->bias[first + i] : NULL;
    }
    p.eps = d->a->eps;
    p.model = d->t;
    p.compute = l->linear[first].form == WEIGHT_PLAIN ? d->t : d->a->compute;
    p.n_rows = d->n_rows;
    p.room = d->room;
    return p;
}

static struct decode_linear product_qkv(const struct decode_step *d, const struct decode_layer *l)
{
    struct decode_linear p = product(d, l, Q, 3, DECODE_STORE);

    p.x = d->x;
    p.norm_weight = l->input_norm;
    p.y[0] = d->q;
    p.y[1] = d->k;
    p.y[2] = d->v;
    return p;
}

static struct decode_linear product_o(const struct decode_step *d, const struct decode_layer *l)
{
    struct decode_linear p = product(d, l, O, 1, DECODE_ADD);

    p.x = d->attended;
    p.residual = d->own_x;
    return p;
}

static struct decode_linear product_gate_up(const struct decode_step *d,
                                            const struct decode_layer *l)
{
    struct decode_linear p = product(d, l, GATE, 2, DECODE_SWIGLU);

    p.x = d->x;
    p.norm_weight = l->post_norm;
    p.y[0] = d->own_mlp;
    return p;
}

static struct decode_linear product_down(const struct decode_step *d, const struct decode_layer *l)
{
    struct decode_linear p = product(d, l, DOWN, 1, DECODE_ADD);

    p.x = d->mlp;
    p.residual = d->own_x;
    return p;
}

static struct decode_linear product_head(const struct decode_step *d)
{
    struct decode_linear p = {};

    p.epilogue = DECODE_ARGMAX;
    p.n_parts = 1;
    p.w[0] = &d->head;
    p.first_id = d->head.n_out < d->a->head->n_out ? (int)(d->member * d->head.n_out) : 0;
    p.x = d->x;
    p.norm_weight = d->a->norm;
    p.eps = d->a->eps;
    p.best = d->own_best;
    p.forbidden = d->a->forbidden;
    p.n_forbidden = d->a->n_forbidden;
    p.model = d->t;
    p.compute = d->head.form == WEIGHT_PLAIN ? d->t : d->a->compute;
    p.n_rows = d->n_rows;
    p.room = d->room;
    return p;
}

static struct decode_attention attention_of(const struct decode_step *d,
                                            const struct decode_layer *l)
{
    const struct decode_args *a = d->a;
    struct decode_attention p = {};

    p.t = d->t;
    p.q = d->q;
    p.k = d->k;
    p.v = d->v;
    p.k_cache = l->k_cache->data;
    p.v_cache = l->v_cache->data;
    p.cos_table = a->cos_table->data;
    p.sin_table = a->sin_table->data;
    p.slot = d->slot;
    p.position = d->position;
    p.out = d->own_attended;
    p.n_rows = d->n_rows;
    p.capacity = a->capacity;
    p.window = l->window;
    p.bound = d->bound;
    p.n_heads = a->n_heads;
    p.n_kv_heads = a->n_kv_heads;
    p.head_dim = a->head_dim;
    p.n_rotated = a->n_rotated;
    p.overlap = d->s->overlaps;
    return p;
}

/* n_rows x n_cols of this GPU's, of 16 bits or of fp32, beside the others' in `out`. */
static int collect(const struct decode_step *d, enum dtype t, void *own, int64_t n_rows,
                   int64_t n_cols, void *out, struct err *e)
{
    struct tensor part = { own, t, n_rows, n_cols, MEM_SCRATCH };
    struct tensor all = { out, t, n_rows, n_cols * d->a->n_parts, MEM_SCRATCH };
    const struct collect_args a = { .part = &part, .out = &all, .n_rows = n_rows };

    return cuda_collect(d->s, &a, e);
}

/* What a launch leaves for `rows`, n_cols of them this GPU's, and where its lines lie; *number
 * counts exchanges. */
static struct step_share leaves(const struct decode_step *d, int64_t n_cols, void *rows, size_t at,
                                int *number)
{
    struct step_share share = d->share;

    if (!share.n)
        return share;
    share.number = ++*number;
    share.n_cols = (int)n_cols;
    share.at = (uint32_t)at;
    share.rows = rows;
    return share;
}

/* The launch in front has left what it made at `own`, or exchanged it. */
static int bring_together(const struct decode_step *d, const struct step_share *share, void *own,
                          int64_t n_cols, void *rows, struct err *e)
{
    return in_parts(d) && !share->n ? collect(d, d->t, own, d->n_rows, n_cols, rows, e) : 0;
}

static int launch_layer(const struct decode_step *d, const struct decode_layer *l, int *number,
                        struct err *e)
{
    const int64_t width = d->a->embed->n_cols / d->a->n_parts, mlp = l->linear[GATE].n_out;
    const int64_t query = (int64_t)d->a->n_heads * d->a->head_dim;
    struct decode_linear qkv = product_qkv(d, l), o = product_o(d, l),
                         gate_up = product_gate_up(d, l), down = product_down(d, l);
    struct decode_attention attention = attention_of(d, l);

    /* What is brought together comes as rows. */
    if (!in_parts(d))
        o.x_eights = attention.eights = cuda_linear_decode_eights(d->s, &o);
    if (!in_parts(d) && cuda_linear_decode_leaves_image(d->s, &gate_up))
        gate_up.y_eights = down.x_eights = cuda_linear_decode_eights(d->s, &down);
    attention.share = leaves(d, query, d->attended, d->lines.attended, number);
    /* q, k and v are not exchanged; but the kernel of those that are is in the instruction cache,
     * which has no room for one more. */
    if (cuda_linear_decode_shares(d->s, &qkv))
        qkv.share = d->share;
    if (cuda_linear_decode_shares(d->s, &o))
        o.share = leaves(d, width, d->x, d->lines.x, number);
    if (cuda_linear_decode_shares(d->s, &gate_up))
        gate_up.share = leaves(d, mlp, d->mlp, d->lines.mlp, number);
    if (cuda_linear_decode_shares(d->s, &down))
        down.share = leaves(d, width, d->x, d->lines.x, number);
    if (cuda_linear_decode(d->s, &qkv, e) < 0 || cuda_attention_decode(d->s, &attention, e) < 0 ||
        bring_together(d, &attention.share, d->own_attended, query, d->attended, e) < 0 ||
        cuda_linear_decode(d->s, &o, e) < 0 ||
        bring_together(d, &o.share, d->own_x, width, d->x, e) < 0 ||
        cuda_linear_decode(d->s, &gate_up, e) < 0 ||
        bring_together(d, &gate_up.share, d->own_mlp, mlp, d->mlp, e) < 0 ||
        cuda_linear_decode(d->s, &down, e) < 0)
        return -1;
    return bring_together(d, &down.share, d->own_x, width, d->x, e);
}

/* A step_launch. */
static int launch_step(const void *step, struct err *e)
{
    const struct decode_step *d = (const struct decode_step *)step;
    const struct decode_linear head = product_head(d);
    int number = 0;

    for (int64_t i = 0; i < d->a->n_layers; i++)
        if (launch_layer(d, &d->a->layers[i], &number, e) < 0)
            return err_in(e, "layer %lld", (long long)i);
    if (cuda_linear_decode(d->s, &head, e) < 0)
        return err_in(e, "the head");
    if (in_parts(d) &&
        collect(d, DTYPE_F32, d->own_best, 1, 2 * d->n_best * d->n_rows, d->best, e) < 0)
        return err_in(e, "the head's best");
    return finish_step(d, e);
}

/* ---- what a step is made from ---- */

static void add_tensor(struct bytes *key, const struct tensor *t)
{
    bytes_add(key, &t->data, sizeof t->data);
    bytes_add(key, &t->dtype, sizeof t->dtype);
    bytes_add(key, &t->n_rows, sizeof t->n_rows);
    bytes_add(key, &t->n_cols, sizeof t->n_cols);
}

static void add_layer(struct bytes *key, const struct decode_layer *l)
{
    for (int i = Q; i <= DOWN; i++) {
        bytes_add(key, &l->linear[i], sizeof l->linear[i]);
        add_tensor(key, &l->bias[i]);
    }
    add_tensor(key, l->input_norm);
    add_tensor(key, l->post_norm);
    add_tensor(key, l->k_cache);
    add_tensor(key, l->v_cache);
    bytes_add(key, &l->window, sizeof l->window);
}

/* Everything that the launches of a step are made from.  `n_taken` stands for the addresses of our
 * own memory. */
static struct bytes key_of(const struct decode_step *d)
{
    const struct decode_args *a = d->a;
    const int64_t numbers[] = { d->n_rows,
                                d->bound,
                                (int64_t)d->s->n_taken,
                                a->n_layers,
                                a->n_parts,
                                in_parts(d) ? cuda_group_number(d->s) : 0,
                                a->n_heads,
                                a->n_kv_heads,
                                a->head_dim,
                                a->n_rotated,
                                a->capacity,
                                a->n_forbidden,
                                (int64_t)(uintptr_t)a->forbidden,
                                a->compute };
    struct bytes key = {};

    bytes_add(&key, numbers, sizeof numbers);
    bytes_add(&key, &a->eps, sizeof a->eps);
    add_tensor(&key, a->embed);
    add_tensor(&key, a->norm);
    bytes_add(&key, a->head, sizeof *a->head);
    add_tensor(&key, a->cos_table);
    add_tensor(&key, a->sin_table);
    for (int64_t i = 0; i < a->n_layers; i++)
        add_layer(&key, &a->layers[i]);
    return key;
}

/* ---- all steps ---- */

/* Hands out parts of the working memory, or counts what they come to (base NULL). */
static void *part(char *base, size_t *n_bytes, size_t size)
{
    void *p = base ? base + *n_bytes : NULL;

    *n_bytes += (size + 255) / 256 * 256;
    return p;
}

static void *rows_part(char *base, size_t *n_bytes, int64_t n_cols)
{
    return part(base, n_bytes, ROWS_MAX * 2 * (size_t)n_cols);
}

/* What depends on the number of rows comes last: the others stay where they are. */
static size_t carve(struct decode_step *d, char *base, size_t room)
{
    const struct decode_args *a = d->a;
    const int64_t query = (int64_t)a->n_heads * a->head_dim;
    const int64_t key = (int64_t)a->n_kv_heads * a->head_dim;
    const int64_t width = a->embed->n_cols, mlp = a->layers[0].linear[GATE].n_out;
    const size_t best = (size_t)d->n_best * (size_t)d->n_rows * sizeof(struct decode_best);
    size_t n = 0;

    d->own_x = d->x = rows_part(base, &n, width);
    d->q = rows_part(base, &n, query);
    d->k = rows_part(base, &n, key);
    d->v = rows_part(base, &n, key);
    d->own_attended = d->attended = rows_part(base, &n, query * a->n_parts);
    d->own_mlp = d->mlp = rows_part(base, &n, mlp * a->n_parts);
    if (in_parts(d)) {
        d->own_x = rows_part(base, &n, width / a->n_parts);
        d->own_attended = rows_part(base, &n, query);
        d->own_mlp = rows_part(base, &n, mlp);
    }
    d->slot = (int32_t *)part(base, &n, ROWS_MAX * sizeof(int32_t));
    d->position = (int32_t *)part(base, &n, ROWS_MAX * sizeof(int32_t));
    d->n_done = (int32_t *)part(base, &n, ROWS_MAX * sizeof(int32_t));
    d->own_best = d->best = (struct decode_best *)part(base, &n, best * (size_t)a->n_parts);
    if (in_parts(d))
        d->own_best = (struct decode_best *)part(base, &n, best);
    d->room = part(base, &n, room);
    return n;
}

/* Working memory of the largest launch. */
static size_t room_of(const struct decode_step *d)
{
    const struct decode_linear head = product_head(d);
    size_t most = cuda_linear_decode_room(&head);

    for (int64_t i = 0; i < d->a->n_layers; i++) {
        const struct decode_layer *l = &d->a->layers[i];
        const struct decode_linear each[] = { product_qkv(d, l), product_o(d, l),
                                              product_gate_up(d, l), product_down(d, l) };
        for (const struct decode_linear &p : each) {
            size_t n = cuda_linear_decode_room(&p);
            most = n > most ? n : most;
        }
    }
    return most;
}

/* Bytes of lines of n_cols of each GPU, behind n others. */
static size_t lines_part(size_t *n, int64_t n_cols, int n_parts)
{
    const size_t at = *n;

    *n += (size_t)(n_cols * n_parts) * SHARE_ROWS * 8;
    return at;
}

#define BY_LAUNCHES "decode steps of a group exchanged rows by launches of their own: "

/* Up to SHARE_ROWS rows are exchanged as lines, if the rooms hold those of all three places and 16
 * bits count the exchanges of a step; the record says where that is not so. */
static void open_share(struct decode_step *d)
{
    const struct decode_args *a = d->a;
    const char *refused = NULL;
    size_t room, n = 0;
    const struct step_share share = cuda_group_share(d->s, &room);

    d->lines.x = lines_part(&n, a->embed->n_cols / a->n_parts, a->n_parts);
    d->lines.attended = lines_part(&n, (int64_t)a->n_heads * a->head_dim, a->n_parts);
    d->lines.mlp = lines_part(&n, a->layers[0].linear[GATE].n_out, a->n_parts);
    memset(&d->share, 0, sizeof d->share);
    if (d->n_rows > SHARE_ROWS)
        return;
    if (n > room)
        refused = BY_LAUNCHES "the GPUs' rooms do not hold the lines";
    else if (4 * a->n_layers >= UINT16_MAX)
        refused = BY_LAUNCHES "the model has more layers than lines can count";
    else
        d->share = share;
    if (refused)
        backend_note(d->b, refused);
}

static int open_graphs(struct cuda_state *s, struct err *e)
{
    struct cudaFuncAttributes facts;

    if (!s->graphs) {
        s->graphs = (struct decode_graphs *)mem_alloc(sizeof *s->graphs);
        CUDA_TRY(cudaFuncGetAttributes(&facts, next_step));
        s->overlaps = facts.ptxVersion >= 90;
    }
    if (!s->graphs->out)
        CUDA_TRY(cudaHostAlloc((void **)&s->graphs->out, sizeof(int32_t) * STEPS_MAX * ROWS_MAX,
                               cudaHostAllocDefault));
    return 0;
}

static int open_step(struct decode_step *d, struct err *e)
{
    const struct decode_linear head = product_head(d);
    size_t room = room_of(d);
    void *all;

    if (open_graphs(d->s, e) < 0)
        return -1;
    d->n_best = cuda_linear_decode_blocks(d->s, &head);
    if (in_parts(d))
        open_share(d);
    if (cuda_scratch(d->s, SCRATCH_DECODE, carve(d, NULL, room), &all, e) < 0)
        return -1;
    carve(d, (char *)all, room);
    d->out = d->s->graphs->out;
    return 0;
}

void cuda_decode_close(struct cuda_state *s)
{
    if (!s->graphs)
        return;
    cuda_step_graphs_release(&s->graphs->steps);
    cudaFreeHost(s->graphs->out);
    free(s->graphs);
    s->graphs = NULL;
}

/* The bound of the graph that knows this position: what attention reads is cut by it. */
static int64_t bound_for(int64_t position)
{
    int64_t n = BOUND_MIN;

    while (n <= position)
        n *= 2;
    return n - 1;
}

/* Sequences first .. first + d->n_rows - 1. */
static int run_rows(struct decode_step *d, int first, struct err *e)
{
    const struct decode_args *a = d->a;
    struct step_graph *g = NULL;
    int64_t position = 0;

    for (int i = 0; i < d->n_rows; i++)
        position = a->position[first + i] > position ? a->position[first + i] : position;
    if (start_rows(d, first, e) < 0)
        return -1;
    for (int step = 0; step < a->n_steps; step++) {
        if (!g || position + step > d->bound) {
            d->bound = bound_for(position + step);
            g = cuda_step_graph(&d->s->graphs->steps, key_of(d));
        }
        if (cuda_step_run(d->s, &d->s->graphs->steps, g, a->n_steps - step, launch_step, d, e) < 0)
            return err_in(e, "decode step %d", step);
        if ((step + 1) % STEPS_MAX && step + 1 < a->n_steps)
            continue;
        if (d->b->ops->sync(d->b, e) < 0)
            return -1;
        for (int done = step / STEPS_MAX * STEPS_MAX; done <= step; done++)
            memcpy(a->out + (int64_t)done * a->n_seqs + first, d->out + done % STEPS_MAX * ROWS_MAX,
                   (size_t)d->n_rows * sizeof *a->out);
    }
    return 0;
}

static bool knows_tensor(const struct decode_step *d, const struct tensor *t)
{
    return t->dtype == d->t;
}

/* Does every launch of a step know this model? */
static bool knows(const struct decode_step *d)
{
    const struct decode_args *a = d->a;
    const struct decode_linear head = product_head(d);

    if (in_parts(d) && (!cuda_group_reaches(d->s) || a->embed->n_cols % (8 * a->n_parts)))
        return false;
    if (a->n_layers < 1 || !dtype_is_16bit(d->t) || !knows_tensor(d, a->embed) ||
        a->embed->n_cols % 8 || (uintptr_t)a->embed->data % 16 ||
        !cuda_attention_decode_fits(d->t, a->n_heads, a->n_kv_heads, a->head_dim, a->n_rotated) ||
        !cuda_linear_decode_fits(&head))
        return false;
    for (int64_t i = 0; i < a->n_layers; i++) {
        const struct decode_layer *l = &a->layers[i];
        const struct decode_linear each[] = { product_qkv(d, l), product_o(d, l),
                                              product_gate_up(d, l), product_down(d, l) };

        if (!knows_tensor(d, l->k_cache) || !knows_tensor(d, l->v_cache))
            return false;
        for (const struct decode_linear &p : each)
            if (!cuda_linear_decode_fits(&p))
                return false;
    }
    return true;
}

/* Of a plain head whose rows divide; else all of them, on every GPU: the same candidates come from
 * each, which changes nothing. */
static struct weight head_rows(const struct decode_args *a, int member)
{
    struct weight w = *a->head;

    if (a->n_parts > 1 && w.form == WEIGHT_PLAIN && w.n_out % (16 * a->n_parts) == 0) {
        w.n_out /= a->n_parts;
        w.codes = (char *)w.codes + (size_t)member * (size_t)(w.n_out * w.row_bytes);
    }
    return w;
}

int cuda_decode(struct backend *b, struct decode_args *a, struct err *e)
{
    struct decode_step d = {};

    d.b = b;
    d.s = cuda_state_of(b);
    d.a = a;
    d.t = a->embed->dtype;
    d.member = in_parts(&d) && cuda_group_reaches(d.s) ? cuda_group_index(d.s) : 0;
    d.head = head_rows(a, d.member);
    d.n_rows = a->n_seqs < ROWS_MAX ? a->n_seqs : ROWS_MAX;
    a->done = d.n_rows > 0 && a->n_steps > 0 && knows(&d);
    if (!a->done)
        return 0;
    for (int first = 0; first < a->n_seqs; first += ROWS_MAX) {
        d.n_rows = a->n_seqs - first < ROWS_MAX ? a->n_seqs - first : ROWS_MAX;
        if (open_step(&d, e) < 0 || run_rows(&d, first, e) < 0)
            return err_in(e, "decoding");
    }
    return 0;
}
