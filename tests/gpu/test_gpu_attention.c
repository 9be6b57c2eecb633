/* test_gpu_attention.c - attention in 16 bits, on the GPU beside float64: within the rounding of
 * weights and outputs; to the bit between any two ways to the same row. */
#include "attention_decode.cuh"

#include "twin.h"

static const enum dtype types[] = { DTYPE_F16, DTYPE_BF16 };
#define N_TYPES (sizeof types / sizeof *types)

struct heads {
    int n, n_kv, dim;
};

/* A cache of slots, each filled up to its own length; behind that NaN. */
struct world {
    enum dtype t;
    struct heads heads;
    int n_slots;
    int64_t capacity, window;
    struct tensor k, v, dk, dv; /* host, device */
};

static struct world new_world(enum dtype t, struct heads heads, int n_slots, int64_t capacity,
                              const int *lengths)
{
    const int64_t width = (int64_t)heads.n_kv * heads.dim;
    struct world w = { .t = t, .heads = heads, .n_slots = n_slots, .capacity = capacity };

    w.k = random_tensor(t, n_slots * capacity, width, 1);
    w.v = random_tensor(t, n_slots * capacity, width, 1);
    for (int s = 0; s < n_slots; s++) {
        struct tensor rest = rows_of(&w.k, s * capacity + lengths[s], capacity - lengths[s]);
        memset(rest.data, 0xFF, tensor_bytes(&rest));
        rest = rows_of(&w.v, s * capacity + lengths[s], capacity - lengths[s]);
        memset(rest.data, 0xFF, tensor_bytes(&rest));
    }
    w.dk = device_tensor(&w.k);
    w.dv = device_tensor(&w.v);
    return w;
}

static void free_world(struct world *w)
{
    free_tensor(&w->k);
    free_tensor(&w->v);
    device_free(w->dk.data);
    device_free(w->dv.data);
}

/* Row `row` of q, a head, at position p of a slot: the exact answer, and how far off it may be. */
static void exact_head(const struct world *w, const struct tensor *q, int64_t row, int head,
                       int slot, int64_t p, double *want, double *allowed)
{
    const int e = w->heads.dim, kv = head / (w->heads.n / w->heads.n_kv);
    const int64_t low = w->window > 0 && p >= w->window ? p - w->window + 1 : 0;
    double *score = malloc((size_t)(p + 1) * sizeof *score), most = -INFINITY, sum = 0;
    const double unit = w->t == DTYPE_F16 ? 0x1p-11 : 0x1p-8;

    for (int64_t i = low; i <= p; i++) {
        score[i] = 0;
        for (int j = 0; j < e; j++)
            score[i] += (double)element(q, row, (int64_t)head * e + j) *
                        (double)element(&w->k, slot * w->capacity + i, (int64_t)kv * e + j);
        score[i] /= sqrt((double)e);
        most = fmax(most, score[i]);
    }
    for (int64_t i = low; i <= p; i++)
        sum += score[i] = exp(score[i] - most);
    for (int j = 0; j < e; j++) {
        double x = 0, size = 0;

        for (int64_t i = low; i <= p; i++) {
            double v = (double)element(&w->v, slot * w->capacity + i, (int64_t)kv * e + j);
            x += score[i] / sum * v;
            size += score[i] / sum * fabs(v);
        }
        want[j] = x;
        allowed[j] = half_step(w->t, x) + size * (unit * 1.01 + 0x1p-16) + 0x1p-24;
    }
    free(score);
}

/* Some heads of a row; all of it must have been written. */
static void check_row(const char *what, const struct world *w, const struct tensor *q,
                      const struct tensor *got, int64_t row, int slot, int64_t p)
{
    double want[256], allowed[256];

    for (int64_t c = 0; c < got->n_cols; c++)
        CHECK(isfinite(element(got, row, c)), "%s: row %lld at %lld, column %lld was written", what,
              (long long)row, (long long)p, (long long)c);
    for (int i = 0; i < 2; i++) {
        int head = i ? (int)(draw() * w->heads.n) : w->heads.n - 1;

        exact_head(w, q, row, head, slot, p, want, allowed);
        for (int j = 0; j < w->heads.dim; j++) {
            double x = (double)element(got, row, (int64_t)head * w->heads.dim + j);
            CHECK(check_near(x, want[j], allowed[j]),
                  "%s, %s, %d/%d heads of %d, window %lld, position %lld, head %d [%d]: %.8g, not "
                  "%.8g +- %.2g",
                  what, dtype_name(w->t), w->heads.n, w->heads.n_kv, w->heads.dim,
                  (long long)w->window, (long long)p, head, j, x, want[j], allowed[j]);
        }
    }
}

