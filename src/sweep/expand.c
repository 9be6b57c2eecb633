/* expand.c - blocks -> experiments -> jobs; see sweep_expand() in sweep_file.h. */
#include "sweep/sweep_file.h"

#include "base/memory.h"
#include "sweep/block.h"
#include "sweep/keys.h"
#include "sweep/method.h"
#include "sweep/nearest.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REMOVED_SHOWN 20 /* cells named in the one line about removed ones */

struct expansion {
    struct sweep *sweep;
    struct source source;
    cell_check *check;
    void *context;
    int n, n_removed;
    struct experiment *experiments; /* room for every cell */
    struct bytes removed;
};

/* ---- one cell ---- */

static void remember_removed(struct expansion *x, const char *name, const char *why)
{
    if (x->n_removed++ < REMOVED_SHOWN)
        bytes_printf(&x->removed, "%s%s (%s)", x->n_removed > 1 ? ", " : "", name, why);
}

/* The model at hand refuses the cell: is it the group size? */
static unsigned axes_at_fault(const struct expansion *x, const struct experiment *cell)
{
    struct experiment other = *cell;
    struct err ignored = ERR_INIT;

    other.group_size = strcmp(cell->method, "bnb_4bit") == 0 ? 64 : -1;
    if (cell->group_size && x->check(&other, x->context, &ignored) == 0)
        return AXIS_BIT(AXIS_GROUP_SIZE);
    return AXIS_BIT(N_AXES) - 1;
}

static bool stand_alone(const struct experiment_block *b, unsigned axes)
{
    for (int a = 0; a < N_AXES; a++)
        if ((axes & AXIS_BIT(a)) && b->axes[a].n > 1)
            return false;
    return true;
}

static int refuse_cell(struct expansion *x, const struct experiment_block *b, const char *name,
                       const struct refusal *r, struct err *e)
{
    char key[160];

    if (r->axes && !stand_alone(b, r->axes)) {
        remember_removed(x, name, r->why);
        return 0;
    }
    if (r->at < N_AXES && b->axes[r->at].given) {
        snprintf(key, sizeof key, "experiment.%s.%s", b->name, axis_keys[r->at]);
        return source_error(e, &x->source, b->axes[r->at].given, key, "%s", r->why);
    }
    snprintf(key, sizeof key, "experiment.%s", b->name);
    return source_error(e, &x->source, b->table, key, "%s", r->why);
}

static int add_cell(struct expansion *x, const struct experiment_block *b, int64_t i, struct err *e)
{
    struct experiment *out = &x->experiments[x->n];
    struct cell cell;
    struct refusal why = { 0 };
    struct err refused = ERR_INIT;
    struct bytes name = BYTES_INIT;
    int rc = 0;

    block_cell(b, i, &cell);
    block_cell_name(b, &cell, &name);
    if (method_resolve(&cell, out, &why) < 0) {
        rc = refuse_cell(x, b, name.data, &why, e);
    } else if (!name_is_valid(name.data)) {
        rc = source_error(e, &x->source, b->table, "experiment.name",
                          "the cell %s gets a name of more than %d characters", name.data,
                          NAME_MAX_BYTES - 1);
    } else {
        memcpy(out->name, name.data, name.n + 1);
        out->line = b->line;
        if (x->check && x->check(out, x->context, &refused) < 0) {
            why.axes = axes_at_fault(x, out);
            why.at = why.axes == AXIS_BIT(AXIS_GROUP_SIZE) ? AXIS_GROUP_SIZE : N_AXES;
            snprintf(why.why, sizeof why.why, "%.*s", (int)sizeof why.why - 1, refused.text);
            rc = refuse_cell(x, b, name.data, &why, e);
        } else {
            x->n++;
        }
    }
    bytes_release(&name);
    return rc;
}

static int expand_blocks(struct expansion *x, struct err *e)
{
    const struct sweep *s = x->sweep;
    int64_t n_cells = 0;

    for (int b = 0; b < s->n_blocks; b++) {
        n_cells += block_n_cells(&s->blocks[b]);
        if (n_cells > SWEEP_MAX_JOBS)
            return source_error(e, &x->source, s->blocks[b].table, "experiment",
                                "the sweep has more than %d cells", SWEEP_MAX_JOBS);
    }
    x->experiments = mem_array((size_t)n_cells, sizeof *x->experiments);
    for (int b = 0; b < s->n_blocks; b++) {
        int64_t n = block_n_cells(&s->blocks[b]);
        for (int64_t i = 0; i < n; i++)
            if (add_cell(x, &s->blocks[b], i, e) < 0)
                return -1;
    }
    if (x->n == 0)
        return source_error(e, &x->source, NULL, "experiment", "no cell can run: %s",
                            x->removed.data);
    return 0;
}

/* ---- cells that are the same ---- */

struct labelled {
    char *text;
    int i;
};

