/* check.h - a check is a sentence; a NaN never passes. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/err.h"

/* CHECK(condition, "sentence with %d", values): the sentence says what should hold. */
#define CHECK(condition, ...)                      \
    do {                                           \
        if (!(condition)) {                        \
            print_error("does not hold: ");        \
            print_error(__VA_ARGS__);              \
            print_error("\n  (%s)\n", #condition); \
            fail();                                \
        }                                          \
    } while (0)

/* A fallible call that should succeed, with its error when it does not. */
#define CHECK_OK(call, e)                                    \
    do {                                                     \
        if ((call) < 0) {                                    \
            print_error("%s failed: %s\n", #call, (e).text); \
            fail();                                          \
        }                                                    \
    } while (0)

/* Written so that a NaN on either side fails. */
static inline bool check_near(double got, double want, double tolerance)
{
    return fabs(got - want) <= tolerance;
}

static inline const char *check_folder(const char *variable, const char *beside, const char *own)
{
    struct stat st;
    const char *named = getenv(variable);

    if (named && *named)
        return named;
    return stat(beside, &st) == 0 ? beside : own;
}

/* Folder of reference vectors: LLQ_GOLDEN, else ../shared/golden, else the committed part. */
static inline const char *check_golden(void)
{
    return check_folder("LLQ_GOLDEN", "../shared/golden", "tests/golden");
}

/* Folder of real data: LLQ_DATA, else ../shared/data; may be absent (then say SKIP and skip()). */
static inline const char *check_data(void)
{
    return check_folder("LLQ_DATA", "../shared/data", "tests/data");
}

/* The engine that a test of models runs on: LLQ_TEST_BACKEND, else "cpu". */
static inline const char *check_backend(void)
{
    const char *named = getenv("LLQ_TEST_BACKEND");

    return named && *named ? named : "cpu";
}

static inline bool check_has(const char *folder, const char *name)
{
    char path[4096];
    struct stat st;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    return stat(path, &st) == 0;
}

/* Ends a test whose reference files or data are not there: skipped, with a line that says so, but
 * failed where all of them are asked for (make test-golden). */
#define CHECK_MISSING(...)                                                \
    do {                                                                  \
        printf("SKIP ");                                                  \
        printf(__VA_ARGS__);                                              \
        printf("\n");                                                     \
        CHECK(!getenv("LLQ_GOLDEN_ALL"), "every reference file is here"); \
        skip();                                                           \
    } while (0)

/* One line of the golden table: "golden FILE: N values, largest deviation D (allowed T)". */
static inline void check_report(const char *file, long n_values, double largest, double allowed)
{
    printf("golden %-48s %10ld values  largest deviation %-12.4g allowed %g\n", file, n_values,
           largest, allowed);
    CHECK(n_values > 0, "%s: some values were compared", file);
    CHECK(largest <= allowed, "%s: every value is within %g", file, allowed);
}