static void check_bits(const char *what, const struct tensor *a, const struct tensor *b)
{
    CHECK(same_bits(a, b), "%s: the same bits", what);
}

/* ---- decode ---- */

/* What each row sees; rows share N_SLOTS slots, or have one each. */
static const int lengths[] = { 1,   2,   63,  64, 65, 127,  128, 129, 511,
                               512, 513, 640, 16, 17, 1000, 31,  200, 1025 };
#define N_ROWS   ((int)(sizeof lengths / sizeof *lengths))
#define N_SLOTS  3
#define CAPACITY 1030

static struct decode_attention decode_args(const struct world *w, const struct tensor *q,
                                           const struct tensor *out, const int32_t *numbers)
{
    return (struct decode_attention){
        .t = w->t,
        .q = q->data,
        .k_cache = w->dk.data,
        .v_cache = w->dv.data,
        .slot = numbers,
        .position = numbers + N_ROWS,
        .out = out->data,
        .n_rows = N_ROWS,
        .capacity = w->capacity,
        .window = w->window,
        .bound = w->capacity - 1,
        .n_heads = w->heads.n,
        .n_kv_heads = w->heads.n_kv,
        .head_dim = w->heads.dim,
        .appended = true,
    };
}

/* Rows of a batch in any company and cut over any number of blocks. */
static void decode_batches(const struct world *w, const struct tensor *dq, const int32_t *numbers,
                           const struct tensor *want)
{
    for (int n = 1; n <= 16; n *= 2) {
        struct tensor out = device_result(w->t, N_ROWS, dq->n_cols);
        struct decode_attention a = decode_args(w, dq, &out, numbers);
        struct err e = ERR_INIT;

        a.n_blocks = n;
        CHECK_OK(cuda_attention_decode(gpu.state, &a, &e), e);
        struct tensor got = host_tensor(&out);
        check_bits("decode over any number of blocks", &got, want);
        free_tensor(&got);
        device_free(out.data);
    }
    for (int row = 0; row < N_ROWS; row += 5) {
        struct tensor one = rows_of(dq, row, 1), expected = rows_of(want, row, 1);
        struct tensor out = device_result(w->t, 1, dq->n_cols);
        struct decode_attention a = decode_args(w, &one, &out, numbers);
        struct err e = ERR_INIT;

        a.slot += row;
        a.position += row;
        a.bound = lengths[row] - 1;
        a.n_rows = 1;
        CHECK_OK(cuda_attention_decode(gpu.state, &a, &e), e);
        struct tensor got = host_tensor(&out);
        check_bits("decode of a row alone", &got, &expected);
        free_tensor(&got);
        device_free(out.data);
    }
}

