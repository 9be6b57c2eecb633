/* pack.h - what prepare() writes and run() reads: numbers, texts and ids one after the other,
 * little-endian, every length checked on the way back.  The bytes cross process boundaries. */
#pragma once

#include "base/err.h"
#include "base/memory.h"

#include <stdbool.h>
#include <stdint.h>

struct text { /* borrowed bytes, not 0-terminated */
    const char *data;
    size_t n;
};

void pack_u32(struct bytes *b, uint32_t value);
void pack_text(struct bytes *b, const char *text, size_t n_bytes);
void pack_ids(struct bytes *b, const int32_t *ids, size_t n);

/* Reading; after the first value that does not fit, `bad` stays set and all values are 0. */
struct unpack {
    const unsigned char *at;
    size_t left;
    bool bad;
};
uint32_t unpack_u32(struct unpack *u);
struct text unpack_text(struct unpack *u);
/* malloc'ed (the bytes may be unaligned); NULL for none. */
int32_t *unpack_ids(struct unpack *u, size_t *n);
/* A count of things that take at least element_bytes each: never more than what is left. */
size_t unpack_count(struct unpack *u, size_t element_bytes);
/* All was read and nothing was missing. */
int unpack_end(const struct unpack *u, const char *what, struct err *e);
