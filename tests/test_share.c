/* test_share.c - ranks of a node that share weights: real engine processes and their talk, a
 * pretend device each whose broadcast is a file. */
#include "check.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "sched/gather.h"
#include "sched/hand.h"
#include "share.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RANKS_MAX 4
#define N_VALUES  1000

/* ---- an engine: its setup is a line of words, its record says how its weights came ---- */

static struct {
    char words[256];
    struct backend backend;
    struct backend_ops ops;
    int index, n;
    bool left;
    int n_read;
    int32_t values[2][N_VALUES];
} mine;

static bool has(const char *word)
{
    return strstr(mine.words, word) != NULL;
}

static char *path_of(const char *name)
{
    static char path[4096];

    snprintf(path, sizeof path, "%s/%s", getenv("LLQ_TEST_FOLDER"), name);
    return path;
}

static int fake_facts(struct backend *b, struct device_facts *out, struct err *e)
{
    (void)b, (void)e;
    *out = (struct device_facts){ .name = "pretend" };
    const char *device = strstr(mine.words, "device=");
    if (device)
        snprintf(out->id, sizeof out->id, "%c", device[7]);
    return 0;
}

static int fake_find(struct backend *b, char version[32], struct err *e)
{
    (void)b;
    snprintf(version, 32, "pretend 1.0");
    return has("nolib") ? err_set(e, ERR_USAGE, "no such library") : 0;
}

static int fake_id(struct backend *b, char id[SHARE_ID_BYTES], struct err *e)
{
    (void)b;
    for (int i = 0; i < SHARE_ID_BYTES; i++)
        id[i] = (char)(i * 37 + 11);
    return has("noid") ? err_set(e, ERR_DEVICE, "no id today") : 0;
}

static int fake_join(struct backend *b, const char id[SHARE_ID_BYTES], int index, int n,
                     struct err *e)
{
    (void)b;
    for (int i = 0; i < SHARE_ID_BYTES; i++)
        if (id[i] != (char)(i * 37 + 11))
            return err_set(e, ERR_DEVICE, "byte %d of the id is wrong", i);
    mine.index = index;
    mine.n = n;
    if (has("dies"))
        raise(SIGKILL);
    return 0;
}

static int fake_joined(struct backend *b, double timeout_s, struct err *e)
{
    (void)b, (void)timeout_s;
    return has("nojoin") ? err_set(e, ERR_DEVICE, "the cable is out") : 0;
}

static int fake_broadcast(struct backend *b, void *const *at, const size_t *n_bytes, size_t n,
                          double timeout_s, struct err *e)
{
    struct bytes file = BYTES_INIT;
    double end = clock_seconds() + 10;
    size_t sum = 0;

    (void)b, (void)timeout_s;
    if (has("nosend"))
        return err_set(e, ERR_DEVICE, "nothing arrives");
    if (mine.index == 0) {
        for (size_t i = 0; i < n; i++)
            bytes_add(&file, at[i], n_bytes[i]);
        int rc = file_replace(path_of("sent"), file.data, file.n, e);
        bytes_release(&file);
        return rc;
    }
    while (access(path_of("sent"), R_OK) < 0 && clock_seconds() < end)
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    if (file_read(path_of("sent"), &file, e) < 0)
        return -1;
    for (size_t i = 0; i < n; sum += n_bytes[i++])
        memcpy(at[i], file.data + sum, n_bytes[i]);
    bytes_release(&file);
    return 0;
}

static void fake_leave(struct backend *b)
{
    (void)b;
    mine.left = true;
}

static const struct share_ops fake_share = { fake_find,   fake_id,        fake_join,
                                             fake_joined, fake_broadcast, fake_leave };

static int read_file(void *reading, struct err *e)
{
    (void)reading;
    mine.n_read++;
    if (has("unreadable"))
        return err_set(e, ERR_INPUT, "tensor a holds NaN");
    for (int i = 0; i < N_VALUES; i++) {
        mine.values[0][i] = 7 * i + 1;
        mine.values[1][i] = -i;
    }
    return 0;
}

