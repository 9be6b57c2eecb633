/* nearest.c - see nearest.h.  Optimal string alignment (Damerau 1964, Levenshtein 1966). */
#include "sweep/nearest.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

/* Longer names are compared by their start: a distance only ranks candidates. */
#define NEAREST_BYTES 128

static int least(int a, int b)
{
    return a < b ? a : b;
}

int edit_distance(const char *a, const char *b)
{
    int n_a = least((int)strnlen(a, NEAREST_BYTES), NEAREST_BYTES);
    int n_b = least((int)strnlen(b, NEAREST_BYTES), NEAREST_BYTES);
    int rows[3][NEAREST_BYTES + 1];

    for (int j = 0; j <= n_b; j++)
        rows[0][j] = j;
    for (int i = 1; i <= n_a; i++) {
        int *now = rows[i % 3], *last = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];

        now[0] = i;
        for (int j = 1; j <= n_b; j++) {
            int d = least(last[j], now[j - 1]) + 1;
            d = least(d, last[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d = least(d, before[j - 2] + 1);
            now[j] = d;
        }
    }
    return rows[n_a % 3][n_b];
}

bool nearest_offer(struct nearest *n, const char *name)
{
    int distance = edit_distance(n->wanted, name);

    if (n->best && distance >= n->distance)
        return false;
    n->best = name;
    n->distance = distance;
    return true;
}
