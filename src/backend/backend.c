/* backend.c - the list of backends, and the account of what their memory is used for. */
#include "backend/backend.h"

#include "backend/group.h"
#include "base/memory.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const struct backend_ops backend_cpu;
#if defined(WITH_CUDA)
extern const struct backend_ops backend_cuda;
#endif

static const struct backend_ops *const compiled[] = {
#if defined(WITH_CUDA)
    &backend_cuda,
#endif
    &backend_cpu,
};

static const char *const tag_names[MEM_N_TAGS] = { "the base model", "weights", "the cache",
                                                   "scratch" };

static const struct backend_ops *find(const char *name)
{
    for (size_t i = 0; i < sizeof compiled / sizeof *compiled; i++)
        if (!strcmp(compiled[i]->name, name))
            return compiled[i];
    return NULL;
}

bool backend_compiled(const char *name)
{
    return find(name) != NULL;
}

const char *backend_built(const char *name)
{
    const struct backend_ops *ops = find(name);

    return ops ? ops->built : NULL;
}

int backend_n_devices(const char *name)
{
    const struct backend_ops *ops = find(strcmp(name, "auto") ? name : "cuda");
    int n = ops && ops->n_devices ? ops->n_devices() : 1;

    return n > 0 ? n : 1;
}

static void check_table(const struct backend_ops *o)
{
    assert(o->name && o->open && o->close && o->facts && o->alloc && o->free);
    assert(o->upload && o->download && o->sync && o->copy && o->embed && o->norm && o->linear &&
           o->rope);
    assert(o->attention && o->add && o->swiglu && o->gather && o->argmax && o->nll && o->convert);
    assert(o->quantize && o->dequantize);
    assert(!o->stage == !o->send);
}

static int open_named(struct backend *b, const char *name, int device, struct err *e)
{
    const struct backend_ops *ops = find(name);

    if (!ops && !strcmp(name, "cuda"))
        return err_set(e, ERR_USAGE,
                       "the device \"cuda\" is not in this build: it was made without CUDA "
                       "(make CUDA=1 where nvcc is found; or run on the device \"cpu\")");
    if (!ops)
        return err_set(e, ERR_USAGE, "there is no device \"%s\": cpu, cuda and auto are known",
                       name);
    check_table(ops);
    *b = (struct backend){ .ops = ops };
    if (ops->open(b, device, e) < 0) {
        *b = (struct backend)BACKEND_INIT;
        return err_in(e, "opening the device \"%s\"", name);
    }
    return 0;
}

int backend_open(struct backend *b, const char *name, int device, char why[256], struct err *e)
{
    struct err refused = ERR_INIT;

    if (why)
        why[0] = 0;
    if (strcmp(name, "auto"))
        return open_named(b, name, device, e);

    if (!find("cuda")) {
        if (why)
            snprintf(why, 256, "running on the CPU: this program was built without CUDA");
        return open_named(b, "cpu", device, e);
    }
    if (open_named(b, "cuda", device, &refused) == 0) {
        if (why)
            snprintf(why, 256, "running on CUDA device %d", device);
        return 0;
    }
    /* A device that is there but full or broken is no reason to work a hundred times slower. */
    if (refused.code != ERR_USAGE) {
        *e = refused;
        return err_in(e, "--backend auto (cpu runs without it)");
    }
    if (why)
        snprintf(why, 256, "running on the CPU: %.200s", refused.text);
    return open_named(b, "cpu", device, e);
}

/* Is it one of the sentences, whole? */
static bool is_noted(const char *notes, const char *sentence)
{
    const size_t n = strlen(sentence);

    for (const char *at = notes; (at = strstr(at, sentence)); at += n)
        if ((at == notes || (at - notes > 1 && at[-2] == ';')) && (!at[n] || at[n] == ';'))
            return true;
    return false;
}

void backend_note(struct backend *b, const char *sentence)
{
    const size_t n = strlen(b->notes), room = sizeof b->notes - n;

    if (!is_noted(b->notes, sentence))
        snprintf(b->notes + n, room, "%s%s", n ? "; " : "", sentence);
}

/* ---- groups ---- */

