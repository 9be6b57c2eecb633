/* regex.c - patterns of tokenizer.json, run by PCRE2.
 *
 * The reference runs them with Oniguruma in Ruby syntax.  What both read alike is passed on;
 * \w and \h, which they read differently, are written out; what cannot be written out is
 * refused.  A pattern is never skipped.  */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer/stages.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#define JIT_STACK_START ((size_t)32 << 10)
#define JIT_STACK_MAX   ((size_t)16 << 20)
#define PATTERN_MAX     65536

struct pattern {
    char *text; /* a plain string to find; NULL: the regex */
    size_t text_bytes;
    pcre2_code *code;
    const struct shadow *shadow;
};

void cuts_add(struct cuts *c, size_t from, size_t to, bool match)
{
    if (c->n == c->room) {
        c->room = c->room ? 2 * c->room : 64;
        c->at = mem_grow(c->at, c->room, sizeof *c->at);
    }
    c->at[c->n++] = (struct cut){ from, to, match };
}

void cuts_release(struct cuts *c)
{
    free(c->at);
    *c = (struct cuts){ 0 };
}

/* ---- Ruby's syntax in PCRE2's ---- */

/* Oniguruma's word characters: alphabetic, marks, decimal digits, connectors, and of the other
 * numbers the six of Latin-1. */
#define WORD_CLASS                                                          \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}" \
    "\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}"
#define HEX_CLASS "0-9A-Fa-f"

static int translate_escape(const char *s, bool in_class, struct bytes *out, struct err *e)
{
    const char *members = *s == 'w' || *s == 'W' ? WORD_CLASS : HEX_CLASS;
    bool negated = *s == 'W' || *s == 'H';

    /* \b and \B lean on \w; inside a class \b is a backspace to both engines. */
    if (*s == 'B' || (*s == 'b' && !in_class) || (negated && in_class))
        return err_set(e, ERR_INPUT, "\\%c in a pattern is not supported here", *s);
    if (*s == 'w' || *s == 'h' || negated) {
        bytes_printf(out, in_class ? "%s%s" : "[%s%s]", negated ? "^" : "", members);
        return 0;
    }
    bytes_add(out, "\\", 1);
    bytes_add(out, s, 1);
    return 0;
}

/* (?imx: and (?imx): m means "dot matches line ends" in Ruby, line anchors in PCRE2. */
static bool has_option_m(const char *s, size_t n)
{
    for (size_t i = 0; i < n && ((s[i] >= 'a' && s[i] <= 'z') || s[i] == '-'); i++)
        if (s[i] == 'm')
            return true;
    return false;
}

static int translate(const char *s, size_t n, struct bytes *out, struct err *e)
{
    bool in_class = false;

    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\\' && i + 1 < n) {
            if (translate_escape(s + ++i, in_class, out, e) < 0)
                return -1;
            continue;
        }
        if (in_class && s[i] == '[' && !(i + 1 < n && s[i + 1] == ':'))
            return err_set(e, ERR_INPUT, "a class inside a class of a pattern is not supported");
        if (in_class && s[i] == '&' && i + 1 < n && s[i + 1] == '&')
            return err_set(e, ERR_INPUT, "&& inside a class of a pattern is not supported");
        if (!in_class && s[i] == '(' && i + 1 < n && s[i + 1] == '?' &&
            has_option_m(s + i + 2, n - i - 2))
            return err_set(e, ERR_INPUT, "option m in a pattern is not supported");
        if (in_class && s[i] == '[') { /* [:alpha:] */
            const char *end = memchr(s + i, ']', n - i);
            size_t length = end ? (size_t)(end - s) - i + 1 : n - i;
            bytes_add(out, s + i, length);
            i += length - 1;
            continue;
        }
        if (in_class && s[i] == ']') {
            in_class = false;
        } else if (!in_class && s[i] == '[') {
            in_class = true;
            bytes_add(out, s + i, 1);
            if (i + 1 < n && s[i + 1] == '^')
                bytes_add(out, s + ++i, 1);
            if (i + 1 < n && s[i + 1] == ']') /* a ] that comes first is a member */
                bytes_add(out, "\\]", 2), i++;
            continue;
        }
        bytes_add(out, s + i, 1);
    }
    return 0;
}

int pattern_of_regex(struct pattern **out, const char *regex, size_t n_bytes,
                     const struct shadow *shadow, struct err *e)
{
    struct bytes text = BYTES_INIT;
    char why[256] = "";
    int error = 0, rc = -1;
    size_t at = 0;

    *out = NULL;
    if (!shadow)
        return err_set(e, ERR_INPUT, "the regular expression library (PCRE2) lacks Unicode");
    if (n_bytes > PATTERN_MAX)
        return err_set(e, ERR_INPUT, "a pattern of %zu bytes (at most %d)", n_bytes, PATTERN_MAX);
    bytes_text(&text, "");
    if (translate(regex, n_bytes, &text, e) < 0) {
        err_in(e, "pattern %.200s", regex);
        goto out;
    }
    /* MULTILINE: ^ and $ are line anchors in Ruby. */
    pcre2_code *code = pcre2_compile(
        (PCRE2_SPTR)text.data, text.n,
        PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &at, NULL);
    if (!code) {
        pcre2_get_error_message(error, (PCRE2_UCHAR *)why, sizeof why);
        err_set(e, ERR_INPUT, "%s at offset %zu of pattern %.200s", why, at, text.data);
        goto out;
    }
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); /* without it: slower, the same answers */
    *out = mem_alloc(sizeof **out);
    (*out)->code = code;
    (*out)->shadow = shadow;
    rc = 0;
