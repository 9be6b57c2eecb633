/* gptq.c - GPTQ over a model: layer by layer, each on the inputs that the layers before it, packed
 * already, give.  Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: accurate post-training quantization
 * for generative pre-trained transformers" (2022).
 *
 *   true_sequential   {q, k, v}, {o}, {gate, up}, {down}: each set's H after the sets before it
 *                     have been packed
 *   else              all seven from the layer as it was; then the layer once more
 *
 * H is summed by sequence, so that batches leave no trace in its bits.  What the device cannot do
 * of x^T x and the solver, the CPU backend does with what is brought down.  */
#include "backend/quantized.h"
#include "base/clock.h"
#include "quant/calibrate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct set {
    enum layer_step step;
    enum linear_name first, last;
};

static const struct set sets[] = {
    { STEP_QKV, LINEAR_Q, LINEAR_V },
    { STEP_O, LINEAR_O, LINEAR_O },
    { STEP_MLP, LINEAR_GATE, LINEAR_UP },
    { STEP_DOWN, LINEAR_DOWN, LINEAR_DOWN },
};
#define N_SETS (sizeof sets / sizeof *sets)

struct gptq {
    const struct model *base;
    const struct quant_spec *spec;
    struct model *out;
    struct quant_solved *solved;
    struct backend *b, host;
    struct backend *sums, *solves; /* where x^T x is summed, where the solver runs */
    struct calibration_run run;
    struct tensor h;    /* room for the widest input, on `sums` */
    struct tensor rows; /* host: of one sequence, where the device has no gram() */
};

/* ---- H ---- */

struct summing {
    struct gptq *g;
    struct tensor h;
    bool fresh;
};

static int add_rows(void *context, const struct tensor *x, const struct segments *s, struct err *e)
{
    struct summing *sum = context;
    struct gptq *g = sum->g;

    for (int i = 0; i < s->n; i++) {
        struct tensor rows = *x;
        const size_t row_bytes = (size_t)x->n_cols * dtype_bytes(x->dtype);

        rows.data = (char *)x->data + (size_t)s->first_row[i] * row_bytes;
        rows.n_rows = s->first_row[i + 1] - s->first_row[i];
        if (g->sums != g->b) {
            const void *from = rows.data;

            rows.data = g->rows.data;
            if (g->b->ops->download(g->b, rows.data, from, (size_t)rows.n_rows * row_bytes, e) < 0)
                return -1;
        }
        const struct gram_args a = {
            .x = &rows, .h = &sum->h, .n_rows = rows.n_rows, .fresh = sum->fresh
        };
        if (g->sums->ops->gram(g->sums, &a, e) < 0)
            return -1;
        sum->fresh = false;
    }
    return 0;
}

/* ---- one linear ---- */

static bool skipped(const struct gptq *g, int64_t layer, int l)
{
    char module[96];

    config_linear_module(&g->base->config, layer, l, module, sizeof module);
    return quant_skips(g->spec, module);
}

static enum gptq_order order_of(const struct quant_spec *s)
{
    if (s->gptq.desc_act)
        return GPTQ_DESC_ACT;
    return s->gptq.gar && s->group_size > 0 ? GPTQ_GROUP_AWARE : GPTQ_AS_IT_STANDS;
}

static struct gptq_args args_of(const struct quant_spec *s, int64_t n_in)
{
    return (struct gptq_args){
        .source = s->source,
        .bits = s->bits,
        .group_size = s->group_size == -1 ? n_in : s->group_size,
        .sym = s->sym,
        .table = quant_type_table(s->quant_type),
        .order = order_of(s),
        .static_groups = s->gptq.static_groups,
        .damp = s->gptq.damp,
        .damp_step = s->gptq.damp_step,
        .mse = s->gptq.mse,
        .double_quant = s->double_quant,
        .scale_dtype = s->scale_dtype,
    };
}

