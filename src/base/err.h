/* err.h - an error is a sentence that grows on the way up.
 *
 * The cause comes first and places are appended, so cutting the text loses only
 * the outermost place.  Codes decide what the program does, text is for people.
 * Printed once, by main.c, log.c or report.c.  */
#pragma once

#include <stdarg.h>

#if defined(__GNUC__)
#define PRINTF_LIKE(text_at, values_at) __attribute__((format(printf, text_at, values_at)))
#else
#define PRINTF_LIKE(text_at, values_at)
#endif

enum err_code {
    ERR_NONE,
    ERR_USAGE,  /* the sweep file or the command line is wrong    */
    ERR_INPUT,  /* a model or data file is not what it should be  */
    ERR_IO,     /* the system refused: open, read, write, rename  */
    ERR_MEMORY, /* does not fit: an expected answer in a sweep    */
    ERR_DEVICE, /* the device context is lost; end this process   */
    ERR_STOPPED /* asked to stop before it was done               */
};

#define ERR_TEXT_MAX 2048

struct err {
    enum err_code code;
    char text[ERR_TEXT_MAX];
};

#define ERR_INIT         \
    {                    \
        .code = ERR_NONE \
    }

/* Sets code and text; always returns -1, so that `return err_set(...)` reads well. */
int err_set(struct err *e, enum err_code code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Appends ", in ..." to what is there; always returns -1. */
int err_in(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

void err_clear(struct err *e);

/* "usage", "input", "io", "memory", "device", "stopped" or "none". */
const char *err_code_name(enum err_code code);
