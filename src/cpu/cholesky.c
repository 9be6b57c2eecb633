/* cholesky.c - see cholesky.h. */
#include "cpu/cholesky.h"

#include "base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 64

static double dot(const double *a, const double *b, int64_t n)
{
    double sum = 0.0;

#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* Rows first .. end-1 of the columns first .. end-1, which earlier blocks have been taken from. */
static bool factor_corner(double *a, int64_t n, int64_t first, int64_t end, const double *least)
{
    for (int64_t i = first; i < end; i++) {
        double *row = a + i * n;

        for (int64_t j = first; j < i; j++)
            row[j] = (row[j] - dot(row + first, a + j * n + first, j - first)) / a[j * n + j];
        double pivot = row[i] - dot(row + first, row + first, i - first);
        if (!(pivot > least[i]) || !isfinite(pivot))
            return false;
        row[i] = sqrt(pivot);
    }
    return true;
}

static bool factor(double *a, int64_t n, const double *least)
{
    for (int64_t first = 0; first < n; first += BLOCK) {
        int64_t end = first + BLOCK < n ? first + BLOCK : n;

        if (!factor_corner(a, n, first, end, least))
            return false;
#pragma omp parallel
        {
#pragma omp for schedule(static)
            for (int64_t i = end; i < n; i++) {
                double *row = a + i * n;

                for (int64_t j = first; j < end; j++)
                    row[j] =
                        (row[j] - dot(row + first, a + j * n + first, j - first)) / a[j * n + j];
            }
#pragma omp for schedule(dynamic, 8)
            for (int64_t i = end; i < n; i++)
                for (int64_t j = end; j <= i; j++)
                    a[i * n + j] -= dot(a + i * n + first, a + j * n + first, end - first);
        }
    }
    return true;
}

bool cholesky(double *a, int64_t n, double least)
{
    double *of_row = mem_array((size_t)n, sizeof *of_row);

    for (int64_t i = 0; i < n; i++)
        of_row[i] = least * a[i * n + i];
    bool done = factor(a, n, of_row);
    free(of_row);
    return done;
}

void triangle_inverse(const double *m, int64_t n, double *column)
{
#pragma omp parallel for schedule(dynamic, 4)
    for (int64_t j = 0; j < n; j++) {
        double *x = column + j * n;

        memset(x, 0, (size_t)n * sizeof *x);
        x[j] = 1.0 / m[j * n + j];
        for (int64_t i = j + 1; i < n; i++)
            x[i] = -dot(m + i * n + j, x + j, i - j) / m[i * n + i];
    }
}
