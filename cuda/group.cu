/* group.cu - GPUs of a node that work on one job together: the parts of a matrix that each of them
 * has are brought together on all of them.
 *
 * Each GPU owns an inbox that the others write to (cudaIpc; over NVLink, or PCIe where it allows
 * that), and one kernel does everything: it stores its part in its own matrix and in the others'
 * inboxes, then waits for theirs and stores them beside its own.  Nothing is computed, so the bits
 * do not depend on who comes first.
 *
 *   small   a line of 16 bytes carries 8 of the part and, twice, the number of the call: whoever
 *           sees the number in both halves has the data.  No fence, no second way: what a step of
 *           decoding brings together costs the way there and little more.
 *   large   plain stores, then a fence and a flag for each block; the block of the same number
 *           waits for it and reads what it copied.
 *
 * The number of the call is counted on the device, so that a captured launch can be replayed.  Two
 * halves of an inbox take turns: a GPU that begins call k + 2 has heard of all others in k + 1,
 * which they began after they had read what came in k.
 *
 * Launches of a decode step of few rows exchange what they make themselves (step_share.cuh).
 *
 * Where a GPU cannot reach another's memory, parts go through the host's.  A kernel that waits
 * looks, now and then, whether a member has given up. */
#include "group.cuh"
#include "overlap.cuh"

extern "C" {
#include "backend/group.h"
#include "backend/meeting.h"
#include "base/memory.h"
}

#include <stdio.h>
#include <stdlib.h>

/* Of a call, from one member. */
#define MEMBERS_MOST INBOX_MEMBERS
#define LINES        INBOX_LINES
#define LARGE_BYTES  INBOX_LARGE_BYTES
#define LARGE_BLOCKS INBOX_FLAGS
#define N_THREADS    512
#define HOST_ROOM    ((size_t)4 << 20)
#define BROKEN_EVERY 4096 /* looks at the inbox */

/* The same on every member: two halves of each, by the parity of the call. */
struct inbox {
    uint32_t flags[2][MEMBERS_MOST][LARGE_BLOCKS];
    uint4 lines[2][MEMBERS_MOST][LINES];
    char large[2][MEMBERS_MOST][LARGE_BYTES];
    char step[INBOX_STEP_BYTES]; /* step_share.cuh */
};
static_assert(sizeof(struct inbox) == INBOX_BYTES, "what a dry run counts");
static_assert(SHARE_MEMBERS == MEMBERS_MOST, "a step has a room of each");

struct cuda_members {
    struct meeting *meeting;
    int n_joined;    /* groups so far: other addresses */
    bool reach;      /* inboxes of all members can be written */
    cudaError_t why; /* they cannot, as far as this member saw */
    struct inbox *own;
    struct inbox *of[MEMBERS_MOST]; /* opened here; own at its own place */
    /* Device, [4]: calls so far; blocks that have finished one; decode steps; a member is gone. */
    uint32_t *counter;
    void *registered;                /* host memory that kernels look at */
    const volatile uint32_t *broken; /* the same, on the device */
};

static bool test_says(const char *name)
{
    const char *test = getenv(name);

    return test && *test == '1';
}

/* ---- kernels ---- */

struct collect_job {
    const char *part;
    char *out;
    int64_t first; /* unit: of a large call that follows others */
    int n;         /* units of the part, its rows one after the other */
    int row_units; /* of the part */
    int n_members, index;
    struct inbox *of[MEMBERS_MOST];
    uint32_t *counter;
    const volatile uint32_t *broken;
};

__device__ static uint32_t number_of_call(const struct collect_job &a)
{
    return *(volatile uint32_t *)a.counter + 1;
}

/* Once all threads of all blocks know the number: the next call sees it when this one is over. */
__device__ static void count_call(const struct collect_job &a, uint32_t number)
{
    __syncthreads();
    if (threadIdx.x != 0)
        return;
    if (gridDim.x > 1) {
        __threadfence();
        if (atomicAdd(&a.counter[1], 1) + 1 != gridDim.x)
            return;
        a.counter[1] = 0;
    }
    *(volatile uint32_t *)a.counter = number;
}

/* Where unit i of member 0's part belongs; the next member's is row_units further. */
__device__ static int64_t place_of(const struct collect_job &a, int64_t i)
{
    if (i < a.row_units) /* of a step: no division */
        return i;
    const int64_t row =
        i < INT32_MAX ? (int64_t)((uint32_t)i / (uint32_t)a.row_units) : i / a.row_units;

    return row * a.row_units * (a.n_members - 1) + i;
}

