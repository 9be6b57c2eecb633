/* block.c - see block.h. */
#include "sweep/block.h"

#include "sweep/sweep_file.h"

#include <stdio.h>
#include <string.h>

static const char *key_of(const struct experiment_block *b, const char *key, struct bytes *text)
{
    bytes_release(text);
    bytes_printf(text, "experiment.%s.%s", b->name, key);
    return text->data;
}

/* skip_modules takes a list of texts as one value, a list of such lists as an axis. */
static bool is_axis_list(const struct key_rule *rule, const struct toml_value *v)
{
    if (v->kind != TOML_KIND_ARRAY)
        return false;
    return rule->type != KEY_TEXTS || (v->n > 0 && v->items[0]->kind == TOML_KIND_ARRAY);
}

static bool same_value(const struct toml_value *a, const struct toml_value *b)
{
    if (a->kind == TOML_KIND_ARRAY) {
        bool same = b->kind == TOML_KIND_ARRAY && a->n == b->n;
        for (int i = 0; same && i < a->n; i++)
            same = same_value(a->items[i], b->items[i]);
        return same;
    }
    if (a->kind == TOML_KIND_TEXT || b->kind == TOML_KIND_TEXT)
        return a->kind == b->kind && strcmp(a->text, b->text) == 0;
    if (a->kind == TOML_KIND_BOOL || b->kind == TOML_KIND_BOOL)
        return a->kind == b->kind && a->boolean == b->boolean;
    return (a->kind == TOML_KIND_INT ? (double)a->integer : a->real) ==
           (b->kind == TOML_KIND_INT ? (double)b->integer : b->real);
}

static int read_list(const struct source *s, const struct key_rule *rule, const char *key,
                     const struct toml_value *list, struct err *e)
{
    if (list->n == 0)
        return source_error(e, s, list, key, "the list is empty; each of its values must be %s",
                            rule->allowed);
    if (list->n > SWEEP_LIST_MAX)
        return source_error(e, s, list, key, "has %d values; an axis may have %d", list->n,
                            SWEEP_LIST_MAX);
    for (int i = 0; i < list->n; i++) {
        if (key_check(s, rule, key, list->items[i], e) < 0)
            return -1;
        for (int k = 0; k < i; k++)
            if (same_value(list->items[k], list->items[i]))
                return source_error(e, s, list, key, "holds the same value twice");
    }
    return 0;
}

/* table->items[at] has the key of an axis. */
static int read_axis(const struct source *s, const struct key_rule *rule,
                     struct experiment_block *b, int at, struct err *e)
{
    const struct toml_value *v = b->table->items[at];
    struct bytes key = BYTES_INIT;
    int a = 0, rc;

    while (strcmp(axis_keys[a], rule->name) != 0)
        a++;
    b->axes[a].given = v;
    if (is_axis_list(rule, v)) {
        rc = read_list(s, rule, key_of(b, v->key, &key), v, e);
        b->axes[a].n = v->n;
        b->axes[a].values = v->items;
    } else {
        rc = key_check(s, rule, key_of(b, v->key, &key), v, e);
        b->axes[a].n = 1;
        b->axes[a].values = &b->table->items[at];
    }
    bytes_release(&key);
    return rc;
}

/* Unknown keys and keys of later versions fail in section_check() on their own. */
static int check_alone(const struct source *s, const struct toml_value *v, struct err *e)
{
    struct toml_value *item = (struct toml_value *)(uintptr_t)v;
    struct toml_value table = { .kind = TOML_KIND_TABLE, .n = 1, .items = &item };

    return section_check(s, &table, "experiment", e);
}

int block_read(const struct source *s, const struct toml_value *table, struct experiment_block *out,
               struct err *e)
{
    const struct key_rule *rules = key_rules("experiment");
    const struct toml_value *name = toml_get(table, "name");
    const struct key_rule *name_rule = key_find(rules, "name");

    *out = (struct experiment_block){ .line = table->line, .table = table };
    if (!name)
        return source_error(e, s, table, "experiment.name", "is missing; it must be %s",
                            name_rule->allowed);
    if (key_check(s, name_rule, "experiment.name", name, e) < 0)
        return -1;
    snprintf(out->name, sizeof out->name, "%s", name->text);

    for (int i = 0; i < table->n; i++) {
        const struct toml_value *v = table->items[i];
        const struct key_rule *rule = key_find(rules, v->key);

        if (!rule) {
            if (check_alone(s, v, e) < 0)
                return -1;
        } else if (rule != name_rule && read_axis(s, rule, out, i, e) < 0) {
            return -1;
        }
    }
    if (!out->axes[AXIS_METHOD].n) {
        struct bytes key = BYTES_INIT;
        source_error(e, s, table, key_of(out, "method", &key), "is missing; it must be %s",
                     key_find(rules, "method")->allowed);
        bytes_release(&key);
        return -1;
    }
    return 0;
}

int64_t block_n_cells(const struct experiment_block *b)
{
    int64_t n = 1;

    for (int a = 0; a < N_AXES; a++) {
        n *= b->axes[a].n ? b->axes[a].n : 1;
        if (n > SWEEP_MAX_JOBS)
            return SWEEP_MAX_JOBS + 1;
    }
    return n;
}

void block_cell(const struct experiment_block *b, int64_t i, struct cell *out)
{
    *out = (struct cell){ 0 };
    for (int a = N_AXES - 1; a >= 0; a--) {
        const struct axis *axis = &b->axes[a];

        if (axis->n) {
            out->value[a] = axis->values[i % axis->n];
            i /= axis->n;
        }
    }
}

static void add_value(const struct toml_value *v, struct bytes *out)
{
    if (v->kind == TOML_KIND_TEXT) {
        bytes_text(out, v->text);
    } else if (v->kind != TOML_KIND_ARRAY) {
        toml_show(v, out);
    } else if (v->n == 0) {
        bytes_text(out, "nothing");
    }
    for (int i = 0; i < v->n; i++)
        bytes_printf(out, "%s%s", i ? "." : "", v->items[i]->text);
}

void block_cell_name(const struct experiment_block *b, const struct cell *c, struct bytes *out)
{
    bytes_text(out, b->name);
    for (int a = 0; a < N_AXES; a++) {
        const struct toml_value *v = c->value[a];

        if (b->axes[a].n < 2)
            continue;
        switch ((enum axis_id)a) {
        case AXIS_BITS:
            bytes_printf(out, "_%lldbit", (long long)v->integer);
            break;
        case AXIS_GROUP_SIZE:
            if (v->integer == -1)
                bytes_text(out, "_grow");
            else if (v->integer == 0)
                bytes_text(out, "_gmatrix");
            else
                bytes_printf(out, "_g%lld", (long long)v->integer);
            break;
        case AXIS_QUANT_TYPE:
        case AXIS_COMPUTE_DTYPE:
            bytes_printf(out, "_%s", v->text);
            break;
        case AXIS_DOUBLE_QUANT:
            bytes_text(out, v->boolean ? "_dq" : "_nodq");
            break;
        default:
            bytes_printf(out, "_%s-", axis_keys[a]);
            add_value(v, out);
        }
    }
}
