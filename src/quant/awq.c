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
 * those of the unquantized model.  A set with a skipped linear, or fed by one, is not scaled.
 *
 * Weights and activations stay on the device; a vector of scales goes up for each ratio, the
 * errors of the tokens come down.
 *
 * What is summed over tokens is summed by share (calibrate.h), then over the shares in order.  In a
 * group each member runs its own shares; of the others it is told the sums and the rows that are
 * kept, so all choose the same scales and ranges, and pack the same. */
#include "backend/quantized.h"
#include "base/clock.h"
#include "base/memory.h"
#include "quant/awq_search.h"
#include "quant/awq_see.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SIZE_RUN 64 /* rows of a weight whose sizes are summed together */

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
#define N_SETS   4
#define SET_DOWN 3

/* What a layer's search knows of a set. */
struct found {
    struct awq_seen seen; /* of the inputs */
    struct tensor s;      /* device, F32 [1, inputs] */
    bool scaled;
    double ratio, loss[AWQ_RATIOS];
};

struct awq {
    const struct model *base;
    const struct quant_spec *spec;
    struct model *out;
    struct quant_solved *solved;
    struct backend *b;
    struct calibration_run run;
    struct awq_eye eye;
    struct weight plain[N_LINEARS]; /* the layer's, as the unquantized model has them */
    struct tensor w[N_LINEARS];     /* F32: the same in the source dtype; later scaled, clipped */
    struct tensor tried[N_LINEARS]; /* rounded with scales, model dtype; made when needed */
    bool skipped[N_LINEARS];
    struct found found[N_SETS];
    struct tensor want;   /* [n_own, D]: what the plain module gives */
    struct tensor inner;  /* [n_own, F]: inputs of down, where that is scaled; else no data */
    struct tensor y;      /* [max_rows, D] */
    struct tensor errors; /* F64 [1, ..]: by row */
    struct tensor stored, values, was; /* one linear: 16 bit, F32, F32 */
};

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

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

/* A matrix of this shape in the memory of a larger one. */
static struct tensor shaped(const struct tensor *room, int64_t n_rows, int64_t n_cols)
{
    struct tensor out = *room;

    out.n_rows = n_rows;
    out.n_cols = n_cols;
    return out;
}

static int copy(struct awq *k, const struct tensor *from, struct tensor to, struct err *e)
{
    return k->b->ops->convert(k->b, &(struct convert_args){ .x = from, .out = &to }, e);
}

/* The sum of n numbers, in order: batches leave no trace. */
static double sum_of(const double *numbers, int64_t n)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += numbers[i];
    return sum;
}

/* The first n numbers of k->errors; free *numbers. */
static int bring_errors(struct awq *k, int64_t n, double **numbers, struct err *e)
{
    *numbers = mem_array((size_t)n + 1, sizeof **numbers);
    return k->b->ops->download(k->b, *numbers, k->errors.data, (size_t)n * sizeof **numbers, e);
}

/* Of all tokens, by share. */
static int sum_losses(struct awq *k, double *sum, struct err *e)
{
    struct calibration_run *run = &k->run;
    double of[CALIBRATION_SHARES] = { 0 }, *errors;
    int rc = bring_errors(k, run->n_own, &errors, e);

    for (int i = run->first_share; i < run->first_share + run->n_shares; i++) {
        const int64_t at = calibration_token(run, i);

        of[i] = sum_of(errors + at - run->first_token, calibration_token(run, i + 1) - at);
    }
    free(errors);
    return rc < 0 ? -1 : calibration_add_up(run, of, sum, e);
}

/* ---- the loss of changed weights ---- */

struct losing {
    struct awq *k;
    int64_t at;
    bool first; /* what is given is what is wanted */
};

static int lose_rows(struct losing *l, const struct tensor *y, int64_t n_rows, struct err *e)
{
    struct awq *k = l->k;
    const struct tensor rows = rows_from(y, 0, n_rows), want = rows_from(&k->want, l->at, n_rows);
    const struct awq_errors_args a = {
        .x = &want, .y = &rows, .n_rows = n_rows, .sums = (double *)k->errors.data + l->at
    };

    l->at += n_rows;
    return l->first ? copy(k, &rows, want, e) : k->b->ops->awq->errors(k->b, &a, e);
}