out:
    bytes_release(&text);
    return rc;
}

int pattern_read(struct pattern **out, const struct js *j, const struct shadow *shadow,
                 struct err *e)
{
    const struct js *plain = js_get(j, "String"), *regex = js_get(j, "Regex");

    *out = NULL;
    if (js_kind(j) == JS_TEXT) /* an old form of {"String": ...} */
        plain = j;
    if (js_text(regex))
        return pattern_of_regex(out, js_text(regex), js_text_bytes(regex), shadow, e);
    if (!js_text(plain))
        return err_set(e, ERR_INPUT, "pattern should be {\"String\": ...} or {\"Regex\": ...}");
    if (js_text_bytes(plain) == 0)
        return err_set(e, ERR_INPUT, "pattern is an empty string");
    *out = mem_alloc(sizeof **out);
    (*out)->text = mem_textn(js_text(plain), js_text_bytes(plain));
    (*out)->text_bytes = js_text_bytes(plain);
    return 0;
}

void pattern_free(struct pattern *p)
{
    if (!p)
        return;
    pcre2_code_free(p->code);
    free(p->text);
    free(p);
}

bool pattern_is_plain_line(const struct pattern *p)
{
    return p->text && !memchr(p->text, '\n', p->text_bytes);
}

/* ---- running ---- */

int matcher_open(struct matcher *m, const struct pattern *p, const char *text, size_t n_bytes,
                 struct err *e)
{
    *m = (struct matcher){ .pattern = p, .text = text };
    if (!p->code)
        return 0;
    m->data = pcre2_match_data_create(1, NULL);
    m->context = pcre2_match_context_create(NULL);
    m->jit_stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_MAX, NULL);
    if (!m->data || !m->context) {
        matcher_close(m);
        return err_set(e, ERR_MEMORY, "no memory for matching a pattern");
    }
    if (m->jit_stack)
        pcre2_jit_stack_assign(m->context, NULL, m->jit_stack);
    m->shadow = shadow_text(p->shadow, text, n_bytes);
    return 0;
}

void matcher_close(struct matcher *m)
{
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    pcre2_jit_stack_free(m->jit_stack);
    free(m->shadow);
    *m = (struct matcher){ 0 };
}

static void cut_at_text(const struct pattern *p, const char *text, size_t from, size_t to,
                        struct cuts *out)
{
    size_t done = from;

    while (done < to) {
        const char *hit = memmem(text + done, to - done, p->text, p->text_bytes);
        size_t at = hit ? (size_t)(hit - text) : to;
        if (at > done)
            cuts_add(out, done, at, false);
        if (hit)
            cuts_add(out, at, at + p->text_bytes, true);
        done = hit ? at + p->text_bytes : to;
    }
}

int matcher_cut(struct matcher *m, size_t from, size_t to, struct cuts *out, struct err *e)
{
    if (!m->pattern->code) {
        cut_at_text(m->pattern, m->text, from, to, out);
        return 0;
    }

    const char *s = (m->shadow ? m->shadow : m->text) + from;
    const size_t *v = pcre2_get_ovector_pointer(m->data);
    size_t n = to - from, search = 0, done = 0, last_end = SIZE_MAX;

    while (search <= n) {
        int rc = pcre2_match(m->pattern->code, (PCRE2_SPTR)s, n, search, PCRE2_NO_UTF_CHECK,
                             m->data, m->context);
        if (rc == PCRE2_ERROR_NOMATCH)
            break;
        if (rc < 0) {
            char why[128] = "";
            pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
            return err_set(e, ERR_INPUT, "matching a pattern at byte %zu: %s", from + search, why);
        }
        if (v[0] == v[1] && v[1] == last_end) { /* no empty match right behind a match */
            size_t step = search < n ? utf8_length(s + search, n - search) : 1;
            search += step ? step : 1;
            continue;
        }
        if (v[0] > done)
            cuts_add(out, from + done, from + v[0], false);
        cuts_add(out, from + v[0], from + v[1], true);
        search = done = last_end = v[1];
    }
    if (done < n)
        cuts_add(out, from + done, to, false);
    return 0;
}

int pattern_replace(const struct pattern *p, const char *text, size_t n_bytes, const char *content,
                    size_t content_bytes, struct bytes *out, struct err *e)
{
    struct matcher m;
    struct cuts cuts = { 0 };

    if (matcher_open(&m, p, text, n_bytes, e) < 0)
        return -1;
    int rc = matcher_cut(&m, 0, n_bytes, &cuts, e);
    for (size_t i = 0; rc == 0 && i < cuts.n; i++) {
        if (cuts.at[i].match)
            bytes_add(out, content, content_bytes);
        else
            bytes_add(out, text + cuts.at[i].from, cuts.at[i].to - cuts.at[i].from);
    }
    cuts_release(&cuts);
    matcher_close(&m);
    return rc;
}
