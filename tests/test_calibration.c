/* Which text calibrated methods see: drawn as the reference tools draw it, by the seed; what is
 * too short; how the ids travel; and GPTQ over a whole small model. */
#include "check.h"

#include "base/file.h"
#include "base/mt19937.h"
#include "calibration.h"
#include "model/checkpoint.h"
#include "model/model.h"
#include "sweep_help.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

#define DEMO "sweeps/demo"

static struct tokenizer *tokenizer;
static struct config config;
static char folder[] = "/tmp/llq-calibration-XXXXXX";

static void draws_as_cpython(void **state)
{
    static const int64_t wide[] = { 201979, 220500, 21225, 135746, 268055, 254766, 212302, 159023 };
    static const int64_t narrow[] = { 1577, 1722, 165, 1060, 2094, 1990, 1658, 1242 };
    struct mt19937 r;

    (void)state;
    mt19937_seed(&r, 0);
    for (int i = 0; i < 8; i++)
        CHECK(mt19937_below(&r, 356317) == wide[i], "random.seed(0), randint(0, 356316), draw %d",
              i);
    mt19937_seed(&r, 0);
    for (int i = 0; i < 8; i++)
        CHECK(mt19937_below(&r, 3000) == narrow[i], "randint(0, 2999), draw %d", i);
}

