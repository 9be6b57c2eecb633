/* score_answer.c - see score_answer.h. */
#include "eval/score_answer.h"

#include "tokenizer/unicode.h"

#include <stdlib.h>
#include <string.h>

static bool is_ascii_punctuation(char c)
{
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
           (c >= '{' && c <= '~');
}

static bool is_article(const char *s, size_t n)
{
    return (n == 1 && s[0] == 'a') || (n == 2 && memcmp(s, "an", 2) == 0) ||
           (n == 3 && memcmp(s, "the", 3) == 0);
}

/* Adds s to the words of *out; a word begins after white space, which `gap` remembers. */
static void add_part(struct bytes *out, const char *s, size_t n, size_t start, bool *gap)
{
    if (*gap && out->n > start)
        bytes_add(out, " ", 1);
    *gap = false;
    bytes_add(out, s, n);
}

/* Lower-cased text without punctuation -> words with single spaces, articles dropped.  A word of
 * the article rule is a run of letters and numbers (\b of Python's re); a word of the result is
 * what white space parts. */
static void join_words(const char *s, const char *end, struct bytes *out)
{
    size_t start = out->n;
    bool gap = false;

    while (s < end) {
        const char *run = s;
        while (s < end) {
            const char *next = s;
            if (!python_is_alnum(utf8_next(&next)))
                break;
            s = next;
        }
        if (s > run) {
            if (is_article(run, (size_t)(s - run)))
                gap = true;
            else
                add_part(out, run, (size_t)(s - run), start, &gap);
            continue;
        }
        if (python_is_space(utf8_next(&s)))
            gap = true;
        else
            add_part(out, run, (size_t)(s - run), start, &gap);
    }
}

void answer_normalise(const char *s, size_t n_bytes, struct bytes *out)
{
    struct bytes lower = BYTES_INIT;
    size_t n = 0;

    bytes_text(&lower, "");
    python_lower(&lower, s, n_bytes);
    for (size_t i = 0; i < lower.n; i++)
        if (!is_ascii_punctuation(lower.data[i]))
            lower.data[n++] = lower.data[i];
    join_words(lower.data, lower.data + n, out);
    bytes_release(&lower);
}

/* ---- F1 over words ---- */

struct words {
    struct bytes text; /* normalised */
    struct text *at;
    size_t n;
};

static void words_of(struct words *w, struct text s)
{
    size_t room = 0;

    *w = (struct words){ 0 };
    bytes_text(&w->text, "");
    answer_normalise(s.data, s.n, &w->text);
    for (size_t i = 0; i < w->text.n; i++)
        room += w->text.data[i] == ' ';
    w->at = mem_array(room + 1, sizeof *w->at);
    for (size_t i = 0; i < w->text.n;) {
        const char *word = w->text.data + i, *space = memchr(word, ' ', w->text.n - i);
        size_t n = space ? (size_t)(space - word) : w->text.n - i;
        w->at[w->n++] = (struct text){ word, n };
        i += n + 1;
    }
}

static void words_release(struct words *w)
{
    bytes_release(&w->text);
    free(w->at);
}

static bool same(struct text a, struct text b)
{
    return a.n == b.n && memcmp(a.data, b.data, a.n) == 0;
}

/* Size of the intersection, each word counted as often as both have it. */
static size_t n_common(const struct words *a, const struct words *b)
{
    bool *used = mem_array(b->n, sizeof *used);
    size_t n = 0;

    for (size_t i = 0; i < a->n; i++)
        for (size_t k = 0; k < b->n; k++)
            if (!used[k] && same(a->at[i], b->at[k])) {
                used[k] = true;
                n++;
                break;
            }
    free(used);
    return n;
}

static struct answer_score score_words(const struct words *gold, const struct words *prediction)
{
    struct answer_score s = { 0 };
    struct text g = { gold->text.data, gold->text.n };

    s.em = same(g, (struct text){ prediction->text.data, prediction->text.n });
    if (gold->n == 0 || prediction->n == 0) {
        s.f1 = s.precision = s.recall = gold->n == prediction->n;
        return s;
    }
    double common = (double)n_common(gold, prediction);
    if (common > 0) {
        s.precision = common / (double)prediction->n;
        s.recall = common / (double)gold->n;
        s.f1 = 2 * s.precision * s.recall / (s.precision + s.recall);
    }
    return s;
}

struct answer_score answer_score_one(struct text gold, struct text prediction)
{
    return answer_score_all(&gold, 1, prediction);
}

struct answer_score answer_score_all(const struct text *golds, size_t n, struct text prediction)
{
    struct answer_score *each = mem_array(n, sizeof *each), mean = { 0 };
    struct words gold, words;

    words_of(&words, prediction);
    for (size_t i = 0; i < n; i++) {
        words_of(&gold, golds[i]);
        each[i] = score_words(&gold, &words);
        words_release(&gold);
    }
    words_release(&words);
    for (size_t out = 0; out < n; out++) {
        struct answer_score best = { .f1 = -1 };
        for (size_t i = 0; i < n; i++) {
            if (i == out && n > 1)
                continue;
            double em = each[i].em > best.em ? each[i].em : best.em;
            if (each[i].f1 > best.f1)
                best = each[i];
            best.em = em;
        }
        mean.em += best.em;
        mean.f1 += best.f1;
        mean.precision += best.precision;
        mean.recall += best.recall;
    }
    mean.em /= (double)n;
    mean.f1 /= (double)n;
    mean.precision /= (double)n;
    mean.recall /= (double)n;
    free(each);
    return mean;
}

size_t answer_distinct(struct text *golds, size_t n)
{
    struct bytes *lower = mem_array(n, sizeof *lower);
    size_t kept = 0;

    for (size_t i = 0; i < n; i++) {
        bool seen = false;
        bytes_text(&lower[kept], "");
        lower[kept].n = 0;
        python_lower(&lower[kept], golds[i].data, golds[i].n);
        for (size_t k = 0; k < kept && !seen; k++)
            seen = same((struct text){ lower[k].data, lower[k].n },
                        (struct text){ lower[kept].data, lower[kept].n });
        if (!seen)
            golds[kept++] = golds[i];
    }
    for (size_t i = 0; i < n; i++)
        bytes_release(&lower[i]);
    free(lower);
    return kept;
}

/* ---- from generated text to answer ---- */

#define STOP_TEXT "\nQ:"

static size_t cut_at(const char *s, size_t n, const char *what)
{
    const char *hit = what && *what ? memmem(s, n, what, strlen(what)) : NULL;

    return hit ? (size_t)(hit - s) : n;
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

struct text answer_of_generated(const char *s, size_t n_bytes, const char *eos_text)
{
    size_t n = cut_at(s, cut_at(s, n_bytes, STOP_TEXT), eos_text);
    const char *from = skip_space(s, s + n), *to = s + n;

    while (to > from) {
        const char *before = to;
        if (!python_is_space(utf8_before(&before)))
            break;
        to = before;
    }
    size_t length = (size_t)(to - from);
    return (struct text){ from, cut_at(from, length, "\n") };
}

bool answer_is_over(const char *s, size_t n_bytes)
{
    const char *from = skip_space(s, s + n_bytes);

    return cut_at(s, n_bytes, STOP_TEXT) < n_bytes ||
           memchr(from, '\n', (size_t)(s + n_bytes - from)) != NULL;
}
