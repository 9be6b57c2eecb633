/* provenance.c - see provenance.h. */
#include "record/provenance.h"

#include "base/file.h"
#include "base/memory.h"
#include "record/store_h5.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

void provenance_add_slurm(struct js *object)
{
    static const char *const variables[] = {
        "SLURM_JOB_ID",       "SLURM_JOB_NAME",      "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID",
        "SLURM_CLUSTER_NAME", "SLURM_JOB_PARTITION", "SLURM_JOB_NODELIST", "SLURM_JOB_NUM_NODES",
        "SLURM_NTASKS",       "SLURM_RESTART_COUNT",
    };

    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) {
        const char *value = getenv(variables[i]);
        char name[64];
        size_t n = strlen(variables[i]);
        if ((!value || !*value) && i > 0) /* the first is always there, empty without Slurm */
            continue;
        for (size_t k = 0; k <= n; k++)
            name[k] = (char)tolower((unsigned char)variables[i][k]);
        js_set_text(object, name, value ? value : "");
    }
}

/* "Linux 6.1.0 x86_64" */
static void add_system(struct js *object)
{
    struct utsname u;
    char text[sizeof u.sysname + sizeof u.release + sizeof u.machine + 3];

    if (uname(&u) < 0)
        return;
    snprintf(text, sizeof text, "%s %s %s", u.sysname, u.release, u.machine);
    js_set_text(object, "system", text);
}

/* The processor of rank 0's node, as the kernel names it. */
static void add_processor(struct js *object)
{
    struct bytes text = BYTES_INIT;
    struct err ignored = ERR_INIT; /* other kernels have no such file: then it stays unknown */

    if (file_read("/proc/cpuinfo", &text, &ignored) == 0) {
        const char *line = strstr(text.data, "model name");
        const char *colon = line ? strchr(line, ':') : NULL;
        if (colon) {
            const char *name = colon + 1 + strspn(colon + 1, " \t");
            struct js *value = js_new_textn(name, strcspn(name, "\n"));
            js_set(object, "processor", value);
        }
    }
    bytes_release(&text);
}

static void add_ranks(struct js *object, const struct provenance_input *in)
{
    struct js *hosts = js_new_array(), *devices = js_new_array();

    js_set_int(object, "mpi_ranks", in->n_ranks);
    for (int i = 0; i < in->n_ranks; i++) {
        js_append(hosts, js_new_text(in->ranks[i].hostname ? in->ranks[i].hostname : ""));
        js_append(devices, js_new_text(in->ranks[i].device ? in->ranks[i].device : ""));
    }
    js_set(object, "hostnames", hosts);
    js_set(object, "gpu_names", devices);
}

static void add_versions(struct js *object, const struct provenance_input *in)
{
    char name[64];

    for (int i = 0; i < in->n_versions; i++) {
        if (!in->versions[i].text)
            continue;
        snprintf(name, sizeof name, "%s_version", in->versions[i].name);
        js_set_text(object, name, in->versions[i].text);
    }
    js_set_text(object, "hdf5_version", store_h5_version());
}

/* { "coqa": { "path": p, "sha256": s } } -> coqa_path, coqa_sha256 */
static void add_data(struct js *object, const struct js *data)
{
    struct js_member task = JS_MEMBER_INIT;

    while (data && js_next(data, &task)) {
        struct js_member m = JS_MEMBER_INIT;
        while (js_kind(task.value) == JS_OBJECT && js_next(task.value, &m)) {
            char name[160];
            snprintf(name, sizeof name, "%s_%s", task.key, m.key);
            js_set(object, name, js_copy(m.value));
        }
    }
}

static void add_json_text(struct js *object, const char *key, const struct js *value)
{
    char *text = js_write(value, NULL);

    js_set_text(object, key, text);
    free(text);
}

/* { "add_bos": true } -> profile_add_bos; what is nested as its JSON. */
static void add_profile(struct js *object, const struct js *profile)
{
    struct js_member m = JS_MEMBER_INIT;

    add_json_text(object, "profile", profile);
    while (js_next(profile, &m)) {
        char name[160];
        snprintf(name, sizeof name, "profile_%s", m.key);
        if (js_kind(m.value) == JS_OBJECT)
            add_json_text(object, name, m.value);
        else
            js_set(object, name, js_copy(m.value));
    }
}

struct js *provenance_make(const struct provenance_input *in)
{
    struct js *p = js_new_object();

    js_set_text(p, "llq_version", in->llq_version ? in->llq_version : "");
    js_set_text(p, "git_commit", in->git_commit ? in->git_commit : "");
    add_ranks(p, in);
    js_set_text(p, "backend", in->backend ? in->backend : "");
    add_versions(p, in);
    add_system(p);
    add_processor(p);
    provenance_add_slurm(p);
    js_set_text(p, "model_path", in->model_path ? in->model_path : "");
    js_set_text(p, "model_revision", in->model_revision ? in->model_revision : "");
    js_set_text(p, "model_sha256", in->model_sha256 ? in->model_sha256 : "");
    add_data(p, in->data);
    if (in->profile)
        add_profile(p, in->profile);
    if (in->sweep) {
        struct js *setup = sweep_setup_js(in->sweep);
        add_json_text(p, "settings", setup);
        js_release(setup);
    }
    return p;
}
