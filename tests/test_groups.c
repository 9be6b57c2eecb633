/* test_groups.c - which ranks work on one job together. */
#include "check.h"

#include "sched/groups.h"

#include <string.h>

static const char *hosts; /* one letter a rank */

static const char *host_of(const void *context, int rank)
{
    static char names[64][2];

    (void)context;
    names[rank][0] = hosts[rank];
    return names[rank];
}

static struct groups made(const char *of, int size)
{
    struct groups g;
    struct err e = ERR_INIT;

    hosts = of;
    CHECK_OK(groups_make(&g, (int)strlen(of), size, host_of, NULL, &e), e);
    return g;
}

static void without_groups_each_rank_is_one(void **state)
{
    (void)state;
    for (int size = 0; size <= 1; size++) {
        struct groups g = made("abca", size);

        for (int i = 0; i < 4; i++)
            CHECK(groups_first(&g, i) == i && groups_member(&g, i, 0) == i, "rank %d is alone", i);
        CHECK(g.size == 1, "a group is one");
        groups_release(&g);
    }
}

static void ranks_of_a_host_go_together_in_their_order(void **state)
{
    static const int first[] = { 0, 1, 0, 1, 4, 5, 4, 5 };
    struct groups g = made("abababab", 2);

    (void)state;
    for (int i = 0; i < 8; i++)
        CHECK(groups_first(&g, i) == first[i], "rank %d belongs to rank %d, not %d", i, first[i],
              groups_first(&g, i));
    CHECK(groups_member(&g, 4, 0) == 4 && groups_member(&g, 4, 1) == 6, "members in their order");
    groups_release(&g);
}

static void who_is_left_over_is_in_none(void **state)
{
    struct groups g = made("aaaaabbbb", 4);

    (void)state;
    CHECK(groups_first(&g, 3) == 0 && groups_first(&g, 4) == -1, "the fifth of five is left over");
    CHECK(groups_first(&g, 5) == 5 && groups_first(&g, 8) == 5, "the next host has a group");
    groups_release(&g);
    g = made("abbb", 2);
    CHECK(groups_first(&g, 0) == -1 && groups_first(&g, 1) == 1 && groups_first(&g, 2) == 1 &&
              groups_first(&g, 3) == -1,
          "rank 0, too");
    groups_release(&g);
}

static void no_host_large_enough_is_an_error(void **state)
{
    struct groups g;
    struct err e = ERR_INIT;

    (void)state;
    hosts = "aabbcc";
    CHECK(groups_make(&g, 6, 4, host_of, NULL, &e) < 0 && e.code == ERR_USAGE, "is refused");
    CHECK(strstr(e.text, "takes 4 ranks on one node; there are at most 2"), "says so: %s", e.text);
    groups_release(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_groups_each_rank_is_one),
        cmocka_unit_test(ranks_of_a_host_go_together_in_their_order),
        cmocka_unit_test(who_is_left_over_is_in_none),
        cmocka_unit_test(no_host_large_enough_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