static void decode_case(enum dtype t, struct heads heads, int64_t window)
{
    if (left_out())
        return;
    static const int filled[N_SLOTS] = { 1025, 1024, 1000 };
    struct world w = new_world(t, heads, N_SLOTS, CAPACITY, filled);
    struct tensor q = random_tensor(t, N_ROWS, (int64_t)heads.n * heads.dim, 1);
    struct tensor dq = device_tensor(&q), out = device_result(t, N_ROWS, q.n_cols);
    int32_t numbers[2 * N_ROWS];
    struct err e = ERR_INIT;

    w.window = window;
    for (int i = 0; i < N_ROWS; i++) {
        numbers[i] = lengths[i] < 1000 ? i % N_SLOTS : 0;
        numbers[N_ROWS + i] = lengths[i] - 1;
    }
    int32_t *dn = to_device(numbers, sizeof numbers);
    struct attention_args a = { .q = &dq,
                                .k_cache = &w.dk,
                                .v_cache = &w.dv,
                                .slot = dn,
                                .position = dn + N_ROWS,
                                .out = &out,
                                .n_rows = N_ROWS,
                                .capacity = w.capacity,
                                .window = window,
                                .max_position = w.capacity - 1,
                                .n_heads = heads.n,
                                .n_kv_heads = heads.n_kv,
                                .head_dim = heads.dim,
                                .phase = PHASE_DECODE };
    CHECK_OK(gpu.ops->attention(&gpu, &a, &e), e);
    struct tensor got = host_tensor(&out);
    for (int i = 0; i < N_ROWS; i++)
        check_row("decode", &w, &q, &got, i, numbers[i], lengths[i] - 1);
    decode_batches(&w, &dq, dn, &got);
    free_world(&w);
    free_tensor(&q);
    free_tensor(&got);
    device_free(dq.data);
    device_free(out.data);
    device_free(dn);
}

static void decode(void **state)
{
    (void)state;
    for (size_t d = 0; d < N_TYPES; d++) {
        decode_case(types[d], (struct heads){ 32, 8, 64 }, 0);
        decode_case(types[d], (struct heads){ 8, 8, 64 }, 0);
        decode_case(types[d], (struct heads){ 7, 1, 64 }, 100);
        decode_case(types[d], (struct heads){ 16, 2, 128 }, 0);
        decode_case(types[d], (struct heads){ 24, 8, 128 }, 1);
        decode_case(types[d], (struct heads){ 8, 1, 256 }, 0);
        decode_case(types[d], (struct heads){ 20, 1, 64 }, 512);
        decode_case(types[d], (struct heads){ 4, 4, 256 }, 17);
        decode_case(types[d], (struct heads){ 12, 1, 128 }, 0);
        decode_case(types[d], (struct heads){ 4, 2, 32 }, 0);
        decode_case(types[d], (struct heads){ 9, 1, 32 }, 100);
        decode_case(types[d], (struct heads){ 8, 8, 32 }, 0);
    }
}

/* Splits of more than one span a warp. */
static void decode_long(void **state)
{
    static const int long_lengths[] = { 2047, 2048, 2049, 4097, 5000, 5000 };
    static const int dims[] = { 128, 64, 128, 64, 128, 32 };
    enum { N = sizeof long_lengths / sizeof *long_lengths };

    (void)state;
    for (size_t d = 0; d < N_TYPES; d++)
        for (int i = 0; i < N && !left_out(); i++) {
            struct heads heads = { 4, 1, dims[i] };
            struct world w = new_world(types[d], heads, 1, 5001, &long_lengths[i]);
            struct tensor q = random_tensor(types[d], 1, (int64_t)heads.n * heads.dim, 1);
            struct tensor dq = device_tensor(&q), first = { 0 };
            int32_t numbers[2 * N_ROWS] = { 0 };

            numbers[N_ROWS] = long_lengths[i] - 1;
            int32_t *dn = to_device(numbers, sizeof numbers);
            for (int n = 1; n <= 16; n *= 2) {
                struct tensor out = device_result(types[d], 1, q.n_cols);
                struct decode_attention a = decode_args(&w, &dq, &out, dn);
                struct err e = ERR_INIT;

                a.n_rows = 1;
                a.n_blocks = n;
                CHECK_OK(cuda_attention_decode(gpu.state, &a, &e), e);
                struct tensor got = host_tensor(&out);
                device_free(out.data);
                if (n > 1) {
                    check_bits("a long context over any number of blocks", &got, &first);
                    free_tensor(&got);
                    continue;
                }
                check_row("a long context", &w, &q, &got, 0, 0, long_lengths[i] - 1);
                first = got;
            }
            free_tensor(&first);
            free_tensor(&q);
            free_world(&w);
            device_free(dq.data);
            device_free(dn);
        }
}

#define FUSED_ROWS 9

