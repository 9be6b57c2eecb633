/* test_generate.c - generation beside the same ids made one forward pass at a time: whatever the
 * batch, the order, the number of steps at a time, and whether beginnings are shared. */
#include "check.h"

#include "model/generate.h"
#include "model/model.h"
#include "quant/quant.h"

#include <string.h>

#define N_STORIES 3
#define N_TURNS   5
#define GOES_ON   1 /* this turn of each story is what the later ones begin with, all of it */
#define N_PROMPTS (N_STORIES * N_TURNS + 2)
#define IDS_MAX   200
#define N_NEW     12

static struct backend backend;
static struct model base;
static const int32_t eos[] = { 2, 77, 300, 301, 302, 303, 304 };
#define N_EOS ((int)(sizeof eos / sizeof *eos))

static const struct quant_spec specs[] = {
    { .method = "none", .bits = 32, .compute = DTYPE_F32 },
    { .method = "bnb_4bit",
      .bits = 4,
      .group_size = 64,
      .quant_type = "nf4",
      .double_quant = true,
      .compute = DTYPE_BF16,
      .n_skip = 1,
      .skip = { "lm_head" } },
    { .method = "bnb_8bit",
      .bits = 8,
      .compute = DTYPE_F16,
      .outlier_threshold = 1.5,
      .n_skip = 1,
      .skip = { "lm_head" } },
};
#define N_SPECS ((int)(sizeof specs / sizeof *specs))
#define INT8    2 /* looks at all rows of a call: nothing is shared */

