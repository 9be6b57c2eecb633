/* awq.c - activation-aware scales: columns that matter are made larger before they are rounded, and
 * what feeds them smaller by as much.  Lin, Tang, Tang, Yang, Dang, Han, "AWQ: activation-aware
 * weight quantization" (2023), as AutoAWQ 0.2.9 searches on a GPU, but in fp32 where it has fp16.
 *
 *   set               fed by           looked at     where
 *   q, k, v           input norm       attention     always
 *   o                 v                o             v and o of one shape (no shared heads)
 *   gate, up          post norm        MLP           always
 *   down              up               MLP           always
 *
 * For each set 20 ratios are tried; the scales with the least output error are folded into what
 * feeds the set.  Then ranges are clipped where that helps, but for q and k.  A layer's inputs are
 * those of the unquantized model.  A set with a skipped linear, or fed by one, is not scaled.  */
#include "backend/quantized.h"
#include "base/clock.h"
#include "base/memory.h"
#include "quant/awq_search.h"
#include "quant/calibrate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CLIP_ROWS 512

static const struct set {
    enum layer_step input, output;
    enum linear_name first, last;
    int feeder; /* a linear, or -1: a norm */
} sets[] = {
    { STEP_QKV, STEP_ATTENTION_OUTPUT, LINEAR_Q, LINEAR_V, -1 },
    { STEP_O, STEP_O_OUTPUT, LINEAR_O, LINEAR_O, LINEAR_V },
    { STEP_MLP, STEP_MLP_OUTPUT, LINEAR_GATE, LINEAR_UP, -1 },
    { STEP_DOWN, STEP_MLP_OUTPUT, LINEAR_DOWN, LINEAR_DOWN, LINEAR_UP },
};
#define N_SETS 4

struct awq {
    const struct model *base;
    const struct quant_spec *spec;
    struct model *out;
    struct quant_solved *solved;
    struct backend *b, host;
    struct calibration_run run;
    struct weight plain[N_LINEARS]; /* the layer's, as the unquantized model has them */
    float *w[N_LINEARS];            /* the same in the source dtype; later scaled and clipped */
    bool skipped[N_LINEARS];
    float *s[N_SETS]; /* [inputs of the set]; NULL: not scaled */
    double ratio[N_SETS], loss[N_SETS][AWQ_RATIOS];
    double *size[N_SETS]; /* sums of |x| by input */
    float *rows[N_SETS];  /* every so many-th row of the inputs, for clipping */
    int64_t n_rows[N_SETS];
};

static int64_t n_in(const struct awq *k, int l)
{
    return k->plain[l].n_in;
}

static int64_t n_out(const struct awq *k, int l)
{
    return k->plain[l].n_out;
}

static struct awq_form form_of(const struct quant_spec *s, int64_t width)
{
    return (struct awq_form){ .bits = s->bits,
                              .group_size = s->group_size == -1 ? width : s->group_size,
                              .zero_point = s->awq.zero_point };
}

/* ---- what is seen ---- */

/* n elements of type t at `from` on the device, widened. */
static int bring_down(struct awq *k, enum dtype t, const void *from, int64_t n, float *to,
                      struct err *e)
{
    void *raw = mem_array((size_t)n, dtype_bytes(t));
    int rc = k->b->ops->download(k->b, raw, from, (size_t)n * dtype_bytes(t), e);

    if (rc == 0)
        dtype_to_f32(t, raw, to, n);
    free(raw);
    return rc;
}

static int take_up(struct awq *k, const float *from, const struct tensor *to, struct err *e)
{
    int64_t n = to->n_rows * to->n_cols;
    void *raw = mem_array((size_t)n, dtype_bytes(to->dtype));

    dtype_from_f32(to->dtype, from, raw, n);
    int rc = k->b->ops->upload(k->b, to->data, raw, (size_t)n * dtype_bytes(to->dtype), e);
    free(raw);
    return rc;
}

struct seeing {
    struct awq *k;
    int set;
    int64_t stride, row;
};

