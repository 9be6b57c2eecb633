/* decode.c - decoders: token texts back to one text (see stages.h). */
#include "tokenizer/stages.h"

#include <stdlib.h>
#include <string.h>

enum decoder_kind {
    DECODE_BYTE_LEVEL,
    DECODE_BYTE_FALLBACK,
    DECODE_REPLACE,
    DECODE_FUSE,
    DECODE_STRIP,
    DECODE_METASPACE
};

struct decoder {
    enum decoder_kind kind;
    struct pattern *pattern;
    char *content;
    size_t content_bytes;
    size_t start, stop;
    struct metaspace metaspace;
};

/* ---- reading ---- */

static int strip_read(struct decoder *d, const struct js *j, struct err *e)
{
    int64_t start, stop;

    if (js_int_or(j, "start", 0, &start, e) < 0 || js_int_or(j, "stop", 0, &stop, e) < 0)
        return -1;
    if (start < 0 || stop < 0)
        return err_set(e, ERR_INPUT, "start and stop should not be negative");
    if (d->content_bytes == 0 || utf8_length(d->content, d->content_bytes) != d->content_bytes)
        return err_set(e, ERR_INPUT, "content should be one character");
    d->start = (size_t)start;
    d->stop = (size_t)stop;
    return 0;
}

static int read_one(struct decoder *d, const struct js *j, const char *type,
                    const struct shadow *shadow, struct err *e)
{
    static const char *const names[] = { "ByteLevel", "ByteFallback", "Replace",
                                         "Fuse",      "Strip",        "Metaspace" };
    const char *content;
    size_t i = 0;

    while (i < sizeof names / sizeof names[0] && strcmp(type, names[i]) != 0)
        i++;
    if (i == sizeof names / sizeof names[0])
        return component_unknown("decoder", type, e);
    d->kind = (enum decoder_kind)i;
    if (d->kind == DECODE_METASPACE)
        return metaspace_read(&d->metaspace, j, e);
    if (d->kind != DECODE_REPLACE && d->kind != DECODE_STRIP)
        return 0;
    if (js_want_text(j, "content", &content, e) < 0)
        return -1;
    d->content_bytes = js_text_bytes(js_get(j, "content"));
    d->content = mem_textn(content, d->content_bytes);
    if (d->kind == DECODE_STRIP)
        return strip_read(d, j, e);
    return pattern_read(&d->pattern, js_get(j, "pattern"), shadow, e);
}

static int read_all(struct decoders *out, const struct js *j, const struct shadow *shadow,
                    int depth, struct err *e)
{
    const char *type;

    if (component_type(j, "decoder", &type, e) < 0)
        return -1;
    if (strcmp(type, "Sequence") == 0) {
        const struct js *list = js_get(j, "decoders");
        if (js_kind(list) != JS_ARRAY || depth == SEQUENCE_DEPTH_MAX)
            return err_set(e, ERR_INPUT, "decoder Sequence: no list, or nested too deeply");
        for (size_t i = 0; i < js_count(list); i++)
            if (read_all(out, js_at(list, i), shadow, depth + 1, e) < 0)
                return -1;
        return 0;
    }
    out->at = mem_grow(out->at, out->n + 1, sizeof *out->at);
    struct decoder *d = &out->at[out->n++];
    *d = (struct decoder){ 0 };
    if (read_one(d, j, type, shadow, e) < 0)
        return err_in(e, "decoder %.64s", type);
    return 0;
}

int decoders_read(struct decoders *out, const struct js *j, const struct shadow *shadow,
                  struct err *e)
{
    return js_kind(j) == JS_NULL ? 0 : read_all(out, j, shadow, 0, e);
}

void decoders_release(struct decoders *d)
{
    for (size_t i = 0; i < d->n; i++) {
        free(d->at[i].content);
        pattern_free(d->at[i].pattern);
    }
    free(d->at);
    *d = (struct decoders){ 0 };
}

/* ---- running: each takes tokens and gives tokens, empty ones included ---- */