/* Rotation, append and attention in one launch or in two. */
static void fused_case(enum dtype t, struct heads heads, int n_rotated, bool overlap)
{
    if (left_out())
        return;
    static const int before[FUSED_ROWS] = { 0, 1, 15, 16, 63, 64, 128, 511, 512 };
    const int64_t kv = (int64_t)heads.n_kv * heads.dim;
    int32_t numbers[N_ROWS + FUSED_ROWS];
    struct err e = ERR_INIT;

    for (int i = 0; i < FUSED_ROWS; i++) {
        numbers[i] = FUSED_ROWS - 1 - i;
        numbers[N_ROWS + i] = before[FUSED_ROWS - 1 - i];
    }
    struct world w = new_world(t, heads, FUSED_ROWS, 513, before), twin = w;
    struct tensor q = random_tensor(t, FUSED_ROWS, (int64_t)heads.n * heads.dim, 1);
    struct tensor k = random_tensor(t, FUSED_ROWS, kv, 1), v = random_tensor(t, FUSED_ROWS, kv, 1);
    for (int i = 0; i < 20; i++) { /* results below the normal numbers, too */
        set_element(&q, i % FUSED_ROWS, i, 1e-6f * (float)(1 + i));
        set_element(&k, i % FUSED_ROWS, i, t == DTYPE_F16 ? 3e-7f : 2e-39f);
    }
    struct tensor cosines = random_tensor(DTYPE_F32, 513, heads.dim / 2, 0.5f);
    struct tensor sines = random_tensor(DTYPE_F32, 513, heads.dim / 2, 0.5f);
    dtype_round(t, cosines.data, 513 * heads.dim / 2);
    dtype_round(t, sines.data, 513 * heads.dim / 2);
    struct tensor dq = device_tensor(&q), dk = device_tensor(&k), dv = device_tensor(&v);
    struct tensor dc = device_tensor(&cosines), ds = device_tensor(&sines);
    struct tensor out = device_result(t, FUSED_ROWS, q.n_cols),
                  two = device_result(t, FUSED_ROWS, q.n_cols);
    int32_t *dn = to_device(numbers, sizeof numbers);

    twin.dk = device_tensor(&w.k);
    twin.dv = device_tensor(&w.v);
    struct decode_attention one = decode_args(&w, &dq, &out, dn);
    struct rope_args rope = { .q = &dq,
                              .k = &dk,
                              .v = &dv,
                              .cos_table = &dc,
                              .sin_table = &ds,
                              .table_row = dn + N_ROWS,
                              .slot = dn,
                              .position = dn + N_ROWS,
                              .k_cache = &twin.dk,
                              .v_cache = &twin.dv,
                              .n_rows = FUSED_ROWS,
                              .capacity = w.capacity,
                              .n_heads = heads.n,
                              .n_kv_heads = heads.n_kv,
                              .head_dim = heads.dim,
                              .n_rotated = n_rotated };
    one.k = dk.data, one.v = dv.data, one.cos_table = dc.data, one.sin_table = ds.data;
    one.n_rows = FUSED_ROWS, one.n_rotated = n_rotated, one.appended = false, one.overlap = overlap;
    CHECK_OK(cuda_attention_decode(gpu.state, &one, &e), e);
    CHECK_OK(gpu.ops->rope(&gpu, &rope, &e), e);
    struct decode_attention then = decode_args(&twin, &dq, &two, dn);
    then.n_rows = FUSED_ROWS;
    CHECK_OK(cuda_attention_decode(gpu.state, &then, &e), e);
    struct tensor *pairs[][2] = { { &out, &two }, { &w.dk, &twin.dk }, { &w.dv, &twin.dv } };
    for (int i = 0; i < 3; i++) {
        struct tensor a = host_tensor(pairs[i][0]), b = host_tensor(pairs[i][1]);
        check_bits(i ? "the cache in one launch and in two" : "one launch and two", &a, &b);
        free_tensor(&a);
        free_tensor(&b);
        device_free(pairs[i][1]->data);
    }
    void *on_device[] = { dq.data, dk.data, dv.data, dc.data, ds.data, out.data, dn };
    struct tensor *on_host[] = { &q, &k, &v, &cosines, &sines };
    for (size_t i = 0; i < sizeof on_device / sizeof *on_device; i++)
        device_free(on_device[i]);
    for (size_t i = 0; i < sizeof on_host / sizeof *on_host; i++)
        free_tensor(on_host[i]);
    free_world(&w);
}

