/* test_cpu_attention.c - attention against a float64 recomputation over ragged sequences, windows
 * and grouped heads; what a row may not see cannot touch it, not even a NaN; and the same bits for
 * a row alone, in any batch, with any number of threads, on every instruction set. */
#include "ops.h"

#define CAPACITY 210
#define N_SLOTS  4

static const struct {
    int n_heads, n_kv, head_dim;
    int64_t window;
} shapes[] = {
    { 8, 2, 16, 0 },  { 4, 4, 8, 0 },   { 3, 1, 80, 0 }, { 1, 1, 2, 0 },
    { 8, 2, 64, 0 },  { 3, 1, 128, 0 }, { 8, 2, 16, 5 }, { 6, 2, 64, 64 },
    { 6, 2, 64, 65 }, { 2, 1, 33, 1 },  { 70, 1, 4, 0 },
};
#define N_SHAPES (sizeof shapes / sizeof *shapes)

/* Rows of a batch: whole prompts, pieces of them and single next tokens, slots out of order. */
static const struct {
    int32_t slot, first, n;
} pieces[] = { { 2, 0, 70 }, { 0, 127, 1 }, { 3, 63, 1 }, { 1, 40, 30 },
               { 3, 64, 1 }, { 0, 0, 1 },   { 2, 200, 9 } };
#define N_PIECES (sizeof pieces / sizeof *pieces)
#define N_ROWS   113

struct world {
    struct tensor q, k, v, out;
    int32_t slot[N_ROWS], position[N_ROWS];
    int n_heads, n_kv, head_dim;
    int64_t window;
};

static void open_world(struct world *w, size_t shape, enum dtype t)
{
    int64_t n = 0;

    *w = (struct world){ .n_heads = shapes[shape].n_heads,
                         .n_kv = shapes[shape].n_kv,
                         .head_dim = shapes[shape].head_dim,
                         .window = shapes[shape].window };
    w->q = random_tensor(t, N_ROWS, w->n_heads * w->head_dim, 2);
    w->k = random_tensor(t, N_SLOTS * CAPACITY, w->n_kv * w->head_dim, 1);
    w->v = random_tensor(t, N_SLOTS * CAPACITY, w->n_kv * w->head_dim, 1);
    w->out = new_tensor(t, N_ROWS, w->n_heads * w->head_dim);
    for (size_t i = 0; i < N_PIECES; i++)
        for (int32_t j = 0; j < pieces[i].n; j++, n++) {
            w->slot[n] = pieces[i].slot;
            w->position[n] = pieces[i].first + j;
        }
    CHECK(n == N_ROWS, "the rows are numbered");
}

static void close_world(struct world *w)
{
    free_tensor(&w->q);
    free_tensor(&w->k);
    free_tensor(&w->v);
    free_tensor(&w->out);
}

static void run(struct backend *b, const struct world *w, int64_t first, int64_t n_rows,
                struct tensor *all)
{
    struct tensor q = rows_of(&w->q, first, n_rows), out = rows_of(all, first, n_rows);
    struct attention_args a = {
        .q = &q,
        .k_cache = &w->k,
        .v_cache = &w->v,
        .slot = w->slot + first,
        .position = w->position + first,
        .out = &out,
        .n_rows = n_rows,
        .capacity = CAPACITY,
        .window = w->window,
        .max_position = CAPACITY - 1,
        .n_heads = w->n_heads,
        .n_kv_heads = w->n_kv,
        .head_dim = w->head_dim,
    };
    struct err e = ERR_INIT;

    CHECK_OK(b->ops->attention(b, &a, &e), e);
}

static void check_row(const struct world *w, int64_t row, int head, const struct tensor *out)
{
    double score[CAPACITY], most = -INFINITY, sum = 0;
    int64_t p = w->position[row], base = (int64_t)w->slot[row] * CAPACITY;
    int64_t low = w->window && p - w->window + 1 > 0 ? p - w->window + 1 : 0;
    int64_t q_at = (int64_t)head * w->head_dim;
    int64_t kv_at = (int64_t)(head / (w->n_heads / w->n_kv)) * w->head_dim;

    for (int64_t j = low; j <= p; j++) {
        score[j] = 0;
        for (int c = 0; c < w->head_dim; c++)
            score[j] += (double)element(&w->q, row, q_at + c) * element(&w->k, base + j, kv_at + c);
        score[j] /= sqrt(w->head_dim);
        most = fmax(most, score[j]);
    }
    for (int64_t j = low; j <= p; j++)
        sum += exp(score[j] - most);
    for (int c = 0; c < w->head_dim; c++) {
        double want = 0, size = 0;

        for (int64_t j = low; j <= p; j++) {
            double term = exp(score[j] - most) / sum * element(&w->v, base + j, kv_at + c);
            want += term;
            size += fabs(term);
        }
        /* A score of 20 in fp32 is off by some 1e-6, and its exponential with it. */
        double allowed = half_step(w->out.dtype, want) + 2e-5 * size;
        CHECK(check_near(element(out, row, q_at + c), want, allowed),
              "attention of %d/%d heads of %d, window %lld, position %lld: %g, not %g", w->n_heads,
              w->n_kv, w->head_dim, (long long)w->window, (long long)p, element(out, row, q_at + c),
              want);
    }
}

