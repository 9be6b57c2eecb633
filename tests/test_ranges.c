/* Parts of a span, taken and given back in any order: beside a map of every unit. */
#include "check.h"

#include "base/ranges.h"
#include "base/rng.h"

#include <string.h>

static void all_of_it_and_no_more(void **state)
{
    struct ranges *r = ranges_open(10);
    size_t at;

    (void)state;
    CHECK(ranges_take(r, 10, &at) && at == 0 && ranges_n_free(r) == 0, "all");
    CHECK(!ranges_take(r, 1, &at), "and no more");
    ranges_give(r, 0);
    CHECK(!ranges_take(r, 11, &at), "not more than there is");
    CHECK(ranges_take(r, 4, &at) && at == 0 && ranges_take(r, 6, &at) && at == 4, "in two");
    ranges_close(r);
    r = ranges_open(1);
    CHECK(ranges_take(r, 1, &at) && at == 0 && !ranges_take(r, 1, &at), "a span of one");
    ranges_close(r);
    ranges_close(NULL);
}

static void the_least_part_serves(void **state)
{
    struct ranges *r = ranges_open(100);
    size_t a, b, c, d, at;

    (void)state;
    CHECK(ranges_take(r, 30, &a) && ranges_take(r, 5, &b) && ranges_take(r, 10, &c) &&
              ranges_take(r, 5, &d),
          "four parts, 50 left");
    ranges_give(r, a);
    ranges_give(r, c);
    CHECK(ranges_take(r, 10, &at) && at == c, "the part that fits");
    CHECK(ranges_take(r, 31, &at) && at == 50, "only the end is large enough");
    CHECK(!ranges_take(r, 31, &at), "49 are free, but not in a row");
    ranges_give(r, b);
    CHECK(ranges_take(r, 35, &at) && at == 0, "neighbours are joined");
    ranges_close(r);
}

static void any_order(void **state)
{
    enum { UNITS = 1000, MOST = 200 };
    static unsigned char owner[UNITS]; /* 1 + index of a part; 0: free */
    static struct {
        size_t at, n;
    } part[MOST];
    struct ranges *r = ranges_open(UNITS);
    uint64_t drawn = 0;
    size_t n_free = UNITS;

    (void)state;
    for (int step = 0; step < 200000; step++) {
        size_t i = rng_below(3, RNG_TEST, drawn++, MOST), at;

        if (part[i].n) {
            ranges_give(r, part[i].at);
            memset(owner + part[i].at, 0, part[i].n);
            n_free += part[i].n;
            part[i].n = 0;
        } else {
            size_t n = 1 + rng_below(3, RNG_TEST, drawn++, step % 3 ? 12 : 120);
            if (!ranges_take(r, n, &at)) {
                size_t run = 0, longest = 0;
                for (size_t k = 0; k < UNITS; k++) {
                    run = owner[k] ? 0 : run + 1;
                    longest = run > longest ? run : longest;
                }
                CHECK(longest < n, "%zu in a row were free, %zu asked for", longest, n);
                continue;
            }
            CHECK(at + n <= UNITS, "inside");
            for (size_t k = at; k < at + n; k++) {
                CHECK(owner[k] == 0, "unit %zu was free", k);
                owner[k] = 1;
            }
            part[i].at = at;
            part[i].n = n;
            n_free -= n;
        }
        CHECK(ranges_n_free(r) == n_free, "%zu free, counted %zu", n_free, ranges_n_free(r));
    }
    for (size_t i = 0; i < MOST; i++)
        if (part[i].n)
            ranges_give(r, part[i].at);
    size_t at;
    CHECK(ranges_take(r, UNITS, &at) && at == 0, "all of it is one part again");
    ranges_close(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_of_it_and_no_more),
        cmocka_unit_test(the_least_part_serves),
        cmocka_unit_test(any_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
