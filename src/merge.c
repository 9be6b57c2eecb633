/* merge.c - see merge.h. */
#include "merge.h"

#include "base/file.h"
#include "base/js.h"
#include "base/memory.h"
#include "output.h"
#include "rebuild.h"
#include "record/journal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct part {
    const char *path;
    struct output names;
    struct js **lines;
    int n_lines;
    const struct js *head; /* the last: it says how the file was made */
};

/* ---- reading ---- */

static int read_part(const char *path, struct part *p, struct err *e)
{
    char *absolute = file_absolute(path), *warnings = NULL;
    int rc = output_names(absolute, false, &p->names, e);

    p->path = path;
    free(absolute);
    if (rc == 0 && !file_exists(p->names.journal))
        rc = err_set(e, ERR_INPUT, "%s: parts are joined by their journals, but there is no %s",
                     path, p->names.journal);
    if (rc == 0)
        rc = journal_read(p->names.journal, &p->lines, &p->n_lines, &warnings, e);
    free(warnings);
    for (int i = 0; rc == 0 && i < p->n_lines; i++)
        if (js_get(p->lines[i], "sweep_file"))
            p->head = p->lines[i];
    if (rc == 0 && !p->head)
        rc = err_set(e, ERR_INPUT, "%s: its journal says nothing of a sweep", path);
    return rc;
}

static void part_release(struct part *p)
{
    journal_release(p->lines, p->n_lines);
    output_release(&p->names);
}

/* ---- comparing ---- */

static bool same(const struct js *a, const struct js *b)
{
    char *x = a ? js_write(a, NULL) : mem_text(""), *y = b ? js_write(b, NULL) : mem_text("");
    bool equal = strcmp(x, y) == 0;

    free(x);
    free(y);
    return equal;
}

/* "model 0a1b... coqa 1 2c3d...": of the words after `name` in both texts. */
static void identity_difference(const char *a, const char *b, struct bytes *out)
{
    char *copy = mem_text(a), *rest = NULL, *other = mem_text(b), *other_rest = NULL;
    char *x = strtok_r(copy, " ", &rest), *y = strtok_r(other, " ", &other_rest);
    const char *name = "model";

    for (; x && y && strcmp(x, y) == 0;
         x = strtok_r(NULL, " ", &rest), y = strtok_r(NULL, " ", &other_rest))
        if (strspn(x, "0123456789") != strlen(x) && strlen(x) != 64)
            name = x;
    bytes_printf(out, "%s: %.12s and %.12s", name, x ? x : "none", y ? y : "none");
    free(copy);
    free(other);
}

/* What of the sweep decides a result, but for which seeds and experiments were asked for. */
static int check_same(const struct part *a, const struct part *b, struct err *e)
{
    static const struct {
        const char *key, *what;
    } parts[] = { { "text", "the sweep files" },
                  { "set", "the --set options" },
                  { "limit", "the --limit options" } };
    const struct js *x = js_get(a->head, "sweep_file"), *y = js_get(b->head, "sweep_file");
    const char *one = js_text(js_get(a->head, "identity"));
    const char *two = js_text(js_get(b->head, "identity"));

    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!same(js_get(x, parts[i].key), js_get(y, parts[i].key)))
            return err_set(e, ERR_USAGE, "%s and %s are no parts of one sweep: %s differ", a->path,
                           b->path, parts[i].what);
    if (!one || !two || strcmp(one, two) != 0) {
        struct bytes text = BYTES_INIT;
        identity_difference(one ? one : "", two ? two : "", &text);
        err_set(e, ERR_USAGE, "%s and %s differ in model or data (%s)", a->path, b->path,
                text.data);
        bytes_release(&text);
        return -1;
    }
    if (!same(js_get(a->head, "calibration_sha256"), js_get(b->head, "calibration_sha256")))
        return err_set(e, ERR_USAGE, "%s and %s differ in model or data (text of [calibration])",
                       a->path, b->path);
    return 0;
}

/* ---- joining ---- */

static bool list_has(const struct js *list, const struct js *value)
{
    for (size_t i = 0; i < js_count(list); i++)
        if (same(js_at(list, i), value))
            return true;
    return false;
}

/* Every element of the parts' lists, once, in their order. */
static struct js *joined(const struct part *parts, int n, const char *section, const char *key)
{
    struct js *out = js_new_array();

