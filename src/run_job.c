/* run_job.c - see run_job.h. */
#include "run_job.h"

#include "base/clock.h"
#include "base/log.h"
#include "bench/bench.h"
#include "eval/task.h"
#include "calibration.h"
#include "fault.h"
#include "model/checkpoint.h"
#include "sched/node.h"
#include "setup.h"
#include "sweep/preset.h"
#include "share.h"
#include "turn.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define MIB 1048576.0
/* For the benchmarks of ranks that share a device; then it is measured beside the others. */
#define TURN_WAIT_S 300.0

struct runner {
    struct engine_site site;
    struct setup setup;
    struct backend backend;
    struct model base;
    struct tokenizer *tokenizer;
    struct profile profile;
    struct device_facts facts;
    enum dtype source;
    struct split split;   /* of a job, among the ranks that share it */
    uint64_t id, *joined; /* of this engine; [split.n] of those of the group it is in, or NULL */
    int batch_size;
    bool shuffle;
    double idle_watt;          /* of the device; NaN: not measured yet */
    char shared_by[32];        /* what brought the weights from another device; empty: the file */
    double opened_s, set_up_s; /* what opening the device took, and setting up in all */
    struct turn turn;          /* on its device, with other ranks */
    double idle_since_s;       /* the last record was handed over then; 0: none was */
};

struct runner *runner_new(void)
{
    struct runner *r = mem_alloc(sizeof *r);

    r->turn = (struct turn)TURN_INIT;
    return r;
}

static void leave_group(struct runner *r)
{
    backend_leave(&r->backend);
    free(r->joined);
    r->joined = NULL;
}

static void runner_clear(struct runner *r)
{
    leave_group(r);
    model_release(&r->base);
    tokenizer_close(r->tokenizer);
    backend_close(&r->backend);
    setup_release(&r->setup);
    turn_close(&r->turn);
    *r = (struct runner){ .idle_watt = NAN, .turn = TURN_INIT };
}

void runner_close(void *runner)
{
    runner_clear(runner);
    free(runner);
}

/* ---- setting up: once per engine ---- */

/* Loads the weights from the file or, where ranks share a node, from the rank that reads it. */
static int load(struct runner *r, const struct engine_site *site, const char *folder,
                bool share_gpu, struct err *e)
{
    struct sharing sharing = SHARING_INIT;
    struct load_way way = { .split = r->split, .fill = sharing_fill, .context = &sharing };
    struct load_facts facts;
    struct bytes threads = BYTES_INIT;
    int64_t n_bytes;
    const char *sha256, *stamp;
    int rc = -1;

    if (js_int_or(r->setup.settings, "least_job_bytes", 0, &way.least_job_bytes, e) < 0 ||
        js_int_or(r->setup.settings, "base_bytes", 0, &n_bytes, e) < 0 ||
        js_want_text(r->setup.settings, "model_sha256", &sha256, e) < 0 ||
        js_want_text(r->setup.settings, "model_stamp", &stamp, e) < 0 ||
        sharing_begin(&sharing, site, &r->backend, r->split.n > 1 ? 0 : n_bytes, share_gpu, e) <
            0 ||
        tokenizer_open(&r->tokenizer, folder, e) < 0 ||
        weights_load_by(&r->backend, folder, &way, &r->base, &facts, e) < 0 ||
        checkpoint_check(folder, stamp, sha256, e) < 0)
        goto out;
    bytes_add(&threads, "", 0);
    if (r->facts.n_threads)
        bytes_printf(&threads, " (%d threads)", r->facts.n_threads);
    log_info("%s: %.2f GB loaded in %.2f s on %s%s", folder, (double)facts.n_bytes * 1e-9,
             facts.read_s, r->facts.name, threads.data);
    bytes_release(&threads);
    if (sharing.arrived)
        memcpy(r->shared_by, sharing.version, sizeof r->shared_by);
    rc = 0;
out:
    sharing_end(&sharing);
    return rc;
}