#define MEMBERS_MAX 64

int backend_join(struct backend *b, const struct group_seat *seat, struct err *e)
{
    if (!b->ops->group)
        return err_set(e, ERR_USAGE, "devices of \"%s\" cannot work on one job together",
                       b->ops->name);
    if (seat->n < 2 || seat->n > MEMBERS_MAX)
        return err_set(e, ERR_USAGE, "a group of %d", seat->n);
    backend_leave(b);
    if (b->ops->group->join(b, seat, e) < 0) {
        b->ops->group->leave(b);
        return err_in(e, "joining a group of %d", seat->n);
    }
    b->member = seat->index;
    b->n_members = seat->n;
    return 0;
}

void backend_leave(struct backend *b)
{
    if (b->n_members)
        b->ops->group->leave(b);
    b->member = b->n_members = 0;
}

int backend_free_bytes(struct backend *b, int64_t *out, struct err *e)
{
    struct device_facts facts;
    int64_t all[MEMBERS_MAX];

    if (b->ops->facts(b, &facts, e) < 0)
        return -1;
    *out = facts.free_bytes;
    if (!b->n_members)
        return 0;
    if (b->ops->group->tell(b, *out, all, e) < 0)
        return -1;
    for (int i = 0; i < b->n_members; i++)
        *out = all[i] < *out ? all[i] : *out;
    return 0;
}

bool backend_first_says(struct backend *b, bool own)
{
    struct err ignored = ERR_INIT;
    int64_t all[MEMBERS_MAX];

    if (!b->n_members)
        return own;
    return b->ops->group->tell(b, own, all, &ignored) == 0 && all[0];
}

/* ---- live allocations: address -> size and tag, open addressing ---- */

struct live {
    void *address; /* NULL: empty */
    size_t n_bytes;
    enum mem_tag tag;
};

struct sizes {
    size_t n, room; /* room: a power of two */
    struct live *at;
};

static size_t place_of(const struct sizes *s, const void *address)
{
    return (size_t)((uintptr_t)address * UINT64_C(0x9E3779B97F4A7C15) >> 20) & (s->room - 1);
}

static struct live *find_live(const struct sizes *s, const void *address)
{
    size_t i = place_of(s, address);

    while (s->at[i].address && s->at[i].address != address)
        i = (i + 1) & (s->room - 1);
    return &s->at[i];
}

static void remember(struct backend *b, struct live entry)
{
    struct sizes *s = b->sizes;

    if (!s)
        s = b->sizes = mem_alloc(sizeof *s);
    if (2 * (s->n + 1) > s->room) {
        struct sizes larger = { .n = s->n, .room = s->room ? 2 * s->room : 256 };
        larger.at = mem_array(larger.room, sizeof *larger.at);
        for (size_t i = 0; i < s->room; i++)
            if (s->at[i].address)
                *find_live(&larger, s->at[i].address) = s->at[i];
        free(s->at);
        *s = larger;
    }
    *find_live(s, entry.address) = entry;
    s->n++;
}

/* Takes the entry out and moves up those behind it that would no longer be found. */
static struct live forget(struct backend *b, void *address)
{
    struct sizes *s = b->sizes;

    assert(s && "an address of this backend");
    struct live *hole = find_live(s, address), entry = *hole;
    assert(entry.address && "a live address of this backend");
    for (size_t i = (size_t)(hole - s->at);;) {
        i = (i + 1) & (s->room - 1);
        if (!s->at[i].address)
            break;
        size_t from_home = (i - place_of(s, s->at[i].address)) & (s->room - 1);
        if (from_home >= ((i - (size_t)(hole - s->at)) & (s->room - 1))) {
            *hole = s->at[i];
            hole = &s->at[i];
        }
    }
    hole->address = NULL;
    s->n--;
    return entry;
}

void backend_close(struct backend *b)
{
    struct sizes *s = b->sizes;

    if (!b->ops)
        return;
    backend_leave(b);
    b->ops->close(b);
    if (s)
        free(s->at);
    free(s);
    *b = (struct backend)BACKEND_INIT;
}

