/* resolved.c - a sweep as it was understood: for the engines, for --dry-run -v. */
#include "sweep/sweep_file.h"

#include "base/memory.h"
#include "sweep/toml_reader.h"

#include <stdio.h>
#include <stdlib.h>

struct js *sweep_setup_js(const struct sweep *s)
{
    struct js *out = js_new_object(), *model = js_new_object(), *run = js_new_object();

    js_set_text(model, "path", s->model_path);
    js_set_text(model, "revision", s->model_revision);
    js_set_text(model, "source_dtype", s->source_dtype);
    js_set_int(model, "tensor_parallel", s->tensor_parallel);
    js_set(out, "model", model);
    js_set_int(run, "batch_size", s->batch_size);
    js_set(out, "run", run);
    js_set_text(out, "profile", s->profile);
    js_set(out, "tasks", js_copy(s->tasks));
    if (s->benchmark)
        js_set(out, "benchmark", js_copy(s->benchmark));
    if (s->calibration)
        js_set(out, "calibration", js_copy(s->calibration));
    return out;
}

static struct js *sweep_section_js(const struct sweep *s)
{
    struct js *out = js_new_object(), *seeds = js_new_array(), *margin = js_new_object();

    js_set_text(out, "name", s->name);
    for (int i = 0; i < s->n_seeds; i++)
        js_append(seeds, js_new_int(s->seeds[i]));
    js_set(out, "seeds", seeds);
    js_set_text(out, "baseline", s->baseline);
    js_set_real(out, "confidence", s->confidence);
    for (int i = 0; i < s->n_margins; i++)
        js_set_real(margin, s->margins[i].metric, s->margins[i].value);
    js_set(out, "margin", margin);
    js_set_real(out, "job_timeout", s->job_timeout_s);
    return out;
}

/* Numbered, as experiments are named. */
static struct js *comparisons_js(const struct sweep *s)
{
    struct js *out = js_new_object();

    for (int i = 0; i < s->n_comparisons; i++) {
        char key[32];
        struct js *pair = js_new_object();
        snprintf(key, sizeof key, "%d", i + 1);
        js_set_text(pair, "a", s->comparisons[i].a);
        js_set_text(pair, "b", s->comparisons[i].b);
        js_set(out, key, pair);
    }
    return out;
}

static struct js *resolved_js(const struct sweep *s)
{
    struct js *out = js_new_object(), *setup = sweep_setup_js(s), *tasks = js_new_object();
    struct js *experiments = js_new_object();
    struct js_member m = JS_MEMBER_INIT;

    js_set(out, "sweep", sweep_section_js(s));
    js_set(out, "model", js_copy(js_get(setup, "model")));
    js_set(out, "run", js_copy(js_get(setup, "run")));
    js_set_text(tasks, "profile", s->profile);
    while (js_next(s->tasks, &m))
        js_set(tasks, m.key, js_copy(m.value));
    js_set(out, "tasks", tasks);
    if (s->benchmark) {
        struct js *benchmark = js_copy(s->benchmark);
        js_set_bool(benchmark, "per_seed", s->benchmark_per_seed);
        js_set(out, "benchmark", benchmark);
    }
    if (s->calibration)
        js_set(out, "calibration", js_copy(s->calibration));
    js_release(setup);
    for (int i = 0; i < s->n_experiments; i++)
        js_set(experiments, s->experiments[i].name, experiment_to_js(&s->experiments[i]));
    js_set(out, "experiment", experiments);
    if (s->n_comparisons)
        js_set(out, "comparison", comparisons_js(s));
    return out;
}

static void show_value(const struct js *v, struct bytes *out)
{
    switch (js_kind(v)) {
    case JS_TEXT:
        bytes_text(out, "\"");
        toml_show_text(js_text(v), js_text_bytes(v) + 1, out);
        bytes_text(out, "\"");
        break;
    case JS_REAL:
        toml_show_real(js_real(v), out);
        break;
    case JS_ARRAY:
        bytes_text(out, "[");
        for (size_t i = 0; i < js_count(v); i++) {
            bytes_text(out, i ? ", " : "");
            show_value(js_at(v, i), out);
        }
        bytes_text(out, "]");
        break;
    default: {
        char *text = js_write(v, NULL);
        bytes_text(out, text);
        free(text);
    }
    }
}

/* Values first, then the tables below, as TOML wants it. */
static void show_table(const struct js *table, const char *name, struct bytes *out)
{
    struct js_member m = JS_MEMBER_INIT;

    if (*name)
        bytes_printf(out, "%s[%s]\n", out->n ? "\n" : "", name);
    while (js_next(table, &m))
        if (js_kind(m.value) != JS_OBJECT) {
            bytes_printf(out, "%s = ", m.key);
            show_value(m.value, out);
            bytes_text(out, "\n");
        }
    m = (struct js_member)JS_MEMBER_INIT;
    while (js_next(table, &m))
        if (js_kind(m.value) == JS_OBJECT) {
            struct bytes below = BYTES_INIT;
            bytes_printf(&below, "%s%s%s", name, *name ? "." : "", m.key);
            show_table(m.value, below.data, out);
            bytes_release(&below);
        }
}

char *sweep_resolved_text(const struct sweep *s)
{
    struct js *all = resolved_js(s);
    struct bytes out = BYTES_INIT;

    show_table(all, "", &out);
    js_release(all);
    return out.data;
}
