/* test_forward.c - a forward pass against itself: the same bits whether a sequence is run whole,
 * in pieces or id by id, alone or among others, with any number of threads; generation likewise;
 * and rotary tables that depend on the length. */
#include "check.h"

#include "model/generate.h"
#include "model/model.h"
#include "quant/quant.h"

#include <omp.h>
#include <string.h>

#define N_IDS    96
#define CAPACITY 128

static struct backend backend;
static struct model base;

static const struct quant_spec specs[] = {
    { .method = "none", .bits = 32, .compute = DTYPE_F32 },
    { .method = "none", .bits = 16, .compute = DTYPE_BF16 },
    { .method = "bnb_4bit",
      .bits = 4,
      .group_size = 64,
      .quant_type = "nf4",
      .double_quant = true,
      .compute = DTYPE_F16,
      .n_skip = 1,
      .skip = { "lm_head" } },
    { .method = "rtn",
      .bits = 3,
      .group_size = -1,
      .quant_type = "int",
      .compute = DTYPE_F32,
      .sym = true,
      .grid = "absmax",
      .n_skip = 1,
      .skip = { "lm_head" } },
    { .method = "bnb_8bit",
      .bits = 8,
      .compute = DTYPE_F16,
      .outlier_threshold = 1.5,
      .n_skip = 1,
      .skip = { "lm_head" } },
};
#define N_SPECS (sizeof specs / sizeof *specs)
#define INT8    4 /* looks at all rows of a call: whole documents only */

static int open_base(void **state)
{
    struct err e = ERR_INIT;
    char path[4096];

    (void)state;
    snprintf(path, sizeof path, "%s/llama_gqa_tied_rope3", check_golden());
    if (backend_open(&backend, "cpu", 0, NULL, &e) < 0 ||
        weights_load(&backend, path, &base, &e) < 0) {
        print_error("%s\n", e.text);
        return -1;
    }
    return 0;
}

static int close_base(void **state)
{
    (void)state;
    model_release(&base);
    for (int tag = 0; tag < MEM_N_TAGS; tag++)
        if (backend.mem.now[tag]) {
            print_error("%zu bytes of tag %d were never freed\n", backend.mem.now[tag], tag);
            return -1;
        }
    backend_close(&backend);
    return 0;
}

static void make_model(size_t spec, struct model *out)
{
    struct quant_report report = { 0 };
    struct err e = ERR_INIT;
    /* 16 bit: the model dtype is that of the checkpoint; fp32 for the others. */
    enum dtype source = specs[spec].compute == DTYPE_F32 ? DTYPE_F32 : DTYPE_BF16;

    CHECK_OK(quantize_model(&base, &specs[spec], source, out, &report, &e), e);
    quant_report_release(&report);
}

/* Ids of document d: any, but always the same. */
static void make_ids(int d, int32_t *ids, int n)
{
    for (int i = 0; i < n; i++)
        ids[i] = (int32_t)((i * i * 7 + 31 * i * (d + 1) + 13 * d + 5) % 512);
}

struct runner {
    struct kv_cache cache;
    struct forward *f;
    const struct model *m;
};

static void open_runner(struct runner *r, const struct model *m, int n_slots, int64_t rows)
{
    struct err e = ERR_INIT;

    r->m = m;
    CHECK_OK(kv_cache_open(&r->cache, m, n_slots, CAPACITY, &e), e);
    CHECK_OK(forward_open(&r->f, m, rows, n_slots, &e), e);
}

static void close_runner(struct runner *r)
{
    forward_close(r->f);
    kv_cache_close(&r->cache);
}

/* The next n ids of one slot; logits [n, V]. */
static void run_piece(struct runner *r, int32_t slot, const int32_t *ids, int32_t n, int32_t length,
                      float *logits)
{
    struct batch batch = {
        .n_seqs = 1, .slot = &slot, .n_tokens = &n, .ids = ids, .length = length ? &length : NULL
    };
    struct forward_out out = { .logits = logits };
    struct err e = ERR_INIT;

    CHECK_OK(forward_run(r->f, &r->cache, &batch, WANT_ALL_LOGITS, NULL, 0, &out, &e), e);
}

