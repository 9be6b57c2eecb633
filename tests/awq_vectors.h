/* awq_vectors.h - quantizer-vectors.json: AWQ's searches on any backend. */
#pragma once

#include "vectors.h"

#include "quant/awq_search.h"

/* One linear that is scaled and inspected, with its inputs; on the device. */
struct awq_case {
    struct backend *b;
    struct tensor w, x, tried, scaled, divided;
    struct awq_form form;
    float *s, *largest;
    double *sums;
};

static inline void *awq_alloc(struct backend *b, size_t n_bytes)
{
    struct err e = ERR_INIT;
    void *p;

    CHECK_OK(backend_alloc(b, MEM_SCRATCH, n_bytes, &p, &e), e);
    return p;
}

static inline void awq_up(struct backend *b, void *to, const void *from, size_t n_bytes)
{
    struct err e = ERR_INIT;

    CHECK_OK(b->ops->upload(b, to, from, n_bytes, &e), e);
}

static inline void awq_down(struct backend *b, void *to, const void *from, size_t n_bytes)
{
    struct err e = ERR_INIT;

    CHECK_OK(b->ops->download(b, to, from, n_bytes, &e), e);
}

static inline struct tensor awq_matrix(struct backend *b, const float *from, int64_t n_rows,
                                       int64_t n_cols)
{
    struct tensor out;
    struct err e = ERR_INIT;

    CHECK_OK(tensor_alloc(b, MEM_SCRATCH, DTYPE_F32, n_rows, n_cols, &out, &e), e);
    if (from)
        awq_up(b, out.data, from, tensor_bytes(&out));
    return out;
}

/* Mean sizes of the columns, counted in runs of 7 rows. */
static inline void awq_means(const struct awq_case *k, const struct tensor *x, int64_t group,
                             float *mean)
{
    const int n_runs = (int)((x->n_rows + 6) / 7);
    int32_t *first = mem_array((size_t)n_runs + 1, sizeof *first);
    double *sums = mem_array((size_t)x->n_cols, sizeof *sums);
    struct err e = ERR_INIT;

    for (int i = 0; i <= n_runs; i++)
        first[i] = (int32_t)(i < n_runs ? 7 * i : x->n_rows);
    const struct awq_sizes_args a = {
        .x = x, .segments = { n_runs, first }, .group_size = group, .sums = k->sums
    };
    awq_up(k->b, k->sums, sums, (size_t)x->n_cols * sizeof *sums);
    CHECK_OK(k->b->ops->awq->sizes(k->b, &a, &e), e);
    awq_down(k->b, sums, k->sums, (size_t)x->n_cols * sizeof *sums);
    for (int64_t i = 0; i < x->n_cols; i++)
        mean[i] = (float)(sums[i] / (double)x->n_rows);
    free(sums);
    free(first);
}

/* Losses of all ratios and the scales of the best, found. */
static inline double awq_ratios(const struct awq_case *k, const char *name, const struct js *wanted,
                                bool duo, const float *x, const float *w, float *found)
{
    const int64_t n = k->w.n_cols;
    float x_mean[1024], w_mean[1024], s[1024], *tried = mem_array((size_t)(k->w.n_rows * n), 4);
    const struct js *losses = js_get(wanted, "losses");
    struct tensor plain = tensor_over((void *)(uintptr_t)w, DTYPE_F32, k->w.n_rows, n);
    double least = INFINITY, largest = 0;
    struct err e = ERR_INIT;
    int best = -1;

    awq_means(k, &k->x, 0, x_mean);
    awq_means(k, &k->w, k->form.group_size, w_mean);
    for (int i = 0; i < AWQ_RATIOS; i++) {
        const struct awq_round_args round = { &k->w, k->s, k->form, (struct tensor *)&k->tried };

        awq_scales(x_mean, duo ? w_mean : NULL, i / 20.0, n, s);
        awq_up(k->b, k->s, s, (size_t)n * sizeof *s);
        CHECK_OK(k->b->ops->awq->round(k->b, &round, &e), e);
        awq_down(k->b, tried, k->tried.data, tensor_bytes(&k->tried));
        double loss = vector_output_mse(x, k->x.n_rows, &plain, tried);
        double off = fabs(loss / js_real(js_at(losses, (size_t)i)) - 1);
        CHECK(off <= 1e-4, "%s: ratio %d, loss %g, off by %g", name, i, loss, off);
        largest = fmax(largest, off);
        if (loss < least) {
            least = loss;
            best = i;
            memcpy(found, s, sizeof s);
        }
    }
    CHECK(check_near(best / 20.0, js_real(js_get(wanted, "best_ratio")), 1e-9), "%s: ratio %g",
          name, best / 20.0);
    for (size_t i = 0; i < 8; i++)
        largest = fmax(largest,
                       fabs((double)found[i] / js_real(js_at(js_get(wanted, "s_first8"), i)) - 1));
    free(tried);
    return largest;
}