static int open_base(void **state)
{
    struct err e = ERR_INIT;
    char path[4096];

    (void)state;
    snprintf(path, sizeof path, "%s/llama_gqa_tied_rope3", check_golden());
    if (backend_open(&backend, check_backend(), 0, NULL, &e) < 0 ||
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
    if (backend.ops->trim)
        backend.ops->trim(&backend);
    for (int tag = 0; tag < MEM_N_TAGS; tag++)
        if (backend.mem.now[tag]) {
            print_error("%zu bytes of tag %d were never freed\n", backend.mem.now[tag], tag);
            return -1;
        }
    backend_close(&backend);
    return 0;
}

static void make_model(int spec, struct model *out)
{
    struct quant_report report = { 0 };
    struct err e = ERR_INIT;
    enum dtype source = specs[spec].compute == DTYPE_F32 ? DTYPE_F32 : DTYPE_BF16;

    CHECK_OK(quantize_model(&base, &specs[spec], source, out, &report, &e), e);
    quant_report_release(&report);
}

/* ---- prompts: turns of a story, each with all that came before it, then two of their own ---- */

static int32_t ids_of[N_PROMPTS][IDS_MAX];
static struct generate_prompt prompts[N_PROMPTS];

static int32_t any_id(int a, int b)
{
    return (int32_t)((a * a * 31 + 17 * b * b + 7 * a * b + 5 * a + b) % 512);
}

static void make_prompts(void)
{
    for (int i = 0; i < N_PROMPTS; i++) {
        int story = i / N_TURNS, turn = i % N_TURNS, n = 40 + 9 * story + 11 * turn;

        if (story == N_STORIES) /* of one id; and one that is the beginning of another */
            n = turn ? 30 : 1;
        for (int k = 0; k < n; k++)
            ids_of[i][k] = any_id(story % N_STORIES + 3, k);
        if (story < N_STORIES && turn != GOES_ON)
            ids_of[i][n - 1] = any_id(i, 400); /* turns end in their own way, but for one */
        prompts[i] = (struct generate_prompt){ ids_of[i], n };
    }
}

/* ---- one forward pass at a time ---- */

struct expected {
    int32_t ids[N_NEW];
    int n;
};

static bool stop_at_multiple_of_5(void *context, int prompt, const int32_t *ids, int n)
{
    (void)context, (void)prompt;
    return ids[n - 1] % 5 == 0;
}

static bool is_eos(int32_t id)
{
    for (int i = 0; i < N_EOS; i++)
        if (eos[i] == id)
            return true;
    return false;
}

static void expect(const struct model *m, const struct generate_prompt *p, int min_new, bool stop,
                   struct expected *out)
{
    struct kv_cache cache;
    struct forward *f;
    struct err e = ERR_INIT;
    int32_t slot = 0, n_tokens = p->n_ids, next;
    struct batch batch = {
        .phase = PHASE_PROMPT, .n_seqs = 1, .slot = &slot, .n_tokens = &n_tokens, .ids = p->ids
    };
    struct forward_out last = { .next_ids = &next };

    CHECK_OK(kv_cache_open(&cache, m, 1, IDS_MAX + N_NEW, &e), e);
    CHECK_OK(forward_open(&f, m, IDS_MAX, 1, &e), e);
    for (out->n = 0; out->n < N_NEW;) {
        CHECK_OK(forward_run(f, &cache, &batch, WANT_LAST_ARGMAX, eos, out->n < min_new ? N_EOS : 0,
                             &last, &e),
                 e);
        if (is_eos(next))
            break;
        out->ids[out->n++] = next;
        if (stop && next % 5 == 0)
            break;
        n_tokens = 1;
        batch.phase = PHASE_DECODE;
        batch.ids = &next;
    }
    forward_close(f);
    kv_cache_close(&cache);
}

/* ---- the comparison ---- */

struct way {
    int batch_size, n_steps, min_new;
    bool stop, alone, backwards;
};

/* *shared: ids that were not computed, in all. */
static void compare(const struct model *m, const struct expected *want, const struct way *w,
                    int *shared)
{
    struct generate_prompt list[N_PROMPTS];
    struct generate_result got[N_PROMPTS];
    struct generate_options o = { .batch_size = w->batch_size,
                                  .max_new_tokens = N_NEW,
                                  .min_new_tokens = w->min_new,
                                  .eos_ids = eos,
                                  .n_eos = N_EOS,
                                  .stop = w->stop ? stop_at_multiple_of_5 : NULL,
                                  .n_steps = w->n_steps,
                                  .share_nothing = w->alone };
    struct err e = ERR_INIT;

    *shared = 0;
    for (int i = 0; i < N_PROMPTS; i++)
        list[w->backwards ? N_PROMPTS - 1 - i : i] = prompts[i];
    CHECK_OK(generate(m, list, N_PROMPTS, &o, got, &e), e);
    for (int i = 0; i < N_PROMPTS; i++) {
        const struct generate_result *r = &got[w->backwards ? N_PROMPTS - 1 - i : i];

        CHECK(!r->broken && r->n_ids == want[i].n &&
                  !memcmp(r->ids, want[i].ids, (size_t)want[i].n * sizeof *r->ids),
              "prompt %d gives the same %d ids (batch %d, %d steps at a time%s%s)", i, want[i].n,
              w->batch_size, w->n_steps, w->alone ? ", nothing shared" : "",
              w->backwards ? ", backwards" : "");
        CHECK(r->n_shared >= 0 && r->n_shared <= prompts[i].n_ids,
              "of the %d ids of prompt %d %d were shared", prompts[i].n_ids, i, r->n_shared);
        *shared += r->n_shared;
    }
    generate_release(got, N_PROMPTS);
}

static void every_way_gives_the_same(void **state)
{
    static const int sizes[] = { 1, 2, 7, 64 }, steps[] = { 1, 3, 8, 0 };

    (void)state;
    for (int s = 0; s < N_SPECS; s++) {
        struct expected want[N_PROMPTS];
        struct model m;

        make_model(s, &m);
        for (int kind = 0; kind < (s == 0 ? 3 : 1); kind++) {
            const int min_new = kind == 1 ? 5 : 0;
            int n_short = 0, shared;

            for (int i = 0; i < N_PROMPTS; i++) {
                expect(&m, &prompts[i], min_new, kind == 2, &want[i]);
                n_short += want[i].n < N_NEW;
            }
            CHECK(kind != 2 || n_short > 3, "some end early (%d)", n_short);
            for (int k = 0; k < 4; k++)
                for (int alone = 0; alone < 2; alone++) {
                    struct way w = { .batch_size = sizes[k],
                                     .n_steps = steps[(k + alone) % 4],
                                     .min_new = min_new,
                                     .stop = kind == 2,
                                     .alone = alone,
                                     .backwards = k % 2 };
                    compare(&m, want, &w, &shared);
                    CHECK(alone || s == INT8 ? !shared : shared > 100,
                          "%d ids were shared in batches of %d", shared, sizes[k]);
                }
        }
        model_release(&m);
    }
}

/* Whatever the list's order: the last turn of a story is computed whole, of the others what they
 * end with, if it is not where the last goes on. */
static void turns_share_what_they_begin_with(void **state)
{
    static const int sizes[] = { 1, 2, 5, N_PROMPTS };
    struct generate_counts counts;
    struct generate_result got[N_PROMPTS];
    struct generate_options o = { .max_new_tokens = N_NEW, .n_steps = 1, .counts = &counts };
    struct err e = ERR_INIT;
    struct model m;

    (void)state;
    make_model(0, &m);
    for (int k = 0; k < 4; k++) {
        int64_t n_rows = 0;

        o.batch_size = sizes[k];
        CHECK_OK(generate(&m, prompts, N_PROMPTS, &o, got, &e), e);
        for (int i = 0; i < N_STORIES * N_TURNS; i++) {
            const int turn = i % N_TURNS, n = prompts[i].n_ids, shared = got[i].n_shared;

            CHECK(turn == N_TURNS - 1 ? shared < 16 : shared == n - (turn != GOES_ON),
                  "turn %d of story %d shares %d of %d ids in batches of %d", turn, i / N_TURNS,
                  shared, n, sizes[k]);
        }
        CHECK(got[N_PROMPTS - 1].n_shared == 30,
              "the beginning of a story costs nothing (%d of 30)", got[N_PROMPTS - 1].n_shared);
        for (int i = 0; i < N_PROMPTS; i++)
            n_rows += prompts[i].n_ids - got[i].n_shared;
        CHECK(counts.n_rows == n_rows, "%lld rows are computed, %lld were not shared",
              (long long)counts.n_rows, (long long)n_rows);
        CHECK(k > 0 || !counts.n_copied, "what is in the slot is not copied");
        generate_release(got, N_PROMPTS);
    }
    CHECK(counts.n_steps == N_NEW - 1 && counts.n_fed == N_PROMPTS * (N_NEW - 1),
          "%lld steps, each of all prompts", (long long)counts.n_steps);
    model_release(&m);
}

/* A slot for which no story is left helps with another's turns. */
static void no_slot_stays_empty(void **state)
{
    struct generate_counts counts;
    struct generate_result got[N_TURNS];
    struct generate_options o = {
        .batch_size = 3, .max_new_tokens = N_NEW, .n_steps = 1, .counts = &counts
    };
    struct err e = ERR_INIT;
    struct model m;

    (void)state;
    make_model(0, &m);
    CHECK_OK(generate(&m, prompts, N_TURNS, &o, got, &e), e);
    CHECK(counts.n_steps == 2 * (N_NEW - 1), "five turns by three slots: two rounds (%lld steps)",
          (long long)counts.n_steps);
    CHECK(counts.n_copied > 0, "of one story");
    generate_release(got, N_TURNS);
    model_release(&m);
}

/* Where frequencies depend on the length, keys of a long prompt are its own. */
static void dynamic_rope_shares_short_prompts_alone(void **state)
{
    struct expected want[N_PROMPTS];
    struct model m;

    (void)state;
    make_model(0, &m);
    m.config.rope = (struct rope_config){
        .type = ROPE_DYNAMIC, .theta = 10000, .factor = 2, .partial_rotary_factor = 1
    };
    m.config.max_position = 60;
    for (int i = 0; i < N_PROMPTS; i++)
        expect(&m, &prompts[i], 0, false, &want[i]);
    for (int batch = 1; batch <= 8; batch += 7) {
        struct generate_result got[N_PROMPTS];
        struct generate_options o = { .batch_size = batch,
                                      .max_new_tokens = N_NEW,
                                      .eos_ids = eos,
                                      .n_eos = N_EOS,
                                      .n_steps = 3 };
        struct err e = ERR_INIT;
        int n_short = 0;

        CHECK_OK(generate(&m, prompts, N_PROMPTS, &o, got, &e), e);
        for (int i = 0; i < N_PROMPTS; i++) {
            CHECK(got[i].n_ids == want[i].n &&
                      !memcmp(got[i].ids, want[i].ids, (size_t)want[i].n * 4),
                  "prompt %d of %d ids gives the same", i, prompts[i].n_ids);
            CHECK(prompts[i].n_ids <= 60 || !got[i].n_shared, "a prompt of %d ids shares nothing",
                  prompts[i].n_ids);
            n_short += got[i].n_shared > 0;
        }
        CHECK(n_short >= 2, "short ones do (%d)", n_short);
        generate_release(got, N_PROMPTS);
    }
    model_release(&m);
}

/* ---- a backend that decodes steps itself ---- */

static struct decode_args seen;
static int32_t seen_ids[2], seen_slots[2], seen_positions[2];
static int n_asked;

static int declines(struct backend *b, struct decode_args *a, struct err *e)
{
    (void)b, (void)e;
    n_asked++;
    a->done = false;
    return 0;
}

/* Id 100 s + i comes out of step i of sequence s. */
static int decodes(struct backend *b, struct decode_args *a, struct err *e)
{
    (void)b, (void)e;
    n_asked++;
    seen = *a;
    for (int s = 0; s < a->n_seqs; s++) {
        seen_ids[s] = a->ids[s];
        seen_slots[s] = a->slot[s];
        seen_positions[s] = a->position[s];
        for (int i = 0; i < a->n_steps; i++)
            a->out[i * a->n_seqs + s] = 100 * s + i;
    }
    a->done = true;
    return 0;
}

/* Steps go several at a time there, what is behind an end is thrown away. */
static void a_device_gives_the_same(void **state)
{
    const struct backend_ops *ops = backend.ops;
    struct backend_ops device = *ops;
    static const int sizes[] = { 1, 7, 0 };
    struct expected want[N_PROMPTS];
    struct model m;
    int shared;

    (void)state;
    device.decode = declines;
    make_model(0, &m);
    for (int kind = 0; kind < 3; kind++) {
        for (int i = 0; i < N_PROMPTS; i++)
            expect(&m, &prompts[i], kind == 1 ? 5 : 0, kind == 2, &want[i]);
        for (int k = 0; k < 3; k++) {
            struct way w = { .batch_size = sizes[k],
                             .min_new = kind == 1 ? 5 : 0,
                             .stop = kind == 2 };

            n_asked = 0;
            backend.ops = &device;
            compare(&m, want, &w, &shared);
            backend.ops = ops;
            CHECK(n_asked > 0, "decode() was asked");
        }
    }
    model_release(&m);
}

static void decode_is_told_everything(void **state)
{
    const struct backend_ops *ops = backend.ops;
    struct backend_ops device = *ops;
    const int32_t slots[] = { 2, 0 }, ids[] = { 5, -1 }, forbidden[] = { 7 };
    struct kv_cache cache;
    struct forward *f;
    struct err e = ERR_INIT;
    struct model m;
    int32_t out[8];

    (void)state;
    device.decode = decodes;
    make_model(0, &m);
    CHECK_OK(kv_cache_open(&cache, &m, 3, 20, &e), e);
    CHECK_OK(forward_open(&f, &m, 2, 2, &e), e);
    cache.length[0] = 9;
    cache.length[2] = 4;
    backend.ops = &device;
    n_asked = 0;
    int rc = forward_decode(f, &cache, 2, slots, ids, 4, forbidden, 1, out, &e);
    CHECK(forward_decode(f, &cache, 2, slots, ids, 8, NULL, 0, out, &e) < 0 && n_asked == 1,
          "slot 0 has no room for 8 more");
    backend.ops = ops;
    CHECK(rc == 0 && cache.length[0] == 13 && cache.length[2] == 8 && cache.length[1] == 0,
          "four tokens more in both slots");
    CHECK(seen.n_seqs == 2 && seen.n_steps == 4 && seen.capacity == 20, "sizes are told");
    CHECK(seen_slots[0] == 2 && seen_slots[1] == 0 && seen_positions[0] == 4 &&
              seen_positions[1] == 9,
          "and places");
    CHECK(seen_ids[0] == 5 && seen_ids[1] == 0, "an id that never came is fed as 0");
    CHECK(seen.n_forbidden == 1 && seen.forbidden &&
              (strcmp(ops->name, "cpu") || *seen.forbidden == 7),
          "what is forbidden");
    CHECK(seen.n_layers == m.config.n_layers && seen.embed == &m.embed && seen.head == &m.head &&
              seen.norm == &m.norm && seen.n_heads == m.config.n_heads &&
              seen.head_dim == m.config.head_dim && seen.compute == m.compute,
          "the model");
    for (int i = 0; i < 8; i++)
        CHECK(out[i] == 100 * (i % 2) + i / 2, "ids come back");
    forward_close(f);
    kv_cache_close(&cache);
    model_release(&m);
}

/* ---- steps ---- */

static void steps_are_checked(void **state)
{
    struct kv_cache cache;
    struct forward *f;
    struct err e = ERR_INIT;
    struct model m;
    int32_t slots[] = { 0, 1 }, ids[] = { 5, 6 }, out[16] = { 0 };

    (void)state;
    make_model(0, &m);
    CHECK_OK(kv_cache_open(&cache, &m, 2, 4, &e), e);
    CHECK_OK(forward_open(&f, &m, 2, 2, &e), e);
    CHECK_OK(forward_decode(f, &cache, 2, slots, ids, 0, NULL, 0, out, &e), e);
    CHECK(!cache.length[0] && !cache.length[1], "no step, no token");
    CHECK_OK(forward_decode(f, &cache, 2, slots, ids, 3, NULL, 0, out, &e), e);
    CHECK(cache.length[0] == 3 && cache.length[1] == 3, "a token a step and slot");
    CHECK(forward_decode(f, &cache, 2, slots, ids, 2, NULL, 0, out, &e) < 0 &&
              strstr(e.text, "room for 4"),
          "a slot that has no room is named: %s", e.text);
    err_clear(&e);
    ids[1] = (int32_t)m.config.vocab_size;
    CHECK(forward_decode(f, &cache, 2, slots, ids, 1, NULL, 0, out, &e) < 0 &&
              strstr(e.text, "vocabulary"),
          "an id outside the vocabulary is refused: %s", e.text);
    err_clear(&e);
    CHECK(forward_decode(f, &cache, 3, slots, ids, 1, NULL, 0, out, &e) < 0,
          "there is room for two sequences");
    CHECK(kv_cache_copy(&cache, 0, 0, 1, &e) < 0 && kv_cache_copy(&cache, 0, 2, 1, &e) < 0 &&
              kv_cache_copy(&cache, 0, 1, 5, &e) < 0,
          "only rows that are there are copied");
    forward_close(f);
    kv_cache_close(&cache);
    model_release(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_way_gives_the_same),
        cmocka_unit_test(turns_share_what_they_begin_with),
        cmocka_unit_test(no_slot_stays_empty),
        cmocka_unit_test(dynamic_rope_shares_short_prompts_alone),
        cmocka_unit_test(a_device_gives_the_same),
        cmocka_unit_test(decode_is_told_everything),
        cmocka_unit_test(steps_are_checked),
    };

    make_prompts();
    return cmocka_run_group_tests(tests, open_base, close_base);
}