static int lose(void *context, const struct tensor *y, const struct segments *s, struct err *e)
{
    return lose_rows(context, y, s->first_row[s->n], e);
}

/* What feeds down is the same for all of its scales, so it is kept. */
static int lose_down(struct losing *l, int64_t layer, const struct weight *w, struct err *e)
{
    struct awq *k = l->k;
    const struct tensor *bias = &k->out->layers[layer].bias[LINEAR_DOWN];

    for (int64_t at = 0; at < k->run.n_own; at += k->run.max_rows) {
        const int64_t rest = k->run.n_own - at;
        const int64_t n = rest < k->run.max_rows ? rest : k->run.max_rows;
        const struct tensor x = rows_from(&k->inner, at, n);
        const struct linear_args a = { .x = &x,
                                       .w = w,
                                       .bias = bias->data ? bias : NULL,
                                       .y = &k->y,
                                       .n_rows = n,
                                       .compute = k->out->dtype,
                                       .phase = PHASE_PROMPT };

        if (k->b->ops->linear(k->b, &a, e) < 0 || lose_rows(l, &k->y, n, e) < 0)
            return -1;
    }
    return 0;
}

static int lose_set(struct losing *l, int64_t layer, int set, const struct weight *linear,
                    struct err *e)
{
    l->at = 0;
    return set == SET_DOWN
               ? lose_down(l, layer, &linear[LINEAR_DOWN], e)
               : calibration_step(&l->k->run, layer, sets[set].output, linear, lose, l, e);
}

/* The set's linears rounded with the scales of found[set].s, as plain weights in `changed`. */
static int round_set(struct awq *k, int set, struct weight changed[N_LINEARS], struct err *e)
{
    for (int l = sets[set].first; l <= (int)sets[set].last; l++) {
        const struct awq_round_args a = { .w = &k->w[l],
                                          .s = k->found[set].s.data,
                                          .form = form_of(k->spec, n_in(k, l)),
                                          .out = &k->tried[l] };

        if (!k->tried[l].data && tensor_alloc(k->b, MEM_SCRATCH, k->out->dtype, n_out(k, l),
                                              n_in(k, l), &k->tried[l], e) < 0)
            return -1;
        if (k->b->ops->awq->round(k->b, &a, e) < 0)
            return -1;
        changed[l] = weight_of_tensor(&k->tried[l]);
    }
    return 0;
}

static int put_scales(struct awq *k, int set, const float *s, struct err *e)
{
    const struct tensor *to = &k->found[set].s;

    return k->b->ops->upload(k->b, to->data, s, tensor_bytes(to), e);
}