/* The solver on the host, on what is brought down; the packed weight goes up. */
static int solve_on_host(struct gptq *g, struct gptq_args a, struct weight *out, struct err *e)
{
    const struct tensor *w = a.w, *h = a.h;
    struct tensor host_w = { 0 }, host_h = { 0 };
    struct weight packed = { 0 };
    int rc = -1;

    if (tensor_alloc(&g->host, MEM_SCRATCH, w->dtype, w->n_rows, w->n_cols, &host_w, e) < 0 ||
        g->b->ops->download(g->b, host_w.data, w->data, tensor_bytes(w), e) < 0)
        goto out;
    a.w = &host_w;
    if (g->sums == g->b) {
        if (tensor_alloc(&g->host, MEM_SCRATCH, h->dtype, h->n_rows, h->n_cols, &host_h, e) < 0 ||
            g->b->ops->download(g->b, host_h.data, h->data, tensor_bytes(h), e) < 0)
            goto out;
        a.h = &host_h;
    }
    a.out = &packed;
    if (g->host.ops->gptq_columns(&g->host, &a, e) == 0)
        rc = quant_take_up(g->b, &packed, out, e);
out:
    weight_release(&g->host, &packed);
    tensor_free(&g->host, &host_h);
    tensor_free(&g->host, &host_w);
    return rc;
}

static void note(struct quant_solved *to, const struct gptq_result *r, double seconds)
{
    *to = (struct quant_solved){
        .there = true,
        .loss = r->loss,
        .output_error = r->output_ms > 0.0 ? sqrt(r->output_mse / r->output_ms) : 0.0,
        .damp = r->damp,
        .floor = r->floor,
        .n_raised = r->n_raised,
        .seconds = seconds,
    };
}

static int solve(struct gptq *g, int64_t layer, int l, const struct tensor *h, struct err *e)
{
    const struct weight *plain = &g->base->layers[layer].linear[l];
    struct weight *out = &g->out->layers[layer].linear[l];
    const struct tensor w = { plain->codes, plain->plain_dtype, plain->n_out, plain->n_in,
                              MEM_BASE };
    struct gptq_args a = args_of(g->spec, plain->n_in);
    struct gptq_result result = { 0 };
    char module[96];
    double start = clock_seconds();

    config_linear_module(&g->base->config, layer, l, module, sizeof module);
    a.w = &w;
    a.h = h;
    a.n_rows = g->run.n_tokens;
    a.factor = 2.0 / (double)g->run.n_tokens;
    a.out = out;
    a.result = &result;
    int rc = g->solves == g->b ? g->b->ops->gptq_columns(g->b, &a, e) : solve_on_host(g, a, out, e);
    if (rc < 0)
        return err_in(e, "%s", module);
    note(&g->solved[layer * N_LINEARS + l], &result, clock_seconds() - start);
    return 0;
}

/* ---- layers ---- */

static int solve_set(struct gptq *g, int64_t layer, const struct set *set,
                     const struct weight *linear, struct err *e)
{
    struct summing sum = { .g = g, .h = g->h, .fresh = true };
    bool all_skipped = true;

    for (int l = set->first; l <= (int)set->last; l++)
        all_skipped = all_skipped && skipped(g, layer, l);
    sum.h.n_rows = sum.h.n_cols = linear[set->first].n_in;
    if (calibration_step(&g->run, layer, set->step, linear, all_skipped ? NULL : add_rows, &sum,
                         e) < 0)
        return -1;
    for (int l = set->first; l <= (int)set->last; l++)
        if (!skipped(g, layer, l) && solve(g, layer, l, &sum.h, e) < 0)
            return -1;
    return 0;
}

/* What each linear of a layer is before it is packed. */
static void plain_linears(const struct gptq *g, int64_t layer, struct weight linear[N_LINEARS])
{
    for (int l = 0; l < N_LINEARS; l++)
        linear[l] = skipped(g, layer, l) ? g->out->layers[layer].linear[l]
                                         : g->base->layers[layer].linear[l];
}

static int solve_layer(struct gptq *g, int64_t layer, struct err *e)
{
    struct weight linear[N_LINEARS];
    const struct weight *packed = g->out->layers[layer].linear;

    plain_linears(g, layer, linear);
    for (size_t k = 0; k < N_SETS; k++) {
        if (solve_set(g, layer, &sets[k], linear, e) < 0)
            return -1;
        for (int l = sets[k].first; g->spec->gptq.true_sequential && l <= (int)sets[k].last; l++)
            linear[l] = packed[l];
    }
    /* All at once: the streams inside the layer are those of the plain one. */
    if (!g->spec->gptq.true_sequential &&
        (calibration_step(&g->run, layer, STEP_O, packed, NULL, NULL, e) < 0 ||
         calibration_step(&g->run, layer, STEP_MLP, packed, NULL, NULL, e) < 0))
        return -1;
    return calibration_step(&g->run, layer, STEP_OUT, packed, NULL, NULL, e);
}

