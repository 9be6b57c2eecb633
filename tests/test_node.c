/* test_node.c - where a rank is bound, and which cores are beside a GPU. */
#include "check.h"

#include "base/file.h"
#include "sched/node.h"

#include <sched.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void put(const char *root, const char *name, const char *text)
{
    struct err e = ERR_INIT;
    char *path = file_join(root, name), *folder = file_folder(path);

    CHECK_OK(file_make_folders(folder, &e), e);
    CHECK_OK(file_replace(path, text, strlen(text), &e), e);
    free(folder);
    free(path);
}

static void gpus_and_their_cores(void **state)
{
    (void)state;
    char root[] = "/tmp/llq_node_XXXXXX", bus[NODE_TEXT_MAX], cores[NODE_TEXT_MAX], command[64];

    CHECK(mkdtemp(root), "a folder");
    put(root, "proc/driver/nvidia/gpus/0000:1b:00.0/information",
        "Model: \t\t NVIDIA H200\nIRQ:   \t\t 123\nGPU UUID: \t GPU-aaaa\n");
    put(root, "proc/driver/nvidia/gpus/0000:9d:00.0/information",
        "Model: \t\t NVIDIA H200\nGPU UUID: \t GPU-bbbb\n");
    put(root, "sys/bus/pci/devices/0000:1b:00.0/local_cpulist", "0-31,64-95\n");
    put(root, "sys/bus/pci/devices/0000:9d:00.0/local_cpulist", "32-63,96-127\n");
    CHECK(node_beside(root, "GPU-bbbb", bus, cores), "a GPU is found by its id");
    CHECK(!strcmp(bus, "0000:9d:00.0") && !strcmp(cores, "32-63,96-127"), "with its cores: %s %s",
          bus, cores);
    CHECK(node_beside(root, "GPU-aaaa", bus, cores) && !strcmp(cores, "0-31,64-95"),
          "the other, too");
    CHECK(!node_beside(root, "GPU-cccc", bus, cores), "one that is not there is not");
    CHECK(!node_beside(root, "", bus, cores), "nor the CPU");
    CHECK(!node_beside("/nowhere", "GPU-aaaa", bus, cores), "nor any without its driver");
    snprintf(command, sizeof command, "rm -rf %s", root);
    CHECK(system(command) == 0, "the folder goes");
}

static void binding(void **state)
{
    (void)state;
    cpu_set_t before, after;
    char text[NODE_TEXT_MAX], first[32];

    CHECK(sched_getaffinity(0, sizeof before, &before) == 0, "a process is bound somewhere");
    node_describe(text);
    CHECK(strstr(text, " of "), "which is told: %s", text);
    CHECK(!node_bind("100000-100007"), "cores that it may not use bind nothing");
    CHECK(!node_bind("none"), "nor what is no list");
    CHECK(!node_bind("0-9999"), "nor does a list that holds all it may use");
    int n = 0;
    while (!CPU_ISSET(n, &before))
        n++;
    if (CPU_COUNT(&before) < 2) {
        printf("SKIP binding to some cores: there is one\n");
        return;
    }
    snprintf(first, sizeof first, "%d,100000", n);
    CHECK(node_bind(first), "a part of its cores does");
    CHECK(sched_getaffinity(0, sizeof after, &after) == 0 && CPU_COUNT(&after) == 1 &&
              CPU_ISSET(n, &after),
          "to those that it may use");
    node_describe(text);
    CHECK(strstr(text, "(1 of "), "as it says: %s", text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpus_and_their_cores),
        cmocka_unit_test(binding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