static int engine_setup_body(void *context, const struct engine_site *site, const void *setup,
                             size_t n_bytes, struct err *e)
{
    struct sharing sharing = SHARING_INIT;
    void *at[] = { mine.values[0], mine.values[1] };
    const size_t sizes[] = { sizeof mine.values[0], sizeof mine.values[1] };
    struct load_parts parts = { at, sizes, 2 };
    int rc = -1;

    (void)context;
    snprintf(mine.words, sizeof mine.words, "%.*s", (int)n_bytes, (const char *)setup);
    if (backend_open(&mine.backend, "cpu", 0, NULL, e) < 0)
        return -1;
    mine.ops = *mine.backend.ops;
    mine.ops.facts = fake_facts;
    mine.ops.share = has("none") ? NULL : &fake_share;
    mine.backend.ops = &mine.ops;
    if (has("size"))
        parts.n = 1;
    if (sharing_begin(&sharing, site, &mine.backend, has("small") ? 1000 : SHARE_BYTES_MIN,
                      has("share_gpu"), e) == 0 &&
        !has("nofit") && sharing_fill(&sharing, &parts, read_file, NULL, e) == 0)
        rc = 0;
    if (has("nofit"))
        err_set(e, ERR_MEMORY, "does not fit");
    sharing_end(&sharing);
    return rc;
}

static int engine_run_body(void *context, const void *job, size_t n_bytes, struct bytes *record,
                           struct err *e)
{
    bool right = true;

    (void)context, (void)job, (void)n_bytes, (void)e;
    for (int i = 0; i < N_VALUES; i++)
        right = right && mine.values[0][i] == 7 * i + 1 && (has("size") || mine.values[1][i] == -i);
    bytes_printf(record, "%s, read %d", right ? "right" : "wrong", mine.n_read);
    if (mine.n)
        bytes_printf(record, ", %d of %d%s", mine.index, mine.n, mine.left ? ", left" : "");
    return 0;
}

static const struct engine_body body = { .setup = engine_setup_body, .run = engine_run_body };

/* ---- the test: as rank 0 does it, without MPI ---- */

static char folder[] = "/tmp/llq_share.XXXXXX";

struct node {
    int n;
    struct hand hands[RANKS_MAX];
    struct gather gather;
    char outcome[RANKS_MAX][ERR_TEXT_MAX]; /* "ready", or why not */
};

static char last_log[2048];

static void listen(enum log_level level, const char *text, void *context)
{
    (void)context;
    if (level <= LOG_WARN)
        snprintf(last_log + strlen(last_log), sizeof last_log - strlen(last_log), "%s\n", text);
}

static void hear(struct node *node, int rank, struct hand_news *news)
{
    if (news->kind == MSG_TELL && news->bytes.n) {
        gather_told(&node->gather, rank, news->bytes.data, news->bytes.n);
    } else if (news->kind) {
        gather_left(&node->gather, rank);
        if (news->kind == MSG_READY)
            snprintf(node->outcome[rank], ERR_TEXT_MAX, "ready");
        else if (news->kind != MSG_TELL)
            snprintf(node->outcome[rank], ERR_TEXT_MAX, "%s", news->bytes.data);
    }
    bytes_release(&news->bytes);
}

/* Until every rank is ready or is not, at most 30 s. */
static void settle(struct node *node)
{
    double end = clock_seconds() + 30;
    struct err e = ERR_INIT;

    for (int open = node->n; open && clock_seconds() < end;) {
        struct bytes heard = BYTES_INIT;
        int rank;

        for (int i = 0; i < node->n; i++) {
            struct hand_news news;
            CHECK_OK(hand_poll(&node->hands[i], &news, &e), e);
            hear(node, i, &news);
        }
        while ((rank = gather_answer(&node->gather, &heard)) >= 0) {
            engine_answer(node->hands[rank].engine, heard.data, heard.n);
            bytes_release(&heard);
        }
        open = 0;
        for (int i = 0; i < node->n; i++)
            open += !node->outcome[i][0];
        nanosleep(&(struct timespec){ .tv_nsec = 500000 }, NULL);
    }
}

