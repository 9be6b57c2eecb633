/* test_gpu_quantize_files.c - quantizers on the GPU beside bitsandbytes' own files, bit for bit. */
#include "quantized.h"
#include "vectors.h"

#include "model/safetensors.h"

#include <dirent.h>

static void *part(const struct safetensors *s, const char *name, const char *what,
                  struct safetensors_tensor *info)
{
    char full[256];
    struct err e = ERR_INIT;

    snprintf(full, sizeof full, "%s%s%s", name, *name ? "." : "", what);
    const struct safetensors_tensor *t = safetensors_find(s, full);
    CHECK(t, "%s has a tensor %s", s->path, full);
    void *data = mem_alloc((size_t)t->n_bytes + 1);
    CHECK_OK(safetensors_read(s, t, 0, t->n_bytes, data, &e), e);
    if (info)
        *info = *t;
    return data;
}

/* Bit for bit; the offset, a mean, within an ulp, and what follows from it where it is equal. */
static bool check_scales(const struct safetensors *s, const char *name, const struct weight *w)
{
    if (w->scale_form == SCALE_F32) {
        float *absmax = part(s, name, "absmax", NULL);
        CHECK(!memcmp(w->scales, absmax, weight_scales_bytes(w)), "%s: every absmax", name);
        free(absmax);
        return true;
    }
    float *offset = part(s, name, "offset", NULL), *scales2 = part(s, name, "absmax2", NULL);
    uint8_t *u8 = part(s, name, "absmax_u8", NULL);
    bool same_offset = w->nested_offset == *offset;
    CHECK(ulps_apart(w->nested_offset, *offset) <= 1, "%s: offset %a, not %a", name,
          (double)w->nested_offset, (double)*offset);
    CHECK(!same_offset || !memcmp(w->scales, u8, weight_scales_bytes(w)), "%s: 8-bit scales", name);
    CHECK(!same_offset || !memcmp(w->scales2, scales2, weight_scales2_bytes(w)),
          "%s: second scales", name);
    free(u8);
    free(scales2);
    free(offset);
    return same_offset;
}

static long check_tensor(const struct safetensors *s, const char *name, struct quantize_args a)
{
    struct safetensors_tensor info;
    void *input = part(s, name, "input", &info), *want = part(s, name, "dequant", NULL);
    uint8_t *packed = part(s, name, "packed", NULL);
    int64_t n_in = (int64_t)info.shape[info.n_dims - 1], n = info.n_elements;
    struct tensor x = tensor_over(input, info.dtype, n / n_in, n_in), values;
    struct weight w = quantized(&x, a, info.dtype, &values);

    for (int64_t i = 0; i < n; i++)
        CHECK(code_at(&w, i / n_in, i % n_in) == code_in_bnb_order(packed, i),
              "%s: code %lld is %d, not %d", name, (long long)i, code_at(&w, i / n_in, i % n_in),
              code_in_bnb_order(packed, i));
    if (check_scales(s, name, &w))
        CHECK(!memcmp(values.data, want, tensor_bytes(&values)), "%s: every value", name);
    free_tensor(&values);
    weight_release(&isas[0], &w);
    free(packed);
    free(want);
    free(input);
    return (long)(2 * n);
}

static void check_file(const char *file)
{
    struct safetensors s = SAFETENSORS_INIT;
    struct quantize_args a = { .bits = 4 };
    struct err e = ERR_INIT;
    char path[4096];
    long n_values = 0, block;

    snprintf(path, sizeof path, "%s/%s", check_golden(), file);
    CHECK(sscanf(file, "bnb_%*[^_]_%*[^_]_b%ld", &block) == 1, "%s names its block size", file);
    a.rule = strstr(file, "fp4") ? QUANTIZE_BNB_FP4 : QUANTIZE_BNB_NF4;
    a.group_size = block;
    a.double_quant = strstr(file, "_dq") != NULL;
    CHECK_OK(safetensors_open(&s, path, &e), e);
    for (size_t i = 0; i < s.n; i++) {
        char tensor[200];
        const char *dot = strrchr(s.tensor[i].name, '.');

        if (!dot || strcmp(dot, ".input"))
            continue;
        snprintf(tensor, sizeof tensor, "%.*s", (int)(dot - s.tensor[i].name), s.tensor[i].name);
        n_values += check_tensor(&s, tensor, a);
    }
    safetensors_close(&s);
    check_report(file, n_values, 0, 0);
}

