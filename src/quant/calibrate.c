/* calibrate.c - see calibrate.h.  The operations are those of the forward pass (model/forward.c),
 * with its rounding points; sequences see themselves alone. */
#include "quant/calibrate.h"

#include "base/hash.h"
#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

#define MEMORY_PART 4 /* of what is free once the streams stand, for a batch */
#define ROWS_MOST   16384

/* ---- the ids ---- */

int quant_calibration_make(struct quant_calibration *out, const int32_t *ids, size_t n_ids,
                           const int32_t *lengths, size_t n_seqs, struct err *e)
{
    struct hash hash = HASH_INIT;
    int64_t n = 0;

    *out = (struct quant_calibration){ .n_seqs = (int64_t)n_seqs };
    out->first = mem_array(n_seqs + 1, sizeof *out->first);
    for (size_t i = 0; i < n_seqs; i++) {
        n += lengths[i];
        out->first[i + 1] = n;
    }
    if (n_seqs == 0 || n != (int64_t)n_ids) {
        quant_calibration_release(out);
        return err_set(e, ERR_INPUT, "calibration ids: %zu sequences of %lld tokens, %zu given",
                       n_seqs, (long long)n, n_ids);
    }
    out->ids = mem_array(n_ids, sizeof *out->ids);
    memcpy(out->ids, ids, n_ids * sizeof *ids);
    hash_start(&hash);
    hash_add(&hash, lengths, n_seqs * sizeof *lengths);
    hash_add(&hash, ids, n_ids * sizeof *ids);
    hash_finish(&hash, out->sha256);
    return 0;
}

void quant_calibration_release(struct quant_calibration *c)
{
    free(c->ids);
    free(c->first);
    *c = (struct quant_calibration){ 0 };
}

/* ---- working memory ---- */

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t query_width(const struct config *c)
{
    return (int64_t)c->n_heads * c->head_dim;
}

static int64_t key_width(const struct config *c)
{
    return (int64_t)c->n_kv_heads * c->head_dim;
}

/* Columns of the pool: q, k and v, or gate. */
static int64_t pool_width(const struct config *c)
{
    return larger(query_width(c) + 2 * key_width(c), c->intermediate_size);
}

static int64_t side_width(const struct config *c)
{
    return larger(c->hidden_size, query_width(c));
}

static int choose_rows(struct calibration_run *c, struct err *e)
{
    const struct config *f = &c->m->config;
    int64_t columns = side_width(f) + pool_width(f) + larger(f->intermediate_size, f->hidden_size) +
                      2 * key_width(f);
    int64_t n_bytes;

    if (backend_free_bytes(c->b, &n_bytes, e) < 0)
        return -1;
    int64_t fit = n_bytes / MEMORY_PART / (columns * (int64_t)dtype_bytes(c->m->dtype) + 16);
    fit = fit < ROWS_MOST ? fit : ROWS_MOST;
    c->max_rows = larger(fit, c->longest);
    c->max_rows = c->max_rows < c->n_own ? c->max_rows : larger(c->n_own, 1);
    return 0;
}

static int make_rope(struct calibration_run *c, struct err *e)
{
    const int64_t half = c->m->config.head_dim / 2, n = c->longest;
    const size_t n_bytes = (size_t)(n * half) * sizeof(float);
    float *rows = mem_array((size_t)(2 * n * half), sizeof *rows);
    int rc = -1;

    if (tensor_alloc(c->b, MEM_SCRATCH, DTYPE_F32, n, half, &c->cos_table, e) == 0 &&
        tensor_alloc(c->b, MEM_SCRATCH, DTYPE_F32, n, half, &c->sin_table, e) == 0 &&
        rope_tables(&c->m->config, c->m->dtype, n, n, rows, rows + n * half, e) == 0 &&
        c->b->ops->upload(c->b, c->cos_table.data, rows, n_bytes, e) == 0)
        rc = c->b->ops->upload(c->b, c->sin_table.data, rows + n * half, n_bytes, e);
    free(rows);
    return rc;
}

/* What attention gives and what comes after it, of all tokens. */
static int alloc_streams(struct calibration_run *c, int64_t n, struct err *e)
{
    const int64_t width = query_width(&c->m->config), hidden = c->m->config.hidden_size;

    if (tensor_alloc(c->b, MEM_SCRATCH, c->m->dtype, n, width, &c->attended, e) < 0)
        return -1;
    if (!c->keeps_attended && width == hidden) {
        c->after = c->attended;
        return 0;
    }
    return tensor_alloc(c->b, MEM_SCRATCH, c->m->dtype, n, hidden, &c->after, e);
}

