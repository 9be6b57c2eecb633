/* gemm_sm90.cu - which of Hopper's kernels makes a product, in what tiles, and its start. */
#include "gemm_sm90.cuh"
#include "gemm_wish.cuh"

extern "C" {
struct gemm_wish gemm_wish = GEMM_NO_WISH;
}

bool gemm_sm90_runs(const struct cuda_state *s)
{
    static int answers[64]; /* of devices: 1 yes, -1 no; the same whoever asks */
    const int device = s->device < 64 ? s->device : 0;
    struct cudaFuncAttributes facts;

    if (!answers[device]) {
        struct gemm_kernel k = gemm_f16_kernel(GEMM_STORE, false, 0);

        /* Other architectures have a kernel without contents. */
        bool here =
            cudaFuncGetAttributes(&facts, k.start) == cudaSuccess && facts.sharedSizeBytes > 0;
        answers[device] = here ? 1 : -1;
    }
    return answers[device] > 0;
}

/* ---- tiles ---- */

static struct gemm_kernel kernel_at(const struct gemm_args *a, int i)
{
    const bool split = a->n_splits > 1;

    if (a->operand == GEMM_INT8)
        return gemm_int8_kernel(a->end, split, i);
    return a->operand == GEMM_BF16 ? gemm_bf16_kernel(a->end, split, i)
                                   : gemm_f16_kernel(a->end, split, i);
}

/* Columns of all parts in a row, each part's padded to whole strips of 32. */
static int64_t columns_of(const struct gemm_args *a, int32_t begin[GEMM_PARTS_MAX])
{
    int64_t n = 0;

    for (int i = 0; i < GEMM_PARTS_MAX; i++) {
        begin[i] = i < a->n_parts && (i == 0 || a->end != GEMM_SWIGLU) ? (int32_t)n : INT32_MAX;
        if (i < a->n_parts)
            n += ceil_div(a->part[i].n_out, 32) * 32;
    }
    return n;
}

/* How fast a tile is made, beside one of 128 x 256, as measured on an H200: narrow ones bring more
 * bytes an operation. */
static double speed_of(const struct gemm_kernel *k)
{
    if (k->rows == 128)
        return k->cols == 256 ? 1.0 : k->cols == 192 ? 0.95 : k->cols == 128 ? 0.9 : 0.8;
    return k->cols == 192 ? 0.72 : k->cols == 128 ? 0.65 : 0.42;
}

/* Clocks of a tile of split k beside those of its products, as measured on an H200 with 512 rows:
 * what two blocks share begins anew with each and ends with an exchange. */
static double clocks_around(const struct gemm_kernel *k)
{
    return k->split ? 7000 : 2000;
}

/* A step of 64 k and 128 x 256 sums takes 1024. */
static double time_of(const struct gemm_args *a, const struct gemm_kernel *k, double turns)
{
    const double steps = (double)a->n_k / 64 / (k->split ? a->n_splits : 1);
    const double clocks = steps * k->rows * k->cols / 32 / speed_of(k);

    return turns * (clocks + (a->n_splits > 1 ? clocks_around(k) : 0));
}

static struct gemm_kernel choose_kernel(const struct cuda_state *s, const struct gemm_args *a,
                                        int64_t n_cols)
{
    struct gemm_kernel best = kernel_at(a, 0);
    double least = INFINITY;

    if (gemm_wish.kernel >= 0 && kernel_at(a, gemm_wish.kernel).start)
        return kernel_at(a, gemm_wish.kernel);
    for (int i = 0;; i++) {
        const struct gemm_kernel k = kernel_at(a, i);
        if (!k.start)
            return best;
        const int64_t n_tiles =
            ceil_div(a->n_rows, k.rows) * ceil_div(n_cols, k.cols) * (k.split ? a->n_splits : 1);
        const double time = time_of(a, &k, (double)ceil_div(n_tiles, s->n_multiprocessors));

        if (time < least) {
            least = time;
            best = k;
        }
    }
}

/* ---- maps for the copy engine ---- */

int gemm_sm90_encoder(PFN_cuTensorMapEncodeTiled_v12000 *out, struct err *e)
{
    static PFN_cuTensorMapEncodeTiled_v12000 found; /* every thread finds the same */
    enum cudaDriverEntryPointQueryResult answer;
    void *p = NULL;

    if (!found) {
        CUDA_TRY(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &p, 12000,
                                                  cudaEnableDefault, &answer));
        if (answer != cudaDriverEntryPointSuccess || !p)
            return err_set(e, ERR_DEVICE, "the driver has no cuTensorMapEncodeTiled");
        found = (PFN_cuTensorMapEncodeTiled_v12000)p;
    }
    *out = found;
    return 0;
}

int gemm_map(const struct gemm_args *a, const void *data, int64_t ld, int64_t n_rows, int step,
             int box_rows, CUtensorMap *out, struct err *e)
{
    static const CUtensorMapDataType types[] = { CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                                                 CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                                                 CU_TENSOR_MAP_DATA_TYPE_UINT8 };
    const cuuint64_t size[2] = { (cuuint64_t)a->n_k, (cuuint64_t)n_rows };
    const cuuint64_t stride[1] = { (cuuint64_t)ld };
    const cuuint32_t box[2] = { (cuuint32_t)step, (cuuint32_t)box_rows }, every[2] = { 1, 1 };
    PFN_cuTensorMapEncodeTiled_v12000 encode = NULL;

    if (gemm_sm90_encoder(&encode, e) < 0)
        return -1;
    CUresult rc = encode(out, types[a->operand], 2, (void *)data, size, stride, box, every,
                         CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                         CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (rc != CUDA_SUCCESS)
        return err_set(e, ERR_DEVICE,
                       "the copy engine takes no matrix of %lld x %lld at %p, rows %lld bytes "
                       "apart (CUDA error %d)",
                       (long long)n_rows, (long long)a->n_k, data, (long long)ld, (int)rc);
    return 0;
}

/* Rows of W in a copy: all n_rows that a block brings, or fewer so that none is of two parts. */
static int box_rows(const struct gemm_args *a, const int32_t begin[GEMM_PARTS_MAX],
                    const struct gemm_kernel *k, int n_rows)
{
    static const int sizes[] = { 256, 192, 128, 96, 64, 32 };

    if (a->n_parts == 1)
        return n_rows;
    if (a->end == GEMM_SWIGLU)
        return n_rows < k->cols / 2 ? n_rows : k->cols / 2;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        bool fits = n_rows % sizes[i] == 0;

        for (int p = 1; p < a->n_parts; p++)
            fits = fits && begin[p] % sizes[i] == 0;
        if (fits)
            return sizes[i];
    }
    return 32;
}

