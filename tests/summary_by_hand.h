/* summary_by_hand.h - summaries of sweeps made by hand, and the places in their tables. */
#pragma once

#include "sweep_by_hand.h"

#define T2 (0.95 * sqrt(2 / (1 - 0.95 * 0.95))) /* Student, two degrees of freedom, 97.5 % */

static inline struct summary make(const struct hand *h)
{
    struct summary out = SUMMARY_INIT;
    struct err e = ERR_INIT;

    CHECK_OK(summary_make(&h->s, (const struct js *const *)h->record, h->n_records, &out, &e), e);
    return out;
}

static inline int row_of(const struct table *t, const char *column, const char *name)
{
    for (int i = 0; i < t->n_rows; i++)
        if (!strcmp(table_text(t, i, column), name))
            return i;
    CHECK(false, "there is a row %s", name);
    return -1;
}

static inline double of(const struct summary *s, int experiment, const char *metric,
                        const char *column)
{
    const struct table *t = &s->experiments[experiment].statistics;

    return table_real(t, row_of(t, "metric", metric), column);
}

static inline const char *note(const struct summary *s, int experiment, const char *metric)
{
    const struct table *t = &s->experiments[experiment].statistics;

    return table_text(t, row_of(t, "metric", metric), "note");
}

static inline bool effective(const struct summary *s, int experiment, const char *metric)
{
    const struct table *t = &s->experiments[experiment].statistics;

    return table_count(t, row_of(t, "metric", metric), "seed_effective");
}

static inline int n_seeds(const struct summary *s, int experiment, const char *metric)
{
    const struct table *t = &s->experiments[experiment].statistics;

    return (int)table_count(t, row_of(t, "metric", metric), "n_seeds");
}

/* The row of /comparisons. */
static inline int pair(const struct summary *s, const char *a, const char *metric)
{
    const struct table *t = &s->comparisons;

    for (int i = 0; i < t->n_rows; i++)
        if (!strcmp(table_text(t, i, "a"), a) && !strcmp(table_text(t, i, "metric"), metric))
            return i;
    CHECK(false, "%s is compared by %s", a, metric);
    return -1;
}

/* Documents that seed s draws: overlapping, never the same. */
static inline void draw(int seed, int n, int *document)
{
    for (int i = 0; i < n; i++)
        document[i] = (i * (seed + 2) + seed) % 31;
}

enum { N = 20, WINDOWS = 7 };

static inline void add_quality(struct hand *h, int experiment, int seed)
{
    struct js *r = hand_record(h, h->x[experiment].name, seed, "success");
    int document[N];
    double f1[N], em[N], nll[WINDOWS];

    draw(seed, N, document);
    for (int i = 0; i < N; i++) {
        f1[i] = hand_score(experiment, document[i]);
        em[i] = f1[i] > 0.5;
    }
    for (int i = 0; i < WINDOWS; i++)
        nll[i] = 2 + 0.1 * experiment + 0.3 * hand_score(experiment, 100 + i);
    hand_coqa(r, N, document, f1, em);
    hand_windows(r, WINDOWS, nll);
    hand_sizes(r, 8.0 / (1 + experiment), experiment ? NAN : 4, 16.0 / (1 + experiment));
}

/* Three experiments, three seeds, random documents. */
static inline void random_sweep(struct hand *h)
{
    hand_init(h, 3, 3, "random");
    for (int x = 0; x < 3; x++)
        for (int seed = 0; seed < 3; seed++)
            add_quality(h, x, seed);
    hand_benchmark(h->record[0], 10, 1);
    hand_benchmark(h->record[3], 5, 2);
}