__device__ static void store_line(uint4 *to, uint4 line)
{
    asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(line.x),
                 "r"(line.y), "r"(line.z), "r"(line.w)
                 : "memory");
}

__device__ static uint4 load_line(const uint4 *from)
{
    uint4 line;

    asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(line.x), "=r"(line.y), "=r"(line.z), "=r"(line.w)
                 : "l"(from)
                 : "memory");
    return line;
}

__device__ static uint2 words_of(uint2 unit)
{
    return unit;
}

__device__ static uint2 words_of(uint16_t unit)
{
    return make_uint2(unit, 0);
}

__device__ static void store_words(uint2 *to, uint4 line)
{
    *to = make_uint2(line.x, line.z);
}

__device__ static void store_words(uint16_t *to, uint4 line)
{
    *to = (uint16_t)line.x;
}

/* What a thread has of a small call: all of it is under way at once. */
#define EACH 4

/* Lines of one member: until all are there.  False: a member has given up. */
__device__ static bool wait_for_lines(const struct collect_job &a, const uint4 *from, int first,
                                      uint32_t number, uint4 line[EACH])
{
    for (int looks = 1;; looks++) {
        bool all = true;

#pragma unroll
        for (int j = 0; j < EACH; j++)
            if (first + j * N_THREADS < a.n)
                line[j] = load_line(&from[first + j * N_THREADS]);
#pragma unroll
        for (int j = 0; j < EACH; j++)
            if (first + j * N_THREADS < a.n)
                all = all && line[j].y == number && line[j].w == number;
        if (all)
            return true;
        if (looks % BROKEN_EVERY == 0 && *a.broken)
            return false;
    }
}

template <typename unit>
__global__ static void __launch_bounds__(N_THREADS) collect_small(const struct collect_job a)
{
    const int first = (int)blockIdx.x * (N_THREADS * EACH) + (int)threadIdx.x;
    const unit *part = (const unit *)a.part;
    int64_t place[EACH];
    unit own[EACH];

    let_next_start();
#pragma unroll
    for (int j = 0; j < EACH; j++)
        place[j] = first + j * N_THREADS < a.n ? place_of(a, first + j * N_THREADS) : -1;
    wait_for_launch_before();
#pragma unroll
    for (int j = 0; j < EACH; j++)
        if (place[j] >= 0)
            own[j] = part[first + j * N_THREADS];
    const uint32_t number = number_of_call(a), half = number & 1;
    for (int k = 1; k < a.n_members; k++) {
        uint4 *to = a.of[(a.index + k) % a.n_members]->lines[half][a.index];

#pragma unroll
        for (int j = 0; j < EACH; j++)
            if (place[j] >= 0) {
                const uint2 words = words_of(own[j]);

                store_line(&to[first + j * N_THREADS],
                           make_uint4(words.x, number, words.y, number));
            }
    }
    count_call(a, number);
#pragma unroll
    for (int j = 0; j < EACH; j++)
        if (place[j] >= 0)
            ((unit *)a.out)[place[j] + (int64_t)a.index * a.row_units] = own[j];
    for (int k = 1; k < a.n_members; k++) {
        const int member = (a.index + k) % a.n_members;
        uint4 line[EACH];

        if (!wait_for_lines(a, a.of[a.index]->lines[half][member], first, number, line))
            break;
#pragma unroll
        for (int j = 0; j < EACH; j++)
            if (place[j] >= 0)
                store_words(&((unit *)a.out)[place[j] + (int64_t)member * a.row_units], line[j]);
    }
}

__device__ static void store_flag(uint32_t *to, uint32_t number)
{
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(to), "r"(number) : "memory");
}

__device__ static uint32_t load_flag(const uint32_t *from)
{
    uint32_t x;

    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(x) : "l"(from) : "memory");
    return x;
}

template <typename unit>
__global__ static void __launch_bounds__(N_THREADS) collect_large(const struct collect_job a)
{
    const uint32_t number = number_of_call(a), half = number & 1;
    struct inbox *own = a.of[a.index];
    unit *out = (unit *)a.out;

    GRID_STRIDE(i, a.n)
    {
        const unit x = ((const unit *)a.part)[a.first + i];

        for (int k = 1; k < a.n_members; k++)
            ((unit *)a.of[(a.index + k) % a.n_members]->large[half][a.index])[i] = x;
        out[place_of(a, a.first + i) + (int64_t)a.index * a.row_units] = x;
    }
    count_call(a, number); /* and all of the block have stored */
    if (threadIdx.x == 0) {
        __threadfence_system();
        for (int k = 1; k < a.n_members; k++)
            store_flag(&a.of[(a.index + k) % a.n_members]->flags[half][a.index][blockIdx.x],
                       number);
    }
    if ((int)threadIdx.x < a.n_members && (int)threadIdx.x != a.index)
        for (int looks = 1; load_flag(&own->flags[half][threadIdx.x][blockIdx.x]) != number;
             looks++)
            if (looks % BROKEN_EVERY == 0 && *a.broken)
                break;
    __syncthreads();
    for (int k = 1; k < a.n_members; k++) {
        const int member = (a.index + k) % a.n_members;
        const unit *from = (const unit *)own->large[half][member];

        GRID_STRIDE(i, a.n)
        out[place_of(a, a.first + i) + (int64_t)member * a.row_units] = __ldcg(&from[i]);
    }
}