static void start(struct node *node, int n, const char *const *words)
{
    struct err e = ERR_INIT;

    *node = (struct node){ .n = n };
    last_log[0] = 0;
    unlink(path_of("sent"));
    gather_init(&node->gather, n);
    for (int i = 0; i < n; i++) {
        gather_host(&node->gather, i, "here");
        node->hands[i] = (struct hand)HAND_INIT;
        CHECK_OK(engine_start(&node->hands[i].engine, true, &body, &e), e);
        engine_place(node->hands[i].engine, i, n);
        hand_setup(&node->hands[i], words[i], strlen(words[i]));
    }
    settle(node);
}

static void stop(struct node *node)
{
    for (int i = 0; i < node->n; i++)
        engine_stop(node->hands[i].engine);
    gather_release(&node->gather);
}

/* What the job's record of a ready rank says. */
static void expect(struct node *node, int rank, const char *want)
{
    struct err e = ERR_INIT;
    struct hand_news news = { 0 };
    double end = clock_seconds() + 20;

    CHECK(!strcmp(node->outcome[rank], "ready"), "rank %d is ready, not \"%s\"", rank,
          node->outcome[rank]);
    CHECK_OK(hand_give(&node->hands[rank], 1, "say", 3, &e), e);
    while (!news.kind && clock_seconds() < end)
        CHECK_OK(hand_poll(&node->hands[rank], &news, &e), e);
    CHECK(news.kind == MSG_RESULT && !strcmp(news.bytes.data, want), "rank %d: \"%s\", not \"%s\"",
          rank, want, news.bytes.data ? news.bytes.data : "");
    bytes_release(&news.bytes);
}

#define NODE(...)                                \
    const char *const words[] = { __VA_ARGS__ }; \
    struct node node;                            \
    start(&node, sizeof words / sizeof *words, words)

static void one_reads(void **state)
{
    (void)state;
    NODE("device=A", "device=B", "device=C");
    expect(&node, 0, "right, read 1, 0 of 3, left");
    expect(&node, 1, "right, read 0, 1 of 3, left");
    expect(&node, 2, "right, read 0, 2 of 3, left");
    CHECK(!last_log[0], "nothing to warn of: %s", last_log);
    stop(&node);
}

static void one_rank_alone(void **state)
{
    (void)state;
    NODE("device=A");
    expect(&node, 0, "right, read 1");
    stop(&node);
}

static void surplus_ranks_idle(void **state)
{
    (void)state;
    NODE("device=A", "device=B", "device=A", "device=B");
    expect(&node, 0, "right, read 1, 0 of 2, left");
    expect(&node, 1, "right, read 0, 1 of 2, left");
    CHECK(strstr(node.outcome[2], "rank 0 has taken this GPU (A)") &&
              strstr(node.outcome[2], "--share-gpu"),
          "the third says why: %s", node.outcome[2]);
    CHECK(strstr(node.outcome[3], "rank 1 has taken this GPU (B)"), "and the fourth: %s",
          node.outcome[3]);
    stop(&node);
}

static void few_bytes_are_read_by_each(void **state)
{
    (void)state;
    NODE("device=A small", "device=B small", "device=A small");
    expect(&node, 0, "right, read 1");
    expect(&node, 1, "right, read 1");
    CHECK(strstr(node.outcome[2], "rank 0 has taken this GPU"), "surplus ranks idle all the same");
    stop(&node);
}

static void ranks_on_one_gpu_read(void **state)
{
    (void)state;
    NODE("device=A share_gpu", "device=A share_gpu", "device=B share_gpu");
    expect(&node, 0, "right, read 1, 0 of 2, left");
    expect(&node, 1, "right, read 1");
    expect(&node, 2, "right, read 0, 1 of 2, left");
    stop(&node);
}

static void without_the_library_all_read(void **state)
{
    (void)state;
    NODE("device=A nolib", "device=B nolib");
    expect(&node, 0, "right, read 1");
    expect(&node, 1, "right, read 1");
    CHECK(
        strstr(last_log, "each rank of this node reads the weights from the file: no such library"),
        "they say so: %s", last_log);
    stop(&node);
}

static void no_such_way(void **state)
{
    (void)state;
    NODE("none", "none");
    expect(&node, 0, "right, read 1");
    expect(&node, 1, "right, read 1");
    CHECK(!last_log[0], "which is nothing to speak of: %s", last_log);
    stop(&node);
}

