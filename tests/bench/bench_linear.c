/* bench_linear.c - products of the decode phase on a GPU, each shape of Llama 3.2 1B, 3B and 3.1
 * 8B, beside what memory gives in the same run:
 *
 *   bench_linear [MODEL [FORMAT [BATCH]]]     1b, 3b, 8b, all; one of the formats below, all
 *
 * Chains of launches as a step has them (norm in front of q|k|v and gate|up, residual behind o and
 * down, SwiGLU), over weights that together are larger than the L2, replayed from a CUDA graph, so
 * that launches overlap as in a step.  A cell: microseconds a launch, GB/s of weights (codes,
 * scales, zero points), % of the read rate.  "layer" is the four products one after another.  */
#include "backend/backend.h"
#include "backend/quantized.h"
#include "base/rng.h"

#include "ceiling.cuh"
#include "linear_decode.cuh"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define L2_BYTES   ((size_t)60 << 20)
#define MOST       32 /* layers */
#define N_PRODUCTS 4
#define ROUNDS     7
#define MOST_BEST  2048 /* blocks of a launch */

static const struct {
    const char *name;
    enum quantize_rule rule;
    int bits;
    int64_t group; /* 0: a row */
    bool double_quant;
} formats[] = {
    { "fp16", 0, 16, 0, false },
    { "nf4dq", QUANTIZE_BNB_NF4, 4, 64, true },
    { "int8", QUANTIZE_INT8_ROW, 8, 0, false },
    { "rtn8", QUANTIZE_GRID_GPTQ, 8, 128, false },
    { "rtn4", QUANTIZE_GRID_GPTQ, 4, 128, false },
    { "rtn3", QUANTIZE_GRID_GPTQ, 3, 128, false },
    { "rtn2", QUANTIZE_GRID_GPTQ, 2, 128, false },
};
#define N_FORMATS ((int)(sizeof formats / sizeof *formats))

static const struct {
    const char *name;
    int64_t hidden, query, key, wide, vocab;
} models[] = {
    { "1b", 2048, 2048, 512, 8192, 128256 },
    { "3b", 3072, 3072, 1024, 8192, 128256 },
    { "8b", 4096, 4096, 1024, 14336, 128256 },
};
#define N_MODELS ((int)(sizeof models / sizeof *models))

static const int64_t batches[] = { 1, 4, 8, 16, 64 };
#define N_BATCHES ((int)(sizeof batches / sizeof *batches))

static struct backend gpu = BACKEND_INIT;
static struct err e = ERR_INIT;
static double read_rate; /* GB/s */
static int64_t only_batch;

static void check(int rc, const char *what)
{
    if (rc == 0)
        return;
    fprintf(stderr, "bench_linear: %s: %s\n", what,
            rc < 0 ? e.text : cudaGetErrorString((cudaError_t)rc));
    exit(1);
}

/* fp16 values between -1 and 1: a random megabyte again and again. */
static struct tensor random_matrix(int64_t n_rows, int64_t n_cols)
{
    static uint16_t part[(1 << 19) + 77];
    struct tensor t;

    check(tensor_alloc(&gpu, MEM_SCRATCH, DTYPE_F16, n_rows, n_cols, &t, &e), "memory");
    for (size_t i = 0; !part[0] && i < sizeof part / sizeof *part; i++)
        part[i] = dtype_f32_to_f16(
            (float)(0.01 + rng_real(1, RNG_TEST, 2 * i) - rng_real(1, RNG_TEST, 2 * i + 1)));
    for (size_t at = 0, n_bytes = tensor_bytes(&t); at < n_bytes; at += sizeof part) {
        size_t n = n_bytes - at < sizeof part ? n_bytes - at : sizeof part;
        check(gpu.ops->upload(&gpu, (char *)t.data + at, part, n, &e), "upload");
    }
    return t;
}

static struct weight random_weight(int format, int64_t n_out, int64_t n_in)
{
    struct tensor t = random_matrix(n_out, n_in);
    struct weight w;
    struct quantize_args a = { .w = &t,
                               .rule = formats[format].rule,
                               .bits = formats[format].bits,
                               .group_size = formats[format].group ? formats[format].group : n_in,
                               .double_quant = formats[format].double_quant,
                               .out = &w };

    if (formats[format].bits == 16) {
        w = weight_of_tensor(&t);
        w.owned = true;
        return w;
    }
    check(gpu.ops->quantize(&gpu, &a, &e), "quantize");
    check(gpu.ops->sync(&gpu, &e), "quantize");
    check(gpu.ops->arrange(&gpu, &w, &e), "arrange");
    w.outlier_threshold = 6;
    tensor_free(&gpu, &t);
    return w;
}

/* ---- a captured chain ---- */

typedef void launch_fn(void *of, int i);

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

