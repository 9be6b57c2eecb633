/* sweep_file.c - from TOML to struct sweep; see sweep_file.h.
 *
 * Steps: 1. the file as a tree; 2. --set put in; 3. every section checked against its rules and
 * turned into JSON with defaults; 4. plain fields taken out of it; 5. blocks of experiments.  */
#include "sweep/sweep_file.h"

#include "base/file.h"
#include "sweep/block.h"
#include "sweep/keys.h"
#include "sweep/overrides.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct source source_of(const struct sweep *s)
{
    return (struct source){ s->path, s->n_set, (const char *const *)s->set };
}

static int read_section(const struct sweep *s, const char *name, const struct toml_value *table,
                        struct js **out, struct err *e)
{
    struct source source = source_of(s);

    return section_read(&source, s->tree, table, name, out, e);
}

static void take_text(char *to, size_t room, const struct js *section, const char *key)
{
    const char *text = js_text(js_get(section, key));

    snprintf(to, room, "%s", text ? text : "");
}

/* ---- paths ---- */

/* Absolute, the last part as named: a link of the Hugging Face cache must keep its ending, which
 * says what kind of file it is. */
static char *absolute_path(const struct sweep *s, const struct toml_value *v)
{
    char *joined = v->line < 0 ? mem_text(v->text) : file_join(s->folder, v->text);

    for (size_t n = strlen(joined); n > 1 && joined[n - 1] == '/'; n--)
        joined[n - 1] = 0;
    const char *slash = strrchr(joined, '/');
    const char *last = slash ? slash + 1 : joined;
    if (!*last || strcmp(last, ".") == 0 || strcmp(last, "..") == 0) {
        char *whole = file_absolute(joined);
        free(joined);
        return whole;
    }
    char *folder = file_folder(joined);
    char *real = file_absolute(folder);
    char *out = file_join(real, last);
    free(real);
    free(folder);
    free(joined);
    return out;
}

