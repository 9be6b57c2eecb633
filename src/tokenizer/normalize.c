/* normalize.c - normalizers: what happens to a text before it is cut (see stages.h). */
#include "tokenizer/stages.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum normalizer_kind {
    NORMALIZE_FORM, /* NFC, NFD, NFKC, NFKD */
    NORMALIZE_PREPEND,
    NORMALIZE_REPLACE,
    NORMALIZE_LOWERCASE,
    NORMALIZE_STRIP,
    NORMALIZE_STRIP_ACCENTS,
    NORMALIZE_BYTE_LEVEL
};

struct normalizer {
    enum normalizer_kind kind;
    int form; /* utf8proc's options */
    char *content;
    size_t content_bytes;
    struct pattern *pattern;
    bool left, right;
};

int component_type(const struct js *j, const char *what, const char **type, struct err *e)
{
    if (js_kind(j) != JS_OBJECT)
        return err_set(e, ERR_INPUT, "%s should be an object or null, but is %s", what,
                       js_kind_name(js_kind(j)));
    if (js_want_text(j, "type", type, e) < 0)
        return err_in(e, "%s", what);
    return 0;
}

int component_unknown(const char *what, const char *type, struct err *e)
{
    return err_set(e, ERR_INPUT, "unknown %s \"%.64s\"", what, type);
}

static int text_member(const struct js *j, const char *name, char **out, size_t *n_bytes,
                       struct err *e)
{
    const char *text;

    if (js_want_text(j, name, &text, e) < 0)
        return -1;
    *n_bytes = js_text_bytes(js_get(j, name));
    *out = mem_textn(text, *n_bytes);
    return 0;
}

