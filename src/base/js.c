/* js.c - see js.h.  The only file that knows jansson. */
#include "base/js.h"

#include "base/file.h"
#include "base/memory.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *inner(const struct js *j)
{
    return (json_t *)(uintptr_t)j;
}

static struct js *outer(json_t *j)
{
    return (struct js *)j;
}

/* ---- reading ---- */

static json_t *load(const char *text, size_t n_bytes, size_t flags, json_error_t *why)
{
    return json_loadb(text, n_bytes,
                      JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL | flags, why);
}

struct js *js_parse(const char *text, size_t n_bytes, struct err *e)
{
    json_error_t why;
    json_t *j = load(text, n_bytes, 0, &why);

    /* model_max_length: 1000000000000000019884624838656 stands in many tokenizer_config.json. */
    if (!j && json_error_code(&why) == json_error_numeric_overflow)
        j = load(text, n_bytes, JSON_DECODE_INT_AS_REAL, &why);
    if (!j) {
        err_set(e, ERR_INPUT, "not valid JSON: %s at line %d, column %d", why.text, why.line,
                why.column);
        return NULL;
    }
    return outer(j);
}

struct js *js_read(const char *path, struct err *e)
{
    struct bytes text = BYTES_INIT;

    if (file_read(path, &text, e) < 0)
        return NULL;
    struct js *j = js_parse(text.data, text.n, e);
    if (!j)
        err_in(e, "%s", path);
    bytes_release(&text);
    return j;
}

void js_release(struct js *j)
{
    json_decref(inner(j));
}

enum js_kind js_kind(const struct js *j)
{
    if (!j)
        return JS_NULL;
    switch (json_typeof(inner(j))) {
    case JSON_OBJECT:
        return JS_OBJECT;
    case JSON_ARRAY:
        return JS_ARRAY;
    case JSON_STRING:
        return JS_TEXT;
    case JSON_INTEGER:
        return JS_INT;
    case JSON_REAL:
        return JS_REAL;
    case JSON_TRUE:
    case JSON_FALSE:
        return JS_BOOL;
    case JSON_NULL:
        break;
    }
    return JS_NULL;
}

const char *js_kind_name(enum js_kind kind)
{
    static const char *const names[] = { "null",     "a boolean", "an integer", "a number",
                                         "a string", "an array",  "an object" };

    return names[kind];
}

size_t js_count(const struct js *j)
{
    enum js_kind kind = js_kind(j);

    if (kind == JS_ARRAY)
        return json_array_size(inner(j));
    return kind == JS_OBJECT ? json_object_size(inner(j)) : 0;
}

const struct js *js_at(const struct js *j, size_t i)
{
    return outer(json_array_get(inner(j), i));
}

const struct js *js_get(const struct js *j, const char *key)
{
    return outer(json_object_get(inner(j), key));
}

bool js_next(const struct js *object, struct js_member *m)
{
    json_t *o = inner(object);

    m->position = m->position ? json_object_iter_next(o, m->position) : json_object_iter(o);
    if (!m->position)
        return false;
    m->key = json_object_iter_key(m->position);
    m->key_bytes = json_object_iter_key_len(m->position);
    m->value = outer(json_object_iter_value(m->position));
    return true;
}

int64_t js_int(const struct js *j)
{
    return js_kind(j) == JS_INT ? (int64_t)json_integer_value(inner(j)) : 0;
}

double js_real(const struct js *j)
{
    enum js_kind kind = js_kind(j);

    if (kind == JS_INT)
        return (double)json_integer_value(inner(j));
    return kind == JS_REAL ? json_real_value(inner(j)) : NAN;
}

bool js_bool(const struct js *j)
{
    return j && json_is_true(inner(j));
}

const char *js_text(const struct js *j)
{
    return js_kind(j) == JS_TEXT ? json_string_value(inner(j)) : NULL;
}

size_t js_text_bytes(const struct js *j)
{
    return js_kind(j) == JS_TEXT ? json_string_length(inner(j)) : 0;
}

/* ---- typed members ---- */

const struct js *js_find(const struct js *j, const char *path)
{
    while (j) {
        const char *dot = strchr(path, '.');
        size_t n = dot ? (size_t)(dot - path) : strlen(path);
        j = js_kind(j) == JS_OBJECT ? outer(json_object_getn(inner(j), path, n)) : NULL;
        if (!dot)
            break;
        path = dot + 1;
    }
    return j;
}

static int wrong(const struct js *j, const char *path, const char *wanted, struct err *e)
{
    if (!j)
        return err_set(e, ERR_INPUT, "%s is missing", path);
    return err_set(e, ERR_INPUT, "%s should be %s, but is %s", path, wanted,
                   js_kind_name(js_kind(j)));
}