static int alloc_all(struct calibration_run *c, struct err *e)
{
    const struct config *f = &c->m->config;
    const enum dtype t = c->m->dtype;
    const int64_t n = larger(c->n_own, 1);
    void *numbers;

    if (tensor_alloc(c->b, MEM_SCRATCH, t, n, f->hidden_size, &c->x, e) < 0 ||
        alloc_streams(c, n, e) < 0 || choose_rows(c, e) < 0)
        return -1;
    const int64_t r = c->max_rows;
    c->max_seqs = (int)(r < c->ids->n_seqs ? r : c->ids->n_seqs);
    if (tensor_alloc(c->b, MEM_SCRATCH, t, r, side_width(f), &c->side, e) < 0 ||
        tensor_alloc(c->b, MEM_SCRATCH, t, r, pool_width(f), &c->pool, e) < 0 ||
        tensor_alloc(c->b, MEM_SCRATCH, t, r, larger(f->intermediate_size, f->hidden_size), &c->up,
                     e) < 0 ||
        tensor_alloc(c->b, MEM_CACHE, t, r, key_width(f), &c->k_cache, e) < 0 ||
        tensor_alloc(c->b, MEM_CACHE, t, r, key_width(f), &c->v_cache, e) < 0 ||
        backend_alloc(c->b, MEM_SCRATCH, (size_t)(2 * r) * sizeof *c->numbers, &numbers, e) < 0)
        return -1;
    c->numbers = numbers;
    c->host_numbers = mem_array((size_t)(2 * r), sizeof *c->host_numbers);
    c->first_row = mem_array((size_t)c->max_seqs + 1, sizeof *c->first_row);
    return make_rope(c, e);
}

/* The ids through the embedding, into x. */
static int embed(struct calibration_run *c, struct err *e)
{
    for (int64_t at = 0; at < c->n_own; at += c->max_rows) {
        int64_t n = c->n_own - at < c->max_rows ? c->n_own - at : c->max_rows;
        const int32_t *ids = c->ids->ids + c->first_token + at;
        struct tensor out = rows_from(&c->x, at, n);

        if (c->b->ops->upload(c->b, c->numbers, ids, (size_t)n * sizeof *ids, e) < 0 ||
            model_embed(c->m, c->numbers, n, &out, e) < 0 || c->b->ops->sync(c->b, e) < 0)
            return -1;
    }
    return 0;
}

bool calibration_some(const struct calibration_run *c, int first, int n)
{
    return c->share_seq[first + n] > c->share_seq[first];
}

int64_t calibration_token(const struct calibration_run *c, int share)
{
    return c->ids->first[c->share_seq[share]];
}

/* A group of another size has no shares of its own: each member runs all of them. */
static void cut_shares(struct calibration_run *c)
{
    const int n = c->b->n_members;

    for (int i = 0; i <= CALIBRATION_SHARES; i++)
        c->share_seq[i] = c->ids->n_seqs * i / CALIBRATION_SHARES;
    c->n_sharing = n > 1 && CALIBRATION_SHARES % n == 0 ? n : 1;
    c->n_shares = CALIBRATION_SHARES / c->n_sharing;
    c->first_share = c->n_sharing > 1 ? c->b->member * c->n_shares : 0;
    c->first_token = calibration_token(c, c->first_share);
    c->n_own = calibration_token(c, c->first_share + c->n_shares) - c->first_token;
}

int calibration_run_open(struct calibration_run *c, const struct model *m,
                         const struct quant_calibration *ids, bool outputs, struct err *e)
{
    *c = (struct calibration_run){ .b = m->backend, .m = m, .ids = ids, .keeps_attended = outputs };
    c->n_tokens = ids->first[ids->n_seqs];
    for (int64_t i = 0; i < ids->n_seqs; i++)
        c->longest = larger(c->longest, ids->first[i + 1] - ids->first[i]);
    cut_shares(c);
    if (alloc_all(c, e) < 0 || embed(c, e) < 0) {
        calibration_run_close(c);
        return err_in(e, "calibrating with %lld sequences of up to %lld tokens",
                      (long long)ids->n_seqs, (long long)c->longest);
    }
    return 0;
}

