/* safetensors.c - see safetensors.h.  Messages follow the order of checks of the format's
 * own library. */
#include "model/safetensors.h"

#include "base/file.h"
#include "base/js.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Every dtype of the format; case matters. */
static const struct format_dtype {
    const char *text;
    int bits;
    enum dtype dtype;
} format_dtypes[] = {
    { "F32", 32, DTYPE_F32 },
    { "F16", 16, DTYPE_F16 },
    { "BF16", 16, DTYPE_BF16 },
    { "F64", 64, DTYPE_F64 },
    { "F8_E4M3", 8, DTYPE_F8_E4M3 },
    { "I8", 8, DTYPE_I8 },
    { "U8", 8, DTYPE_U8 },
    { "I16", 16, DTYPE_I16 },
    { "U16", 16, DTYPE_U16 },
    { "I32", 32, DTYPE_I32 },
    { "U32", 32, DTYPE_U32 },
    { "I64", 64, DTYPE_I64 },
    { "U64", 64, DTYPE_U64 },
    { "BOOL", 8, DTYPE_BOOL },
    { "F8_E5M2", 8, DTYPE_OTHER },
    { "F8_E8M0", 8, DTYPE_OTHER },
    { "F8_E4M3FNUZ", 8, DTYPE_OTHER },
    { "F8_E5M2FNUZ", 8, DTYPE_OTHER },
    { "C64", 64, DTYPE_OTHER },
    { "F4", 4, DTYPE_OTHER },
    { "F6_E2M3", 6, DTYPE_OTHER },
    { "F6_E3M2", 6, DTYPE_OTHER },
};

#define N_FORMAT_DTYPES (sizeof format_dtypes / sizeof *format_dtypes)

/* One entry of the header while it is judged; offsets are relative to the data. */
struct entry {
    struct safetensors_tensor tensor;
    int bits;
    uint64_t begin, end;
};

/* ---- the header's JSON ---- */

/* The deepest nesting of brackets and the longest run of digits, both outside strings.  The
 * text need not be valid JSON. */
static void survey(const char *text, size_t n, int *nesting, int *digits)
{
    int depth = 0, run = 0;
    bool in_string = false;

    *nesting = *digits = 0;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
            continue;
        }
        run = c >= '0' && c <= '9' ? run + 1 : 0;
        *digits = run > *digits ? run : *digits;
        if (c == '"')
            in_string = true;
        else if (c == '{' || c == '[')
            *nesting = ++depth > *nesting ? depth : *nesting;
        else if (c == '}' || c == ']')
            depth--;
    }
}

/* An unsigned 64-bit number.  Where one number of the header is beyond int64, js gives all of
 * them as reals: up to 2^53 these are exact, and beyond no file is that large, so that a rounded
 * value is refused for its size as the exact one would be. */
static bool unsigned_of(const struct js *j, bool as_reals, uint64_t *out)
{
    double real = js_real(j);

    if (js_kind(j) == JS_INT) {
        *out = (uint64_t)js_int(j);
        return js_int(j) >= 0;
    }
    if (js_kind(j) != JS_REAL || !as_reals || !(real >= 0 && real <= 0x1p64) || real != floor(real))
        return false;
    *out = real >= 0x1p64 ? UINT64_MAX : (uint64_t)real;
    return true;
}

/* True when the header was read with all its numbers as reals: see unsigned_of(). */
static bool numbers_are_reals(const struct js *header, int digits)
{
    struct js_member m = JS_MEMBER_INIT;

    /* 2^63, the first number that is too large for an integer, has 19 digits. */
    if (digits < 19)
        return false;
    while (js_next(header, &m)) {
        const struct js *offsets = js_get(m.value, "data_offsets");
        for (size_t i = 0; i < js_count(offsets); i++)
            if (js_kind(js_at(offsets, i)) == JS_INT)
                return false;
    }
    return true;
}

static int check_metadata(const struct js *j, struct err *e)
{
    struct js_member m = JS_MEMBER_INIT;

    if (js_kind(j) == JS_NULL)
        return 0;
    if (js_kind(j) != JS_OBJECT)
        return err_set(e, ERR_INPUT, "__metadata__ is %s instead of an object of strings",
                       js_kind_name(js_kind(j)));
    while (js_next(j, &m))
        if (js_kind(m.value) != JS_TEXT)
            return err_set(e, ERR_INPUT, "__metadata__.%s is %s instead of a string", m.key,
                           js_kind_name(js_kind(m.value)));
    return 0;
}