static void fused(void **state)
{
    (void)state;
    for (size_t d = 0; d < N_TYPES; d++) {
        fused_case(types[d], (struct heads){ 32, 8, 64 }, 0, false);
        fused_case(types[d], (struct heads){ 32, 8, 64 }, 0, true);
        fused_case(types[d], (struct heads){ 8, 8, 64 }, 32, true);
        fused_case(types[d], (struct heads){ 14, 2, 64 }, 0, true);
        fused_case(types[d], (struct heads){ 20, 1, 128 }, 100, true);
        fused_case(types[d], (struct heads){ 24, 8, 128 }, 0, true);
        fused_case(types[d], (struct heads){ 8, 1, 256 }, 0, true);
        fused_case(types[d], (struct heads){ 8, 1, 256 }, 4, true);
        fused_case(types[d], (struct heads){ 8, 1, 64 }, 0, true);
        fused_case(types[d], (struct heads){ 4, 2, 32 }, 0, true);
        fused_case(types[d], (struct heads){ 4, 2, 32 }, 0, false);
        fused_case(types[d], (struct heads){ 9, 1, 32 }, 16, true);
    }
}

/* ---- prompts ---- */

/* Rows of a slot from position `from` on. */
struct run {
    int slot, from, n;
};

#define RUNS_MAX 640

/* Attention of the runs, one after the other, over rows of dq in that order: on the host. */
static struct tensor attend_runs(const struct world *w, const struct tensor *dq,
                                 const struct run *runs, int n_runs)
{
    int32_t first_row[RUNS_MAX + 1], *numbers = malloc((size_t)dq->n_rows * 2 * sizeof *numbers);
    struct tensor out = device_result(w->t, dq->n_rows, dq->n_cols);
    struct err e = ERR_INIT;
    int32_t n = 0;

    for (int i = 0; i < n_runs; i++) {
        first_row[i] = n;
        for (int k = 0; k < runs[i].n; k++, n++) {
            numbers[n] = runs[i].slot;
            numbers[dq->n_rows + n] = runs[i].from + k;
        }
    }
    first_row[n_runs] = n;
    CHECK(n == dq->n_rows, "%d rows of %lld", n, (long long)dq->n_rows);
    int32_t *dn = to_device(numbers, (size_t)n * 2 * sizeof *numbers);
    struct attention_args a = { .q = dq,
                                .k_cache = &w->dk,
                                .v_cache = &w->dv,
                                .slot = dn,
                                .position = dn + n,
                                .out = &out,
                                .n_rows = n,
                                .capacity = w->capacity,
                                .window = w->window,
                                .max_position = w->capacity - 1,
                                .n_heads = w->heads.n,
                                .n_kv_heads = w->heads.n_kv,
                                .head_dim = w->heads.dim,
                                .phase = PHASE_PROMPT,
                                .segments = { .n = n_runs, .first_row = first_row } };
    CHECK_OK(gpu.ops->attention(&gpu, &a, &e), e);
    struct tensor got = host_tensor(&out);
    device_free(out.data);
    device_free(dn);
    free(numbers);
    return got;
}

static const struct run prompt_runs[] = { { 0, 0, 513 }, { 1, 0, 1 },   { 2, 0, 2 },
                                          { 3, 0, 63 },  { 0, 0, 64 },  { 1, 0, 65 },
                                          { 2, 0, 127 }, { 3, 0, 128 }, { 0, 100, 129 },
                                          { 1, 0, 511 }, { 2, 0, 512 }, { 3, 7, 200 },
                                          { 0, 512, 1 }, { 1, 511, 1 }, { 2, 63, 66 } };
#define N_RUNS ((int)(sizeof prompt_runs / sizeof *prompt_runs))

