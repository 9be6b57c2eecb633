/* weights.c - from the files of a checkpoint to a model on the device, and its end. */
#include "model/model.h"

#include "base/clock.h"
#include "base/log.h"
#include "model/checkpoint.h"
#include "model/load_tensors.h"
#include "model/tensor_list.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool model_looks_at_whole_calls(const struct model *m)
{
    for (int64_t i = 0; i < m->config.n_layers; i++)
        for (int l = 0; l < N_LINEARS; l++) {
            const struct weight *w = &m->layers[i].linear[l];
            if (w->form == WEIGHT_INT8 && w->outlier_threshold > 0)
                return true;
        }
    return false;
}

int model_embed(const struct model *m, const int32_t *ids, int64_t n_rows, struct tensor *out,
                struct err *e)
{
    const struct embed_args plain = {
        .table = &m->embed, .ids = ids, .out = out, .n_rows = n_rows
    };
    const struct embed_packed_args packed = {
        .table = &m->packed_embed, .ids = ids, .out = out, .n_rows = n_rows
    };
    const struct backend_ops *ops = m->backend->ops;

    return m->embed.data ? ops->embed(m->backend, &plain, e)
                         : ops->embed_packed(m->backend, &packed, e);
}

void model_release(struct model *m)
{
    struct backend *b = m->backend;

    for (int64_t i = 0; m->layers && i < m->config.n_layers; i++) {
        struct layer *layer = &m->layers[i];
        for (int l = 0; l < N_LINEARS; l++) {
            weight_release(b, &layer->linear[l]);
            if (m->owns_norms)
                tensor_free(b, &layer->bias[l]);
        }
        if (m->owns_norms) {
            tensor_free(b, &layer->input_norm);
            tensor_free(b, &layer->post_norm);
        }
    }
    free(m->layers);
    weight_release(b, &m->head);
    weight_release(b, &m->packed_embed);
    if (m->owns_norms)
        tensor_free(b, &m->norm);
    if (m->owns_embed)
        tensor_free(b, &m->embed);
    *m = (struct model)MODEL_INIT;
}

/* ---- where each tensor goes ---- */

static struct tensor *tensor_of(struct model *m, const struct tensor_spec *s)
{
    switch (s->part) {
    case PART_EMBED:
        return &m->embed;
    case PART_NORM:
        return &m->norm;
    case PART_INPUT_NORM:
        return &m->layers[s->layer].input_norm;
    case PART_POST_NORM:
        return &m->layers[s->layer].post_norm;
    case PART_BIAS:
        return &m->layers[s->layer].bias[s->linear];
    case PART_LINEAR:
    case PART_HEAD:
        break;
    }
    return NULL; /* a weight */
}

/* Linears and their biases are held in part. */
static int64_t held_rows(const struct model *m, const struct tensor_spec *s)
{
    bool cut = s->part == PART_LINEAR || s->part == PART_BIAS;

    return cut ? model_part(m, s->shape[0]) : s->shape[0];
}

/* The bytes of the file that are this part's. */
static void take_part(const struct model *m, const struct tensor_spec *s, struct load_item *item)
{
    const int64_t row_bytes = item->from->tensor->n_bytes / s->shape[0];
    const int64_t n = held_rows(m, s);

    item->n_bytes = n * row_bytes;
    item->first_byte = n < s->shape[0] ? m->split.index * item->n_bytes : 0;
}

static int make_room(struct model *m, const struct tensor_spec *s, enum dtype t, void **to,
                     struct err *e)
{
    struct tensor *tensor = tensor_of(m, s);
    int64_t n_rows = s->n_dims == 2 ? held_rows(m, s) : 1;
    int64_t n_cols = s->n_dims == 2 ? s->shape[1] : held_rows(m, s);

    if (tensor) {
        if (tensor_alloc(m->backend, MEM_BASE, t, n_rows, n_cols, tensor, e) < 0)
            return -1;
        *to = tensor->data;
        return 0;
    }
    struct weight *w = s->part == PART_HEAD ? &m->head : &m->layers[s->layer].linear[s->linear];
    struct tensor shape = { .dtype = t, .n_rows = n_rows, .n_cols = n_cols };
    *w = weight_of_tensor(&shape);
    if (weight_alloc(m->backend, MEM_BASE, w, e) < 0)
        return -1;
    *to = w->codes;
    return 0;
}