static size_t job_bytes(const struct mem_account *m)
{
    return m->now[MEM_WEIGHTS] + m->now[MEM_CACHE] + m->now[MEM_SCRATCH];
}

void backend_adopt(struct backend *b, enum mem_tag tag, void *p, size_t n_bytes)
{
    struct mem_account *m = &b->mem;

    remember(b, (struct live){ .address = p, .n_bytes = n_bytes, .tag = tag });
    m->now[tag] += n_bytes;
    if (m->now[tag] > m->peak[tag])
        m->peak[tag] = m->now[tag];
    if (job_bytes(m) > m->job_peak)
        m->job_peak = job_bytes(m);
}

void backend_disown(struct backend *b, void *p)
{
    if (!p)
        return;
    struct live entry = forget(b, p);
    b->mem.now[entry.tag] -= entry.n_bytes;
}

int backend_alloc(struct backend *b, enum mem_tag tag, size_t n_bytes, void **out, struct err *e)
{
    *out = NULL;
    if (b->ops->alloc(b, n_bytes, out, e) < 0)
        return err_in(e, "%s", tag_names[tag]);
    backend_adopt(b, tag, *out, n_bytes);
    return 0;
}

void backend_free(struct backend *b, void *p)
{
    if (!p)
        return;
    backend_disown(b, p);
    b->ops->free(b, p);
}

void mem_account_reset_peak(struct backend *b)
{
    memcpy(b->mem.peak, b->mem.now, sizeof b->mem.peak);
    b->mem.job_peak = job_bytes(&b->mem);
}

/* ---- tensors and weights ---- */

int tensor_alloc(struct backend *b, enum mem_tag tag, enum dtype t, int64_t n_rows, int64_t n_cols,
                 struct tensor *out, struct err *e)
{
    *out = (struct tensor){ .dtype = t, .n_rows = n_rows, .n_cols = n_cols, .tag = tag };
    if (backend_alloc(b, tag, tensor_bytes(out), &out->data, e) < 0) {
        *out = (struct tensor){ 0 };
        return err_in(e, "a %s matrix of %lld x %lld", dtype_name(t), (long long)n_rows,
                      (long long)n_cols);
    }
    return 0;
}

void tensor_free(struct backend *b, struct tensor *t)
{
    if (t->data)
        backend_free(b, t->data);
    *t = (struct tensor){ 0 };
}

size_t tensor_bytes(const struct tensor *t)
{
    return (size_t)t->n_rows * (size_t)t->n_cols * dtype_bytes(t->dtype);
}

int weight_alloc(struct backend *b, enum mem_tag tag, struct weight *w, struct err *e)
{
    struct {
        void **at;
        size_t n_bytes;
    } parts[] = {
        { &w->codes, weight_codes_bytes(w) },
        { &w->scales, weight_scales_bytes(w) },
        { &w->scales2, weight_scales2_bytes(w) },
        { &w->zeros, weight_zeros_bytes(w) },
    };

    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        *parts[i].at = NULL;
    w->g_idx = NULL;
    w->owned = true;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (parts[i].n_bytes && backend_alloc(b, tag, parts[i].n_bytes, parts[i].at, e) < 0) {
            weight_release(b, w);
            return err_in(e, "a packed matrix of %lld x %lld", (long long)w->n_out,
                          (long long)w->n_in);
        }
    return 0;
}

void weight_release(struct backend *b, struct weight *w)
{
    if (w->owned) {
        backend_free(b, w->codes);
        backend_free(b, w->scales);
        backend_free(b, w->scales2);
        backend_free(b, w->zeros);
        backend_free(b, w->g_idx);
    }
    *w = (struct weight){ 0 };
}

struct weight weight_of_tensor(const struct tensor *t)
{
    size_t n_bytes = dtype_bytes(t->dtype);

    return (struct weight){
        .form = WEIGHT_PLAIN,
        .n_out = t->n_rows,
        .n_in = t->n_cols,
        .plain_dtype = t->dtype,
        .bits = (int)(8 * n_bytes),
        .row_bytes = t->n_cols * (int64_t)n_bytes,
        .group_size = t->n_cols,
        .scale_form = SCALE_NONE,
        .codes = t->data,
        .owned = false,
    };
}
