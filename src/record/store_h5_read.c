/* store_h5_read.c - see store_h5.h: tables and attributes back from a results file.
 *
 * A file may be cut short, damaged or somebody else's: whatever is not as store_h5.c writes it is
 * refused with one line.  */
#include "record/store_h5.h"

#include "record/store_h5_inner.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    ROWS_MAX = 1 << 20,
    COLUMNS_MAX = 4096,
    JOBS_MAX = 1 << 20,
    LINK_NAME_MAX = 256,
};

/* ---- attributes ---- */

/* The attribute as a scalar of the given memory type; `to` of that size. */
static int get_scalar(hid_t at, const char *name, H5T_class_t class, hid_t memory, void *to,
                      struct err *e)
{
    hid_t item = H5Aopen(at, name, H5P_DEFAULT), type = -1, space = -1;
    int rc = -1;

    if (item < 0) {
        err_set(e, ERR_INPUT, "attribute %s is missing", name);
        goto out;
    }
    type = H5Aget_type(item);
    space = H5Aget_space(item);
    if (type < 0 || space < 0 || H5Tget_class(type) != class ||
        H5Sget_simple_extent_npoints(space) != 1 ||
        (class == H5T_STRING && H5Tis_variable_str(type) <= 0)) {
        err_set(e, ERR_INPUT, "attribute %s is of another type", name);
        goto out;
    }
    if (H5Aread(item, memory, to) < 0) {
        h5_fail(e, ERR_INPUT, "attribute %s", name);
        goto out;
    }
    rc = 0;
out:
    h5_close(item);
    h5_close(type);
    h5_close(space);
    return rc;
}

/* malloc'ed; NULL on error. */
static char *get_text(hid_t at, const char *name, struct err *e)
{
    char *inner = NULL, *copy;
    hid_t type = h5_text_type();

    if (get_scalar(at, name, H5T_STRING, type, &inner, e) < 0) {
        h5_close(type);
        return NULL;
    }
    copy = mem_text(inner ? inner : "");
    H5free_memory(inner);
    h5_close(type);
    return copy;
}

static int get_int(hid_t at, const char *name, int64_t *out, struct err *e)
{
    return get_scalar(at, name, H5T_INTEGER, H5T_NATIVE_INT64, out, e);
}

static int get_real(hid_t at, const char *name, double *out, struct err *e)
{
    return get_scalar(at, name, H5T_FLOAT, H5T_NATIVE_DOUBLE, out, e);
}

static int get_bool(hid_t at, const char *name, bool *out, struct err *e)
{
    hid_t type = h5_bool_type();
    int8_t value = 0;
    int rc = get_scalar(at, name, H5T_ENUM, type, &value, e);

    h5_close(type);
    *out = value != 0;
    return rc;
}

/* Into a column's field; an attribute that is not there leaves it empty. */
static int get_field(hid_t at, const char *name, char *out, size_t room, struct err *e)
{
    if (H5Aexists(at, name) <= 0)
        return 0;
    char *text = get_text(at, name, e);
    if (!text)
        return -1;
    snprintf(out, room, "%s", text);
    free(text);
    return 0;
}

/* ---- links ---- */

static int count_links(hid_t group, int most, int *out, struct err *e)
{
    H5G_info_t info;

    if (H5Gget_info(group, &info) < 0)
        return h5_fail(e, ERR_INPUT, "listing a group");
    if (info.nlinks > (hsize_t)most)
        return err_set(e, ERR_INPUT, "a group of %llu members", (unsigned long long)info.nlinks);
    *out = (int)info.nlinks;
    return 0;
}

/* Name of the i-th member, in the order of creation. */
static int get_link(hid_t group, int i, char name[LINK_NAME_MAX], struct err *e)
{
    ssize_t n = H5Lget_name_by_idx(group, ".", H5_INDEX_CRT_ORDER, H5_ITER_INC, (hsize_t)i, name,
                                   LINK_NAME_MAX, H5P_DEFAULT);

    if (n < 0)
        return h5_fail(e, ERR_INPUT, "listing a group");
    return n >= LINK_NAME_MAX ? err_set(e, ERR_INPUT, "a name of %lld bytes", (long long)n) : 0;
}