static int see_rows(void *context, const struct tensor *x, const struct segments *s, struct err *e)
{
    struct seeing *see = context;
    struct awq *k = see->k;
    int64_t n_rows = s->first_row[s->n], width = x->n_cols;
    float *values = mem_array((size_t)(n_rows * width), sizeof *values);
    int rc = bring_down(k, x->dtype, x->data, n_rows * width, values, e);

    for (int64_t t = 0; rc == 0 && t < n_rows; t++, see->row++) {
        for (int64_t i = 0; i < width; i++)
            k->size[see->set][i] += fabs((double)values[t * width + i]);
        if (see->row % see->stride == 0)
            memcpy(k->rows[see->set] + k->n_rows[see->set]++ * width, values + t * width,
                   (size_t)width * sizeof *values);
    }
    for (int64_t i = 0; rc == 0 && i < width; i++)
        if (!isfinite(k->size[see->set][i]))
            rc = err_set(e, ERR_INPUT, "the calibration activations of input %lld are not finite",
                         (long long)i);
    free(values);
    return rc;
}

static int see_set(struct awq *k, int64_t layer, int set, struct err *e)
{
    int64_t stride = k->run.n_tokens / CLIP_ROWS, width = n_in(k, sets[set].first);
    struct seeing see = { .k = k, .set = set, .stride = stride > 1 ? stride : 1 };

    memset(k->size[set], 0, (size_t)width * sizeof *k->size[set]);
    k->n_rows[set] = 0;
    return calibration_step(&k->run, layer, sets[set].input, k->plain, see_rows, &see, e);
}

/* ---- the loss of changed weights ---- */

struct losing {
    struct awq *k;
    float *want; /* [n_tokens, D] */
    int64_t at;
    bool first;
    double sum;
};

static int lose(void *context, const struct tensor *y, const struct segments *s, struct err *e)
{
    struct losing *l = context;
    int64_t n = s->first_row[s->n] * y->n_cols;
    float *got = mem_array((size_t)n, sizeof *got);
    int rc = bring_down(l->k, y->dtype, y->data, n, l->first ? l->want + l->at : got, e);

    /* By element in order: batches leave no trace. */
    for (int64_t i = 0; rc == 0 && !l->first && i < n; i++) {
        double d = (double)l->want[l->at + i] - (double)got[i];
        l->sum += d * d;
    }
    l->at += n;
    free(got);
    return rc;
}

/* The set's linears rounded with scales s, as plain weights of the model dtype in `changed`. */
static int round_set(struct awq *k, int set, const float *s, struct weight changed[N_LINEARS],
                     struct tensor room[N_LINEARS], struct err *e)
{
    for (int l = sets[set].first; l <= (int)sets[set].last; l++) {
        const struct awq_form form = form_of(k->spec, n_in(k, l));
        int64_t n = n_out(k, l) * n_in(k, l);
        float *tried = mem_array((size_t)n, sizeof *tried);

        memcpy(tried, k->w[l], (size_t)n * sizeof *tried);
        int rc = awq_round(&k->host, &form, tried, n_out(k, l), n_in(k, l), s, e);
        if (rc == 0 && !room[l].data)
            rc = tensor_alloc(k->b, MEM_SCRATCH, k->out->dtype, n_out(k, l), n_in(k, l), &room[l],
                              e);
        if (rc == 0)
            rc = take_up(k, tried, &room[l], e);
        free(tried);
        if (rc < 0)
            return -1;
        changed[l] = weight_of_tensor(&room[l]);
    }
    return 0;
}

static int search_ratios(struct awq *k, int64_t layer, int set, const float *x_mean,
                         const float *w_mean, struct losing *l, struct err *e)
{
    const int64_t width = n_in(k, sets[set].first);
    struct tensor room[N_LINEARS] = { { 0 } };
    struct weight changed[N_LINEARS];
    float *s = mem_array((size_t)width, sizeof *s);
    double least = INFINITY;
    int rc = calibration_step(&k->run, layer, sets[set].output, k->plain, lose, l, e);

    l->first = false;
    memcpy(changed, k->plain, sizeof changed);
    for (int i = 0; i < AWQ_RATIOS && rc == 0; i++) {
        awq_scales(x_mean, w_mean, i / (double)AWQ_RATIOS, width, s);
        l->at = 0;
        l->sum = 0;
        if (round_set(k, set, s, changed, room, e) < 0 ||
            calibration_step(&k->run, layer, sets[set].output, changed, lose, l, e) < 0) {
            rc = -1;
            break;
        }
        k->loss[set][i] = l->sum / (double)l->at;
        if (l->sum < least) {
            least = l->sum;
            k->ratio[set] = i / (double)AWQ_RATIOS;
            memcpy(k->s[set], s, (size_t)width * sizeof *s);
        }
    }
    for (int i = 0; i < N_LINEARS; i++)
        tensor_free(k->b, &room[i]);
    free(s);
    if (rc == 0 && !isfinite(least))
        return err_set(e, ERR_INPUT, "no ratio gives a finite error");
    return rc;
}