/* "gpt2", "meta-llama/Llama-3.2-1B" */
static bool could_be_hub_id(const char *path)
{
    const char *slash = strchr(path, '/');

    if (*path == '.' || *path == '/' || (slash && (!slash[1] || strchr(slash + 1, '/'))))
        return false;
    return strspn(path, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-/") ==
           strlen(path);
}

/* ---- sections ---- */

static int read_margins(struct sweep *s, const struct toml_value *table, struct err *e)
{
    struct js *section = NULL;
    struct js_member m = JS_MEMBER_INIT;

    if (read_section(s, "sweep.margin", toml_get(table, "margin"), &section, e) < 0)
        return -1;
    while (js_next(section, &m)) {
        struct margin *margin = &s->margins[s->n_margins++];
        snprintf(margin->metric, sizeof margin->metric, "%s", m.key);
        margin->value = js_real(m.value);
    }
    js_release(section);
    return 0;
}

/* "sweeps/gptq.toml" -> "gptq" */
static void name_from_path(struct sweep *s)
{
    const char *slash = strrchr(s->path, '/');
    const char *stem = slash ? slash + 1 : s->path;
    const char *dot = strrchr(stem, '.');
    int n = dot && dot != stem ? (int)(dot - stem) : (int)strlen(stem);

    if (n < NAME_MAX_BYTES)
        snprintf(s->name, sizeof s->name, "%.*s", n, stem);
    if (!name_is_valid(s->name))
        snprintf(s->name, sizeof s->name, "sweep");
}

static int read_sweep_section(struct sweep *s, const struct sweep_overrides *o, struct err *e)
{
    struct toml_value *table = toml_get(s->tree, "sweep");
    struct js *section = NULL;

    /* --seeds stands in for the file's seeds, also where it has none or bad ones. */
    if (o && o->has_seeds) {
        if (!table)
            toml_add(s->tree, "sweep", table = toml_new(TOML_KIND_TABLE, 1));
        struct toml_value *seeds = toml_new(TOML_KIND_ARRAY, table->line);
        for (int i = 0; i < o->n_seeds; i++) {
            struct toml_value *seed = toml_new(TOML_KIND_INT, table->line);
            seed->integer = o->seeds[i];
            toml_add(seeds, NULL, seed);
        }
        toml_put(table, "seeds", seeds);
    }
    if (read_section(s, "sweep", table, &section, e) < 0)
        return -1;
    take_text(s->name, sizeof s->name, section, "name");
    if (!*s->name)
        name_from_path(s);
    take_text(s->baseline, sizeof s->baseline, section, "baseline");
    s->confidence = js_real(js_get(section, "confidence"));
    s->job_timeout_s = js_real(js_get(section, "job_timeout"));
    const struct js *seeds = js_get(section, "seeds");
    s->n_seeds = (int)js_count(seeds);
    for (int i = 0; i < s->n_seeds; i++)
        s->seeds[i] = js_int(js_at(seeds, (size_t)i));
    js_release(section);
    return read_margins(s, table, e);
}

static int read_model_section(struct sweep *s, struct err *e)
{
    const struct toml_value *table = toml_get(s->tree, "model");
    struct js *section = NULL;

    if (read_section(s, "model", table, &section, e) < 0)
        return -1;
    const struct toml_value *path = toml_get(table, "path"), *config = toml_get(table, "config");
    s->model_path = absolute_path(s, path);
    if (!file_is_folder(s->model_path) && could_be_hub_id(path->text)) {
        free(s->model_path);
        s->model_path = mem_text(path->text);
    }
    s->model_config = config ? absolute_path(s, config) : NULL;
    s->model_revision = mem_text(js_text(js_get(section, "revision")));
    take_text(s->source_dtype, sizeof s->source_dtype, section, "source_dtype");
    s->tensor_parallel = (int)js_int(js_get(section, "tensor_parallel"));
    js_release(section);
    return 0;
}

static int read_run_section(struct sweep *s, struct err *e)
{
    struct js *section = NULL;

    if (read_section(s, "run", toml_get(s->tree, "run"), &section, e) < 0)
        return -1;
    s->batch_size = (int)js_int(js_get(section, "batch_size"));
    js_release(section);
    return 0;
}

/* Of a protocol; 0: the model's positions. */
static int64_t window_of(const char *protocol)
{
    return strcmp(protocol, "lm_eval") == 0 ? 0 : strcmp(protocol, "llama_cpp") == 0 ? 512 : 2048;
}

/* The divergence is that of the perplexity text, in its windows. */
static int read_divergence(struct sweep *s, const struct toml_value *tasks, struct err *e)
{
    const struct toml_value *table = toml_get(tasks, "divergence");
    struct source source = source_of(s);

    if (!table)
        return 0;
    if (!js_get(s->tasks, "perplexity"))
        return source_error(e, &source, table, "tasks.divergence",
                            "needs [tasks.perplexity], whose text it runs on");
    js_set(s->tasks, "divergence", js_copy(js_get(s->tasks, "perplexity")));
    return 0;
}

/* A table with an absolute path and the limit of the command line. */
static int read_options(struct sweep *s, const char *section, const struct toml_value *table,
                        int64_t limit, struct js **out, struct err *e)
{
    if (read_section(s, section, table, out, e) < 0)
        return -1;
    const struct toml_value *path = toml_get(table, "path");
    if (path) {
        char *absolute = absolute_path(s, path);
        js_set_text(*out, "path", absolute);
        free(absolute);
    }
    if (limit >= 0 && js_get(*out, "limit"))
        js_set_int(*out, "limit", limit);
    return 0;
}

static int read_task(struct sweep *s, const struct toml_value *tasks, const char *name,
                     int64_t limit, struct err *e)
{
    const struct toml_value *table = toml_get(tasks, name);
    char section[64];
    struct js *task = NULL;

    if (!table)
        return 0;
    snprintf(section, sizeof section, "tasks.%s", name);
    if (read_options(s, section, table, limit, &task, e) < 0)
        return -1;
    if (strcmp(name, "coqa") == 0 && strcmp(s->profile, "official-coqa") == 0 &&
        !toml_get(table, "turns"))
        js_set_text(task, "turns", "all");
    if (strcmp(name, "perplexity") == 0 && !toml_get(table, "window"))
        js_set_int(task, "window", window_of(js_text(js_get(task, "protocol"))));
    js_set(s->tasks, name, task);
    return 0;
}

/* Each table inside is a task; together they run as one. */
static int read_multiple_choice(struct sweep *s, const struct toml_value *tasks, int64_t limit,
                                struct err *e)
{
    static const char section[] = "tasks.multiple_choice";
    const struct toml_value *table = toml_get(tasks, "multiple_choice");
    struct source source = source_of(s);
    struct js *all = NULL;

    if (!table)
        return 0;
    if (read_section(s, section, table, &all, e) < 0)
        return -1;
    js_set(s->tasks, "multiple_choice", all);
    for (const struct key_rule *r = key_rules(section); r->name; r++) {
        char name[96];
        struct js *task = NULL;
        if (!toml_get(table, r->name))
            continue;
        snprintf(name, sizeof name, "%s.%s", section, r->name);
        if (read_options(s, name, toml_get(table, r->name), limit, &task, e) < 0)
            return -1;
        js_set(all, r->name, task);
    }
    if (js_count(all) == 0)
        return source_error(e, &source, table, section,
                            "names no data set: it wants tables such as "
                            "[tasks.multiple_choice.hellaswag]");
    return 0;
}

static int read_tasks_section(struct sweep *s, const struct sweep_overrides *o, struct err *e)
{
    static const char *const names[] = { "sanity", "coqa", "perplexity",
                                         "divergence" }; /* as they run */
    const struct toml_value *table = toml_get(s->tree, "tasks");
    int64_t limit = o ? o->limit : -1;
    struct js *section = NULL;

    if (read_section(s, "tasks", table, &section, e) < 0)
        return -1;
    take_text(s->profile, sizeof s->profile, section, "profile");
    js_release(section);
    s->tasks = js_new_object();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (read_task(s, table, names[i], limit, e) < 0)
            return -1;
    return read_divergence(s, table, e) < 0 ? -1 : read_multiple_choice(s, table, limit, e);
}

static int read_benchmark_section(struct sweep *s, struct err *e)
{
    const struct toml_value *table = toml_get(s->tree, "benchmark");
    struct js *section = NULL;
    struct js_member m = JS_MEMBER_INIT;

    if (!table)
        return 0;
    if (read_section(s, "benchmark", table, &section, e) < 0)
        return -1;
    s->benchmark_per_seed = js_bool(js_get(section, "per_seed"));
    s->benchmark = js_new_object();
    /* per_seed decides which jobs there are, not what one of them measures. */
    while (js_next(section, &m))
        if (strcmp(m.key, "per_seed") != 0)
            js_set(s->benchmark, m.key, js_copy(m.value));
    js_release(section);
    return 0;
}

static int read_calibration_section(struct sweep *s, struct err *e)
{
    const struct toml_value *table = toml_get(s->tree, "calibration");

    if (!table)
        return 0;
    if (read_section(s, "calibration", table, &s->calibration, e) < 0)
        return -1;
    char *absolute = absolute_path(s, toml_get(table, "path"));
    js_set_text(s->calibration, "path", absolute);
    free(absolute);
    return 0;
}

static int read_blocks(struct sweep *s, struct err *e)
{
    const struct toml_value *list = toml_get(s->tree, "experiment");
    struct source source = source_of(s);

    if (!list)
        return source_error(e, &source, NULL, "experiment",
                            "the file has no [[experiment]]; at least one is needed");
    s->blocks = mem_array((size_t)list->n, sizeof *s->blocks);
    for (int i = 0; i < list->n; i++) {
        if (block_read(&source, list->items[i], &s->blocks[i], e) < 0)
            return -1;
        s->n_blocks++;
    }
    return 0;
}

static int read_comparisons(struct sweep *s, struct err *e)
{
    const struct toml_value *list = toml_get(s->tree, "comparison");
    int n = list ? list->n : 0;

    s->comparisons = mem_array((size_t)n, sizeof *s->comparisons);
    for (int i = 0; i < n; i++) {
        struct comparison *c = &s->comparisons[s->n_comparisons++];
        struct js *section = NULL;
        if (read_section(s, "comparison", list->items[i], &section, e) < 0)
            return -1;
        take_text(c->a, sizeof c->a, section, "a");
        take_text(c->b, sizeof c->b, section, "b");
        c->line = list->items[i]->line;
        js_release(section);
    }
    return 0;
}

/* ---- the whole ---- */

int sweep_read_text(const char *path, const char *text, size_t n_bytes,
                    const struct sweep_overrides *o, struct sweep *out, struct err *e)
{
    *out = (struct sweep)SWEEP_INIT;
    out->path = mem_text(path);
    out->folder = file_folder(path);
    out->text = mem_textn(text, n_bytes);
    out->text_bytes = n_bytes;
    out->n_set = o ? o->n_set : 0;
    out->set = mem_array((size_t)out->n_set + 1, sizeof *out->set);
    for (int i = 0; i < out->n_set; i++)
        out->set[i] = mem_text(o->set[i]);

    out->tree = toml_parse(out->path, out->text, out->text_bytes, e);
    if (!out->tree)
        goto failed;
    struct source source = source_of(out);
    if (overrides_apply(&source, out->tree, e) < 0 ||
        section_check(&source, out->tree, "", e) < 0 || read_sweep_section(out, o, e) < 0 ||
        read_model_section(out, e) < 0 || read_run_section(out, e) < 0 ||
        read_tasks_section(out, o, e) < 0 || read_benchmark_section(out, e) < 0 ||
        read_calibration_section(out, e) < 0 || read_blocks(out, e) < 0 ||
        read_comparisons(out, e) < 0)
        goto failed;
    return 0;
failed:
    sweep_release(out);
    return -1;
}

int sweep_read(const char *path, const struct sweep_overrides *o, struct sweep *out, struct err *e)
{
    struct bytes text = BYTES_INIT;
    int64_t size = file_size(path);
    int rc = -1;

    *out = (struct sweep)SWEEP_INIT;
    /* Refused by its size before it is read; what has no size is measured afterwards. */
    if (size > TOML_TEXT_MAX)
        return err_set(e, ERR_USAGE, "%s: has %lld bytes, a sweep file may have %d", path,
                       (long long)size, TOML_TEXT_MAX);
    if (file_read(path, &text, e) == 0)
        rc = sweep_read_text(path, text.data, text.n, o, out, e);
    else
        e->code = ERR_USAGE;
    bytes_release(&text);
    return rc;
}

void sweep_release(struct sweep *s)
{
    for (int i = 0; i < s->n_set; i++)
        free(s->set[i]);
    free(s->set);
    free(s->path);
    free(s->folder);
    free(s->text);
    free(s->model_path);
    free(s->model_config);
    free(s->model_revision);
    js_release(s->tasks);
    js_release(s->benchmark);
    js_release(s->calibration);
    free(s->blocks);
    free(s->comparisons);
    toml_release(s->tree);
    free(s->experiments);
    free(s->jobs);
    free(s->removed_cells);
    *s = (struct sweep)SWEEP_INIT;
}