/* A run by itself, and cut into pieces. */
static void prompt_alone(const struct world *w, const struct tensor *dq, const struct run *run,
                         const struct tensor *want)
{
    static const int cuts[] = { 1, 17, 64, 100 };
    struct run pieces[RUNS_MAX];
    struct tensor got = attend_runs(w, dq, run, 1);

    check_bits("a prompt alone", &got, want);
    free_tensor(&got);
    for (size_t c = run->n > 130 ? 1 : 0; c < sizeof cuts / sizeof *cuts; c++) {
        int n = 0;

        for (int at = 0; at < run->n; at += cuts[c])
            pieces[n++] = (struct run){ run->slot, run->from + at,
                                        run->n - at < cuts[c] ? run->n - at : cuts[c] };
        got = attend_runs(w, dq, pieces, n);
        check_bits("a prompt in pieces", &got, want);
        free_tensor(&got);
    }
}

static void prompt_case(enum dtype t, struct heads heads, int64_t window)
{
    if (left_out())
        return;
    static const int filled[] = { 513, 512, 512, 207 };
    struct world w = new_world(t, heads, 4, 600, filled);
    int64_t n_rows = 0, row = 0;

    w.window = window;
    for (int i = 0; i < N_RUNS; i++)
        n_rows += prompt_runs[i].n;
    struct tensor q = random_tensor(t, n_rows, (int64_t)heads.n * heads.dim, 1);
    struct tensor dq = device_tensor(&q);
    struct tensor all = attend_runs(&w, &dq, prompt_runs, N_RUNS);
    for (int i = 0; i < N_RUNS; i++) {
        const struct run *r = &prompt_runs[i];
        struct tensor one = rows_of(&dq, row, r->n), want = rows_of(&all, row, r->n);

        for (int k = 0; k < r->n; k += 1 + r->n / 3)
            check_row("a prompt", &w, &q, &all, row + k, r->slot, r->from + k);
        check_row("a prompt", &w, &q, &all, row + r->n - 1, r->slot, r->from + r->n - 1);
        if (i % 4 == 0 || r->from)
            prompt_alone(&w, &one, r, &want);
        row += r->n;
    }
    free_tensor(&all);
    free_tensor(&q);
    free_world(&w);
    device_free(dq.data);
}

static void prompt(void **state)
{
    (void)state;
    for (size_t d = 0; d < N_TYPES; d++) {
        prompt_case(types[d], (struct heads){ 32, 8, 64 }, 0);
        prompt_case(types[d], (struct heads){ 8, 8, 64 }, 100);
        prompt_case(types[d], (struct heads){ 14, 2, 64 }, 0);
        prompt_case(types[d], (struct heads){ 8, 8, 96 }, 0);
        prompt_case(types[d], (struct heads){ 24, 8, 128 }, 0);
        prompt_case(types[d], (struct heads){ 8, 1, 128 }, 64);
        prompt_case(types[d], (struct heads){ 4, 4, 256 }, 0);
        prompt_case(types[d], (struct heads){ 8, 1, 256 }, 1);
        prompt_case(types[d], (struct heads){ 20, 1, 64 }, 65);
    }
}

/* More tiles than a launch takes. */
static void many_prompts(void **state)
{
    static const int filled[] = { 40 };
    struct heads heads = { 4, 1, 64 };
    struct world w = new_world(DTYPE_F16, heads, 1, 40, filled);
    struct tensor q = random_tensor(DTYPE_F16, RUNS_MAX, 256, 1), dq = device_tensor(&q);
    struct run runs[RUNS_MAX];

    (void)state;
    for (int i = 0; i < RUNS_MAX; i++)
        runs[i] = (struct run){ 0, i % 40, 1 };
    struct tensor got = attend_runs(&w, &dq, runs, RUNS_MAX);
    for (int i = 0; i < RUNS_MAX; i++)
        check_row("many prompts", &w, &q, &got, i, 0, i % 40);
    free_tensor(&got);
    free_tensor(&q);
    free_world(&w);
    device_free(dq.data);
}