/* ---- the start ---- */

int gemm_n_resident(struct cuda_state *s, const cudaLaunchConfig_t *config,
                    const struct gemm_kernel *k, int n_in_cluster)
{
    const int n_known = (int)(sizeof s->gemm_rooms / sizeof *s->gemm_rooms);
    int i = 0, n = 0;

    if (n_in_cluster == 1)
        return s->n_multiprocessors;
    for (; i < n_known && s->gemm_rooms[i].kernel; i++)
        if (s->gemm_rooms[i].kernel == k->start && s->gemm_rooms[i].n_in_cluster == n_in_cluster)
            return s->gemm_rooms[i].n_blocks;
    if (cudaFuncSetAttribute(k->start, cudaFuncAttributeMaxDynamicSharedMemorySize, k->memory) !=
            cudaSuccess ||
        cudaOccupancyMaxActiveClusters(&n, k->start, config) != cudaSuccess || n < 1) {
        cudaGetLastError();
        n = s->n_multiprocessors / n_in_cluster;
    }
    if (i < n_known) {
        s->gemm_rooms[i].kernel = k->start;
        s->gemm_rooms[i].n_in_cluster = n_in_cluster;
        s->gemm_rooms[i].n_blocks = n * n_in_cluster;
    }
    return n * n_in_cluster;
}

static int start(struct cuda_state *s, const struct gemm_kernel *k, struct gemm_sm90_job *job,
                 int n_tiles, struct err *e)
{
    const int n_in_cluster = k->split ? GEMM_SPLITS : job->cm * job->cn;
    cudaLaunchAttribute how[2] = {};
    cudaLaunchConfig_t config = {};
    void *arguments[] = { job };

    how[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    how[0].val.programmaticStreamSerializationAllowed = 1;
    how[1].id = cudaLaunchAttributeClusterDimension;
    how[1].val.clusterDim.x = (unsigned)n_in_cluster;
    how[1].val.clusterDim.y = how[1].val.clusterDim.z = 1;
    config.blockDim = dim3((unsigned)k->n_threads);
    config.gridDim = dim3((unsigned)n_in_cluster);
    config.dynamicSmemBytes = (size_t)k->memory;
    config.stream = s->stream;
    config.attrs = how;
    config.numAttrs = 2;
    CUDA_TRY(
        cudaFuncSetAttribute(k->start, cudaFuncAttributeMaxDynamicSharedMemorySize, k->memory));

    /* The sums of a split tile take the whole ring: such a block makes one tile. */
    const int n_most = k->split ? n_tiles : gemm_n_resident(s, &config, k, n_in_cluster);
    config.gridDim.x = (unsigned)(n_tiles < n_most ? n_tiles : n_most);
    CUDA_TRY(cudaLaunchKernelExC(&config, k->start, arguments));
    s->last_kernel = "gemm";
    return 0;
}

int gemm_sm90(struct cuda_state *s, const struct gemm_args *a, struct err *e)
{
    struct gemm_sm90_job job = {};
    const int64_t n_cols = columns_of(a, job.begin);
    const struct gemm_kernel k = choose_kernel(s, a, n_cols);
    const int64_t n_tiles_m = ceil_div(a->n_rows, k.rows), n_tiles_n = ceil_div(n_cols, k.cols);

    job.a = *a;
    job.cm = k.split                               ? 1
             : gemm_wish.cm                        ? gemm_wish.cm
             : k.cols == 256 && n_tiles_m % 2 == 0 ? 2
                                                   : 1;
    job.cn = k.split ? 1 : gemm_wish.cn ? gemm_wish.cn : 1;
    while (k.cols / job.cm % 32 != 0) /* whole strips */
        job.cm /= 2;
    job.n_steps = (int32_t)ceil_div(ceil_div(a->n_k, k.step), a->n_splits);
    if (!k.split) /* all of them by one block */
        job.n_steps *= a->n_splits;
    job.n_blocks_m = (int32_t)ceil_div(n_tiles_m, job.cm);
    job.n_blocks_n = (int32_t)ceil_div(n_tiles_n, job.cn);
    job.n_together = gemm_wish.together ? gemm_wish.together : 2048 / k.rows / job.cm;
    job.box = box_rows(a, job.begin, &k, k.cols / job.cm);
    if (gemm_map(a, a->x, a->ldx, a->n_rows, k.step, k.rows / job.cn, &job.x, e) < 0)
        return -1;
    for (int i = 0; i < a->n_parts; i++)
        if (gemm_map(a, a->part[i].w, a->part[i].ldw, a->part[i].n_out, k.step, job.box, &job.w[i],
                     e) < 0)
            return -1;
    return start(s, &k, &job,
                 job.n_blocks_m * job.n_blocks_n * (k.split ? GEMM_SPLITS : job.cm * job.cn), e);
}