static int search_ratios(struct awq *k, int64_t layer, int set, const float *x_mean,
                         const float *w_mean, float *s, float *best, struct err *e)
{
    struct found *f = &k->found[set];
    struct losing l = { .k = k, .first = true };
    struct weight changed[N_LINEARS];
    const int64_t width = f->s.n_cols;
    double least = INFINITY, sum;

    memcpy(changed, k->plain, sizeof changed);
    if (lose_set(&l, layer, set, k->plain, e) < 0)
        return -1;
    l.first = false;
    for (int i = 0; i < AWQ_RATIOS; i++) {
        awq_scales(x_mean, w_mean, i / (double)AWQ_RATIOS, width, s);
        if (put_scales(k, set, s, e) < 0 || round_set(k, set, changed, e) < 0 ||
            lose_set(&l, layer, set, changed, e) < 0 || sum_losses(k, &sum, e) < 0)
            return -1;
        f->loss[i] = sum / ((double)k->run.n_tokens * (double)k->want.n_cols);
        if (sum < least) {
            least = sum;
            f->ratio = i / (double)AWQ_RATIOS;
            memcpy(best, s, (size_t)width * sizeof *s);
        }
    }
    if (!isfinite(least))
        return err_set(e, ERR_INPUT, "no ratio gives a finite error");
    return put_scales(k, set, best, e);
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

/* Over the rows of all linears of a set; summed where `errors` are, which have room for any width.
 */
static int weight_means(struct awq *k, int set, float *mean, struct err *e)
{
    const int64_t width = n_in(k, sets[set].first);
    double *sums = mem_array((size_t)width, sizeof *sums);
    int64_t n_all = 0;
    int rc = k->b->ops->upload(k->b, k->errors.data, sums, (size_t)width * sizeof *sums, e);

    for (int l = sets[set].first; l <= (int)sets[set].last && rc == 0; l++) {
        const int n_runs = (int)((n_out(k, l) + SIZE_RUN - 1) / SIZE_RUN);
        int32_t *first = mem_array((size_t)n_runs + 1, sizeof *first);

        for (int i = 0; i <= n_runs; i++)
            first[i] = (int32_t)(i < n_runs ? i * SIZE_RUN : n_out(k, l));
        const struct awq_sizes_args a = { .x = &k->w[l],
                                          .segments = { n_runs, first },
                                          .group_size = form_of(k->spec, width).group_size,
                                          .sums = k->errors.data };
        rc = k->b->ops->awq->sizes(k->b, &a, e);
        n_all += n_out(k, l);
        free(first);
    }
    if (rc == 0)
        rc = k->b->ops->download(k->b, sums, k->errors.data, (size_t)width * sizeof *sums, e);
    for (int64_t i = 0; i < width; i++)
        mean[i] = (float)(sums[i] / (double)n_all);
    free(sums);
    return rc;
}

/* Fills found[set]. */
static int search_set(struct awq *k, int64_t layer, int set, struct err *e)
{
    const int64_t width = n_in(k, sets[set].first);
    float *x_mean = mem_array((size_t)width, sizeof *x_mean);
    float *w_mean = mem_array((size_t)width, sizeof *w_mean);
    float *s = mem_array((size_t)width, sizeof *s), *best = mem_array((size_t)width, sizeof *best);
    int rc = weight_means(k, set, w_mean, e);

    for (int64_t i = 0; i < width; i++)
        x_mean[i] = (float)(k->found[set].seen.size[i] / (double)k->run.n_tokens);
    dtype_round(k->out->dtype, x_mean, width);
    if (rc == 0)
        rc = search_ratios(k, layer, set, x_mean, k->spec->awq.duo_scaling ? w_mean : NULL, s, best,
                           e);
    k->found[set].scaled = rc == 0;
    free(best);
    free(s);
    free(w_mean);
    free(x_mean);
    return rc;
}

/* ---- folding ---- */

static int scale(struct awq *k, struct tensor *w, int set, bool by_row, bool divides, struct err *e)
{
    const struct awq_scale_args a = {
        .w = w, .by = k->found[set].s.data, .by_row = by_row, .divides = divides
    };

    return k->b->ops->awq->scale(k->b, &a, e);
}

static int fold(struct awq *k, int64_t layer, int set, struct err *e)
{
    struct layer *to = &k->out->layers[layer];
    int feeder = sets[set].feeder;

    for (int l = sets[set].first; l <= (int)sets[set].last; l++)
        if (scale(k, &k->w[l], set, false, false, e) < 0)
            return -1;
    if (feeder < 0)
        return scale(k, set == 0 ? &to->input_norm : &to->post_norm, set, false, true, e);
    if (scale(k, &k->w[feeder], set, true, true, e) < 0)
        return -1;
    return to->bias[feeder].data ? scale(k, &to->bias[feeder], set, false, true, e) : 0;
}

static int set_of(int l)
{
    for (int i = 0; i < N_SETS; i++)
        if (l >= (int)sets[i].first && l <= (int)sets[i].last)
            return i;
    return 0;
}

/* `values` and `was` are free for the rows and the ranges. */
static int clip(struct awq *k, int l, struct err *e)
{
    const int set = set_of(l);
    const struct found *f = &k->found[set];
    const int64_t n_rows = k->eye.n_kept;
    struct tensor x = shaped(&k->values, n_rows, n_in(k, l));
    const struct tensor rows = rows_from(&f->seen.rows, 0, n_rows);
    const struct awq_clip_args a = { .w = &k->w[l],
                                     .x = &x,
                                     .n_rows = n_rows,
                                     .form = form_of(k->spec, n_in(k, l)),
                                     .largest = k->was.data };

    if (copy(k, &rows, x, e) < 0 || (f->scaled && scale(k, &x, set, false, true, e) < 0))
        return -1;
    return k->b->ops->awq->clip(k->b, &a, e);
}

/* A plain weight of the base in fp32, by way of the source dtype. */
static int widen(struct awq *k, const struct weight *from, struct tensor to, struct err *e)
{
    const struct tensor plain = { from->codes, from->plain_dtype, from->n_out, from->n_in,
                                  MEM_BASE };
    struct tensor stored = shaped(&k->stored, from->n_out, from->n_in);

    if (!dtype_is_16bit(k->spec->source) || k->spec->source == from->plain_dtype)
        return copy(k, &plain, to, e);
    stored.dtype = k->spec->source;
    return copy(k, &plain, stored, e) < 0 ? -1 : copy(k, &stored, to, e);
}

/* Sums of (x - y)^2, y NULL: of x^2. */
static int sum_squares(struct awq *k, const struct tensor *x, const struct tensor *y, double *sum,
                       struct err *e)
{
    const struct awq_errors_args a = {
        .x = x, .y = y, .n_rows = x->n_rows, .sums = k->errors.data
    };

    double *errors;

    if (k->b->ops->awq->errors(k->b, &a, e) < 0)
        return -1;
    int rc = bring_errors(k, x->n_rows, &errors, e);
    *sum = sum_of(errors, x->n_rows);
    free(errors);
    return rc;
}

/* W' with the scales taken out again, against W. */
static int measure(struct awq *k, int64_t layer, int l, double sums[2], struct err *e)
{
    const int set = set_of(l), fed = l == LINEAR_V ? 1 : l == LINEAR_UP ? SET_DOWN : -1;
    struct tensor values = shaped(&k->values, n_out(k, l), n_in(k, l));
    struct tensor was = shaped(&k->was, n_out(k, l), n_in(k, l));
    const struct dequantize_args a = { &k->out->layers[layer].linear[l], &values };

    if (k->b->ops->dequantize(k->b, &a, e) < 0 ||
        (k->found[set].scaled && scale(k, &values, set, false, true, e) < 0) ||
        (fed >= 0 && k->found[fed].scaled && scale(k, &values, fed, true, false, e) < 0) ||
        widen(k, &k->plain[l], was, e) < 0 || sum_squares(k, &values, &was, &sums[0], e) < 0)
        return -1;
    return sum_squares(k, &was, NULL, &sums[1], e);
}

static int pack(struct awq *k, int64_t layer, int l, struct err *e)
{
    const struct quant_spec *s = k->spec;
    const struct found *f = &k->found[set_of(l)];
    struct quant_solved *solved = &k->solved[layer * N_LINEARS + l];
    const struct quantize_args a = { .source = DTYPE_F32,
                                     .rule = QUANTIZE_GRID_AWQ,
                                     .bits = s->bits,
                                     .group_size = form_of(s, n_in(k, l)).group_size,
                                     .sym = !s->awq.zero_point,
                                     .double_quant = s->double_quant,
                                     .scale_dtype = s->scale_dtype,
                                     .w = &k->w[l],
                                     .out = &k->out->layers[layer].linear[l] };

    if (quant_quantize(k->b, &a, e) < 0 || k->b->ops->sync(k->b, e) < 0 ||
        measure(k, layer, l, solved->sums, e) < 0)
        return -1;
    solved->measured = true;
    solved->ratio = f->scaled ? f->ratio : NAN;
    if (f->scaled)
        memcpy(solved->ratio_loss, f->loss, sizeof solved->ratio_loss);
    return 0;
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
        if (widen(k, from, k->w[l], e) < 0)
            return -1;
    }
    for (int set = 0; set < N_SETS; set++)
        k->found[set].scaled = false;
    if (!scalable(k, SET_DOWN) || k->inner.data)
        return 0;
    return tensor_alloc(k->b, MEM_SCRATCH, k->out->dtype, larger(k->run.n_own, 1),
                        n_in(k, LINEAR_DOWN), &k->inner, e);
}

