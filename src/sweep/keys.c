/* keys.c - values against their rules; see keys.h. */
#include "sweep/keys.h"

#include "sweep/job.h"
#include "sweep/nearest.h"
#include "sweep/sweep_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool word_in(const char *word, const char *words)
{
    size_t n = strlen(word);

    for (const char *p = words; p && *p;) {
        size_t length = strcspn(p, " ");
        if (length == n && memcmp(p, word, n) == 0)
            return true;
        p += length + (p[length] == ' ');
    }
    return false;
}

bool name_is_valid(const char *name)
{
    size_t n = strlen(name);

    return n >= 1 && n < NAME_MAX_BYTES &&
           strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-") == n;
}

int source_error(struct err *e, const struct source *s, const struct toml_value *v, const char *key,
                 const char *fmt, ...)
{
    struct bytes text = BYTES_INIT;
    char said[1024];
    va_list args;

    va_start(args, fmt);
    vsnprintf(said, sizeof said, fmt, args);
    va_end(args);
    if (v && v->line < 0 && -v->line <= s->n_set) {
        bytes_text(&text, "--set ");
        toml_show_text(s->set[-v->line - 1], 200, &text);
    } else {
        bytes_text(&text, s->path);
        if (v)
            bytes_printf(&text, ":%d", v->line);
        if (key && *key) {
            bytes_text(&text, ": ");
            toml_show_text(key, 200, &text);
        }
        /* A table would be shown as half the file. */
        if (v && v->kind != TOML_KIND_TABLE &&
            !(v->kind == TOML_KIND_ARRAY && v->n && v->items[0]->kind == TOML_KIND_TABLE)) {
            bytes_text(&text, " = ");
            toml_show(v, &text);
        }
    }
    err_set(e, ERR_USAGE, "%s: %s", text.data, said);
    bytes_release(&text);
    return -1;
}

/* ---- one value ---- */

static bool real_fits(const struct key_rule *r, double x)
{
    return r->beyond ? x > r->least && x < r->most : x >= r->least && x <= r->most;
}

static bool int_fits(const struct key_rule *r, const struct toml_value *v)
{
    char text[32];

    snprintf(text, sizeof text, "%lld", (long long)v->integer);
    return v->kind == TOML_KIND_INT && real_fits(r, (double)v->integer) &&
           (!r->choices || word_in(text, r->choices));
}

static bool ints_fit(const struct key_rule *r, const struct toml_value *v)
{
    /* The lists of a benchmark become metrics' names and dimensions; the seeds groups. */
    int most = strcmp(r->name, "seeds") == 0 ? SWEEP_LIST_MAX : 16;

    if (v->kind != TOML_KIND_ARRAY || v->n < 1 || v->n > most)
        return false;
    for (int i = 0; i < v->n; i++) {
        if (!int_fits(r, v->items[i]))
            return false;
        for (int k = 0; k < i; k++)
            if (v->items[k]->integer == v->items[i]->integer)
                return false;
    }
    return true;
}

static bool texts_fit(const struct toml_value *v)
{
    if (v->kind != TOML_KIND_ARRAY || v->n > SKIP_MAX)
        return false;
    for (int i = 0; i < v->n; i++) {
        const struct toml_value *item = v->items[i];
        if (item->kind != TOML_KIND_TEXT || !*item->text || strlen(item->text) > 63)
            return false;
    }
    return true;
}

static bool tables_fit(const struct toml_value *v)
{
    if (v->kind != TOML_KIND_ARRAY || v->n < 1)
        return false;
    for (int i = 0; i < v->n; i++)
        if (v->items[i]->kind != TOML_KIND_TABLE)
            return false;
    return true;
}

static bool fits(const struct key_rule *r, const struct toml_value *v)
{
    switch (r->type) {
    case KEY_TEXT:
        return v->kind == TOML_KIND_TEXT && *v->text &&
               (!r->choices || word_in(v->text, r->choices));
    case KEY_NAME:
        return v->kind == TOML_KIND_TEXT && name_is_valid(v->text);
    case KEY_INT:
        return int_fits(r, v);
    case KEY_REAL: /* a NaN fits nowhere */
        return v->kind == TOML_KIND_INT ? real_fits(r, (double)v->integer)
                                        : v->kind == TOML_KIND_REAL && real_fits(r, v->real);
    case KEY_BOOL:
        return v->kind == TOML_KIND_BOOL;
    case KEY_INTS:
        return ints_fit(r, v);
    case KEY_TEXTS:
        return texts_fit(v);
    case KEY_TABLE:
        return v->kind == TOML_KIND_TABLE;
    case KEY_TABLES:
        return tables_fit(v);
    }
    return false;
}

