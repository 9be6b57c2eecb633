/* test_journal.c - what was acknowledged survives; what was not never counts twice or half. */
#include "check.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/js.h"
#include "base/memory.h"
#include "record/journal.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[64], path[96];

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/llq_journal_XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/r.h5.journal", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder);
}

/* Awkward on purpose: every escape, a 0 byte, text beyond ASCII, reals without a short form. */
static struct js *make_record(int64_t i)
{
    struct js *r = js_new_object(), *list = js_new_array();
    struct bytes text = BYTES_INIT;

    js_set_int(r, "i", i);
    js_set_real(r, "third", (double)i / 3.0);
    js_set_real(r, "nan", NAN);
    js_set(r, "text", js_new_textn("a\nb\t\"\\\0 \xE2\x80\xA8 \xF0\x9F\xA6\x99", 16));
    for (int64_t k = 0; k < i % 7; k++)
        js_append(list, js_new_real((double)k * 0.1));
    js_set(r, "list", list);
    for (int64_t k = 0; k < (i % 5) * 700; k++)
        bytes_text(&text, "long ");
    js_set_text(r, "long", text.data ? text.data : "");
    bytes_release(&text);
    return r;
}

static void append(struct journal *j, int64_t i)
{
    struct err e = ERR_INIT;
    struct js *r = make_record(i);

    CHECK_OK(journal_append(j, r, &e), e);
    js_release(r);
}

static void write_journal(int n)
{
    struct journal j = JOURNAL_INIT;
    struct err e = ERR_INIT;

    CHECK_OK(journal_open(&j, path, &e), e);
    for (int i = 0; i < n; i++)
        append(&j, i);
    CHECK(j.n_lines == n, "the journal counts what it appended");
    journal_close(&j);
    journal_close(&j);
}

/* Lines of the file, checked against what make_record() gives for their "i"; ids may be NULL. */
static int read_back(int64_t *ids, int room, char **warnings)
{
    struct err e = ERR_INIT;
    struct js **lines;
    int n;

    CHECK_OK(journal_read(path, &lines, &n, warnings, &e), e);
    for (int i = 0; i < n; i++) {
        int64_t id = js_int(js_get(lines[i], "i"));
        struct js *want = make_record(id);
        char *a = js_write(want, NULL), *b = js_write(lines[i], NULL);
        CHECK(strcmp(a, b) == 0, "line %d comes back as it was written", i);
        if (ids && i < room)
            ids[i] = id;
        free(a);
        free(b);
        js_release(want);
    }
    journal_release(lines, n);
    return n;
}

static void put(const char *bytes, size_t n)
{
    struct err e = ERR_INIT;

    CHECK_OK(file_replace(path, bytes, n, &e), e);
}

static struct bytes whole_file(void)
{
    struct bytes b = BYTES_INIT;
    struct err e = ERR_INIT;

    CHECK_OK(file_read(path, &b, &e), e);
    return b;
}

static void missing_and_empty(void **state)
{
    char *warnings;

    (void)state;
    CHECK(read_back(NULL, 0, &warnings) == 0 && !warnings, "a missing file has no lines");
    write_journal(0);
    CHECK(file_size(path) == 0, "opening makes the file");
    CHECK(read_back(NULL, 0, &warnings) == 0 && !warnings, "an empty file has no lines");
}

static void lines_come_back(void **state)
{
    char *warnings;
    int64_t ids[40];

    (void)state;
    write_journal(30);
    CHECK(read_back(ids, 40, &warnings) == 30 && !warnings, "30 lines come back");
    for (int i = 0; i < 30; i++)
        CHECK(ids[i] == i, "line %d is in its place", i);
    CHECK(read_back(NULL, 0, NULL) == 30, "warnings are optional");
}