/* Logits of document d, alone and whole. */
static float *whole_logits(const struct model *m, int d, int n)
{
    float *logits = malloc((size_t)(n * m->config.vocab_size) * sizeof *logits);
    struct runner r;
    int32_t ids[N_IDS];

    make_ids(d, ids, n);
    open_runner(&r, m, 1, n);
    run_piece(&r, 0, ids, n, 0, logits);
    close_runner(&r);
    return logits;
}

static void pieces_are_the_whole(void **state)
{
    static const int32_t cuts[][8] = { { 0, 96 }, { 0, 10, 11, 40, 96 }, { 0, 64, 96 } };

    (void)state;
    for (size_t s = 0; s < N_SPECS; s++) {
        struct model m;

        make_model(s, &m);
        const int64_t vocab = m.config.vocab_size;
        float *want = whole_logits(&m, 0, N_IDS), *got = calloc((size_t)(N_IDS * vocab), 4);
        int32_t ids[N_IDS];

        make_ids(0, ids, N_IDS);
        for (size_t c = 0; c < 4; c++) {
            struct runner r;

            if (s == INT8 && c > 0)
                continue;
            omp_set_num_threads(1 + (c & 1));
            open_runner(&r, &m, 3, N_IDS);
            if (c == 3)
                for (int i = 0; i < N_IDS; i++)
                    run_piece(&r, 2, ids + i, 1, 0, got + i * vocab);
            else
                for (int i = 0; cuts[c][i] < N_IDS; i++)
                    run_piece(&r, 1, ids + cuts[c][i], cuts[c][i + 1] - cuts[c][i], 0,
                              got + cuts[c][i] * vocab);
            CHECK(!memcmp(got, want, (size_t)(N_IDS * vocab) * sizeof *got),
                  "%s: cut %zu gives the bits of the whole", specs[s].method, c);
            close_runner(&r);
        }
        free(want);
        free(got);
        model_release(&m);
    }
}

/* Five documents of other lengths in one batch, slots in disorder; then the next id of each. */
static void among_others(void **state)
{
    static const int32_t lengths[] = { 17, 1, 64, 90, 33 }, slots[] = { 3, 0, 4, 1, 2 };

    (void)state;
    for (size_t s = 0; s < N_SPECS; s++) {
        struct model m;
        struct runner r;
        int32_t ids[5 * N_IDS], next[5];
        struct err e = ERR_INIT;
        int64_t n = 0;

        make_model(s, &m);
        const int64_t vocab = m.config.vocab_size;
        open_runner(&r, &m, 5, 300);
        for (int d = 0; d < 5; d++) {
            make_ids(d, ids + n, lengths[d]);
            n += lengths[d];
        }
        float *got = malloc((size_t)(n * vocab) * sizeof *got), *nll = malloc((size_t)n * 4);
        struct batch batch = { .n_seqs = 5, .slot = slots, .n_tokens = lengths, .ids = ids };
        struct forward_out out = { .logits = got };

        CHECK_OK(forward_run(r.f, &r.cache, &batch, WANT_ALL_LOGITS, NULL, 0, &out, &e), e);
        float *at = got;
        for (int d = 0; d < 5; d++) {
            float *alone = whole_logits(&m, d, lengths[d]);

            CHECK(!memcmp(at, alone, (size_t)(lengths[d] * vocab) * sizeof *at),
                  "%s: document %d is the same alone", specs[s].method, d);
            at += lengths[d] * vocab;
            free(alone);
        }

        /* Likelihoods are those of the logits; the last rows have none. */
        struct forward_out nll_out = { .nll = nll };
        for (int slot = 0; slot < 5; slot++)
            kv_cache_drop(&r.cache, slot);
        CHECK_OK(forward_run(r.f, &r.cache, &batch, WANT_NLL, NULL, 0, &nll_out, &e), e);
        int64_t row = 0;
        for (int d = 0; d < 5; d++)
            for (int i = 0; i < lengths[d]; i++, row++) {
                const float *x = got + row * vocab;
                double sum = 0;

                for (int64_t v = 0; v < vocab; v++)
                    sum += exp((double)x[v]);
                CHECK(i == lengths[d] - 1
                          ? isnan(nll[row])
                          : check_near(nll[row], log(sum) - (double)x[ids[row + 1]], 1e-6),
                      "%s: the likelihood of row %lld", specs[s].method, (long long)row);
            }

        /* One more id each: greedy, then with the winners forbidden. */
        int32_t one[] = { 1, 1, 1, 1, 1 }, more[] = { 9, 8, 7, 6, 5 }, second[5];
        float *last = malloc((size_t)(5 * vocab) * sizeof *last);
        struct batch step = { .n_seqs = 5, .slot = slots, .n_tokens = one, .ids = more };
        struct forward_out last_out = { .logits = last }, next_out = { .next_ids = next },
                           second_out = { .next_ids = second };
        CHECK_OK(forward_run(r.f, &r.cache, &step, WANT_LAST_LOGITS, NULL, 0, &last_out, &e), e);
        for (int d = 0; d < 5; d++)
            r.cache.length[slots[d]]--;
        CHECK_OK(forward_run(r.f, &r.cache, &step, WANT_LAST_ARGMAX, NULL, 0, &next_out, &e), e);
        for (int d = 0; d < 5; d++)
            r.cache.length[slots[d]]--;
        CHECK_OK(forward_run(r.f, &r.cache, &step, WANT_LAST_ARGMAX, next, 5, &second_out, &e), e);
        for (int d = 0; d < 5; d++) {
            int32_t best = 0, other = -1;

            for (int32_t v = 1; v < vocab; v++)
                best = last[d * vocab + v] > last[d * vocab + best] ? v : best;
            for (int32_t v = 0; v < vocab; v++) {
                bool winner = false;
                for (int k = 0; k < 5; k++)
                    winner |= next[k] == v;
                if (!winner && (other < 0 || last[d * vocab + v] > last[d * vocab + other]))
                    other = v;
            }
            CHECK(next[d] == best, "%s: the next id of %d", specs[s].method, d);
            CHECK(second[d] == other, "%s: forbidden ids are passed over", specs[s].method);
        }
        free(last);
        free(got);
        free(nll);
        close_runner(&r);
        model_release(&m);
    }
}

