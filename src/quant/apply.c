/* apply.c - one matrix through quantize(): on the device where it has the kernel, else by the CPU
 * backend, whose results every device's are anyway, with the matrix brought down and the packed
 * weight taken up. */
#include "backend/quantized.h"
#include "quant/method.h"

static bool knows(const struct backend *b, const struct quantize_args *a)
{
    return !b->ops->quantizes || b->ops->quantizes(a);
}

int quant_take_up(struct backend *b, const struct weight *from, struct weight *out, struct err *e)
{
    const size_t order_bytes = (size_t)from->n_in * sizeof *from->g_idx;
    struct weight w = *from;
    int rc = weight_alloc(b, MEM_WEIGHTS, &w, e);
    void *order = NULL;

    if (rc < 0)
        return -1;
    if (from->g_idx) {
        rc = backend_alloc(b, MEM_WEIGHTS, order_bytes, &order, e);
        w.g_idx = order;
    }
    const struct {
        void *to;
        const void *from;
        size_t n_bytes;
    } parts[] = {
        { w.codes, from->codes, weight_codes_bytes(from) },
        { w.scales, from->scales, weight_scales_bytes(from) },
        { w.scales2, from->scales2, weight_scales2_bytes(from) },
        { w.zeros, from->zeros, weight_zeros_bytes(from) },
        { w.g_idx, from->g_idx, from->g_idx ? order_bytes : 0 },
    };
    for (size_t i = 0; rc == 0 && i < sizeof parts / sizeof *parts; i++)
        if (parts[i].n_bytes)
            rc = b->ops->upload(b, parts[i].to, parts[i].from, parts[i].n_bytes, e);
    if (rc < 0)
        weight_release(b, &w);
    else
        *out = w;
    return rc;
}

static int on_host(struct backend *b, const struct quantize_args *a, struct err *e)
{
    struct backend host = BACKEND_INIT;
    struct tensor w = { 0 };
    struct weight packed = { 0 };
    struct quantize_args here = *a;
    int rc = -1;

    if (backend_open(&host, "cpu", 0, NULL, e) < 0)
        return -1;
    here.w = &w;
    here.out = &packed;
    if (tensor_alloc(&host, MEM_SCRATCH, a->w->dtype, a->w->n_rows, a->w->n_cols, &w, e) == 0 &&
        b->ops->download(b, w.data, a->w->data, tensor_bytes(a->w), e) == 0 &&
        host.ops->quantize(&host, &here, e) == 0)
        rc = quant_take_up(b, &packed, a->out, e);
    weight_release(&host, &packed);
    tensor_free(&host, &w);
    backend_close(&host);
    return rc;
}

int quant_quantize(struct backend *b, const struct quantize_args *a, struct err *e)
{
    return knows(b, a) ? b->ops->quantize(b, a, e) : on_host(b, a, e);
}

int quant_run_args(struct backend *b, const struct quant_spec *s, const struct tensor *w,
                   struct weight *out, struct err *e)
{
    if (quant_spec_check(s, w->n_cols, e) < 0)
        return -1;

    struct quantize_args a = quantizer_find(s->method)->args(s, w->n_rows, w->n_cols);
    a.w = w;
    a.arranged = !s->in_parts;
    a.out = out;
    return quant_quantize(b, &a, e);
}

int quant_pack_alone(struct backend *b, const struct quant_spec *s, const struct tensor *w,
                     struct weight *out, struct err *e)
{
    const struct quantizer *z = quantizer_find(s->method);

    return z->run ? z->run(b, s, w, out, e) : quant_run_args(b, s, w, out, e);
}

int quant_shape_args(const struct quant_spec *s, int64_t n_out, int64_t n_in, struct weight *out,
                     struct err *e)
{
    if (quant_spec_check(s, n_in, e) < 0)
        return -1;

    struct quantize_args a = quantizer_find(s->method)->args(s, n_out, n_in);
    quantized_shape(&a, n_out, n_in, out);
    return 0;
}

bool quant_on_host(const struct backend *b, const struct quant_spec *s)
{
    const struct quantizer *z = quantizer_find(s->method);
    int64_t n = s->group_size > 0 ? s->group_size : 32; /* any widths that the groups divide */

    if (!z || !z->args || z->run_model)
        return false;
    struct quantize_args a = z->args(s, n, n);
    return !knows(b, &a);
}
