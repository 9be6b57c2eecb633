/* store_h5_timing.c - see store_h5_inner.h: what a list of repeats says, beside the list. */
#include "record/store_h5_inner.h"

#include "base/stats.h"

#include <math.h>
#include <stdlib.h>

enum { MEDIAN, MEDIAN_LOW, MEDIAN_HIGH, MEAN, SD, N_SUMMARIES };

static const char *const names[N_SUMMARIES] = { "median", "median_ci_low", "median_ci_high", "mean",
                                                "sd" };

/* A row that is shorter than the longest ends in NaN. */
static int64_t known_values(const double *row, int64_t n)
{
    while (n > 0 && isnan(row[n - 1]))
        n--;
    return n;
}

static void summarise(const double *row, int64_t n, double confidence, double out[N_SUMMARIES])
{
    int64_t n_known = known_values(row, n);
    struct interval i = stats_median_interval(row, n_known, confidence);

    out[MEDIAN] = stats_median(row, n_known);
    out[MEDIAN_LOW] = i.low;
    out[MEDIAN_HIGH] = i.high;
    out[MEAN] = stats_mean(row, n_known);
    out[SD] = stats_sd(row, n_known);
}

static int put_summaries(const struct h5_build *b, hid_t dataset, const struct values *repeats,
                         struct err *e)
{
    hsize_t n_rows = repeats->rank == 2 ? repeats->dims[0] : 1;
    int64_t n = (int64_t)repeats->dims[repeats->rank - 1];
    double *columns = mem_array((size_t)n_rows * N_SUMMARIES, sizeof *columns);
    int rc = 0;

    for (hsize_t r = 0; r < n_rows; r++) {
        double of_row[N_SUMMARIES];
        summarise(repeats->reals + (int64_t)r * n, n, b->confidence, of_row);
        for (int s = 0; s < N_SUMMARIES; s++)
            columns[(hsize_t)s * n_rows + r] = of_row[s];
    }
    for (int s = 0; rc == 0 && s < N_SUMMARIES; s++) {
        struct values v = { .kind = VALUES_REAL,
                            .rank = repeats->rank - 1, /* one number, or one a row */
                            .dims = { n_rows },
                            .reals = columns + (hsize_t)s * n_rows };
        rc = h5_put_attribute(b, dataset, names[s], &v, e);
    }
    free(columns);
    return rc < 0 ? -1 : h5_put_real(b, dataset, "confidence", b->confidence, e);
}

int h5_put_timing(const struct h5_build *b, hid_t group, const char *name, const struct js *repeats,
                  struct err *e)
{
    struct values v;
    hid_t dataset = H5Dopen2(group, name, H5P_DEFAULT);
    int rc = dataset < 0 ? h5_fail(e, ERR_IO, "dataset %s", name) : 0;

    values_from_js(repeats, &v);
    if (rc == 0 && v.kind == VALUES_REAL && v.rank > 0)
        rc = put_summaries(b, dataset, &v, e);
    values_release(&v);
    h5_close(dataset);
    return rc;
}
