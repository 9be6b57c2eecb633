/* store_h5_put.c - see store_h5_inner.h: groups, attributes, datasets of a file being built. */
#include "record/store_h5_inner.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the library ---- */

int h5_begin(struct err *e)
{
    unsigned major, minor, release;

    setenv("HDF5_USE_FILE_LOCKING", "FALSE", 0);
    if (H5get_libversion(&major, &minor, &release) < 0 || H5open() < 0)
        return err_set(e, ERR_IO, "the HDF5 library does not start");
    if (H5Eset_auto2(H5E_DEFAULT, NULL, NULL) < 0 || H5Eclear2(H5E_DEFAULT) < 0)
        return err_set(e, ERR_IO, "the HDF5 library does not keep quiet");
    return 0;
}

static herr_t take_first(unsigned n, const H5E_error2_t *item, void *context)
{
    const char **text = context;

    if (n == 0 && item->desc)
        *text = item->desc;
    return 0;
}

int h5_fail(struct err *e, enum err_code code, const char *fmt, ...)
{
    const char *why = "the HDF5 library gives no reason";
    char what[512];
    va_list args;

    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_first, &why);
    err_set(e, code, "%s: %s", what, why);
    H5Eclear2(H5E_DEFAULT);
    return -1;
}

void h5_close(hid_t id)
{
    if (id >= 0)
        H5Idec_ref(id);
}

hid_t h5_bool_type(void)
{
    hid_t type = H5Tenum_create(H5T_NATIVE_INT8);
    const int8_t no = 0, yes = 1;

    if (type < 0 || H5Tenum_insert(type, "FALSE", &no) < 0 ||
        H5Tenum_insert(type, "TRUE", &yes) < 0) {
        h5_close(type);
        return -1;
    }
    return type;
}

hid_t h5_text_type(void)
{
    hid_t type = H5Tcopy(H5T_C_S1);

    if (type < 0 || H5Tset_size(type, H5T_VARIABLE) < 0 || H5Tset_cset(type, H5T_CSET_UTF8) < 0) {
        h5_close(type);
        return -1;
    }
    return type;
}

/* ---- the file ---- */

/* Links are listed, and attributes kept, in the order they were made.  All attributes stay in
 * the object's header: the other storage costs kilobytes for each object that has nine. */
static int keep_order(hid_t plist)
{
    if (H5Pset_link_creation_order(plist, H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED) < 0 ||
        H5Pset_attr_creation_order(plist, H5P_CRT_ORDER_TRACKED) < 0 ||
        H5Pset_attr_phase_change(plist, 4096, 0) < 0)
        return -1;
    return H5Pset_obj_track_times(plist, false);
}

/* The oldest superblock on purpose: of a newer one H5Fget_file_image()
 * gives a copy that does not open (HDF5 1.10.8 clears a flag and leaves the checksum). */
static hid_t create_in_memory(void)
{
    const size_t increment = 4u << 20; /* growth of the image */
    hid_t creation = H5Pcreate(H5P_FILE_CREATE), access = H5Pcreate(H5P_FILE_ACCESS), file = -1;

    if (creation < 0 || access < 0 || keep_order(creation) < 0 ||
        H5Pset_fapl_core(access, increment, false) < 0 ||
        H5Pset_libver_bounds(access, H5F_LIBVER_EARLIEST, H5F_LIBVER_LATEST) < 0 ||
        H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) < 0)
        goto out;
    file = H5Fcreate("results", H5F_ACC_TRUNC, creation, access); /* a name in memory */
out:
    h5_close(creation);
    h5_close(access);
    return file;
}

int h5_build_start(struct h5_build *b, double confidence, struct err *e)
{
    *b = (struct h5_build){
        .file = -1, .group_plist = -1, .dataset_plist = -1, .confidence = confidence
    };
    for (int k = 0; k < VALUES_KINDS; k++)
        b->types[k] = -1;
    if (h5_begin(e) < 0)
        return -1;
    b->types[VALUES_INT] = H5Tcopy(H5T_STD_I64LE);
    b->types[VALUES_REAL] = H5Tcopy(H5T_IEEE_F64LE);
    b->types[VALUES_BOOL] = h5_bool_type();
    b->types[VALUES_TEXT] = h5_text_type();
    b->group_plist = H5Pcreate(H5P_GROUP_CREATE);
    b->dataset_plist = H5Pcreate(H5P_DATASET_CREATE);
    bool ok = b->group_plist >= 0 && b->dataset_plist >= 0 && keep_order(b->group_plist) >= 0 &&
              H5Pset_attr_creation_order(b->dataset_plist, H5P_CRT_ORDER_TRACKED) >= 0 &&
              H5Pset_obj_track_times(b->dataset_plist, false) >= 0;
    for (int k = 0; k < VALUES_KINDS; k++)
        ok = ok && b->types[k] >= 0;
    if (!ok || (b->file = create_in_memory()) < 0)
        return h5_fail(e, ERR_IO, "starting a results file in memory");
    return 0;
}

int h5_build_finish(struct h5_build *b, struct bytes *image, struct err *e)
{
    ssize_t n;

    if (H5Fflush(b->file, H5F_SCOPE_GLOBAL) < 0 || (n = H5Fget_file_image(b->file, NULL, 0)) <= 0)
        return h5_fail(e, ERR_IO, "closing the results file in memory");
    image->data = mem_grow(image->data, (size_t)n + 1, 1);
    image->room = (size_t)n + 1;
    if (H5Fget_file_image(b->file, image->data, (size_t)n) != n)
        return h5_fail(e, ERR_IO, "copying the results file from memory");
    image->n = (size_t)n;
    image->data[n] = 0;
    herr_t closed = H5Fclose(b->file);
    b->file = -1;
    return closed < 0 ? h5_fail(e, ERR_IO, "closing the results file in memory") : 0;
}