/* Median microseconds of one of n launches. */
static double time_chain(launch_fn *launch, void *of, int n)
{
    cudaStream_t stream = cuda_stream_of(gpu.state);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t start, stop;
    double us[ROUNDS];

    check(gpu.ops->sync(&gpu, &e), "sync");
    check((int)cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    for (int i = 0; i < n; i++)
        launch(of, i);
    check((int)cudaStreamEndCapture(stream, &graph), "capture");
    check((int)cudaGraphInstantiate(&exec, graph, 0), "graph");
    check((int)cudaEventCreate(&start), "event");
    check((int)cudaEventCreate(&stop), "event");
    for (int i = -1; i < ROUNDS; i++) {
        float ms = 0;

        check((int)cudaEventRecord(start, stream), "event");
        check((int)cudaGraphLaunch(exec, stream), "launch");
        check((int)cudaEventRecord(stop, stream), "event");
        check((int)cudaEventSynchronize(stop), "run");
        check((int)cudaEventElapsedTime(&ms, start, stop), "time");
        if (i >= 0)
            us[i] = 1e3 * (double)ms / n;
    }
    cudaEventDestroy(start);
    cudaEventDestroy(stop);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    qsort(us, ROUNDS, sizeof *us, by_size);
    return us[ROUNDS / 2];
}

/* ---- products ---- */

struct product {
    const char *name;
    int n_parts;
    int64_t n_out[3], n_in;
    enum decode_epilogue epilogue;
    bool norm;
};

/* What all launches share. */
struct work {
    struct tensor x, norm, y[3], room, residual;
    struct decode_best *best;
};

struct chain {
    int n_layers, n_products, first; /* products first .. first + n_products - 1 of each layer */
    struct decode_linear args[MOST][N_PRODUCTS];
};

static void launch_product(void *of, int i)
{
    struct chain *c = of;
    int layer = i / c->n_products % c->n_layers;

    check(cuda_linear_decode(gpu.state, &c->args[layer][c->first + i % c->n_products], &e),
          "launch");
}

static struct work open_work(int m)
{
    const int64_t wide = models[m].wide, vocab = models[m].vocab;
    struct work k = { .x = random_matrix(DECODE_ROWS_MAX, wide),
                      .norm = random_matrix(1, wide),
                      .room = random_matrix(2 * DECODE_ROWS_MAX, wide),
                      .residual = random_matrix(DECODE_ROWS_MAX, vocab) };

    for (int i = 0; i < 3; i++)
        k.y[i] = random_matrix(DECODE_ROWS_MAX, vocab);
    check(backend_alloc(&gpu, MEM_SCRATCH, MOST_BEST * DECODE_ROWS_MAX * sizeof *k.best,
                        (void **)&k.best, &e),
          "memory");
    return k;
}

static void close_work(struct work *k)
{
    struct tensor *all[] = {
        &k->x, &k->norm, &k->room, &k->residual, &k->y[0], &k->y[1], &k->y[2]
    };

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        tensor_free(&gpu, all[i]);
    backend_free(&gpu, k->best);
}

static struct decode_linear args_of(const struct product *p, const struct work *k,
                                    const struct weight *w, int64_t n_rows)
{
    struct decode_linear a = { .epilogue = p->epilogue,
                               .n_parts = p->n_parts,
                               .x = k->x.data,
                               .norm_weight = p->norm ? &k->norm : NULL,
                               .eps = 1e-5f,
                               .residual = k->residual.data,
                               .best = k->best,
                               .model = DTYPE_F16,
                               .compute = DTYPE_F16,
                               .n_rows = n_rows,
                               .room = k->room.data };

    for (int i = 0; i < p->n_parts; i++) {
        a.w[i] = &w[i];
        a.y[i] = k->y[i].data;
    }
    return a;
}

static void print_cell(struct chain *c, double bytes)
{
    int n = (int)(1e9 / bytes);

    if (!cuda_linear_decode_fits(&c->args[0][c->first])) {
        printf("                   - |");
        return;
    }
    n = (n < 16 ? 16 : n > 256 ? 256 : n) * c->n_products;
    double us = time_chain(launch_product, c, n) * c->n_products, rate = 1e-3 * bytes / us;
    printf(" %8.2f %5.0f %3.0f%% |", us, rate, 100 * rate / read_rate);
    fflush(stdout);
}

/* Rows of single products, and of all of them (layer); w [layer][product][part]. */
static void print_products(const struct product *p, int n, int n_layers, int format,
                           struct weight (*w)[N_PRODUCTS][3], const struct work *k)
{
    static struct chain c;

    for (int row = 0; row < n + (n > 1); row++) {
        const int first = row < n ? row : 0, n_products = row < n ? 1 : n;
        double bytes = 0;

        for (int i = first; i < first + n_products; i++)
            for (int part = 0; part < p[i].n_parts; part++)
                bytes += (double)weight_bytes(&w[0][i][part]);
        printf("| %-7s | %-6s | %8.2f |", row < n ? p[row].name : "layer", formats[format].name,
               1e-6 * bytes);
        for (int b = 0; b < N_BATCHES; b++) {
            if (only_batch && only_batch != batches[b])
                continue;
            c.n_layers = n_layers;
            c.first = first;
            c.n_products = n_products;
            for (int l = 0; l < n_layers; l++)
                for (int i = 0; i < n; i++)
                    c.args[l][i] = args_of(&p[i], k, w[l][i], batches[b]);
            print_cell(&c, bytes);
        }
        printf("\n");
    }
}

/* As many layers as make three times the L2 of the smallest product. */
static void print_set(const struct product *p, int n, int format, const struct work *k)
{
    static struct weight w[MOST][N_PRODUCTS][3];
    size_t smallest = 0;
    int n_layers = 0;

    do {
        size_t least = SIZE_MAX;

        for (int i = 0; i < n; i++) {
            size_t n_bytes = 0;
            for (int part = 0; part < p[i].n_parts; part++) {
                w[n_layers][i][part] = random_weight(format, p[i].n_out[part], p[i].n_in);
                n_bytes += weight_bytes(&w[n_layers][i][part]);
            }
            least = n_bytes < least ? n_bytes : least;
        }
        smallest += least;
    } while (++n_layers < MOST && (smallest < 3 * L2_BYTES || n_layers < 2));
    print_products(p, n, n_layers, format, w, k);
    for (int l = 0; l < n_layers; l++)
        for (int i = 0; i < n; i++)
            for (int part = 0; part < p[i].n_parts; part++)
                weight_release(&gpu, &w[l][i][part]);
}

static void print_model(int m, int format, const struct work *k)
{
    const int64_t d = models[m].hidden, q = models[m].query, key = models[m].key;
    const int64_t f = models[m].wide;
    const struct product layer[N_PRODUCTS] = {
        { "q|k|v", 3, { q, key, key }, d, DECODE_STORE, true },
        { "o", 1, { d }, q, DECODE_ADD, false },
        { "gate|up", 2, { f, f }, d, DECODE_SWIGLU, true },
        { "down", 1, { d }, f, DECODE_ADD, false },
    };
    const struct product head = { "head", 1, { models[m].vocab }, d, DECODE_ARGMAX, true };

    print_set(layer, N_PRODUCTS, format, k);
    if (formats[format].bits == 16)
        print_set(&head, 1, format, k);
}

/* ---- ceilings ---- */

struct copy {
    char *from, *to;
    size_t n_bytes;
};

static void launch_copy(void *of, int i)
{
    struct copy *c = of;

    (void)i;
    check((int)cudaMemcpyAsync(c->to, c->from, c->n_bytes, cudaMemcpyDeviceToDevice,
                               cuda_stream_of(gpu.state)),
          "copy");
}

static void launch_read(void *of, int i)
{
    struct copy *c = of;

    (void)i;
    check(cuda_read_memory(gpu.state, c->from, c->n_bytes, c->to, &e), "read");
}

static void measure_ceilings(void)
{
    struct tensor a = random_matrix(1 << 15, 1 << 15), b = random_matrix(1 << 15, 1 << 15);
    struct copy c = { a.data, b.data, tensor_bytes(&a) };
    double copied = 2e-3 * (double)c.n_bytes / time_chain(launch_copy, &c, 5);

    read_rate = 1e-3 * (double)c.n_bytes / time_chain(launch_read, &c, 5);
    printf("copy %.0f GB/s (read and written), read %.0f GB/s\n", copied, read_rate);
    tensor_free(&gpu, &a);
    tensor_free(&gpu, &b);
}

int main(int argc, char **argv)
{
    const char *model = argc > 1 ? argv[1] : "all", *format = argc > 2 ? argv[2] : "all";
    struct device_facts facts;

    only_batch = argc > 3 ? atoll(argv[3]) : 0;
    check(backend_open(&gpu, "cuda", 0, NULL, &e), "device");
    check(gpu.ops->facts(&gpu, &facts, &e), "device");
    printf("%s; ", facts.name);
    measure_ceilings();
    for (int m = 0; m < N_MODELS; m++) {
        if (strcmp(model, "all") && strcmp(model, models[m].name))
            continue;
        struct work k = open_work(m);
        printf(
            "\nLlama %s: microseconds, GB/s, %% of the read rate\n| product | format | MB       |",
            models[m].name);
        for (int b = 0; b < N_BATCHES; b++)
            if (!only_batch || only_batch == batches[b])
                printf(" b%-18lld |", (long long)batches[b]);
        printf("\n");
        for (int i = 0; i < N_FORMATS; i++)
            if (!strcmp(format, "all") || !strcmp(format, formats[i].name))
                print_model(m, i, &k);
        close_work(&k);
    }
    backend_close(&gpu);
    return 0;
}
