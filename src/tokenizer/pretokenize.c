/* pretokenize.c - pre-tokenizers: how a text is cut into words (see stages.h). */
#include "tokenizer/stages.h"

#include <stdlib.h>
#include <string.h>

/* What ByteLevel applies by itself (GPT-2's pattern). */
#define GPT2_PATTERN \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

enum pretokenizer_kind {
    CUT_PATTERN,
    CUT_BYTE_LEVEL,
    CUT_METASPACE,
    CUT_CLASS /* at every character of a class */
};

enum behavior {
    CUT_ISOLATED,
    CUT_REMOVED,
    CUT_MERGED_WITH_PREVIOUS,
    CUT_MERGED_WITH_NEXT,
    CUT_CONTIGUOUS
};

struct pretokenizer {
    enum pretokenizer_kind kind;
    enum behavior behavior;
    bool invert;
    struct pattern *pattern; /* CUT_PATTERN; CUT_BYTE_LEVEL: NULL unless use_regex */
    bool add_prefix_space;
    struct metaspace metaspace;
    bool (*in_class)(uint32_t c); /* CUT_CLASS; NULL: `delimiter` alone */
    uint32_t delimiter;
    bool words; /* "Whitespace": \w+|[^\w\s]+ */
};

void pieces_add(struct pieces *p, size_t from, size_t to)
{
    if (from == to)
        return;
    if (p->n == p->room) {
        p->room = p->room ? 2 * p->room : 64;
        p->at = mem_grow(p->at, p->room, sizeof *p->at);
    }
    p->at[p->n++] = (struct span){ from, to };
}

void pieces_release(struct pieces *p)
{
    bytes_release(&p->text);
    free(p->at);
    *p = (struct pieces){ 0 };
}

/* ---- reading ---- */

int metaspace_read(struct metaspace *out, const struct js *j, struct err *e)
{
    const char *replacement, *scheme;
    bool add_prefix_space;

    if (js_text_or(j, "replacement", "\xE2\x96\x81", &replacement, e) < 0 ||
        js_text_or(j, "prepend_scheme", "always", &scheme, e) < 0 ||
        js_bool_or(j, "add_prefix_space", true, &add_prefix_space, e) < 0 ||
        js_bool_or(j, "split", true, &out->split, e) < 0)
        return -1;
    size_t n = strlen(replacement);
    if (n == 0 || utf8_length(replacement, n) != n)
        return err_set(e, ERR_INPUT, "replacement should be one character");
    memcpy(out->replacement, replacement, n);
    out->replacement_bytes = n;
    if (strcmp(scheme, "always") == 0)
        out->scheme = PREPEND_ALWAYS;
    else if (strcmp(scheme, "first") == 0)
        out->scheme = PREPEND_FIRST;
    else if (strcmp(scheme, "never") == 0)
        out->scheme = PREPEND_NEVER;
    else
        return err_set(e, ERR_INPUT, "unknown prepend_scheme \"%.64s\"", scheme);
    if (!add_prefix_space) /* how older files say never */
        out->scheme = PREPEND_NEVER;
    return 0;
}

static int behavior_read(enum behavior *out, const struct js *j, const char *standard,
                         struct err *e)
{
    static const char *const names[] = { "Isolated", "Removed", "MergedWithPrevious",
                                         "MergedWithNext", "Contiguous" };
    const char *name;

    if (standard ? js_text_or(j, "behavior", standard, &name, e) < 0
                 : js_want_text(j, "behavior", &name, e) < 0)
        return -1;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (enum behavior)i;
            return 0;
        }
    return err_set(e, ERR_INPUT, "unknown behavior \"%.64s\"", name);
}

static int split_read(struct pretokenizer *p, const struct js *j, const struct shadow *shadow,
                      struct err *e)
{
    p->kind = CUT_PATTERN;
    if (behavior_read(&p->behavior, j, NULL, e) < 0 ||
        js_bool_or(j, "invert", false, &p->invert, e) < 0)
        return -1;
    return pattern_read(&p->pattern, js_get(j, "pattern"), shadow, e);
}

static int byte_level_read(struct pretokenizer *p, const struct js *j, const struct shadow *shadow,
                           struct err *e)
{
    bool use_regex, trim_offsets;

