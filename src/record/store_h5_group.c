/* store_h5_group.c - see store_h5.h: one group of a results file back as JSON. */
#include "record/store_h5.h"

#include "record/store_h5_inner.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { VALUES_MAX = 1 << 24, PATH_ROOM = 512, NAME_ROOM = 256 };

/* ---- values ---- */

/* Reads n values of an attribute (is_attribute) or a dataset into memory of that type. */
static herr_t read_into(hid_t item, bool is_attribute, hid_t memory, void *to)
{
    return is_attribute ? H5Aread(item, memory, to)
                        : H5Dread(item, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, to);
}

static struct js *read_texts(hid_t item, bool is_attribute, hid_t space, size_t n)
{
    char **texts = mem_array(n, sizeof *texts);
    hid_t memory = h5_text_type();
    struct js *list = NULL;

    if (read_into(item, is_attribute, memory, texts) >= 0) {
        list = js_new_array();
        for (size_t i = 0; i < n; i++)
            js_append(list, js_new_text(texts[i] ? texts[i] : ""));
        H5Dvlen_reclaim(memory, space, H5P_DEFAULT, texts);
    }
    h5_close(memory);
    free(texts);
    return list;
}

static struct js *read_numbers(hid_t item, bool is_attribute, H5T_class_t class, size_t n)
{
    struct js *list = NULL;
    bool real = class == H5T_FLOAT, flag = class == H5T_ENUM;
    hid_t memory = flag ? h5_bool_type() : real ? H5T_NATIVE_DOUBLE : H5T_NATIVE_INT64;
    void *values = mem_array(n, 8);

    if (read_into(item, is_attribute, memory, values) >= 0) {
        list = js_new_array();
        for (size_t i = 0; i < n; i++)
            js_append(list, flag   ? js_new_bool(((int8_t *)values)[i])
                            : real ? js_new_real(((double *)values)[i])
                                   : js_new_int(((int64_t *)values)[i]));
    }
    if (flag)
        h5_close(memory);
    free(values);
    return list;
}

/* A list of the values; NULL for kinds that this program does not write, and for tables. */
static struct js *read_values(hid_t item, bool is_attribute)
{
    hid_t type = is_attribute ? H5Aget_type(item) : H5Dget_type(item);
    hid_t space = is_attribute ? H5Aget_space(item) : H5Dget_space(item);
    struct js *list = NULL;
    hssize_t n = space < 0 ? -1 : H5Sget_simple_extent_npoints(space);
    H5T_class_t class = type < 0 ? H5T_NO_CLASS : H5Tget_class(type);

    if (n == 0)
        list = js_new_array();
    else if (n > 0 && n <= VALUES_MAX && H5Sget_simple_extent_ndims(space) <= 1) {
        if (class == H5T_STRING && H5Tis_variable_str(type) > 0)
            list = read_texts(item, is_attribute, space, (size_t)n);
        else if (class == H5T_FLOAT || class == H5T_INTEGER || class == H5T_ENUM)
            list = read_numbers(item, is_attribute, class, (size_t)n);
    }
    h5_close(type);
    h5_close(space);
    return list;
}

/* ---- a group ---- */

static void read_attributes(hid_t group, struct js *out)
{
    int n = H5Aget_num_attrs(group);

    for (int i = 0; i < n; i++) {
        char name[NAME_ROOM] = "";
        hid_t a = H5Aopen_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, (hsize_t)i, H5P_DEFAULT,
                                 H5P_DEFAULT);
        struct js *list = a < 0 ? NULL : read_values(a, true);
        if (list && H5Aget_name(a, sizeof name, name) > 0 && js_count(list) == 1)
            js_set(out, name, js_copy(js_at(list, 0)));
        js_release(list);
        h5_close(a);
    }
}

