/* Every bnb_*.safetensors of the golden folder, made by bitsandbytes on a GPU: codes, scales,
 * nested scales, values, and the 8-bit linear layer. */
#include "vectors.h"

#include "cpu/quantize.h"
#include "model/safetensors.h"

#include <dirent.h>

static struct backend backend = BACKEND_INIT;

/* Tensor NAME.PART, malloc'ed; NULL where the file has none. */
static void *part(const struct safetensors *s, const char *name, const char *what,
                  struct safetensors_tensor *info)
{
    char full[256];
    struct err e = ERR_INIT;

    snprintf(full, sizeof full, "%s%s%s", name, *name ? "." : "", what);
    const struct safetensors_tensor *t = safetensors_find(s, full);
    if (!t)
        return NULL;
    void *data = mem_alloc((size_t)t->n_bytes + 1);
    CHECK_OK(safetensors_read(s, t, 0, t->n_bytes, data, &e), e);
    if (info)
        *info = *t;
    return data;
}

static void *want_part(const struct safetensors *s, const char *name, const char *what,
                       struct safetensors_tensor *info)
{
    void *data = part(s, name, what, info);

    CHECK(data, "the file has a tensor %s.%s", name, what);
    return data;
}

struct file {
    const char *name;
    struct safetensors s;
    bool fp4, nested;
    int64_t block;
    long n_values;
    double largest; /* ulp between a scaled value and the threshold it fell on the other side of */
};

/* 0: equal.  FP4 codes may differ near a threshold, and that is how near it was. */
static double code_deviation(const struct file *f, int got, int want, float x, float absmax)
{
    if (got == want)
        return 0;
    return f->fp4 && absmax > 0 ? fp4_moves(x, absmax, want) : INFINITY;
}

/* Given the offset of the file: u8 and second scales exactly; our own offset within an ulp. */
static void check_nested(struct file *f, const char *name, const struct weight *plain,
                         struct weight *nested)
{
    struct safetensors_tensor of_u8, of_scales2;
    float *offset = want_part(&f->s, name, "offset", NULL);
    uint8_t *u8 = want_part(&f->s, name, "absmax_u8", &of_u8);
    float *scales2 = want_part(&f->s, name, "absmax2", &of_scales2);
    int64_t n_runs = (plain->n_groups + WEIGHT_NESTED_RUN - 1) / WEIGHT_NESTED_RUN;

    CHECK(of_u8.n_elements == plain->n_groups && of_scales2.n_elements == n_runs,
          "%s %s: as many scales", f->name, name);
    CHECK(ulps_apart(nested->nested_offset, *offset) <= 1,
          "%s %s: offset %a is within an ulp of %a", f->name, name, nested->nested_offset, *offset);
    nested->nested_offset = *offset;
    pack_nested(plain->scales, plain->n_groups, *offset, nested->scales, nested->scales2);
    CHECK(!memcmp(nested->scales, u8, (size_t)plain->n_groups), "%s %s: 8-bit scales", f->name,
          name);
    CHECK(!memcmp(nested->scales2, scales2, (size_t)n_runs * sizeof(float)), "%s %s: second scales",
          f->name, name);
    f->n_values += plain->n_groups + n_runs;
    free(scales2);
    free(u8);
    free(offset);
}

