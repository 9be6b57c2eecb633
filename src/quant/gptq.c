/* gptq.c - GPTQ over a model: layer by layer, each on the inputs that the layers before it, packed
 * already, give.  Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: accurate post-training quantization
 * for generative pre-trained transformers" (2022).
 *
 *   true_sequential   {q, k, v}, {o}, {gate, up}, {down}: each set's H after the sets before it
 *                     have been packed
 *   else              all seven from the layer as it was; then the layer once more
 *
 * H is summed by sequence, so that batches leave no trace in its bits, then by share, and the sums
 * of shares are added in pairs, those of pairs in pairs, ...: a member of a group has whole
 * branches of that tree, gives one matrix to the others, and all solve the same.  For eight shares
 * on one device that takes three matrices more than one sum would, for as long as H is summed, and
 * seven additions.  What the device cannot do of x^T x and the solver, the CPU backend does with
 * what is brought down.  */
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

#define N_ROOMS 4                  /* for sums on the way through a tree of CALIBRATION_SHARES */
#define PIECE   (INT64_C(1) << 21) /* elements of H that members bring together at once */

struct gptq {
    const struct model *base;
    const struct quant_spec *spec;
    struct model *out;
    struct quant_solved *solved;
    struct backend *b, host;
    struct backend *sums, *solves; /* where x^T x is summed, where the solver runs */
    struct calibration_run run;
    struct tensor h;      /* room for the widest input, on `sums` */
    struct tensor pieces; /* of all members, where they share the sequences */
    struct tensor rows;   /* host: of one sequence, where the device has no gram() */
};

/* ---- H ---- */

struct summing {
    struct gptq *g;
    int64_t layer;
    enum layer_step step;
    const struct weight *linear;
    struct tensor room[N_ROOMS]; /* the first is H in the end; the others are there when needed */
    const struct tensor *h;      /* of the share that runs */
    bool fresh;
};

static int add_rows(void *context, const struct tensor *x, const struct segments *s, struct err *e)
{
    struct summing *sum = context;
    struct gptq *g = sum->g;

    for (int i = 0; i < s->n; i++) {
        struct tensor rows = *x, h = *sum->h;
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
            .x = &rows, .h = &h, .n_rows = rows.n_rows, .fresh = sum->fresh
        };
        if (g->sums->ops->gram(g->sums, &a, e) < 0)
            return -1;
        sum->fresh = false;
    }
    return 0;
}

static int add(struct backend *b, struct tensor *to, const struct tensor *other, struct err *e)
{
    return b->ops->add(b, &(struct add_args){ .x = to, .y = other, .n_rows = to->n_rows }, e);
}

static int sum_share(struct summing *s, int share, int at, struct err *e)
{
    const struct tensor *first = &s->room[0];

    if (!s->room[at].data && tensor_alloc(s->g->sums, MEM_SCRATCH, DTYPE_F32, first->n_rows,
                                          first->n_cols, &s->room[at], e) < 0)
        return err_in(e, "the Hessian of %lld inputs, in shares", (long long)first->n_cols);
    s->h = &s->room[at];
    s->fresh = true;
    return calibration_share(&s->g->run, share, s->layer, s->step, s->linear, add_rows, s, e);
}

/* The sum of n shares from `first` on, into a room; of no sequences it is nothing. */
static int sum_shares(struct summing *s, int first, int n, int at, struct err *e)
{
    const struct calibration_run *run = &s->g->run;

    if (n == 1)
        return sum_share(s, first, at, e);
    const bool left = calibration_some(run, first, n / 2);
    const bool right = calibration_some(run, first + n / 2, n / 2);
    if ((left && sum_shares(s, first, n / 2, at, e) < 0) ||
        (right && sum_shares(s, first + n / 2, n / 2, at + left, e) < 0))
        return -1;
    return left && right ? add(s->g->sums, &s->room[at], &s->room[at + 1], e) : 0;
}

/* The same of what n members have summed, from the first-th on: into its place, or where the
 * others begin. */
