/* host_facts.c - what this host is, and how much memory a process may still take. */
#include "cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The number after `key` in a file of "key: value kB" lines; -1 when absent. */
static int64_t kilobytes_of(const char *path, const char *key)
{
    FILE *f = fopen(path, "re");
    char line[256];
    long long value = -1;

    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, key, strlen(key)) && sscanf(line + strlen(key), ": %lld", &value) == 1)
            break;
    if (f)
        fclose(f);
    return value < 0 ? -1 : value * 1024;
}

/* A file that holds one number; -1 when absent or a word ("max"). */
static int64_t number_in(const char *folder, const char *name)
{
    char path[4096 + 64];
    long long value = -1;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%lld", &value) != 1)
        value = -1;
    if (f)
        fclose(f);
    return value;
}

static int64_t statistic_in(const char *folder, const char *key)
{
    char path[4096 + 64], name[64];
    long long value, found = 0;

    snprintf(path, sizeof path, "%s/memory.stat", folder);
    FILE *f = fopen(path, "re");
    while (f && fscanf(f, "%63s %lld", name, &value) == 2)
        if (!strcmp(name, key))
            found = value;
    if (f)
        fclose(f);
    return found;
}

/* Lowers *total and *unused to what one control group leaves.  Pages of files count as used there
 * but are given back when memory is asked for: a checkpoint just read must not look like use. */
static void limit_by(const char *folder, bool unified, int64_t *total, int64_t *unused)
{
    int64_t limit = number_in(folder, unified ? "memory.max" : "memory.limit_in_bytes");
    int64_t used = number_in(folder, unified ? "memory.current" : "memory.usage_in_bytes");

    if (limit < 0 || used < 0)
        return;
    used -= statistic_in(folder, unified ? "inactive_file" : "total_inactive_file");
    used -= statistic_in(folder, unified ? "active_file" : "total_active_file");
    int64_t left = limit > used ? limit - used : 0;
    if (limit < *total)
        *total = limit;
    if (left < *unused)
        *unused = left;
}

/* Every group from the process's own up to the root: Slurm sets the limit on a parent. */
static void limit_by_groups(int64_t *total, int64_t *unused)
{
    FILE *f = fopen("/proc/self/cgroup", "re");
    char line[2048];

    while (f && fgets(line, sizeof line, f)) {
        char folder[4096];
        char *group = strchr(line, ':') ? strchr(strchr(line, ':') + 1, ':') : NULL;

        if (!group)
            continue;
        bool unified = !strncmp(line, "0::", 3);
        if (!unified && !strstr(line, ":memory:"))
            continue;
        group[strcspn(group, "\n")] = 0;
        const char *root = unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
        snprintf(folder, sizeof folder, "%s%s", root, group + 1);
        while (strlen(folder) >= strlen(root)) {
            limit_by(folder, unified, total, unused);
            char *slash = strrchr(folder, '/');
            if (!slash)
                break;
            *slash = 0;
        }
    }
    if (f)
        fclose(f);
}

static void processor_name(char *out, size_t room)
{
    FILE *f = fopen("/proc/cpuinfo", "re");
    char line[512];

    snprintf(out, room, "CPU");
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (colon && !strncmp(line, "model name", 10)) {
            colon[1 + strcspn(colon + 1, "\n")] = 0;
            snprintf(out, room, "%s", colon + 2);
            break;
        }
    }
    if (f)
        fclose(f);
}

void cpu_host_facts(struct device_facts *out)
{
    int64_t total = kilobytes_of("/proc/meminfo", "MemTotal");
    int64_t unused = kilobytes_of("/proc/meminfo", "MemAvailable");

    if (total < 0)
        total = INT64_MAX;
    if (unused < 0)
        unused = total;
    limit_by_groups(&total, &unused);
    processor_name(out->name, sizeof out->name);
    out->memory_bytes = total;
    out->free_bytes = unused;
}