static void bnb_4bit_files(void **state)
{
    struct dirent **entry;
    int n = scandir(check_golden(), &entry, NULL, alphasort), n_files = 0;

    (void)state;
    for (int i = 0; i < n; i++) {
        if (!strncmp(entry[i]->d_name, "bnb_nf4_", 8) ||
            !strncmp(entry[i]->d_name, "bnb_fp4_", 8)) {
            check_file(entry[i]->d_name);
            n_files++;
        }
        free(entry[i]);
    }
    free(entry);
    CHECK(n_files > 0, "the golden folder %s has bnb_nf4_* and bnb_fp4_* files", check_golden());
}

/* Codes and SCB exactly, Y to one step of its type; each case is one document. */
static void check_int8(const struct safetensors *s, const char *name, long *n_values, int *steps)
{
    struct safetensors_tensor of_w, of_x;
    void *input = part(s, name, "W", &of_w);
    int8_t *want = part(s, name, "W_int8", NULL);
    float *scb = part(s, name, "SCB", NULL);
    uint16_t *x = part(s, name, "X", &of_x), *y = part(s, name, "Y", NULL);
    int64_t n_out = (int64_t)of_w.shape[0], n_in = (int64_t)of_w.shape[1];
    int64_t n_rows = of_x.n_elements / n_in;
    struct tensor plain = tensor_over(input, of_w.dtype, n_out, n_in);
    struct quantize_args a = { .rule = QUANTIZE_INT8_ROW, .bits = 8, .group_size = n_in };
    struct weight w = quantized(&plain, a, DTYPE_F16, NULL);
    float most = 0;

    CHECK(!memcmp(w.scales, scb, (size_t)n_out * sizeof *scb), "%s: SCB", name);
    for (int64_t i = 0; i < n_out * n_in; i++)
        CHECK((int8_t)code_at(&w, i / n_in, i % n_in) == want[i], "%s: code %lld", name,
              (long long)i);
    w.outlier_threshold = 6;
    struct weight dw = device_weight(&w);
    struct tensor xs = tensor_over(x, of_x.dtype, n_rows, n_in), dx = device_tensor(&xs);
    struct tensor ys = tensor_over(y, of_x.dtype, n_rows, n_out);
    struct tensor out = device_result(of_x.dtype, n_rows, n_out);
    struct linear_args l = {
        .x = &dx, .w = &dw, .y = &out, .n_rows = n_rows, .compute = of_x.dtype
    };
    struct err e = ERR_INIT;
    CHECK_OK(gpu.ops->linear(&gpu, &l, &e), e);
    struct tensor got = host_tensor(&out);
    for (int64_t i = 0; i < n_rows * n_out; i++)
        most = fmaxf(most, fabsf(element(&ys, i / n_out, i % n_out)));
    for (int64_t i = 0; i < n_rows * n_out; i++) {
        float u = element(&got, i / n_out, i % n_out), v = element(&ys, i / n_out, i % n_out);
        int apart = f16_steps(((uint16_t *)got.data)[i], y[i]);
        if (!(fabsf(u - v) <= most * 0x1p-21f))
            *steps = apart > *steps ? apart : *steps;
    }
    *n_values += n_out * n_in + n_out + n_rows * n_out;
    free_tensor(&got);
    device_free(out.data);
    device_free(dx.data);
    weight_release(&gpu, &dw);
    weight_release(&isas[0], &w);
    free(y);
    free(x);
    free(scb);
    free(want);
    free(input);
}

static void bnb_int8_file(void **state)
{
    struct safetensors s = SAFETENSORS_INIT;
    char path[4096];
    struct err e = ERR_INIT;
    long n_values = 0;
    int steps = 0;

    (void)state;
    snprintf(path, sizeof path, "%s/bnb_int8.safetensors", check_golden());
    CHECK_OK(safetensors_open(&s, path, &e), e);
    for (size_t i = 0; i < s.n; i++) {
        char tensor[200];
        const char *full = s.tensor[i].name, *dot = strrchr(full, '.');

        if (strcmp(dot ? dot + 1 : full, "W"))
            continue;
        snprintf(tensor, sizeof tensor, "%.*s", dot ? (int)(dot - full) : 0, full);
        check_int8(&s, tensor, &n_values, &steps);
    }
    safetensors_close(&s);
    check_report("bnb_int8.safetensors (steps of Y)", n_values, steps, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bnb_4bit_files),
        cmocka_unit_test(bnb_int8_file),
    };

    return open_device() ? cmocka_run_group_tests(tests, open_twins, close_twins) : 1;
}
