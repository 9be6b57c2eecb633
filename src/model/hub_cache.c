/* hub_cache.c - checkpoint_find(): a folder, or an id in the offline cache of Hugging Face hub:
 *
 *   ROOT/models--ORG--NAME/refs/REVISION            text: the commit
 *   ROOT/models--ORG--NAME/snapshots/COMMIT/FILE    the files, mostly links to ../../blobs
 *   ROOT/models--ORG--NAME/trees/COMMIT.json        recent caches: all files of the commit
 *
 * Another snapshot than the one asked for is never taken. */
#include "model/checkpoint.h"

#include "base/file.h"
#include "base/js.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LISTED_MAX 20
#define HELP       "sweeps/README.md says how to fetch a model"

/* ---- where the cache is ---- */

/* "~/x", "$VAR/x" and "${VAR}/x" with what they stand for; unknown variables stay. */
static char *expanded(const char *text)
{
    struct bytes b = BYTES_INIT;
    const char *home = getenv("HOME");

    bytes_add(&b, "", 0);
    if (text[0] == '~' && (text[1] == '/' || text[1] == 0) && home) {
        bytes_text(&b, home);
        text++;
    }
    while (*text) {
        size_t braces = text[0] == '$' && text[1] == '{';
        size_t n = 0;
        if (text[0] == '$')
            while (isalnum((unsigned char)text[1 + braces + n]) || text[1 + braces + n] == '_')
                n++;
        if (n && (!braces || text[2 + n] == '}')) {
            char *name = mem_textn(text + 1 + braces, n);
            const char *value = getenv(name);
            bytes_add(&b, value ? value : text, value ? strlen(value) : 1 + n + 2 * braces);
            text += 1 + n + 2 * braces;
            free(name);
        } else {
            bytes_add(&b, text++, 1);
        }
    }
    return b.data;
}

static const char *variable(const char *name)
{
    const char *value = getenv(name);

    return value && *value ? value : NULL;
}

static char *cache_root(void)
{
    const char *hub = variable("HF_HUB_CACHE");
    const char *home = variable("HF_HOME"), *xdg = variable("XDG_CACHE_HOME");

    if (!hub)
        hub = variable("HUGGINGFACE_HUB_CACHE");
    if (hub)
        return expanded(hub);
    char *cache = expanded(home ? home : xdg ? xdg : "~/.cache");
    char *root = file_join(cache, home ? "hub" : "huggingface/hub");
    free(cache);
    return root;
}

/* ---- what is there, for messages ---- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Sorted names in folder that begin with prefix; free each and the list. */
static char **names_in(const char *folder, const char *prefix, size_t *n)
{
    DIR *d = opendir(folder);
    char **list = NULL;

    *n = 0;
    for (struct dirent *entry; d && (entry = readdir(d));)
        if (entry->d_name[0] != '.' && strncmp(entry->d_name, prefix, strlen(prefix)) == 0) {
            list = mem_grow(list, *n + 1, sizeof *list);
            list[(*n)++] = mem_text(entry->d_name);
        }
    if (d)
        closedir(d);
    if (*n)
        qsort(list, *n, sizeof *list, by_text);
    return list;
}

/* "models--a--b" -> "a/b", in place. */
static char *id_of_folder(char *name)
{
    char *id = name + strlen("models--"), *dashes = strstr(id, "--");

    if (dashes) {
        *dashes = '/';
        memmove(dashes + 1, dashes + 2, strlen(dashes + 2) + 1);
    }
    return id;
}

static void add_listing(struct bytes *b, const char *folder, const char *prefix)
{
    size_t n;
    char **list = names_in(folder, prefix, &n);

    for (size_t i = 0; i < n; i++) {
        if (i < LISTED_MAX)
            bytes_printf(b, "%s%s", i ? ", " : "", *prefix ? id_of_folder(list[i]) : list[i]);
        free(list[i]);
    }
    if (n == 0)
        bytes_text(b, "nothing");
    if (n > LISTED_MAX)
        bytes_printf(b, ", and %zu more", n - LISTED_MAX);
    free(list);
}

static int not_found(const char *id, const char *root, struct err *e)
{
    struct bytes cached = BYTES_INIT;

    add_listing(&cached, root, "models--");
    err_set(
        e, ERR_INPUT,
        "%s is neither a folder nor a model in the Hugging Face cache %s (cached there: %s); " HELP,
        id, root, cached.data);
    bytes_release(&cached);
    return -1;
}

static int no_snapshot(const char *id, const char *revision, const char *commit,
                       const char *snapshots, struct err *e)
{
    struct bytes cached = BYTES_INIT;

    add_listing(&cached, snapshots, "");
    err_set(e, ERR_INPUT,
            "revision %s of %s (commit %s) is not in the Hugging Face cache %s (snapshots there: "
            "%s); " HELP,
            revision, id, commit, snapshots, cached.data);
    bytes_release(&cached);
    return -1;
}

/* ---- is the snapshot whole? ---- */

static bool there(const char *folder, const char *name)
{
    char *path = file_join(folder, name);
    bool readable = access(path, R_OK) == 0;

    free(path);
    return readable;
}

static bool wanted(const char *name)
{
    const char *dot = strrchr(name, '.');

    return dot && !strchr(name, '/') &&
           (strcmp(dot, ".json") == 0 || strcmp(dot, ".safetensors") == 0);
}

static const char *listed_name(const struct js *j)
{
    const char *name = js_text(j);

    if (!name)
        name = js_text(js_get(j, "path"));
    return name ? name : js_text(js_get(j, "rfilename"));
}

