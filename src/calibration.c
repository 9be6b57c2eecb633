/* calibration.c - see calibration.h. */
#include "calibration.h"

#include "base/file.h"
#include "base/mt19937.h"
#include "eval/dataset.h"
#include "eval/pack.h"
#include "eval/profile.h"
#include "sweep/method.h"
#include "sweep/preset.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC           0x314C4143u /* "CAL1" */
#define SHORT_DOCUMENT  10          /* tokens; GPTQModel drops those */
#define FRUITLESS_TURNS 16          /* draws per document without a new window: there are no more */

bool calibration_plan_of(const struct experiment *x, const struct js *calibration,
                         int64_t max_position, struct calibration_plan *out)
{
    const struct method_rule *m = method_find(x->method);
    int64_t samples = js_int(js_get(calibration, "samples"));
    int64_t length = js_int(js_get(calibration, "sequence_length"));

    *out = (struct calibration_plan){ 0 };
    if (!m || m->data_free)
        return false;
    bool awq = strcmp(x->method, "awq") == 0;
    const struct gptq_preset *preset = preset_find(x->preset);
    bool documents = !awq && preset && preset->documents;

    out->way = awq ? CALIBRATION_BLOCKS : documents ? CALIBRATION_DOCUMENTS : CALIBRATION_WINDOWS;
    out->samples = samples ? samples : preset && !awq ? preset->samples : 128;
    if (awq)
        out->length = length && length < 512 ? length : 512;
    else
        out->length = length ? length : preset ? preset->length : 2048;
    if (out->length > max_position)
        out->length = max_position;
    return true;
}

/* ---- the source: one row of ids, rows of ids, or documents ---- */

struct source_text {
    struct id_table table; /* one text or rows; ids NULL: documents */
    struct js **lines;     /* documents */
    int64_t n_lines;
    struct token_ids *ids; /* [n_lines], as far as they have been drawn */
    bool *known;
    const struct tokenizer *tokenizer;
    const struct config *config;
};

static void source_text_release(struct source_text *s)
{
    for (int64_t i = 0; i < s->n_lines; i++) {
        js_release(s->lines[i]);
        token_ids_release(&s->ids[i]);
    }
    free(s->lines);
    free(s->ids);
    free(s->known);
    id_table_release(&s->table);
}

static int read_lines(const char *path, struct source_text *s, struct err *e)
{
    struct bytes raw = BYTES_INIT;
    int64_t room = 0, number = 0;
    int rc = -1;

    bytes_text(&raw, "");
    if (file_read(path, &raw, e) < 0)
        goto out;
    for (char *at = raw.data, *end; *at; at = end) {
        size_t n = strcspn(at, "\n");

        end = at + n + (at[n] == '\n');
        number++;
        if (strspn(at, " \t\r") >= n)
            continue;
        if (s->n_lines == room) {
            room = room ? 2 * room : 1024;
            s->lines = mem_grow(s->lines, (size_t)room, sizeof *s->lines);
        }
        struct js *line = js_parse(at, n, e);
        const char *text;
        if (!line || js_want_text(line, "text", &text, e) < 0) {
            js_release(line);
            err_in(e, "line %lld of %s", (long long)number, path);
            goto out;
        }
        s->lines[s->n_lines++] = line;
    }
    rc = 0;
out:
    s->ids = mem_array((size_t)s->n_lines + 1, sizeof *s->ids);
    s->known = mem_array((size_t)s->n_lines + 1, sizeof *s->known);
    bytes_release(&raw);
    return rc;
}

static int read_text(const char *path, struct source_text *s, struct err *e)
{
    struct bytes text = BYTES_INIT;
    struct token_ids ids = TOKEN_IDS_INIT;

    bytes_text(&text, "");
    int rc = dataset_text(path, &text, e);
    if (rc == 0 && tokenizer_encode(s->tokenizer, text.data, text.n, true, &ids, e) < 0)
        rc = err_in(e, "%s", path);
    bytes_release(&text);
    s->table =
        (struct id_table){ .ids = ids.ids, .n_rows = 1, .n_cols = (int64_t)ids.n, .n_dims = 1 };
    return rc;
}