/* ---- what the checkpoint should hold, and what it holds ---- */

static bool shape_is(const struct safetensors_tensor *t, const struct tensor_spec *s)
{
    if (t->n_dims != s->n_dims)
        return false;
    for (int i = 0; i < s->n_dims; i++)
        if (t->shape[i] != (uint64_t)s->shape[i])
            return false;
    return true;
}

static int check_tensor(const struct checkpoint_tensor *t, const struct tensor_spec *s,
                        struct err *e)
{
    char text[SAFETENSORS_SHAPE_MAX];

    if (!t)
        return err_set(e, ERR_INPUT, "tensor %s is missing from the checkpoint", s->name);
    if (!shape_is(t->tensor, s)) {
        uint64_t shape[2] = { (uint64_t)s->shape[0], (uint64_t)s->shape[1] };
        struct safetensors_tensor want = { .n_dims = s->n_dims, .shape = shape };
        char want_text[SAFETENSORS_SHAPE_MAX];
        return err_set(e, ERR_INPUT, "tensor %s has shape %s, the configuration asks for %s",
                       s->name, safetensors_shape_text(t->tensor, text),
                       safetensors_shape_text(&want, want_text));
    }
    enum dtype d = t->tensor->dtype;
    if (d != DTYPE_F32 && d != DTYPE_F16 && d != DTYPE_BF16)
        return err_set(e, ERR_INPUT, "tensor %s is %s; weights are F32, F16 or BF16", s->name,
                       t->tensor->dtype_text);
    return 0;
}

static bool may_be_ignored(const struct config *c, const char *name)
{
    static const char tail[] = ".rotary_emb.inv_freq"; /* of old Llama checkpoints */
    size_t n = strlen(name);

    if (c->tied && strcmp(name, "lm_head.weight") == 0)
        return true;
    return n >= sizeof tail - 1 && strcmp(name + n - (sizeof tail - 1), tail) == 0;
}

static void warn_of_extra_tensors(const struct config *c, const struct checkpoint *from,
                                  const bool *used)
{
    const char *first = NULL;
    size_t n = 0;

    for (size_t i = 0; i < from->n; i++)
        if (!used[i] && !may_be_ignored(c, from->tensor[i].name) && n++ == 0)
            first = from->tensor[i].name;
    if (n)
        log_warn("%zu tensor%s of the checkpoint %s not used: %s%s", n, n == 1 ? "" : "s",
                 n == 1 ? "is" : "are", first, n == 1 ? "" : ", ...");
}

/* The dtype that holds most elements; a tie goes to the wider one. */
static enum dtype main_dtype(const struct load_item *items, size_t n)
{
    static const enum dtype order[] = { DTYPE_F32, DTYPE_BF16, DTYPE_F16 };
    int64_t most = -1;
    enum dtype best = DTYPE_F32;

    for (size_t k = 0; k < sizeof order / sizeof *order; k++) {
        int64_t elements = 0;
        for (size_t i = 0; i < n; i++)
            if (items[i].from->tensor->dtype == order[k])
                elements += items[i].from->tensor->n_elements;
        if (elements > most) {
            most = elements;
            best = order[k];
        }
    }
    return best;
}

/* Every tensor of the list is judged before the first byte is read. */
static int match(const struct checkpoint *from, const struct model *m,
                 const struct tensor_spec *list, size_t n, struct load_item *items,
                 int64_t *n_bytes, struct err *e)
{
    bool *used = mem_array(from->n, sizeof *used);
    int rc = -1;

    *n_bytes = 0;
    for (size_t i = 0; i < n; i++) {
        items[i].from = checkpoint_tensor(from, list[i].name);
        if (check_tensor(items[i].from, &list[i], e) < 0)
            goto out;
        used[items[i].from - from->tensor] = true;
        take_part(m, &list[i], &items[i]);
        *n_bytes += items[i].n_bytes;
    }
    warn_of_extra_tensors(&m->config, from, used);
    rc = 0;
out:
    free(used);
    return rc;
}

/* Who else holds the device's memory; empty where nobody does or it cannot be told. */
static void name_others(struct backend *b, char text[64])
{
    struct err ignored = ERR_INIT;
    int n = 0;

    text[0] = 0;
    if (b->ops->n_others && b->ops->n_others(b, &n, &ignored) == 0 && n > 0)
        snprintf(text, 64, " (%d other process%s on it)", n, n == 1 ? " is" : "es are");
}

