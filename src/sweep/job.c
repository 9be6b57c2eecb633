/* job.c - a job as text, and its key; see job.h. */
#include "sweep/job.h"

#include "sweep/method.h"
#include "sweep/sweep_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct js *experiment_to_js(const struct experiment *x)
{
    unsigned keys = experiment_keys(x);
    struct js *out = js_new_object();

    js_set_text(out, "method", x->method);
    js_set_int(out, "bits", x->bits);
    js_set_int(out, "group_size", x->group_size);
    js_set_text(out, "quant_type", x->quant_type);
    js_set_bool(out, "double_quant", x->double_quant);
    js_set_text(out, "compute_dtype", x->compute_dtype);
    if (keys & AXIS_BIT(AXIS_PRESET)) {
        js_set_text(out, "preset", x->preset);
        js_set_bool(out, "desc_act", x->desc_act);
        js_set_bool(out, "static_groups", x->static_groups);
        js_set_bool(out, "gar", x->gar);
        js_set_bool(out, "true_sequential", x->true_sequential);
        js_set_real(out, "damp_percent", x->damp_percent);
        js_set_real(out, "mse", x->mse);
    }
    if (keys & AXIS_BIT(AXIS_ZERO_POINT)) {
        js_set_bool(out, "zero_point", x->zero_point);
        js_set_bool(out, "duo_scaling", x->duo_scaling);
        js_set_bool(out, "clip", x->clip);
    }
    if (keys & AXIS_BIT(AXIS_GRID))
        js_set_text(out, "grid", x->grid);
    if (keys & AXIS_BIT(AXIS_OUTLIER_THRESHOLD))
        js_set_real(out, "outlier_threshold", x->outlier_threshold);
    if (keys & AXIS_BIT(AXIS_SCALE_DTYPE))
        js_set_text(out, "scale_dtype", x->scale_dtype);
    if (keys & AXIS_BIT(AXIS_SKIP_MODULES)) {
        struct js *skip = js_new_array();
        for (int i = 0; i < x->n_skip; i++)
            js_append(skip, js_new_text(x->skip[i]));
        js_set(out, "skip_modules", skip);
    }
    if (keys & AXIS_BIT(AXIS_SYM))
        js_set_bool(out, "sym", x->sym);
    return out;
}

struct js *job_to_js(const struct job *j)
{
    struct js *out = js_new_object();

    js_set_text(out, "experiment", j->experiment->name);
    js_set_int(out, "seed", j->seed);
    js_set_bool(out, "quality", j->quality);
    js_set_bool(out, "benchmark", j->benchmark);
    js_set_text(out, "key", j->key);
    js_set(out, "quant", experiment_to_js(j->experiment));
    return out;
}

/* ---- reading ---- */

static int copy_text(const char *from, const char *name, char *to, size_t room, struct err *e)
{
    if (strlen(from) >= room)
        return err_set(e, ERR_INPUT, "%s has %zu bytes, room is for %zu", name, strlen(from),
                       room - 1);
    memcpy(to, from, strlen(from) + 1);
    return 0;
}

static int want_text(const struct js *j, const char *path, char *to, size_t room, struct err *e)
{
    const char *text;

    if (js_want_text(j, path, &text, e) < 0)
        return -1;
    return copy_text(text, path, to, room, e);
}

static int text_or_none(const struct js *j, const char *path, char *to, size_t room, struct err *e)
{
    const char *text;

    if (js_text_or(j, path, "", &text, e) < 0)
        return -1;
    return copy_text(text, path, to, room, e);
}

static int read_skip(const struct js *list, struct experiment *x, struct err *e)
{
    if (!list)
        return 0;
    if (js_kind(list) != JS_ARRAY || js_count(list) > SKIP_MAX)
        return err_set(e, ERR_INPUT, "quant.skip_modules should be a list of at most %d texts",
                       SKIP_MAX);
    x->n_skip = (int)js_count(list);
    for (int i = 0; i < x->n_skip; i++) {
        const char *text = js_text(js_at(list, (size_t)i));
        if (!text)
            return err_set(e, ERR_INPUT, "quant.skip_modules should hold texts");
        if (copy_text(text, "quant.skip_modules", x->skip[i], sizeof x->skip[i], e) < 0)
            return -1;
    }
    return 0;
}

