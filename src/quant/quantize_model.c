/* quantize_model.c - the job's model from the base model.
 *
 *   linears   packed by the method; those that `skip` names stay plain in the model dtype
 *   the rest  embedding, norms, biases, head: plain in the model dtype
 *
 * What is already in the wanted dtype is borrowed from the base, not copied.
 *
 * Of a base in parts (model.h) each matrix is brought together, packed whole, with the statistics
 * of the whole, and cut again: the parts are those of the model that one device would have.  The
 * report is that of the whole model. */
#include "base/clock.h"
#include "base/memory.h"
#include "quant/method.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One linear, the head or the embedding, while the model is made. */
struct place {
    char module[96];
    struct tensor stored;
    struct weight *to;
    int64_t index; /* 0, 1, ... through all layers, then the ends */
    bool packed, end;
};

struct making {
    struct backend *b;
    const struct model *base;
    const struct quant_spec *spec;
    const struct quantizer *method;
    enum dtype source; /* DTYPE_OTHER: as stored */
    struct model *out;
    struct quant_report *report;
    struct size_count sizes;
    struct place *places; /* of each linear and packed end, as are the next two */
    int64_t n_places;
    struct quant_solved *solved;
    double (*sums)[2];     /* of errors and of squares */
    struct tensor scratch; /* fp32 values of one matrix, where the backend has no compare() */
    /* Of a model in parts. */
    struct weight *wholes;              /* [n_places]: forms of what was packed */
    double measured_s;                  /* went into errors, between the matrices */
    struct model whole_base, whole_out; /* one layer of each, where a method runs the model */
};

static bool in_parts(const struct making *k)
{
    return k->base->split.n > 1;
}

/* What of n rows or bytes of a part the whole model has. */
static int64_t of_all(const struct making *k, int64_t n)
{
    return in_parts(k) ? n * k->base->split.n : n;
}

/* Does rounding to `source` change values stored as `stored`? */
static bool rounds(enum dtype source, enum dtype stored)
{
    return source != DTYPE_OTHER && source != DTYPE_F32 && source != stored;
}

static int convert(struct making *k, enum mem_tag tag, const struct tensor *from, enum dtype to,
                   struct tensor *out, struct err *e)
{
    struct convert_args a = { .x = from, .out = out };

    if (tensor_alloc(k->b, tag, to, from->n_rows, from->n_cols, out, e) < 0)
        return -1;
    if (k->b->ops->convert(k->b, &a, e) < 0) {
        tensor_free(k->b, out);
        return -1;
    }
    return 0;
}

static bool borrowable(const struct making *k, const struct tensor *from, enum dtype to)
{
    return from->dtype == to && !rounds(k->source, from->dtype);
}

/* A copy in dtype `to`, by way of the source dtype. */
static int copy_as(struct making *k, const struct tensor *from, enum dtype to, struct tensor *out,
                   struct err *e)
{
    struct tensor rounded = { 0 };
    int rc;

    if (!rounds(k->source, from->dtype) || to == k->source)
        return convert(k, MEM_WEIGHTS, from, to, out, e);
    if (convert(k, MEM_SCRATCH, from, k->source, &rounded, e) < 0)
        return -1;
    rc = convert(k, MEM_WEIGHTS, &rounded, to, out, e);
    if (rc == 0)
        rc = k->b->ops->sync(k->b, e);
    tensor_free(k->b, &rounded);
    return rc;
}

static struct tensor tensor_of(const struct weight *w)
{
    return (struct tensor){ w->codes, w->plain_dtype, w->n_out, w->n_in, MEM_BASE };
}

static int plain_weight(struct making *k, const struct weight *from, enum dtype to,
                        struct weight *out, struct err *e)
{
    struct tensor stored = tensor_of(from), copy = { 0 };

    if (borrowable(k, &stored, to)) {
        *out = weight_of_tensor(&stored);
        return 0;
    }
    if (copy_as(k, &stored, to, &copy, e) < 0)
        return -1;
    *out = weight_of_tensor(&copy);
    out->owned = true;
    return 0;
}