static void trouble(const char *first, const char *second, const char *says)
{
    NODE(first, second, "device=C");
    for (int i = 0; i < 3; i++) {
        char want[64];
        snprintf(want, sizeof want, "right, read 1%s",
                 strstr(first, "noid") ? ""
                 : i == 0              ? ", 0 of 3, left"
                 : i == 1              ? ", 1 of 3, left"
                                       : ", 2 of 3, left");
        expect(&node, i, want);
    }
    CHECK(strstr(last_log, says), "%s is said: %s", says, last_log);
    stop(&node);
}

static void what_fails_falls_back(void **state)
{
    (void)state;
    trouble("device=A noid", "device=B", "no id today");
    trouble("device=A nojoin", "device=B", "the cable is out");
    trouble("device=A", "device=B nojoin", "the cable is out");
    trouble("device=A", "device=B size", "weights of another size");
}

static void a_broadcast_that_fails(void **state)
{
    (void)state;
    NODE("device=A", "device=B nosend", "device=C");
    expect(&node, 0, "right, read 1, 0 of 3, left");
    expect(&node, 1, "right, read 1, 1 of 3, left");
    expect(&node, 2, "right, read 0, 2 of 3, left");
    CHECK(strstr(last_log, "this rank reads the file: nothing arrives"), "it is said: %s",
          last_log);
    stop(&node);
}

static void nobody_waits_for_the_dead(void **state)
{
    (void)state;
    {
        NODE("device=A", "device=B dies", "device=C");
        expect(&node, 0, "right, read 1, 0 of 3, left");
        expect(&node, 2, "right, read 1, 2 of 3, left");
        CHECK(!strcmp(node.outcome[1], "ready") && strstr(last_log, "signal 9"),
              "the dead one is replaced: %s, %s", node.outcome[1], last_log);
        expect(&node, 1, "right, read 1");
        CHECK(strstr(last_log, "2 of 3 GPUs are left"), "it is said: %s", last_log);
        stop(&node);
    }
    {
        NODE("device=A dies", "device=B", "device=C");
        expect(&node, 1, "right, read 1, 1 of 3, left");
        expect(&node, 2, "right, read 1, 2 of 3, left");
        stop(&node);
    }
    {
        NODE("device=A", "device=B", "device=C nofit");
        expect(&node, 0, "right, read 1, 0 of 3, left");
        expect(&node, 1, "right, read 1, 1 of 3, left");
        CHECK(strstr(node.outcome[2], "does not fit"), "the full one: %s", node.outcome[2]);
        stop(&node);
    }
}

static void a_bad_file_is_told_by_each(void **state)
{
    (void)state;
    NODE("device=A unreadable", "device=B unreadable");
    for (int i = 0; i < 2; i++)
        CHECK(strstr(node.outcome[i], "tensor a holds NaN"), "rank %d: %s", i, node.outcome[i]);
    stop(&node);
}

static void who_is_replaced_reads(void **state)
{
    (void)state;
    NODE("device=A", "device=B");
    kill(engine_pid(node.hands[1].engine), SIGKILL);
    node.outcome[1][0] = 0;
    settle(&node);
    expect(&node, 1, "right, read 1");
    stop(&node);
}

static int set_up(void **state)
{
    (void)state;
    log_set_terminal_level(LOG_ERROR);
    log_set_listener(listen, NULL);
    return mkdtemp(folder) && setenv("LLQ_TEST_FOLDER", folder, 1) == 0 ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    unlink(path_of("sent"));
    log_set_listener(NULL, NULL);
    return rmdir(folder);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--engine-fd") == 0)
        return engine_serve(atoi(argv[2]), &body);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_reads),
        cmocka_unit_test(one_rank_alone),
        cmocka_unit_test(surplus_ranks_idle),
        cmocka_unit_test(few_bytes_are_read_by_each),
        cmocka_unit_test(ranks_on_one_gpu_read),
        cmocka_unit_test(without_the_library_all_read),
        cmocka_unit_test(no_such_way),
        cmocka_unit_test(what_fails_falls_back),
        cmocka_unit_test(a_broadcast_that_fails),
        cmocka_unit_test(nobody_waits_for_the_dead),
        cmocka_unit_test(a_bad_file_is_told_by_each),
        cmocka_unit_test(who_is_replaced_reads),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