static int open_memory(struct gptq *g, struct err *e)
{
    int64_t widest = 0;

    for (int l = 0; l < N_LINEARS; l++) {
        int64_t n_out, n_in;

        config_linear_shape(&g->base->config, l, &n_out, &n_in);
        widest = n_in > widest ? n_in : widest;
    }
    if (calibration_run_open(&g->run, g->out, g->spec->calibration, e) < 0)
        return -1;
    if (tensor_alloc(g->sums, MEM_SCRATCH, DTYPE_F32, widest, widest, &g->h, e) < 0)
        return err_in(e, "the Hessian of %lld inputs", (long long)widest);
    if (g->sums != g->b &&
        tensor_alloc(&g->host, MEM_SCRATCH, g->out->dtype, g->run.longest, widest, &g->rows, e) < 0)
        return -1;
    return 0;
}

static int run_model(const struct model *base, const struct quant_spec *s, struct model *out,
                     struct quant_solved *solved, bool *on_host, struct err *e)
{
    struct gptq g = { .base = base, .spec = s, .out = out, .solved = solved, .b = base->backend };
    int rc = -1;

    if (!s->calibration)
        return err_set(e, ERR_USAGE, "gptq needs calibration text ([calibration] path)");
    if (backend_open(&g.host, "cpu", 0, NULL, e) < 0)
        return -1;
    g.sums = g.b->ops->gram ? g.b : &g.host;
    g.solves = g.b->ops->gptq_columns ? g.b : &g.host;
    *on_host = g.solves != g.b;
    if (open_memory(&g, e) == 0) {
        rc = 0;
        for (int64_t i = 0; rc == 0 && i < base->config.n_layers; i++) {
            rc = quant_layer_begin(s, i, e);
            if (rc == 0)
                rc = solve_layer(&g, i, e);
            if (rc == 0)
                rc = quant_layer_end(s, i, e);
        }
    }
    tensor_free(&g.host, &g.rows);
    tensor_free(g.sums, &g.h);
    calibration_run_close(&g.run);
    backend_close(&g.host);
    return rc;
}

/* Head and embedding: the grid without feedback. */
static struct quantize_args grid_args(const struct quant_spec *s, int64_t n_out, int64_t n_in)
{
    const struct gptq_args a = args_of(s, n_in);

    (void)n_out;
    return (struct quantize_args){
        .source = s->source,
        .rule = a.table == TABLE_NONE ? QUANTIZE_GRID_GPTQ : QUANTIZE_TABLE,
        .bits = a.bits,
        .group_size = a.group_size,
        .sym = a.sym,
        .double_quant = a.double_quant,
        .scale_dtype = a.scale_dtype,
        .table = a.table,
    };
}

static int shape(const struct quant_spec *s, int64_t n_out, int64_t n_in, struct weight *out,
                 struct err *e)
{
    static int32_t some_order; /* stands for the order's memory, which is counted */

    if (quant_spec_check(s, n_in, e) < 0)
        return -1;
    const struct gptq_args a = args_of(s, n_in);
    const struct quantize_args form = grid_args(s, n_out, n_in);
    quantized_shape(&form, n_out, n_in, out);
    if (a.order == GPTQ_DESC_ACT && !a.static_groups && a.group_size < n_in)
        out->g_idx = &some_order;
    return 0;
}

/* qweight, scales in fp16, qzeros, g_idx: the checkpoint's buffers. */
static double hf_bytes(const struct weight *w)
{
    bool has_form = w->form == WEIGHT_AFFINE && w->scale_form == SCALE_F16;
    double n_groups = (double)w->n_groups, zeros = n_groups * w->bits / 8;

    if (!has_form)
        return NAN;
    return (double)w->n_out * (double)w->n_in * w->bits / 8 + 2 * n_groups + zeros +
           4 * (double)w->n_in;
}

const struct quantizer quantizer_gptq = {
    .name = "gptq",
    .agrees_with = "the GPTQ paper's solver; orders, groups and damping as AutoGPTQ and GPTQModel "
                   "have them",
    .wants_calibration = true,
    .allowed = {
        .bits = { 2, 3, 4, 8 },
        .any_group = true,
        .least_group = 16,
        .most_group = 1024,
        .quant_types = { "int", "nf3", "nf4", "fp4" },
        .double_quant = true,
    },
    .run_model = run_model,
    .shape = shape,
    .args = grid_args,
    .hf_bytes = hf_bytes,
};