/* ---- embedding, head, norms, biases ---- */

/* Those that are not packed. */
static int make_ends(struct making *k, struct err *e)
{
    struct model *m = k->out;

    if (quant_packs_embedding(k->spec)) {
        if (!k->b->ops->embed_packed)
            return err_set(e, ERR_USAGE,
                           "the %s backend has no look-up in a packed embedding: \"embed_tokens\" "
                           "in skip_modules keeps it plain",
                           k->b->ops->name);
        return 0;
    }
    m->owns_embed = !borrowable(k, &k->base->embed, m->dtype);
    if (!m->owns_embed)
        m->embed = k->base->embed;
    else if (copy_as(k, &k->base->embed, m->dtype, &m->embed, e) < 0)
        return err_in(e, "model.embed_tokens");
    size_count_plain(&k->sizes, m->embed.n_rows * m->embed.n_cols, m->embed.dtype);

    if (quant_packs_head(k->spec))
        return 0;
    if (m->config.tied) {
        m->head = weight_of_tensor(&m->embed);
        return 0;
    }
    if (plain_weight(k, &k->base->head, m->dtype, &m->head, e) < 0)
        return err_in(e, "lm_head");
    size_count_plain(&k->sizes, m->head.n_out * m->head.n_in, m->head.plain_dtype);
    return 0;
}

static bool norms_borrowable(const struct making *k)
{
    const struct model *base = k->base;
    enum dtype to = k->out->dtype;
    bool all = borrowable(k, &base->norm, to);

    for (int64_t i = 0; i < base->config.n_layers; i++) {
        const struct layer *layer = &base->layers[i];

        all = all && borrowable(k, &layer->input_norm, to) && borrowable(k, &layer->post_norm, to);
        for (int l = 0; l < N_LINEARS; l++)
            all = all && (!layer->bias[l].data || borrowable(k, &layer->bias[l], to));
    }
    return all;
}

static int make_small(struct making *k, const struct tensor *from, bool part, struct tensor *to,
                      struct err *e)
{
    if (!from->data)
        return 0;
    if (!k->out->owns_norms)
        *to = *from;
    else if (copy_as(k, from, k->out->dtype, to, e) < 0)
        return -1;
    size_count_plain(&k->sizes, part ? of_all(k, to->n_cols) : to->n_cols, to->dtype);
    return 0;
}

/* All or none are borrowed: one flag of the model says which. */
static int make_norms(struct making *k, struct err *e)
{
    k->out->owns_norms = k->method->changes_norms || !norms_borrowable(k);
    if (make_small(k, &k->base->norm, false, &k->out->norm, e) < 0)
        return err_in(e, "model.norm");
    for (int64_t i = 0; i < k->base->config.n_layers; i++) {
        const struct layer *from = &k->base->layers[i];
        struct layer *to = &k->out->layers[i];

        if (make_small(k, &from->input_norm, false, &to->input_norm, e) < 0 ||
            make_small(k, &from->post_norm, false, &to->post_norm, e) < 0)
            return err_in(e, "the norms of layer %lld", (long long)i);
        for (int l = 0; l < N_LINEARS; l++)
            if (make_small(k, &from->bias[l], true, &to->bias[l], e) < 0)
                return err_in(e, "the biases of layer %lld", (long long)i);
    }
    return 0;
}

/* ---- linears ---- */

static struct place place_of(const struct making *k, int64_t index)
{
    const int64_t layer = index / N_LINEARS;
    const int l = (int)(index % N_LINEARS);
    struct place p = { .stored = tensor_of(&k->base->layers[layer].linear[l]),
                       .to = &k->out->layers[layer].linear[l],
                       .index = index };

    config_linear_module(&k->base->config, layer, l, p.module, sizeof p.module);
    p.packed = !quant_is_plain(k->spec) && !quant_skips(k->spec, p.module);
    return p;
}

static void place_end(struct making *k, const char *module, struct tensor stored, struct weight *to)
{
    struct place *p = &k->places[k->n_places];

    *p = (struct place){
        .stored = stored, .to = to, .index = k->n_places, .packed = true, .end = true
    };
    snprintf(p->module, sizeof p->module, "%s", module);
    k->n_places++;
}