/* To the cores beside its GPU, and one line of what this rank works with. */
static void take_place(const struct runner *r, const struct engine_site *site)
{
    char bus[NODE_TEXT_MAX] = "", beside[NODE_TEXT_MAX], cores[NODE_TEXT_MAX], host[64] = "";
    bool found = node_beside("", r->facts.id, bus, beside), bound = found && node_bind(beside);

    gethostname(host, sizeof host - 1);
    node_describe(cores);
    log_info("bound: %s, local rank %d of %d: %s%s%s%s%s, cores %s%s", host, site->local_rank,
             site->local_size, r->facts.name, *r->facts.id ? " " : "", r->facts.id,
             found ? " at " : "", found ? bus : "", cores, bound ? ", beside it" : "");
}

int runner_setup(void *runner, const struct engine_site *site, const void *setup, size_t n_bytes,
                 struct err *e)
{
    struct runner *r = runner;
    const char *folder, *backend, *source;
    char why[256] = "";
    int64_t batch_size, n_parts;
    bool share_gpu;

    runner_clear(r);
    r->site = *site;
    if (setup_open(&r->setup, setup, n_bytes, e) < 0)
        return -1;
    const struct js *s = r->setup.settings;
    if (js_want_text(s, "folder", &folder, e) < 0 || js_want_text(s, "backend", &backend, e) < 0 ||
        js_want_text(s, "model.source_dtype", &source, e) < 0 ||
        js_int_or(s, "run.batch_size", 0, &batch_size, e) < 0 ||
        js_int_or(s, "model.tensor_parallel", 1, &n_parts, e) < 0 ||
        js_bool_or(s, "shuffle", false, &r->shuffle, e) < 0 ||
        js_bool_or(s, "share_gpu", false, &share_gpu, e) < 0 ||
        profile_from_js(js_get(s, "profile"), &r->profile, e) < 0)
        return err_in(e, "the setup");
    r->batch_size = (int)batch_size;
    if (n_parts > 1)
        r->split = (struct split){ site->local_rank % (int)n_parts, (int)n_parts };
    if (getrandom(&r->id, sizeof r->id, 0) != sizeof r->id)
        return err_set(e, ERR_IO, "getrandom failed");
    r->source = source_of_name(source);
    const double start = clock_seconds();
    int device = site->local_rank % backend_n_devices(backend);
    if (backend_open(&r->backend, backend, device, why, e) < 0)
        return -1;
    r->opened_s = clock_seconds() - start;
    if (r->backend.ops->facts(&r->backend, &r->facts, e) < 0)
        return -1;
    fault_in_setup(site->local_rank);
    take_place(r, site);
    /* Ranks that share a job on the host's own device do not wait for each other. */
    if (r->split.index == 0 || *r->facts.id)
        turn_open(&r->turn, r->facts.id);
    int rc = load(r, site, folder, share_gpu, e);
    r->set_up_s = clock_seconds() - start;
    bool missed = backend_compiled("cuda") && strcmp(r->backend.ops->name, "cuda");
    if (why[0] && rc == 0)
        log_line(missed && site->local_rank == 0 && !site->again ? LOG_WARN : LOG_INFO, "%s", why);
    return rc;
}

/* ---- the ranks that share a job ---- */

/* group_seat.swap: by way of the ranks.  What each tells begins with its place. */
static int swap(void *context, const void *mine, size_t n_bytes, void *all, struct err *e)
{
    const struct runner *r = context;
    struct bytes told = BYTES_INIT, heard = BYTES_INIT;
    const int32_t place = r->split.index;
    const char *bytes;
    size_t n, at = 0;
    int rank, n_heard = 0;

    bytes_add(&told, &place, sizeof place);
    bytes_add(&told, mine, n_bytes);
    int rc = engine_tell(&r->site, told.data, told.n, &heard, e);
    while (rc == 0 && engine_heard(&heard, &at, &rank, &bytes, &n)) {
        int32_t from = -1;
        if (n == sizeof from + n_bytes)
            memcpy(&from, bytes, sizeof from);
        if (from < 0 || from >= r->split.n) {
            rc = err_set(e, ERR_IO, "rank %d tells %zu bytes, %zu are expected", rank, n,
                         sizeof from + n_bytes);
            break;
        }
        memcpy((char *)all + (size_t)from * n_bytes, bytes + sizeof from, n_bytes);
        n_heard++;
    }
    if (rc == 0 && n_heard != r->split.n)
        rc = err_set(e, ERR_IO, "%d of %d ranks of the group answer", n_heard, r->split.n);
    bytes_release(&told);
    bytes_release(&heard);
    return rc;
}