static bool scalable(const struct awq *k, int set)
{
    int feeder = sets[set].feeder;
    bool some = feeder < 0 || (!k->skipped[feeder] &&
                               (feeder != LINEAR_V || n_out(k, LINEAR_V) == n_in(k, LINEAR_O)));

    for (int l = sets[set].first; l <= (int)sets[set].last; l++)
        some = some && !k->skipped[l];
    return some;
}

/* Fills s[set]. */
static int search_set(struct awq *k, int64_t layer, int set, struct err *e)
{
    const int64_t width = n_in(k, sets[set].first), d = k->out->config.hidden_size;
    float *x_mean = mem_array((size_t)width, sizeof *x_mean);
    float *w_mean = mem_array((size_t)width, sizeof *w_mean);
    double *sums = mem_array((size_t)width, sizeof *sums);
    struct losing l = { .k = k, .first = true };
    int64_t n_all = 0;

    for (int i = sets[set].first; i <= (int)sets[set].last; i++) {
        awq_add_weight_sizes(k->w[i], n_out(k, i), width, form_of(k->spec, width).group_size, sums);
        n_all += n_out(k, i);
    }
    for (int64_t i = 0; i < width; i++) {
        w_mean[i] = (float)(sums[i] / (double)n_all);
        x_mean[i] = (float)(k->size[set][i] / (double)k->run.n_tokens);
    }
    dtype_round(k->out->dtype, x_mean, width);
    l.want = mem_array((size_t)(k->run.n_tokens * d), sizeof *l.want);
    k->s[set] = mem_array((size_t)width, sizeof *k->s[set]);
    int rc = search_ratios(k, layer, set, x_mean, k->spec->awq.duo_scaling ? w_mean : NULL, &l, e);
    free(l.want);
    free(sums);
    free(w_mean);
    free(x_mean);
    return rc;
}

/* ---- folding ---- */

static int divide_vector(struct awq *k, const struct tensor *v, const float *s, struct err *e)
{
    float *values = mem_array((size_t)v->n_cols, sizeof *values);
    int rc = bring_down(k, v->dtype, v->data, v->n_cols, values, e);

    for (int64_t i = 0; i < v->n_cols; i++)
        values[i] /= s[i];
    if (rc == 0)
        rc = take_up(k, values, v, e);
    free(values);
    return rc;
}

static int fold(struct awq *k, int64_t layer, int set, struct err *e)
{
    struct layer *to = &k->out->layers[layer];
    const float *s = k->s[set];
    int feeder = sets[set].feeder;

    for (int l = sets[set].first; l <= (int)sets[set].last; l++)
        for (int64_t i = 0; i < n_out(k, l) * n_in(k, l); i++)
            k->w[l][i] *= s[i % n_in(k, l)];
    if (feeder < 0)
        return divide_vector(k, set == 0 ? &to->input_norm : &to->post_norm, s, e);
    for (int64_t i = 0; i < n_out(k, feeder) * n_in(k, feeder); i++)
        k->w[feeder][i] /= s[i / n_in(k, feeder)];
    return to->bias[feeder].data ? divide_vector(k, &to->bias[feeder], s, e) : 0;
}

static int set_of(int l)
{
    for (int i = 0; i < N_SETS; i++)
        if (l >= (int)sets[i].first && l <= (int)sets[i].last)
            return i;
    return 0;
}

static int clip(struct awq *k, int l, struct err *e)
{
    const int set = set_of(l);
    const struct awq_form form = form_of(k->spec, n_in(k, l));
    int64_t n = k->n_rows[set] * n_in(k, l);
    float *x = mem_array((size_t)n, sizeof *x);

    for (int64_t i = 0; i < n; i++)
        x[i] = k->s[set] ? k->rows[set][i] / k->s[set][i % n_in(k, l)] : k->rows[set][i];
    int rc =
        awq_clip(&k->host, &form, k->w[l], n_out(k, l), n_in(k, l), x, k->n_rows[set], NULL, e);
    free(x);
    return rc;
}