static void check_tensor(struct file *f, const char *name)
{
    struct safetensors_tensor info, of_values, of_packed;
    struct err e = ERR_INIT;
    void *input = want_part(&f->s, name, "input", &info);
    void *want_values = want_part(&f->s, name, "dequant", &of_values);
    uint8_t *packed = want_part(&f->s, name, "packed", &of_packed);
    int64_t n_in = (int64_t)info.shape[info.n_dims - 1], n = info.n_elements;
    struct tensor w = tensor_over(input, info.dtype, n / n_in, n_in);
    struct weight plain, nested = { 0 }, *got = &plain;
    struct quantize_args a = { .w = &w,
                               .rule = f->fp4 ? QUANTIZE_BNB_FP4 : QUANTIZE_BNB_NF4,
                               .bits = 4,
                               .group_size = f->block,
                               .out = &plain };

    CHECK(of_packed.n_bytes == (n + 1) / 2 && of_values.n_bytes == info.n_bytes &&
              of_values.dtype == info.dtype,
          "%s %s: as many codes and values as inputs", f->name, name);
    CHECK_OK(backend.ops->quantize(&backend, &a, &e), e);
    if (f->nested) {
        a.double_quant = true;
        a.out = got = &nested;
        CHECK_OK(backend.ops->quantize(&backend, &a, &e), e);
        check_nested(f, name, &plain, &nested);
    } else {
        struct safetensors_tensor of_absmax;
        float *absmax = want_part(&f->s, name, "absmax", &of_absmax);
        CHECK(of_absmax.n_elements == plain.n_groups, "%s %s: as many absmax", f->name, name);
        CHECK(!memcmp(plain.scales, absmax, (size_t)plain.n_groups * sizeof *absmax),
              "%s %s: every absmax", f->name, name);
        f->n_values += plain.n_groups;
        free(absmax);
    }

    float *x = mem_array((size_t)n, sizeof *x);
    size_t element = dtype_bytes(info.dtype);
    char *values = mem_array((size_t)n, element);
    struct tensor out = tensor_over(values, info.dtype, n / n_in, n_in);
    CHECK_OK(
        backend.ops->dequantize(&backend, &(struct dequantize_args){ .w = got, .out = &out }, &e),
        e);
    dtype_to_f32(info.dtype, input, x, n);
    for (int64_t i = 0; i < n; i++) {
        int code = code_at(got, i / n_in, i % n_in), want = code_in_bnb_order(packed, i);
        float absmax = ((float *)plain.scales)[i / f->block];

        f->largest = fmax(f->largest, code_deviation(f, code, want, x[i], absmax));
        if (code == want)
            CHECK(!memcmp(values + (size_t)i * element, (char *)want_values + (size_t)i * element,
                          element),
                  "%s %s: value %lld of code %d", f->name, name, (long long)i, code);
    }
    f->n_values += 2 * n;
    free(values);
    free(x);
    weight_release(&backend, &plain);
    weight_release(&backend, &nested);
    free(packed);
    free(want_values);
    free(input);
}

static void check_file(const char *name)
{
    struct file f = { .name = name, .fp4 = strstr(name, "fp4"), .nested = strstr(name, "_dq") };
    char path[4096];
    struct err e = ERR_INIT;

    snprintf(path, sizeof path, "%s/%s", check_golden(), name);
    CHECK(sscanf(name, "bnb_%*[^_]_%*[^_]_b%ld", &f.block) == 1, "%s names its block size", name);
    CHECK_OK(safetensors_open(&f.s, path, &e), e);
    for (size_t i = 0; i < f.s.n; i++) {
        char tensor[200];
        const char *dot = strrchr(f.s.tensor[i].name, '.');

        if (!dot || strcmp(dot, ".input"))
            continue;
        snprintf(tensor, sizeof tensor, "%.*s", (int)(dot - f.s.tensor[i].name),
                 f.s.tensor[i].name);
        check_tensor(&f, tensor);
    }

    float table[16], *code = want_part(&f.s, "", "code", NULL);
    weight_code_table(f.fp4 ? TABLE_FP4 : TABLE_NF4, table);
    for (int i = 0; i < 16; i++)
        CHECK(code[i] == table[i], "%s: value %d of the code table", name, i);
    free(code);
    float *nested_code = part(&f.s, "", "nested_code", NULL);
    if (nested_code)
        CHECK(!memcmp(nested_code, weight_dynamic_map, sizeof weight_dynamic_map),
              "%s: the map of nested scales", name);
    free(nested_code);
    safetensors_close(&f.s);
    check_report(name, f.n_values, f.largest, f.fp4 ? 2 : 0);
}

static void bnb_4bit_files(void **state)
{
    struct dirent **entry;
    int n = scandir(check_golden(), &entry, NULL, alphasort), n_files = 0, n_nf4 = 0;

    (void)state;
    for (int i = 0; i < n; i++) {
        if (!strncmp(entry[i]->d_name, "bnb_nf4_", 8) ||
            !strncmp(entry[i]->d_name, "bnb_fp4_", 8)) {
            check_file(entry[i]->d_name);
            n_files++;
            n_nf4 += entry[i]->d_name[4] == 'n';
        }
        free(entry[i]);
    }
    free(entry);
    CHECK(n_files > 0, "the golden folder %s has bnb_nf4_* and bnb_fp4_* files", check_golden());
    CHECK(n_nf4 > 0 && n_nf4 < n_files, "of both types");
}