/* A tied pair that is packed is one matrix, the head. */
static void place_all(struct making *k)
{
    const struct model *base = k->base;
    const int64_t n = base->config.n_layers * N_LINEARS;

    k->n_places = n;
    k->places = mem_array((size_t)n + 2, sizeof *k->places);
    for (int64_t i = 0; i < n; i++)
        k->places[i] = place_of(k, i);
    if (quant_packs_embedding(k->spec) && !base->config.tied)
        place_end(k, "model.embed_tokens", base->embed, &k->out->packed_embed);
    if (quant_packs_head(k->spec))
        place_end(k, "lm_head", tensor_of(&base->head), &k->out->head);
}

/* The embedding of a tied pair, once the head is there or has moved. */
static void tie(struct making *k)
{
    if (!quant_packs_embedding(k->spec) || !k->base->config.tied)
        return;
    k->out->packed_embed = k->out->head;
    k->out->packed_embed.owned = false;
}

/* Has `act` done to all that are packed, or to all that are not. */
static int each(struct making *k, bool packed,
                int (*act)(struct making *k, const struct place *p, struct err *e), struct err *e)
{
    for (int64_t i = 0; i < k->n_places; i++) {
        const struct place *p = &k->places[i];

        if (p->packed == packed && act(k, p, e) < 0)
            return err_in(e, "%s", p->module);
    }
    return 0;
}

static int copy_plain(struct making *k, const struct place *p, struct err *e)
{
    enum dtype to = quant_is_plain(k->spec) ? k->spec->compute : k->out->dtype;
    const struct weight from = weight_of_tensor(&p->stored);

    return plain_weight(k, &from, to, p->to, e);
}

static int pack(struct making *k, const struct place *p, struct err *e)
{
    return p->end ? quant_pack_alone(k->b, k->spec, &p->stored, p->to, e)
                  : k->method->run(k->b, k->spec, &p->stored, p->to, e);
}

/* ---- errors ---- */

static int measure_one(struct making *k, int64_t index, const struct tensor *stored,
                       const struct weight *packed, struct err *e)
{
    const struct compare_args a = {
        .w = stored, .source = k->source, .packed = packed, .out = k->sums[index]
    };

    if (k->solved[index].measured) {
        memcpy(k->sums[index], k->solved[index].sums, sizeof k->sums[index]);
        return 0;
    }
    if (k->b->ops->compare)
        return k->b->ops->compare(k->b, &a, e);
    return quant_measure(k->b, stored, k->source, packed, &k->scratch, k->sums[index], e);
}

static int measure(struct making *k, const struct place *p, struct err *e)
{
    return in_parts(k) && !p->end ? 0 : measure_one(k, p->index, &p->stored, p->to, e);
}

/* ---- models in parts ---- */

/* What a whole matrix has become: its error, its form, the part of it that is kept. */
static int take_part(struct making *k, const struct place *p, const struct tensor *stored,
                     const struct weight *packed, struct err *e)
{
    const double start = clock_seconds();

    if (measure_one(k, p->index, stored, packed, e) < 0 || k->b->ops->sync(k->b, e) < 0)
        return -1;
    k->measured_s += clock_seconds() - start;
    k->wholes[p->index] = *packed;
    if (quant_cut(k->b, packed, k->base->split, p->to, e) < 0)
        return -1;
    return k->b->ops->sync(k->b, e);
}

static int pack_whole(struct making *k, const struct place *p, struct err *e)
{
    struct weight packed = { 0 };
    struct tensor whole;
    int rc = -1;

    if (p->end)
        return pack(k, p, e);
    if (quant_whole(k->b, &p->stored, &whole, e) < 0)
        return -1;
    if (k->method->run(k->b, k->spec, &whole, &packed, e) == 0 && k->b->ops->sync(k->b, e) == 0)
        rc = take_part(k, p, &whole, &packed, e);
    weight_release(k->b, &packed);
    tensor_free(k->b, &whole);
    return rc;
}