static int sum_members(struct summing *s, struct tensor *of, int first, int n, struct err *e)
{
    const struct calibration_run *run = &s->g->run;
    const int each = run->n_shares, half = n / 2, next = first + half;

    if (n == 1)
        return 0;
    if (sum_members(s, of, first, half, e) < 0 || sum_members(s, of, next, half, e) < 0)
        return -1;
    if (!calibration_some(run, next * each, half * each))
        return 0;
    if (calibration_some(run, first * each, half * each))
        return add(s->g->b, &of[first], &of[next], e);
    of[first] = of[next];
    return 0;
}

/* n elements of H from `at` on: to all, and back as the sum.  Where H is on the host, by way of one
 * more place. */
static int bring_together(struct summing *s, int64_t at, int64_t n, struct err *e)
{
    struct gptq *g = s->g;
    struct backend *b = g->b;
    const int n_members = g->run.n_sharing;
    const size_t n_bytes = (size_t)n * sizeof(float);
    float *h = (float *)s->room[0].data + at, *pieces = g->pieces.data;
    struct tensor part = { h, DTYPE_F32, 1, n, MEM_SCRATCH }, all = part, of[CALIBRATION_SHARES];
    const struct collect_args collect = { .part = &part, .out = &all, .n_rows = 1 };

    all.data = pieces;
    all.n_cols = n_members * n;
    for (int i = 0; i < n_members; i++) {
        of[i] = part;
        of[i].data = pieces + i * n;
    }
    if (g->sums != b) {
        part.data = pieces + n_members * g->pieces.n_cols;
        if (b->ops->upload(b, part.data, h, n_bytes, e) < 0)
            return -1;
    }
    if (b->ops->group->collect(b, &collect, e) < 0 || sum_members(s, of, 0, n_members, e) < 0)
        return -1;
    return g->sums == b ? b->ops->copy(b, h, of[0].data, n_bytes, e)
                        : b->ops->download(b, h, of[0].data, n_bytes, e);
}

/* H of the inputs of a step, into the first room. */
static int sum_up(struct summing *s, struct err *e)
{
    struct calibration_run *run = &s->g->run;
    const int64_t n_all = s->room[0].n_rows * s->room[0].n_cols, piece = s->g->pieces.n_cols;
    int rc = sum_shares(s, run->first_share, run->n_shares, 0, e);

    if (rc == 0)
        rc = calibration_wait(run, s->layer, e);
    for (int i = 1; i < N_ROOMS; i++)
        tensor_free(s->g->sums, &s->room[i]);
    for (int64_t at = 0; rc == 0 && run->n_sharing > 1 && at < n_all; at += piece)
        rc = bring_together(s, at, n_all - at < piece ? n_all - at : piece, e);
    return rc;
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
    struct summing sum = {
        .g = g, .layer = layer, .step = set->step, .linear = linear, .room = { g->h }
    };
    bool all_skipped = true;

    for (int l = set->first; l <= (int)set->last; l++)
        all_skipped = all_skipped && skipped(g, layer, l);
    if (all_skipped)
        return calibration_step(&g->run, layer, set->step, linear, NULL, NULL, e);
    sum.room[0].n_rows = sum.room[0].n_cols = linear[set->first].n_in;
    if (sum_up(&sum, e) < 0)
        return -1;
    for (int l = set->first; l <= (int)set->last; l++)
        if (!skipped(g, layer, l) && solve(g, layer, l, &sum.room[0], e) < 0)
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
    if (calibration_run_open(&g->run, g->out, g->spec->calibration, false, e) < 0)
        return -1;
    if (tensor_alloc(g->sums, MEM_SCRATCH, DTYPE_F32, widest, widest, &g->h, e) < 0)
        return err_in(e, "the Hessian of %lld inputs", (long long)widest);
    const int64_t n_pieces = g->run.n_sharing + (g->sums != g->b);
    const int64_t piece = widest * widest < PIECE ? widest * widest : PIECE;
    if (g->run.n_sharing > 1 &&
        tensor_alloc(g->b, MEM_SCRATCH, DTYPE_F32, n_pieces, piece, &g->pieces, e) < 0)
        return err_in(e, "the Hessian of %lld inputs, of a group", (long long)widest);
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
    tensor_free(g.b, &g.pieces);
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
        .quant_types = { "int", "nf2", "nf3", "nf4", "fp4" },
        .double_quant = true,
    },
    .run_model = run_model,
    .shape = shape,
    .args = grid_args,
    .hf_bytes = hf_bytes,
};