static void torn_tail_at_every_byte(void **state)
{
    struct bytes all;
    char *warnings;
    int64_t ids[8];

    (void)state;
    write_journal(4); /* line 3 is over 10 kB long: its last 300 and first 300 bytes are cut */
    all = whole_file();
    size_t last = all.n - 1;
    while (all.data[last - 1] != '\n')
        last--;
    for (size_t cut = last; cut < all.n; cut++) {
        if (cut > last + 300 && cut + 300 < all.n)
            continue;
        put(all.data, cut);
        bool whole = cut == all.n - 1; /* only its line end is missing */
        CHECK(read_back(NULL, 0, &warnings) == (whole ? 4 : 3), "cut at byte %zu: lines read", cut);
        CHECK(!warnings, "cut at byte %zu: a torn tail is nothing to worry about", cut);

        struct journal j = JOURNAL_INIT;
        struct err e = ERR_INIT;
        CHECK_OK(journal_open(&j, path, &e), e);
        append(&j, 77);
        journal_close(&j);
        int n = read_back(ids, 8, &warnings);
        CHECK(n == (whole ? 5 : 4) && ids[n - 1] == 77, "cut at byte %zu: the next line is whole",
              cut);
        CHECK((warnings != NULL) == (cut > last && !whole),
              "cut at byte %zu: the torn line is named once it stands in the middle", cut);
        CHECK(!warnings || strstr(warnings, "line 4 "), "by its number");
        free(warnings);
    }
    bytes_release(&all);
}

static void damaged_middle_line(void **state)
{
    struct bytes all;
    char *warnings;
    int64_t ids[8];

    (void)state;
    write_journal(5);
    all = whole_file();
    size_t start = (size_t)((char *)memchr(all.data, '\n', all.n) - all.data) + 1;
    size_t end = start + (size_t)((char *)memchr(all.data + start, '\n', all.n - start) -
                                  (all.data + start));
    for (size_t at = start; at < end; at += at < start + 40 ? 1 : 397) {
        char kept = all.data[at];
        all.data[at] = (char)(kept ^ 0x10);
        put(all.data, all.n);
        int n = read_back(ids, 8, &warnings);
        CHECK(n == 4 && ids[0] == 0 && ids[1] == 2 && ids[3] == 4,
              "byte %zu damaged: the other lines stay", at);
        CHECK(warnings && strstr(warnings, path) && strstr(warnings, "line 2 "),
              "byte %zu damaged: the line is named", at);
        free(warnings);
        all.data[at] = kept;
    }
    memset(all.data + start, 0, end - start); /* what some file systems leave after a power cut */
    put(all.data, all.n);
    CHECK(read_back(NULL, 0, &warnings) == 4 && warnings, "a line of zero bytes is left out");
    free(warnings);
    bytes_release(&all);
}

static void garbage(void **state)
{
    struct bytes junk = BYTES_INIT;
    char *warnings;
    uint32_t x = 12345;

    (void)state;
    for (int i = 0; i < 20000; i++) {
        x = x * 1664525 + 1013904223;
        char c = (char)(i % 50 == 49 ? '\n' : (int)(x >> 24));
        bytes_add(&junk, &c, 1);
    }
    put(junk.data, junk.n);
    CHECK(read_back(NULL, 0, &warnings) == 0, "garbage has no lines");
    CHECK(warnings && strstr(warnings, "more damaged lines"), "many damaged lines are counted");
    free(warnings);
    bytes_release(&junk);

    put("\n\n\n", 3);
    CHECK(read_back(NULL, 0, &warnings) == 0 && !warnings, "empty lines say nothing");
    const char *good_sum_bad_json = "e3b0c442 \n"; /* the checksum of nothing at all */
    put(good_sum_bad_json, strlen(good_sum_bad_json));
    CHECK(read_back(NULL, 0, &warnings) == 0 && warnings, "a line without JSON is named");
    free(warnings);
}

static void second_writer(void **state)
{
    struct journal a = JOURNAL_INIT, b = JOURNAL_INIT;
    struct err e = ERR_INIT;

    (void)state;
    CHECK_OK(journal_open(&a, path, &e), e);
    append(&a, 1);
    CHECK(journal_open(&b, path, &e) < 0 && e.code == ERR_USAGE, "a second writer is refused");
    CHECK(strstr(e.text, path) && strstr(e.text, "another llq_sweep"), "and told why: %s", e.text);
    journal_close(&b);
    append(&a, 2);
    journal_close(&a);
    CHECK_OK(journal_open(&b, path, &e), e);
    journal_close(&b);
    CHECK(read_back(NULL, 0, NULL) == 2, "the first writer lost nothing");

    CHECK_OK(journal_open(&a, path, &e), e);
    CHECK_OK(journal_clear(&a, &e), e);
    CHECK(journal_open(&b, path, &e) < 0, "a cleared journal is still locked");
    append(&a, 5);
    journal_close(&a);
    CHECK(read_back(NULL, 0, NULL) == 1, "a cleared journal starts afresh");
}