static void against_float64(void **state)
{
    (void)state;
    for (size_t s = 0; s < N_SHAPES; s++) {
        struct world w;

        open_world(&w, s, model_dtypes[s % 3]);
        run(&isas[0], &w, 0, N_ROWS, &w.out);
        for (int64_t r = 0; r < N_ROWS; r++)
            for (int h = 0; h < w.n_heads; h++)
                check_row(&w, r, h, &w.out);
        close_world(&w);
    }
}

static void same_everywhere(void **state)
{
    static const int64_t sizes[] = { 1, 7, 64, N_ROWS };

    (void)state;
    for (size_t s = 0; s < N_SHAPES; s++) {
        struct world w;

        open_world(&w, s, model_dtypes[(s + 1) % 3]);
        run(&isas[0], &w, 0, N_ROWS, &w.out);
        for (int i = 0; i < N_ISAS; i++)
            for (int k = 0; k < 4 && isas[i].ops; k++)
                for (int threads = 1; threads <= (k == 3 ? 2 : 1); threads++) {
                    struct tensor again = new_tensor(w.out.dtype, N_ROWS, w.out.n_cols);

                    omp_set_num_threads(threads);
                    for (int64_t at = 0; at < N_ROWS; at += sizes[k])
                        run(&isas[i], &w, at, N_ROWS - at < sizes[k] ? N_ROWS - at : sizes[k],
                            &again);
                    CHECK(same_bits(&again, &w.out),
                          "shape %zu: the same bits on %s, %d threads, %lld rows at a time", s,
                          isa_names[i], threads, (long long)sizes[k]);
                    free_tensor(&again);
                }
        close_world(&w);
    }
}

/* Everything but rows 0 .. 69 of slot 2 becomes NaN: the prompt in it comes out as before.  Then
 * row 50 turns bad: rows before it stay. */
static void unseen_places(void **state)
{
    static const float bad[] = { NAN, INFINITY };

    (void)state;
    for (size_t s = 0; s < N_SHAPES; s++)
        for (int kind = 0; kind < 2; kind++) {
            struct world w;

            open_world(&w, s, DTYPE_F32);
            run(&isas[0], &w, 0, 70, &w.out);
            for (int64_t r = 0; r < w.k.n_rows; r++)
                for (int64_t c = 0; c < w.k.n_cols && !(r >= 2 * CAPACITY && r < 2 * CAPACITY + 70);
                     c++) {
                    set_element(&w.k, r, c, bad[kind]);
                    set_element(&w.v, r, c, bad[kind]);
                }
            for (int i = 0; i < N_ISAS; i++)
                if (isas[i].ops) {
                    struct tensor again = new_tensor(DTYPE_F32, N_ROWS, w.out.n_cols);
                    struct tensor want = rows_of(&w.out, 0, 70), got = rows_of(&again, 0, 70);

                    run(&isas[i], &w, 0, 70, &again);
                    CHECK(same_bits(&got, &want), "%s never looks at places it may not see",
                          isa_names[i]);
                    free_tensor(&again);
                }
            for (int64_t c = 0; c < w.k.n_cols; c++) {
                set_element(&w.k, 2 * CAPACITY + 50, c, bad[kind]);
                set_element(&w.v, 2 * CAPACITY + 50, c, bad[kind]);
            }
            for (int i = 0; i < N_ISAS; i++)
                if (isas[i].ops) {
                    struct tensor again = new_tensor(DTYPE_F32, N_ROWS, w.out.n_cols);
                    struct tensor want = rows_of(&w.out, 0, 50), got = rows_of(&again, 0, 50);

                    run(&isas[i], &w, 0, 70, &again);
                    CHECK(same_bits(&got, &want), "%s: rows before a bad one stay", isa_names[i]);
                    CHECK(!isfinite(element(&again, 50, 0)), "the bad one shows");
                    free_tensor(&again);
                }
            close_world(&w);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(against_float64),
        cmocka_unit_test(same_everywhere),
        cmocka_unit_test(unseen_places),
    };

    return cmocka_run_group_tests(tests, open_isas, close_isas);
}
