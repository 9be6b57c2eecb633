/* unicode.c - see unicode.h.  Categories come from utf8proc, newer ones from a table. */
#include "tokenizer/unicode.h"

#include <string.h>
#include <utf8proc.h>

size_t utf8_length(const char *text, size_t n)
{
    const unsigned char *s = (const unsigned char *)text;

    if (n == 0)
        return 0;
    if (s[0] < 0x80)
        return 1;
    size_t length = s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF5 ? 4 : 0;
    if (length == 0 || length > n)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) ||
        (s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F))
        return 0;
    return length;
}

size_t utf8_bad_at(const char *s, size_t n)
{
    size_t i = 0;

    while (i < n) {
        size_t length = utf8_length(s + i, n - i);
        if (length == 0)
            break;
        i += length;
    }
    return i;
}

uint32_t utf8_next(const char **text)
{
    const unsigned char *s = (const unsigned char *)*text;
    uint32_t c;

    if (s[0] < 0x80) {
        *text += 1;
        return s[0];
    }
    if (s[0] < 0xE0) {
        c = (uint32_t)(s[0] & 0x1F) << 6 | (s[1] & 0x3F);
        *text += 2;
    } else if (s[0] < 0xF0) {
        c = (uint32_t)(s[0] & 0x0F) << 12 | (uint32_t)(s[1] & 0x3F) << 6 | (s[2] & 0x3F);
        *text += 3;
    } else {
        c = (uint32_t)(s[0] & 0x07) << 18 | (uint32_t)(s[1] & 0x3F) << 12 |
            (uint32_t)(s[2] & 0x3F) << 6 | (s[3] & 0x3F);
        *text += 4;
    }
    return c;
}

uint32_t utf8_before(const char **text)
{
    const char *s = *text - 1;

    while (((unsigned char)*s & 0xC0) == 0x80)
        s--;
    *text = s;
    return utf8_next(&s);
}

size_t utf8_put(uint32_t c, char out[4])
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

void utf8_add(struct bytes *out, uint32_t c)
{
    char s[4];

    bytes_add(out, s, utf8_put(c, s));
}

/* Length of the maximal part of a sequence that starts well and then breaks; at least 1. */
static size_t broken_part(const unsigned char *s, size_t n)
{
    size_t wanted = s[0] >= 0xC2 && s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;

    if (s[0] < 0xC2 || s[0] > 0xF4)
        return 1;
    for (size_t i = 1; i < wanted; i++) {
        unsigned char least = 0x80, most = 0xBF;
        if (i == 1) {
            least = s[0] == 0xE0 ? 0xA0 : s[0] == 0xF0 ? 0x90 : 0x80;
            most = s[0] == 0xED ? 0x9F : s[0] == 0xF4 ? 0x8F : 0xBF;
        }
        if (i >= n || s[i] < least || s[i] > most)
            return i;
    }
    return wanted;
}

void utf8_add_lossy(struct bytes *out, const char *s, size_t n)
{
    while (n > 0) {
        size_t good = utf8_bad_at(s, n);
        bytes_add(out, s, good);
        s += good;
        n -= good;
        if (n == 0)
            break;
        size_t bad = broken_part((const unsigned char *)s, n);
        bytes_add(out, "\xEF\xBF\xBD", 3);
        s += bad;
        n -= bad;
    }
}