    p->kind = CUT_BYTE_LEVEL;
    if (js_bool_or(j, "add_prefix_space", true, &p->add_prefix_space, e) < 0 ||
        js_bool_or(j, "trim_offsets", true, &trim_offsets, e) < 0 || /* offsets only, no ids */
        js_bool_or(j, "use_regex", true, &use_regex, e) < 0)
        return -1;
    if (!use_regex)
        return 0;
    return pattern_of_regex(&p->pattern, GPT2_PATTERN, strlen(GPT2_PATTERN), shadow, e);
}

static int delimiter_read(struct pretokenizer *p, const struct js *j, struct err *e)
{
    const char *text;

    if (js_want_text(j, "delimiter", &text, e) < 0)
        return -1;
    if (!*text || utf8_length(text, strlen(text)) != strlen(text))
        return err_set(e, ERR_INPUT, "delimiter should be one character");
    p->delimiter = utf8_next(&text);
    p->behavior = CUT_REMOVED;
    return 0;
}

static int read_one(struct pretokenizer *p, const struct js *j, const char *type,
                    const struct shadow *shadow, struct err *e)
{
    bool individual;

    if (strcmp(type, "Split") == 0)
        return split_read(p, j, shadow, e);
    if (strcmp(type, "ByteLevel") == 0)
        return byte_level_read(p, j, shadow, e);
    if (strcmp(type, "Metaspace") == 0) {
        p->kind = CUT_METASPACE;
        return metaspace_read(&p->metaspace, j, e);
    }
    p->kind = CUT_CLASS;
    if (strcmp(type, "Digits") == 0) {
        p->in_class = unicode_is_number;
        if (js_bool_or(j, "individual_digits", false, &individual, e) < 0)
            return -1;
        p->behavior = individual ? CUT_ISOLATED : CUT_CONTIGUOUS;
        return 0;
    }
    if (strcmp(type, "Punctuation") == 0) {
        p->in_class = unicode_is_punctuation;
        return behavior_read(&p->behavior, j, "Isolated", e);
    }
    if (strcmp(type, "CharDelimiterSplit") == 0)
        return delimiter_read(p, j, e);
    p->in_class = unicode_is_white_space;
    p->behavior = CUT_REMOVED;
    p->words = strcmp(type, "Whitespace") == 0;
    if (p->words || strcmp(type, "WhitespaceSplit") == 0)
        return 0;
    return component_unknown("pre_tokenizer", type, e);
}

static int read_all(struct pretokenizers *out, const struct js *j, const struct shadow *shadow,
                    int depth, struct err *e)
{
    const char *type;

    if (component_type(j, "pre_tokenizer", &type, e) < 0)
        return -1;
    if (strcmp(type, "Sequence") == 0) {
        const struct js *list = js_get(j, "pretokenizers");
        if (js_kind(list) != JS_ARRAY || depth == SEQUENCE_DEPTH_MAX)
            return err_set(e, ERR_INPUT, "pre_tokenizer Sequence: no list, or nested too deeply");
        for (size_t i = 0; i < js_count(list); i++)
            if (read_all(out, js_at(list, i), shadow, depth + 1, e) < 0)
                return -1;
        return 0;
    }
    out->at = mem_grow(out->at, out->n + 1, sizeof *out->at);
    struct pretokenizer *p = &out->at[out->n++];
    *p = (struct pretokenizer){ 0 };
    if (read_one(p, j, type, shadow, e) < 0)
        return err_in(e, "pre_tokenizer %.64s", type);
    return 0;
}

int pretokenizers_read(struct pretokenizers *out, const struct js *j, const struct shadow *shadow,
                       struct err *e)
{
    return js_kind(j) == JS_NULL ? 0 : read_all(out, j, shadow, 0, e);
}

void pretokenizers_release(struct pretokenizers *p)
{
    for (size_t i = 0; i < p->n; i++)
        pattern_free(p->at[i].pattern);
    free(p->at);
    *p = (struct pretokenizers){ 0 };
}

/* ---- cutting ---- */

/* Matches and gaps -> pieces, as the reference's SplitDelimiterBehavior does.  `merged` takes the
 * cuts in their direction; a match joins its neighbour unless the cut before it was a match. */
static void merge_with_previous(const struct cuts *c, struct pieces *out)
{
    size_t from = 0, to = 0;
    bool open = false, was_match = false;

    for (size_t i = 0; i < c->n; i++) {
        bool joins = c->at[i].match && !was_match && open;
        if (!joins) {
            if (open)
                pieces_add(out, from, to);
            from = c->at[i].from;
        }
        to = c->at[i].to;
        open = true;
        was_match = c->at[i].match;
    }
    if (open)
        pieces_add(out, from, to);
}