/* ---- generation ---- */

#define N_PROMPTS 13

static int n_asked;

static bool stop_at_multiple_of_5(void *context, int prompt, const int32_t *ids, int n)
{
    (void)context, (void)prompt;
    n_asked++;
    return ids[n - 1] % 5 == 0;
}

static void generate_all(const struct model *m, int batch_size, int min_new, bool stop,
                         struct generate_result *results)
{
    static int32_t ids[N_PROMPTS][N_IDS];
    static const int32_t eos[] = { 2, 77, 300, 301, 302, 303, 304 };
    struct generate_prompt prompts[N_PROMPTS];
    struct generate_options o = { .batch_size = batch_size,
                                  .max_new_tokens = 10,
                                  .min_new_tokens = min_new,
                                  .eos_ids = eos,
                                  .n_eos = 7,
                                  .stop = stop ? stop_at_multiple_of_5 : NULL };
    struct err e = ERR_INIT;

    for (int i = 0; i < N_PROMPTS; i++) {
        int n = 1 + (i * 37) % 40;
        make_ids(i, ids[i], n);
        prompts[i] = (struct generate_prompt){ ids[i], n };
    }
    CHECK_OK(generate(m, prompts, N_PROMPTS, &o, results, &e), e);
    for (int i = 0; i < N_PROMPTS; i++) {
        int n = results[i].n_ids;

        CHECK(n <= 10 && n >= (stop ? 0 : min_new), "prompt %d gave %d ids", i, n);
        for (int k = 0; k < n; k++) {
            CHECK(!stop || k == n - 1 || results[i].ids[k] % 5, "generation stops when told");
            for (int j = 0; j < 7; j++)
                CHECK(results[i].ids[k] != eos[j], "an eos is not part of the result");
        }
    }
}