int js_want_int(const struct js *j, const char *path, int64_t *out, struct err *e)
{
    const struct js *v = js_find(j, path);
    double real = js_real(v);

    /* 8.0 and, where big integers made the file be read as reals, every integer. */
    if (js_kind(v) == JS_REAL && real == floor(real) && fabs(real) < 0x1p53)
        *out = (int64_t)real;
    else if (js_kind(v) == JS_INT)
        *out = js_int(v);
    else
        return wrong(v, path, "an integer", e);
    return 0;
}

int js_want_real(const struct js *j, const char *path, double *out, struct err *e)
{
    const struct js *v = js_find(j, path);

    if (js_kind(v) != JS_INT && js_kind(v) != JS_REAL)
        return wrong(v, path, "a number", e);
    *out = js_real(v);
    return 0;
}

int js_want_bool(const struct js *j, const char *path, bool *out, struct err *e)
{
    const struct js *v = js_find(j, path);

    if (js_kind(v) != JS_BOOL)
        return wrong(v, path, "a boolean", e);
    *out = js_bool(v);
    return 0;
}

int js_want_text(const struct js *j, const char *path, const char **out, struct err *e)
{
    const struct js *v = js_find(j, path);

    if (js_kind(v) != JS_TEXT)
        return wrong(v, path, "a string", e);
    *out = js_text(v);
    return 0;
}

#define OR_STANDARD(TYPE, NAME)                                                            \
    int js_##NAME##_or(const struct js *j, const char *path, TYPE standard, TYPE *out,     \
                       struct err *e)                                                      \
    {                                                                                      \
        *out = standard;                                                                   \
        return js_kind(js_find(j, path)) == JS_NULL ? 0 : js_want_##NAME(j, path, out, e); \
    }
OR_STANDARD(int64_t, int)
OR_STANDARD(double, real)
OR_STANDARD(bool, bool)
OR_STANDARD(const char *, text)

/* ---- building ---- */

static struct js *made(json_t *j)
{
    if (!j) {
        fprintf(stderr, "llq_sweep: out of host memory (JSON)\n");
        abort();
    }
    return outer(j);
}

struct js *js_new_object(void)
{
    return made(json_object());
}

struct js *js_new_array(void)
{
    return made(json_array());
}

struct js *js_new_int(int64_t value)
{
    return made(json_integer(value));
}

struct js *js_new_real(double value)
{
    return made(isfinite(value) ? json_real(value) : json_null());
}

struct js *js_new_bool(bool value)
{
    return made(json_boolean(value));
}

struct js *js_new_text(const char *value)
{
    return value ? js_new_textn(value, strlen(value)) : made(json_null());
}

/* Length of the well-formed UTF-8 sequence at s (Unicode 15, table 3-7), or 0. */
static size_t utf8_length(const unsigned char *s, size_t n)
{
    size_t len = s[0] < 0x80   ? 1
                 : s[0] < 0xC2 ? 0
                 : s[0] < 0xE0 ? 2
                 : s[0] < 0xF0 ? 3
                 : s[0] < 0xF5 ? 4
                               : 0;

    if (len == 0 || len > n)
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) ||
        (s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F))
        return 0;
    return len;
}

struct js *js_new_textn(const char *value, size_t n_bytes)
{
    json_t *j = json_stringn(value, n_bytes);
    if (j)
        return outer(j);

    struct bytes repaired = BYTES_INIT;
    for (size_t i = 0; i < n_bytes;) {
        size_t len = utf8_length((const unsigned char *)value + i, n_bytes - i);
        if (len)
            bytes_add(&repaired, value + i, len);
        else
            bytes_text(&repaired, "\xEF\xBF\xBD");
        i += len ? len : 1;
    }
    j = json_stringn(repaired.data ? repaired.data : "", repaired.n);
    bytes_release(&repaired);
    return made(j);
}

struct js *js_copy(const struct js *j)
{
    return made(json_deep_copy(inner(j)));
}

void js_set(struct js *object, const char *key, struct js *value)
{
    if (json_object_set_new(inner(object), key, inner(value)) < 0)
        made(NULL);
}

void js_append(struct js *array, struct js *value)
{
    if (json_array_append_new(inner(array), inner(value)) < 0)
        made(NULL);
}

void js_set_int(struct js *object, const char *key, int64_t value)
{
    js_set(object, key, js_new_int(value));
}

void js_set_real(struct js *object, const char *key, double value)
{
    js_set(object, key, js_new_real(value));
}

void js_set_bool(struct js *object, const char *key, bool value)
{
    js_set(object, key, js_new_bool(value));
}

void js_set_text(struct js *object, const char *key, const char *value)
{
    js_set(object, key, js_new_text(value));
}

char *js_write(const struct js *j, size_t *n_bytes)
{
    char *text = json_dumps(inner(j), JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));

    if (!text)
        made(NULL);
    if (n_bytes)
        *n_bytes = strlen(text);
    return text;
}