static int parse_dtype(const struct js *j, const char *name, struct entry *out, struct err *e)
{
    const char *text = js_text(j);

    if (!text)
        return err_set(e, ERR_INPUT, "tensor %s: dtype is %s", name,
                       j ? "not a string" : "missing");
    for (size_t i = 0; i < N_FORMAT_DTYPES; i++)
        if (strcmp(format_dtypes[i].text, text) == 0 && js_text_bytes(j) == strlen(text)) {
            out->tensor.dtype = format_dtypes[i].dtype;
            out->tensor.dtype_text = format_dtypes[i].text;
            out->bits = format_dtypes[i].bits;
            return 0;
        }
    return err_set(e, ERR_INPUT, "tensor %s: unknown dtype \"%s\"", name, text);
}

static int parse_entry(const char *name, const struct js *j, bool as_reals, struct entry *out,
                       struct err *e)
{
    const struct js *shape = js_get(j, "shape"), *offsets = js_get(j, "data_offsets");

    if (js_kind(j) != JS_OBJECT)
        return err_set(e, ERR_INPUT, "tensor %s: its entry is %s instead of an object", name,
                       js_kind_name(js_kind(j)));
    if (parse_dtype(js_get(j, "dtype"), name, out, e) < 0)
        return -1;
    if (js_kind(shape) != JS_ARRAY)
        return err_set(e, ERR_INPUT, "tensor %s: shape is %s", name,
                       shape ? "not an array" : "missing");
    out->tensor.n_dims = (int)js_count(shape);
    out->tensor.shape = mem_array(js_count(shape) + 1, sizeof *out->tensor.shape);
    for (size_t i = 0; i < js_count(shape); i++)
        if (!unsigned_of(js_at(shape, i), as_reals, &out->tensor.shape[i]))
            return err_set(e, ERR_INPUT,
                           "tensor %s: dimension %zu is not an unsigned 64-bit integer", name, i);
    if (js_kind(offsets) != JS_ARRAY || js_count(offsets) != 2)
        return err_set(e, ERR_INPUT, "tensor %s: data_offsets %s", name,
                       offsets ? "are not two numbers" : "are missing");
    if (!unsigned_of(js_at(offsets, 0), as_reals, &out->begin) ||
        !unsigned_of(js_at(offsets, 1), as_reals, &out->end))
        return err_set(e, ERR_INPUT, "tensor %s: data_offsets are not unsigned 64-bit integers",
                       name);
    return 0;
}

static int parse_header(const struct js *header, bool as_reals, struct entry **out, size_t *n_out,
                        struct err *e)
{
    struct js_member m = JS_MEMBER_INIT;

    *n_out = 0;
    *out = mem_array(js_count(header) + 1, sizeof **out);
    while (js_next(header, &m)) {
        if (strcmp(m.key, "__metadata__") == 0) {
            if (check_metadata(m.value, e) < 0)
                return -1;
            continue;
        }
        if (memchr(m.key, 0, m.key_bytes))
            return err_set(e, ERR_INPUT, "the name of tensor %s holds a NUL", m.key);
        struct entry *entry = &(*out)[(*n_out)++];
        entry->tensor.name = mem_textn(m.key, m.key_bytes);
        if (parse_entry(entry->tensor.name, m.value, as_reals, entry, e) < 0)
            return -1;
    }
    return 0;
}

/* ---- do the tensors tile the data? ---- */

static int by_offset(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;

    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end)
        return x->end < y->end ? -1 : 1;
    return strcmp(x->tensor.name, y->tensor.name);
}

static int check_size(struct entry *x, struct err *e)
{
    char text[SAFETENSORS_SHAPE_MAX];
    uint64_t n = 1, bits;

    for (int i = 0; i < x->tensor.n_dims; i++)
        if (__builtin_mul_overflow(n, x->tensor.shape[i], &n))
            return err_set(e, ERR_INPUT, "tensor %s: the size of shape %s overflows",
                           x->tensor.name, safetensors_shape_text(&x->tensor, text));
    if (__builtin_mul_overflow(n, (uint64_t)x->bits, &bits))
        return err_set(e, ERR_INPUT, "tensor %s: the size of shape %s overflows", x->tensor.name,
                       safetensors_shape_text(&x->tensor, text));
    if (bits % 8 != 0)
        return err_set(e, ERR_INPUT, "tensor %s: %llu elements of %d bits are not whole bytes",
                       x->tensor.name, (unsigned long long)n, x->bits);
    if (x->end - x->begin != bits / 8)
        return err_set(
            e, ERR_INPUT, "tensor %s: shape %s of %s takes %llu bytes, but data_offsets span %llu",
            x->tensor.name, safetensors_shape_text(&x->tensor, text), x->tensor.dtype_text,
            (unsigned long long)(bits / 8), (unsigned long long)(x->end - x->begin));
    x->tensor.n_elements = (int64_t)n;
    return 0;
}

