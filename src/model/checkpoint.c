/* checkpoint.c - the files of a folder: weights, whole or in shards, and their hash.  What is
 * cached where is in hub_cache.c. */
#include "model/checkpoint.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/js.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WHOLE "model.safetensors"
#define INDEX "model.safetensors.index.json"

static bool has(const char *folder, const char *name)
{
    char *path = file_join(folder, name);
    bool there = access(path, R_OK) == 0;

    free(path);
    return there;
}

static int no_weights(const char *folder, struct err *e)
{
    bool bin = has(folder, "pytorch_model.bin") || has(folder, "pytorch_model.bin.index.json") ||
               has(folder, "consolidated.00.pth");

    return err_set(e, ERR_INPUT,
                   "%s holds neither " WHOLE " nor " INDEX
                   "%s; sweeps/README.md says how to fetch a model",
                   folder, bin ? "; PyTorch .bin and .pth files are not supported" : "");
}

/* ---- shards ---- */

static bool is_plain_name(const char *name)
{
    return *name && !strchr(name, '/') && strcmp(name, "..") != 0 && strcmp(name, ".") != 0;
}

/* File names of a weight_map in the order they first appear; release with free(). */
static int shard_names(const struct js *map, const char ***names, int *n, struct err *e)
{
    struct js_member m = JS_MEMBER_INIT;

    *n = 0;
    *names = mem_array(js_count(map) + 1, sizeof **names);
    while (js_next(map, &m)) {
        const char *name = js_text(m.value);
        int i = 0;

        if (!name || !is_plain_name(name) || strlen(name) != js_text_bytes(m.value))
            return err_set(e, ERR_INPUT, "weight_map.%s is not a plain file name", m.key);
        while (i < *n && strcmp((*names)[i], name) != 0)
            i++;
        if (i == *n)
            (*names)[(*n)++] = name;
    }
    if (*n == 0)
        return err_set(e, ERR_INPUT, "weight_map is empty");
    return 0;
}

static int by_name(const void *a, const void *b)
{
    const struct checkpoint_tensor *x = a, *y = b;

    return strcmp(x->name, y->name);
}

static int map_tensors(struct checkpoint *c, const struct js *map, const char *const *names,
                       struct err *e)
{
    struct js_member m = JS_MEMBER_INIT;

    c->tensor = mem_array(js_count(map), sizeof *c->tensor);
    while (js_next(map, &m)) {
        struct checkpoint_tensor *t = &c->tensor[c->n];
        int i = 0;

        while (strcmp(names[i], js_text(m.value)) != 0)
            i++;
        t->file = &c->file[i];
        t->tensor = safetensors_find(t->file, m.key);
        if (!t->tensor)
            return err_set(e, ERR_INPUT, "tensor %s is not in %s, where weight_map places it",
                           m.key, names[i]);
        t->name = t->tensor->name;
        c->n++;
    }
    qsort(c->tensor, c->n, sizeof *c->tensor, by_name);
    return 0;
}

static int open_shards(struct checkpoint *c, const char *folder, struct err *e)
{
    int rc = -1, n = 0;
    const char **names = NULL;
    char *index = file_join(folder, INDEX);
    struct js *j = js_read(index, e);
    const struct js *map = js_get(j, "weight_map");

    if (!j)
        goto out;
    if (js_kind(map) != JS_OBJECT) {
        err_set(e, ERR_INPUT, "weight_map is %s", map ? "not an object" : "missing");
        goto wrong;
    }
    if (shard_names(map, &names, &n, e) < 0)
        goto wrong;
    c->file = mem_array((size_t)n, sizeof *c->file);
    for (; c->n_files < n; c->n_files++) {
        char *path = file_join(folder, names[c->n_files]);
        int opened = safetensors_open(&c->file[c->n_files], path, e);
        free(path);
        if (opened < 0)
            goto wrong;
    }
    if (map_tensors(c, map, names, e) < 0)
        goto wrong;
    rc = 0;
wrong:
    if (rc < 0)
        err_in(e, "%s", index);
out:
    free(names);
    js_release(j);
    free(index);
    return rc;
}

static int open_whole(struct checkpoint *c, const char *folder, struct err *e)
{
    char *path = file_join(folder, WHOLE);

    c->file = mem_array(1, sizeof *c->file);
    int rc = safetensors_open(c->file, path, e);
    free(path);
    if (rc < 0)
        return -1;
    c->n_files = 1;
    c->n = c->file->n;
    c->tensor = mem_array(c->n, sizeof *c->tensor);
    for (size_t i = 0; i < c->n; i++) /* sorted by name already */
        c->tensor[i] =
            (struct checkpoint_tensor){ c->file->tensor[i].name, c->file, &c->file->tensor[i] };
    return 0;
}

