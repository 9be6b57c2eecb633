/* Models in parts: processes that hold a part each give the bits of one that holds the whole, for
 * every method, in prompts and in steps; and what a group brings together is what its members have.
 *
 * LLQ_TEST_BACKEND=cuda: on GPUs, one for each process. */
#include "bench/random_model.h"
#include "check.h"
#include "members.h"
#include "packed.h"

#include "backend/group.h"
#include "base/memory.h"
#include "model/model.h"
#include "quant/method.h"

#include <math.h>
#include <string.h>
#include <time.h>

static int members_most(void)
{
    const int n = members_devices();

    return n < 4 ? n : 4;
}

/* Where there is one device. */
static void want_two(void)
{
    if (members_most() < 2) {
        print_message("SKIP one device here\n");
        skip();
    }
}

/* ---- what a group brings together ---- */

struct block {
    int64_t n_rows, n_cols; /* of a part */
    int size;
};

static const struct block blocks[] = {
    { 1, 1, 2 },       { 1, 1, 4 },    { 3, 5, 2 },      { 7, 33, 2 },     { 1, 2048, 2 },
    { 64, 2048, 2 },   { 257, 43, 4 }, { 1, 700001, 2 }, { 3, 300000, 4 }, { 2048, 512, 2 },
    { 1, 1 << 23, 2 }, { 8, 4096, 2 }, { 5, 8, 2 },
};

/* Rooms alternate: in the third call the first one's is written again.  What is large takes several
 * calls by itself. */
static int rounds_of(const struct block *b)
{
    return b->n_rows * b->n_cols * b->size > 8 << 20 ? 1 : 3;
}

static uint8_t value_of(int member, int64_t row, int64_t byte)
{
    uint64_t x = (uint64_t)byte * 0x9E3779B97F4A7C15u + (uint64_t)row * 0xC2B2AE3D27D4EB4Fu +
                 (uint64_t)member * 0x165667B19E3779F9u;

    return (uint8_t)(x >> 40);
}

static int collect_block(struct member *m, const struct block *b, struct err *e)
{
    struct backend *k = &m->backend;
    const enum dtype t = b->size == 4 ? DTYPE_F32 : DTYPE_F16;
    const int64_t n_bytes = b->n_cols * b->size, all_bytes = n_bytes * m->n;
    const int64_t n_rows = rounds_of(b) * b->n_rows;
    struct tensor part = { 0 }, out = { 0 };
    uint8_t *own = mem_array((size_t)(n_rows * n_bytes), 1);
    uint8_t *all = mem_array((size_t)(n_rows * all_bytes), 1);
    int rc = -1;

    for (int64_t row = 0; row < n_rows; row++)
        for (int64_t i = 0; i < n_bytes; i++)
            own[row * n_bytes + i] = value_of(m->index, row, i);
    memset(all, 0xEE, (size_t)(n_rows * all_bytes));
    if (tensor_alloc(k, MEM_SCRATCH, t, n_rows, b->n_cols, &part, e) < 0 ||
        tensor_alloc(k, MEM_SCRATCH, t, n_rows, b->n_cols * m->n, &out, e) < 0 ||
        k->ops->upload(k, part.data, own, (size_t)(n_rows * n_bytes), e) < 0 ||
        k->ops->upload(k, out.data, all, (size_t)(n_rows * all_bytes), e) < 0)
        goto out;
    /* Other rows each time, one call behind the other: one that is late reads what it came for. */
    for (int i = 0; i < rounds_of(b); i++) {
        struct tensor from = part, to = out;

        from.data = (char *)part.data + i * b->n_rows * n_bytes;
        to.data = (char *)out.data + i * b->n_rows * all_bytes;
        const struct collect_args a = { .part = &from, .out = &to, .n_rows = b->n_rows };
        if (k->ops->group->collect(k, &a, e) < 0)
            goto out;
    }
    if (k->ops->download(k, all, out.data, (size_t)(n_rows * all_bytes), e) < 0)
        goto out;
    rc = 0;
    for (int64_t row = 0; rc == 0 && row < n_rows; row++)
        for (int64_t i = 0; rc == 0 && i < all_bytes; i++)
            if (all[row * all_bytes + i] != value_of((int)(i / n_bytes), row, i % n_bytes))
                rc = err_set(e, ERR_INPUT, "%lld x %lld of %d bytes: row %lld, byte %lld",
                             (long long)b->n_rows, (long long)b->n_cols, b->size, (long long)row,
                             (long long)i);
out:
    tensor_free(k, &part);
    tensor_free(k, &out);
    free(own);
    free(all);
    return rc;
}