/* Assigned by Unicode 15.1 and 16, which tokenizers 0.23 knows and utf8proc 2.8 does not. */
static const struct {
    uint32_t from, to;
    int category;
} newer[] = {
    { 0x897, 0x897, UTF8PROC_CATEGORY_MN },     { 0x1B4E, 0x1B4F, UTF8PROC_CATEGORY_PO },
    { 0x1B7F, 0x1B7F, UTF8PROC_CATEGORY_PO },   { 0x1C89, 0x1C89, UTF8PROC_CATEGORY_LU },
    { 0x1C8A, 0x1C8A, UTF8PROC_CATEGORY_LL },   { 0x2427, 0x2429, UTF8PROC_CATEGORY_SO },
    { 0x2FFC, 0x2FFF, UTF8PROC_CATEGORY_SO },   { 0x31E4, 0x31E5, UTF8PROC_CATEGORY_SO },
    { 0x31EF, 0x31EF, UTF8PROC_CATEGORY_SO },   { 0xA7CB, 0xA7CC, UTF8PROC_CATEGORY_LU },
    { 0xA7CD, 0xA7CD, UTF8PROC_CATEGORY_LL },   { 0xA7DA, 0xA7DA, UTF8PROC_CATEGORY_LU },
    { 0xA7DB, 0xA7DB, UTF8PROC_CATEGORY_LL },   { 0xA7DC, 0xA7DC, UTF8PROC_CATEGORY_LU },
    { 0x105C0, 0x105F3, UTF8PROC_CATEGORY_LO }, { 0x10D40, 0x10D49, UTF8PROC_CATEGORY_ND },
    { 0x10D4A, 0x10D4D, UTF8PROC_CATEGORY_LO }, { 0x10D4E, 0x10D4E, UTF8PROC_CATEGORY_LM },
    { 0x10D4F, 0x10D4F, UTF8PROC_CATEGORY_LO }, { 0x10D50, 0x10D65, UTF8PROC_CATEGORY_LU },
    { 0x10D69, 0x10D6D, UTF8PROC_CATEGORY_MN }, { 0x10D6E, 0x10D6E, UTF8PROC_CATEGORY_PD },
    { 0x10D6F, 0x10D6F, UTF8PROC_CATEGORY_LM }, { 0x10D70, 0x10D85, UTF8PROC_CATEGORY_LL },
    { 0x10D8E, 0x10D8F, UTF8PROC_CATEGORY_SM }, { 0x10EC2, 0x10EC4, UTF8PROC_CATEGORY_LO },
    { 0x10EFC, 0x10EFC, UTF8PROC_CATEGORY_MN }, { 0x11380, 0x11389, UTF8PROC_CATEGORY_LO },
    { 0x1138B, 0x1138B, UTF8PROC_CATEGORY_LO }, { 0x1138E, 0x1138E, UTF8PROC_CATEGORY_LO },
    { 0x11390, 0x113B5, UTF8PROC_CATEGORY_LO }, { 0x113B7, 0x113B7, UTF8PROC_CATEGORY_LO },
    { 0x113B8, 0x113BA, UTF8PROC_CATEGORY_MC }, { 0x113BB, 0x113C0, UTF8PROC_CATEGORY_MN },
    { 0x113C2, 0x113C2, UTF8PROC_CATEGORY_MC }, { 0x113C5, 0x113C5, UTF8PROC_CATEGORY_MC },
    { 0x113C7, 0x113CA, UTF8PROC_CATEGORY_MC }, { 0x113CC, 0x113CD, UTF8PROC_CATEGORY_MC },
    { 0x113CE, 0x113CE, UTF8PROC_CATEGORY_MN }, { 0x113CF, 0x113CF, UTF8PROC_CATEGORY_MC },
    { 0x113D0, 0x113D0, UTF8PROC_CATEGORY_MN }, { 0x113D1, 0x113D1, UTF8PROC_CATEGORY_LO },
    { 0x113D2, 0x113D2, UTF8PROC_CATEGORY_MN }, { 0x113D3, 0x113D3, UTF8PROC_CATEGORY_LO },
    { 0x113D4, 0x113D5, UTF8PROC_CATEGORY_PO }, { 0x113D7, 0x113D8, UTF8PROC_CATEGORY_PO },
    { 0x113E1, 0x113E2, UTF8PROC_CATEGORY_MN }, { 0x116D0, 0x116E3, UTF8PROC_CATEGORY_ND },
    { 0x11BC0, 0x11BE0, UTF8PROC_CATEGORY_LO }, { 0x11BE1, 0x11BE1, UTF8PROC_CATEGORY_PO },
    { 0x11BF0, 0x11BF9, UTF8PROC_CATEGORY_ND }, { 0x11F5A, 0x11F5A, UTF8PROC_CATEGORY_MN },
    { 0x13460, 0x143FA, UTF8PROC_CATEGORY_LO }, { 0x16100, 0x1611D, UTF8PROC_CATEGORY_LO },
    { 0x1611E, 0x16129, UTF8PROC_CATEGORY_MN }, { 0x1612A, 0x1612C, UTF8PROC_CATEGORY_MC },
    { 0x1612D, 0x1612F, UTF8PROC_CATEGORY_MN }, { 0x16130, 0x16139, UTF8PROC_CATEGORY_ND },
    { 0x16D40, 0x16D42, UTF8PROC_CATEGORY_LM }, { 0x16D43, 0x16D6A, UTF8PROC_CATEGORY_LO },
    { 0x16D6B, 0x16D6C, UTF8PROC_CATEGORY_LM }, { 0x16D6D, 0x16D6F, UTF8PROC_CATEGORY_PO },
    { 0x16D70, 0x16D79, UTF8PROC_CATEGORY_ND }, { 0x18CFF, 0x18CFF, UTF8PROC_CATEGORY_LO },
    { 0x1CC00, 0x1CCEF, UTF8PROC_CATEGORY_SO }, { 0x1CCF0, 0x1CCF9, UTF8PROC_CATEGORY_ND },
    { 0x1CD00, 0x1CEB3, UTF8PROC_CATEGORY_SO }, { 0x1E5D0, 0x1E5ED, UTF8PROC_CATEGORY_LO },
    { 0x1E5EE, 0x1E5EF, UTF8PROC_CATEGORY_MN }, { 0x1E5F0, 0x1E5F0, UTF8PROC_CATEGORY_LO },
    { 0x1E5F1, 0x1E5FA, UTF8PROC_CATEGORY_ND }, { 0x1E5FF, 0x1E5FF, UTF8PROC_CATEGORY_PO },
    { 0x1F8B2, 0x1F8BB, UTF8PROC_CATEGORY_SO }, { 0x1F8C0, 0x1F8C1, UTF8PROC_CATEGORY_SO },
    { 0x1FA89, 0x1FA89, UTF8PROC_CATEGORY_SO }, { 0x1FA8F, 0x1FA8F, UTF8PROC_CATEGORY_SO },
    { 0x1FABE, 0x1FABE, UTF8PROC_CATEGORY_SO }, { 0x1FAC6, 0x1FAC6, UTF8PROC_CATEGORY_SO },
    { 0x1FADC, 0x1FADC, UTF8PROC_CATEGORY_SO }, { 0x1FADF, 0x1FADF, UTF8PROC_CATEGORY_SO },
    { 0x1FAE9, 0x1FAE9, UTF8PROC_CATEGORY_SO }, { 0x1FBCB, 0x1FBEF, UTF8PROC_CATEGORY_SO },
    { 0x2EBF0, 0x2EE5D, UTF8PROC_CATEGORY_LO },
};

