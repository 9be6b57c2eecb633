/* prepare.c - see prepare.h. */
#include "prepare.h"

#include "backend/group.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "eval/choice.h"
#include "model/checkpoint.h"
#include "calibration.h"
#include "run_job.h"
#include "sched/node.h"
#include "setup.h"
#include "sweep/method.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DOCUMENT_GUESS 512 /* tokens */

void prepared_release(struct prepared *p)
{
    sweep_release(&p->sweep);
    free(p->folder);
    tokenizer_close(p->tokenizer);
    bytes_release(&p->setup);
    bytes_release(&p->model_stamp);
    bytes_release(&p->identity);
    js_release(p->data);
    bytes_release(&p->notes);
    *p = (struct prepared)PREPARED_INIT;
}

int prepare_check_cell(const struct experiment *x, void *context, struct err *e)
{
    const struct cell_context *known = context;
    const struct config *c = known ? known->config : NULL;
    struct quant_spec spec;

    if (spec_of_experiment(x, &spec, e) < 0 || quant_spec_check(&spec, 0, e) < 0)
        return -1;
    for (int l = 0; c && l < N_LINEARS; l++) {
        int64_t n_out, n_in;
        config_linear_shape(c, (enum linear_name)l, &n_out, &n_in);
        if (quant_spec_check(&spec, n_in, e) < 0 ||
            (known->n_parts > 1 && quant_check_parts(&spec, n_out, n_in, known->n_parts, e) < 0))
            return -1;
    }
    return 0;
}

/* Can the devices share this model? */
static int check_parts(const struct prepared *p, const struct prepare_options *o, struct err *e)
{
    const int n = p->sweep.tensor_parallel;

    if (n == 1)
        return 0;
    if (o->share_gpu)
        return err_set(e, ERR_USAGE,
                       "%s: model.tensor_parallel = %d wants a GPU for each rank; --share-gpu lets "
                       "ranks share one",
                       p->sweep.path, n);
    if (config_check_split(&p->config, n, e) < 0) {
        struct err why = *e;
        return err_set(e, ERR_USAGE, "%s: model.tensor_parallel = %d: %.*s", p->sweep.path, n,
                       ERR_TEXT_MAX / 2, why.text);
    }
    return 0;
}

/* What generates nothing is scored, prompts are continued. */
static void count_tokens(struct prepared *p, int64_t prompt, int64_t new_tokens)
{
    enum { TOKENS_OF_AN_ANSWER = 8 };

    if (new_tokens == 0) {
        p->window_tokens += prompt;
        return;
    }
    p->prompt_tokens += prompt;
    p->new_tokens += new_tokens;
    p->n_sequences += 1 + new_tokens / TOKENS_OF_AN_ANSWER;
}

/* Of a file, or of the names and the hashes of a folder's files. */
static int hash_data(const char *path, char out[HASH_TEXT_MAX], struct err *e)
{
    struct bytes all = BYTES_INIT;
    struct dirent **files;
    int rc = 0;

    if (!file_is_folder(path))
        return hash_file(path, out, e);
    int n = scandir(path, &files, NULL, alphasort);
    bytes_add(&all, "", 0);
    for (int i = 0; i < n; i++) {
        char *file = file_join(path, files[i]->d_name), hash[HASH_TEXT_MAX];
        if (rc == 0 && files[i]->d_name[0] != '.') {
            rc = hash_data(file, hash, e);
            bytes_printf(&all, "%s %s\n", hash, files[i]->d_name);
        }
        free(file);
        free(files[i]);
    }
    if (n >= 0)
        free(files);
    hash_bytes(all.data, all.n, out);
    bytes_release(&all);
    return n < 0 ? err_set(e, ERR_IO, "%s: %s", path, strerror(errno)) : rc;
}