static void close_token(struct pieces *out, size_t from)
{
    if (out->n == out->room) {
        out->room = out->room ? 2 * out->room : 64;
        out->at = mem_grow(out->at, out->room, sizeof *out->at);
    }
    out->at[out->n++] = (struct span){ from, out->text.n };
}

static bool to_bytes(const char *s, const char *end, struct bytes *out)
{
    size_t before = out->n;

    while (s < end) {
        int byte = byte_level_byte(utf8_next(&s));
        if (byte < 0) {
            out->n = before;
            return false;
        }
        char c = (char)byte;
        bytes_add(out, &c, 1);
    }
    return true;
}

static void decode_byte_level(const struct pieces *in, struct pieces *out)
{
    struct bytes raw = BYTES_INIT;

    for (size_t i = 0; i < in->n; i++) {
        const char *s = in->text.data + in->at[i].from, *end = in->text.data + in->at[i].to;
        if (!to_bytes(s, end, &raw)) /* an added token: its own bytes */
            bytes_add(&raw, s, (size_t)(end - s));
    }
    if (raw.n)
        utf8_add_lossy(&out->text, raw.data, raw.n);
    close_token(out, 0);
    bytes_release(&raw);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte of a token <0xHH>, or -1. */
static int byte_token(const char *s, size_t n)
{
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>' || hex_digit(s[3]) < 0 ||
        hex_digit(s[4]) < 0)
        return -1;
    return hex_digit(s[3]) * 16 + hex_digit(s[4]);
}

static void flush_bytes(struct bytes *run, struct pieces *out)
{
    size_t from = out->text.n;

    if (run->n == 0)
        return;
    if (utf8_bad_at(run->data, run->n) == run->n) {
        bytes_add(&out->text, run->data, run->n);
        close_token(out, from);
    } else { /* one replacement character per byte token */
        for (size_t i = 0; i < run->n; i++) {
            from = out->text.n;
            bytes_add(&out->text, "\xEF\xBF\xBD", 3);
            close_token(out, from);
        }
    }
    run->n = 0;
}

static void decode_byte_fallback(const struct pieces *in, struct pieces *out)
{
    struct bytes run = BYTES_INIT;

    for (size_t i = 0; i < in->n; i++) {
        const char *s = in->text.data + in->at[i].from;
        size_t n = in->at[i].to - in->at[i].from;
        int byte = byte_token(s, n);
        if (byte >= 0) {
            char c = (char)byte;
            bytes_add(&run, &c, 1);
            continue;
        }
        flush_bytes(&run, out);
        size_t from = out->text.n;
        bytes_add(&out->text, s, n);
        close_token(out, from);
    }
    flush_bytes(&run, out);
    bytes_release(&run);
}

static int decode_replace(const struct decoder *d, const struct pieces *in, struct pieces *out,
                          struct err *e)
{
    for (size_t i = 0; i < in->n; i++) {
        size_t from = out->text.n;
        if (pattern_replace(d->pattern, in->text.data + in->at[i].from,
                            in->at[i].to - in->at[i].from, d->content, d->content_bytes, &out->text,
                            e) < 0)
            return -1;
        close_token(out, from);
    }
    return 0;
}

static void decode_strip(const struct decoder *d, const struct pieces *in, struct pieces *out)
{
    size_t step = d->content_bytes;

    for (size_t i = 0; i < in->n; i++) {
        const char *s = in->text.data + in->at[i].from, *end = in->text.data + in->at[i].to;
        size_t from = out->text.n;
        for (size_t k = 0;
             k < d->start && (size_t)(end - s) >= step && memcmp(s, d->content, step) == 0; k++)
            s += step;
        for (size_t k = 0;
             k < d->stop && (size_t)(end - s) >= step && memcmp(end - step, d->content, step) == 0;
             k++)
            end -= step;
        bytes_add(&out->text, s, (size_t)(end - s));
        close_token(out, from);
    }
}

