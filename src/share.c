/* share.c - see share.h. */
#include "share.h"

#include "base/clock.h"
#include "base/js.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Joining takes a second or two; the slower ones wait for a driver that wakes other devices. */
#define JOIN_WAIT_S 60.0
/* A device that gets less than this has stopped. */
#define SLOWEST_BYTES_PER_S 1e8
#define SEND_WAIT_S         20.0

/* ---- what the engines of the node tell each other ---- */

struct told {
    int n, own; /* own: place of this rank, -1: not there */
    int *rank;
    struct js **from;
};

static void told_release(struct told *t)
{
    for (int i = 0; i < t->n; i++)
        js_release(t->from[i]);
    free(t->rank);
    free(t->from);
    *t = (struct told){ 0 };
}

/* What this rank tells comes back among the others' as the same bytes, but perhaps another's, too:
 * so each says which local rank it is. */
static int tell(struct sharing *s, struct js *what, struct told *out, struct err *e)
{
    struct bytes heard = BYTES_INIT;
    const char *bytes;
    size_t n_text, n_bytes, at = 0;
    int rank;

    *out = (struct told){ .own = -1 };
    js_set_int(what, "local_rank", s->site->local_rank);
    char *text = js_write(what, &n_text);
    js_release(what);
    int rc = engine_tell(s->site, text, n_text, &heard, e);
    free(text);
    while (rc == 0 && engine_heard(&heard, &at, &rank, &bytes, &n_bytes)) {
        out->rank = mem_grow(out->rank, (size_t)out->n + 1, sizeof *out->rank);
        out->from = mem_grow(out->from, (size_t)out->n + 1, sizeof *out->from);
        struct js *one = js_parse(bytes, n_bytes, e);
        if (!one) {
            rc = err_in(e, "what rank %d tells", rank);
            break;
        }
        if (js_int(js_get(one, "local_rank")) == s->site->local_rank)
            out->own = out->n;
        out->rank[out->n] = rank;
        out->from[out->n++] = one;
    }
    bytes_release(&heard);
    if (rc < 0)
        told_release(out);
    return rc;
}

/* Takes no further part in the talk. */
static void stop_talking(struct sharing *s)
{
    struct err ignored = ERR_INIT;

    if (s->talks)
        engine_tell(s->site, NULL, 0, NULL, &ignored);
    s->talks = false;
}

void sharing_end(struct sharing *s)
{
    stop_talking(s);
    if (s->joining)
        s->backend->ops->share->leave(s->backend);
    s->joining = false;
    s->n = 0;
}

/* ---- who shares ---- */

static const char *device_of(const struct told *t, int i)
{
    const char *id = js_text(js_get(t->from[i], "device"));

    return id ? id : "";
}

/* The first that told it has this device. */
static int owner_of(const struct told *t, int i)
{
    for (int k = 0; k < i; k++)
        if (*device_of(t, i) && strcmp(device_of(t, k), device_of(t, i)) == 0)
            return k;
    return i;
}

/* Sets index and n, in the order of ranks; *first: the rank that reads.  One a device. */
static void count(struct sharing *s, const struct told *t, int *first)
{
    int index = -1;

    s->n = 0;
    *first = -1;
    for (int i = 0; i < t->n; i++) {
        if (owner_of(t, i) != i || !js_bool(js_get(t->from[i], "can")))
            continue;
        if (*first < 0)
            *first = t->rank[i];
        if (i == t->own)
            index = s->n;
        s->n++;
    }
    s->index = index;
    if (index < 0)
        s->n = 0;
}

static const struct js *of_rank(const struct told *t, int rank)
{
    for (int i = 0; i < t->n; i++)
        if (t->rank[i] == rank)
            return t->from[i];
    return NULL;
}

/* One line a node where nothing is wrong with this rank alone. */
static void say_why(const struct sharing *s, const char *why)
{
    log_line(s->site->local_rank == 0 ? LOG_WARN : LOG_INFO,
             "each rank of this node reads the weights from the file: %s", why);
}