/* ---- tables ---- */

static int column_kind_of(hid_t type)
{
    switch (H5Tget_class(type)) {
    case H5T_STRING:
        return H5Tis_variable_str(type) > 0 ? COLUMN_TEXT : -1;
    case H5T_FLOAT:
        return COLUMN_REAL;
    case H5T_INTEGER:
        return COLUMN_COUNT;
    case H5T_ENUM:
        return COLUMN_BOOL;
    default:
        return -1;
    }
}

static int read_texts(hid_t item, hid_t space, int n, char **out, struct err *e)
{
    char **inner = mem_array((size_t)n, sizeof *inner);
    hid_t type = h5_text_type();
    int rc = 0;

    if (H5Dread(item, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, inner) < 0) {
        rc = h5_fail(e, ERR_INPUT, "reading texts");
    } else {
        for (int i = 0; i < n; i++) {
            free(out[i]);
            out[i] = mem_text(inner[i] ? inner[i] : "");
        }
        H5Dvlen_reclaim(type, space, H5P_DEFAULT, inner);
    }
    h5_close(type);
    free(inner);
    return rc;
}

static int read_flags(hid_t item, int n, int64_t *out, struct err *e)
{
    int8_t *flags = mem_array((size_t)n, sizeof *flags);
    hid_t type = h5_bool_type();
    int rc = 0;

    if (H5Dread(item, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, flags) < 0)
        rc = h5_fail(e, ERR_INPUT, "reading flags");
    for (int i = 0; rc == 0 && i < n; i++)
        out[i] = flags[i] != 0;
    h5_close(type);
    free(flags);
    return rc;
}

static int read_values(hid_t item, hid_t space, struct table_column *c, int n, struct err *e)
{
    if (n == 0)
        return 0;
    switch (c->kind) {
    case COLUMN_TEXT:
        return read_texts(item, space, n, c->text, e);
    case COLUMN_BOOL:
        return read_flags(item, n, c->count, e);
    case COLUMN_REAL:
        return H5Dread(item, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, c->real) < 0
                   ? h5_fail(e, ERR_INPUT, "reading numbers")
                   : 0;
    case COLUMN_COUNT:
        return H5Dread(item, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, c->count) < 0
                   ? h5_fail(e, ERR_INPUT, "reading counts")
                   : 0;
    }
    return -1;
}

static int read_direction(hid_t item, int *out, struct err *e)
{
    bool higher;

    *out = -1;
    if (H5Aexists(item, "higher_is_better") <= 0)
        return 0;
    if (get_bool(item, "higher_is_better", &higher, e) < 0)
        return -1;
    *out = higher;
    return 0;
}

static int read_column(hid_t group, const char *name, struct table *t, struct err *e)
{
    hid_t item = H5Dopen2(group, name, H5P_DEFAULT), type = -1, space = -1;
    struct table_column facts = { 0 };
    hsize_t n = 0;
    int rc = -1;

    if (item < 0) {
        h5_fail(e, ERR_INPUT, "opening it");
        goto out;
    }
    type = H5Dget_type(item);
    space = H5Dget_space(item);
    int kind = type < 0 ? -1 : column_kind_of(type);
    if (kind < 0 || space < 0 || H5Sget_simple_extent_ndims(space) != 1 ||
        H5Sget_simple_extent_dims(space, &n, NULL) != 1 || n > ROWS_MAX) {
        err_set(e, ERR_INPUT, "it is no column of a table");
        goto out;
    }
    if (t->n_columns > 0 && n != (hsize_t)t->n_rows) {
        err_set(e, ERR_INPUT, "it has %llu rows, the columns before it %d", (unsigned long long)n,
                t->n_rows);
        goto out;
    }
    if (get_field(item, "unit", facts.unit, sizeof facts.unit, e) < 0 ||
        get_field(item, "description", facts.what, sizeof facts.what, e) < 0 ||
        read_direction(item, &facts.higher_is_better, e) < 0)
        goto out;
    if (strlen(name) >= sizeof facts.name || table_column(t, name) >= 0) {
        err_set(e, ERR_INPUT, "its name cannot be a column's");
        goto out;
    }
    int c = table_add_column(t, name, facts.unit, facts.what, (enum column_kind)kind,
                             facts.higher_is_better);
    for (int i = t->n_rows; i < (int)n; i++)
        table_add_row(t);
    if (read_values(item, space, &t->columns[c], (int)n, e) < 0)
        goto out;
    rc = 0;
out:
    h5_close(item);
    h5_close(type);
    h5_close(space);
    return rc < 0 ? err_in(e, "column %s", name) : 0;
}