void calibration_run_close(struct calibration_run *c)
{
    struct tensor *const all[] = { &c->x,  &c->attended,  &c->after,     &c->side,    &c->pool,
                                   &c->up, &c->cos_table, &c->sin_table, &c->k_cache, &c->v_cache };

    if (c->after.data == c->attended.data)
        c->after.data = NULL;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        tensor_free(c->b, all[i]);
    backend_free(c->b, c->numbers);
    free(c->host_numbers);
    free(c->first_row);
    *c = (struct calibration_run){ 0 };
}

/* ---- a batch of sequences ---- */

struct part {
    struct calibration_run *c;
    const struct layer *layer;
    const struct weight *linear;
    int64_t i;             /* layer */
    int64_t first, n_rows; /* of the own tokens */
    int64_t longest;
    struct segments segments;
};

static struct tensor rows_of(const struct part *p, const struct tensor *all)
{
    return rows_from(all, p->first, p->n_rows);
}

static struct tensor view(const struct tensor *room, int64_t before_columns, int64_t n_cols)
{
    struct tensor out = *room;

    out.data =
        (char *)room->data + (size_t)(room->n_rows * before_columns) * dtype_bytes(room->dtype);
    out.n_cols = n_cols;
    return out;
}

static int norm(const struct part *p, const struct tensor *x, const struct tensor *weight,
                struct tensor *out, struct err *e)
{
    const struct norm_args a = { .x = x,
                                 .weight = weight,
                                 .out = out,
                                 .n_rows = p->n_rows,
                                 .eps = (float)p->c->m->config.rms_norm_eps };

    return p->c->b->ops->norm(p->c->b, &a, e);
}

static int product(const struct part *p, enum linear_name l, const struct tensor *x,
                   struct tensor *y, struct err *e)
{
    const struct model *m = p->c->m;
    const struct linear_args a = {
        .x = x,
        .w = &p->linear[l],
        .bias = p->layer->bias[l].data ? &p->layer->bias[l] : NULL,
        .y = y,
        .n_rows = p->n_rows,
        .compute = p->linear[l].form == WEIGHT_PLAIN ? m->dtype : m->compute,
        .phase = PHASE_PROMPT,
        .segments = p->segments,
    };

    return p->c->b->ops->linear(p->c->b, &a, e);
}

static int attend(const struct part *p, const struct tensor *u, struct tensor *out, struct err *e)
{
    struct calibration_run *c = p->c;
    const struct config *f = &c->m->config;
    struct tensor q = view(&c->pool, 0, query_width(f));
    struct tensor k = view(&c->pool, query_width(f), key_width(f));
    struct tensor v = view(&c->pool, query_width(f) + key_width(f), key_width(f));
    const struct rope_args rope = { .q = &q,
                                    .k = &k,
                                    .v = &v,
                                    .cos_table = &c->cos_table,
                                    .sin_table = &c->sin_table,
                                    .table_row = c->numbers + c->max_rows,
                                    .slot = c->numbers,
                                    .position = c->numbers + c->max_rows,
                                    .k_cache = &c->k_cache,
                                    .v_cache = &c->v_cache,
                                    .n_rows = p->n_rows,
                                    .capacity = p->longest,
                                    .n_heads = f->n_heads,
                                    .n_kv_heads = f->n_kv_heads,
                                    .head_dim = f->head_dim,
                                    .n_rotated =
                                        (int)(f->head_dim * f->rope.partial_rotary_factor) };
    const struct attention_args attention = {
        .q = &q,
        .k_cache = &c->k_cache,
        .v_cache = &c->v_cache,
        .slot = c->numbers,
        .position = c->numbers + c->max_rows,
        .out = out,
        .n_rows = p->n_rows,
        .capacity = p->longest,
        .window = p->i >= f->window_first_layer ? f->sliding_window : 0,
        .max_position = p->longest - 1,
        .n_heads = f->n_heads,
        .n_kv_heads = f->n_kv_heads,
        .head_dim = f->head_dim,
        .phase = PHASE_PROMPT,
        .segments = p->segments,
    };

    if (product(p, LINEAR_Q, u, &q, e) < 0 || product(p, LINEAR_K, u, &k, e) < 0 ||
        product(p, LINEAR_V, u, &v, e) < 0 || c->b->ops->rope(c->b, &rope, e) < 0)
        return -1;
    return c->b->ops->attention(c->b, &attention, e);
}