/* ---- calls ---- */

static bool is_aligned(const struct collect_job *a, int64_t part_row, int n)
{
    return part_row % n == 0 && (uintptr_t)a->part % (unsigned)n == 0 &&
           (uintptr_t)a->out % (unsigned)n == 0;
}

static int launch(struct cuda_state *s, const void *kernel, int64_t n_blocks, bool overlaps,
                  struct collect_job *job, struct err *e)
{
    cudaLaunchAttribute overlap;

    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    const cudaLaunchConfig_t config = { .gridDim = dim3((unsigned)n_blocks),
                                        .blockDim = dim3(N_THREADS),
                                        .dynamicSmemBytes = 0,
                                        .stream = s->stream,
                                        .attrs = &overlap,
                                        .numAttrs = overlaps && s->overlaps ? 1u : 0u };
    void *args[] = { job };

    CUDA_TRY(cudaLaunchKernelExC(&config, kernel, args));
    CUDA_LAUNCHED(s, "collect");
    return 0;
}

static int collect_small_call(struct cuda_state *s, struct collect_job *job, bool eight,
                              struct err *e)
{
    const void *kernel =
        eight ? (const void *)collect_small<uint2> : (const void *)collect_small<uint16_t>;

    return launch(s, kernel, ceil_div(job->n, N_THREADS * EACH), true, job, e);
}

static int collect_large_call(struct cuda_state *s, struct collect_job *job, bool sixteen,
                              struct err *e)
{
    const void *kernel =
        sixteen ? (const void *)collect_large<uint4> : (const void *)collect_large<uint16_t>;
    const int64_t n_blocks = ceil_div(job->n, N_THREADS);

    return launch(s, kernel, n_blocks < LARGE_BLOCKS ? n_blocks : LARGE_BLOCKS, false, job, e);
}

/* n_rows rows of part_row bytes, in as few calls as it takes. */
static int collect_rows(struct cuda_state *s, struct collect_job *job, int64_t n_rows,
                        int64_t part_row, struct err *e)
{
    const bool eight = is_aligned(job, part_row, 8), sixteen = is_aligned(job, part_row, 16);
    const int64_t n_small = n_rows * part_row / (eight ? 8 : 2);
    const int unit = sixteen ? 16 : 2;
    const int64_t n = n_rows * part_row / unit, at_once = (int64_t)LARGE_BYTES / unit;

    if (n_small <= LINES) {
        job->n = (int)n_small;
        job->row_units = (int)(part_row / (eight ? 8 : 2));
        return collect_small_call(s, job, eight, e);
    }
    if (part_row / unit > INT32_MAX)
        return err_set(e, ERR_USAGE, "rows of %lld bytes cannot be brought together",
                       (long long)part_row);
    job->row_units = (int)(part_row / unit);
    for (job->first = 0; job->first < n; job->first += job->n) {
        job->n = (int)(n - job->first < at_once ? n - job->first : at_once);
        if (collect_large_call(s, job, sixteen, e) < 0)
            return -1;
    }
    return 0;
}

static void note_the_long_way(struct cuda_state *s)
{
    const cudaError_t why = s->members->why;
    char note[256];

    snprintf(note, sizeof note,
             "the GPUs of a group cannot reach each other's memory%s%s%s: what they bring together "
             "goes through the host's",
             why ? " (" : "", why ? cudaGetErrorString(why) : "", why ? ")" : "");
    backend_note(s->backend, note);
}

