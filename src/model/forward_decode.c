/* forward_decode.c - greedy steps: by the backend's own decode() where it has one that knows the
 * model, else each step as a forward pass.  Both give the same bits. */
#include "model/forward_parts.h"

#include "base/memory.h"

#include <stdlib.h>

struct steps {
    int n_seqs, n;
    const int32_t *slot, *ids;
    const int32_t *forbidden; /* host */
    int n_forbidden;
    int32_t *out; /* [n, n_seqs] */
};

/* An id that did not come out is fed on as 0. */
static int32_t fed(int32_t id)
{
    return id < 0 ? 0 : id;
}

static int run_passes(struct forward *f, struct kv_cache *c, const struct steps *s, struct err *e)
{
    int32_t *one = mem_array((size_t)(2 * s->n_seqs), sizeof *one), *ids = one + s->n_seqs;
    int rc = 0;

    for (int i = 0; i < s->n_seqs; i++)
        one[i] = 1;
    for (int step = 0; rc == 0 && step < s->n; step++) {
        struct batch batch = {
            .phase = PHASE_DECODE, .n_seqs = s->n_seqs, .slot = s->slot, .n_tokens = one, .ids = ids
        };
        struct forward_out out = { .next_ids = s->out + (int64_t)step * s->n_seqs };

        for (int i = 0; i < s->n_seqs; i++)
            ids[i] = step ? fed(out.next_ids[i - s->n_seqs]) : s->ids[i];
        rc = forward_run(f, c, &batch, WANT_LAST_ARGMAX, s->forbidden, s->n_forbidden, &out, e);
    }
    free(one);
    return rc;
}

/* Is there room for all steps?  *end: the most tokens that a slot then holds. */
static int check_steps(const struct forward *f, const struct kv_cache *c, const struct steps *s,
                       int64_t *end, struct err *e)
{
    int32_t *n_tokens = mem_array((size_t)s->n_seqs, sizeof *n_tokens);
    const struct batch batch = { .n_seqs = s->n_seqs, .slot = s->slot, .n_tokens = n_tokens };
    int64_t n_rows;

    for (int i = 0; i < s->n_seqs; i++)
        n_tokens[i] = s->n;
    int rc = forward_check(f, c, &batch, &n_rows, e);
    if (rc == 0)
        rc = forward_check_ids(f, s->ids, s->n_seqs, e);
    free(n_tokens);
    *end = 0;
    for (int i = 0; rc == 0 && i < s->n_seqs; i++)
        if (c->length[s->slot[i]] + (int64_t)s->n > *end)
            *end = c->length[s->slot[i]] + (int64_t)s->n;
    return rc;
}

static struct decode_layer *layers_of(const struct model *m, struct kv_cache *c)
{
    struct decode_layer *layers = mem_array((size_t)m->config.n_layers, sizeof *layers);

    for (int64_t i = 0; i < m->config.n_layers; i++)
        layers[i] = (struct decode_layer){
            .linear = m->layers[i].linear,
            .bias = m->layers[i].bias,
            .input_norm = &m->layers[i].input_norm,
            .post_norm = &m->layers[i].post_norm,
            .k_cache = &c->k[i],
            .v_cache = &c->v[i],
            .window = i >= m->config.window_first_layer ? m->config.sliding_window : 0,
        };
    return layers;
}

static struct decode_args arguments(const struct forward *f, const struct kv_cache *c,
                                    const struct steps *s)
{
    const struct model *m = f->model;
    const struct config *config = &m->config;

    return (struct decode_args){
        .n_layers = config->n_layers,
        .embed = &m->embed,
        .norm = &m->norm,
        .head = &m->head,
        .cos_table = &f->cos_table,
        .sin_table = &f->sin_table,
        .compute = m->compute,
        .eps = (float)config->rms_norm_eps,
        .n_parts = m->split.n > 1 ? m->split.n : 1,
        .n_heads = (int)model_part(m, config->n_heads),
        .n_kv_heads = (int)model_part(m, config->n_kv_heads),
        .head_dim = config->head_dim,
        .n_rotated = (int)(config->head_dim * config->rope.partial_rotary_factor),
        .capacity = c->capacity,
        .n_seqs = s->n_seqs,
        .slot = s->slot,
        .ids = s->ids,
        .forbidden = s->n_forbidden ? f->forbidden : NULL,
        .n_forbidden = s->n_forbidden,
        .n_steps = s->n,
        .out = s->out,
    };
}

/* By the backend's decode(), up to `end` tokens in a slot.  *done: false when it does not know this
 * model; nothing was run then. */
static int run_steps(struct forward *f, struct kv_cache *c, const struct steps *s, int64_t end,
                     bool *done, struct err *e)
{
    const struct model *m = f->model;
    struct backend *b = m->backend;

    if (rope_part_extend(f, end, e) < 0 ||
        head_upload_forbidden(f, s->forbidden, s->n_forbidden, e) < 0)
        return -1;
    int32_t *position = mem_array((size_t)s->n_seqs, sizeof *position);
    struct decode_layer *layers = layers_of(m, c);
    struct decode_args a = arguments(f, c, s);

    for (int i = 0; i < s->n_seqs; i++)
        position[i] = c->length[s->slot[i]];
    a.layers = layers;
    a.position = position;
    int rc = b->ops->decode(b, &a, e);
    for (int i = 0; rc == 0 && i < s->n_seqs && a.done; i++)
        c->length[s->slot[i]] += s->n;
    *done = a.done;
    free(layers);
    free(position);
    return rc;
}

/* Beyond the trained length each sequence has frequencies of its own. */
static bool has_own_frequencies(const struct model *m, int64_t end)
{
    return m->config.rope.type == ROPE_DYNAMIC && end > m->config.max_position;
}

int forward_decode(struct forward *f, struct kv_cache *c, int n_seqs, const int32_t *slot,
                   const int32_t *ids, int n_steps, const int32_t *forbidden, int n_forbidden,
                   int32_t *out, struct err *e)
{
    const struct model *m = f->model;
    int32_t *first = mem_array((size_t)n_seqs, sizeof *first);
    const struct steps s = { .n_seqs = n_seqs,
                             .n = n_steps,
                             .slot = slot,
                             .ids = first,
                             .forbidden = forbidden,
                             .n_forbidden = n_forbidden,
                             .out = out };
    int64_t end;
    bool done = n_steps == 0;
    int rc = 0;

    for (int i = 0; i < n_seqs; i++)
        first[i] = fed(ids[i]);
    if (!done)
        rc = check_steps(f, c, &s, &end, e);
    if (rc == 0 && !done && m->backend->ops->decode && m->head.form == WEIGHT_PLAIN &&
        !has_own_frequencies(m, end))
        rc = run_steps(f, c, &s, end, &done, e);
    if (rc == 0 && !done)
        rc = run_passes(f, c, &s, e);
    free(first);
    return rc < 0 ? err_in(e, "%d steps of %d sequences", n_steps, n_seqs) : 0;
}