static int by_text(const void *a, const void *b)
{
    const struct labelled *x = a, *y = b;
    int order = strcmp(x->text, y->text);

    return order ? order : x->i - y->i;
}

/* Finds the first experiment whose text an earlier one has: *first and *again, or -1. */
static void find_twins(struct labelled *all, int n, int *first, int *again)
{
    *again = -1;
    qsort(all, (size_t)n, sizeof *all, by_text);
    for (int i = 1; i < n; i++)
        if (strcmp(all[i - 1].text, all[i].text) == 0 && (*again < 0 || all[i].i < *again)) {
            *first = all[i - 1].i;
            *again = all[i].i;
        }
}

static int check_twins(const struct expansion *x, bool by_name, struct err *e)
{
    struct labelled *all = mem_array((size_t)x->n, sizeof *all);
    int first = 0, again, rc = 0;

    for (int i = 0; i < x->n; i++) {
        all[i].i = i;
        if (by_name) {
            all[i].text = mem_text(x->experiments[i].name);
        } else {
            struct js *settings = experiment_to_js(&x->experiments[i]);
            all[i].text = js_write(settings, NULL);
            js_release(settings);
        }
    }
    find_twins(all, x->n, &first, &again);
    if (again >= 0) {
        const struct experiment *a = &x->experiments[first], *b = &x->experiments[again];
        struct toml_value here = { .kind = TOML_KIND_TABLE, .line = b->line };
        char key[96];
        snprintf(key, sizeof key, "experiment.%s", b->name);
        rc = by_name ? source_error(e, &x->source, &here, key,
                                    "the experiment of line %d has the same name", a->line)
                     : source_error(e, &x->source, &here, key,
                                    "has the same settings as %s of line %d", a->name, a->line);
    }
    for (int i = 0; i < x->n; i++)
        free(all[i].text);
    free(all);
    return rc;
}

/* ---- baseline, --experiment ---- */

static int find_baseline(const struct expansion *x, struct err *e)
{
    struct sweep *s = x->sweep;
    struct nearest near = { .wanted = s->baseline };

    for (int i = 0; i < x->n; i++) {
        const struct experiment *cell = &x->experiments[i];
        if (!*s->baseline && strcmp(cell->method, "none") == 0)
            snprintf(s->baseline, sizeof s->baseline, "%s", cell->name);
        if (strcmp(cell->name, s->baseline) == 0)
            return 0;
        nearest_offer(&near, cell->name);
    }
    if (!*s->baseline)
        return 0;
    return source_error(e, &x->source, toml_get(toml_get(s->tree, "sweep"), "baseline"),
                        "sweep.baseline", "no experiment has this name; the nearest is %s",
                        near.best);
}

/* The names of [[comparison]]: known, of two different experiments, each pair once. */
static int check_comparisons(const struct expansion *x, struct err *e)
{
    const struct sweep *s = x->sweep;

    for (int i = 0; i < s->n_comparisons; i++) {
        const struct comparison *c = &s->comparisons[i];
        struct toml_value here = { .kind = TOML_KIND_TABLE, .line = c->line };
        for (int side = 0; side < 2; side++) {
            const char *name = side ? c->b : c->a;
            struct nearest near = { .wanted = name };
            bool known = false;
            for (int k = 0; k < x->n && !known; k++) {
                known = strcmp(x->experiments[k].name, name) == 0;
                nearest_offer(&near, x->experiments[k].name);
            }
            if (!known)
                return source_error(e, &x->source, &here, side ? "comparison.b" : "comparison.a",
                                    "no experiment is called %s; the nearest is %s", name,
                                    near.best);
        }
        if (strcmp(c->a, c->b) == 0)
            return source_error(e, &x->source, &here, "comparison",
                                "%s would be compared with itself", c->a);
        for (int k = 0; k < i; k++) {
            const struct comparison *d = &s->comparisons[k];
            if ((strcmp(c->a, d->a) == 0 && strcmp(c->b, d->b) == 0) ||
                (strcmp(c->a, d->b) == 0 && strcmp(c->b, d->a) == 0))
                return source_error(e, &x->source, &here, "comparison",
                                    "%s and %s are compared in line %d already", c->a, c->b,
                                    d->line);
        }
    }
    return 0;
}

static bool is_wanted(const char *name, const struct sweep_overrides *o)
{
    for (int p = 0; o && p < o->n_only; p++)
        if (fnmatch(o->only[p], name, 0) == 0)
            return true;
    return !o || o->n_only == 0;
}

static int no_match(const struct expansion *x, const char *pattern, struct err *e)
{
    struct bytes text = BYTES_INIT;

    bytes_text(&text, "--experiment ");
    toml_show_text(pattern, 200, &text);
    bytes_printf(&text, ": no experiment of %s has this name; known:", x->source.path);
    for (int i = 0; i < x->n; i++) {
        if (text.n > ERR_TEXT_MAX - 200) {
            bytes_printf(&text, " and %d more", x->n - i);
            break;
        }
        bytes_printf(&text, " %s", x->experiments[i].name);
    }
    err_set(e, ERR_USAGE, "%s", text.data);
    bytes_release(&text);
    return -1;
}

