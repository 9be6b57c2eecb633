/* test_store_damage.c - the results file opens at every moment, and what is damaged is refused. */
#include "store_world.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <utime.h>

static void what_cannot_be_written(void **state)
{
    struct world w;
    struct err e = ERR_INIT;
    struct store_report r;
    struct rlimit old, small;
    char deep[160];

    (void)state;
    make_world(&w);
    snprintf(deep, sizeof deep, "%s/none/r.h5", folder);
    CHECK(store_h5_build(deep, &w.in, &e) < 0 && e.code == ERR_IO && strstr(e.text, deep),
          "a missing folder is named: %s", e.text);

    build(&w, path);
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = 10000;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    int rc = store_h5_build(path, &w.in, &e);
    setrlimit(RLIMIT_FSIZE, &old);
    CHECK(rc < 0 && e.code == ERR_IO && strstr(e.text, path), "a full disk is an error: %s",
          e.text);
    CHECK_OK(store_h5_read(path, &r, &e), e); /* and the file of before stays */
    store_report_release(&r);

    js_release(w.records[0]);
    w.records[0] = js_new_object();
    CHECK(store_h5_build(path, &w.in, &e) < 0 && strstr(e.text, "record 0"),
          "a record of nobody is named: %s", e.text);
    release_world(&w);
}

static void old_temps_go(void **state)
{
    struct world w;
    struct err e = ERR_INIT;
    char old[160], fresh[160], foreign[160];
    struct utimbuf an_hour_ago = { time(NULL) - 3600, time(NULL) - 3600 };

    (void)state;
    make_world(&w);
    snprintf(old, sizeof old, "%s.tmp.1", path);
    snprintf(fresh, sizeof fresh, "%s.tmp.2", path);
    snprintf(foreign, sizeof foreign, "%s.tmp.3x", path);
    CHECK_OK(file_replace(old, "x", 1, &e), e);
    CHECK_OK(file_replace(fresh, "x", 1, &e), e);
    CHECK_OK(file_replace(foreign, "x", 1, &e), e);
    utime(old, &an_hour_ago);
    utime(foreign, &an_hour_ago);
    build(&w, path);
    CHECK(!file_exists(old), "what a killed program left an hour ago is removed");
    CHECK(file_exists(fresh), "what another may still write is not");
    CHECK(file_exists(foreign), "nor a file that only looks like it");
    release_world(&w);
}

/* Reading must end, in an error or in tables; a crash ends the test program. */
static bool reads(const char *bytes, size_t n)
{
    struct err e = ERR_INIT;
    struct store_report r;
    FILE *f = fopen(other, "wb");

    CHECK(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0, "a damaged copy is written");
    if (store_h5_read(other, &r, &e) < 0) {
        CHECK(e.code == ERR_INPUT && strstr(e.text, other), "the error names the file: %s", e.text);
        CHECK(!strchr(e.text, '\n'), "in one line: %s", e.text);
        return false;
    }
    store_report_release(&r);
    return true;
}

static void files_that_are_not_ours(void **state)
{
    struct world w;
    struct bytes b;
    struct err e = ERR_INIT;
    struct store_report r;
    uint32_t x = 7;

    (void)state;
    make_world(&w);
    build(&w, path);
    b = whole_file(path);
    CHECK(reads(b.data, b.n), "a copy is as good");
    for (size_t n = 0; n < b.n - SEAL_BYTES; n += n < 600 ? 7 : b.n / 150 + 1)
        CHECK(!reads(b.data, n), "cut at byte %zu of %zu: refused", n, b.n);
    CHECK(!reads(b.data, b.n - SEAL_BYTES - 1), "one byte short: refused");

    for (int i = 0; i < 400; i++) {
        x = x * 1664525 + 1013904223;
        size_t at = (x >> 8) % (b.n - SEAL_BYTES);
        char kept = b.data[at];
        b.data[at] ^= (char)(1 + (x & 0x7f));
        CHECK(!reads(b.data, b.n), "one wrong byte at %zu: refused", at);
        b.data[at] = kept;
    }
    CHECK(reads(b.data, b.n - SEAL_BYTES), "without its checksum, as other programs leave it, the "
                                           "file is read");
    b.n -= SEAL_BYTES;

    char *format = memmem(b.data, b.n, "llq-results", 11);
    CHECK(format, "the format stands in the file");
    format[0] = 'x';
    CHECK(!reads(b.data, b.n), "an HDF5 file of somebody else is refused");
    CHECK(store_h5_read(other, &r, &e) < 0 && strstr(e.text, "not a results file"), "by name: %s",
          e.text);
    CHECK(!reads("garbage, garbage", 16) && !reads("", 0), "so is what is no HDF5 file");
    CHECK(store_h5_read("/nowhere/r.h5", &r, &e) < 0 && strstr(e.text, "/nowhere/r.h5"), "missing");
    CHECK(store_h5_read(folder, &r, &e) < 0, "a folder");
    bytes_release(&b);
    release_world(&w);
}

static void killed_while_it_writes(void **state)
{
    enum { KILLS = 30 };
    struct world w;
    uint32_t x = 3;
    int builds = 0;

    (void)state;
    make_world(&w);
    build(&w, path);
    for (int k = 0; k < KILLS; k++) {
        int told[2];
        char tick;
        CHECK(pipe(told) == 0, "a pipe");
        pid_t child = fork();
        if (child == 0) {
            struct err e = ERR_INIT;
            while (store_h5_build(path, &w.in, &e) == 0 && write(told[1], "x", 1) == 1)
                ;
            _exit(1);
        }
        close(told[1]);
        CHECK(read(told[0], &tick, 1) == 1, "the writer builds");
        x = x * 1664525 + 1013904223;
        usleep((x >> 16) % 12000);
        kill(child, SIGKILL);
        while (read(told[0], &tick, 1) == 1)
            builds++;
        close(told[0]);
        int how;
        waitpid(child, &how, 0);
        CHECK(WIFSIGNALED(how), "writer %d was killed while it wrote", k);

        struct store_report r;
        struct err e = ERR_INIT;
        CHECK_OK(store_h5_read(path, &r, &e), e);
        CHECK(r.summary.n_rows == N_EXPERIMENTS, "after kill %d the file is whole", k);
        store_report_release(&r);
    }
    printf("%d kills among %d rebuilds: the file opened every time\n", KILLS, builds + KILLS);
    release_world(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(what_cannot_be_written),
        STORE_TEST(old_temps_go),
        STORE_TEST(files_that_are_not_ours),
        STORE_TEST(killed_while_it_writes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
