/* dataset.c - see dataset.h. */
#include "eval/dataset.h"

#include "base/file.h"
#include "model/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);

    return n >= m && strcmp(s + n - m, end) == 0;
}

enum dataset_kind dataset_kind(const char *path)
{
    if (ends_with(path, ".jsonl"))
        return DATASET_JSONL;
    return ends_with(path, ".safetensors") ? DATASET_IDS : DATASET_TEXT;
}

/* ---- lines of JSON ---- */

struct lines {
    const char *at, *end;
    long number; /* of the line last given; from 1 */
};

/* The next line that holds more than white space, parsed; *out NULL at the end. */
static int next_line(struct lines *l, struct js **out, struct err *e)
{
    *out = NULL;
    while (l->at < l->end) {
        const char *line = l->at, *lf = memchr(line, '\n', (size_t)(l->end - line));
        size_t n = (size_t)((lf ? lf : l->end) - line);
        l->at = lf ? lf + 1 : l->end;
        l->number++;
        size_t blank = 0;
        while (blank < n && strchr(" \t\r", line[blank]) && line[blank])
            blank++;
        if (blank == n)
            continue;
        *out = js_parse(line, n, e);
        return *out ? 0 : err_in(e, "line %ld", l->number);
    }
    return 0;
}

/* ---- stories ---- */

static void add_story(struct stories *s, const struct js *j, const char *fmt, long number)
{
    char where[64];

    snprintf(where, sizeof where, fmt, number);
    if ((s->n & (s->n + 1)) == 0) {
        s->at = mem_grow(s->at, 2 * (s->n + 1), sizeof *s->at);
        s->where = mem_grow(s->where, 2 * (s->n + 1), sizeof *s->where);
    }
    s->at[s->n] = j;
    s->where[s->n++] = mem_text(where);
}

static void own(struct stories *s, struct js *j)
{
    if ((s->n_owned & (s->n_owned + 1)) == 0)
        s->owned = mem_grow(s->owned, 2 * (s->n_owned + 1), sizeof *s->owned);
    s->owned[s->n_owned++] = j;
}

static int read_official(struct stories *s, const struct bytes *text, struct err *e)
{
    struct js *j = js_parse(text->data, text->n, e);

    if (!j)
        return -1;
    own(s, j);
    const struct js *data = js_get(j, "data");
    if (js_kind(j) != JS_OBJECT || js_kind(data) != JS_ARRAY)
        return err_set(e, ERR_INPUT, "should be an object with a list \"data\"");
    for (size_t i = 0; i < js_count(data); i++)
        add_story(s, js_at(data, i), "data[%ld]", (long)i);
    return 0;
}

static int read_lines(struct stories *s, const struct bytes *text, struct err *e)
{
    struct lines l = { text->data, text->data + text->n, 0 };
    struct js *j;

    for (;;) {
        if (next_line(&l, &j, e) < 0)
            return -1;
        if (!j)
            return 0;
        own(s, j);
        add_story(s, j, "line %ld", l.number);
    }
}

static int read_objects(struct stories *s, const struct bytes *text, struct err *e)
{
    if (read_lines(s, text, e) < 0)
        return -1;
    for (size_t i = 0; i < s->n; i++)
        if (js_kind(s->at[i]) != JS_OBJECT)
            return err_set(e, ERR_INPUT, "%s should be a JSON object", s->where[i]);
    return 0;
}

/* what: of which there must be one at least. */
static int read_dataset(const char *path, const char *what,
                        int (*read)(struct stories *s, const struct bytes *text, struct err *e),
                        struct stories *out, struct err *e)
{
    struct bytes text = BYTES_INIT;

    *out = (struct stories){ 0 };
    bytes_text(&text, "");
    int rc = file_read(path, &text, e);
    if (rc == 0) {
        rc = read(out, &text, e);
        if (rc == 0 && out->n == 0)
            rc = err_set(e, ERR_INPUT, "no %s", what);
        if (rc < 0)
            err_in(e, "%s", path);
    }
    bytes_release(&text);
    if (rc < 0)
        stories_release(out);
    return rc;
}

int dataset_lines(const char *path, const char *what, struct stories *out, struct err *e)
{
    return read_dataset(path, what, read_objects, out, e);
}

int dataset_stories(const char *path, struct stories *out, struct err *e)
{
    bool lines = dataset_kind(path) == DATASET_JSONL;

    return read_dataset(path, "stories", lines ? read_lines : read_official, out, e);
}

void stories_release(struct stories *s)
{
    for (size_t i = 0; i < s->n; i++)
        free(s->where[i]);
    for (size_t i = 0; i < s->n_owned; i++)
        js_release(s->owned[i]);
    free(s->owned);
    free(s->at);
    free(s->where);
    *s = (struct stories){ 0 };
}