/* Of the inputs of down all are kept, where it is scaled. */
static int see_set(struct awq *k, int64_t layer, int set, struct err *e)
{
    const struct tensor every = set == SET_DOWN ? k->inner : (struct tensor){ 0 };

    return awq_see(&k->eye, layer, sets[set].input, k->plain, &k->found[set].seen, &every, e);
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
        if (k->found[set].scaled && fold(k, layer, set, e) < 0)
            return -1;
    for (int l = 0; l < N_LINEARS; l++) {
        config_linear_module(&k->base->config, layer, l, module, sizeof module);
        if (k->skipped[l])
            continue;
        if ((k->spec->awq.clip && l != LINEAR_Q && l != LINEAR_K && clip(k, l, e) < 0) ||
            pack(k, layer, l, e) < 0)
            return err_in(e, "%s", module);
    }
    return 0;
}

/* Everything that one layer after another uses. */
static int make_room(struct awq *k, struct err *e)
{
    const struct config *c = &k->base->config;
    const int64_t n_own = larger(k->run.n_own, 1);
    int64_t most = 0, most_rows = n_own, rows, width;

    if (awq_eye_open(&k->eye, &k->run, e) < 0)
        return -1;
    k->eye.room = &k->values;
    const int64_t least_rows = larger(k->eye.n_kept, awq_eye_room(&k->eye));
    for (int l = 0; l < N_LINEARS; l++) {
        config_linear_shape(c, l, &rows, &width);
        most = larger(most, larger(rows, least_rows) * width);
        most_rows = larger(most_rows, rows);
        if (tensor_alloc(k->b, MEM_SCRATCH, DTYPE_F32, rows, width, &k->w[l], e) < 0)
            return -1;
    }
    for (int set = 0; set < N_SETS; set++) {
        struct found *f = &k->found[set];

        config_linear_shape(c, sets[set].first, &rows, &width);
        if (awq_seen_alloc(&k->eye, width, &f->seen, e) < 0 ||
            tensor_alloc(k->b, MEM_SCRATCH, DTYPE_F32, 1, width, &f->s, e) < 0)
            return -1;
    }
    if (tensor_alloc(k->b, MEM_SCRATCH, k->out->dtype, n_own, c->hidden_size, &k->want, e) < 0 ||
        tensor_alloc(k->b, MEM_SCRATCH, k->out->dtype, k->run.max_rows, c->hidden_size, &k->y, e) <
            0 ||
        tensor_alloc(k->b, MEM_SCRATCH, DTYPE_F64, 1, most_rows, &k->errors, e) < 0 ||
        tensor_alloc(k->b, MEM_SCRATCH, DTYPE_F16, 1, most, &k->stored, e) < 0 ||
        tensor_alloc(k->b, MEM_SCRATCH, DTYPE_F32, 1, most, &k->values, e) < 0 ||
        tensor_alloc(k->b, MEM_SCRATCH, DTYPE_F32, 1, most, &k->was, e) < 0)
        return -1;
    return 0;
}