static int collect_all(struct member *m, const void *what, struct err *e)
{
    int64_t all[MEMBERS_MOST], free_bytes;

    (void)what;
    if ((int64_t)m->backend.mem.now[MEM_SCRATCH] != backend_group_bytes(members_backend(), m->n))
        return err_set(e, ERR_INPUT, "%zu bytes in the account", m->backend.mem.now[MEM_SCRATCH]);
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        if (collect_block(m, &blocks[i], e) < 0)
            return -1;
    for (int round = 0; round < 100; round++) {
        if (m->backend.ops->group->tell(&m->backend, 100 * round + m->index, all, e) < 0)
            return -1;
        for (int i = 0; i < m->n; i++)
            if (all[i] != 100 * round + i)
                return err_set(e, ERR_INPUT, "member %d told %lld", i, (long long)all[i]);
    }
    if (backend_first_says(&m->backend, m->index == 0) != true ||
        backend_first_says(&m->backend, m->index != 0) != false)
        return err_set(e, ERR_INPUT, "the first decides");
    if (!backend_any_says(&m->backend, m->index == m->n - 1) ||
        backend_any_says(&m->backend, false))
        return err_set(e, ERR_INPUT, "each is heard");
    if (backend_sum(&m->backend, 0.5 + m->index) != 0.5 * m->n * m->n ||
        !isnan(backend_sum(&m->backend, m->index ? 1 : NAN)))
        return err_set(e, ERR_INPUT, "numbers are added up");
    if (backend_free_bytes(&m->backend, &free_bytes, e) < 0)
        return -1;
    member_give(m, &free_bytes, sizeof free_bytes);
    return 0;
}

static void a_group_brings_parts_together(void **state)
{
    (void)state;
    want_two();
    for (int n = 2; n <= members_devices() && n <= MEMBERS_MOST; n *= 2) {
        CHECK(members_run(n, collect_all, NULL), "%d members hear each other", n);
        for (int i = 1; i < n; i++)
            CHECK(memcmp(shared->result[0], shared->result[i], sizeof(int64_t)) == 0,
                  "they agree on what memory is free");
    }
}

/* ---- one gives up ---- */

static int give_up(struct member *m, const void *what, struct err *e)
{
    struct tensor part = { 0 }, out = { 0 };
    const struct collect_args a = { .part = &part, .out = &out, .n_rows = 4 };
    struct backend *k = &m->backend;
    struct err why = ERR_INIT;

    (void)what;
    if (tensor_alloc(k, MEM_SCRATCH, DTYPE_F16, 4, 64, &part, e) < 0 ||
        tensor_alloc(k, MEM_SCRATCH, DTYPE_F16, 4, 64 * m->n, &out, e) < 0)
        return -1;
    if (m->index == 1) {
        nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
        err_set(&why, ERR_MEMORY, "does not fit, says the test");
        k->ops->group->give_up(k, &why);
    } else if (k->ops->group->collect(k, &a, &why) == 0 && k->ops->sync(k, &why) == 0) {
        return err_set(e, ERR_INPUT, "it came together without member 1");
    } else if (why.code != ERR_MEMORY || !strstr(why.text, "member 1") ||
               !strstr(why.text, "does not fit, says the test")) {
        return err_set(e, ERR_INPUT, "code %d, \"%s\"", why.code, why.text);
    }
    backend_leave(k);
    tensor_free(k, &part);
    tensor_free(k, &out);
    return 0;
}

static void who_waits_for_one_that_gives_up_hears_why(void **state)
{
    (void)state;
    want_two();
    CHECK(members_run(2, give_up, NULL), "nobody waits for ever");
}