static int read_table(hid_t file, const char *name, struct table *t, struct err *e)
{
    hid_t group = H5Gopen2(file, name, H5P_DEFAULT);
    char link[LINK_NAME_MAX];
    int n_links = 0, rc = -1;

    snprintf(t->name, sizeof t->name, "%s", name);
    if (group < 0) {
        h5_fail(e, ERR_INPUT, "opening it");
        goto out;
    }
    if (count_links(group, COLUMNS_MAX, &n_links, e) < 0)
        goto out;
    for (int i = 0; i < n_links; i++)
        if (get_link(group, i, link, e) < 0 || read_column(group, link, t, e) < 0)
            goto out;
    rc = 0;
out:
    h5_close(group);
    return rc < 0 ? err_in(e, "table %s", name) : 0;
}

/* ---- failures ---- */

static int add_failure(hid_t job, const char *experiment, const char *seed, struct table *t,
                       struct err *e)
{
    char *status = get_text(job, "status", e), *text = NULL, *stage = NULL;
    int rc = -1;

    if (!status)
        goto out;
    if (strcmp(status, "error") == 0) {
        text = get_text(job, "error", e);
        stage = text ? get_text(job, "error_stage", e) : NULL;
        if (!stage)
            goto out;
        int row = table_add_row(t);
        table_set_text(t, row, "experiment", experiment);
        table_set_count(t, row, "seed", strtoll(seed, NULL, 10));
        table_set_text(t, row, "stage", stage);
        table_set_text(t, row, "error", text);
    }
    rc = 0;
out:
    free(status);
    free(text);
    free(stage);
    return rc;
}

static int add_failures_of(hid_t experiment, const char *name, struct table *t, struct err *e)
{
    hid_t seeds = H5Gopen2(experiment, "seeds", H5P_DEFAULT), job = -1;
    char seed[LINK_NAME_MAX];
    int n_seeds = 0, rc = -1;

    if (seeds < 0) {
        h5_fail(e, ERR_INPUT, "opening seeds");
        goto out;
    }
    if (count_links(seeds, JOBS_MAX, &n_seeds, e) < 0)
        goto out;
    for (int i = 0; i < n_seeds; i++) {
        if (get_link(seeds, i, seed, e) < 0)
            goto out;
        if ((job = H5Gopen2(seeds, seed, H5P_DEFAULT)) < 0) {
            h5_fail(e, ERR_INPUT, "opening seed %s", seed);
            goto out;
        }
        if (add_failure(job, name, seed, t, e) < 0)
            goto out;
        h5_close(job);
        job = -1;
    }
    rc = 0;
out:
    h5_close(job);
    h5_close(seeds);
    return rc;
}