/* data_bytes: what the file holds behind the header. */
static int check_tiling(struct entry *entry, size_t n, uint64_t data_bytes, struct err *e)
{
    uint64_t end = 0;

    qsort(entry, n, sizeof *entry, by_offset);
    for (size_t i = 0; i < n; i++) {
        struct entry *x = &entry[i];
        if (x->begin != end || x->end < x->begin)
            return err_set(e, ERR_INPUT,
                           "tensor %s: data_offsets [%llu, %llu) %s (the data before end at %llu)",
                           x->tensor.name, (unsigned long long)x->begin, (unsigned long long)x->end,
                           x->end < x->begin ? "end before they begin"
                           : x->begin < end  ? "overlap another tensor"
                                             : "leave a hole",
                           (unsigned long long)end);
        end = x->end;
        if (check_size(x, e) < 0)
            return -1;
    }
    if (end != data_bytes)
        return err_set(e, ERR_INPUT, "the file is %s: the tensors take %llu bytes, %llu are there",
                       end > data_bytes ? "truncated" : "too long", (unsigned long long)end,
                       (unsigned long long)data_bytes);
    return 0;
}

/* ---- the file ---- */

static int by_name(const void *a, const void *b)
{
    const struct safetensors_tensor *x = a, *y = b;

    return strcmp(x->name, y->name);
}

static int judge(struct safetensors *s, const char *text, size_t n_bytes, struct err *e)
{
    int rc = -1;
    size_t n = 0;
    struct entry *entry = NULL;
    struct js *header = NULL;
    int nesting, digits;

    survey(text, n_bytes, &nesting, &digits);
    if (nesting > SAFETENSORS_DEPTH_MAX) {
        err_set(e, ERR_INPUT, "the header nests deeper than %d levels", SAFETENSORS_DEPTH_MAX);
        goto out;
    }
    header = js_parse(text, n_bytes, e);
    if (!header) {
        err_in(e, "the header");
        goto out;
    }
    if (js_kind(header) != JS_OBJECT) {
        err_set(e, ERR_INPUT, "the header is %s instead of an object",
                js_kind_name(js_kind(header)));
        goto out;
    }
    if (parse_header(header, numbers_are_reals(header, digits), &entry, &n, e) < 0 ||
        check_tiling(entry, n, (uint64_t)s->file_bytes - 8 - n_bytes, e) < 0)
        goto out;

    s->n = n;
    s->tensor = mem_array(n + 1, sizeof *s->tensor);
    for (size_t i = 0; i < n; i++) {
        s->tensor[i] = entry[i].tensor;
        s->tensor[i].offset = (int64_t)(8 + n_bytes + entry[i].begin);
        s->tensor[i].n_bytes = (int64_t)(entry[i].end - entry[i].begin);
    }
    qsort(s->tensor, n, sizeof *s->tensor, by_name);
    rc = 0;
out:
    for (size_t i = 0; rc < 0 && i < n; i++) {
        free(entry[i].tensor.name);
        free(entry[i].tensor.shape);
    }
    free(entry);
    js_release(header);
    return rc;
}

static int read_header(struct safetensors *s, struct err *e)
{
    unsigned char length[8];
    uint64_t n = 0;

    if (s->file_bytes < 8)
        return err_set(e, ERR_INPUT, "a file of %lld bytes is too short for a header",
                       (long long)s->file_bytes);
    if (file_pread(s->fd, length, sizeof length, 0, e) < 0)
        return -1;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | length[i];
    if (n > SAFETENSORS_HEADER_MAX)
        return err_set(e, ERR_INPUT, "a header of %llu bytes is too large (at most %d)",
                       (unsigned long long)n, SAFETENSORS_HEADER_MAX);
    if (8 + n > (uint64_t)s->file_bytes)
        return err_set(e, ERR_INPUT, "a header of %llu bytes does not fit into a file of %lld",
                       (unsigned long long)n, (long long)s->file_bytes);

    char *text = mem_alloc(n + 1);
    int rc = file_pread(s->fd, text, n, 8, e);
    if (rc == 0)
        rc = judge(s, text, n, e);
    free(text);
    return rc;
}