/* ---- models ---- */

enum { WINDOWS_MOST = 11, WINDOW_MOST = 24 };

static const struct quant_spec specs[] = {
    { .method = "none", .bits = 16, .compute = DTYPE_F16 },
    { .method = "bnb_4bit",
      .bits = 4,
      .group_size = 64,
      .quant_type = "nf4",
      .double_quant = true,
      .compute = DTYPE_F16 },
    { .method = "bnb_8bit", .bits = 8, .compute = DTYPE_F16, .outlier_threshold = 6 },
    { .method = "rtn",
      .bits = 3,
      .group_size = -1,
      .quant_type = "int",
      .grid = "awq",
      .compute = DTYPE_F16 },
    { .method = "rtn",
      .bits = 4,
      .group_size = 32,
      .quant_type = "int",
      .grid = "absmax",
      .sym = true,
      .double_quant = true,
      .compute = DTYPE_BF16 },
    { .method = "rtn", .bits = 8, .group_size = 0, .quant_type = "fp8_e4m3", .compute = DTYPE_F16 },
    { .method = "gptq",
      .bits = 3,
      .group_size = -1,
      .quant_type = "int",
      .sym = true,
      .compute = DTYPE_F16,
      .gptq = { .desc_act = true, .true_sequential = true, .damp = 0.1, .damp_step = 0.01 } },
    { .method = "awq",
      .bits = 4,
      .group_size = -1,
      .quant_type = "int",
      .compute = DTYPE_F16,
      .awq = { .zero_point = true, .duo_scaling = true, .clip = true } },
};

/* n sequences, each of another length. */
static void make_ids(int n, int64_t vocab, struct quant_calibration *out, struct err *e)
{
    int32_t lengths[WINDOWS_MOST], *ids = mem_array(WINDOWS_MOST * WINDOW_MOST, sizeof *ids);
    size_t n_ids = 0;

    for (int i = 0; i < n; i++) {
        lengths[i] = WINDOW_MOST - i * 7 % 12;
        n_ids += (size_t)lengths[i];
    }
    for (size_t i = 0; i < n_ids; i++)
        ids[i] = (int32_t)((i * 2654435761u >> 7) % (uint64_t)vocab);
    quant_calibration_make(out, ids, n_ids, lengths, (size_t)n, e);
    free(ids);
}

enum { N_SEQS = 3, N_STEPS = 7 };

static int run_model(struct member *m, const struct model *model, struct err *e)
{
    static const int32_t slots[N_SEQS] = { 0, 1, 2 }, counts[N_SEQS] = { 9, 1, 23 };
    const int64_t vocab = model->config.vocab_size;
    int32_t ids[33], next[N_SEQS], steps[N_SEQS * N_STEPS];
    struct kv_cache cache;
    struct forward *f = NULL;
    float *logits = mem_array((size_t)(33 * vocab), sizeof *logits);
    int rc = -1;

    for (int i = 0; i < 33; i++)
        ids[i] = (int32_t)((i * 7919 + 13) % vocab);
    const struct batch batch = {
        .phase = PHASE_PROMPT, .n_seqs = N_SEQS, .slot = slots, .n_tokens = counts, .ids = ids
    };
    struct forward_out out = { .logits = logits };
    if (kv_cache_open(&cache, model, N_SEQS, 64, e) < 0)
        goto out;
    if (forward_open(&f, model, 40, N_SEQS, e) < 0 ||
        forward_run(f, &cache, &batch, WANT_ALL_LOGITS, NULL, 0, &out, e) < 0)
        goto close;
    for (int s = 0; s < N_SEQS; s++)
        next[s] = (s * 11 + 5) % (int32_t)vocab;
    if (forward_decode(f, &cache, N_SEQS, slots, next, N_STEPS, NULL, 0, steps, e) < 0)
        goto close;
    member_give(m, steps, sizeof steps);
    /* Again, and one alone: where steps are recorded, they are found again. */
    if (forward_decode(f, &cache, N_SEQS, slots, next, N_STEPS, NULL, 0, steps, e) < 0)
        goto close;
    member_give(m, steps, sizeof steps);
    if (forward_decode(f, &cache, 1, slots, next, N_STEPS, NULL, 0, steps, e) < 0)
        goto close;
    member_give(m, logits, (size_t)(33 * vocab) * sizeof *logits);
    member_give(m, steps, sizeof steps);
    rc = 0;
close:
    forward_close(f);
    kv_cache_close(&cache);
out:
    free(logits);
    return rc;
}