static void places_that_cannot_be(void **state)
{
    struct journal j = JOURNAL_INIT;
    struct err e = ERR_INIT;
    struct js *r = make_record(1), **lines;
    char deep[160];
    int n;

    (void)state;
    snprintf(deep, sizeof deep, "%s/none/r.journal", folder);
    CHECK(journal_open(&j, deep, &e) < 0 && e.code == ERR_IO && strstr(e.text, deep),
          "a missing folder is named");
    CHECK(journal_append(&j, r, &e) < 0, "nothing is appended to a journal that is not open");
    CHECK(journal_open(&j, "/dev/null", &e) < 0 && e.code == ERR_USAGE, "a device is refused");
    CHECK(journal_read(folder, &lines, &n, NULL, &e) < 0 && n == 0, "a folder is refused");
    js_release(r);
}

/* A file size limit stops a write in the middle, as a full disk does. */
static void full_disk(void **state)
{
    struct rlimit old, small;
    struct journal j = JOURNAL_INIT;
    struct err e = ERR_INIT;
    char *warnings;
    int64_t ids[8];

    (void)state;
    CHECK_OK(journal_open(&j, path, &e), e);
    append(&j, 0);
    append(&j, 1);
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = (rlim_t)file_size(path) + 50;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    struct js *r = make_record(2);
    int rc = journal_append(&j, r, &e);
    setrlimit(RLIMIT_FSIZE, &old);
    js_release(r);
    CHECK(rc < 0 && e.code == ERR_IO && strstr(e.text, path), "a full disk is an error");
    CHECK(read_back(NULL, 0, &warnings) == 2 && !warnings, "what was written stays");
    append(&j, 3);
    CHECK(read_back(ids, 8, &warnings) == 3 && ids[2] == 3 && !warnings,
          "and the journal goes on once there is room");
    journal_close(&j);
}

static void when_to_sync(void **state)
{
    (void)state;
    struct journal j = JOURNAL_INIT;

    j.synced_s = 100;
    CHECK(!journal_sync_due(&j, 1000), "nothing waits: never");
    j.n_unsynced = 1;
    CHECK(!journal_sync_due(&j, 100.04) && journal_sync_due(&j, 100.06), "at most every 50 ms");
    j.sync_took_s = 0.01;
    CHECK(!journal_sync_due(&j, 100.4) && journal_sync_due(&j, 100.6), "10 ms: every half second");
    j.sync_took_s = 10;
    CHECK(!journal_sync_due(&j, 101.9) && journal_sync_due(&j, 102.1), "at least every 2 s");
}

/* As many as a sweep may have: written in groups, damaged here and there, read back. */
static void a_hundred_thousand_lines(void **state)
{
    enum { LINES = 100000, GROUPS = 200 };
    struct journal j = JOURNAL_INIT;
    struct err e = ERR_INIT;
    struct js **lines, *r = js_new_object();
    struct bytes text = BYTES_INIT;
    char *warnings;
    int n;

    (void)state;
    for (int i = 0; i < 100; i++)
        bytes_text(&text, "long ");
    js_set_text(r, "text", text.data);
    CHECK_OK(journal_open(&j, path, &e), e);
    double start = clock_seconds();
    for (int i = 0; i < LINES; i++) {
        js_set_int(r, "id", i);
        CHECK_OK(journal_append(&j, r, &e), e);
        CHECK(j.n_unsynced == i % (LINES / GROUPS) + 1, "it counts what is not on disk yet");
        if (j.n_unsynced == LINES / GROUPS)
            CHECK_OK(journal_sync(&j, &e), e);
    }
    double written = clock_seconds();
    CHECK(j.n_unsynced == 0 && j.n_lines == LINES, "all of it is on disk");
    journal_close(&j);
    js_release(r);

    /* One bit in the middle of the file, and half of a line at its end. */
    int64_t size = file_size(path);
    int fd = open(path, O_RDWR | O_APPEND);
    char byte;
    CHECK(pread(fd, &byte, 1, (off_t)(size / 2)) == 1, "a byte in the middle");
    CHECK(write(fd, "0123abcd {\"id\": 1000", 20) == 20, "a torn line at the end");
    close(fd);
    fd = open(path, O_RDWR);
    byte ^= 4;
    CHECK(pwrite(fd, &byte, 1, (off_t)(size / 2)) == 1, "one bit of it changes");
    close(fd);
    double again = clock_seconds();
    CHECK_OK(journal_read(path, &lines, &n, &warnings, &e), e);
    printf("%d lines, %.1f MB, in %d groups: written in %.2f s, read in %.2f s\n", LINES,
           (double)size * 1e-6, GROUPS, written - start, clock_seconds() - again);
    CHECK(n == LINES - 1, "all but the damaged line are read, not %d", n);
    CHECK(warnings && strstr(warnings, ": line 50"), "it is named: %s", warnings);
    CHECK(!strstr(warnings, "line 100001"), "the torn end is not: that is how a kill looks");
    CHECK(js_int(js_get(lines[n - 1], "id")) == LINES - 1, "in their order");
    free(warnings);
    journal_release(lines, n);
    bytes_release(&text);
    unlink(path);
}