static int source_text_open(const char *path, const struct tokenizer *t, const struct config *c,
                            struct source_text *s, struct err *e)
{
    int rc;

    *s = (struct source_text){ .tokenizer = t, .config = c };
    switch (dataset_kind(path)) {
    case DATASET_JSONL:
        rc = read_lines(path, s, e);
        break;
    case DATASET_IDS:
        rc = dataset_ids(path, &s->table, e);
        break;
    default:
        rc = read_text(path, s, e);
    }
    if (rc == 0 && s->table.ids)
        rc = profile_check_ids(c, s->table.ids, (size_t)(s->table.n_rows * s->table.n_cols), e);
    if (rc < 0) {
        err_in(e, "[calibration]");
        source_text_release(s);
    }
    return rc;
}

/* Tokens of document i, made when first asked for. */
static int document(struct source_text *s, int64_t i, bool strip, const struct token_ids **out,
                    struct err *e)
{
    if (!s->known[i]) {
        const struct js *member = js_get(s->lines[i], "text");
        const char *text = js_text(member);
        size_t n = js_text_bytes(member);

        for (; strip && n && isspace((unsigned char)*text); n--)
            text++;
        while (strip && n && isspace((unsigned char)text[n - 1]))
            n--;
        if (n && tokenizer_encode(s->tokenizer, text, n, true, &s->ids[i], e) < 0)
            return err_in(e, "document %lld of [calibration]", (long long)i);
        if (profile_check_ids(s->config, s->ids[i].ids, s->ids[i].n, e) < 0)
            return err_in(e, "document %lld of [calibration]", (long long)i);
        s->known[i] = true;
    }
    *out = &s->ids[i];
    return 0;
}

/* ---- drawing ---- */

struct draw {
    struct bytes ids;     /* int32 */
    struct bytes lengths; /* int32, one a sequence */
    int64_t n;
};

static void add_sequence(struct draw *d, const int32_t *ids, int64_t n)
{
    int32_t length = (int32_t)n;

    bytes_add(&d->ids, ids, (size_t)n * sizeof *ids);
    bytes_add(&d->lengths, &length, sizeof length);
    d->n++;
}

/* 2-D ids: different rows, drawn; all of them in their order where as many as are asked for. */
static void draw_rows(const struct source_text *s, const struct calibration_plan *p,
                      struct mt19937 *r, struct draw *d)
{
    const struct id_table *t = &s->table;
    int64_t n = t->n_cols < p->length ? t->n_cols : p->length;
    int64_t *order = mem_array((size_t)t->n_rows, sizeof *order);

    for (int64_t i = 0; i < t->n_rows; i++)
        order[i] = i;
    for (int64_t i = 0; i < t->n_rows && i < p->samples; i++) {
        int64_t other = t->n_rows > p->samples ? i + mt19937_below(r, t->n_rows - i) : i;
        int64_t row = order[other];

        order[other] = order[i];
        add_sequence(d, t->ids + row * t->n_cols, n);
    }
    free(order);
}

/* One text: a start in the whole. */
static void draw_starts(const struct source_text *s, const struct calibration_plan *p,
                        struct mt19937 *r, struct draw *d)
{
    int64_t n_tokens = s->table.n_cols, most = n_tokens / p->length;

    for (int64_t i = 0; i < p->samples && i < most; i++) {
        int64_t start = n_tokens > p->length ? mt19937_below(r, n_tokens - p->length) : 0;

        add_sequence(d, s->table.ids + start, p->length);
    }
}

struct window {
    int64_t document, start;
};

static bool is_new(const struct window *seen, int64_t n, struct window w)
{
    for (int64_t i = 0; i < n; i++)
        if (seen[i].document == w.document && seen[i].start == w.start)
            return false;
    return true;
}