int unicode_category(uint32_t c)
{
    int k = (int)utf8proc_category((utf8proc_int32_t)c);
    size_t low = 0, high = sizeof newer / sizeof newer[0];

    if (k != UTF8PROC_CATEGORY_CN || c < newer[0].from)
        return k;
    while (low < high) { /* the first range that does not end before c */
        size_t middle = (low + high) / 2;
        if (newer[middle].to < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low < sizeof newer / sizeof newer[0] && newer[low].from <= c ? newer[low].category : k;
}

static bool is_letter(uint32_t c)
{
    int k = unicode_category(c);

    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

bool unicode_is_number(uint32_t c)
{
    int k = unicode_category(c);

    return k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO;
}

bool unicode_is_mark(uint32_t c)
{
    int k = unicode_category(c);

    return k >= UTF8PROC_CATEGORY_MN && k <= UTF8PROC_CATEGORY_ME;
}

bool unicode_is_punctuation(uint32_t c)
{
    int k = unicode_category(c);

    if (c < 0x80)
        return c > 0x20 && c < 0x7F && !is_letter(c) && !unicode_is_number(c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

bool unicode_is_white_space(uint32_t c)
{
    if (c < 0x80)
        return c == 0x20 || (c >= 0x09 && c <= 0x0D);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
           c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/* The code points of Other_Alphabetic that are not marks: circled and squared letters. */
static bool is_enclosed_letter(uint32_t c)
{
    return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
           (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
}

bool unicode_is_word(uint32_t c)
{
    int k = unicode_category(c);

    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_NL) || k == UTF8PROC_CATEGORY_PC ||
           c == 0x200C || c == 0x200D || is_enclosed_letter(c);
}

bool python_is_space(uint32_t c)
{
    return unicode_is_white_space(c) || (c >= 0x1C && c <= 0x1F);
}

bool python_is_alnum(uint32_t c)
{
    return is_letter(c) || unicode_is_number(c);
}

uint32_t unicode_title(uint32_t c)
{
    return (uint32_t)utf8proc_totitle((utf8proc_int32_t)c);
}

int unicode_lower(uint32_t c, uint32_t out[2])
{
    if (c == 0x130) { /* the one character whose lower case is two: i and a dot above */
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    out[0] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
    return 1;
}

/* Cased and Case_Ignorable of Unicode 3.13, from categories and the short Other_ lists. */
static bool is_case_ignorable(uint32_t c)
{
    int k = unicode_category(c);

    if (k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_ME || k == UTF8PROC_CATEGORY_CF ||
        k == UTF8PROC_CATEGORY_LM || k == UTF8PROC_CATEGORY_SK)
        return true;
    return c == 0x27 || c == 0x2E || c == 0x3A || c == 0xB7 || c == 0x387 || c == 0x55F ||
           c == 0x5F4 || c == 0x2018 || c == 0x2019 || c == 0x2024 || c == 0x2027 || c == 0xFE13 ||
           c == 0xFE52 || c == 0xFE55 || c == 0xFF07 || c == 0xFF0E || c == 0xFF1A;
}

static bool is_cased(uint32_t c)
{
    int k = unicode_category(c);

    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LT) || c == 0xAA || c == 0xBA ||
           (c >= 0x2160 && c <= 0x217F) || is_enclosed_letter(c);
}

/* Sigma at `at` ends its word: a cased letter before it and none after, case-ignorable ones
 * between them skipped. */
static bool is_final_sigma(const char *text, const char *at, const char *end)
{
    const char *s = at;
    bool cased_before = false;

    while (s > text && !cased_before) {
        uint32_t c = utf8_before(&s);
        if (is_case_ignorable(c))
            continue;
        if (!is_cased(c))
            return false;
        cased_before = true;
    }
    s = at;
    utf8_next(&s);
    while (s < end) {
        uint32_t c = utf8_next(&s);
        if (!is_case_ignorable(c))
            return cased_before && !is_cased(c);
    }
    return cased_before;
}

void python_lower(struct bytes *out, const char *text, size_t n)
{
    const char *end = text + n;

    for (const char *s = text; s < end;) {
        const char *at = s;
        uint32_t lower[2], c = utf8_next(&s);

        if (c == 0x3A3) {
            utf8_add(out, is_final_sigma(text, at, end) ? 0x3C2 : 0x3C3);
            continue;
        }
        int n_lower = unicode_lower(c, lower);
        for (int i = 0; i < n_lower; i++)
            utf8_add(out, lower[i]);
    }
}