/* Before each job: is everybody still who the group was made of?  Each tells who it is and whether
 * it has left the group since. */
static int join_group(struct runner *r, struct err *e)
{
    const size_t n = (size_t)r->split.n;
    const struct group_seat seat = { r->split.index, r->split.n, swap, r };
    struct {
        uint64_t id, joined; /* joined: 0 or 1 */
    } own = { r->id, r->joined != NULL }, all[n];

    if (swap(r, &own, sizeof own, all, e) < 0)
        return -1;
    bool same = true;
    for (size_t i = 0; i < n; i++)
        same = same && all[i].joined && r->joined && all[i].id == r->joined[i];
    /* Who was replaced has joined nothing, so all come to the same result. */
    if (same)
        return 0;
    leave_group(r);
    if (backend_join(&r->backend, &seat, e) < 0)
        return -1;
    r->joined = mem_array(n, sizeof *r->joined);
    for (size_t i = 0; i < n; i++)
        r->joined[i] = all[i].id;
    return 0;
}

/* The others shall not wait for what this rank cannot give; the next job joins again. */
static void give_up(struct runner *r, const struct err *why)
{
    if (r->joined)
        r->backend.ops->group->give_up(&r->backend, why);
    leave_group(r);
}

/* ---- one job ---- */

/* What one job has while it runs. */
struct run {
    struct runner *r;
    struct job job;
    struct experiment experiment;
    struct model model;
    struct model unquantized; /* for tasks that compare with it */
    bool has_unquantized;
    struct js *record, *seconds;
    double packing_s; /* quant_report.seconds */
    double end_s;     /* the model was given back then */
    int64_t model_bytes;
    bool broken;
};

enum dtype source_of_name(const char *name)
{
    int t = dtype_from_name(name);

    return t < 0 ? DTYPE_OTHER : (enum dtype)t;
}

int spec_of_experiment(const struct experiment *x, struct quant_spec *out, struct err *e)
{
    int compute = dtype_from_name(x->compute_dtype);

    if (compute < 0)
        return err_set(e, ERR_USAGE, "compute_dtype = %s is not known", x->compute_dtype);
    int scales = *x->scale_dtype ? dtype_from_name(x->scale_dtype) : DTYPE_F32;
    if (scales < 0)
        return err_set(e, ERR_USAGE, "scale_dtype = %s is not known", x->scale_dtype);
    *out = (struct quant_spec){ .bits = x->bits,
                                .group_size = x->group_size,
                                .double_quant = x->double_quant,
                                .compute = (enum dtype)compute,
                                .scale_dtype = (enum dtype)scales,
                                .sym = x->sym,
                                .outlier_threshold = x->outlier_threshold,
                                .n_skip = x->n_skip };
    const struct gptq_preset *preset = preset_find(x->preset);
    out->gptq.desc_act = x->desc_act;
    out->gptq.static_groups = x->static_groups;
    out->gptq.gar = x->gar;
    out->gptq.true_sequential = x->true_sequential;
    out->gptq.damp = x->damp_percent;
    out->gptq.damp_step = preset ? preset->damp_step : 0;
    out->gptq.mse = x->mse;
    out->awq.zero_point = x->zero_point;
    out->awq.duo_scaling = x->duo_scaling;
    out->awq.clip = x->clip;
    snprintf(out->method, sizeof out->method, "%s", x->method);
    snprintf(out->quant_type, sizeof out->quant_type, "%s", x->quant_type);
    snprintf(out->grid, sizeof out->grid, "%s", x->grid);
    for (int i = 0; i < x->n_skip; i++)
        snprintf(out->skip[i], sizeof out->skip[i], "%s", x->skip[i]);
    return 0;
}