/* IST's loader: a document until one has more than enough tokens, then a start.  A window that was
 * drawn before is no new sample. */
static int draw_windows(struct source_text *s, const struct calibration_plan *p, struct mt19937 *r,
                        struct draw *d, struct err *e)
{
    struct window *seen = mem_array((size_t)p->samples, sizeof *seen);
    int64_t fruitless = 0;
    int rc = 0;

    while (s->n_lines && d->n < p->samples && fruitless < FRUITLESS_TURNS * s->n_lines) {
        struct window w = { .document = mt19937_below(r, s->n_lines) };
        const struct token_ids *ids;

        fruitless++;
        rc = document(s, w.document, false, &ids, e);
        if (rc < 0)
            break;
        if ((int64_t)ids->n <= p->length)
            continue;
        w.start = mt19937_below(r, (int64_t)ids->n - p->length);
        if (!is_new(seen, d->n, w))
            continue;
        seen[d->n] = w;
        add_sequence(d, ids->ids + w.start, p->length);
        fruitless = 0;
    }
    free(seen);
    return rc;
}

/* A permutation, then the first documents that will do. */
static int draw_documents(struct source_text *s, const struct calibration_plan *p,
                          struct mt19937 *r, struct draw *d, struct err *e)
{
    bool blocks = p->way == CALIBRATION_BLOCKS;
    int64_t *order = mem_array((size_t)s->n_lines + 1, sizeof *order), n_taken = 0;
    struct bytes joined = BYTES_INIT;
    int rc = 0;

    for (int64_t i = 0; i < s->n_lines; i++)
        order[i] = i;
    for (int64_t i = 0; i < s->n_lines && n_taken < p->samples && rc == 0; i++) {
        int64_t other = i + mt19937_below(r, s->n_lines - i), k = order[other];
        const struct token_ids *ids;

        order[other] = order[i];
        rc = document(s, k, blocks, &ids, e);
        if (rc < 0 || (blocks && (ids->n == 0 || (int64_t)ids->n > p->length)) ||
            (!blocks && ids->n <= SHORT_DOCUMENT))
            continue;
        n_taken++;
        if (blocks)
            bytes_add(&joined, ids->ids, ids->n * sizeof *ids->ids);
        else
            add_sequence(d, ids->ids, (int64_t)ids->n < p->length ? (int64_t)ids->n : p->length);
    }
    int64_t n_joined = (int64_t)(joined.n / sizeof(int32_t));
    for (int64_t at = 0; rc == 0 && at + p->length <= n_joined; at += p->length)
        add_sequence(d, (const int32_t *)(const void *)joined.data + at, p->length);
    bytes_release(&joined);
    free(order);
    return rc;
}

static int draw(struct source_text *s, const struct calibration_plan *p, int64_t seed,
                struct draw *d, struct err *e)
{
    struct mt19937 r;

    *d = (struct draw){ 0 };
    mt19937_seed(&r, (uint64_t)seed);
    if (s->table.ids && s->table.n_dims == 2)
        draw_rows(s, p, &r, d);
    else if (s->table.ids)
        draw_starts(s, p, &r, d);
    else if (p->way == CALIBRATION_WINDOWS)
        return draw_windows(s, p, &r, d, e);
    else
        return draw_documents(s, p, &r, d, e);
    return 0;
}

/* ---- all that the jobs ask for ---- */

struct wanted {
    struct calibration_plan plan;
    int64_t seed;
};

static bool same_plan(const struct calibration_plan *a, const struct calibration_plan *b)
{
    return a->way == b->way && a->samples == b->samples && a->length == b->length;
}

static int64_t all_wanted(const struct sweep *s, int64_t max_position, struct wanted **out)
{
    struct wanted *all = mem_array((size_t)s->n_jobs + 1, sizeof *all);
    int64_t n = 0;

    for (int i = 0; i < s->n_jobs; i++) {
        struct wanted w = { .seed = s->jobs[i].seed };
        bool there = false;

        if (!calibration_plan_of(s->jobs[i].experiment, s->calibration, max_position, &w.plan))
            continue;
        for (int64_t k = 0; k < n && !there; k++)
            there = all[k].seed == w.seed && same_plan(&all[k].plan, &w.plan);
        if (!there)
            all[n++] = w;
    }
    *out = all;
    return n;
}