/* The same from right to left. */
static void merge_with_next(const struct cuts *c, struct pieces *out)
{
    for (size_t i = 0; i < c->n; i++) {
        /* A match is taken by the gap on its right, unless another match stands between. */
        bool joins = c->at[i].match && i + 1 < c->n && !c->at[i + 1].match;
        pieces_add(out, c->at[i].from, c->at[joins ? i + 1 : i].to);
        i += joins;
    }
}

static void merge_runs(const struct cuts *c, struct pieces *out)
{
    for (size_t i = 0; i < c->n;) {
        size_t j = i + 1;
        while (j < c->n && c->at[j].match == c->at[i].match)
            j++;
        pieces_add(out, c->at[i].from, c->at[j - 1].to);
        i = j;
    }
}

static void keep(struct cuts *c, enum behavior behavior, bool invert, struct pieces *out)
{
    for (size_t i = 0; i < c->n && invert; i++)
        c->at[i].match = !c->at[i].match;
    switch (behavior) {
    case CUT_ISOLATED:
    case CUT_REMOVED:
        for (size_t i = 0; i < c->n; i++)
            if (behavior == CUT_ISOLATED || !c->at[i].match)
                pieces_add(out, c->at[i].from, c->at[i].to);
        break;
    case CUT_MERGED_WITH_PREVIOUS:
        merge_with_previous(c, out);
        break;
    case CUT_MERGED_WITH_NEXT:
        merge_with_next(c, out);
        break;
    case CUT_CONTIGUOUS:
        merge_runs(c, out);
        break;
    }
}

/* Takes over the text of *p with new pieces. */
static void replace_pieces(struct pieces *p, struct pieces *with)
{
    with->at_start = p->at_start && with->n > 0 && p->n > 0 && with->at[0].from == p->at[0].from;
    with->text = p->text;
    free(p->at);
    *p = *with;
}

static int cut_pattern(const struct pattern *pattern, enum behavior behavior, bool invert,
                       struct pieces *p, struct err *e)
{
    struct pieces out = { 0 };
    struct cuts cuts = { 0 };
    struct matcher m;
    int rc = 0;

    if (matcher_open(&m, pattern, p->text.data, p->text.n, e) < 0)
        return -1;
    for (size_t i = 0; i < p->n && rc == 0; i++) {
        cuts.n = 0;
        rc = matcher_cut(&m, p->at[i].from, p->at[i].to, &cuts, e);
        keep(&cuts, behavior, invert, &out);
    }
    matcher_close(&m);
    cuts_release(&cuts);
    if (rc == 0)
        replace_pieces(p, &out);
    else
        pieces_release(&out);
    return rc;
}

static void class_cuts(const struct pretokenizer *t, const char *text, size_t from, size_t to,
                       struct cuts *out)
{
    const char *s = text + from, *end = text + to;
    size_t done = from;

    while (s < end) {
        size_t at = (size_t)(s - text);
        uint32_t c = utf8_next(&s);
        if (t->in_class ? !t->in_class(c) : c != t->delimiter)
            continue;
        if (at > done)
            cuts_add(out, done, at, false);
        done = (size_t)(s - text);
        cuts_add(out, at, done, true);
    }
    if (done < to)
        cuts_add(out, done, to, false);
}

/* \w+|[^\w\s]+: runs of word characters and runs of the rest, white space dropped. */
static void word_pieces(const char *text, size_t from, size_t to, struct pieces *out)
{
    const char *s = text + from, *end = text + to;
    size_t start = from;
    int class, was = 0; /* 0 white space, 1 word, 2 other */

    while (s < end) {
        size_t at = (size_t)(s - text);
        uint32_t c = utf8_next(&s);
        class = unicode_is_word(c) ? 1 : unicode_is_white_space(c) ? 0 : 2;
        if (class != was) {
            if (was)
                pieces_add(out, start, at);
            start = at;
            was = class;
        }
    }
    if (was)
        pieces_add(out, start, to);
}

static void cut_class(const struct pretokenizer *t, struct pieces *p)
{
    struct pieces out = { 0 };
    struct cuts cuts = { 0 };

    for (size_t i = 0; i < p->n; i++) {
        if (t->words) {
            word_pieces(p->text.data, p->at[i].from, p->at[i].to, &out);
            continue;
        }
        cuts.n = 0;
        class_cuts(t, p->text.data, p->at[i].from, p->at[i].to, &cuts);
        keep(&cuts, t->behavior, false, &out);
    }
    cuts_release(&cuts);
    replace_pieces(p, &out);
}

