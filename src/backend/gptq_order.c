/* gptq_order.c - see gptq_order.h; quantizers.md 5.2 step 4 and 5.6. */
#include "backend/gptq_order.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

struct column {
    double value;
    int32_t at;
};

static int falling(const void *a, const void *b)
{
    const struct column *x = a, *y = b;

    if (x->value != y->value)
        return x->value > y->value ? -1 : 1;
    return x->at - y->at;
}

static void group_aware(struct column *columns, int64_t n, int64_t group_size, int32_t *perm)
{
    int64_t n_groups = n / group_size;
    struct column *groups = mem_array((size_t)n_groups + 1, sizeof *groups);

    for (int64_t g = 0; g < n_groups; g++) {
        qsort(columns + g * group_size, (size_t)group_size, sizeof *columns, falling);
        groups[g] = (struct column){ columns[g * group_size].value, (int32_t)g };
    }
    qsort(groups, (size_t)n_groups, sizeof *groups, falling);
    for (int64_t i = 0; i < n; i++) {
        bool rest = i >= n_groups * group_size;
        int64_t from = rest ? i : groups[i / group_size].at * group_size + i % group_size;

        perm[i] = columns[from].at;
    }
    free(groups);
}

void gptq_order_of(enum gptq_order order, const double *diagonal, int64_t n, int64_t group_size,
                   int32_t *perm)
{
    struct column *columns = mem_array((size_t)n, sizeof *columns);

    for (int64_t i = 0; i < n; i++)
        columns[i] = (struct column){ diagonal[i], (int32_t)i };
    if (order == GPTQ_DESC_ACT)
        qsort(columns, (size_t)n, sizeof *columns, falling);
    if (order == GPTQ_GROUP_AWARE)
        group_aware(columns, n, group_size, perm);
    else
        for (int64_t i = 0; i < n; i++)
            perm[i] = columns[i].at;
    free(columns);
}
