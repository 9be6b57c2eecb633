/* bench_calibrate.c - GPTQ and AWQ on one device, then on several that share the model and the
 * calibration set: seconds of each, and whether they pack the same bytes.
 *
 *   bench_calibrate CONFIG.json [cpu|cuda [MEMBERS [LAYERS [SAMPLES]]]]
 *
 * Random weights, random ids: 2048 tokens a sample for GPTQ (4 bits in groups of 128, sym,
 * desc_act, true_sequential, damp 0.1), 512 for AWQ (4 bits in groups of 128, search and clipping).
 * Seconds of a group are those of its slowest member, weights brought together and cut included. */
#include "base/clock.h"
#include "members.h"
#include "quant/quant.h"
#include "random_model.h"

#include <math.h>

#define VOCAB 16384

static const struct way {
    struct quant_spec spec;
    enum dtype source;
    int length;
} ways[] = {
    { { .method = "gptq",
        .bits = 4,
        .group_size = 128,
        .quant_type = "int",
        .compute = DTYPE_BF16,
        .scale_dtype = DTYPE_F16,
        .sym = true,
        .gptq = { .desc_act = true, .true_sequential = true, .damp = 0.1, .damp_step = 0.01 },
        .n_skip = 1,
        .skip = { "lm_head" } },
      DTYPE_BF16,
      2048 },
    { { .method = "awq",
        .bits = 4,
        .group_size = 128,
        .quant_type = "int",
        .compute = DTYPE_F16,
        .scale_dtype = DTYPE_F16,
        .awq = { .zero_point = true, .duo_scaling = true, .clip = true },
        .n_skip = 1,
        .skip = { "lm_head" } },
      DTYPE_F16,
      512 },
};
#define N_WAYS ((int)(sizeof ways / sizeof *ways))

struct asked {
    struct config config;
    int n_parts, n_samples;
};

struct result {
    double seconds[N_WAYS], solver[N_WAYS], peak_gb[N_WAYS];
    uint64_t part[N_WAYS][MEMBERS_MOST]; /* hashes of what was packed, by part */
    char device[128];
};

static uint64_t hash_of(uint64_t hash, const unsigned char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ bytes[i]) * 0x100000001B3u;
    return hash;
}

/* The bytes of one memory, in equal pieces, into the pieces' hashes. */
static int hash_pieces(struct backend *b, const void *at, size_t n_bytes, int n, uint64_t *hash,
                       struct err *e)
{
    unsigned char *bytes = mem_array(n_bytes + 1, 1);
    int rc = n_bytes ? b->ops->download(b, bytes, at, n_bytes, e) : 0;

    for (int i = 0; i < n; i++)
        hash[i] = hash_of(hash[i], bytes + (size_t)i * (n_bytes / (size_t)n), n_bytes / (size_t)n);
    free(bytes);
    return rc;
}

static int hash_model(const struct model *m, int n, uint64_t *hash, struct err *e)
{
    for (int64_t i = 0; i < m->config.n_layers * N_LINEARS; i++) {
        const struct weight *w = &m->layers[i / N_LINEARS].linear[i % N_LINEARS];

        if (hash_pieces(m->backend, w->codes, weight_codes_bytes(w), n, hash, e) < 0 ||
            hash_pieces(m->backend, w->scales, weight_scales_bytes(w), n, hash, e) < 0 ||
            hash_pieces(m->backend, w->zeros, weight_zeros_bytes(w), n, hash, e) < 0)
            return -1;
    }
    return 0;
}

static int time_way(const struct model *base, const struct asked *a, int k, struct result *out,
                    struct err *e)
{
    struct backend *b = base->backend;
    struct quant_spec spec = ways[k].spec;
    struct quant_calibration ids;
    struct quant_report report = { 0 };
    struct model packed = MODEL_INIT;