/* ---- LLM.int8 ---- */

/* Codes and scales of one case; *largest: share of codes that differ, by 1 at most. */
static void check_int8_weights(const struct safetensors *s, const char *name, struct weight *w,
                               long *n_values, double *largest)
{
    struct safetensors_tensor info;
    struct err e = ERR_INIT;
    void *input = want_part(s, name, "W", &info);
    int8_t *want = want_part(s, name, "W_int8", NULL);
    float *scb = want_part(s, name, "SCB", NULL);
    int64_t n_out = (int64_t)info.shape[0], n_in = (int64_t)info.shape[1], n_differ = 0;
    struct tensor plain = tensor_over(input, info.dtype, n_out, n_in);
    struct quantize_args a = {
        .w = &plain, .rule = QUANTIZE_INT8_ROW, .bits = 8, .group_size = n_in, .out = w
    };

    CHECK_OK(backend.ops->quantize(&backend, &a, &e), e);
    CHECK(!memcmp(w->scales, scb, (size_t)n_out * sizeof *scb), "%s: SCB", name);
    for (int64_t i = 0; i < n_out * n_in; i++) {
        int difference = abs((int8_t)code_at(w, i / n_in, i % n_in) - want[i]);

        CHECK(difference <= 1, "%s: code %lld is at most one off", name, (long long)i);
        n_differ += difference;
        /* The products below are of the reference's own codes. */
        ((int8_t *)w->codes)[i / n_in * w->row_bytes + i % n_in] = want[i];
    }
    *n_values += n_out * n_in + n_out;
    *largest = fmax(*largest, (double)n_differ / (double)(n_out * n_in));
    free(scb);
    free(want);
    free(input);
}

/* Each case is one document.  The sum over outlier columns may round once differently. */
static int check_int8_product(const struct safetensors *s, const char *name, struct weight *w,
                              long *n_values)
{
    struct safetensors_tensor info, of_y;
    uint16_t *x = want_part(s, name, "X", &info), *y = want_part(s, name, "Y", &of_y);
    int64_t n_rows = info.n_elements / w->n_in;

    CHECK(dtype_is_16bit(info.dtype) && of_y.dtype == info.dtype &&
              info.n_elements == n_rows * w->n_in && of_y.n_elements == n_rows * w->n_out,
          "%s: X and Y belong to W", name);
    w->outlier_threshold = 6;
    int steps = linear_16_bit_steps(&backend, w, info.dtype, x, n_rows, y);
    *n_values += n_rows * w->n_out;
    free(y);
    free(x);
    return steps;
}

static void bnb_int8_file(void **state)
{
    const char *name = "bnb_int8.safetensors";
    struct safetensors s = SAFETENSORS_INIT;
    struct weight w;
    char path[4096];
    struct err e = ERR_INIT;
    long n_values = 0, n_products = 0;
    double largest = 0, steps = 0;

    (void)state;
    snprintf(path, sizeof path, "%s/%s", check_golden(), name);
    CHECK_OK(safetensors_open(&s, path, &e), e);
    for (size_t i = 0; i < s.n; i++) {
        char tensor[200];
        const char *full = s.tensor[i].name, *dot = strrchr(full, '.');

        if (strcmp(dot ? dot + 1 : full, "W")) /* CASE.W, or W alone */
            continue;
        snprintf(tensor, sizeof tensor, "%.*s", dot ? (int)(dot - full) : 0, full);
        check_int8_weights(&s, tensor, &w, &n_values, &largest);
        steps = fmax(steps, check_int8_product(&s, tensor, &w, &n_products));
        weight_release(&backend, &w);
    }
    safetensors_close(&s);
    check_report("bnb_int8.safetensors (weights)", n_values, largest, 1e-4);
    check_report("bnb_int8.safetensors (Y, steps)", n_products, steps, 1);
}

static int open_backend(void **state)
{
    struct err e = ERR_INIT;

    (void)state;
    return backend_open(&backend, "cpu", 0, NULL, &e);
}

static int close_backend(void **state)
{
    (void)state;
    backend_close(&backend);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bnb_4bit_files),
        cmocka_unit_test(bnb_int8_file),
    };
    return cmocka_run_group_tests(tests, open_backend, close_backend);
}
