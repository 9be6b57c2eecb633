/* wikitext.c - see windows.h: pages of WikiText and their detokenizing, step by step as
 * lm-evaluation-harness does it (tasks/wikitext/preprocess_wikitext.py). */
#include "eval/windows.h"

#include "tokenizer/unicode.h"

#include <string.h>

/* ---- replacing ---- */

static void replace_all(struct bytes *text, const char *what, const char *by)
{
    struct bytes out = BYTES_INIT;
    const char *at = text->data, *end = text->data + text->n, *hit;
    size_t n = strlen(what);

    bytes_text(&out, "");
    for (; (hit = memmem(at, (size_t)(end - at), what, n)); at = hit + n) {
        bytes_add(&out, at, (size_t)(hit - at));
        bytes_text(&out, by);
    }
    bytes_add(&out, at, (size_t)(end - at));
    bytes_release(text);
    *text = out;
}

static const char *skip_space(const char *s, const char *end)
{
    while (s < end) {
        const char *next = s;
        if (!python_is_space(utf8_next(&next)))
            break;
        s = next;
    }
    return s;
}

static const char *skip_space_back(const char *from, const char *s)
{
    while (s > from) {
        const char *before = s;
        if (!python_is_space(utf8_before(&before)))
            break;
        s = before;
    }
    return s;
}

/* Removes white space just inside each pair of marks, left to right. */
static void tighten(struct bytes *text, char open, char shut)
{
    struct bytes out = BYTES_INIT;
    const char *at = text->data, *end = text->data + text->n;

    bytes_text(&out, "");
    while (at < end) {
        const char *mark = memchr(at, open, (size_t)(end - at));
        const char *close = mark ? memchr(mark + 1, shut, (size_t)(end - mark - 1)) : NULL;
        if (!close)
            break;
        const char *from = skip_space(mark + 1, close), *to = skip_space_back(from, close);
        bytes_add(&out, at, (size_t)(mark + 1 - at));
        bytes_add(&out, from, (size_t)(to - from));
        bytes_add(&out, close, 1);
        at = close + 1;
    }
    bytes_add(&out, at, (size_t)(end - at));
    bytes_release(text);
    *text = out;
}

void wikitext_detokenize(const char *page, size_t n_bytes, struct bytes *out)
{
    static const char *const first[][2] = {
        { "s '", "s'" }, { " @-@ ", "-" }, { " @,@ ", "," }, { " @.@ ", "." }, { " : ", ": " },
        { " ; ", "; " }, { " . ", ". " },  { " ! ", "! " },  { " ? ", "? " },  { " , ", ", " },
    };
    static const char *const last[][2] = {
        { "= = = =", "====" }, { "= = =", "===" }, { "= =", "==" },  { " \xC2\xB0 ", "\xC2\xB0" },
        { " \n", "\n" },       { "\n ", "\n" },    { " N ", " 1 " }, { " 's", "'s" },
    };
    struct bytes text = BYTES_INIT;

    bytes_text(&text, "");
    bytes_add(&text, page, n_bytes);
    for (size_t i = 0; i < sizeof first / sizeof *first; i++)
        replace_all(&text, first[i][0], first[i][1]);
    tighten(&text, '(', ')');
    tighten(&text, '[', ']');
    tighten(&text, '{', '}');
    tighten(&text, '"', '"');
    tighten(&text, '\'', '\'');
    for (size_t i = 0; i < sizeof last / sizeof *last; i++)
        replace_all(&text, last[i][0], last[i][1]);
    bytes_add(out, text.data, text.n);
    bytes_release(&text);
}

int64_t wikitext_n_words(const char *page, size_t n_bytes)
{
    const char *at = page, *end = page + n_bytes;
    int64_t n = 1;

    while (at < end) {
        const char *behind = skip_space(at, end);
        n += behind > at;
        at = behind;
        if (at < end)
            utf8_next(&at);
    }
    return n;
}

/* ---- pages ---- */

/* " = Robert Boulter = ", not " = = Career = = ". */
static bool is_title(const char *line, size_t n)
{
    struct bytes text = BYTES_INIT;

    bytes_text(&text, "");
    bytes_add(&text, line, n);
    replace_all(&text, "= = =", "===");
    replace_all(&text, "= =", "==");
    const char *from = skip_space(text.data, text.data + text.n);
    const char *to = skip_space_back(from, text.data + text.n);
    bool title = to - from >= 3 && memcmp(from, "= ", 2) == 0 && memcmp(to - 2, " =", 2) == 0;
    bytes_release(&text);
    return title;
}

size_t wikitext_page(const char *text, size_t n_bytes)
{
    const char *end = text + n_bytes, *line = text;

    for (bool begun = false; line < end;) {
        const char *lf = memchr(line, '\n', (size_t)(end - line)), *stop = lf ? lf : end;
        size_t n = (size_t)(stop - line);
        if (begun && is_title(line, n))
            return (size_t)(line - text);
        /* What stands in front of the first title belongs to its page, if it is blank. */
        begun = begun || skip_space(line, stop) < stop;
        line = lf ? lf + 1 : end;
    }
    return n_bytes;
}