void h5_build_release(struct h5_build *b)
{
    if (b->file >= 0)
        H5Fclose(b->file); /* and, as its access list says, all that is open in it */
    h5_close(b->group_plist);
    h5_close(b->dataset_plist);
    for (int k = 0; k < VALUES_KINDS; k++)
        h5_close(b->types[k]);
    *b = (struct h5_build){
        .file = -1, .group_plist = -1, .dataset_plist = -1, .types = { -1, -1, -1, -1 }
    };
}

/* ---- groups, attributes, datasets ---- */

/* A key is one name here, never a path. */
static void link_name(const char *key, char *out, size_t room)
{
    snprintf(out, room, "%s", key);
    if (out[0] == 0 || strcmp(out, ".") == 0)
        snprintf(out, room, "_");
    for (char *p = out; *p; p++)
        if (*p == '/')
            *p = '_';
}

int h5_put_group(const struct h5_build *b, hid_t parent, const char *name, hid_t *out,
                 struct err *e)
{
    char link[256];

    link_name(name, link, sizeof link);
    *out = H5Gcreate2(parent, link, H5P_DEFAULT, b->group_plist, H5P_DEFAULT);
    return *out < 0 ? h5_fail(e, ERR_IO, "group %s", link) : 0;
}

static const void *values_data(const struct values *v)
{
    switch (v->kind) {
    case VALUES_INT:
        return v->ints;
    case VALUES_REAL:
        return v->reals;
    case VALUES_BOOL:
        return v->bools;
    default:
        return v->texts;
    }
}

static hid_t memory_type(const struct h5_build *b, enum values_kind kind)
{
    if (kind == VALUES_INT)
        return H5T_NATIVE_INT64;
    return kind == VALUES_REAL ? H5T_NATIVE_DOUBLE : b->types[kind];
}

static hid_t make_space(const struct values *v)
{
    return v->rank == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(v->rank, v->dims, NULL);
}

int h5_put_attribute(const struct h5_build *b, hid_t at, const char *name, const struct values *v,
                     struct err *e)
{
    hid_t space = make_space(v), item = -1;
    int rc = -1;

    if (space < 0)
        goto out;
    item = H5Acreate2(at, name, b->types[v->kind], space, H5P_DEFAULT, H5P_DEFAULT);
    /* The library refuses to write nothing. */
    if (item < 0 ||
        (values_count(v) && H5Awrite(item, memory_type(b, v->kind), values_data(v)) < 0))
        goto out;
    rc = 0;
out:
    if (rc < 0)
        h5_fail(e, ERR_IO, "attribute %s", name);
    h5_close(item);
    h5_close(space);
    return rc;
}

int h5_put_text(const struct h5_build *b, hid_t at, const char *name, const char *value,
                struct err *e)
{
    const char *text = value ? value : "";

    return h5_put_attribute(b, at, name, &(struct values){ .kind = VALUES_TEXT, .texts = &text },
                            e);
}

int h5_put_int(const struct h5_build *b, hid_t at, const char *name, int64_t value, struct err *e)
{
    return h5_put_attribute(b, at, name, &(struct values){ .kind = VALUES_INT, .ints = &value }, e);
}

int h5_put_real(const struct h5_build *b, hid_t at, const char *name, double value, struct err *e)
{
    return h5_put_attribute(b, at, name, &(struct values){ .kind = VALUES_REAL, .reals = &value },
                            e);
}

int h5_put_bool(const struct h5_build *b, hid_t at, const char *name, bool value, struct err *e)
{
    const int8_t stored = value;

    return h5_put_attribute(b, at, name, &(struct values){ .kind = VALUES_BOOL, .bools = &stored },
                            e);
}

static int put_facts(const struct h5_build *b, hid_t item, const struct h5_facts *f, struct err *e)
{
    if (f->unit && *f->unit && h5_put_text(b, item, "unit", f->unit, e) < 0)
        return -1;
    if (f->higher_is_better >= 0 &&
        h5_put_bool(b, item, "higher_is_better", f->higher_is_better == 1, e) < 0)
        return -1;
    return f->what && *f->what ? h5_put_text(b, item, "description", f->what, e) : 0;
}

int h5_put_dataset(const struct h5_build *b, hid_t at, const char *name, const struct values *v,
                   const struct h5_facts *facts, struct err *e)
{
    char link[256];
    hid_t space = make_space(v), item = -1;
    int rc = -1;

    link_name(name, link, sizeof link);
    if (space < 0)
        goto out;
    item =
        H5Dcreate2(at, link, b->types[v->kind], space, H5P_DEFAULT, b->dataset_plist, H5P_DEFAULT);
    if (item < 0 || (values_count(v) && H5Dwrite(item, memory_type(b, v->kind), H5S_ALL, H5S_ALL,
                                                 H5P_DEFAULT, values_data(v)) < 0))
        goto out;
    rc = 0;
out:
    if (rc < 0)
        h5_fail(e, ERR_IO, "dataset %s", link);
    else if (facts)
        rc = put_facts(b, item, facts, e);
    h5_close(item);
    h5_close(space);
    return rc;
}
