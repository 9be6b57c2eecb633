/* forward.c - one forward pass, written once for every backend, as transformers' Llama.
 *
 * A layer, with its rounding points in the model dtype T where each operation ends:
 *   u = norm(x);  q, k, v = linear(u);  rope(q, k), k and v into the cache
 *   x = x + o(attention(q))
 *   u = norm(x);  x = x + down(silu(gate(u)) * up(u))
 *
 * Of a model in parts each device has some heads and some outputs of each linear: attention's
 * output, o's, the MLP's and down's are brought together from all of them, everything else they do
 * alike.
 *
 * Rows of a sequence see its slot of the cache and nothing else; no operation looks at other
 * rows, but for LLM.int8, which is told where sequences begin.  */
#include "model/forward_parts.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

#define HEAD_BYTES ((int64_t)32 << 20) /* of logits at a time, about */

/* ---- working memory ---- */

struct sizes {
    int64_t head_rows;
    size_t x, side, pool, part, last, logits, nll, numbers, next;
};

static size_t whole(size_t n_bytes)
{
    return (n_bytes + 63) / 64 * 64;
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Bytes of R rows of n_cols elements, as every part of the pool begins. */
static size_t rows_bytes(const struct model *m, int64_t max_rows, int64_t n_cols)
{
    return whole((size_t)max_rows * (size_t)n_cols * dtype_bytes(m->dtype));
}

static struct sizes sizes_of(const struct model *m, int64_t max_rows, int max_seqs)
{
    const struct config *c = &m->config;
    const int64_t query = (int64_t)c->n_heads * c->head_dim, wide = larger(c->hidden_size, query);
    const int64_t key = (int64_t)c->n_kv_heads * c->head_dim;
    size_t attention = rows_bytes(m, max_rows, wide) + 2 * rows_bytes(m, max_rows, key);
    size_t mlp = 2 * rows_bytes(m, max_rows, c->intermediate_size);
    if (m->split.n > 1)
        mlp = 2 * rows_bytes(m, max_rows, model_part(m, c->intermediate_size)) +
              rows_bytes(m, max_rows, c->intermediate_size);
    int64_t rows = HEAD_BYTES / (c->vocab_size * (int64_t)sizeof(float));

    rows = rows < 8 ? 8 : rows > HEAD_ROWS_MAX ? HEAD_ROWS_MAX : rows;
    rows = rows < max_rows ? rows : max_rows;
    return (struct sizes){
        .head_rows = rows,
        .x = (size_t)(max_rows * c->hidden_size) * dtype_bytes(m->dtype),
        .side = rows_bytes(m, max_rows, wide),
        .pool = attention > mlp ? attention : mlp,
        .part = m->split.n > 1 ? rows_bytes(m, max_rows, model_part(m, wide)) : 0,
        .last = (size_t)(rows * c->hidden_size) * dtype_bytes(m->dtype),
        .logits = (size_t)(rows * c->vocab_size) * sizeof(float),
        .nll = (size_t)max_rows * sizeof(float),
        .numbers = (size_t)(N_NUMBERS * max_rows) * sizeof(int32_t),
        .next = (size_t)larger(max_seqs, rows) * sizeof(int32_t),
    };
}

size_t forward_bytes(const struct model *m, int64_t max_rows, int max_seqs)
{
    struct sizes s = sizes_of(m, max_rows, max_seqs);

    return s.x + s.side + s.pool + s.part + s.last + s.logits + s.nll + s.numbers + s.next +
           rope_part_bytes(m, max_rows);
}

int forward_open(struct forward **out, const struct model *m, int64_t max_rows, int max_seqs,
                 struct err *e)
{
    const struct config *c = &m->config;
    const struct sizes s = sizes_of(m, max_rows, max_seqs);
    struct backend *b = m->backend;
    struct forward *f = *out = mem_alloc(sizeof *f);

    *f = (struct forward){
        .model = m, .max_rows = max_rows, .max_seqs = max_seqs, .head_rows = s.head_rows
    };
    f->host_numbers = mem_array((size_t)(N_NUMBERS * max_rows), sizeof *f->host_numbers);
    f->first_row = mem_array((size_t)max_seqs + 1, sizeof *f->first_row);
    if (tensor_alloc(b, MEM_SCRATCH, m->dtype, max_rows, c->hidden_size, &f->x, e) < 0 ||
        tensor_alloc(b, MEM_SCRATCH, m->dtype, s.head_rows, c->hidden_size, &f->last, e) < 0 ||
        tensor_alloc(b, MEM_SCRATCH, DTYPE_F32, s.head_rows, c->vocab_size, &f->logits, e) < 0 ||
        backend_alloc(b, MEM_SCRATCH, s.side, &f->side, e) < 0 ||
        backend_alloc(b, MEM_SCRATCH, s.pool, &f->pool, e) < 0 ||
        (s.part && backend_alloc(b, MEM_SCRATCH, s.part, &f->part, e) < 0) ||
        backend_alloc(b, MEM_SCRATCH, s.nll, (void **)&f->nll, e) < 0 ||
        backend_alloc(b, MEM_SCRATCH, s.numbers, (void **)&f->numbers, e) < 0 ||
        backend_alloc(b, MEM_SCRATCH, s.next, (void **)&f->next, e) < 0 ||
        rope_part_open(f, e) < 0) {
        forward_close(f);
        *out = NULL;
        return err_in(e, "working memory for %lld rows", (long long)max_rows);
    }
    return 0;
}

void forward_close(struct forward *f)
{
    if (!f)
        return;
    struct backend *b = f->model->backend;
    void *parts[] = { f->side, f->pool, f->part, f->nll, f->numbers, f->next, f->forbidden };

    tensor_free(b, &f->x);
    tensor_free(b, &f->last);
    tensor_free(b, &f->logits);
    tensor_free(b, &f->cos_table);
    tensor_free(b, &f->sin_table);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        backend_free(b, parts[i]);
    free(f->host_numbers);
    free(f->first_row);
    free(f);
}

/* ---- a layer ---- */

struct pass {
    struct forward *f;
    struct kv_cache *cache;
    int64_t n_rows, max_position;
    enum phase phase;
    struct segments segments;
};

static struct tensor view(const struct pass *p, void *data, int64_t n_cols)
{
    return (struct tensor){
        .data = data,
        .dtype = p->f->model->dtype,
        .n_rows = p->f->max_rows,
        .n_cols = n_cols,
        .tag = MEM_SCRATCH,
    };
}

static int norm(const struct pass *p, const struct tensor *weight, struct tensor *out,
                struct err *e)
{
    const struct model *m = p->f->model;
    const struct norm_args a = { .x = &p->f->x,
                                 .weight = weight,
                                 .out = out,
                                 .n_rows = p->n_rows,
                                 .eps = (float)m->config.rms_norm_eps,
                                 .phase = p->phase };

    return m->backend->ops->norm(m->backend, &a, e);
}

/* Packed weights multiply in the compute dtype, plain ones in the model's. */
static struct linear_args product(const struct pass *p, const struct layer *layer,
                                  enum linear_name l, const struct tensor *x, struct tensor *y)
{
    const struct model *m = p->f->model;
    const struct weight *w = &layer->linear[l];

    return (struct linear_args){
        .x = x,
        .w = w,
        .bias = layer->bias[l].data ? &layer->bias[l] : NULL,
        .y = y,
        .n_rows = p->n_rows,
        .compute = w->form == WEIGHT_PLAIN ? m->dtype : m->compute,
        .phase = p->phase,
        .segments = p->segments,
    };
}

static int linear_many(const struct pass *p, const struct linear_args *a, int n, struct err *e)
{
    struct backend *b = p->f->model->backend;

    if (b->ops->linear_many)
        return b->ops->linear_many(b, a, n, e);
    for (int i = 0; i < n; i++)
        if (b->ops->linear(b, &a[i], e) < 0)
            return -1;
    return 0;
}

/* The residual stream takes a product; room: for its rows. */
static int linear_add(const struct pass *p, const struct layer *layer, enum linear_name l,
                      const struct tensor *x, struct tensor *room, struct err *e)
{
    struct forward *f = p->f;
    struct backend *b = f->model->backend;
    const struct linear_args a = product(p, layer, l, x, room);
    const struct add_args add = { .x = &f->x, .y = room, .n_rows = p->n_rows };

    if (b->ops->linear_add)
        return b->ops->linear_add(b, &a, &f->x, e);
    if (b->ops->linear(b, &a, e) < 0)
        return -1;
    return b->ops->add(b, &add, e);
}

/* What the devices have parts of, together. */
static int collect(const struct pass *p, const struct tensor *part, struct tensor *out,
                   struct err *e)
{
    struct backend *b = p->f->model->backend;
    const struct collect_args a = { .part = part, .out = out, .n_rows = p->n_rows };

    return b->ops->group->collect(b, &a, e);
}

/* The residual stream takes a product of which each device has some columns; room: for all. */
static int linear_add_parts(const struct pass *p, const struct layer *layer, enum linear_name l,
                            const struct tensor *x, struct tensor *room, struct err *e)
{
    struct forward *f = p->f;
    struct backend *b = f->model->backend;
    struct tensor part = view(p, f->part, layer->linear[l].n_out);
    const struct linear_args a = product(p, layer, l, x, &part);
    const struct add_args add = { .x = &f->x, .y = room, .n_rows = p->n_rows };

    if (b->ops->linear(b, &a, e) < 0 || collect(p, &part, room, e) < 0)
        return -1;
    return b->ops->add(b, &add, e);
}

/* gate receives silu(gate(u)) * up(u). */
static int linear_swiglu(const struct pass *p, const struct layer *layer, const struct tensor *u,
                         struct tensor *gate, struct tensor *up, struct err *e)
{
    struct backend *b = p->f->model->backend;
    const struct linear_args both[2] = { product(p, layer, LINEAR_GATE, u, gate),
                                         product(p, layer, LINEAR_UP, u, up) };
    const struct swiglu_args swiglu = { .gate = gate, .up = up, .out = gate, .n_rows = p->n_rows };

    if (b->ops->linear_swiglu)
        return b->ops->linear_swiglu(b, &both[0], &both[1], gate, e);
    if (linear_many(p, both, 2, e) < 0)
        return -1;
    return b->ops->swiglu(b, &swiglu, e);
}

static int rope_and_attention(const struct pass *p, int64_t i, struct tensor *q, struct tensor *k,
                              const struct tensor *v, struct tensor *out, struct err *e)
{
    struct forward *f = p->f;
    const struct config *c = &f->model->config;
    struct backend *b = f->model->backend;
    const int32_t *slot = f->numbers + NUMBER_SLOT * f->max_rows;
    const int32_t *position = f->numbers + NUMBER_POSITION * f->max_rows;
    const struct rope_args rope = {
        .q = q,
        .k = k,
        .v = v,
        .cos_table = &f->cos_table,
        .sin_table = &f->sin_table,
        .table_row = f->numbers + NUMBER_TABLE_ROW * f->max_rows,
        .slot = slot,
        .position = position,
        .k_cache = &p->cache->k[i],
        .v_cache = &p->cache->v[i],
        .n_rows = p->n_rows,
        .capacity = p->cache->capacity,
        .n_heads = (int)model_part(f->model, c->n_heads),
        .n_kv_heads = (int)model_part(f->model, c->n_kv_heads),
        .head_dim = c->head_dim,
        .n_rotated = (int)(c->head_dim * c->rope.partial_rotary_factor),
    };
    const struct attention_args attention = {
        .q = q,
        .k_cache = &p->cache->k[i],
        .v_cache = &p->cache->v[i],
        .slot = slot,
        .position = position,
        .out = out,
        .n_rows = p->n_rows,
        .capacity = p->cache->capacity,
        .window = i >= c->window_first_layer ? c->sliding_window : 0,
        .max_position = p->max_position,
        .n_heads = (int)model_part(f->model, c->n_heads),
        .n_kv_heads = (int)model_part(f->model, c->n_kv_heads),
        .head_dim = c->head_dim,
        .phase = p->phase,
        .segments = p->segments,
    };

    if (b->ops->rope(b, &rope, e) < 0)
        return -1;
    return b->ops->attention(b, &attention, e);
}

/* The same of a part. */
static int run_layer_part(const struct pass *p, int64_t i, struct err *e)
{
    const struct model *m = p->f->model;
    const struct config *c = &m->config;
    const struct layer *layer = &m->layers[i];
    const int64_t query = (int64_t)c->n_heads * c->head_dim, own = model_part(m, query);
    const int64_t key = model_part(m, c->n_kv_heads) * c->head_dim;
    const int64_t wide = c->intermediate_size, own_wide = model_part(m, wide);
    char *pool = p->f->pool;
    char *k_at = pool + rows_bytes(m, p->f->max_rows, own);
    char *v_at = k_at + rows_bytes(m, p->f->max_rows, key);
    char *up_at = pool + rows_bytes(m, p->f->max_rows, own_wide);
    char *h_at = up_at + rows_bytes(m, p->f->max_rows, own_wide);

    struct tensor u = view(p, p->f->side, c->hidden_size);
    struct tensor q = view(p, pool, own), k = view(p, k_at, key), v = view(p, v_at, key);
    struct tensor part = view(p, p->f->part, own), attended = view(p, p->f->side, query);
    struct tensor o = view(p, pool, c->hidden_size);
    struct tensor gate = view(p, pool, own_wide), up = view(p, up_at, own_wide);
    struct tensor h = view(p, h_at, wide);
    const struct linear_args qkv[3] = { product(p, layer, LINEAR_Q, &u, &q),
                                        product(p, layer, LINEAR_K, &u, &k),
                                        product(p, layer, LINEAR_V, &u, &v) };

    if (norm(p, &layer->input_norm, &u, e) < 0 || linear_many(p, qkv, 3, e) < 0 ||
        rope_and_attention(p, i, &q, &k, &v, &part, e) < 0 || collect(p, &part, &attended, e) < 0 ||
        linear_add_parts(p, layer, LINEAR_O, &attended, &o, e) < 0)
        return -1;
    if (norm(p, &layer->post_norm, &u, e) < 0 || linear_swiglu(p, layer, &u, &gate, &up, e) < 0 ||
        collect(p, &gate, &h, e) < 0)
        return -1;
    return linear_add_parts(p, layer, LINEAR_DOWN, &h, &u, e);
}

static int run_layer(const struct pass *p, int64_t i, struct err *e)
{
    const struct model *m = p->f->model;
    const struct config *c = &m->config;
    const struct layer *layer = &m->layers[i];
    const int64_t query = (int64_t)c->n_heads * c->head_dim;
    const int64_t key = (int64_t)c->n_kv_heads * c->head_dim;
    char *pool = p->f->pool;
    char *k_at = pool + rows_bytes(m, p->f->max_rows, larger(c->hidden_size, query));
    char *v_at = k_at + rows_bytes(m, p->f->max_rows, key);
    char *up_at = pool + rows_bytes(m, p->f->max_rows, c->intermediate_size);

    struct tensor u = view(p, p->f->side, c->hidden_size);
    struct tensor q = view(p, pool, query), k = view(p, k_at, key), v = view(p, v_at, key);
    struct tensor attended = view(p, p->f->side, query), o = view(p, pool, c->hidden_size);
    struct tensor gate = view(p, pool, c->intermediate_size);
    struct tensor up = view(p, up_at, c->intermediate_size);
    const struct linear_args qkv[3] = { product(p, layer, LINEAR_Q, &u, &q),
                                        product(p, layer, LINEAR_K, &u, &k),
                                        product(p, layer, LINEAR_V, &u, &v) };

    if (norm(p, &layer->input_norm, &u, e) < 0 || linear_many(p, qkv, 3, e) < 0 ||
        rope_and_attention(p, i, &q, &k, &v, &attended, e) < 0 ||
        linear_add(p, layer, LINEAR_O, &attended, &o, e) < 0)
        return -1;
    if (norm(p, &layer->post_norm, &u, e) < 0 || linear_swiglu(p, layer, &u, &gate, &up, e) < 0)
        return -1;
    return linear_add(p, layer, LINEAR_DOWN, &gate, &u, e);
}

/* ---- a batch ---- */

int forward_check(const struct forward *f, const struct kv_cache *c, const struct batch *batch,
                  int64_t *n_rows, struct err *e)
{
    *n_rows = 0;
    if (batch->n_seqs < 1 || batch->n_seqs > f->max_seqs)
        return err_set(e, ERR_USAGE, "a batch of %d sequences, room is for 1 to %d", batch->n_seqs,
                       f->max_seqs);
    for (int s = 0; s < batch->n_seqs; s++) {
        int slot = batch->slot[s], n = batch->n_tokens[s];

        if (slot < 0 || slot >= c->n_slots || n < 1)
            return err_set(e, ERR_USAGE, "sequence %d: slot %d of %d, %d tokens", s, slot,
                           c->n_slots, n);
        if (c->length[slot] + (int64_t)n > c->capacity)
            return err_set(e, ERR_USAGE,
                           "slot %d holds %d tokens and has room for %lld, not %d more", slot,
                           c->length[slot], (long long)c->capacity, n);
        *n_rows += n;
    }
    return 0;
}

int forward_check_ids(const struct forward *f, const int32_t *ids, int64_t n_rows, struct err *e)
{
    const int64_t vocab = f->model->config.vocab_size;

    if (n_rows > f->max_rows)
        return err_set(e, ERR_USAGE, "a batch of %lld tokens, room is for %lld", (long long)n_rows,
                       (long long)f->max_rows);
    for (int64_t i = 0; i < n_rows; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return err_set(e, ERR_INPUT,
                           "token id %d is outside the model's vocabulary of %lld: is this the "
                           "tokenizer of this model?",
                           ids[i], (long long)vocab);
    return 0;
}

/* Fills host_numbers and first_row; the number of rows. */
static int64_t number_rows(struct forward *f, const struct kv_cache *c, const struct batch *batch,
                           int64_t *max_position)
{
    int32_t *id = f->host_numbers + NUMBER_ID * f->max_rows;
    int32_t *slot = f->host_numbers + NUMBER_SLOT * f->max_rows;
    int32_t *position = f->host_numbers + NUMBER_POSITION * f->max_rows;
    int64_t n = 0;

    *max_position = 0;
    for (int s = 0; s < batch->n_seqs; s++) {
        f->first_row[s] = (int32_t)n;
        for (int32_t i = 0; i < batch->n_tokens[s]; i++, n++) {
            id[n] = batch->ids[n];
            slot[n] = batch->slot[s];
            position[n] = c->length[batch->slot[s]] + i;
            *max_position = larger(*max_position, position[n]);
        }
    }
    f->first_row[batch->n_seqs] = (int32_t)n;
    return n;
}

int forward_run(struct forward *f, struct kv_cache *c, const struct batch *batch, enum want want,
                const int32_t *forbidden, int n_forbidden, struct forward_out *out, struct err *e)
{
    struct backend *b = f->model->backend;
    struct pass p = { .f = f, .cache = c, .phase = batch->phase };

    if (forward_check(f, c, batch, &p.n_rows, e) < 0 ||
        forward_check_ids(f, batch->ids, p.n_rows, e) < 0)
        return err_in(e, "a forward pass");
    for (int64_t i = 0; batch->targets && i < p.n_rows; i++)
        if (batch->targets[i] >= f->model->config.vocab_size)
            return err_set(e, ERR_INPUT, "target %d is outside the model's vocabulary of %lld",
                           batch->targets[i], (long long)f->model->config.vocab_size);
    p.n_rows = number_rows(f, c, batch, &p.max_position);
    p.segments = (struct segments){ .n = batch->n_seqs, .first_row = f->first_row };
    if (rope_part_prepare(f, c, batch, e) < 0)
        return -1;

    size_t n_bytes = (size_t)(N_ROW_NUMBERS * f->max_rows) * sizeof *f->numbers;
    if (b->ops->upload(b, f->numbers, f->host_numbers, n_bytes, e) < 0 ||
        model_embed(f->model, f->numbers, p.n_rows, &f->x, e) < 0)
        return err_in(e, "a forward pass");
    for (int64_t i = 0; i < f->model->config.n_layers; i++)
        if ((f->model->split.n > 1 ? run_layer_part : run_layer)(&p, i, e) < 0)
            return err_in(e, "layer %lld", (long long)i);
    if (head_run(f, batch, p.n_rows, want, forbidden, n_forbidden, out, e) < 0)
        return -1;
    for (int s = 0; s < batch->n_seqs; s++)
        c->length[batch->slot[s]] += batch->n_tokens[s];
    return 0;
}