int checkpoint_open(struct checkpoint *c, const char *folder, struct err *e)
{
    int rc;

    *c = (struct checkpoint)CHECKPOINT_INIT;
    if (has(folder, WHOLE))
        rc = open_whole(c, folder, e);
    else if (has(folder, INDEX))
        rc = open_shards(c, folder, e);
    else
        rc = no_weights(folder, e);
    if (rc < 0)
        checkpoint_close(c);
    return rc;
}

void checkpoint_close(struct checkpoint *c)
{
    for (int i = 0; i < c->n_files; i++)
        safetensors_close(&c->file[i]);
    free(c->file);
    free(c->tensor);
    *c = (struct checkpoint)CHECKPOINT_INIT;
}

const struct checkpoint_tensor *checkpoint_tensor(const struct checkpoint *c, const char *name)
{
    struct checkpoint_tensor key = { .name = name };

    return c->n ? bsearch(&key, c->tensor, c->n, sizeof key, by_name) : NULL;
}

/* ---- identity ---- */

/* The cache names a large file by its SHA-256 (small ones by git's 40 digits). */
static bool hash_of_link(const char *path, char out[HASH_TEXT_MAX])
{
    char target[PATH_MAX];
    ssize_t n = readlink(path, target, sizeof target - 1);

    if (n < 64)
        return false;
    target[n] = 0;
    const char *name = target + n - 64;
    if (strspn(name, "0123456789abcdef") != 64 || (n > 64 && name[-1] != '/'))
        return false;
    memcpy(out, name, HASH_TEXT_MAX);
    return access(path, R_OK) == 0;
}

/* Called for each file that decides results. */
typedef int visit_file(void *context, const char *folder, const char *name, struct err *e);

static int add_hash(void *context, const char *folder, const char *name, struct err *e)
{
    struct hash *h = context;
    char digits[HASH_TEXT_MAX];
    char *path = file_join(folder, name);
    int rc = hash_of_link(path, digits) ? 0 : hash_file(path, digits, e);

    free(path);
    if (rc == 0) {
        hash_add(h, name, strlen(name) + 1);
        hash_add(h, digits, strlen(digits) + 1);
    }
    return rc;
}

static int add_stamp(void *context, const char *folder, const char *name, struct err *e)
{
    struct stat st;
    char *path = file_join(folder, name);
    int rc = stat(path, &st);

    if (rc < 0)
        err_set(e, ERR_INPUT, "%s: %s", path, strerror(errno));
    else
        bytes_printf(context, "%s %lld %lld.%09ld\n", name, (long long)st.st_size,
                     (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    free(path);
    return rc;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int visit_shards(const char *folder, visit_file *visit, void *context, struct err *e)
{
    int rc = -1, n = 0;
    const char **names = NULL;
    char *index = file_join(folder, INDEX);
    struct js *j = js_read(index, e);

    if (!j)
        goto out;
    if (shard_names(js_get(j, "weight_map"), &names, &n, e) < 0) {
        err_in(e, "%s", index);
        goto out;
    }
    qsort(names, (size_t)n, sizeof *names, by_text);
    for (int i = 0; i < n; i++)
        if (visit(context, folder, names[i], e) < 0)
            goto out;
    rc = visit(context, folder, INDEX, e);
out:
    free(names);
    js_release(j);
    free(index);
    return rc;
}

static int visit_files(const char *folder, visit_file *visit, void *context, struct err *e)
{
    static const char *const small[] = { "config.json", "generation_config.json", "tokenizer.json",
                                         "tokenizer_config.json" };

    for (size_t i = 0; i < sizeof small / sizeof *small; i++)
        if (has(folder, small[i]) && visit(context, folder, small[i], e) < 0)
            return -1;
    if (has(folder, WHOLE))
        return visit(context, folder, WHOLE, e);
    return has(folder, INDEX) ? visit_shards(folder, visit, context, e) : no_weights(folder, e);
}

int checkpoint_sha256(const char *folder, char *out, struct err *e)
{
    struct hash h = HASH_INIT;

    hash_start(&h);
    int rc = visit_files(folder, add_hash, &h, e);
    hash_finish(&h, out);
    return rc;
}

int checkpoint_stamp(const char *folder, struct bytes *out, struct err *e)
{
    return visit_files(folder, add_stamp, out, e);
}

int checkpoint_check(const char *folder, const char *stamp, const char *sha256, struct err *e)
{
    struct bytes now = BYTES_INIT;
    char digits[HASH_TEXT_MAX] = "";
    int rc = checkpoint_stamp(folder, &now, e);

    if (rc == 0 && (!now.data || strcmp(now.data, stamp) != 0))
        rc = checkpoint_sha256(folder, digits, e);
    if (rc == 0 && *digits && strcmp(digits, sha256) != 0)
        rc = err_set(e, ERR_INPUT,
                     "%s: the model was changed while the sweep runs (SHA-256 %.12s, at its start "
                     "%.12s)",
                     folder, digits, sha256);
    bytes_release(&now);
    return rc;
}