static int make_and_run(struct member *m, const char *folder, const struct quant_spec *spec,
                        struct err *e)
{
    const struct load_way way = { .split = { m->index, m->n } };
    struct load_facts facts;
    struct quant_report report = { 0 };
    struct quant_calibration ids;
    struct quant_spec own = *spec;
    struct model base, model = MODEL_INIT;

    if (weights_load_by(&m->backend, folder, &way, &base, &facts, e) < 0)
        return -1;
    make_ids(3, base.config.vocab_size, &ids, e);
    own.calibration = &ids;
    int rc = quantize_model(&base, &own, DTYPE_OTHER, &model, &report, e);
    quant_calibration_release(&ids);
    if (rc == 0)
        rc = run_model(m, &model, e);
    if (rc == 0) {
        member_give(m, &report.sizes, sizeof report.sizes);
        for (int i = 0; i < report.n_modules; i++)
            member_give(m, &report.modules[i].mse, sizeof report.modules[i].mse);
    }
    quant_report_release(&report);
    model_release(&model);
    model_release(&base);
    return rc;
}

static const char *const models[] = { "llama_gqa_tied_rope3", "llama_hd64_gqa4", "llama_mha_untied",
                                      "mistral", "qwen2_bias" };
enum {
    N_MODELS = sizeof models / sizeof *models,
    N_SPECS = sizeof specs / sizeof *specs,
    N_CASES = N_MODELS * N_SPECS
};

/* Of all models that can be cut into so many parts: everything, and behind it where each case ends.
 */
static int run_cases(struct member *m, const void *what, struct err *e)
{
    const int n_parts = *(const int *)what;
    int64_t end[N_CASES];

    for (int i = 0; i < N_CASES; i++) {
        struct bytes folder = BYTES_INIT;
        struct config config;
        struct err ignored = ERR_INIT;

        bytes_printf(&folder, "%s/%s", check_golden(), models[i / N_SPECS]);
        int rc = 0;
        if (config_read(folder.data, &config, &ignored) == 0 &&
            config_check_split(&config, n_parts, &ignored) == 0)
            rc = make_and_run(m, folder.data, &specs[i % N_SPECS], e);
        bytes_release(&folder);
        if (rc < 0)
            return err_in(e, "case %d", i);
        end[i] = (int64_t)shared->n_result[m->index];
    }
    member_give(m, end, sizeof end);
    return 0;
}

static void check_cases(const char *whole, const int64_t *end, int n)
{
    for (int k = 0; k < n; k++)
        for (int i = 0; i < N_CASES; i++) {
            const int64_t from = i ? end[i - 1] : 0;

            CHECK(memcmp(shared->result[k] + from, whole + from, (size_t)(end[i] - from)) == 0,
                  "%s, %s, case %d: member %d of %d has the bits of the whole", models[i / N_SPECS],
                  specs[i % N_SPECS].method, i, k, n);
        }
}

static void parts_give_the_bits_of_the_whole(void **state)
{
    static char whole[RESULT_BYTES];
    int64_t end[N_CASES];

    (void)state;
    want_two();
    for (int n = 2; n <= members_most(); n *= 2) {
        int n_cases = 0;

        CHECK(members_run(1, run_cases, &n), "the models as they are");
        const size_t n_bytes = shared->n_result[0];
        memcpy(whole, shared->result[0], n_bytes);
        memcpy(end, whole + n_bytes - sizeof end, sizeof end);
        for (int i = 0; i < N_CASES; i++)
            n_cases += end[i] > (i ? end[i - 1] : 0);
        CHECK(members_run(n, run_cases, &n), "the models in %d parts", n);
        for (int k = 0; k < n; k++)
            CHECK(shared->n_result[k] == n_bytes, "member %d gives as much", k);
        check_cases(whole, end, n);
        print_message("%d cases in %d parts\n", n_cases, n);
        CHECK(n > 2 || n_cases >= N_SPECS, "there are models to cut");
    }
}