static int whole_weight(struct making *k, const struct weight *part, struct weight *out,
                        struct err *e)
{
    const struct tensor own = tensor_of(part);
    struct tensor whole;

    if (quant_whole(k->b, &own, &whole, e) < 0)
        return -1;
    *out = weight_of_tensor(&whole);
    out->owned = true;
    return 0;
}

/* Norms are those of the model itself: a method may change them. */
static int begin_layer(void *context, int64_t i, struct err *e)
{
    struct making *k = context;
    const struct layer *own = &k->out->layers[i];
    struct layer *base = &k->whole_base.layers[i], *out = &k->whole_out.layers[i];

    out->input_norm = own->input_norm;
    out->post_norm = own->post_norm;
    for (int l = 0; l < N_LINEARS; l++) {
        const struct place *p = &k->places[i * N_LINEARS + l];

        if (whole_weight(k, &k->base->layers[i].linear[l], &base->linear[l], e) < 0 ||
            (!p->packed && whole_weight(k, &own->linear[l], &out->linear[l], e) < 0))
            return err_in(e, "bringing %s together", p->module);
        if (!own->bias[l].data)
            continue;
        if (quant_whole(k->b, &own->bias[l], &out->bias[l], e) < 0)
            return err_in(e, "bringing the bias of %s together", p->module);
        out->bias[l].n_cols *= out->bias[l].n_rows;
        out->bias[l].n_rows = 1;
    }
    return 0;
}

static void release_layer(struct making *k, int64_t i)
{
    for (int l = 0; l < N_LINEARS; l++) {
        weight_release(k->b, &k->whole_base.layers[i].linear[l]);
        weight_release(k->b, &k->whole_out.layers[i].linear[l]);
        tensor_free(k->b, &k->whole_out.layers[i].bias[l]);
    }
}

static int end_layer(void *context, int64_t i, struct err *e)
{
    struct making *k = context;
    const struct layer *whole = &k->whole_out.layers[i];
    struct layer *own = &k->out->layers[i];

    for (int l = 0; l < N_LINEARS; l++) {
        const struct place *p = &k->places[i * N_LINEARS + l];
        const struct tensor stored = tensor_of(&k->whole_base.layers[i].linear[l]);
        const size_t n_bytes = tensor_bytes(&own->bias[l]);

        if (p->packed && take_part(k, p, &stored, &whole->linear[l], e) < 0)
            return err_in(e, "%s", p->module);
        /* A method may have changed it. */
        if (n_bytes && k->out->owns_norms &&
            k->b->ops->copy(k->b, own->bias[l].data,
                            (char *)whole->bias[l].data + (size_t)k->base->split.index * n_bytes,
                            n_bytes, e) < 0)
            return -1;
    }
    if (k->b->ops->sync(k->b, e) < 0)
        return -1;
    release_layer(k, i);
    return 0;
}

/* The method sees whole layers, one at a time. */
static int run_model_in_parts(struct making *k, struct err *e)
{
    const int64_t n = k->base->config.n_layers;
    const struct quant_layers layers = { begin_layer, end_layer, k };
    struct quant_spec spec = *k->spec;
    struct err ignored = ERR_INIT;

    spec.layers = &layers;
    k->whole_base = *k->base;
    k->whole_out = *k->out;
    k->whole_base.split = k->whole_out.split = (struct split){ 0 };
    k->whole_base.layers = mem_array((size_t)n, sizeof *k->whole_base.layers);
    k->whole_out.layers = mem_array((size_t)n, sizeof *k->whole_out.layers);
    int rc = k->method->run_model(&k->whole_base, &spec, &k->whole_out, k->solved,
                                  &k->report->on_host, e);
    if (rc < 0)
        k->b->ops->sync(k->b, &ignored);
    for (int64_t i = 0; i < n; i++)
        release_layer(k, i);
    free(k->whole_base.layers);
    free(k->whole_out.layers);
    return rc;
}

