/* store_h5_inner.h - what the store_h5*.c files share: the border to the HDF5 library.
 *
 * A file is built in memory (HDF5's core driver) and leaves as bytes, so that every write to a
 * disk, and every full disk, is ours (file_replace).  Built from the same input the bytes are the
 * same: no time stamps in objects, links and attributes in the order they were made.  */
#pragma once

#include "base/err.h"
#include "base/js.h"
#include "base/memory.h"

#include <hdf5.h>
#include <stdbool.h>
#include <stdint.h>

#define STORE_FORMAT         "llq-results"
#define STORE_FORMAT_VERSION 1

/* Quiets the library's own error printing and, unless the user said otherwise, its file locks,
 * which Lustre and NFS often lack.  Call before anything else of HDF5; any number of times. */
int h5_begin(struct err *e);
/* "WHAT: the innermost message of the library's error stack"; always -1. */
int h5_fail(struct err *e, enum err_code code, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Any handle of the library; one that was never opened (negative) is fine. */
void h5_close(hid_t id);
/* Boolean as h5py writes it: an enumeration FALSE = 0, TRUE = 1 over 8 bits; -1 on error. */
hid_t h5_bool_type(void);
hid_t h5_text_type(void); /* UTF-8, variable length */

/* ---- values on their way into the file ---- */

enum values_kind { VALUES_INT, VALUES_REAL, VALUES_BOOL, VALUES_TEXT, VALUES_KINDS };

struct values {
    enum values_kind kind;
    int rank; /* 0: one value */
    hsize_t dims[2];
    /* One of these, [dims[0] * dims[1]]; borrowed unless values_from_js() made them. */
    const int64_t *ints;
    const double *reals;
    const int8_t *bools;
    const char *const *texts;
};

/* A scalar, an array, or an array of arrays; owned.  Rows of numbers that are shorter than the
 * longest get NaN; null is NaN; anything else that is mixed or deeper becomes its JSON text.
 * HDF5 texts end at a 0 byte, so one inside becomes U+2400 (the picture of it). */
void values_from_js(const struct js *j, struct values *out);
void values_release(struct values *v); /* of values_from_js() */
size_t values_count(const struct values *v);

/* ---- building ---- */

struct h5_build {
    hid_t file, group_plist, dataset_plist;
    hid_t types[VALUES_KINDS];
    double confidence; /* of the intervals of timings */
};

int h5_build_start(struct h5_build *b, double confidence, struct err *e);
int h5_build_finish(struct h5_build *b, struct bytes *image, struct err *e);
void h5_build_release(struct h5_build *b); /* also after a failed start */

int h5_put_group(const struct h5_build *b, hid_t parent, const char *name, hid_t *out,
                 struct err *e);
int h5_put_attribute(const struct h5_build *b, hid_t at, const char *name, const struct values *v,
                     struct err *e);
int h5_put_text(const struct h5_build *b, hid_t at, const char *name, const char *value,
                struct err *e);
int h5_put_int(const struct h5_build *b, hid_t at, const char *name, int64_t value, struct err *e);
int h5_put_real(const struct h5_build *b, hid_t at, const char *name, double value, struct err *e);
int h5_put_bool(const struct h5_build *b, hid_t at, const char *name, bool value, struct err *e);

/* Unit, direction and sentence of a dataset; empty ones are not written. */
struct h5_facts {
    const char *unit, *what;
    int higher_is_better; /* 1, 0, or -1: has no direction */
};
int h5_put_dataset(const struct h5_build *b, hid_t at, const char *name, const struct values *v,
                   const struct h5_facts *facts, struct err *e);
/* Makes dataset `scale` the labels of dimension 0 of dataset `of`, as the library's dimension
 * scales (H5DS) say; both in group `at`, one dataset a scale. */
int h5_put_scale(hid_t at, const char *of, const char *scale, struct err *e);

/* Median with its interval, mean and sd of a list of repeats (or of each list of lists), as
 * attributes of the dataset that already holds it. */
int h5_put_timing(const struct h5_build *b, hid_t group, const char *name, const struct js *repeats,
                  struct err *e);

/* ---- a checksum behind the HDF5 data (store_h5_seal.c) ---- */

void h5_seal(struct bytes *image);
/* ERR_INPUT where there is one and it does not match. */
int h5_check_seal(const char *path, struct err *e);

/* ---- records (store_h5_record.c) ---- */

/* Scalars become attributes, arrays datasets, objects groups. */
int h5_put_object(const struct h5_build *b, hid_t group, const struct js *object, struct err *e);
/* One member of an object that stands in `group`. */
int h5_put_member(const struct h5_build *b, hid_t group, const char *key, const struct js *value,
                  struct err *e);
/* What is known of a record's member: unit, direction, sentence; never NULL. */
const struct h5_facts *h5_facts_of(const char *key);