static int prepare_one(struct source_text *source, const char *path, const struct wanted *w,
                       struct bytes *out, struct bytes *notes, struct err *e)
{
    struct draw d;
    int rc = draw(source, &w->plan, w->seed, &d, e);

    if (rc == 0 && d.n == 0)
        rc = err_set(e, ERR_INPUT,
                     "%s: too short for one sample of %lld tokens (%lld were asked for)", path,
                     (long long)w->plan.length, (long long)w->plan.samples);
    if (rc == 0 && notes && d.n < w->plan.samples && w->plan.way != CALIBRATION_BLOCKS)
        bytes_printf(
            notes, "calibration: %s gives %lld samples of %lld tokens under seed %lld, not %lld\n",
            path, (long long)d.n, (long long)w->plan.length, (long long)w->seed,
            (long long)w->plan.samples);
    if (rc == 0) {
        pack_u32(out, (uint32_t)w->plan.way);
        pack_u32(out, (uint32_t)w->plan.samples);
        pack_u32(out, (uint32_t)w->plan.length);
        pack_u32(out, (uint32_t)w->seed);
        pack_u32(out, (uint32_t)((uint64_t)w->seed >> 32));
        pack_ids(out, (const int32_t *)(const void *)d.lengths.data, (size_t)d.n);
        pack_ids(out, (const int32_t *)(const void *)d.ids.data, d.ids.n / sizeof(int32_t));
    }
    bytes_release(&d.ids);
    bytes_release(&d.lengths);
    return rc;
}

int calibration_prepare(const struct sweep *s, const struct tokenizer *t, const struct config *c,
                        struct bytes *out, struct bytes *notes, struct err *e)
{
    const char *path = js_text(js_get(s->calibration, "path"));
    struct wanted *all;
    struct source_text source;
    int64_t n = all_wanted(s, c->max_position, &all);
    int rc = 0;

    if (n && source_text_open(path, t, c, &source, e) < 0) {
        free(all);
        return -1;
    }
    if (n) {
        pack_u32(out, MAGIC);
        pack_u32(out, (uint32_t)n);
        for (int64_t i = 0; i < n && rc == 0; i++)
            rc = prepare_one(&source, path, &all[i], out, notes, e);
        source_text_release(&source);
    }
    free(all);
    return rc < 0 ? err_in(e, "[calibration] of %s", s->path) : 0;
}

int calibration_find(const void *bytes, size_t n_bytes, const struct calibration_plan *plan,
                     int64_t seed, struct quant_calibration *out, struct err *e)
{
    struct unpack u = { bytes, n_bytes, false };
    uint32_t n = unpack_u32(&u) == MAGIC ? unpack_u32(&u) : 0;

    *out = (struct quant_calibration){ 0 };
    for (uint32_t i = 0; i < n && !u.bad; i++) {
        struct calibration_plan p;
        size_t n_seqs, n_ids;

        p.way = (enum calibration_way)unpack_u32(&u);
        p.samples = unpack_u32(&u);
        p.length = unpack_u32(&u);
        uint64_t low = unpack_u32(&u), high = unpack_u32(&u);
        int32_t *lengths = unpack_ids(&u, &n_seqs);
        int32_t *ids = unpack_ids(&u, &n_ids);

        if (!u.bad && same_plan(&p, plan) && (int64_t)(high << 32 | low) == seed) {
            int rc = quant_calibration_make(out, ids, n_ids, lengths, n_seqs, e);
            free(lengths);
            free(ids);
            return rc;
        }
        free(lengths);
        free(ids);
    }
    return err_set(e, ERR_INPUT, "the setup holds no calibration ids for seed %lld",
                   (long long)seed);
}