static int check_room(struct backend *b, int64_t n_bytes, int64_t least_job_bytes, struct err *e)
{
    struct device_facts facts;
    char others[64], job[96] = "";

    if (b->ops->facts(b, &facts, e) < 0)
        return -1;
    if (n_bytes + least_job_bytes <= facts.free_bytes)
        return 0;
    name_others(b, others);
    if (least_job_bytes)
        snprintf(job, sizeof job, " and %lld more for the smallest job",
                 (long long)least_job_bytes);
    return err_set(e, ERR_MEMORY,
                   "the weights do not fit: %lld bytes%s are needed, %lld of %lld are free on %s%s",
                   (long long)n_bytes, job, (long long)facts.free_bytes,
                   (long long)facts.memory_bytes, facts.name, others);
}

struct reading {
    struct backend *backend;
    const struct load_item *items;
    size_t n;
};

static int read_all(void *reading, struct err *e)
{
    struct reading *r = reading;

    return load_tensors(r->backend, r->items, r->n, e);
}

static int fill(struct backend *b, const struct load_item *items, size_t n,
                const struct load_way *way, struct err *e)
{
    struct reading reading = { b, items, n };

    if (!way->fill)
        return read_all(&reading, e);
    void **at = mem_array(n, sizeof *at);
    size_t *n_bytes = mem_array(n, sizeof *n_bytes);
    for (size_t i = 0; i < n; i++) {
        at[i] = items[i].to;
        n_bytes[i] = (size_t)items[i].n_bytes;
    }
    struct load_parts parts = { at, n_bytes, n };
    int rc = way->fill(way->context, &parts, read_all, &reading, e);
    free(at);
    free(n_bytes);
    return rc;
}

static int load(const struct checkpoint *from, const struct load_way *way, struct model *m,
                int64_t *n_bytes, struct err *e)
{
    struct tensor_spec *list = NULL;
    size_t n = tensor_list(&m->config, &list);
    struct load_item *items = mem_array(n, sizeof *items);
    int rc = -1;

    if (match(from, m, list, n, items, n_bytes, e) < 0 ||
        check_room(m->backend, *n_bytes, way->least_job_bytes, e) < 0)
        goto out;
    for (size_t i = 0; i < n; i++)
        if (make_room(m, &list[i], items[i].from->tensor->dtype, &items[i].to, e) < 0) {
            err_in(e, "tensor %s", list[i].name);
            goto out;
        }
    if (fill(m->backend, items, n, way, e) < 0)
        goto out;
    if (m->config.tied)
        m->head = weight_of_tensor(&m->embed);
    m->dtype = m->compute = main_dtype(items, n);
    rc = 0;
out:
    free(items);
    free(list);
    return rc;
}

int weights_load_by(struct backend *b, const char *folder, const struct load_way *way,
                    struct model *out, struct load_facts *facts, struct err *e)
{
    double start = clock_seconds();
    struct checkpoint from = CHECKPOINT_INIT;
    int rc = -1;

    *out = (struct model){ .backend = b, .owns_embed = true, .owns_norms = true };
    if (config_read(folder, &out->config, e) < 0 ||
        (way->split.n > 1 && config_check_split(&out->config, way->split.n, e) < 0))
        goto out;
    out->split = way->split;
    out->layers = mem_array((size_t)out->config.n_layers, sizeof *out->layers);
    if (out->config.repetition_penalty != 1)
        log_warn("generation_config.json asks for a repetition penalty of %g, which is not applied",
                 out->config.repetition_penalty);
    if (checkpoint_open(&from, folder, e) < 0 || load(&from, way, out, &facts->n_bytes, e) < 0)
        goto out;
    facts->read_s = clock_seconds() - start;
    rc = 0;
out:
    checkpoint_close(&from);
    if (rc < 0) {
        err_in(e, "%s", folder);
        model_release(out);
    }
    return rc;
}

int weights_load_timed(struct backend *b, const char *folder, struct model *out,
                       struct load_facts *facts, struct err *e)
{
    struct load_way from_file = { 0 };

    return weights_load_by(b, folder, &from_file, out, facts, e);
}

int weights_load(struct backend *b, const char *folder, struct model *out, struct err *e)
{
    struct load_facts facts;

    return weights_load_timed(b, folder, out, &facts, e);
}