/* ---- many sequences, long rows, far positions ---- */

#define HEADS_OF_64                                                                \
    .family = FAMILY_LLAMA, .vocab_size = 640, .hidden_size = 512, .head_dim = 64, \
    .max_position = 1024, .rms_norm_eps = 1e-5, .tied = true, .bos_id = -1,        \
    .repetition_penalty = 1, .stored_dtype = DTYPE_BF16,                           \
    .rope = { .theta = 10000, .factor = 1, .partial_rotary_factor = 1 }

/* A layer whose rows are of every kind that steps know: an MLP as long as of a model of billions of
 * weights (eight rows of it are too many for what a block keeps), positions that several blocks
 * share. */
static const struct config long_rows = { HEADS_OF_64, .intermediate_size = 8192, .n_layers = 1,
                                         .n_heads = 8, .n_kv_heads = 4 };

/* Heads for the most parts that a model can have. */
static const struct config eight_heads = { HEADS_OF_64, .intermediate_size = 1024, .n_layers = 2,
                                           .n_heads = 16, .n_kv_heads = 8 };

struct random_case {
    const struct config *config;
    struct quant_spec spec;
};

enum { LONG_SEQS = 12, LONG_FIRST = 300, LONG_STEPS = 4 };

/* On a CPU, whose steps have one way for all, positions need not be far. */
static int length_of_first(void)
{
    return strcmp(members_backend(), "cpu") == 0 ? 8 : LONG_FIRST;
}

/* Steps of 8, 12, 1 and 3 sequences, in turn; the first one is far. */
static int run_long(struct member *m, const struct model *model, struct err *e)
{
    static const int n_seqs[] = { 8, 12, 1, 3, 8 };
    int32_t slots[LONG_SEQS], counts[LONG_SEQS], next[LONG_SEQS], steps[LONG_SEQS * LONG_STEPS];
    int32_t ids[LONG_FIRST + LONG_SEQS];
    struct forward_out out = { .next_ids = next };
    struct kv_cache cache;
    struct forward *f = NULL;
    int rc = -1;

    for (int i = 0; i < LONG_FIRST + LONG_SEQS; i++)
        ids[i] = (int32_t)((i * 7919 + 13) % model->config.vocab_size);
    for (int i = 0; i < LONG_SEQS; i++) {
        slots[i] = i;
        counts[i] = i ? 1 : length_of_first();
    }
    const struct batch batch = {
        .phase = PHASE_PROMPT, .n_seqs = LONG_SEQS, .slot = slots, .n_tokens = counts, .ids = ids
    };
    if (kv_cache_open(&cache, model, LONG_SEQS, LONG_FIRST + 64, e) < 0)
        return -1;
    if (forward_open(&f, model, LONG_FIRST + LONG_SEQS, LONG_SEQS, e) < 0 ||
        forward_run(f, &cache, &batch, WANT_LAST_ARGMAX, NULL, 0, &out, e) < 0)
        goto close;
    member_give(m, next, sizeof next);
    for (size_t i = 0; i < sizeof n_seqs / sizeof *n_seqs; i++) {
        if (forward_decode(f, &cache, n_seqs[i], slots, next, LONG_STEPS, NULL, 0, steps, e) < 0)
            goto close;
        member_give(m, steps, (size_t)(n_seqs[i] * LONG_STEPS) * sizeof *steps);
    }
    rc = 0;
close:
    forward_close(f);
    kv_cache_close(&cache);
    return rc;
}

static int run_random(struct member *m, const void *what, struct err *e)
{
    const struct random_case *c = what;
    struct quant_report report = { 0 };
    struct model base = MODEL_INIT, model = MODEL_INIT;
    int rc = make_random_part(&m->backend, c->config, (struct split){ m->index, m->n }, &base, e);

    if (rc == 0)
        rc = quantize_model(&base, &c->spec, DTYPE_OTHER, &model, &report, e);
    if (rc == 0)
        rc = run_long(m, &model, e);
    quant_report_release(&report);
    model_release(&model);
    model_release(&base);
    return rc;
}

