/* memory.c - see memory.h. */
#include "base/memory.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Noreturn void out_of_memory(size_t n_bytes)
{
    fprintf(stderr, "llq_sweep: out of host memory (%zu bytes asked for)\n", n_bytes);
    abort();
}

void *mem_alloc(size_t n_bytes)
{
    void *p = calloc(1, n_bytes ? n_bytes : 1);

    if (!p)
        out_of_memory(n_bytes);
    return p;
}

void *mem_array(size_t n, size_t element_bytes)
{
    void *p = calloc(n ? n : 1, element_bytes ? element_bytes : 1);

    if (!p)
        out_of_memory(element_bytes && n > SIZE_MAX / element_bytes ? SIZE_MAX : n * element_bytes);
    return p;
}

void *mem_grow(void *old, size_t n, size_t element_bytes)
{
    if (element_bytes && n > SIZE_MAX / element_bytes)
        out_of_memory(SIZE_MAX);
    size_t n_bytes = n * element_bytes;
    void *p = realloc(old, n_bytes ? n_bytes : 1);

    if (!p)
        out_of_memory(n_bytes);
    return p;
}

char *mem_text(const char *text)
{
    return text ? mem_textn(text, strlen(text)) : NULL;
}

char *mem_textn(const char *text, size_t n_bytes)
{
    char *copy = mem_alloc(n_bytes + 1);

    if (n_bytes)
        memcpy(copy, text, n_bytes);
    return copy;
}

void bytes_add(struct bytes *b, const void *data, size_t n)
{
    if (b->n + n + 1 > b->room) {
        b->room = (b->n + n + 1) * 2 < 64 ? 64 : (b->n + n + 1) * 2;
        b->data = mem_grow(b->data, b->room, 1);
    }
    if (n)
        memcpy(b->data + b->n, data, n);
    b->n += n;
    b->data[b->n] = 0;
}

void bytes_text(struct bytes *b, const char *text)
{
    bytes_add(b, text, strlen(text));
}

void bytes_printf(struct bytes *b, const char *fmt, ...)
{
    va_list args, again;

    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n >= 0) {
        char *text = mem_alloc((size_t)n + 1);
        vsnprintf(text, (size_t)n + 1, fmt, again);
        bytes_add(b, text, (size_t)n);
        free(text);
    }
    va_end(again);
}

void bytes_release(struct bytes *b)
{
    free(b->data);
    *b = (struct bytes)BYTES_INIT;
}