static int say_device(struct sharing *s, const char *device, struct told *out, struct err *e)
{
    const struct share_ops *share = s->backend->ops->share;
    struct js *what = js_new_object();

    js_set_text(what, "device", device);
    js_set_bool(what, "can", share && share->find(s->backend, s->version, &s->cannot) == 0);
    return tell(s, what, out, e);
}

static char hex_digit(int value)
{
    return "0123456789abcdef"[value & 15];
}

static bool id_of_text(const char *text, char id[SHARE_ID_BYTES])
{
    if (!text || strlen(text) != 2 * SHARE_ID_BYTES)
        return false;
    for (int i = 0; i < SHARE_ID_BYTES; i++) {
        unsigned value;
        if (sscanf(text + 2 * i, "%2x", &value) != 1)
            return false;
        id[i] = (char)value;
    }
    return true;
}

/* The first makes the id; all hear it. */
static int exchange_id(struct sharing *s, int first, char id[SHARE_ID_BYTES], struct err *e)
{
    struct js *what = js_new_object();
    struct told told;

    if (s->index == 0 && s->backend->ops->share->id(s->backend, id, &s->cannot) == 0) {
        char text[2 * SHARE_ID_BYTES + 1] = "";
        for (int i = 0; i < SHARE_ID_BYTES; i++) {
            text[2 * i] = hex_digit(id[i] >> 4);
            text[2 * i + 1] = hex_digit(id[i]);
        }
        js_set_text(what, "id", text);
    }
    if (tell(s, what, &told, e) < 0)
        return -1;
    if (!id_of_text(js_text(js_get(of_rank(&told, first), "id")), id) && !s->cannot.code)
        err_set(&s->cannot, ERR_DEVICE, "rank %d could not begin with %s", first, s->version);
    told_release(&told);
    return 0;
}

static int find_partners(struct sharing *s, bool share_device, int *first, struct err *e)
{
    struct device_facts facts;
    struct told told;
    int rc = -1;

    if (s->backend->ops->facts(s->backend, &facts, e) < 0 || say_device(s, facts.id, &told, e) < 0)
        return -1;
    int owner = told.own < 0 ? -1 : owner_of(&told, told.own);
    if (owner != told.own && !share_device) {
        err_set(
            e, ERR_USAGE,
            "rank %d has taken this GPU (%s): --share-gpu lets ranks share one, or start as many "
            "ranks as there are GPUs",
            told.rank[owner], facts.id);
        goto out;
    }
    count(s, &told, first);
    /* Without share_device those of a taken GPU idle: one may be left, which has nobody to tell. */
    if (s->n < 2 && told.n > 1 && (s->cannot.code || share_device))
        say_why(s, s->cannot.code ? s->cannot.text : "ranks share a GPU");
    rc = 0;
out:
    told_release(&told);
    return rc;
}

static bool is_worth_it(int64_t n_bytes)
{
    return n_bytes >= SHARE_BYTES_MIN || getenv("LLQ_TEST_SHARE_ALL");
}

int sharing_begin(struct sharing *s, const struct engine_site *site, struct backend *b,
                  int64_t n_bytes, bool share_device, struct err *e)
{
    char id[SHARE_ID_BYTES] = "";
    int first;

    *s = (struct sharing){ .site = site, .backend = b, .start_s = clock_seconds() };
    if (site->local_size < 2)
        return 0;
    if (site->again) {
        if (b->ops->share)
            log_info("the weights are read from the file: an engine that takes another's place "
                     "cannot join the other GPUs");
        return 0;
    }
    if (!b->ops->share)
        return 0;
    s->talks = true;
    if (find_partners(s, share_device, &first, e) < 0) {
        stop_talking(s);
        return -1;
    }
    if (n_bytes == 0) /* each has its own part */
        s->n = 0;
    if (s->n >= 2 && !is_worth_it(n_bytes)) {
        log_info("each rank of this node reads the weights from the file: %.3f GB are too few to "
                 "join the GPUs for",
                 (double)n_bytes * 1e-9);
        s->n = 0;
    }
    if (s->n < 2) {
        stop_talking(s);
        return 0;
    }
    if (exchange_id(s, first, id, e) < 0) {
        stop_talking(s);
        return -1;
    }
    if (!s->cannot.code) {
        s->joining = true;
        b->ops->share->join(b, id, s->index, s->n, &s->cannot);
    }
    return 0;
}