/* What a solver says of each linear, where there was one. */
static void add_solved(struct js *modules, const struct quant_report *q)
{
    struct js *loss = js_new_array(), *error = js_new_array(), *damp = js_new_array();
    struct js *floor = js_new_array(), *raised = js_new_array(), *seconds = js_new_array();

    for (int i = 0; i < q->n_modules; i++) {
        const struct quant_solved *s = &q->modules[i].solved;

        js_append(loss, js_new_real(s->there ? s->loss : NAN));
        js_append(error, js_new_real(s->there ? s->output_error : NAN));
        js_append(damp, js_new_real(s->there ? s->damp : NAN));
        js_append(floor, js_new_real(s->floor));
        js_append(raised, js_new_int(s->n_raised));
        js_append(seconds, js_new_real(s->seconds));
    }
    bool there = q->n_modules && q->modules[0].solved.there;
    struct js *scrap = js_new_object(), *to = there ? modules : scrap;
    js_set(to, "loss", loss);
    js_set(to, "output_error", error);
    js_set(to, "damp", damp);
    js_set(to, "damp_floor", floor);
    js_set(to, "damp_raised", raised);
    js_set(to, "solver_seconds", seconds);
    js_release(scrap);
}

/* AWQ's search, a row a linear and ratio; those that are not scaled have none. */
static struct js *search_to_js(const struct quant_report *q)
{
    struct js *out = js_new_object(), *name = js_new_array(), *ratio = js_new_array();
    struct js *loss = js_new_array(), *chosen = js_new_array();

    for (int i = 0; i < q->n_modules; i++) {
        const struct quant_solved *s = &q->modules[i].solved;

        for (int k = 0; s->measured && !isnan(s->ratio) && k < QUANT_RATIOS; k++) {
            double r = k / (double)QUANT_RATIOS;

            js_append(name, js_new_text(q->modules[i].name));
            js_append(ratio, js_new_real(r));
            js_append(loss, js_new_real(s->ratio_loss[k]));
            js_append(chosen, js_new_bool(r == s->ratio));
        }
    }
    js_set(out, "name", name);
    js_set(out, "ratio", ratio);
    js_set(out, "ratio_loss", loss);
    js_set(out, "chosen", chosen);
    return out;
}

static bool has_search(const struct quant_report *q)
{
    return q->n_modules && q->modules[0].solved.measured;
}

static struct js *modules_to_js(const struct quant_report *q)
{
    struct js *modules = js_new_object(), *name = js_new_array(), *bits = js_new_array();
    struct js *mse = js_new_array(), *relative = js_new_array();

    for (int i = 0; i < q->n_modules; i++) {
        js_append(name, js_new_text(q->modules[i].name));
        js_append(bits, js_new_real(q->modules[i].bits_per_weight));
        js_append(mse, js_new_real(q->modules[i].mse));
        js_append(relative, js_new_real(q->modules[i].relative_error));
    }
    js_set(modules, "name", name);
    js_set(modules, "bits_per_weight", bits);
    js_set(modules, "mse", mse);
    js_set(modules, "relative_error", relative);
    add_solved(modules, q);
    return modules;
}

/* The token ids of a method that looks at activations; none for the others. */
static int find_ids(const struct run *run, struct quant_spec *spec, struct quant_calibration *ids,
                    struct err *e)
{
    const struct js *section = js_get(run->r->setup.settings, "calibration");
    const struct setup_data *data = setup_find(&run->r->setup, "calibration");
    struct calibration_plan plan;

    if (!calibration_plan_of(&run->experiment, section, run->r->base.config.max_position, &plan))
        return 0;
    spec->calibration = ids;
    return calibration_find(data ? data->bytes : "", data ? data->n_bytes : 0, &plan, run->job.seed,
                            ids, e);
}

static struct js *calibration_to_js(const struct quant_calibration *ids)
{
    struct js *out = js_new_object();

    js_set_int(out, "sequences", ids->n_seqs);
    js_set_int(out, "tokens", ids->first[ids->n_seqs]);
    js_set_text(out, "ids_sha256", ids->sha256);
    return out;
}