/* after = x + o(attended), maybe in attended's place; the copy first, because add() works in place.
 */
static int first_residual(const struct part *p, struct err *e)
{
    struct calibration_run *c = p->c;
    struct tensor x = rows_of(p, &c->x), attended = rows_of(p, &c->attended);
    struct tensor after = rows_of(p, &c->after), o = view(&c->pool, 0, c->m->config.hidden_size);
    const struct add_args add = { .x = &after, .y = &o, .n_rows = p->n_rows };

    if (product(p, LINEAR_O, &attended, &o, e) < 0 ||
        c->b->ops->convert(c->b, &(struct convert_args){ .x = &x, .out = &after }, e) < 0)
        return -1;
    return c->b->ops->add(c->b, &add, e);
}

/* h = silu(gate(u)) * up(u), u = norm(after). */
static int inner_mlp(const struct part *p, struct tensor *h, struct err *e)
{
    struct calibration_run *c = p->c;
    struct tensor after = rows_of(p, &c->after);
    struct tensor u = view(&c->side, 0, c->m->config.hidden_size);
    struct tensor up = view(&c->up, 0, c->m->config.intermediate_size);
    const struct swiglu_args swiglu = { .gate = h, .up = &up, .out = h, .n_rows = p->n_rows };

    if (norm(p, &after, &p->layer->post_norm, &u, e) < 0 || product(p, LINEAR_GATE, &u, h, e) < 0 ||
        product(p, LINEAR_UP, &u, &up, e) < 0)
        return -1;
    return c->b->ops->swiglu(c->b, &swiglu, e);
}

static int run_out(const struct part *p, const struct tensor *h, struct err *e)
{
    struct calibration_run *c = p->c;
    struct tensor x = rows_of(p, &c->x), after = rows_of(p, &c->after);
    struct tensor y = view(&c->side, 0, c->m->config.hidden_size);
    const struct add_args add = { .x = &x, .y = &y, .n_rows = p->n_rows };

    if (product(p, LINEAR_DOWN, h, &y, e) < 0 ||
        c->b->ops->convert(c->b, &(struct convert_args){ .x = &after, .out = &x }, e) < 0)
        return -1;
    return c->b->ops->add(c->b, &add, e);
}

/* y, in the memory that nothing else of the step needs any more. */
static int module_output(const struct part *p, enum layer_step step, struct tensor *y,
                         struct err *e)
{
    struct calibration_run *c = p->c;
    const struct config *f = &c->m->config;
    struct tensor x = rows_of(p, &c->x), attended = rows_of(p, &c->attended);
    struct tensor u = view(&c->side, 0, f->hidden_size);
    struct tensor h = view(&c->pool, 0, f->intermediate_size);

    *y = view(&c->up, 0, f->hidden_size);
    if (step == STEP_O_OUTPUT)
        return product(p, LINEAR_O, &attended, y, e);
    if (step == STEP_MLP_OUTPUT)
        return inner_mlp(p, &h, e) < 0 ? -1 : product(p, LINEAR_DOWN, &h, y, e);
    /* attend() has read u before it writes where u lies. */
    struct tensor out = view(&c->side, 0, query_width(f));
    if (norm(p, &x, &p->layer->input_norm, &u, e) < 0 || attend(p, &u, &out, e) < 0)
        return -1;
    return product(p, LINEAR_O, &out, y, e);
}

static int run_part(const struct part *p, enum layer_step step, tap_fn *tap, void *context,
                    struct err *e)
{
    struct calibration_run *c = p->c;
    const struct config *f = &c->m->config;
    struct tensor u = view(&c->side, 0, f->hidden_size), seen = u;
    struct tensor h = view(&c->pool, 0, f->intermediate_size);
    struct tensor x = rows_of(p, &c->x), after = rows_of(p, &c->after);