/* By way of memory of the host: blocks that fit the rooms, whole rows or pieces of one. */
static int collect_by_host(struct cuda_state *s, const struct collect_args *a, struct err *e)
{
    struct meeting *m = s->members->meeting;
    const size_t element = dtype_bytes(a->part->dtype), n_members = (size_t)meeting_size(m);
    const size_t part_row = (size_t)a->part->n_cols * element, row = part_row * n_members;
    const size_t width = part_row < HOST_ROOM ? part_row : HOST_ROOM, height = HOST_ROOM / width;
    const size_t n_all = (size_t)a->n_rows;

    note_the_long_way(s);
    for (size_t first = 0; first < n_all; first += height)
        for (size_t at = 0; at < part_row; at += width) {
            const size_t n = part_row - at < width ? part_row - at : width;
            const size_t n_rows = n_all - first < height ? n_all - first : height;

            CUDA_TRY(cudaMemcpy2DAsync(meeting_own(m), n,
                                       (const char *)a->part->data + first * part_row + at,
                                       part_row, n, n_rows, cudaMemcpyDeviceToHost, s->stream));
            CUDA_TRY(cudaStreamSynchronize(s->stream));
            if (meeting_round(m, e) < 0)
                return -1;
            for (size_t i = 0; i < n_members; i++)
                CUDA_TRY(cudaMemcpy2DAsync((char *)a->out->data + first * row + i * part_row + at,
                                           row, meeting_room(m, (int)i), n, n, n_rows,
                                           cudaMemcpyHostToDevice, s->stream));
            /* The room is written again two rounds from here. */
            CUDA_TRY(cudaStreamSynchronize(s->stream));
        }
    return 0;
}

int cuda_collect(struct cuda_state *s, const struct collect_args *a, struct err *e)
{
    struct cuda_members *m = s->members;
    struct collect_job job = {};

    if (!m->reach)
        return collect_by_host(s, a, e);
    job.part = (const char *)a->part->data;
    job.out = (char *)a->out->data;
    job.n_members = meeting_size(m->meeting);
    job.index = meeting_member(m->meeting);
    memcpy(job.of, m->of, sizeof job.of);
    job.counter = m->counter;
    job.broken = m->broken;
    return collect_rows(s, &job, a->n_rows, a->part->n_cols * (int64_t)dtype_bytes(a->part->dtype),
                        e);
}

bool cuda_group_reaches(const struct cuda_state *s)
{
    return s->members && s->members->meeting && s->members->reach;
}

int cuda_group_index(const struct cuda_state *s)
{
    return meeting_member(s->members->meeting);
}

struct step_share cuda_group_share(const struct cuda_state *s, size_t *room_bytes)
{
    const struct cuda_members *m = s->members;
    struct step_share share = {};

    share.n = meeting_size(m->meeting);
    share.index = meeting_member(m->meeting);
    for (int k = 0; k < share.n; k++)
        share.room[k] = m->of[(share.index + k) % share.n]->step;
    share.n_steps = m->counter + 2;
    share.broken = m->broken;
    share.gone = m->counter + 3;
    *room_bytes = test_says("LLQ_TEST_NO_ROOM") ? 0 : INBOX_STEP_BYTES;
    return share;
}

int cuda_group_number(const struct cuda_state *s)
{
    return s->members ? s->members->n_joined : 0;
}

int cuda_group_check(struct cuda_state *s, struct err *e)
{
    return s->members && s->members->meeting ? meeting_check(s->members->meeting, e) : 0;
}

/* ---- joining ---- */

/* What members tell each other of their inboxes. */
struct address {
    cudaIpcMemHandle_t handle;
    uint32_t can, n_multiprocessors; /* grids go by their number */
};

/* Its own memory of the driver's, kept until the end: another process may have it open. */
static bool open_own(struct cuda_state *s, struct address *out)
{
    struct cuda_members *m = s->members;
    cudaError_t rc = cudaSuccess;

    if (!m->own) {
        rc = cudaMalloc((void **)&m->own, sizeof *m->own);
        if (rc == cudaSuccess)
            backend_adopt(s->backend, MEM_SCRATCH, m->own, sizeof *m->own);
    }
    if (rc == cudaSuccess && !m->counter)
        rc = cudaMalloc((void **)&m->counter, 4 * sizeof *m->counter);
    if (rc == cudaSuccess)
        rc = cudaMemset(m->own, 0, sizeof *m->own);
    if (rc == cudaSuccess)
        rc = cudaMemset(m->counter, 0, 4 * sizeof *m->counter);
    if (rc == cudaSuccess)
        rc = cudaDeviceSynchronize();
    if (rc == cudaSuccess)
        rc = cudaIpcGetMemHandle(&out->handle, m->own);
    cudaGetLastError();
    m->why = rc;
    return rc == cudaSuccess && !test_says("LLQ_TEST_NO_PEERS");
}