/* ", missing of its files: a, b": by trees/COMMIT.json where that is there. */
static void add_missing(struct bytes *b, const char *repository, const char *commit,
                        const char *snapshot)
{
    static const char *const lists[] = { "files", "tree", "siblings", "entries" };
    struct err ignored = ERR_INIT;
    struct bytes name = BYTES_INIT;

    bytes_printf(&name, "trees/%s.json", commit);
    char *path = file_join(repository, name.data);
    struct js *tree = js_read(path, &ignored);
    const struct js *list = tree;
    for (size_t i = 0; js_kind(list) == JS_OBJECT && i < sizeof lists / sizeof *lists; i++)
        if (js_kind(js_get(list, lists[i])) == JS_ARRAY)
            list = js_get(list, lists[i]);
    size_t n = 0;
    for (size_t i = 0; js_kind(list) == JS_ARRAY && i < js_count(list); i++) {
        const char *file = listed_name(js_at(list, i));
        if (file && wanted(file) && !there(snapshot, file) && n++ < LISTED_MAX)
            bytes_printf(b, "%s%s", n == 1 ? "; missing of its files: " : ", ", file);
    }
    js_release(tree);
    free(path);
    bytes_release(&name);
}

static int check_snapshot(const char *id, const char *repository, const char *commit,
                          const char *snapshot, struct err *e)
{
    struct bytes missing = BYTES_INIT;
    bool config = there(snapshot, "config.json");
    bool weights =
        there(snapshot, "model.safetensors") || there(snapshot, "model.safetensors.index.json");

    if (config && weights)
        return 0;
    bytes_add(&missing, "", 0);
    add_missing(&missing, repository, commit, snapshot);
    err_set(e, ERR_INPUT, "%s is cached without %s (%s%s); " HELP, id,
            config ? "model.safetensors" : "config.json", snapshot, missing.data);
    bytes_release(&missing);
    return -1;
}

/* ---- the search ---- */

/* "name" or "org/name", of letters, digits, '-', '_' and '.': anything else is a path. */
static bool is_id(const char *text)
{
    int slashes = 0;

    for (const char *p = text; *p; p++) {
        slashes += *p == '/';
        if (!isalnum((unsigned char)*p) && !strchr("-_./", *p))
            return false;
    }
    size_t n = strlen(text);
    return n > 0 && n <= 200 && slashes <= 1 && text[0] != '/' && text[n - 1] != '/' &&
           text[0] != '.' && !strstr(text, "..") && !strstr(text, "--") && !strstr(text, "/.");
}

static char *repository_of(const char *root, const char *id)
{
    struct bytes name = BYTES_INIT;

    bytes_text(&name, "models--");
    for (const char *p = id; *p; p++)
        bytes_add(&name, *p == '/' ? "--" : p, *p == '/' ? 2 : 1);
    char *path = file_join(root, name.data);
    bytes_release(&name);
    return path;
}

/* The commit that refs/<revision> holds, else the revision itself. */
static int commit_of(const char *repository, const char *revision, char commit[64], struct err *e)
{
    struct bytes text = BYTES_INIT;
    char *refs = file_join(repository, "refs");
    char *path = file_join(refs, revision);
    int rc = -1;

    bytes_add(&text, "", 0);
    if (file_exists(path) && !file_is_folder(path)) {
        if (file_read(path, &text, e) < 0)
            goto out;
    } else {
        bytes_text(&text, revision);
    }
    while (text.n && isspace((unsigned char)text.data[text.n - 1]))
        text.data[--text.n] = 0;
    if (text.n == 0 || text.n > 63 || strlen(text.data) != text.n || strchr(text.data, '/') ||
        text.data[0] == '.') {
        err_set(e, ERR_INPUT, "revision %s: neither a name in %s nor a commit", revision, refs);
        goto out;
    }
    memcpy(commit, text.data, text.n + 1);
    rc = 0;
out:
    bytes_release(&text);
    free(refs);
    free(path);
    return rc;
}

static int find_cached(const char *id, const char *revision, char **folder, char commit[64],
                       struct err *e)
{
    char *root = cache_root();
    char *repository = repository_of(root, id);
    char *snapshots = file_join(repository, "snapshots"), *snapshot = NULL;
    int rc = -1;

    if (!file_is_folder(repository)) {
        not_found(id, root, e);
        goto out;
    }
    if (strstr(revision, "..") || revision[0] == '/') {
        err_set(e, ERR_USAGE, "revision %s is not a name", revision);
        goto out;
    }
    if (commit_of(repository, revision, commit, e) < 0)
        goto out;
    snapshot = file_join(snapshots, commit);
    if (!file_is_folder(snapshot)) {
        no_snapshot(id, revision, commit, snapshots, e);
        goto out;
    }
    if (check_snapshot(id, repository, commit, snapshot, e) < 0)
        goto out;
    *folder = snapshot;
    snapshot = NULL;
    rc = 0;
out:
    free(snapshot);
    free(snapshots);
    free(repository);
    free(root);
    return rc;
}

int checkpoint_find(const char *path, const char *revision, char **folder, char commit[64],
                    struct err *e)
{
    commit[0] = 0;
    *folder = NULL;
    if (file_is_folder(path)) {
        *folder = mem_text(path);
        return 0;
    }
    if (file_exists(path))
        return err_set(e, ERR_INPUT, "%s is a file; a model is a folder or a hub id (" HELP ")",
                       path);
    if (!is_id(path)) {
        char *root = cache_root();
        not_found(path, root, e);
        free(root);
        return -1;
    }
    int rc = find_cached(path, revision && *revision ? revision : "main", folder, commit, e);
    if (rc < 0)
        commit[0] = 0;
    return rc;
}
