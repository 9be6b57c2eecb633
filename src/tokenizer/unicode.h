/* unicode.h - UTF-8 and the few character classes that decide token ids and scores.
 *
 * Classes follow the general categories of Unicode 16 (those of tokenizers 0.23).  Two sets of
 * white space exist on purpose: the tokenizers' (White_Space) and Python's (str.split, which adds
 * U+001C..U+001F).  eval/ scores answers with Python's rules through this header.  */
#pragma once

#include "base/memory.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the well-formed sequence at s (n bytes are left), or 0 (Unicode 15, table 3-7). */
size_t utf8_length(const char *s, size_t n);
/* Offset of the first byte that is not part of well-formed UTF-8; n when all is well. */
size_t utf8_bad_at(const char *s, size_t n);
/* The code point at *s of a text known to be well-formed; moves *s behind it. */
uint32_t utf8_next(const char **s);
/* The code point that ends at s (well-formed text before it); moves *s to its start. */
uint32_t utf8_before(const char **s);
size_t utf8_put(uint32_t c, char out[4]);
void utf8_add(struct bytes *out, uint32_t c);
/* Appends text, each maximal ill-formed part as U+FFFD (the W3C rule, as Rust and Python). */
void utf8_add_lossy(struct bytes *out, const char *s, size_t n);

int unicode_category(uint32_t c);        /* utf8proc's numbers: 0 = Cn, 1 = Lu, ... 29 = Co */
bool unicode_is_number(uint32_t c);      /* Nd, Nl, No */
bool unicode_is_mark(uint32_t c);        /* Mn, Mc, Me */
bool unicode_is_punctuation(uint32_t c); /* P*, and ASCII's symbols */
bool unicode_is_white_space(uint32_t c); /* White_Space */
bool unicode_is_word(uint32_t c);        /* \w of Rust's regex: alphabetic, M, Nd, Pc, joiners */

bool python_is_space(uint32_t c); /* str.isspace: str.split and str.strip */
bool python_is_alnum(uint32_t c); /* str.isalnum; with '_' it is \w of Python's re */
/* Full lower case of one code point outside its context (U+0130 gives two); returns how many. */
int unicode_lower(uint32_t c, uint32_t out[2]);
uint32_t unicode_title(uint32_t c); /* one to one */
/* str.lower() of a well-formed text, final sigma included; appends. */
void python_lower(struct bytes *out, const char *s, size_t n);