/* Path and hash of the file of a task, or of each of the data sets in its table. */
static int add_data(struct prepared *p, const char *name, const struct js *options, struct err *e)
{
    const char *path = js_text(js_get(options, "path"));
    struct js_member m = JS_MEMBER_INIT;
    char hash[HASH_TEXT_MAX];

    while (js_next(options, &m))
        if (js_kind(m.value) == JS_OBJECT && add_data(p, m.key, m.value, e) < 0)
            return -1;
    if (!path)
        return 0;
    if (hash_data(path, hash, e) < 0)
        return -1;
    struct js *file = js_new_object();
    js_set_text(file, "path", path);
    js_set_text(file, "sha256", hash);
    js_set(p->data, name, file);
    return 0;
}

/* One task's data and its identity: version and hash of what every job will read. */
static int prepare_task(struct prepared *p, const struct task *task, struct err *e)
{
    const struct js *options = js_get(p->sweep.tasks, task->name);
    char hash[HASH_TEXT_MAX];
    int64_t prompt_tokens = 0, new_tokens = 0;
    struct bytes data = BYTES_INIT;
    int rc = -1;

    bytes_add(&data, "", 0);
    if (task->prepare(options, p->tokenizer, &p->profile, &p->config, &data, e) < 0) {
        err_in(e, "[tasks.%s] of %s", task->name, p->sweep.path);
        goto out;
    }
    hash_bytes(data.data, data.n, hash);
    bytes_printf(&p->identity, " %s %d %s", task->name, task->version, hash);
    if (task->work(options, data.data, data.n, &prompt_tokens, &new_tokens, e) < 0)
        goto out;
    count_tokens(p, prompt_tokens, new_tokens);
    setup_add(&p->setup, task->name, data.data, data.n);
    rc = add_data(p, task->name, options, e);
out:
    bytes_release(&data);
    return rc;
}

/* The first file of a task that is not there; NULL: all are. */
static const char *missing_file(const struct js *options)
{
    const char *path = js_text(js_get(options, "path")), *missing = NULL;
    struct js_member m = JS_MEMBER_INIT;

    while (!missing && js_next(options, &m))
        if (js_kind(m.value) == JS_OBJECT)
            missing = missing_file(m.value);
    return missing ? missing : path && !file_exists(path) ? path : NULL;
}

static int64_t stated_choices(const struct js *options)
{
    int64_t n_tokens = 0;

    for (const struct choice_task *t = choice_tasks; t->name; t++) {
        const struct js *own = js_get(options, t->name);
        int64_t limit = js_int(js_get(own, "limit"));
        if (own)
            n_tokens += t->tokens_stated * (limit > 0 && limit < t->n_stated ? limit : t->n_stated);
    }
    return n_tokens;
}

/* What a task reads where its data are not there: averages of the public data sets with the
 * Llama-3 tokenizer (CoQA: 285,325 prompt tokens in 500 stories; WikiText-2: 141 windows). */
static void state_tokens(struct prepared *p, const struct task *task)
{
    const struct js *options = js_get(p->sweep.tasks, task->name);
    int64_t limit = js_int(js_get(options, "limit")), prompt = 3 * 10, new_tokens = 3 * 32;

    if (strcmp(task->name, "coqa") == 0) {
        int64_t n = limit > 0 && limit < 500 ? limit : 500;
        prompt = n * 285325 / 500;
        new_tokens = n * 8;
    } else if (strcmp(task->name, "perplexity") == 0) {
        prompt = 141 * 2048;
        new_tokens = 0;
    } else if (strcmp(task->name, "divergence") == 0) {
        prompt = 2 * 141 * 2048;
        new_tokens = 0;
    } else if (strcmp(task->name, "multiple_choice") == 0) {
        prompt = stated_choices(options);
        new_tokens = 0;
    }
    const char *path = missing_file(options);
    bytes_printf(&p->notes, "%s: %s not there; %lld prompt and %lld new tokens assumed\n",
                 task->name, path ? path : "tokenizer", (long long)prompt, (long long)new_tokens);
    count_tokens(p, prompt, new_tokens);
}

static bool has_data(const struct prepared *p, const struct task *task)
{
    return p->tokenizer && !missing_file(js_get(p->sweep.tasks, task->name));
}