static int stage_quantize(struct run *run, const void *unused, struct err *e)
{
    struct quant_spec spec;
    struct quant_report report = { 0 };
    struct quant_calibration ids = { 0 };

    (void)unused;
    if (fault_inject(&run->r->backend, run->experiment.name, e) < 0)
        return -1;
    if (spec_of_experiment(&run->experiment, &spec, e) < 0 || find_ids(run, &spec, &ids, e) < 0)
        return -1;
    int rc = quantize_model(&run->r->base, &spec, run->r->source, &run->model, &report, e);
    struct js *calibration = ids.n_seqs ? calibration_to_js(&ids) : NULL;
    quant_calibration_release(&ids);
    if (rc < 0) {
        js_release(calibration);
        return -1;
    }
    struct js *q = js_new_object(), *m = js_new_object();
    if (calibration)
        js_set(q, "calibration", calibration);
    run->model_bytes = report.sizes.model_bytes;
    run->packing_s = report.seconds;
    js_set_int(q, "model_bytes", report.sizes.model_bytes);
    js_set_real(q, "bits_per_weight_linear", report.sizes.bits_per_weight_linear);
    js_set_real(q, "bits_per_weight_model", report.sizes.bits_per_weight_model);
    js_set_real(q, "hf_footprint_bytes", report.sizes.hf_footprint_bytes);
    js_set_real(q, "seconds", report.seconds);
    js_set_text(q, "model_dtype", dtype_name(run->model.dtype));
    js_set_text(q, "quantized_on", report.on_host ? "cpu" : run->r->backend.ops->name);
    js_set(q, "modules", modules_to_js(&report));
    if (has_search(&report))
        js_set(q, "scale_search", search_to_js(&report));
    js_set(run->record, "quantization", q);
    js_set_real(m, "model_size_mb", report.sizes.hf_footprint_bytes / MIB);
    js_set_int(m, "model_bytes", report.sizes.model_bytes);
    js_set(run->record, "memory", m);
    quant_report_release(&report);
    return 0;
}

/* What "none" makes of the base model in this job's dtypes: differences are quantization's alone.
 */
static int make_unquantized(struct run *run, struct err *e)
{
    struct quant_spec spec;
    struct quant_report report = { 0 };

    if (spec_of_experiment(&run->experiment, &spec, e) < 0)
        return -1;
    struct quant_spec none = { .method = "none",
                               .bits = spec.compute == DTYPE_F32 ? 32 : 16,
                               .compute = spec.compute };
    int rc = quantize_model(&run->r->base, &none, run->r->source, &run->unquantized, &report, e);
    quant_report_release(&report);
    run->has_unquantized = rc == 0;
    return rc < 0 ? err_in(e, "the unquantized model") : 0;
}

static int stage_task(struct run *run, const void *which, struct err *e)
{
    const struct task *task = which;
    struct runner *r = run->r;
    const struct js *options = js_get(js_get(r->setup.settings, "tasks"), task->name);
    const struct setup_data *data = setup_find(&r->setup, task->name);
    struct task_context c = { .model = &run->model,
                              .tokenizer = r->tokenizer,
                              .profile = &r->profile,
                              .seed = run->job.seed,
                              .batch_size = r->batch_size,
                              .shuffle = r->shuffle };
    struct js *out = js_new_object();

    js_set(run->record, task->name, out);
    if (task->needs_base && !run->has_unquantized && make_unquantized(run, e) < 0)
        return -1;
    c.base = &run->unquantized;
    if (task->run(&c, options, data ? data->bytes : "", data ? data->n_bytes : 0, out, e) < 0)
        return -1;
    js_set_int(out, "version", task->version);
    if (js_bool(js_get(out, "broken"))) {
        const char *on_broken = js_text(js_get(options, "on_broken"));
        bool skip = on_broken && strcmp(on_broken, "skip") == 0;
        log_warn("%s seed %lld: the sanity prompts gave empty, endlessly repeating or NaN output%s",
                 run->experiment.name, (long long)run->job.seed,
                 skip ? "; its slow tasks are skipped" : "");
        run->broken = skip;
        js_set_bool(run->record, "skipped_tasks", skip);
    }
    return 0;
}