static int read_failures(hid_t file, struct table *t, struct err *e)
{
    hid_t parent = H5Gopen2(file, "experiments", H5P_DEFAULT), experiment = -1;
    char name[LINK_NAME_MAX], *status;
    int n = 0, rc = -1;

    snprintf(t->name, sizeof t->name, "failures");
    table_add_column(t, "experiment", "", "its name", COLUMN_TEXT, -1);
    table_add_column(t, "seed", "", "of the job that failed", COLUMN_COUNT, -1);
    table_add_column(t, "stage", "", "what the job was doing", COLUMN_TEXT, -1);
    table_add_column(t, "error", "", "why it failed", COLUMN_TEXT, -1);
    name[0] = 0;
    if (parent < 0) {
        h5_fail(e, ERR_INPUT, "opening experiments");
        goto out;
    }
    if (count_links(parent, JOBS_MAX, &n, e) < 0)
        goto out;
    for (int i = 0; i < n; i++) {
        if (get_link(parent, i, name, e) < 0)
            goto out;
        if ((experiment = H5Gopen2(parent, name, H5P_DEFAULT)) < 0) {
            h5_fail(e, ERR_INPUT, "opening it");
            goto out;
        }
        if (!(status = get_text(experiment, "status", e)))
            goto out;
        int found = strcmp(status, "success") == 0 ? 0 : add_failures_of(experiment, name, t, e);
        free(status);
        if (found < 0)
            goto out;
        h5_close(experiment);
        experiment = -1;
    }
    rc = 0;
out:
    h5_close(experiment);
    h5_close(parent);
    return rc < 0 && name[0] ? err_in(e, "experiment %s", name) : rc;
}

/* ---- the whole ---- */

static int check_format(hid_t file, struct err *e)
{
    struct err why = ERR_INIT;
    char *format = get_text(file, "format", &why);
    bool ours = format && strcmp(format, STORE_FORMAT) == 0;
    int64_t version = 0;

    free(format);
    if (!ours)
        return err_set(e, ERR_INPUT, "an HDF5 file, but not a results file of llq_sweep");
    if (get_int(file, "format_version", &version, e) < 0)
        return -1;
    if (version < 1 || version > STORE_FORMAT_VERSION)
        return err_set(e, ERR_INPUT,
                       "results in format version %lld; this llq_sweep reads version %d",
                       (long long)version, STORE_FORMAT_VERSION);
    return 0;
}

static int read_root(hid_t file, struct store_report *out, struct err *e)
{
    if (get_field(file, "name", out->name, sizeof out->name, e) < 0 ||
        get_field(file, "no_comparisons", out->no_comparisons, sizeof out->no_comparisons, e) < 0 ||
        get_real(file, "confidence", &out->confidence, e) < 0 ||
        get_bool(file, "complete", &out->complete, e) < 0 ||
        get_int(file, "jobs_total", &out->jobs_total, e) < 0 ||
        get_int(file, "jobs_ok", &out->jobs_ok, e) < 0 ||
        get_int(file, "jobs_failed", &out->jobs_failed, e) < 0)
        return -1;
    return 0;
}

int store_h5_read(const char *path, struct store_report *out, struct err *e)
{
    hid_t file = -1;
    int rc = -1;

    memset(out, 0, sizeof *out);
    if (access(path, R_OK) < 0)
        return err_set(e, ERR_INPUT, "%s: %s", path, strerror(errno));
    if (h5_begin(e) < 0)
        return -1;
    if (h5_check_seal(path, e) < 0)
        goto out;
    if (H5Fis_hdf5(path) <= 0) {
        H5Eclear2(H5E_DEFAULT);
        err_set(e, ERR_INPUT, "not an HDF5 file");
        goto out;
    }
    if ((file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT)) < 0) {
        h5_fail(e, ERR_INPUT, "cut short or damaged");
        goto out;
    }
    if (check_format(file, e) < 0 || read_root(file, out, e) < 0 ||
        read_table(file, "summary", &out->summary, e) < 0 ||
        read_table(file, "comparisons", &out->comparisons, e) < 0 ||
        (H5Lexists(file, "halves", H5P_DEFAULT) > 0 &&
         read_table(file, "halves", &out->halves, e) < 0) ||
        read_failures(file, &out->failures, e) < 0)
        goto out;
    rc = 0;
out:
    h5_close(file);
    if (rc < 0) {
        store_report_release(out);
        err_in(e, "%s", path);
    }
    return rc;
}

void store_report_release(struct store_report *r)
{
    table_release(&r->summary);
    table_release(&r->comparisons);
    table_release(&r->failures);
    table_release(&r->halves);
}