    if (make_random_calibration(a->n_samples, ways[k].length, VOCAB, &ids, e) < 0)
        return -1;
    spec.calibration = &ids;
    mem_account_reset_peak(b);
    backend_first_says(b, true); /* all begin */
    const double start = clock_seconds();
    int rc = quantize_model(base, &spec, ways[k].source, &packed, &report, e);
    if (rc == 0)
        rc = b->ops->sync(b, e);
    out->seconds[k] = clock_seconds() - start;
    out->peak_gb[k] = 1e-9 * (double)b->mem.job_peak;
    for (int i = 0; i < report.n_modules; i++)
        out->solver[k] += report.modules[i].solved.seconds;
    if (rc == 0)
        rc = hash_model(&packed, base->split.n > 1 ? 1 : a->n_parts, out->part[k], e);
    model_release(&packed);
    quant_report_release(&report);
    quant_calibration_release(&ids);
    return rc;
}

static int measure(struct member *m, const void *asked, struct err *e)
{
    const struct asked *a = asked;
    static struct backend_ops ops;
    struct result result = { 0 };
    struct device_facts facts;
    struct model base;

    /* In the order that is cut: that of the device mixes rows. */
    ops = *m->backend.ops;
    ops.arrange = NULL;
    m->backend.ops = &ops;
    if (ops.facts(&m->backend, &facts, e) < 0)
        return -1;
    memcpy(result.device, facts.name, sizeof result.device);
    int rc = make_random_part(&m->backend, &a->config, (struct split){ m->index, m->n }, &base, e);
    for (int k = 0; rc == 0 && k < N_WAYS; k++)
        rc = time_way(&base, a, k, &result, e);
    member_give(m, &result, sizeof result);
    model_release(&base);
    return rc;
}

static struct result result_of(int member)
{
    struct result r;

    memcpy(&r, shared->result[member], sizeof r);
    return r;
}

/* False where a member has other bytes than one device. */
static bool print(const struct result *one, int n)
{
    bool same = true;

    for (int k = 0; k < N_WAYS; k++) {
        double seconds = 0, solver = 0, peak = 0;
        bool equal = true;

        for (int i = 0; i < n; i++) {
            const struct result r = result_of(i);

            seconds = fmax(seconds, r.seconds[k]);
            solver = fmax(solver, r.solver[k]);
            peak = fmax(peak, r.peak_gb[k]);
            equal = equal && r.part[k][0] == one->part[k][i];
        }
        printf("%s: one %.2f s (solver %.2f s, %.2f GB beside the base), %d together %.2f s "
               "(%.2f s, %.2f GB): %.2fx; %s\n",
               ways[k].spec.method, one->seconds[k], one->solver[k], one->peak_gb[k], n, seconds,
               solver, peak, one->seconds[k] / seconds, equal ? "the same bytes" : "OTHER BYTES");
        same = same && equal;
    }
    return same;
}

int main(int argc, char **argv)
{
    struct asked a = { .n_parts = argc > 3 ? atoi(argv[3]) : 2,
                       .n_samples = argc > 5 ? atoi(argv[5]) : 128 };
    struct err e = ERR_INIT;
    struct config *c = &a.config;

    if (argc < 2 || a.n_parts < 2 || a.n_parts > MEMBERS_MOST || a.n_samples < 1) {
        fprintf(stderr,
                "usage: bench_calibrate CONFIG.json [cpu|cuda [MEMBERS [LAYERS [SAMPLES]]]]\n");
        return 2;
    }
    setenv("LLQ_TEST_BACKEND", argc > 2 ? argv[2] : "cpu", 1);
    if (config_read_file(argv[1], c, &e) < 0 || !members_share()) {
        fprintf(stderr, "bench_calibrate: %s\n", e.text);
        return 1;
    }
    c->vocab_size = VOCAB;
    c->tied = true;
    c->n_layers = argc > 4 && atoi(argv[4]) > 0 ? atoi(argv[4]) : c->n_layers;
    if (members_devices() < a.n_parts) {
        printf("SKIP %d devices here\n", members_devices());
        return 0;
    }
    if (!members_run(1, measure, &a))
        return 1;
    const struct result one = result_of(0);
    printf("%s; %lld layers, %d samples\n", one.device, (long long)c->n_layers, a.n_samples);
    return members_run(a.n_parts, measure, &a) && print(&one, a.n_parts) ? 0 : 1;
}