static int read_list(const struct js *j, const char *key, int64_t *out, int *n, struct err *e)
{
    const struct js *list = js_get(j, key);

    if (js_count(list) > BENCH_LIST_MAX)
        return err_set(e, ERR_USAGE, "%s has %zu values, at most %d are allowed", key,
                       js_count(list), BENCH_LIST_MAX);
    *n = (int)js_count(list);
    for (int i = 0; i < *n; i++)
        out[i] = js_int(js_at(list, (size_t)i));
    return 0;
}

int bench_options_of(const struct js *j, int64_t seed, struct bench_options *o, struct err *e)
{
    int64_t warmup, repeats, batch[BENCH_LIST_MAX];

    *o = (struct bench_options){ .seed = seed };
    if (js_want_int(j, "warmup", &warmup, e) < 0 || js_want_int(j, "repeats", &repeats, e) < 0 ||
        js_want_real(j, "warmup_seconds", &o->warmup_seconds, e) < 0 ||
        js_want_real(j, "min_seconds", &o->min_seconds, e) < 0 ||
        js_want_int(j, "decode_tokens", &o->decode_tokens, e) < 0 ||
        js_bool_or(j, "energy", true, &o->energy, e) < 0 ||
        read_list(j, "prefill_tokens", o->prefill_tokens, &o->n_prefill, e) < 0 ||
        read_list(j, "batch_sizes", batch, &o->n_batch, e) < 0)
        return err_in(e, "[benchmark]");
    o->warmup = (int)warmup;
    o->repeats = (int)repeats;
    for (int i = 0; i < o->n_batch; i++)
        o->batch_sizes[i] = (int)batch[i];
    return 0;
}

/* Moves the members of `from` into record.KEY, which may be there already. */
static void merge(struct js *record, const char *key, const struct js *from)
{
    const struct js *old = js_get(record, key);
    struct js *all = old ? js_copy(old) : js_new_object();
    struct js_member m = JS_MEMBER_INIT;

    while (js_next(from, &m))
        js_set(all, m.key, js_copy(m.value));
    js_set(record, key, all);
}

static int stage_benchmark(struct run *run, const void *settings, struct err *e)
{
    struct bench_options o;
    struct js *out = js_new_object();
    int rc = bench_options_of(settings, run->job.seed, &o, e);

    o.idle_watt = &run->r->idle_watt;
    if (rc == 0) {
        turn_take(&run->r->turn, TURN_WAIT_S);
        rc = bench_run(&run->model, &o, out, e);
        turn_give(&run->r->turn);
    }
    if (rc == 0) {
        struct js_member m = JS_MEMBER_INIT;
        while (js_next(out, &m))
            merge(run->record, m.key, m.value);
        struct js *beside = js_new_object();
        js_set_bool(beside, "disturbed", run->r->turn.disturbed);
        js_set_real(beside, "turn_waited_s", run->r->turn.waited_s);
        merge(run->record, "latency", beside);
        js_release(beside);
    }
    js_release(out);
    return rc;
}

/* Runs one stage with its time and, where it fails, its place in the record.  A failed stage ends
 * the job, not the engine; what earlier stages gave stays. */
static bool stage(struct run *run, const char *name,
                  int (*act)(struct run *run, const void *what, struct err *e), const void *what,
                  struct err *e)
{
    double start = clock_seconds();

    if (e->code)
        return false;
    int rc = act(run, what, e);
    js_set_real(run->seconds, name, clock_seconds() - start);
    if (rc == 0)
        return true;
    if (!e->code)
        err_set(e, ERR_INPUT, "%s failed and did not say why", name);
    js_set_text(run->record, "error_stage", name);
    return false;
}

static int stage_group(struct run *run, const void *unused, struct err *e)
{
    (void)unused;
    return join_group(run->r, e);
}

static void run_stages(struct run *run, struct err *e)
{
    const struct js *settings = run->r->setup.settings;
    const struct js *wanted = js_get(settings, "tasks"), *benchmark = js_get(settings, "benchmark");

    if (run->r->split.n > 1)
        stage(run, "group", stage_group, NULL, e);
    stage(run, "quantize", stage_quantize, NULL, e);
    for (int i = 0; tasks[i] && run->job.quality && !run->broken; i++)
        if (js_get(wanted, tasks[i]->name))
            stage(run, tasks[i]->name, stage_task, tasks[i], e);
    /* The benchmark counts what is resident. */
    model_release(&run->unquantized);
    if (run->job.benchmark && js_kind(benchmark) == JS_OBJECT)
        stage(run, "benchmark", stage_benchmark, benchmark, e);
}