int safetensors_open(struct safetensors *s, const char *path, struct err *e)
{
    struct stat st;

    *s = (struct safetensors)SAFETENSORS_INIT;
    s->path = mem_text(path);
    s->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (s->fd < 0 || fstat(s->fd, &st) < 0)
        err_set(e, ERR_INPUT, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        err_set(e, ERR_INPUT, "%s: is not a plain file", path);
    else {
        s->file_bytes = st.st_size;
        if (read_header(s, e) == 0)
            return 0;
        err_in(e, "%s", path);
    }
    safetensors_close(s);
    return -1;
}

void safetensors_close(struct safetensors *s)
{
    for (size_t i = 0; i < s->n; i++) {
        free(s->tensor[i].name);
        free(s->tensor[i].shape);
    }
    free(s->tensor);
    /* A zeroed struct was never opened, and 0 is somebody else's descriptor. */
    if (s->path && s->fd >= 0)
        close(s->fd);
    free(s->path);
    *s = (struct safetensors)SAFETENSORS_INIT;
}

const struct safetensors_tensor *safetensors_find(const struct safetensors *s, const char *name)
{
    struct safetensors_tensor key = { .name = (char *)(uintptr_t)name };

    return s->n ? bsearch(&key, s->tensor, s->n, sizeof key, by_name) : NULL;
}

int safetensors_read(const struct safetensors *s, const struct safetensors_tensor *t,
                     int64_t first_byte, int64_t n_bytes, void *to, struct err *e)
{
    if (file_pread(s->fd, to, (size_t)n_bytes, t->offset + first_byte, e) < 0)
        return err_in(e, "tensor %s of %s", t->name, s->path);
    return 0;
}

const char *safetensors_shape_text(const struct safetensors_tensor *t,
                                   char text[SAFETENSORS_SHAPE_MAX])
{
    size_t at = 0;

    text[at++] = '[';
    for (int i = 0; i < t->n_dims && at < SAFETENSORS_SHAPE_MAX - 32; i++)
        at += (size_t)snprintf(text + at, 32, "%s%llu", i ? ", " : "",
                               (unsigned long long)t->shape[i]);
    snprintf(text + at, 2, "]");
    return text;
}

/* ---- writing ---- */

static const struct format_dtype *format_of(enum dtype t)
{
    for (size_t i = 0; i < N_FORMAT_DTYPES; i++)
        if (format_dtypes[i].dtype == t && t != DTYPE_OTHER)
            return &format_dtypes[i];
    return NULL;
}

static int by_alignment(const void *a, const void *b)
{
    const struct safetensors_out *x = a, *y = b;
    int d = format_of(y->dtype)->bits - format_of(x->dtype)->bits;

    return d ? d : strcmp(x->name, y->name);
}

static struct js *entry_of(const struct safetensors_out *t, int64_t begin)
{
    struct js *entry = js_new_object(), *shape = js_new_array(), *offsets = js_new_array();

    for (int i = 0; i < t->n_dims; i++)
        js_append(shape, js_new_int(t->shape[i]));
    js_append(offsets, js_new_int(begin));
    js_append(offsets, js_new_int(begin + t->n_bytes));
    js_set_text(entry, "dtype", format_of(t->dtype)->text);
    js_set(entry, "shape", shape);
    js_set(entry, "data_offsets", offsets);
    return entry;
}

void safetensors_layout(struct safetensors_out *t, size_t n, struct bytes *head)
{
    struct js *header = js_new_object(), *metadata = js_new_object();
    int64_t end = 0;

    js_set_text(metadata, "format", "pt"); /* transformers asks for it */
    js_set(header, "__metadata__", metadata);
    if (n)
        qsort(t, n, sizeof *t, by_alignment);
    for (size_t i = 0; i < n; i++) {
        int64_t elements = 1;
        for (int d = 0; d < t[i].n_dims; d++)
            elements *= t[i].shape[d];
        t[i].n_bytes = elements * format_of(t[i].dtype)->bits / 8;
        js_set(header, t[i].name, entry_of(&t[i], end));
        t[i].offset = end;
        end += t[i].n_bytes;
    }

    size_t text_bytes;
    char *text = js_write(header, &text_bytes);
    size_t padded = (text_bytes + 7) / 8 * 8;
    unsigned char length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)(padded >> 8 * i);
    bytes_add(head, length, sizeof length);
    bytes_add(head, text, text_bytes);
    bytes_add(head, "       ", padded - text_bytes);
    for (size_t i = 0; i < n; i++)
        t[i].offset += (int64_t)(8 + padded);
    free(text);
    js_release(header);
}

int safetensors_write(const char *path, struct safetensors_out *t, size_t n, struct err *e)
{
    struct bytes head = BYTES_INIT;
    int rc = -1;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    if (fd < 0)
        return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    safetensors_layout(t, n, &head);
    if (file_write_all(fd, head.data, head.n, e) < 0)
        goto out;
    for (size_t i = 0; i < n; i++)
        if (file_write_all(fd, t[i].data, (size_t)t[i].n_bytes, e) < 0)
            goto out;
    rc = 0;
out:
    if (close(fd) < 0 && rc == 0)
        rc = err_set(e, ERR_IO, "%s", strerror(errno));
    if (rc < 0)
        err_in(e, "%s", path);
    bytes_release(&head);
    return rc;
}