/* Before a method runs the model on text. */
static int pack_ends(struct making *k, struct err *e)
{
    for (int64_t i = 0; i < k->n_places; i++)
        if (k->places[i].end && pack(k, &k->places[i], e) < 0)
            return err_in(e, "%s", k->places[i].module);
    if (k->b->ops->sync(k->b, e) < 0)
        return -1;
    tie(k);
    return 0;
}

static int pack_alone(struct making *k, const struct place *p, struct err *e)
{
    weight_release(k->b, p->to);
    return pack(k, p, e) < 0 ? -1 : k->b->ops->sync(k->b, e);
}

/* A refusal that came with the sync() does not know its module: one by one, the same is refused
 * again.  The cold path. */
static int name_refused(struct making *k, struct err *e)
{
    struct err again = ERR_INIT;

    if (e->code == ERR_INPUT && each(k, true, pack_alone, &again) < 0)
        *e = again;
    return -1;
}

static int run_model(struct making *k, struct err *e)
{
    if (in_parts(k))
        return run_model_in_parts(k, e);
    return k->method->run_model(k->base, k->spec, k->out, k->solved, &k->report->on_host, e);
}

/* Seconds are counted of what the method does: a device packs all matrices in one go. */
static int make_weights(struct making *k, struct err *e)
{
    const bool plain = quant_is_plain(k->spec);
    double start = clock_seconds();

    if (each(k, false, copy_plain, e) < 0 || k->b->ops->sync(k->b, e) < 0)
        return -1;
    if (!plain)
        start = clock_seconds();
    if (k->method->run_model) {
        if (pack_ends(k, e) < 0 || run_model(k, e) < 0)
            return -1;
    } else if (each(k, true, in_parts(k) ? pack_whole : pack, e) < 0) {
        return -1;
    }
    if (k->b->ops->sync(k->b, e) < 0)
        return k->method->run_model || in_parts(k) ? -1 : name_refused(k, e);
    k->report->seconds = clock_seconds() - start - k->measured_s;
    return 0;
}

/* ---- the report ---- */

/* A place as the whole model has it, to be counted. */
static struct weight whole_form(const struct making *k, const struct place *p)
{
    struct weight w = *p->to;

    if (!in_parts(k) || p->end)
        return w;
    if (p->packed)
        return k->wholes[p->index];
    w.n_out = of_all(k, w.n_out);
    return w;
}

static int note_module(struct making *k, const struct place *p, struct err *e)
{
    struct quant_module *to = &k->report->modules[k->report->n_modules++];

    (void)e;
    const struct weight w = whole_form(k, p);
    memcpy(to->name, p->module, sizeof to->name);
    to->bits_per_weight = weight_bits_per_weight(&w);
    to->solved = k->solved[p->index];
    quant_errors_of(k->sums[p->index], w.n_out * w.n_in, to);
    return 0;
}

/* Room for the values of the largest matrix that is measured. */
static int open_scratch(struct making *k, struct err *e)
{
    int64_t largest_out = 0, largest_in = 0, n_out, n_in;

    for (int l = 0; l < N_LINEARS; l++) {
        config_linear_shape(&k->base->config, l, &n_out, &n_in);
        if (n_out * n_in > largest_out * largest_in) {
            largest_out = n_out;
            largest_in = n_in;
        }
    }
    if (quant_packs_head(k->spec) &&
        config_n_embedding(&k->base->config) > largest_out * largest_in) {
        largest_out = k->base->config.vocab_size;
        largest_in = k->base->config.hidden_size;
    }
    return tensor_alloc(k->b, MEM_SCRATCH, DTYPE_F32, largest_out, largest_in, &k->scratch, e);
}

static int open_measuring(struct making *k, struct err *e)
{
    k->sums = mem_array((size_t)k->n_places, sizeof *k->sums);
    return quant_is_plain(k->spec) || k->b->ops->compare ? 0 : open_scratch(k, e);
}