/* The ranges of the scaled weights, on inputs over s.  A range is one of ten; where two of them are
 * about as good, the order of a sum decides: how many do. */
static inline int awq_ranges(const struct awq_case *k, const char *name, const struct js *wanted,
                             const float *x, const float *w, const float *found, double *largest)
{
    const struct awq_scale_args times = { (struct tensor *)&k->scaled, k->s, false, false };
    const struct awq_scale_args over = { (struct tensor *)&k->divided, k->s, false, true };
    const struct awq_clip_args clip = { .w = (struct tensor *)&k->scaled,
                                        .x = &k->divided,
                                        .n_rows = k->x.n_rows,
                                        .form = k->form,
                                        .largest = k->largest };
    struct err e = ERR_INIT;
    float ranges[8];
    int n_other = 0;

    awq_up(k->b, k->s, found, (size_t)k->w.n_cols * sizeof *found);
    awq_up(k->b, k->scaled.data, w, tensor_bytes(&k->scaled));
    awq_up(k->b, k->divided.data, x, tensor_bytes(&k->divided));
    CHECK_OK(k->b->ops->awq->scale(k->b, &times, &e), e);
    CHECK_OK(k->b->ops->awq->scale(k->b, &over, &e), e);
    CHECK_OK(k->b->ops->awq->clip(k->b, &clip, &e), e);
    awq_down(k->b, ranges, k->largest, sizeof ranges);
    for (size_t i = 0; i < 8; i++) {
        double want = js_real(js_at(js_get(wanted, "clip_first8"), i));
        double off = fabs((double)ranges[i] / want - 1);

        n_other += off > 1e-5;
        CHECK(off <= 0.06, "%s: range %zu, a step off at most", name, i);
        *largest = fmax(*largest, off > 1e-5 ? 0 : off);
    }
    return n_other;
}

static inline void awq_vectors(struct backend *b, const struct js *vectors)
{
    struct drawn of_w = vector_drawn(vectors, "awq", 0), of_x = vector_drawn(vectors, "awq", 1);
    const int64_t n_out = of_w.n_rows, n = of_w.n_cols, n_rows = of_x.n_rows;
    float *w = drawn_numbers(of_w), *x = drawn_numbers(of_x), found[1024];
    struct js_member m = JS_MEMBER_INIT;
    double largest = 0, largest_range = 0;
    int n_other = 0, n_cases = 0;

    /* gen(...)*(1+column%7)*8 */
    for (int64_t i = 0; i < n_rows * n; i++)
        x[i] = x[i] / of_x.factor * (float)(1 + i % n % 7) * 8;
    struct awq_case k = { .b = b,
                          .w = awq_matrix(b, w, n_out, n),
                          .x = awq_matrix(b, x, n_rows, n),
                          .tried = awq_matrix(b, NULL, n_out, n),
                          .scaled = awq_matrix(b, NULL, n_out, n),
                          .divided = awq_matrix(b, NULL, n_rows, n),
                          .s = awq_alloc(b, (size_t)n * sizeof(float)),
                          .largest = awq_alloc(b, (size_t)(n_out * n) * sizeof(float)),
                          .sums = awq_alloc(b, (size_t)n * sizeof(double)) };
    while (js_next(vector_data(vectors, "awq"), &m)) {
        int zero_point, duo;
        long group;

        CHECK(sscanf(m.key, "w%d_zp%d_g%ld_duo%d", &k.form.bits, &zero_point, &group, &duo) == 4,
              "%s", m.key);
        k.form.zero_point = zero_point;
        k.form.group_size = group;
        largest = fmax(largest, awq_ratios(&k, m.key, m.value, duo, x, w, found));
        n_other += awq_ranges(&k, m.key, m.value, x, w, found, &largest_range);
        n_cases++;
    }
    check_report("quantizer-vectors.json awq (losses, scales)", n_cases * (AWQ_RATIOS + 8), largest,
                 1e-4);
    CHECK(n_cases > 0 && n_other <= 2, "%d of %d ranges are another", n_other, 8 * n_cases);
    check_report("quantizer-vectors.json awq (ranges)", 8 * n_cases, largest_range, 1e-5);
    struct tensor *const all[] = { &k.w, &k.x, &k.tried, &k.scaled, &k.divided };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        tensor_free(b, all[i]);
    backend_free(b, k.s);
    backend_free(b, k.largest);
    backend_free(b, k.sums);
    free(x);
    free(w);
}
