/* memory.h - small host allocations, which cannot fail.
 *
 * A host without a few kilobytes cannot do anything useful: these end the process
 * with a message.  Tensors do not come from here, because "does not fit" is an
 * answer that a sweep must record (backend.h).  */
#pragma once

#include <stddef.h>

void *mem_alloc(size_t n_bytes);                           /* zeroed; free() releases */
void *mem_array(size_t n, size_t element_bytes);           /* zeroed; checks the product */
void *mem_grow(void *old, size_t n, size_t element_bytes); /* realloc of n elements */
char *mem_text(const char *text);                          /* strdup; NULL stays NULL */
char *mem_textn(const char *text, size_t n_bytes);         /* copies n bytes, ends with 0 */

/* Bytes that grow: text being built, a message being read. */
struct bytes {
    char *data; /* always one 0 byte past the end once anything was added */
    size_t n, room;
};

#define BYTES_INIT \
    {              \
        0          \
    }

void bytes_add(struct bytes *b, const void *data, size_t n);
void bytes_text(struct bytes *b, const char *text);
void bytes_printf(struct bytes *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void bytes_release(struct bytes *b);
