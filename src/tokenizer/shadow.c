/* shadow.c - what to show PCRE2 where its Unicode is not ours.
 *
 * The reference's classes are those of Unicode 16.  PCRE2 10.42 knows Unicode 14, and its \s also
 * matches U+180E, which is not White_Space.  So PCRE2 itself is asked, once per tokenizer, for
 * the general category of every code point that can be assigned; where its answer differs
 * from ours, the matched text carries a stand-in: another code point of the right category and
 * of the same length in UTF-8, so that offsets stay as they are.  */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer/stages.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

/* Planes 4 to 13 hold nothing, 15 and 16 are for private use: nothing to disagree about. */
#define LOW_END      0x40000u
#define HIGH_START   0xE0000u
#define HIGH_END     0xE1000u
#define N_SCANNED    (LOW_END + (HIGH_END - HIGH_START))
#define N_CATEGORIES 30

struct stand_in {
    uint32_t from, to;
};

struct shadow {
    unsigned char differs[N_SCANNED / 8]; /* bit per scanned code point */
    struct stand_in *table;               /* ascending */
    size_t n;
};

static uint32_t scanned_at(uint32_t i)
{
    return i < LOW_END ? i : HIGH_START + (i - LOW_END);
}

/* Index of a code point among the scanned ones; N_SCANNED: not among them. */
static uint32_t scanned_index(uint32_t c)
{
    if (c < LOW_END)
        return c;
    return c >= HIGH_START && c < HIGH_END ? LOW_END + (c - HIGH_START) : N_SCANNED;
}

static bool is_surrogate(uint32_t c)
{
    return c >= 0xD800 && c < 0xE000;
}

/* Runs `pattern` over all scanned code points; what[i] = number of the group that matched it. */
static int classify(const char *pattern, const struct bytes *text, unsigned char *what)
{
    int error, rc = -1;
    size_t at;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                     PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &error, &at, NULL);
    if (!code)
        return -1;
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(code, NULL);
    const char *s = text->data, *end = text->data + text->n;
    uint32_t i = 0x80;

    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); /* without it: slower, the same answers */
    while (data) {
        int group = pcre2_match(code, (PCRE2_SPTR)text->data, text->n, (size_t)(s - text->data),
                                PCRE2_NO_UTF_CHECK, data, NULL);
        if (group == PCRE2_ERROR_NOMATCH) {
            rc = 0;
            break;
        }
        if (group < 2)
            break;
        const size_t *v = pcre2_get_ovector_pointer(data);
        const char *from = text->data + v[0], *to = text->data + v[1];
        while (s < to && s < end) {
            uint32_t c = utf8_next(&s);
            i = scanned_index(c);
            if (s > from)
                what[i] = (unsigned char)(group - 1);
        }
    }
    pcre2_match_data_free(data);
    pcre2_code_free(code);
    return rc;
}

/* Groups in the order of utf8proc's category numbers: group k + 1 is category k. */
static const char category_groups[] =
    "(\\p{Cn}+)|(\\p{Lu}+)|(\\p{Ll}+)|(\\p{Lt}+)|(\\p{Lm}+)|(\\p{Lo}+)|(\\p{Mn}+)|(\\p{Mc}+)|"
    "(\\p{Me}+)|(\\p{Nd}+)|(\\p{Nl}+)|(\\p{No}+)|(\\p{Pc}+)|(\\p{Pd}+)|(\\p{Ps}+)|(\\p{Pe}+)|"
    "(\\p{Pi}+)|(\\p{Pf}+)|(\\p{Po}+)|(\\p{Sm}+)|(\\p{Sc}+)|(\\p{Sk}+)|(\\p{So}+)|(\\p{Zs}+)|"
    "(\\p{Zl}+)|(\\p{Zp}+)|(\\p{Cc}+)|(\\p{Cf}+)|(\\p{Cs}+)|(\\p{Co}+)";

struct wanted { /* the first code point on which both agree, by category, space and length */
    uint32_t by[N_CATEGORIES][2][5];
};

static size_t utf8_size(uint32_t c)
{
    return c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
}

static void find_differences(struct shadow *s, const unsigned char *category,
                             const unsigned char *space)
{
    struct wanted *agreed = mem_alloc(sizeof *agreed);

    for (int pass = 0; pass < 2; pass++)
        for (uint32_t i = 0x80; i < N_SCANNED; i++) {
            uint32_t c = scanned_at(i);
            if (is_surrogate(c))
                continue;
            int k = unicode_category(c);
            bool is_space = unicode_is_white_space(c);
            bool same = k == (int)category[i] - 1 && is_space == (space[i] != 0);
            uint32_t *stand_in = &agreed->by[k][is_space][utf8_size(c)];
            if (pass == 0 && same && *stand_in == 0)
                *stand_in = c;
            if (pass == 0 || same || *stand_in == 0)
                continue;
            if ((s->n & (s->n - 1)) == 0)
                s->table = mem_grow(s->table, s->n ? 2 * s->n : 1, sizeof *s->table);
            s->table[s->n++] = (struct stand_in){ c, *stand_in };
            s->differs[i / 8] |= (unsigned char)(1u << (i % 8));
        }
    free(agreed);
}

struct shadow *shadow_new(void)
{
    struct shadow *s = mem_alloc(sizeof *s);
    struct bytes text = BYTES_INIT;
    unsigned char *category = mem_alloc(N_SCANNED), *space = mem_alloc(N_SCANNED);

    for (uint32_t i = 0x80; i < N_SCANNED; i++)
        if (!is_surrogate(scanned_at(i)))
            utf8_add(&text, scanned_at(i));
    if (classify(category_groups, &text, category) < 0 || classify("(\\s+)", &text, space) < 0) {
        shadow_free(s);
        s = NULL;
    } else {
        find_differences(s, category, space);
    }
    free(category);
    free(space);
    bytes_release(&text);
    return s;
}

void shadow_free(struct shadow *s)
{
    if (!s)
        return;
    free(s->table);
    free(s);
}

static uint32_t stand_in_of(const struct shadow *s, uint32_t c)
{
    size_t low = 0, high = s->n;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (s->table[middle].from < c)
            low = middle + 1;
        else
            high = middle;
    }
    return s->table[low].to;
}

char *shadow_text(const struct shadow *s, const char *text, size_t n_bytes)
{
    const char *end = text + n_bytes;
    char *copy = NULL;

    for (const char *at = text; at < end;) {
        if ((unsigned char)*at < 0x80) {
            at++;
            continue;
        }
        const char *from = at;
        uint32_t c = utf8_next(&at), i = scanned_index(c);
        if (i == N_SCANNED || !(s->differs[i / 8] >> (i % 8) & 1))
            continue;
        if (!copy)
            copy = mem_textn(text, n_bytes);
        utf8_put(stand_in_of(s, c), copy + (from - text));
    }
    return copy;
}
