/* err.c - see err.h. */
#include "base/err.h"

#include <stdio.h>
#include <string.h>

int err_set(struct err *e, enum err_code code, const char *fmt, ...)
{
    va_list args;

    if (!e)
        return -1;
    e->code = code;
    va_start(args, fmt);
    vsnprintf(e->text, sizeof e->text, fmt, args);
    va_end(args);
    return -1;
}

int err_in(struct err *e, const char *fmt, ...)
{
    va_list args;

    if (!e)
        return -1;
    size_t used = strlen(e->text);
    int n = snprintf(e->text + used, sizeof e->text - used, ", in ");
    if (n < 0 || used + (size_t)n >= sizeof e->text)
        return -1;
    used += (size_t)n;
    va_start(args, fmt);
    vsnprintf(e->text + used, sizeof e->text - used, fmt, args);
    va_end(args);
    return -1;
}

void err_clear(struct err *e)
{
    e->code = ERR_NONE;
    e->text[0] = 0;
}

const char *err_code_name(enum err_code code)
{
    static const char *const names[] = { "none",   "usage",  "input",  "io",
                                         "memory", "device", "stopped" };

    return (unsigned)code < sizeof names / sizeof *names ? names[code] : "unknown";
}