static void add_settings(struct prepared *p, const struct prepare_options *o)
{
    struct js *settings = sweep_setup_js(&p->sweep);

    js_set_text(settings, "folder", p->folder);
    js_set_text(settings, "model_sha256", p->model_sha256);
    js_set_text(settings, "model_stamp", p->model_stamp.data ? p->model_stamp.data : "");
    js_set_text(settings, "backend", o->backend);
    js_set_bool(settings, "share_gpu", o->share_gpu);
    js_set_int(settings, "least_job_bytes", p->least_job_bytes);
    js_set_int(settings, "base_bytes",
               config_n_parameters(&p->config) * (int64_t)dtype_bytes(p->config.stored_dtype));
    js_set_bool(settings, "shuffle", o->shuffle);
    js_set(settings, "profile", profile_to_js(&p->profile));
    size_t n;
    char *text = js_write(settings, &n);
    setup_add(&p->setup, "settings", text, n);
    free(text);
    js_release(settings);
}

static int find_model(struct prepared *p, bool shapes_suffice, struct err *e)
{
    const struct sweep *s = &p->sweep;

    if (checkpoint_find(s->model_path, s->model_revision, &p->folder, p->commit, e) < 0) {
        if (!shapes_suffice || !s->model_config)
            return err_in(e, "[model] path of %s", s->path);
        bytes_printf(&p->notes, "%s: not there; shapes from %s\n", s->model_path, s->model_config);
        err_clear(e);
        return config_read_file(s->model_config, &p->config, e);
    }
    if (config_read(p->folder, &p->config, e) < 0)
        return -1;
    char *tokenizer = file_join(p->folder, "tokenizer.json");
    bool there = file_exists(tokenizer);
    free(tokenizer);
    if (shapes_suffice && !there) {
        bytes_printf(&p->notes, "%s: has no tokenizer.json\n", p->folder);
        return 0;
    }
    if (tokenizer_open(&p->tokenizer, p->folder, e) < 0 ||
        profile_find(s->profile, p->tokenizer, &p->config, &p->profile, e) < 0)
        return -1;
    return 0;
}

int prepare_tokenizer(const struct prepare_options *o, struct tokenizer **out,
                      struct profile *profile, struct err *e)
{
    struct prepared p = PREPARED_INIT;
    int rc = -1;

    if (sweep_read(o->sweep_path, &o->overrides, &p.sweep, e) == 0 &&
        find_model(&p, false, e) == 0) {
        *out = p.tokenizer;
        *profile = p.profile;
        p.tokenizer = NULL;
        rc = 0;
    }
    prepared_release(&p);
    return rc;
}

/* Operations of a method that looks at `tokens` of text, those of one of the devices that share a
 * job.  GPTQ: the layers, gate and up twice; x^T x of the four inputs; the solver's loop and
 * factors.  AWQ: the layers, then for each ratio attention once and the MLP twice. */
static double calibration_flops(const struct config *c, const struct quant_spec *s, double tokens)
{
    double weights[N_LINEARS], all = 0, squares = 0, solver = 0;

    for (int l = 0; l < N_LINEARS; l++) {
        int64_t n_out, n_in;

        config_linear_shape(c, l, &n_out, &n_in);
        weights[l] = (double)n_out * (double)n_in;
        all += weights[l];
        solver += weights[l] * (double)n_in + pow((double)n_in, 3);
        if (l == LINEAR_Q || l == LINEAR_O || l == LINEAR_GATE || l == LINEAR_DOWN)
            squares += (double)n_in * (double)n_in;
    }
    double inner = weights[LINEAR_GATE] + weights[LINEAR_UP], mlp = inner + weights[LINEAR_DOWN];
    double layer = strcmp(s->method, "awq") == 0
                       ? 2 * tokens * (all + inner + QUANT_RATIOS * (all - mlp + 2 * mlp))
                       : 2 * tokens * (all + inner + squares) + 2 * solver;
    return (double)c->n_layers * layer;
}