int key_check(const struct source *s, const struct key_rule *rule, const char *key,
              const struct toml_value *v, struct err *e)
{
    if (v->kind == TOML_KIND_TEXT && word_in(v->text, rule->later))
        return source_error(e, s, v, key, "\"%s\" is not in this version", v->text);
    if (!fits(rule, v))
        return source_error(e, s, v, key, "must be %s", rule->allowed);
    return 0;
}

/* ---- one section ---- */

static const char *full_key(struct bytes *b, const char *section, const char *name)
{
    bytes_release(b);
    bytes_printf(b, "%s%s%s", section, *section ? "." : "", name);
    return b->data;
}

void key_nearest(const char *section, const char *name, struct bytes *out)
{
    struct nearest near = { .wanted = name };
    const char *of = section;

    for (const struct key_rule *r = key_rules(section); r->name; r++)
        nearest_offer(&near, r->name);
    for (const struct key_section *other = key_sections; other->name; other++)
        for (const struct key_rule *r = other->rules; r->name; r++)
            if ((!*section || strcmp(r->name, name) == 0) && nearest_offer(&near, r->name))
                of = other->name;
    bytes_printf(out, "%s%s%s", of, *of ? "." : "", near.best);
}

static int unknown_key(const struct source *s, const struct toml_value *v, const char *section,
                       const char *key, struct err *e)
{
    struct bytes near = BYTES_INIT;

    key_nearest(section, v->key, &near);
    source_error(e, s, v, key, "unknown key; the nearest known key is %s", near.data);
    bytes_release(&near);
    return -1;
}

int section_check(const struct source *s, const struct toml_value *table, const char *section,
                  struct err *e)
{
    const struct key_rule *rules = key_rules(section);
    struct bytes key = BYTES_INIT;
    int rc = 0;

    for (int i = 0; rc == 0 && table && i < table->n; i++) {
        const struct toml_value *v = table->items[i];
        const struct key_rule *rule = key_find(rules, v->key);

        full_key(&key, section, v->key);
        rc = rule ? key_check(s, rule, key.data, v, e) : unknown_key(s, v, section, key.data, e);
    }
    bytes_release(&key);
    return rc;
}

struct js *js_from_toml(const struct toml_value *v)
{
    struct js *out = NULL;

    switch (v->kind) {
    case TOML_KIND_BOOL:
        return js_new_bool(v->boolean);
    case TOML_KIND_INT:
        return js_new_int(v->integer);
    case TOML_KIND_REAL:
        return js_new_real(v->real);
    case TOML_KIND_TEXT:
        return js_new_text(v->text);
    case TOML_KIND_ARRAY:
        out = js_new_array();
        for (int i = 0; i < v->n; i++)
            js_append(out, js_from_toml(v->items[i]));
        break;
    case TOML_KIND_TABLE:
        out = js_new_object();
        for (int i = 0; i < v->n; i++)
            js_set(out, v->items[i]->key, js_from_toml(v->items[i]));
    }
    return out;
}

/* 3600 and 3600.0 are one value: they must give one key of a job. */
static struct js *as_ruled(const struct key_rule *r, const struct toml_value *v)
{
    if (r->type == KEY_REAL)
        return js_new_real(v->kind == TOML_KIND_INT ? (double)v->integer : v->real);
    return js_from_toml(v);
}

static struct js *standard_of(const struct key_rule *r)
{
    struct err e = ERR_INIT;
    struct js *j = js_parse(r->standard, strlen(r->standard), &e);

    if (j && r->type == KEY_REAL && js_kind(j) == JS_INT) {
        double real = js_real(j);
        js_release(j);
        j = js_new_real(real);
    }
    return j;
}

int section_read(const struct source *s, const struct toml_value *root,
                 const struct toml_value *table, const char *section, struct js **out,
                 struct err *e)
{
    struct bytes key = BYTES_INIT;
    int rc = -1;

    *out = js_new_object();
    if (section_check(s, table, section, e) < 0)
        goto out;
    for (const struct key_rule *r = key_rules(section); r->name; r++) {
        const struct toml_value *v = toml_get(table, r->name);

        if (r->type == KEY_TABLE || r->type == KEY_TABLES)
            continue;
        if (v)
            js_set(*out, r->name, as_ruled(r, v));
        else if (r->standard)
            js_set(*out, r->name, standard_of(r));
        else if (r->required) {
            source_error(e, s, table ? table : root, full_key(&key, section, r->name),
                         "is missing; it must be %s", r->allowed);
            goto out;
        }
    }
    rc = 0;
out:
    bytes_release(&key);
    if (rc < 0) {
        js_release(*out);
        *out = NULL;
    }
    return rc;
}
