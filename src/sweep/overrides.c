/* overrides.c - see overrides.h. */
#include "sweep/overrides.h"

#include "sweep/nearest.h"

#include <stdlib.h>
#include <string.h>

static int complain(const struct source *s, int i, struct err *e, const char *text)
{
    struct toml_value here = { .line = -(i + 1) };

    return source_error(e, s, &here, NULL, "%s", text);
}

/* ---- VALUE ---- */

static struct toml_value *parse_value(const char *text)
{
    struct bytes line = BYTES_INIT;
    struct err ignored = ERR_INIT;
    struct toml_value *value = NULL;

    bytes_printf(&line, "v = %s\n", text);
    struct toml_value *root = toml_parse("--set", line.data, line.n, &ignored);
    /* More than one member: VALUE held a line end and went on. */
    if (root && root->n == 1) {
        value = root->items[0];
        free(value->key);
        value->key = NULL;
        root->n = 0;
    }
    toml_release(root);
    bytes_release(&line);
    return value;
}

static struct toml_value *text_value(const char *text)
{
    struct toml_value *v = toml_new(TOML_KIND_TEXT, 0);

    v->text = mem_text(text);
    return v;
}

/* NULL: begins as a list, table or quoted text does, and is none. */
static struct toml_value *value_of(const char *text)
{
    if (*text && strchr("[{\"'", *text))
        return parse_value(text);
    /* "run#3" is a text; the parser would take "5#3" for 5 and a comment. */
    struct toml_value *v = strpbrk(text, "#\n") ? NULL : parse_value(text);

    if (v && (v->kind == TOML_KIND_INT || v->kind == TOML_KIND_REAL || v->kind == TOML_KIND_BOOL))
        return v;
    toml_release(v);
    return text_value(text);
}

/* ---- KEY ---- */

static int unknown(const struct source *s, int i, const char *key, struct err *e)
{
    const char *dot = strrchr(key, '.');
    struct bytes text = BYTES_INIT;

    bytes_text(&text, "unknown key; the nearest known key is ");
    key_nearest("", dot ? dot + 1 : key, &text);
    complain(s, i, e, text.data);
    bytes_release(&text);
    return -1;
}

static struct toml_value *block_named(const struct toml_value *root, const char *name)
{
    const struct toml_value *blocks = toml_get(root, "experiment");

    for (int b = 0; blocks && blocks->kind == TOML_KIND_ARRAY && b < blocks->n; b++) {
        const struct toml_value *own = toml_get(blocks->items[b], "name");
        if (own && own->kind == TOML_KIND_TEXT && strcmp(own->text, name) == 0)
            return blocks->items[b];
    }
    return NULL;
}

static int no_block(const struct source *s, int i, const struct toml_value *root, const char *name,
                    struct err *e)
{
    const struct toml_value *blocks = toml_get(root, "experiment");
    struct nearest near = { .wanted = name };
    struct bytes text = BYTES_INIT;

    for (int b = 0; blocks && blocks->kind == TOML_KIND_ARRAY && b < blocks->n; b++) {
        const struct toml_value *own = toml_get(blocks->items[b], "name");
        if (own && own->kind == TOML_KIND_TEXT)
            nearest_offer(&near, own->text);
    }
    bytes_text(&text, "the file has no [[experiment]] of this name");
    if (near.best) {
        bytes_text(&text, "; the nearest is ");
        toml_show_text(near.best, 64, &text);
    }
    complain(s, i, e, text.data);
    bytes_release(&text);
    return -1;
}

/* path is "NAME.key"; NAME may hold dots. */
static int set_in_block(const struct source *s, int i, struct toml_value *root, char *path,
                        struct toml_value *value, struct err *e)
{
    char *dot = strrchr(path, '.');

    if (!dot || dot == path || !dot[1])
        return complain(s, i, e, "must be experiment.NAME.KEY=VALUE");
    *dot = 0;
    struct toml_value *block = block_named(root, path);
    if (!block)
        return no_block(s, i, root, path, e);
    toml_put(block, dot + 1, value);
    return 0;
}

static int set_in_section(const struct source *s, int i, struct toml_value *root, char *path,
                          const char *key, struct toml_value *value, struct err *e)
{
    struct toml_value *table = root;
    struct bytes section = BYTES_INIT;
    int rc = -1;

    bytes_text(&section, "");
    for (char *part = path, *dot; (dot = strchr(part, '.')); part = dot + 1) {
        *dot = 0;
        const struct key_rule *rule = key_find(key_rules(section.data), part);
        if (!rule || rule->type != KEY_TABLE) {
            unknown(s, i, key, e);
            goto out;
        }
        struct toml_value *next = toml_get(table, part);
        if (next && next->kind != TOML_KIND_TABLE) {
            source_error(e, s, next, part, "must be a table");
            goto out;
        }
        if (!next) {
            next = toml_new(TOML_KIND_TABLE, -(i + 1));
            toml_add(table, part, next);
        }
        table = next;
        bytes_printf(&section, "%s%s", section.n ? "." : "", part);
        path = dot + 1;
    }
    const struct key_rule *last = key_find(key_rules(section.data), path);
    /* At the root only tables live: name the nearest full key, "sweep.seeds" for "seeds". */
    if (!last && !section.n) {
        unknown(s, i, key, e);
        goto out;
    }
    toml_put(table, path, value);
    rc = 0;
out:
    bytes_release(&section);
    return rc;
}

static int apply(const struct source *s, int i, struct toml_value *root, struct err *e)
{
    const char *equals = strchr(s->set[i], '=');
    int rc;

    if (!equals || equals == s->set[i])
        return complain(s, i, e, "must be KEY=VALUE");
    struct toml_value *value = value_of(equals + 1);
    if (!value)
        return complain(s, i, e, "the value is not valid TOML");
    toml_set_line(value, -(i + 1));

    char *path = mem_textn(s->set[i], (size_t)(equals - s->set[i]));
    char *key = mem_text(path);
    bool in_block = strcmp(path, "experiment") == 0 || strncmp(path, "experiment.", 11) == 0;
    if (in_block)
        rc = set_in_block(s, i, root, path + strlen("experiment") + (path[10] == '.'), value, e);
    else
        rc = set_in_section(s, i, root, path, key, value, e);
    if (rc < 0)
        toml_release(value);
    free(key);
    free(path);
    return rc;
}

int overrides_apply(const struct source *s, struct toml_value *root, struct err *e)
{
    for (int i = 0; i < s->n_set; i++)
        if (apply(s, i, root, e) < 0)
            return -1;
    return 0;
}