/* A sequence that holds NaN spoils no other, and of its own rows those that see it. */
static void bad_prompt(void **state)
{
    static const int filled[] = { 200, 200, 200 };
    static const struct run runs[] = { { 0, 0, 150 }, { 1, 0, 200 }, { 2, 20, 100 } };
    struct heads heads = { 8, 2, 64 };

    (void)state;
    for (size_t d = 0; d < N_TYPES; d++) {
        struct world w = new_world(types[d], heads, 3, 220, filled);
        struct tensor q = random_tensor(types[d], 450, 512, 1), dq = device_tensor(&q);
        struct tensor before = attend_runs(&w, &dq, runs, 3);
        struct err e = ERR_INIT;

        for (int64_t c = 0; c < w.v.n_cols; c++) {
            set_element(&w.v, 220 + 3, c, NAN);
            set_element(&w.k, 220 + 7, c, INFINITY);
        }
        CHECK_OK(gpu.ops->upload(&gpu, w.dv.data, w.v.data, tensor_bytes(&w.v), &e), e);
        CHECK_OK(gpu.ops->upload(&gpu, w.dk.data, w.k.data, tensor_bytes(&w.k), &e), e);
        struct tensor after = attend_runs(&w, &dq, runs, 3);
        for (int i = 0; i < 3; i++) {
            static const int first[] = { 0, 150, 350 }, n[] = { 150, 3, 100 };
            struct tensor a = rows_of(&before, first[i], n[i]);
            struct tensor b = rows_of(&after, first[i], n[i]);
            check_bits(i == 1 ? "in front of a bad value" : "beside a bad prompt", &a, &b);
        }
        for (int64_t row = 153; row < 350; row++)
            CHECK(isnan(element(&after, row, 0)), "row %lld saw NaN", (long long)row);
        free_tensor(&before);
        free_tensor(&after);
        free_tensor(&q);
        free_world(&w);
        device_free(dq.data);
    }
}

/* A sequence whose keys and values are NaN spoils its own row alone. */
static void bad_neighbour(void **state)
{
    struct heads heads = { 8, 2, 64 };
    int two[2] = { 200, 200 };
    int32_t numbers[] = { 0, 1, 199, 199 };
    struct world w = new_world(DTYPE_F16, heads, 2, 200, two);
    struct tensor q = random_tensor(DTYPE_F16, 2, 512, 1), dq = device_tensor(&q);
    struct tensor out = device_result(DTYPE_F16, 2, 512);
    struct err e = ERR_INIT;

    (void)state;
    int32_t *dn = to_device(numbers, sizeof numbers);
    struct decode_attention a = decode_args(&w, &dq, &out, dn);
    a.n_rows = 2;
    a.position = dn + 2;
    for (int64_t c = 0; c < w.v.n_cols; c++)
        set_element(&w.v, 3, c, NAN);
    CHECK_OK(gpu.ops->upload(&gpu, w.dv.data, w.v.data, tensor_bytes(&w.v), &e), e);
    CHECK_OK(cuda_attention_decode(gpu.state, &a, &e), e);
    struct tensor got = host_tensor(&out);
    check_row("beside a bad sequence", &w, &q, &got, 1, 1, 199);
    for (int64_t c = 0; c < 512; c++)
        CHECK(isnan(element(&got, 0, c)), "a bad value shows in its own row");
    free_tensor(&got);
    free_tensor(&q);
    free_world(&w);
    device_free(dq.data);
    device_free(out.data);
    device_free(dn);
}

static void nothing_is_left(void **state)
{
    (void)state;
    for (int i = 0; i < MEM_N_TAGS; i++)
        CHECK(gpu.mem.now[i] == 0, "%zu bytes of kind %d were not freed", gpu.mem.now[i], i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode),     cmocka_unit_test(decode_long),
        cmocka_unit_test(fused),      cmocka_unit_test(bad_neighbour),
        cmocka_unit_test(prompt),     cmocka_unit_test(many_prompts),
        cmocka_unit_test(bad_prompt), cmocka_unit_test(nothing_is_left),
    };

    return open_device() ? cmocka_run_group_tests(tests, open_twins, close_twins) : 1;
}