static void read_datasets(hid_t group, struct js *out)
{
    H5G_info_t info = { 0 };

    if (H5Gget_info(group, &info) < 0)
        return;
    for (hsize_t i = 0; i < info.nlinks; i++) {
        char name[NAME_ROOM] = "", key[NAME_ROOM + 8];
        H5O_info_t what;
        if (H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, i, name, sizeof name,
                               H5P_DEFAULT) <= 0 ||
            H5Oget_info_by_name(group, name, &what, H5P_DEFAULT) < 0 ||
            what.type != H5O_TYPE_DATASET)
            continue;
        hid_t d = H5Dopen2(group, name, H5P_DEFAULT);
        struct js *list = d < 0 ? NULL : read_values(d, false);
        snprintf(key, sizeof key, "%s_item", name);
        if (list)
            js_set(out, key, list);
        h5_close(d);
    }
}

static hid_t open_file(const char *path, struct err *e)
{
    hid_t file;

    if (access(path, R_OK) < 0)
        return err_set(e, ERR_INPUT, "%s: %s", path, strerror(errno));
    if (h5_begin(e) < 0 || h5_check_seal(path, e) < 0)
        return err_in(e, "%s", path);
    file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    return file < 0 ? h5_fail(e, ERR_INPUT, "%s", path) : file;
}

static hid_t open_group(hid_t file, const char *name, struct err *e)
{
    hid_t group = H5Gopen2(file, name, H5P_DEFAULT);

    return group < 0 ? h5_fail(e, ERR_INPUT, "group %s", name) : group;
}

struct js *store_h5_read_group(const char *path, const char *experiment, int64_t seed,
                               const char *group, struct err *e)
{
    char name[PATH_ROOM];
    struct js *out = NULL;
    hid_t file = open_file(path, e), at = -1;

    snprintf(name, sizeof name, "/experiments/%s/seeds/%lld/%s", experiment, (long long)seed,
             group);
    if (file >= 0 && (at = open_group(file, name, e)) >= 0) {
        out = js_new_object();
        read_attributes(at, out);
        read_datasets(at, out);
    }
    h5_close(at);
    h5_close(file);
    return out;
}

struct js *store_h5_read_provenance(const char *path, struct err *e)
{
    struct js *out = NULL;
    hid_t file = open_file(path, e), at = -1;

    if (file >= 0 && (at = open_group(file, "/provenance", e)) >= 0) {
        out = js_new_object();
        read_attributes(file, out);
        read_attributes(at, out);
    }
    h5_close(at);
    h5_close(file);
    return out;
}

static bool succeeded(hid_t seeds, const char *name)
{
    hid_t job = H5Gopen2(seeds, name, H5P_DEFAULT);
    struct js *members = js_new_object();

    if (job >= 0)
        read_attributes(job, members);
    const char *status = js_text(js_get(members, "status"));
    bool yes = status && strcmp(status, "success") == 0;
    js_release(members);
    h5_close(job);
    return yes;
}

int store_h5_read_seeds(const char *path, const char *experiment, int64_t **seeds, int *n,
                        struct err *e)
{
    char name[PATH_ROOM];
    H5G_info_t info = { 0 };
    hid_t file = open_file(path, e), at = -1;

    *seeds = NULL;
    *n = 0;
    snprintf(name, sizeof name, "/experiments/%s/seeds", experiment);
    if (file < 0 || (at = open_group(file, name, e)) < 0 || H5Gget_info(at, &info) < 0) {
        h5_close(at);
        h5_close(file);
        return -1;
    }
    for (hsize_t i = 0; i < info.nlinks; i++)
        if (H5Lget_name_by_idx(at, ".", H5_INDEX_CRT_ORDER, H5_ITER_INC, i, name, sizeof name,
                               H5P_DEFAULT) > 0 &&
            succeeded(at, name)) {
            *seeds = mem_grow(*seeds, (size_t)*n + 1, sizeof **seeds);
            (*seeds)[(*n)++] = strtoll(name, NULL, 10);
        }
    h5_close(at);
    h5_close(file);
    return 0;
}