/* Values of 16 bits, codes, LLM.int8. */
static void check_random(const struct config *config, int from, int to)
{
    static char whole[RESULT_BYTES];

    for (int i = 0; i < 3; i++) {
        struct random_case c = { config, specs[i] };

        c.spec.compute = DTYPE_BF16;
        CHECK(members_run(1, run_random, &c), "%s, whole", c.spec.method);
        const size_t n_bytes = shared->n_result[0];
        memcpy(whole, shared->result[0], n_bytes);
        CHECK(n_bytes > 0, "ids are given");
        for (int n = from; n <= to; n *= 2) {
            CHECK(members_run(n, run_random, &c), "%s in %d parts", c.spec.method, n);
            for (int k = 0; k < n; k++)
                CHECK(shared->n_result[k] == n_bytes && !memcmp(shared->result[k], whole, n_bytes),
                      "%s: member %d of %d has the ids of the whole", c.spec.method, k, n);
        }
    }
}

static void long_rows_and_many_sequences(void **state)
{
    (void)state;
    want_two();
    check_random(&long_rows, 2, strcmp(members_backend(), "cpu") == 0 ? 2 : members_most());
}

static void a_model_in_eight_parts(void **state)
{
    (void)state;
    if (members_devices() < 8) {
        print_message("SKIP fewer than eight devices here\n");
        skip();
    }
    check_random(&eight_heads, 8, 8);
}

/* ---- calibration ---- */

/* The backend's own table, but that it counts the rows that attend, and lacks what it shall lack.
 */
static struct backend_ops counting;
static const struct backend_ops *counted;
static int64_t n_attended;

static int count_attention(struct backend *b, const struct attention_args *a, struct err *e)
{
    n_attended += a->n_rows;
    return counted->attention(b, a, e);
}

struct calibrating {
    int spec; /* of specs */
    int n_windows;
    bool on_host; /* sums and solver */
};

/* A group whose members all have the whole model: what each packs, its errors; last, how many rows
 * it ran. */
static int calibrate(struct member *m, const void *what, struct err *e)
{
    const struct calibrating *c = what;
    struct quant_spec spec = specs[c->spec];
    struct bytes folder = BYTES_INIT, packed = BYTES_INIT;
    struct quant_calibration ids;
    struct quant_report report;
    struct model base, model;
    int64_t n_layers;

    counted = m->backend.ops;
    counting = *counted;
    counting.attention = count_attention;
    if (c->on_host) {
        counting.gram = NULL;
        counting.gptq_columns = NULL;
    }
    m->backend.ops = &counting;
    bytes_printf(&folder, "sweeps/demo");
    int rc = weights_load(&m->backend, folder.data, &base, e);
    bytes_release(&folder);
    if (rc < 0)
        return -1;
    make_ids(c->n_windows, base.config.vocab_size, &ids, e);
    spec.calibration = &ids;
    n_layers = base.config.n_layers; /* two of them show what there is to see */
    base.config.n_layers = 2;
    rc = quantize_model(&base, &spec, DTYPE_OTHER, &model, &report, e);
    base.config.n_layers = n_layers;
    if (rc == 0)
        rc = packed_bytes(&model, &packed, e);
    if (rc == 0) {
        member_give(m, packed.data, packed.n);
        for (int i = 0; i < report.n_modules; i++) {
            const struct quant_solved *s = &report.modules[i].solved;

            member_give(m, &report.modules[i].mse, sizeof report.modules[i].mse);
            member_give(m, &s->loss, sizeof s->loss);
            member_give(m, s->ratio_loss, sizeof s->ratio_loss);
        }
    }
    member_give(m, &n_attended, sizeof n_attended);
    bytes_release(&packed);
    quant_report_release(&report);
    quant_calibration_release(&ids);
    model_release(&model);
    model_release(&base);
    return rc;
}

static int64_t attended_by(int member)
{
    int64_t n;

    memcpy(&n, shared->result[member] + shared->n_result[member] - sizeof n, sizeof n);
    return n;
}