static int measure_all(struct making *k, struct err *e)
{
    const size_t n = (size_t)k->n_places;
    int rc = -1;

    k->report->modules = mem_array(n, sizeof *k->report->modules);
    if (quant_is_plain(k->spec))
        return 0;
    if (each(k, true, measure, e) == 0 && k->b->ops->sync(k->b, e) == 0)
        rc = each(k, true, note_module, e);
    if (rc < 0)
        err_in(e, "measuring the error of quantization");
    return rc;
}

/* Measured in the order they were packed in; multiplied in the one that the device likes. */
static int arrange(struct making *k, const struct place *p, struct err *e)
{
    return k->b->ops->arrange ? k->b->ops->arrange(k->b, p->to, e) : 0;
}

static int arrange_all(struct making *k, struct err *e)
{
    double start = clock_seconds();

    if (!k->b->ops->arrange)
        return 0;
    if (each(k, true, arrange, e) < 0 || k->b->ops->sync(k->b, e) < 0)
        return -1;
    k->report->arranging = clock_seconds() - start;
    k->report->seconds += k->report->arranging;
    return 0;
}

static void count_place(struct making *k, const struct place *p)
{
    const bool embedding = p->end && (k->out->config.tied ? quant_packs_embedding(k->spec)
                                                          : p->to == &k->out->packed_embed);

    const struct weight w = whole_form(k, p);
    if (embedding)
        size_count_embedding(&k->sizes, &w);
    else if (p->end)
        size_count_head(&k->sizes, &w, k->out->config.tied);
    else
        size_count_linear(&k->sizes, &w, p->packed || quant_is_plain(k->spec));
}

static int make_linears(struct making *k, struct err *e)
{
    struct err ignored = ERR_INIT;

    place_all(k);
    k->solved = mem_array((size_t)k->n_places, sizeof *k->solved);
    k->wholes = mem_array((size_t)k->n_places, sizeof *k->wholes);
    /* In parts, errors are measured as matrices come by; else at the end, with what then is free.
     */
    int rc = in_parts(k) ? open_measuring(k, e) : 0;
    if (rc == 0)
        rc = make_weights(k, e);
    if (rc == 0 && !in_parts(k))
        rc = open_measuring(k, e);
    if (rc == 0)
        rc = measure_all(k, e);
    tensor_free(k->b, &k->scratch);
    if (rc == 0)
        rc = arrange_all(k, e);
    tie(k);

    /* What is under way writes to the weights and the sums. */
    if (rc < 0)
        k->b->ops->sync(k->b, &ignored);
    for (int64_t i = 0; rc == 0 && i < k->n_places; i++)
        count_place(k, &k->places[i]);
    free(k->sums);
    free(k->wholes);
    free(k->solved);
    free(k->places);
    return rc;
}

int quantize_model(const struct model *base, const struct quant_spec *s, enum dtype source,
                   struct model *out, struct quant_report *report, struct err *e)
{
    struct quant_spec spec = *s;
    struct making k = {
        .b = base->backend,
        .base = base,
        .spec = &spec,
        .method = quantizer_find(s->method),
        .source = source,
        .out = out,
        .report = report,
    };

    spec.source = source;
    spec.in_parts = base->split.n > 1;
    *out = (struct model)MODEL_INIT;
    *report = (struct quant_report){ 0 };
    if (quant_spec_check_model(s, &base->config, e) < 0)
        return -1;
    out->config = base->config;
    out->split = base->split;
    out->backend = base->backend;
    out->dtype = quant_model_dtype(s, source == DTYPE_OTHER ? base->dtype : source);
    out->compute = s->compute;
    out->layers = mem_array((size_t)base->config.n_layers, sizeof *out->layers);

    size_count_start(&k.sizes, k.method, out->dtype);
    if (make_ends(&k, e) < 0 || make_norms(&k, e) < 0 || make_linears(&k, e) < 0) {
        model_release(out);
        quant_report_release(report);
        return err_in(e, "quantizing with %s", s->method);
    }
    size_count_finish(&k.sizes, &out->config, &report->sizes);
    report->on_host = report->on_host || quant_on_host(k.b, s);
    return 0;
}

void quant_report_release(struct quant_report *r)
{
    free(r->modules);
    *r = (struct quant_report){ 0 };
}
