/* pack.c - see pack.h. */
#include "eval/pack.h"

#include <stdlib.h>
#include <string.h>

void pack_u32(struct bytes *b, uint32_t value)
{
    unsigned char raw[4] = { (unsigned char)value, (unsigned char)(value >> 8),
                             (unsigned char)(value >> 16), (unsigned char)(value >> 24) };

    bytes_add(b, raw, sizeof raw);
}

void pack_text(struct bytes *b, const char *text, size_t n_bytes)
{
    pack_u32(b, (uint32_t)n_bytes);
    bytes_add(b, text, n_bytes);
}

void pack_ids(struct bytes *b, const int32_t *ids, size_t n)
{
    pack_u32(b, (uint32_t)n);
    for (size_t i = 0; i < n; i++)
        pack_u32(b, (uint32_t)ids[i]);
}

static const unsigned char *take(struct unpack *u, size_t n)
{
    if (u->bad || n > u->left) {
        u->bad = true;
        return NULL;
    }
    const unsigned char *at = u->at;
    u->at += n;
    u->left -= n;
    return at;
}

uint32_t unpack_u32(struct unpack *u)
{
    const unsigned char *raw = take(u, 4);

    if (!raw)
        return 0;
    return raw[0] | (uint32_t)raw[1] << 8 | (uint32_t)raw[2] << 16 | (uint32_t)raw[3] << 24;
}

struct text unpack_text(struct unpack *u)
{
    size_t n = unpack_u32(u);
    const unsigned char *data = take(u, n);

    return (struct text){ data ? (const char *)data : "", data ? n : 0 };
}

size_t unpack_count(struct unpack *u, size_t element_bytes)
{
    size_t n = unpack_u32(u);

    if (n > u->left / element_bytes) {
        u->bad = true;
        n = 0;
    }
    return n;
}

int32_t *unpack_ids(struct unpack *u, size_t *n)
{
    *n = unpack_count(u, 4);
    if (*n == 0)
        return NULL;
    int32_t *ids = mem_array(*n, sizeof *ids);
    for (size_t i = 0; i < *n; i++)
        ids[i] = (int32_t)unpack_u32(u);
    return ids;
}

int unpack_end(const struct unpack *u, const char *what, struct err *e)
{
    if (u->bad || u->left > 0)
        return err_set(e, ERR_INPUT, "prepared data of %s: %s", what,
                       u->bad ? "shorter than they say" : "longer than they say");
    return 0;
}
