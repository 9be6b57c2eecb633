/* cli_version.c - what was built, from what, with what; see cli.h. */
#include "cli.h"

#include "base/memory.h"

#ifdef __clang__
#define COMPILER __VERSION__ /* says clang itself */
#else
#define COMPILER "gcc " __VERSION__
#endif

const char *llq_version(void)
{
    return LLQ_VERSION;
}

const char *llq_commit(void)
{
    return LLQ_COMMIT;
}

const char *llq_compiler(void)
{
    return COMPILER;
}

char *cli_version_text(const struct cli_library *libraries, int n)
{
    struct bytes text = BYTES_INIT;

    bytes_printf(&text, "llq_sweep %s (commit %s)\n", llq_version(), llq_commit());
    bytes_printf(&text, "%-14s %s\n", "compiler", llq_compiler());
    for (int i = 0; i < n; i++)
        if (libraries[i].version)
            bytes_printf(&text, "%-14s %s\n", libraries[i].name, libraries[i].version);
    return text.data;
}