/* ---- text ---- */

static int take_lines(const struct bytes *text,
                      int (*take)(void *context, const char *text, size_t n_bytes, struct err *e),
                      void *context, struct err *e)
{
    struct lines l = { text->data, text->data + text->n, 0 };
    struct js *j;

    for (;;) {
        const char *line;
        if (next_line(&l, &j, e) < 0)
            return -1;
        if (!j)
            return 0;
        int rc = js_want_text(j, "text", &line, e);
        if (rc == 0)
            rc = take(context, line, js_text_bytes(js_get(j, "text")), e);
        js_release(j);
        if (rc < 0)
            return err_in(e, "line %ld", l.number);
    }
}

struct joined {
    struct bytes *out;
    bool begun;
};

static int join(void *context, const char *text, size_t n_bytes, struct err *e)
{
    struct joined *j = context;

    (void)e;
    if (j->begun)
        bytes_add(j->out, "\n\n", 2);
    j->begun = true;
    bytes_add(j->out, text, n_bytes);
    return 0;
}

int dataset_texts(const char *path,
                  int (*take)(void *context, const char *text, size_t n_bytes, struct err *e),
                  void *context, struct err *e)
{
    struct bytes raw = BYTES_INIT;

    bytes_text(&raw, "");
    int rc = file_read(path, &raw, e);
    if (rc == 0 && take_lines(&raw, take, context, e) < 0)
        rc = err_in(e, "%s", path);
    bytes_release(&raw);
    return rc;
}

int dataset_text(const char *path, struct bytes *out, struct err *e)
{
    if (dataset_kind(path) == DATASET_TEXT)
        return file_read(path, out, e);
    return dataset_texts(path, join, &(struct joined){ out, false }, e);
}

/* ---- ids ---- */

static int64_t id_at(enum dtype t, const unsigned char *p)
{
    int64_t i64;
    int32_t i32;
    uint32_t u32;
    uint16_t u16;

    switch (t) {
    case DTYPE_I64:
    case DTYPE_U64:
        memcpy(&i64, p, sizeof i64);
        return i64;
    case DTYPE_I32:
        memcpy(&i32, p, sizeof i32);
        return i32;
    case DTYPE_U32:
        memcpy(&u32, p, sizeof u32);
        return u32;
    default:
        memcpy(&u16, p, sizeof u16);
        return t == DTYPE_I16 ? (int16_t)u16 : u16;
    }
}

static int ids_of_tensor(const struct safetensors *file, struct id_table *out, struct err *e)
{
    const struct safetensors_tensor *t = safetensors_find(file, "input_ids");

    if (!t)
        return err_set(e, ERR_INPUT, "no tensor \"input_ids\"");
    if (t->dtype != DTYPE_I64 && t->dtype != DTYPE_U64 && t->dtype != DTYPE_I32 &&
        t->dtype != DTYPE_U32 && t->dtype != DTYPE_I16 && t->dtype != DTYPE_U16)
        return err_set(e, ERR_INPUT, "input_ids is of type %s, not of integers", t->dtype_text);
    if (t->n_dims != 1 && t->n_dims != 2)
        return err_set(e, ERR_INPUT, "input_ids has %d dimensions, not 1 or 2", t->n_dims);
    out->n_dims = t->n_dims;
    out->n_rows = t->n_dims == 2 ? (int64_t)t->shape[0] : 1;
    out->n_cols = (int64_t)t->shape[t->n_dims - 1];
    unsigned char *raw = mem_array((size_t)t->n_bytes, 1);
    out->ids = mem_array((size_t)t->n_elements, sizeof *out->ids);
    int rc = safetensors_read(file, t, 0, t->n_bytes, raw, e);
    for (int64_t i = 0; i < t->n_elements && rc == 0; i++) {
        int64_t id = id_at(t->dtype, raw + (size_t)i * dtype_bytes(t->dtype));
        if (id < 0 || id > INT32_MAX)
            rc = err_set(e, ERR_INPUT, "input_ids[%lld] is %lld", (long long)i, (long long)id);
        out->ids[i] = (int32_t)id;
    }
    free(raw);
    return rc;
}

int dataset_ids(const char *path, struct id_table *out, struct err *e)
{
    struct safetensors file = SAFETENSORS_INIT;

    *out = (struct id_table){ 0 };
    if (safetensors_open(&file, path, e) < 0)
        return -1;
    int rc = ids_of_tensor(&file, out, e);
    if (rc < 0)
        err_in(e, "%s", path);
    safetensors_close(&file);
    if (rc < 0)
        id_table_release(out);
    return rc;
}

void id_table_release(struct id_table *t)
{
    free(t->ids);
    *t = (struct id_table){ 0 };
}