static void decode_metaspace(const struct metaspace *m, const struct pieces *in, struct pieces *out)
{
    for (size_t i = 0; i < in->n; i++) {
        const char *s = in->text.data + in->at[i].from, *end = in->text.data + in->at[i].to;
        size_t from = out->text.n;
        while (s < end) {
            if ((size_t)(end - s) < m->replacement_bytes ||
                memcmp(s, m->replacement, m->replacement_bytes) != 0) {
                bytes_add(&out->text, s++, 1);
                continue;
            }
            if (i > 0 || m->scheme == PREPEND_NEVER)
                bytes_add(&out->text, " ", 1);
            s += m->replacement_bytes;
        }
        close_token(out, from);
    }
}

static int run_one(const struct decoder *d, const struct pieces *in, struct pieces *out,
                   struct err *e)
{
    bytes_text(&out->text, ""); /* so that data is there */
    switch (d->kind) {
    case DECODE_BYTE_LEVEL:
        decode_byte_level(in, out);
        break;
    case DECODE_BYTE_FALLBACK:
        decode_byte_fallback(in, out);
        break;
    case DECODE_REPLACE:
        return decode_replace(d, in, out, e);
    case DECODE_FUSE:
        for (size_t i = 0; i < in->n; i++)
            bytes_add(&out->text, in->text.data + in->at[i].from, in->at[i].to - in->at[i].from);
        close_token(out, 0);
        break;
    case DECODE_STRIP:
        decode_strip(d, in, out);
        break;
    case DECODE_METASPACE:
        decode_metaspace(&d->metaspace, in, out);
        break;
    }
    return 0;
}

int decoders_run(const struct decoders *d, struct pieces *tokens, struct bytes *out, struct err *e)
{
    bytes_text(&tokens->text, "");
    for (size_t i = 0; i < d->n; i++) {
        struct pieces next = { 0 };
        if (run_one(&d->at[i], tokens, &next, e) < 0) {
            pieces_release(&next);
            return -1;
        }
        pieces_release(tokens);
        *tokens = next;
    }
    bytes_text(out, "");
    for (size_t i = 0; i < tokens->n; i++) {
        if (i > 0 && d->n == 0) /* no decoder: the reference joins with spaces */
            bytes_add(out, " ", 1);
        bytes_add(out, tokens->text.data + tokens->at[i].from,
                  tokens->at[i].to - tokens->at[i].from);
    }
    return 0;
}

bool decoders_settle(const struct decoders *d, const char *token, size_t n_bytes)
{
    for (size_t i = 0; i < d->n; i++) {
        const struct decoder *at = &d->at[i];
        if (at->kind == DECODE_BYTE_FALLBACK && (!token || byte_token(token, n_bytes) >= 0))
            return false;
        if (at->kind == DECODE_REPLACE && !pattern_is_plain_line(at->pattern))
            return false;
        if (at->kind == DECODE_STRIP && at->stop > 0 && at->content[0] == '\n')
            return false;
    }
    return true;
}

/* In place: the text only shrinks. */
static void replace_all(struct bytes *text, const char *what, const char *with)
{
    size_t n_what = strlen(what), n_with = strlen(with), to = 0;

    for (size_t i = 0; i < text->n;) {
        if (text->n - i >= n_what && memcmp(text->data + i, what, n_what) == 0) {
            memcpy(text->data + to, with, n_with);
            to += n_with;
            i += n_what;
        } else {
            text->data[to++] = text->data[i++];
        }
    }
    text->n = to;
    if (text->data)
        text->data[to] = 0;
}

void decode_clean_up(struct bytes *text)
{
    static const char *const rules[][2] = {
        { " .", "." },     { " ?", "?" },   { " !", "!" },   { " ,", "," },     { " ' ", "'" },
        { " n't", "n't" }, { " 'm", "'m" }, { " 's", "'s" }, { " 've", "'ve" }, { " 're", "'re" },
    };

    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        replace_all(text, rules[i][0], rules[i][1]);
}