    if (step >= STEP_ATTENTION_OUTPUT) {
        if (module_output(p, step, &seen, e) < 0)
            return -1;
    } else if (step == STEP_QKV || step == STEP_O) {
        if (norm(p, &x, &p->layer->input_norm, &u, e) < 0)
            return -1;
        if (step == STEP_O) {
            seen = rows_of(p, &c->attended);
            if (attend(p, &u, &seen, e) < 0)
                return -1;
        }
    } else if (step == STEP_MLP) {
        if (first_residual(p, e) < 0 || norm(p, &after, &p->layer->post_norm, &u, e) < 0)
            return -1;
    } else {
        seen = h;
        if (inner_mlp(p, &h, e) < 0 || (step == STEP_OUT && run_out(p, &h, e) < 0))
            return -1;
    }
    if (tap && tap(context, &seen, &p->segments, e) < 0)
        return -1;
    return 0;
}

/* Slot and position of each row of n sequences from the s-th on; those of the batch before serve
 * again where they are the same, as with samples of one length. */
static int put_numbers(struct calibration_run *c, int64_t s, int n, struct err *e)
{
    const int64_t *first = &c->ids->first[s];
    bool same = c->n_filled == n;

    for (int i = 0; i <= n; i++) {
        const int32_t at = (int32_t)(first[i] - first[0]);

        same = same && c->first_row[i] == at;
        c->first_row[i] = at;
    }
    if (same)
        return 0;
    for (int i = 0; i < n; i++)
        for (int32_t at = c->first_row[i]; at < c->first_row[i + 1]; at++) {
            c->host_numbers[at] = i;
            c->host_numbers[c->max_rows + at] = at - c->first_row[i];
        }
    c->n_filled = n;
    return c->b->ops->upload(c->b, c->numbers, c->host_numbers,
                             (size_t)(2 * c->max_rows) * sizeof *c->numbers, e);
}

/* Sequences from s on, before `end`, that fit; the number of them. */
static int fill_part(struct part *p, int64_t s, int64_t end, struct err *e)
{
    struct calibration_run *c = p->c;
    const int64_t *first = c->ids->first;
    int n = 0;

    p->first = first[s] - c->first_token;
    p->longest = 0;
    while (s + n < end && n < c->max_seqs) {
        int64_t length = first[s + n + 1] - first[s + n], longest = larger(p->longest, length);

        /* A slot of the cache has room for the longest. */
        if (n && longest * (n + 1) > c->max_rows)
            break;
        p->longest = longest;
        n++;
    }
    p->n_rows = first[s + n] - first[s];
    p->segments = (struct segments){ .n = n, .first_row = c->first_row };
    return put_numbers(c, s, n, e) < 0 ? -1 : n;
}

int calibration_share(struct calibration_run *c, int share, int64_t i, enum layer_step step,
                      const struct weight *linear, tap_fn *tap, void *context, struct err *e)
{
    struct part p = { .c = c, .layer = &c->m->layers[i], .linear = linear, .i = i };
    int n;

    c->share = share;
    for (int64_t s = c->share_seq[share]; s < c->share_seq[share + 1]; s += n) {
        n = fill_part(&p, s, c->share_seq[share + 1], e);
        if (n < 0 || run_part(&p, step, tap, context, e) < 0)
            return err_in(e, "calibrating layer %lld", (long long)i);
    }
    return 0;
}

int calibration_wait(struct calibration_run *c, int64_t i, struct err *e)
{
    return c->b->ops->sync(c->b, e) < 0 ? err_in(e, "calibrating layer %lld", (long long)i) : 0;
}

int calibration_step(struct calibration_run *c, int64_t i, enum layer_step step,
                     const struct weight *linear, tap_fn *tap, void *context, struct err *e)
{
    for (int k = 0; k < c->n_shares; k++)
        if (calibration_share(c, c->first_share + k, i, step, linear, tap, context, e) < 0)
            return -1;
    return calibration_wait(c, i, e);
}

int calibration_add_up(struct calibration_run *c, double of[CALIBRATION_SHARES], double *sum,
                       struct err *e)
{
    int64_t bits, all[CALIBRATION_SHARES];

    for (int k = 0; c->n_sharing > 1 && k < c->n_shares; k++) {
        memcpy(&bits, &of[c->first_share + k], sizeof bits);
        if (c->b->ops->group->tell(c->b, bits, all, e) < 0)
            return -1;
        for (int i = 0; i < c->n_sharing; i++)
            memcpy(&of[i * c->n_shares + k], &all[i], sizeof *of);
    }
    *sum = 0;
    for (int i = 0; i < CALIBRATION_SHARES; i++)
        *sum += of[i];
    return 0;
}