    for (int i = 0; i < n; i++) {
        const struct js *list = js_get(js_get(parts[i].head, section), key);
        for (size_t k = 0; k < js_count(list); k++)
            if (!list_has(out, js_at(list, k)))
                js_append(out, js_copy(js_at(list, k)));
    }
    return out;
}

static struct js *joined_commands(const struct part *parts, int n)
{
    struct bytes text = BYTES_INIT;

    for (int i = 0; i < n; i++) {
        const char *line = js_text(js_get(parts[i].head, "command_line"));
        bytes_printf(&text, "%s%s", i ? " ; " : "", line ? line : "");
    }
    struct js *out = js_new_text(text.data);
    bytes_release(&text);
    return out;
}

static struct js *joined_head(const struct part *parts, int n)
{
    struct js *head = js_copy(parts[0].head), *sweep = js_copy(js_get(head, "sweep_file"));
    struct js *provenance = js_copy(js_get(head, "provenance"));
    const char *first = js_text(js_get(head, "created"));

    /* Together they are parts of the whole, or of what the options chose of it. */
    js_set_int(sweep, "shards", 0);
    js_set(sweep, "seeds", joined(parts, n, "sweep_file", "seeds"));
    js_set(sweep, "experiments", joined(parts, n, "sweep_file", "experiments"));
    js_set(provenance, "hostnames", joined(parts, n, "provenance", "hostnames"));
    js_set(provenance, "gpu_names", joined(parts, n, "provenance", "gpu_names"));
    js_set_int(provenance, "merged_parts", n);
    for (int i = 1; i < n; i++) {
        const char *created = js_text(js_get(parts[i].head, "created"));
        if (created && first && strcmp(created, first) < 0)
            first = created;
    }
    char *earliest = mem_text(first ? first : "");
    js_set_text(head, "created", earliest);
    js_set(head, "command_line", joined_commands(parts, n));
    js_set(head, "sweep_file", sweep);
    js_set(head, "provenance", provenance);
    free(earliest);
    return head;
}

static int write_journal(const char *path, const struct part *parts, int n, struct err *e)
{
    struct journal j = JOURNAL_INIT;
    struct js *head = joined_head(parts, n);
    int rc = journal_open(&j, path, e);

    if (rc == 0)
        rc = journal_clear(&j, e);
    if (rc == 0)
        rc = journal_append(&j, head, e);
    for (int i = 0; i < n; i++)
        for (int k = 0; rc == 0 && k < parts[i].n_lines; k++)
            if (js_get(parts[i].lines[k], "job"))
                rc = journal_append(&j, parts[i].lines[k], e);
    if (rc == 0)
        rc = journal_sync(&j, e);
    journal_close(&j);
    js_release(head);
    return rc;
}

static int check_out(const struct output *out, const struct part *parts, int n, bool force,
                     struct err *e)
{
    for (int i = 0; i < n; i++)
        if (strcmp(out->file, parts[i].names.file) == 0)
            return err_set(e, ERR_USAGE, "--merge: %s would be made of itself", parts[i].path);
    if (!force && (file_exists(out->file) || file_exists(out->journal)))
        return err_set(e, ERR_USAGE, "%s exists: --force makes it anew", out->file);
    return 0;
}

int merge_results(const char *out, const char *const *parts, int n_parts, bool force, struct err *e)
{
    struct part *all = mem_array((size_t)n_parts, sizeof *all);
    struct output names = OUTPUT_INIT;
    char *folder = file_folder(out), *real = file_absolute(folder);
    const char *slash = strrchr(out, '/');
    char *absolute = file_join(real, slash ? slash + 1 : out);
    int rc = output_names(absolute, false, &names, e);

    for (int i = 0; rc == 0 && i < n_parts; i++) {
        rc = read_part(parts[i], &all[i], e);
        if (rc == 0 && i > 0)
            rc = check_same(&all[0], &all[i], e);
    }
    if (rc == 0)
        rc = check_out(&names, all, n_parts, force, e);
    if (rc == 0)
        rc = write_journal(names.journal, all, n_parts, e);
    if (rc == 0 && force) /* or a complete one would stay as it is */
        unlink(names.file);
    if (rc == 0)
        rc = rebuild_results(names.file, e);
    for (int i = 0; i < n_parts; i++)
        part_release(&all[i]);
    output_release(&names);
    free(all);
    free(folder);
    free(real);
    free(absolute);
    return rc;
}