static void batches_generate_the_same(void **state)
{
    static const int sizes[] = { 1, 7, 64, 0 };

    (void)state;
    for (size_t s = 0; s < N_SPECS; s++) {
        struct model m;

        make_model(s, &m);
        for (int kind = 0; kind < (s == 0 || s == INT8 ? 3 : 1); kind++) {
            struct generate_result want[N_PROMPTS], got[N_PROMPTS];
            int n_short = 0;

            omp_set_num_threads(1);
            generate_all(&m, 1, kind == 1 ? 5 : 0, kind == 2, want);
            for (int i = 0; i < N_PROMPTS; i++)
                n_short += want[i].n_ids < 10;
            CHECK(kind != 2 || n_short > 3, "some prompts stopped early (%d)", n_short);
            for (size_t k = 1; k < 4; k++) {
                omp_set_num_threads(k == 1 ? 2 : 1);
                generate_all(&m, sizes[k], kind == 1 ? 5 : 0, kind == 2, got);
                for (int i = 0; i < N_PROMPTS; i++)
                    CHECK(got[i].n_ids == want[i].n_ids &&
                              !memcmp(got[i].ids, want[i].ids, (size_t)want[i].n_ids * 4),
                          "%s: prompt %d gives the same in batches of %d", specs[s].method, i,
                          sizes[k]);
                generate_release(got, N_PROMPTS);
            }
            generate_release(want, N_PROMPTS);
        }
        model_release(&m);
    }
    CHECK(n_asked > 0, "the callback was asked");
}

static void a_nan_ends_generation(void **state)
{
    int32_t ids[] = { 5, 6, 7 };
    struct generate_prompt prompt = { ids, 3 }, empty = { ids, 0 };
    struct generate_options o = { .max_new_tokens = 4 };
    struct generate_result result;
    struct err e = ERR_INIT;
    struct model m;

    (void)state;
    make_model(0, &m);
    CHECK(generate(&m, &empty, 1, &o, &result, &e) < 0 && strstr(e.text, "prompt 0"),
          "a prompt without ids is refused by number: %s", e.text);
    err_clear(&e);
    CHECK(m.owns_norms, "this test may spoil a norm");
    ((float *)m.norm.data)[3] = NAN;
    CHECK_OK(generate(&m, &prompt, 1, &o, &result, &e), e);
    CHECK(result.broken && result.n_ids == 0, "a NaN logit is told, not turned into an id");
    generate_release(&result, 1);
    model_release(&m);
}

/* ---- rotary tables ---- */

/* ROPE_DYNAMIC beyond the trained length is plain rope with theta scaled by the length (2.4). */
static void dynamic_rope(void **state)
{
    struct model m;

    (void)state;
    make_model(0, &m);
    const int64_t vocab = m.config.vocab_size;
    const size_t all = (size_t)(N_IDS * vocab) * sizeof(float);
    float *got = malloc(all);
    int32_t ids[N_IDS];
    struct runner r;

    make_ids(0, ids, N_IDS);
    m.config.rope =
        (struct rope_config){ .type = ROPE_DEFAULT, .theta = 10000, .partial_rotary_factor = 1 };
    float *plain = whole_logits(&m, 0, N_IDS);
    m.config.max_position = 48;
    m.config.rope.type = ROPE_DYNAMIC;
    m.config.rope.factor = 2;
    float *dynamic = whole_logits(&m, 0, N_IDS), *at_limit = whole_logits(&m, 0, 48);
    CHECK(!memcmp(at_limit, plain, (size_t)(48 * vocab) * sizeof(float)),
          "up to the trained length nothing is scaled");
    CHECK(memcmp(dynamic, plain, all), "beyond it everything is");

    struct model scaled = m;
    scaled.config.rope.type = ROPE_DEFAULT;
    scaled.config.rope.theta = 10000 * pow(2.0 * N_IDS / 48 - 1, 16.0 / 14);
    float *want = whole_logits(&scaled, 0, N_IDS);
    CHECK(!memcmp(dynamic, want, all), "by theta as the length says");

    /* In pieces, told the whole length, beside a short document. */
    open_runner(&r, &m, 2, N_IDS + 20);
    run_piece(&r, 0, ids, 40, N_IDS, got);
    int32_t slots[] = { 1, 0 }, n[] = { 20, 56 }, lengths[] = { 20, N_IDS }, both[76];
    float *mixed = malloc((size_t)(76 * vocab) * sizeof *mixed);
    make_ids(3, both, 20);
    memcpy(both + 20, ids + 40, 56 * sizeof *ids);
    struct batch batch = {
        .n_seqs = 2, .slot = slots, .n_tokens = n, .ids = both, .length = lengths
    };
    struct forward_out out = { .logits = mixed };
    struct err e = ERR_INIT;
    CHECK_OK(forward_run(r.f, &r.cache, &batch, WANT_ALL_LOGITS, NULL, 0, &out, &e), e);
    memcpy(got + 40 * vocab, mixed + 20 * vocab, (size_t)(56 * vocab) * sizeof *got);
    CHECK(!memcmp(got, dynamic, all), "pieces of a long prompt turn by its whole length");
    float *other = whole_logits(&m, 3, 20);
    CHECK(!memcmp(mixed, other, (size_t)(20 * vocab) * sizeof *other),
          "the short document beside it turns as ever");
    close_runner(&r);
    free(mixed);
    free(other);
    free(got);
    free(plain);
    free(dynamic);
    free(at_limit);
    free(want);
    model_release(&m);
}

