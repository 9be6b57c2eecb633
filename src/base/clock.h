/* clock.h - time that only goes forward, and the date for people. */
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <time.h>

static inline int64_t clock_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline double clock_seconds(void)
{
    return (double)clock_ns() * 1e-9;
}

#define CLOCK_DATE_MAX 32

/* ISO 8601, UTC, whole seconds: 2026-01-31T08:05:09Z */
static inline const char *clock_date(char text[CLOCK_DATE_MAX])
{
    time_t now = time(NULL);
    struct tm tm;

    gmtime_r(&now, &tm);
    strftime(text, CLOCK_DATE_MAX, "%Y-%m-%dT%H:%M:%SZ", &tm);
    return text;
}
