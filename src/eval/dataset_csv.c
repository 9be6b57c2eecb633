/* dataset_csv.c - see dataset.h: rows of a CSV file. */
#include "eval/dataset.h"

#include "base/file.h"
#include "tokenizer/unicode.h"

#include <stdlib.h>
#include <string.h>

#define FIELDS_MAX 16

struct cursor {
    char *at, *end;
    long line; /* from 1 */
};

/* One field, unquoted in place; *last: nothing of this row follows. */
static int next_field(struct cursor *c, char **out, bool *last, struct err *e)
{
    bool quoted = c->at < c->end && *c->at == '"';
    char *to = *out = quoted ? c->at + 1 : c->at, *from = to;

    for (;; from++) {
        bool doubled = quoted && from + 1 < c->end && from[0] == '"' && from[1] == '"';
        if (from == c->end) {
            if (quoted)
                return err_set(e, ERR_INPUT, "line %ld: a quoted field has no end", c->line);
            break;
        }
        if (quoted ? *from == '"' && !doubled : *from == ',' || *from == '\n')
            break;
        c->line += *from == '\n';
        from += doubled;
        *to++ = *from;
    }
    from += quoted;
    if (!quoted && to > *out && to[-1] == '\r' && (from == c->end || *from == '\n'))
        to--;
    if (quoted && from < c->end && *from == '\r')
        from++;
    if (quoted && from < c->end && *from != ',' && *from != '\n')
        return err_set(e, ERR_INPUT, "line %ld: text behind a quoted field", c->line);
    *last = from >= c->end || *from == '\n';
    c->line += from < c->end && *from == '\n';
    c->at = from < c->end ? from + 1 : c->end;
    *to = 0; /* where a mark stood, or the 0 behind the text */
    return 0;
}

static int take_rows(struct cursor *c, int n_fields,
                     int (*take)(void *context, char *const *fields, struct err *e), void *context,
                     struct err *e)
{
    while (c->at < c->end) {
        char *fields[FIELDS_MAX + 1] = { 0 };
        bool last = false;
        long line = c->line;
        int n = 0;

        for (; !last && n <= FIELDS_MAX; n++)
            if (next_field(c, &fields[n], &last, e) < 0)
                return -1;
        if (n == 1 && !*fields[0])
            continue; /* an empty line */
        if (n != n_fields)
            return err_set(e, ERR_INPUT, "line %ld: %d fields, should be %d", line, n, n_fields);
        if (take(context, fields, e) < 0)
            return err_in(e, "line %ld", line);
    }
    return 0;
}

int dataset_rows(const char *path, int n_fields,
                 int (*take)(void *context, char *const *fields, struct err *e), void *context,
                 struct err *e)
{
    struct bytes text = BYTES_INIT;

    bytes_text(&text, "");
    int rc = file_read(path, &text, e);
    size_t bad = rc == 0 ? utf8_bad_at(text.data, text.n) : 0;
    if (rc == 0 && bad < text.n)
        rc = err_set(e, ERR_INPUT, "%s: byte %zu is not UTF-8", path, bad);
    else if (rc == 0 && memchr(text.data, 0, text.n))
        rc = err_set(e, ERR_INPUT, "%s: a 0 byte in a text", path);
    if (rc == 0) {
        struct cursor c = { text.data, text.data + text.n, 1 };
        rc = take_rows(&c, n_fields, take, context, e);
        if (rc < 0)
            err_in(e, "%s", path);
    }
    bytes_release(&text);
    return rc;
}
