/* items.c - see runs.h: scores item by item, paired and pooled. */
#include "record/runs.h"

#include "base/memory.h"
#include "base/resample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int compare_document(const struct item *x, const struct item *y)
{
    if (!x->document != !y->document)
        return x->document ? 1 : -1;
    if (x->document)
        return strcmp(x->document, y->document);
    return (x->number > y->number) - (x->number < y->number);
}

bool items_same_document(const struct item *a, const struct item *b)
{
    return compare_document(a, b) == 0;
}

static int compare_item(const struct item *x, const struct item *y)
{
    int order = compare_document(x, y);

    return order ? order : (x->turn > y->turn) - (x->turn < y->turn);
}

static int by_item_and_seed(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    int order = compare_item(x, y);

    return order ? order : (x->seed > y->seed) - (x->seed < y->seed);
}

/* Items of one document, of unlike length, as one: their mean by tokens.  `centred`: moved so that
 * the plain mean of all documents is the mean of all tokens; its spread is then that of a ratio. */
static void join_documents(struct items *x, const double *weight, bool centred)
{
    double *n = mem_array((size_t)x->n, sizeof *n), sum = 0, total = 0;
    int64_t k = 0;

    for (int64_t i = 0; i < x->n; i++) {
        bool same = k && x->all[k - 1].number == x->all[i].number && !x->all[i].document;
        sum += weight[i] * x->all[i].value;
        total += weight[i];
        if (same) {
            x->all[k - 1].value += weight[i] * x->all[i].value;
            n[k - 1] += weight[i];
            continue;
        }
        x->all[k] = x->all[i];
        x->all[k].value = weight[i] * x->all[i].value;
        x->all[k].turn = 0;
        n[k++] = weight[i];
    }
    x->n = k;
    for (int64_t i = 0; i < k; i++) {
        double mean = sum / total, each = total / (double)k;
        x->all[i].value =
            centred ? (x->all[i].value - mean * n[i]) / each + mean : x->all[i].value / n[i];
    }
    free(n);
}

static void read_items(struct items *out, const struct metric *m, const struct run *run,
                       bool centred)
{
    const struct js *group = js_find(run->record, m->group);
    const struct js *values = m->item ? js_get(group, m->item) : NULL;
    const struct js *weights = m->weights ? js_get(group, m->weights) : NULL;
    const struct js *documents = js_get(group, "document_id"), *turns = js_get(group, "turn");
    int64_t n = (int64_t)js_count(values);

    *out = (struct items)ITEMS_INIT;
    if (n == 0)
        return;
    out->all = mem_array((size_t)n, sizeof *out->all);
    for (int64_t i = 0; i < n; i++) {
        const struct js *id = js_at(documents, (size_t)i);
        out->all[out->n++] = (struct item){ .document = js_text(id),
                                            .number = js_kind(id) == JS_INT ? js_int(id) : i,
                                            .turn = js_int(js_at(turns, (size_t)i)),
                                            .seed = run->seed,
                                            .value = js_real(js_at(values, (size_t)i)) * m->scale };
    }
    if ((int64_t)js_count(weights) == n) {
        double *weight = mem_array((size_t)n, sizeof *weight);
        for (int64_t i = 0; i < n; i++)
            weight[i] = js_real(js_at(weights, (size_t)i));
        join_documents(out, weight, centred);
        free(weight);
    }
}

void items_add(struct items *to, const struct metric *m, const struct run *run)
{
    struct items x;

    read_items(&x, m, run, true);
    if (x.n) {
        to->all = mem_grow(to->all, (size_t)(to->n + x.n), sizeof *to->all);
        memcpy(to->all + to->n, x.all, (size_t)x.n * sizeof *x.all);
        to->n += x.n;
    }
    items_release(&x);
}

static double difference(const struct metric *m, double a, double b)
{
    if (!m->compared_as_log)
        return a - b;
    return a == b ? 0 : log(a) - log(b);
}

void items_add_pairs(struct items *to, const struct metric *m, const struct run *a,
                     const struct run *b, int64_t seed)
{
    struct items x, y;

    read_items(&x, m, a, !m->compared_as_log);
    read_items(&y, m, b, !m->compared_as_log);
    if (x.n && y.n) {
        qsort(x.all, (size_t)x.n, sizeof *x.all, by_item_and_seed);
        qsort(y.all, (size_t)y.n, sizeof *y.all, by_item_and_seed);
        to->all = mem_grow(to->all, (size_t)(to->n + (x.n < y.n ? x.n : y.n)), sizeof *to->all);
    }
    for (int64_t i = 0, k = 0; i < x.n && k < y.n;) {
        int order = compare_item(&x.all[i], &y.all[k]);
        if (order == 0) {
            to->all[to->n] = x.all[i];
            to->all[to->n].seed = seed;
            to->all[to->n++].value = difference(m, x.all[i].value, y.all[k].value);
        }
        i += order <= 0;
        k += order >= 0;
    }
    items_release(&x);
    items_release(&y);
}