/* Where the time of a job went, in the log alone: what is not quantizing, evaluating or timing is
 * what a rank loses between jobs. */
static void log_times(const struct run *run, double start, double released)
{
    struct bytes text = BYTES_INIT;
    struct js_member m = JS_MEMBER_INIT;
    const struct runner *r = run->r;
    double now = clock_seconds(), idle = r->idle_since_s ? start - r->idle_since_s : 0;

    if (!r->idle_since_s)
        log_debug("set up in %.3f s, of these %.3f to open the device", r->set_up_s, r->opened_s);
    while (js_next(run->seconds, &m))
        bytes_printf(&text, "%s %.4f, ", m.key, js_real(m.value));
    log_debug("%s seed %lld: seconds: %.4f idle before, %spacking alone %.4f, model given back in "
              "%.4f, record %.4f",
              run->experiment.name, (long long)run->job.seed, idle, text.data ? text.data : "",
              run->packing_s, released, now - run->end_s);
    bytes_release(&text);
}

static void begin_record(struct run *run, struct js *job)
{
    const struct runner *r = run->r;
    char date[CLOCK_DATE_MAX];

    run->record = js_new_object();
    run->seconds = js_new_object();
    js_set(run->record, "job", job);
    js_set_text(run->record, "started", clock_date(date));
    js_set_text(run->record, "device", r->facts.name);
    js_set_text(run->record, "backend", r->backend.ops->name);
    if (r->facts.driver[0])
        js_set_text(run->record, "driver", r->facts.driver);
    if (r->shared_by[0])
        js_set_text(run->record, "shared_by", r->shared_by);
    if (r->split.n > 1)
        js_set_int(run->record, "tensor_parallel", r->split.n);
}

int runner_run(void *runner, const void *job, size_t n_bytes, struct bytes *record, struct err *e)
{
    struct run run = { .r = runner };
    struct err why = ERR_INIT;
    char date[CLOCK_DATE_MAX];
    double start = clock_seconds();
    struct js *text = js_parse(job, n_bytes, e);

    if (!text || job_from_js(text, &run.job, &run.experiment, e) < 0) {
        js_release(text);
        return err_in(e, "a job");
    }
    begin_record(&run, text);
    mem_account_reset_peak(&run.r->backend);
    run.r->backend.notes[0] = 0;
    turn_work(&run.r->turn, true);

    run_stages(&run, &why);
    double staged = clock_seconds();
    model_release(&run.model);
    if (!why.code) /* what failed behind the last wait */
        run.r->backend.ops->sync(&run.r->backend, &why);
    if (why.code && run.r->split.n > 1)
        give_up(run.r, &why);
    turn_work(&run.r->turn, false);
    run.end_s = clock_seconds();

    js_set_real(run.seconds, "total", run.end_s - start);
    js_set(run.record, "seconds", run.seconds);
    js_set_text(run.record, "finished", clock_date(date));
    if (run.r->backend.notes[0])
        js_set_text(run.record, "notes", run.r->backend.notes);
    js_set_text(run.record, "status", why.code ? "error" : "success");
    if (why.code) {
        js_set_text(run.record, "error", why.text);
        js_set_text(run.record, "error_code", err_code_name(why.code));
    }
    size_t n = 0;
    char *line = js_write(run.record, &n);
    if (run.r->split.index == 0) /* the others' say the same */
        bytes_add(record, line, n);
    free(line);
    log_times(&run, start, run.end_s - staged);
    js_release(run.record);
    run.r->idle_since_s = clock_seconds();
    /* A lost device context ends this process; the rank starts another. */
    if (why.code == ERR_DEVICE) {
        err_set(e, ERR_DEVICE, "%s", why.text);
        return err_in(e, "job %s seed %lld", run.experiment.name, (long long)run.job.seed);
    }
    return 0;
}