/* Packs w and measures W' (with the scales taken out again) against W. */
static int pack(struct awq *k, int64_t layer, int l, struct err *e)
{
    const struct quant_spec *s = k->spec;
    const int set = set_of(l), fed = l == LINEAR_V ? 1 : l == LINEAR_UP ? 3 : -1;
    struct weight *out = &k->out->layers[layer].linear[l];
    struct quant_solved *solved = &k->solved[layer * N_LINEARS + l];
    int64_t n = n_out(k, l) * n_in(k, l);
    struct tensor scaled = { 0 }, values = { 0 };
    struct quantize_args a = { .source = DTYPE_F32,
                               .rule = QUANTIZE_GRID_AWQ,
                               .bits = s->bits,
                               .group_size = form_of(s, n_in(k, l)).group_size,
                               .sym = !s->awq.zero_point,
                               .double_quant = s->double_quant,
                               .scale_dtype = s->scale_dtype,
                               .w = &scaled,
                               .out = out };
    float *got = mem_array((size_t)n, sizeof *got), *was = mem_array((size_t)n, sizeof *was);
    int rc = -1;

    if (tensor_alloc(k->b, MEM_SCRATCH, DTYPE_F32, n_out(k, l), n_in(k, l), &scaled, e) < 0 ||
        take_up(k, k->w[l], &scaled, e) < 0 || quant_quantize(k->b, &a, e) < 0 ||
        k->b->ops->sync(k->b, e) < 0)
        goto out;
    values = scaled;
    if (k->b->ops->dequantize(k->b, &(struct dequantize_args){ out, &values }, e) < 0 ||
        bring_down(k, DTYPE_F32, values.data, n, got, e) < 0 ||
        bring_down(k, k->plain[l].plain_dtype, k->plain[l].codes, n, was, e) < 0)
        goto out;
    if (dtype_is_16bit(s->source))
        dtype_round(s->source, was, n);
    for (int64_t i = 0; i < n; i++) {
        float x = got[i];

        if (k->s[set])
            x /= k->s[set][i % n_in(k, l)];
        if (fed >= 0 && k->s[fed])
            x *= k->s[fed][i / n_in(k, l)];
        solved->sums[0] += ((double)x - (double)was[i]) * ((double)x - (double)was[i]);
        solved->sums[1] += (double)was[i] * (double)was[i];
    }
    solved->measured = true;
    solved->ratio = k->s[set] ? k->ratio[set] : NAN;
    if (k->s[set])
        memcpy(solved->ratio_loss, k->loss[set], sizeof solved->ratio_loss);
    rc = 0;
out:
    tensor_free(k->b, &scaled);
    free(was);
    free(got);
    return rc;
}

/* ---- layers ---- */

static int read_weights(struct awq *k, int64_t layer, struct err *e)
{
    for (int l = 0; l < N_LINEARS; l++) {
        const struct weight *from = &k->base->layers[layer].linear[l];
        char module[96];

        config_linear_module(&k->base->config, layer, l, module, sizeof module);
        k->skipped[l] = quant_skips(k->spec, module);
        k->plain[l] = k->skipped[l] ? k->out->layers[layer].linear[l] : *from;
        if (bring_down(k, from->plain_dtype, from->codes, from->n_out * from->n_in, k->w[l], e) < 0)
            return -1;
        if (dtype_is_16bit(k->spec->source))
            dtype_round(k->spec->source, k->w[l], from->n_out * from->n_in);
    }
    return 0;
}

/* All inputs are seen before any scales are tried: one that is not finite is named as that. */
static int find_scales(struct awq *k, int64_t layer, struct err *e)
{
    for (int set = 0; set < 2 * N_SETS; set++) {
        const int at = set % N_SETS;
        const bool see = set < N_SETS;
        char module[96];

        if (see ? see_set(k, layer, at, e) < 0
                : scalable(k, at) && search_set(k, layer, at, e) < 0) {
            config_linear_module(&k->base->config, layer, sets[at].first, module, sizeof module);
            return err_in(e, "%s", module);
        }
    }
    return 0;
}

