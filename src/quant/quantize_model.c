/* quantize_model.c - the job's model from the base model.
 *
 *   linears   packed by the method; those that `skip` names stay plain in the model dtype
 *   the rest  embedding, norms, biases, head: plain in the model dtype
 *
 * What is already in the wanted dtype is borrowed from the base, not copied. */
#include "base/clock.h"
#include "base/memory.h"
#include "quant/method.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct making {
    struct backend *b;
    const struct model *base;
    const struct quant_spec *spec;
    const struct quantizer *method;
    enum dtype source; /* DTYPE_OTHER: as stored */
    struct model *out;
    struct quant_report *report;
    struct size_count sizes;
    struct tensor scratch; /* fp32 values of one matrix, for measuring */
};

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

static int make_ends(struct making *k, struct err *e)
{
    struct model *m = k->out;

    m->owns_embed = !borrowable(k, &k->base->embed, m->dtype);
    if (!m->owns_embed)
        m->embed = k->base->embed;
    else if (copy_as(k, &k->base->embed, m->dtype, &m->embed, e) < 0)
        return err_in(e, "model.embed_tokens");
    size_count_plain(&k->sizes, m->embed.n_rows * m->embed.n_cols, m->embed.dtype);

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

static int make_small(struct making *k, const struct tensor *from, struct tensor *to, struct err *e)
{
    if (!from->data)
        return 0;
    if (!k->out->owns_norms)
        *to = *from;
    else if (copy_as(k, from, k->out->dtype, to, e) < 0)
        return -1;
    size_count_plain(&k->sizes, to->n_rows * to->n_cols, to->dtype);
    return 0;
}

/* All or none are borrowed: one flag of the model says which. */
static int make_norms(struct making *k, struct err *e)
{
    k->out->owns_norms = !norms_borrowable(k);
    if (make_small(k, &k->base->norm, &k->out->norm, e) < 0)
        return err_in(e, "model.norm");
    for (int64_t i = 0; i < k->base->config.n_layers; i++) {
        const struct layer *from = &k->base->layers[i];
        struct layer *to = &k->out->layers[i];

        if (make_small(k, &from->input_norm, &to->input_norm, e) < 0 ||
            make_small(k, &from->post_norm, &to->post_norm, e) < 0)
            return err_in(e, "the norms of layer %lld", (long long)i);
        for (int l = 0; l < N_LINEARS; l++)
            if (make_small(k, &from->bias[l], &to->bias[l], e) < 0)
                return err_in(e, "the biases of layer %lld", (long long)i);
    }
    return 0;
}

/* ---- linears ---- */

/* Rounds to the source dtype, quantizes, and counts the seconds of both. */
static int pack_linear(struct making *k, const struct tensor *stored, struct weight *out,
                       struct err *e)
{
    struct tensor rounded = { 0 };
    const struct tensor *w = stored;
    double start = clock_seconds();
    int rc = -1;

    if (rounds(k->source, stored->dtype)) {
        if (convert(k, MEM_SCRATCH, stored, k->source, &rounded, e) < 0)
            goto out;
        w = &rounded;
    }
    if (k->method->run(k->b, k->spec, w, out, e) < 0 || k->b->ops->sync(k->b, e) < 0)
        goto out;
    rc = 0;
out:
    tensor_free(k->b, &rounded);
    k->report->seconds += clock_seconds() - start;
    return rc;
}

static int note_module(struct making *k, const char *module, const struct tensor *stored,
                       const struct weight *w, struct err *e)
{
    struct quant_module *to = &k->report->modules[k->report->n_modules++];

    snprintf(to->name, sizeof to->name, "%s", module);
    to->bits_per_weight = weight_bits_per_weight(w);
    return quant_measure(k->b, stored, k->source, w, &k->scratch, to, e);
}

static int make_linear(struct making *k, const char *module, const struct weight *from,
                       struct weight *out, struct err *e)
{
    struct tensor stored = tensor_of(from);
    bool skipped = !quant_is_plain(k->spec) && quant_skips(k->spec, module);
    double start = clock_seconds();

    if (skipped || quant_is_plain(k->spec)) {
        enum dtype to = skipped ? k->out->dtype : k->spec->compute;

        if (plain_weight(k, from, to, out, e) < 0 || k->b->ops->sync(k->b, e) < 0)
            return -1;
        k->report->seconds += skipped ? 0.0 : clock_seconds() - start;
    } else if (pack_linear(k, &stored, out, e) < 0 || note_module(k, module, &stored, out, e) < 0) {
        return -1;
    }
    size_count_linear(&k->sizes, out, !skipped);
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
    return tensor_alloc(k->b, MEM_SCRATCH, DTYPE_F32, largest_out, largest_in, &k->scratch, e);
}

static int make_linears(struct making *k, struct err *e)
{
    const struct config *c = &k->base->config;
    char module[96];
    int rc = -1;

    k->report->modules = mem_array((size_t)c->n_layers * N_LINEARS, sizeof *k->report->modules);
    if (!quant_is_plain(k->spec) && open_scratch(k, e) < 0)
        return err_in(e, "measuring the error of quantization");
    for (int64_t i = 0; i < c->n_layers; i++)
        for (int l = 0; l < N_LINEARS; l++) {
            config_linear_module(c, i, l, module, sizeof module);
            if (make_linear(k, module, &k->base->layers[i].linear[l], &k->out->layers[i].linear[l],
                            e) < 0) {
                err_in(e, "%s", module);
                goto out;
            }
        }
    rc = 0;
out:
    tensor_free(k->b, &k->scratch);
    return rc;
}

int quantize_model(const struct model *base, const struct quant_spec *s, enum dtype source,
                   struct model *out, struct quant_report *report, struct err *e)
{
    struct making k = {
        .b = base->backend,
        .base = base,
        .spec = s,
        .method = quantizer_find(s->method),
        .source = source,
        .out = out,
        .report = report,
    };

    *out = (struct model)MODEL_INIT;
    *report = (struct quant_report){ 0 };
    if (quant_spec_check_model(s, &base->config, e) < 0)
        return -1;
    out->config = base->config;
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
    return 0;
}

void quant_report_release(struct quant_report *r)
{
    free(r->modules);
    *r = (struct quant_report){ 0 };
}
