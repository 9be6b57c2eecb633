/* group.c - see group.h. */
#include "backend/group.h"

#include <math.h>
#include <string.h>

#define MEMBERS_MAX 64 /* as backend_join() allows */

bool backend_any_says(struct backend *b, bool own)
{
    struct err ignored = ERR_INIT;
    int64_t all[MEMBERS_MAX];
    bool any = false;

    if (!b->n_members)
        return own;
    if (b->ops->group->tell(b, own, all, &ignored) < 0)
        return false;
    for (int i = 0; i < b->n_members; i++)
        any = any || all[i];
    return any;
}

double backend_sum(struct backend *b, double own)
{
    struct err ignored = ERR_INIT;
    int64_t bits, all[MEMBERS_MAX];
    double sum = 0, one;

    if (!b->n_members)
        return own;
    memcpy(&bits, &own, sizeof bits);
    if (b->ops->group->tell(b, bits, all, &ignored) < 0)
        return NAN;
    for (int i = 0; i < b->n_members; i++) {
        memcpy(&one, &all[i], sizeof one);
        sum += one;
    }
    return sum;
}

int64_t backend_group_bytes(const char *name, int n)
{
    if (n < 2)
        return 0;
    return (int64_t)(strcmp(name, "cuda") == 0 ? INBOX_BYTES : 2 * GROUP_CPU_ROOM);
}
