/* toml_tree.c - the tree of toml_reader.h and the scan that guards the parser. */
#include "sweep/toml_reader.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHOW_MAX 60

struct toml_value *toml_new(enum toml_kind kind, int line)
{
    struct toml_value *v = mem_alloc(sizeof *v);

    v->kind = kind;
    v->line = line;
    return v;
}

void toml_release(struct toml_value *v)
{
    if (!v)
        return;
    for (int i = 0; i < v->n; i++)
        toml_release(v->items[i]);
    free(v->items);
    free(v->key);
    free(v->text);
    free(v);
}

void toml_add(struct toml_value *to, const char *key, struct toml_value *item)
{
    if (to->n == to->room) {
        to->room = to->room ? 2 * to->room : 4;
        to->items = mem_grow(to->items, (size_t)to->room, sizeof *to->items);
    }
    item->key = mem_text(key);
    to->items[to->n++] = item;
}

struct toml_value *toml_get(const struct toml_value *table, const char *key)
{
    for (int i = 0; table && i < table->n; i++)
        if (table->items[i]->key && strcmp(table->items[i]->key, key) == 0)
            return table->items[i];
    return NULL;
}

void toml_put(struct toml_value *table, const char *key, struct toml_value *item)
{
    for (int i = 0; i < table->n; i++)
        if (strcmp(table->items[i]->key, key) == 0) {
            toml_release(table->items[i]);
            item->key = mem_text(key);
            table->items[i] = item;
            return;
        }
    toml_add(table, key, item);
}

void toml_set_line(struct toml_value *v, int line)
{
    v->line = line;
    for (int i = 0; i < v->n; i++)
        toml_set_line(v->items[i], line);
}

void toml_show_text(const char *text, size_t most, struct bytes *out)
{
    size_t end = out->n + most;

    bytes_text(out, "");
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        /* Never cut inside a UTF-8 sequence: continuation bytes are 10xxxxxx. */
        if (out->n >= end && (*p & 0xC0) != 0x80) {
            bytes_text(out, "...");
            return;
        }
        if (*p == '\n')
            bytes_text(out, "\\n");
        else if (*p < 0x20 || *p == 0x7F)
            bytes_printf(out, "\\x%02x", *p);
        else
            bytes_add(out, p, 1);
    }
}

void toml_show_real(double real, struct bytes *out)
{
    char text[40];

    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, real);
        /* 1000.0 is "1e+03" with one digit and "1000" with four. */
        bool usual = fabs(real) >= 1e-4 && fabs(real) < 1e15;
        if (strtod(text, NULL) == real && !(usual && strchr(text, 'e')))
            break;
    }
    bytes_text(out, text);
    if (strspn(text, "-0123456789") == strlen(text))
        bytes_text(out, ".0");
}

void toml_show(const struct toml_value *v, struct bytes *out)
{
    size_t start = out->n;

    switch (v->kind) {
    case TOML_KIND_BOOL:
        bytes_text(out, v->boolean ? "true" : "false");
        break;
    case TOML_KIND_INT:
        bytes_printf(out, "%lld", (long long)v->integer);
        break;
    case TOML_KIND_REAL:
        toml_show_real(v->real, out);
        break;
    case TOML_KIND_TEXT:
        bytes_text(out, "\"");
        toml_show_text(v->text, SHOW_MAX, out);
        bytes_text(out, "\"");
        break;
    case TOML_KIND_ARRAY:
    case TOML_KIND_TABLE:
        bytes_text(out, v->kind == TOML_KIND_ARRAY ? "[" : "{");
        for (int i = 0; i < v->n; i++) {
            if (i)
                bytes_text(out, ", ");
            if (out->n - start >= SHOW_MAX) {
                bytes_text(out, "...");
                break;
            }
            if (v->items[i]->key) {
                toml_show_text(v->items[i]->key, SHOW_MAX, out);
                bytes_text(out, " = ");
            }
            toml_show(v->items[i], out);
        }
        bytes_text(out, v->kind == TOML_KIND_ARRAY ? "]" : "}");
    }
}

/* The end of a string that starts at p: one past its closing quotes, or where the parser would
 * give up (a line end in a one-line string), or the end of the text. */
static const char *string_end(const char *p, const char *end, int *line)
{
    char quote = *p;
    bool long_form = end - p >= 3 && p[1] == quote && p[2] == quote;

    for (p += long_form ? 3 : 1; p < end; p++) {
        if (quote == '"' && *p == '\\' && p + 1 < end) {
            p++;
        } else if (!long_form && (*p == quote || *p == '\n')) {
            return *p == quote ? p + 1 : p;
        } else if (long_form && end - p >= 3 && !memcmp(p, quote == '"' ? "\"\"\"" : "'''", 3)) {
            p += 3;
            /* Up to two quotes may stand before the closing three. */
            for (int more = 0; more < 2 && p < end && *p == quote; more++)
                p++;
            return p;
        }
        if (*p == '\n')
            ++*line;
    }
    return end;
}

/* Walks over the text as the parser would as long as it is valid; past the first error the walk
 * may differ, but there the parser has stopped. */
int toml_check_depth(const char *name, const char *text, size_t n_bytes, struct err *e)
{
    const char *p = text, *end = text + n_bytes;
    int line = 1, depth = 0, parts = 1;

    while (p < end) {
        char c = *p;
        if (c == '"' || c == '\'') {
            p = string_end(p, end, &line);
            continue;
        }
        p++;
        if (c == '#') {
            while (p < end && *p != '\n')
                p++;
        } else if (c == '[' || c == '{') {
            depth++;
            parts = 1;
        } else if (c == ']' || c == '}') {
            depth -= depth > 0;
            parts = 1;
        } else if (c == '=' || c == ',' || c == '\n') {
            parts = 1;
            line += c == '\n';
        } else if (c == '.') {
            parts++;
        }
        if (parts > TOML_DEPTH_MAX)
            return err_set(e, ERR_USAGE, "%s:%d: a dotted key may have %d parts", name, line,
                           TOML_DEPTH_MAX);
        if (depth > TOML_DEPTH_MAX)
            return err_set(e, ERR_USAGE, "%s:%d: brackets may be nested %d deep", name, line,
                           TOML_DEPTH_MAX);
    }
    return 0;
}