static int read_experiment(const struct js *j, struct experiment *x, struct err *e)
{
    int64_t bits;

    *x = (struct experiment){ 0 };
    if (want_text(j, "experiment", x->name, sizeof x->name, e) < 0 ||
        want_text(j, "quant.method", x->method, sizeof x->method, e) < 0 ||
        js_want_int(j, "quant.bits", &bits, e) < 0 ||
        js_want_int(j, "quant.group_size", &x->group_size, e) < 0 ||
        want_text(j, "quant.quant_type", x->quant_type, sizeof x->quant_type, e) < 0 ||
        js_want_bool(j, "quant.double_quant", &x->double_quant, e) < 0 ||
        want_text(j, "quant.compute_dtype", x->compute_dtype, sizeof x->compute_dtype, e) < 0 ||
        text_or_none(j, "quant.grid", x->grid, sizeof x->grid, e) < 0 ||
        js_real_or(j, "quant.outlier_threshold", 0, &x->outlier_threshold, e) < 0 ||
        text_or_none(j, "quant.scale_dtype", x->scale_dtype, sizeof x->scale_dtype, e) < 0 ||
        text_or_none(j, "quant.preset", x->preset, sizeof x->preset, e) < 0 ||
        js_bool_or(j, "quant.desc_act", false, &x->desc_act, e) < 0 ||
        js_bool_or(j, "quant.static_groups", false, &x->static_groups, e) < 0 ||
        js_bool_or(j, "quant.gar", false, &x->gar, e) < 0 ||
        js_bool_or(j, "quant.true_sequential", false, &x->true_sequential, e) < 0 ||
        js_real_or(j, "quant.damp_percent", 0, &x->damp_percent, e) < 0 ||
        js_real_or(j, "quant.mse", 0, &x->mse, e) < 0 ||
        js_bool_or(j, "quant.zero_point", false, &x->zero_point, e) < 0 ||
        js_bool_or(j, "quant.duo_scaling", false, &x->duo_scaling, e) < 0 ||
        js_bool_or(j, "quant.clip", false, &x->clip, e) < 0 ||
        js_bool_or(j, "quant.sym", false, &x->sym, e) < 0)
        return -1;
    if (bits < 0 || bits > 64)
        return err_set(e, ERR_INPUT, "quant.bits should be at most 64, but is %lld",
                       (long long)bits);
    x->bits = (int)bits;
    return read_skip(js_get(js_get(j, "quant"), "skip_modules"), x, e);
}

int job_from_js(const struct js *text, struct job *job, struct experiment *experiment,
                struct err *e)
{
    *job = (struct job){ .id = -1, .experiment = experiment };
    if (read_experiment(text, experiment, e) < 0 || js_want_int(text, "seed", &job->seed, e) < 0 ||
        js_want_bool(text, "quality", &job->quality, e) < 0 ||
        js_want_bool(text, "benchmark", &job->benchmark, e) < 0 ||
        want_text(text, "key", job->key, sizeof job->key, e) < 0)
        return err_in(e, "the text of a job");
    return 0;
}

/* ---- the key ---- */

/* Options without paths: which bytes they lead to is said by identity. */
static struct js *without_paths(const struct js *table)
{
    struct js *out = js_new_object();
    struct js_member m = JS_MEMBER_INIT;

    while (js_next(table, &m)) {
        if (js_kind(m.value) == JS_OBJECT)
            js_set(out, m.key, without_paths(m.value));
        else if (strcmp(m.key, "path") != 0)
            js_set(out, m.key, js_copy(m.value));
    }
    return out;
}

void job_make_key(struct job *j, const struct sweep *s, const char *identity)
{
    const struct method_rule *m = method_find(j->experiment->method);
    struct js *all = js_new_object();
    size_t n_bytes;

    js_set_int(all, "semantics", SEMANTICS_VERSION);
    js_set(all, "settings", experiment_to_js(j->experiment));
    js_set_text(all, "source_dtype", s->source_dtype);
    if (s->tensor_parallel > 1)
        js_set_int(all, "tensor_parallel", s->tensor_parallel);
    if (s->calibration && m && !m->data_free) {
        js_set_int(all, "calibration_samples", js_int(js_get(s->calibration, "samples")));
        js_set_int(all, "calibration_length", js_int(js_get(s->calibration, "sequence_length")));
        js_set_text(all, "calibration_sha256", s->calibration_sha256);
    }
    js_set_bool(all, "quality", j->quality);
    if (j->quality) {
        js_set_text(all, "profile", s->profile);
        js_set(all, "tasks", without_paths(s->tasks));
    }
    js_set(all, "benchmark", j->benchmark ? js_copy(s->benchmark) : js_new_bool(false));
    /* A benchmark draws its prompts by the seed. */
    if (j->benchmark || sweep_seed_matters(s, j->experiment))
        js_set_int(all, "seed", j->seed);
    js_set_text(all, "identity", identity);
    char *text = js_write(all, &n_bytes);
    hash_bytes(text, n_bytes, j->key);
    free(text);
    js_release(all);
}