static void check_calibrating(const struct calibrating *c)
{
    static char whole[RESULT_BYTES];
    const char *method = specs[c->spec].method;

    CHECK(members_run(1, calibrate, c), "%s alone", method);
    const size_t n_bytes = shared->n_result[0] - sizeof(int64_t);
    const int64_t n_rows = attended_by(0);
    memcpy(whole, shared->result[0], n_bytes);
    CHECK(n_bytes > 10000 && n_rows > 0, "%zu bytes, %lld rows", n_bytes, (long long)n_rows);
    for (int n = 2; n <= members_most(); n *= 2) {
        int64_t n_all = 0, most = 0;

        CHECK(members_run(n, calibrate, c), "%s in a group of %d", method, n);
        for (int k = 0; k < n; k++) {
            CHECK(shared->n_result[k] == n_bytes + sizeof(int64_t) &&
                      memcmp(shared->result[k], whole, n_bytes) == 0,
                  "%s, %d windows: member %d of %d packs the bytes of one", method, c->n_windows, k,
                  n);
            n_all += attended_by(k);
            most = attended_by(k) > most ? attended_by(k) : most;
        }
        CHECK(n_all == n_rows, "%s, %d windows: %d members run %lld rows, one runs %lld", method,
              c->n_windows, n, (long long)n_all, (long long)n_rows);
        /* Windows are cut into runs of as many; the longest is half as long again as the mean. */
        CHECK(2 * most * c->n_windows <= 3 * n_rows * ((c->n_windows + n - 1) / n),
              "%s, %d windows: a member of %d runs %lld of %lld rows", method, c->n_windows, n,
              (long long)most, (long long)n_rows);
    }
}

static void a_group_shares_the_calibration_set(void **state)
{
    /* GPTQ, one window: members without any; AWQ; sums and solver of GPTQ on the host. */
    static const struct calibrating cases[] = { { N_SPECS - 2, 1, false },
                                                { N_SPECS - 2, 5, false },
                                                { N_SPECS - 1, 5, false },
                                                { N_SPECS - 2, 11, true } };

    (void)state;
    want_two();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_calibrating(&cases[i]);
}

/* ---- cuts ---- */

struct cut {
    struct quant_spec spec;
    int64_t n_out, n_in;
    int n;
    bool nested; /* each part starts a run of scales that share one of the second level */
};

#define CUT_TWICE(way, type, group, n_rows, n_cols, n_parts, starts_runs)    \
    {                                                                        \
        .spec = { .method = way,                                             \
                  .bits = 4,                                                 \
                  .group_size = group,                                       \
                  .quant_type = type,                                        \
                  .grid = "absmax",                                          \
                  .sym = true,                                               \
                  .double_quant = true,                                      \
                  .compute = DTYPE_F16 },                                    \
        .n_out = n_rows, .n_in = n_cols, .n = n_parts, .nested = starts_runs \
    }

/* The part that starts at a quarter does not start a run where the one that starts at a half does.
 */
static const struct cut cuts[] = {
    CUT_TWICE("bnb_4bit", "nf4", 64, 512, 64, 2, true),
    CUT_TWICE("bnb_4bit", "nf4", 64, 512, 64, 4, false),
    CUT_TWICE("bnb_4bit", "nf4", 64, 96, 64, 2, false),
    CUT_TWICE("bnb_4bit", "nf4", 4096, 64, 64, 2, true), /* one group is one of each part */
    CUT_TWICE("rtn", "int", 32, 64, 256, 2, true),
    CUT_TWICE("rtn", "int", 32, 64, 256, 4, false),
};

static int values_of(struct backend *b, const struct weight *w, uint16_t *out, struct err *e)
{
    struct tensor t = { 0 };
    int rc = tensor_alloc(b, MEM_SCRATCH, DTYPE_F16, w->n_out, w->n_in, &t, e);

    if (rc == 0) {
        const struct dequantize_args a = { .w = w, .out = &t };

        rc = b->ops->dequantize(b, &a, e);
    }
    if (rc == 0)
        rc = b->ops->download(b, out, t.data, tensor_bytes(&t), e);
    tensor_free(b, &t);
    return rc;
}