/* Documents are as long as they are: those of web text have some hundred tokens. */
static double calibration_tokens(const struct calibration_plan *plan)
{
    bool whole = plan->way == CALIBRATION_DOCUMENTS && plan->length > DOCUMENT_GUESS;

    return (double)plan->samples * (double)(whole ? DOCUMENT_GUESS : plan->length);
}

int prepare_cost(const struct prepared *p, const char *backend, const struct job *j,
                 struct quant_sizes *sizes, struct cost *cost, struct err *e)
{
    struct quant_spec spec;
    struct node_cores cores;
    enum dtype source = source_of_name(p->sweep.source_dtype);

    if (spec_of_experiment(j->experiment, &spec, e) < 0 ||
        quant_sizes_of(&p->config, &spec, source, sizes, e) < 0)
        return err_in(e, "experiment %s", j->experiment->name);
    struct calibration_plan plan;
    bool looks =
        calibration_plan_of(j->experiment, p->sweep.calibration, p->config.max_position, &plan);

    node_cores(node_local_size(), &cores);
    bool gpu = strcmp(backend, "cuda") == 0;
    const int n_parts = p->sweep.tensor_parallel;
    struct cost_input in = {
        /* of one device */
        .device = gpu ? cost_gpu() : cost_cpu(cores.n_threads),
        .n_linear_parameters = config_n_linear_parameters(&p->config) / n_parts,
        .n_head_parameters = config_n_embedding(&p->config),
        .kv_bytes_per_token =
            config_kv_bytes_per_token(&p->config, quant_model_dtype(&spec, source)) / n_parts,
        .base_bytes = config_n_parameters(&p->config) *
                      (int64_t)dtype_bytes(p->config.stored_dtype) / n_parts,
        .quantized = strcmp(spec.method, "none") != 0,
        .model_bytes = sizes->model_bytes / n_parts,
        .scratch_bytes = backend_group_bytes(backend, n_parts),
        .calibration_flops =
            looks ? calibration_flops(&p->config, &spec, calibration_tokens(&plan) / n_parts) : 0,
        .quality = j->quality,
        .batch_size = p->sweep.batch_size,
        .n_sequences = p->n_sequences,
        .prompt_tokens = p->prompt_tokens,
        .new_tokens = p->new_tokens,
        .n_window_tokens = p->window_tokens,
        .longest_tokens = p->n_sequences ? (p->prompt_tokens + p->new_tokens) / p->n_sequences : 0,
        .benchmark = j->benchmark ? p->sweep.benchmark : NULL,
    };
    *cost = cost_estimate(&in);
    return 0;
}

static int check_benchmark(const struct prepared *p, struct err *e)
{
    struct bench_options o;

    if (!p->sweep.benchmark)
        return 0;
    if (bench_options_of(p->sweep.benchmark, 0, &o, e) < 0 || bench_check(&p->config, &o, e) < 0)
        return err_in(e, "[benchmark] of %s", p->sweep.path);
    return 0;
}

/* Without quantization a job may borrow every weight, with it all but the packed ones. */
static int64_t added_bytes(const struct prepared *p, const struct job *j,
                           const struct quant_sizes *sizes)
{
    if (strcmp(j->experiment->method, "none") == 0)
        return 0;
    return (int64_t)(sizes->bits_per_weight_linear / 8 *
                     (double)config_n_linear_parameters(&p->config) / p->sweep.tensor_parallel);
}

static int price_jobs(struct prepared *p, const char *backend, struct err *e)
{
    for (int i = 0; i < p->sweep.n_jobs; i++) {
        struct quant_sizes sizes;
        struct cost cost;
        if (prepare_cost(p, backend, &p->sweep.jobs[i], &sizes, &cost, e) < 0)
            return -1;
        p->sweep.jobs[i].cost_s = cost.total_s;
        int64_t added = added_bytes(p, &p->sweep.jobs[i], &sizes);
        if (i == 0 || added < p->least_job_bytes)
            p->least_job_bytes = added;
    }
    return 0;
}