/* Takes over a rewritten text and its pieces, one for one. */
static void replace_text(struct pieces *p, struct pieces *with)
{
    with->at_start = p->at_start;
    pieces_release(p);
    *p = *with;
}

static void add_rewritten(struct pieces *out, size_t from)
{
    pieces_add(out, from, out->text.n);
}

static void cut_metaspace(const struct metaspace *m, struct pieces *p)
{
    struct pieces out = { 0 };

    for (size_t i = 0; i < p->n; i++) {
        const char *s = p->text.data + p->at[i].from;
        size_t n = p->at[i].to - p->at[i].from, from = out.text.n;
        bool starts = *s == ' ' || (n >= m->replacement_bytes &&
                                    memcmp(s, m->replacement, m->replacement_bytes) == 0);
        bool wanted =
            m->scheme == PREPEND_ALWAYS || (m->scheme == PREPEND_FIRST && i == 0 && p->at_start);
        if (wanted && !starts)
            bytes_add(&out.text, m->replacement, m->replacement_bytes);
        for (size_t k = 0; k < n; k++) {
            if (s[k] == ' ')
                bytes_add(&out.text, m->replacement, m->replacement_bytes);
            else
                bytes_add(&out.text, s + k, 1);
        }
        add_rewritten(&out, from);
    }
    replace_text(p, &out);
    if (!m->split)
        return;

    struct pretokenizer at = { .kind = CUT_CLASS, .behavior = CUT_MERGED_WITH_NEXT };
    const char *replacement = m->replacement;
    at.delimiter = utf8_next(&replacement);
    cut_class(&at, p);
}

/* ---- the byte-level alphabet ---- */

static bool stands_for_itself(unsigned char b)
{
    return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
}

uint32_t byte_level_char(unsigned char b)
{
    if (stands_for_itself(b))
        return b;
    /* The 68 others follow from U+0100: 00-20, 7F-A0, AD. */
    return 0x100u + (b <= 0x20 ? b : b == 0xAD ? 67u : 33u + (b - 0x7Fu));
}

int byte_level_byte(uint32_t c)
{
    if (c < 0x100)
        return stands_for_itself((unsigned char)c) ? (int)c : -1;
    if (c >= 0x144)
        return -1;
    c -= 0x100;
    return c <= 0x20 ? (int)c : c == 67 ? 0xAD : (int)(0x7F + (c - 33));
}

void byte_level_add(struct bytes *out, const char *text, size_t n_bytes)
{
    char run[512];
    size_t n = 0;

    for (size_t i = 0; i < n_bytes; i++) {
        n += utf8_put(byte_level_char((unsigned char)text[i]), run + n);
        if (n > sizeof run - 4) {
            bytes_add(out, run, n);
            n = 0;
        }
    }
    bytes_add(out, run, n);
}

static int cut_byte_level(const struct pretokenizer *t, struct pieces *p, struct err *e)
{
    struct pieces out = { 0 };

    if (t->add_prefix_space) {
        for (size_t i = 0; i < p->n; i++) {
            const char *s = p->text.data + p->at[i].from;
            size_t from = out.text.n;
            if (*s != ' ')
                bytes_add(&out.text, " ", 1);
            bytes_add(&out.text, s, p->at[i].to - p->at[i].from);
            add_rewritten(&out, from);
        }
        replace_text(p, &out);
        out = (struct pieces){ 0 };
    }
    if (t->pattern && cut_pattern(t->pattern, CUT_ISOLATED, false, p, e) < 0)
        return -1;
    for (size_t i = 0; i < p->n; i++) {
        size_t from = out.text.n;
        byte_level_add(&out.text, p->text.data + p->at[i].from, p->at[i].to - p->at[i].from);
        add_rewritten(&out, from);
    }
    replace_text(p, &out);
    return 0;
}

int pretokenizers_run(const struct pretokenizers *list, struct pieces *p, struct err *e)
{
    for (size_t i = 0; i < list->n && p->n > 0; i++) {
        const struct pretokenizer *t = &list->at[i];
        int rc = 0;

        if (t->kind == CUT_PATTERN)
            rc = cut_pattern(t->pattern, t->behavior, t->invert, p, e);
        else if (t->kind == CUT_BYTE_LEVEL)
            rc = cut_byte_level(t, p, e);
        else if (t->kind == CUT_METASPACE)
            cut_metaspace(&t->metaspace, p);
        else
            cut_class(t, p);
        if (rc < 0)
            return -1;
    }
    return 0;
}