static char *path_of(const char *name)
{
    static char path[512];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* A sweep with one gptq experiment on this file. */
static void text_sweep(const char *name, const char *text, const char *keys, struct sweep *s)
{
    struct bytes toml = BYTES_INIT;
    struct err e = ERR_INIT;

    CHECK_OK(file_replace(path_of(name), text, strlen(text), &e), e);
    bytes_printf(&toml,
                 "[sweep]\nseeds = [3, 4]\n[model]\npath = 'x'\n[calibration]\npath = '%s'\n%s"
                 "[[experiment]]\nname = 'g'\nmethod = 'gptq'\n",
                 path_of(name), keys);
    CHECK_OK(expand_of(toml.data, NULL, s, &e), e);
    bytes_release(&toml);
}

static int ids_of(const struct sweep *s, int job, struct bytes *notes,
                  struct quant_calibration *out, struct err *e)
{
    struct bytes data = BYTES_INIT;
    struct calibration_plan plan;
    int rc = -1;

    bytes_add(&data, "", 0);
    CHECK(calibration_plan_of(s->jobs[job].experiment, s->calibration, config.max_position, &plan),
          "gptq looks at text");
    if (calibration_prepare(s, tokenizer, &config, &data, notes, e) == 0)
        rc = calibration_find(data.data, data.n, &plan, s->jobs[job].seed, out, e);
    bytes_release(&data);
    return rc;
}

static char *demo_text(void)
{
    struct bytes text = BYTES_INIT;
    struct err e = ERR_INIT;

    CHECK_OK(file_read(DEMO "/calibration.txt", &text, &e), e);
    return text.data;
}

static void windows_of_a_text(void **state)
{
    struct quant_calibration a, b, again;
    struct bytes notes = BYTES_INIT;
    struct sweep s;
    struct err e = ERR_INIT;
    char *text = demo_text();
    struct token_ids all = TOKEN_IDS_INIT;
    struct mt19937 r;

    (void)state;
    bytes_text(&notes, "");
    text_sweep("a.txt", text, "samples = 5\nsequence_length = 100\n", &s);
    CHECK_OK(ids_of(&s, 0, &notes, &a, &e), e);
    CHECK_OK(ids_of(&s, 1, &notes, &b, &e), e);
    CHECK_OK(ids_of(&s, 0, &notes, &again, &e), e);
    CHECK(a.n_seqs == 5 && a.first[5] == 500 && notes.n == 0, "five of 100");
    CHECK(!strcmp(a.sha256, again.sha256) && strcmp(a.sha256, b.sha256), "by the seed alone");
    CHECK_OK(tokenizer_encode(tokenizer, text, strlen(text), true, &all, &e), e);
    mt19937_seed(&r, 3);
    for (int i = 0; i < 5; i++) {
        int64_t start = mt19937_below(&r, (int64_t)all.n - 100);
        CHECK(!memcmp(a.ids + 100 * i, all.ids + start, 100 * sizeof *all.ids), "sample %d", i);
    }
    token_ids_release(&all);
    quant_calibration_release(&a);
    quant_calibration_release(&b);
    quant_calibration_release(&again);
    sweep_release(&s);
    bytes_release(&notes);
    free(text);
}

static void shorter_than_asked(void **state)
{
    struct quant_calibration a;
    struct bytes notes = BYTES_INIT;
    struct sweep s;
    struct err e = ERR_INIT;
    char *text = demo_text();

    (void)state;
    text[3000] = 0;
    bytes_text(&notes, "");
    text_sweep("short.txt", text, "samples = 50\nsequence_length = 100\n", &s);
    CHECK_OK(ids_of(&s, 0, &notes, &a, &e), e);
    CHECK(a.n_seqs > 2 && a.n_seqs < 50, "%lld samples", (long long)a.n_seqs);
    char want[64];
    snprintf(want, sizeof want, "gives %lld samples of 100 tokens under seed 3, not 50",
             (long long)a.n_seqs);
    CHECK(strstr(notes.data, want), "\"%s\" says \"%s\"", notes.data, want);
    quant_calibration_release(&a);
    sweep_release(&s);
    text[40] = 0;
    text_sweep("shorter.txt", text, "samples = 50\nsequence_length = 100\n", &s);
    CHECK(ids_of(&s, 0, &notes, &a, &e) == -1 && e.code == ERR_INPUT &&
              strstr(e.text, "too short for one sample of 100 tokens (50 were asked for)"),
          "%s", e.text);
    sweep_release(&s);
    bytes_release(&notes);
    free(text);
}

static void documents_of_jsonl(void **state)
{
    struct quant_calibration a;
    struct bytes lines = BYTES_INIT, notes = BYTES_INIT;
    struct sweep s;
    struct err e = ERR_INIT;

    (void)state;
    bytes_text(&notes, "");
    for (int i = 0; i < 12; i++) {
        bytes_text(&lines, "{\"text\": \"");
        for (int k = 0; k < (i % 3 ? 3 : 60); k++)
            bytes_printf(&lines, "Ralph saw %d green sheep. ", i);
        bytes_text(&lines, "\"}\n\n");
    }
    text_sweep("d.jsonl", lines.data, "samples = 4\nsequence_length = 64\n", &s);
    CHECK_OK(ids_of(&s, 0, &notes, &a, &e), e);
    CHECK(a.n_seqs == 4 && a.first[4] == 256 && notes.n == 0, "of the long documents");
    quant_calibration_release(&a);
    sweep_release(&s);

    text_sweep("d.jsonl", lines.data, "samples = 2\nsequence_length = 900\n", &s);
    CHECK(ids_of(&s, 0, &notes, &a, &e) == -1 && strstr(e.text, "too short for one sample"),
          "no document is that long: %s", e.text);
    sweep_release(&s);
    err_clear(&e);
    text_sweep("bad.jsonl", "{\"text\": \"a\"}\n{\"txt\": 3}\n", "", &s);
    CHECK(ids_of(&s, 0, &notes, &a, &e) == -1 && strstr(e.text, "line 2"), "%s", e.text);
    sweep_release(&s);
    bytes_release(&lines);
    bytes_release(&notes);
}

static void ids_cross_a_boundary(void **state)
{
    struct quant_calibration a;
    struct err e = ERR_INIT;
    const struct calibration_plan plan = { CALIBRATION_WINDOWS, 1, 8 };

    (void)state;
    CHECK(calibration_find("", 0, &plan, 0, &a, &e) == -1 && strstr(e.text, "no calibration ids"),
          "nothing is refused: %s", e.text);
    CHECK(calibration_find("CAL1\377\377\377\377zz", 10, &plan, 0, &a, &e) == -1, "nor garbage");
}

/* ---- a whole model ---- */

static struct backend backend = BACKEND_INIT;
static struct model base;

static struct quant_spec gptq_spec(const struct quant_calibration *ids)
{
    return (struct quant_spec){
        .method = "gptq",
        .bits = 3,
        .group_size = 32,
        .quant_type = "int",
        .sym = true,
        .compute = DTYPE_F16,
        .scale_dtype = DTYPE_F16,
        .calibration = ids,
        .gptq = { .damp = 0.01, .damp_step = 0.01, .true_sequential = true },
        .n_skip = 1,
        .skip = { "lm_head" },
    };
}

static void demo_ids(struct quant_calibration *out)
{
    struct sweep s;
    struct err e = ERR_INIT;
    char *text = demo_text();

    text_sweep("demo.txt", text, "samples = 12\nsequence_length = 96\n", &s);
    CHECK_OK(ids_of(&s, 0, NULL, out, &e), e);
    sweep_release(&s);
    free(text);
}

/* Mean of the modules' relative output errors, by the solver's own Hessian. */
static double mean_error(const struct quant_report *r)
{
    double sum = 0;

    for (int i = 0; i < r->n_modules; i++) {
        CHECK(r->modules[i].solved.there && r->modules[i].solved.damp >= 0.01 &&
                  r->modules[i].solved.output_error > 0 && r->modules[i].solved.loss > 0,
              "%s was solved", r->modules[i].name);
        sum += r->modules[i].solved.output_error / r->n_modules;
    }
    return sum;
}

static bool same_bytes(const struct model *a, const struct model *b)
{
    for (int64_t i = 0; i < a->config.n_layers; i++)
        for (int l = 0; l < N_LINEARS; l++) {
            const struct weight *x = &a->layers[i].linear[l], *y = &b->layers[i].linear[l];

            if (memcmp(x->codes, y->codes, weight_codes_bytes(x)) ||
                memcmp(x->scales, y->scales, weight_scales_bytes(x)))
                return false;
        }
    return true;
}

static void gptq_over_a_model(void **state)
{
    struct quant_calibration ids;
    struct quant_report reports[3];
    struct model m[3];
    struct err e = ERR_INIT;

    (void)state;
    demo_ids(&ids);
    struct quant_spec s = gptq_spec(&ids);
    CHECK_OK(quantize_model(&base, &s, DTYPE_F16, &m[0], &reports[0], &e), e);
    CHECK_OK(quantize_model(&base, &s, DTYPE_F16, &m[1], &reports[1], &e), e);
    CHECK(same_bytes(&m[0], &m[1]), "the same twice");
    s.gptq.true_sequential = false;
    CHECK_OK(quantize_model(&base, &s, DTYPE_F16, &m[2], &reports[2], &e), e);
    CHECK(!same_bytes(&m[0], &m[2]), "all at once is another");
    CHECK(mean_error(&reports[0]) < 0.3 && mean_error(&reports[2]) < 0.3, "errors of %g and %g",
          mean_error(&reports[0]), mean_error(&reports[2]));
    CHECK(m[0].layers[0].linear[0].form == WEIGHT_AFFINE && m[0].layers[0].linear[0].bits == 3,
          "packed");
    for (int i = 0; i < 3; i++) {
        struct quant_sizes sizes;

        CHECK_OK(quant_sizes_of(&base.config, &s, DTYPE_F16, &sizes, &e), e);
        CHECK(sizes.model_bytes == reports[i].sizes.model_bytes, "sizes are known before");
        model_release(&m[i]);
        quant_report_release(&reports[i]);
    }
    quant_calibration_release(&ids);
}

/* What a device lacks, the CPU backend does: the same bytes. */
static void gptq_where_the_device_has_no_solver(void **state)
{
    struct quant_calibration ids;
    struct backend_ops ops = *backend.ops;
    const struct backend_ops *all = backend.ops;
    struct quant_report want_report, report;
    struct model want, got;
    struct err e = ERR_INIT;

    (void)state;
    demo_ids(&ids);
    struct quant_spec s = gptq_spec(&ids);
    s.gptq.desc_act = true;
    CHECK_OK(quantize_model(&base, &s, DTYPE_F16, &want, &want_report, &e), e);
    CHECK(!want_report.on_host, "here the device is the host");
    for (int k = 0; k < 2; k++) {
        ops.gptq_columns = NULL;
        ops.gram = k ? NULL : all->gram;
        backend.ops = &ops;
        CHECK_OK(quantize_model(&base, &s, DTYPE_F16, &got, &report, &e), e);
        CHECK(report.on_host && same_bytes(&want, &got), "without %s", k ? "both" : "the solver");
        CHECK(got.layers[1].linear[2].g_idx &&
                  !memcmp(got.layers[1].linear[2].g_idx, want.layers[1].linear[2].g_idx,
                          (size_t)base.config.hidden_size * sizeof(int32_t)),
              "the order comes along");
        model_release(&got);
        quant_report_release(&report);
        backend.ops = all;
    }
    model_release(&want);
    quant_report_release(&want_report);
    quant_calibration_release(&ids);
}

/* Scales are taken out of what feeds the linears: with 8 bits nearly nothing is lost, and the sums
 * of errors know of the scales. */
static void awq_over_a_model(void **state)
{
    struct quant_calibration ids;
    struct quant_report reports[2];
    struct model m[2];
    struct err e = ERR_INIT;
    int n_scaled = 0;

    (void)state;
    demo_ids(&ids);
    struct quant_spec s = gptq_spec(&ids);
    strcpy(s.method, "awq");
    s.bits = 8;
    s.awq.zero_point = s.awq.duo_scaling = true;
    CHECK_OK(quantize_model(&base, &s, DTYPE_F16, &m[0], &reports[0], &e), e);
    CHECK_OK(quantize_model(&base, &s, DTYPE_F16, &m[1], &reports[1], &e), e);
    CHECK(same_bytes(&m[0], &m[1]), "the same twice");
    CHECK(m[0].owns_norms && m[0].layers[0].input_norm.data != base.layers[0].input_norm.data,
          "norms of its own");
    for (int i = 0; i < reports[0].n_modules; i++) {
        const struct quant_module *q = &reports[0].modules[i];

        CHECK(q->relative_error > 0 && q->relative_error < 0.01, "%s: %g", q->name,
              q->relative_error);
        n_scaled += !isnan(q->solved.ratio);
        for (int r = 0; r < QUANT_RATIOS && !isnan(q->solved.ratio); r++) {
            double least = q->solved.ratio_loss[(int)lrint(q->solved.ratio * QUANT_RATIOS)];
            CHECK(least > 0 && q->solved.ratio_loss[r] >= least,
                  "%s: ratio %d loses %g, the chosen one %g", q->name, r, q->solved.ratio_loss[r],
                  least);
        }
    }
    /* Shared heads: o is fed by v, whose rows are fewer than o's inputs. */
    CHECK(n_scaled == reports[0].n_modules / N_LINEARS * 6, "all but o are scaled, %d", n_scaled);
    for (int i = 0; i < 2; i++) {
        model_release(&m[i]);
        quant_report_release(&reports[i]);
    }
    quant_calibration_release(&ids);
}

static void awq_where_the_device_has_none(void **state)
{
    struct quant_calibration ids;
    struct backend_ops ops = *backend.ops;
    const struct backend_ops *all = backend.ops;
    struct quant_report report;
    struct model m;
    struct err e = ERR_INIT;

    (void)state;
    demo_ids(&ids);
    struct quant_spec s = gptq_spec(&ids);
    strcpy(s.method, "awq");
    s.bits = 4;
    ops.awq = NULL;
    backend.ops = &ops;
    CHECK(quantize_model(&base, &s, DTYPE_F16, &m, &report, &e) == -1 &&
              strstr(e.text, "the cpu backend has none of AWQ's searches"),
          "%s", e.text);
    backend.ops = all;
    quant_calibration_release(&ids);
}

/* x^T x as no rows give it: two inputs that are more than one. */
static const struct backend_ops *honest;

static int indefinite_gram(struct backend *b, const struct gram_args *a, struct err *e)
{
    float *h = a->h->data;

    if (honest->gram(b, a, e) < 0)
        return -1;
    h[1] = h[a->h->n_cols] = 1e6f * (h[0] + 1);
    return 0;
}

static void a_hessian_that_damping_cannot_help(void **state)
{
    struct quant_calibration ids;
    struct quant_report report;
    struct backend_ops ops = *backend.ops;
    struct model m;
    struct err e = ERR_INIT;

    (void)state;
    demo_ids(&ids);
    struct quant_spec s = gptq_spec(&ids);
    honest = backend.ops;
    ops.gram = indefinite_gram;
    backend.ops = &ops;
    CHECK(quantize_model(&base, &s, DTYPE_F16, &m, &report, &e) == -1 && e.code == ERR_INPUT &&
              strstr(e.text, "not positive definite") &&
              strstr(e.text, "in model.layers.0.self_attn.q_proj"),
          "%s", e.text);
    backend.ops = honest;
    quant_calibration_release(&ids);
}

/* One allocation after the other is refused: each time that is said, and nothing stays behind. */
static const struct backend_ops *generous;
static int n_granted;

static int stingy_alloc(struct backend *b, size_t n_bytes, void **out, struct err *e)
{
    *out = NULL;
    return n_granted-- == 0 ? err_set(e, ERR_MEMORY, "does not fit, says the test")
                            : generous->alloc(b, n_bytes, out, e);
}

/* How many allocations there are; sets *told when the Hessian was the one. */
static int refuse_each(const struct quant_spec *s, bool *told)
{
    struct backend_ops ops = *backend.ops;
    struct quant_report report;
    struct model m;
    int rc = -1, n = 0;

    generous = backend.ops;
    ops.alloc = stingy_alloc;
    for (; rc < 0; n++) {
        const struct mem_account before = backend.mem;
        struct err e = ERR_INIT;

        n_granted = n;
        backend.ops = &ops;
        rc = quantize_model(&base, s, DTYPE_F16, &m, &report, &e);
        backend.ops = generous;
        if (rc == 0)
            break;
        *told = *told || strstr(e.text, "the Hessian of 384 inputs");
        CHECK(e.code == ERR_MEMORY && strstr(e.text, "does not fit, says the test"),
              "%s, allocation %d: \"%s\"", s->method, n, e.text);
        CHECK(!memcmp(before.now, backend.mem.now, sizeof before.now),
              "%s, allocation %d: nothing stays behind", s->method, n);
    }
    model_release(&m);
    quant_report_release(&report);
    return n;
}

static void memory_that_runs_out(void **state)
{
    struct quant_calibration ids;
    const int64_t n_layers = base.config.n_layers;
    int32_t tokens[9 * 8], lengths[9];
    struct err e = ERR_INIT;
    bool told = false, of_awq = false;

    (void)state;
    for (int i = 0; i < 9 * 8; i++)
        tokens[i] = 7 * i;
    for (int i = 0; i < 9; i++)
        lengths[i] = 8;
    CHECK_OK(quant_calibration_make(&ids, tokens, 9 * 8, lengths, 9, &e), e);
    struct quant_spec s = gptq_spec(&ids);
    base.config.n_layers = 1;
    int n = refuse_each(&s, &told);
    CHECK(n > 30 && told, "gptq: %d allocations, the Hessian's among them", n);
    s.bits = 4;
    s.awq.zero_point = s.awq.duo_scaling = s.awq.clip = true;
    strcpy(s.method, "awq");
    n = refuse_each(&s, &of_awq);
    CHECK(n > 30 && !of_awq, "awq: %d allocations", n);
    base.config.n_layers = n_layers;
    quant_calibration_release(&ids);
}

static void what_names_its_module(void **state)
{
    struct quant_calibration ids;
    struct quant_report report;
    struct model m;
    struct err e = ERR_INIT;
    struct quant_spec s;

    (void)state;
    demo_ids(&ids);
    s = gptq_spec(NULL);
    CHECK(quantize_model(&base, &s, DTYPE_F16, &m, &report, &e) == -1 &&
              strstr(e.text, "gptq needs calibration text"),
          "no ids: %s", e.text);
    /* A weight so large that activations overflow fp16. */
    uint16_t *w = base.layers[2].linear[LINEAR_GATE].codes, before[128];
    s = gptq_spec(&ids);
    memcpy(before, w, sizeof before);
    for (int i = 0; i < 128; i++)
        w[i] = dtype_f32_to_bf16(60000.0f);
    err_clear(&e);
    CHECK(quantize_model(&base, &s, DTYPE_F16, &m, &report, &e) == -1 &&
              strstr(e.text, "not finite") && strstr(e.text, "model.layers."),
          "the module is named: %s", e.text);
    memcpy(w, before, sizeof before);
    quant_calibration_release(&ids);
}

static int open_all(void **state)
{
    struct err e = ERR_INIT;

    (void)state;
    if (!mkdtemp(folder) || tokenizer_open(&tokenizer, DEMO, &e) < 0 ||
        config_read(DEMO, &config, &e) < 0 || backend_open(&backend, "cpu", 0, NULL, &e) < 0 ||
        weights_load(&backend, DEMO, &base, &e) < 0) {
        print_error("%s\n", e.text);
        return -1;
    }
    return 0;
}

static int close_all(void **state)
{
    char command[600];

    (void)state;
    unlink("t.toml"); /* of expand_of() */
    model_release(&base);
    backend_close(&backend);
    tokenizer_close(tokenizer);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_as_cpython),
        cmocka_unit_test(windows_of_a_text),
        cmocka_unit_test(shorter_than_asked),
        cmocka_unit_test(documents_of_jsonl),
        cmocka_unit_test(ids_cross_a_boundary),
        cmocka_unit_test(gptq_over_a_model),
        cmocka_unit_test(gptq_where_the_device_has_no_solver),
        cmocka_unit_test(awq_over_a_model),
        cmocka_unit_test(awq_where_the_device_has_none),
        cmocka_unit_test(a_hessian_that_damping_cannot_help),
        cmocka_unit_test(memory_that_runs_out),
        cmocka_unit_test(what_names_its_module),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
