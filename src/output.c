/* output.c - see output.h. */
#include "output.h"

#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>

static char *beside(const char *file, const char *ending)
{
    struct bytes b = BYTES_INIT;

    bytes_printf(&b, "%s%s", file, ending);
    return b.data;
}

int output_names(const char *file, bool resume, struct output *out, struct err *e)
{
    *out = (struct output){ .file = mem_text(file),
                            .journal = beside(file, ".journal"),
                            .log = beside(file, ".log"),
                            .status = beside(file, ".status") };
    if (resume && file_exists(out->file) && !file_exists(out->journal))
        return err_set(e, ERR_USAGE, "%s: cannot be resumed without %s", out->file, out->journal);
    return 0;
}

void output_release(struct output *o)
{
    free(o->file);
    free(o->journal);
    free(o->log);
    free(o->status);
    *o = (struct output)OUTPUT_INIT;
}

int output_write_status(const struct output *o, int exit_code, int ok, int failed, int total,
                        struct err *e)
{
    const char *state = exit_code == OUTPUT_RUNNING ? "running"
                        : ok + failed < total       ? "stopped"
                                                    : "finished";
    char line[128], code[16] = "-";

    if (exit_code != OUTPUT_RUNNING)
        snprintf(code, sizeof code, "%d", exit_code);
    int n = snprintf(line, sizeof line, "state=%s exit=%s ok=%d failed=%d total=%d\n", state, code,
                     ok, failed, total);

    return file_replace(o->status, line, (size_t)n, e);
}