/* The first of n experiments that looks at activations. */
static const struct experiment *wants_text(const struct experiment *x, int n)
{
    for (int i = 0; i < n; i++)
        if (!method_find(x[i].method)->data_free)
            return &x[i];
    return NULL;
}

/* The ids of the jobs that look at activations, and the hash of the file they are from.  Results of
 * such jobs that are only kept (--resume --experiment) are known again by the hash alone. */
static int prepare_calibration(struct prepared *p, bool shapes_suffice, struct err *e)
{
    const char *path = js_text(js_get(p->sweep.calibration, "path"));
    const struct experiment *wants = wants_text(p->sweep.experiments, p->sweep.n_experiments);
    struct bytes data = BYTES_INIT;
    int rc = -1;

    if (!wants && path && file_exists(path) && wants_text(p->sweep.experiments, p->sweep.n_known))
        return hash_file(path, p->sweep.calibration_sha256, e);
    if (!wants)
        return 0;
    if (!path)
        return err_set(e, ERR_USAGE,
                       "%s: experiment %s (%s) looks at text: [calibration] path is missing",
                       p->sweep.path, wants->name, wants->method);
    if (shapes_suffice && (!p->tokenizer || !file_exists(path))) {
        bytes_printf(&p->notes, "calibration: %s not there\n", path);
        return 0;
    }
    bytes_add(&data, "", 0);
    if (hash_file(path, p->sweep.calibration_sha256, e) < 0) {
        err_in(e, "[calibration] of %s", p->sweep.path);
    } else if (calibration_prepare(&p->sweep, p->tokenizer, &p->config, &data, &p->notes, e) == 0) {
        struct js *file = js_new_object();

        js_set_text(file, "path", path);
        js_set_text(file, "sha256", p->sweep.calibration_sha256);
        js_set(p->data, "calibration", file);
        if (!shapes_suffice && p->notes.n)
            log_warn("%.*s", (int)p->notes.n - 1, p->notes.data);
        setup_add(&p->setup, "calibration", data.data, data.n);
        rc = 0;
    }
    bytes_release(&data);
    return rc;
}

int prepare(const struct prepare_options *o, struct prepared *out, struct err *e)
{
    struct prepared *p = out;

    struct cell_context known = { .config = &p->config };

    *p = (struct prepared)PREPARED_INIT;
    if (sweep_read(o->sweep_path, &o->overrides, &p->sweep, e) < 0 ||
        find_model(p, o->shapes_suffice, e) < 0 || check_parts(p, o, e) < 0)
        return -1;
    known.n_parts = p->sweep.tensor_parallel;
    if (sweep_expand(&p->sweep, &o->overrides, prepare_check_cell, &known, e) < 0 ||
        check_benchmark(p, e) < 0)
        return -1;
    p->data = js_new_object();
    if (!o->shapes_suffice) {
        if (checkpoint_stamp(p->folder, &p->model_stamp, e) < 0 ||
            checkpoint_sha256(p->folder, p->model_sha256, e) < 0)
            return -1;
        bytes_printf(&p->identity, "model %s", p->model_sha256);
    }
    setup_begin(&p->setup);
    for (int i = 0; tasks[i]; i++) {
        if (!js_get(p->sweep.tasks, tasks[i]->name))
            continue;
        if (o->shapes_suffice && !has_data(p, tasks[i]))
            state_tokens(p, tasks[i]);
        else if (prepare_task(p, tasks[i], e) < 0)
            return -1;
    }
    bytes_add(&p->identity, "", 0);
    if (prepare_calibration(p, o->shapes_suffice, e) < 0)
        return -1;
    for (int i = 0; i < p->sweep.n_jobs; i++)
        job_make_key(&p->sweep.jobs[i], &p->sweep, p->identity.data);
    if (price_jobs(p, o->backend, e) < 0)
        return -1;
    add_settings(p, o);
    return 0;
}