static int check_part(struct backend *b, const struct cut *c, const struct weight *whole, int index,
                      const uint16_t *values, uint16_t *room, struct err *e)
{
    const int64_t n = c->n_out / c->n * c->n_in;
    struct weight part = { 0 };

    if (quant_cut(b, whole, (struct split){ index, c->n }, &part, e) < 0)
        return -1;
    int rc = values_of(b, &part, room, e);
    if (rc == 0 && part.scale_form != (c->nested ? whole->scale_form : SCALE_F32))
        rc =
            err_set(e, ERR_INPUT, "part %d of %d: scales of form %d", index, c->n, part.scale_form);
    if (rc == 0 && memcmp(room, values + index * n, (size_t)n * sizeof *values) != 0)
        rc = err_set(e, ERR_INPUT, "part %d of %d: other values", index, c->n);
    weight_release(b, &part);
    return rc;
}

static int cut_all(struct member *m, const void *what, struct err *e)
{
    const struct cut *c = what;
    const int64_t n = c->n_out * c->n_in;
    struct backend *b = &m->backend;
    struct tensor plain = { 0 };
    struct weight whole = { 0 };
    uint16_t *values = mem_array((size_t)n, sizeof *values);
    uint16_t *room = mem_array((size_t)n, sizeof *room);

    for (int64_t i = 0; i < n; i++)
        values[i] = dtype_f32_to_f16((float)(i * 7919 % 2003 - 1001) / (float)(64 + i % 997));
    int rc = tensor_alloc(b, MEM_BASE, DTYPE_F16, c->n_out, c->n_in, &plain, e);
    if (rc == 0)
        rc = b->ops->upload(b, plain.data, values, tensor_bytes(&plain), e);
    if (rc == 0)
        rc = quant_pack_alone(b, &c->spec, &plain, &whole, e);
    if (rc == 0)
        rc = b->ops->sync(b, e);
    if (rc == 0)
        rc = values_of(b, &whole, values, e);
    for (int i = 0; rc == 0 && i < c->n; i++)
        rc = check_part(b, c, &whole, i, values, room, e);
    weight_release(b, &whole);
    tensor_free(b, &plain);
    free(room);
    free(values);
    return rc;
}

/* Whether a step can be run whole is decided by each member for itself, from its own weights. */
static void parts_of_a_matrix_have_one_form(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++)
        CHECK(members_run(1, cut_all, &cuts[i]), "%s, %lld x %lld in %d parts", cuts[i].spec.method,
              (long long)cuts[i].n_out, (long long)cuts[i].n_in, cuts[i].n);
}

/* bitsandbytes' blocks run through the flattened matrix. */
static void blocks_of_two_parts_are_refused(void **state)
{
    const struct quant_spec spec = { .method = "bnb_4bit",
                                     .bits = 4,
                                     .group_size = 4096,
                                     .quant_type = "nf4",
                                     .compute = DTYPE_F16 };
    struct err e = ERR_INIT;

    (void)state;
    CHECK_OK(quant_check_parts(&spec, 128, 128, 4, &e), e);
    CHECK_OK(quant_check_parts(&spec, 64, 64, 2, &e), e); /* one block: one of each part */
    CHECK(quant_check_parts(&spec, 172, 64, 2, &e) < 0 && e.code == ERR_USAGE, "refused");
    CHECK(strstr(e.text, "blocks of 4096 weights run across the parts that 2 devices have of a "
                         "172 x 64 matrix"),
          "says so: %s", e.text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_group_brings_parts_together),
        cmocka_unit_test(who_waits_for_one_that_gives_up_hears_why),
        cmocka_unit_test(parts_give_the_bits_of_the_whole),
        cmocka_unit_test(long_rows_and_many_sequences),
        cmocka_unit_test(a_model_in_eight_parts),
        cmocka_unit_test(a_group_shares_the_calibration_set),
        cmocka_unit_test(parts_of_a_matrix_have_one_form),
        cmocka_unit_test(blocks_of_two_parts_are_refused),
    };

    if (!members_share())
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
