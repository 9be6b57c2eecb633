/* store_h5_scale.c - dimension scales: datasets that label a dimension of another dataset.
 *
 * The convention belongs to HDF5's high-level library (H5DS); a scale is nothing but five
 * attributes, written here, so that HDF5 installations without that library (Spack's default)
 * will do.  Layout: "HDF5 Dimension Scale Specification", section 3.  */
#include "record/store_h5_inner.h"

#include <stddef.h>
#include <string.h>

/* A text of fixed length, as H5DSis_scale() asks for. */
static int put_fixed(hid_t at, const char *name, const char *value, size_t n_bytes)
{
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR), item = -1;
    int rc = -1;

    if (type >= 0 && space >= 0 && H5Tset_size(type, n_bytes) >= 0)
        item = H5Acreate2(at, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    if (item >= 0 && H5Awrite(item, type, value) >= 0)
        rc = 0;
    h5_close(item);
    h5_close(type);
    h5_close(space);
    return rc;
}

static int put_array(hid_t at, const char *name, hid_t type, hsize_t n, const void *data)
{
    hid_t space = H5Screate_simple(1, &n, NULL), item = -1;
    int rc = -1;

    if (space >= 0 && type >= 0)
        item = H5Acreate2(at, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    if (item >= 0 && H5Awrite(item, type, data) >= 0)
        rc = 0;
    h5_close(item);
    h5_close(space);
    return rc;
}

struct back_reference { /* as the high-level library lays it out */
    hobj_ref_t dataset;
    int32_t dimension;
    int32_t padding;
};

static hid_t back_reference_type(void)
{
    hid_t type = H5Tcreate(H5T_COMPOUND, sizeof(struct back_reference));

    if (type >= 0 &&
        H5Tinsert(type, "dataset", offsetof(struct back_reference, dataset), H5T_STD_REF_OBJ) >=
            0 &&
        H5Tinsert(type, "dimension", offsetof(struct back_reference, dimension),
                  H5T_NATIVE_INT32) >= 0)
        return type;
    h5_close(type);
    return -1;
}

int h5_put_scale(hid_t at, const char *of, const char *scale, struct err *e)
{
    hid_t labelled = H5Dopen2(at, of, H5P_DEFAULT), labels = H5Dopen2(at, scale, H5P_DEFAULT);
    hid_t list = H5Tvlen_create(H5T_STD_REF_OBJ), back = back_reference_type();
    hid_t space = labelled >= 0 ? H5Dget_space(labelled) : -1;
    int rank = space >= 0 ? H5Sget_simple_extent_ndims(space) : -1;
    hobj_ref_t to_labels;
    struct back_reference from = { 0 };
    hvl_t lists[2] = { { 1, &to_labels }, { 0, NULL } };
    int rc = -1;

    if (labels < 0 || list < 0 || rank < 1 || rank > 2 ||
        H5Rcreate(&to_labels, at, scale, H5R_OBJECT, -1) < 0 ||
        H5Rcreate(&from.dataset, at, of, H5R_OBJECT, -1) < 0)
        goto out;
    if (put_fixed(labels, "CLASS", "DIMENSION_SCALE", sizeof "DIMENSION_SCALE") < 0 ||
        put_fixed(labels, "NAME", scale, strlen(scale) + 1) < 0 ||
        put_array(labels, "REFERENCE_LIST", back, 1, &from) < 0 ||
        put_array(labelled, "DIMENSION_LIST", list, (hsize_t)rank, lists) < 0)
        goto out;
    rc = 0;
out:
    if (rc < 0)
        h5_fail(e, ERR_IO, "%s as the scale of %s", scale, of);
    h5_close(labelled);
    h5_close(labels);
    h5_close(list);
    h5_close(back);
    h5_close(space);
    return rc;
}
