/* Of the same calibration ids every run packs the same bytes: in another process, on another
 * device, after other methods, with less memory for a batch, on one thread.
 *
 * LLQ_TEST_BACKEND=cuda: on GPUs. */
#include "check.h"
#include "members.h"
#include "packed.h"

#include "base/rng.h"
#include "quant/quant.h"

#include <omp.h>

#define N_SEQS   17
#define LENGTH   48
#define N_LAYERS 2 /* of the demo's model: they show what there is to see */

static const struct quant_spec specs[] = {
    { .method = "gptq",
      .bits = 4,
      .group_size = 64,
      .quant_type = "int",
      .compute = DTYPE_F16,
      .scale_dtype = DTYPE_F16,
      .sym = true,
      .gptq = { .desc_act = true, .true_sequential = true, .damp = 0.1, .damp_step = 0.01 },
      .n_skip = 1,
      .skip = { "lm_head" } },
    { .method = "gptq",
      .bits = 3,
      .group_size = 32,
      .quant_type = "int",
      .double_quant = true,
      .compute = DTYPE_F16,
      .scale_dtype = DTYPE_F16,
      .gptq = { .gar = true, .damp = 0.05, .damp_step = 0.01, .mse = 2.4 },
      .n_skip = 1,
      .skip = { "lm_head" } },
    { .method = "awq",
      .bits = 4,
      .group_size = 64,
      .quant_type = "int",
      .compute = DTYPE_F16,
      .scale_dtype = DTYPE_F16,
      .awq = { .zero_point = true, .duo_scaling = true, .clip = true },
      .n_skip = 1,
      .skip = { "lm_head" } },
    { .method = "hqq",
      .bits = 4,
      .group_size = 64,
      .quant_type = "int",
      .compute = DTYPE_F16,
      .scale_dtype = DTYPE_F16,
      .n_skip = 1,
      .skip = { "lm_head" } },
    { .method = "hqq",
      .bits = 2,
      .group_size = 32,
      .quant_type = "int",
      .double_quant = true,
      .compute = DTYPE_F16,
      .scale_dtype = DTYPE_F16,
      .n_skip = 1,
      .skip = { "lm_head" } },
};
#define N_SPECS ((int)(sizeof specs / sizeof *specs))

struct asked {
    const char *how;
    int device;
    bool backwards; /* the methods */
    bool in_need;   /* of memory: a sequence is a batch */
    bool one_thread;
    uint64_t stream; /* of the ids */
};

static const struct backend_ops *rich;

static int facts_of_the_poor(struct backend *b, struct device_facts *out, struct err *e)
{
    int rc = rich->facts(b, out, e);

    out->free_bytes = 4096;
    return rc;
}

static int make_ids(uint64_t stream, int64_t vocab_size, struct quant_calibration *out,
                    struct err *e)
{
    int32_t ids[N_SEQS * LENGTH], lengths[N_SEQS];
    int n = 0;

    for (int i = 0; i < N_SEQS; i++) {
        lengths[i] = LENGTH - i;
        for (int k = 0; k < lengths[i]; k++, n++)
            ids[n] = (int32_t)(rng_u64(stream, RNG_TEST, (uint64_t)n) % (uint64_t)vocab_size);
    }
    return quant_calibration_make(out, ids, (size_t)n, lengths, N_SEQS, e);
}

static int pack(const struct model *base, const struct quant_spec *spec, struct bytes *to,
                struct err *e)
{
    struct quant_report report = { 0 };
    struct model m = MODEL_INIT;
    int rc = quantize_model(base, spec, DTYPE_F16, &m, &report, e);

    if (rc == 0 && report.on_host != (base->backend->ops->gptq_columns == NULL))
        rc = err_set(e, ERR_INPUT, "%s: packed by the host", spec->method);
    if (rc == 0)
        rc = packed_bytes(&m, to, e);
    quant_report_release(&report);
    model_release(&m);
    return rc;
}