static void release(struct awq *k)
{
    struct tensor *const all[] = { &k->want,   &k->inner,  &k->y,  &k->errors,
                                   &k->stored, &k->values, &k->was };

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        tensor_free(k->b, all[i]);
    for (int l = 0; l < N_LINEARS; l++) {
        tensor_free(k->b, &k->w[l]);
        tensor_free(k->b, &k->tried[l]);
    }
    for (int set = 0; set < N_SETS; set++) {
        awq_seen_release(&k->eye, &k->found[set].seen);
        tensor_free(k->b, &k->found[set].s);
    }
    awq_eye_close(&k->eye);
}

static int run_model(const struct model *base, const struct quant_spec *s, struct model *out,
                     struct quant_solved *solved, bool *on_host, struct err *e)
{
    struct awq k = { .base = base, .spec = s, .out = out, .solved = solved, .b = base->backend };
    int rc = -1;

    (void)on_host;
    if (!s->calibration)
        return err_set(e, ERR_USAGE, "awq needs calibration text ([calibration] path)");
    if (!k.b->ops->awq)
        return err_set(e, ERR_USAGE, "the %s backend has none of AWQ's searches", k.b->ops->name);
    if (calibration_run_open(&k.run, out, s->calibration, true, e) == 0) {
        rc = make_room(&k, e);
        for (int64_t i = 0; rc == 0 && i < base->config.n_layers; i++) {
            rc = quant_layer_begin(s, i, e);
            if (rc == 0)
                rc = quantize_layer(&k, i, e);
            if (rc == 0)
                rc = quant_layer_end(s, i, e);
        }
    }
    if (rc < 0) {
        struct err ignored = ERR_INIT;

        k.b->ops->sync(k.b, &ignored); /* what is under way writes to what is released */
        err_in(e, "awq");
    }
    release(&k);
    calibration_run_close(&k.run);
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

/* qweight, scales in fp16, qzeros: the GEMM layout's buffers. */
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