static int form_of(const char *type)
{
    static const struct {
        const char *name;
        int options;
    } forms[] = {
        { "NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE },
        { "NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE },
        { "NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT },
        { "NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT },
    };

    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++)
        if (strcmp(type, forms[i].name) == 0)
            return forms[i].options;
    return 0;
}

static int read_one(struct normalizer *n, const struct js *j, const char *type,
                    const struct shadow *shadow, struct err *e)
{
    n->form = form_of(type);
    if (n->form) {
        n->kind = NORMALIZE_FORM;
        return 0;
    }
    if (strcmp(type, "Prepend") == 0) {
        n->kind = NORMALIZE_PREPEND;
        return text_member(j, "prepend", &n->content, &n->content_bytes, e);
    }
    if (strcmp(type, "Replace") == 0) {
        n->kind = NORMALIZE_REPLACE;
        if (text_member(j, "content", &n->content, &n->content_bytes, e) < 0)
            return -1;
        return pattern_read(&n->pattern, js_get(j, "pattern"), shadow, e);
    }
    if (strcmp(type, "Strip") == 0) {
        n->kind = NORMALIZE_STRIP;
        if (js_bool_or(j, "strip_left", true, &n->left, e) < 0)
            return -1;
        return js_bool_or(j, "strip_right", true, &n->right, e);
    }
    if (strcmp(type, "Lowercase") == 0)
        n->kind = NORMALIZE_LOWERCASE;
    else if (strcmp(type, "StripAccents") == 0)
        n->kind = NORMALIZE_STRIP_ACCENTS;
    else if (strcmp(type, "ByteLevel") == 0)
        n->kind = NORMALIZE_BYTE_LEVEL;
    else
        return component_unknown("normalizer", type, e);
    return 0;
}

static int read_all(struct normalizers *out, const struct js *j, const struct shadow *shadow,
                    int depth, struct err *e)
{
    const char *type;

    if (component_type(j, "normalizer", &type, e) < 0)
        return -1;
    if (strcmp(type, "Sequence") == 0) {
        const struct js *list = js_get(j, "normalizers");
        if (js_kind(list) != JS_ARRAY || depth == SEQUENCE_DEPTH_MAX)
            return err_set(e, ERR_INPUT, "normalizer Sequence: no list, or nested too deeply");
        for (size_t i = 0; i < js_count(list); i++)
            if (read_all(out, js_at(list, i), shadow, depth + 1, e) < 0)
                return -1;
        return 0;
    }
    out->at = mem_grow(out->at, out->n + 1, sizeof *out->at);
    struct normalizer *n = &out->at[out->n++];
    *n = (struct normalizer){ 0 };
    if (read_one(n, j, type, shadow, e) < 0)
        return err_in(e, "normalizer %.64s", type);
    return 0;
}

int normalizers_read(struct normalizers *out, const struct js *j, const struct shadow *shadow,
                     struct err *e)
{
    return js_kind(j) == JS_NULL ? 0 : read_all(out, j, shadow, 0, e);
}

void normalizers_release(struct normalizers *n)
{
    for (size_t i = 0; i < n->n; i++) {
        free(n->at[i].content);
        pattern_free(n->at[i].pattern);
    }
    free(n->at);
    *n = (struct normalizers){ 0 };
}

/* ---- running ---- */

static bool is_ascii(const struct bytes *t)
{
    for (size_t i = 0; i < t->n; i++)
        if ((unsigned char)t->data[i] >= 0x80)
            return false;
    return true;
}

static int to_form(int form, const struct bytes *text, struct bytes *out, struct err *e)
{
    utf8proc_uint8_t *made = NULL;

    if (is_ascii(text)) { /* the same in every form */
        bytes_add(out, text->data, text->n);
        return 0;
    }
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text->data,
                                      (utf8proc_ssize_t)text->n, &made, (utf8proc_option_t)form);
    if (n < 0)
        return err_set(e, ERR_INPUT, "Unicode normal form: %s", utf8proc_errmsg(n));
    bytes_add(out, made, (size_t)n);
    free(made);
    return 0;
}

static void lowercase(const struct bytes *text, struct bytes *out)
{
    const char *end = text->data + text->n;

    for (const char *s = text->data; s < end;) {
        uint32_t lower[2];
        int n = unicode_lower(utf8_next(&s), lower);
        for (int i = 0; i < n; i++)
            utf8_add(out, lower[i]);
    }
}

static void strip(const struct normalizer *n, const struct bytes *text, struct bytes *out)
{
    const char *from = text->data, *to = text->data + text->n;

    while (n->left && from < to) {
        const char *next = from;
        if (!unicode_is_white_space(utf8_next(&next)))
            break;
        from = next;
    }
    while (n->right && from < to) {
        const char *before = to;
        if (!unicode_is_white_space(utf8_before(&before)))
            break;
        to = before;
    }
    bytes_add(out, from, (size_t)(to - from));
}

static void strip_accents(const struct bytes *text, struct bytes *out)
{
    const char *end = text->data + text->n;

    for (const char *s = text->data; s < end;) {
        uint32_t c = utf8_next(&s);
        if (!unicode_is_mark(c))
            utf8_add(out, c);
    }
}

static int run_one(const struct normalizer *n, const struct bytes *text, struct bytes *out,
                   struct err *e)
{
    switch (n->kind) {
    case NORMALIZE_FORM:
        return to_form(n->form, text, out, e);
    case NORMALIZE_PREPEND:
        bytes_add(out, n->content, n->content_bytes);
        bytes_add(out, text->data, text->n);
        break;
    case NORMALIZE_REPLACE:
        return pattern_replace(n->pattern, text->data, text->n, n->content, n->content_bytes, out,
                               e);
    case NORMALIZE_LOWERCASE:
        lowercase(text, out);
        break;
    case NORMALIZE_STRIP:
        strip(n, text, out);
        break;
    case NORMALIZE_STRIP_ACCENTS:
        strip_accents(text, out);
        break;
    case NORMALIZE_BYTE_LEVEL:
        byte_level_add(out, text->data, text->n);
        break;
    }
    return 0;
}

int normalizers_run(const struct normalizers *n, struct bytes *text, struct err *e)
{
    for (size_t i = 0; i < n->n && text->n > 0; i++) { /* nothing is prepended to nothing */
        struct bytes out = BYTES_INIT;
        if (run_one(&n->at[i], text, &out, e) < 0) {
            bytes_release(&out);
            return -1;
        }
        bytes_release(text);
        *text = out;
    }
    return 0;
}