/* The wanted ones first, both parts in the order of the file. */
static int filter(struct expansion *x, const struct sweep_overrides *o, struct err *e)
{
    struct sweep *s = x->sweep;

    for (int p = 0; o && p < o->n_only; p++) {
        bool any = false;
        for (int i = 0; i < x->n && !any; i++)
            any = fnmatch(o->only[p], x->experiments[i].name, 0) == 0;
        if (!any)
            return no_match(x, o->only[p], e);
    }
    s->experiments = mem_array((size_t)x->n, sizeof *s->experiments);
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < x->n; i++)
            if (is_wanted(x->experiments[i].name, o) == (pass == 0))
                s->experiments[s->n_known++] = x->experiments[i];
        if (pass == 0)
            s->n_experiments = s->n_known;
    }
    return 0;
}

/* ---- jobs ---- */

/* Has a task, or a data set of one, subset = "random"? */
static bool draws_items(const struct js *table)
{
    const char *subset = js_text(js_get(table, "subset"));
    struct js_member m = JS_MEMBER_INIT;
    bool draws = subset && strcmp(subset, "random") == 0;

    while (!draws && js_kind(table) == JS_OBJECT && js_next(table, &m))
        draws = draws_items(m.value);
    return draws;
}

bool sweep_seed_matters(const struct sweep *s, const struct experiment *x)
{
    const struct method_rule *m = method_find(x->method);

    return !m || !m->data_free || draws_items(s->tasks);
}

static int make_jobs(const struct expansion *x, struct err *e)
{
    struct sweep *s = x->sweep;
    int64_t n = 0;

    /* First count, then fill. */
    for (int pass = 0; pass < 2; pass++) {
        n = 0;
        for (int i = 0; i < s->n_experiments; i++) {
            bool matters = sweep_seed_matters(s, &s->experiments[i]);
            for (int k = 0; k < s->n_seeds; k++) {
                struct job j = { .id = (int)n,
                                 .experiment = &s->experiments[i],
                                 .seed = s->seeds[k],
                                 .quality = k == 0 || matters,
                                 .benchmark = s->benchmark && (k == 0 || s->benchmark_per_seed) };
                if (!j.quality && !j.benchmark)
                    continue;
                if (s->jobs)
                    s->jobs[n] = j;
                n++;
            }
        }
        if (n > SWEEP_MAX_JOBS)
            return source_error(e, &x->source, NULL, NULL,
                                "the sweep has %lld jobs, at most %d are allowed", (long long)n,
                                SWEEP_MAX_JOBS);
        if (pass == 0)
            s->jobs = mem_array((size_t)n, sizeof *s->jobs);
    }
    s->n_jobs = (int)n;
    return 0;
}

static void forget_expansion(struct sweep *s)
{
    free(s->experiments);
    free(s->jobs);
    free(s->removed_cells);
    s->experiments = NULL;
    s->jobs = NULL;
    s->removed_cells = NULL;
    s->n_experiments = s->n_known = s->n_jobs = 0;
}

/* In turn, not in runs: neighbours take about as long. */
static void keep_shard(struct sweep *s, const struct sweep_overrides *o)
{
    int n = 0;

    if (!o || o->n_shards < 2)
        return;
    for (int i = o->shard - 1; i < s->n_jobs; i += o->n_shards) {
        s->jobs[n] = s->jobs[i];
        s->jobs[n].id = n;
        n++;
    }
    s->n_jobs = n;
}

int sweep_expand(struct sweep *s, const struct sweep_overrides *o, cell_check *check, void *context,
                 struct err *e)
{
    struct expansion x = { .sweep = s,
                           .source = { s->path, s->n_set, (const char *const *)s->set },
                           .check = check,
                           .context = context };
    int rc = -1;

    forget_expansion(s);
    if (expand_blocks(&x, e) < 0 || check_twins(&x, true, e) < 0 || check_twins(&x, false, e) < 0 ||
        find_baseline(&x, e) < 0 || check_comparisons(&x, e) < 0 || filter(&x, o, e) < 0 ||
        make_jobs(&x, e) < 0)
        goto out;
    keep_shard(s, o);
    if (x.n_removed) {
        if (x.n_removed > REMOVED_SHOWN)
            bytes_printf(&x.removed, ", and %d more", x.n_removed - REMOVED_SHOWN);
        s->removed_cells = x.removed.data;
        x.removed = (struct bytes)BYTES_INIT;
    }
    rc = 0;
out:
    bytes_release(&x.removed);
    free(x.experiments);
    if (rc < 0)
        forget_expansion(s);
    return rc;
}