/* The bytes of all methods, in the order of the table. */
static int pack_all(struct member *m, const void *what, struct err *e)
{
    const struct asked *a = what;
    static struct backend_ops poor;
    struct backend b = BACKEND_INIT;
    struct bytes packed[N_SPECS];
    struct quant_calibration ids;
    struct model base = MODEL_INIT;

    if (a->one_thread)
        omp_set_num_threads(1);
    if (backend_open(&b, members_backend(), a->device, NULL, e) < 0 ||
        weights_load(&b, "sweeps/demo", &base, e) < 0 ||
        make_ids(a->stream, base.config.vocab_size, &ids, e) < 0)
        return -1;
    rich = b.ops;
    poor = *b.ops;
    poor.facts = facts_of_the_poor;
    b.ops = a->in_need ? &poor : rich;
    const int64_t n_layers = base.config.n_layers;
    int rc = 0;
    base.config.n_layers = N_LAYERS;
    for (int i = 0; rc == 0 && i < N_SPECS; i++) {
        const int k = a->backwards ? N_SPECS - 1 - i : i;
        struct quant_spec spec = specs[k];

        spec.calibration = &ids;
        packed[k] = (struct bytes)BYTES_INIT;
        rc = pack(&base, &spec, &packed[k], e);
    }
    for (int k = 0; rc == 0 && k < N_SPECS; k++) {
        member_give(m, &packed[k].n, sizeof packed[k].n);
        member_give(m, packed[k].data, packed[k].n);
        bytes_release(&packed[k]);
    }
    base.config.n_layers = n_layers;
    quant_calibration_release(&ids);
    model_release(&base);
    backend_close(&b);
    return rc;
}

/* Where the bytes of each method begin; returns how many there are in all. */
static size_t begins(size_t first[N_SPECS])
{
    size_t at = 0, n;

    for (int k = 0; k < N_SPECS; k++) {
        memcpy(&n, shared->result[0] + at, sizeof n);
        first[k] = at + sizeof n;
        at = first[k] + n;
    }
    return at;
}

static void the_same_bytes(void **state)
{
    static char want[RESULT_BYTES];
    const struct asked plain = { .how = "once", .stream = 5 };
    const bool on_cpu = !strcmp(members_backend(), "cpu");
    const struct asked others[] = {
        { .how = "again", .device = on_cpu ? 0 : members_devices() - 1, .stream = 5 },
        { .how = "after other methods", .backwards = true, .stream = 5 },
        { .how = "a sequence at a time", .in_need = true, .stream = 5 },
        { .how = "on one thread", .one_thread = true, .stream = 5 },
    };
    size_t first[N_SPECS], there[N_SPECS];

    (void)state;
    CHECK(members_run(1, pack_all, &plain), "%s", plain.how);
    const size_t n_bytes = begins(first);
    CHECK(n_bytes == shared->n_result[0] && n_bytes > 500000, "%zu bytes", n_bytes);
    memcpy(want, shared->result[0], n_bytes);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        CHECK(members_run(1, pack_all, &others[i]), "%s", others[i].how);
        CHECK(begins(there) == n_bytes && !memcmp(first, there, sizeof first), "%s: as many bytes",
              others[i].how);
        for (int k = 0; k < N_SPECS; k++) {
            const size_t end = k + 1 < N_SPECS ? first[k + 1] : n_bytes;

            CHECK(!memcmp(shared->result[0] + first[k], want + first[k], end - first[k]),
                  "%s, %d bits, packed %s: the same bytes", specs[k].method, specs[k].bits,
                  others[i].how);
        }
    }
    printf("%zu bytes of %d methods, the same %zu times\n", n_bytes, N_SPECS,
           1 + sizeof others / sizeof *others);
}

/* That the above can fail. */
static void other_ids_pack_others(void **state)
{
    static char want[RESULT_BYTES];
    const struct asked plain = { .how = "once", .stream = 5 }, other = { .how = "", .stream = 6 };
    size_t first[N_SPECS], there[N_SPECS];

    (void)state;
    CHECK(members_run(1, pack_all, &plain), "%s", plain.how);
    const size_t n_bytes = begins(first);
    memcpy(want, shared->result[0], n_bytes);
    CHECK(members_run(1, pack_all, &other) && begins(there) == n_bytes, "other ids");
    for (int k = 0; k < N_SPECS; k++) {
        const size_t end = k + 1 < N_SPECS ? first[k + 1] : n_bytes;
        const bool same = !memcmp(shared->result[0] + first[k], want + first[k], end - first[k]);

        CHECK(same == !strcmp(specs[k].method, "hqq"), "%s, %d bits, of other ids: %s bytes",
              specs[k].method, specs[k].bits, same ? "the same" : "other");
    }
}

static int share(void **state)
{
    (void)state;
    return members_share() ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_bytes),
        cmocka_unit_test(other_ids_pack_others),
    };
    return cmocka_run_group_tests(tests, share, NULL);
}