/* ---- the weights ---- */

static size_t sum_of(const struct load_parts *parts)
{
    size_t sum = 0;

    for (size_t i = 0; i < parts->n; i++)
        sum += parts->n_bytes[i];
    return sum;
}

/* Tells whether this rank is ready, hears the others; *why: the first that is not. */
static int all_ready(struct sharing *s, size_t n_bytes, bool *yes, struct err *why, struct err *e)
{
    struct js *what = js_new_object();
    struct told told;

    js_set_int(what, "bytes", (int64_t)n_bytes);
    js_set_text(what, "cannot", s->cannot.text);
    if (tell(s, what, &told, e) < 0)
        return -1;
    *yes = told.n == s->n;
    if (!*yes)
        err_set(why, ERR_DEVICE, "%d of %d GPUs are left", told.n, s->n);
    for (int i = 0; *yes && i < told.n; i++) {
        const char *cannot = js_text(js_get(told.from[i], "cannot"));
        if (cannot && *cannot)
            err_set(why, ERR_DEVICE, "rank %d: %s", told.rank[i], cannot);
        else if (js_int(js_get(told.from[i], "bytes")) != (int64_t)n_bytes)
            err_set(why, ERR_DEVICE, "rank %d has weights of another size", told.rank[i]);
        *yes = why->code == ERR_NONE;
    }
    told_release(&told);
    return 0;
}

/* Every device of the group enters here, or none does. */
static int send_all(struct sharing *s, const struct load_parts *parts, size_t n_bytes,
                    struct err *e)
{
    struct err ignored = ERR_INIT;
    struct told told;
    double start = clock_seconds();
    int rc =
        s->backend->ops->share->broadcast(s->backend, parts->at, parts->n_bytes, parts->n,
                                          SEND_WAIT_S + (double)n_bytes / SLOWEST_BYTES_PER_S, e);
    double seconds = clock_seconds() - start;

    /* No device leaves while another may still read from it. */
    if (tell(s, js_new_object(), &told, &ignored) == 0)
        told_release(&told);
    if (rc == 0)
        log_info(
            "weights: %.2f GB %s over %s in %.3f s, %.0f GB/s; %.2f s since this GPU was opened",
            (double)n_bytes * 1e-9, s->index ? "from another GPU of this node" : "to the others",
            s->version, seconds, (double)n_bytes * 1e-9 / seconds, clock_seconds() - s->start_s);
    return rc;
}

int sharing_fill(void *sharing, const struct load_parts *parts,
                 int (*read)(void *reading, struct err *e), void *reading, struct err *e)
{
    struct sharing *s = sharing;
    struct err why = ERR_INIT;
    size_t n_bytes = sum_of(parts);
    bool yes = false, have = s->n < 2 || s->index == 0;

    if (have && read(reading, e) < 0) {
        sharing_end(s); /* the others will read, and find the same */
        return -1;
    }
    if (s->n < 2)
        return 0;
    if (!s->cannot.code)
        s->backend->ops->share->joined(s->backend, JOIN_WAIT_S, &s->cannot);
    if (all_ready(s, n_bytes, &yes, &why, e) < 0) {
        sharing_end(s);
        return -1;
    }
    if (yes && send_all(s, parts, n_bytes, &why) == 0)
        have = s->arrived = true;
    sharing_end(s);
    if (why.code)
        log_warn("%s could not bring the weights to every GPU%s: %s", s->version,
                 have ? "" : ", this rank reads the file", why.text);
    return have ? 0 : read(reading, e);
}