static int quantize_layer(struct awq *k, int64_t layer, struct err *e)
{
    char module[96];

    if (read_weights(k, layer, e) < 0 || find_scales(k, layer, e) < 0)
        return -1;
    /* The unquantized layer's output feeds the next; the norms are still what they were. */
    if (calibration_step(&k->run, layer, STEP_OUT, k->plain, NULL, NULL, e) < 0)
        return -1;
    for (int set = 0; set < N_SETS; set++)
        if (k->s[set] && fold(k, layer, set, e) < 0)
            return -1;
    for (int l = 0; l < N_LINEARS; l++) {
        config_linear_module(&k->base->config, layer, l, module, sizeof module);
        if (k->skipped[l])
            continue;
        if ((k->spec->awq.clip && l != LINEAR_Q && l != LINEAR_K && clip(k, l, e) < 0) ||
            pack(k, layer, l, e) < 0)
            return err_in(e, "%s", module);
    }
    for (int set = 0; set < N_SETS; set++) {
        free(k->s[set]);
        k->s[set] = NULL;
    }
    return 0;
}

static void make_room(struct awq *k)
{
    for (int l = 0; l < N_LINEARS; l++) {
        int64_t rows, width;

        config_linear_shape(&k->base->config, l, &rows, &width);
        k->w[l] = mem_array((size_t)(rows * width), sizeof *k->w[l]);
    }
    for (int set = 0; set < N_SETS; set++) {
        int64_t rows, width, stride = k->run.n_tokens / CLIP_ROWS;

        config_linear_shape(&k->base->config, sets[set].first, &rows, &width);
        k->size[set] = mem_array((size_t)width, sizeof *k->size[set]);
        rows = k->run.n_tokens / (stride > 1 ? stride : 1) + 1;
        k->rows[set] = mem_array((size_t)(rows * width), sizeof *k->rows[set]);
    }
}

static int run_model(const struct model *base, const struct quant_spec *s, struct model *out,
                     struct quant_solved *solved, bool *on_host, struct err *e)
{
    struct awq k = { .base = base, .spec = s, .out = out, .solved = solved, .b = base->backend };
    int rc = -1;

    if (!s->calibration)
        return err_set(e, ERR_USAGE, "awq needs calibration text ([calibration] path)");
    if (backend_open(&k.host, "cpu", 0, NULL, e) < 0)
        return -1;
    *on_host = strcmp(k.b->ops->name, "cpu") != 0; /* the searches' arithmetic */
    if (calibration_run_open(&k.run, out, s->calibration, e) == 0) {
        make_room(&k);
        rc = 0;
        for (int64_t i = 0; rc == 0 && i < base->config.n_layers; i++)
            rc = quantize_layer(&k, i, e);
        if (rc < 0)
            err_in(e, "awq");
    }
    for (int l = 0; l < N_LINEARS; l++)
        free(k.w[l]);
    for (int set = 0; set < N_SETS; set++) {
        free(k.s[set]);
        free(k.size[set]);
        free(k.rows[set]);
    }
    calibration_run_close(&k.run);
    backend_close(&k.host);
    return rc;
}

/* Of what has been scaled and clipped; of head and embedding as they stand. */
static struct quantize_args grid_args(const struct quant_spec *s, int64_t rows, int64_t width)
{
    (void)rows;
    return (struct quantize_args){ .source = s->source,
                                   .rule = QUANTIZE_GRID_AWQ,
                                   .bits = s->bits,
                                   .group_size = form_of(s, width).group_size,
                                   .sym = !s->awq.zero_point,
                                   .double_quant = s->double_quant,
                                   .scale_dtype = s->scale_dtype };
}

/* qweight, scales in fp16, qzeros: the GEMM layout's buffers (quantizers.md 3.5, 6.7). */
static double hf_bytes(const struct weight *w)
{
    double n_groups = (double)w->n_groups;

    if (w->scale_form != SCALE_F16)
        return NAN;
    return (double)w->n_out * (double)w->n_in * w->bits / 8 + 2 * n_groups + n_groups * w->bits / 8;
}

const struct quantizer quantizer_awq = {
    .name = "awq",
    .agrees_with = "AutoAWQ 0.2.9 as it searches on a GPU, in fp32",
    .wants_calibration = true,
    .changes_norms = true,
    .allowed = {
        .bits = { 3, 4, 8 },
        .any_group = true,
        .least_group = 32,
        .most_group = 1024,
        .quant_types = { "int" },
        .double_quant = true,
    },
    .run_model = run_model,
    .shape = quant_shape_args,
    .args = grid_args,
    .hf_bytes = hf_bytes,
};