/* A table begun for 8 positions grows while sequences do. */
static void growing_table(void **state)
{
    struct model m;

    (void)state;
    make_model(0, &m);
    float *want = whole_logits(&m, 0, N_IDS);
    m.config.max_position = 8;
    float *got = whole_logits(&m, 0, N_IDS);
    CHECK(!memcmp(got, want, (size_t)(N_IDS * m.config.vocab_size) * sizeof *got),
          "the same bits as with a long table");
    free(want);
    free(got);
    model_release(&m);
}

/* ---- what is refused ---- */

static void refusals(void **state)
{
    struct model m;
    struct runner r;
    float logits[512];
    struct forward_out out = { .logits = logits };

    (void)state;
    make_model(0, &m);
    open_runner(&r, &m, 2, 10);
    static const struct {
        int32_t slot, n, id;
        const char *says;
    } bad[] = {
        { 0, 1, 512, "token id 512" },     { 0, 1, -1, "token id -1" },
        { 2, 1, 5, "slot 2 of 2" },        { -1, 1, 5, "slot -1" },
        { 0, 11, 5, "batch of 11 token" }, { 0, 0, 5, "0 tokens" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int32_t ids[16];
        struct batch batch = {
            .n_seqs = 1, .slot = &bad[i].slot, .n_tokens = &bad[i].n, .ids = ids
        };
        struct err e = ERR_INIT;

        for (int k = 0; k < 16; k++)
            ids[k] = bad[i].id;
        CHECK(forward_run(r.f, &r.cache, &batch, WANT_LAST_LOGITS, NULL, 0, &out, &e) < 0 &&
                  strstr(e.text, bad[i].says),
              "\"%s\" is refused: %s", bad[i].says, e.text);
        CHECK(r.cache.length[0] == 0, "and nothing was appended");
    }
    struct err e = ERR_INIT;
    int32_t slot = 1, one = 1, id = 5;
    struct batch batch = { .n_seqs = 1, .slot = &slot, .n_tokens = &one, .ids = &id };
    r.cache.length[1] = CAPACITY - 1;
    CHECK_OK(forward_run(r.f, &r.cache, &batch, WANT_LAST_LOGITS, NULL, 0, &out, &e), e);
    CHECK(forward_run(r.f, &r.cache, &batch, WANT_LAST_LOGITS, NULL, 0, &out, &e) < 0 &&
              strstr(e.text, "room for 128"),
          "a full slot is told: %s", e.text);
    close_runner(&r);

    /* Too large for any host: an answer, not a crash. */
    struct kv_cache huge;
    err_clear(&e);
    CHECK(kv_cache_open(&huge, &m, 1000000, 1000000000, &e) < 0 && e.code == ERR_MEMORY,
          "a cache that does not fit is ERR_MEMORY: %s", e.text);
    model_release(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_are_the_whole),
        cmocka_unit_test(among_others),
        cmocka_unit_test(batches_generate_the_same),
        cmocka_unit_test(a_nan_ends_generation),
        cmocka_unit_test(dynamic_rope),
        cmocka_unit_test(growing_table),
        cmocka_unit_test(refusals),
    };

    return cmocka_run_group_tests(tests, open_base, close_base);
}