/* The start of the members' memory, where it says that one gave up. */
static bool register_broken(struct cuda_members *m)
{
    const long page = 4096;
    const uintptr_t at = (uintptr_t)meeting_broken(m->meeting), start = at / page * page;
    void *device = NULL;

    m->why = cudaHostRegister((void *)start, page, cudaHostRegisterMapped);
    if (m->why == cudaSuccess) {
        m->registered = (void *)start;
        m->why = cudaHostGetDevicePointer(&device, m->registered, 0);
    }
    if (m->why != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    m->broken = (const volatile uint32_t *)((const char *)device + (at - start));
    return true;
}

static bool open_others(struct cuda_members *m, const struct group_seat *seat,
                        const struct address *all)
{
    bool good = true;

    for (int i = 0; i < seat->n; i++)
        good = good && all[i].can && all[i].n_multiprocessors == all[0].n_multiprocessors;
    for (int i = 0; good && i < seat->n; i++) {
        if (i == seat->index)
            m->of[i] = m->own;
        else
            m->why = cudaIpcOpenMemHandle((void **)&m->of[i], all[i].handle,
                                          cudaIpcMemLazyEnablePeerAccess);
        if (m->why != cudaSuccess) {
            m->of[i] = NULL;
            good = false;
        }
    }
    cudaGetLastError();
    return good;
}

static void close_others(struct cuda_members *m)
{
    for (int i = 0; i < MEMBERS_MOST; i++) {
        if (m->of[i] && m->of[i] != m->own)
            cudaIpcCloseMemHandle(m->of[i]);
        m->of[i] = NULL;
    }
    if (m->registered)
        cudaHostUnregister(m->registered);
    m->registered = NULL;
    m->broken = NULL;
    cudaGetLastError();
}

/* All members can reach each other, or none uses it.  Once this is over, everybody has opened what
 * there is. */
static int reach_others(struct cuda_state *s, const struct group_seat *seat, struct err *e)
{
    struct cuda_members *m = s->members;
    struct address own = {}, all[MEMBERS_MOST];
    int64_t can[MEMBERS_MOST];

    own.can = open_own(s, &own) && register_broken(m);
    own.n_multiprocessors = (uint32_t)s->n_multiprocessors;
    if (seat->swap(seat->context, &own, sizeof own, all, e) < 0)
        return -1;
    if (meeting_tell(m->meeting, open_others(m, seat, all), can, e) < 0)
        return -1;
    m->reach = true;
    for (int i = 0; i < seat->n; i++)
        m->reach = m->reach && can[i];
    return 0;
}

static int group_join(struct backend *b, const struct group_seat *seat, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    struct cuda_members *m = s->members;

    if (seat->n > MEMBERS_MOST)
        return err_set(e, ERR_USAGE, "%d GPUs; at most %d can share a job", seat->n, MEMBERS_MOST);
    if (!m)
        m = s->members = (struct cuda_members *)mem_alloc(sizeof *m);
    m->n_joined++;
    if (meeting_open(&m->meeting, seat, HOST_ROOM, e) < 0 || reach_others(s, seat, e) < 0)
        return -1;
    return 0;
}

/* Kernels that wait for one that gave up end by themselves. */
static void group_leave(struct backend *b)
{
    struct cuda_state *s = cuda_state_here(b);
    struct cuda_members *m = s->members;

    if (!m || !m->meeting)
        return;
    cudaStreamSynchronize(s->stream);
    cudaGetLastError();
    close_others(m);
    meeting_close(m->meeting);
    m->meeting = NULL;
    m->reach = false;
}

void cuda_members_close(struct cuda_state *s)
{
    struct cuda_members *m = s->members;

    if (!m)
        return;
    group_leave(s->backend);
    backend_disown(s->backend, m->own);
    cudaFree(m->own);
    cudaFree(m->counter);
    free(m);
    s->members = NULL;
}

static int group_collect(struct backend *b, const struct collect_args *a, struct err *e)
{
    return cuda_collect(cuda_state_of(b), a, e);
}

static int group_tell(struct backend *b, int64_t mine, int64_t *all, struct err *e)
{
    return meeting_tell(cuda_state_here(b)->members->meeting, mine, all, e);
}

static void group_give_up(struct backend *b, const struct err *why)
{
    struct cuda_members *m = cuda_state_here(b)->members;

    if (m && m->meeting)
        meeting_give_up(m->meeting, why);
}

extern "C" {
const struct group_ops cuda_group_ops = {
    .join = group_join,
    .leave = group_leave,
    .collect = group_collect,
    .tell = group_tell,
    .give_up = group_give_up,
};
}