void items_release(struct items *x)
{
    free(x->all);
    *x = (struct items)ITEMS_INIT;
}

/* ---- the design ---- */

/* Sorted items: how many times each stands there when all stand there equally often, else 0. */
static int64_t repeats(const struct items *x)
{
    int64_t common = 0;

    for (int64_t i = 0, n; i < x->n; i += n) {
        for (n = 1; i + n < x->n && compare_item(&x->all[i], &x->all[i + n]) == 0; n++)
            ;
        if (common && n != common)
            return 0;
        common = n;
    }
    /* Every run with every item: as many repeats as seeds, at the first item and so at all. */
    for (int64_t i = common; common && i < x->n; i++)
        if (x->all[i].seed != x->all[i % common].seed)
            return 0;
    return common;
}

/* Keeps the first run of each item when all runs agree bit for bit. */
static bool collapse(struct items *x, int64_t n_repeats)
{
    for (int64_t i = 0; i < x->n; i++)
        if (x->all[i].value != x->all[i - i % n_repeats].value)
            return false;
    for (int64_t i = 0; i < x->n / n_repeats; i++)
        x->all[i] = x->all[i * n_repeats];
    x->n /= n_repeats;
    return true;
}

/* cluster[i]: number of the document of item i * step. */
static void number_documents(const struct items *x, int64_t step, int64_t *cluster)
{
    for (int64_t i = 0, number = 0; i < x->n; i += step) {
        number += i > 0 && compare_document(&x->all[i - step], &x->all[i]) != 0;
        cluster[i / step] = number;
    }
}

static bool all_in(const struct items *x, double a, double b)
{
    for (int64_t i = 0; i < x->n; i++)
        if (x->all[i].value != a && x->all[i].value != b)
            return false;
    return x->n > 0;
}

struct item_estimate items_estimate(struct items *x, double confidence)
{
    struct item_estimate out = { .design = ITEMS_ONE_RUN };

    if (x->n)
        qsort(x->all, (size_t)x->n, sizeof *x->all, by_item_and_seed);
    int64_t n_repeats = repeats(x);
    bool one_run = n_repeats == 1;
    for (int64_t i = 1; one_run && i < x->n; i++)
        one_run = x->all[i].seed == x->all[0].seed;
    if (!one_run && x->n && (n_repeats < 2 || !collapse(x, n_repeats)))
        out.design = n_repeats < 2 ? ITEMS_POOLED : ITEMS_CROSSED;

    double *value = mem_array((size_t)x->n, sizeof *value);
    int64_t *cluster = mem_array((size_t)x->n, sizeof *cluster);
    for (int64_t i = 0; i < x->n; i++)
        value[i] = x->all[i].value;
    if (out.design == ITEMS_CROSSED) {
        number_documents(x, n_repeats, cluster);
        out.e = stats_crossed(value, cluster, x->n / n_repeats, (int)n_repeats, confidence);
    } else {
        number_documents(x, 1, cluster);
        out.e = stats_clustered(value, cluster, x->n, confidence);
    }
    out.is_binary = all_in(x, 0, 1) && out.e.n_clusters == x->n;
    free(value);
    free(cluster);
    return out;
}

/* ---- tests of differences ---- */

#define FLIP_SEED  1      /* of every sign-flip test: the same data give the same p-value */
#define FLIP_DRAWS 100000 /* 1 / n is the least p-value, which Holm multiplies by hundreds */

static double flip_signs(const struct items *x)
{
    double *value = mem_array((size_t)x->n, sizeof *value);
    int64_t *cluster = mem_array((size_t)x->n, sizeof *cluster);

    for (int64_t i = 0; i < x->n; i++)
        value[i] = x->all[i].value;
    number_documents(x, 1, cluster);
    double p = resample_sign_flip(value, cluster, x->n, FLIP_DRAWS, FLIP_SEED);
    free(value);
    free(cluster);
    return p;
}

struct item_test items_test(const struct items *x, const struct item_estimate *e)
{
    struct item_test out = { e->e.p_value, NAN, "" };
    int64_t up = 0, down = 0, whole = 0;

    for (int64_t i = 0; i < x->n; i++) {
        up += x->all[i].value > 0;
        down += x->all[i].value < 0;
        whole += fabs(x->all[i].value) == 1 || x->all[i].value == 0;
    }
    if (x->n)
        out.flip_rate = (double)(up + down) / (double)x->n;
    if (isnan(out.p_value) || x->n < 2)
        return out;
    out.name = "paired t";
    if (e->design == ITEMS_CROSSED)
        return out;
    if (whole == x->n && e->e.n_clusters == x->n) {
        out.p_value = stats_mcnemar(up, down, x->n).p_exact;
        out.name = "McNemar";
    } else if (e->e.is_constant) {
        out.name = "sign flips"; /* all of one sign: stats.h has their exact probability */
    } else if (e->e.n_clusters < FLIPS_BELOW) {
        out.p_value = flip_signs(x);
        out.name = "sign flips";
    }
    return out;
}
