/* message.c - see message.h. */
#include "sched/message.h"

void message_pack(struct bytes *out, int64_t number, const void *bytes, size_t n_bytes)
{
    unsigned char front[8];

    for (int i = 0; i < 8; i++)
        front[i] = (unsigned char)((uint64_t)number >> (8 * i));
    bytes_add(out, front, sizeof front);
    bytes_add(out, bytes, n_bytes);
}

bool message_unpack(const struct bytes *in, int64_t *number, const char **bytes, size_t *n_bytes)
{
    uint64_t n = 0;

    if (in->n < 8)
        return false;
    for (int i = 0; i < 8; i++)
        n |= (uint64_t)(unsigned char)in->data[i] << (8 * i);
    *number = (int64_t)n;
    *bytes = in->data + 8;
    *n_bytes = in->n - 8;
    return true;
}