/* Writes until it is killed; says on `told` which lines are on disk, GROUP at a time. */
enum { GROUP = 4 };

static _Noreturn void write_for_ever(int64_t from, int told)
{
    struct journal j = JOURNAL_INIT;
    struct err e = ERR_INIT;

    for (int64_t i = from;; i++) {
        if (j.fd < 0 && journal_open(&j, path, &e) < 0)
            _exit(1);
        struct js *r = make_record(i);
        if (journal_append(&j, r, &e) < 0)
            _exit(1);
        js_release(r);
        if (i % GROUP != GROUP - 1)
            continue;
        int64_t group[GROUP];
        for (int k = 0; k < GROUP; k++)
            group[k] = i - GROUP + 1 + k;
        if (journal_sync(&j, &e) < 0 || write(told, group, sizeof group) != (ssize_t)sizeof group)
            _exit(1);
    }
}

static void killed_writers(void **state)
{
    enum { KILLS = 25, ROOM = 1 << 16 };
    int64_t *acknowledged = mem_array(ROOM, sizeof *acknowledged);
    int64_t *ids = mem_array(ROOM, sizeof *ids);
    int n_acknowledged = 0;
    uint32_t x = 99;

    (void)state;
    for (int k = 0; k < KILLS; k++) {
        int told[2];
        CHECK(pipe(told) == 0, "a pipe");
        pid_t child = fork();
        if (child == 0) {
            close(told[0]);
            write_for_ever((int64_t)k * 100000, told[1]);
        }
        close(told[1]);
        x = x * 1664525 + 1013904223;
        usleep(3000 + (x >> 16) % 20000);
        kill(child, SIGKILL);
        int64_t id;
        while (read(told[0], &id, sizeof id) == (ssize_t)sizeof id && n_acknowledged < ROOM)
            acknowledged[n_acknowledged++] = id;
        close(told[0]);
        int how;
        waitpid(child, &how, 0);
        CHECK(WIFSIGNALED(how), "writer %d was killed while it wrote", k);
    }
    char *warnings;
    int n = read_back(ids, ROOM, &warnings), at = 0;
    for (int i = 0; i < n_acknowledged; i++) {
        while (at < n && ids[at] != acknowledged[i])
            at++;
        CHECK(at < n, "acknowledged line %lld is in the journal", (long long)acknowledged[i]);
    }
    CHECK(n_acknowledged > 0, "some lines were acknowledged before a kill");
    CHECK(n <= n_acknowledged + GROUP * KILLS, "at most one unacknowledged group a kill");
    printf("%d kills: %d lines acknowledged, %d in the journal, none lost%s\n", KILLS,
           n_acknowledged, n, warnings ? ", torn lines named" : "");
    free(warnings);
    free(acknowledged);
    free(ids);
}

#define JOURNAL_TEST(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        JOURNAL_TEST(missing_and_empty),
        JOURNAL_TEST(lines_come_back),
        JOURNAL_TEST(torn_tail_at_every_byte),
        JOURNAL_TEST(damaged_middle_line),
        JOURNAL_TEST(garbage),
        JOURNAL_TEST(second_writer),
        JOURNAL_TEST(places_that_cannot_be),
        JOURNAL_TEST(full_disk),
        JOURNAL_TEST(when_to_sync),
        JOURNAL_TEST(a_hundred_thousand_lines),
        JOURNAL_TEST(killed_writers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
