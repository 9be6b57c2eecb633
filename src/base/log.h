/* log.h - what the program says while it works: warnings and notes, never results.
 *
 * A process logs to stderr (rank 0, and the engine of a rank through it) and to one file
 * where log_open() named it.  Lines carry the time, the level and who speaks.  Thread-safe.  */
#pragma once

#include "base/err.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Who: "rank 3", "engine 3"; shown in the file.  path NULL: no file. */
int log_open(const char *path, const char *who, enum log_level terminal_level, struct err *e);
void log_close(void);
void log_set_terminal_level(enum log_level level);
void log_line(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* A line that another process has to say, under its name; the terminal shows it too. */
void log_line_of(const char *who, enum log_level level, const char *text);

#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

/* Where else lines go (the engine sends them to its rank); NULL: nowhere.  Called with one
 * whole line without line end, never re-entered. */
void log_set_listener(void (*listener)(enum log_level level, const char *text, void *context),
                      void *context);
